"""haproxy itself hangs, crashes, is killed, or cannot have what it needs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from amphora.client import AmphoraFailed
from amphora.process import ProcessIdentity
from tests.faults.watched import FaultTestCase, Watch
from tests.integration.harness import LoadBalancer, wait_until
from tests.integration.support import count, requires


@requires("haproxy")
class HaproxyTests(FaultTestCase):
    def master(self) -> ProcessIdentity:
        master = self.agent.haproxy(self.balancer.listener_id)
        assert master is not None
        return master

    async def until_active(self) -> None:
        async def active() -> bool:
            return (await self.client.listener(self.balancer.listener_id)).status == "ACTIVE"

        await wait_until(active, "the listener to be ACTIVE")

    async def until_heard(self, condition: Callable[[Mapping[str, Any]], bool], what: str) -> None:
        await wait_until(lambda: condition(self.heard[-1].message), what)

    async def until_served_again(self, watch: Watch) -> None:
        """From now on no request fails any more."""
        watch.traffic.failures.clear()
        await watch.goes_on()
        self.assertEqual([], watch.traffic.failures)

    async def test_B3_stopped(self) -> None:
        """
        While one haproxy hangs, another serves; it is told for two more intervals, then no more, and again when it goes
        on, without a restart.
        """
        hung = (await self.running(LoadBalancer())).listener_id
        await self.until_heard(lambda message: hung in message["listeners"], "it to be told")
        async with self.watch():
            master = self.agent.haproxy(hung)
            assert master is not None
            processes = (master, *master.children())
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            self.assertEqual("ERROR", (await self.client.listener(hung)).status)
            await self.until_heard(lambda message: hung not in message["listeners"], "it to be left out")
            for process in processes:
                process.send_signal(signal.SIGCONT)
            await self.until_heard(lambda message: hung in message["listeners"], "it to be told again")
            self.assertEqual(master, self.agent.haproxy(hung))

    async def test_A3_crash_in_a_reload(self) -> None:
        """A master that crashes in a reload is told truthfully, and the listener is back in service."""
        log = self.agent.base_path / self.balancer.listener_id / "haproxy.log"
        async with self.watch(spares_traffic=False, true=lambda _: True) as watch:
            for _ in range(count(2, 30)):
                master = self.master()
                reloading = Deferred.fromCoroutine(self.client.reload(self.balancer.listener_id))
                reloading.addErrback(lambda reason: reason.trap(AmphoraFailed))
                size = log.stat().st_size
                await wait_until(lambda size=size: log.stat().st_size > size, "the reload to begin")  # type: ignore[misc]
                master.send_signal(signal.SIGSEGV)
                await reloading
                await self.until_active()
            await self.until_served_again(watch)
            self.assertEqual(2, len(self.agent.all_haproxies()))

    async def test_A4_killed(self) -> None:
        """Worker or master, crashed or killed for memory: it serves again, and is told of again."""
        async with self.watch(spares_traffic=False, true=lambda _: True) as watch:
            for number, of_master in ((signal.SIGSEGV, False), (signal.SIGKILL, True)):
                master = self.master()
                (master if of_master else master.children()[0]).send_signal(number)
                await wait_until(lambda master=master: not master.alive, "haproxy to end")  # type: ignore[misc]
                await self.until_active()
                await self.until_heard(self.is_well, "all to be told well")
            await self.until_served_again(watch)

    async def test_A20_descriptors(self) -> None:
        """What needs more descriptors than the machine gives is not loaded, in haproxy's words; what ran goes on."""
        many = evolve(self.balancer, extra_global=("ulimit-n 2000000000",))
        async with self.watch():
            await self.client.upload_haproxy(many.listener_id, many.config())
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.reload(many.listener_id)
            self.assertIn("FD limit", raised.exception.details)
