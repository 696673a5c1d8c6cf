"""Whatever is read from outside, of haproxy, the kernel, a disk or the network: read, or refused in one known way."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.health.envelope import BadEnvelope, seal, unseal
from amphora.listener import Heartbeat, HeartbeatListener
from amphora.loadbalancer.haproxy import parse_processes
from amphora.loadbalancer.kept_sessions import Label
from amphora.loadbalancer.old_workers import StatsSession
from amphora.loadbalancer.sockets import NoAnswer
from amphora.lvs.config import parse_config as parse_lvs
from amphora.lvs.kernel import parse_counters, parse_family, parse_table
from amphora.metrics.translation import Translator
from amphora.network import netlink
from amphora.network.dhcp import read_reply
from amphora.network.errors import InvalidRules
from amphora.network.filter_rules import read_rules
from amphora.network.nftables import RuleSet, filter_script, read_stored_rules, stored_rules
from amphora.network.state import Snapshot
from amphora.process import ProcessIdentity
from amphora.system.links import parse_links
from amphora.system.machine import Memory, parse_memory
from amphora.system.netlink import attribute, question
from amphora.system.packages import parse_dpkg, parse_rpm
from amphora.testing.fake_dhcp import reply
from amphora.testing.fakes import FakeConnection
from amphora.vrrp.notify_fifo import EventParser
from tests.damage import ODD_VALUES, contents, damaged, with_odd_values
from tests.lvs.samples import configuration, configuration_names, table
from tests.lvs.test_kernel import DONE, service, stats
from tests.metrics.test_translation import TEXT as METRICS
from tests.network.ports import EVERY_RULE, SRIOV
from tests.system.test_links import link
from tests.system.test_packages import OUTPUT as RPM_OUTPUT

KEY = "a key"
MESSAGE = {"id": "an amphora", "seq": 7, "ver": 3, "listeners": {"a": {"status": "OPEN"}}, "pools": {}}

PROCESSES = b"""\
#<PID>          <type>          <reloads>       <uptime>        <version>
1734            master          2 [failed: 0]   0d00h01m28s     2.6.12-1+deb12u4
# workers
1736            worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
1735            worker          1               0d00h01m28s     2.6.12-1+deb12u4
# programs

"""

MEMINFO = """\
MemTotal:        4087402 kB
MemFree:          760656 kB
MemAvailable:    2655901 kB
SwapTotal:             0 kB
HugePages_Total:       0
Committed_AS:    2643480 kB
"""

HALF_A_SERVICE = b"".join(attribute(kind, b"\1\2") for kind in (1, 2, 3, 4, 12))
DPKG = "Package: haproxy\nStatus: install ok installed\nVersion: 2.6.12-1\n\nPackage: openssl\nStatus: deinstall ok\n"


def bytes_like(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, and what could be taken for one of the samples."""
    return st.binary(max_size=200) | st.sampled_from(samples).flatmap(damaged)


def text_like(*samples: str) -> st.SearchStrategy[str]:
    """The same of text, as files are read."""
    return bytes_like(*(sample.encode() for sample in samples)).map(lambda content: content.decode("utf-8", "replace"))


class HeartbeatTests(SynchronousTestCase):
    """The listener's side of heartbeats."""

    def setUp(self) -> None:
        self.heard: list[Heartbeat] = []
        self.listener = HeartbeatListener(reactor=Clock(), key=KEY, received=self.heard.append)  # type: ignore[arg-type]

    @given(bytes_like(seal(KEY, MESSAGE)))
    def test_datagram(self, datagram: bytes) -> None:
        """No datagram but one that was signed is a heartbeat; all others are counted."""
        with contextlib.suppress(BadEnvelope):
            self.assertEqual(MESSAGE, unseal(KEY, datagram))
        self.hear(datagram)

    @given(with_odd_values(MESSAGE) | ODD_VALUES)
    def test_message(self, message: Any) -> None:
        """Of those who know the key, too, only what is a message is one."""
        self.hear(seal(KEY, message))

    def hear(self, datagram: bytes) -> None:
        before = len(self.heard) + sum(self.listener.bad.values())
        with capturedLogs() as log:
            self.listener._datagram(datagram, ("192.0.2.1", 5555))
        self.assertEqual(before + 1, len(self.heard) + sum(self.listener.bad.values()))
        self.assertEqual([], [event for event in log if "log_failure" in event])
        for heartbeat in self.heard:
            self.assertIsInstance(heartbeat.message["listeners"], dict)


