"""
The agent's log: how much is said, and that nobody who is to write it down can hold the agent up.

Whoever reads our output may hang, and a disk may take its time: a pipe or a socket that is full blocks whoever writes
to it.  Lines are written by a thread, therefore; those that find no place are lost, and counted.
"""

from __future__ import annotations

import time
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Final

from attrs import define, field
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    formatEvent,
)
from zope.interface import implementer

MOST_WAITING: Final = 1000
"""Lines that wait to be written; those beyond are lost."""
LAST_LINES: Final = 2.0
"""Seconds for the last lines, when the agent ends."""


@implementer(ILogObserver)
class LogWriter:
    """Has a thread hand each event to an observer that may block."""

    def __init__(self, write: ILogObserver, most_waiting: int = MOST_WAITING) -> None:
        self._write = write
        self._most_waiting = most_waiting
        self._queue: SimpleQueue[LogEvent | Event] = SimpleQueue()
        self._guard = Lock()
        self._waiting = 0
        self._lost = 0
        self._thread: Thread | None = None
        self._finished: bool | None = None
        """Since L{finish}: whether all was written by then."""

    def __call__(self, event: LogEvent) -> None:
        # What it tells of may change before the thread looks at it.
        settled = {**event, "log_format": "{log_text}", "log_text": formatEvent(event)}
        with self._guard:
            if self._finished is None:
                self._enqueue(settled)
        if self._finished:
            self._attempt(settled)

    def _enqueue(self, event: LogEvent) -> None:
        if self._waiting >= self._most_waiting:
            self._lost += 1
            return
        self._waiting += 1
        self._queue.put(event)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def finish(self, patience: float = LAST_LINES) -> None:
        """
        Wait until all is written.  What comes later is written at once, or, if that took too long, not at all.

        @param patience: Seconds.
        """
        with self._guard:
            written = Event()
            started = self._thread is not None
            self._queue.put(written)
        finished = not started or written.wait(patience)
        with self._guard:
            self._finished = finished

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, Event):
                item.set()
                return
            self._attempt(item)
            with self._guard:
                self._waiting -= 1

    def _attempt(self, event: LogEvent) -> None:
        with self._guard:
            lost = self._lost
        try:
            if lost:
                self._write(_lines_lost(lost))
                with self._guard:
                    self._lost -= lost
            self._write(event)
        except Exception:
            # There is nowhere to tell it.
            with self._guard:
                self._lost += 1


def _lines_lost(number: int) -> LogEvent:
    return {
        "log_format": "{number} lines of the log were lost: they could not be written, or not in time",
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_time": time.time(),
        "number": number,
    }


@define(eq=False)
class Logs:
    """Whether what helps to find a fault, the level C{debug}, is logged; and who writes the log."""

    _level: LogLevelFilterPredicate = field(init=False, factory=LogLevelFilterPredicate)
    _writers: list[LogWriter] = field(init=False, factory=list)

    def set(self, *, debug: bool) -> None:
        """From now on."""
        self._level.setLogLevelForNamespace("", LogLevel.debug if debug else LogLevel.info)

    def install(self, publisher: LogPublisher) -> None:
        """
        Stand before those who write the log.

        twistd chooses them by its options once it has the service, and gives no place in between (seen with Twisted
        26.10: a log observer of one's own, the documented way, makes C{--logfile} and C{--syslog} void).
        """
        for observer in tuple(publisher._observers):
            writer = LogWriter(observer)
            self._writers.append(writer)
            publisher.removeObserver(observer)
            publisher.addObserver(FilteringLogObserver(writer, [self._level]))

    def finish(self) -> None:
        """The agent ends: see to it that its last lines are written, if that can be done in a moment."""
        for writer in self._writers:
            writer.finish()
