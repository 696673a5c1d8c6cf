"""Where a load balancer's metrics come from: haproxy's exporter, which listens in the amphora's namespace only."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorSocket,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from amphora.blocking import BlockingCalls
from amphora.waiting import within

LOOPBACK: Final = "127.0.0.1"
HAPROXY_PORT: Final = 9101
"""Where the controller has haproxy tell its metrics to us, in C{prometheus-exporter-internal-endpoint}."""
CONNECT_TIMEOUT: Final = 2.0
DEADLINE: Final = 4.0
"""Seconds until a scrape is given up: the controller has haproxy wait for our answer for five."""


class ISourceReactor(IReactorSocket, IReactorTime):
    """What fetching needs of a reactor."""


class MetricsUnavailable(Exception):
    """haproxy does not tell its metrics; the text says why."""


class MetricsLate(MetricsUnavailable):
    """haproxy is there, but does not tell them in time."""


def connect_to_haproxy() -> socket.socket:
    """
    Connect to haproxy's exporter; call it inside the namespace.  Blocks, for a moment.

    @raise OSError: if nobody listens.
    """
    return socket.create_connection((LOOPBACK, HAPROXY_PORT), CONNECT_TIMEOUT)


@define(eq=False)
class HaproxySource:
    """Fetches the metrics of the haproxy that has a PROMETHEUS listener."""

    _reactor: ISourceReactor
    _blocking: BlockingCalls
    _connect: Callable[[], socket.socket]

    async def fetch(self, take: Callable[[bytes], None]) -> None:
        """
        Ask once.

        @param take: Given each part of the text as it arrives.
        @raise MetricsUnavailable: if haproxy does not answer; L{MetricsLate} if it takes too long.
        """
        connection = _Connection(self._reactor, self._blocking, self._connect)
        try:
            await within(self._reactor, DEADLINE, Deferred.fromCoroutine(self._fetch(connection, take)))
        except TimeoutError:
            raise MetricsLate(f"haproxy did not tell its metrics within {DEADLINE:g} s") from None
        finally:
            connection.close()

    async def _fetch(self, connection: _Connection, take: Callable[[bytes], None]) -> None:
        # Few amphorae have such a listener: the others need not load an HTTP client.
        from twisted.web.client import Agent, ResponseFailed

        agent = Agent.usingEndpointFactory(self._reactor, connection)
        try:
            response = await agent.request(b"GET", b"http://%b:%d/metrics" % (LOOPBACK.encode(), HAPROXY_PORT))
            if response.code != 200:
                raise MetricsUnavailable(f"haproxy answered {response.code} when asked for its metrics")
            await _body(response, take)
        except OSError as error:
            raise MetricsUnavailable(f"haproxy cannot be asked for its metrics: {error.strerror or error}") from None
        except (ResponseFailed, CancelledError, ConnectionError):
            raise MetricsUnavailable("haproxy broke off while it told its metrics") from None


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
@define(eq=False)
class _Connection:
    """One connection that is made in another namespace, and used by the reactor."""

    _reactor: IReactorSocket
    _blocking: BlockingCalls
    _connect: Callable[[], socket.socket]
    _transport: ITCPTransport | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._adopt(protocolFactory))

    async def _adopt(self, factory: IProtocolFactory) -> IProtocol:
        connected = await self._blocking.run(self._connect)
        with connected:
            if self._closed:
                raise ConnectionAbortedError("nobody waits any more")
            connected.setblocking(False)
            reactor = cast(Any, self._reactor)
            adopted = reactor.adoptStreamConnection(connected.fileno(), socket.AF_INET, factory)
        self._transport = adopted
        return cast(IProtocol, adopted.protocol)

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abortConnection()


class _Body(Protocol):
    def __init__(self, take: Callable[[bytes], None], done: Deferred[None]) -> None:
        self._take = take
        self._done = done

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        try:
            self._take(data)
        except MetricsUnavailable as problem:
            self._done.errback(problem)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        from twisted.web.client import ResponseDone

        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self._done.callback(None)
        else:
            self._done.errback(reason)


def _body(response: IResponse, take: Callable[[bytes], None]) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    response.deliverBody(_Body(take, done))
    return done
