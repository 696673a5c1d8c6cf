"""keepalived under the agent: what it is told, what it survives, and what is told of it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from amphora.blocking import InThreads
from amphora.client import AmphoraFailed, Refused
from amphora.keepalived.files import begin_run
from amphora.listener import Heartbeat, HeartbeatListener
from amphora.process import ProcessIdentity
from amphora.vrrp.daemon import KeepalivedProgram
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.store import VrrpFiles
from tests.integration.harness import new_id, wait_until
from tests.integration.pair import (
    EVERYTHING_FOR_PAIRS,
    PAIR_HURRY,
    PASSWORD,
    Pair,
    PairTestCase,
    Side,
    VrrpConfig,
    end_keepaliveds,
    keepalives_of,
    run,
)
from tests.integration.support import count, requires, short_directory

SECOND_ADDRESS = "192.0.2.101"


class VrrpTestCase(PairTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    async def answer(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One request as the specification writes it, below the version."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        head = f"{method} /v0.1{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n".encode()
        raw = await self.raw_client().exchange(head + length + b"\r\n" + (body or b""))
        head, _, content = raw.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(content)

    def running_keepalived(self) -> ProcessIdentity:
        process = self.keepalived()
        assert process is not None
        return process

    def child(self) -> ProcessIdentity:
        (child,) = self.running_keepalived().children()
        return child

    async def until_logged(self, text: str) -> None:
        await wait_until(lambda: text in self.agent.log, f"the log to say {text!r}")

    async def until_role(self, role: str) -> None:
        """The last role that the log tells is this one."""

        def told() -> bool:
            lines = [line for line in self.agent.log.splitlines() if "keepalived's word" in line]
            return bool(lines) and lines[-1].endswith(role)

        await wait_until(told, f"the role {role}")

    async def ended(self, *processes: ProcessIdentity) -> None:
        await wait_until(lambda: not any(process.alive for process in processes), "keepalived to end")


@requires(*EVERYTHING_FOR_PAIRS)
class RouteTests(VrrpTestCase):
    """Each code and each body of the specification."""

    async def test_life(self) -> None:
        """A configuration is uploaded, started, reloaded and stopped, with the specification's words."""
        config = self.config(script=self.vrrp / "check_script.sh", hurry=0)
        self.assertEqual((200, {"message": "OK"}), await self.answer("PUT", "/vrrp/upload", config.text()))
        self.assertEqual(config.text(), self.uploaded.read_bytes())
        self.assertIsNone(self.keepalived())
        for action, details in (
            ("start", "keepalived started"),
            ("start", "keepalived started"),
            ("reload", "keepalived reloaded"),
            ("stop", "keepalived stopped"),
            ("reload", "keepalived started"),
        ):
            expected = (202, {"message": "OK", "details": details})
            self.assertEqual(expected, await self.answer("PUT", f"/vrrp/{action}"), action)
        self.assertEqual(2, len(keepalives_of(self.directory)))
        self.assertEqual(config.text(), self.uploaded.read_bytes())

    async def test_unknown_action(self) -> None:
        """An action that is none is a 400 that names it; the upload takes no other method."""
        refusal = {"message": "Invalid Request", "details": "Unknown action: BAD_TEST_DATA"}
        self.assertEqual((400, refusal), await self.answer("PUT", "/vrrp/BAD_TEST_DATA"))
        for method in ("GET", "POST", "DELETE"):
            self.assertEqual(405, (await self.answer(method, "/vrrp/upload"))[0])

    async def test_nothing_to_stop(self) -> None:
        """A stop where nothing runs is a 500; it names the process that should be there, if its id is known."""
        await self.client.upload_vrrp(self.config().text())
        gone = subprocess.Popen(["true"])
        gone.wait()
        for content, named in (("", "keepalived process"), (str(gone.pid), f"keepalived process with PID {gone.pid}")):
            (self.vrrp / "octavia-keepalived.pid").write_text(content)
            details = f"{named} not found"
            expected = {"message": f"Failed to stop keepalived service: {details}", "details": details}
            self.assertEqual((500, expected), await self.answer("PUT", "/vrrp/stop"))

    async def test_nothing_to_start(self) -> None:
        """What was never uploaded, or only refused, cannot be started."""
        await self.answer("PUT", "/vrrp/upload", b"")
        details = "No keepalived configuration was uploaded"
        for action in ("start", "reload"):
            expected = {"message": f"Failed to {action} keepalived service: {details}", "details": details}
            self.assertEqual((500, expected), await self.answer("PUT", f"/vrrp/{action}"))
        self.assertEqual([], keepalives_of(self.directory))

    async def test_A1_refused_uploads(self) -> None:
        """What keepalived would not take, or take and drop the address, is a 500 in its words and changes nothing."""
        # Nothing has to answer.
        (self.vrrp / "haproxy_sockets").touch()
        config = await self.running_vrrp(self.config(script=self.vrrp / "check_script.sh"))
        process = self.running_keepalived()
        good = evolve(config, hurry=0).text()
        link = self.pair.ours.link.encode()
        for body, words in (
            (b"", "The configuration has no vrrp_instance"),
            (b"# vrrp_instance one {\n# }\n", "The configuration has no vrrp_instance"),
            (good[: len(good) // 2], "missing '}'s"),
            (good.rstrip()[:-1], "missing '}'s"),
            (good + b"BAD_LINE\n", "(octavia-keepalived.conf: Line 40) Unknown keyword 'BAD_LINE'"),
            (good.replace(link, b"eth99"), "interface eth99 for vrrp_instance"),
            (good.replace(link, b"lo"), "cannot use a loopback interface (lo)"),
            (good.replace(b"check_script.sh", b"other.sh"), "since not found/accessible"),
            (good + b"include /no/such/file\n", "Config files missing '/no/such/file'"),
            (good.replace(PASSWORD.encode(), b'"' + PASSWORD.encode()), "Unterminated quote"),
            (bytes(range(256)), "no vrrp_instance"),
        ):
            status, answer = await self.answer("PUT", "/vrrp/upload", body)
            self.assertEqual((500, "Failed to upload keepalived configuration."), (status, answer["message"]), body)
            self.assertIn(words, answer["details"])
            self.assertNotIn(PASSWORD, answer["details"])
            self.assertEqual(len(set(answer["details"].splitlines())), len(answer["details"].splitlines()))
        self.assertEqual(config.text(), self.uploaded.read_bytes())
        await self.client.vrrp("reload")
        self.assertEqual(process, self.running_keepalived())
        self.assertTrue(self.pair.ours.holds())
        self.assertEqual([], [path for path in self.vrrp.iterdir() if path.name.endswith(".new")])
        self.assertNotIn(PASSWORD, self.agent.log)

    async def test_password_of_any_length(self) -> None:
        """keepalived looks at eight characters of a password; that there are more is no reason to refuse it."""
        config = self.config(hurry=0).text().replace(PASSWORD.encode(), b"a-long-password")
        await self.client.upload_vrrp(config)
        await self.client.vrrp("start")
        self.assertEqual(config, self.uploaded.read_bytes())

    async def test_too_large(self) -> None:
        """A body beyond the limit is refused as anywhere."""
        await self.agent.end()
        self.agent.options["amphora_agent"] = {**self.agent.options["amphora_agent"], "max_body_size": 4096}
        await self.agent.start()
        with self.assertRaises(Refused) as raised:
            await self.client.upload_vrrp(self.config().text() + b"#" * 4096)
        self.assertEqual(413, raised.exception.status)
        self.assertFalse(self.uploaded.exists())


@requires("root", "keepalived", "ip")
class ObjectTests(TestCase):
    """What the rest of the agent asks of keepalived, and hears of it."""

    timeout = 180

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.pair = Pair.create(self)
        self.directory = short_directory(self)
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))
        self.changes: list[tuple[bool, bool, str | None]] = []
        self.keepalived = self.new_keepalived()

    def new_keepalived(self) -> Keepalived:
        program = KeepalivedProgram("/usr/sbin/keepalived", self.pair.ours.namespace, facility=None)
        files = VrrpFiles(self.directory / "vrrp")
        keepalived = Keepalived(self.reactor, InThreads(self.reactor), program, files, changed=self.changed)
        self.addCleanup(lambda: Deferred.fromCoroutine(keepalived.release()))
        return keepalived

    def changed(self) -> None:
        self.changes.append((self.keepalived.configured, self.keepalived.runs, self.keepalived.role))

    async def until_role(self, role: str) -> None:
        await wait_until(lambda: self.keepalived.role == role, f"the role {role}")

    async def test_life(self) -> None:
        """Every change of its role, or its process, is told once."""
        keepalived = self.keepalived
        await keepalived.adopt()
        self.assertEqual((False, False, None, None), self.appearance())
        config = VrrpConfig(self.pair.ours, self.pair.theirs)
        await keepalived.upload(config.text())
        assert keepalived.config is not None
        self.assertEqual({config.name}, keepalived.config.names)
        self.assertEqual((True, False, None, "keepalived does not run"), self.appearance())
        self.assertEqual("keepalived started", await keepalived.act("start"))
        await self.until_role("ACTIVE")
        await keepalived.retire()
        self.assertEqual((False, False, None, None), self.appearance())
        self.assertFalse(self.pair.ours.holds())
        await keepalived.retire()
        await keepalived.act("start")
        self.assertEqual((True, True, "STANDBY", None), self.appearance())
        roles = [role for role, _ in groupby(role for *_, role in self.changes)]
        self.assertEqual([None, "STANDBY", "ACTIVE", None, "STANDBY"], roles)
        self.assertEqual(len(self.changes), len(list(groupby(self.changes))))

    def appearance(self) -> tuple[bool, bool, str | None, str | None]:
        keepalived = self.keepalived
        return keepalived.configured, keepalived.runs, keepalived.role, keepalived.shortcoming

    async def next_agent(self) -> Keepalived:
        """The agent ends, and another one comes."""
        await self.keepalived.release()
        self.keepalived = self.new_keepalived()
        await self.keepalived.adopt()
        return self.keepalived

    async def running(self) -> list[ProcessIdentity]:
        """Upload and start it, and wait until it is ACTIVE; its processes."""
        await self.keepalived.adopt()
        await self.keepalived.upload(VrrpConfig(self.pair.ours, self.pair.theirs).text())
        await self.keepalived.act("start")
        await self.until_role("ACTIVE")
        return keepalives_of(self.directory)

    async def test_next_agent(self) -> None:
        """The next agent knows what this one knew, also that it was stopped, or retired."""
        await self.running()
        for change in ("", "stop", "retire"):
            if change == "stop":
                await self.keepalived.act("stop")
            elif change == "retire":
                await self.keepalived.retire()
            before = (self.appearance(), self.keepalived.config)
            await self.next_agent()
            self.assertEqual(before, (self.appearance(), self.keepalived.config))
        self.assertEqual([], keepalives_of(self.directory))

    async def test_reboot(self) -> None:
        """What should run is started by the next agent, what was stopped is not."""
        await self.running()
        await self.keepalived.release()
        await end_keepaliveds(self.directory)
        await self.next_agent()
        await self.until_role("ACTIVE")
        await self.keepalived.act("stop")
        await self.next_agent()
        self.assertEqual([], keepalives_of(self.directory))

    async def test_B8_pid_files_that_lie(self) -> None:
        """A pid file that is empty, garbage, missing or names somebody else neither fools nor hinders."""
        processes = await self.running()
        pid_file = self.directory / "vrrp" / "octavia-keepalived.pid"
        child = next(process for process in processes if not process.children())
        for content in ("", "garbage\n", str(os.getpid()), str(child.pid), None):
            pid_file.unlink()
            if content is not None:
                pid_file.write_text(content)
            await self.next_agent()
            self.assertEqual((True, "ACTIVE"), (self.keepalived.runs, self.keepalived.role), content)
            pid_file.touch()
        self.assertEqual(processes, keepalives_of(self.directory))
        await self.keepalived.act("stop")
        self.assertEqual([], keepalives_of(self.directory))
        for name in ("octavia-keepalived.pid", "octavia-keepalived.vrrp.pid"):
            (self.directory / "vrrp" / name).write_text(str(os.getpid()))
        await self.keepalived.act("start")
        await self.until_role("ACTIVE")

    async def test_role_without_events(self) -> None:
        """Where no event tells it, the addresses that are there do."""
        await self.running()
        for down, role in ((False, "ACTIVE"), (True, "STANDBY")):
            await self.keepalived.release()
            if down:
                self.pair.theirs.set_link("down")
                await wait_until(lambda: not self.pair.ours.holds(), "the address to leave")
            # What is told meanwhile is lost with the FIFO.
            (self.directory / "vrrp" / "notify.fifo").unlink(missing_ok=True)
            await self.next_agent()
            self.assertEqual(role, self.keepalived.role)


