"""The scripts by which keepalived learns whether haproxy serves: every cell of failure mode B10."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.client import AmphoraFailed
from amphora.process import ProcessIdentity
from amphora.vrrp.check_scripts import CheckScripts
from tests.integration.harness import PATIENCE, AgentTestCase, LoadBalancer, take_port, wait_until
from tests.integration.pair import EVERYTHING_FOR_PAIRS, PAIR_HURRY
from tests.integration.support import program, requires, short_directory
from tests.integration.test_vrrp import VrrpTestCase


def passes(script: Path, path: str = os.environ["PATH"]) -> bool:
    """Does the check pass?  Blocks."""
    done = subprocess.run([script], env={"PATH": path}, timeout=PATIENCE, check=False, capture_output=True)
    return done.returncode == 0


class Listener:
    """A stats socket, answered by a function of how many connections came before."""

    def __init__(self, path: Path, answers: Callable[[int], bytes | None]) -> None:
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                answer = self._answers(number)
                number += 1
                if answer is not None:
                    connection.recv(64)
                    connection.sendall(answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


class ScriptTests(SynchronousTestCase):
    """The installed scripts, with sockets of the test's."""

    def setUp(self) -> None:
        self.directory = short_directory(self) / "vrrp"
        self.scripts = CheckScripts(Clock(), AtOnce(), self.directory)
        self.successResultOf(Deferred.fromCoroutine(self.scripts.install()))
        self.script = self.directory / "check_script.sh"
        self.list = self.directory / "haproxy_sockets"

    def ways(self) -> list[str]:
        """Paths for programs: the usual one, if it has perl, and one without."""
        poor = self.directory / "programs"
        if not poor.exists():
            poor.mkdir()
            (poor / "sh").symlink_to(program("sh") or "sh")
            (poor / "python3").symlink_to(os.path.realpath(sys.executable))
        return [str(poor), *([os.environ["PATH"]] if program("perl") else [])]

    def passes_in_every_way(self) -> bool:
        """Does the check pass?  With perl and without, the verdict has to be the same."""
        verdicts = {passes(self.script, way) for way in self.ways()}
        self.assertEqual(1, len(verdicts))
        return verdicts.pop()

    def listener(self, name: str, answers: Callable[[int], bytes | None] = lambda _: b"Name: HAProxy\n") -> Path:
        path = self.directory / name
        listener = Listener(path, answers)
        self.addCleanup(listener.close)
        return path

    def expect(self, *paths: Path) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.scripts.expect(paths)))

    def add(self, name: str, text: str, mode: int = 0o755) -> None:
        path = self.directory / "check_scripts" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)

    def test_never_and_no_more(self) -> None:
        """Where nothing was ever started the check fails; where nothing has to run any more it passes."""
        self.expect()
        self.assertFalse(self.list.exists())
        self.assertFalse(self.passes_in_every_way())
        self.expect(self.listener("a.sock"))
        self.assertTrue(self.passes_in_every_way())
        self.expect()
        self.assertTrue(self.passes_in_every_way())

    def test_all_have_to_answer(self) -> None:
        """Many sockets pass if each answers."""
        self.expect(*(self.listener(f"{number}.sock") for number in range(50)))
        self.assertTrue(self.passes_in_every_way())

    def test_one_does_not(self) -> None:
        """One that is missing, where nobody listens, or that takes connections and does not answer, fails the check."""
        well = self.listener("well.sock")
        deaf, hung, missing = (self.directory / f"{name}.sock" for name in ("deaf", "hung", "missing"))
        with socket.socket(socket.AF_UNIX) as closed, socket.socket(socket.AF_UNIX) as silent:
            closed.bind(str(deaf))
            silent.bind(str(hung))
            silent.listen(0)
            scripts = [self.copy_for(well, path) for path in (deaf, hung, missing)]
            with ThreadPoolExecutor() as threads:
                verdicts = threads.map(lambda each: passes(*each), product(scripts, self.ways()))
        self.assertEqual([False] * len(scripts) * len(self.ways()), list(verdicts))

    def copy_for(self, *sockets: Path) -> Path:
        """The check with a list of its own, so that several can be made at the same time."""
        directory = short_directory(self)
        shutil.copytree(self.directory / "check_scripts", directory / "check_scripts")
        (directory / self.list.name).write_text("".join(f"{socket}\n" for socket in sockets))
        return Path(shutil.copy(self.script, directory))

    def test_asked_again(self) -> None:
        """A connection that is dropped, as in a reload, is made again."""
        self.expect(self.listener("a.sock", lambda number: b"x" if number > 3 else None))
        self.assertTrue(self.passes_in_every_way())

    def test_all_scripts_count(self) -> None:
        """Every script of the directory is run, whatever its name; one that fails fails the check."""
        self.list.touch()
        self.add("lvs_udp_check.sh", "exit 0")
        self.add("a name with blanks", f"touch '{self.directory}/ran'; exit 0")
        self.assertTrue(passes(self.script))
        self.assertTrue((self.directory / "ran").exists())
        for status in (1, 143, 255):
            self.add("lvs_udp_check.sh", f"exit {status}")
            self.assertFalse(passes(self.script), status)

    def test_processes(self) -> None:
        """Every keepalived of a UDP listener has to be the very process that was started, and not the rests of one."""
        self.list.touch()
        me = ProcessIdentity.current()
        dead = subprocess.Popen(["true"])
        self.addCleanup(dead.wait)
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        started = Path(f"/proc/{dead.pid}/stat").read_text().rpartition(")")[2].split()[19]
        for lines, expected in (
            ((), True),
            ((f"{me.pid} {me.started}",), True),
            ((f"{me.pid} {me.started}", f"{me.pid} {me.started + 1}"), False),
            ((f"{me.pid} {me.started}", "0 0"), False),
            ((f"{dead.pid} {started}",), False),
        ):
            (self.directory / "lvs_processes").write_text("".join(f"{line}\n" for line in lines))
            self.assertEqual(expected, passes(self.script), lines)

    def test_what_is_no_script(self) -> None:
        """What is being made, what is not executable, and directories are passed over."""
        self.list.touch()
        self.add(".haproxy_check_script.sh.new", "exit 1")
        self.add("README", "exit 1", 0o644)
        (self.directory / "check_scripts" / "directory").mkdir()
        self.assertTrue(passes(self.script))

    def test_no_scripts(self) -> None:
        """A directory that is gone is no reason to pass."""
        shutil.rmtree(self.directory / "check_scripts")
        self.assertFalse(passes(self.script))


