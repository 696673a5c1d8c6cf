"""Tests for L{amphora.network.plugging}, on a kernel that refuses what the real one refuses."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce, BlockingCalls
from amphora.network.announcer import ADVERTISEMENTS, PAUSE
from amphora.network.bind import Bind
from amphora.network.errors import (
    AddressNotFound,
    BadAddress,
    InterfaceExists,
    InterfaceNotFound,
    InvalidRules,
    NetworkUnreadable,
    PlugFailed,
    RulesNotReplaced,
)
from amphora.network.filter_rules import FilterRule
from amphora.network.nftables import FILTER_TABLE
from amphora.network.packet_filter import PacketFilter
from amphora.network.plan import Port, Sight, Wanted
from amphora.network.plugging import (
    APPEARANCE,
    DETECTION,
    FIRST_RETRY,
    LONGEST_RETRY,
    PATIENCE,
    PUT_BACK_PATIENCE,
    Network,
)
from amphora.network.records import Records
from amphora.network.requests import (
    PortRequest,
    VipRequest,
    read_network_request,
    read_vip_request,
    read_vips_request,
)
from amphora.network.state import Address, FoundAddress, Snapshot
from amphora.network.steps import Add, MoveIn, Remove
from amphora.testing.fake_dhcp import FakeDhcpServer
from amphora.testing.fake_kernel import FakeKernel
from amphora.testing.fake_nft import FakeNft
from amphora.testing.fakes import CallsLater, full_disk
from tests.integration.support import short_directory
from tests.network.ports import EVERY_RULE

A, B, C = (f"02:00:00:00:00:0{letter}" for letter in "abc")
VIP, SECOND, VIP6, ELSEWHERE = (
    ip_address(text) for text in ("203.0.113.2", "203.0.113.3", "2001:db8::2", "198.51.100.2")
)


def request(ip: Any, mac: str, *, gateway: str = "") -> VipRequest:
    subnet, usual = {
        VIP: ("203.0.113.0/24", "203.0.113.1"),
        SECOND: ("203.0.113.0/24", "203.0.113.1"),
        VIP6: ("2001:db8::/64", "2001:db8::1"),
        ELSEWHERE: ("198.51.100.0/24", "198.51.100.1"),
    }[ip]
    return read_vip_request(str(ip), {"subnet_cidr": subnet, "gateway": gateway or usual, "mac_address": mac})


class NetworkTestCase(SynchronousTestCase):
    """A network on a disk and a kernel of its own; time passes when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.kernel = FakeKernel()
        self.nft = FakeNft()
        directory = short_directory(self)
        self.records, self.rules_path = Records(directory / "interfaces"), directory / "nftables-vip.rules"
        self.pair = False
        self.binds: list[Bind] = []
        self.server = FakeDhcpServer(self.clock, silent=True)
        self.network = self.new_network()

    def new_network(self, blocking: BlockingCalls | None = None) -> Network:
        """The next agent's, on the same disk and kernel."""
        self.server.clock = self.clock
        return Network(
            self.clock,
            blocking or AtOnce(),
            self.kernel,
            self.records,
            PacketFilter(self.nft, AtOnce(), self.rules_path),
            keepalived_owns_vips=lambda: self.pair,
            still_bound=lambda: self.binds,
            open_wire=self.server.open,
        )

    def restart(self) -> None:
        self.successResultOf(ensureDeferred(self.network.release()))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.network = self.new_network()
        putting_back = ensureDeferred(self.network.put_back())
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.successResultOf(putting_back)

    def reboot(self) -> None:
        """All links are new, with other indexes, and are outside."""
        links = [*self.kernel.inside.links, *self.kernel.outside.links]
        self.kernel.inside, self.kernel.outside = type(self.kernel.inside)(), type(self.kernel.outside)()
        for link in reversed(links):
            self.kernel.new_link(link.mac)
        self.restart()

    def plugged(self, wish: VipRequest) -> str:
        """Plug a VIP; nobody else has it."""
        plugging = self.network.plug_vip(wish)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        return self.successResultOf(plugging)

    def run_coroutine(self, coroutine: Any) -> Any:
        return self.successResultOf(ensureDeferred(coroutine))

    def world(self) -> tuple[Any, ...]:
        """All that can be seen of a network but the order of things: both namespaces, and what is on disk."""
        return (
            *(
                tuple(frozenset(things) for things in (there.links, there.addresses, there.routes, there.rules))
                for there in (self.kernel.inside.snapshot(), self.kernel.outside.snapshot())
            ),
            self.records.load(),
        )

    def addresses(self) -> set[str]:
        return {str(found.address) for found in self.kernel.inside.addresses}


class InterfaceTests(NetworkTestCase):
    def test_interface(self) -> None:
        """The interface that has an address is told, however the address is spelt."""
        self.kernel.new_link(A)
        self.plugged(request(VIP6, A))
        for text in ("2001:db8::2", "2001:0DB8:0:0::0002"):
            self.assertEqual("eth1", self.run_coroutine(self.network.interface_of(text)))

    def test_loopback(self) -> None:
        """The loopback's address is an address."""
        self.kernel.inside.addresses.append(FoundAddress(1, Address(ip_address("127.0.0.1"), 8)))
        self.assertEqual("lo", self.run_coroutine(self.network.interface_of("127.0.0.1")))

    def test_errors(self) -> None:
        """What is no address, an address that nobody has, and a kernel that does not tell."""
        for text in ("10.6.0.1.1", "fe80::1%eth0", ""):
            self.failureResultOf(ensureDeferred(self.network.interface_of(text)), BadAddress)
        self.failureResultOf(ensureDeferred(self.network.interface_of("10.5.0.1")), AddressNotFound)
        self.kernel.unreadable = FileNotFoundError(2, "No such file or directory")
        failure = self.failureResultOf(ensureDeferred(self.network.interface_of("10.5.0.1")), NetworkUnreadable)
        self.assertEqual("No such file or directory", failure.value.reason)

    def test_duplicate(self) -> None:
        """An address that another station has is not ours."""
        self.kernel.inside.addresses.append(FoundAddress(1, Address(VIP6, 64), True, True))
        self.failureResultOf(ensureDeferred(self.network.interface_of(str(VIP6))), AddressNotFound)

    def test_has_vips(self) -> None:
        """Whether there is a VIP is known, also after a reboot; a network's own interface is none."""
        self.kernel.new_link(B)
        self.successResultOf(self.network.plug_network(B))
        self.assertFalse(self.network.has_vips)
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.assertTrue(self.network.has_vips)
        self.reboot()
        self.assertTrue(self.network.has_vips)


