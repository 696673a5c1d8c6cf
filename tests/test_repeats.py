"""Tests for L{amphora.repeats}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.repeats import RepeatGuard


class RepeatGuardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.guard = RepeatGuard(self.clock, interval=60)

    def test_first(self) -> None:
        """The first event of each kind passes, with none before it."""
        self.assertEqual([0, 0, 0], [self.guard.pass_one(kind) for kind in ("a", "b", ("a", 1))])

    def test_repeats(self) -> None:
        """In each interval one event passes and tells how many were held back since."""
        self.guard.pass_one("a")
        self.assertEqual([None] * 5, [self.guard.pass_one("a") for _ in range(5)])
        self.clock.advance(59)
        self.assertIsNone(self.guard.pass_one("a"))
        self.clock.advance(1)
        self.assertEqual(6, self.guard.pass_one("a"))
        self.assertIsNone(self.guard.pass_one("a"))
        self.clock.advance(60)
        self.assertEqual(1, self.guard.pass_one("a"))

    def test_silence(self) -> None:
        """After a long silence nothing is counted twice."""
        self.guard.pass_one("a")
        self.clock.advance(1000)
        self.assertEqual([0, None], [self.guard.pass_one("a") for _ in range(2)])

    def test_kinds_are_apart(self) -> None:
        """A kind that floods the log hides no other."""
        for _ in range(1000):
            self.guard.pass_one("a")
        self.assertEqual(0, self.guard.pass_one("b"))

    def test_many_kinds(self) -> None:
        """Memory is bounded: the kind that was silent longest is forgotten, one that is still heard is not."""
        self.guard.pass_one("silent")
        self.guard.pass_one("loud")
        for number in range(255):
            self.guard.pass_one(number)
            self.guard.pass_one("loud")
        self.assertIsNone(self.guard.pass_one("loud"))
        self.assertEqual(0, self.guard.pass_one("silent"))

    @given(st.floats(0, 1e10), st.sampled_from((60.0, 0.1, 3600.0)))
    def test_any_time(self, now: float, interval: float) -> None:
        """The first event passes at any time, rounding or not."""
        clock = Clock()
        clock.rightNow = now
        self.assertEqual(0, RepeatGuard(clock, interval).pass_one("a"))
