"""Figures that are told once, whatever happens to the agent and to the disk that they are written to."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.faults.watched import FaultTestCase
from tests.integration.harness import LoadBalancer, wait_until
from tests.integration.pair import run
from tests.integration.support import count, requires


class StatisticsTestCase(FaultTestCase):
    def connections(self) -> int:
        """How many were told of the watched load balancer so far."""
        return self.told(self.balancer.listener_id, "totconns")

    async def told_all(self, served: int, lost: int = 0) -> None:
        """Wait until all connections were told but for those that may be lost; never more."""
        await wait_until(lambda: self.connections() >= served - lost, "all traffic to be told")
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already + 1, "two more heartbeats")
        self.assertLessEqual(self.connections(), served)


@requires("haproxy")
class KilledTests(StatisticsTestCase):
    async def test_D4_killed_under_load(self) -> None:
        """Agents are killed again and again at random moments under traffic: never is more told than was served."""
        from twisted.internet import reactor

        async with self.watch(spares_agent=False) as watch:
            chance = random.Random(4)
            for _ in range(count(2, 40)):
                await deferLater(cast(Any, reactor), chance.uniform(0.0, 1.5))
                await self.agent.end(signal.SIGKILL)
                self.assertLessEqual(self.connections(), watch.traffic.served + 1)
                await self.agent.start()
        self.assertGreater(self.connections(), 0)
        await wait_until(lambda: self.known() == watch.traffic.served, "all to be accounted for")
        await self.told_all(watch.traffic.served, watch.traffic.served)

    def known(self) -> int:
        """How much the counters' file says was told, or given up, of the watched load balancer."""
        file = self.agent.base_path / "stats_counters.json"
        workers = json.loads(file.read_bytes())["instances"].get(self.balancer.listener_id, [])
        return sum(worker["listeners"][self.balancer.listener_id]["totconns"] for worker in workers)


@requires("root", "haproxy", "mount", "mkfs.ext4", "fsfreeze", "loop")
class FrozenDiskTests(StatisticsTestCase):
    """The base path is on a file system that can be frozen: whoever writes to it then hangs until it thaws."""

    async def start(self, *controllers: str) -> None:
        image = self.directory / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        self.agent.base_path.mkdir()
        run("mkfs.ext4", "-q", str(image))
        run("mount", "-o", "loop", str(image), str(self.agent.base_path))
        self.addCleanup(run, "umount", "--lazy", str(self.agent.base_path))
        await super().start(*controllers)

    async def test_D4_hung_disk(self) -> None:
        """
        While the disk hangs, with more uploads waiting for it than there are threads, heartbeats leave, without
        figures, and simple questions are answered; when it goes on so do the uploads, and all figures are told, once.
        """
        others = [LoadBalancer() for _ in range(12)]

        async def upload(balancer: LoadBalancer) -> int:
            client = self.new_client()
            return (await client.upload_haproxy(balancer.listener_id, balancer.config())).status

        async with self.watch() as watch:
            run("fsfreeze", "--freeze", str(self.agent.base_path))
            self.addCleanup(_thaw, self.agent.base_path)
            uploads = [Deferred.fromCoroutine(upload(balancer)) for balancer in others]
            await wait_until(lambda: "the disk does not answer" in self.agent.log, "it to be told")
            told, heard = self.connections(), len(self.heard)
            await watch.goes_on()
            await wait_until(lambda: len(self.heard) >= heard + 3, "heartbeats")
            self.assertEqual([False] * len(uploads), [upload.called for upload in uploads])
            self.assertEqual(told, self.connections())
            _thaw(self.agent.base_path)
            self.assertEqual([201] * len(uploads), await gatherResults(uploads))
            await wait_until(lambda: "the disk answers again" in self.agent.log, "it to be told")
        await self.told_all(watch.traffic.served)
        self.assertEqual(1, self.agent.log.count("the disk does not answer"))


def _thaw(path: Path) -> None:
    subprocess.run(["fsfreeze", "--unfreeze", str(path)], capture_output=True, check=False, timeout=60)
