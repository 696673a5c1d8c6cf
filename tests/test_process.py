"""Tests for L{amphora.process}: against a fake reactor, where time matters, and with real processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProcessTransport, IReadDescriptor
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from amphora.process import (
    ENVIRONMENT,
    OUTPUT_LIMIT,
    CommandFailed,
    CommandResult,
    IProcessReactor,
    ProcessIdentity,
    ProcessWatch,
    boot_id,
    run_command,
    spawn_daemon,
)
from amphora.testing.fakes import FakeProcess, FakeProcessReactor

PATIENCE = 30
"""Seconds after which a test stops to wait for what should have happened long ago."""


class RunCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeProcessReactor(missing=("missing",))

    def tearDown(self) -> None:
        """Whatever happened, no delayed call is left."""
        self.assertEqual([], self.reactor.getDelayedCalls())

    def run_one(self, *command: str, stdin: bytes = b"") -> tuple[Deferred[CommandResult], FakeProcess]:
        command = command or ("program", "-v")
        running = Deferred.fromCoroutine(run_command(self.reactor, command, timeout=5.0, stdin=stdin))
        return running, self.reactor.processes[-1]

    def assert_failed(self, running: Deferred[CommandResult], text: str) -> None:
        self.assertEqual(text, self.failureResultOf(running, CommandFailed).getErrorMessage())

    def test_fakes(self) -> None:
        """The reactor and the processes of these tests are such."""
        verifyObject(IProcessReactor, self.reactor)
        running, process = self.run_one()
        verifyObject(IProcessTransport, process)
        process.exits()
        self.successResultOf(running)

    def test_success(self) -> None:
        """A command that ends with 0 has succeeded; its two outputs come as one, in their order."""
        running, process = self.run_one()
        self.assertEqual(["program", "-v"], process.command)
        process.says(b"on")
        process.says(b"e\n", on_stderr=True)
        process.says(b"two\xff")
        self.assertNoResult(running)
        process.exits()
        result = self.successResultOf(running)
        self.assertEqual(CommandResult(0, "one\ntwo\ufffd"), result)
        self.assertTrue(result.succeeded)

    def test_failure(self) -> None:
        """A command that ends with another number has not succeeded, and that is a result."""
        running, process = self.run_one()
        process.exits(3)
        result = self.successResultOf(running)
        self.assertEqual(3, result.exit_code)
        self.assertFalse(result.succeeded)

    def test_signal(self) -> None:
        """A command that a signal ended tells which, as a negative number."""
        running, process = self.run_one()
        process.exits(by=signal.SIGSEGV)
        result = self.successResultOf(running)
        self.assertEqual((-signal.SIGSEGV, False), (result.exit_code, result.succeeded))

    def test_surroundings(self) -> None:
        """A command gets an empty input and a fixed environment."""
        running, process = self.run_one()
        self.assertFalse(process.stdin_open)
        self.assertEqual(ENVIRONMENT, process.environment)
        process.exits()
        self.successResultOf(running)

    def test_input(self) -> None:
        """A command reads what it is given, and its end."""
        running, process = self.run_one(stdin=b"to read")
        self.assertEqual((b"to read", False), (process.stdin, process.stdin_open))
        process.exits()
        self.successResultOf(running)

    def test_output_is_bounded(self) -> None:
        """Of a command that talks without end the beginning is kept."""
        running, process = self.run_one()
        for _ in range(100):
            process.says(b"x" * 1000)
        process.exits()
        self.assertEqual("x" * OUTPUT_LIMIT, self.successResultOf(running).output)

    def test_missing(self) -> None:
        """A program that is not there is an error that names it."""
        running = Deferred.fromCoroutine(run_command(self.reactor, ["missing"], timeout=5.0))
        self.assert_failed(running, "missing cannot be run: No such file or directory")

    def test_overdue(self) -> None:
        """A command that takes too long is killed, and that is an error."""
        running, process = self.run_one()
        self.reactor.advance(4.9)
        self.assertEqual([], process.signals)
        self.reactor.advance(0.1)
        self.assertEqual(["KILL"], process.signals)
        self.assert_failed(running, "program did not end within 5 s and was killed")

    def test_output_held(self) -> None:
        """A command that ended, while a child of its own holds its output open, is overdue in time too."""
        running, process = self.run_one()
        process.output_held = True
        process.exits()
        self.assertNoResult(running)
        self.reactor.advance(5)
        self.assertEqual([], process.signals)
        self.assert_failed(running, "program did not end within 5 s and was killed")

    def test_cancelled(self) -> None:
        """A command that nobody waits for any more is killed: it has no deadline any more."""
        running, process = self.run_one()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(["KILL"], process.signals)
        self.reactor.advance(0)


class _RealTestCase(TestCase):
    """Has a reactor and a directory, and ends the processes of a test."""

    timeout = 120

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A child of ours that is not the reactor's."""
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(_end, child)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    with child:
        child.kill()


