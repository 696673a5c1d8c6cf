"""Agents come and go; haproxy stays, and is found again."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred, gatherResults

from tests.integration.harness import AgentTestCase, LoadBalancer, get, wait_until
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
        self.assertEqual(["ACTIVE", "STOPPED"], [await self.status(running), await self.status(stopped)])
        self.assertIn(b"200 OK", await get(running.port))

    async def test_pid_files_that_lie(self) -> None:
        """A pid file that is empty, garbage, missing or names somebody else neither fools nor hinders (B8)."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        pid_file = self.agent.base_path / balancer.listener_id / f"{balancer.listener_id}.pid"
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        for content in ("", "garbage\n", str(self.agent.pid), "1", "99999999999999999999", None):
            await self.agent.end(signal.SIGKILL)
            if content is None:
                pid_file.unlink()
            else:
                pid_file.write_text(content)
            await self.agent.start()
            self.assertEqual("ACTIVE", await self.status(balancer), content)
            self.assertTrue(master.alive)
            self.assertEqual(2, len(self.agent.all_haproxies()))
        await self.client.stop(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())
