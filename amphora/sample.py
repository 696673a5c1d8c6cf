"""
What heartbeats need of whoever carries listeners' traffic, be it a haproxy or, for UDP and SCTP, the kernel.

A *source* tells of the listeners and pools that it carries, in the controller's words, and of what it has counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import frozen

from amphora.process import ProcessIdentity


@frozen
class Traffic:
    """What a listener carried, since its worker's start or since the last heartbeat: bytes, connections, errors."""

    tx: int = 0
    rx: int = 0
    totconns: int = 0
    ereq: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.tx + other.tx, self.rx + other.rx, self.totconns + other.totconns, self.ereq + other.ereq)

    def since(self, earlier: Traffic) -> Traffic:
        """What came since an earlier reading; nothing where a counter was cleared in between."""
        return Traffic(
            max(0, self.tx - earlier.tx),
            max(0, self.rx - earlier.rx),
            max(0, self.totconns - earlier.totconns),
            max(0, self.ereq - earlier.ereq),
        )

    def reaches(self, earlier: Traffic) -> bool:
        """May this be what an earlier reading has grown to?"""
        return earlier + self.since(earlier) == self


@frozen
class ListenerState:
    """A listener's status, and how many connections are open now."""

    status: str
    current: int

    def __add__(self, other: ListenerState) -> ListenerState:
        """Both as one: OPEN if both are."""
        return ListenerState(other.status if self.status == "OPEN" else self.status, self.current + other.current)


@frozen
class PoolState:
    """A pool's status, its members' by their ids, and how many of them take sessions, where that is told."""

    status: str
    members: Mapping[str, str]
    usable: int = 0


@frozen
class Answer:
    """What one source says of itself: listeners by their ids, and pools by what a heartbeat calls them."""

    listeners: Mapping[str, ListenerState]
    pools: Mapping[str, PoolState]


@frozen
class Reading:
    """What one process's counters say, by listener id."""

    worker: ProcessIdentity
    listeners: Mapping[str, Traffic]
    outlasting: bool = False
    """Whether another process may find these counters as this one leaves them: the kernel's are like that."""


class Sample(Protocol):
    """One source at one moment."""

    @property
    def source_id(self) -> str:
        """The id of what was uploaded for it."""

    @property
    def name(self) -> str:
        """What a log calls it."""

    @property
    def answer(self) -> Answer | None:
        """None where it does not answer."""

    @property
    def worker(self) -> ProcessIdentity | None:
        """Who has answered; None where that is not known."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Of all processes that could be read, that of C{worker} first."""