class HaproxyTests(SynchronousTestCase):
    """What a haproxy says, of which a member or a client may have chosen words."""

    @given(bytes_like(PROCESSES))
    @example(PROCESSES.replace(b"1734", b"9" * 5000))
    @example(PROCESSES.replace(b"1736  ", b"9" * 5000 + b"  "))
    def test_processes(self, answer: bytes) -> None:
        """A master's list of processes is one, or no answer."""
        with contextlib.suppress(NoAnswer):
            self.assertGreaterEqual(parse_processes(answer).reloads, 0)

    @given(st.lists(bytes_like(b"AMPHORA_LOAD=a1b2\n\n> ", b"\n> ", b"> "), max_size=6))
    def test_session(self, pieces: list[bytes]) -> None:
        """A session with a worker, too (`show env`): what comes in it answers the question, or not."""
        session = StatsSession("AMPHORA_LOAD=a1b2", astray=True)
        connection = FakeConnection(session)
        answers: list[object] = []
        session.ask(b"show env AMPHORA_LOAD\n").addBoth(answers.append)
        for piece in pieces:
            connection.answer(piece)
        connection.close()
        self.assertEqual(1, len(answers))

    @given(bytes_like(METRICS), st.integers(0, 50))
    def test_metrics(self, content: bytes, cut: int) -> None:
        """Its metrics are translated line by line, whatever the lines are."""
        translator = Translator()
        translated = translator.feed(content[:cut]) + translator.feed(content[cut:])
        self.assertEqual(b"", translated[translated.rfind(b"\n") + 1 :])


class KernelTests(SynchronousTestCase):
    """What the kernel says."""

    @given(text_like(table("udp-v4", "udp-v6")))
    def test_table(self, text: str) -> None:
        """Its table of services has services, or none."""
        for one in parse_table(text):
            self.assertIn(one.port, range(65536))

    @given(text_like(MEMINFO))
    @example("MemTotal: 12\nMemFree:\n:\n")
    def test_memory(self, text: str) -> None:
        """Of its memory nothing is negative but swap that grew between two lines."""
        self.assertIsInstance(parse_memory(text), Memory)
        self.assertEqual(4087402, parse_memory(MEMINFO + text).total if "MemTotal" not in text else 4087402)

    @given(st.lists(bytes_like(link("eth1", 2, 3, 4), DONE, link("eth1", 2, 3, 4) + DONE), max_size=4))
    @example([question(2, 0, struct.pack("=i", -(2**31)))])
    @example([question(3, 0, b"")])
    @example([question(16, 0, b"")])
    @example([question(16, 0, struct.pack("=BxHiII", 0, 1, 2, 0, 0))])
    def test_links(self, datagrams: list[bytes]) -> None:
        """Its links are told, or that they are not."""
        self.told(lambda: parse_links(iter(datagrams)))

    @given(
        st.lists(
            bytes_like(
                service(socket.AF_INET, 17, IPv4Address("10.0.0.2").packed + bytes(12), 53, stats(1, 2, 3)) + DONE,
                question(16, 2, bytes(4) + attribute(1, b"\x1c\0")) + DONE,
                DONE,
            ),
            max_size=3,
        )
    )
    @example(
        [question(28, 0, bytes(4) + attribute(1, b"".join(attribute(kind, b"\1\2") for kind in (1, 2, 3, 4, 12))))]
    )
    @example([question(16, 0, bytes(4))])
    def test_counters(self, datagrams: list[bytes]) -> None:
        """So are its counters, and the number by which one asks for them."""
        self.told(lambda: parse_counters(iter(datagrams)))
        self.told(lambda: parse_family(iter(datagrams)))

    @given(st.data())
    def test_network(self, data: st.DataObject) -> None:
        """Links, addresses, routes and rules, too."""
        answered = data.draw(
            st.lists(st.dictionaries(st.sampled_from(_FIELDS), st.integers(-1, 300) | ODD_VALUES), max_size=3)
        )
        self.patch(_pyroute2(), "AsyncIPRoute", lambda **options: OddKernel([OddMessage(each) for each in answered]))
        with contextlib.suppress(OSError):
            self.assertIsInstance(netlink.look(""), Snapshot)

    def told(self, read: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):
            read()


