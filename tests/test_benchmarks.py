"""What script/bench makes of what it has measured."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.haproxy_config import parse_config
from benchmarks.balancers import Balancer
from benchmarks.figures import FIGURES, GROUPS, Figure, Measured, percentile
from benchmarks.fleet import busiest, spread
from benchmarks.receiver import Datagram
from benchmarks.table import Row, as_markdown, as_text, rows

MEMORY = Figure("memory", "memory", "MB", 0.5)
SPEED = Figure("speed", "requests", "/s", 3, more_is_better=True)
STRANGERS = Figure("strangers", "p99 among strangers", "ms", None, alone=1000)


def row(figure: Figure, *pairs: tuple[Measured, Measured]) -> Row:
    [made] = rows([figure], [({figure.name: ours}, {figure.name: reference}) for ours, reference in pairs])
    return made


class TableTests(SynchronousTestCase):
    def test_ratio(self) -> None:
        """The ratio is the median of the rounds' own, and not that of the medians."""
        made = row(MEMORY, (10, 100), (60, 100), (90, 300))
        self.assertEqual(0.3, made.ratio)
        self.assertEqual(("memory", "60.0 MB", "100 MB", "0.30 (0.10, 0.60)", "≤ 0.5", "met"), made.cells())

    def test_more_is_better(self) -> None:
        """Where there should be much of something, a ratio below the goal falls short."""
        self.assertEqual("FALLS SHORT", row(SPEED, (299, 100)).verdict)
        self.assertEqual("met", row(SPEED, (300, 100)).verdict)
        self.assertEqual("FALLS SHORT", row(MEMORY, (51, 100)).verdict)

    def test_words(self) -> None:
        """Where one cannot do it, its words stand there, and nothing is compared."""
        made = row(MEMORY, (10, "too large"), (20, "too large"), (30, 100))
        self.assertEqual("too large", made.cells()[2])
        self.assertEqual("not compared", row(MEMORY, (10, "too large")).verdict)

    def test_alone(self) -> None:
        """Where the reference cannot do it at all, ours has to keep to a bound of its own."""
        self.assertEqual("met", row(STRANGERS, (900, "no answer")).verdict)
        self.assertEqual("FALLS SHORT", row(STRANGERS, (1100, "no answer")).verdict)
        self.assertEqual("FALLS SHORT", row(STRANGERS, ("no answer", "no answer")).verdict)

    def test_not_measured(self) -> None:
        """What was not measured has no line."""
        self.assertEqual([], rows([MEMORY], [({}, {})]))

    def test_layout(self) -> None:
        """A table is lines of one width for a terminal, and markdown for a document."""
        text = as_text(("figure", "ours"), [("a", "1 MB"), ("longer than that", "10 MB")])
        self.assertEqual(
            ["figure             ours", "─" * 23, "a                  1 MB", "longer than that  10 MB"],
            text.split("\n"),
        )
        markdown = as_markdown(("figure", "ours"), [("a", "1 MB")])
        self.assertEqual("| figure | ours |\n| --- | ---: |\n| a | 1 MB |", markdown)


class FigureTests(SynchronousTestCase):
    def test_all_are_measured(self) -> None:
        """Each figure is measured in one group, and in one only."""
        measured = [name for _, names in GROUPS for name in names]
        self.assertEqual(sorted(figure.name for figure in FIGURES), sorted(measured))

    def test_percentile(self) -> None:
        """A percentile is a value that was measured."""
        self.assertEqual(99, percentile(range(1, 101), 0.99))
        self.assertEqual(7, percentile([7, 3], 0.99))
        self.assertEqual(5, percentile([5], 0.5))


class BalancerTests(SynchronousTestCase):
    def test_sizes(self) -> None:
        """A configuration has as many listeners and members as it says, each member once."""
        for listeners, members in ((1, 10), (10, 10), (100, 1_000), (500, 1_000)):
            config = parse_config(Balancer(listeners, members).config())
            self.assertEqual((listeners, members), (len(config.frontends), config.members))


class FleetTests(SynchronousTestCase):
    def test_spread(self) -> None:
        """Heartbeats are counted by the part of the time in which they came."""
        datagrams = [Datagram(at, b"") for at in (100.0, 100.1, 109.9)]
        lines = spread("an interval", datagrams, 100.0, 10.0)
        self.assertEqual("an interval: 3 heartbeats", lines[0])
        self.assertIn(" 0.00 s      2 ", lines[1])
        self.assertEqual("  at most 2 in 0.5 s, 13.3 times the mean", lines[-1])

    def test_busiest(self) -> None:
        """The busiest stretch may begin anywhere."""
        datagrams = [Datagram(at, b"") for at in (0.0, 0.95, 1.0, 1.04, 2.0)]
        self.assertEqual(3, busiest(datagrams, 0.1))
        self.assertEqual(0, busiest([], 0.1))
