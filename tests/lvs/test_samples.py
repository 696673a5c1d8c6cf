"""Tests for L{amphora.lvs.samples}."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.lvs.kernel import Ipvs, IpvsMissing, parse_table
from amphora.lvs.run import LvsRun
from amphora.lvs.sample import LvsSample, sample_of
from amphora.lvs.samples import LvsSamples
from amphora.process import ProcessIdentity
from amphora.testing.fakes import CallsLater
from tests.lvs.samples import LISTENER, POOL, config, table

OTHER = "bbbbbbbb-0000-4000-8000-000000000002"
NAMESPACE = "amphora-haproxy"
RUN = LvsRun(LISTENER, config("udp"), ProcessIdentity(70, 1500), settled=True)
IPVS = Ipvs(parse_table(table("udp-v4")), {})
TIMEOUT = 2.0


class LvsSamplesTests(SynchronousTestCase):
    """Asking the kernel, which may not answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.blocking = CallsLater()
        self.runs: Sequence[LvsRun] | Exception = [RUN]
        self.kernel: Ipvs | Exception = IPVS
        self.asked: list[str] = []
        self.samples = LvsSamples(self.clock, self.blocking, NAMESPACE, self.listeners, self.read)

    def listeners(self) -> Sequence[LvsRun]:
        if isinstance(self.runs, Exception):
            raise self.runs
        return self.runs

    def read(self, namespace: str) -> Ipvs:
        self.asked.append(namespace)
        if isinstance(self.kernel, Exception):
            raise self.kernel
        return self.kernel

    def ask(self) -> Deferred[list[LvsSample]]:
        return Deferred.fromCoroutine(self.samples.samples(TIMEOUT))

    def told(self) -> list[LvsSample]:
        """What is told, when the kernel answers at once."""
        asked = self.ask()
        self.blocking.make_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.successResultOf(asked)

    def errors(self, logs: Sequence[LogEvent]) -> list[str]:
        """What an operator reads of these; the last word, that all is well again, is none of them."""
        return [event["problem"] for event in logs if event["log_level"] is LogLevel.error]

    def test_asked(self) -> None:
        """The kernel is asked once for all listeners, in the load balancers' namespace."""
        self.runs = [RUN, evolve(RUN, listener_id=OTHER)]
        self.assertEqual(self.told(), [sample_of(run, IPVS) for run in self.runs])
        self.assertEqual(self.asked, [NAMESPACE])

    def test_no_listeners(self) -> None:
        """An amphora without such listeners never asks: it may well have no IPVS, and nobody misses it."""
        self.runs = []
        self.kernel = IpvsMissing()
        with capturedLogs() as logs:
            self.assertEqual(self.told(), [])
        self.assertEqual((self.asked, logs), ([], []))

    def test_no_pools(self) -> None:
        """Listeners that have no pool yet are told without a question, and nobody misses IPVS."""
        self.runs = [evolve(RUN, config=config("udp-no-pool"))]
        self.kernel = IpvsMissing()
        with capturedLogs() as logs:
            self.assertEqual(self.told(), [sample_of(self.runs[0], Ipvs({}, {}))])
        self.assertEqual((self.asked, logs), ([], []))

    def test_missing(self) -> None:
        """Without IPVS nothing is balanced: listeners are told, their checked members are down, and it is said once."""
        self.kernel = IpvsMissing()
        with capturedLogs() as logs:
            for _ in range(3):
                (sample,) = self.told()
        assert sample.answer is not None
        self.assertEqual(list(sample.answer.listeners), [LISTENER])
        self.assertEqual(sample.answer.pools[POOL].status, "DOWN")
        (problem,) = self.errors(logs)
        self.assertIn("ip_vs", problem)

    def test_B2_cannot_be_asked(self) -> None:
        """Where the kernel cannot be asked, listeners are there without an answer; that and its end are said once."""
        self.kernel = OSError(2, "No such file or directory", NAMESPACE)
        with capturedLogs() as logs:
            for _ in range(3):
                self.assertEqual(self.told(), [LvsSample(LISTENER)])
            self.kernel = IPVS
            for _ in range(2):
                self.assertEqual(self.told(), [sample_of(RUN, IPVS)])
        (problem,) = self.errors(logs)
        self.assertIn(NAMESPACE, problem)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error, LogLevel.info])

    def test_uncounted(self) -> None:
        """Where it does not tell counters alone, all else is told."""
        self.kernel = evolve(IPVS, counters=None, problem="Operation not permitted")
        with capturedLogs() as logs:
            for _ in range(3):
                (sample,) = self.told()
        self.assertEqual((sample.answer, sample.traffic), (sample_of(RUN, IPVS).answer, None))
        (problem,) = self.errors(logs)
        self.assertIn("Operation not permitted", problem)

    def test_B3_hangs(self) -> None:
        """A kernel that does not answer is not waited for, nor asked by one thread more; its answer is heard later."""
        with capturedLogs() as logs:
            for _ in range(3):
                asked = self.ask()
                self.clock.advance(TIMEOUT)
                self.assertEqual(self.successResultOf(asked), [LvsSample(LISTENER)])
        self.assertEqual((self.blocking.waiting, len(self.errors(logs))), (1, 1))
        asked = self.ask()
        self.blocking.make_all()
        self.assertEqual(self.successResultOf(asked), [sample_of(RUN, IPVS)])
        self.assertEqual(self.asked, [NAMESPACE])

    def test_together(self) -> None:
        """Whoever asks while an answer is awaited is given the same."""
        first, second = self.ask(), self.ask()
        self.blocking.make_all()
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(self.asked, [NAMESPACE])

    def test_B2_any_failure(self) -> None:
        """Whatever else fails costs these listeners their answers, and nobody else anything."""
        self.told()
        self.runs = ValueError("no")
        with capturedLogs() as logs:
            for _ in range(2):
                self.assertEqual(self.told(), [LvsSample(LISTENER)])
        self.assertEqual(len(self.errors(logs)), 1)

    def test_cancelled(self) -> None:
        """Who gives up waiting leaves nothing behind."""
        asked = self.ask()
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.blocking.make_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.told(), [sample_of(RUN, IPVS)])
