"""A stand-in for a DHCP server, at the other end of a wire that the test holds."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from amphora.network.dhcp_client import Wire

SERVER = IPv4Address("192.0.2.1")

_COOKIE = b"\x63\x82\x53\x63"
_MESSAGE = slice(28, None)
_XID = slice(4, 8)
_STATION = slice(28, 34)
_OPTIONS = slice(240, None)


@define(eq=False)
class FakeDhcpServer:
    """
    Gives one address to everybody, and refuses what anybody asks for beside it; or is silent.

    `heard` are the messages that it got, by kind: `discover`, `request`.
    """

    clock: IReactorTime
    address: str = "192.0.2.10"
    options: dict[int, bytes] = field(factory=dict)
    """Beside the subnet mask, the server and the time."""
    silent: bool = False
    broken: OSError | None = None
    """What opening a wire ends in."""
    heard: list[str] = field(factory=list)
    wires: list[FakeWire] = field(factory=list)

    def open(self, interface: str) -> Deferred[Wire]:
        """A wire to this server."""
        if self.broken is not None:
            return fail(self.broken)
        wire = FakeWire(self, interface)
        self.wires.append(wire)
        return succeed(wire)

    def hear(self, data: bytes, wire: FakeWire) -> None:
        """A packet arrives."""
        message = data[_MESSAGE]
        asked = options_of(message[_OPTIONS])
        kind = {1: "discover", 3: "request"}[asked[53][0]]
        self.heard.append(kind)
        if self.silent:
            return
        address = IPv4Address(self.address)
        granted = asked.get(50, address.packed) == address.packed
        answer = reply(
            message[_XID],
            message[_STATION],
            {"discover": 2, "request": 5 if granted else 6}[kind],
            address if granted else None,
            self.options,
        )
        self.clock.callLater(0, wire.receive, answer)


@define(eq=False)
class FakeWire:
    """A wire to a server."""

    server: FakeDhcpServer
    interface: str
    closed: bool = False
    _received: Callable[[bytes], None] | None = None

    def start(self, received: Callable[[bytes], None]) -> None:
        self._received = received

    def send(self, data: bytes) -> None:
        self.server.hear(data, self)

    def close(self) -> None:
        self.closed = True

    def receive(self, data: bytes) -> None:
        """Something comes."""
        if not self.closed and self._received is not None:
            self._received(data)


def options_of(data: bytes) -> dict[int, bytes]:
    """The options of a message that is well-formed."""
    found = {}
    while data[0] != 255:
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def reply(
    xid: bytes, station: bytes, kind: int, address: IPv4Address | None, options: dict[int, bytes] | None = None
) -> bytes:
    """A packet from a server: an offer (2), a lease (5) or a refusal (6)."""
    nobody = bytes(4)
    who = (nobody, nobody if address is None else address.packed, nobody, nobody)
    message = struct.pack("!BBBB4sHH4s4s4s4s16s192s4s", 2, 1, 6, 0, xid, 0, 0, *who, station, b"", _COOKIE)
    told: dict[int, bytes] = {53: bytes((kind,)), 54: SERVER.packed}
    if address is not None:
        told |= {1: IPv4Address("255.255.255.0").packed, 51: struct.pack("!I", 3600)}
    told |= options or {}
    message += b"".join(bytes((code, len(value))) + value for code, value in told.items()) + b"\xff"
    udp = struct.pack("!HHHH", 67, 68, 8 + len(message), 0)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(message), 0, 0, 64, 17, 0, SERVER.packed, b"\xff" * 4)
    return head + udp + message
