"""The API's listening port."""

from __future__ import annotations

from typing import Any, cast

from attrs import define
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime, ITransport
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from amphora.api.channel import AmphoraChannel, AmphoraSite
from amphora.api.self_test import require_refusal
from amphora.api.tls import MutualTLS

_BACKLOG = 1024
_LAST_ANSWERS = 30.0
"""Seconds for requests that are at work when the agent ends."""


class IApiReactor(IReactorTCP, IReactorTime):
    """What serving needs of a reactor."""


@define
class Records:
    """Tells where the records of a TLS stream end: each has five bytes of a head, the last two of them its length."""

    begun: int = 0
    _head: bytes = b""
    _left: int = 0

    def size_of_next(self, data: bytes) -> int:
        """How many of the bytes that follow belong to one record: the one that is under way, or the next."""
        of_head = 0
        if not self._left:
            self.begun += not self._head
            of_head = min(5 - len(self._head), len(data))
            self._head += data[:of_head]
            if len(self._head) < 5:
                return of_head
            self._left = int.from_bytes(self._head[3:])
            self._head = b""
        of_body = min(self._left, len(data) - of_head)
        self._left -= of_body
        return of_head + of_body


class StrangerBounds(BufferingTLSTransport):
    """TLS that a client has to be sparing with until it was verified.  Afterwards it is plain TLS."""

    _said = 0

    def makeConnection(self, transport: ITransport) -> None:
        self._records = Records()
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        channel = cast(AmphoraChannel, self.wrappedProtocol)
        # One record at a time: nobody knows in which of them a stranger becomes a client.
        while data and not channel.verified:
            size = self._records.size_of_next(data)
            now, data = data[:size], data[size:]
            self._said += size
            if channel.shakes_hands and self._said > channel.limits.handshake_size:
                channel.end_flood(f"more than {channel.limits.handshake_size} bytes of a handshake")
                return
            if self._records.begun > channel.limits.stranger_records:
                channel.end_flood(f"more than {channel.limits.stranger_records} TLS records of a stranger")
                return
            super().dataReceived(now)
        if data:
            super().dataReceived(data)


class ApiFactory(TLSMemoryBIOFactory):
    """Puts TLS under a site's channels."""

    protocol = StrangerBounds


class ApiService(Service):
    """
    Serves a site over mutual TLS.

    The address `::` takes IPv4 clients as well.
    """

    _log = Logger()

    def __init__(self, reactor: IApiReactor, site: AmphoraSite, tls: MutualTLS, host: str, port: int) -> None:
        self._reactor = reactor
        self._site = site
        self._tls = tls
        self._host = host
        self._port = port
        self._listening: IListeningPort | None = None

    def startService(self) -> None:
        """
        @raise CannotListenError: if the address is not there or taken.
        @raise VerificationNotInForce: if a stranger would be let in.
        """
        require_refusal(self._tls, self._tls.client_auth, cast("ServerFactory[Any]", self._site.rehearsal()))
        # Twisted's own annotations do not see that a wrapping factory of a server's factory is one itself.
        factory = cast("ServerFactory[Any]", ApiFactory(self._tls, False, self._site, clock=self._reactor))
        self._listening = self._reactor.listenTCP(self._port, factory, backlog=_BACKLOG, interface=self._host)
        super().startService()
        limits = self._site.limits
        self._log.info(
            "The API listens at {address}; strangers, {strangers} at a time, can make it hold {memory} MiB at most",
            address=self._listening.getHost(),
            strangers=limits.strangers,
            memory=limits.strangers * limits.stranger_memory // 2**20,
        )

    def stopService(self) -> Deferred[None]:
        """Take no more connections, and end those on which no request is at work."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        self._site.closing = True
        pools = self._site.pools
        for channel in [*pools.strangers, *pools.verified]:
            if channel.idle or channel in pools.strangers:
                channel.loseConnection()
        # Whoever asked for something that is being done hears how it ended.
        deadline = self._reactor.seconds() + _LAST_ANSWERS
        while pools.verified and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)
        for channel in [*pools.verified]:
            channel.abort()
