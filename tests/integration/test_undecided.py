"""Reloads whose outcome is not known when it is asked for, and what an agent finds that was not there to see them."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred

from amphora.client import AmphoraFailed, Outcome
from amphora.loadbalancer.sockets import ask
from amphora.process import ProcessIdentity, spawn_daemon
from tests.integration.harness import PATIENCE, Gate, LoadBalancer, free_port, get, new_id, wait_until
from tests.integration.support import count, program, requires
from tests.integration.test_supervision import FullDiskTestCase, SupervisionTestCase


class GateTestCase(SupervisionTestCase):
    async def changed(self, balancer: LoadBalancer) -> tuple[LoadBalancer, Gate]:
        """Upload a change: one more address, and a gate before it."""
        gate = Gate(self.directory / f"gate-{new_id()[:8]}")
        changed = evolve(balancer, extra_binds=(f"127.0.0.1:{free_port()}",), extra_frontend=(gate.rule,))
        uploading = Deferred.fromCoroutine(self.client.upload_haproxy(changed.listener_id, changed.config()))
        await gate.open()
        await uploading
        return changed, gate

    async def loading(self, balancer: LoadBalancer, gate: Gate) -> Deferred[Outcome]:
        """Begin a reload, and wait until haproxy stands before the gate.  @return: What the reload will answer."""
        log = self.agent.base_path / balancer.listener_id / "haproxy.log"
        before = log.stat().st_size
        reloading = Deferred.fromCoroutine(self.client.reload(balancer.listener_id))
        await gate.open()
        await wait_until(lambda: "Reloading HAProxy" in log.read_text()[before:], "the reload to begin")
        return reloading

    def new_port(self, balancer: LoadBalancer) -> int:
        """The port that the change adds."""
        return int(balancer.extra_binds[0].rpartition(":")[2])

    async def serves(self, port: int) -> bool:
        try:
            return b"200 OK" in await get(port)
        except OSError:
            return False

    def runs(self, balancer: LoadBalancer) -> bool:
        """Is this what the agent takes for what runs, and is it sure?"""
        directory = self.agent.base_path / balancer.listener_id
        left = [path.name for path in directory.iterdir() if path.name.startswith("previous")]
        return not left and (directory / "running.cfg").read_bytes() == balancer.config()


@requires("haproxy")
class UndecidedTests(GateTestCase):
    async def test_too_long(self) -> None:
        """
        A reload that takes too long is a 500 that says so, while what ran before serves; so is one of a master that
        hangs.  When haproxy gets to its end after all, whether that is a success or not, the agent notices, and knows
        what runs.
        """
        works, fails, hangs = [await self.running(LoadBalancer(members=(self.new_member(),))) for _ in range(3)]
        works_changed, works_gate = await self.changed(works)
        fails_changed, fails_gate = await self.changed(fails)
        self.master(hangs).send_signal(signal.SIGSTOP)
        for reloading in (
            await self.loading(works, works_gate),
            await self.loading(fails, fails_gate),
            Deferred.fromCoroutine(self.client.reload(hangs.listener_id)),
        ):
            with self.assertRaises(AmphoraFailed) as raised:
                await reloading
            self.assertEqual((500, "Error reloading haproxy"), (raised.exception.status, raised.exception.message))
            self.assertIn("did not finish the reload within 10", raised.exception.details)
        for balancer in (works, fails, hangs):
            self.assertTrue(await self.serves(balancer.port))
            self.assertEqual("ACTIVE", await self.status(balancer))
        self.master(hangs).send_signal(signal.SIGCONT)
        await self.client.reload(hangs.listener_id)
        await works_gate.open()
        await self.noticed(works, "its last reload came about")
        await wait_until(lambda: self.runs(works_changed), "it to be what runs")
        self.assertTrue(await self.serves(self.new_port(works_changed)))
        with socket.create_server(("127.0.0.1", self.new_port(fails_changed))):
            await fails_gate.open()
            await self.noticed(fails, "its last reload failed")
        await wait_until(lambda: self.runs(fails), "what ran before to be given back")
        self.assertTrue(await self.serves(fails.port))
        # The worker that was held for a reload that did not come about is let go.
        await wait_until(lambda: self.alone(fails), "no session to be left on its stats socket")
        await self.knows_what_runs(works, works_changed)

    async def noticed(self, balancer: LoadBalancer, what: str) -> None:
        await wait_until(lambda: f"{balancer.listener_id}: {what}" in self.agent.log, "the agent to notice")

    async def alone(self, balancer: LoadBalancer) -> bool:
        """Is this question the only session on the stats socket?"""
        from twisted.internet import reactor

        stats_socket = self.agent.base_path / balancer.listener_id / "agent.sock"
        sessions = await ask(cast(Any, reactor), stats_socket, b"show sess\n", timeout=PATIENCE)
        return sessions.count(b"proto=unix_stream") == 1

    async def knows_what_runs(self, before: LoadBalancer, now: LoadBalancer) -> None:
        """The agent tells others who has the new address, and reloads on."""
        other = LoadBalancer(port=self.new_port(now))
        await self.client.upload_haproxy(other.listener_id, other.config())
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.start(other.listener_id)
        self.assertIn(f"listener {now.listener_id} has it", raised.exception.details)
        await self.client.upload_haproxy(before.listener_id, before.config())
        await self.client.reload(before.listener_id)
        self.assertFalse(await self.serves(self.new_port(now)))
        self.assertTrue(self.runs(before))

    async def test_agent_killed_and_it_works(self) -> None:
        """A reload in which the agent was killed and that came about is found as what runs."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        changed, gate = await self.changed(balancer)
        reloading = (await self.loading(changed, gate)).addErrback(lambda _: None)
        await self.agent.end(signal.SIGKILL)
        await reloading
        await gate.open()
        await wait_until(lambda: self.serves(self.new_port(changed)), "the reload to end")
        await self.agent.start()
        self.assertIn("its last reload came about", self.agent.log)
        self.assertTrue(self.runs(changed))
        self.assertEqual("ACTIVE", await self.status(balancer))

    async def test_agent_killed_and_it_fails(self) -> None:
        """A reload in which the agent was killed and that failed is told in the log: what ran before runs."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        changed, gate = await self.changed(balancer)
        reloading = (await self.loading(changed, gate)).addErrback(lambda _: None)
        await self.agent.end(signal.SIGKILL)
        await reloading
        with socket.create_server(("127.0.0.1", self.new_port(changed))):
            log = self.agent.base_path / balancer.listener_id / "haproxy.log"
            await gate.open()
            await wait_until(lambda: "Loading failure!" in log.read_text(), "the reload to fail")
        await self.agent.start()
        self.assertIn("its last reload failed", self.agent.log)
        self.assertTrue(self.runs(balancer))
        self.assertTrue(await self.serves(balancer.port))

    async def test_agent_killed_before_the_signal(self) -> None:
        """A reload that haproxy was never told of is not taken for one that worked."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        changed = evolve(balancer, extra_binds=(f"127.0.0.1:{free_port()}",))
        await self.client.upload_haproxy(balancer.listener_id, changed.config())
        (worker,) = self.master(balancer).children()
        # While it does not answer, the agent waits before it sends the signal.
        worker.send_signal(signal.SIGSTOP)
        reloading = Deferred.fromCoroutine(self.client.reload(balancer.listener_id)).addErrback(lambda _: None)
        directory = self.agent.base_path / balancer.listener_id
        await wait_until((directory / "previous.cfg").exists, "the reload to begin")
        await self.agent.end(signal.SIGKILL)
        await reloading
        worker.send_signal(signal.SIGCONT)
        self.assertFalse(self.runs(balancer))
        await self.agent.start()
        self.assertIn("its last reload failed", self.agent.log)
        self.assertTrue(self.runs(balancer))
        await self.client.reload(balancer.listener_id)
        self.assertTrue(await self.serves(self.new_port(changed)))
        self.assertTrue(self.runs(changed))

    async def test_master_that_is_there(self) -> None:
        """
        A start that finds a haproxy of this very listener, which somebody else has started, begins no second one: that
        one loads what was uploaded, and is watched from now on.  In a full run also one that cannot tell us anything.
        """
        for heard in (True, False)[: count(1, 2)]:
            balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
            await self.client.stop(balancer.listener_id)
            master = self.started_by_hand(balancer, heard)
            await wait_until(lambda balancer=balancer: self.serves(balancer.port), "it to serve")  # type: ignore[misc]
            changed = evolve(balancer, extra_binds=(f"127.0.0.1:{free_port()}",))
            await self.client.upload_haproxy(balancer.listener_id, changed.config())
            started = await self.client.start(balancer.listener_id)
            self.assertIn(f"(pid {master.pid})", started.details)
            self.assertTrue(await self.serves(self.new_port(changed)))
            self.assertEqual("ACTIVE", await self.status(balancer))
            self.assertEqual(master, self.master(balancer))
            master.send_signal(signal.SIGKILL)
            await self.ended(master)
            await self.until_active(balancer)
            self.assertNotEqual(master, self.master(balancer))
            await self.client.delete(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())

    def started_by_hand(self, balancer: LoadBalancer, heard: bool) -> ProcessIdentity:
        """A haproxy with the listener's files, whether or not it tells the agent when it is ready."""
        from twisted.internet import reactor

        directory = self.agent.base_path / balancer.listener_id
        with open(directory / "haproxy.log", "ab") as log:
            pid = spawn_daemon(
                cast(Any, reactor),
                [
                    *(program("haproxy") or "haproxy", "-Ws", "-f", str(directory / "running.cfg")),
                    *("-f", str(directory / "agent.cfg"), "-p", str(directory / f"{balancer.listener_id}.pid")),
                    *("-S", f"{directory}/master.sock,mode,600", "-L", "peer"),
                ],
                output=log.fileno(),
                environment={"NOTIFY_SOCKET": str(self.agent.base_path / "notify.sock")} if heard else {},
            )
        process = ProcessIdentity.of(pid)
        assert process is not None
        return process


