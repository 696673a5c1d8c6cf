"""
What the kernel's IP virtual server (IPVS) says: which services it balances, to whom, and what they carried.

Services and their real servers stand in C{/proc/net/ip_vs}; a listener is one service for each address of
its load balancer.  What a service carried is told by generic netlink alone (C{/proc/net/ip_vs_stats}
has only the sum of all).  The names and numbers are those of C{ip_vs_ctl.c}, C{linux/ip_vs.h} and C{linux/genetlink.h}.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from attrs import frozen

from amphora.network.inside import inside
from amphora.sample import Traffic
from amphora.system.netlink import (
    ACKNOWLEDGED,
    ANSWER_SIZE,
    DUMP,
    REQUEST,
    answers,
    attribute,
    attributes,
    question,
    understood,
)

TABLE: Final = "/proc/thread-self/net/ip_vs"
"""C{/proc/net} would be that of the main thread's namespace."""

_ADDRESS = r"(?:(?P<v4>[0-9A-F]{8})|\[(?P<v6>[0-9A-F:.]{2,45})\]):(?P<port>[0-9A-F]{4})"
_SERVICE = re.compile(rf"(?P<protocol>[A-Z]+)\s+{_ADDRESS}(?:\s|$)", re.IGNORECASE)
_REAL_SERVER = re.compile(rf"\s+->\s+{_ADDRESS}\s+\w+\s+(?P<weight>\d+)\s+(?P<active>\d+)\s+\d+\s*", re.IGNORECASE)

_GENERIC = 16
"""NETLINK_GENERIC, of which the `socket` module does not know."""
_MESSAGE = struct.Struct("=BBxx")
"""genlmsghdr: command, version."""
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GET_SERVICE, _SERVICE_ATTRIBUTE = 4, 1
_FAMILY, _PROTOCOL, _ADDR, _PORT, _STATS64 = 1, 2, 3, 4, 12
_CONNECTIONS, _BYTES_IN, _BYTES_OUT = 1, 4, 5
_PROTOCOLS = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP", socket.IPPROTO_SCTP: "SCTP"}
_VERSION = 1
_PATIENCE = 5.0


class IpvsMissing(Exception):
    """This kernel has no IP virtual server, or it is not loaded: nothing is balanced."""


@frozen
class Service:
    """What the kernel knows a service by: `TCP`, `UDP` or `SCTP`, an address as L{ipaddress} writes it, a port."""

    protocol: str
    ip: str
    port: int


@frozen
class RealServer:
    """How a service treats one of its real servers: none with weight 0 is given anything new."""

    weight: int
    active: int
    """Connections that are open."""


Table = Mapping[Service, Mapping[tuple[str, int], RealServer]]
"""All services, and the real servers of each by address and port."""


@frozen
class Ipvs:
    """What the kernel says at one moment; `counters` is None, and `problem` says why, where it does not tell them."""

    table: Table
    counters: Mapping[Service, Traffic] | None
    """What each service carried since it was set up."""
    problem: str | None = None


def read_ipvs(namespace: str) -> Ipvs:
    """
    Ask the kernel, in a network namespace (empty: our own).  Blocks.

    @raise IpvsMissing: if the kernel has nothing to tell.
    @raise OSError: if the namespace cannot be entered, or its table not be read.
    """
    return inside(namespace, _read)


def _read() -> Ipvs:
    try:
        with open(TABLE, encoding="ascii", errors="replace") as file:
            table = parse_table(file.read())
    except FileNotFoundError:
        raise IpvsMissing from None
    try:
        return Ipvs(table, _read_counters())
    except OSError as problem:
        return Ipvs(table, None, str(problem))


def _read_counters() -> Mapping[Service, Traffic]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as netlink:
        netlink.settimeout(_PATIENCE)
        datagrams = iter(lambda: netlink.recv(ANSWER_SIZE), None)
        netlink.send(family_question("IPVS"))
        family = parse_family(datagrams)
        netlink.send(question(family, REQUEST | DUMP, _MESSAGE.pack(_GET_SERVICE, _VERSION)))
        return parse_counters(datagrams)


def parse_table(text: str) -> Table:
    """
    Read C{/proc/net/ip_vs}.  IPv4 addresses stand there as eight hexadecimal digits, IPv6 ones in brackets with all
    their zeros, ports as four hexadecimal digits; a service that is known by a firewall mark has no address.

    Lines that are none of these are passed over, and the real servers below them too.
    """
    table: dict[Service, dict[tuple[str, int], RealServer]] = {}
    servers: dict[tuple[str, int], RealServer] = {}
    for line in text.split("\n"):
        try:
            if found := _REAL_SERVER.fullmatch(line):
                servers[_address(found)] = RealServer(int(found["weight"]), int(found["active"]))
                continue
            servers = {}
            if found := _SERVICE.match(line):
                table[Service(found["protocol"].upper(), *_address(found))] = servers
        except ValueError:
            # What stands in brackets is no address.
            continue
    return table


def family_question(name: str) -> bytes:
    """Ask which number a family of generic netlink has been given."""
    return question(
        _CONTROL,
        REQUEST | ACKNOWLEDGED,
        _MESSAGE.pack(_GET_FAMILY, _VERSION) + attribute(_FAMILY_NAME, name.encode() + b"\0"),
    )


@understood()
def parse_family(datagrams: Iterator[bytes]) -> int:
    """@raise OSError: if there is no such family, or the answer makes no sense."""
    number = 0
    for kind, _, body in answers(datagrams):
        if kind == _CONTROL:
            (number,) = struct.unpack("=H", attributes(body[_MESSAGE.size :])[_FAMILY_ID])
    return number


@understood()
def parse_counters(datagrams: Iterator[bytes]) -> dict[Service, Traffic]:
    """
    Read the answer to a question for all services.

    @raise OSError: the kernel's refusal, or if its answer makes no sense.
    """
    counters: dict[Service, Traffic] = {}
    for _, _, body in answers(datagrams):
        told = attributes(attributes(body[_MESSAGE.size :]).get(_SERVICE_ATTRIBUTE, b""))
        if {_FAMILY, _PROTOCOL, _ADDR, _PORT, _STATS64} <= told.keys():
            stats = attributes(told[_STATS64])
            counters[_service(told)] = Traffic(
                tx=_number(stats[_BYTES_OUT]), rx=_number(stats[_BYTES_IN]), totconns=_number(stats[_CONNECTIONS])
            )
    return counters


def _service(told: Mapping[int, bytes]) -> Service:
    family, protocol = _number(told[_FAMILY]), _number(told[_PROTOCOL])
    # There is always room for the longer of both addresses.
    address = IPv4Address(told[_ADDR][:4]) if family == socket.AF_INET else IPv6Address(told[_ADDR])
    return Service(_PROTOCOLS.get(protocol, str(protocol)), str(address), int.from_bytes(told[_PORT], "big"))


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _address(found: re.Match[str]) -> tuple[str, int]:
    address = IPv4Address(int(found["v4"], 16)) if found["v4"] else IPv6Address(found["v6"])
    return str(address), int(found["port"], 16)