def _await_death(child: subprocess.Popen[bytes]) -> None:
    """Wait until it has ended, and leave its remains where they are."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def _identity(pid: int) -> ProcessIdentity:
    process = ProcessIdentity.of(pid)
    assert process is not None
    return process


class RealCommandTests(_RealTestCase):
    async def run_shell(self, script: str, timeout: float = PATIENCE) -> CommandResult:
        return await run_command(self.reactor, ["/bin/sh", "-c", script], timeout=timeout)

    async def test_results(self) -> None:
        """Exit codes, signals, output and the empty input are what they are with real programs."""
        for script, result in (
            ("echo one; echo two >&2", CommandResult(0, "one\ntwo\n")),
            ("exit 7", CommandResult(7, "")),
            ("kill -9 $$", CommandResult(-9, "")),
            ("cat; echo end", CommandResult(0, "end\n")),
        ):
            self.assertEqual(result, await self.run_shell(script))

    async def test_input(self) -> None:
        """A program reads all of a large input, and one that does not read it ends all the same."""
        for script, count in (("wc -c", 10**6), ("exec <&-; echo 7", 7)):
            command = ["/bin/sh", "-c", script]
            result = await run_command(self.reactor, command, timeout=PATIENCE, stdin=b"x" * 10**6)
            self.assertEqual((0, count), (result.exit_code, int(result.output)))

    async def test_environment(self) -> None:
        """Of our own environment nothing reaches a command."""
        os.environ["AMPHORA_TEST"] = "secret"
        self.addCleanup(os.environ.pop, "AMPHORA_TEST")
        result = await run_command(self.reactor, ["env"], timeout=PATIENCE)
        self.assertEqual({f"{name}={value}" for name, value in ENVIRONMENT.items()}, set(result.output.splitlines()))

    async def test_folders_of_daemons(self) -> None:
        """A program is looked for in the fixed path, whatever ours is."""
        self.addCleanup(os.environ.__setitem__, "PATH", os.environ["PATH"])
        os.environ["PATH"] = "/nowhere"
        self.assertTrue((await run_command(self.reactor, ["env"], timeout=PATIENCE)).succeeded)

    async def test_missing(self) -> None:
        """A program that is not there, or is none, is an error at once."""
        (self.directory / "text").write_text("not a program")
        for program in ("/no/such/program", "no-such-program", str(self.directory), str(self.directory / "text")):
            with self.assertRaises(CommandFailed) as caught:
                await run_command(self.reactor, [program], timeout=PATIENCE)
            self.assertIn(f"{program} cannot be run: ", str(caught.exception))

    async def test_output_is_bounded(self) -> None:
        """More output than is kept does not hold a program up."""
        result = await self.run_shell(f"head -c {4 * OUTPUT_LIMIT} /dev/zero; exit 3")
        self.assertEqual((3, OUTPUT_LIMIT), (result.exit_code, len(result.output)))

    async def test_overdue(self) -> None:
        """A program that does not end is killed, also one whose child holds its output."""
        seconds = f"1000.{os.getpid()}"
        for script in ("exec sleep {}", "sleep {} & wait", "sleep {} &"):
            with self.assertRaises(CommandFailed):
                await self.run_shell(script.format(seconds), timeout=0.5)
            left = _processes_with(seconds)
            for process in left:
                process.send_signal(signal.SIGKILL)
            self.assertEqual([], left if "exec" in script else [])
        self.assertEqual([], self.flushLoggedErrors())


def _processes_with(text: str) -> list[ProcessIdentity]:
    """All that have this in their command lines."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    everyone = [process for pid in pids if (process := ProcessIdentity.of(pid)) is not None]
    return [process for process in everyone if any(text in word for word in process.command_line())]


