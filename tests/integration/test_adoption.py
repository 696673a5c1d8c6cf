"""Agents come and go; haproxy stays, and is found again."""

from __future__ import annotations

import signal
import subprocess

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessTerminated

from amphora.client import Outcome
from tests.integration.harness import AgentProcess, AgentTestCase, Gate, LoadBalancer, free_port, get, wait_until
from tests.integration.support import count, requires


@requires("haproxy")
class AdoptionTests(AgentTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    async def restart(self, with_signal: signal.Signals) -> None:
        await self.agent.end(with_signal)
        await self.agent.start()

    async def status(self, balancer: LoadBalancer) -> str:
        return (await self.client.listener(balancer.listener_id)).status

    async def test_under_load(self) -> None:
        """Agents are killed and started under traffic: no request fails, and the same haproxy serves (E8)."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(), self.new_member())))
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        workers = master.children()
        answers: list[bytes] = []
        going = True

        async def load() -> None:
            while going:
                answers.append(await get(balancer.port))

        loads = [Deferred.fromCoroutine(load()) for _ in range(2)]
        for number in range(count(4, 100)):
            await self.restart(signal.SIGTERM if number % 4 == 3 else signal.SIGKILL)
            self.assertEqual("ACTIVE", await self.status(balancer))
            self.assertEqual(master, self.agent.haproxy(balancer.listener_id))
            self.assertEqual(workers, master.children())
        going = False
        await gatherResults(loads)
        self.assertTrue(answers)
        self.assertEqual([], [answer for answer in answers if b"200 OK" not in answer])
        self.assertEqual(2, len(self.agent.all_haproxies()))

    async def test_adopted_haproxy_obeys(self) -> None:
        """A haproxy that an earlier agent started is reloaded and stopped like one's own."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        before = self.agent.haproxy(balancer.listener_id)
        await self.restart(signal.SIGKILL)
        await self.client.reload(balancer.listener_id)
        self.assertEqual(before, self.agent.haproxy(balancer.listener_id))
        self.assertIn(b"200 OK", await get(balancer.port))
        await self.client.stop(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())

    async def test_hung_ones(self) -> None:
        """haproxies that hang do not keep an agent from serving, however many they are; they are the same later on."""
        balancers = [await self.running(LoadBalancer()) for _ in range(count(5, 60))]
        haproxies = self.agent.all_haproxies()
        for process in haproxies:
            process.send_signal(signal.SIGSTOP)
        # One after the other, sixty would take longer than a test waits.
        await self.restart(signal.SIGKILL)
        self.assertEqual({"ERROR"}, {listener.status for listener in await self.client.listeners()})
        for process in haproxies:
            process.send_signal(signal.SIGCONT)

        async def active() -> bool:
            listeners = await self.client.listeners()
            return [listener.status for listener in listeners] == ["ACTIVE"] * len(balancers)

        await wait_until(active, "all to be ACTIVE")
        self.assertEqual(haproxies, self.agent.all_haproxies())

    async def test_death_is_noticed(self) -> None:
        """The end of an adopted haproxy is noticed as that of a child is."""
        balancer = await self.running(LoadBalancer())
        await self.restart(signal.SIGKILL)
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        master.send_signal(signal.SIGKILL)
        await wait_until(lambda: "haproxy died" in self.agent.log, "the death to be told in the log")

    async def test_stopped_stays_stopped(self) -> None:
        """What should not run is not started by a new agent."""
        balancer = await self.running(LoadBalancer())
        await self.client.stop(balancer.listener_id)
        await self.restart(signal.SIGKILL)
        self.assertEqual("STOPPED", await self.status(balancer))
        self.assertEqual([], self.agent.all_haproxies())

    async def test_reboot(self) -> None:
        """After everything was killed, a new agent starts what should run."""
        running, stopped = LoadBalancer(members=(self.new_member(),)), LoadBalancer()
        await self.running(running)
        await self.client.upload_haproxy(stopped.listener_id, stopped.config())
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self.agent.all_haproxies(), "haproxies to end")
        await self.agent.start()

        async def up() -> bool:
            return await self.status(running) == "ACTIVE"

        await wait_until(up, "what should run to run")
        self.assertEqual("STOPPED", await self.status(stopped))
        self.assertIn(b"200 OK", await get(running.port))

    async def test_B8_pid_files_that_lie(self) -> None:
        """A pid file that is empty, garbage, missing or names somebody else neither fools nor hinders."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        pid_file = self.agent.base_path / balancer.listener_id / f"{balancer.listener_id}.pid"
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        zombie = subprocess.Popen(["true"])
        self.addCleanup(zombie.wait)
        other = await self.running(LoadBalancer())
        others_master = self.agent.haproxy(other.listener_id)
        assert others_master is not None
        recycled = str(others_master.pid)
        lies = ("", "garbage\n", str(self.agent.pid), "1", str(zombie.pid), recycled, "99999999999999999999", None)
        for content in lies:
            await self.agent.end(signal.SIGKILL)
            if content is None:
                pid_file.unlink()
            else:
                pid_file.write_text(content)
            await self.agent.start()
            self.assertEqual("ACTIVE", await self.status(balancer), content)
            self.assertTrue(master.alive)
            self.assertEqual(4, len(self.agent.all_haproxies()))
        await self.client.stop(balancer.listener_id)
        self.assertEqual({others_master, *others_master.children()}, set(self.agent.all_haproxies()))

    async def loading(self) -> tuple[LoadBalancer, Gate, Deferred[Outcome]]:
        """Begin a start, and wait until haproxy stands before a gate in its configuration."""
        gate = Gate(self.directory / "gate")
        balancer = LoadBalancer(extra_frontend=(gate.rule,))
        uploading = Deferred.fromCoroutine(self.client.upload_haproxy(balancer.listener_id, balancer.config()))
        await gate.open()
        await uploading
        starting = Deferred.fromCoroutine(self.client.start(balancer.listener_id))
        await gate.open()
        await wait_until(lambda: any("-Ws" in one.command_line() for one in self.agent.all_haproxies()), "a start")
        return balancer, gate, starting

    async def test_killed_in_a_start(self) -> None:
        """A haproxy that was still loading when its agent was killed is found, though it has no pid file yet."""
        balancer, gate, starting = await self.loading()
        starting.addErrback(lambda _: None)
        await self.agent.end(signal.SIGKILL)
        await starting
        await self.agent.start()
        await gate.open()

        async def up() -> bool:
            return await self.status(balancer) == "ACTIVE"

        await wait_until(up, "the listener to be up")
        self.assertEqual(2, len(self.agent.all_haproxies()))
        await self.client.stop(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())

    async def test_last_answer(self) -> None:
        """An agent that is told to end finishes what it was asked for, and answers."""
        _, gate, starting = await self.loading()
        ending = Deferred.fromCoroutine(self.agent.end())
        await wait_until(lambda: "shutting down" in self.agent.log, "the agent to have heard")
        await gate.open()
        self.assertEqual(202, (await starting).status)
        await ending
        self.assertEqual(2, len(self.agent.all_haproxies()))

    async def test_second_agent(self) -> None:
        """A second agent on the same files ends at once, says why, and takes nothing from the first."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        second = AgentProcess(self.directory, self.pki, free_port())
        reason = await second.spawn()
        assert isinstance(reason, ProcessTerminated), second.log
        self.assertEqual(1, reason.exitCode)
        self.assertIn(f"another agent runs with base_path {self.agent.base_path}", second.log)
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        await self.client.reload(balancer.listener_id)
        self.assertIn(b"200 OK", await get(balancer.port))
