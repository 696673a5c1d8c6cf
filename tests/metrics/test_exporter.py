"""One answer for all who ask for metrics at the same time."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.metrics import exporter
from amphora.metrics.exporter import FRESH, MOST_WAITING, SIZE_LIMIT, Metrics, MetricsExporter
from amphora.metrics.source import MetricsLate, MetricsUnavailable
from amphora.metrics.usage import Usage

LINE = b"haproxy_process_max_connections 7\n"


@define
class Haproxy:
    """A source that tells what, and when, the test says."""

    asked: list[tuple[Callable[[bytes], None], Deferred[None]]] = field(factory=list)

    async def fetch(self, take: Callable[[bytes], None]) -> None:
        done: Deferred[None] = Deferred()
        self.asked.append((take, done))
        await done

    def tell(self, text: bytes) -> None:
        take, done = self.asked[-1]
        take(text)
        done.callback(None)


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.haproxy = Haproxy()
        self.metrics = Metrics(self.clock, AtOnce(), self.haproxy, lambda: Usage(12.34, 56.78))

    def test_answer(self) -> None:
        """The machine's own figures come first, then haproxy's in Octavia's words."""
        asking = self.metrics.ask()
        self.haproxy.tell(LINE)
        answer = self.successResultOf(asking)
        self.assertEqual(200, answer.status)
        values = [line for line in answer.body.split(b"\n") if line and not line.startswith(b"#")]
        self.assertEqual(
            [
                b"octavia_loadbalancer_cpu 12.3",
                b"octavia_loadbalancer_memory 56.8",
                b"octavia_loadbalancer_max_connections 7",
            ],
            values,
        )

    def test_single_flight(self) -> None:
        """Who asks while haproxy is being asked, or shortly after, gets the same answer; later it is asked again."""
        asking = [self.metrics.ask() for _ in range(3)]
        self.haproxy.tell(LINE)
        answers = {self.successResultOf(each) for each in [*asking, self.metrics.ask()]}
        self.assertEqual((1, 1), (len(answers), len(self.haproxy.asked)))
        self.clock.advance(FRESH)
        self.assertNoResult(self.metrics.ask())
        self.assertEqual(2, len(self.haproxy.asked))

    def test_crowd(self) -> None:
        """Too many are told so at once; those who wait are answered."""
        asking = [self.metrics.ask() for _ in range(MOST_WAITING)]
        self.assertEqual(503, self.successResultOf(self.metrics.ask()).status)
        self.haproxy.tell(LINE)
        self.assertEqual({200}, {self.successResultOf(each).status for each in asking})

    def test_gone(self) -> None:
        """A client that goes away takes nothing from the others."""
        gone, stays = self.metrics.ask(), self.metrics.ask()
        gone.addErrback(lambda _: None)
        gone.cancel()
        self.haproxy.tell(LINE)
        self.assertEqual(200, self.successResultOf(stays).status)

    def test_all_gone(self) -> None:
        """When all have gone, the next one waits for the answer that is on its way; none is asked for beside it."""
        gone = self.metrics.ask()
        gone.addErrback(lambda _: None)
        gone.cancel()
        asking = self.metrics.ask()
        self.assertEqual(1, len(self.haproxy.asked))
        self.haproxy.tell(LINE)
        self.assertEqual(200, self.successResultOf(asking).status)

    def test_no_answer(self) -> None:
        """haproxy's silence is a gateway's error, with the reason."""
        for error, status in ((MetricsUnavailable("it is gone"), 502), (MetricsLate("it hangs"), 504)):
            asking = self.metrics.ask()
            self.haproxy.asked[-1][1].errback(error)
            answer = self.successResultOf(asking)
            self.assertEqual((status, f"{error}\n".encode()), (answer.status, answer.body))
            self.clock.advance(FRESH)

    def test_torn(self) -> None:
        """Half of the metrics are none."""
        asking = self.metrics.ask()
        self.haproxy.tell(LINE[:-1])
        self.assertEqual(502, self.successResultOf(asking).status)

    def test_endless(self) -> None:
        """What never ends is not kept."""
        self.metrics.ask()
        take, _ = self.haproxy.asked[-1]
        take(b"x" * SIZE_LIMIT)
        self.assertRaises(MetricsUnavailable, take, b"x")

    def test_unforeseen(self) -> None:
        """A fault of ours is logged and told, and the next one who asks is served."""
        asking = self.metrics.ask()
        self.haproxy.asked[-1][1].errback(ZeroDivisionError())
        self.assertEqual(500, self.successResultOf(asking).status)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.clock.advance(FRESH)
        asking = self.metrics.ask()
        self.haproxy.tell(LINE)
        self.assertEqual(200, self.successResultOf(asking).status)


class ListeningPort:
    stopped = False

    def stopListening(self) -> None:
        self.stopped = True


class PortReactor(Clock):
    """Adopts listening sockets, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[ListeningPort] = []

    def adoptStreamPort(self, fileno: int, family: socket.AddressFamily, factory: object) -> ListeningPort:
        self.ports.append(ListeningPort())
        return self.ports[-1]


class ExporterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = PortReactor()
        self.problem: OSError | None = None
        self.wanted = False
        metrics = Metrics(self.reactor, AtOnce(), Haproxy(), lambda: Usage(0, 0))
        self.exporter = MetricsExporter(
            cast(Any, self.reactor), AtOnce(), metrics, open_port=self.open_port, wanted=lambda: self.wanted
        )

    def open_port(self) -> socket.socket:
        if self.problem is not None:
            raise self.problem
        return socket.socket()

    def look(self) -> None:
        self.reactor.advance(exporter.LOOK_INTERVAL)

    def test_on_demand(self) -> None:
        """The port is open for as long as a configuration has a PROMETHEUS listener."""
        self.exporter.startService()
        self.look()
        self.assertEqual([], self.reactor.ports)
        self.wanted = True
        self.look()
        self.look()
        self.assertEqual([False], [port.stopped for port in self.reactor.ports])
        self.wanted = False
        self.look()
        self.assertEqual([True], [port.stopped for port in self.reactor.ports])
        self.wanted = True
        self.look()
        self.successResultOf(self.exporter.stopService())
        self.assertEqual([True, True], [port.stopped for port in self.reactor.ports])
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_taken(self) -> None:
        """A port that another program has is told once, and had once it is free."""
        self.wanted, self.problem = True, OSError(98, "Address already in use")
        with capturedLogs() as events:
            self.exporter.startService()
            self.look()
            self.look()
        errors = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertEqual(1, len(errors))
        self.problem = None
        self.look()
        self.assertEqual(1, len(self.reactor.ports))
        self.successResultOf(self.exporter.stopService())
