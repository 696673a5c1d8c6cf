"""Tests for L{amphora.network.nftables}: the scripts, word for word, and the file that the rules are kept in."""

from __future__ import annotations

import contextlib
import re

from attrs import evolve
from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.filter_rules import FilterRule
from amphora.network.nftables import (
    RuleSet,
    filter_script,
    read_stored_rules,
    stored_rules,
    translation_script,
)
from amphora.network.plan import Port
from tests.network.ports import EVERY_RULE, PLAIN, SRIOV, VIP, VIP6
from tests.network.test_filter_rules import rules

BASE = """\
table inet amphora_table
delete table inet amphora_table
table inet amphora_table {
    chain amphora_chain {
        type filter hook input priority filter; policy drop;
        iifname != { "eth1" } accept
        ip saddr 127.0.0.0/8 drop
        ip6 saddr ::1 drop
        ct state vmap { established : accept, related : accept, invalid : drop }
        icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, \
nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
        udp sport 67 udp dport 68 accept
        udp sport 547 udp dport 546 accept
    }
}
"""
END = "        udp sport 547 udp dport 546 accept\n    }\n}\n"
WITH_RULES = BASE.replace(
    END,
    """\
        udp sport 547 udp dport 546 accept
        iifname "eth1" goto amphora_vip_chain
    }
    chain amphora_vip_chain {
        tcp dport 80 accept
        meta nfproto ipv4 tcp dport 81 accept
        meta nfproto ipv6 tcp dport 82 accept
        ip saddr 192.0.2.0/24 udp dport 53 accept
        ip6 saddr 2001:db8:1::/48 sctp dport 65535 accept
        ip saddr 203.0.113.9/32 meta l4proto 112 accept
        ip6 saddr 2001:db8::9/128 meta l4proto 112 accept
    }
}
""",
)
EMPTY = BASE.replace(
    END,
    """\
        udp sport 547 udp dport 546 accept
        iifname "eth1" goto amphora_vip_chain
    }
    chain amphora_vip_chain {
    }
}
""",
)
TRANSLATION = """\
table ip octavia-ipv4
delete table ip octavia-ipv4
table ip octavia-ipv4 {
    chain source_nat {
        type nat hook postrouting priority srcnat; policy accept;
        oifname { "eth1", "eth2" } meta l4proto { udp, sctp } masquerade
    }
    chain incoming {
        type filter hook prerouting priority raw; policy accept;
        iifname { "eth2" } meta l4proto tcp notrack
    }
    chain outgoing {
        type filter hook output priority raw; policy accept;
        oifname { "eth2" } meta l4proto tcp notrack
    }
}
table ip6 octavia-ipv6
delete table ip6 octavia-ipv6
table ip6 octavia-ipv6 {
    chain source_nat {
        type nat hook postrouting priority srcnat; policy accept;
        oifname { "eth2" } meta l4proto { udp, sctp } masquerade
    }
    chain incoming {
        type filter hook prerouting priority raw; policy accept;
        iifname { "eth2" } meta l4proto tcp notrack
    }
    chain outgoing {
        type filter hook output priority raw; policy accept;
        oifname { "eth2" } meta l4proto tcp notrack
    }
}
"""
NOTHING = """\
table ip octavia-ipv4
delete table ip octavia-ipv4
table ip6 octavia-ipv6
delete table ip6 octavia-ipv6
table inet amphora_table
delete table inet amphora_table
"""
OF_SRIOV = RuleSet(SRIOV.mac, EVERY_RULE)


