"""Setting ours beside the reference's: medians of paired rounds, ratios, and what falls short of its goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from textwrap import shorten

from attrs import frozen

from benchmarks.figures import Figure, Measured


@frozen
class Pair:
    """One figure in one round, of both agents."""

    ours: Measured
    reference: Measured

    @property
    def ratio(self) -> float | None:
        """None where one of them cannot do it, or where there is nothing to divide by."""
        if isinstance(self.ours, str) or isinstance(self.reference, str) or not self.reference:
            return None
        return self.ours / self.reference


@frozen
class Row:
    """A figure, and what all rounds made of it."""

    figure: Figure
    pairs: Sequence[Pair]

    @property
    def ratios(self) -> list[float]:
        """The rounds' ratios, the smallest first."""
        return sorted(ratio for pair in self.pairs if (ratio := pair.ratio) is not None)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        """Whether the goal is met, in a word or two; empty where there is none."""
        figure = self.figure
        if figure.alone is not None:
            ours = _median([pair.ours for pair in self.pairs])
            return "met" if not isinstance(ours, str) and ours <= figure.alone else "FALLS SHORT"
        if figure.goal is None:
            return ""
        if self.ratio is None:
            return "not compared"
        met = self.ratio >= figure.goal if figure.more_is_better else self.ratio <= figure.goal
        return "met" if met else "FALLS SHORT"

    def cells(self) -> tuple[str, ...]:
        """What the table shows: figure, ours, reference, ratio, its goal, and whether it is met."""
        figure, ratios = self.figure, self.ratios
        spread = f"{ratios[0]:.2f}, {ratios[-1]:.2f}" if len(ratios) > 1 else ""
        ratio = "—" if self.ratio is None else f"{self.ratio:.2f}" + (f" ({spread})" if spread else "")
        if figure.alone is not None:
            goal = f"ours ≤ {figure.alone:g} {figure.unit}"
        elif figure.goal is None:
            goal = ""
        else:
            goal = f"{'≥' if figure.more_is_better else '≤'} {figure.goal:g}"
        return (
            figure.title,
            _told([pair.ours for pair in self.pairs], figure.unit),
            _told([pair.reference for pair in self.pairs], figure.unit),
            ratio,
            goal,
            self.verdict,
        )


_LONGEST_WORDS = 48
HEAD = ("figure", "ours", "reference", "ratio (min, max)", "goal", "")


def _median(values: Sequence[Measured]) -> Measured:
    """Of the numbers; the words where there are more of those."""
    numbers = [value for value in values if not isinstance(value, str)]
    words = [value for value in values if isinstance(value, str)]
    return words[0] if len(words) >= len(numbers) else median(numbers)


def _told(values: Sequence[Measured], unit: str) -> str:
    value = _median(values)
    if isinstance(value, str):
        return shorten(value, _LONGEST_WORDS, placeholder=" …")
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit.startswith('/') else ' '}{unit}"


def rows(
    figures: Sequence[Figure], rounds: Sequence[tuple[Mapping[str, Measured], Mapping[str, Measured]]]
) -> list[Row]:
    """One row for each figure that any round has; C{rounds} are pairs of what ours and the reference measured."""
    return [
        Row(figure, pairs)
        for figure in figures
        if (
            pairs := [
                Pair(ours[figure.name], reference[figure.name])
                for ours, reference in rounds
                if figure.name in ours and figure.name in reference
            ]
        )
    ]


def as_text(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, all others to the right."""
    widths = [max(len(row[number]) for row in (head, *body)) for number in range(len(head))]
    lines = []
    for row in (head, *body):
        first, *others = (
            cell.ljust(width) if not n else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join((lines[0], "─" * max(map(len, lines)), *lines[1:]))


def as_markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """The same for a document."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cell or " " for cell in row) + " |" for row in (head, rule, *body))
