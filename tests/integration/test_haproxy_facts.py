"""What `amphora.loadbalancer.haproxy` takes for granted of haproxy, tried on the installed one."""

from __future__ import annotations

import os
import signal
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import TestCase

from amphora.loadbalancer.haproxy import Processes, parse_processes
from amphora.loadbalancer.old_workers import OldWorker, StatsSession, hold
from amphora.loadbalancer.sockets import NoAnswer, ask
from amphora.process import ProcessIdentity, run_command, spawn_daemon
from tests.integration.harness import LoadBalancer, free_port, get, wait_until
from tests.integration.support import program, requires, short_directory


class _Notifications(DatagramProtocol):
    noisy = False

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self.heard.append(datagram)


class _Haproxy:
    """One haproxy, started as the agent starts it, with an overlay of the test's choice."""

    def __init__(self, reactor: Any, directory: Path, config: bytes, overlay: str) -> None:
        self.reactor = reactor
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.config = directory / "haproxy.cfg"
        self.overlay = directory / "agent.cfg"
        self.log = directory / "log"
        self.master_socket = directory / "master.sock"
        self.config.write_bytes(config)
        self.overlay.write_text(f"global\n    stats socket {directory}/agent.sock mode 600 level admin\n{overlay}\n")

    def start(self, notify: Path) -> ProcessIdentity | None:
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = spawn_daemon(
            self.reactor,
            [
                *(program("haproxy") or "haproxy", "-Ws", "-f", str(self.config), "-f", str(self.overlay)),
                *("-p", str(self.directory / "pid"), "-S", f"{self.master_socket},mode,600", "-L", "peer"),
            ],
            output=output,
            environment={"NOTIFY_SOCKET": str(notify)},
        )
        os.close(output)
        return ProcessIdentity.of(pid)

    async def processes(self) -> Processes:
        async def asked() -> Processes | None:
            try:
                return parse_processes(await ask(self.reactor, self.master_socket, b"show proc;quit\n", timeout=1))
            except NoAnswer:
                return None

        return cast(Processes, await wait_until(asked, "the master to list its processes"))


