"""The network routes of v0.1, on real namespaces, cables and haproxies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from amphora.client import AmphoraFailed, NotFound, Outcome, Refused
from amphora.network.advertise import arp_frame, neighbour_advertisement
from amphora.network.inside import inside
from tests.integration.harness import AMPHORA_ID, AgentTestCase, RawClient, client_context, new_id, read_all, wait_until
from tests.integration.networks import (
    PATIENCE,
    Cable,
    Sniffer,
    delete_namespace,
    ip,
    ip_json,
    new_cable,
    new_namespace,
    new_suffix,
    unplug,
)
from tests.integration.support import count, requires
from tests.integration.test_listeners import RouteTestCase

SPECIFIED_MAC = "78:31:c1:ce:0b:3c"
VIP, VIP6 = "203.0.113.2", "2001:db8::2"
OF_VIP = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1"}
OF_VIP6 = {"subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1"}
OF_OTHER = {"subnet_cidr": "192.0.2.0/24", "gateway": "192.0.2.1"}


class NetworkTestCase(RouteTestCase):
    """An agent with a namespace of its own, and one that cables lead to."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.far = new_namespace(self)

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.namespace = new_namespace(self)
        return {"amphora_agent": {"network_namespace": self.namespace}}

    def cable(self, **how: str) -> Cable:
        return new_cable(self, self.far, **how)

    @property
    def records(self) -> list[str]:
        directory = self.directory / "interfaces"
        return sorted(os.listdir(directory)) if directory.exists() else []

    def addresses(self, name: str) -> dict[str, int]:
        """The addresses of an interface inside, but those of the link, with their prefixes."""
        (link,) = ip_json(self.namespace, "address", "show", "dev", name)
        return {each["local"]: each["prefixlen"] for each in link["addr_info"] if each["scope"] == "global"}

    def shape(self) -> dict[str, Any]:
        """All of the amphora's network that does not differ from one boot to the next."""
        routes = {
            family: {
                line.strip()
                for line in ip("-n", self.namespace, family, "route", "show", "table", "all").splitlines()
                if "fe80:" not in line and "ff00:" not in line
            }
            for family in ("-4", "-6")
        }
        return {
            "addresses": {
                link["ifname"]: sorted((each["local"], each["prefixlen"]) for each in link["addr_info"])
                for link in ip_json(self.namespace, "address", "show")
            },
            "up": {link["ifname"] for link in ip_json(self.namespace, "link", "show") if "UP" in link["flags"]},
            "routes": routes["-4"] | routes["-6"],
            "rules": ip("-n", self.namespace, "rule") + ip("-n", self.namespace, "-6", "rule"),
        }

    async def plug_vip(self, cable: Cable, vip: str = VIP, **how: str) -> Outcome:
        body = {**(OF_VIP6 if ":" in vip else OF_VIP), "mac_address": cable.mac, **how}
        return await self.client.plug_vip(vip, **body)


