"""Tests for L{amphora.network.plan}."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any, cast

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.dhcp import Lease
from amphora.network.plan import (
    Found,
    Port,
    Sight,
    Vip,
    as_asked,
    find,
    name_for,
    squatters,
    vip_for,
    wanted,
)
from amphora.network.requests import PortRequest, VipRequest
from amphora.network.state import IP, Address, FixedIp, FoundAddress, HostRoute, Link, Route, Rule, Snapshot

A, B, C = (f"02:00:00:00:00:0{number}" for number in "abc")
SUBNET, SUBNET6, OTHER = ip_network("203.0.113.0/24"), ip_network("2001:db8::/64"), ip_network("198.51.100.0/24")
GATEWAY, GATEWAY6, FAR = ip_address("203.0.113.1"), ip_address("2001:db8::1"), ip_address("198.51.100.1")
NEXTHOP, FIXED_NEXTHOP = ip_address("203.0.113.9"), ip_address("192.0.2.9")
OWN = Address(ip_address("203.0.113.5"), 24)
OWN_METRIC = 0x100000A
EVERYWHERE, EVERYWHERE6 = ip_network("0.0.0.0/0"), ip_network("::/0")
VIP = Vip(ip_address("203.0.113.2"), SUBNET, GATEWAY, 1)
SECOND = Vip(ip_address("203.0.113.3"), SUBNET, GATEWAY, 1)
VIP6 = Vip(ip_address("2001:db8::2"), SUBNET6, GATEWAY6, 1)
ELSEWHERE = Vip(ip_address("198.51.100.2"), OTHER, FAR, 2)

LASTING = evolve(VIP, lasting=True, host_routes=(HostRoute(OTHER, NEXTHOP),))
LASTING_PORT = Port("eth1", A, (LASTING,), vrrp_ip=OWN, mtu=1400)
FIXED = FixedIp(
    ip_address("192.0.2.7"),
    ip_network("192.0.2.0/25"),
    ip_address("192.0.2.1"),
    (HostRoute(OTHER, FIXED_NEXTHOP),),
)


def _unless_told(sysctls: dict[str, str], name: str) -> str | None:
    value = sysctls.get(f"net/ipv6/conf/{name}/accept_ra")
    return None if value == "0" else value


def request(vip: Vip, mac: str) -> VipRequest:
    return VipRequest(vip.ip, vip.subnet, vip.gateway, mac)


class WantedTests(SynchronousTestCase):
    def test_vip(self) -> None:
        """A VIP has its subnet's prefix, a default route, and answers that leave by a table of their own."""
        want = wanted(Port("eth1", A, (VIP,)), keepalived_owns_vips=False)
        self.assertEqual({Address(VIP.ip, 24)}, want.addresses)
        self.assertEqual(
            {
                Route(EVERYWHERE, 254, 2048, GATEWAY),
                Route(SUBNET, 1, 2048, source=VIP.ip),
                Route(EVERYWHERE, 1, 2048, GATEWAY),
            },
            want.routes,
        )
        self.assertEqual({Rule(VIP.ip, 1)}, want.rules)
        self.assertEqual({"net/ipv4/conf/eth1/promote_secondaries": "1"}, want.sysctls)

    def test_several(self) -> None:
        """VIPs of one subnet share routes; those of another, and of IPv6, have their own."""
        port = Port("eth1", A, (VIP, SECOND, VIP6, ELSEWHERE))
        want = wanted(port, keepalived_owns_vips=False)
        self.assertEqual({vip.address for vip in port.vips}, want.addresses)
        self.assertEqual({Rule(vip.ip, vip.table) for vip in port.vips}, want.rules)
        self.assertEqual(
            {
                Route(EVERYWHERE, 254, 2048, GATEWAY),
                Route(EVERYWHERE6, 254, 2048, GATEWAY6),
                Route(EVERYWHERE, 254, 2049, FAR),
                Route(SUBNET, 1, 2048, source=VIP.ip),
                Route(EVERYWHERE, 1, 2048, GATEWAY),
                Route(SUBNET6, 1, 2048, source=VIP6.ip),
                Route(EVERYWHERE6, 1, 2048, GATEWAY6),
                Route(OTHER, 2, 2049, source=ELSEWHERE.ip),
                Route(EVERYWHERE, 2, 2049, FAR),
            },
            want.routes,
        )

    def test_not_in_use(self) -> None:
        """A VIP without listeners has nothing, and what it shared is the other one's."""
        unused = evolve(VIP, in_use=False)
        self.assertEqual(frozenset(), wanted(Port("eth1", A, (unused,)), keepalived_owns_vips=False).addresses)
        self.assertEqual(
            wanted(Port("eth1", A, (SECOND,)), keepalived_owns_vips=False),
            wanted(Port("eth1", A, (unused, SECOND)), keepalived_owns_vips=False),
        )

    def test_pair(self) -> None:
        """Of a pair, keepalived owns the VIP; what both have is the way out, and haproxy may bind what is not there."""
        port = Port("eth1", A, (VIP, VIP6))
        want = wanted(port, keepalived_owns_vips=True)
        self.assertEqual((frozenset(), frozenset()), (want.addresses, want.rules))
        self.assertEqual(
            {
                Route(SUBNET, 254, 2048),
                Route(EVERYWHERE, 254, 2048, GATEWAY),
                Route(SUBNET6, 254, 2048),
                Route(EVERYWHERE6, 254, 2048, GATEWAY6),
            },
            want.routes,
        )
        self.assertEqual({"net/ipv4/ip_nonlocal_bind": "1", "net/ipv6/ip_nonlocal_bind": "1"}, want.sysctls)
        self.assertTrue(want.dhcp)

    def test_lease(self) -> None:
        """What a DHCP server gave belongs to a network's interface, and to a VIP's while there is a pair of IPv4."""
        routes = ((ip_network("10.0.0.0/8"), ip_address("192.0.2.1")), (ip_network("172.16.0.0/12"), None))
        lease = Lease(IPv4Address("192.0.2.10"), 24, 3600, cast(Any, routes))
        for vips, pair, expected in (
            ((), False, True),
            ((), True, True),
            ((VIP,), True, True),
            ((VIP,), False, False),
            ((VIP6,), True, False),
        ):
            want = wanted(Port("eth1", A, vips, lease=lease), keepalived_owns_vips=pair)
            self.assertEqual((expected, expected), (want.dhcp, lease.address in want.addresses))
            given = {Route(destination, 254, 0x100000A, gateway) for destination, gateway in routes}
            self.assertEqual(given if expected else set(), given & want.routes)

    def test_vip_of_1_0(self) -> None:
        """The interface has an address in the VIP's subnet, the VIP is nothing but itself; gateways are on the link."""
        want = wanted(LASTING_PORT, keepalived_owns_vips=False)
        self.assertEqual({OWN, Address(VIP.ip, 32)}, want.addresses)
        self.assertEqual(
            {
                Route(SUBNET, 254, 2048),
                Route(EVERYWHERE, 254, 2048, GATEWAY, onlink=True),
                Route(SUBNET, 1, 2048, source=VIP.ip),
                Route(EVERYWHERE, 1, 2048, GATEWAY, onlink=True),
                Route(OTHER, 254, OWN_METRIC, NEXTHOP, onlink=True),
                Route(OTHER, 1, OWN_METRIC, NEXTHOP, onlink=True),
            },
            want.routes,
        )
        self.assertEqual({route for route in want.routes if route.destination == OTHER}, want.optional)
        self.assertEqual({Rule(VIP.ip, 1)}, want.rules)
        self.assertEqual((1400, False), (want.mtu, want.dhcp))

    def test_pair_of_1_0(self) -> None:
        """Of a pair, both have their own address, and users' routes in the table that keepalived uses."""
        want = wanted(LASTING_PORT, keepalived_owns_vips=True)
        self.assertEqual(({OWN}, frozenset()), (want.addresses, want.rules))
        self.assertEqual(
            {
                Route(SUBNET, 254, 2048),
                Route(EVERYWHERE, 254, 2048, GATEWAY, onlink=True),
                Route(OTHER, 254, OWN_METRIC, NEXTHOP, onlink=True),
                Route(OTHER, 1, OWN_METRIC, NEXTHOP, onlink=True),
            },
            want.routes,
        )
        self.assertFalse(want.dhcp)

    def test_no_gateway(self) -> None:
        """A VIP without a gateway has no default route."""
        vip = evolve(LASTING_PORT.vips[0], gateway=None)
        for pair in (False, True):
            want = wanted(evolve(LASTING_PORT, vips=(vip,)), keepalived_owns_vips=pair)
            self.assertNotIn(EVERYWHERE, [route.destination for route in want.routes])

    def test_asking(self) -> None:
        """An interface that was told no address of its own asks for one, of the versions of its VIPs."""
        lasting, lasting6 = evolve(VIP, lasting=True), evolve(VIP6, lasting=True)
        for port, versions in (
            (Port("eth1", A, (lasting,)), {4}),
            (Port("eth1", A, (lasting6,)), {6}),
            (Port("eth1", A, (lasting, lasting6)), {4, 6}),
            (Port("eth1", A, (lasting, lasting6), vrrp_ip=OWN), set()),
            (Port("eth1", A, (VIP, VIP6)), set()),
            (Port("eth2", A), {4, 6}),
            (Port("eth2", A, fixed_ips=(FIXED,)), set()),
        ):
            want = wanted(port, keepalived_owns_vips=False)
            self.assertEqual(versions, port.asks_for)
            self.assertEqual(4 in versions, want.dhcp)
            self.assertEqual("2" if 6 in versions else None, _unless_told(want.sysctls, port.name))

    def test_families(self) -> None:
        """The IP versions that an interface carries are those of its addresses, and those it asks for."""
        lasting, lasting6 = evolve(VIP, lasting=True), evolve(VIP6, lasting=True)
        for port, versions in (
            (Port("eth1", A, (lasting,), vrrp_ip=OWN), {4}),
            (Port("eth1", A, (lasting, lasting6), vrrp_ip=OWN), {4, 6}),
            (Port("eth1", A, (VIP6,), fixed_ips=(FIXED,)), {4, 6}),
            (Port("eth2", A), {4, 6}),
            (Port("eth2", A, fixed_ips=(FIXED,)), {4}),
        ):
            self.assertEqual(versions, port.families)

    def test_fixed_ips(self) -> None:
        """A network's interface has its addresses and users' routes, never a default route, and no others."""
        want = wanted(Port("eth2", A, fixed_ips=(FIXED,)), keepalived_owns_vips=True)
        self.assertEqual({Address(FIXED.ip, 25)}, want.addresses)
        self.assertEqual({Route(OTHER, 254, OWN_METRIC, FIXED_NEXTHOP, onlink=True)}, want.routes)
        self.assertEqual(want.routes, want.optional)
        self.assertEqual("0", want.sysctls["net/ipv6/conf/eth2/accept_ra"])

    def test_fixed_ips_beside_vip(self) -> None:
        """A VIP's interface can have addresses of members' subnets; its own, told twice, it has once."""
        again = FixedIp(OWN.ip, SUBNET, GATEWAY)
        port = evolve(LASTING_PORT, fixed_ips=(again, FIXED))
        default = Route(EVERYWHERE, 254, OWN_METRIC, FIXED.gateway, onlink=True)
        for pair in (False, True):
            before = wanted(LASTING_PORT, keepalived_owns_vips=pair)
            want = wanted(port, keepalived_owns_vips=pair)
            self.assertEqual({FIXED.address}, want.addresses - before.addresses)
            self.assertEqual({default}, {route for route in want.routes - before.routes if route not in want.optional})
        bare = evolve(port, fixed_ips=(FIXED,), vips=(evolve(LASTING_PORT.vips[0], gateway=None),))
        self.assertIn(evolve(default, table=1), wanted(bare, keepalived_owns_vips=False).routes)

    def test_leases_of_one_route(self) -> None:
        """Interfaces that were given the same route have it each with a metric of its own, whatever they are called."""
        route = (IPv4Network("169.254.169.254/32"), IPv4Address("192.0.2.1"))
        lease = Lease(IPv4Address("192.0.2.10"), 24, 3600, (route,))
        first, second = (
            wanted(Port(name, mac, lease=lease), keepalived_owns_vips=False).routes
            for name, mac in (("eth2", A), ("enp0s3", B))
        )
        keys = {(route.destination, route.table, route.metric) for route in (*first, *second)}
        self.assertEqual((1, 1, 2), (len(first), len(second), len(keys)))

    def test_network(self) -> None:
        """A member network gives addresses by itself, but no default route."""
        want = wanted(Port("eth2", A), keepalived_owns_vips=False)
        self.assertEqual((frozenset(),) * 3, (want.addresses, want.routes, want.rules))
        self.assertEqual(
            {
                "net/ipv6/conf/eth2/accept_ra": "2",
                "net/ipv6/conf/eth2/autoconf": "1",
                "net/ipv6/conf/eth2/accept_ra_defrtr": "0",
            },
            want.sysctls,
        )


