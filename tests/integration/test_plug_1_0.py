"""Plugging by the API 1.0, on real namespaces, cables and daemons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from amphora.network.advertise import arp_frame, neighbour_advertisement
from amphora.network.inside import inside
from amphora.network.sysctl import apply_sysctls
from tests.integration.harness import new_id, wait_until
from tests.integration.lab import Host, Lab
from tests.integration.networks import (
    PATIENCE,
    DhcpServer,
    Sniffer,
    delete_namespace,
    ip,
    ip_json,
    unplug,
)
from tests.integration.support import requires
from tests.integration.test_network import NetworkTestCase, configuration, fetch

VIP, OWN, SECOND, VIP6 = "203.0.113.2", "203.0.113.5", "203.0.113.3", "2001:db8::2"
EXPLODED = "2001:0db8:0000:0000:0000:0000:0000:0002"
OK = {"message": "OK"}

SERVE = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
server = Server(("::", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""
"""Answers with the address that a request came from, on either version."""

KEEPALIVED = f"""
vrrp_instance pair {{
    interface eth1
    version 3
    virtual_router_id 7
    priority 100
    nopreempt
    accept
    advert_int 0.1
    unicast_src_ip {OWN}
    unicast_peer {{
        203.0.113.6
    }}
    virtual_ipaddress {{
        {VIP}
    }}
    virtual_ipaddress_excluded {{
        {VIP6}
    }}
    virtual_routes {{
        203.0.113.0/24 dev eth1 src {VIP} scope link table 1
        default via 203.0.113.1 dev eth1 onlink table 1
        198.51.100.0/24 via 203.0.113.9 dev eth1 onlink table 1
        2001:db8::/64 dev eth1 src {VIP6} scope link table 1
        default via 2001:db8::1 dev eth1 onlink table 1
    }}
    virtual_rules {{
        from {VIP}/32 table 1 priority 100
        from {VIP6}/128 table 1 priority 100
    }}
}}
"""
"""As Octavia lays it out, but for the pace."""


def further(address: str = VIP6, subnet: str = "2001:db8::/64", gateway: str | None = "2001:db8::1") -> dict[str, Any]:
    """One of `additional_vips`."""
    return {"ip_address": address, "subnet_cidr": subnet, "gateway": gateway, "host_routes": []}


def fixed(address: str, **more: object) -> dict[str, object]:
    """One of `fixed_ips`."""
    subnet = "2001:db8:2::/64" if ":" in address else "192.0.2.0/24"
    return {"ip_address": address, "subnet_cidr": subnet, "gateway": None, "host_routes": [], **more}


class Of10TestCase(NetworkTestCase):
    """Plugs as Octavia's controller does."""

    def ask_thrice(self) -> None:
        """Have the kernel ask three times whether somebody has an address: on a busy machine one question gets lost."""
        self.assertEqual([], apply_sysctls(self.namespace, {"net/ipv6/conf/default/dad_transmits": "3"}))

    def vip_body(self, mac: str, **changes: object) -> dict[str, object]:
        return {
            "subnet_cidr": "203.0.113.0/24",
            "gateway": "203.0.113.1",
            "mac_address": mac,
            "vrrp_ip": OWN,
            "mtu": 1450,
            "host_routes": [],
            "additional_vips": [],
            "is_sriov": False,
            **changes,
        }

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """One request below the version: the code and the JSON of its answer."""
        content = json.dumps(body).encode()
        head = f"POST /1.0{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        answer = await self.raw_client().exchange(head.encode() + content)
        start, _, told = answer.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Type: application/json", start)
        return int(start.split()[1]), json.loads(told)

    async def vips(self, mac: str, vip: str = VIP, **changes: object) -> tuple[int, Any]:
        return await self.post(f"/plug/vip/{vip}", self.vip_body(mac, **changes))

    async def port(self, mac: str, *addresses: dict[str, object], **more: object) -> tuple[int, Any]:
        body = {"mac_address": mac, "fixed_ips": list(addresses), "mtu": 1450, "is_sriov": False, **more}
        return await self.post("/plug/network", body)

    async def vip_port(self, mac: str, *addresses: dict[str, object], **changes: object) -> tuple[int, Any]:
        """Plug a network on the interface of a VIP: Octavia tells of its own address again, and of one VIP."""
        own = fixed(OWN, subnet_cidr="203.0.113.0/24", gateway="203.0.113.1")
        return await self.port(mac, own, *addresses, vip_net_info={**self.vip_body(mac, **changes), "vip": VIP})

    def mtu(self, name: str) -> int:
        (link,) = ip_json(self.namespace, "link", "show", "dev", name)
        mtu: int = link["mtu"]
        return mtu

    async def changes(self, work: Deferred[Any]) -> list[str]:
        """What the kernel tells of changes, but of the loopback and of neighbours, while something is done."""
        command = ["ip", "-n", self.namespace, "monitor", "link", "address", "route", "rule"]
        monitor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            await work
        finally:
            monitor.terminate()
            output, _ = await deferToThread(monitor.communicate)
        return [line for line in output.splitlines() if line[:1] != " "]