@requires("root", "haproxy", "ip", "ipv6")
class SpecificationTests(NetworkTestCase):
    """Each example of the specification, request and answer."""

    async def plug(self, path: str, body: object) -> tuple[int, Any]:
        answer = await self.call("POST", path, json.dumps(body).encode())
        return answer.status, answer.json

    async def test_plug_vip(self) -> None:
        """Plug VIP: 202, and 404 for an interface that is not there; its address is told by Get interface."""
        body = {**OF_VIP, "mac_address": SPECIFIED_MAC}
        missing = (404, {"message": "No suitable network interface found"})
        self.assertEqual(missing, await self.plug("/plug/vip/203.0.113.2", body))
        self.cable(mac=SPECIFIED_MAC)
        plugged = (202, {"message": "OK", "details": "VIP 203.0.113.2 plugged on interface eth1"})
        self.assertEqual(plugged, await self.plug("/plug/vip/203.0.113.2", body))
        self.assertEqual({VIP: 24}, self.addresses("eth1"))
        await self.assert_answer("GET", "/interface/203.0.113.2", 200, {"message": "OK", "interface": "eth1"})
        body["mac_address"] = SPECIFIED_MAC.upper()
        self.assertEqual(plugged, await self.plug("/plug/vip/203.0.113.2", body))

    async def test_interface(self) -> None:
        """Get interface: 200, 404 and 400, for IPv6 in any spelling as well."""
        cable = self.cable()
        body = {"subnet_cidr": "10.0.0.0/16", "gateway": "10.0.255.1", "mac_address": cable.mac}
        await self.client.plug_vip("10.0.0.1", **body)
        await self.plug_vip(cable, VIP6)
        found = {"message": "OK", "interface": "eth1"}
        for address in ("10.0.0.1", VIP6, "2001:0DB8:0:0:0:0:0:2", "2001%3Adb8%3A%3A2"):
            await self.assert_answer("GET", f"/interface/{address}", 200, found)
        for address in ("10.5.0.1", "2001:db8::1", "::"):
            missing = {"message": "Error interface not found for IP address"}
            await self.assert_answer("GET", f"/interface/{address}", 404, missing)
        for address in ("10.6.0.1.1", "eth1", "fe80::1%25eth1", "10.0.0.1%20"):
            await self.assert_answer("GET", f"/interface/{address}", 400, {"message": "Bad IP address version"})
        self.assertEqual("eth1", await self.client.interface(VIP6))
        with self.assertRaises(NotFound):
            await self.client.interface(VIP)

    async def test_plug_network(self) -> None:
        """Plug Network: 202, with and without a slash; 404 for an interface that is not there."""
        missing = (404, {"message": "No suitable network interface found"})
        self.assertEqual(missing, await self.plug("/plug/network/", {"mac_address": "78:31:c1:ce:0b:3d"}))
        for path, name in (("/plug/network/", "eth2"), ("/plug/network", "eth3")):
            plugged = (202, {"message": "OK", "details": f"Plugged interface {name}"})
            self.assertEqual(plugged, await self.plug(path, {"mac_address": self.cable().mac}))
        self.assertEqual({"eth2", "eth3", "lo"}, self.shape()["up"])
        self.assertEqual(202, (await self.client.plug_network(self.cable().mac)).status)

    async def test_refused(self) -> None:
        """What is wrong is named, and nothing is changed."""
        cable = self.cable()
        good = {**OF_VIP, "mac_address": cable.mac}
        wrong: tuple[tuple[str, object, str, str], ...] = (
            ("/plug/vip/203.0.113", good, "Invalid VIP", "not an IPv4 or IPv6 address: 203.0.113"),
            ("/plug/vip/203.0.113.255", good, "Invalid VIP", "203.0.113.255 is the address of the subnet"),
            ("/plug/vip/198.51.100.2", good, "Invalid subnet information", "198.51.100.2 is not in subnet_cidr"),
            (f"/plug/vip/{VIP6}", good, "Invalid subnet information", "not of the VIP's IP version"),
            (f"/plug/vip/{VIP}", {}, "Invalid subnet information", "subnet_cidr is missing"),
            (f"/plug/vip/{VIP}", {**good, "gateway": "x"}, "Invalid subnet information", "gateway is not"),
            (f"/plug/vip/{VIP}", {**good, "mac_address": "x"}, "Invalid subnet information", "mac_address is not"),
            (f"/plug/vip/{VIP}", [good], "Invalid subnet information", "The body is not a JSON object"),
            ("/plug/network", {}, "Invalid port information", "mac_address is missing"),
            ("/plug/network/", {"mac_address": 7}, "Invalid port information", "mac_address is not a text"),
            ("/plug/network/", None, "Invalid port information", "The body is not a JSON object"),
        )
        for path, body, message, part in wrong:
            status, answer = await self.plug(path, body)
            self.assertEqual((400, message), (status, answer["message"]), path)
            self.assertIn(part, answer["details"])
        for body in (b"", b"{", b"\xff", b"[" * 100_000):
            told = await self.call("POST", "/plug/network", body)
            self.assertEqual((400, "The body is not JSON"), (told.status, told.json["details"]))
        self.assertEqual(405, (await self.call("GET", "/plug/network")).status)
        self.assertEqual((True, []), (cable.outside, self.records))
        with self.assertRaises(Refused):
            await self.client.plug_network("x")