class TableTests(SynchronousTestCase):
    def test_first(self) -> None:
        """The first VIP has table 1, as in Octavia's keepalived configurations."""
        self.assertEqual(VIP, vip_for(request(VIP, A), []))

    def test_shared(self) -> None:
        """A VIP of the same subnet, or of the other IP version, shares the table of its interface."""
        ports = [Port("eth1", A, (VIP,))]
        self.assertEqual(SECOND, vip_for(request(SECOND, A), ports))
        self.assertEqual(VIP6, vip_for(request(VIP6, A), ports))

    def test_apart(self) -> None:
        """One of another subnet, gateway or interface has a table of its own (A8)."""
        ports = [Port("eth1", A, (VIP,))]
        self.assertEqual(2, vip_for(request(ELSEWHERE, A), ports).table)
        self.assertEqual(2, vip_for(request(evolve(SECOND, gateway=ip_address("203.0.113.9")), A), ports).table)
        self.assertEqual(2, vip_for(request(VIP6, B), ports).table)

    def test_repeated(self) -> None:
        """A repeat, with another gateway or none, keeps the table that the VIP has for itself."""
        ports = [Port("eth1", A, (VIP,)), Port("eth2", B, (evolve(ELSEWHERE, table=3),))]
        self.assertEqual(1, vip_for(request(VIP, A), ports).table)
        self.assertEqual(1, vip_for(request(evolve(VIP, gateway=ip_address("203.0.113.9")), A), ports).table)

    def test_the_kernels_own(self) -> None:
        """The kernel's own tables are nobody's."""
        ports = [
            Port(f"eth{number}", f"02:00:00:00:01:{number:02x}", (evolve(VIP, table=number),))
            for number in range(1, 253)
        ]
        self.assertEqual(256, vip_for(request(SECOND, A), ports).table)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([A, B, C]),
                st.sampled_from([VIP, SECOND, VIP6, ELSEWHERE]),
                st.sampled_from([GATEWAY, ip_address("203.0.113.9")]),
            ),
            max_size=12,
        )
    )
    def test_no_two_fight(self, plugs: list[tuple[str, Vip, IP]]) -> None:
        """Whatever is plugged in whichever order: one table never has two interfaces, nor two default routes."""
        ports: dict[str, Port] = {}
        for mac, vip, gateway in plugs:
            if any(port.has(vip.ip) for port in ports.values() if port.mac != mac):
                continue
            wish = request(evolve(vip, gateway=gateway) if vip.ip.version == 4 else vip, mac)
            port = ports.get(mac, Port(f"eth{len(ports) + 1}", mac))
            ports[mac] = port.with_vip(vip_for(wish, ports.values()))
        owners: dict[int, str] = {}
        for port in ports.values():
            routes = wanted(port, keepalived_owns_vips=False).routes
            keys = [(route.destination, route.table, route.metric) for route in routes]
            self.assertEqual(len(keys), len(set(keys)))
            for vip in port.vips:
                everywhere = EVERYWHERE if vip.ip.version == 4 else EVERYWHERE6
                self.assertEqual(port.mac, owners.setdefault(vip.table, port.mac))
                self.assertIn(Route(everywhere, vip.table, 2047 + vip.table, vip.gateway), routes)


