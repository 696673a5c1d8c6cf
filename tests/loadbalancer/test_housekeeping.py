"""What is done from time to time."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.housekeeping import INTERVAL, Housekeeping


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
        self.instances, self.other = FakeInstances(), FakeInstances()
        self.service = Housekeeping(self.clock, (self.instances.trim_logs, self.other.trim_logs))
        self.service.startService()

    def test_rounds(self) -> None:
        """Logs are looked at every minute; one that cannot be cut hinders no other."""
        self.clock.pump([INTERVAL] * 2)
        self.instances.failure = OSError("full")
        self.clock.advance(INTERVAL)
        self.instances.failure = ValueError("unforeseen")
        self.clock.advance(INTERVAL)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.instances.failure = None
        self.clock.advance(INTERVAL)
        self.assertEqual((5, 5), (self.instances.trimmed, self.other.trimmed))

    def test_stopped(self) -> None:
        """A stopped service leaves nothing scheduled."""
        self.service.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