@requires("root", "haproxy", "ip", "ipv6")
class PlugVipTests(Of10TestCase):
    async def test_dual_stack(self) -> None:
        """VIPs of both versions in one request: addresses, routes, rules, MTU and answer are the contract's."""
        cable = self.cable()
        routes = [{"destination": "198.51.100.0/24", "nexthop": "203.0.113.9"}]
        answer = await self.vips(cable.mac, additional_vips=[further()], host_routes=routes, mtu=1400)
        told = f"VIPs plugged on interface eth1: {VIP}, {EXPLODED}"
        self.assertEqual((202, {**OK, "details": told}), answer)
        self.assertEqual({OWN: 24, VIP: 32, VIP6: 128}, self.addresses("eth1"))
        self.assertEqual(1400, self.mtu("eth1"))
        for family, vip, gateway in (("-4", VIP, "203.0.113.1"), ("-6", VIP6, "2001:db8::1")):
            for table in ("main", "1"):
                (default,) = ip_json(self.namespace, family, "route", "show", "default", "table", table)
                self.assertEqual((gateway, "eth1"), (default["gateway"], default["dev"]))
            rules = ip_json(self.namespace, family, "rule")
            self.assertEqual(["1"], [rule["table"] for rule in rules if rule["src"] == vip])
        for source in ([], ["from", VIP]):
            (route,) = ip_json(self.namespace, "route", "get", "198.51.100.9", *source)
            self.assertEqual("203.0.113.9", route["gateway"])
        (route,) = ip_json(self.namespace, "route", "get", "8.8.8.8")
        self.assertEqual(OWN, route["prefsrc"])

    async def test_many(self) -> None:
        """A dozen VIPs of IPv6 are there in the time that one takes; what leaves has the interface's own address."""
        cable = self.cable()
        how = {"subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1", "vrrp_ip": "2001:db8::ff"}
        more = [further(f"2001:db8::{number:x}") for number in range(3, 14)]
        status, answer = await self.vips(cable.mac, VIP6, **how, additional_vips=more)
        self.assertEqual((202, 12), (status, answer["details"].count("2001:0db8:")))
        self.assertEqual(13, len(self.addresses("eth1")))
        (route,) = ip_json(self.namespace, "-6", "route", "get", "2001:db8:9::1")
        self.assertEqual("2001:db8::ff", route["prefsrc"])
        self.assertEqual(409, (await self.vips(cable.mac, VIP6, **how, additional_vips=more))[0])

    async def test_repeat(self) -> None:
        """What is there already is 409, after what was missing of it was brought about; what differs is done."""
        cable = self.cable()
        exists = (409, {"message": "Interface already exists", "details": "eth1 has all that was asked for"})
        await self.vips(cable.mac)
        before = self.shape()
        self.assertEqual([], await self.changes(Deferred.fromCoroutine(self.vips(cable.mac.upper()))))
        ip("-n", self.namespace, "address", "delete", f"{VIP}/32", "dev", "eth1")
        ip("-n", self.namespace, "rule", "delete", "from", VIP)
        self.assertEqual(exists, await self.vips(cable.mac))
        self.assertEqual(before, self.shape())
        status, _ = await self.vips(cable.mac, additional_vips=[further()], mtu=1300)
        self.assertEqual((202, 1300), (status, self.mtu("eth1")))
        self.assertEqual({OWN: 24, VIP: 32, VIP6: 128}, self.addresses("eth1"))
        self.assertEqual(202, (await self.vips(cable.mac))[0])
        self.assertEqual(before, self.shape())

    async def test_refused(self) -> None:
        """What is wrong is told in the contract's words and order, and nothing is changed."""
        cable = self.cable()
        for changes, vip, told in (
            ({"subnet_cidr": "x"}, VIP, "Invalid VIP: subnet_cidr is not an address"),
            ({}, "203.0.113", "Invalid VIP: not an IPv4 or IPv6 address: 203.0.113"),
            ({"vrrp_ip": "x"}, "203.0.113", "Invalid VIP: not an IPv4 or IPv6 address: 203.0.113"),
            ({"vrrp_ip": "192.0.2.1"}, VIP, "Invalid VRRP Address: 192.0.2.1 is not in the VIP's subnet"),
            ({"mac_address": 7}, "x", "Invalid subnet information"),
            ({"additional_vips": [{}]}, VIP, "Invalid subnet information"),
        ):
            status, answer = await self.vips(cable.mac, vip, **changes)
            self.assertEqual(400, status)
            self.assertTrue(answer["message"].startswith(told), answer)
        bodies: tuple[object, ...] = ({}, [], None)
        for body in bodies:
            status, answer = await self.post("/plug/vip/x", body)
            self.assertEqual((400, "Invalid subnet information"), (status, answer["message"]))
        for port, told in (
            ([{"ip_address": "x", "subnet_cidr": "192.0.2.0/24"}], "Invalid network port"),
            ([{}], "Invalid port information"),
        ):
            status, answer = await self.port(cable.mac, *port)
            self.assertEqual((400, told), (status, answer["message"]))
        self.assertEqual((True, []), (cable.outside, self.records))

    async def test_E5_late(self) -> None:
        """A device that is not there yet is a 404 that has the controller ask again, and is plugged then (E5)."""
        mac = "02:00:00:5e:10:01"
        for answer in (await self.vips(mac), await self.port(mac)):
            self.assertEqual(404, answer[0])
            self.assertIn("No suitable network interface found", answer[1]["details"])
        self.cable(mac=mac)
        self.assertEqual(202, (await self.vips(mac))[0])

    async def test_A12_mtu(self) -> None:
        """An MTU that the device cannot have is an error in the kernel's words, and all is as it was (A12)."""
        cable = self.cable()
        before = self.shape()
        status, answer = await self.vips(cable.mac, mtu=100_000)
        self.assertEqual((500, "Error plugging VIP"), (status, answer["message"]))
        self.assertEqual("setting the MTU of eth1 to 100000: mtu greater than device maximum", answer["details"])
        self.assertEqual((before, True, []), (self.shape(), cable.outside, self.records))
        await self.vips(cable.mac)
        before = self.shape()
        self.assertEqual(500, (await self.vips(cable.mac, mtu=100_000, additional_vips=[further()]))[0])
        self.assertEqual((before, 1450), (self.shape(), self.mtu("eth1")))

    async def test_A14_duplicate(self) -> None:
        """An IPv6 address that another station has is an error at once, and nothing is left behind (A14)."""
        self.ask_thrice()
        cable = self.cable()
        cable.give_far_end(f"{VIP6}/64")
        status, answer = await self.vips(cable.mac, additional_vips=[further()])
        self.assertEqual((500, "Error plugging VIP"), (status, answer["message"]))
        self.assertIn(f"{VIP6} is a duplicate address", answer["details"])
        self.assertEqual((True, []), (cable.outside, self.records))
        self.assertEqual(202, (await self.vips(cable.mac))[0])

    async def test_host_route(self) -> None:
        """A user's route that the kernel refuses is told in the log, once, and the others are there."""
        cable = self.cable()
        routes = [
            {"destination": "10.0.0.0/8", "nexthop": OWN},
            {"destination": "198.51.100.0/24", "nexthop": "203.0.113.9"},
        ]
        for expected in (202, 409):
            self.assertEqual(expected, (await self.vips(cable.mac, host_routes=routes))[0])
        self.assertEqual(1, self.agent.log.count(f"10.0.0.0/8 via {OWN} to eth1: Nexthop has invalid gateway"))
        self.assertEqual(1, len(ip_json(self.namespace, "route", "show", "198.51.100.0/24")))

    async def test_gateways(self) -> None:
        """A gateway may be absent, or outside of the subnet, as Neutron allows."""
        cable = self.cable()
        self.assertEqual(202, (await self.vips(cable.mac, gateway="192.0.2.254"))[0])
        (default,) = ip_json(self.namespace, "route", "show", "default")
        self.assertEqual("192.0.2.254", default["gateway"])
        self.assertEqual(202, (await self.vips(cable.mac, gateway=None))[0])
        self.assertEqual([], ip_json(self.namespace, "route", "show", "default", "table", "all"))

    async def test_A13_advertised(self) -> None:
        """The network hears of each address, of VIPs and of networks' ports (A13)."""
        cable, other = self.cable(), self.cable()
        for near, plug, addresses in (
            (cable, self.vips(cable.mac, additional_vips=[further()]), (OWN, VIP, VIP6)),
            (other, self.port(other.mac, fixed("192.0.2.7"), fixed("2001:db8:2::7")), ("192.0.2.7", "2001:db8:2::7")),
        ):
            sniffer = Sniffer.at(self, near)
            self.assertEqual(202, (await plug)[0])
            for address in addresses:
                frame = (
                    neighbour_advertisement(near.mac, IPv6Address(address))[4:]
                    if ":" in address
                    else arp_frame(near.mac, IPv4Address(address))
                )
                await deferToThread(sniffer.wait_for, frame)

    @requires("dnsmasq")
    async def test_no_own_address(self) -> None:
        """Without an address of its own, the VIP's interface asks a DHCP server for one."""
        cable = self.cable()
        cable.give_far_end("203.0.113.1/24")
        server = DhcpServer(cable, self.directory, "203.0.113.1")
        self.addCleanup(server.stop)
        server.start("203.0.113.50")
        self.assertEqual(202, (await self.vips(cable.mac, vrrp_ip=None))[0])
        expected = {VIP: 32, "203.0.113.50": 24}
        await wait_until(lambda: self.addresses("eth1") == expected, "an address of the interface's own")