def links(*links: Link) -> Snapshot:
    return Snapshot(links)


class FindTests(SynchronousTestCase):
    def test_new(self) -> None:
        """A new device is found in the agent's own namespace, one that was plugged in the amphora's."""
        new, plugged = Link(7, "ens7", A, up=False), Link(7, "eth1", B, up=True)
        sight = Sight(links(plugged), links(new))
        self.assertEqual(Found(new, outside=True), find(A, sight, plugged=False))
        self.assertEqual(Found(plugged, outside=False), find(B, sight, plugged=False))
        self.assertIsNone(find(C, sight, plugged=False))

    def test_management(self) -> None:
        """One that is up and has an address beyond its link is somebody's; with one of the link alone it is new."""
        link = Link(2, "eth0", A, up=True)
        address, local = (FoundAddress(2, Address(ip_address(text), 64)) for text in ("2001:db8::9", "fe80::9"))
        for addresses, expected in (((address,), None), ((local, address), None), ((local,), link), ((), link)):
            there = Snapshot((link,), addresses)
            for sight, outside in ((Sight(Snapshot(), there), True), (Sight(there, None), False)):
                found = find(A, sight, plugged=False)
                self.assertEqual(None if expected is None else Found(link, outside), found)
                self.assertEqual(Found(link, outside), find(A, sight, plugged=True))

    def test_down_with_address(self) -> None:
        """One that is down is nobody's, whatever addresses it has."""
        link = Link(2, "eth0", A, up=False)
        there = Snapshot((link,), (FoundAddress(2, Address(ip_address("192.0.2.1"), 24)),))
        self.assertEqual(Found(link, outside=True), find(A, Sight(Snapshot(), there), plugged=False))

    def test_inside_up(self) -> None:
        """In a namespace of its own, all that is there is the amphora's."""
        link = Link(2, "eth1", A, up=True)
        there = Snapshot((link,), (FoundAddress(2, Address(ip_address("192.0.2.1"), 24)),))
        self.assertEqual(Found(link, outside=False), find(A, Sight(there, Snapshot()), plugged=False))

    def test_same_mac(self) -> None:
        """Of several with one MAC address, the one that is down is the new one."""
        first, second = Link(2, "br0", A, up=True), Link(3, "ens3", A, up=False)
        self.assertEqual(Found(second, outside=True), find(A, Sight(Snapshot(), links(first, second)), plugged=False))


