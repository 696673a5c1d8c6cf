"""Tests for L{amphora.network.filter_rules}: what a controller may ask to be let in."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.errors import InvalidRules
from amphora.network.filter_rules import FilterRule, read_rules
from tests.network.ports import EVERY_RULE

GOOD: dict[str, Any] = {"protocol": "TCP", "cidr": "192.0.2.0/24", "port": 80}

subnets = st.ip_addresses().flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda length: ip_network((ip, length), strict=False))
)
rules = st.builds(
    FilterRule,
    st.sampled_from(("TCP", "UDP", "SCTP", "vrrp")),
    st.none() | subnets,
    st.integers(1, 65535),
)


class ReadTests(SynchronousTestCase):
    def test_octavias(self) -> None:
        """What Octavia sends is understood."""
        sent = [
            GOOD,
            {"protocol": "UDP", "cidr": None, "port": 1},
            {"protocol": "vrrp", "cidr": "2001:DB8::9/128", "port": 112},
        ]
        expected = (
            FilterRule("TCP", ip_network("192.0.2.0/24"), 80),
            FilterRule("UDP", None, 1),
            FilterRule("vrrp", ip_network("2001:db8::9/128"), 112),
        )
        self.assertEqual(expected, read_rules(sent))
        self.assertEqual((), read_rules([]))

    def test_host_bits(self) -> None:
        """Bits beyond the prefix, which Octavia passes on, mean nothing."""
        (rule,) = read_rules([{**GOOD, "cidr": "192.0.2.7/24"}])
        self.assertEqual(ip_network("192.0.2.0/24"), rule.cidr)

    @given(st.lists(rules))
    def test_kept(self, known: list[FilterRule]) -> None:
        """What was understood is told as it was sent."""
        self.assertEqual(tuple(known), read_rules([rule.encode() for rule in known]))

    def test_refused(self) -> None:
        """All that is wrong is refused, naming the entry and the field."""
        wrong: tuple[tuple[object, str], ...] = (
            ("TCP", "rule 2: is not a JSON object"),
            ({"protocol": "TCP", "cidr": None}, "rule 2: port is missing"),
            ({"protocol": "TCP", "port": 80}, "rule 2: cidr is missing"),
            ({"cidr": None, "port": 80}, "rule 2: protocol is missing"),
            ({**GOOD, "comment": "x"}, "rule 2: comment is not known"),
            ({**GOOD, "protocol": "tcp"}, "rule 2: protocol is none of TCP, UDP, SCTP, vrrp: tcp"),
            ({**GOOD, "protocol": "VRRP"}, "rule 2: protocol"),
            ({**GOOD, "protocol": ["TCP"]}, "rule 2: protocol"),
            ({**GOOD, "port": 0}, "rule 2: port is not a number from 1 to 65535: 0"),
            ({**GOOD, "port": 65536}, "rule 2: port"),
            ({**GOOD, "port": 80.5}, "rule 2: port"),
            ({**GOOD, "port": "80"}, "rule 2: port"),
            ({**GOOD, "port": True}, "rule 2: port"),
            ({**GOOD, "port": None}, "rule 2: port"),
            ({**GOOD, "cidr": 7}, "rule 2: cidr is neither a text nor null: 7"),
            ({**GOOD, "cidr": ""}, "rule 2: cidr is not an address and the length of its prefix: "),
            ({**GOOD, "cidr": "192.0.2.0/33"}, "rule 2: cidr is not"),
            ({**GOOD, "cidr": "192.0.2.0/24 tcp dport 22 accept;"}, "rule 2: cidr is not"),
            ({**GOOD, "cidr": "fe80::1%eth1/64"}, "rule 2: cidr is not"),
            ({**GOOD, "cidr": "fe80::1%0 accept\n/64"}, "rule 2: cidr is not"),
        )
        for entry, part in wrong:
            error = self.assertRaises(InvalidRules, read_rules, [GOOD, entry])
            self.assertIn(part, error.reason)

    def test_long(self) -> None:
        """An error repeats no more of what was sent than helps."""
        error = self.assertRaises(InvalidRules, read_rules, [{**GOOD, "cidr": "x" * 10_000}])
        self.assertLess(len(error.reason), 200)

    def test_every_rule(self) -> None:
        """The rules that other tests use are such that could be sent."""
        self.assertEqual(EVERY_RULE, read_rules([rule.encode() for rule in EVERY_RULE]))
