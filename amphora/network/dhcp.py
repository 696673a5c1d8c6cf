"""
The messages of DHCP for IPv4 (RFC 2131 and 2132), as far as an interface asks for its address.

Of what a server offers, an address and the way to further networks is taken: never a default route, nor anything else.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from attrs import field, frozen

from amphora.network.state import Address

CLIENT_PORT = 68
SERVER_PORT = 67

FOREVER = 0xFFFFFFFF
"""Seconds of a lease that does not end."""

_BOOTREQUEST = 1
_BOOTREPLY = 2
_COOKIE = b"\x63\x82\x53\x63"
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_SHORTEST = 300
"""Bytes that a message has at least: what BOOTP's servers and relays expect."""

_SUBNET_MASK = 1
_REQUESTED_ADDRESS = 50
_LEASE_TIME = 51
_OVERLOAD = 52
_MESSAGE_TYPE = 53
_SERVER = 54
_WISHES = 55
_LARGEST = 57
_CLASSLESS_ROUTES = 121
_END = 255

_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6

_WIDEST_ROUTE = 8
"""
The shortest prefix of a route that is taken, and of an address, which makes one on the link: two halves of everything
are a default route, too.
"""

Verdict = Literal["offer", "ack", "nak"]
_VERDICTS: dict[int, Verdict] = {_OFFER: "offer", _ACK: "ack", _NAK: "nak"}


@frozen
class Lease:
    """
    What an interface was given: an address, for so many seconds, and routes, each with its gateway.

    A gateway of None is a network on the link itself.  Two leases are one that differ only in how long they last.
    """

    ip: IPv4Address
    prefixlen: int
    seconds: int = field(eq=False)
    routes: tuple[tuple[IPv4Network, IPv4Address | None], ...] = ()

    @property
    def address(self) -> Address:
        return Address(self.ip, self.prefixlen)


@frozen
class Reply:
    """What a server says; a refusal has no lease."""

    verdict: Verdict
    server: IPv4Address
    lease: Lease | None


def discover(xid: int, mac: str) -> bytes:
    """Ask who can give an address.  @param xid: tells replies to this from others."""
    return _message(xid, mac, _DISCOVER, {})


def request(xid: int, mac: str, wanted: IPv4Address, server: IPv4Address | None = None) -> bytes:
    """
    Ask for an address: for one that a server has offered, or, without a server, for one that was given before
    (RFC 2131, 4.3.2: INIT-REBOOT).
    """
    options = {_REQUESTED_ADDRESS: wanted.packed}
    if server is not None:
        options[_SERVER] = server.packed
    return _message(xid, mac, _REQUEST, options)


def _message(xid: int, mac: str, kind: int, options: dict[int, bytes]) -> bytes:
    station = bytes.fromhex(mac.replace(":", ""))
    nobody = bytes(4)
    who = (nobody,) * 4
    fixed = _FIXED.pack(_BOOTREQUEST, 1, len(station), 0, xid, 0, 0, *who, station, b"", b"", _COOKIE)
    wishes = bytes((_SUBNET_MASK, _LEASE_TIME, _CLASSLESS_ROUTES))
    every = {_MESSAGE_TYPE: bytes((kind,)), **options, _WISHES: wishes, _LARGEST: struct.pack("!H", 1400)}
    told = b"".join(bytes((code, len(value))) + value for code, value in every.items())
    return (fixed + told + bytes((_END,))).ljust(_SHORTEST, b"\0")


def packet(message: bytes) -> bytes:
    """The IP packet, to everybody from nobody, that carries a message to the servers."""
    nobody, everybody = bytes(4), b"\xff" * 4
    length = 8 + len(message)
    udp = struct.pack("!HHHH", CLIENT_PORT, SERVER_PORT, length, 0) + message
    pseudo = nobody + everybody + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
    # A sum of zero would say that there is none.
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp) or 0xFFFF) + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0) + nobody + everybody
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + udp


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def read_reply(data: bytes, xid: int, mac: str) -> Reply | None:
    """
    What an IP packet says to a question of ours; None if it is no reply to it, or none that can be used.

    Checksums are not looked at: a virtual network device leaves them to the next one.
    """
    try:
        return _read_reply(data, xid, mac)
    except (struct.error, ValueError, IndexError):
        return None


def _read_reply(data: bytes, xid: int, mac: str) -> Reply | None:
    """@raise struct.error, ValueError, IndexError: for what is none."""
    source, target = struct.unpack_from("!HH", data, 4 * (data[0] & 0x0F))
    message = data[4 * (data[0] & 0x0F) + 8 :]
    fixed = _FIXED.unpack_from(message)
    operation, _, length, _, their_xid, _, _, _, yours, _, _, station, name, file, cookie = fixed
    mine = (SERVER_PORT, CLIENT_PORT, _BOOTREPLY, xid, bytes.fromhex(mac.replace(":", "")), _COOKIE)
    if (source, target, operation, their_xid, station[:length], cookie) != mine:
        return None
    own = message[_FIXED.size :]
    options = _options(own)
    # Options that found no room may be where a name or a file would be.
    overload = options.get(_OVERLOAD, b"\0")[0]
    options = _options(own, file if overload & 1 else b"", name if overload & 2 else b"")
    verdict = _VERDICTS.get(options.get(_MESSAGE_TYPE, b"\0")[0])
    if verdict is None or _SERVER not in options:
        return None
    server = IPv4Address(options[_SERVER])
    if verdict == "nak":
        return Reply(verdict, server, None)
    given = IPv4Address(yours)
    if given.is_unspecified or given.is_multicast or given.is_loopback:
        return None
    mask = IPv4Address(options.get(_SUBNET_MASK, b"\xff" * 4))
    prefixlen = IPv4Network((0, str(mask))).prefixlen
    if prefixlen < _WIDEST_ROUTE:
        return None
    (seconds,) = struct.unpack("!I", options[_LEASE_TIME]) if _LEASE_TIME in options else (FOREVER,)
    routes = _routes(options.get(_CLASSLESS_ROUTES, b""))
    return Reply(verdict, server, Lease(given, prefixlen, seconds, routes))


def _options(*parts: bytes) -> dict[int, bytes]:
    """Options by their code; one that comes in pieces is put together (RFC 3396)."""
    found: dict[int, bytes] = {}
    for part in parts:
        position = 0
        while position < len(part) and part[position] != _END:
            if part[position] == 0:
                position += 1
                continue
            code, length = part[position], part[position + 1]
            found[code] = found.get(code, b"") + part[position + 2 : position + 2 + length]
            position += 2 + length
    return found


def _routes(data: bytes) -> tuple[tuple[IPv4Network, IPv4Address | None], ...]:
    """Classless static routes (RFC 3442), but those that are a default route by another name."""
    routes: list[tuple[IPv4Network, IPv4Address | None]] = []
    while data:
        prefixlen = data[0]
        octets = (prefixlen + 7) // 8
        destination = IPv4Network((data[1 : 1 + octets].ljust(4, b"\0"), prefixlen), strict=False)
        gateway = IPv4Address(data[1 + octets : 5 + octets])
        data = data[5 + octets :]
        if prefixlen >= _WIDEST_ROUTE:
            routes.append((destination, None if gateway.is_unspecified else gateway))
    return tuple(routes)
