"""
What was plugged, and what follows from it: names, tables, addresses, routes, rules.  Nothing here asks the kernel.

A VIP that v0.1 plugged has its subnet's prefix, so that the subnet is reached directly; one that 1.0 plugged has
nothing but itself, for there the interface has an address of its own in the subnet.  Answers from a VIP have to leave
by the way that requests came, whatever the main table says: a rule sends what comes from it to a table of its own.  Two
VIPs share a table where they share interface, subnet and gateway (of IPv4, or of IPv6: a table has two halves); no
table is of two interfaces.

The configuration of keepalived that Octavia writes for a pair uses table 1.  So may we: what is ours there bears our
number, and metrics that keepalived does not use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from typing import Literal

from attrs import evolve, field, frozen

from amphora.network.dhcp import Lease
from amphora.network.requests import PortRequest, VipRequest
from amphora.network.state import (
    IP,
    MAIN_TABLE,
    RESERVED_TABLES,
    Address,
    FixedIp,
    HostRoute,
    Link,
    Route,
    Rule,
    Snapshot,
    Subnet,
)

Kind = Literal["vip", "backend"]

FIRST_VIP_NAME = 1
FIRST_NETWORK_NAME = 2

_METRIC = 2047
"""
With the table's number added, the metric of our routes: above what the kernel, DHCP clients and keepalived use (1024 at
most), so that another's default route keeps its place, and ours of several interfaces have an order.
"""
_OWN_METRIC = 1 << 24
"""
With the last three bytes of an interface's MAC address added, the metric of the routes that came with its addresses.  A
cloud gives each network the same route to its metadata, and a table takes one only once with the same metric.
"""
_KEEPALIVEDS_TABLE = 1
"""Where Octavia has keepalived put a pair's VIPs' routes."""

_EVERYWHERE: dict[int, Subnet] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@frozen
class Vip:
    """
    A VIP of an interface.

    `in_use` is false once the last listener that was bound to it was deleted; it is given back to the next one.
    `lasting`: the API 1.0 plugged it, so listeners come and go and it stays, and the interface has an address in its
    subnet besides.
    """

    ip: IP
    subnet: Subnet
    gateway: IP | None
    table: int
    in_use: bool = True
    lasting: bool = False
    host_routes: tuple[HostRoute, ...] = ()

    @property
    def address(self) -> Address:
        return Address(self.ip, self.ip.max_prefixlen if self.lasting else self.subnet.prefixlen)


@frozen
class Port:
    """
    An interface that was plugged.

    `ours` are the addresses that we gave it, or are about to: those that we may take away again; `lease` is what a DHCP
    server gave it last.  `vrrp_ip` is the own address of a VIP's interface, with its subnet's prefix; `fixed_ips` are
    those that it has beyond that, or all of a network's interface.  Where an interface was told no address of its own,
    it asks for one.  `mtu` is None where nobody asked for one: the link keeps what it has.
    """

    name: str
    mac: str
    vips: tuple[Vip, ...] = ()
    ours: frozenset[Address] = frozenset()
    lease: Lease | None = None
    vrrp_ip: Address | None = None
    fixed_ips: tuple[FixedIp, ...] = ()
    mtu: int | None = None
    is_sriov: bool = False

    @property
    def kind(self) -> Kind:
        return "vip" if self.vips else "backend"

    @property
    def asks_for(self) -> frozenset[int]:
        """The IP versions that it asks the network for an address of its own of, whatever else it has."""
        if not self.vips:
            return frozenset() if self.fixed_ips else frozenset((4, 6))
        if self.vrrp_ip is not None:
            return frozenset()
        return frozenset(vip.ip.version for vip in self.vips if vip.lasting)

    @property
    def families(self) -> frozenset[int]:
        """The IP versions that it carries, 4 and 6."""
        ips = [vip.ip for vip in self.vips] + [fixed.ip for fixed in self.fixed_ips]
        return self.asks_for | {ip.version for ip in ips}

    def vip(self, ip: IP) -> Vip | None:
        return next((vip for vip in self.vips if vip.ip == ip), None)

    def has(self, ip: IP) -> bool:
        return self.vip(ip) is not None

    def with_vip(self, vip: Vip) -> Port:
        """Add a VIP, or put it in the place of what it was."""
        if not self.has(vip.ip):
            return evolve(self, vips=(*self.vips, vip))
        return evolve(self, vips=tuple(vip if known.ip == vip.ip else known for known in self.vips))

    def using(self, vips: Collection[Vip], in_use: bool) -> Port:
        """Have listeners use these of its VIPs, or no longer."""
        return evolve(self, vips=tuple(evolve(vip, in_use=in_use) if vip in vips else vip for vip in self.vips))

    def without_vips(self, ips: Collection[IP]) -> Port:
        return evolve(self, vips=tuple(known for known in self.vips if known.ip not in ips))


@frozen
class Wanted:
    """
    What an interface should have of us.

    `optional` are routes among `routes` that users thought up: one that the kernel refuses is told, and nothing fails.
    `dhcp`: a DHCP server is to be asked for an address.  `mtu`: None for what it is.  `sysctls` are settings by their
    path below `/proc/sys`; they matter, but nothing fails where one cannot be set.
    """

    addresses: frozenset[Address] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    optional: frozenset[Route] = frozenset()
    dhcp: bool = False
    mtu: int | None = None
    sysctls: dict[str, str] = field(factory=dict)


def wanted(port: Port, *, keepalived_owns_vips: bool) -> Wanted:
    """
    What an interface should have.

    keepalived gives a pair's VIP to one of both, with all that belongs to it; what both have all the time is the way
    to the subnet and through its gateway, the permission for haproxy to bind an address that is not there, and an
    address of their own, without which keepalived stays in its fault state.  A network's interface has its own
    addresses, and the ways to further hosts that came with them.
    """
    # By IP: a kernel has an address of IPv6 once, and Octavia tells the address of a VIP's interface twice.
    addresses: dict[IP, Address] = {}
    routes: dict[tuple[Subnet, int, int], Route] = {}
    optional: set[Route] = set()
    rules: set[Rule] = set()
    sysctls = _network_sysctls(port)
    own_metric = _OWN_METRIC + int(port.mac.replace(":", "")[-6:], 16)

    def add(route: Route) -> Route:
        # Of VIPs that share a subnet, the first one's routes serve all.
        return routes.setdefault((route.destination, route.table, route.metric), route)

    def add_host_routes(told: Iterable[HostRoute], *tables: int) -> None:
        for route in told:
            for table in tables:
                optional.add(add(Route(route.destination, table, own_metric, route.nexthop, onlink=True)))

    if port.vrrp_ip is not None:
        addresses[port.vrrp_ip.ip] = port.vrrp_ip
    dhcp = 4 in port.asks_for or (
        keepalived_owns_vips and port.vrrp_ip is None and any(vip.ip.version == 4 for vip in port.vips)
    )
    if dhcp and port.lease is not None:
        addresses[port.lease.ip] = port.lease.address
        for destination, gateway in port.lease.routes:
            add(Route(destination, MAIN_TABLE, own_metric, gateway))

    for vip in port.vips:
        metric = _METRIC + vip.table
        if keepalived_owns_vips:
            add(Route(vip.subnet, MAIN_TABLE, metric))
            with_default, with_host_routes = [MAIN_TABLE], [MAIN_TABLE, _KEEPALIVEDS_TABLE]
            sysctls[f"net/ipv{vip.ip.version}/ip_nonlocal_bind"] = "1"
        elif vip.in_use:
            addresses.setdefault(vip.ip, vip.address)
            if vip.lasting:
                add(Route(vip.subnet, MAIN_TABLE, metric))
            add(Route(vip.subnet, vip.table, metric, source=vip.ip))
            with_default = with_host_routes = [MAIN_TABLE, vip.table]
            rules.add(Rule(vip.ip, vip.table))
        else:
            continue
        if vip.gateway is not None:
            for table in with_default:
                add(Route(_EVERYWHERE[vip.ip.version], table, metric, vip.gateway, onlink=vip.lasting))
        add_host_routes(vip.host_routes, *with_host_routes)

    gateways = {vip.gateway for vip in port.vips}
    for fixed in port.fixed_ips:
        addresses.setdefault(fixed.ip, fixed.address)
        if port.vips and fixed.gateway is not None and fixed.gateway not in gateways:
            tables = {MAIN_TABLE}
            if not keepalived_owns_vips:
                # Answers from a VIP that has no gateway of its own leave by this one.
                alike = (vip for vip in port.vips if vip.in_use and vip.ip.version == fixed.ip.version)
                tables |= {vip.table for vip in alike if vip.gateway is None}
            for table in tables:
                add(Route(_EVERYWHERE[fixed.ip.version], table, own_metric, fixed.gateway, onlink=True))
        add_host_routes(fixed.host_routes, MAIN_TABLE)

    if any(ip.version == 4 for ip in addresses):
        # Else the kernel takes the others of the subnet away with the first.
        sysctls[f"net/ipv4/conf/{port.name}/promote_secondaries"] = "1"
    return Wanted(
        addresses=frozenset(addresses.values()),
        routes=frozenset(routes.values()),
        rules=frozenset(rules),
        optional=frozenset(optional),
        dhcp=dhcp,
        mtu=port.mtu,
        sysctls=sysctls,
    )


def _network_sysctls(port: Port) -> dict[str, str]:
    """
    An interface that was told no address gives itself addresses of IPv6 (RFC 4862), but no default route.

    One whose addresses were told has those and no others.  An interface that v0.1 plugged for a VIP is left alone.
    """
    base = f"net/ipv6/conf/{port.name}"
    if 6 in port.asks_for:
        return {f"{base}/accept_ra": "2", f"{base}/autoconf": "1", f"{base}/accept_ra_defrtr": "0"}
    if port.vrrp_ip is not None or port.fixed_ips:
        return {f"{base}/accept_ra": "0", f"{base}/autoconf": "0"}
    return {}


def vip_for(request: VipRequest, ports: Iterable[Port]) -> Vip:
    """
    The VIP that a request asks for: as its interface has it, or else with the lowest table that it can have.

    @param ports: All that is plugged, the request's interface included.
    """
    taken: set[int] = set()
    for port in ports:
        for vip in port.vips:
            alike = (vip.subnet, vip.gateway) == (request.subnet, request.gateway)
            if port.mac == request.mac and vip.ip == request.ip and alike:
                return evolve(vip, in_use=True)
            shared = port.mac == request.mac and (vip.ip == request.ip or vip.ip.version != request.ip.version or alike)
            if not shared:
                taken.add(vip.table)
    table = next(number for number in count(1) if number not in taken and number not in RESERVED_TABLES)
    return Vip(request.ip, request.subnet, request.gateway, table)


def as_asked(port: Port, request: PortRequest, others: Iterable[Port]) -> Port:
    """
    An interface as the API 1.0 asks for it; what a request says nothing of stays.

    Only an absent `is_sriov` counts as false: Octavia says it of each port that is one.

    @param others: What else is plugged.
    """
    others = list(others)
    mtu = port.mtu if request.mtu is None else request.mtu
    changed = evolve(port, mtu=mtu, is_sriov=request.is_sriov)
    if request.fixed_ips is not None:
        changed = evolve(changed, fixed_ips=request.fixed_ips)
    if not request.vips:
        return changed
    if request.all_vips:
        asked = {each.ip for each in request.vips}
        changed = evolve(changed, vips=tuple(vip for vip in port.vips if vip.ip in asked or not vip.lasting))
    for each in request.vips:
        vip = vip_for(each, [*others, changed])
        changed = changed.with_vip(evolve(vip, lasting=True, host_routes=each.host_routes))
    return evolve(changed, vrrp_ip=request.vrrp_ip)


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
