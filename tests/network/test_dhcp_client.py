"""Tests for L{amphora.network.dhcp_client}, with a server that answers when the test says so."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.dhcp import Lease
from amphora.network.dhcp_client import (
    ANSWER_PAUSES,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_RENEWAL,
    SHORTEST_RENEWAL,
    DhcpClient,
    Wire,
    open_socket,
)
from amphora.testing.fake_dhcp import FakeDhcpServer
from tests.integration.support import requires

MAC = "02:00:00:00:00:0a"
LEASE = Lease(IPv4Address("192.0.2.10"), 24, 3600)
OTHER = Lease(IPv4Address("192.0.2.20"), 24, 3600)


class DhcpClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.server = FakeDhcpServer(self.clock)
        self.leases: list[Lease] = []

    def start(self, known: Lease | None = None) -> DhcpClient:
        client = DhcpClient(self.clock, self.server.open, "eth2", MAC, known, self.leases.append)
        client.start()
        self.addCleanup(client.stop)
        self.clock.pump([0] * 4)
        return client

    def test_new(self) -> None:
        """Who has none is offered an address, asks for it, and has it; nothing stays open."""
        self.start()
        self.assertEqual((["discover", "request"], [LEASE]), (self.server.heard, self.leases))
        self.assertEqual([("eth2", True)], [(wire.interface, wire.closed) for wire in self.server.wires])

    def test_known(self) -> None:
        """Who had one before asks whether it still holds; where it does, there is no news."""
        self.start(LEASE)
        self.assertEqual((["request"], []), (self.server.heard, self.leases))

    def test_refused(self) -> None:
        """Where it does not, another is asked for."""
        self.start(OTHER)
        self.assertEqual((["request", "discover", "request"], [LEASE]), (self.server.heard, self.leases))

    def test_forgotten(self) -> None:
        """A server that does not know of it is silent (RFC 2131, 4.3.2); then another is asked for."""
        self.server.silent = True
        self.start(OTHER)
        self.clock.pump(ANSWER_PAUSES[:-1])
        self.server.silent = False
        self.clock.pump([ANSWER_PAUSES[-1], *[0] * 4])
        self.assertEqual(["request"] * 3 + ["discover", "request"], self.server.heard)
        self.assertEqual([LEASE], self.leases)

    def test_renewed(self) -> None:
        """It is asked again after half the time; what is then given is news only if it is another."""
        self.start()
        self.clock.pump([1799, 1, 0])
        self.assertEqual((["discover", "request", "request"], [LEASE]), (self.server.heard, self.leases))
        self.server.address = str(OTHER.ip)
        self.clock.pump([1800, *[0] * 4])
        self.assertEqual([LEASE, OTHER], self.leases)

    def test_odd_times(self) -> None:
        """Leases of a moment or for ever are asked for again at a pace that suits."""
        for seconds, pause in ((b"\0\0\0\1", SHORTEST_RENEWAL), (b"\xff" * 4, LONGEST_RENEWAL)):
            self.server.options = {51: seconds}
            self.server.heard.clear()
            client = self.start()
            self.clock.advance(pause - 1)
            self.assertEqual(2, len(self.server.heard))
            self.clock.pump([1, 0])
            self.assertEqual(3, len(self.server.heard))
            client.stop()

    def test_silence(self) -> None:
        """Where no server is, that is told once, and the pauses grow; when one comes, it is heard."""
        self.server.silent = True
        with capturedLogs() as events:
            self.start()
            self.assertEqual(["discover"], self.server.heard)
            self.clock.pump(ANSWER_PAUSES)
            self.assertEqual(["discover"] * len(ANSWER_PAUSES), self.server.heard)
            for _ in range(12):
                self.clock.pump([LONGEST_PAUSE, *ANSWER_PAUSES])
        told = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(["no DHCP server answers"], [each["trouble"] + each["kept"] for each in told])
        self.server.silent = False
        self.clock.pump([LONGEST_PAUSE, *[0] * 4])
        self.assertEqual([LEASE], self.leases)

    def test_kept(self) -> None:
        """What was given is kept while no server answers, beyond its time too."""
        self.start()
        self.server.silent = True
        with capturedLogs() as events:
            self.clock.pump([1800, *ANSWER_PAUSES, *ANSWER_PAUSES])
            for _ in range(50):
                self.clock.pump([LONGEST_PAUSE, *ANSWER_PAUSES, *ANSWER_PAUSES])
        (told,) = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual("; it keeps 192.0.2.10/24", told["kept"])
        self.assertEqual([LEASE], self.leases)

    def test_broken(self) -> None:
        """An interface that cannot be used is told, and tried again."""
        self.server.broken = OSError(19, "No such device")
        with capturedLogs() as events:
            self.start()
            self.clock.pump([FIRST_PAUSE] * 3)
        (told,) = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual("No such device", told["trouble"])
        self.server.broken = None
        self.clock.pump([4 * FIRST_PAUSE, *[0] * 4])
        self.assertEqual([LEASE], self.leases)

    def test_noise(self) -> None:
        """What else comes is passed over, and does not cost the time that is left."""
        self.server.silent = True
        self.start()
        (wire,) = self.server.wires
        for _ in range(4):
            wire.receive(b"noise")
            self.clock.advance(ANSWER_PAUSES[0] / 4)
        self.assertEqual(["discover"] * 2, self.server.heard)

    def test_stop(self) -> None:
        """Who is stopped asks no more, and leaves nothing open or scheduled."""
        self.server.silent = True
        for pumped in ([], [ANSWER_PAUSES[0]], ANSWER_PAUSES):
            client = self.start()
            self.clock.pump(pumped)
            client.stop()
            self.assertEqual([], self.clock.getDelayedCalls())
            self.assertTrue(all(wire.closed for wire in self.server.wires))

    def test_stop_while_it_opens(self) -> None:
        """The same while the wire is being opened."""
        opening: Deferred[Wire] = Deferred()
        client = DhcpClient(self.clock, lambda _: opening, "eth2", MAC, None, self.leases.append)
        client.start()
        client.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_fault(self) -> None:
        """A fault of the program is told with its traceback."""

        def fault(lease: Lease) -> None:
            raise ZeroDivisionError

        client = DhcpClient(self.clock, self.server.open, "eth2", MAC, None, fault)
        client.start()
        self.clock.pump([0] * 4)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


@requires("root")
class SocketTests(SynchronousTestCase):
    def test_filter(self) -> None:
        """Of all that passes an interface, only what is for a DHCP client comes to the socket."""
        with open_socket("", "lo") as listening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for port, text in ((9, b"other"), (67, b"other"), (68, b"ours"), (69, b"other"), (68, b"too")):
                sending.sendto(text, ("127.0.0.1", port))
            heard = [listening.recv(65535) for _ in range(2)]
            self.assertEqual([b"ours", b"too"], [data[28:] for data in heard])
            self.assertRaises(BlockingIOError, listening.recv, 65535)

    def test_no_interface(self) -> None:
        """An interface or a namespace that is not there is an error, and nothing stays open."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(OSError, open_socket, "", "no-such-link")
        self.assertRaises(OSError, open_socket, "no-such-namespace", "lo")
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
