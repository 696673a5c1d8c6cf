"""The network of an amphora that is one of a pair: what the real keepalived owns is left to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from amphora.blocking import InThreads
from amphora.network.bind import Bind
from amphora.network.dhcp_client import opener
from amphora.network.errors import AddressNotFound
from amphora.network.inside import inside
from amphora.network.kernel import LinuxKernel
from amphora.network.nft import NftProgram
from amphora.network.packet_filter import PacketFilter
from amphora.network.plugging import Network
from amphora.network.records import Records
from amphora.network.requests import VipRequest, read_vip_request
from tests.integration.harness import wait_until
from tests.integration.networks import PATIENCE, DhcpServer, ip, ip_json, new_cable, new_namespace
from tests.integration.support import requires, short_directory

VIP, VIP6 = "203.0.113.2", "2001:db8::2"

# As Octavia lays it out, but for the pace.
CONFIGURATION = f"""
vrrp_instance pair {{
    interface eth1
    version 3
    virtual_router_id 7
    priority 100
    advert_int 0.1
    virtual_ipaddress {{
        {VIP}
    }}
    virtual_ipaddress_excluded {{
        {VIP6}
    }}
    virtual_routes {{
        203.0.113.0/24 dev eth1 src {VIP} scope link table 1
        default via 203.0.113.1 dev eth1 onlink table 1
    }}
    virtual_rules {{
        from {VIP}/32 table 1 priority 100
    }}
}}
"""


@requires("root", "keepalived", "ip", "ipv6")
class PairTests(TestCase):
    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.directory = short_directory(self)
        self.namespace, self.far = new_namespace(self), new_namespace(self)
        self.cable = new_cable(self, self.far)
        self.pair = False
        self.keepalived: subprocess.Popen[bytes] | None = None
        self.network = self.new_network()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.network.release()))
        self.addCleanup(self.stop_keepalived)

    def new_network(self) -> Network:
        from twisted.internet import reactor

        clock = cast(Any, reactor)
        blocking = InThreads(clock)
        return Network(
            clock,
            blocking,
            LinuxKernel(self.namespace),
            Records(self.directory / "interfaces"),
            PacketFilter(NftProgram(clock, blocking, self.namespace), blocking, self.directory / "nftables-vip.rules"),
            keepalived_owns_vips=lambda: self.pair,
            still_bound=lambda: [],
            open_wire=opener(clock, blocking, self.namespace),
        )

    async def restart(self) -> None:
        """The next agent."""
        await self.network.release()
        self.network = self.new_network()
        await self.network.put_back()

    async def change(self, pair: bool) -> None:
        self.pair = pair
        await self.network.topology_changed()

    def wishes(self) -> list[VipRequest]:
        return [
            read_vip_request(vip, {"subnet_cidr": subnet, "gateway": gateway, "mac_address": self.cable.mac})
            for vip, subnet, gateway in (
                (VIP, "203.0.113.0/24", "203.0.113.1"),
                (VIP6, "2001:db8::/64", "2001:db8::1"),
            )
        ]

    async def plug(self) -> None:
        for wish in self.wishes():
            self.assertEqual("eth1", await self.network.plug_vip(wish))

    async def start_keepalived(self) -> None:
        """Start it, and wait until it has given the VIPs; alone, it is the master."""
        path = self.directory / "keepalived.conf"
        path.write_text(CONFIGURATION)
        pids = ["-p", str(self.directory / "k.pid"), "-r", str(self.directory / "v.pid")]
        command = ["ip", "netns", "exec", self.namespace, "keepalived", "-n", "-l", "-f", str(path), *pids]
        self.keepalived = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await wait_until(lambda: {(VIP, 32), (VIP6, 128)} <= self.addresses(), "keepalived to give the VIPs")

    def stop_keepalived(self) -> None:
        """End it; it takes away what it gave."""
        if self.keepalived is not None:
            self.keepalived.terminate()
            self.keepalived.wait(PATIENCE)
            self.keepalived = None

    def addresses(self) -> set[tuple[str, int]]:
        (link,) = ip_json(self.namespace, "address", "show", "dev", "eth1")
        return {(each["local"], each["prefixlen"]) for each in link["addr_info"] if each["scope"] == "global"}

    def addresses_are_settled(self) -> bool:
        """The kernel changes its addresses, link-local ones too, when it has found no duplicate of them."""
        (link,) = ip_json(self.namespace, "address", "show", "dev", "eth1")
        return not any(each.get("tentative") for each in link["addr_info"])

    async def changes(self, work: Callable[[], Awaitable[object]]) -> list[str]:
        """What the kernel tells of changes while something is done."""
        command = ["ip", "-n", self.namespace, "monitor", "link", "address", "route", "rule"]
        monitor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            await work()
        finally:
            monitor.terminate()
            output, _ = await deferToThread(monitor.communicate)
        return output.splitlines()

    async def test_A9_owned_by_keepalived(self) -> None:
        """The VIP that keepalived holds is not touched, not even looked for: by no repeat, restart or reload (A9)."""
        self.pair = True
        await self.plug()
        self.assertEqual(set(), self.addresses())
        with self.assertRaises(AddressNotFound):
            await self.network.interface_of(VIP)
        # keepalived asks for an address of the amphora's own.
        ip("-n", self.namespace, "address", "add", "203.0.113.50/24", "dev", "eth1")
        await self.start_keepalived()
        self.assertEqual("eth1", await self.network.interface_of(VIP6))

        async def work() -> None:
            await self.plug()
            await self.restart()
            await self.change(True)
            binds = [Bind(VIP, 80), Bind(VIP6, 80)]
            await self.network.provide(binds)
            self.network.bound(binds)
            await self.network.give_up(binds)
            await self.restart()

        await wait_until(self.addresses_are_settled, "duplicate addresses to be looked for")
        self.assertEqual([], await self.changes(work))
        self.assertLessEqual({(VIP, 32), (VIP6, 128), ("203.0.113.50", 24)}, self.addresses())

    @requires("dnsmasq")
    async def test_own_address(self) -> None:
        """keepalived holds no VIP at an interface without an address; the network's DHCP server gives one."""
        self.cable.give_far_end("203.0.113.1/24")
        self.pair = True
        await self.plug()
        server = DhcpServer(self.cable, self.directory, "203.0.113.1")
        self.addCleanup(server.stop)
        server.start("203.0.113.50")
        await self.start_keepalived()
        self.assertEqual({(VIP, 32), (VIP6, 128), ("203.0.113.50", 24)}, self.addresses())
        self.assertEqual([], await self.changes(self.restart))
        self.stop_keepalived()
        await self.change(False)
        self.assertEqual({(VIP, 24), (VIP6, 64)}, self.addresses())

    async def test_standby_can_bind(self) -> None:
        """Where keepalived has not given the VIP, haproxy can bind it all the same."""
        self.pair = True
        await self.plug()
        for family, vip in ((socket.AF_INET, VIP), (socket.AF_INET6, VIP6)):
            inside(self.namespace, partial(bind, family, vip))

    async def test_handed_over_and_back(self) -> None:
        """A VIP changes hands: ours, keepalived's, ours again, and never with two masters."""
        await self.plug()
        ip("-n", self.namespace, "address", "add", "203.0.113.50/24", "dev", "eth1")
        ours = {(VIP, 24), (VIP6, 64), ("203.0.113.50", 24)}
        self.assertEqual(ours, self.addresses())
        rules = ip("-n", self.namespace, "rule")
        await self.change(True)
        self.assertEqual({("203.0.113.50", 24)}, self.addresses())
        await self.start_keepalived()
        self.assertEqual({(VIP, 32), (VIP6, 128), ("203.0.113.50", 24)}, self.addresses())
        self.stop_keepalived()
        await self.change(False)
        self.assertEqual((ours, rules), (self.addresses(), ip("-n", self.namespace, "rule")))

    async def test_keepalived_was_killed(self) -> None:
        """What a keepalived that was killed left behind is taken over when the amphora serves alone."""
        self.pair = True
        await self.plug()
        ip("-n", self.namespace, "address", "add", "203.0.113.50/24", "dev", "eth1")
        await self.start_keepalived()
        assert self.keepalived is not None
        pids = [int(pid) for pid in ip("netns", "pids", self.namespace).split()]
        # Left a moment, the one that holds the VIP would notice the end of its parent, and clean up.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, number)
        self.keepalived.wait(PATIENCE)
        self.assertIn((VIP, 32), self.addresses())
        await self.change(False)
        self.assertEqual({(VIP, 24), (VIP6, 64), ("203.0.113.50", 24)}, self.addresses())


def bind(family: int, vip: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((vip, 80))