@requires(*EVERYTHING_FOR_PAIRS)
class RoleTests(VrrpTestCase):
    async def test_pair(self) -> None:
        """Of two amphorae one has the address; the role follows keepalived, whoever fails."""
        peer = self.new_peer()
        await self.until_held(self.pair.theirs)
        await self.client.upload_vrrp(self.config(hurry=PAIR_HURRY).text())
        await self.client.vrrp("start")
        await self.until_role("STANDBY")
        self.assertFalse(self.pair.ours.holds())
        for process in keepalives_of(peer.directory):
            process.send_signal(signal.SIGTERM)
        await self.until_role("ACTIVE")
        self.assertTrue(self.pair.ours.holds())
        self.pair.ours.set_link("down")
        await self.until_role("STANDBY")

    async def test_uploaded_is_not_loaded(self) -> None:
        """An upload runs after a reload, or a start, and not before, also when keepalived dies in between."""
        config = await self.running_vrrp(self.config())
        first = self.running_keepalived()
        changed = evolve(config, addresses=(*config.addresses, SECOND_ADDRESS))
        await self.client.upload_vrrp(changed.text())
        await self.die()
        # What was killed left the address.
        await wait_until(self.keepalived, "another keepalived")
        await self.until_held()
        self.assertFalse(self.pair.ours.holds(SECOND_ADDRESS))
        second = self.running_keepalived()
        self.assertNotEqual(first, second)
        await self.client.vrrp("start")
        self.assertTrue(self.pair.ours.holds(SECOND_ADDRESS))
        self.assertEqual(second, self.running_keepalived())

    async def die(self) -> None:
        processes = keepalives_of(self.directory)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        await self.ended(*processes)

    async def test_reload_keeps_the_address(self) -> None:
        """Over reloads, with other settings, or another name, the address never leaves, and the role stays."""
        config = await self.running_vrrp(self.config())
        with WatchedAddresses(self.pair.ours) as taken_away:
            for number in range(3):
                changed = evolve(config, name=new_id(), priority=110 + number)
                await self.client.upload_vrrp(changed.text())
                await self.client.vrrp("reload")
        self.assertEqual([], taken_away())
        await self.until_role("ACTIVE")

    async def test_reload_that_is_refused(self) -> None:
        """An upload that became wrong since is not loaded: what ran goes on, and runs again when it dies."""
        config = await self.running_vrrp(self.config())
        run("ip", "-n", self.pair.ours.namespace, "link", "add", "gone0", "type", "veth", "peer", "name", "gone1")
        other = config.text().replace(self.pair.ours.link.encode(), b"gone0")
        await self.client.upload_vrrp(other)
        run("ip", "-n", self.pair.ours.namespace, "link", "delete", "gone0")
        process = self.running_keepalived()
        for action in ("reload", "start"):
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.vrrp(cast(Any, action))
            self.assertIn("interface gone0", raised.exception.details)
        self.assertEqual(process, self.running_keepalived())
        self.assertTrue(self.pair.ours.holds())
        await self.die()
        await self.until_held()
        self.assertEqual(other, self.uploaded.read_bytes())

    async def test_death_in_a_reload(self) -> None:
        """A keepalived that dies while it reloads is told, and what ran before runs in its place."""
        config = await self.running_vrrp(self.config())
        changed = evolve(config, addresses=(SECOND_ADDRESS,))
        await self.client.upload_vrrp(changed.text())
        process = self.running_keepalived()
        process.send_signal(signal.SIGSTOP)
        reloading = Deferred.fromCoroutine(self.client.vrrp("reload"))
        await wait_until(lambda: is_pending(process, signal.SIGHUP), "keepalived to be told to reload")
        await self.die()
        with self.assertRaises(AmphoraFailed) as raised:
            await reloading
        self.assertIn("keepalived ended while it reloaded", raised.exception.message)
        self.assertIn("The configuration that ran before runs in its place", raised.exception.details)
        await self.until_held()
        self.assertFalse(self.pair.ours.holds(SECOND_ADDRESS))