@requires("root", "haproxy", "ip", "ipv6")
class PlugTests(NetworkTestCase):
    async def test_both_versions(self) -> None:
        """IPv6 beside IPv4 on one interface, each with its routes and its rule."""
        cable = self.cable()
        for vip in (VIP, VIP6):
            outcome = await self.plug_vip(cable, vip)
            self.assertEqual(f"VIP {vip} plugged on interface eth1", outcome.details)
        self.assertEqual({VIP: 24, VIP6: 64}, self.addresses("eth1"))
        for family, vip, gateway in (("-4", VIP, "203.0.113.1"), ("-6", VIP6, "2001:db8::1")):
            for table in ("main", "1"):
                (default,) = ip_json(self.namespace, family, "route", "show", "default", "table", table)
                self.assertEqual((gateway, "eth1"), (default["gateway"], default["dev"]))
            rules = ip_json(self.namespace, family, "rule")
            self.assertEqual(["1"], [rule["table"] for rule in rules if rule["src"] == vip])

    async def test_A13_advertised(self) -> None:
        """The network hears of each address once it is there, by ARP or by a neighbour advertisement (A13)."""
        cable = self.cable()
        sniffer = Sniffer.at(self, cable)
        await self.plug_vip(cable)
        await deferToThread(sniffer.wait_for, arp_frame(cable.mac, IPv4Address(VIP)), 2)
        await self.plug_vip(cable, VIP6)
        unsolicited = neighbour_advertisement(cable.mac, IPv6Address(VIP6))[4:]
        await deferToThread(sniffer.wait_for, unsolicited)

    async def test_A14_duplicate(self) -> None:
        """An IPv6 address that another station has is an error at once, and leaves nothing behind (A14)."""
        cable = self.cable()
        cable.give_far_end(f"{VIP6}/64")
        for _ in range(2):
            with self.assertRaises(AmphoraFailed) as caught:
                await self.plug_vip(cable, VIP6)
            self.assertEqual("Error plugging VIP", caught.exception.message)
            self.assertIn(f"{VIP6} is a duplicate address", caught.exception.details)
            self.assertEqual((True, []), (cable.outside, self.records))
        # IPv4 of the same interface is not hindered, and goes on when IPv6 fails.
        await self.plug_vip(cable)
        before = self.shape()
        with self.assertRaises(AmphoraFailed):
            await self.plug_vip(cable, VIP6)
        self.assertEqual(before, self.shape())

    async def test_unreachable_gateway(self) -> None:
        """A failure in the middle is undone, and told in the kernel's words."""
        cable = self.cable()
        before = self.shape()
        for vip, gateway, words in (
            (VIP, "198.51.100.1", "Nexthop has invalid gateway"),
            (VIP6, "2001:db8:9::1", "No route to host"),
        ):
            with self.assertRaises(AmphoraFailed) as caught:
                await self.plug_vip(cable, vip, gateway=gateway)
            self.assertEqual("Error plugging VIP", caught.exception.message)
            self.assertIn(words, caught.exception.details)
            self.assertEqual((before, True, []), (self.shape(), cable.outside, self.records))
        self.assertEqual("DOWN", ip("-br", "link", "show", "dev", cable.name).split()[1])

    async def test_flushed_routes(self) -> None:
        """Where a VIP's only address was taken away for another prefix, and that fails, its routes are back too."""
        cable = self.cable()
        await self.plug_vip(cable)
        before = self.shape()
        with self.assertRaises(AmphoraFailed):
            await self.plug_vip(cable, subnet_cidr="203.0.113.0/25", gateway="198.51.100.1")
        self.assertEqual(before, self.shape())

    async def test_A11_twenty_at_once(self) -> None:
        """Twenty plugs of one interface at once end as one (A11)."""
        cable = self.cable()
        plugs = [Deferred.fromCoroutine(self.plug_vip(cable, VIP6)) for _ in range(20)]
        details = {outcome.details for outcome in await gatherResults(plugs)}
        self.assertEqual({f"VIP {VIP6} plugged on interface eth1"}, details)
        alone = self.shape()
        await self.plug_vip(cable, VIP6)
        self.assertEqual((alone, {VIP6: 64}), (self.shape(), self.addresses("eth1")))

    async def test_A10_names(self) -> None:
        """Interfaces come and go, with names of any kind: each has one of its own, and the right MAC address (A10)."""
        await self.plug_vip(self.cable())
        before = self.shape()
        plugged: dict[str, Cable] = {}
        chance = random.Random(7)
        for number in range(count(12, 100)):
            cable = self.cable(name=chance.choice(["", f"eth{number % 4 + 1}{new_suffix()}"]))
            for _ in range(number % 3):
                ip("link", "property", "add", "dev", cable.name, "altname", f"enp0s{new_suffix()}")
            name = (await self.client.plug_network(cable.mac)).details.removeprefix("Plugged interface ")
            self.assertNotIn(name, plugged)
            plugged[name] = cable
            there = {link["ifname"]: link["address"] for link in ip_json(self.namespace, "link", "show")}
            self.assertEqual({each: plugged[each].mac for each in plugged}, {each: there[each] for each in plugged})
            if number % 2:
                gone = plugged.pop(chance.choice(sorted(plugged)))
                unplug(gone.far_namespace, gone.far_name)
        after = self.shape()
        self.assertEqual(before["rules"], after["rules"])
        self.assertEqual(before["addresses"]["eth1"], after["addresses"]["eth1"])

    async def test_altname_in_the_way(self) -> None:
        """A link whose other name would be its new one gets the next."""
        cable = self.cable()
        ip("link", "property", "add", "dev", cable.name, "altname", "eth1")
        self.assertEqual("VIP 203.0.113.2 plugged on interface eth2", (await self.plug_vip(cable)).details)

    async def test_A8_network_beside_vip(self) -> None:
        """What belongs to one interface is not touched by plugging another (A8)."""
        vip, second, network = self.cable(), self.cable(), self.cable()
        await self.plug_vip(vip)
        await self.client.plug_network(network.mac)
        before = self.shape()
        outcome = await self.client.plug_vip("192.0.2.2", **OF_OTHER, mac_address=second.mac)
        self.assertEqual("VIP 192.0.2.2 plugged on interface eth3", outcome.details)
        after = self.shape()
        self.assertEqual(set(), before["routes"] - after["routes"])
        self.assertEqual(before["addresses"]["eth1"], after["addresses"]["eth1"])
        (default,) = ip_json(self.namespace, "route", "show", "default", "table", "2")
        self.assertEqual(("192.0.2.1", "eth3"), (default["gateway"], default["dev"]))

    async def test_late(self) -> None:
        """A device that is just coming is waited for."""
        cable_name, mac = f"am{new_suffix()}", "02:" + os.urandom(5).hex(":")
        plugging = Deferred.fromCoroutine(self.client.plug_network(mac))
        far = f"af{new_suffix()}"
        self.addCleanup(unplug, self.far, far)
        ip("link", "add", cable_name, "address", mac, "type", "veth", "peer", "name", far, "netns", self.far)
        self.assertEqual("Plugged interface eth2", (await plugging).details)

    async def test_management_port(self) -> None:
        """A link that is up and has an address is not taken, whoever asks."""
        cable = self.cable()
        ip("address", "add", "192.0.2.77/32", "dev", cable.name)
        ip("link", "set", "dev", cable.name, "up")
        with self.assertRaises(NotFound):
            await self.client.plug_network(cable.mac)
        self.assertTrue(cable.outside)

    async def test_descriptors(self) -> None:
        """However often it is plugged and asked, the agent keeps no descriptor and no thread."""
        cable = self.cable()

        async def round() -> None:
            await self.plug_vip(cable)
            await self.client.interface(VIP)
            with self.assertRaises(AmphoraFailed):
                await self.plug_vip(cable, "203.0.113.3", gateway="198.51.100.1")

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{self.agent.pid}/fd"))

        for _ in range(3):
            await round()
        before = descriptors()
        for _ in range(count(20, 200)):
            await round()
        await wait_until(lambda: descriptors() <= before, "descriptors to be closed")
        # The reactor's own ten come as they are needed.
        self.assertLessEqual(len(os.listdir(f"/proc/{self.agent.pid}/task")), 12)


