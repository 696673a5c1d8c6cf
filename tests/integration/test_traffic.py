"""What heartbeats tell of traffic when agents end, files are damaged, disks are full, and listeners come and go."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.integration.harness import LoadBalancer, wait_until
from tests.integration.support import count, requires
from tests.integration.test_heartbeats import HeartbeatTestCase
from tests.integration.test_supervision import FullDiskTestCase


class TrafficTestCase(HeartbeatTestCase):
    @property
    def counters(self) -> Path:
        return self.agent.base_path / "stats_counters.json"

    async def told_some(self, balancer: LoadBalancer, connections: int) -> None:
        """Wait until so many connections were told."""
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") >= connections, "traffic to be told")

    async def told_all(self, balancer: LoadBalancer, connections: int) -> None:
        """Wait until so many connections were told, and see that no more are."""
        await self.told_some(balancer, connections)
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already, "one more heartbeat")
        self.assertEqual(connections, self.told(balancer.listener_id, "totconns"))

    async def killed(self) -> None:
        """The agent is killed."""
        await self.agent.end(signal.SIGKILL)

    async def started(self) -> None:
        """Another agent is started, and has sent its first heartbeat."""
        before = self.agents_heard()
        await self.agent.start()
        await wait_until(lambda: self.agents_heard() > before, "the new agent's first heartbeat")

    def agents_heard(self) -> int:
        return sum(heartbeat.sequence == 0 for heartbeat in self.heard)

    async def counted(self) -> LoadBalancer:
        """A listener that runs, and whose figures, haproxy's and ours, are those of what goes over the wire."""
        return await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))


@requires("haproxy")
class TrafficTests(TrafficTestCase):
    async def test_D2_more_than_before(self) -> None:
        """
        Counters that begin anew and pass what they were before the next heartbeat are told whole.  An agent that ends
        right after a reload leaves to the next one what the old worker had carried.
        """
        balancer = await self.counted()
        sent = await self.requests(balancer, 3)
        await self.told_some(balancer, 3)
        for number in range(1, count(3, 20)):
            await self.client.reload(balancer.listener_id)
            sent += await self.requests(balancer, 10 * number)
            await self.client.reload(balancer.listener_id)
            await self.agent.end()
            await self.started()
        await self.told_all(balancer, 3 + sum(10 * number for number in range(1, count(3, 20))))
        self.assertEqual(sent, self.told(balancer.listener_id, "tx"))

    async def test_D4_death_of_the_agent(self) -> None:
        """
        An agent that is killed loses at most what came since the heartbeat before, wherever it stood: just after it
        has written down what it is about to tell, and anywhere else.  What comes while there is none is not lost.
        """
        balancer = await self.counted()
        told = 0
        lost = []
        for number in range(count(3, 40)):
            file = self.counters.stat().st_ino if self.counters.exists() else 0
            await self.requests(balancer, 5)
            if number % 2:
                await wait_until(lambda file=file: self.counters.stat().st_ino != file, "the counters to be written")  # type: ignore[misc]
            await self.killed()
            await self.requests(balancer, 3)
            await self.started()
            lost.append(8 - self.told(balancer.listener_id, "totconns") + told)
            told = self.told(balancer.listener_id, "totconns")
        self.assertTrue(all(0 <= each <= 5 for each in lost), lost)
        await self.requests(balancer, 5)
        await self.told_all(balancer, told + 5)

    async def test_D4_damaged_file(self) -> None:
        """After a death that left no file that can be read nothing is told twice, and all that comes then is told."""
        balancer = await self.counted()
        await self.requests(balancer, 10)
        await self.told_some(balancer, 10)
        told = 10
        whole = self.counters.read_bytes()
        for content in (whole[: len(whole) // 2], None, b"", b"\0" * len(whole))[: count(2, 4)]:
            await self.killed()
            # Of these nobody knows whether they were told.
            await self.requests(balancer, 2)
            if content is None:
                self.counters.unlink()
            else:
                self.counters.write_bytes(content)
            await self.started()
            self.assertEqual(content is not None, "stats_counters.json cannot be used" in self.agent.log)
            await self.requests(balancer, 3)
            told += 3
            await self.told_some(balancer, told)
        await self.told_all(balancer, told)

    async def test_D10_deleted_listeners(self) -> None:
        """Listeners that come and go leave no counters behind."""
        await self.next_heartbeat()
        before = self.counters.stat().st_size
        for _ in range(count(1, 20)):
            balancers = [LoadBalancer() for _ in range(10)]
            await gatherResults([Deferred.fromCoroutine(self.running(balancer)) for balancer in balancers])
            ids = {balancer.listener_id for balancer in balancers}
            await wait_until(lambda ids=ids: set(self.known()["instances"]) == ids, "all to be known")  # type: ignore[misc]
            await gatherResults(
                [Deferred.fromCoroutine(self.client.delete(balancer.listener_id)) for balancer in balancers]
            )
            await wait_until(lambda: self.known()["instances"] == {}, "all to be forgotten")
            self.assertEqual(before, self.counters.stat().st_size)

    def known(self) -> dict[str, Any]:
        """What the counters' file says."""
        known: dict[str, Any] = json.loads(self.counters.read_bytes())
        return known


@requires("root", "haproxy")
class FullDiskTests(TrafficTestCase, FullDiskTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.heard = []
        self.controllers = [self.new_controller()]
        self.prepare_disk()
        await self.start(f"127.0.0.1:{self.controllers[0].port}")

    async def test_D4_full_disk(self) -> None:
        """
        On a full disk heartbeats go on, and tell all traffic.  An agent that is killed then is started all the same,
        and nothing is told twice; with room again it is as ever.
        """
        balancer = await self.counted()
        await self.requests(balancer, 10)
        await self.told_some(balancer, 10)
        filling = self.fill()
        await self.requests(balancer, 5)
        await self.told_some(balancer, 15)
        self.assertIn("stats_counters.json cannot be written", self.agent.log)
        await self.killed()
        await self.started()
        await self.requests(balancer, 4)
        await self.told_some(balancer, 19)
        self.assertEqual("ACTIVE", await self.status(balancer))
        for path in filling:
            path.unlink(missing_ok=True)
        await self.requests(balancer, 3)
        await self.told_all(balancer, 22)
