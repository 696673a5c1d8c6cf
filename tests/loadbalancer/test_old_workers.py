"""Workers that a reload left to finish."""

from __future__ import annotations

import errno
import os
import socket

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer import old_workers
from amphora.loadbalancer.old_workers import OldWorker, StatsSession
from amphora.loadbalancer.sockets import NoAnswer
from amphora.loadbalancer.stats import Frontend, Stats, UnreadableStats
from amphora.process import ProcessIdentity
from amphora.testing.fakes import FakeConnection, FakeSocketReactor

PROCESS = ProcessIdentity(7, 100)
FIRST = Stats(7, "2.6", (Frontend("f", "OPEN", 3, 5, 10, 20, 0),), ())


def answer(current: int, sent: int, *, stopping: int, pid: int = 7) -> bytes:
    """What haproxy says of one frontend."""
    columns = ["f", "FRONTEND", "", "", str(current), "", "", "5", "10", str(sent), "", "", "0"]
    row = ",".join([*columns, "", "", "", "", "STOP", "", "", "", "", ""])
    return f"Pid: {pid}\nStopping: {stopping}\n\n# pxname,svname,\n{row},\n\n".encode()


class OldWorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeSocketReactor()
        self.session = StatsSession()
        self.connection = FakeConnection(self.session)
        self.questions: list[Deferred[bytes]] = []
        self.worker = OldWorker(PROCESS, FIRST, self.ask, self.session)

    def ask(self) -> Deferred[bytes]:
        self.questions.append(Deferred())
        return self.questions[-1]

    @property
    def closed(self) -> int:
        return int(self.connection.disconnecting)

    def read(self, reply: bytes | Exception | None) -> tuple[int, bool]:
        """
        Let it be asked, and reply, or not within a second: the bytes that it has told then, and whether that is its
        last word.
        """
        reading = Deferred.fromCoroutine(self.worker.read(self.reactor, 1.0))
        if isinstance(reply, Exception):
            self.questions[-1].errback(reply)
        elif reply is not None:
            self.questions[-1].callback(reply)
        else:
            self.reactor.advance(1.0)
        self.successResultOf(reading)
        self.assertEqual([], self.reactor.getDelayedCalls())
        assert self.worker.stats is not None
        return self.worker.stats.frontends[0].bytes_out, self.worker.final

    def test_life(self) -> None:
        """It is held as long as it has sessions; without any, its figures are final, and it is let go, once."""
        self.assertEqual((20, False), self.read(answer(3, 20, stopping=1)))
        self.assertEqual((25, False), self.read(answer(1, 25, stopping=1)))
        self.assertEqual(0, self.closed)
        self.assertEqual((30, True), self.read(answer(0, 30, stopping=1)))
        self.successResultOf(Deferred.fromCoroutine(self.worker.read(self.reactor, 1.0)))
        self.assertEqual((1, 3), (self.closed, len(self.questions)))

    def test_not_yet_stopping(self) -> None:
        """One that still takes connections is not done, though it has none at this moment."""
        self.assertEqual((20, False), self.read(answer(0, 20, stopping=0)))

    def test_gone(self) -> None:
        """When it is gone, what it said last stands."""
        self.read(answer(2, 25, stopping=1))
        self.assertEqual((25, True), self.read(NoAnswer("gone")))

    def test_hung(self) -> None:
        """One that does not answer is not asked again, but waited for again, and held meanwhile."""
        self.assertEqual((20, False), self.read(None))
        self.assertEqual((20, False), self.read(None))
        self.assertEqual((25, False), self.read(answer(2, 25, stopping=1)))
        self.assertEqual((0, 1), (self.closed, len(self.questions)))
        self.assertEqual((30, False), self.read(answer(2, 30, stopping=1)))
        self.assertEqual(2, len(self.questions))

    def test_let_go_while_asked(self) -> None:
        """One that is let go is not asked any longer; what it says after all changes nothing."""
        reading = Deferred.fromCoroutine(self.worker.read(self.reactor, 1.0))
        self.worker.finish()
        self.successResultOf(reading)
        self.questions[-1].callback(answer(2, 25, stopping=1))
        assert self.worker.stats is not None
        self.assertEqual((20, 1), (self.worker.stats.frontends[0].bytes_out, self.closed))

    def test_asked_through_its_master(self) -> None:
        """One that is not held is done only when it is gone: its master may just be busy."""
        own = ProcessIdentity.current()
        self.worker = OldWorker(own, None, self.ask)
        self.successResultOf(self.failing())
        self.assertEqual((None, False), (self.worker.stats, self.worker.final))
        self.assertEqual((25, False), self.read(answer(2, 25, stopping=1, pid=own.pid)))
        self.worker.process = PROCESS
        self.successResultOf(self.failing())
        self.assertTrue(self.worker.final)

    def failing(self) -> Deferred[None]:
        reading = Deferred.fromCoroutine(self.worker.read(self.reactor, 1.0))
        self.questions[-1].errback(NoAnswer("busy"))
        return reading

    def test_unreadable(self) -> None:
        """An answer that cannot be read changes nothing."""
        self.assertEqual((20, False), self.read(b"nonsense"))
        self.assertEqual((20, False), self.read(UnreadableStats("nonsense")))

    def test_somebody_else(self) -> None:
        """Figures of another process are not its own."""
        self.assertEqual((20, False), self.read(answer(0, 99, stopping=1, pid=8)))

    def test_same_figures(self) -> None:
        """What is told of it is told as haproxy says it."""
        self.read(answer(0, 30, stopping=1))
        expected = evolve(FIRST.frontends[0], current=0, bytes_out=30, status="STOP")
        assert self.worker.stats is not None
        self.assertEqual((expected,), self.worker.stats.frontends)


class StatsSessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = StatsSession("AMPHORA_LOAD=abc", astray=True)
        self.connection = FakeConnection(self.session)

    def asked(self) -> bytes:
        """What it was asked since the last time."""
        asked: bytes = self.connection.value()
        self.connection.clear()
        return asked

    def answers_figures(self, table: bytes = b"# pxname,svname,\n\n") -> bytes:
        """Let it be asked for both parts of the figures.  @return: What it is answered."""
        self.assertEqual(b"show info\n", self.asked())
        self.connection.answer(b"Pid: 7\n\n> ")
        self.assertEqual(b"show stat -1 7 -1\n", self.asked())
        self.connection.answer(table + b"> ")
        return b"Pid: 7\n\n" + table

    def test_finds_its_place(self) -> None:
        """
        What an earlier agent has asked and not read is passed over, however it comes, and whatever in it looks like a
        prompt or the answer to somebody else's question.
        """
        figures = Deferred.fromCoroutine(self.session.figures())
        self.assertEqual(b"show env AMPHORA_LOAD\n", self.asked())
        for piece in (b"half a row", b"\n> ", b"AMPHORA_LOAD=xyz\n\n> ", b"\n> AMPHORA_LO", b"AD=abc\n", b"\n>"):
            self.connection.answer(piece)
            self.assertEqual(b"", self.asked())
        self.connection.answer(b" ")
        expected = self.answers_figures()
        self.assertEqual(expected, self.successResultOf(figures))
        figures = Deferred.fromCoroutine(self.session.figures())
        self.assertEqual(expected, (self.answers_figures(), self.successResultOf(figures))[1])

    def test_lost_its_place(self) -> None:
        """After an answer that made no sense it is looked for again."""
        self.test_finds_its_place()
        worker = OldWorker.held_by(self.session, PROCESS, None)
        reading = Deferred.fromCoroutine(worker.read(FakeSocketReactor(), 1.0))
        self.answers_figures(b"half a row\n")
        self.successResultOf(reading)
        Deferred.fromCoroutine(worker.read(FakeSocketReactor(), 1.0))
        self.assertEqual(b"show env AMPHORA_LOAD\n", self.asked())

    def test_left_and_ended(self) -> None:
        """One that is left is not shut down, as one is that is ended; neither can be asked any more."""
        self.session.leave()
        self.assertTrue(self.connection.aborted)
        ended = StatsSession()
        connection = FakeConnection(ended)
        ended.close()
        self.assertEqual((True, False), (connection.disconnecting, connection.aborted))
        for session in (self.session, ended):
            self.assertTrue(session.over)
            self.failureResultOf(session.ask(b"anything\n"), NoAnswer)

    def test_not_taken_over(self) -> None:
        """A session that cannot be taken over is ended for whoever else has it: its worker waits for nobody."""

        class Full(FakeSocketReactor):
            def adoptStreamConnection(self, *args: object) -> None:
                raise OSError(errno.EMFILE, "Too many open files")

        ours, workers = socket.socketpair()
        self.addCleanup(workers.close)
        with ours, ours.dup():
            self.assertRaises(NoAnswer, StatsSession.go_on, Full(), os.dup(ours.fileno()), "mark")
            workers.setblocking(False)
            self.assertEqual(b"", workers.recv(1))

    def test_endless_answer(self) -> None:
        """A session whose answer never ends is ended, for all that have it."""
        self.patch(old_workers, "ANSWER_LIMIT", 100)
        figures = Deferred.fromCoroutine(self.session.figures())
        self.connection.answer(b"x" * 101)
        self.assertEqual((True, False), (self.connection.disconnecting, self.connection.aborted))
        self.connection.close()
        self.failureResultOf(figures, NoAnswer)