class PlugTests(NetworkTestCase):
    def test_vip(self) -> None:
        """A VIP's interface is eth1: moved, up, with all that belongs to it, and its neighbours are told."""
        self.kernel.new_link(A, "ens7")
        self.assertEqual("eth1", self.plugged(request(VIP, A)))
        link = self.kernel.inside.link(A)
        self.assertEqual(("eth1", True), (link.name, link.up))
        self.assertEqual({"203.0.113.2/24"}, self.addresses())
        self.assertEqual((3, 1), (len(self.kernel.inside.routes), len(self.kernel.inside.rules)))
        self.assertEqual([("eth1", VIP)], self.kernel.advertised)
        ports, _ = self.records.load()
        self.assertEqual([("eth1", A, "vip")], [(port.name, port.mac, port.kind) for port in ports])

    def test_advertised_again(self) -> None:
        """Neighbours are told several times, with pauses, and then no more."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.clock.pump([PAUSE] * 2 * ADVERTISEMENTS)
        self.assertEqual([("eth1", VIP)] * ADVERTISEMENTS, self.kernel.advertised)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_advertising_fails(self) -> None:
        """Neighbours that cannot be told are a warning, and hinder nothing."""
        self.kernel.new_link(A)
        self.kernel.problems = ["203.0.113.2 on eth1: Network is down"]
        with capturedLogs() as events:
            self.assertEqual("eth1", self.plugged(request(VIP, A)))
        told = [event for event in events if "problem" in event and event["log_level"] is LogLevel.warn]
        self.assertIn("Network is down", told[-1]["problem"])

    def test_network(self) -> None:
        """A network's interface is eth2 or above, up, with what lets it have addresses of IPv6."""
        self.kernel.new_link(A)
        self.kernel.new_link(B)
        self.assertEqual("eth2", self.successResultOf(self.network.plug_network(A)))
        self.assertEqual("eth3", self.successResultOf(self.network.plug_network(B)))
        self.assertEqual("2", self.kernel.sysctls["net/ipv6/conf/eth3/accept_ra"])
        self.assertTrue(self.kernel.inside.link(B).up)

    def test_several_vips(self) -> None:
        """More VIPs of one interface, of both IP versions, are added to it."""
        self.kernel.new_link(A)
        for ip in (VIP, VIP6, SECOND):
            self.assertEqual("eth1", self.plugged(request(ip, A)))
        self.assertEqual({"203.0.113.2/24", "203.0.113.3/24", "2001:db8::2/64"}, self.addresses())

    def test_repeat(self) -> None:
        """A repeat changes nothing and answers the same; neighbours are told again."""
        self.kernel.new_link(A)
        for ip in (VIP, VIP6):
            self.plugged(request(ip, A))
        before, made = self.world(), list(self.kernel.made)
        self.kernel.advertised.clear()
        for ip in (VIP, VIP6):
            self.assertEqual("eth1", self.successResultOf(self.network.plug_vip(request(ip, A))))
        self.assertEqual("eth1", self.successResultOf(self.network.plug_network(A)))
        self.assertEqual((before, made), (self.world(), self.kernel.made))
        self.assertIn(("eth1", VIP6), self.kernel.advertised)

    def test_repeat_completes(self) -> None:
        """A repeat completes what is missing."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        before = self.world()
        self.kernel.inside.addresses.clear()
        self.kernel.inside.routes.pop()
        self.kernel.inside.rules.clear()
        self.kernel.inside.links = [evolve(self.kernel.inside.link(A), up=False)]
        self.records.remove("eth1")
        self.assertEqual("eth1", self.plugged(request(VIP, A)))
        self.assertEqual(before, self.world())

    def test_changed(self) -> None:
        """A repeat with another gateway or prefix puts that in the place of the old."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.plugged(request(VIP, A, gateway="203.0.113.9"))
        self.assertEqual(
            {"203.0.113.9"}, {str(route.gateway) for _, route in self.kernel.inside.routes if route.gateway}
        )
        body = {"subnet_cidr": "203.0.113.0/25", "gateway": "203.0.113.9", "mac_address": A}
        self.plugged(read_vip_request(str(VIP), body))
        self.assertEqual({"203.0.113.2/25"}, self.addresses())

    def test_network_becomes_vip(self) -> None:
        """A network's interface that gets a VIP keeps its name."""
        self.kernel.new_link(A)
        self.successResultOf(self.network.plug_network(A))
        self.assertEqual("eth2", self.plugged(request(VIP, A)))

    def test_two_vip_interfaces(self) -> None:
        """A second interface with a VIP has a table and a name of its own, and touches nothing of the first (A8)."""
        self.kernel.new_link(A)
        self.kernel.new_link(B)
        self.plugged(request(VIP, A))
        before = self.kernel.look()
        self.assertEqual("eth2", self.plugged(request(ELSEWHERE, B)))
        after = self.kernel.look()
        self.assertEqual(before.routes, after.routes[: len(before.routes)])
        self.assertEqual([*before.rules, 2], [*after.rules[:1], after.rules[1].table])

    def test_vip_elsewhere(self) -> None:
        """A VIP that another interface has, which is there, is refused: its traffic would go to the wrong one."""
        self.kernel.new_link(A)
        self.kernel.new_link(B)
        self.plugged(request(VIP, A))
        before = self.world()
        failure = self.failureResultOf(self.network.plug_vip(request(VIP, B)), PlugFailed)
        self.assertEqual(f"203.0.113.2 is plugged on eth1 ({A})", failure.value.details)
        self.assertEqual(before, self.world())

    def test_vip_of_one_that_is_gone(self) -> None:
        """A VIP whose interface is gone goes to the new one, with its name and table."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.plugged(request(VIP6, A))
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.inside.rules.clear()
        self.kernel.new_link(B)
        self.assertEqual("eth2", self.plugged(request(VIP, B)))
        self.assertEqual("eth2", self.plugged(request(VIP6, B)))
        ports, _ = self.records.load()
        self.assertEqual([("eth2", B)], [(port.name, port.mac) for port in ports])
        self.assertEqual({1}, {vip.table for vip in ports[0].vips if vip.ip == VIP6} | {1})

    def test_vip_of_one_that_is_gone_fails(self) -> None:
        """Where that fails, the one that is gone is still remembered."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.inside.rules.clear()
        self.kernel.new_link(B)
        before = self.world()
        self.kernel.refused = {"adding rule": "Cannot allocate memory"}
        self.failureResultOf(self.network.plug_vip(request(VIP, B)), PlugFailed)
        self.assertEqual(before, self.world())

    def test_plug_and_delete(self) -> None:
        """Plugged, plugged, the first deleted, another plugged: no name is given twice (A10)."""
        names = []
        for mac in (A, B):
            self.kernel.new_link(mac)
            names.append(self.successResultOf(self.network.plug_network(mac)))
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.new_link(C)
        names.append(self.successResultOf(self.network.plug_network(C)))
        self.assertEqual(["eth2", "eth3", "eth2"], names)
        ports, problems = self.records.load()
        self.assertEqual(([("eth2", C), ("eth3", B)], []), ([(port.name, port.mac) for port in ports], problems))

    def test_one_namespace(self) -> None:
        """Where the agent's namespace is the amphora's nothing is moved, and the management port is left alone."""
        self.kernel.apart = False
        self.kernel.new_link(A, "ens7")
        self.kernel.new_link(B, "eth0", up=True)
        self.kernel.inside.addresses.append(FoundAddress(3, Address(ip_address("192.0.2.10"), 24)))
        self.assertEqual("eth1", self.plugged(request(VIP, A)))
        self.assertFalse(any(isinstance(change, MoveIn) for change in self.kernel.made))
        refused = self.network.plug_network(B)
        self.clock.pump([0.1] * 12)
        self.failureResultOf(refused, InterfaceNotFound)


class AppearanceTests(NetworkTestCase):
    def test_none(self) -> None:
        """A device that does not appear is an error after a moment; the machine was asked to look for it (E5)."""
        plugging = self.network.plug_network(A)
        self.assertNoResult(plugging)
        self.clock.pump([APPEARANCE / 5] * 6)
        self.assertEqual(A, self.failureResultOf(plugging, InterfaceNotFound).value.mac)
        self.assertEqual(1, self.kernel.searches)
        self.assertEqual(([], []), self.records.load())

    def test_late(self) -> None:
        """One that appears meanwhile is plugged."""
        plugging = self.network.plug_network(A)
        self.clock.advance(0.1)
        self.kernel.new_link(A)
        self.clock.advance(0.1)
        self.assertEqual("eth2", self.successResultOf(plugging))

    def test_management(self) -> None:
        """The management port is never taken."""
        link = self.kernel.new_link(A, "eth0", up=True)
        self.kernel.outside.addresses.append(FoundAddress(link.index, Address(ip_address("192.0.2.10"), 24)))
        plugging = self.network.plug_network(A)
        self.clock.pump([0.1] * 12)
        self.failureResultOf(plugging, InterfaceNotFound)
        self.assertEqual([], self.kernel.made)

    def test_kernel_does_not_tell(self) -> None:
        """A kernel that does not tell is an error with the system's words."""
        self.kernel.unreadable = PermissionError(1, "Operation not permitted")
        failure = self.failureResultOf(self.network.plug_network(A), PlugFailed)
        self.assertEqual(("Port", "Operation not permitted"), (failure.value.what, failure.value.details))


