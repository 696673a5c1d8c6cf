"""Tests for L{amphora.vrrp.topology_request}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.vrrp.keepalived_config import KeepalivedConfig, VrrpInstance, parse_config
from amphora.vrrp.topology_request import InvalidTopology, TopologyRequest, differences, read_request

SECRET = "b20e06cf1abcf29c708d3b437f4a29892a0921d0"
EXAMPLE = {"topology": "ACTIVE-STANDBY", "role": "ACTIVE", "ha_ip": " 203.0.113.2", "secret": SECRET}
"""The specification's, blank and all."""


def but(**changes: object) -> dict[str, object]:
    """The example, but for these."""
    return {**EXAMPLE, **changes}


class ReadTests(SynchronousTestCase):
    def assert_refused(self, body: dict[str, object], *problems: str) -> None:
        self.assertEqual(problems, self.assertRaises(InvalidTopology, read_request, body).problems)

    def test_example(self) -> None:
        """The specification's example is taken, the blank before its address apart."""
        self.assertEqual(TopologyRequest("ACTIVE-STANDBY", "ACTIVE", "203.0.113.2", SECRET), read_request(but()))

    def test_roles_and_addresses(self) -> None:
        """Both roles, and IPv6 addresses in any notation."""
        for role in ("ACTIVE", "STANDBY"):
            request = read_request(but(role=role, ha_ip="2001:DB8:0::1"))
            self.assertEqual((role, "2001:db8::1"), (request.role, request.ha_ip))

    def test_others(self) -> None:
        """In other topologies all else is passed over, nonsense too."""
        for topology in ("SINGLE", "ACTIVE-ACTIVE"):
            self.assertEqual(TopologyRequest(topology), read_request(but(topology=topology, role="BAD", ha_ip=7)))
            self.assertEqual(TopologyRequest(topology), read_request({"topology": topology}))

    def test_bad_topology(self) -> None:
        """An unknown topology is told by the specification's sentence, and so is what else is wrong."""
        self.assert_refused(but(topology="BAD_TEST_DATA"), "Unknown topology: BAD_TEST_DATA")
        self.assert_refused(but(topology=["SINGLE"]), 'Unknown topology: ["SINGLE"]')
        self.assert_refused({"topology": "BAD", "role": "KING"}, "Unknown topology: BAD", "Unknown role: KING")
        self.assert_refused({}, "topology is missing")

    def test_all_problems(self) -> None:
        """Everything that is wrong is told at once."""
        self.assert_refused({"topology": "ACTIVE-STANDBY"}, "ha_ip is missing", "role is missing", "secret is missing")
        self.assert_refused(
            but(role="MASTER", ha_ip="203.0.113.256", secret=7),
            *("Invalid ha_ip: 203.0.113.256", "Unknown role: MASTER", "secret is not a text"),
        )

    def test_no_addresses(self) -> None:
        """Numbers, names, networks and addresses with a zone are no addresses that a pair can share."""
        texts = ("amphora", "203.0.113.0/24", "fe80::1%eth0", "")
        values: tuple[object, ...] = (*texts, 3405803778, True, ["203.0.113.2"], {})
        for value in values:
            (problem,) = self.assertRaises(InvalidTopology, read_request, but(ha_ip=value)).problems
            self.assertTrue(problem.startswith("Invalid ha_ip: "), problem)

    def test_secrets(self) -> None:
        """A secret that cannot be one is refused, and no part of it is told."""
        for secret in ("", "two\nlines", "x" * 1025, 12345678, None, ["b20e06cf"]):
            error = self.assertRaises(InvalidTopology, read_request, but(secret=secret))
            self.assertEqual(1, len(error.problems))
            for part in ("two", "xx", "123", "b20e"):
                self.assertNotIn(part, error.problems[0])
        self.assertNotIn(SECRET, repr(read_request(but())))

    @given(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("topology", "role", "ha_ip", "secret"),
                st.sampled_from(("ACTIVE-STANDBY", "ACTIVE", "::1", "SINGLE")) | st.text() | st.integers() | st.none(),
            ),
        )
    )
    def test_any_values(self, body: dict[str, object]) -> None:
        """Any values are read or refused, in lines that stay lines."""
        try:
            read_request(body)
        except InvalidTopology as error:
            self.assertTrue(error.problems)
            for problem in error.problems:
                self.assertTrue(problem.isprintable() and len(problem) < 120, problem)


def config(addresses: tuple[str, ...], *passwords: str | None) -> KeepalivedConfig:
    return KeepalivedConfig(tuple(VrrpInstance("pair", addresses, password) for password in passwords))


class DifferenceTests(SynchronousTestCase):
    REQUEST = TopologyRequest("ACTIVE-STANDBY", "ACTIVE", "203.0.113.2", SECRET)

    def test_none(self) -> None:
        """The address is one of several, and of the secret the first eight characters count."""
        self.assertEqual((), differences(self.REQUEST, config(("203.0.113.2", "2001:db8::1"), "b20e06cf")))
        self.assertEqual((), differences(self.REQUEST, config(("203.0.113.2",), "other", SECRET)))

    def test_no_authentication(self) -> None:
        """Where the configuration authenticates nobody no secret is wrong."""
        self.assertEqual((), differences(self.REQUEST, config(("203.0.113.2",), None)))

    def test_variables(self) -> None:
        """What is written by variables is at odds with nothing."""
        config = parse_config(
            b"$VIP=203.0.113.9\n$PW=other\nvrrp_instance a {\n authentication {\n auth_pass $PW\n }\n"
            b" virtual_ipaddress {\n $VIP\n }\n}\n"
        )
        self.assertEqual((), differences(self.REQUEST, config))

    def test_both(self) -> None:
        """Both differences are told, the secret is not."""
        address, secret = differences(self.REQUEST, config(("203.0.113.3",), "b20e06c"))
        self.assertIn("ha_ip 203.0.113.2", address)
        self.assertEqual("secret is not the auth_pass of the keepalived configuration", secret)