@requires("haproxy")
class HaproxyFactTests(TestCase):
    timeout = 180

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.directory = short_directory(self)
        self.notify = self.directory / "notify.sock"
        self.notifications = _Notifications()
        port = self.reactor.listenUNIXDatagram(str(self.notify), self.notifications)
        self.addCleanup(port.stopListening)
        self.balancer = LoadBalancer()

    def haproxy(self, name: str = "one", overlay: str = "    noreuseport", config: bytes | None = None) -> _Haproxy:
        return _Haproxy(self.reactor, self.directory / name, config or self.balancer.config(), overlay)

    async def started(self, haproxy: _Haproxy) -> ProcessIdentity:
        process = haproxy.start(self.notify)
        assert process is not None

        async def end() -> None:
            for one in (process, *process.children()):
                one.send_signal(signal.SIGKILL)
            await wait_until(lambda: not process.alive, "haproxy to end")

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        ready = b"READY=1\nMAINPID=%d" % process.pid
        await wait_until(lambda: any(ready in heard for heard in self.notifications.heard), "haproxy to be ready")
        return process

    async def reloaded(self, process: ProcessIdentity) -> None:
        self.notifications.heard.clear()
        process.send_signal(signal.SIGUSR2)
        await wait_until(
            lambda: any(b"READY=1" in heard for heard in self.notifications.heard), "the reload's end to be told"
        )

    async def test_in_the_foreground(self) -> None:
        """`-Ws` stays in the foreground, whatever `daemon` in the configuration says: the child is the master."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        self.assertEqual(str(process.pid), (haproxy.directory / "pid").read_text().strip())
        self.assertIn(b"daemon", haproxy.config.read_bytes())
        self.assertEqual(os.getsid(process.pid), process.pid)

    async def test_reload_that_works(self) -> None:
        """After a reload the count has grown, and one worker has none behind it; process and files are the same."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        before = await haproxy.processes()
        await self.reloaded(process)
        after = await haproxy.processes()
        self.assertEqual((0, 1), (before.reloads, after.reloads))
        assert before.current is not None and after.current is not None
        self.assertNotEqual(before.current.pid, after.current.pid)
        self.assertEqual(process, ProcessIdentity.of(process.pid))
        words = process.command_line()
        self.assertEqual(
            [str(haproxy.config), str(haproxy.overlay)],
            [value for option, value in pairwise(words) if option == "-f"],
        )

    async def test_reload_that_fails(self) -> None:
        """READY is said after a reload that failed, too; the count has grown, and no worker is without reloads."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        haproxy.config.write_bytes(self.balancer.config() + b"BAD_LINE\n")
        await self.reloaded(process)
        after = await haproxy.processes()
        self.assertEqual(1, after.reloads)
        self.assertIsNone(after.current)
        self.assertIn("BAD_LINE", haproxy.log.read_text())
        haproxy.config.write_bytes(self.balancer.config())
        await self.reloaded(process)
        self.assertIsNotNone((await haproxy.processes()).current)

    async def test_end_of_an_old_worker(self) -> None:
        """An old worker that is told to ends at once; its master and the worker after it do not mind."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        with socket.create_connection(("127.0.0.1", self.balancer.port)):
            await self.reloaded(process)
            (old,) = (await haproxy.processes()).old
            worker = ProcessIdentity.of(old.pid)
            assert worker is not None
            worker.send_signal(signal.SIGTERM)
            await wait_until(lambda: not worker.alive, "the old worker to end")
        after = await haproxy.processes()
        self.assertIsNotNone(after.current)
        self.assertEqual((), after.old)
        await get(self.balancer.port)

    @requires("ipv6")
    async def test_reload_with_ipv6(self) -> None:
        """
        With `noreuseport` a reload takes all IPv4 listeners away where an IPv6 address is bound without `v6only`.

        What was bound with it, a wildcard, and all without `noreuseport` are served on.
        """
        port = free_port()
        for number, (bind, overlay, served) in enumerate(
            (
                (f"::1:{port}", "", True),
                (f"::1:{port}", "    noreuseport", False),
                (f"::1:{port} v6only", "    noreuseport", True),
                (f":::{port}", "    noreuseport", True),
            )
        ):
            self.balancer = LoadBalancer(extra_binds=(bind,))
            process = await self.started(self.haproxy(str(number), overlay))
            await get(self.balancer.port)
            await self.reloaded(process)
            if served:
                await get(self.balancer.port)
            else:
                await self.assertFailure(get(self.balancer.port), ConnectionRefusedError)
            process.send_signal(signal.SIGTERM)
            await wait_until(lambda process=process: not process.alive, "haproxy to end")  # type: ignore[misc]

    @requires("ipv6")
    def test_ipv6_only(self) -> None:
        """The kernel marks a socket as IPv6 only when it is bound to an address, whatever it was told."""
        for host, only in (("::1", 1), ("::", 0)):
            with socket.socket(socket.AF_INET6) as made:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                made.bind((host, 0))
                self.assertEqual(only, made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))

    async def test_two_on_one_address(self) -> None:
        """Two haproxies share an address silently, and each gets half of it; with `noreuseport` the second fails."""
        first = self.haproxy("one", overlay="")
        await self.started(first)
        second = self.haproxy("two", overlay="")
        await self.started(second)
        third_port = LoadBalancer(port=free_port())
        holder = self.haproxy("three", config=third_port.config())
        await self.started(holder)
        late = self.haproxy("four", config=third_port.config())
        process = late.start(self.notify)
        await wait_until(lambda: process is None or not process.alive, "the fourth to give up")
        taken = f"cannot bind socket (Address already in use) for [127.0.0.1:{third_port.port}]"
        self.assertIn(taken, late.log.read_text())

    async def test_stopped_worker_outlives_its_master(self) -> None:
        """A worker ends with its master, except one that is stopped: it has to be ended by itself."""
        process = await self.started(self.haproxy())
        (worker,) = process.children()
        worker.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not process.alive, "the master to end")
        self.assertTrue(worker.alive)
        worker.send_signal(signal.SIGKILL)
        await wait_until(lambda: not worker.alive, "the worker to end")

    async def test_session_holds_an_old_worker(self) -> None:
        """An old worker with nothing left to do waits for a session on its stats socket, and ends with it."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        held = await hold(self.reactor, haproxy.directory / "agent.sock", timeout=10)
        await self.reloaded(process)
        await held.read(self.reactor, 10)
        self.assertTrue(held.stats is not None and held.stats.stopping)
        self.assertTrue(held.final)
        await wait_until(lambda: not held.process.alive, "the old worker to end")
        self.assertIsNotNone((await haproxy.processes()).current)

    async def test_session_in_other_hands(self) -> None:
        """
        A session that is left, with an answer that nobody has read, goes on for whoever has a copy of it, and still
        holds its worker; ended by one, it has ended for all.
        """
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        held = await hold(self.reactor, haproxy.directory / "agent.sock", timeout=10)
        session = cast(StatsSession, held.session)
        given, kept = os.dup(session.descriptor), os.dup(session.descriptor)
        self.addCleanup(os.close, kept)
        await self.reloaded(process)
        session.ask(b"show stat\n").addErrback(lambda reason: reason.trap(NoAnswer))
        held.leave()
        next_one = OldWorker.held_by(StatsSession.go_on(self.reactor, given, session.mark), held.process, None)
        await next_one.read(self.reactor, 10)
        self.assertTrue(next_one.stats is not None and next_one.stats.stopping)
        self.assertTrue(next_one.final)
        await wait_until(lambda: not held.process.alive, "the old worker to end")

    async def test_questions_to_a_hung_worker(self) -> None:
        """Questions to a hung worker that are given up fill the master's ten places: nobody else is answered then."""
        haproxy = self.haproxy()
        process = await self.started(haproxy)
        (worker,) = process.children()
        worker.send_signal(signal.SIGSTOP)
        question = b"@!%d show info;quit\n" % worker.pid
        for _ in range(10):
            with self.assertRaises(NoAnswer):
                await ask(self.reactor, haproxy.master_socket, question, timeout=0.1)
        with self.assertRaises(NoAnswer):
            await ask(self.reactor, haproxy.master_socket, b"show proc;quit\n", timeout=1)
        worker.send_signal(signal.SIGCONT)
        self.assertEqual(worker.pid, cast(Any, (await haproxy.processes()).current).pid)

    async def test_mark_of_a_load(self) -> None:
        """What `setenv` says stands in a worker's own environment: it tells of what the worker was given."""
        haproxy = self.haproxy(overlay="    noreuseport\n    setenv AMPHORA_LOAD one")
        process = await self.started(haproxy)
        overlay = haproxy.overlay.read_text()

        async def told() -> bytes:
            return await ask(self.reactor, haproxy.directory / "agent.sock", b"show env AMPHORA_LOAD\n", timeout=10)

        self.assertEqual(b"AMPHORA_LOAD=one\n\n", await told())
        haproxy.overlay.write_text(overlay.replace("LOAD one", "LOAD two"))
        self.assertEqual(b"AMPHORA_LOAD=one\n\n", await told())
        await self.reloaded(process)
        self.assertEqual(b"AMPHORA_LOAD=two\n\n", await told())
        haproxy.overlay.write_text(overlay.replace("LOAD one", "LOAD three"))
        haproxy.config.write_bytes(self.balancer.config() + b"BAD_LINE\n")
        await self.reloaded(process)
        self.assertEqual(b"AMPHORA_LOAD=two\n\n", await told())

    async def test_check_command(self) -> None:
        """`-c` exits 0 for a good configuration and says so, and 1 for a bad one."""
        haproxy = self.haproxy()
        command = [program("haproxy") or "haproxy", "-c", "-f", str(haproxy.config), "-f", str(haproxy.overlay)]
        good = await run_command(self.reactor, command, timeout=30)
        self.assertEqual((0, True), (good.exit_code, "Configuration file is valid" in good.output))
        haproxy.config.write_bytes(b"BAD_LINE\n")
        bad = await run_command(self.reactor, command, timeout=30)
        self.assertEqual(1, bad.exit_code)

    async def test_socket_path_limit(self) -> None:
        """haproxy binds a UNIX socket under a longer name first: a path of 107 bytes is too long for it."""
        haproxy = self.haproxy()
        long = self.directory / ("s" * (107 - len(str(self.directory)) - 1))
        haproxy.overlay.write_text(f"global\n    stats socket {long} mode 600\n")
        process = haproxy.start(self.notify)
        await wait_until(lambda: process is None or not process.alive, "haproxy to give up")
        self.assertIn("too long", haproxy.log.read_text())
        # The kernel alone would take it.
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind(str(long))
