"""Tests for L{amphora.backoff}."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.backoff import FORGETS, LONGEST_PAUSE, BackOff


class BackOffTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[float] = []
        self.back_off = BackOff(self.clock, lambda: self.started.append(self.clock.seconds()))

    def test_at_once(self) -> None:
        """The first attempt is made at once, but not within the call."""
        self.assertEqual(0.0, self.back_off.start_later())
        self.assertEqual(([], True), (self.started, self.back_off.waiting))
        self.clock.advance(0)
        self.assertEqual(([0.0], False), (self.started, self.back_off.waiting))

    def test_pauses_grow(self) -> None:
        """The pauses between attempts that come to nothing grow to a minute, and stay there for days."""
        pauses = []
        for _ in range(3000):
            pauses.append(self.back_off.start_later())
            self.clock.advance(pauses[-1])
        self.assertEqual([0, 1, 2, 4, 8, 16, 32, 60, 60], pauses[:9])
        self.assertEqual({LONGEST_PAUSE}, set(pauses[7:]))
        self.assertEqual(3000, len(self.started))

    def test_forgets(self) -> None:
        """What ran for a while is started again at once; what ran for less is not."""
        for _ in range(3):
            self.clock.advance(self.back_off.start_later())
        self.clock.advance(FORGETS)
        self.assertEqual(4.0, self.back_off.start_later())
        self.clock.advance(4.0 + FORGETS + 1)
        self.assertEqual(0.0, self.back_off.start_later())

    def test_one_at_a_time(self) -> None:
        """Asked twice, it makes one attempt, after the longer pause."""
        for _ in range(3):
            self.back_off.start_later()
        self.clock.advance(1.9)
        self.assertEqual([], self.started)
        self.clock.advance(0.1)
        self.assertEqual([2.0], self.started)

    def test_cancel(self) -> None:
        """A cancelled attempt is not made; cancelling nothing is no error."""
        self.back_off.cancel()
        self.back_off.start_later()
        self.back_off.cancel()
        self.clock.advance(LONGEST_PAUSE)
        self.back_off.cancel()
        self.assertEqual(([], False, []), (self.started, self.back_off.waiting, self.clock.getDelayedCalls()))
