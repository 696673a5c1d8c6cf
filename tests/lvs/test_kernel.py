"""Tests for L{amphora.lvs.kernel}."""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import ip_address

from pyroute2.netlink.generic.ipvs import GENL_VERSION, IPVS_CMD_GET_SERVICE, ipvsmsg  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from amphora.lvs.kernel import (
    IpvsMissing,
    RealServer,
    Service,
    family_question,
    parse_counters,
    parse_family,
    parse_table,
    read_ipvs,
)
from amphora.sample import Traffic
from amphora.system.netlink import attribute, question
from tests.lvs.samples import table

HEAD = table()
UDP_V4, UDP_V4_SECOND, UDP_V6 = (table(name).removeprefix(HEAD) for name in ("udp-v4", "udp-v4-second", "udp-v6"))

V4 = Service("UDP", "10.0.0.2", 53)
V6 = Service("UDP", "2001:db8::2", 53)

FAMILY = 0x1C
DONE = question(3, 2, struct.pack("=i", 0))


class TableTests(SynchronousTestCase):
    """C{/proc/net/ip_vs} as C{ip_vs_info_seq_show} prints it."""

    def test_v4(self) -> None:
        """Addresses and ports are hexadecimal."""
        table = parse_table(HEAD + UDP_V4)
        self.assertEqual(table, {V4: {("10.0.0.98", 5302): RealServer(0, 2), ("10.0.0.99", 5301): RealServer(1, 5)}})

    def test_v6(self) -> None:
        """IPv6 addresses stand in brackets with all their zeros; a scheduler may have flags behind it."""
        self.assertEqual(
            parse_table(HEAD + UDP_V6),
            {V6: {("2001:db8::99", 5303): RealServer(1, 100), ("2001:db8::98", 5304): RealServer(1, 0)}},
        )

    def test_others(self) -> None:
        """SCTP is told as such; services of other protocols, ports and addresses are kept apart."""
        text = (
            HEAD
            + UDP_V4
            + UDP_V4.replace("UDP", "SCTP")
            + UDP_V4.replace("UDP  0A000002:0035 wrr ", "TCP  0A000002:0035 rr ops ")
            + UDP_V4.replace(":0035", ":0036")
            + UDP_V4_SECOND
        )
        services = {V4, Service("SCTP", "10.0.0.2", 53), Service("TCP", "10.0.0.2", 53)}
        services |= {Service("UDP", "10.0.0.2", 54), Service("UDP", "10.1.0.2", 53)}
        self.assertEqual(parse_table(text).keys(), services)
        self.assertTrue(all(len(servers) == 2 for servers in parse_table(text).values()))

    def test_no_real_servers(self) -> None:
        """A service may have nobody to balance to."""
        self.assertEqual(parse_table(HEAD + "UDP  0A000002:0035 wrr \n"), {V4: {}})

    def test_firewall_marks(self) -> None:
        """A service that is known by a firewall mark is passed over, with its real servers."""
        servers = UDP_V4.partition("\n")[2]
        self.assertEqual(parse_table(HEAD + UDP_V4 + "FWM  00000001 wrr \n" + servers), parse_table(HEAD + UDP_V4))

    def test_garbage(self) -> None:
        """Lines that are none of these cost what stands below them, and nothing else."""
        servers = UDP_V4.partition("\n")[2]
        for garbage in (
            "UDP  [2001:zz]:0035 wrr \n",
            "UDP  [2001:db8]:0035 wrr \n",
            "UDP  0A0000:0035 wrr \n",
            "UDP\n",
            "\n",
            "\0\0\0\n",
        ):
            found = parse_table(HEAD + garbage + servers + UDP_V6 + garbage + servers)
            self.assertEqual(found, parse_table(HEAD + UDP_V6), garbage)
        odd = "  -> [2001:db8]:14B5      Masq    1      5          0\n  -> 0A000063:14B5 Masq one 5 0\n"
        self.assertEqual(parse_table(UDP_V6 + odd)[V6], parse_table(UDP_V6)[V6])

    def test_empty(self) -> None:
        """There may be no services, or nothing at all."""
        self.assertEqual((parse_table(HEAD), parse_table("")), ({}, {}))


def stats(conns: int, received: int, sent: int) -> bytes:
    """IPVS_SVC_ATTR_STATS64 as C{ip_vs_genl_fill_stats64} fills it."""
    return b"".join(
        attribute(kind, struct.pack("=Q", value))
        for kind, value in enumerate((conns, 11, 12, received, sent, 0, 0, 0, 0, 0), 1)
    )