class FilterTests(SynchronousTestCase):
    def test_base(self) -> None:
        """A port without rules hears what no host can do without, and answers to what it asked."""
        self.assertEqual(BASE, filter_script([PLAIN, SRIOV], None))

    def test_rules(self) -> None:
        """Each rule is a line; who names one IP version opens no other, and VRRP is a protocol of both."""
        self.assertEqual(WITH_RULES, filter_script([SRIOV, PLAIN], OF_SRIOV))

    def test_no_rules(self) -> None:
        """No rules let nobody in."""
        self.assertEqual(EMPTY, filter_script([SRIOV], RuleSet(SRIOV.mac, ())))

    def test_scope(self) -> None:
        """Only SR-IOV ports with VIPs are filtered (A19)."""
        unfiltered = (PLAIN, evolve(SRIOV, is_sriov=False), evolve(PLAIN, is_sriov=True))
        self.assertIsNone(filter_script(unfiltered, OF_SRIOV))

    def test_other_port(self) -> None:
        """A port that the rules are not for has the base alone."""
        other = Port("eth3", "02:00:00:00:00:0c", vips=(VIP6,), is_sriov=True)
        script = filter_script([other, SRIOV], OF_SRIOV)
        assert script is not None
        self.assertIn('iifname != { "eth1", "eth3" } accept', script)
        self.assertEqual(['iifname "eth1" goto'], re.findall('iifname "eth.*goto', script))
        self.assertEqual(BASE, filter_script([SRIOV], RuleSet(other.mac, EVERY_RULE)))

    @given(rules)
    def test_nothing_but_words(self, rule: FilterRule) -> None:
        """Whatever was sent, its line consists of addresses, numbers and our words."""
        script = filter_script([SRIOV], RuleSet(SRIOV.mac, (rule,)))
        assert script is not None
        (line,) = re.findall(r"chain amphora_vip_chain \{\n(.*)\n    \}\n\}\n$", script)
        source = r"(ip saddr [0-9.]+/\d+ |ip6 saddr [0-9a-f:.]+/\d+ |meta nfproto ipv[46] )?"
        self.assertRegex(line, rf"^        {source}((tcp|udp|sctp) dport \d+|meta l4proto 112) accept$")


class TranslationTests(SynchronousTestCase):
    def test_ports(self) -> None:
        """Each port by the IP versions that it carries; what is filtered is tracked (A17)."""
        self.assertEqual(TRANSLATION, translation_script([PLAIN, SRIOV]))

    def test_second_version(self) -> None:
        """A second IP version brings its own (A18)."""
        first, both = evolve(SRIOV, is_sriov=False), evolve(SRIOV, is_sriov=False, vips=(VIP, VIP6))
        self.assertNotIn("table ip6 octavia-ipv6 {", translation_script([first]))
        self.assertEqual(2, translation_script([both]).count('oifname { "eth1" } meta l4proto { udp, sctp } masq'))

    def test_nothing(self) -> None:
        """Where there is no port there are no tables."""
        self.assertEqual(NOTHING, translation_script([]))


class StoredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.content = stored_rules(OF_SRIOV, WITH_RULES)

    def test_kept(self) -> None:
        """What was written is read; nft reads the rest."""
        self.assertEqual(OF_SRIOV, read_stored_rules(self.content))
        commented = [line for line in self.content.decode().splitlines(keepends=True) if not line.startswith("#")]
        self.assertEqual(WITH_RULES, "".join(commented))

    def test_cut(self) -> None:
        """A file that was cut tells all of the rules, or none (A19)."""
        for length in range(len(self.content)):
            with contextlib.suppress(ValueError):
                self.assertEqual(OF_SRIOV, read_stored_rules(self.content[:length]))

    def test_garbage(self) -> None:
        """What is no rule set is refused."""
        mac = SRIOV.mac.encode()
        for line in (
            *(b"", b"\xff", b"# 7", b"# []", b"# {}", b"[" * 100_000),
            b'# {"mac_address": "x", "rules": 0}',
            *(b'# {"mac_address": "%s", "rules": %s}' % (mac, count) for count in (b"[]", b"null", b"2", b"1e3")),
        ):
            self.assertRaises(ValueError, read_stored_rules, b"#\n" + line + b"\n")
        self.assertEqual("it ends too early", str(self.assertRaises(ValueError, read_stored_rules, b"")))
        changed = self.content.replace(b'"port": 80', b'"port": 0')
        self.assertIn("port is not", str(self.assertRaises(ValueError, read_stored_rules, changed)))