class NameTests(SynchronousTestCase):
    def name(self, link: Link, port: Port | None, *ports: Port, inside: Snapshot, outside: bool = True) -> str:
        found = Found(link, outside)
        everyone = ports if port is None else (port, *ports)
        return name_for(found, port, 1, everyone, Sight(inside, Snapshot() if outside else None))

    def test_first_free(self) -> None:
        """The first name that no link has, as a name or beside it."""
        new = Link(9, "ens9", A, up=False, altnames=("eth3",))
        there = links(Link(2, "eth1", B, up=True), Link(3, "x", C, up=True, altnames=("eth2", "y")))
        self.assertEqual("eth4", self.name(new, None, inside=there))

    def test_known(self) -> None:
        """What was plugged has its name again, if that is to be had."""
        link = Link(9, "ens9", A, up=False)
        port = Port("eth5", A)
        self.assertEqual("eth5", self.name(link, port, inside=Snapshot()))
        self.assertEqual("eth1", self.name(link, port, inside=links(Link(2, "eth5", B, up=True))))

    def test_kept_for_vips(self) -> None:
        """The name of a VIP whose link is away is kept for it, that of a network is not."""
        link = Link(9, "ens9", A, up=False)
        away = (Port("eth1", B, (VIP,)), Port("eth2", C))
        self.assertEqual("eth2", self.name(link, None, *away, inside=Snapshot()))

    def test_one_namespace(self) -> None:
        """Where nothing is moved, a link that is up keeps its name, and one that is down may have the right one."""
        up, down = Link(9, "ens9", A, up=True), Link(9, "ens9", A, up=False)
        for port in (None, Port("eth1", A, (VIP,))):
            self.assertEqual("ens9", self.name(up, port, inside=links(up), outside=False))
        self.assertEqual("eth1", self.name(down, None, inside=links(down), outside=False))
        right = Link(9, "eth1", A, up=False)
        self.assertEqual("eth1", self.name(right, None, inside=links(right), outside=False))

    def test_squatters(self) -> None:
        """After a reboot devices may have each other's names; those that are up are left alone."""
        ports = [Port("eth1", A), Port("eth2", B), Port("eth3", C)]
        swapped = (Link(7, "eth2", A, up=False), Link(8, "eth1", B, up=False))
        others = (Link(2, "eth0", "02:00:00:00:00:0d", up=False), Link(3, "eth3", "02:00:00:00:00:0e", up=True))
        sight = Sight(links(*swapped, *others), None)
        self.assertEqual([(swapped[0], "amphora7"), (swapped[1], "amphora8")], squatters(ports, sight))


class AsAskedTests(SynchronousTestCase):
    def test_no_mtu(self) -> None:
        """A request that says nothing of the MTU leaves the one that was asked for before."""
        port = as_asked(Port("eth1", "02:00:00:00:00:0a"), PortRequest("02:00:00:00:00:0a", mtu=1450), [])
        self.assertEqual(1450, as_asked(port, PortRequest("02:00:00:00:00:0a"), []).mtu)
