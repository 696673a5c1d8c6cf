"""What plugging relies on of a kernel: tried on the real one and on the one that takes its place in tests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.kernel import Kernel
from amphora.network.plan import Found, find
from amphora.network.state import Address, Link, Route, Rule
from amphora.network.steps import (
    Add,
    Change,
    MoveIn,
    MoveOut,
    Remove,
    Rename,
    SetMtu,
    SetUp,
    StepFailed,
    Undoing,
    undoing,
)

VIP, VIP6 = ip_address("203.0.113.2"), ip_address("2001:db8::2")
OF_VIP, OF_VIP6 = Address(VIP, 24), Address(VIP6, 64)
SUBNET, SUBNET6 = ip_network("203.0.113.0/24"), ip_network("2001:db8::/64")
GATEWAY, GATEWAY6 = ip_address("203.0.113.1"), ip_address("2001:db8::1")
FAR, FAR6 = ip_address("198.51.100.1"), ip_address("2001:db8:9::1")
ANYWHERE, ANYWHERE6 = ip_network("0.0.0.0/0"), ip_network("::/0")


class KernelContract(SynchronousTestCase):
    """Subclasses say what a kernel is, how a device comes to it, and how detection of duplicates ends."""

    kernel: Kernel

    @abstractmethod
    def plug_in(self, name: str = "") -> str:
        """A device appears in the agent's own namespace.  @return: Its MAC address."""

    @abstractmethod
    def end_detection(self) -> None:
        """Nobody else has the addresses that are tentative."""

    def found(self, mac: str) -> Found:
        found = find(mac, self.kernel.look_around(), plugged=True)
        assert found is not None
        return found

    def moved_in(self, name: str) -> Link:
        """A new link that is up in the amphora's namespace."""
        mac = self.plug_in()
        self.kernel.carry_out([MoveIn(self.found(mac).link, name)])
        self.kernel.carry_out([SetUp(self.found(mac).link)])
        return self.found(mac).link

    def assert_refused(self, words: str, *changes: Change | Undoing) -> None:
        """The last change is refused in these words, and those before it are made."""
        with self.assertRaises(StepFailed) as caught:
            self.kernel.carry_out(changes)
        self.assertEqual(f"{changes[-1]}: {words}", str(caught.exception))
        self.assertEqual(len(changes) - 1, caught.exception.done)

    def assert_undone(self, link: Link, changes: Sequence[Change]) -> None:
        """Changes are seen, are refused a second time, and what undoes them leaves nothing of them."""
        before = self.kernel.look()
        self.kernel.carry_out(changes)
        after = self.kernel.look()
        for change in changes:
            assert isinstance(change, Add)
            match change.what:
                case Address():
                    there = [found.address for found in after.addresses if found.index == link.index]
                    self.assertIn(change.what, there)
                case Route():
                    self.assertIn((link.index, change.what), after.routes)
                case Rule():
                    self.assertIn(change.what, after.rules)
            self.assertRaises(StepFailed, self.kernel.carry_out, [change])
        self.kernel.carry_out([undoing(change) for change in reversed(changes)])
        self.assertEqual(before, self.kernel.look())
        for change in changes:
            self.assertRaises(StepFailed, self.kernel.carry_out, [undoing(change)])

    def test_move(self) -> None:
        """A link is moved with another name, arrives down, and what undoes that brings it back as it was."""
        mac = self.plug_in()
        before = self.found(mac)
        self.assertEqual((True, False), (before.outside, before.link.up))
        move = MoveIn(before.link, "eth1")
        self.kernel.carry_out([move])
        inside = self.found(mac)
        self.assertEqual((False, "eth1", False), (inside.outside, inside.link.name, inside.link.up))
        self.kernel.carry_out([SetUp(inside.link)])
        self.assertTrue(self.found(mac).link.up)
        self.kernel.carry_out([undoing(move)])
        self.assertEqual(before, self.found(mac))

    def test_name_taken(self) -> None:
        """A link that cannot have the name stays outside, with its own."""
        self.moved_in("eth1")
        mac = self.plug_in()
        before = self.found(mac)
        self.assert_refused("File exists", MoveIn(before.link, "eth1"))
        self.assertEqual(before, self.found(mac))

    def test_own_name_taken(self) -> None:
        """A link whose own name is another's in there gets past it with another name (A10)."""
        mac = self.plug_in()
        name = self.found(mac).link.name
        self.moved_in(name)
        self.kernel.carry_out([MoveIn(self.found(mac).link, "eth2")])
        self.assertEqual("eth2", self.found(mac).link.name)

    def test_rename(self) -> None:
        """A link is renamed, not to what another is called, and back."""
        first, second = self.moved_in("eth1"), self.moved_in("eth2")
        self.assert_refused("File exists", Rename(second, "eth1"))
        rename = Rename(second, "eth3")
        self.kernel.carry_out([rename])
        self.assertEqual("eth3", self.found(second.mac).link.name)
        self.kernel.carry_out([undoing(rename)])
        self.assertEqual([first, second], [self.found(link.mac).link for link in (first, second)])

    def test_gone(self) -> None:
        """A link that is gone cannot be changed."""
        link = self.moved_in("eth1")
        self.kernel.carry_out([MoveOut("eth1", link)])
        self.assert_refused("No such device", SetUp(link))
        self.assert_refused("No such device", MoveOut("eth1", link))

    def test_all_of_ipv4(self) -> None:
        """An address, routes and a rule are there once given, and gone once taken."""
        link = self.moved_in("eth1")
        things = (
            OF_VIP,
            Route(ANYWHERE, 254, 2048, GATEWAY),
            Route(SUBNET, 1, 2048, source=VIP),
            Route(ANYWHERE, 1, 2048, GATEWAY),
            Rule(VIP, 1),
        )
        self.assert_undone(link, [Add(link, thing) for thing in things])

    def test_all_of_ipv6(self) -> None:
        """The same of IPv6, where an address is usable once nobody else was found to have it."""
        link = self.moved_in("eth1")
        self.kernel.carry_out([Add(link, OF_VIP6)])
        (tentative,) = [found for found in self.kernel.look().addresses if found.address == OF_VIP6]
        self.assertEqual((True, False), (tentative.tentative, tentative.duplicate))
        subnet = Route(SUBNET6, 1, 2048, source=VIP6)
        self.assert_refused("Invalid source address", Add(link, subnet))
        self.end_detection()
        (usable,) = [found for found in self.kernel.look().addresses if found.address == OF_VIP6]
        self.assertTrue(usable.usable)
        things = (
            Route(ANYWHERE6, 254, 2048, GATEWAY6),
            subnet,
            Route(ANYWHERE6, 1, 2048, GATEWAY6),
            Rule(VIP6, 1),
        )
        self.assert_undone(link, [Add(link, thing) for thing in things])
        self.kernel.carry_out([Remove(link, OF_VIP6)])
        self.assertNotIn(OF_VIP6, [found.address for found in self.kernel.look().addresses])

    def test_two_prefixes(self) -> None:
        """IPv4 takes an address with two prefixes, IPv6 does not; each is taken away by its own."""
        link = self.moved_in("eth1")
        self.kernel.carry_out([Add(link, OF_VIP), Add(link, Address(VIP, 32)), Remove(link, OF_VIP)])
        here = [found.address for found in self.kernel.look().addresses if found.index == link.index]
        self.assertIn(Address(VIP, 32), here)
        self.assertNotIn(OF_VIP, here)
        self.assert_refused("ipv6: address already assigned", Add(link, OF_VIP6), Add(link, Address(VIP6, 128)))
        self.assert_refused("ipv6: address not found", Remove(link, Address(VIP6, 128)))

    def test_unreachable_gateway(self) -> None:
        """A gateway that no route leads to is refused, and what was before it in the row is made."""
        link = self.moved_in("eth1")
        self.assert_refused(
            "Nexthop has invalid gateway", Add(link, OF_VIP), Add(link, Route(ANYWHERE, 254, 2048, FAR))
        )
        self.assertIn(OF_VIP, [found.address for found in self.kernel.look().addresses])
        self.assert_refused("No route to host", Add(link, OF_VIP6), Add(link, Route(ANYWHERE6, 254, 2048, FAR6)))

    def test_gateway_on_link(self) -> None:
        """A gateway that is said to be on the link needs no route that leads to it."""
        link = self.moved_in("eth1")
        self.kernel.carry_out([Add(link, OF_VIP), Add(link, OF_VIP6)])
        self.end_detection()
        things = (
            Route(ANYWHERE, 254, 2048, FAR, onlink=True),
            Route(ANYWHERE6, 254, 2048, FAR6, onlink=True),
            Route(ANYWHERE, 1, 2048, GATEWAY, onlink=True),
            Route(ANYWHERE6, 1, 2048, GATEWAY6, onlink=True),
        )
        self.assert_undone(link, [Add(link, thing) for thing in things])

    def test_own_gateway(self) -> None:
        """The link's own address is no gateway, wherever it is said to be."""
        link = self.moved_in("eth1")
        self.kernel.carry_out([Add(link, OF_VIP), Add(link, OF_VIP6)])
        self.end_detection()
        for words, route in (
            ("Nexthop has invalid gateway", Route(ip_network("198.51.100.0/24"), 254, 2048, VIP, onlink=True)),
            ("Gateway can not be a local address", Route(ip_network("2001:db8:9::/64"), 254, 2048, VIP6, onlink=True)),
        ):
            self.assert_refused(words, Add(link, route))

    def test_mtu(self) -> None:
        """A link that is up takes another MTU, refuses one beyond what it can, and what undoes it brings it back."""
        link = self.moved_in("eth1")
        change = SetMtu(link, 1400)
        self.kernel.carry_out([change])
        self.assertEqual(evolve(link, mtu=1400), self.found(link.mac).link)
        self.assert_refused("mtu greater than device maximum", SetMtu(link, 100_000))
        self.kernel.carry_out([undoing(change)])
        self.assertEqual(link, self.found(link.mac).link)

    def test_without_an_address(self) -> None:
        """A gateway is reached by a route to its subnet as well, without any address of ours."""
        link = self.moved_in("eth1")
        things = (
            Route(SUBNET, 254, 2048),
            Route(ANYWHERE, 254, 2048, GATEWAY),
            Route(SUBNET6, 254, 2048),
            Route(ANYWHERE6, 254, 2048, GATEWAY6),
        )
        self.assert_undone(link, [Add(link, thing) for thing in things])

    def test_last_address(self) -> None:
        """With its last IPv4 address a link loses all its IPv4 routes; rules stay."""
        link = self.moved_in("eth1")
        routes = (Route(ANYWHERE, 254, 2048, GATEWAY), Route(SUBNET, 1, 2048))
        self.kernel.carry_out([Add(link, thing) for thing in (OF_VIP, *routes, Rule(VIP, 1))])
        self.kernel.carry_out([Remove(link, OF_VIP)])
        self.assertEqual(((), (Rule(VIP, 1),)), (self.kernel.look().routes, self.kernel.look().rules))
