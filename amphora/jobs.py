"""
Long actions that are nobody's but their object's.

A web framework cancels a request's work when its client goes away.  A reload must not stop half-way for that:
it runs here, to its end, one at a time for each object, and a request only waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")


@define(eq=False)
class JobQueue:
    """The jobs of one object, in the order in which they were asked for."""

    _log = Logger()
    _name: str
    _idle: Callable[[], None]
    """Called whenever the last job has ended."""
    _foreseen: tuple[type[Exception], ...] = ()
    """Failures that are somebody's business, not a fault of the program."""
    _lock: DeferredLock = field(init=False, factory=DeferredLock)

    def run(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """
        Run this job after those before it.

        @return: What waits for it.  Cancelling that forgets the waiter, not the job; a failure that nobody waits
            for any more is logged.
        """
        waiter: Deferred[T] = Deferred(lambda _: None)

        def succeeded(result: T) -> None:
            if not waiter.called:
                waiter.callback(result)

        def failed(reason: Failure) -> None:
            if not waiter.called:
                waiter.errback(reason)
            else:
                self._tell(reason)

        def ended(_: object) -> None:
            if not self._lock.locked:
                self._idle()

        job: Deferred[T] = self._lock.run(lambda: Deferred.fromCoroutine(work()))
        job.addBoth(_also(ended)).addCallbacks(succeeded, failed)
        return waiter

    def _tell(self, reason: Failure) -> None:
        text = "{name}: a job failed whose client had gone away"
        if isinstance(reason.value, self._foreseen):
            self._log.error(text + ": {reason}", name=self._name, reason=repr(reason.value))
        else:
            self._log.failure(text, reason, name=self._name)

    def finished(self) -> Deferred[None]:
        """Fires when all jobs that are here now have ended."""
        done: Deferred[None] = self._lock.run(lambda: None)
        return done


def _also(act: Callable[[object], None]) -> Callable[[T], T]:
    def passing_on(result: T) -> T:
        act(result)
        return result

    return passing_on
