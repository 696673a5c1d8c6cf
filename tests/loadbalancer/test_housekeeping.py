"""What is done from time to time."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.housekeeping import INTERVAL, Housekeeping
from amphora.loadbalancer.instances import Instances


class FakeInstances:
    """Counts how often logs were trimmed, and fails when told to."""

    def __init__(self) -> None:
        self.trimmed = 0
        self.failure: Exception | None = None

    async def trim_logs(self) -> None:
        self.trimmed += 1
        if self.failure is not None:
            raise self.failure


class HousekeepingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.instances = FakeInstances()
        self.service = Housekeeping(self.clock, cast(Instances, self.instances))
        self.service.startService()

    def test_rounds(self) -> None:
        """Logs are looked at every minute; a round that fails hinders no other."""
        self.clock.pump([INTERVAL] * 2)
        self.instances.failure = OSError("full")
        self.clock.advance(INTERVAL)
        self.instances.failure = ValueError("unforeseen")
        self.clock.advance(INTERVAL)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.instances.failure = None
        self.clock.advance(INTERVAL)
        self.assertEqual(5, self.instances.trimmed)

    def test_stopped(self) -> None:
        """A stopped service leaves nothing scheduled."""
        self.service.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
