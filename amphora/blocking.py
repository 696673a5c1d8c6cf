"""Calls that may wait for a disk: made in the reactor's threads, never on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from attrs import field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

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
class InSpareThreads:
    """
    For calls that may hang for long and that are no loss, such as those to a resolver: threads that no other call has
    to wait for, so many at most, and that the process's end does not wait for.
    """

    _reactor: IReactorFromThreads
    _most: int
    _pool: ThreadPool = field(init=False)

    @_pool.default
    def _new_pool(self) -> ThreadPool:
        pool = ThreadPool(0, self._most)
        cast(Any, pool).threadFactory = partial(threading.Thread, daemon=True)
        pool.start()
        return pool

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)


@frozen
class AtOnce:
    """For tests: the call is made where it stands, so that no test waits for a thread."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return maybeDeferred(function, *args, **kwargs)