def service(family: int, protocol: int, address: bytes, port: int, counters: bytes) -> bytes:
    """One message as C{ip_vs_genl_fill_service} fills it: the address has room for either family."""
    told = (
        attribute(1, struct.pack("=H", family))
        + attribute(2, struct.pack("=H", protocol))
        + attribute(3, address.ljust(16, b"\0"))
        + attribute(4, struct.pack("!H", port))
        + attribute(6, b"wrr\0")
        + attribute(7, struct.pack("=II", 0, 0xFFFFFFFF))
        + attribute(8, struct.pack("=I", 0))
        + attribute(9, struct.pack("!I", 0xFFFFFFFF))
        + attribute(10, attribute(1, struct.pack("=I", 1)))
        + attribute(12, counters)
    )
    return question(FAMILY, 2, struct.pack("=BBxx", 1, 1) + attribute(1 | 0x8000, told))


class CountersTests(SynchronousTestCase):
    """Answers of generic netlink."""

    def test_both_families(self) -> None:
        """Each service has 64-bit counters of its own, over as many datagrams as it takes; sent to clients is tx."""
        v4 = service(socket.AF_INET, 17, ip_address("10.0.0.2").packed, 53, stats(5, 2**40, 2**41))
        v6 = service(socket.AF_INET6, 132, ip_address("2001:db8::2").packed, 5353, stats(7, 70, 700))
        expected = {
            V4: Traffic(tx=2**41, rx=2**40, totconns=5),
            Service("SCTP", "2001:db8::2", 5353): Traffic(tx=700, rx=70, totconns=7),
        }
        for datagrams in ([v4 + v6, DONE], [v4, v6, DONE], [v4 + v6 + DONE]):
            self.assertEqual(parse_counters(iter(datagrams)), expected)

    def test_firewall_marks(self) -> None:
        """A service without an address is passed over."""
        told = attribute(1, struct.pack("=H", 2)) + attribute(5, struct.pack("=I", 1)) + attribute(12, stats(1, 1, 1))
        message = question(FAMILY, 2, struct.pack("=BBxx", 1, 1) + attribute(1, told))
        self.assertEqual(parse_counters(iter([message, DONE])), {})

    def test_none(self) -> None:
        """There may be no services."""
        self.assertEqual(parse_counters(iter([DONE])), {})

    def test_refused(self) -> None:
        """The kernel's refusal is an L{OSError} with its words."""
        with self.assertRaises(PermissionError) as caught:
            parse_counters(iter([question(2, 0, struct.pack("=i", -1) + bytes(16))]))
        self.assertIn("not permitted", str(caught.exception))

    def test_as_another_reads_it(self) -> None:
        """What another program's reader (pyroute2's) makes of such a message is the same."""
        data = service(socket.AF_INET, 17, ip_address("10.0.0.2").packed, 53, stats(5, 60, 700))
        message = ipvsmsg(data)
        message.decode()
        told = message.get_attr("IPVS_CMD_ATTR_SERVICE")
        counters = told.get_attr("IPVS_SVC_ATTR_STATS64")
        names = ("IPVS_STATS_ATTR_OUTBYTES", "IPVS_STATS_ATTR_INBYTES", "IPVS_STATS_ATTR_CONNS")
        self.assertEqual([counters.get_attr(name) for name in names], [700, 60, 5])
        self.assertEqual((told.get_attr("IPVS_SVC_ATTR_PROTOCOL"), told.get_attr("IPVS_SVC_ATTR_PORT")), (17, 53))
        self.assertEqual((IPVS_CMD_GET_SERVICE, GENL_VERSION), (4, 1))
        self.assertEqual(parse_counters(iter([data, DONE])), {V4: Traffic(tx=700, rx=60, totconns=5)})


class ThisKernelTests(SynchronousTestCase):
    """What can be tried on a kernel without IPVS."""

    def ask(self, name: str) -> int:
        """Ask this kernel for a family of generic netlink."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as netlink:
            netlink.settimeout(10)
            netlink.send(family_question(name))
            return parse_family(iter(lambda: netlink.recv(65536), None))

    def test_family(self) -> None:
        """The family that tells of families has a number that never changes; of one that is not there it says so."""
        self.assertEqual(self.ask("nlctrl"), 16)
        self.assertRaises(FileNotFoundError, self.ask, "none-such")

    def test_missing(self) -> None:
        """Where there is no IPVS, that is what is said; a namespace that is not there is another matter."""
        with contextlib.suppress(IpvsMissing, PermissionError):
            read_ipvs("")
        with self.assertRaises(FileNotFoundError):
            read_ipvs("none-such")