@requires("root", "haproxy", "ip", "ipv6")
class PlugNetworkTests(Of10TestCase):
    async def test_A9_addresses(self) -> None:
        """Addresses and routes come and go as they are told, nothing else is ever touched (A9)."""
        cable = self.cable()
        route = {"destination": "198.51.100.0/24", "nexthop": "192.0.2.9"}
        first = fixed("192.0.2.7", host_routes=[route], gateway="192.0.2.1")
        answer = await self.port(cable.mac, first, fixed("192.0.2.8"), fixed("2001:db8:2::7"))
        self.assertEqual((202, {**OK, "details": "Plugged on interface eth2"}), answer)
        self.assertEqual({"192.0.2.7": 24, "192.0.2.8": 24, "2001:db8:2::7": 64}, self.addresses("eth2"))
        self.assertEqual([], ip_json(self.namespace, "route", "show", "default"))
        self.assertEqual(1, len(ip_json(self.namespace, "route", "show", "198.51.100.0/24")))
        same = await self.changes(
            Deferred.fromCoroutine(self.port(cable.mac, first, fixed("192.0.2.8"), fixed("2001:db8:2::7")))
        )
        self.assertEqual([], same)
        answer = await self.port(cable.mac, fixed("192.0.2.8"), fixed("2001:db8:2::7"), fixed("192.0.2.10"), mtu=1300)
        self.assertEqual((202, {**OK, "details": "Updated existing interface eth2"}), answer)
        self.assertEqual({"192.0.2.8": 24, "192.0.2.10": 24, "2001:db8:2::7": 64}, self.addresses("eth2"))
        self.assertEqual([], ip_json(self.namespace, "route", "show", "198.51.100.0/24"))
        self.assertEqual(1300, self.mtu("eth2"))

    async def test_duplicate(self) -> None:
        """A member subnet's address that another station has is an error, and what was before goes on."""
        self.ask_thrice()
        cable = self.cable()
        cable.give_far_end("2001:db8:2::7/64")
        await self.port(cable.mac, fixed("192.0.2.7"))
        before = self.shape()
        status, answer = await self.port(cable.mac, fixed("192.0.2.7"), fixed("2001:db8:2::7"))
        self.assertEqual((500, "Error plugging network"), (status, answer["message"]))
        self.assertIn("is a duplicate address", answer["details"])
        self.assertEqual(before, self.shape())

    async def test_one_metadata_route(self) -> None:
        """Interfaces whose networks all have the same route to their metadata are plugged, each with it."""
        for number in (2, 3):
            routes = [{"destination": "169.254.169.254/32", "nexthop": f"192.0.{number}.1"}]
            address = fixed(f"192.0.{number}.7", subnet_cidr=f"192.0.{number}.0/24", host_routes=routes)
            self.assertEqual(202, (await self.port(self.cable().mac, address))[0])
        self.assertEqual(2, len(ip_json(self.namespace, "route", "show", "169.254.169.254")))

    async def test_vip_port(self) -> None:
        """A network on a VIP's interface adds its addresses; the VIPs, not all told again, are not touched."""
        cable = self.cable()
        await self.vips(cable.mac, additional_vips=[further(), further(SECOND, "203.0.113.0/24", "203.0.113.1")])
        before = self.addresses("eth1")
        self.assertEqual([], await self.changes(Deferred.fromCoroutine(self.vip_port(cable.mac))))
        told = await self.changes(Deferred.fromCoroutine(self.vip_port(cable.mac, fixed("192.0.2.7"))))
        self.assertEqual([], [line for line in told if "Deleted" in line or "203.0.113" in line])
        self.assertEqual({**before, "192.0.2.7": 24}, self.addresses("eth1"))
        answer = await self.vip_port(cable.mac)
        self.assertEqual((202, {**OK, "details": "Updated existing interface eth1"}), answer)
        self.assertEqual(before, self.addresses("eth1"))

    async def test_A11_twenty_at_once(self) -> None:
        """Twenty plugs of one interface at once: it has what one of them asked for, and its record says so (A11)."""
        cable = self.cable()
        plugs = [
            Deferred.fromCoroutine(self.port(cable.mac, fixed(f"192.0.2.{number}"), mtu=1300 + number))
            for number in range(10, 30)
        ]
        answers = await gatherResults(plugs)
        self.assertEqual({202}, {status for status, _ in answers})
        self.assertEqual(1, sum("Plugged on" in answer["details"] for _, answer in answers))
        ((address, _),) = self.addresses("eth2").items()
        self.assertEqual(1300 + int(address.rpartition(".")[2]), self.mtu("eth2"))
        record = json.loads((self.directory / "interfaces" / "eth2.json").read_bytes())
        self.assertEqual([address], [each["ip_address"] for each in record["fixed_ips"]])
        self.assertEqual({"eth2", "lo"}, self.shape()["up"])

    async def test_reboot(self) -> None:
        """After a reboot, addresses, routes, rules and MTUs are as they were."""
        vip, network = self.cable(), self.cable()
        routes = [{"destination": "198.51.100.0/24", "nexthop": "203.0.113.9"}]
        await self.vips(vip.mac, additional_vips=[further()], host_routes=routes)
        await self.vip_port(vip.mac, fixed("192.0.3.7", subnet_cidr="192.0.3.0/24"))
        await self.port(network.mac, fixed("192.0.2.7"), fixed("2001:db8:2::7"), mtu=1300)
        before = (self.shape(), self.mtu("eth1"), self.mtu("eth2"))
        await self.agent.end(signal.SIGKILL)
        delete_namespace(self.namespace)
        for cable in (network, vip):
            unplug(cable.far_namespace, cable.far_name)
            self.cable(mac=cable.mac)
        await self.agent.start()
        self.assertEqual(before, (self.shape(), self.mtu("eth1"), self.mtu("eth2")))


