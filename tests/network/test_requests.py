"""Tests for L{amphora.network.requests}."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.errors import InvalidPort, InvalidSubnet, InvalidVip
from amphora.network.requests import VipRequest, read_port_request, read_vip_request

MAC = "78:31:c1:ce:0b:3c"
VIP = "203.0.113.2"
BODY = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": MAC}
BODY6 = {"subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1", "mac_address": MAC}


class VipRequestTests(SynchronousTestCase):
    def test_ipv4(self) -> None:
        """The specification's example."""
        wish = VipRequest(ip_address(VIP), ip_network("203.0.113.0/24"), ip_address("203.0.113.1"), MAC)
        self.assertEqual(wish, read_vip_request(VIP, BODY))

    def test_ipv6(self) -> None:
        """The same of IPv6, in any spelling; a gateway may be one of the link."""
        wish = VipRequest(ip_address("2001:db8::2"), ip_network("2001:db8::/64"), ip_address("2001:db8::1"), MAC)
        spelt = {**BODY6, "subnet_cidr": "2001:DB8:0:0::/64", "mac_address": "78-31-C1-CE-0B-3C"}
        self.assertEqual(wish, read_vip_request("2001:0DB8:0::0002", spelt))
        self.assertEqual(
            ip_address("fe80::1"), read_vip_request("2001:db8::2", {**BODY6, "gateway": "fe80::1"}).gateway
        )

    def test_other_keys(self) -> None:
        """What else the body holds is passed over."""
        self.assertEqual(read_vip_request(VIP, BODY), read_vip_request(VIP, {**BODY, "mtu": 1400, "vrrp_ip": None}))

    def test_small_subnets(self) -> None:
        """A subnet of two has no address that is its own (RFC 3021)."""
        body = {**BODY, "subnet_cidr": "203.0.113.0/31", "gateway": "203.0.113.0"}
        self.assertEqual(ip_address("203.0.113.1"), read_vip_request("203.0.113.1", body).ip)

    def test_bad_vips(self) -> None:
        """What cannot be a VIP is told, and why."""
        for text, part in {
            "10.6.0.1.1": "not an IPv4 or IPv6 address",
            "": "not an IPv4 or IPv6 address",
            "1": "not an IPv4 or IPv6 address",
            "203.0.113.2/24": "not an IPv4 or IPv6 address",
            "fe80::1%eth0": "not an IPv4 or IPv6 address",
            "2001:db8::2%1": "not an IPv4 or IPv6 address",
            "0.0.0.0": "0.0.0.0",
            "127.0.0.1": "127.0.0.1",
            "224.0.0.18": "224.0.0.18",
            "169.254.1.1": "169.254.1.1",
            "::": "::",
            "::1": "::1",
            "ff02::1": "ff02::1",
            "fe80::1": "fe80::1",
            "203.0.113.0": "the address of the subnet 203.0.113.0/24",
            "203.0.113.255": "the address of the subnet 203.0.113.0/24",
        }.items():
            with self.assertRaises(InvalidVip, msg=text) as caught:
                read_vip_request(text, BODY)
            self.assertIn(part, caught.exception.reason)
        self.assertRaises(InvalidVip, read_vip_request, "2001:db8::", BODY6)

    def test_bad_bodies(self) -> None:
        """What is missing or wrong of a body is named."""
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"subnet_cidr": None}, "subnet_cidr is missing"),
            ({"gateway": None}, "gateway is missing"),
            ({"mac_address": None}, "mac_address is missing"),
            ({"subnet_cidr": 24}, "subnet_cidr is not a text"),
            ({"gateway": ["203.0.113.1"]}, "gateway is not a text"),
            ({"mac_address": {}}, "mac_address is not a text"),
            ({"subnet_cidr": "203.0.113.0"}, "not an address and the length of its prefix: 203.0.113.0"),
            ({"subnet_cidr": "203.0.113.0/255.255.255.0"}, "not an address and the length of its prefix"),
            ({"subnet_cidr": "203.0.113.0/33"}, "203.0.113.0/33"),
            ({"subnet_cidr": "203.0.113.9/24"}, "has host bits set"),
            ({"subnet_cidr": "0.0.0.0/0"}, "0.0.0.0/0 is everything"),
            ({"subnet_cidr": "x" * 100_000}, "x" * 80),
            ({"subnet_cidr": "198.51.100.0/24"}, "203.0.113.2 is not in subnet_cidr 198.51.100.0/24"),
            ({"subnet_cidr": "2001:db8::/64"}, "2001:db8::/64 is not of the VIP's IP version"),
            ({"gateway": "203.0.113.300"}, "gateway is not an IPv4 or IPv6 address: 203.0.113.300"),
            ({"gateway": "2001:db8::1"}, "gateway 2001:db8::1 is not of the VIP's IP version"),
            ({"gateway": VIP}, "gateway 203.0.113.2 is the VIP itself"),
            ({"mac_address": "78:31:c1:ce:0b"}, "of an interface: 78:31:c1:ce:0b"),
            ({"mac_address": "00:00:00:00:00:00"}, "of an interface"),
            ({"mac_address": "ff:ff:ff:ff:ff:ff"}, "of an interface"),
            ({"mac_address": "01:00:5e:00:00:01"}, "of an interface"),
            ({"mac_address": MAC + "\n"}, "of an interface"),
        ]
        for change, part in wrong:
            body = {key: value for key, value in {**BODY, **change}.items() if value is not None}
            with self.assertRaises(InvalidSubnet, msg=str(change)) as caught:
                read_vip_request(VIP, body)
            self.assertIn(part, caught.exception.reason)
            self.assertLess(len(caught.exception.reason), 200)

    @given(
        vip=st.one_of(st.text(), st.ip_addresses().map(str)),
        body=st.dictionaries(
            st.sampled_from(sorted(BODY)),
            st.one_of(
                st.none(),
                st.integers(),
                st.text(),
                st.ip_addresses().map(str),
                st.builds("{}/{}".format, st.ip_addresses(), st.integers(-1, 200)),
                st.just(MAC),
            ),
        ),
    )
    def test_anything(self, vip: str, body: dict[str, Any]) -> None:
        """Whatever comes is a request that fits together, or one of two errors."""
        try:
            wish = read_vip_request(vip, body)
        except (InvalidVip, InvalidSubnet):
            return
        self.assertIn(wish.ip, wish.subnet)


class PortRequestTests(SynchronousTestCase):
    def test_mac(self) -> None:
        """The specification's example, in any spelling."""
        for text in (MAC, MAC.upper(), MAC.replace(":", "-")):
            self.assertEqual(MAC, read_port_request({"mac_address": text}))

    def test_bad(self) -> None:
        """What is missing or wrong is named."""
        for body, part in (
            ({}, "mac_address is missing"),
            ({"mac_address": None}, "mac_address is missing"),
            ({"mac_address": 1}, "mac_address is not a text"),
            ({"mac_address": "eth1"}, "of an interface: eth1"),
        ):
            with self.assertRaises(InvalidPort) as caught:
                read_port_request(body)
            self.assertIn(part, caught.exception.reason)
