"""
The controller's side of heartbeats: hear them, check them, hand them on.

Usable by itself, by whoever wants to know how amphorae fare:

    def heard(heartbeat: Heartbeat) -> None:
        for listener_id, listener in heartbeat.message["listeners"].items():
            print(heartbeat.amphora_id, listener_id, listener["status"], listener["stats"]["totconns"])

    listener = HeartbeatListener(reactor=reactor, key="the heartbeat_key", received=heard, interface="::", port=5555)
    listener.setServiceParent(application)

What a message holds stands in L{amphora.health.message}, how it is signed in L{amphora.health.envelope}.  UDP loses
datagrams, changes their order and hands the same one over twice; `sequence` tells, and starts again at 0 with each
start of an agent.  Whoever can record a heartbeat can send it again: the signature says who made it, not when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorTime, IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from amphora.health.envelope import BadEnvelope, unseal

LOG_INTERVAL: Final = 60.0
"""Seconds at least between two log lines on bad datagrams for the same reason."""

_LARGEST_DATAGRAM: Final = 65_536


class IListenerReactor(IReactorUDP, IReactorTime):
    """What hearing heartbeats needs of a reactor."""


@frozen
class Heartbeat:
    """One heartbeat, its signature proved right."""

    amphora_id: str
    sequence: int
    message: dict[str, Any]
    """All that it says, as its JSON says it; `listeners` and `pools` are objects."""
    address: tuple[str, int]
    """Who sent it: an IP address and a UDP port."""
    received: float
    """When, in the seconds of the reactor's clock."""


class HeartbeatListener(Service):
    """
    Hears heartbeats on a UDP port while it runs.

    @ivar bad: How many datagrams were no heartbeats, by the reason.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: IListenerReactor,
        key: str,
        received: Callable[[Heartbeat], object],
        interface: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """
        @param key: The C{heartbeat_key} of the amphorae.
        @param received: Called with each heartbeat.  What it raises is logged, and the next one is heard.
        @param interface: The IPv4 or IPv6 address to listen on.
        @param port: The UDP port to listen on; 0 takes any free one.
        """
        self._reactor = reactor
        self._key = key
        self._received = received
        self._interface = interface
        self._wanted = port
        self._listening: IListeningPort | None = None
        self._quiet_until: dict[str, float] = {}
        self.bad: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port that is listened on, while the service runs."""
        assert self._listening is not None
        address = self._listening.getHost()
        assert isinstance(address, (IPv4Address, IPv6Address))
        return address.port

    def startService(self) -> None:
        """
        Start to listen.

        @raise twisted.internet.error.CannotListenError: if the port is taken or the address is not ours.
        """
        self._listening = self._reactor.listenUDP(
            self._wanted, _Datagrams(self._datagram), interface=self._interface, maxPacketSize=_LARGEST_DATAGRAM
        )
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop listening; fires when the port is closed."""
        super().stopService()
        listening, self._listening = self._listening, None
        closed = None if listening is None else listening.stopListening()
        return succeed(None) if closed is None else closed

    def _datagram(self, datagram: bytes, address: tuple[str, int]) -> None:
        try:
            heartbeat = self._heartbeat(datagram, address)
        except BadEnvelope as problem:
            self._tell_bad(str(problem), address)
            return
        try:
            self._received(heartbeat)
        except Exception:
            self._log.failure("a heartbeat of {amphora} could not be taken in", amphora=heartbeat.amphora_id)

    def _heartbeat(self, datagram: bytes, address: tuple[str, int]) -> Heartbeat:
        message = unseal(self._key, datagram)
        amphora_id, sequence = message.get("id"), message.get("seq")
        if not isinstance(amphora_id, str) or not isinstance(sequence, int):
            raise BadEnvelope("the message has no amphora id or no sequence number")
        if not isinstance(message.get("listeners"), dict) or not isinstance(message.get("pools"), dict):
            raise BadEnvelope("the message has no listeners or no pools")
        return Heartbeat(amphora_id, sequence, message, address, self._reactor.seconds())

    def _tell_bad(self, reason: str, address: tuple[str, int]) -> None:
        self.bad[reason] += 1
        now = self._reactor.seconds()
        if now >= self._quiet_until.get(reason, now):
            self._quiet_until[reason] = now + LOG_INTERVAL
            self._log.warn(
                "a datagram from {host} is no heartbeat: {reason} ({count} so far)",
                host=address[0],
                reason=reason,
                count=self.bad[reason],
            )


class _Datagrams(DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._received = received

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self._received(datagram, addr)
