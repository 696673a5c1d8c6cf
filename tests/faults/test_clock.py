"""The wall clock steps: forth, as after a virtual machine was asleep, and back, as when its host's was wrong."""

from __future__ import annotations

import struct
from pathlib import Path

from amphora.client import Unauthorized
from amphora.testing.pki import Part
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AMPHORA_ID, wait_until
from tests.integration.pair import run
from tests.integration.support import count, requires

HOUR = 3600
STEPS = (6 * HOUR, -6 * HOUR, 20 * 24 * HOUR)
"""Seconds from the true time, in this order."""


@requires("haproxy", "gcc")
class ClockTests(FaultTestCase):
    """The agent's own wall clock, and that of the programs that it starts, is what the test says."""

    async def start(self, *controllers: str) -> None:
        self.offset = self.directory / "offset"
        self.step(0)
        library = self.directory / "clock.so"
        run("gcc", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("clock.c")), "-ldl")
        self.agent.wrapper = ("env", f"LD_PRELOAD={library}", f"AMPHORA_CLOCK={self.offset}")
        await super().start(*controllers)

    def step(self, seconds: int) -> None:
        """From now on the agent's wall clock is so far from the true time."""
        # Not replaced: it is mapped.
        with self.offset.open("r+b" if self.offset.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    async def test_steps(self) -> None:
        """
        However the wall clock steps, heartbeats leave at their times, figures are told once, and the API takes
        reloads and a new certificate.  Who comes anew with a certificate that is not valid by it yet is refused, until
        it is right again; who was there stays.
        """
        async with self.watch() as watch:
            for seconds in STEPS[: count(2, 3)]:
                self.step(seconds)
                heard = len(self.heard)
                await self.client.reload(self.balancer.listener_id)
                pem = self.pki.authority.issue(AMPHORA_ID).pem(Part.CERTIFICATE, Part.KEY)
                await self.client.replace_server_certificate(pem)
                await wait_until(lambda heard=heard: len(self.heard) >= heard + 2, "heartbeats")  # type: ignore[misc]
                stranger = self.new_client()
                if seconds < 0:
                    with self.assertRaises(Unauthorized):
                        await stranger.info()
                    self.step(0)
                self.assertEqual(AMPHORA_ID, (await stranger.info()).uuid)
            self.step(0)
        self.assertIn("not yet valid", self.agent.log)
        served = watch.traffic.served
        await wait_until(lambda: self.told(self.balancer.listener_id, "totconns") >= served, "all traffic to be told")
        self.assertEqual(served, self.told(self.balancer.listener_id, "totconns"))