def is_pending(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Does a signal wait for a process that is stopped?"""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(pending, 16) >> (number - 1) & 1)


class WatchedAddresses:
    """Notes which addresses are taken away from a side's links meanwhile."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __enter__(self) -> Any:
        command = ["ip", "-n", self._side.namespace, "-o", "monitor", "address"]
        self._monitor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return lambda: [line for line in self._said.splitlines() if line.startswith("Deleted")]

    def __exit__(self, *_: object) -> None:
        self._monitor.terminate()
        self._said, _errors = self._monitor.communicate()


@requires(*EVERYTHING_FOR_PAIRS)
class SurvivalTests(VrrpTestCase):
    async def test_adoption(self) -> None:
        """Agents are killed and started: the processes are the same, the address never leaves, the role is known."""
        await self.running_vrrp(self.config())
        processes = keepalives_of(self.directory)
        with WatchedAddresses(self.pair.ours) as taken_away:
            for number in range(count(2, 30)):
                await self.agent.end(signal.SIGTERM if number % 2 else signal.SIGKILL)
                await self.agent.start()
                await self.until_role("ACTIVE")
            self.assertEqual(processes, keepalives_of(self.directory))
        self.assertEqual([], taken_away())
        await self.agent.end(signal.SIGKILL)
        self.pair.theirs.set_link("down")
        await self.until_held(held=False)
        await self.agent.start()
        await self.until_role("STANDBY")
        self.pair.theirs.set_link("up")
        await self.until_role("ACTIVE")
        await self.client.vrrp("reload")
        await self.client.vrrp("stop")
        self.assertEqual([], keepalives_of(self.directory))
        self.assertFalse(self.pair.ours.holds())

    async def test_agent_killed_before_a_reload(self) -> None:
        """What an agent was about to have loaded when it was killed is loaded for the next one."""
        config = await self.running_vrrp(self.config())
        await self.client.upload_vrrp(evolve(config, addresses=(SECOND_ADDRESS,)).text())
        await self.agent.end(signal.SIGKILL)
        begin_run(VrrpFiles(self.vrrp))
        await self.agent.start()
        await wait_until(lambda: self.pair.ours.holds(SECOND_ADDRESS), "it to be loaded")
        await wait_until(lambda: not (self.vrrp / "previous.conf").exists(), "that to be seen")

    async def test_child_that_dies(self) -> None:
        """A child that dies is keepalived's own to replace; the role that is told is the new one's."""
        await self.running_vrrp(self.config())
        process, child = self.running_keepalived(), self.child()
        child.send_signal(signal.SIGKILL)
        await self.until_role("STANDBY")
        await self.until_role("ACTIVE")
        self.assertEqual(process, self.running_keepalived())
        self.assertNotIn("keepalived died", self.agent.log)

    async def test_stopped_child_outlives_its_parent(self) -> None:
        """A stopped child, which would hold the address for ever, is ended before keepalived is started again."""
        await self.running_vrrp(self.config())
        process, child = self.running_keepalived(), self.child()
        child.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGKILL)
        await self.ended(process, child)
        await self.until_held()
        self.assertEqual(2, len(keepalives_of(self.directory)))
        self.assertIn("has outlived its parent", self.agent.log)

    async def test_death_in_a_reload_leaves_no_child(self) -> None:
        """A stopped child of a keepalived that dies while it reloads does not hold the address beside the next one."""
        config = await self.running_vrrp(self.config())
        process, child = self.running_keepalived(), self.child()
        await self.client.upload_vrrp(config.text())
        child.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGSTOP)
        reloading = Deferred.fromCoroutine(self.client.vrrp("reload"))
        await wait_until(lambda: is_pending(process, signal.SIGHUP), "keepalived to be told to reload")
        process.send_signal(signal.SIGKILL)
        with self.assertRaises(AmphoraFailed):
            await reloading
        self.assertFalse(child.alive)
        await self.until_held()
        self.assertEqual(2, len(keepalives_of(self.directory)))

    async def test_back_off(self) -> None:
        """What cannot be started is tried again after pauses that grow, leaves no address, and comes back then."""
        await self.running_vrrp(self.config())
        ours = self.pair.ours
        rename = ("ip", "-n", ours.namespace, "link", "set")
        child = self.child()
        # With both stopped nothing takes the address away when they die.
        for process in (self.running_keepalived(), child):
            process.send_signal(signal.SIGSTOP)
        run(*rename, ours.link, "down")
        run(*rename, ours.link, "name", "other0")
        for process in (child, self.running_keepalived()):
            process.send_signal(signal.SIGKILL)
        await self.until_logged("keepalived is started again in 1 s")
        self.assertFalse(ours.holds())
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.vrrp("start")
        self.assertIn(f"interface {ours.link}", raised.exception.details)
        run(*rename, "other0", "name", ours.link)
        run(*rename, ours.link, "up")
        await self.until_held()

    async def test_stop_of_stopped_processes(self) -> None:
        """A keepalived that hears no signal goes on for its end, and gives the address back."""
        await self.running_vrrp(self.config())
        for process in (self.running_keepalived(), self.child()):
            process.send_signal(signal.SIGSTOP)
        await self.client.vrrp("stop")
        self.assertEqual([], keepalives_of(self.directory))
        self.assertFalse(self.pair.ours.holds())
        self.assertNotIn("killing it", self.agent.log)

    async def test_stop_of_what_does_not_end(self) -> None:
        """One that does not even then is killed, and the address that it left is taken away."""
        await self.running_vrrp(self.config())
        with HeldStill(self.child()):
            await self.client.vrrp("stop")
        self.assertEqual([], keepalives_of(self.directory))
        self.assertFalse(self.pair.ours.holds())
        self.assertIn("killing it", self.agent.log)


