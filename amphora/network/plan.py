"""
What was plugged, and what follows from it: names, tables, addresses, routes, rules.  Nothing here asks the kernel.

A VIP has its subnet's prefix, so that the subnet is reached directly.  Answers from it have to leave by the way that
requests came, whatever the main table says: a rule sends what comes from the VIP to a table of its own.  Two VIPs
share a table where they share interface, subnet and gateway (of IPv4, or of IPv6: a table has two halves); no table
is of two interfaces.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from typing import Literal

from attrs import evolve, field, frozen

from amphora.network.dhcp import Lease
from amphora.network.requests import VipRequest
from amphora.network.state import IP, MAIN_TABLE, RESERVED_TABLES, Address, Link, Route, Rule, Snapshot, Subnet

Kind = Literal["vip", "backend"]

FIRST_VIP_NAME = 1
FIRST_NETWORK_NAME = 2

_METRIC = 2047
"""
With the table's number added, the metric of our routes: above what the kernel, DHCP clients and keepalived use (1024 at
most), so that another's default route keeps its place, and ours of several interfaces have an order.
"""
_LEASE_METRIC = 1 << 24
"""
With the last three bytes of an interface's MAC address added, the metric of the routes that a DHCP server gave it.  A
cloud gives each network the same route to its metadata, and a table takes one only once with the same metric.
"""

_EVERYWHERE: dict[int, Subnet] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@frozen
class Vip:
    """
    A VIP of an interface.

    `in_use` is false once the last listener that was bound to it was deleted; it is given back to the next one.
    """

    ip: IP
    subnet: Subnet
    gateway: IP
    table: int
    in_use: bool = True

    @property
    def address(self) -> Address:
        return Address(self.ip, self.subnet.prefixlen)


@frozen
class Port:
    """
    An interface that was plugged.

    `ours` are the addresses that we gave it, or are about to: those that we may take away again; `lease` is what a DHCP
    server gave it last.
    """

    name: str
    mac: str
    vips: tuple[Vip, ...] = ()
    ours: frozenset[Address] = frozenset()
    lease: Lease | None = None

    @property
    def kind(self) -> Kind:
        return "vip" if self.vips else "backend"

    def has(self, ip: IP) -> bool:
        return any(vip.ip == ip for vip in self.vips)

    def with_vip(self, vip: Vip) -> Port:
        """Add a VIP, or put it in the place of what it was."""
        if not self.has(vip.ip):
            return evolve(self, vips=(*self.vips, vip))
        return evolve(self, vips=tuple(vip if known.ip == vip.ip else known for known in self.vips))

    def using(self, vips: Collection[Vip], in_use: bool) -> Port:
        """Have listeners use these of its VIPs, or no longer."""
        return evolve(self, vips=tuple(evolve(vip, in_use=in_use) if vip in vips else vip for vip in self.vips))

    def without_vip(self, ip: IP) -> Port:
        return evolve(self, vips=tuple(known for known in self.vips if known.ip != ip))


@frozen
class Wanted:
    """
    What an interface should have of us.

    `dhcp`: a DHCP server is to be asked for an address.  `sysctls` are settings by their path below `/proc/sys`; they
    matter, but nothing fails where one cannot be set.
    """

    addresses: frozenset[Address] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    dhcp: bool = False
    sysctls: dict[str, str] = field(factory=dict)


def wanted(port: Port, *, keepalived_owns_vips: bool) -> Wanted:
    """
    What an interface should have.

    keepalived gives a pair's VIP to one of both, with all that belongs to it; what both have all the time is the way
    to the subnet and through its gateway, the permission for haproxy to bind an address that is not there, and an
    address of their own, without which keepalived stays in its fault state.  A network's interface has nothing else.
    """
    addresses: set[Address] = set()
    routes: dict[tuple[Subnet, int, int], Route] = {}
    rules: set[Rule] = set()
    sysctls: dict[str, str] = {} if port.vips else _network_sysctls(port.name)

    def add(route: Route) -> None:
        # Of VIPs that share a subnet, the first one's routes serve all.
        routes.setdefault((route.destination, route.table, route.metric), route)

    dhcp = not port.vips or (keepalived_owns_vips and any(vip.ip.version == 4 for vip in port.vips))
    if dhcp and port.lease is not None:
        addresses.add(port.lease.address)
        metric = _LEASE_METRIC + int(port.mac.replace(":", "")[-6:], 16)
        for destination, gateway in port.lease.routes:
            add(Route(destination, MAIN_TABLE, metric, gateway))

    for vip in port.vips:
        metric = _METRIC + vip.table
        everywhere = _EVERYWHERE[vip.ip.version]
        if keepalived_owns_vips:
            add(Route(vip.subnet, MAIN_TABLE, metric))
            add(Route(everywhere, MAIN_TABLE, metric, vip.gateway))
            sysctls[f"net/ipv{vip.ip.version}/ip_nonlocal_bind"] = "1"
        elif vip.in_use:
            addresses.add(vip.address)
            add(Route(everywhere, MAIN_TABLE, metric, vip.gateway))
            add(Route(vip.subnet, vip.table, metric, source=vip.ip))
            add(Route(everywhere, vip.table, metric, vip.gateway))
            rules.add(Rule(vip.ip, vip.table))
            if vip.ip.version == 4:
                # Else the kernel takes the others of the subnet away with the first.
                sysctls[f"net/ipv4/conf/{port.name}/promote_secondaries"] = "1"
    return Wanted(frozenset(addresses), frozenset(routes.values()), frozenset(rules), dhcp, sysctls)


def _network_sysctls(name: str) -> dict[str, str]:
    """A member network gives its interface addresses of IPv6 by itself (RFC 4862), but no default route."""
    base = f"net/ipv6/conf/{name}"
    return {f"{base}/accept_ra": "2", f"{base}/autoconf": "1", f"{base}/accept_ra_defrtr": "0"}


def vip_for(request: VipRequest, ports: Iterable[Port]) -> Vip:
    """The VIP that a request asks for, with the lowest table that it can have."""
    taken: set[int] = set()
    for port in ports:
        for vip in port.vips:
            shared = port.mac == request.mac and (
                vip.ip == request.ip
                or vip.ip.version != request.ip.version
                or (vip.subnet, vip.gateway) == (request.subnet, request.gateway)
            )
            if not shared:
                taken.add(vip.table)
    table = next(number for number in count(1) if number not in taken and number not in RESERVED_TABLES)
    return Vip(request.ip, request.subnet, request.gateway, table)


@frozen
class Sight:
    """
    Both namespaces: `inside` is the amphora's, `outside` the agent's own.

    Where they are one, there is no outside.
    """

    inside: Snapshot
    outside: Snapshot | None


@frozen
class Found:
    """A link, and which namespace it is in."""

    link: Link
    outside: bool


def find(mac: str, sight: Sight, *, plugged: bool) -> Found | None:
    """
    Find a link by its MAC address.

    One that is up and has addresses beyond its link is somebody's, such as the management port: it is left alone unless
    it was plugged before.

    @param plugged: Whether it was.
    """
    apart = sight.outside is not None
    places = [(sight.inside, False), *([(sight.outside, True)] if sight.outside is not None else [])]
    for snapshot, outside in places:
        links = [link for link in snapshot.links if link.mac == mac]
        if not plugged and (outside or not apart):
            links = [link for link in links if not (link.up and _has_global_address(link, snapshot))]
        if links:
            # Links that are built on another one may have its address; the new one is down.
            return Found(min(links, key=lambda link: (link.up, link.index)), outside)
    return None


def _has_global_address(link: Link, snapshot: Snapshot) -> bool:
    return any(found.index == link.index and not found.address.ip.is_link_local for found in snapshot.addresses)


def name_for(found: Found, port: Port | None, lowest: int, ports: Iterable[Port], sight: Sight) -> str:
    """
    The name that a link should have in the amphora's namespace: the one it was plugged with, where that is to be had;
    else the first free C{ethN}.  One that is there and up keeps its name: kernels before 6.2 do not rename it.

    A VIP's name is kept for it while its link is away: configurations name it.  A network's is not.

    @param port: What was plugged, if it was.
    @param lowest: The lowest number.
    """
    if not found.outside and found.link.up:
        return found.link.name
    taken = set(found.link.altnames)
    for link in sight.inside.links:
        if found.outside or link.index != found.link.index:
            taken.update((link.name, *link.altnames))
    if port is not None and port.name not in taken:
        return port.name
    taken.update(other.name for other in ports if other.vips and other.mac != found.link.mac)
    return next(name for number in count(lowest) if (name := f"eth{number}") not in taken)


def squatters(ports: Iterable[Port], sight: Sight) -> list[tuple[Link, str]]:
    """
    Links that are down and have the name of a plugged one, and the names they should have for the time being.

    So it may be after a reboot where there is one namespace only: the kernel numbers as it finds.
    """
    owners = {port.name: port.mac for port in ports}
    return [
        (link, f"amphora{link.index}")
        for link in sight.inside.links
        if not link.up and owners.get(link.name, link.mac) != link.mac
    ]
