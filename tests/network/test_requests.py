"""Tests for L{amphora.network.requests}."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.errors import (
    InvalidFixedIp,
    InvalidPort,
    InvalidSubnet,
    InvalidVip,
    InvalidVrrpAddress,
    NetworkError,
)
from amphora.network.requests import (
    PortRequest,
    VipRequest,
    read_network_request,
    read_port_request,
    read_vip_request,
    read_vips_request,
)
from amphora.network.state import Address, FixedIp, HostRoute

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


HOST_ROUTE = {"destination": "198.51.100.7/24", "nexthop": "203.0.113.9"}
READ_HOST_ROUTE = HostRoute(ip_network("198.51.100.0/24"), ip_address("203.0.113.9"))
FURTHER: dict[str, object] = {
    "ip_address": "2001:DB8::2",
    "subnet_cidr": "2001:db8::/64",
    "gateway": None,
    "host_routes": [],
}
VIPS_BODY = {
    **BODY,
    "vrrp_ip": "203.0.113.5",
    "mtu": 1450,
    "host_routes": [HOST_ROUTE],
    "additional_vips": [FURTHER],
    "is_sriov": True,
}
FIXED = {"ip_address": "192.0.2.7", "subnet_cidr": "192.0.2.0/25", "gateway": "192.0.2.1", "host_routes": []}


class VipsRequestTests(SynchronousTestCase):
    """The API 1.0: plug VIP."""

    def assert_refused(
        self, error: type[NetworkError], part: str, changes: dict[str, object], *, vip: str = VIP
    ) -> None:
        """Refused so, for the reason."""
        body = {key: value for key, value in {**VIPS_BODY, **changes}.items() if value is not ...}
        refused = self.assertRaises(error, read_vips_request, vip, body)
        assert isinstance(refused, InvalidSubnet | InvalidVip | InvalidVrrpAddress)
        self.assertIn(part, refused.reason)

    def test_all(self) -> None:
        """All that Octavia tells is read."""
        self.assertEqual(
            PortRequest(
                MAC,
                (
                    VipRequest(
                        ip_address(VIP),
                        ip_network("203.0.113.0/24"),
                        ip_address("203.0.113.1"),
                        MAC,
                        (READ_HOST_ROUTE,),
                    ),
                    VipRequest(ip_address("2001:db8::2"), ip_network("2001:db8::/64"), None, MAC),
                ),
                all_vips=True,
                vrrp_ip=Address(ip_address("203.0.113.5"), 24),
                mtu=1450,
                is_sriov=True,
            ),
            read_vips_request(VIP, VIPS_BODY),
        )

    def test_least(self) -> None:
        """What may be absent is null as well, and a gateway may be null; VIPs that are not told of stay."""
        wish = VipRequest(ip_address(VIP), ip_network("203.0.113.0/24"), None, MAC)
        body: dict[str, object] = {**BODY, "gateway": None}
        optional = ("vrrp_ip", "mtu", "host_routes", "additional_vips", "is_sriov")
        for each in (body, {**body, **dict.fromkeys(optional)}):
            self.assertEqual(PortRequest(MAC, (wish,)), read_vips_request(VIP, each))
        self.assertTrue(read_vips_request(VIP, {**body, "additional_vips": []}).all_vips)

    def test_missing(self) -> None:
        """What is missing, or of a wrong kind, is subnet information; that is looked at first."""
        for key in BODY:
            self.assert_refused(InvalidSubnet, f"{key} is missing", {key: ...}, vip="no VIP")
        for key in FURTHER:
            further = [{name: value for name, value in FURTHER.items() if name != key}]
            self.assert_refused(InvalidSubnet, f"{key} is missing", {"additional_vips": further})
        wrong: tuple[tuple[str, object, str], ...] = (
            ("mac_address", "ff:ff:ff:ff:ff:ff", "mac_address"),
            ("subnet_cidr", None, "subnet_cidr is missing"),
            ("additional_vips", {}, "not a list of objects"),
            ("additional_vips", [7], "not a list of objects"),
            ("host_routes", [{"destination": "198.51.100.0/24"}], "nexthop is missing"),
            ("mtu", "1450", "mtu is not a number"),
            ("mtu", True, "mtu is not a number"),
            ("mtu", 0, "mtu is not a number"),
            ("mtu", 2**31, "mtu is not a number"),
            ("mtu", 1279, "less than 1280"),
            ("is_sriov", "yes", "is_sriov is neither"),
        )
        for key, value, part in wrong:
            self.assert_refused(InvalidSubnet, part, {key: value})

    def test_bad_vips(self) -> None:
        """A VIP that cannot serve with its subnet, its gateway and its routes is a VIP that is wrong."""
        self.assert_refused(InvalidVip, "not an IPv4 or IPv6 address", {}, vip="10.6.0.1.1")
        self.assert_refused(InvalidVip, "not in subnet_cidr", {}, vip="203.0.114.2")
        wrong: tuple[tuple[str, object, str], ...] = (
            ("subnet_cidr", "203.0.113.9/24", "has host bits set"),
            ("gateway", "x", "gateway is not"),
            ("gateway", "2001:db8::1", "not of the VIP's IP version"),
            ("host_routes", [{**HOST_ROUTE, "destination": "x"}], "destination is not a network"),
            ("host_routes", [{**HOST_ROUTE, "nexthop": "x"}], "nexthop is not"),
            ("host_routes", [{**HOST_ROUTE, "nexthop": "2001:db8::9"}], "not of the IP version"),
            ("additional_vips", [{**FURTHER, "ip_address": "x"}], "not an IPv4 or IPv6 address"),
            ("additional_vips", [FURTHER, FURTHER], "told twice"),
        )
        for key, value, part in wrong:
            self.assert_refused(InvalidVip, part, {key: value})

    def test_bad_vrrp_ips(self) -> None:
        """The interface's own address is in the VIP's subnet, and another one."""
        for text, part in (
            ("x", "vrrp_ip is not"),
            ("198.51.100.5", "not in the VIP's subnet"),
            ("2001:db8::5", "not in the VIP's subnet"),
            (VIP, "is the VIP itself"),
        ):
            self.assert_refused(InvalidVrrpAddress, part, {"vrrp_ip": text})


class NetworkRequestTests(SynchronousTestCase):
    """The API 1.0: plug network."""

    def test_least(self) -> None:
        """Without addresses the network is asked for them."""
        bodies: tuple[dict[str, object], ...] = ({}, {"fixed_ips": None}, {"fixed_ips": []})
        for body in bodies:
            self.assertEqual(PortRequest(MAC, fixed_ips=()), read_network_request({"mac_address": MAC, **body}))

    def test_addresses(self) -> None:
        """Addresses, with the ways to further hosts."""
        fixed = FixedIp(ip_address("192.0.2.7"), ip_network("192.0.2.0/25"), ip_address("192.0.2.1"))
        body = {"mac_address": MAC, "fixed_ips": [FIXED, {**FIXED, "gateway": None}], "mtu": 9000, "is_sriov": True}
        expected = PortRequest(MAC, fixed_ips=(fixed, evolve(fixed, gateway=None)), mtu=9000, is_sriov=True)
        self.assertEqual(expected, read_network_request(body))

    def test_vip(self) -> None:
        """On the interface of a VIP, the VIP is told again; of others nothing is said, though the list is empty."""
        info = {**VIPS_BODY, "vip": VIP, "additional_vips": [], "mtu": 1300, "is_sriov": False}
        request = read_network_request({"mac_address": MAC, "fixed_ips": [FIXED], "mtu": 1450, "vip_net_info": info})
        self.assertEqual((1450, False, False), (request.mtu, request.is_sriov, request.all_vips))
        self.assertEqual([ip_address(VIP)], [each.ip for each in request.vips])
        self.assertEqual(Address(ip_address("203.0.113.5"), 24), request.vrrp_ip)
        self.assertEqual(1, len(request.fixed_ips or ()))

    def test_bad(self) -> None:
        """What is wrong is told, and what it belongs to."""
        good = {**VIPS_BODY, "vip": VIP}
        for key, value, error in (
            ("mac_address", None, InvalidPort),
            ("fixed_ips", {}, InvalidPort),
            ("fixed_ips", [{"ip_address": "192.0.2.7"}], InvalidPort),
            ("fixed_ips", [{**FIXED, "ip_address": "x"}], InvalidFixedIp),
            ("fixed_ips", [{**FIXED, "subnet_cidr": "x"}], InvalidFixedIp),
            ("fixed_ips", [{**FIXED, "subnet_cidr": "198.51.100.0/24"}], InvalidFixedIp),
            ("fixed_ips", [{**FIXED, "gateway": "x"}], InvalidFixedIp),
            ("fixed_ips", [{**FIXED, "gateway": "::1"}], InvalidFixedIp),
            ("fixed_ips", [{**FIXED, "host_routes": [{**HOST_ROUTE, "nexthop": "x"}]}], InvalidFixedIp),
            ("mtu", -1, InvalidPort),
            ("is_sriov", 1, InvalidPort),
            ("vip_net_info", [], InvalidPort),
            ("vip_net_info", {"vip": VIP}, InvalidPort),
            ("vip_net_info", {**good, "vip": 7}, InvalidPort),
            ("vip_net_info", {**good, "vip": "x"}, InvalidVip),
            ("vip_net_info", {**good, "additional_vips": [{}]}, InvalidPort),
            ("vip_net_info", {**good, "vrrp_ip": "x"}, InvalidVrrpAddress),
        ):
            self.assertRaises(error, read_network_request, {"mac_address": MAC, key: value})

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda any: st.lists(any) | st.dictionaries(st.sampled_from([*VIPS_BODY, *FIXED, "vip"]), any),
        )
    )
    def test_anything(self, value: Any) -> None:
        """Whatever comes is read or refused, and nothing else."""
        for body in (
            {"mac_address": MAC, "fixed_ips": value, "vip_net_info": value},
            {"mac_address": MAC, "fixed_ips": [value, {**FIXED, "host_routes": value}]},
            {"mac_address": MAC, "vip_net_info": {**VIPS_BODY, "vip": VIP, "additional_vips": value}},
        ):
            try:
                read_network_request(body)
            except NetworkError:
                continue
