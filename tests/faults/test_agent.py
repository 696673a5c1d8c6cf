"""The agent itself ends, hangs or starts badly."""

from __future__ import annotations

import signal

from tests.faults.watched import FaultTestCase
from tests.integration.support import requires


@requires("haproxy")
class AgentTests(FaultTestCase):
    async def test_E8_killed(self) -> None:
        """An agent that is killed takes nothing with it, and the next one goes on where it was."""
        async with self.watch(spares_agent=False):
            await self.agent.end(signal.SIGKILL)
            await self.agent.start()
