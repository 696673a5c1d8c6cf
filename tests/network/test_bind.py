"""Addresses that haproxy listens on."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from amphora.network.bind import Bind
from amphora.network.trial import conflicts
from tests.integration.support import requires

LOOPBACK, ANY, LOOPBACK6, ANY6 = (Bind(host, 80) for host in ("127.0.0.1", "0.0.0.0", "::1", "::"))
ONLY6 = Bind("::", 80, v6only=True)


class OverlapTests(SynchronousTestCase):
    def test_overlaps(self) -> None:
        """Two addresses are at odds if they are the same, or one is any of the other's kind; `::` is any of both."""
        at_odds = {(LOOPBACK, ANY), (LOOPBACK6, ANY6), (LOOPBACK6, ONLY6), (LOOPBACK, ANY6), (ANY, ANY6), (ANY6, ONLY6)}
        every = (LOOPBACK, ANY, LOOPBACK6, ANY6, ONLY6)
        for one in every:
            for other in every:
                expected = one == other or (one, other) in at_odds or (other, one) in at_odds
                self.assertEqual(expected, one.overlaps(other), (one, other))

    def test_ports_and_interfaces(self) -> None:
        """Other ports and other interfaces are not at odds; no interface is every interface."""
        self.assertFalse(LOOPBACK.overlaps(Bind("127.0.0.1", 81)))
        first, second = (Bind("127.0.0.1", 80, name) for name in ("eth1", "eth2"))
        self.assertFalse(first.overlaps(second))
        self.assertTrue(first.overlaps(LOOPBACK))

    def test_address(self) -> None:
        """An IPv6 address is told in brackets."""
        self.assertEqual(["127.0.0.1:80", "[::1]:80"], [LOOPBACK.address, LOOPBACK6.address])


class TrialTests(SynchronousTestCase):
    def test_free_and_taken(self) -> None:
        """An address on which somebody listens is a conflict with the system's words; free ones are none."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            found = conflicts([Bind("127.0.0.1", port), Bind("127.0.0.2", port), Bind("0.0.0.0", port)], "")
            self.assertEqual(["127.0.0.1", "0.0.0.0"], [conflict.bind.host for conflict in found])
            self.assertEqual({"Address already in use"}, {conflict.reason for conflict in found})
        self.assertEqual([], conflicts([Bind("127.0.0.1", port)], ""))

    def test_nobody_is_taken_from(self) -> None:
        """A trial never listens, and a connection that lingers is no conflict."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)):
                accepted, _ = server.accept()
                accepted.close()
        self.assertEqual([], conflicts([Bind("127.0.0.1", port)], ""))

    def test_address_that_is_not_ours(self) -> None:
        """An address that the machine does not have is a conflict, as it is for haproxy."""
        (found,) = conflicts([Bind("192.0.2.1", 80)], "")
        self.assertIn("assign requested address", found.reason)

    @requires("root")
    def test_no_namespace(self) -> None:
        """A namespace that is not there is an error, not a free address."""
        self.assertRaises(OSError, conflicts, [LOOPBACK], "no-such-namespace")
