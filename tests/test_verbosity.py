"""Tests for L{amphora.verbosity}."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, Logger, LogPublisher, formatEvent
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from amphora.verbosity import Verbosity


@implementer(ILogObserver)
class Writer:
    """What stands at the log's end."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.seen.append(formatEvent(event))


class VerbosityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.writer = Writer()
        self.publisher = LogPublisher(self.writer)
        self.log = Logger(namespace="amphora", observer=self.publisher)
        self.verbosity = Verbosity()
        self.verbosity.install(self.publisher)

    def test_levels(self) -> None:
        """What helps to find a fault is written only while that is asked for, all else always."""
        for debug in (False, True, False):
            self.verbosity.set(debug=debug)
            self.log.debug("{debug} detail", debug=debug)
            self.log.info("{debug} news", debug=debug)
        self.assertEqual(["False news", "True detail", "True news", "False news"], self.writer.seen)

    def test_old_events(self) -> None:
        """What Twisted says in its old way is written too."""
        log.LogPublisher(publishPublisher=self.publisher).msg("starting")
        self.assertEqual(["starting"], self.writer.seen)
