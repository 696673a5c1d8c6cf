"""Tests for L{amphora.lvs.config}."""

from __future__ import annotations

from ipaddress import ip_address

from twisted.trial.unittest import SynchronousTestCase

from amphora.lvs.config import LvsConfig, Member, Vip, VirtualServer, parse_config
from tests.lvs.samples import (
    LISTENER,
    POOL,
    config,
    configuration,
    configuration_names,
    member_id,
)

FIRST = Member(member_id(1), "10.0.0.99", 5301, 1, disabled=False, checked=True)
SECOND = Member(member_id(2), "10.0.0.98", 5302, 0, disabled=False, checked=True)
THIRD = Member(member_id(3), "2001:db8::99", 5303, 1, disabled=False, checked=True)
FOURTH = Member(member_id(4), "2001:db8::98", 5304, 1, disabled=False, checked=True)

MINIMAL = f"# Configuration for Listener {LISTENER}\n"


def disabled(number: int) -> Member:
    """A member of which no more is told than that it is there."""
    return Member(member_id(number), "", 0, 0, disabled=True, checked=False)


class RenderedTests(SynchronousTestCase):
    """Configurations as a controller renders them."""

    def test_dual_stack(self) -> None:
        """A load balancer with addresses of both families has a virtual server for each, to members of that family."""
        v4 = VirtualServer("UDP", (Vip("10.0.0.2", 53),), POOL, False, (FIRST, SECOND, disabled(5)))
        v6 = VirtualServer("UDP", (Vip("2001:db8::2", 53),), POOL, False, (THIRD, FOURTH, disabled(6)))
        self.assertEqual(config("udp-dual"), LvsConfig(LISTENER, False, (v4, v6)))

    def test_many_vips(self) -> None:
        """All addresses of a family are in its group."""
        v4, v6 = config("udp-many-vips").virtual_servers
        self.assertEqual(v4.vips, (Vip("10.0.0.2", 53), Vip("10.1.0.2", 53)))
        self.assertEqual(v6.vips, (Vip("2001:db8::2", 53), Vip("2001:db8:0:1::2", 53)))

    def test_families_and_protocols(self) -> None:
        """UDP and SCTP listeners, each in the families that it has."""
        for name, expected in (
            ("udp", [(4, "UDP")]),
            ("udp-v6", [(6, "UDP")]),
            ("sctp", [(4, "SCTP"), (6, "SCTP")]),
            ("sctp-unchecked", [(4, "SCTP")]),
            ("udp-persistence", [(4, "UDP"), (6, "UDP")]),
        ):
            self.assertEqual(
                [(ip_address(each.vips[0].ip).version, each.protocol) for each in config(name).virtual_servers],
                expected,
            )

    def test_nothing_to_balance(self) -> None:
        """Without a pool there is no virtual server, nor where the listener or its load balancer is disabled."""
        for name, off in (("udp-disabled", True), ("udp-load-balancer-disabled", False), ("udp-no-pool", False)):
            self.assertEqual(config(name), LvsConfig(LISTENER, off, ()))

    def test_pools(self) -> None:
        """A disabled pool tells no members, an empty one has none, a family without members has none in it."""
        (empty,) = config("udp-empty-pool").virtual_servers
        self.assertEqual((empty.pool_id, empty.pool_disabled, empty.members), (POOL, False, ()))
        for server in config("udp-pool-disabled").virtual_servers:
            self.assertEqual((server.pool_id, server.pool_disabled, server.members), (POOL, True, ()))
        v4, v6 = config("udp-dual-one-family").virtual_servers
        self.assertEqual((v4.members, v6.members), ((FIRST, SECOND), ()))

    def test_disabled_member(self) -> None:
        """A disabled member has no address."""
        self.assertEqual(config("udp-member-disabled").virtual_servers[0].members, (FIRST, disabled(2)))

    def test_monitors(self) -> None:
        """A member is checked where keepalived is told how, by whatever kind of check."""
        for name, checked in (
            ("udp", True),
            ("udp-http", True),
            ("udp-tcp", True),
            ("sctp", True),
            ("sctp-unchecked", False),
            ("udp-unchecked", False),
            ("udp-monitor-disabled", False),
            ("udp-persistence-set", False),
            ("udp-backup", False),
        ):
            for server in config(name).virtual_servers:
                self.assertEqual({member.checked for member in server.members}, {checked}, name)

    def test_all(self) -> None:
        """All of them tell whose they are."""
        for name in configuration_names():
            self.assertEqual(config(name).listener_id, LISTENER)

    def test_text(self) -> None:
        """Text is read as bytes are."""
        self.assertEqual(parse_config(configuration("udp").decode()), config("udp"))


