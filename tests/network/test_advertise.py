"""Tests for L{amphora.network.advertise}: what is sent, byte for byte; that it is sent, the integration tests show."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.trial.unittest import SynchronousTestCase

from amphora.network.advertise import Advertisement, advertise, arp_frame, neighbour_advertisement
from tests.integration.support import requires

MAC = "78:31:c1:ce:0b:3c"


class FormatTests(SynchronousTestCase):
    def test_arp(self) -> None:
        """A broadcast request whose sender and target are the address (RFC 5227)."""
        expected = (
            "ffffffffffff 7831c1ce0b3c 0806"  # Ethernet: to all, from us, ARP
            "0001 0800 06 04 0001"  # of Ethernet and IPv4, a request
            "7831c1ce0b3c cb007102"  # from this station and address
            "ffffffffffff cb007102"  # for this address
        )
        self.assertEqual(bytes.fromhex(expected), arp_frame(MAC, IPv4Address("203.0.113.2")))

    def test_neighbour_advertisement(self) -> None:
        """An unsolicited advertisement that overrides, with our link-layer address (RFC 4861, 4.4)."""
        expected = (
            "88 00 0000"  # type, code, the checksum that the kernel puts in
            "20000000"  # override; neither a router's nor asked for
            "20010db8000000000000000000000002"
            "02 01 7831c1ce0b3c"
        )
        self.assertEqual(bytes.fromhex(expected), neighbour_advertisement(MAC, IPv6Address("2001:db8::2")))


class FailureTests(SynchronousTestCase):
    @requires("root")
    def test_no_interface(self) -> None:
        """What cannot be sent is told, each by itself."""
        problems = advertise(
            "", [Advertisement("no-such-link", 9999, MAC, ip_address(ip)) for ip in ("203.0.113.2", "2001:db8::2")]
        )
        self.assertEqual(["203.0.113.2", "2001:db8::2"], [problem.split()[0] for problem in problems])
        self.assertIn("No such device", problems[0])

    def test_no_namespace(self) -> None:
        """Nor is a namespace that is not there more than a problem."""
        (problem,) = advertise("no-such-namespace", [])
        self.assertIn("No such file or directory", problem)
