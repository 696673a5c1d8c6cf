"""What `amphora.vrrp` takes for granted of keepalived, tried on the installed one."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from amphora.process import ProcessIdentity, run_command
from amphora.vrrp.notify_fifo import EventParser
from tests.integration.harness import wait_until
from tests.integration.pair import (
    PASSWORD,
    VIRTUAL_ADDRESS,
    Pair,
    PlainKeepalived,
    VrrpConfig,
    end_keepaliveds,
    keepalives_of,
)
from tests.integration.support import program, requires, short_directory


class _Fifo:
    """A FIFO held open as the agent holds it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            os.mkfifo(path, 0o600)
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._parser = EventParser()
        self.heard: list[tuple[str, str]] = []

    def read(self) -> list[tuple[str, str]]:
        """All that was heard so far."""
        try:
            while True:
                data = os.read(self._handle, 65536)
                self.heard += [(event.instance, event.state) for event in self._parser.feed(data)]
        except BlockingIOError:
            return self.heard

    def fill(self) -> None:
        try:
            while True:
                os.write(self._handle, b"x" * 4095 + b"\n")
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._handle)


@requires("root", "keepalived", "ip")
class KeepalivedFactTests(TestCase):
    timeout = 180

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.pair = Pair.create(self)
        self.directory = short_directory(self)
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))
        self.fifo_path = self.directory / "fifo"
        self.config = VrrpConfig(self.pair.ours, self.pair.theirs, name="one")
        self.keepalived = PlainKeepalived(self.directory, self.pair.ours.namespace)

    def fifo(self) -> _Fifo:
        fifo = _Fifo(self.fifo_path)
        self.addCleanup(fifo.close)
        return fifo

    def settings(self, *lines: str) -> bytes:
        """A `global_defs` block; ours, if no other lines are given."""
        ours = ("script_user root", "enable_script_security", f"vrrp_notify_fifo {self.fifo_path} root root")
        return "\n".join(["global_defs {", *(lines or ours), "}", ""]).encode()

    def script(self, name: str = "check.sh", text: str = "exit 0") -> Path:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    async def check(self, text: bytes) -> tuple[int, str]:
        """`keepalived -t`: exit status and output."""
        path = self.directory / "trial.conf"
        path.write_bytes(text)
        keepalived = program("keepalived") or "keepalived"
        command = [
            "ip",
            "netns",
            "exec",
            self.pair.ours.namespace,
            keepalived,
            "--vrrp",
            "--config-test",
            "-f",
            str(path),
        ]
        result = await run_command(self.reactor, command, timeout=30)
        return result.exit_code, result.output

    async def started(self, text: bytes | None = None) -> ProcessIdentity:
        """Start it, and wait until it is MASTER."""
        process = self.keepalived.start(self.settings() + self.config.text() if text is None else text)
        await wait_until(lambda: "Entering MASTER STATE" in self.keepalived.log, "keepalived to be MASTER")
        await wait_until(self.pair.ours.holds, "the virtual address")
        return process

    async def reloaded(self, process: ProcessIdentity, text: bytes) -> None:
        self.keepalived.main.write_bytes(text)
        before = self.keepalived.log.count("Reload complete")
        process.send_signal(signal.SIGHUP)
        await wait_until(lambda: self.keepalived.log.count("Reload complete") > before, "the reload's end to be told")

    def child(self) -> ProcessIdentity:
        child = self.keepalived.child
        assert child is not None
        return child

    async def test_verdicts(self) -> None:
        """With script security on, the exit status is 0 for what is good and for nothing, and 5 for errors."""
        good = evolve(self.config, script=self.script(), hurry=0).text()
        ours = self.settings()
        self.assertEqual((0, ""), await self.check(ours + good))
        self.assertEqual((0, ""), await self.check(ours))
        for text, words in (
            (good[: len(good) // 2], "missing '}'"),
            (good.rstrip()[:-1], "missing '}'"),
            (good + b"}\n", "Extra '}'"),
            (good + b"vrrp_instanze x {\n}\n", "Unknown keyword 'vrrp_instanze'"),
            (good.replace(self.pair.ours.link.encode(), b"eth99"), "interface eth99"),
            (good.replace(self.pair.ours.link.encode(), b"lo"), "cannot use a loopback interface"),
            (good.replace(b"check.sh", b"other.sh"), "not found"),
            (good.replace(PASSWORD.encode(), b"longer-than-eight"), "Truncating auth_pass to 8 characters"),
        ):
            status, output = await self.check(ours + text)
            self.assertEqual(5, status, output)
            self.assertIn(words, output)
        status, output = await self.check(ours + good + b"include /no/such/file\n")
        self.assertEqual(0, status)
        self.assertIn("Config files missing '/no/such/file'", output)

    async def test_hidden_errors(self) -> None:
        """Without script security the exit status is 6 where a script runs as root, whatever else is wrong."""
        config = evolve(self.config, script=self.script()).text()
        for text in (config, config[: len(config) // 2]):
            status, output = await self.check(self.settings("script_user root") + text)
            self.assertEqual(6, status)
            self.assertIn("script_security not enabled", output)

    async def test_scripts_of_others(self) -> None:
        """keepalived cannot check a configuration whose scripts run as another user: it is ended by a signal."""
        theirs = b"global_defs {\n    script_user nobody\n}\n" + evolve(self.config, script=self.script()).text()
        self.assertEqual(-signal.SIGTERM, (await self.check(self.settings() + theirs))[0])

    async def test_quoted_password(self) -> None:
        """keepalived quotes a line that it does not understand, with the password in it."""
        text = evolve(self.config, hurry=0).text().replace(PASSWORD.encode(), b'"' + PASSWORD.encode())
        status, output = await self.check(self.settings() + text)
        self.assertEqual(2, status)
        self.assertIn(PASSWORD, output)

    async def test_include(self) -> None:
        """An include names a file beside the one that names it, wherever keepalived is started."""
        (self.directory / "beside.conf").write_bytes(b"vrrp_instanze x {\n}\n")
        status, output = await self.check(self.settings() + b"include beside.conf\n")
        self.assertEqual(5, status)
        self.assertIn("(beside.conf: Line 1)", output)

    async def test_settings_of_their_own(self) -> None:
        """Settings may stand in several blocks; a second FIFO is refused."""
        text = b"global_defs {\n    router_id one\n}\n" + self.config.text()
        self.assertEqual((0, ""), await self.check(self.settings() + text))
        second = f"global_defs {{\n    vrrp_notify_fifo {self.directory}/other\n}}\n".encode()
        status, output = await self.check(self.settings() + second + self.config.text())
        self.assertEqual(5, status)
        self.assertIn("already specified", output)

    async def test_foreground(self) -> None:
        """`--dont-fork` stays: the child is what was started; its own child speaks VRRP, with the same command line."""
        process = await self.started()
        self.assertEqual(str(process.pid), (self.directory / "plain.pid").read_text().strip())
        self.assertEqual(os.getsid(process.pid), process.pid)
        self.assertEqual([self.child()], process.children())
        self.assertEqual(process.command_line(), self.child().command_line())
        self.assertEqual(process.pid, os.getsid(self.child().pid))

    async def test_fifo(self) -> None:
        """Each change of state is one line in the FIFO, which stays when keepalived ends."""
        fifo = self.fifo()
        process = await self.started()
        self.assertEqual([("one", "BACKUP"), ("one", "MASTER")], fifo.read())
        self.pair.theirs.set_link("down")
        await wait_until(lambda: fifo.read()[-1:] == [("one", "FAULT")], "the fault to be told")
        self.pair.theirs.set_link("up")
        await wait_until(lambda: fifo.read()[-2:] == [("one", "BACKUP"), ("one", "MASTER")], "the return to be told")
        process.send_signal(signal.SIGTERM)
        await wait_until(lambda: not process.alive, "keepalived to end")
        self.assertEqual(("one", "STOP"), fifo.read()[-1])
        self.assertTrue(self.fifo_path.is_fifo())

    async def test_nobody_reads(self) -> None:
        """What is told while nobody reads waits in the FIFO; where that is full, keepalived goes on without it."""
        first = _Fifo(self.fifo_path)
        await self.started()
        first.close()
        second = self.fifo()
        self.assertEqual([("one", "BACKUP"), ("one", "MASTER")], second.read())
        second.fill()
        self.pair.theirs.set_link("down")
        await wait_until(lambda: not self.pair.ours.holds(), "keepalived to take the address away")
        self.pair.theirs.set_link("up")
        await wait_until(self.pair.ours.holds, "the virtual address")
        self.assertEqual(2, len(second.read()))
        self.pair.theirs.set_link("down")
        await wait_until(lambda: second.read()[-1] == ("one", "FAULT"), "the fault to be told")

    async def test_reload(self) -> None:
        """A reload keeps the address, and tells no state that has not changed, not even under a new name."""
        fifo = self.fifo()
        process = await self.started()
        taken_away = subprocess.Popen(
            ["ip", "-n", self.pair.ours.namespace, "monitor", "address"], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two"):
            config = evolve(self.config, name=name, addresses=(VIRTUAL_ADDRESS, "192.0.2.101"))
            await self.reloaded(process, self.settings() + config.text())
        self.assertEqual([("one", "BACKUP"), ("one", "MASTER")], fifo.read())
        self.assertTrue(self.pair.ours.holds("192.0.2.101"))
        taken_away.terminate()
        self.assertNotIn("Deleted", taken_away.communicate()[0])

    async def test_reload_loses_scripts(self) -> None:
        """
        Where a FIFO is named before a script's user, a reload under script security drops the FIFO and every script.

        This is why `script_user` stands first in ours.
        """
        checked = evolve(self.config, script=self.script()).text()
        late = ("enable_script_security", f"vrrp_notify_fifo {self.fifo_path}", "script_user root")
        for lines, dropped in ((late, True), ((), False)):
            process = await self.started(self.settings(*lines) + checked)
            await self.reloaded(process, self.settings(*lines) + checked)
            self.assertEqual(dropped, "track script check_script not found" in self.keepalived.log, lines)
            await end_keepaliveds(self.directory)
            for leftover in self.directory.glob("plain.*"):
                leftover.unlink()

    async def test_runs_scripts_as_root(self) -> None:
        """Scripts run as root; one that takes too long is ended, with all that it started."""
        mark = self.directory / "mark"
        script = self.script(text=f"sleep 1000 & echo $(id -u) $! > {mark}.new; mv -n {mark}.new {mark}; wait")
        self.keepalived.start(self.settings() + evolve(self.config, script=script).text())
        await wait_until(mark.exists, "the script to run")
        user, pid = mark.read_text().split()
        self.assertEqual("0", user)
        started = ProcessIdentity.of(int(pid))
        await wait_until(lambda: started is None or not started.alive, "what it started to be ended")
        await wait_until(lambda: "timed_out" in self.keepalived.log, "keepalived to tell it")

    async def test_signs_of_life(self) -> None:
        """SIGCHLD wakes both processes for a moment, unseen; one that is stopped does not wake."""
        process = await self.started()
        said = self.keepalived.log
        child = self.child()
        for one in (process, child):
            await self.woken(one)
        child.send_signal(signal.SIGSTOP)
        await wait_until(lambda: _status(child, "State").startswith("T"), "it to be stopped")
        before = _sleeps(child)
        child.send_signal(signal.SIGCHLD)
        self.assertEqual(before, _sleeps(child))
        self.assertEqual(said, self.keepalived.log)
        self.assertTrue(self.pair.ours.holds())

    async def woken(self, process: ProcessIdentity) -> None:
        before = _sleeps(process)
        process.send_signal(signal.SIGCHLD)
        await wait_until(lambda: _sleeps(process) > before, "it to wake")

    async def test_pid_files_that_lie(self) -> None:
        """A pid file with the id of any process in it keeps keepalived from starting."""
        for name in ("plain.pid", "plain.vrrp.pid"):
            (self.directory / name).write_text(f"{os.getpid()}\n")
            await self.gives_up(self.keepalived.start(self.settings() + self.config.text()))
            self.assertIn("already running", self.keepalived.log)
            (self.directory / name).unlink()

    async def gives_up(self, process: ProcessIdentity) -> None:
        await wait_until(lambda: not process.alive, "keepalived to give up")

    async def test_child_that_dies(self) -> None:
        """A child that dies is replaced by its parent, begins as BACKUP, and takes away what the first one left."""
        fifo = self.fifo()
        process = await self.started()
        child = self.child()
        child.send_signal(signal.SIGKILL)
        await wait_until(lambda: fifo.read()[2:] == [("one", "BACKUP"), ("one", "MASTER")], "a new child to be MASTER")
        self.assertTrue(process.alive)
        self.assertNotEqual(child, self.child())

    async def test_stopped_child_outlives_its_parent(self) -> None:
        """A child ends with its parent, and gives the address back, except one that is stopped: once it goes on."""
        process = await self.started()
        child = self.child()
        child.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not process.alive, "the parent to end")
        self.assertEqual([child], keepalives_of(self.directory))
        self.assertTrue(self.pair.ours.holds())
        child.send_signal(signal.SIGCONT)
        await wait_until(lambda: not child.alive, "the child to end")
        self.assertFalse(self.pair.ours.holds())


def _status(process: ProcessIdentity, name: str) -> str:
    """A line of C{/proc/PID/status}."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def _sleeps(process: ProcessIdentity) -> int:
    return int(_status(process, "voluntary_ctxt_switches"))