@requires("root", "haproxy", "ip", "ipv6")
class TrafficTests(Of10TestCase):
    """
    The VIP's network and the member's, a router between both, and a host in the member's that is client and member.

    amphora 203.0.113.2 -- 203.0.113.1 router 192.0.2.1 -- 192.0.2.20 host -- 192.0.2.10 amphora; IPv6 alike
    """

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.vip_net, self.member_net = Lab(), Lab()
        for lab in (self.vip_net, self.member_net):
            self.addCleanup(lab.clean_up)
        router = self.vip_net.host("router")
        self.vip_net.plug(router, "203.0.113.1/24")
        port = self.member_net.port()
        ip("link", "set", port.link, "netns", router.name, "name", "eth1")
        router.ip("link", "set", "eth1", "up")
        for name, address in (("eth0", "2001:db8::1/64"), ("eth1", "192.0.2.1/24"), ("eth1", "2001:db8:2::1/64")):
            router.ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            inside(router.name, partial(Path(f"/proc/sys/{path}").write_text, "1"))
        self.host = self.member_net.host("host")
        self.member_net.plug(self.host, "192.0.2.20/24")
        self.host.ip("address", "add", "2001:db8:2::20/64", "dev", "eth0", "nodad")
        self.host.ip("route", "add", "default", "via", "192.0.2.1")
        self.host.ip("-6", "route", "add", "default", "via", "2001:db8:2::1")
        await self.serve(self.host)
        self.vip_mac = self.vip_net.port().mac

    async def serve(self, host: Host) -> None:
        """Have a host be a member."""
        command = ["ip", "netns", "exec", host.name, sys.executable, "-c", SERVE]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        assert server.stdout is not None
        self.addCleanup(server.stdout.close)
        await deferToThread(server.stdout.readline)

    async def listen(self, vip: str, member: str) -> str:
        listener = new_id()
        await self.client.upload_haproxy(listener, configuration(vip, 80, member))
        await self.client.start(listener)
        return listener

    async def test_A8_member_subnet(self) -> None:
        """A client in a member's subnet reaches the VIP, and haproxy its member by the address in that subnet (A8)."""
        await self.vips(self.vip_mac, additional_vips=[further()])
        before = ip("-n", self.namespace, "rule") + ip("-n", self.namespace, "route", "show", "table", "1")
        await self.port(self.member_net.port().mac, fixed("192.0.2.10"), fixed("2001:db8:2::10"))
        after = ip("-n", self.namespace, "rule") + ip("-n", self.namespace, "route", "show", "table", "1")
        self.assertEqual(before, after)
        for vip, member, source in (
            (VIP, "192.0.2.20:8080", "192.0.2.10"),
            (VIP6, "[2001:db8:2::20]:8080", "2001:db8:2::10"),
        ):
            await self.listen(vip, member)
            answer = await fetch(self.host.name, vip)
            self.assertIn(b"200 OK", answer)
            self.assertTrue(answer.endswith(source.encode()), answer)

    async def test_A9_one_subnet(self) -> None:
        """A member in the VIP's subnet is asked by the interface's own address, and the VIP stays (A9)."""
        neighbour = self.vip_net.host("member")
        self.vip_net.plug(neighbour, "203.0.113.20/24")
        await self.serve(neighbour)
        await self.vips(self.vip_mac)
        await self.vip_port(self.vip_mac)
        await self.listen(VIP, "203.0.113.20:8080")
        for client in (self.host, neighbour):
            answer = await fetch(client.name, VIP)
            self.assertTrue(answer.endswith(OWN.encode()), answer)

    async def test_last_listener(self) -> None:
        """A VIP that 1.0 plugged stays when the last listener goes, whichever API deletes that."""
        await self.vips(self.vip_mac)
        listener = await self.listen(VIP, "192.0.2.20:8080")
        before = self.shape()
        await self.client.delete(listener)
        self.assertEqual(before, self.shape())


