"""Tests for L{amphora.vrrp.notify_fifo}."""

from __future__ import annotations

import os
import stat
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from amphora.blocking import AtOnce
from amphora.vrrp.notify_fifo import Event, EventParser, NotifyFifo
from tests.integration.support import short_directory


class EventParserTests(SynchronousTestCase):
    def parse(self, *pieces: bytes) -> list[Event]:
        parser = EventParser()
        return [event for piece in pieces for event in parser.feed(piece)]

    def test_states(self) -> None:
        """Each state of an instance is an event, with or without a priority behind it."""
        for state in ("MASTER", "BACKUP", "FAULT", "STOP", "DELETED"):
            for line in (f'INSTANCE "VI_1" {state} 100\n', f'INSTANCE "VI_1" {state}\n'):
                self.assertEqual([Event("VI_1", cast(Any, state))], self.parse(line.encode()))

    def test_names(self) -> None:
        """A name may hold anything but a line's end."""
        for name in ("a b", 'a" MASTER 100', "é", ""):
            self.assertEqual([Event(name, "BACKUP")], self.parse(f'INSTANCE "{name}" BACKUP 90\n'.encode()))
        self.assertEqual([Event("\ufffd", "FAULT")], self.parse(b'INSTANCE "\xff" FAULT 0\n'))

    def test_others(self) -> None:
        """Groups, priorities, states of later versions and garbage are passed over, and hide nothing after them."""
        lines = (
            b'GROUP "G" MASTER 0',
            b'INSTANCE "a" MASTER_PRIORITY 100',
            b'INSTANCE "a" MASTER_RX_LOWER_PRI 100',
            b'INSTANCE "a" DREAMING 100',
            b'INSTANCE "a" MASTER 100 1',
            b"",
            b"\xff\x00" * 100,
            b"x" * 100_000,
            b'INSTANCE "b" MASTER 100',
        )
        self.assertEqual([Event("b", "MASTER")], self.parse(b"\n".join(lines) + b"\n"))

    def test_endless_line(self) -> None:
        """A line that does not end takes no memory."""
        parser = EventParser()
        for _ in range(100):
            self.assertEqual([], list(parser.feed(b"x" * 65536)))
        self.assertLess(len(parser._rest), 65536)
        self.assertEqual([], list(parser.feed(b"\n")))

    @given(st.lists(st.integers(1, 60), max_size=10))
    def test_pieces(self, lengths: list[int]) -> None:
        """However it is cut, the same events come out, in their order."""
        text = b'INSTANCE "a" BACKUP 1\nGROUP "g" BACKUP 0\nINSTANCE "a" MASTER 1\nINSTANCE "b" FAULT 2\n'
        pieces = []
        rest = text
        for length in lengths:
            pieces.append(rest[:length])
            rest = rest[length:]
        expected = [Event("a", "BACKUP"), Event("a", "MASTER"), Event("b", "FAULT")]
        self.assertEqual(expected, self.parse(*pieces, rest))


class NotifyFifoTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactor()
        self.path = short_directory(self) / "fifo"
        self.heard: list[Event] = []
        self.fifo = NotifyFifo(cast(Any, self.reactor), AtOnce(), self.path, self.heard.append)
        self.addCleanup(self.fifo.close)

    def open(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.fifo.open()))

    def write(self, line: bytes) -> None:
        """What keepalived does, as long as it has the FIFO open."""
        writer = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, writer)
        os.write(writer, line)

    def test_made(self) -> None:
        """It is made for root alone, and listened to."""
        verifyObject(IReadDescriptor, self.fifo)
        self.open()
        mode = os.stat(self.path).st_mode
        self.assertEqual((True, 0o600), (stat.S_ISFIFO(mode), stat.S_IMODE(mode)))
        self.assertEqual([self.fifo], self.reactor.getReaders())
        self.write(b'INSTANCE "a" MASTER 100\n')
        self.fifo.doRead()
        self.fifo.doRead()
        self.assertEqual([Event("a", "MASTER")], self.heard)

    def test_waiting_events(self) -> None:
        """What was told while nobody listened is heard when that begins."""
        os.mkfifo(self.path)
        self.write(b'INSTANCE "a" BACKUP 100\nINSTANCE "a" MASTER 100\n')
        self.open()
        self.assertEqual([Event("a", "BACKUP"), Event("a", "MASTER")], self.heard)

    def test_again(self) -> None:
        """To open it again changes nothing, unless it is gone, or something else is in its place."""
        self.open()
        handle = self.fifo.fileno()
        self.open()
        self.assertEqual((handle, [self.fifo]), (self.fifo.fileno(), self.reactor.getReaders()))
        self.path.unlink()
        self.open()
        self.path.unlink()
        self.path.write_text("no FIFO")
        self.open()
        self.assertEqual([self.fifo], self.reactor.getReaders())
        self.write(b'INSTANCE "a" MASTER 100\n')
        self.fifo.doRead()
        self.assertEqual([Event("a", "MASTER")], self.heard)

    def test_cannot_be_made(self) -> None:
        """Where it cannot be made nothing is left open, and nothing is listened to."""
        self.path.mkdir()
        self.failureResultOf(Deferred.fromCoroutine(self.fifo.open()), OSError)
        self.assertEqual((-1, []), (self.fifo.fileno(), self.reactor.getReaders()))

    def test_close(self) -> None:
        """After it was closed nothing is open; twice is no error."""
        descriptors = len(os.listdir("/proc/self/fd"))
        self.open()
        self.fifo.close()
        self.fifo.close()
        self.assertEqual((-1, []), (self.fifo.fileno(), self.reactor.getReaders()))
        self.assertEqual(descriptors, len(os.listdir("/proc/self/fd")))

    def test_lost(self) -> None:
        """A reactor that gives up on it is told, and it can be opened again."""
        self.open()
        self.fifo.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(-1, self.fifo.fileno())
        self.open()
        self.assertEqual([self.fifo], self.reactor.getReaders())
