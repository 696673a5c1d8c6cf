"""Workers that a reload left to finish."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.old_workers import OldWorker
from amphora.loadbalancer.sockets import NoAnswer
from amphora.loadbalancer.stats import Frontend, Stats, UnreadableStats
from amphora.process import ProcessIdentity

PROCESS = ProcessIdentity(7, 100)
FIRST = Stats(7, "2.6", (Frontend("f", "OPEN", 3, 5, 10, 20, 0),), ())


def answer(current: int, sent: int, *, stopping: int, pid: int = 7) -> bytes:
    """What haproxy says of one frontend."""
    columns = ["f", "FRONTEND", "", "", str(current), "", "", "5", "10", str(sent), "", "", "0"]
    row = ",".join([*columns, "", "", "", "", "STOP", "", ""])
    return f"Pid: {pid}\nStopping: {stopping}\n\n# pxname,svname,\n{row},\n\n".encode()


class OldWorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reply: bytes | Exception = answer(3, 20, stopping=1)
        self.closed = 0
        self.asked = 0
        self.worker = OldWorker(PROCESS, FIRST, self.ask, self.close)

    async def ask(self, timeout: float) -> bytes:
        self.asked += 1
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def close(self) -> None:
        self.closed += 1

    def read(self, reply: bytes | Exception) -> tuple[int, bool]:
        """Let it be asked: the bytes that it has told then, and whether that is its last word."""
        self.reply = reply
        self.successResultOf(Deferred.fromCoroutine(self.worker.read(1.0)))
        return self.worker.stats.frontends[0].bytes_out, self.worker.final

    def test_life(self) -> None:
        """It is held as long as it has sessions; without any, its figures are final, and it is let go, once."""
        self.assertEqual((20, False), self.read(answer(3, 20, stopping=1)))
        self.assertEqual((25, False), self.read(answer(1, 25, stopping=1)))
        self.assertEqual(0, self.closed)
        self.assertEqual((30, True), self.read(answer(0, 30, stopping=1)))
        self.assertEqual((30, True), self.read(answer(0, 99, stopping=1)))
        self.assertEqual((1, 3), (self.closed, self.asked))

    def test_not_yet_stopping(self) -> None:
        """One that still takes connections is not done, though it has none at this moment."""
        self.assertEqual((20, False), self.read(answer(0, 20, stopping=0)))

    def test_gone(self) -> None:
        """When it is gone, what it said last stands."""
        self.read(answer(2, 25, stopping=1))
        self.assertEqual((25, True), self.read(NoAnswer("gone")))

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
        self.assertEqual((expected,), self.worker.stats.frontends)
