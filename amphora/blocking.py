"""Calls that may wait for a disk: made in the reactor's threads, never on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class IThreadedReactor(IReactorThreads, IReactorFromThreads):
    """What handing a call to a thread needs of a reactor."""


class BlockingCalls(Protocol):
    """Runs a function that may block, and tells its result later."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]: ...


@frozen
class InThreads:
    """The real one: the reactor's thread pool."""

    _reactor: IThreadedReactor

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args, **kwargs)


@frozen
class AtOnce:
    """For tests: the call is made where it stands, so that no test waits for a thread."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return maybeDeferred(function, *args, **kwargs)