class FailureTests(NetworkTestCase):
    def assert_undone(self, part: str, wish: VipRequest) -> None:
        """A plug in which one change is refused leaves all as it was, and says why."""
        before = self.world()
        self.kernel.refused = {part: "the kernel's words"}
        plugging = self.network.plug_vip(wish)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        failure = self.failureResultOf(plugging, PlugFailed)
        self.assertEqual("VIP", failure.value.what)
        self.assertIn(part, failure.value.details)
        self.assertTrue(failure.value.details.endswith(": the kernel's words"), failure.value.details)
        self.kernel.refused = {}
        self.assertEqual(before, self.world())

    def test_first_plug(self) -> None:
        """Whichever step of a first plug fails, the link is where it was, as it was, and nothing is on disk."""
        self.kernel.new_link(A, "ens7")
        for ip in (VIP, VIP6):
            for part in (
                "moving",
                "bringing eth1 up",
                f"adding {ip}",
                f"default via {request(ip, A).gateway} to eth1",
                "of table 1",
                "rule",
            ):
                self.assert_undone(part, request(ip, A))
        self.assertEqual("eth1", self.plugged(request(VIP, A)))

    def test_later_plug(self) -> None:
        """Whichever step of a later plug fails, what was plugged before goes on as it was."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        for part in ("adding 198.51.100.2", "route default via 198.51.100.1", "table 2", "rule"):
            self.assert_undone(part, request(ELSEWHERE, A))

    def test_changed(self) -> None:
        """What was taken away for something else is given back when that fails."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.assert_undone("adding route default via 203.0.113.9", request(VIP, A, gateway="203.0.113.9"))

    def wish_other_prefix(self) -> VipRequest:
        """The same VIP in a smaller subnet: its one address is taken away, and with it go all routes of IPv4."""
        body = {"subnet_cidr": "203.0.113.0/25", "gateway": "203.0.113.1", "mac_address": A}
        return read_vip_request(str(VIP), body)

    def test_flushed_routes(self) -> None:
        """Routes that the kernel took away with the last address of IPv4 are there again when a plug is undone."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.assert_undone("adding 203.0.113.2/25", self.wish_other_prefix())
        self.assert_undone("adding route 203.0.113.0/25", self.wish_other_prefix())

    def test_flushed_routes_later(self) -> None:
        """Where even they cannot be had again, that is told, and tried again."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        before = self.world()
        self.kernel.refused = {"default": "no"}
        with capturedLogs() as events:
            self.failureResultOf(self.network.plug_vip(self.wish_other_prefix()), PlugFailed)
        self.assertTrue([event for event in events if "is not as it was plugged" in (event["log_format"] or "")])
        self.kernel.refused = {}
        self.clock.advance(FIRST_RETRY)
        self.assertEqual(before, self.world())

    def test_unreachable_gateway(self) -> None:
        """A gateway that cannot be reached is told in the kernel's words."""
        self.kernel.new_link(A)
        before = self.world()
        failure = self.failureResultOf(self.network.plug_vip(request(VIP, A, gateway="198.51.100.1")), PlugFailed)
        self.assertEqual(
            "adding route default via 198.51.100.1 to eth1: Nexthop has invalid gateway", failure.value.details
        )
        self.assertEqual(before, self.world())

    def test_undoing_fails(self) -> None:
        """What cannot be undone is told in the log, and the rest is undone all the same."""
        self.kernel.new_link(A)
        self.kernel.refused = {"rule": "no", "removing route": "nor this"}
        with capturedLogs() as events:
            self.failureResultOf(self.network.plug_vip(request(VIP, A)), PlugFailed)
        self.assertEqual(3, sum("nor this" in event.get("reason", "") for event in events))
        self.assertEqual([A], [link.mac for link in self.kernel.outside.links])

    def test_full_disk(self) -> None:
        """Where the record cannot be written nothing is changed."""
        self.kernel.new_link(A)
        before = self.world()
        self.records = FullRecords(self.records._directory)
        self.network = self.new_network()
        failure = self.failureResultOf(self.network.plug_network(A), PlugFailed)
        self.assertEqual("Port", failure.value.what)
        self.assertEqual("the record of eth2 cannot be written: No space left on device", failure.value.details)
        self.assertEqual((before, []), (self.world(), self.kernel.made))

    def test_link_goes_meanwhile(self) -> None:
        """A link that goes while it is plugged is told, not waited for."""
        self.kernel.new_link(A)
        plugging = self.network.plug_vip(request(VIP6, A))
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.clock.advance(0.1)
        failure = self.failureResultOf(plugging, PlugFailed)
        self.assertEqual("2001:db8::2 on eth1 is gone", failure.value.details)
        self.assertEqual(([], []), self.records.load())
        self.flushLoggedErrors()

    def test_it_does_not_last(self) -> None:
        """What somebody else takes away at once is told after some attempts."""

        class Stubborn(FakeKernel):
            def look(self) -> Snapshot:
                return evolve(super().look(), rules=())

        self.kernel = Stubborn()
        self.kernel.new_link(A)
        self.network = self.new_network()
        self.patch(self.kernel.inside, "rules", Forgetful())
        failure = self.failureResultOf(self.network.plug_vip(request(VIP, A)), PlugFailed)
        self.assertIn("does not last: adding rule from 203.0.113.2 to table 1 to eth1", failure.value.details)


def wish_1_0(**changes: Any) -> PortRequest:
    """A VIP, and an address of its interface's own."""
    body = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": A, "vrrp_ip": "203.0.113.5"}
    return read_vips_request(str(VIP), {**body, **changes})


def network_1_0(mac: str, *ips: str, vip: bool = False, **changes: Any) -> PortRequest:
    """Addresses in a member's network, or such ones beside the VIP."""
    fixed = [{"ip_address": ip, "subnet_cidr": "192.0.2.0/24"} for ip in ips]
    of_vip = {"vip": str(VIP), "subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": mac}
    info = {**of_vip, "vrrp_ip": "203.0.113.5", "additional_vips": []} if vip else None
    return read_network_request({"mac_address": mac, "fixed_ips": fixed, "vip_net_info": info, **changes})


def further(ip: str, subnet: str, gateway: str | None = None) -> dict[str, Any]:
    """One of `additional_vips`."""
    return {"ip_address": ip, "subnet_cidr": subnet, "gateway": gateway, "host_routes": []}


class Of10TestCase(NetworkTestCase):
    def plug_vips(self, wish: PortRequest) -> str:
        """Plug VIPs; nobody else has them."""
        plugging = self.network.plug_vips(wish)
        self.settle()
        return self.successResultOf(plugging)

    def plug_port(self, wish: PortRequest) -> str:
        """Plug a port, and tell its name; nobody else has its addresses."""
        plugging = self.network.plug_port(wish)
        self.settle()
        return self.successResultOf(plugging).interface

    def settle(self) -> None:
        """Detection ends, as often as it begins."""
        for _ in range(4):
            self.kernel.end_detection()
            self.clock.advance(0.1)

    def assert_there(self, wish: PortRequest) -> None:
        """The same is told to be there."""
        plugging = self.network.plug_vips(wish)
        self.settle()
        self.failureResultOf(plugging, InterfaceExists)


