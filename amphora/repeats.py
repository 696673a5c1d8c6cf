"""Keeping a log readable when the same thing happens a thousand times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

_KINDS = 256
"""How many different events are remembered; the one that was silent longest is forgotten for a new one."""


@define(eq=False)
class RepeatGuard:
    """Lets one event of a kind through in each interval and counts the others."""

    _clock: IReactorTime
    _interval: float = 60.0
    _seen: OrderedDict[Hashable, tuple[float, int]] = field(init=False, factory=OrderedDict)

    def pass_one(self, kind: Hashable) -> int | None:
        """
        An event has happened.

        @return: None if it should be passed over; else the number of those passed over since the last.
        """
        now = self._clock.seconds()
        since, suppressed = self._seen.pop(kind, (None, 0))
        if since is not None and now - since < self._interval:
            self._seen[kind] = (since, suppressed + 1)
            return None
        self._seen[kind] = (now, 0)
        if len(self._seen) > _KINDS:
            self._seen.popitem(last=False)
        return suppressed
