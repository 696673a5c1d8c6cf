"""The API's listening port."""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from amphora.api.channel import AmphoraSite
from amphora.api.self_test import require_refusal
from amphora.api.tls import MutualTLS

_BACKLOG = 1024
_LAST_ANSWERS = 30.0
"""Seconds for requests that are at work when the agent ends."""


class IApiReactor(IReactorTCP, IReactorTime):
    """What serving needs of a reactor."""


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
        factory = cast("ServerFactory[Any]", TLSMemoryBIOFactory(self._tls, False, self._site, clock=self._reactor))
        self._listening = self._reactor.listenTCP(self._port, factory, backlog=_BACKLOG, interface=self._host)
        super().startService()
        self._log.info("The API listens at {address}", address=self._listening.getHost())

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
