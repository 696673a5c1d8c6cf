"""Percentiles and growth."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.soak.figures import growth, percentile, spread


class PercentileTests(SynchronousTestCase):
    def test_nearest_rank(self) -> None:
        """It is one of the values: the least that so many percent do not exceed."""
        values = list(range(100, 0, -1))
        self.assertEqual([1, 50, 95, 99, 100], [percentile(values, percent) for percent in (0, 50, 95, 99, 100)])

    def test_few(self) -> None:
        """Of one value each is that one, of none it is 0."""
        self.assertEqual((7, 7, 0), (percentile([7], 1), percentile([7], 99), percentile([], 50)))

    def test_spread(self) -> None:
        """Four figures in the unit that is asked for."""
        self.assertEqual("2.0 / 4.0 / 4.0 / 4.0", spread([1024, 2048, 4096], unit=1024, digits=1))
        self.assertEqual("0.00 / 0.00 / 0.00 / 0.00", spread([]))


class GrowthTests(SynchronousTestCase):
    def test_line(self) -> None:
        """One more each minute is sixty an hour, from wherever it begins."""
        self.assertAlmostEqual(60.0, growth([(1000.0 + 60 * minute, 5 + minute) for minute in range(10)]))

    def test_peak(self) -> None:
        """A peak in the middle is no growth."""
        self.assertAlmostEqual(0.0, growth([(0, 1), (10, 1), (20, 9), (30, 1), (40, 1)]))

    def test_too_little(self) -> None:
        """One look, or several at one moment, tell nothing."""
        self.assertEqual([0.0] * 3, [growth([]), growth([(1, 1)]), growth([(1, 1), (1, 2)])])
