"""
What a kernel has of a network, and what it should have: links, addresses, routes and rules, as plain data.

Routes and rules carry the number of the program that made them (C{rtm_protocol} of rtnetlink(7)).  Ours have a number
of their own, so that nobody else's are ever taken for ours: keepalived's, a routing daemon's, an operator's.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from attrs import frozen

IP = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

PROTOCOL = 79
"""Our number; nobody has it in iproute2's C{rt_protos}."""

MAIN_TABLE = 254
RESERVED_TABLES = range(253, 256)
"""The kernel's own: default, main, local."""

RULE_PRIORITY = 100
"""Before the kernel's own look into the main table; Octavia has keepalived use the same."""

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def normalised_mac(text: str) -> str | None:
    """A station's MAC address in lower case with colons; None for what is none, or is a group's or nobody's."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        return None
    return mac


def plain_ip(text: str) -> IP | None:
    """An address; None for what is none, or holds only for one link (C{fe80::1%eth0})."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else ip


@frozen
class Address:
    """An address of an interface, with the length of its subnet's prefix."""

    ip: IP
    prefixlen: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefixlen}"


@frozen
class Route:
    """
    A route through an interface: to what is on its link, or through a gateway.

    `source` is the address that what leaves by it has where nobody chose another.  `onlink`: the gateway is on the
    link, whatever other routes say.
    """

    destination: Subnet
    table: int
    metric: int
    gateway: IP | None = None
    source: IP | None = None
    onlink: bool = False

    def __str__(self) -> str:
        destination = "default" if self.destination.prefixlen == 0 else str(self.destination)
        through = "" if self.gateway is None else f" via {self.gateway}"
        return f"route {destination}{through}" + ("" if self.table == MAIN_TABLE else f" of table {self.table}")


@frozen
class Rule:
    """What comes from one address is routed by one table."""

    source: IP
    table: int

    def __str__(self) -> str:
        return f"rule from {self.source} to table {self.table}"


@frozen
class HostRoute:
    """A way to further hosts that a subnet tells those in it (a Neutron subnet's C{host_routes})."""

    destination: Subnet
    nexthop: IP


@frozen
class FixedIp:
    """An address that an interface has for itself; `gateway` counts only on the interface of a VIP."""

    ip: IP
    subnet: Subnet
    gateway: IP | None = None
    host_routes: tuple[HostRoute, ...] = ()

    @property
    def address(self) -> Address:
        return Address(self.ip, self.subnet.prefixlen)


@frozen
class Link:
    """
    An interface.  Its index and names are its namespace's; `mac` is as L{normalised_mac} has it, or empty.

    `mtu`: the octets of its largest packet.
    """

    index: int
    name: str
    mac: str
    up: bool
    altnames: tuple[str, ...] = ()
    mtu: int = 1500


@frozen
class FoundAddress:
    """
    An address that an interface has.

    `tentative`: the kernel still asks whether somebody else has it (RFC 4862, duplicate address detection), and nobody
    can use it before that is answered; `duplicate`: somebody does.
    """

    index: int
    address: Address
    tentative: bool = False
    duplicate: bool = False

    @property
    def usable(self) -> bool:
        return not self.tentative and not self.duplicate


@frozen
class Snapshot:
    """All of one namespace: links but the loopback, everybody's addresses; of routes, by interface, and rules: ours."""

    links: tuple[Link, ...] = ()
    addresses: tuple[FoundAddress, ...] = ()
    routes: tuple[tuple[int, Route], ...] = ()
    rules: tuple[Rule, ...] = ()

    def link_name(self, index: int) -> str:
        """The loopback is not among the links, and has addresses all the same."""
        return next((link.name for link in self.links if link.index == index), "lo")
