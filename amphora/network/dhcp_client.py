"""
Asking for an interface's address, for as long as it is plugged.

There is no program beside the agent for that: what a server gives is one more thing that the interface should have,
and goes the way of all others.  So it stays when the agent ends, and is there again, at once, after a reboot; the
server is only asked whether it still holds.  While no agent runs nobody asks: an address is kept beyond its lease's end
rather than traffic be cut off; a cloud's network gives it to nobody else.
"""

from __future__ import annotations

import ctypes
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from amphora.blocking import BlockingCalls
from amphora.network.dhcp import CLIENT_PORT, Lease, Reply, discover, packet, read_reply, request
from amphora.network.inside import inside

ANSWER_PAUSES = (2.0, 4.0, 8.0)
"""Seconds that an answer is waited for before the question is put again, and after the last time."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Between two attempts, where no server answers."""
SHORTEST_RENEWAL = 60.0
LONGEST_RENEWAL = 86400.0

_PACKET = 65535
_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of socket(7)."""
_IPV4 = 0x0800

# A classic BPF program (linux/filter.h): of IP packets, unfragmented UDP ones to the client's port.  The socket would
# otherwise be given all of the interface's traffic.
_FILTER = (
    (0x30, 0, 0, 9),  # the protocol
    (0x15, 0, 6, socket.IPPROTO_UDP),
    (0x28, 0, 0, 6),  # flags and offset of the fragment
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # the length of the IP header
    (0x48, 0, 0, 2),  # the port
    (0x15, 0, 1, CLIENT_PORT),
    (0x06, 0, 0, _PACKET),
    (0x06, 0, 0, 0),
)


class IDhcpReactor(IReactorTime, IReactorFDSet):
    """What asking for an address needs of a reactor."""


class Wire(Protocol):
    """Carries packets to and from the servers at an interface's network."""

    def start(self, received: Callable[[bytes], None]) -> None:
        """Begin to listen."""

    def send(self, data: bytes) -> None:
        """@raise OSError: if it cannot be sent."""

    def close(self) -> None: ...


def open_socket(namespace: str, interface: str) -> socket.socket:
    """
    Make a socket for whole IP packets at an interface.  Blocks.

    @raise OSError: if there is no such namespace or interface.
    """

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _FILTER))
            pointer = struct.pack("HP", len(_FILTER), ctypes.addressof(program))
            made.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, pointer)
            made.bind((interface, _IPV4))
        except OSError:
            made.close()
            raise
        return made

    return inside(namespace, make)


@implementer(IReadDescriptor)
@define(eq=False)
class PacketWire:
    """The real one."""

    _reactor: IReactorFDSet
    _socket: socket.socket
    _received: Callable[[bytes], None] | None = field(init=False, default=None)

    def start(self, received: Callable[[bytes], None]) -> None:
        self._received = received
        self._reactor.addReader(self)

    def send(self, data: bytes) -> None:
        interface = self._socket.getsockname()[0]
        self._socket.sendto(data, (interface, _IPV4, 0, 0, b"\xff" * 6))

    def close(self) -> None:
        if self._socket.fileno() != -1:
            self._reactor.removeReader(self)
            self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def doRead(self) -> None:
        # What is not there any more, or an interface that went down.
        with suppress(OSError):
            data = self._socket.recv(_PACKET)
            if self._received is not None:
                self._received(data)

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def logPrefix(self) -> str:
        return "DHCP"


@define(eq=False)
class DhcpClient:
    """Asks for the address of one interface, and from time to time whether it still holds."""

    _log = Logger()

    _reactor: IReactorTime
    _open: Callable[[str], Deferred[Wire]]
    """Opens the wire at an interface of this name."""
    interface: str
    _mac: str
    _lease: Lease | None
    """The one that it had before."""
    _leased: Callable[[Lease], object]
    """Called with each lease that differs from the one before."""
    _work: Deferred[None] | None = field(init=False, default=None)
    _next: Deferred[bytes] | None = field(init=False, default=None)
    _told: str = field(init=False, default="")
    """The trouble that the log knows of."""

    def start(self) -> None:
        """Begin to ask."""
        self._work = Deferred.fromCoroutine(self._run())
        self._work.addErrback(self._ended)

    def stop(self) -> None:
        """Ask no more; what was given stays."""
        if self._work is not None:
            self._work.cancel()

    def _ended(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self._log.failure("{interface}: nobody asks for its address any more", reason, interface=self.interface)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                lease = await self._acquire()
                trouble = "no DHCP server answers"
            except OSError as error:
                lease, trouble = None, error.strerror or str(error)
            if lease is None:
                self._tell(trouble)
                await deferLater(self._reactor, pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._tell("")
            pause = FIRST_PAUSE
            if lease != self._lease:
                self._lease = lease
                self._leased(lease)
            await deferLater(self._reactor, min(max(lease.seconds / 2, SHORTEST_RENEWAL), LONGEST_RENEWAL))

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            self._told = trouble
            kept = "" if self._lease is None else f"; it keeps {self._lease.address}"
            if trouble:
                self._log.warn("{interface}: {trouble}{kept}", interface=self.interface, trouble=trouble, kept=kept)

    async def _acquire(self) -> Lease | None:
        """
        Have a lease confirmed, or get one.

        @return: None where nobody answers.
        @raise OSError: if the interface cannot be used.
        """
        wire = await self._open(self.interface)
        try:
            wire.start(self._received)
            if self._lease is not None:
                lease = await self._request(wire, self._lease, None)
                if lease is not None:
                    return lease
            xid = secrets.randbits(32)
            offer = await self._ask(wire, discover(xid, self._mac), xid, ("offer",))
            return None if offer is None or offer.lease is None else await self._request(wire, offer.lease, offer)
        finally:
            wire.close()

    async def _request(self, wire: Wire, wanted: Lease, offer: Reply | None) -> Lease | None:
        """Ask for an address; None where it is refused, or nobody answers."""
        xid = secrets.randbits(32)
        question = request(xid, self._mac, wanted.ip, None if offer is None else offer.server)
        answer = await self._ask(wire, question, xid, ("ack", "nak"))
        return None if answer is None else answer.lease

    async def _ask(self, wire: Wire, question: bytes, xid: int, verdicts: tuple[str, ...]) -> Reply | None:
        for pause in ANSWER_PAUSES:
            wire.send(packet(question))
            deadline = self._reactor.seconds() + pause
            while (left := deadline - self._reactor.seconds()) > 0:
                self._next = Deferred()
                try:
                    data = await self._next.addTimeout(left, self._reactor)
                except TimeoutError:
                    break
                reply = read_reply(data, xid, self._mac)
                if reply is not None and reply.verdict in verdicts:
                    return reply
        return None

    def _received(self, data: bytes) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.called:
            waiting.callback(data)


def opener(reactor: IReactorFDSet, blocking: BlockingCalls, namespace: str) -> Callable[[str], Deferred[Wire]]:
    """What opens real wires in a namespace."""

    def opened(interface: str) -> Deferred[Wire]:
        def wrap(made: socket.socket) -> Wire:
            return PacketWire(reactor, made)

        return blocking.run(open_socket, namespace, interface).addCallback(wrap)

    return opened