@requires("root", "haproxy")
class FullDiskTests(GateTestCase, FullDiskTestCase):
    """The base path is on a small file system that fills up (E2)."""

    async def test_crash(self) -> None:
        """A haproxy that crashes while there is no room for a byte is started as it was."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        filling: list[Path] = []
        for _ in range(count(2, 4)):
            filling += self.fill_blocks()
            # What it wrote into its pid file found no room either.
            (master,) = [one for one in self.agent.all_haproxies() if os.getsid(one.pid) == one.pid]
            master.send_signal(signal.SIGKILL)
            await self.ended(master)
            await wait_until(lambda: self.serves(balancer.port), "it to serve again")
            await self.until_active(balancer)
        for path in filling:
            path.unlink(missing_ok=True)
        await self.client.reload(balancer.listener_id)
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "the old worker to end")

    async def test_crash_in_a_reload(self) -> None:
        """
        A reload that ends haproxy because there is no room for its sockets by then is told, with haproxy's words; what
        ran before is started again.
        """
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        changed, gate = await self.changed(balancer)
        before = self.master(balancer)
        reloading = await self.loading(changed, gate)
        filling = self.fill()
        await gate.open(for_good=True)
        with self.assertRaises(AmphoraFailed) as raised:
            await reloading
        self.assertEqual((500, "Error reloading haproxy"), (raised.exception.status, raised.exception.message))
        self.assertIn("haproxy ended while it reloaded", raised.exception.details)
        self.assertIn("No space left on device", raised.exception.details)
        self.assertIn("The configuration that ran before runs in its place", raised.exception.details)
        self.assertFalse(before.alive)
        self.assertTrue(await self.serves(balancer.port))
        self.assertTrue(self.runs(balancer))
        self.assertEqual("ERROR", await self.status(balancer))
        for path in filling:
            path.unlink(missing_ok=True)
        await self.client.reload(balancer.listener_id)
        self.assertTrue(await self.serves(self.new_port(changed)))
        self.assertTrue(self.runs(changed))
        self.assertEqual("ACTIVE", await self.status(balancer))
