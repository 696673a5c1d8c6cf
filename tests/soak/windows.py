"""When something was done on purpose, and to what: what fails within is looked at differently from all else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from attrs import define, field

AGENT, KEEPALIVED, DISK, CONTROLLERS = "the agent", "keepalived", "the disk", "the controllers"
"""What something can be done to, beside a load balancer, which is named by its id."""

GRACE = 8.0
"""Seconds after the end of something in which its traces may still be seen."""


@define
class Window:
    """Something that was done, from its beginning to its end, which may be to come."""

    kind: str
    about: Collection[str]
    began: float
    ended: float | None = None

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began <= ended and (self.ended is None or began <= self.ended)


@define(eq=False)
class Windows:
    """All that was done so far."""

    _now: Callable[[], float]
    _windows: list[Window] = field(init=False, factory=list)

    @contextmanager
    def during(self, kind: str, *about: str, grace: float = GRACE) -> Iterator[None]:
        """Something is done to these while the block runs, and its traces last a moment longer."""
        window = Window(kind, about, self._now())
        self._windows.append(window)
        try:
            yield
        finally:
            window.ended = self._now() + grace

    def why(self, about: Collection[str], began: float, ended: float) -> str | None:
        """What was done, between these moments, to one of these; None where nothing was."""
        for window in reversed(self._windows):
            if window.overlaps(began, ended) and not set(about).isdisjoint(window.about):
                return window.kind
        return None
