"""Tests for L{amphora.vrrp.keepalived_config}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.vrrp.keepalived_config import KeepalivedConfig, VrrpInstance, parse_config

OCTAVIA = b"""\
vrrp_script check_script {
  script /var/lib/octavia/vrrp/check_script.sh
  interval 5
  fall 2
  rise 2
}

vrrp_instance 3dd1f8e27f6c4d0e9a3c4f4c1c6b2a11 {
    interface eth1
    virtual_router_id 1
    priority 100
    nopreempt
    accept
    garp_master_refresh 5
    garp_master_refresh_repeat 2
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 42c1a9f
    }

    unicast_src_ip 10.0.0.24
    unicast_peer {
        10.0.0.11
    }

    virtual_ipaddress {
        10.0.0.10
    }

    virtual_ipaddress_excluded {
        2001:DB8:0::10
    }

    virtual_routes {
        10.0.0.0/24 dev eth1 src 10.0.0.10 scope link table 1
        default via 10.0.0.1 dev eth1 onlink table 1
    }

    virtual_rules {
        from 10.0.0.10/32 table 1 priority 100
    }

    track_script {
        check_script
    }
}
"""
"""A configuration as Octavia's controller renders it."""


class GoldenTests(SynchronousTestCase):
    def test_octavia(self) -> None:
        """Of Octavia's configuration the instance, its addresses of both families and its password are read."""
        config = parse_config(OCTAVIA)
        instance = VrrpInstance("3dd1f8e27f6c4d0e9a3c4f4c1c6b2a11", ("10.0.0.10", "2001:db8::10"), "42c1a9f")
        self.assertEqual((instance,), config.instances)
        self.assertEqual({instance.name}, config.names)
        self.assertEqual({"10.0.0.10", "2001:db8::10"}, config.addresses)
        self.assertEqual("42c1a9f", config.auth_pass)

    def test_several(self) -> None:
        """Of several instances each has its own; the password is that of the first that has one."""
        config = parse_config(
            b"vrrp_instance a {\n virtual_ipaddress {\n 10.0.0.1/24 dev eth1\n }\n}\n"
            b"vrrp_instance b {\n authentication {\n auth_pass two\n }\n virtual_ipaddress {\n 10.0.0.2\n }\n}\n"
        )
        self.assertEqual((VrrpInstance("a", ("10.0.0.1",)), VrrpInstance("b", ("10.0.0.2",), "two")), config.instances)
        self.assertEqual("two", config.auth_pass)

    def test_nothing(self) -> None:
        """Nothing is in what is empty, commented out, or something else."""
        for text in (b"", b"\n\n", b"# vrrp_instance a {\n! }\n", b"virtual_server 10.0.0.1 80 {\n}\n", b"\xff{}{}}"):
            self.assertEqual((), parse_config(text).instances, text)
        self.assertIsNone(parse_config(b"vrrp_instance a {\n}\n").auth_pass)


