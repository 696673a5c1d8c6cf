"""
What a PROMETHEUS listener serves: the controller's configuration sends its requests to a port of the amphora's
namespace, where we answer with haproxy's metrics in Octavia's words.

haproxy is asked once for all who ask at the same time, and again only a second later; an answer is kept once for all
who are given it, and nobody can take longer over it than L{LIFETIME}.  So clients, who are anybody, decide neither how
much we do nor how much we keep: an answer for each second of it, at most.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, Final, Protocol, cast

from attrs import define, field, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorSocket,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.static import NoRangeStaticProducer

from amphora.blocking import BlockingCalls
from amphora.metrics.source import LOOPBACK, MetricsLate, MetricsUnavailable
from amphora.metrics.translation import Translator
from amphora.metrics.usage import Usage

EXPORTER_PORT: Final = 9102
"""Where the controller's configuration sends a PROMETHEUS listener's requests."""
CONTENT_TYPE: Final = b"text/plain; version=0.0.4"
FRESH: Final = 1.0
"""Seconds that an answer is given again."""
MOST_CONNECTIONS: Final = 64
"""Connections at a time; haproxy answers those of its clients beyond with 503."""
LIFETIME: Final = 10.0
"""Seconds that a connection lasts, whatever happens on it: each carries one request."""
SIZE_LIMIT: Final = 64 * 1024 * 1024
LOOK_INTERVAL: Final = 1.0
"""Seconds from one look whether it is wanted to the next: so long a new listener's clients may hear 503."""


class IExporterReactor(IReactorSocket, IReactorTime):
    """What serving metrics needs of a reactor."""


class Source(Protocol):
    """Tells metrics in haproxy's words; L{amphora.metrics.source.HaproxySource} is one."""

    def fetch(self, take: Callable[[bytes], None]) -> Coroutine[Deferred[Any], Any, None]: ...


@frozen
class _Answer:
    status: int
    body: bytes


def open_port() -> socket.socket:
    """
    Listen on the exporter's port; call it inside the namespace.

    @raise OSError: if it is taken.
    """
    return socket.create_server((LOOPBACK, EXPORTER_PORT), backlog=MOST_CONNECTIONS)


@define(eq=False)
class Metrics:
    """The answer to whoever asks, made once for all of them."""

    _log = Logger()

    _clock: IReactorTime
    _blocking: BlockingCalls
    _source: Source
    _usage: Callable[[], Usage]
    """Called in a thread."""
    _waiting: list[Deferred[_Answer]] = field(init=False, factory=list)
    _fresh: _Answer | None = field(init=False, default=None)

    def ask(self) -> Deferred[_Answer]:
        """What to answer, within the source's deadline."""
        # Who goes away keeps its place until the answer is there: else a second question would be put beside the first.
        answer: Deferred[_Answer] = Deferred(lambda _: None)
        if self._fresh is not None:
            answer.callback(self._fresh)
        else:
            self._waiting.append(answer)
            if len(self._waiting) == 1:
                Deferred.fromCoroutine(self._make()).addErrback(self._failed).addCallback(self._tell)
        return answer

    async def _make(self) -> _Answer:
        usage = await self._blocking.run(self._usage)
        translator = Translator()
        parts = [usage.text]
        size = 0

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > SIZE_LIMIT:
                raise MetricsUnavailable(f"haproxy's metrics are more than {SIZE_LIMIT} bytes")
            parts.append(translator.feed(data))

        try:
            await self._source.fetch(take)
            if not translator.complete:
                raise MetricsUnavailable("haproxy's metrics ended in the middle of a line")
        except MetricsUnavailable as problem:
            return _Answer(504 if isinstance(problem, MetricsLate) else 502, f"{problem}\n".encode())
        return _Answer(200, b"".join(parts))

    def _failed(self, reason: Failure) -> _Answer:
        self._log.failure("metrics cannot be told", reason)
        return _Answer(500, b"metrics cannot be told; the agent's log says why\n")

    def _tell(self, answer: _Answer) -> None:
        self._fresh = answer
        self._clock.callLater(FRESH, self._forget)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(answer)

    def _forget(self) -> None:
        self._fresh = None


class MetricsResource(Resource):
    """Answers any path: which one is asked for is haproxy's and its client's."""

    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Request) -> int:
        # The header alone has Twisted wait for another request.
        cast(Any, request.channel).persistent = False
        asking = self._metrics.ask()

        def answer(answer: _Answer) -> None:
            request.setResponseCode(answer.status)
            request.setHeader(b"Cache-Control", b"no-cache")
            request.setHeader(b"Connection", b"close")
            request.setHeader(b"Content-Type", CONTENT_TYPE)
            request.setHeader(b"Content-Length", b"%d" % len(answer.body))
            if request.method == b"HEAD":
                request.finish()
            else:
                # In pieces as they are taken: the body itself stays one for all.
                NoRangeStaticProducer(request, BytesIO(answer.body)).start()

        request.notifyFinish().addErrback(lambda _: asking.cancel())
        asking.addCallbacks(answer, lambda _: None)
        return NOT_DONE_YET


class _ShortLived(ProtocolWrapper):
    """A connection that is ended after its time."""

    def makeConnection(self, transport: ITransport) -> None:
        super().makeConnection(transport)
        self._end = self.factory.callLater(LIFETIME, cast(ITCPTransport, transport).abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._end.active():
            self._end.cancel()
        super().connectionLost(reason)


class _Few(WrappingFactory):
    """Takes so many connections at a time; another one is closed at once."""

    protocol = _ShortLived
    noisy = False

    def __init__(self, clock: IReactorTime, site: Site) -> None:
        super().__init__(cast(Any, site))
        self.callLater = clock.callLater

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]
        # Twisted closes what is given no protocol; only its wrapping factory does not say so.
        return None if len(self.protocols) >= MOST_CONNECTIONS else super().buildProtocol(addr)


class MetricsExporter(Service):
    """Listens for as long as a configuration has a PROMETHEUS listener."""

    _log = Logger()

    def __init__(
        self,
        reactor: IExporterReactor,
        blocking: BlockingCalls,
        metrics: Metrics,
        *,
        open_port: Callable[[], socket.socket],
        wanted: Callable[[], bool],
    ) -> None:
        """
        @param open_port: Listens in the amphora's namespace; may block.
        @param wanted: Tells whether a configuration has a PROMETHEUS listener.
        """
        self._reactor = reactor
        self._blocking = blocking
        self._site: Any = _Few(reactor, Site(MetricsResource(metrics), timeout=None, reactor=reactor))
        self._open_port = open_port
        self._wanted = wanted
        self._port: IListeningPort | None = None
        self._problem: str | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(LOOK_INTERVAL)

    def _look(self) -> Deferred[None] | None:
        wanted = self._wanted()
        if not wanted:
            self._problem = None
        if wanted == (self._port is not None):
            return None
        settling = Deferred.fromCoroutine(self._listen() if wanted else self._close())
        return settling.addErrback(lambda reason: self._log.failure("the metrics' port cannot be seen to", reason))

    async def _listen(self) -> None:
        try:
            listening = await self._blocking.run(self._open_port)
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self._problem:
                self._log.error(
                    "Metrics cannot be told, which is tried again: {host}:{port} in the amphora's namespace: {problem}."
                    " Another exporter there has to be stopped",
                    host=LOOPBACK,
                    port=EXPORTER_PORT,
                    problem=problem,
                )
            self._problem = problem
            return
        with listening:
            if self.running and self._port is None:
                listening.setblocking(False)
                self._port = self._reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, self._site)
                self._problem = None

    async def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await _stopped(port)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._close())


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping
