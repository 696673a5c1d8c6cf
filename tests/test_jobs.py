"""Tests for L{amphora.jobs}."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.jobs import JobQueue


class Foreseen(Exception):
    """A failure that the object's users know of."""


class JobQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, Deferred[str]] = {}
        self.idle = 0
        self.queue = JobQueue("an object", self.note_idle, (Foreseen,))

    def note_idle(self) -> None:
        self.idle += 1

    def job(self, name: str) -> Callable[[], Coroutine[Deferred[Any], Any, str]]:
        """A job that goes on when its gate is opened, and ends with what came through it."""
        self.gates[name] = Deferred()

        async def work() -> str:
            self.begun.append(name)
            return await self.gates[name]

        return work

    def test_result(self) -> None:
        """A job begins at once where none is before it; who waits gets its result."""
        waiting = self.queue.run(self.job("a"))
        self.assertEqual(["a"], self.begun)
        self.assertNoResult(waiting)
        self.gates["a"].callback("done")
        self.assertEqual("done", self.successResultOf(waiting))

    def test_order(self) -> None:
        """One runs at a time, in the order in which they were asked for."""
        waiting = [self.queue.run(self.job(name)) for name in "abc"]
        for number, name in enumerate("abc"):
            self.assertEqual([*"abc"][: number + 1], self.begun)
            self.gates[name].callback(name)
            self.assertEqual(name, self.successResultOf(waiting[number]))

    def test_failure(self) -> None:
        """A job's failure goes to who waits for it; the next job runs all the same."""
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        self.gates["a"].errback(ValueError("no"))
        self.failureResultOf(first, ValueError)
        self.gates["b"].callback("done")
        self.assertEqual("done", self.successResultOf(second))

    def test_failure_before_it_began(self) -> None:
        """A job that fails before it waits for anything fails in the same way."""

        async def work() -> None:
            raise ValueError("at once")

        self.failureResultOf(self.queue.run(work), ValueError)
        self.assertEqual(1, self.idle)

    def test_cancelled_waiter(self) -> None:
        """A waiter that goes away stops nothing: the job runs to its end, and the next after it."""
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertFalse(self.gates["a"].called)
        self.assertEqual(["a"], self.begun)
        self.gates["a"].callback("done")
        self.assertEqual(["a", "b"], self.begun)
        self.gates["b"].callback("done")
        self.assertEqual("done", self.successResultOf(second))

    def test_cancelled_before_it_began(self) -> None:
        """A job whose waiter left before its turn is done in its turn: its client may have gone, its work has not."""
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.gates["a"].callback("done")
        self.successResultOf(first)
        self.assertEqual(["a", "b"], self.begun)
        self.gates["b"].callback("done")
        self.assertEqual(1, self.idle)

    def test_waiter_in_a_coroutine(self) -> None:
        """A coroutine that waits is cancelled as a route is, and the job goes on."""

        async def route() -> str:
            return await self.queue.run(self.job("a"))

        routing = ensureDeferred(route())
        routing.cancel()
        self.failureResultOf(routing, CancelledError)
        self.assertFalse(self.gates["a"].called)
        self.gates["a"].callback("done")

    def test_failure_that_nobody_waits_for(self) -> None:
        """Such a failure is logged, once, with the object's name; one that is waited for is not."""
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        first.cancel()
        self.failureResultOf(first)
        with capturedLogs() as events:
            self.gates["a"].errback(Foreseen("the disk is full"))
            self.gates["b"].errback(Foreseen("no"))
        self.failureResultOf(second, Foreseen)
        (event,) = events
        self.assertEqual(
            (LogLevel.error, "an object", "Foreseen('the disk is full')"),
            (event["log_level"], event["name"], event["reason"]),
        )

    def test_unforeseen_failure_that_nobody_waits_for(self) -> None:
        """A fault of the program is logged with its traceback."""
        waiter = self.queue.run(self.job("a"))
        waiter.cancel()
        self.failureResultOf(waiter)
        self.gates["a"].errback(ValueError("what is this"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_idle(self) -> None:
        """When the last job has ended, and not before, that is told; before its waiter hears."""
        heard: list[int] = []
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        second.addCallback(lambda _: heard.append(self.idle))
        self.gates["a"].callback("done")
        self.successResultOf(first)
        self.assertEqual(0, self.idle)
        self.gates["b"].callback("done")
        self.assertEqual((1, [1]), (self.idle, heard))

    def test_finished(self) -> None:
        """One can wait for the end of all jobs that are there now, good or bad; those that come later do not count."""
        first, second = (self.queue.run(self.job(name)) for name in "ab")
        finished = self.queue.finished()
        third = self.queue.run(self.job("c"))
        self.gates["a"].errback(ValueError())
        self.failureResultOf(first)
        self.assertNoResult(finished)
        self.gates["b"].callback("done")
        self.successResultOf(second)
        self.successResultOf(finished)
        self.assertNoResult(third)
        self.gates["c"].callback("done")
        self.assertEqual(1, self.idle)

    def test_finished_with_nothing(self) -> None:
        """Where no job is, all have ended."""
        self.successResultOf(self.queue.finished())

    def test_queues_are_apart(self) -> None:
        """Another object's jobs do not wait for this one's."""
        self.queue.run(self.job("a"))
        JobQueue("another", self.note_idle).run(self.job("b"))
        self.assertEqual(["a", "b"], self.begun)
