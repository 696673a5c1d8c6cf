"""Tests for L{amphora.loadbalancer.listeners}, on what today's controller renders among others."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.haproxy_config import FrontendConfig, HaproxyConfig, parse_config
from amphora.loadbalancer.instance import peer_name
from amphora.loadbalancer.listeners import Listener, listener_type, listeners_of
from amphora.network.bind import Bind

CONFIGURATIONS = Path(__file__).parent.parent / "configurations"
"""As Octavia's own templates wrote them."""

INSTANCE = "00000000-0000-4000-8000-00000000001b"
AMPHORA, PEER = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000064"


def listener(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


class ListenerTests(SynchronousTestCase):
    """Which frontend is whose."""

    def test_names(self) -> None:
        """A frontend that a UUID names is a listener; all others are one together, and the metrics' are none."""
        frontends = (
            FrontendConfig("www", "tcp", tls=False),
            FrontendConfig(listener(1), "http", tls=False),
            FrontendConfig("prometheus-exporter-internal-endpoint", "http", tls=False),
            FrontendConfig("admin", "http", tls=True),
        )
        self.assertEqual(
            (Listener(INSTANCE, "TERMINATED_HTTPS"), Listener(listener(1), "HTTP")), listeners_of(INSTANCE, frontends)
        )

    def test_type(self) -> None:
        """The type is the most special one's of several frontends, and TCP of none."""
        tcp, http, tls = (
            FrontendConfig("a", mode, tls=tls) for mode, tls in (("tcp", False), ("http", False), ("http", True))
        )
        self.assertEqual("TCP", listener_type(()))
        self.assertEqual("TCP", listener_type((tcp,)))
        self.assertEqual("HTTP", listener_type((tcp, http)))
        self.assertEqual("TERMINATED_HTTPS", listener_type((tls, http, tcp)))


class OctaviaTests(SynchronousTestCase):
    """What is read from what today's controller renders."""

    def read(self, name: str) -> HaproxyConfig:
        return parse_config((CONFIGURATIONS / f"octavia_19_{name}.cfg").read_bytes())

    def test_pair(self) -> None:
        """Listeners of all kinds, VIPs of both families (IPv6 without brackets), peers, paths."""
        config = self.read("pair")
        self.assertEqual(
            (
                Listener(listener(0xA1), "HTTP"),
                Listener(listener(0xA2), "TERMINATED_HTTPS"),
                Listener(listener(0xA3), "TCP"),
                Listener(listener(0xA4), "HTTP"),
            ),
            listeners_of(INSTANCE, config.frontends),
        )
        vips = {Bind(vip, port) for vip in ("10.0.0.7", "fd00::7") for port in (80, 443, 3306, 9090)}
        self.assertEqual(vips | {Bind("127.0.0.1", 9101)}, config.binds)
        self.assertEqual(
            ((peer_name(AMPHORA), Bind("10.0.0.8", 1025)), (peer_name(PEER), Bind("10.0.0.9", 1025))), config.peers
        )
        self.assertEqual(config.binds | {Bind("10.0.0.8", 1025)}, config.addresses(peer_name(AMPHORA)))
        self.assertEqual((Path(f"/var/lib/octavia/{INSTANCE}.sock"),), config.stats_sockets)
        self.assertEqual(Path(f"/var/lib/octavia/{INSTANCE}/servers-state"), config.state_file)
        self.assertEqual(13, config.members)
        self.assertFalse(config.own_group)

    def test_peer_names(self) -> None:
        """Peers are called what the templates call them."""
        self.assertEqual("EMVu-ZDJmPQG1OC5nZxY-ur4lsU", peer_name(AMPHORA))
        self.assertEqual("xC19DVJPYsH2CtfDhTe91ykairA", peer_name(PEER))

    def test_single(self) -> None:
        """Two listeners of a single amphora."""
        config = self.read("single")
        self.assertEqual(
            (Listener(listener(0xA1), "HTTP"), Listener(listener(0xA2), "TCP")),
            listeners_of(INSTANCE, config.frontends),
        )
        self.assertEqual((), config.peers)

    def test_disabled(self) -> None:
        """A load balancer that is disabled has a stats socket, and no listeners."""
        config = self.read("disabled")
        self.assertEqual((), config.frontends)
        self.assertEqual(1, len(config.stats_sockets))
