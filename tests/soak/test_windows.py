"""What was done when, and what it explains."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.soak.windows import AGENT, DISK, GRACE, Windows


class WindowsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.windows = Windows(self.clock.seconds)

    def test_explains(self) -> None:
        """It explains what reaches into it or into the moment after it, and nothing before or later."""
        self.clock.advance(10)
        with self.windows.during("disk full", DISK):
            self.clock.advance(5)
            self.assertEqual("disk full", self.windows.why([DISK], 1, 12))
        self.assertEqual("disk full", self.windows.why([DISK], 15 + GRACE, 100))
        self.assertIsNone(self.windows.why([DISK], 1, 9.9))
        self.assertIsNone(self.windows.why([DISK], 15.1 + GRACE, 100))

    def test_about(self) -> None:
        """It explains nothing of what it did nothing to, and the latest one is named."""
        with self.windows.during("disk full", DISK), self.windows.during("agent killed", AGENT, DISK):
            self.assertIsNone(self.windows.why(["another"], 0, 1))
            self.assertEqual("agent killed", self.windows.why([DISK], 0, 1))

    def test_failure(self) -> None:
        """What ends in an error has ended, too."""
        with self.assertRaises(OSError), self.windows.during("disk full", DISK, grace=0):
            raise OSError
        self.clock.advance(1)
        self.assertIsNone(self.windows.why([DISK], 1, 1))
