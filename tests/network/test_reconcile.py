"""Tests for L{amphora.network.reconcile}, on a kernel that refuses what the real one refuses."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.plan import Found, Port, Vip, Wanted, wanted
from amphora.network.reconcile import place, reconcile
from amphora.network.state import IP, Address, FixedIp, FoundAddress, HostRoute, Link, Route, Rule
from amphora.network.steps import Add, AwaitUsable, MoveIn, Remove, Rename, SetUp, Step
from amphora.testing.fake_kernel import FakeKernel

MAC = "02:00:00:00:00:0a"
VIP = Vip(ip_address("203.0.113.2"), ip_network("203.0.113.0/24"), ip_address("203.0.113.1"), 1)
SECOND = evolve(VIP, ip=ip_address("203.0.113.3"))
VIP6 = Vip(ip_address("2001:db8::2"), ip_network("2001:db8::/64"), ip_address("2001:db8::1"), 1)
ELSEWHERE = Vip(ip_address("198.51.100.2"), ip_network("198.51.100.0/24"), ip_address("198.51.100.1"), 2)

OTHER_HOSTS = (HostRoute(ip_network("10.0.0.0/8"), ip_address("192.0.2.9")),)
FIXED = FixedIp(ip_address("192.0.2.7"), ip_network("192.0.2.0/24"), ip_address("192.0.2.1"), OTHER_HOSTS)
FIXED_TOO = evolve(FIXED, ip=ip_address("192.0.2.8"), gateway=None, host_routes=())
FIXED6 = FixedIp(ip_address("2001:db8:2::7"), ip_network("2001:db8:2::/64"))


class PlaceTests(SynchronousTestCase):
    def test_place(self) -> None:
        """A link outside is moved, one with another name is renamed, one that is right is left alone."""
        link = Link(7, "ens7", MAC, up=False)
        self.assertEqual([MoveIn(link, "eth1")], place(Found(link, outside=True), "eth1"))
        self.assertEqual([Rename(link, "eth1")], place(Found(link, outside=False), "eth1"))
        self.assertEqual([], place(Found(link, outside=False), "ens7"))


class ReconcileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.kernel = FakeKernel()
        self.link = self.kernel.new_link(MAC, "eth1", inside=True, up=True)

    def steps(self, port: Port, want: Wanted) -> list[Step]:
        return reconcile(self.kernel.inside.link(MAC), port, want, self.kernel.look())

    def settle(self, port: Port, want: Wanted) -> None:
        """Carry out what has to be, until nothing has."""
        for _ in range(4):
            steps = self.steps(port, want)
            if not steps:
                return
            for step in steps:
                if isinstance(step, AwaitUsable):
                    self.kernel.end_detection()
                else:
                    self.kernel.carry_out([step])
        self.fail(f"never settles: {steps}")

    def test_fresh(self) -> None:
        """Up, the address, routes to the link before those through it, rules; IPv6 after its address is usable."""
        port = Port("eth1", MAC, (VIP, VIP6))
        self.kernel.inside.links = [evolve(self.link, up=False)]
        down = self.kernel.inside.link(MAC)
        got = self.steps(port, wanted(port, keepalived_owns_vips=False))
        self.assertEqual(SetUp(down), got[0])
        kinds = [type(step.what) if isinstance(step, Add) else type(step) for step in got[1:]]
        family = [Address, Route, Route, Route, Rule]
        self.assertEqual([*family, Address, AwaitUsable, *family[1:]], kinds)
        self.settle(port, wanted(port, keepalived_owns_vips=False))

    def test_nothing_to_do(self) -> None:
        """What is right is not touched."""
        port = Port("eth1", MAC, (VIP, VIP6))
        want = wanted(port, keepalived_owns_vips=False)
        self.settle(port, want)
        self.assertEqual([], self.steps(evolve(port, ours=want.addresses), want))

    def test_only_what_is_missing(self) -> None:
        """What is missing is added, and nothing else happens."""
        port = Port("eth1", MAC, (VIP,))
        want = wanted(port, keepalived_owns_vips=False)
        self.settle(port, want)
        self.kernel.inside.rules.clear()
        self.assertEqual([Add(self.link, Rule(VIP.ip, 1))], self.steps(port, want))

    def test_others_things(self) -> None:
        """Addresses of others, on this link or another, and what is of another interface of ours, stay (A8, A9)."""
        other = self.kernel.new_link("02:00:00:00:00:0b", "eth2", inside=True, up=True)
        inside = self.kernel.inside
        inside.addresses = [
            FoundAddress(self.link.index, Address(ip_address("203.0.113.77"), 24)),
            FoundAddress(other.index, ELSEWHERE.address),
            # keepalived has it here, and it is not in our record.
            FoundAddress(self.link.index, Address(VIP.ip, 32)),
        ]
        inside.routes = [(other.index, Route(ELSEWHERE.subnet, 2, 2049))]
        inside.rules = [Rule(ELSEWHERE.ip, 2)]
        before = self.kernel.look()
        port = Port("eth1", MAC, (VIP,))
        self.assertEqual(
            [], [step for step in self.steps(port, wanted(port, keepalived_owns_vips=True)) if isinstance(step, Remove)]
        )
        self.settle(port, wanted(port, keepalived_owns_vips=True))
        self.assertEqual(before.addresses, self.kernel.look().addresses)
        self.assertEqual(before.rules, self.kernel.look().rules)
        self.assertIn(before.routes[0], self.kernel.look().routes)

    def test_handed_over(self) -> None:
        """When keepalived takes over, what we gave goes, with its rule, and the way out stays."""
        port = Port("eth1", MAC, (VIP, VIP6))
        alone = wanted(port, keepalived_owns_vips=False)
        self.settle(port, alone)
        pair = wanted(port, keepalived_owns_vips=True)
        self.settle(evolve(port, ours=alone.addresses), pair)
        snapshot = self.kernel.look()
        self.assertEqual(((), ()), (snapshot.addresses, snapshot.rules))
        self.assertEqual(pair.routes, {route for _, route in snapshot.routes})

    def test_other_prefix(self) -> None:
        """An address that is there with another prefix gives way, and comes with the right one."""
        for vip, prefixlen in ((VIP, 32), (VIP6, 128)):
            self.kernel.inside.addresses = [FoundAddress(self.link.index, Address(vip.ip, prefixlen))]
            port = Port("eth1", MAC, (vip,))
            self.settle(port, wanted(port, keepalived_owns_vips=False))
            self.assertEqual([vip.address], [found.address for found in self.kernel.look().addresses])

    def test_address_changes(self) -> None:
        """An address goes once the one that is wanted instead is there: routes would go with the last one."""
        before, after = (Port("eth2", MAC, fixed_ips=(fixed,)) for fixed in (FIXED, FIXED_TOO))
        want = wanted(before, keepalived_owns_vips=False)
        self.settle(before, want)
        got = self.steps(evolve(after, ours=want.addresses), wanted(after, keepalived_owns_vips=False))
        (route,) = want.routes
        self.assertEqual(
            [Remove(self.link, route), Add(self.link, FIXED_TOO.address), Remove(self.link, FIXED.address)], got
        )

    def test_detection(self) -> None:
        """Whether others have addresses of IPv6 is found out of all at the same time."""
        vips = tuple(evolve(VIP6, ip=ip_address(f"2001:db8::{number}"), lasting=True) for number in range(2, 8))
        port = Port("eth1", MAC, vips, vrrp_ip=Address(ip_address("2001:db8::ff"), 64))
        kinds = [
            type(step)
            for step in self.steps(port, wanted(port, keepalived_owns_vips=False))
            if isinstance(step, AwaitUsable) or (isinstance(step, Add) and isinstance(step.what, Address))
        ]
        self.assertEqual([Add] * 7 + [AwaitUsable] * 7, kinds)

    def test_duplicate(self) -> None:
        """A duplicate address is given anew, so that the kernel asks again; one that is being asked for is awaited."""
        port = Port("eth1", MAC, (VIP6,))
        want = wanted(port, keepalived_owns_vips=False)
        for found, expected in (
            (FoundAddress(self.link.index, VIP6.address, tentative=True, duplicate=True), [Remove, Add, AwaitUsable]),
            (FoundAddress(self.link.index, VIP6.address, tentative=True), [AwaitUsable]),
        ):
            self.kernel.inside.addresses = [found]
            self.assertEqual(expected, [type(step) for step in self.steps(port, want)[: len(expected)]])

    @given(
        st.lists(
            st.tuples(
                st.sets(st.sampled_from([VIP, SECOND, VIP6, ELSEWHERE])),
                st.sampled_from([ip_address("203.0.113.1"), ip_address("203.0.113.9")]),
                st.booleans(),
                st.booleans(),
                st.sets(st.sampled_from([FIXED, FIXED6, FIXED_TOO])),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_any_way(self, wishes: list[tuple[set[Vip], IP, bool, bool, set[FixedIp]]]) -> None:
        """From whatever was there to whatever is wanted: nothing is refused, it settles, and others' things stay."""
        self.setUp()
        index = self.link.index
        foreign = FoundAddress(index, Address(ip_address("192.0.2.77"), 24))
        self.kernel.inside.addresses = [foreign]
        ours: frozenset[Address] = frozenset()
        for vips, gateway, pair, lasting, fixed_ips in wishes:
            chosen = [
                evolve(vip, gateway=gateway if vip.subnet == VIP.subnet else vip.gateway, lasting=lasting)
                for vip in sorted(vips, key=str)
            ]
            # VIPs that go away are in the record as those that are not in use.
            gone = [evolve(vip, in_use=False) for vip in (VIP, SECOND, VIP6, ELSEWHERE) if vip not in vips]
            own = Address(ip_address("203.0.113.5"), 24) if lasting else None
            fixed = tuple(sorted(fixed_ips, key=str))
            port = Port("eth1", MAC, (*chosen, *gone), ours, vrrp_ip=own, fixed_ips=fixed, mtu=1400 + lasting)
            want = wanted(port, keepalived_owns_vips=pair)
            self.settle(port, want)
            snapshot = self.kernel.look()
            self.assertEqual({foreign.address, *want.addresses}, {found.address for found in snapshot.addresses})
            self.assertEqual(want.routes, {route for _, route in snapshot.routes})
            self.assertEqual(want.rules, set(snapshot.rules))
            self.assertEqual(want.mtu, self.kernel.inside.link(MAC).mtu)
            ours = want.addresses