class VipsTests(Of10TestCase):
    """Plug VIP of the API 1.0."""

    def setUp(self) -> None:
        super().setUp()
        self.kernel.new_link(A)

    def test_both_versions(self) -> None:
        """VIPs of both versions in one request, each nothing but itself beside the interface's own address."""
        self.assertEqual("eth1", self.plug_vips(wish_1_0(additional_vips=[further(str(VIP6), "2001:db8::/64")])))
        self.assertEqual({"203.0.113.5/24", "203.0.113.2/32", "2001:db8::2/128"}, self.addresses())
        self.assertEqual([4, 6], sorted(rule.source.version for rule in self.kernel.inside.rules))

    def test_repeat(self) -> None:
        """What is there already is told so; what is missing of it all the same is brought about first."""
        self.plug_vips(wish_1_0())
        before = self.world()
        self.assert_there(wish_1_0())
        self.kernel.inside.rules.clear()
        self.assert_there(wish_1_0())
        self.assertEqual(before, self.world())

    def test_repeat_fails(self) -> None:
        """What is missing and cannot be brought about is an error, though the interface is there."""
        self.plug_vips(wish_1_0())
        self.kernel.inside.rules.clear()
        self.kernel.refused = {"rule": "no"}
        self.assertEqual("VIP", self.failureResultOf(self.network.plug_vips(wish_1_0()), PlugFailed).value.what)

    def test_changed(self) -> None:
        """Another request is brought about: VIPs come and go, as it tells of all of them."""
        self.plug_vips(wish_1_0(additional_vips=[further(str(SECOND), "203.0.113.0/24", "203.0.113.1")]))
        other = wish_1_0(additional_vips=[further(str(VIP6), "2001:db8::/64")], mtu=1400)
        self.plug_vips(other)
        self.assertEqual({"203.0.113.5/24", "203.0.113.2/32", "2001:db8::2/128"}, self.addresses())
        self.assertEqual(1400, self.kernel.inside.link(A).mtu)
        self.assert_there(other)
        # An older controller knows of one VIP only; what it says nothing of stays, the MTU too.
        self.assert_there(wish_1_0())
        self.assertIn("2001:db8::2/128", self.addresses())
        self.assertEqual(1400, self.kernel.inside.link(A).mtu)

    def test_mtu(self) -> None:
        """An MTU that the link cannot have is told in the kernel's words, and nothing is left of the plug (A12)."""
        before = self.world()
        failure = self.failureResultOf(self.network.plug_vips(wish_1_0(mtu=70_000)), PlugFailed)
        self.assertEqual("setting the MTU of eth1 to 70000: mtu greater than device maximum", failure.value.details)
        self.assertEqual(before, self.world())
        self.plug_vips(wish_1_0(mtu=9000))
        before = self.world()
        self.failureResultOf(self.network.plug_vips(wish_1_0(mtu=70_000)), PlugFailed)
        self.assertEqual(before, self.world())

    def test_undone(self) -> None:
        """Whichever step fails, all is as it was, the MTU as well."""
        wish = wish_1_0(mtu=1400, additional_vips=[further(str(ELSEWHERE), "198.51.100.0/24", "198.51.100.1")])
        for part in ("moving", "MTU", "bringing", "adding 203.0.113.5", "adding 198.51.100.2", "of table 2", "rule"):
            before = self.world()
            self.kernel.refused = {part: "no"}
            self.failureResultOf(self.network.plug_vips(wish), PlugFailed)
            self.kernel.refused = {}
            self.assertEqual(before, self.world(), part)
        self.plug_vips(wish)

    def test_host_route_refused(self) -> None:
        """A user's route that the kernel refuses is told once, and hinders nothing."""
        routes = [
            {"destination": "198.51.100.0/24", "nexthop": "203.0.113.5"},
            {"destination": "10.0.0.0/8", "nexthop": "203.0.113.9"},
        ]
        wish = wish_1_0(host_routes=routes)
        with capturedLogs() as events:
            self.assertEqual("eth1", self.plug_vips(wish))
            self.assert_there(wish)
        told = [event["reason"] for event in events if "host route" in (event["log_format"] or "")]
        self.assertEqual(
            [
                "adding route 198.51.100.0/24 via 203.0.113.5 of table 1 to eth1: Nexthop has invalid gateway",
                "adding route 198.51.100.0/24 via 203.0.113.5 to eth1: Nexthop has invalid gateway",
            ],
            told,
        )
        (there,) = {str(route.destination) for _, route in self.kernel.inside.routes if route.metric > 1 << 24}
        self.assertEqual("10.0.0.0/8", there)

    def test_last_listener(self) -> None:
        """A VIP of 1.0 stays when its last listener goes."""
        self.plug_vips(wish_1_0())
        before = self.world()
        self.run_coroutine(self.network.give_up([Bind(str(VIP), 80)]))
        self.assertEqual(before, self.world())

    def test_both_apis(self) -> None:
        """A VIP that v0.1 plugged is 1.0's once that asks for it, and stays so when v0.1 asks again."""
        self.plugged(request(VIP, A))
        self.plug_vips(wish_1_0())
        self.assertEqual({"203.0.113.5/24", "203.0.113.2/32"}, self.addresses())
        before = self.world()
        self.plugged(request(VIP, A))
        self.assertEqual(before, self.world())

    def test_pair(self) -> None:
        """Of a pair, the interface has its own address, and the VIP is neither given nor taken."""
        self.pair = True
        self.plug_vips(wish_1_0())
        self.assertEqual({"203.0.113.5/24"}, self.addresses())
        index = self.kernel.inside.link(A).index
        self.kernel.inside.addresses.append(FoundAddress(index, Address(VIP, 32)))
        self.assert_there(wish_1_0())
        self.plug_port(network_1_0(A, "192.0.2.7", vip=True))
        self.plug_port(network_1_0(A, "192.0.2.8", vip=True))
        self.assertEqual({"203.0.113.5/24", "203.0.113.2/32", "192.0.2.8/24"}, self.addresses())

    def test_handed_over(self) -> None:
        """The VIP is handed to keepalived and back; the interface's own address stays all the time."""
        self.plug_vips(wish_1_0())
        before = self.world()
        self.pair = True
        self.successResultOf(self.network.topology_changed())
        self.assertEqual(({"203.0.113.5/24"}, []), (self.addresses(), self.kernel.inside.rules))
        self.pair = False
        self.successResultOf(self.network.topology_changed())
        self.assertEqual(before, self.world())

    def test_no_own_address(self) -> None:
        """Without an address of its own, the interface asks a DHCP server for one."""
        self.server.silent = False
        self.plug_vips(wish_1_0(vrrp_ip=None))
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        self.assertEqual({"203.0.113.2/32", "192.0.2.10/24"}, self.addresses())
        self.assertEqual([], self.records.load()[1])

    def test_reboot(self) -> None:
        """After a reboot all is as it was."""
        self.plug_vips(wish_1_0(mtu=1400, host_routes=[{"destination": "10.0.0.0/8", "nexthop": "203.0.113.9"}]))
        self.plug_port(network_1_0(A, "192.0.2.7", vip=True, mtu=1300))

        def shape() -> tuple[Any, ...]:
            inside = self.kernel.inside
            routes = frozenset(route for _, route in inside.routes)
            return self.addresses(), routes, frozenset(inside.rules), inside.link(A).mtu, self.records.load()

        before = shape()
        self.reboot()
        self.assertEqual(before, shape())

    def test_elsewhere(self) -> None:
        """A VIP that another interface has is refused, and told."""
        self.plug_vips(wish_1_0())
        self.kernel.new_link(B)
        failure = self.failureResultOf(self.network.plug_vips(wish_1_0(mac_address=B)), PlugFailed)
        self.assertEqual(f"203.0.113.2 is plugged on eth1 ({A})", failure.value.details)