@requires("root", "haproxy", "keepalived", "ip", "ipv6")
class PairTests(Of10TestCase):
    """An amphora that is one of a pair, as `loadbalancer_topology` says."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {**super().agent_options(), "controller_worker": {"loadbalancer_topology": "ACTIVE_STANDBY"}}

    async def start_keepalived(self) -> None:
        """Start it, and wait until it has given the VIPs: nobody answers it."""
        path = self.directory / "pair.conf"
        path.write_text(KEEPALIVED)
        pids = ["-p", str(self.directory / "k.pid"), "-r", str(self.directory / "v.pid")]
        command = ["ip", "netns", "exec", self.namespace, "keepalived", "-n", "-l", "-f", str(path), *pids]
        keepalived = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(keepalived.wait, PATIENCE)
        self.addCleanup(keepalived.terminate)
        await wait_until(lambda: {VIP, VIP6} <= self.addresses("eth1").keys(), "keepalived to give the VIPs")

    async def test_A9_beside_keepalived(self) -> None:
        """VIPs, routes and rules of keepalived are in nobody's way: repeats and new plugs touch none of them (A9)."""
        cable = self.cable()
        routes = [{"destination": "198.51.100.0/24", "nexthop": "203.0.113.9"}]
        how: dict[str, Any] = {"additional_vips": [further()], "host_routes": routes}
        self.assertEqual(202, (await self.vips(cable.mac, **how))[0])
        self.assertEqual({OWN: 24}, self.addresses("eth1"))
        (own,) = ip_json(self.namespace, "route", "show", "table", "1")
        self.assertEqual(("198.51.100.0/24", "203.0.113.9"), (own["dst"], own["gateway"]))
        self.assertNotIn(VIP, ip("-n", self.namespace, "rule"))
        await self.start_keepalived()
        with_vips = self.shape()
        self.assertEqual({OWN: 24, VIP: 32, VIP6: 128}, self.addresses("eth1"))
        for family, vip in (("-4", VIP), ("-6", VIP6)):
            (default,) = ip_json(self.namespace, family, "route", "show", "default", "table", "1")
            self.assertEqual("keepalived", default["protocol"])
            (route,) = ip_json(
                self.namespace, "route", "get", "2001:db8:9::1" if ":" in vip else "8.8.8.8", "from", vip
            )
            self.assertIn("203.0.113.1" if family == "-4" else "2001:db8::1", route["gateway"])

        async def work() -> None:
            self.assertEqual(409, (await self.vips(cable.mac, **how))[0])
            await self.agent.end(signal.SIGKILL)
            await self.agent.start()
            self.assertEqual(202, (await self.vip_port(cable.mac, fixed("192.0.2.7"), host_routes=routes))[0])

        told = await self.changes(Deferred.fromCoroutine(work()))
        self.assertEqual([], [line for line in told if "Deleted" in line or f" {VIP}" in line or f" {VIP6}" in line])
        self.assertEqual({OWN: 24, VIP: 32, VIP6: 128, "192.0.2.7": 24}, self.addresses("eth1"))
        self.assertEqual(with_vips["rules"], self.shape()["rules"])
        self.assertEqual(202, (await self.vip_port(cable.mac, host_routes=routes))[0])
        self.assertEqual(with_vips, self.shape())
