"""
Noticing changes between two heartbeats, so that a controller need not wait for the next regular one.

Every second all sources are asked for what they answer in a heartbeat anyway.  Where there are many members, that
would be most of what the agent does: of those only their number is asked for that take sessions, pool by pool.  What
that number does not show waits for the next regular heartbeat: a member that goes down in the very second in which
another of its pool comes up, and one that was down and is put into maintenance.

Counters are no change, and neither is how many checks a member has yet to pass.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from amphora.process import ProcessIdentity
from amphora.sample import Answer, Sample

Picture = tuple[object, ...]
"""What of one source's answer is state; two of them are equal when nothing has changed."""


def picture(answer: Answer, worker: ProcessIdentity | None) -> Picture:
    """The states of all listeners, pools and members, and which worker it is that has them."""
    return (
        worker,
        *((listener_id, _state(listener.status)) for listener_id, listener in answer.listeners.items()),
        *(
            (key, _state(pool.status), pool.usable, *((name, _state(text)) for name, text in pool.members.items()))
            for key, pool in answer.pools.items()
        ),
    )


def _state(text: str) -> str:
    """haproxy adds to some how many checks are still to come, or why: `UP 1/3`, `MAINT (via a/b)`."""
    return text.partition(" ")[0]


class ChangeWatcher(Service):
    """Tells when a listener, pool, member or process of any source has changed its state."""

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        interval: float,
        samples: Callable[[], Awaitable[Sequence[Sample]]],
        changed: Callable[[], None],
        phase: Callable[[], float] = random.random,
    ) -> None:
        """
        @param interval: Seconds from one look to the next.
        @param samples: Asks all sources that should run; it has a deadline of its own.
        @param changed: Called once for each look that has found a change.
        @param phase: Which part of an interval, from 0 to 1, to wait before the first look: amphorae that were started
            together would else tell in the same moment what happens to all of them.
        """
        self._samples = samples
        self._changed = changed
        self._interval = interval
        self._phase = phase
        self._reactor = reactor
        self._first: IDelayedCall | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._last: dict[str, Picture | None] | None = None
        self._failing = False

    def startService(self) -> None:
        super().startService()
        self._first = self._reactor.callLater(self._phase() * self._interval, self._loop.start, self._interval)

    def stopService(self) -> None:
        super().stopService()
        if self._first is not None and self._first.active():
            self._first.cancel()
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._guarded())

    async def _guarded(self) -> None:
        try:
            await self._compare()
        except Exception:
            if not self._failing:
                self._failing = True
                self._log.failure("changes cannot be looked for; regular heartbeats go on")
        else:
            self._failing = False

    async def _compare(self) -> None:
        samples = await self._samples()
        before, now = self._last or {}, {}
        for sample in samples:
            # One that does not answer just now has not changed for that.
            answer = sample.answer
            now[sample.source_id] = before.get(sample.source_id) if answer is None else picture(answer, sample.worker)
        first, self._last = self._last is None, now
        if not first and now != before and self.running:
            self._changed()
