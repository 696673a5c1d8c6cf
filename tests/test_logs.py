"""Tests for L{amphora.logs}."""

from __future__ import annotations

import threading

from twisted.logger import ILogObserver, LogEvent, Logger, LogPublisher, eventAsText
from twisted.python import log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from amphora.logs import Logs, LogWriter

PATIENCE = 60.0


@implementer(ILogObserver)
class Writer:
    """What stands at the log's end.  It can be made to hang, or to fail."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.called = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.problem: Exception | None = None

    def __call__(self, event: LogEvent) -> None:
        self.called.set()
        self.free.wait(PATIENCE)
        self.threads.add(threading.current_thread())
        if self.problem is not None:
            raise self.problem
        self.seen.append(eventAsText(event, includeTimestamp=False, includeSystem=False))


class LogsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.writer = Writer()
        self.publisher = LogPublisher(self.writer)
        self.log = Logger(namespace="amphora", observer=self.publisher)
        self.logs = Logs()
        self.logs.install(self.publisher)

    def test_levels(self) -> None:
        """What helps to find a fault is written only while that is asked for, all else always."""
        for debug in (False, True, False):
            self.logs.set(debug=debug)
            self.log.debug("{debug} detail", debug=debug)
            self.log.info("{debug} news", debug=debug)
        self.logs.finish()
        self.assertEqual(["False news", "True detail", "True news", "False news"], self.writer.seen)

    def test_old_events(self) -> None:
        """What Twisted says in its old way is written too."""
        log.LogPublisher(publishPublisher=self.publisher).msg("starting")
        self.logs.finish()
        self.assertEqual(["starting"], self.writer.seen)

    def test_failures(self) -> None:
        """A failure is written with its traceback."""
        self.log.failure("it broke", Failure(ValueError("a value")))
        self.logs.finish()
        (text,) = self.writer.seen
        self.assertTrue(text.startswith("it broke\nTraceback"), text)
        self.assertIn("a value", text)

    def test_as_it_was(self) -> None:
        """A line tells what was so when it was logged, not when it is written."""
        changing = ["before"]
        self.writer.free.clear()
        self.log.info("it is {what}", what=changing)
        changing[0] = "after"
        self.writer.free.set()
        self.logs.finish()
        self.assertEqual(["it is ['before']"], self.writer.seen)


class LogWriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.writer = Writer()
        self.log_writer = LogWriter(self.writer, most_waiting=3)
        self.log = Logger(namespace="amphora", observer=self.log_writer)

    def hang(self) -> None:
        """The end of the log hangs, with one line at work."""
        self.writer.free.clear()
        self.log.info("one")
        self.writer.called.wait(PATIENCE)

    def test_hangs(self) -> None:
        """Whoever logs is not held up by an end that hangs; what finds no place is counted, and told later."""
        self.hang()
        for number in range(5):
            self.log.info("{number}", number=number)
        self.writer.free.set()
        self.log_writer.finish()
        self.assertEqual(
            ["one", "3 lines of the log were lost: they could not be written, or not in time", "0", "1"],
            self.writer.seen,
        )
        self.assertNotIn(threading.current_thread(), self.writer.threads)

    def test_fails(self) -> None:
        """An end that fails loses its line, which is told once it works again; the next are tried."""
        self.writer.problem = OSError("No space left on device")
        self.log.info("one")
        self.log_writer.finish()
        self.writer.problem = None
        self.log.info("two")
        self.assertEqual(
            ["1 lines of the log were lost: they could not be written, or not in time", "two"], self.writer.seen
        )

    def test_finished(self) -> None:
        """What is logged after the end is written at once."""
        self.log.info("one")
        self.log_writer.finish()
        self.log.info("two")
        self.assertEqual(["one", "two"], self.writer.seen)

    def test_nothing_logged(self) -> None:
        """Where nothing was logged, nothing is waited for."""
        self.log_writer.finish()
        self.assertEqual([], self.writer.seen)
        self.assertFalse(self.writer.called.is_set())

    def test_hangs_at_the_end(self) -> None:
        """An end that hangs does not keep the agent from ending, nor what it says afterwards."""
        self.hang()
        self.log_writer.finish(patience=0.01)
        self.log.info("two")
        self.assertEqual([], self.writer.seen)
        self.writer.free.set()