class DaemonTests(_RealTestCase):
    def spawn(self, *command: str, environment: dict[str, str] | None = None) -> int:
        output = os.open(self.directory / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            return spawn_daemon(self.reactor, command, output=output, environment=environment or {})
        finally:
            os.close(output)

    async def ended(self, process: ProcessIdentity) -> None:
        """Wait for its end."""
        gone: Deferred[None] = Deferred()
        if ProcessWatch(self.reactor, process, lambda: gone.callback(None)).start():
            await gone

    async def test_surroundings(self) -> None:
        """A daemon has a session of its own, its output in a file, no input, no other file of ours, our additions."""
        kept = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(kept, True)
        self.addCleanup(os.close, kept)
        script = "env; exec sleep 1000"
        process = _identity(self.spawn("/bin/sh", "-c", script, environment={"NOTIFY_SOCKET": "/a"}))
        self.addCleanup(process.send_signal, signal.SIGKILL)
        while process.command_line() != ["sleep", "1000"]:
            await _turn(self.reactor)
        self.assertEqual(process.pid, os.getsid(process.pid))
        output = self.directory / "output"
        # As any program, it reads what it needs when it begins.
        while (files := self._files(process)).keys() - {0, 1, 2} and process.alive:
            await _turn(self.reactor)
        self.assertEqual({0: "/dev/null", 1: str(output), 2: str(output)}, files)
        variables = {line.partition("=")[0] for line in output.read_text().splitlines()}
        self.assertEqual({"NOTIFY_SOCKET", *ENVIRONMENT}, variables - {"PWD", "OLDPWD", "SHLVL", "_"})
        process.send_signal(signal.SIGKILL)
        await self.ended(process)

    def _files(self, process: ProcessIdentity) -> dict[int, str]:
        """What it has open, by descriptor."""
        files = {}
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                files[int(entry.name)] = os.readlink(entry)
        return files

    async def test_missing(self) -> None:
        """A program that is not there ends at once, and its output says why."""
        pid = self.spawn("/no/such/program")
        process = ProcessIdentity.of(pid)
        if process is not None:
            await self.ended(process)
        self.assertIn("/no/such/program", (self.directory / "output").read_text())

    def test_no_setsid(self) -> None:
        """A system that cannot even start it is an error."""
        reactor = FakeProcessReactor(missing=("setsid",))
        with self.assertRaises(CommandFailed) as caught:
            spawn_daemon(reactor, ["/bin/true"], output=1, environment={})
        self.assertIn("/bin/true cannot be run", str(caught.exception))


async def _turn(reactor: Any) -> None:
    turn: Deferred[None] = Deferred()
    reactor.callLater(0.01, turn.callback, None)
    await turn


class IdentityTests(_RealTestCase):
    def test_self(self) -> None:
        """This process is one, is alive, and stays the same."""
        process = ProcessIdentity.current()
        self.assertEqual(os.getpid(), process.pid)
        self.assertEqual(process, ProcessIdentity.of(os.getpid()))
        self.assertTrue(process.alive)
        self.assertEqual(os.readlink("/proc/self/exe"), process.executable())

    def test_figures(self) -> None:
        """A process tells how old it is, and how many bytes it holds; one that is gone holds none."""
        child = self.start("/bin/cat")
        self.assertLess(_identity(child.pid).age, ProcessIdentity.current().age)
        memory = b"x" * 2**24
        self.assertGreater(ProcessIdentity.current().resident, len(memory))
        self.assertLess(_identity(child.pid).resident, len(memory))
        self.assertEqual(0, ProcessIdentity(2**22 + 1, 0).resident)

    def test_nobody(self) -> None:
        """An id that nobody has is nobody's."""
        for pid in (0, -1, 2**22 + 1, 2**31 - 1):
            self.assertIsNone(ProcessIdentity.of(pid))

    def test_zombie_and_gone(self) -> None:
        """What has ended is not alive, before and after its remains are taken away."""
        child = self.start("/bin/sh", "-c", "read line")
        process = _identity(child.pid)
        self.assertTrue(process.alive)
        cast(Any, child.stdin).close()
        _await_death(child)
        self.assert_over(process)
        child.wait()
        self.assert_over(process)

    def assert_over(self, process: ProcessIdentity) -> None:
        self.assertIsNone(ProcessIdentity.of(process.pid))
        self.assertFalse(process.alive)
        self.assertFalse(process.send_signal(signal.SIGTERM))
        self.assertEqual(([], None, []), (process.command_line(), process.executable(), process.children()))

    def test_recycled(self) -> None:
        """A later process of the same id is another, and is not signalled."""
        child = self.start("/bin/sh", "-c", "read line")
        process = _identity(child.pid)
        earlier = ProcessIdentity(process.pid, process.started - 1)
        self.assertFalse(earlier.alive)
        self.assertFalse(earlier.send_signal(signal.SIGKILL))
        self.assertTrue(process.alive)

    def test_signal(self) -> None:
        """A process that is alive gets its signal."""
        child = self.start("/bin/sh", "-c", "read line")
        self.assertTrue(_identity(child.pid).send_signal(signal.SIGTERM))
        self.assertEqual(-signal.SIGTERM, child.wait(PATIENCE))

    def test_names(self) -> None:
        """A program's name may hold blanks and brackets, and look like what follows it."""
        for name in ("a b", ") Z 1 (", "))) X", "(", ")", "\xff"):
            child = self.start("/bin/sh", "-c", f"printf '{name}' > /proc/$$/comm; echo; read line")
            cast(Any, child.stdout).readline()
            self.assertEqual(name, Path(f"/proc/{child.pid}/comm").read_text("utf-8").rstrip("\n"))
            process = _identity(child.pid)
            self.assertTrue(process.alive)
            self.assertGreaterEqual(process.started, ProcessIdentity.current().started)

    def test_command_line(self) -> None:
        """Arguments are told as they were given, the empty ones too, and what is no text."""
        words = ("/bin/sh", "-c", "echo; read line", "", "a b", os.fsdecode(b"\xff"))
        child = self.start(*words)
        cast(Any, child.stdout).readline()
        self.assertEqual([*words], _identity(child.pid).command_line())

    def test_replaced_executable(self) -> None:
        """A program whose file was replaced while it runs is the same program."""
        program = self.directory / "program"
        program.write_bytes(Path(os.path.realpath("/bin/sh")).read_bytes())
        program.chmod(0o700)
        child = self.start(str(program), "-c", "echo; read line")
        cast(Any, child.stdout).readline()
        process = _identity(child.pid)
        self.assertEqual(str(program), process.executable())
        program.unlink()
        self.assertEqual(str(program), process.executable())

    def test_children(self) -> None:
        """Children that are alive are told, in the order of their birth."""
        # They end when their input does.
        script = "exec 3<&0; for n in 1 2; do (read line <&3) & echo $!; done; (exit 0) & echo; read line <&3"
        child = self.start("/bin/sh", "-c", script)
        pids = [int(cast(Any, child.stdout).readline()) for _ in range(2)]
        process = _identity(child.pid)
        deadline = time.monotonic() + PATIENCE
        while [one.pid for one in process.children()] != pids and time.monotonic() < deadline:
            os.sched_yield()
        self.assertEqual(pids, [one.pid for one in process.children()])

    def test_memory(self) -> None:
        """Memory is told in kilobytes; pages that processes share count once for all of them together."""
        script = (
            "x = bytearray(64 << 20); x[::4096] = x[::4096].replace(b'\\0', b'x'); import os; os.fork(); os.fork()\n"
        )
        child = self.start(sys.executable, "-c", script + "print(flush=True); input()")
        for _ in range(4):
            cast(Any, child.stdout).readline()
        parent = _identity(child.pid)
        family = [parent, *parent.children()]
        family += family[1].children()
        self.assertEqual(4, len(family))
        together = sum(process.memory() for process in family)
        self.assertTrue(64 * 1024 <= together < 3 * 64 * 1024, together)
        for process in family:
            process.send_signal(signal.SIGKILL)
        child.wait(PATIENCE)
        self.assertEqual(0, parent.memory())

    def test_boot(self) -> None:
        """A boot has one name."""
        self.assertEqual(36, len(boot_id()))
        self.assertEqual(boot_id(), boot_id())


class WatchTests(_RealTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.fake = MemoryReactor()
        self.ended: list[str] = []

    def watch(self, process: ProcessIdentity) -> ProcessWatch:
        return ProcessWatch(cast(Any, self.fake), process, lambda: self.ended.append("ended"))

    def turn(self, watch: ProcessWatch, seconds: float) -> None:
        """What a reactor does."""
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        if poll.poll(seconds * 1000):
            watch.doRead()

    def test_child(self) -> None:
        """A child's end is told once, before its remains are taken away, and nothing is watched any more."""
        child = self.start("/bin/sh", "-c", "read line")
        watch = self.watch(_identity(child.pid))
        verifyObject(IReadDescriptor, watch)
        self.assertTrue(watch.start())
        self.assertEqual([watch], self.fake.getReaders())
        self.turn(watch, 0)
        self.assertEqual([], self.ended)
        cast(Any, child.stdin).close()
        self.turn(watch, PATIENCE)
        self.assertEqual(["ended"], self.ended)
        self.assertEqual(([], -1), (self.fake.getReaders(), watch.fileno()))

    def test_somebody_elses(self) -> None:
        """So is the end of a process that is not our child."""
        child = self.start("/bin/sh", "-c", "sleep 1000 > /dev/null & echo $!")
        process = _identity(int(cast(Any, child.stdout).readline()))
        self.addCleanup(process.send_signal, signal.SIGKILL)
        child.wait(PATIENCE)
        watch = self.watch(process)
        self.assertTrue(watch.start())
        process.send_signal(signal.SIGKILL)
        self.turn(watch, PATIENCE)
        self.assertEqual(["ended"], self.ended)

    def test_gone_already(self) -> None:
        """A process that is over, or whose id somebody else has, is not watched."""
        child = self.start("/bin/true")
        gone = ProcessIdentity(child.pid, 0)
        descriptors = len(os.listdir("/proc/self/fd"))
        self.assertFalse(self.watch(gone).start())
        _await_death(child)
        self.assertFalse(self.watch(gone).start())
        child.wait()
        self.assertFalse(self.watch(gone).start())
        self.assertEqual([], self.ended + self.fake.getReaders())
        self.assertEqual(descriptors, len(os.listdir("/proc/self/fd")))

    def test_stop(self) -> None:
        """After a watch was stopped nothing is told; twice is no error, nor before it began."""
        watch = self.watch(ProcessIdentity.current())
        watch.stop()
        watch.start()
        for stop in (watch.stop, watch.stop, lambda: watch.connectionLost(Failure(ConnectionDone()))):
            stop()
        self.assertEqual(([], [], -1), (self.ended, self.fake.getReaders(), watch.fileno()))

    async def test_reactor(self) -> None:
        """With a real reactor, the same."""
        child = self.start("/bin/sh", "-c", "read line")
        gone: Deferred[None] = Deferred()
        watch = ProcessWatch(self.reactor, _identity(child.pid), lambda: gone.callback(None))
        self.assertTrue(watch.start())
        cast(Any, child.stdin).close()
        await gone
        self.assertNotIn(watch, self.reactor.getReaders())