class PortTests(Of10TestCase):
    """Plug network of the API 1.0."""

    def setUp(self) -> None:
        super().setUp()
        self.kernel.new_link(A)
        self.kernel.new_link(B)

    def test_addresses(self) -> None:
        """An interface has what was told last, each address advertised; nothing that stays is ever touched (A9)."""
        self.assertEqual("eth2", self.plug_port(network_1_0(B, "192.0.2.7", "192.0.2.8")))
        self.assertEqual({"192.0.2.7/24", "192.0.2.8/24"}, self.addresses())
        self.assertEqual({"192.0.2.7", "192.0.2.8"}, {str(ip) for _, ip in self.kernel.advertised})
        del self.kernel.made[:]
        self.assertEqual("eth2", self.plug_port(network_1_0(B, "192.0.2.8", "192.0.2.9")))
        self.assertEqual({"192.0.2.8/24", "192.0.2.9/24"}, self.addresses())
        self.assertEqual(
            ["adding 192.0.2.9/24 to eth2", "removing 192.0.2.7/24 from eth2"], [str(each) for each in self.kernel.made]
        )

    def test_known(self) -> None:
        """Who asks hears whether the interface was plugged before."""
        for before in (False, True):
            plugged = self.successResultOf(self.network.plug_port(network_1_0(B, "192.0.2.7")))
            self.assertEqual(before, plugged.before is not None)

    def test_addresses_go(self) -> None:
        """Told none any more, the interface asks for one; told one again, it asks no more."""
        self.server.silent = False
        self.plug_port(network_1_0(B, "192.0.2.7"))
        self.assertEqual([], self.server.heard)
        self.plug_port(network_1_0(B))
        self.settle()
        self.assertEqual({"192.0.2.10/24"}, self.addresses())
        self.plug_port(network_1_0(B, "192.0.2.7"))
        self.assertEqual({"192.0.2.7/24"}, self.addresses())
        self.assertTrue(all(wire.closed for wire in self.server.wires))

    def test_vip_port(self) -> None:
        """On a VIP's interface, addresses come beside the VIPs; those that are not told of again stay."""
        second = further(str(SECOND), "203.0.113.0/24", "203.0.113.1")
        self.plug_vips(wish_1_0(additional_vips=[second]))
        vips = self.addresses()
        # Octavia tells of the interface's own address among the others.
        own = {"ip_address": "203.0.113.5", "subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
        member = {"ip_address": "192.0.2.7", "subnet_cidr": "192.0.2.0/24", "gateway": "192.0.2.1"}
        self.plug_port(network_1_0(A, vip=True, fixed_ips=[own, member]))
        self.assertEqual(vips | {"192.0.2.7/24"}, self.addresses())
        self.assert_there(wish_1_0(additional_vips=[second]))
        self.plug_port(network_1_0(A, vip=True))
        self.assertEqual(vips, self.addresses())

    def test_vip_port_without_vip(self) -> None:
        """A VIP is not lost for not being told of."""
        self.plug_vips(wish_1_0())
        self.plug_port(network_1_0(A, "192.0.2.7"))
        self.assertEqual({"203.0.113.5/24", "203.0.113.2/32", "192.0.2.7/24"}, self.addresses())

    def test_failures(self) -> None:
        """What fails is told as what it was: a network's interface or a VIP's."""
        self.kernel.refused = {"bringing": "no"}
        for vip, what in ((False, "network"), (True, "vip")):
            plugging = self.network.plug_port(network_1_0(A, "192.0.2.7", vip=vip))
            self.assertEqual(what, self.failureResultOf(plugging, PlugFailed).value.what)

    def test_missing(self) -> None:
        """An interface that does not appear is told, after the machine was asked to look for it (E5)."""
        plugging = self.network.plug_port(network_1_0(C, "192.0.2.7"))
        self.clock.pump([0.1] * 20)
        self.failureResultOf(plugging, InterfaceNotFound)
        self.assertEqual(1, self.kernel.searches)


class FullRecords(Records):
    """Records on a disk that takes no more."""

    def save(self, port: Port, wanted: Wanted) -> None:
        raise OSError(28, "No space left on device")


class Forgetful(list[Any]):
    """A list that keeps nothing and misses nothing."""

    def append(self, item: Any) -> None: ...

    def remove(self, item: Any) -> None: ...


class DetectionTests(NetworkTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.kernel.new_link(A)
        self.before = self.world()
        self.plugging = self.network.plug_vip(request(VIP6, A))

    def test_waits(self) -> None:
        """A plug of IPv6 is done once nobody else was found to have the address, and is advertised then."""
        self.clock.pump([0.1] * 5)
        self.assertNoResult(self.plugging)
        self.assertEqual([], self.kernel.advertised)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.assertEqual("eth1", self.successResultOf(self.plugging))
        self.assertEqual([("eth1", VIP6)], self.kernel.advertised)

    def test_duplicate(self) -> None:
        """An address that another station has is an error at once, and undone (A14)."""
        self.kernel.end_detection(duplicates=True)
        self.clock.advance(0.1)
        failure = self.failureResultOf(self.plugging, PlugFailed)
        self.assertEqual("2001:db8::2 is a duplicate address: another station has it", failure.value.details)
        self.assertEqual(self.before, self.world())

    def test_never_ends(self) -> None:
        """Without a carrier it never ends; that is an error after a while, which says what to look at."""
        self.clock.pump([DETECTION / 10] * 11)
        failure = self.failureResultOf(self.plugging, PlugFailed)
        self.assertIn("has eth1 a carrier?", failure.value.details)
        self.assertEqual(self.before, self.world())

    def test_never_ends_for_two(self) -> None:
        """Several addresses of an interface do not take several times as long."""
        self.kernel.end_detection()
        self.clock.advance(0.1)
        ports, _ = self.records.load()
        second = evolve(ports[0].vips[0], ip=ip_address("2001:db8::3"))
        port = evolve(ports[0], vips=(*ports[0].vips, second))
        self.records.save(port, Wanted())
        self.successResultOf(ensureDeferred(self.network.release()))
        self.kernel.inside.addresses.clear()
        self.network = self.new_network()
        putting_back = ensureDeferred(self.network.put_back())
        self.clock.pump([DETECTION / 10] * 11)
        self.successResultOf(putting_back)

    def test_gone_client(self) -> None:
        """A client that goes away cancels nothing."""
        self.plugging.addErrback(lambda _: None)
        self.plugging.cancel()
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.assertEqual({"2001:db8::2/64"}, self.addresses())


class QueueTests(NetworkTestCase):
    def test_one_at_a_time(self) -> None:
        """What is asked for meanwhile waits; twenty plugs of one device end alike (A11)."""
        self.kernel.new_link(A)
        first = self.network.plug_vip(request(VIP6, A))
        others = [self.network.plug_vip(request(VIP6, A)) for _ in range(19)]
        self.assertNoResult(first)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.assertEqual(["eth1"] * 20, [self.successResultOf(each) for each in (first, *others)])
        self.assertEqual(
            1, sum(isinstance(change, Add) and change.what == Address(VIP6, 64) for change in self.kernel.made)
        )

    def test_last_one_holds(self) -> None:
        """Of twenty that ask for different things at once, the last has the interface (A11)."""
        self.kernel.new_link(A)
        calls = CallsLater()
        network = self.new_network(calls)
        plugs = [network.plug_port(network_1_0(A, f"192.0.2.{number}")) for number in range(10, 30)]
        calls.make_all()
        for plug in plugs:
            self.successResultOf(plug)
        self.assertEqual({"192.0.2.29/24"}, self.addresses())
        ((port,), _) = self.records.load()
        self.assertEqual({"192.0.2.29/24"}, {str(address) for address in port.ours})

    def test_patience(self) -> None:
        """Nobody waits for ever, whatever the kernel does; what was begun goes on."""
        calls = CallsLater()
        network = Network(
            self.clock,
            calls,
            self.kernel,
            self.records,
            PacketFilter(self.nft, AtOnce(), self.rules_path),
            keepalived_owns_vips=lambda: False,
            still_bound=lambda: [],
            open_wire=self.server.open,
        )
        self.kernel.new_link(A)
        plugging = network.plug_network(A)
        # A start on addresses that nobody plugged has no part in it.
        self.successResultOf(Deferred.fromCoroutine(network.provide([Bind("0.0.0.0", 80), Bind("127.0.0.1", 80)])))
        self.clock.advance(PATIENCE)
        failure = self.failureResultOf(plugging, PlugFailed)
        self.assertIn(f"not done within {PATIENCE:g} s", failure.value.details)
        calls.make_all()
        self.assertTrue(self.kernel.inside.link(A).up)


class PutBackTests(NetworkTestCase):
    def setUp(self) -> None:
        super().setUp()
        for mac in (A, B):
            self.kernel.new_link(mac)
        for ip in (VIP, SECOND, VIP6):
            self.plugged(request(ip, A))
        self.successResultOf(self.network.plug_network(B))

    def shape(self) -> tuple[Any, ...]:
        """What there is, by the interfaces' names."""
        there = self.kernel.look()
        names = {link.index: link.name for link in there.links}
        return (
            {(link.name, link.mac, link.up) for link in there.links},
            {(names[found.index], found.address) for found in there.addresses},
            {(names[index], route) for index, route in there.routes},
            set(there.rules),
            self.records.load(),
        )

    def test_nothing_plugged(self) -> None:
        """Where nothing was plugged the kernel is not even asked."""
        self.records = Records(short_directory(self))
        self.kernel.unreadable = OSError(5, "Input/output error")
        with capturedLogs() as events:
            self.restart()
        self.assertEqual([], [event for event in events if event["log_level"] is not LogLevel.info])

    def test_restart(self) -> None:
        """What an agent finds as it should be it does not touch, nor tells anybody of it."""
        before = self.world()
        self.kernel.made.clear()
        self.restart()
        self.clock.pump([PAUSE] * 5)
        self.kernel.advertised.clear()
        self.restart()
        self.assertEqual(([], []), (self.kernel.made, self.kernel.advertised))
        self.assertEqual(before, self.world())

    def test_reboot(self) -> None:
        """After a reboot all is as it was (A6), and neighbours are told."""
        before = self.shape()
        self.kernel.advertised.clear()
        self.reboot()
        self.assertEqual(before, self.shape())
        self.assertEqual({("eth1", ip) for ip in (VIP, SECOND, VIP6)}, set(self.kernel.advertised))

    def test_hung(self) -> None:
        """A kernel that hangs does not hold a starting agent up for ever; what was plugged is put back meanwhile."""
        before = self.shape()
        calls = CallsLater()
        self.kernel.inside.rules.clear()
        putting_back = ensureDeferred(self.new_network(calls).put_back())
        calls.make_one()
        with capturedLogs() as events:
            self.clock.advance(PUT_BACK_PATIENCE)
        self.successResultOf(putting_back)
        self.assertIn("still being put back", events[0]["log_format"])
        calls.make_all()
        self.assertEqual(before, self.shape())

    def test_grabbed(self) -> None:
        """What was plugged is taken also if somebody brought it up and gave it an address meanwhile (E10)."""
        before = self.shape()
        link = self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.outside.links.append(evolve(link, name="ens7", up=True))
        self.kernel.outside.addresses.append(FoundAddress(link.index, Address(ip_address("192.0.2.9"), 24)))
        self.restart()
        self.assertEqual(before, self.shape())

    def test_missing(self) -> None:
        """What is not there is told once, hinders nothing else, and is put back when it appears."""
        before = self.shape()
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.inside.rules.clear()
        with capturedLogs() as events:
            self.restart()
            self.clock.pump([FIRST_RETRY, *[LONGEST_RETRY] * 5])
        told = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertEqual([("eth1", A)], [(event["interface"], event["mac"]) for event in told])
        self.kernel.new_link(A)
        self.clock.advance(LONGEST_RETRY)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.assertEqual(before, self.shape())

    def test_failing(self) -> None:
        """As much as can be had is put back: a duplicate of IPv6 does not hinder IPv4."""
        before = self.shape()
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.inside.rules.clear()
        self.kernel.new_link(A)
        self.successResultOf(ensureDeferred(self.network.release()))
        self.network = self.new_network()
        with capturedLogs() as events:
            putting_back = ensureDeferred(self.network.put_back())
            self.kernel.end_detection(duplicates=True)
            self.clock.advance(0.1)
            self.successResultOf(putting_back)
        (told,) = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertIn("duplicate address", told["reason"])
        self.assertLessEqual({"203.0.113.2/24", "203.0.113.3/24"}, self.addresses())
        self.assertEqual({VIP, SECOND}, {rule.source for rule in self.kernel.inside.rules if rule.source.version == 4})
        # The other station leaves.
        self.clock.advance(FIRST_RETRY)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.assertEqual(before, self.shape())

    def test_damaged_record(self) -> None:
        """A record that cannot be read is told, and the others are put back."""
        path = self.records._directory / "eth2.json"
        path.write_bytes(b"{")
        with capturedLogs() as events:
            self.reboot()
        self.assertIn(str(path), next(event["problem"] for event in events if "problem" in event))
        self.assertEqual(["eth1"], [link.name for link in self.kernel.inside.links])
        # Plugged again, it has its place.
        self.assertEqual("eth2", self.successResultOf(self.network.plug_network(B)))
        self.assertEqual([], self.records.load()[1])

    def test_unreadable_records(self) -> None:
        """Records that cannot be read do not stop an agent."""
        self.records = Records(self.records._directory / "eth1.json")
        with capturedLogs() as events:
            self.restart()
        self.assertEqual(1, sum(event["log_level"] is LogLevel.error for event in events))

    def test_unreadable_kernel(self) -> None:
        """Nor does a kernel that does not tell; it is asked again."""
        self.kernel.unreadable = OSError(5, "Input/output error")
        self.restart()
        self.kernel.unreadable = None
        self.kernel.inside.rules.clear()
        self.clock.advance(FIRST_RETRY)
        self.assertEqual(3, len(self.kernel.inside.rules))

    def test_full_disk(self) -> None:
        """With a full disk what was plugged is put back all the same, also with another name."""
        self.kernel.inside.take_out(self.kernel.inside.link(B))
        self.kernel.new_link(C, "eth2", inside=True, up=True)
        self.kernel.new_link(B)
        self.records = FullRecords(self.records._directory)
        self.restart()
        link = self.kernel.inside.link(B)
        self.assertEqual(("eth3", True), (link.name, link.up))

    def test_swapped_names(self) -> None:
        """In one namespace, devices that a reboot gave each other's names get their own back."""
        self.clock, self.kernel = Clock(), FakeKernel(apart=False)
        self.records = Records(short_directory(self))
        self.network = self.new_network()
        for mac in (A, B):
            self.kernel.new_link(mac)
        self.plugged(request(VIP, A))
        self.plugged(request(ELSEWHERE, B))
        before = self.shape()
        self.kernel.inside = type(self.kernel.inside)()
        self.kernel.new_link(A, "eth2")
        self.kernel.new_link(B, "eth1")
        self.restart()
        self.assertEqual(before, self.shape())

    def test_swapped_names_of_links_that_are_up(self) -> None:
        """Those that somebody brought up under each other's names, or a new one, keep these, and have their VIPs."""
        for names in (("eth2", "eth1"), ("ens7", "ens8"), ("eth2", "ens8"), ("ens7", "eth1")):
            self.clock, self.kernel = Clock(), FakeKernel(apart=False)
            self.records = Records(short_directory(self))
            self.network = self.new_network()
            for mac, ip in ((A, VIP), (B, ELSEWHERE)):
                self.kernel.new_link(mac)
                self.plugged(request(ip, mac))
            self.kernel.inside = type(self.kernel.inside)()
            for mac, name in zip((A, B), names, strict=True):
                self.kernel.new_link(mac, name, up=True)
            for _ in range(2):
                self.restart()
                links, addresses, *_ = self.shape()
                self.assertEqual({(names[0], A, True), (names[1], B, True)}, links)
                self.assertEqual({(names[0], Address(VIP, 24)), (names[1], Address(ELSEWHERE, 24))}, addresses)
                ports, problems = self.records.load()
                self.assertEqual(({*names}, []), ({port.name for port in ports}, problems))

    def test_killed_in_a_plug(self) -> None:
        """What an agent that was killed had begun is finished by the next one."""
        self.kernel.new_link(C)
        self.network.plug_vip(request(VIP6, A, gateway="2001:db8::9"))
        self.network.plug_vip(request(ELSEWHERE, A))
        # It is killed while it waits.
        self.clock = Clock()
        self.network = self.new_network()
        self.restart()
        gateways = {str(route.gateway) for _, route in self.kernel.inside.routes if route.destination.version == 6}
        self.assertIn("2001:db8::9", gateways)
        self.assertNotIn("2001:db8::1", gateways)

    def test_unforeseen(self) -> None:
        """A fault of the program is logged with its traceback and does not stop an agent."""

        class Broken(FakeKernel):
            def look_around(self) -> Sight:
                raise ZeroDivisionError

            def carry_out(self, changes: Sequence[Any]) -> None:
                if any(change.link.mac == A for change in changes):
                    raise ZeroDivisionError
                super().carry_out(changes)

        before = self.shape()
        broken = Broken()
        self.kernel = broken
        self.restart()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.patch(Broken, "look_around", FakeKernel.look_around)
        for mac in (A, B):
            broken.new_link(mac)
        self.restart()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual({("eth2", B, True)}, self.shape()[0])
        self.assertEqual(before[-1], self.shape()[-1])


class TopologyTests(NetworkTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.kernel.new_link(A)

    def change(self, pair: bool) -> None:
        self.pair = pair
        changing = self.network.topology_changed()
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.successResultOf(changing)

    def test_plugged_in_a_pair(self) -> None:
        """In a pair the link is brought up, and keepalived owns the address."""
        self.pair = True
        self.assertEqual("eth1", self.plugged(request(VIP, A)))
        self.assertTrue(self.kernel.inside.link(A).up)
        self.assertEqual((set(), [], []), (self.addresses(), self.kernel.inside.rules, self.kernel.advertised))
        self.assertEqual("1", self.kernel.sysctls["net/ipv4/ip_nonlocal_bind"])

    def test_there_and_back(self) -> None:
        """What we gave is taken when keepalived takes over, and given again, and told, when it does so no more."""
        for ip in (VIP, VIP6):
            self.plugged(request(ip, A))
        before = self.world()
        self.clock.pump([PAUSE] * 3)
        self.kernel.advertised.clear()
        self.change(True)
        self.assertEqual((set(), []), (self.addresses(), self.kernel.inside.rules))
        self.assertEqual({254}, {route.table for _, route in self.kernel.inside.routes})
        self.assertEqual([], self.kernel.advertised)
        self.change(False)
        self.assertEqual(before, self.world())
        self.assertEqual({("eth1", VIP), ("eth1", VIP6)}, set(self.kernel.advertised))

    def test_keepalived_has_it(self) -> None:
        """What keepalived gave is not touched: not by a repeat, not by a restart, not by a reload (A9)."""
        self.pair = True
        self.plugged(request(VIP, A))
        link = self.kernel.inside.link(A)
        for address in (Address(VIP, 32), Address(VIP, 24)):
            self.kernel.inside.addresses = [FoundAddress(link.index, address)]
            before = self.world()
            self.kernel.made.clear()
            self.plugged(request(VIP, A))
            self.restart()
            self.network.bound([Bind(str(VIP), 80)])
            self.run_coroutine(self.network.give_up([Bind(str(VIP), 80)]))
            self.change(True)
            self.assertEqual((before, []), (self.world(), self.kernel.made))
        self.assertEqual([], self.kernel.advertised)

    def test_it_does_not_work(self) -> None:
        """A handover that fails is told and tried again."""
        self.plugged(request(VIP, A))
        self.kernel.refused = {"removing 203.0.113.2": "no"}
        with capturedLogs() as events:
            self.change(True)
        self.assertIn("no", next(event["reason"] for event in events if event["log_level"] is LogLevel.error))
        self.assertEqual({"203.0.113.2/24"}, self.addresses())
        self.kernel.refused = {}
        self.clock.advance(FIRST_RETRY)
        self.assertEqual(set(), self.addresses())


class LeaseTests(NetworkTestCase):
    """Interfaces that a DHCP server gives an address to."""

    def setUp(self) -> None:
        super().setUp()
        self.server.silent = False
        self.kernel.new_link(A)

    def pass_by(self) -> None:
        """What is scheduled for this moment happens."""
        self.clock.pump([0] * 8)

    def test_network(self) -> None:
        """A network's interface gets its address and routes, and its neighbours are told; its plug does not wait."""
        self.server.options = {121: b"\x18\xc6\x33\x64\xc0\x00\x02\x01"}
        self.assertEqual("eth2", self.successResultOf(self.network.plug_network(A)))
        self.assertEqual(set(), self.addresses())
        self.pass_by()
        self.assertEqual({"192.0.2.10/24"}, self.addresses())
        ((_, route),) = self.kernel.inside.routes
        self.assertEqual(("198.51.100.0/24", "192.0.2.1"), (str(route.destination), str(route.gateway)))
        self.assertEqual([("eth2", ip_address("192.0.2.10"))], self.kernel.advertised)

    def test_vip(self) -> None:
        """One that has a VIP of its own needs none."""
        self.plugged(request(VIP, A))
        self.pass_by()
        self.assertEqual([], self.server.heard)

    def test_pair(self) -> None:
        """Of a pair, it gets one for keepalived to speak from, for as long as there is a pair."""
        self.pair = True
        self.plugged(request(VIP, A))
        self.pass_by()
        self.assertEqual({"192.0.2.10/24"}, self.addresses())
        self.pair = False
        self.successResultOf(self.network.topology_changed())
        self.assertEqual({"203.0.113.2/24"}, self.addresses())
        self.assertEqual([], [call for call in self.clock.getDelayedCalls() if call.getTime() > 60])
        self.pair = True
        self.successResultOf(self.network.topology_changed())
        self.assertEqual({"192.0.2.10/24"}, self.addresses())

    def test_pair_of_ipv6(self) -> None:
        """keepalived speaks IPv6 from the address of the link."""
        self.pair = True
        self.plugged(request(VIP6, A))
        self.pass_by()
        self.assertEqual([], self.server.heard)

    def test_restart(self) -> None:
        """What was given is there at once after a reboot, and asked about; where it still holds nothing changes."""
        self.successResultOf(self.network.plug_network(A))
        self.pass_by()
        self.server.silent = True
        self.reboot()
        self.assertEqual({"192.0.2.10/24"}, self.addresses())
        self.server.silent = False
        made = list(self.kernel.made)
        self.server.heard.clear()
        self.restart()
        self.pass_by()
        self.assertEqual((["request"], made), (self.server.heard, self.kernel.made))

    def test_changed(self) -> None:
        """Another address takes the place of the one before."""
        self.successResultOf(self.network.plug_network(A))
        self.pass_by()
        self.server.address = "192.0.2.20"
        self.restart()
        self.pass_by()
        self.assertEqual({"192.0.2.20/24"}, self.addresses())

    def test_repeat(self) -> None:
        """A repeat of the plug asks no second time."""
        self.successResultOf(self.network.plug_network(A))
        self.successResultOf(self.network.plug_network(A))
        self.pass_by()
        self.assertEqual(["discover", "request"], self.server.heard)

    def test_a_vip_given(self) -> None:
        """A server that gives out a VIP is not listened to."""
        self.kernel.new_link(B)
        self.plugged(request(VIP, A))
        self.server.address = str(VIP)
        self.successResultOf(self.network.plug_network(B))
        with capturedLogs() as events:
            self.pass_by()
        self.assertEqual(1, sum(event["log_level"] is LogLevel.error for event in events))
        (found,) = self.kernel.inside.addresses
        self.assertEqual(self.kernel.inside.link(A).index, found.index)

    def test_refused_by_the_kernel(self) -> None:
        """A route that the kernel does not take is told and tried again; the address is there."""
        self.server.options = {121: b"\x18\xc6\x33\x64\xcb\x00\x71\x01"}
        self.successResultOf(self.network.plug_network(A))
        with capturedLogs() as events:
            self.pass_by()
        (told,) = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertIn("Nexthop has invalid gateway", told["reason"])
        self.assertEqual({"192.0.2.10/24"}, self.addresses())

    def test_not_in_place(self) -> None:
        """After a restart nobody asks at an interface that is not there, but does so once it is."""
        self.kernel.new_link(B)
        for mac in (A, B):
            self.successResultOf(self.network.plug_network(mac))
        self.pass_by()
        self.kernel.inside.take_out(self.kernel.inside.link(B))
        self.server.wires.clear()
        self.restart()
        self.pass_by()
        self.assertEqual({"eth2"}, {wire.interface for wire in self.server.wires})
        self.kernel.new_link(B)
        self.clock.advance(FIRST_RETRY)
        self.pass_by()
        self.assertEqual({"eth2", "eth3"}, {wire.interface for wire in self.server.wires})

    def test_one_route_for_two(self) -> None:
        """Two networks whose servers name the same route have it both, and a repeat of their plugs succeeds."""
        self.server.options = {121: b"\x20\xa9\xfe\xa9\xfe\xc0\x00\x02\x01"}
        self.kernel.new_link(B)
        for mac, address in ((A, "192.0.2.10"), (B, "192.0.2.11")):
            self.server.address = address
            self.successResultOf(self.network.plug_network(mac))
            self.pass_by()
        self.assertEqual(
            {self.kernel.inside.link(mac).index for mac in (A, B)}, {index for index, _ in self.kernel.inside.routes}
        )
        self.assertEqual("eth3", self.successResultOf(self.network.plug_network(B)))

    def test_renamed_or_gone(self) -> None:
        """Who asks does so at the interface as it is called now; for one that was dropped nobody asks."""
        self.successResultOf(self.network.plug_network(A))
        self.pass_by()
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.kernel.new_link(B)
        self.assertEqual("eth2", self.successResultOf(self.network.plug_network(B)))
        self.pass_by()
        self.server.heard.clear()
        self.clock.advance(1800)
        self.pass_by()
        self.assertEqual(["request"], self.server.heard)


class ListenerTests(NetworkTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.plugged(request(SECOND, A))
        self.complete = self.world()

    def give_up(self, *hosts: str) -> None:
        """A listener that was bound to these is deleted."""
        self.run_coroutine(self.network.give_up([Bind(host, 80) for host in hosts]))

    def test_last_listener(self) -> None:
        """A VIP goes with its last listener, with its rule, and comes back for the next, before that binds."""
        self.give_up(str(VIP))
        self.assertEqual({"203.0.113.3/24"}, self.addresses())
        self.assertEqual([SECOND], [rule.source for rule in self.kernel.inside.rules])
        self.run_coroutine(self.network.provide([Bind(str(VIP), 8080)]))
        self.assertEqual(self.complete, self.world())

    def test_others_left(self) -> None:
        """A VIP that another listener is bound to stays, whatever its port; a wildcard is bound to all."""
        for still in (Bind(str(VIP), 443), Bind("0.0.0.0", 81), Bind("::", 82)):
            self.binds = [still]
            self.give_up(str(VIP))
            self.assertEqual(self.complete, self.world(), still)
        self.binds = [Bind(str(SECOND), 80), Bind("::1", 80), Bind("::", 80, v6only=True)]
        self.give_up(str(VIP))
        self.assertEqual({"203.0.113.3/24"}, self.addresses())

    def test_not_its_own(self) -> None:
        """A VIP that the listener was not bound to stays, also if no other is."""
        self.give_up("127.0.0.1", "203.0.113.9")
        self.run_coroutine(self.network.give_up([Bind("0.0.0.0", 80, interface="eth7")]))
        self.assertEqual(self.complete, self.world())

    def test_wildcard(self) -> None:
        """A listener on all addresses was bound to each VIP, and one on all asks for each."""
        self.give_up("0.0.0.0")
        self.assertEqual(set(), self.addresses())
        self.run_coroutine(self.network.provide([Bind("*", 80)]))
        self.assertEqual(set(), self.addresses())
        self.run_coroutine(self.network.provide([Bind("0.0.0.0", 80)]))
        self.assertEqual(self.complete, self.world())

    def test_remembered(self) -> None:
        """What was taken away stays away over a restart, and comes back when plugged again."""
        self.give_up(str(VIP))
        self.restart()
        self.assertEqual({"203.0.113.3/24"}, self.addresses())
        self.plugged(request(VIP, A))
        self.assertEqual(self.complete, self.world())

    def test_cannot_be_given_back(self) -> None:
        """A VIP that cannot be given back is an error with the kernel's words: its listener cannot start."""
        self.give_up(str(VIP))
        self.kernel.refused = {"adding 203.0.113.2": "Cannot allocate memory"}
        failure = self.failureResultOf(ensureDeferred(self.network.provide([Bind(str(VIP), 80)])), PlugFailed)
        self.assertEqual("adding 203.0.113.2/24 to eth1: Cannot allocate memory", str(failure.value))

    def test_wildcard_without_interface(self) -> None:
        """A wildcard does not need a VIP whose interface is gone: it is told once, and put back when that appears."""
        self.give_up("0.0.0.0")
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.failureResultOf(ensureDeferred(self.network.provide([Bind(str(VIP), 80)])), PlugFailed)
        with capturedLogs() as events:
            self.run_coroutine(self.network.provide([Bind("0.0.0.0", 80)]))
            self.clock.pump([FIRST_RETRY, *[LONGEST_RETRY] * 3])
        (told,) = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertIn("is not there", told["reason"])
        self.assertEqual({True}, {vip.in_use for port in self.records.load()[0] for vip in port.vips})
        self.kernel.new_link(A)
        self.clock.advance(LONGEST_RETRY)
        self.assertEqual({"203.0.113.2/24", "203.0.113.3/24"}, self.addresses())

    def test_provided_while_it_is_taken(self) -> None:
        """A listener that starts while its VIP is being taken away gets it back before it binds."""
        calls = CallsLater()
        network = self.on(calls)
        taking = ensureDeferred(network.give_up([Bind(str(VIP), 80)]))
        providing = ensureDeferred(network.provide([Bind(str(VIP), 80)]))
        self.assertNoResult(providing)
        calls.make_all()
        self.successResultOf(taking)
        self.successResultOf(providing)
        self.assertEqual(self.complete, self.world())
        self.assertIn(Remove, {type(change) for change in self.kernel.made})

    def test_bound_while_another_is_taken(self) -> None:
        """A VIP that a new listener is bound to by the time that its turn comes stays."""
        calls = CallsLater()
        taking = ensureDeferred(self.on(calls).give_up([Bind("0.0.0.0", 80)]))
        self.binds = [Bind(str(SECOND), 80)]
        calls.make_all()
        self.successResultOf(taking)
        self.assertEqual({"203.0.113.3/24"}, self.addresses())

    def on(self, calls: CallsLater) -> Network:
        """The next agent's, which has seen what there is, and whose calls are made later."""
        network = Network(
            self.clock,
            calls,
            self.kernel,
            self.records,
            PacketFilter(self.nft, AtOnce(), self.rules_path),
            keepalived_owns_vips=lambda: False,
            still_bound=lambda: self.binds,
            open_wire=self.server.open,
        )
        putting_back = ensureDeferred(network.put_back())
        calls.make_all()
        self.successResultOf(putting_back)
        return network

    def test_cannot_be_taken(self) -> None:
        """One that cannot be taken away is told in the log; the listener is deleted all the same."""
        self.kernel.refused = {"removing": "no"}
        with capturedLogs() as events:
            self.give_up(str(VIP))
        self.assertIn("no", events[-1]["reason"])
        self.assertEqual(self.complete, self.world())

    def test_nothing_to_do(self) -> None:
        """Binds that have nothing to do with VIPs, and VIPs that are there, cost no call."""
        self.kernel.unreadable = OSError(5, "Input/output error")
        self.run_coroutine(self.network.provide([Bind(str(VIP), 80), Bind("127.0.0.1", 80)]))
        self.give_up("127.0.0.1")
        self.network.bound([Bind("127.0.0.1", 80)])

    def test_bound(self) -> None:
        """When haproxy listens, the neighbours of its VIPs are told again (A13)."""
        self.clock.pump([PAUSE] * 3)
        self.kernel.advertised.clear()
        self.network.bound([Bind(str(VIP), 80), Bind(str(VIP), 443), Bind("127.0.0.1", 80)])
        self.clock.pump([PAUSE] * 3)
        self.assertEqual([("eth1", VIP)] * ADVERTISEMENTS, self.kernel.advertised)

    def test_bound_to_what_is_not_there(self) -> None:
        """What is not there is not told of."""
        self.clock.pump([PAUSE] * 3)
        self.kernel.advertised.clear()
        self.kernel.inside.addresses.clear()
        self.network.bound([Bind(str(VIP), 80)])
        self.assertEqual([], self.kernel.advertised)


class EndTests(NetworkTestCase):
    def test_release(self) -> None:
        """The end of an agent waits for the job at work, and leaves nothing scheduled."""
        self.kernel.new_link(A)
        plugging = self.network.plug_vip(request(VIP6, A))
        ending: Deferred[None] = ensureDeferred(self.network.release())
        self.assertNoResult(ending)
        self.kernel.end_detection()
        self.clock.advance(0.1)
        self.successResultOf(ending)
        self.assertEqual("eth1", self.successResultOf(plugging))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_amiss(self) -> None:
        """What is amiss is not tried again then."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.kernel.inside.take_out(self.kernel.inside.link(A))
        self.restart()
        self.successResultOf(ensureDeferred(self.network.release()))
        self.assertEqual([], self.clock.getDelayedCalls())


class FilterTests(NetworkTestCase):
    """SR-IOV ports are filtered, and what LVS needs of the kernel is there for all."""

    def let_in(self, *rules: FilterRule, interface: str = "eth1") -> None:
        self.successResultOf(self.network.replace_rules(interface, rules))

    def filter(self) -> str:
        return self.nft.tables.get(FILTER_TABLE, "")

    def port(self) -> Port:
        ports, _ = self.records.load()
        return next(port for port in ports if port.mac == A)

    def test_translation(self) -> None:
        """Each plugged interface is translated by the IP versions that it carries, also a second one (A18)."""
        self.kernel.new_link(A)
        self.kernel.new_link(B)
        self.plugged(request(VIP, A))
        self.assertEqual({"ip octavia-ipv4"}, set(self.nft.tables))
        self.plugged(request(VIP6, A))
        self.assertIn('"eth1"', self.nft.tables["ip6 octavia-ipv6"])
        self.successResultOf(self.network.plug_network(B))
        for table in ("ip octavia-ipv4", "ip6 octavia-ipv6"):
            self.assertIn('oifname { "eth1", "eth2" } meta l4proto { udp, sctp } masquerade', self.nft.tables[table])

    def test_translated_once(self) -> None:
        """However many interfaces are put back, nft is asked once: one that hangs would hold up each."""
        for mac in (A, B, C):
            self.kernel.new_link(mac)
            self.successResultOf(self.network.plug_network(mac))
        self.nft.loads = 0
        self.restart()
        self.assertEqual(1, self.nft.loads)

    def test_put_back(self) -> None:
        """After a reboot all of it is there again, the rules too, and the port is not up before."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.let_in(*EVERY_RULE)
        before = self.nft.tables
        self.nft.tables = {}
        self.nft.refused = "nft: no"
        self.reboot()
        self.assertFalse(self.kernel.outside.link(A).up)
        self.nft.refused = ""
        self.clock.advance(FIRST_RETRY)
        self.assertTrue(self.kernel.inside.link(A).up)
        self.assertEqual(before, self.nft.tables)

    def test_rules(self) -> None:
        """A port that has rules is an SR-IOV port from then on; each rule set takes the place of the one before."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.assertEqual(("", False), (self.filter(), self.port().is_sriov))
        self.let_in(*EVERY_RULE)
        self.assertEqual(len(EVERY_RULE), self.filter().partition("amphora_vip_chain {")[2].count("accept"))
        self.assertTrue(self.port().is_sriov)
        self.assertNotIn("notrack", self.nft.tables["ip octavia-ipv4"])
        self.let_in()
        self.assertNotIn("accept", self.filter().partition("amphora_vip_chain {")[2])

    def test_no_vip(self) -> None:
        """Rules are for what was plugged, with a VIP."""
        self.kernel.new_link(A)
        self.successResultOf(self.network.plug_network(A))
        for interface in ("eth2", "lo"):
            failure = self.failureResultOf(self.network.replace_rules(interface, EVERY_RULE), InvalidRules)
            self.assertIn(interface, failure.value.reason)
        self.assertEqual("", self.filter())

    def test_refused(self) -> None:
        """What nft refuses changes nothing, on the disk neither."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        before = (self.world(), self.nft.tables)
        self.nft.refused = "nft: no"
        failure = self.failureResultOf(self.network.replace_rules("eth1", EVERY_RULE), RulesNotReplaced)
        self.assertEqual("nft: no", failure.value.details)
        self.assertEqual(before, (self.world(), self.nft.tables))
        self.assertFalse(self.rules_path.exists())

    def test_no_room(self) -> None:
        """Neither does a disk that is full."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        with full_disk():
            replacing = self.network.replace_rules("eth1", EVERY_RULE)
        self.assertIn("the record of eth1", self.failureResultOf(replacing, RulesNotReplaced).value.details)
        self.assertEqual(("", False), (self.filter(), self.port().is_sriov))

    def test_guarded_first(self) -> None:
        """An SR-IOV port that cannot be filtered is not plugged; another one is, with one warning."""
        self.kernel.new_link(A)
        self.kernel.new_link(B)
        self.plugged(request(VIP, A))
        self.let_in()
        self.nft.refused = "there is no nft"
        before = self.world()
        plugging = self.network.plug_vip(request(SECOND, A))
        self.assertIn("there is no nft", self.failureResultOf(plugging, PlugFailed).value.details)
        self.assertEqual(before, self.world())
        with capturedLogs() as events:
            self.plugged(request(ELSEWHERE, B))
            self.plugged(request(ELSEWHERE, B))
        warnings = [event["problem"] for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(["there is no nft"], warnings)

    def test_undone(self) -> None:
        """A plug that fails leaves the filter as it was."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.let_in(*EVERY_RULE)
        before = self.nft.tables
        self.kernel.refused = {"adding": "no"}
        self.failureResultOf(self.network.plug_vip(request(VIP6, A)), PlugFailed)
        self.assertEqual(before, self.nft.tables)

    def test_translation_fails(self) -> None:
        """A translation that fails is tried again until it is there."""
        self.kernel.new_link(A)
        self.nft.refused = "nft: no"
        self.plugged(request(VIP, A))
        self.clock.advance(FIRST_RETRY)
        self.nft.refused = ""
        self.clock.advance(LONGEST_RETRY)
        self.assertIn("ip octavia-ipv4", self.nft.tables)

    def test_patience(self) -> None:
        """Nobody waits for ever for rules."""
        self.kernel.new_link(A)
        self.plugged(request(VIP, A))
        self.nft.stuck = Deferred()
        replacing = self.network.replace_rules("eth1", EVERY_RULE)
        self.clock.advance(PATIENCE)
        self.assertIn("still being worked on", self.failureResultOf(replacing, RulesNotReplaced).value.details)
        self.nft.stuck.callback(None)
        self.assertNotEqual("", self.filter())