_FIELDS = (
    *("flags", "index", "family", "prefixlen", "proto", "type", "dst_len", "action"),
    *("IFLA_PROP_LIST", "IFLA_IFNAME", "IFLA_ADDRESS", "IFLA_MTU", "IFA_LOCAL", "IFA_ADDRESS", "IFA_FLAGS"),
    *("RTA_OIF", "RTA_GATEWAY", "RTA_PREFSRC", "RTA_DST", "RTA_TABLE", "RTA_PRIORITY"),
    *("FRA_SRC", "FRA_PROTOCOL", "FRA_TABLE"),
)


class OddMessage(dict[str, Any]):
    """What pyroute2 makes of a message, in which anything may be, or be missing."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


class OddKernel:
    """Answers each question in the same way."""

    def __init__(self, messages: list[OddMessage]) -> None:
        self._messages = messages

    async def __aenter__(self) -> OddKernel:
        return self

    async def __aexit__(self, *reason: object) -> None: ...

    async def nlm_request(self, *question: object, **options: object) -> AsyncIterator[OddMessage]:
        async def answer() -> AsyncIterator[OddMessage]:
            for message in self._messages:
                yield message

        return answer()


def _pyroute2() -> Any:
    import pyroute2  # type: ignore[import-untyped]

    return pyroute2


class PackageTests(SynchronousTestCase):
    @given(text_like(DPKG, RPM_OUTPUT))
    def test_packages(self, text: str) -> None:
        """What a package manager says is a list of packages, if only an empty one."""
        for package in (*parse_dpkg(text), *parse_rpm(text)):
            self.assertTrue(package.name and package.version)


class KeepalivedTests(SynchronousTestCase):
    @given(st.sampled_from(configuration_names()).map(configuration).flatmap(damaged) | st.binary(max_size=100))
    def test_configuration(self, content: bytes) -> None:
        """A UDP listener's configuration is read, or refused with the line that is wrong."""
        try:
            parse_lvs(content)
        except ValueError as error:
            self.assertRegex(str(error), r"\Aline \d+: ")

    @given(st.lists(bytes_like(b'INSTANCE "a" MASTER 100\n', b'GROUP "b" FAULT 0\n'), max_size=4))
    def test_events(self, pieces: list[bytes]) -> None:
        """What comes out of its FIFO is an event or nothing."""
        parser = EventParser()
        for piece in pieces:
            for event in parser.feed(piece):
                self.assertIn(event.state, ("MASTER", "BACKUP", "FAULT", "STOP", "DELETED"))


class NetworkTests(SynchronousTestCase):
    @given(st.lists(with_odd_values(EVERY_RULE[4].encode()) | ODD_VALUES, max_size=4))
    def test_rules(self, body: list[object]) -> None:
        """Rules that a controller sends are understood, all of them, or refused with which is wrong and why."""
        try:
            rules = read_rules(body)
        except InvalidRules as error:
            self.assertRegex(error.reason, r"\Arule \d+: ")
        else:
            self.assertEqual(len(body), len(rules))
            filter_script([SRIOV], RuleSet(SRIOV.mac, rules))

    @given(bytes_like(stored_rules(RuleSet(SRIOV.mac, EVERY_RULE), "table inet x {}\n")) | contents({"rules": 7}))
    def test_stored_rules(self, content: bytes) -> None:
        """Those on the disk are read to the last of them, or are none."""
        with contextlib.suppress(ValueError):
            read_stored_rules(content)

    @given(
        st.dictionaries(st.integers(1, 254), st.binary(max_size=12) | st.just(b"\x21" * 250), max_size=5),
        st.sampled_from((2, 5, 6)),
        st.sampled_from(("192.0.2.10", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")),
    )
    def test_lease(self, options: dict[int, bytes], kind: int, address: str) -> None:
        """What a DHCP server offers is a lease that can be put on a link, or none."""
        found = read_reply(reply(bytes(4), b"\2\0\0\0\0\x0a", kind, IPv4Address(address), options), 0, SRIOV.mac)
        if found is not None and found.lease is not None:
            lease = found.lease
            self.assertTrue(1 <= lease.prefixlen <= 32 and lease.seconds > 0, lease)
            self.assertFalse(lease.ip.is_multicast or lease.ip.is_loopback or lease.ip.is_unspecified, lease)
            self.assertTrue(lease.address)

    @given(contents(json.loads(Label("an instance", ProcessIdentity(7, 8), "a mark").encode())))
    def test_label(self, content: bytes) -> None:
        """What an earlier agent says of a session is a label, or refused."""
        with contextlib.suppress(ValueError):
            self.assertIsInstance(Label.decode(content).mark, str)
