"""Tests for L{amphora.blocking}: each way to make a call gives the same results."""

from __future__ import annotations

import threading
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from amphora.blocking import AtOnce, InSpareThreads, InThreads
from amphora.testing.fakes import CallsLater


def divide(dividend: int, *, by: int) -> tuple[float, int]:
    """Something that takes arguments, may fail, and knows where it was done."""
    return dividend / by, threading.get_ident()


class InThreadsTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.blocking = InThreads(cast(Any, reactor))

    async def test_result(self) -> None:
        """The call is made in another thread, and its result comes to this one."""
        result, thread = await self.blocking.run(divide, 6, by=3)
        self.assertEqual(2, result)
        self.assertNotEqual(threading.get_ident(), thread)

    async def test_failure(self) -> None:
        """So does what it raises."""
        with self.assertRaises(ZeroDivisionError):
            await self.blocking.run(divide, 1, by=0)


class InSpareThreadsTests(TestCase):
    timeout = 60

    async def test_threads_of_their_own(self) -> None:
        """However many calls hang, they hold up neither those in the reactor's threads nor the end of the process."""
        from twisted.internet import reactor

        spare, usual = InSpareThreads(cast(Any, reactor), 2), InThreads(cast(Any, reactor))
        going_on = threading.Event()
        self.addCleanup(going_on.set)
        hanging = [spare.run(going_on.wait) for _ in range(40)]
        self.assertEqual(2, (await usual.run(divide, 6, by=3))[0])
        threads = [thread for thread in threading.enumerate() if thread.daemon and "PoolThread" in thread.name]
        self.assertEqual(2, len(threads))
        going_on.set()
        self.assertEqual([True] * 40, await gatherResults(hanging))
        with self.assertRaises(ZeroDivisionError):
            await spare.run(divide, 1, by=0)


class AtOnceTests(SynchronousTestCase):
    def test_result(self) -> None:
        """The call is made where it stands."""
        self.assertEqual((2, threading.get_ident()), self.successResultOf(AtOnce().run(divide, 6, by=3)))

    def test_failure(self) -> None:
        """What it raises comes through the Deferred, not to the caller."""
        self.failureResultOf(AtOnce().run(divide, 1, by=0), ZeroDivisionError)


class CallsLaterTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Nothing happens before the test says so; then one call after the other, with result or failure."""
        blocking = CallsLater()
        calls: list[Deferred[tuple[float, int]]] = [blocking.run(divide, 6, by=by) for by in (3, 0, 2)]
        self.assertEqual(3, blocking.waiting)
        self.assertNoResult(calls[0])
        blocking.make_one()
        self.assertEqual(2, self.successResultOf(calls[0])[0])
        self.assertNoResult(calls[1])
        blocking.make_all()
        self.failureResultOf(calls[1], ZeroDivisionError)
        self.assertEqual(3, self.successResultOf(calls[2])[0])
        self.assertEqual(0, blocking.waiting)