class SyntaxTests(SynchronousTestCase):
    def read(self, text: str) -> tuple[VrrpInstance, ...]:
        return parse_config(text.encode()).instances

    def test_braces(self) -> None:
        """A brace may stand at its word, after it, or on a line of its own, and so may what is between two."""
        expected = (VrrpInstance("a", ("10.0.0.1",)), VrrpInstance("b"))
        for text in (
            "vrrp_instance a {\nvirtual_ipaddress {\n10.0.0.1\n}\n}\nvrrp_instance b {\n}\n",
            "vrrp_instance a{\nvirtual_ipaddress{\n10.0.0.1\n}}\nvrrp_instance b{}",
            "vrrp_instance a\n\n# here it begins\n{\nvirtual_ipaddress\n{\n10.0.0.1\n}\n}\nvrrp_instance b\n{\n}\n",
            "vrrp_instance a { virtual_ipaddress { 10.0.0.1 } }\nvrrp_instance b { }",
        ):
            self.assertEqual(expected, self.read(text), text)

    def test_comments_and_quotes(self) -> None:
        """A comment begins anywhere; a quoted word may hold blanks, braces and what begins a comment."""
        text = """vrrp_instance "a b" { # {
            authentication {
                auth_pass 'x{#"y' ! no
            } virtual_ipaddress { 10.0.0.1 }#}
        }"""
        self.assertEqual((VrrpInstance("a b", ("10.0.0.1",), 'x{#"y'),), self.read(text))
        for quoted, meant in (("x\\ y", "x y"), ('"x\\"y"', 'x"y'), ('x"y z"', "xy z"), ('"x', "x")):
            text = f"vrrp_instance a {{\n authentication {{\n auth_pass {quoted}\n }}\n}}"
            self.assertEqual((VrrpInstance("a", (), meant),), self.read(text))

    def test_parameters(self) -> None:
        """A parameter's braces are no block; a condition before a line is passed over."""
        text = "vrrp_instance V_${NUM} {\n virtual_ipaddress {\n 10.0.${NUM}.1\n @main 10.0.0.2\n }\n}\n"
        self.assertEqual((VrrpInstance("V_${NUM}", ("10.0.0.2",), opaque=True),), self.read(text))

    def test_where_it_stands(self) -> None:
        """Addresses and passwords count where they belong, and nowhere else."""
        text = (
            "virtual_ipaddress {\n 10.0.0.1\n}\n"
            "vrrp_instance a {\n auth_pass one\n unicast_peer {\n 10.0.0.2\n }\n 10.0.0.3\n"
            " virtual_ipaddress {\n no.address\n 10.0.0.400\n }\n}\n"
            "authentication {\n auth_pass two\n}\n"
        )
        self.assertEqual((VrrpInstance("a"),), self.read(text))

    def test_half(self) -> None:
        """Of every beginning of a configuration no more is made out than there is."""
        for length in range(len(OCTAVIA)):
            config = parse_config(OCTAVIA[:length])
            self.assertLessEqual(config.names, {"3dd1f8e27f6c4d0e9a3c4f4c1c6b2a11"})
            self.assertLessEqual(len(config.addresses), 2)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, content: bytes) -> None:
        """Whatever it is given, it ends, and what it makes out can be written down."""
        for instance in parse_config(content).instances:
            self.assertIsInstance(instance.name, str)

    @given(st.text(alphabet="vrrp_instance auth_pass\"'{}#!\\$@\n10.:", max_size=200))
    def test_anything_like_it(self, text: str) -> None:
        """So it is with what has the right letters."""
        parse_config(text.encode())

    def test_long_line(self) -> None:
        """A line of a megabyte does not hold it up."""
        for piece in ('"', "'\"", "\\", "${", "a ", "{"):
            parse_config(b"vrrp_instance a {\n" + piece.encode() * 500_000)


class SecretTests(SynchronousTestCase):
    def test_never_shown(self) -> None:
        """A password is in no description of a configuration."""
        config = parse_config(OCTAVIA)
        self.assertNotIn("42c1a9f", repr(config))
        self.assertNotIn("42c1a9f", repr(config.instances))

    def test_taken_out(self) -> None:
        """What keepalived says of a configuration is told without its passwords, well-formed or not, whole or cut."""
        config = parse_config(b"auth_pass \"open\nauth_pass 'a-long-password'\nauth_pass {x1}\n" + OCTAVIA)
        for said, told in (
            ("Unterminated quote 'auth_pass \"open'", "Unterminated quote 'auth_pass ***"),
            ("auth_pass a-long-password", "auth_pass ***"),
            ("Truncated to (a-long-p).", "Truncated to ***"),
            ("Unknown keyword '42c1a9f'", "Unknown keyword '***'"),
            ("Unknown keyword 'x42c1a9f' {x1}", "Unknown keyword 'x42c1a9f' {***}"),
            ("auth_pass what-a-variable meant", "auth_pass ***"),
            ("Truncating auth_pass to 8 characters", "Truncating auth_pass to 8 characters"),
            ("nothing", "nothing"),
        ):
            self.assertEqual(told, config.without_secrets(said))

    def test_none(self) -> None:
        """A configuration without a password leaves the text as it is."""
        self.assertEqual("keyword x", KeepalivedConfig().without_secrets("keyword x"))

    def test_many(self) -> None:
        """A million of them take no time that anybody would notice."""
        config = parse_config(b"".join(b"auth_pass p%d\n" % number for number in range(100_000)))
        self.assertEqual("*** " * 1000, config.without_secrets("p77777 " * 1000))
