"""Tests for L{amphora.loadbalancer.sockets}: against a fake reactor, where time matters, and against real sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from amphora.loadbalancer import sockets
from amphora.loadbalancer.sockets import ISocketReactor, NoAnswer, ask
from amphora.testing.fakes import FakeConnection, FakeSocketReactor
from tests.integration.support import short_directory

PATH = Path("/run/haproxy.sock")


class AskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeSocketReactor()
        self.asking = Deferred.fromCoroutine(ask(self.reactor, PATH, b"show info\n", timeout=5.0))

    def tearDown(self) -> None:
        """Whatever happened, no delayed call is left."""
        self.assertEqual([], self.reactor.getDelayedCalls())

    def assert_no_answer(self, text: str) -> None:
        self.assertIn(text, self.failureResultOf(self.asking, NoAnswer).getErrorMessage())

    def test_fake(self) -> None:
        """The reactor of these tests is one."""
        verifyObject(ISocketReactor, self.reactor)
        self.asking.cancel()
        self.failureResultOf(self.asking)

    def test_answer(self) -> None:
        """The question is sent once, and all that comes until the other side closes is the answer."""
        self.assertEqual(str(PATH), self.reactor.unixClients[0][0])
        connection = self.reactor.accept()
        self.assertEqual(b"show info\n", connection.value())
        connection.answer(b"Name: ")
        connection.answer(b"HAProxy\n\n")
        self.assertNoResult(self.asking)
        connection.close()
        self.assertEqual(b"Name: HAProxy\n\n", self.successResultOf(self.asking))

    def test_empty_answer(self) -> None:
        """A side that closes without a word has answered with nothing."""
        self.reactor.accept().close()
        self.assertEqual(b"", self.successResultOf(self.asking))

    def test_silence(self) -> None:
        """Who says nothing in time has not answered, and is hung up on."""
        connection = self.reactor.accept()
        self.reactor.advance(4.9)
        self.assertNoResult(self.asking)
        self.reactor.advance(0.1)
        self.assert_no_answer("no answer within 5 s")
        self.assertTrue(connection.disconnected)
        connection.close(ConnectionLost())

    def test_late_to_look(self) -> None:
        """What was there in time, but had to wait for a busy reactor to look, is heard."""
        connection = self.reactor.accept()

        def look() -> None:
            connection.answer(b"Name: HAProxy\n\n")
            connection.close()

        self.reactor.callLater(5.0, look)
        self.reactor.advance(5.0)
        self.assertEqual(b"Name: HAProxy\n\n", self.successResultOf(self.asking))

    def test_drip(self) -> None:
        """A byte now and then gains no time."""
        connection = self.reactor.accept()
        for _ in range(4):
            self.reactor.advance(1)
            connection.answer(b"x")
        self.assertNoResult(self.asking)
        self.reactor.advance(1)
        self.assert_no_answer("no answer within 5 s")
        self.assertTrue(connection.disconnected)

    def test_connecting_counts(self) -> None:
        """The time for connecting is part of it."""
        self.reactor.advance(3)
        connection = self.reactor.accept()
        self.reactor.advance(2)
        self.assert_no_answer("no answer within 5 s")
        self.assertTrue(connection.disconnected)

    def test_no_connection(self) -> None:
        """A connection that does not come about in time is given up."""
        self.reactor.advance(5)
        self.assert_no_answer("no connection within 5 s")
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_refused(self) -> None:
        """Where nobody listens, that is said at once, with the path."""
        self.reactor.refuse()
        self.assert_no_answer(f"nobody listens on {PATH}")

    def test_reset(self) -> None:
        """A connection that breaks has not answered, whatever came before."""
        connection = self.reactor.accept()
        connection.answer(b"half an answ")
        connection.close(ConnectionLost())
        self.assert_no_answer("the connection broke")

    def test_too_long(self) -> None:
        """An answer that never ends is cut off."""
        self.patch(sockets, "ANSWER_LIMIT", 1000)
        connection = self.reactor.accept()
        connection.answer(b"x" * 1000)
        self.assertFalse(connection.disconnected)
        connection.answer(b"x")
        self.assertTrue(connection.disconnected)
        connection.close(ConnectionLost())
        self.assert_no_answer("more than 1000 bytes")

    def test_cancelled(self) -> None:
        """Who does not want to know any more leaves no connection open."""
        connection = self.reactor.accept()
        self.asking.cancel()
        self.failureResultOf(self.asking, CancelledError)
        self.assertTrue(connection.disconnected)
        connection.close(ConnectionLost())

    def test_cancelled_while_connecting(self) -> None:
        """Nor one that is being made."""
        self.asking.cancel()
        self.failureResultOf(self.asking)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_answer_after_all(self) -> None:
        """What comes after the time is over is no error."""
        connection = self.reactor.accept()
        self.reactor.advance(5)
        self.assert_no_answer("no answer")
        connection.answer(b"late")
        connection.close()

    def test_connection_is_a_stand_in(self) -> None:
        """What the other side sees is a connection like any other."""
        self.assertIsInstance(self.reactor.accept(), FakeConnection)
        self.asking.cancel()
        self.failureResultOf(self.asking)


class RealSocketTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.path = short_directory(self) / "socket"
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        self.listener.bind(str(self.path))
        self.listener.settimeout(30)

    def ask(self, timeout: float = 30) -> Deferred[bytes]:
        return Deferred.fromCoroutine(ask(self.reactor, self.path, b"question\n", timeout=timeout))

    async def assert_no_answer(self, asking: Deferred[bytes], text: str) -> None:
        with self.assertRaises(NoAnswer) as caught:
            await asking
        self.assertIn(text, str(caught.exception))

    async def test_answer(self) -> None:
        """An answer larger than any buffer comes whole."""
        content = os.urandom(1_000_000)

        def serve() -> bytes:
            connection, _ = self.listener.accept()
            with connection:
                question = connection.recv(100)
                connection.sendall(content)
                return question

        self.listener.listen()
        serving = deferToThread(serve)
        self.assertEqual(content, await self.ask())
        self.assertEqual(b"question\n", await serving)

    async def test_closed_with_the_question_unread(self) -> None:
        """A process that dies with the question in its queue resets the connection: no answer, not an empty one."""

        def die() -> None:
            connection, _ = self.listener.accept()
            with connection:
                connection.recv(1, socket.MSG_PEEK)

        self.listener.listen()
        dying = deferToThread(die)
        await self.assert_no_answer(self.ask(), "the connection broke")
        await dying

    async def test_nobody(self) -> None:
        """A path that nobody listens on, or where nothing is, is told as that."""
        await self.assert_no_answer(self.ask(), f"nobody listens on {self.path}")
        self.path.unlink()
        await self.assert_no_answer(self.ask(), f"nobody listens on {self.path}")

    async def test_full_queue(self) -> None:
        """A process that hangs fills its queue; then nobody is made to wait."""
        self.listener.listen(0)
        held = socket.socket(socket.AF_UNIX)
        self.addCleanup(held.close)
        held.connect(str(self.path))
        await self.assert_no_answer(self.ask(), "nobody listens")

    async def test_cancelled(self) -> None:
        """Cancelled, the connection is closed at the other side too."""
        self.listener.listen()
        asking = self.ask()
        connection, _ = await deferToThread(self.listener.accept)
        with connection:
            self.assertEqual(b"question\n", await deferToThread(connection.recv, 100))
            asking.cancel()
            with self.assertRaises(CancelledError):
                await asking
            connection.settimeout(30)
            self.assertEqual(b"", await deferToThread(connection.recv, 100))
