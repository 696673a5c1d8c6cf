"""Tests for what L{amphora.api.errors_1_0} makes of errors of plugging."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from amphora.api.errors_1_0 import answer_for_1_0
from amphora.network import errors as network

ANSWERS: tuple[tuple[network.NetworkError, int, dict[str, str]], ...] = (
    (network.InvalidSubnet("why"), 400, {"message": "Invalid subnet information", "details": "why"}),
    (network.InvalidVip("why"), 400, {"message": "Invalid VIP: why"}),
    (network.InvalidVrrpAddress("why"), 400, {"message": "Invalid VRRP Address: why"}),
    (network.InvalidPort("why"), 400, {"message": "Invalid port information", "details": "why"}),
    (network.InvalidFixedIp("why"), 400, {"message": "Invalid network port", "details": "why"}),
    (
        network.InterfaceExists("eth1"),
        409,
        {"message": "Interface already exists", "details": "eth1 has all that was asked for"},
    ),
    (
        network.InterfaceNotFound("02:00:00:00:00:0a"),
        404,
        {
            "message": "Interface Not Found",
            "details": "No suitable network interface found: none has the MAC address 02:00:00:00:00:0a",
        },
    ),
    (network.PlugFailed("VIP", "why"), 500, {"message": "Error plugging VIP", "details": "why"}),
    (network.PlugFailed("vip", "why"), 500, {"message": "Error plugging vip", "details": "why"}),
    (network.PlugFailed("network", "why"), 500, {"message": "Error plugging network", "details": "why"}),
)


class PlugErrorTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Each has the status and the words that the controller of today looks for."""
        for error, status, body in ANSWERS:
            answer = answer_for_1_0(error)
            assert answer is not None
            self.assertEqual((status, body), (answer.status, answer.body), repr(error))