class HeldStill:
    """Keeps a process from running, as a debugger does: no signal but one lets it go on.  See ptrace(2)."""

    def __init__(self, process: ProcessIdentity) -> None:
        self._process = process

    def __enter__(self) -> None:
        attach = 16
        if ctypes.CDLL(None, use_errno=True).ptrace(attach, self._process.pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        os.waitpid(self._process.pid, 0x40000000)

    def __exit__(self, *_: object) -> None:
        os.waitpid(self._process.pid, 0x40000000)


@requires(*EVERYTHING_FOR_PAIRS)
class HungTests(VrrpTestCase):
    """A keepalived that is there and does nothing."""

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        PairTestCase.setUp(self)
        self.heard: list[Heartbeat] = []
        controller = HeartbeatListener(reactor=cast(Any, reactor), key="a key of the tests", received=self.heard.append)
        controller.startService()
        self.addCleanup(controller.stopService)
        self.agent.options["health_manager"] = {
            "heartbeat_interval": 1,
            "controller_ip_port_list": f"127.0.0.1:{controller.port}",
        }
        await self.agent.start()

    async def until_heartbeat(self) -> None:
        self.heard.clear()
        await wait_until(lambda: self.heard, "a heartbeat")

    async def test_B9_silence(self) -> None:
        """
        Heartbeats fall silent with an upload, come with the start, and fall silent when a process is stopped.

        Nobody harms it; a reload meanwhile is a 500 in bounded time, and comes about when the process goes on.
        """
        not_running = "no heartbeats are sent: keepalived does not run"
        await self.until_heartbeat()
        config = self.config()
        await self.client.upload_vrrp(config.text())
        await self.until_logged(not_running)
        await self.client.vrrp("start")
        await self.until_heartbeat()
        process, child = self.running_keepalived(), self.child()
        await self.client.upload_vrrp(evolve(config, addresses=(*config.addresses, SECOND_ADDRESS)).text())
        child.send_signal(signal.SIGSTOP)
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.vrrp("reload")
        self.assertIn("did not say within 5 s that it has reloaded", raised.exception.message)
        await self.until_logged("no heartbeats are sent: keepalived hangs")
        child.send_signal(signal.SIGCONT)
        await wait_until(lambda: self.pair.ours.holds(SECOND_ADDRESS), "the reload to come about")
        await self.until_heartbeat()
        self.assertEqual([process, child], [self.running_keepalived(), self.child()])
        await self.client.vrrp("stop")
        await wait_until(lambda: self.agent.log.count(not_running) == 2, "silence again")


@requires(*EVERYTHING_FOR_PAIRS, "mount")
class FullDiskTests(VrrpTestCase):
    """The base path is on a small file system that fills up (A1)."""

    async def setUp(self) -> None:  # type: ignore[override]
        # First in, last out: the agent and its daemons have ended by then.
        self.addCleanup(self.unmount)
        PairTestCase.setUp(self)
        self.agent.base_path.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=60,mode=755", "tmpfs", str(self.agent.base_path))
        await self.agent.start()

    def unmount(self) -> None:
        # A namespace of mounts that ends with its process may take a moment longer.
        run("umount", "--lazy", str(self.agent.base_path))
        shutil.rmtree(self.directory)

    def fill(self) -> list[Path]:
        """Leave no room, and no place for a file."""
        made = []
        for number, content in enumerate([b"x" * 100_000] * 10 + [b""] * 60):
            path = self.agent.base_path / f"fill{number}"
            try:
                made.append(path)
                path.write_bytes(content)
            except OSError:
                continue
        return made

    async def test_A1_full(self) -> None:
        """Nothing is accepted and nothing is lost; keepalived goes on, and can be stopped; room brings it back."""
        config = await self.running_vrrp(self.config())
        filling = self.fill()
        other = evolve(config, addresses=(SECOND_ADDRESS,))
        status, answer = await self.answer("PUT", "/vrrp/upload", other.text())
        self.assertEqual((500, "Failed to upload keepalived configuration."), (status, answer["message"]))
        self.assertEqual("No space left on device", answer["details"])
        self.assertEqual(config.text(), self.uploaded.read_bytes())
        self.assertTrue(self.pair.ours.holds())
        self.assertEqual((500, "No space left on device"), self.words(await self.answer("PUT", "/vrrp/reload")))
        self.assertTrue(self.pair.ours.holds())
        self.assertEqual((500, "No space left on device"), self.words(await self.answer("PUT", "/vrrp/stop")))
        self.assertEqual([], keepalives_of(self.directory))
        for path in filling:
            path.unlink(missing_ok=True)
        await self.client.upload_vrrp(other.text())
        await self.client.vrrp("start")
        await wait_until(lambda: self.pair.ours.holds(SECOND_ADDRESS), "the new address")

    def words(self, answer: tuple[int, Any]) -> tuple[int, str]:
        return answer[0], answer[1]["details"]
