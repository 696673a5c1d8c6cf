"""Waiting for something, but not for ever."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")


def within(reactor: IReactorTime, seconds: float, awaited: Deferred[T]) -> Deferred[T]:
    """
    Wait for something, but not for ever.  It is not cancelled when the time is over, nor when the waiting is: then
    what comes of it is dropped.

    @return: What fires as C{awaited} does, or fails with the built-in L{TimeoutError}.
    """
    waiter: Deferred[T] = Deferred(lambda _: overdue.cancel())

    def give_up() -> None:
        waiter.errback(TimeoutError(f"nothing came within {seconds:g} s"))

    def pass_on(result: T | Failure) -> None:
        if waiter.called:
            return
        overdue.cancel()
        if isinstance(result, Failure):
            waiter.errback(result)
        else:
            waiter.callback(result)

    overdue = reactor.callLater(seconds, give_up)
    awaited.addBoth(pass_on)
    return waiter
