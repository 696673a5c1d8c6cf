"""Tests for L{amphora.network.records}."""

from __future__ import annotations

import json
import stat
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.dhcp import Lease
from amphora.network.plan import Port, Vip, wanted
from amphora.network.records import Records
from amphora.network.state import Address, FixedIp, HostRoute
from amphora.testing.fakes import full_disk
from tests.integration.support import short_directory

VIP = Vip(ip_address("203.0.113.2"), ip_network("203.0.113.0/24"), ip_address("203.0.113.1"), 1)
VIP6 = Vip(ip_address("2001:db8::2"), ip_network("2001:db8::/64"), ip_address("2001:db8::1"), 1, in_use=False)
PORT = Port("eth1", "02:00:00:00:00:0a", (VIP, VIP6), frozenset([VIP.address]))
NETWORK = Port("eth2", "02:00:00:00:00:0b")


class RecordsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self) / "deep" / "interfaces"
        self.records = Records(self.directory)

    def save(self, *ports: Port) -> None:
        for port in ports:
            self.records.save(port, wanted(port, keepalived_owns_vips=False))

    def write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def test_round(self) -> None:
        """What is saved is loaded, in the order of names; where there is nothing, nothing is."""
        self.assertEqual(([], []), self.records.load())
        self.save(NETWORK, PORT)
        self.assertEqual(([PORT, NETWORK], []), self.records.load())
        self.records.remove("eth1")
        self.records.remove("eth1")
        self.assertEqual(([NETWORK], []), self.records.load())

    def test_format(self) -> None:
        """The keys are those of Octavia's interface files, and ours; anybody may read it."""
        self.save(PORT)
        path = self.directory / "eth1.json"
        self.assertEqual(0o644, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(
            {
                "name": "eth1",
                "if_type": "vip",
                "mac_address": "02:00:00:00:00:0a",
                "vips": [
                    {
                        "ip_address": "203.0.113.2",
                        "subnet_cidr": "203.0.113.0/24",
                        "gateway": "203.0.113.1",
                        "table": 1,
                        "in_use": True,
                        "lasting": False,
                        "host_routes": [],
                    },
                    {
                        "ip_address": "2001:db8::2",
                        "subnet_cidr": "2001:db8::/64",
                        "gateway": "2001:db8::1",
                        "table": 1,
                        "in_use": False,
                        "lasting": False,
                        "host_routes": [],
                    },
                ],
                "vrrp_ip": None,
                "fixed_ips": [],
                "is_sriov": False,
                "addresses": [{"address": "203.0.113.2", "prefixlen": 24, "octavia_owned": True}],
                "routes": [
                    {"dst": "0.0.0.0/0", "gateway": "203.0.113.1", "table": 1},
                    {"dst": "0.0.0.0/0", "gateway": "203.0.113.1"},
                    {"dst": "203.0.113.0/24", "scope": "link", "prefsrc": "203.0.113.2", "table": 1},
                ],
                "rules": [{"src": "203.0.113.2", "src_len": 32, "table": 1}],
            },
            json.loads(path.read_bytes()),
        )

    def test_keepaliveds(self) -> None:
        """An address that keepalived owns is told as not ours, and is not ours when it is read."""
        port = Port("eth1", PORT.mac, (VIP,))
        self.records.save(port, wanted(port, keepalived_owns_vips=True))
        told = json.loads((self.directory / "eth1.json").read_bytes())["addresses"]
        self.assertEqual([{"address": "203.0.113.2", "prefixlen": 32, "octavia_owned": False}, {"dhcp": True}], told)
        self.assertEqual(([port], []), self.records.load())

    def test_lease(self) -> None:
        """What a DHCP server gave is remembered, and told in Octavia's words; so is what gives IPv6 addresses."""
        routes = ((ip_network("198.51.100.0/24"), ip_address("192.0.2.1")), (ip_network("10.0.0.0/8"), None))
        lease = Lease(IPv4Address("192.0.2.10"), 24, 3600, cast(Any, routes))
        port = Port("eth2", NETWORK.mac, (), frozenset([lease.address]), lease)
        self.save(port)
        told = json.loads((self.directory / "eth2.json").read_bytes())
        address = {"address": "192.0.2.10", "prefixlen": 24, "octavia_owned": True}
        self.assertEqual([address, {"dhcp": True}, {"ipv6auto": True}], told["addresses"])
        ports, problems = self.records.load()
        self.assertEqual(([port], []), (ports, problems))
        assert ports[0].lease is not None
        self.assertEqual(3600, ports[0].lease.seconds)

    def test_round_of_1_0(self) -> None:
        """All that the API 1.0 tells of an interface is loaded as it was saved, and told in Octavia's words."""
        host_routes = (HostRoute(ip_network("198.51.100.0/24"), ip_address("203.0.113.9")),)
        gateway = ip_address("192.0.2.1")
        fixed = FixedIp(ip_address("192.0.2.7"), ip_network("192.0.2.0/25"), gateway, host_routes)
        vip = evolve(VIP, gateway=None, lasting=True, host_routes=host_routes)
        port = Port(
            "eth1",
            PORT.mac,
            (vip,),
            frozenset([vip.address, fixed.address]),
            vrrp_ip=Address(ip_address("203.0.113.5"), 24),
            fixed_ips=(fixed, evolve(fixed, ip=ip_address("192.0.2.8"), gateway=None, host_routes=())),
            mtu=1400,
            is_sriov=True,
        )
        self.save(port)
        self.assertEqual(([port], []), self.records.load())
        told = json.loads((self.directory / "eth1.json").read_bytes())
        self.assertEqual((1400, True), (told["mtu"], told["is_sriov"]))
        self.assertIn({"address": "203.0.113.2", "prefixlen": 32, "octavia_owned": True}, told["addresses"])
        self.assertIn(
            {"dst": "198.51.100.0/24", "gateway": "203.0.113.9", "flags": ["onlink"], "table": 1}, told["routes"]
        )

    def test_before_1_0(self) -> None:
        """A record that knows nothing of the API 1.0 is loaded: its VIP goes with the last listener."""
        self.save(PORT)
        path = self.directory / "eth1.json"
        record = json.loads(path.read_bytes())
        for key in ("vrrp_ip", "fixed_ips", "is_sriov"):
            del record[key]
        for vip in record["vips"]:
            del vip["lasting"], vip["host_routes"]
        path.write_text(json.dumps(record))
        self.assertEqual(([PORT], []), self.records.load())

    def test_unchanged(self) -> None:
        """A record that is there already is not written again: a full disk does not hinder a repeat."""
        self.save(PORT)
        with full_disk():
            self.save(PORT)
            self.assertRaises(OSError, self.save, NETWORK)
        self.assertEqual(([PORT], []), self.records.load())
        self.assertEqual(["eth1.json"], [path.name for path in self.directory.iterdir()])

    def test_damaged(self) -> None:
        """What cannot be read is told, with its file, and hinders nothing."""
        self.save(PORT, NETWORK)
        good = (self.directory / "eth1.json").read_bytes()
        known = json.loads(good)
        mac = "02:00:00:00:00:0c"
        damages: dict[str, bytes] = {
            "a.json": b"",
            "b.json": b"\xff",
            "c.json": b"[]",
            "d.json": b"[" * 100_000,
            "e.json": good[:100],
            "f.json": good,
        }
        vip: dict[str, object] = known["vips"][0]
        wrong: tuple[dict[str, object], ...] = (
            {"mac_address": known["mac_address"]},
            {"mac_address": "nobody's"},
            {"mac_address": None},
            {"vips": 1},
            {"addresses": [1]},
            {"vips": [{**vip, "ip_address": "203.0.114.2"}]},
            {"vips": [{**vip, "ip_address": None}]},
            {"vips": [{**vip, "subnet_cidr": "203.0.113.1/24"}]},
            {"vips": [{**vip, "gateway": "2001:db8::1"}]},
            {"vips": [{**vip, "table": 254}]},
            {"vips": [{**vip, "table": -1}]},
            {"vips": [{**vip, "table": "one"}]},
        )
        for number, change in enumerate(wrong):
            name = f"w{number}"
            damages[f"{name}.json"] = json.dumps({**known, "name": name, "mac_address": mac, **change}).encode()
        for name, content in damages.items():
            self.write(name, content)
        (self.directory / "z.json").mkdir()
        ports, problems = self.records.load()
        self.assertEqual([PORT, NETWORK], ports)
        self.assertEqual(
            [str(self.directory / name) for name in sorted([*damages, "z.json"])],
            [problem.partition(": ")[0] for problem in problems],
        )

    def test_no_number(self) -> None:
        """A number that is none, or none that an interface can have, is a problem of its own record alone."""
        self.save(PORT, NETWORK)
        known = json.loads((self.directory / "eth2.json").read_bytes())
        for number in (float("inf"), float("nan"), "\ud800"):
            self.write("eth2.json", json.dumps({**known, "mtu": number}).encode())
            ports, problems = self.records.load()
            self.assertEqual(([PORT], 1), (ports, len(problems)), number)

    def test_leftovers(self) -> None:
        """What was being written when an agent was killed is gone; what others keep there is left alone."""
        self.save(PORT)
        left = self.write(".eth2.json.new", b"{")
        others = self.write("README", b"")
        self.assertEqual(([PORT], []), self.records.load())
        self.assertEqual((False, True), (left.exists(), others.exists()))

    def test_unreadable(self) -> None:
        """A directory that is none is an error."""
        self.directory.parent.mkdir()
        self.directory.write_bytes(b"")
        self.assertRaises(OSError, self.save, PORT)

    @given(st.binary(max_size=200))
    def test_anything(self, content: bytes) -> None:
        """No content of a file is more than a problem."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.write("eth1.json", content)
        ports, problems = self.records.load()
        self.assertEqual((0, 1), (len(ports), len(problems)))

    def test_addresses_of_both_kinds(self) -> None:
        """What may still be there of before is remembered as ours."""
        port = Port("eth1", PORT.mac, (VIP,), frozenset([VIP.address, Address(VIP.ip, 25)]))
        self.save(port)
        self.assertEqual(([port], []), self.records.load())