class CheckTestCase(AgentTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    def passes(self) -> Deferred[bool]:
        return deferToThread(passes, self.agent.base_path / "vrrp" / "check_script.sh")

    async def assert_passes(self, expected: bool) -> None:
        self.assertEqual(expected, await self.passes())


@requires("haproxy")
class CellTests(CheckTestCase):
    """What the agent's load balancers make of the check."""

    async def test_lives(self) -> None:
        """The check passes as long as all that should run answers, from the first start on."""
        await self.assert_passes(False)
        first, second = LoadBalancer(), LoadBalancer()
        await self.client.upload_haproxy(first.listener_id, first.config())
        await self.assert_passes(False)
        await self.client.start(first.listener_id)
        await self.assert_passes(True)
        await self.running(second)
        await self.assert_passes(True)
        await self.client.stop(first.listener_id)
        await self.assert_passes(True)
        await self.client.delete(second.listener_id)
        await self.assert_passes(True)
        await self.agent.end(signal.SIGKILL)
        await self.agent.start()
        await self.assert_passes(True)
        await self.client.start(first.listener_id)
        await self.assert_passes(True)
        self.assertEqual(1, len((self.agent.base_path / "vrrp" / "haproxy_sockets").read_text().splitlines()))
        await self.client.delete(first.listener_id)
        await self.assert_passes(True)

    async def test_dead(self) -> None:
        """It fails while one is dead that should run, until that is stopped on purpose."""
        balancer = await self.running(LoadBalancer())
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self.agent.all_haproxies(), "haproxy to end")
        with await take_port(balancer.port):
            await self.agent.start()
            await wait_until(lambda: "started again in" in self.agent.log, "an attempt to fail")
            await self.assert_passes(False)
            with self.assertRaises(AmphoraFailed):
                await self.client.stop(balancer.listener_id)
        await self.assert_passes(True)

    async def test_start_that_fails(self) -> None:
        """A load balancer that never came up does not count."""
        await self.running(LoadBalancer())
        balancer = LoadBalancer()
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        with socket.create_server(("127.0.0.1", balancer.port)), self.assertRaises(AmphoraFailed):
            await self.client.start(balancer.listener_id)
        await self.assert_passes(True)

    async def test_reloads(self) -> None:
        """Reloads do not fail it."""
        balancer = await self.running(LoadBalancer())
        verdicts: list[bool] = []
        going = True

        async def check() -> None:
            while going:
                verdicts.append(await self.passes())

        checking = Deferred.fromCoroutine(check())
        for _ in range(5):
            await self.client.reload(balancer.listener_id)
        going = False
        await checking
        self.assertGreater(len(verdicts), 5)
        self.assertEqual({True}, set(verdicts))

    async def test_installed_whole(self) -> None:
        """A script that another agent left, or somebody spoilt, is replaced by the next agent; others are kept."""
        script = self.agent.base_path / "vrrp" / "check_script.sh"
        other = script.parent / "check_scripts" / "operators.sh"
        right = script.read_bytes()
        number = script.stat().st_ino
        other.write_text("#!/bin/sh\n")
        for spoilt in (b"#!/bin/sh\nexit 0\n", right):
            script.write_bytes(spoilt)
            script.chmod(0o755)
            await self.agent.end()
            await self.agent.start()
            self.assertEqual(right, script.read_bytes())
            self.assertTrue(os.access(script, os.X_OK))
        self.assertNotEqual(number, script.stat().st_ino)
        self.assertTrue(other.exists())


@requires(*EVERYTHING_FOR_PAIRS)
class FailoverTests(VrrpTestCase):
    async def test_B10_failover(self) -> None:
        """No listener, no address; with one it comes; when its haproxy hangs, the peer takes the address over."""
        self.new_peer()
        await self.until_held(self.pair.theirs)
        config = self.config(script=self.vrrp / "check_script.sh", priority=110, hurry=PAIR_HURRY)
        # Whoever is better takes the address at once.
        await self.client.upload_vrrp(config.text().replace(b"    nopreempt\n", b""))
        await self.client.vrrp("start")
        await self.until_role("STANDBY")
        balancer = await self.running(LoadBalancer())
        await self.until_role("ACTIVE")
        await self.until_held(self.pair.theirs, held=False)
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        (worker,) = master.children()
        worker.send_signal(signal.SIGSTOP)
        await self.until_held(self.pair.theirs)
        await self.until_role("STANDBY")
        self.assertFalse(self.pair.ours.holds())
