"""When to start again what should run and does not."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

LONGEST_PAUSE = 60.0
"""Seconds at most between two attempts."""
FORGETS = 60.0
"""What ran for so many seconds is started again at once when it dies."""

_LONGEST_EXPONENT = 6
"""Two to its power is more than the longest pause."""


@define(eq=False)
class BackOff:
    """At once, and, if that does not last, after pauses that grow."""

    _clock: IReactorTime
    _start: Callable[[], None]
    _attempts: int = field(init=False, default=0)
    _last: float = field(init=False, default=0.0)
    _call: IDelayedCall | None = field(init=False, default=None)

    @property
    def waiting(self) -> bool:
        """Is an attempt to come?"""
        return self._call is not None and self._call.active()

    def start_later(self) -> float:
        """
        See to the next attempt; one that was to come is given up.

        @return: The seconds until then.
        """
        now = self._clock.seconds()
        if now - self._last > FORGETS:
            self._attempts = 0
        pause = min(2.0 ** min(self._attempts - 1, _LONGEST_EXPONENT), LONGEST_PAUSE) if self._attempts else 0.0
        self._attempts += 1
        self._last = now + pause
        self.cancel()
        self._call = self._clock.callLater(pause, self._start)
        return pause

    def cancel(self) -> None:
        """Make no attempt."""
        if self.waiting:
            assert self._call is not None
            self._call.cancel()
        self._call = None
