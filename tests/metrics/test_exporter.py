"""One answer for all who ask for metrics at the same time."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import Site

from amphora.blocking import AtOnce
from amphora.metrics import exporter
from amphora.metrics.exporter import (
    FRESH,
    LIFETIME,
    MOST_CONNECTIONS,
    SIZE_LIMIT,
    Metrics,
    MetricsExporter,
    MetricsResource,
)
from amphora.metrics.source import MetricsLate, MetricsUnavailable
from amphora.metrics.usage import Usage
from tests.integration.harness import read_all

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


class AbortableTransport(StringTransport):
    """A connection whose other end takes what it is given when it likes."""

    aborting = False

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol

    def abortConnection(self) -> None:
        self.aborting = True


class PortReactor(Clock):
    """Adopts listening sockets, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[ListeningPort] = []
        self.factory: Any = None

    def adoptStreamPort(self, fileno: int, family: socket.AddressFamily, factory: object) -> ListeningPort:
        self.factory = factory
        self.ports.append(ListeningPort())
        return self.ports[-1]


class ExporterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = PortReactor()
        self.problem: OSError | None = None
        self.wanted = False
        self.haproxy = Haproxy()
        metrics = Metrics(self.reactor, AtOnce(), self.haproxy, lambda: Usage(0, 0))
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

    def connect(self) -> AbortableTransport | None:
        protocol = self.reactor.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        if protocol is None:
            return None
        transport = AbortableTransport(protocol)
        protocol.makeConnection(transport)
        return transport

    def test_crowd(self) -> None:
        """Connections beyond the limit are closed at once, and none lasts longer than its time."""
        self.wanted = True
        self.exporter.startService()
        transports = [self.connect() for _ in range(MOST_CONNECTIONS)]
        self.assertIsNone(self.connect())
        self.reactor.advance(LIFETIME)
        self.assertEqual({True}, {transport is not None and transport.aborting for transport in transports})
        self.successResultOf(self.exporter.stopService())


class PiecesTests(TestCase):
    async def test_large_answer(self) -> None:
        """A large answer is given in pieces, as they are taken, and comes whole to each who asks."""
        from twisted.internet import reactor

        real = cast(Any, reactor)
        haproxy = Haproxy()
        metrics = Metrics(real, AtOnce(), haproxy, lambda: Usage(0, 0))
        listening = real.listenTCP(0, Site(MetricsResource(metrics)), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)

        def scrape() -> bytes:
            with socket.create_connection(("127.0.0.1", listening.getHost().port), timeout=60) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
                return read_all(connection)

        scraping = [deferToThread(scrape) for _ in range(3)]
        while not haproxy.asked:
            await deferLater(real, 0.01)
        haproxy.tell(100_000 * LINE)
        for answer in await gatherResults(scraping):
            self.assertEqual(100_000, answer.count(b"\noctavia_loadbalancer_max_connections 7"))
        # Its answer is fresh for a moment, which the clock remembers.
        await deferLater(real, FRESH)
