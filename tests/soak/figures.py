"""Percentiles and growth."""

from __future__ import annotations

import math
from collections.abc import Sequence

HOUR = 3600.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that so many percent of all do not exceed; 0 where there are none."""
    if not values:
        return 0.0
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    """p50, p95, p99 and the largest, with a slash between them."""
    shown = [*(percentile(values, percent) for percent in (50, 95, 99)), max(values, default=0.0)]
    return " / ".join(f"{value / unit:.{digits}f}" for value in shown)


def growth(points: Sequence[tuple[float, float]]) -> float:
    """How much a value grows in an hour: the slope of the straight line nearest to points of (seconds, value)."""
    if len(points) < 2:
        return 0.0
    middle_time = sum(time for time, _ in points) / len(points)
    middle_value = sum(value for _, value in points) / len(points)
    squares = sum((time - middle_time) ** 2 for time, _ in points)
    if squares == 0:
        return 0.0
    return HOUR * sum((time - middle_time) * (value - middle_value) for time, value in points) / squares
