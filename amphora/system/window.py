"""
Rates over the last thirty seconds, of samples of what only ever grows.

Pure arithmetic: nothing here reads a clock.  A window is as long as there are samples for it: in the agent's first
thirty seconds that is its life until now, and for a link the time since it was first seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from attrs import define, field, frozen

from amphora.system.links import LinkCounters

WINDOW: Final = 30.0
"""Seconds that a window has at most."""


@frozen
class CpuTimes:
    """
    Seconds that all CPUs together have spent since boot, as proc(5) tells of C{/proc/stat}.

    `total` is all of them; `idle` with waiting for disks, `user` with niced processes; interrupts that are not soft,
    and time that the hypervisor gave to others, are in `total` alone.
    """

    total: float
    idle: float
    user: float
    system: float
    soft_irq: float


@frozen
class Sample:
    """Counters at one moment, in seconds of a clock that is never set back."""

    at: float
    cpu: CpuTimes
    links: Mapping[str, LinkCounters]


@frozen
class CpuUsage:
    """Percent of all CPUs, 0 to 100: `total` is all that was not idle, the others are parts of it."""

    total: float
    user: float
    system: float
    soft_irq: float


@frozen
class Bandwidth:
    """Bytes per second."""

    sent: float
    received: float


@define(eq=False)
class Window:
    """The samples of the last thirty seconds, and what can be told of them."""

    _samples: deque[Sample] = field(init=False, factory=deque)

    def add(self, sample: Sample) -> None:
        """Take the next sample.  The last two are kept however old they are: between them nothing is known better."""
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[0].at > WINDOW:
            self._samples.popleft()

    @property
    def newest(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    @property
    def length(self) -> float:
        """Seconds from the first sample to the last."""
        return self._samples[-1].at - self._samples[0].at if self._samples else 0.0

    def cpu(self) -> CpuUsage:
        """
        Used CPU, between the first and the last sample; nothing before there are two.

        Some of the kernel's counters may go back a little (C{iowait}, and all when CPUs come and go), hence the bounds.
        """
        if not self._samples:
            return CpuUsage(0.0, 0.0, 0.0, 0.0)
        first, last = self._samples[0].cpu, self._samples[-1].cpu
        total = last.total - first.total

        def percent(spent: float) -> float:
            return min(max(100.0 * spent / total, 0.0), 100.0) if total > 0 else 0.0

        return CpuUsage(
            total=percent(total - (last.idle - first.idle)),
            user=percent(last.user - first.user),
            system=percent(last.system - first.system),
            soft_irq=percent(last.soft_irq - first.soft_irq),
        )

    def networks(self) -> dict[str, Bandwidth]:
        """What each link that is there now has carried, since it was first seen in the window, or began anew in it."""
        if not self._samples:
            return {}
        return {name: self._bandwidth(name) for name in self._samples[-1].links}

    def _bandwidth(self, name: str) -> Bandwidth:
        first = last = self._samples[-1]
        for after, before in pairwise(reversed(self._samples)):
            if not _goes_on(before.links.get(name), after.links[name]):
                break
            first = before
        seconds = last.at - first.at
        if seconds <= 0:
            return Bandwidth(0.0, 0.0)
        begin, end = first.links[name], last.links[name]
        return Bandwidth((end.sent - begin.sent) / seconds, (end.received - begin.received) / seconds)


def _goes_on(before: LinkCounters | None, after: LinkCounters) -> bool:
    """Are these the same link, and have its counters not been set back between them?"""
    return (
        before is not None
        and before.index == after.index
        and before.received <= after.received
        and before.sent <= after.sent
    )