class OtherTests(SynchronousTestCase):
    """Other ways in which keepalived lets the same be written."""

    def server(self, text: str) -> VirtualServer:
        (server,) = parse_config(MINIMAL + text).virtual_servers
        return server

    def test_without_group(self) -> None:
        """A virtual server may have an address of its own, and its protocol be in lower case."""
        server = self.server("virtual_server 10.0.0.2 53 {\nprotocol udp\n}\n")
        self.assertEqual((server.vips, server.protocol), ((Vip("10.0.0.2", 53),), "UDP"))

    def test_layout(self) -> None:
        """Where lines end does not matter, nor what stands behind a comment sign, nor blocks that are not ours."""
        server = self.server(
            "virtual_server_group g { 2001:DB8:0::2 53 }  # { here\n"
            "virtual_server group g { protocol SCTP ! }\n"
            f"# Configuration for Member {member_id(3)}\n"
            "real_server 2001:db8:0:0::99 5303 { weight 1\nTCP_CHECK { connect_timeout 3 } }\n"
            "sorry_server 2001:db8::1 80\n"
            "}\n"
            "vrrp_instance x { virtual_ipaddress { 10.0.0.1 } }\n"
        )
        self.assertEqual(server.vips, (Vip("2001:db8::2", 53),))
        self.assertEqual((server.members[0].ip, server.members[0].checked), ("2001:db8::99", True))

    def test_nobodys(self) -> None:
        """A real server without a comment is nobody's member; a comment is that of the next one only."""
        server = self.server(
            "virtual_server 10.0.0.2 53 {\nprotocol UDP\n"
            f"# Configuration for Member {member_id(1)}\nreal_server 10.0.0.99 5301 {{\n}}\n"
            "real_server 10.0.0.98 5302 {\n}\n}\n"
        )
        self.assertEqual([member.member_id for member in server.members], [member_id(1)])


class RefusedTests(SynchronousTestCase):
    """What is no listener's configuration."""

    def test_named(self) -> None:
        """The line and the problem are named."""
        server = "virtual_server 10.0.0.2 53 {\n"
        for text, line, problem in (
            ("", 1, "listener's id"),
            ("# Configuration for Loadbalancer x\n", 2, "listener's id"),
            (MINIMAL + server, 3, "ends within virtual_server"),
            (MINIMAL + server + "protocol UDP\n}\n}\n", 5, "nothing is open"),
            (MINIMAL + "{\n}\n", 2, "nothing that has a name"),
            (MINIMAL + server + "}\n", 2, "neither UDP nor SCTP"),
            (MINIMAL + server + "protocol TCP\n}\n", 2, "neither UDP nor SCTP"),
            (MINIMAL + "virtual_server group g {\nprotocol UDP\n}\n", 2, "needs addresses"),
            (MINIMAL + "virtual_server {\n}\n", 2, "an address and a port"),
            (MINIMAL + "virtual_server 10.0.0.2 70000 {\n}\n", 2, "'70000' is no number"),
            (MINIMAL + "virtual_server 10.0.0.2 -1 {\n}\n", 2, "'-1' is no number"),
            (MINIMAL + "virtual_server_group g {\n10.0.0.300 53\n}\n", 3, "10.0.0.300"),
            (MINIMAL + server + "real_server 10.0.0.99 {\n}\n}\n", 3, "an address and a port"),
            (MINIMAL + server + "real_server 10.0.0.99 1 {\nweight heavy\n}\n}\n", 4, "'heavy' is no number"),
        ):
            with self.assertRaises(ValueError) as caught:
                parse_config(text)
            self.assertIn(problem, str(caught.exception))
            self.assertTrue(str(caught.exception).startswith(f"line {line}: "), str(caught.exception))

    def test_mixed_families(self) -> None:
        """A group has addresses of one family."""
        text = "virtual_server_group g {\n10.0.0.2 53\n2001:db8::2 53\n}\nvirtual_server group g {\nprotocol UDP\n}\n"
        self.assertRaises(ValueError, parse_config, MINIMAL + text)

    def test_cut(self) -> None:
        """One that was cut off anywhere is refused or is another whole one, but never breaks the reader."""
        content = configuration("udp-dual")
        for length in range(len(content)):
            try:
                parse_config(content[:length])
            except ValueError as problem:
                self.assertIn("line ", str(problem))
