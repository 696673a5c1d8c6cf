"""Handing sessions to a keeper, and taking them over."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.loadbalancer.kept_sessions import KEEP_TIMEOUT, KeptSessions, Label, TakenSession
from amphora.process import ProcessIdentity
from amphora.testing.fakes import FakeConnection, FakeProcess, FakeProcessReactor, FakeSocketReactor
from tests.integration.support import short_directory

ONE = Label("one", ProcessIdentity(7, 100), "AMPHORA_LOAD=abc")
TWO = Label("two", ProcessIdentity(8, 200), "AMPHORA_LOAD=def")


class LabelTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """A label is one line, and read as it was written."""
        label = Label("a\nb", ProcessIdentity(1, 2), 'x"\n\\')
        self.assertNotIn(b"\n", label.encode())
        self.assertEqual(label, Label.decode(label.encode()))

    def test_others(self) -> None:
        """Anything else is refused, whatever it is."""
        good = ONE.encode()
        for text in (
            b"",
            b"{}",
            b"[]",
            b"7",
            b"\xff",
            b"[" * 100_000,
            good[:-1],
            good.replace(b"7", b'"7"'),
            good.replace(b"100", b"1.5"),
            good.replace(b"100", b"true"),
            good.replace(b'"one"', b"1"),
        ):
            self.assertRaises(ValueError, Label.decode, text)


class FakeReactor(FakeSocketReactor):
    """Connects and starts processes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.starting = FakeProcessReactor()

    def spawnProcess(self, protocol: Any, executable: Any, args: Sequence[str], **options: Any) -> IProcessTransport:
        given: Mapping[int, int] = options["childFDs"]
        self.listening = os.fstat(given[0])
        return self.starting.spawnProcess(protocol, executable, args, **options)

    @property
    def processes(self) -> list[FakeProcess]:
        return self.starting.processes


@define
class FakeSession:
    """A session that is there until it is over."""

    over: bool = False
    ends: tuple[socket.socket, socket.socket] = field(factory=socket.socketpair)

    @property
    def descriptor(self) -> int:
        assert not self.over
        return self.ends[0].fileno()

    @property
    def inode(self) -> int:
        return os.fstat(self.ends[0].fileno()).st_ino


class KeptSessionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.path = short_directory(self) / "sessions.sock"
        self.kept = KeptSessions(self.reactor, AtOnce(), self.path, ("keeper", "of sessions"))  # type: ignore[arg-type]

    def session(self) -> FakeSession:
        session = FakeSession()
        for end in session.ends:
            self.addCleanup(end.close)
        return session

    def keep(self, label: Label = ONE, session: FakeSession | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(self.kept.keep(label, session or self.session()))

    def started(self) -> FakeConnection:
        """Nobody listens, so that a keeper is started; it is spoken to."""
        self.reactor.refuse()
        return self.reactor.accept()

    def takes(self, connection: FakeConnection, label: Label = ONE) -> None:
        connection.clear()
        connection.answer(b"kept " + label.encode() + b"\n")

    def log_of(self, *works: Any) -> list[str]:
        with capturedLogs() as events:
            for work in works:
                work()
        return [formatEvent(event) for event in events]


class KeepTests(KeptSessionsTestCase):
    def test_first(self) -> None:
        """For the first session a keeper is started, that listens where nobody but ourselves may speak."""
        session = self.session()
        keeping = self.keep(ONE, session)
        connection = self.started()
        (process,) = self.reactor.processes
        self.assertEqual(["setsid", "keeper", "of sessions", str(self.path)], process.command)
        self.assertTrue(stat.S_ISSOCK(self.reactor.listening.st_mode))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual([self.path.name], os.listdir(self.path.parent))
        self.assertEqual(b"keep " + ONE.encode() + b"\n", connection.value())
        self.assertEqual([session.inode], connection.given)
        self.assertNoResult(keeping)
        self.takes(connection)
        self.successResultOf(keeping)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_more(self) -> None:
        """Further ones go the same way; one with the same worker is given again."""
        first = self.keep()
        connection = self.started()
        self.takes(connection)
        self.successResultOf(first)
        for label in (TWO, ONE):
            session = self.session()
            keeping = self.keep(label, session)
            self.assertEqual(b"keep " + label.encode() + b"\n", connection.value())
            self.assertEqual(session.inode, connection.given[-1])
            self.takes(connection, label)
            self.successResultOf(keeping)
        self.assertEqual(1, len(self.reactor.processes))

    def test_keeper_that_is_there(self) -> None:
        """A keeper that is there already, though not known, is spoken to."""
        keeping = self.keep()
        self.takes(self.reactor.accept())
        self.successResultOf(keeping)
        self.assertEqual([], self.reactor.processes)

    def test_hung_keeper(self) -> None:
        """A keeper that does not answer is replaced; a reload waits no longer than it may, which is told once."""
        keeping = self.keep()
        hung = self.reactor.accept()
        self.reactor.advance(1)
        self.assertTrue(hung.disconnected)
        other = self.reactor.accept()
        self.assertEqual(1, len(self.reactor.processes))
        (told,) = self.log_of(lambda: self.reactor.advance(KEEP_TIMEOUT - 1))
        self.successResultOf(keeping)
        self.assertIn(f"no keeper was ready within {KEEP_TIMEOUT:g} s", told)
        (told,) = self.log_of(lambda: self.takes(other))
        self.assertIn("are kept again", told)

    def test_cannot_be_started(self) -> None:
        """Why no keeper comes up is told in the system's words, once; the next session tries anew."""
        self.path.mkdir()

        def fail() -> None:
            keeping = self.keep()
            self.reactor.refuse()
            self.successResultOf(keeping)

        (told,) = self.log_of(fail, fail)
        self.assertIn(f"{self.path} cannot be made: Is a directory", told)
        self.assertEqual([self.path.name], os.listdir(self.path.parent))
        self.path.rmdir()
        keeping = self.keep()
        (told,) = self.log_of(lambda: self.takes(self.started()))
        self.successResultOf(keeping)
        self.assertIn("are kept again", told)

    def test_refused(self) -> None:
        """A keeper that takes no more is told of like one that is not there."""
        keeping = self.keep()
        self.started().answer(b"refused " + ONE.encode() + b"\n")
        self.assertEqual(1, len(self.reactor.processes))
        self.successResultOf(keeping)

    def test_death(self) -> None:
        """Where a keeper dies another one is given what it had; what has ended by then is of no interest."""
        session, other = self.session(), self.session()
        first = self.keep(ONE, session)
        connection = self.started()
        self.takes(connection)
        self.successResultOf(first)
        second = self.keep(TWO, other)
        self.takes(connection, TWO)
        self.successResultOf(second)
        session.over = True
        (told,) = self.log_of(connection.close)
        self.assertIn("another one takes its place", told)
        self.reactor.advance(0)
        successor = self.started()
        self.assertEqual(b"keep " + TWO.encode() + b"\n", successor.value())
        self.takes(successor, TWO)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_end_with_nothing_to_keep(self) -> None:
        """A keeper that ends because nothing is left to keep is no news."""
        session = self.session()
        keeping = self.keep(ONE, session)
        connection = self.started()
        self.takes(connection)
        self.successResultOf(keeping)
        session.over = True
        self.assertEqual([], self.log_of(connection.close))
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_release(self) -> None:
        """An agent that ends tries once more to have all kept, and then says nothing more."""
        keeping = self.keep()
        self.reactor.refuse()
        self.reactor.refuse()
        self.successResultOf(keeping)
        releasing = Deferred.fromCoroutine(self.kept.release())
        connection = self.started()
        self.takes(connection)
        self.successResultOf(releasing)
        self.assertTrue(connection.disconnected)
        self.assertEqual([], self.log_of(connection.close))
        self.assertEqual([], self.reactor.getDelayedCalls())


class TakeTests(KeptSessionsTestCase):
    def take(self) -> tuple[Deferred[None], FakeConnection]:
        taking = Deferred.fromCoroutine(self.kept.take())
        connection = self.reactor.accept()
        self.assertEqual(b"give\n", connection.value())
        connection.clear()
        return taking, connection

    def inodes(self, sessions: list[TakenSession]) -> list[int]:
        """Those of their descriptors, which are closed."""
        inodes = []
        for session in sessions:
            inodes.append(os.fstat(session.descriptor).st_ino)
            self.assertFalse(os.get_inheritable(session.descriptor))
            os.close(session.descriptor)
        return inodes

    def gives(self, connection: FakeConnection, label: Label) -> FakeSession:
        session = self.session()
        connection.answer(b"session " + label.encode() + b"\n", session.descriptor)
        return session

    def test_nobody(self) -> None:
        """Where no keeper is there is nothing to take, and nothing to tell."""
        taking = Deferred.fromCoroutine(self.kept.take())
        self.assertEqual([], self.log_of(self.reactor.refuse))
        self.successResultOf(taking)
        self.assertEqual([], self.kept.claim("one"))

    def test_sessions(self) -> None:
        """Each instance gets the sessions with its workers, once; what nobody asks for is ended, the keeper's too."""
        taking, connection = self.take()
        one, two = self.gives(connection, ONE), self.gives(connection, TWO)
        connection.answer(b"end\n")
        self.successResultOf(taking)
        claimed = self.kept.claim("one")
        self.assertEqual([ONE], [session.label for session in claimed])
        self.assertEqual([one.inode], self.inodes(claimed))
        self.assertEqual([], self.kept.claim("one"))
        self.kept.drop_unclaimed()
        self.assertEqual(b"", two.ends[1].recv(1))

    def test_known_to_the_keeper(self) -> None:
        """What was taken over needs not be given back; another keeper would get it."""
        taking, connection = self.take()
        session = self.gives(connection, ONE)
        connection.answer(b"end\n")
        self.successResultOf(taking)
        self.inodes(self.kept.claim("one"))
        self.kept.taken_over(ONE, session)
        keeping = self.keep(TWO)
        self.assertEqual(b"keep " + TWO.encode() + b"\n", connection.value())
        self.takes(connection, TWO)
        self.successResultOf(keeping)
        connection.close()
        self.reactor.advance(0)
        self.assertEqual(b"keep " + ONE.encode() + b"\n", self.started().value())

    def test_nonsense(self) -> None:
        """Whoever is there and is no keeper is told of; what came with it is closed, and nothing is taken."""
        for text in (b"220 welcome\n", b"session x\nend\n", b"end of it\n", b"x" * 5000, b"session " + ONE.encode()):
            taking, connection = self.take()
            stray = self.session()

            def babble(connection: FakeConnection = connection, text: bytes = text, stray: FakeSession = stray) -> None:
                connection.answer(text, stray.descriptor)
                self.reactor.advance(KEEP_TIMEOUT)
                connection.close()

            (told,) = self.log_of(babble)
            self.successResultOf(taking)
            self.assertIn("cannot be taken over", told)
            self.assertEqual([], self.kept.claim("one"))
            stray.ends[0].close()
            self.assertEqual(b"", stray.ends[1].recv(1))
            self.assertEqual([], self.reactor.getDelayedCalls())