@requires("root", "haproxy", "ip", "ipv6")
class RebootTests(NetworkTestCase):
    async def reboot(self, *cables: Cable) -> list[Cable]:
        """All is gone but the disk, and the same devices appear again, with other names."""
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        delete_namespace(self.namespace)
        for cable in cables:
            unplug(cable.far_namespace, cable.far_name)
        return [self.cable(mac=cable.mac) for cable in cables]

    async def test_A6_put_back(self) -> None:
        """After a reboot, addresses, routes and rules are as they were, whatever the devices are called (A6)."""
        vip, network, missing = self.cable(), self.cable(), self.cable()
        for each in (VIP, VIP6, "203.0.113.3"):
            await self.plug_vip(vip, each)
        await self.client.plug_network(network.mac)
        before = self.shape()
        await self.client.plug_network(missing.mac)
        for cable in await self.reboot(network, vip):
            ip("link", "property", "add", "dev", cable.name, "altname", f"enp{new_suffix()}")
        await self.agent.start()
        self.assertEqual(before, self.shape())
        self.assertIn(f"eth3 ({missing.mac}) is not as it was plugged", self.agent.log)
        for cable, name in ((vip, "eth1"), (network, "eth2")):
            self.assertIn(f"Brought {name} ({cable.mac}) to what it should be", self.agent.log)
        # The last one comes late.
        self.cable(mac=missing.mac)
        await wait_until(lambda: "eth3" in self.shape()["up"], "the last interface to be put back")

    async def test_namespace_stays(self) -> None:
        """An agent that finds all as it should be changes nothing, and needs no moment for it."""
        cable = self.cable()
        for vip in (VIP, VIP6):
            await self.plug_vip(cable, vip)
        before = self.shape()
        monitor = subprocess.Popen(
            ["ip", "-n", self.namespace, "monitor", "link", "address", "route", "rule"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            await self.agent.end()
            await self.agent.start()
        finally:
            monitor.terminate()
            output, _ = await deferToThread(monitor.communicate)
        # Of the loopback it is told that it is brought up once more.
        told = [line for line in output.splitlines() if not re.search(r"\blo\b|link/loopback", line)]
        self.assertEqual([], told)
        self.assertEqual(before, self.shape())

    async def test_serves_again(self) -> None:
        """After a reboot a listener serves on its VIP again: the address is there before haproxy binds it."""
        cable = self.cable()
        cable.give_far_end("203.0.113.9/24")
        await self.plug_vip(cable)
        listener = new_id()
        await self.client.upload_haproxy(listener, configuration(VIP, 80))
        await self.client.start(listener)
        self.assertIn(b"503", await fetch(self.far, VIP))
        (cable,) = await self.reboot(cable)
        cable.give_far_end("203.0.113.9/24")
        await self.agent.start()

        async def up() -> bool:
            return (await self.client.listener(listener)).status == "ACTIVE"

        await wait_until(up, "the listener to be up")
        self.assertIn(b"503", await fetch(self.far, VIP))
        self.assertNotIn("cannot bind", self.agent.log)


def configuration(vip: str, port: int, *servers: str, name: str = "web") -> bytes:
    """A haproxy configuration on a VIP."""
    lines = [
        "global",
        "    maxconn 1000",
        "defaults",
        "    mode http",
        "    timeout connect 5s",
        "    timeout client 50s",
        "    timeout server 50s",
        f"frontend {name}",
        f"    bind {vip}:{port}",
        "    default_backend pool",
        "backend pool",
        *(f"    server s{number} {server}" for number, server in enumerate(servers)),
        "",
    ]
    return "\n".join(lines).encode()


def fetch(namespace: str, address: str, port: int = 80) -> Deferred[bytes]:
    """One HTTP request from within a namespace.  @raise OSError: if nobody answers."""

    def connect() -> socket.socket:
        return socket.create_connection((address, port), timeout=PATIENCE)

    def ask() -> bytes:
        with inside(namespace, connect, patience=None) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            return read_all(connection)

    return deferToThread(ask)


_SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@requires("root", "haproxy", "ip", "ipv6")
class TrafficTests(NetworkTestCase):
    """
    A client in a foreign subnet, a router that is the VIP's gateway, a member behind another interface.

    client 198.51.100.9 -- 198.51.100.1 router 203.0.113.1 -- 203.0.113.2 amphora 192.0.2.10 -- 192.0.2.20 member
    """

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.router, self.user, self.members = self.far, new_namespace(self), new_namespace(self)
        self.vip_cable, self.member_cable = self.cable(), new_cable(self, self.members)
        self.vip_cable.give_far_end("203.0.113.1/24", "2001:db8::1/64")
        self.member_cable.give_far_end("192.0.2.20/24")
        ip("-n", self.router, "link", "add", "users", "type", "veth", "peer", "name", "out", "netns", self.user)
        for namespace, name, last in ((self.router, "users", 1), (self.user, "out", 9)):
            ip("-n", namespace, "link", "set", name, "up")
            ip("-n", namespace, "address", "add", f"198.51.100.{last}/24", "dev", name)
            ip("-n", namespace, "address", "add", f"2001:db8:5::{last}/64", "dev", name, "nodad")
        ip("-n", self.user, "route", "add", "default", "via", "198.51.100.1")
        ip("-n", self.user, "-6", "route", "add", "default", "via", "2001:db8:5::1")
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            inside(self.router, partial(Path(f"/proc/sys/{path}").write_text, "1"))
        command = ["ip", "netns", "exec", self.members, sys.executable, "-c", _SERVE, "192.0.2.20"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        assert server.stdout is not None
        self.addCleanup(server.stdout.close)
        await deferToThread(server.stdout.readline)

    async def serving(self, *vips: str) -> list[str]:
        """Plug all, give the member port an address, as its network does, and start a listener on each VIP."""
        for vip in vips:
            await self.plug_vip(self.vip_cable, vip)
        await self.client.plug_network(self.member_cable.mac)
        ip("-n", self.namespace, "address", "add", "192.0.2.10/24", "dev", "eth2")
        listeners = []
        for vip in vips:
            listener = new_id()
            await self.client.upload_haproxy(listener, configuration(vip, 80, "192.0.2.20:8080"))
            await self.client.start(listener)
            listeners.append(listener)
        return listeners

    async def test_foreign_client(self) -> None:
        """A client of another subnet is served through the gateway, over IPv4 and IPv6, by a member of a third."""
        await self.serving(VIP, VIP6)
        for vip in (VIP, VIP6):
            answer = await fetch(self.user, vip)
            self.assertIn(b"200 OK", answer)
            self.assertTrue(answer.endswith(b"192.0.2.10"), answer)

    async def test_policy_routing(self) -> None:
        """Answers from the VIP leave through its gateway, also where a member network brought a default route."""
        await self.serving(VIP)
        ip("-n", self.namespace, "route", "add", "default", "via", "192.0.2.20", "dev", "eth2")
        (towards,) = ip_json(self.namespace, "route", "get", "198.51.100.9")
        self.assertEqual("eth2", towards["dev"])
        self.assertIn(b"200 OK", await fetch(self.user, VIP))

    async def test_A9_agents_come_and_go(self) -> None:
        """No request is lost while agents are killed and started, and plugs are repeated (A9, E8)."""
        await self.serving(VIP)
        answers: list[bytes] = []
        going = True

        async def load() -> None:
            while going:
                answers.append(await fetch(self.user, VIP))

        loads = [Deferred.fromCoroutine(load()) for _ in range(2)]
        for number in range(count(3, 50)):
            await self.agent.end(signal.SIGTERM if number % 2 else signal.SIGKILL)
            await self.agent.start()
            await self.plug_vip(self.vip_cable)
            await self.client.plug_network(self.member_cable.mac)
        going = False
        await gatherResults(loads)
        self.assertTrue(answers)
        self.assertEqual([], [answer for answer in answers if b"200 OK" not in answer])

    async def test_last_listener(self) -> None:
        """A VIP goes with its last listener, and is back, and told of, when one is started again."""
        first, second = await self.serving(VIP, VIP6)
        await self.client.delete(first)
        self.assertEqual({VIP6: 64}, self.addresses("eth1"))
        self.assertNotIn(VIP, ip("-n", self.namespace, "rule"))
        with self.assertRaises(NotFound):
            await self.client.interface(VIP)
        await self.agent.end()
        await self.agent.start()
        self.assertEqual({VIP6: 64}, self.addresses("eth1"))
        await self.client.delete(second)
        self.assertEqual({}, self.addresses("eth1"))
        sniffer = Sniffer.at(self, self.vip_cable)
        wildcard = new_id()
        await self.client.upload_haproxy(wildcard, configuration("::", 80, "192.0.2.20:8080"))
        await self.client.start(wildcard)
        self.assertEqual({VIP: 24, VIP6: 64}, self.addresses("eth1"))
        for vip in (VIP, VIP6):
            self.assertIn(b"200 OK", await fetch(self.user, vip))
        await deferToThread(sniffer.wait_for, arp_frame(self.vip_cable.mac, IPv4Address(VIP)))
        # Another listener on all addresses keeps them.
        other = new_id()
        await self.client.upload_haproxy(other, configuration("0.0.0.0", 81, "192.0.2.20:8080"))
        await self.client.delete(wildcard)
        self.assertEqual({VIP: 24}, self.addresses("eth1"))
        await self.client.delete(other)
        self.assertEqual({}, self.addresses("eth1"))
        # Where it cannot be given back, the listener's start says why.
        last = new_id()
        await self.client.upload_haproxy(last, configuration(VIP, 80, "192.0.2.20:8080"))
        unplug(self.vip_cable.far_namespace, self.vip_cable.far_name)
        with self.assertRaises(AmphoraFailed) as caught:
            await self.client.start(last)
        words = f"a VIP cannot be given back: eth1 ({self.vip_cable.mac}) is not there"
        self.assertEqual(("Error starting haproxy", words), (caught.exception.message, caught.exception.details))

    async def test_last_load_balancer(self) -> None:
        """A load balancer that today's controller deletes leaves its VIP where it is, after the agent's end as well."""
        (load_balancer,) = await self.serving(VIP)
        answer = await self.call("DELETE", f"/listeners/{load_balancer}", version="1.0")
        self.assertEqual(200, answer.status)
        self.assertEqual({VIP: 24}, self.addresses("eth1"))
        self.assertEqual([], self.agent.all_haproxies())
        await self.agent.end()
        await self.agent.start()
        self.assertEqual({VIP: 24}, self.addresses("eth1"))

    async def test_A13_advertised_after_reload(self) -> None:
        """Each start and each reload tells the neighbours of the VIPs that are bound, without anybody waiting (A13)."""
        (listener,) = await self.serving(VIP)
        frame = arp_frame(self.vip_cable.mac, IPv4Address(VIP))
        await self.client.stop(listener)
        for action in (self.client.start, self.client.reload):
            sniffer = Sniffer.at(self, self.vip_cable)
            await action(listener)
            await deferToThread(sniffer.wait_for, frame)


@frozen
class InsideClient(RawClient):
    """A controller within a namespace."""

    namespace: str = ""

    def connect(self) -> Any:
        plain = inside(
            self.namespace, partial(socket.create_connection, ("127.0.0.1", self.port), timeout=PATIENCE), patience=None
        )
        return self.context.wrap_socket(plain, server_hostname=AMPHORA_ID)


@requires("root", "haproxy", "ip", "ipv6")
class OneNamespaceTests(NetworkTestCase):
    """`network_namespace` is empty: the agent's own, here one of the test's, is the amphora's."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        options = super().agent_options()
        options["amphora_agent"]["network_namespace"] = ""
        return options

    async def setUp(self) -> None:  # type: ignore[override]
        AgentTestCase.setUp(self)
        self.far = new_namespace(self)
        self.agent.wrapper = ("ip", "netns", "exec", self.namespace)
        await self.agent.start()

    def raw_client(self) -> RawClient:
        context = client_context(self.pki, self.pki.client, self.pki.client_key)
        return InsideClient(self.agent.port, context, self.namespace)

    def device(self, name: str) -> Cable:
        """A device appears in the one namespace."""
        cable = self.cable()
        ip("link", "set", "dev", cable.name, "netns", self.namespace)
        ip("-n", self.namespace, "link", "set", "dev", cable.name, "name", name)
        return cable

    async def plug(self, path: str, body: object) -> tuple[int, Any]:
        answer = await self.call("POST", path, json.dumps(body).encode())
        return answer.status, answer.json

    async def test_plug(self) -> None:
        """The same work without a move; a management port is left alone, and its default route keeps its place."""
        management, new = self.device("eth0"), self.device("ens7")
        ip("-n", self.namespace, "link", "set", "dev", "eth0", "up")
        ip("-n", self.namespace, "address", "add", "192.0.2.10/24", "dev", "eth0")
        ip("-n", self.namespace, "route", "add", "default", "via", "192.0.2.1")
        body = {**OF_VIP, "mac_address": new.mac}
        plugged = (202, {"message": "OK", "details": "VIP 203.0.113.2 plugged on interface eth1"})
        self.assertEqual(plugged, await self.plug(f"/plug/vip/{VIP}", body))
        self.assertEqual({VIP: 24}, self.addresses("eth1"))
        (towards,) = ip_json(self.namespace, "route", "get", "198.51.100.9")
        (back,) = ip_json(self.namespace, "route", "get", "198.51.100.9", "from", VIP)
        self.assertEqual(("eth0", "eth1"), (towards["dev"], back["dev"]))
        status, _ = await self.plug("/plug/network/", {"mac_address": management.mac})
        self.assertEqual(404, status)
        before = self.shape()
        await self.agent.end()
        await self.agent.start()
        self.assertEqual(before, self.shape())

    async def test_up_already(self) -> None:
        """A device that is up, without an address, keeps its name."""
        device = self.device("ens7")
        ip("-n", self.namespace, "link", "set", "dev", "ens7", "up")
        plugged = (202, {"message": "OK", "details": "Plugged interface ens7"})
        self.assertEqual(plugged, await self.plug("/plug/network/", {"mac_address": device.mac}))
