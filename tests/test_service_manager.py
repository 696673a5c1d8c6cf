"""
Tests for L{amphora.service_manager}.

systemd is a real datagram socket here; what the real one makes of the messages is tried in L{tests.faults.test_units}.
"""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.config import Controller
from amphora.health.sender import ControllerReport, HeartbeatReport
from amphora.service_manager import ServiceManager, status_line
from amphora.vrrp.standing import Standing
from tests.integration.support import short_directory

PID = 4711
WATCHED = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}


class Systemd:
    """Where it listens, and what it has heard."""

    def __init__(self, test: SynchronousTestCase, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        test.addCleanup(self._socket.close)
        self._socket.bind(name)
        self._socket.setblocking(False)

    def heard(self) -> list[list[bytes]]:
        """The lines of each message since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).split(b"\n"))
            except BlockingIOError:
                return messages


class ServiceManagerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = short_directory(self) / "notify"
        self.systemd = Systemd(self, str(self.path))

    def manager(self, **environment: str) -> ServiceManager:
        return ServiceManager.of({"NOTIFY_SOCKET": str(self.path), **environment}, PID)

    def test_life(self) -> None:
        """systemd hears that a start goes on, that the agent serves, that it lives and that it ends."""
        manager = self.manager(**WATCHED)
        manager.starting("looking for haproxies")
        manager.ready(12.5)
        manager.alive("ACTIVE")
        manager.stopping()
        self.assertEqual(
            [
                [b"STATUS=Starting: looking for haproxies", b"EXTEND_TIMEOUT_USEC=90000000"],
                [b"READY=1", b"STATUS=Serving", b"WATCHDOG_USEC=30000000"],
                [b"STATUS=ACTIVE", b"WATCHDOG=1"],
                [b"STOPPING=1", b"STATUS=Stopping"],
            ],
            self.systemd.heard(),
        )

    def test_patience(self) -> None:
        """The watchdog waits for what heartbeats may take, but not less than the unit says, and for none for ever."""
        manager = self.manager(**WATCHED)
        for patience, told in ((29.0, b"30000000"), (154.0, b"154000000"), (None, b"0")):
            manager.watch(patience)
            self.assertEqual([[b"WATCHDOG_USEC=" + told]], self.systemd.heard())

    def test_no_watchdog(self) -> None:
        """Where the unit has no watchdog, one for another process, or one that is no number, none is fed."""
        for environment in ({}, {**WATCHED, "WATCHDOG_PID": "1"}, {**WATCHED, "WATCHDOG_USEC": "soon"}):
            manager = self.manager(**environment)
            manager.watch(12.5)
            manager.ready(12.5)
            manager.alive("ACTIVE")
            self.assertEqual([[b"READY=1", b"STATUS=Serving"], [b"STATUS=ACTIVE"]], self.systemd.heard())

    def test_abstract(self) -> None:
        """systemd may listen at a name that is no file."""
        systemd = Systemd(self, f"\0{self.path}")
        self.manager(NOTIFY_SOCKET=f"@{self.path}").stopping()
        self.assertEqual(1, len(systemd.heard()))

    def test_nobody(self) -> None:
        """Where no systemd is, nobody is told, and nothing is wrong."""
        with capturedLogs() as events:
            for environment in ({}, {"NOTIFY_SOCKET": ""}, dict(WATCHED)):
                manager = ServiceManager.of(environment, PID)
                manager.ready(12.5)
                manager.alive("ACTIVE")
        self.assertEqual([], events)

    def test_not_taken(self) -> None:
        """A systemd that takes no messages holds up nothing; it is told once in the log, each time that it begins."""
        manager = self.manager()
        with capturedLogs() as events:
            # Far more than the kernel keeps for a socket that nobody reads.
            for _ in range(10_000):
                manager.alive("ACTIVE")
            self.systemd.heard()
            manager.alive("ACTIVE")
            Path(self.path).unlink()
            manager.alive("ACTIVE")
            manager.alive("ACTIVE")
        self.assertEqual(
            [
                "systemd cannot be told how the agent fares: [Errno 11] Resource temporarily unavailable",
                "systemd cannot be told how the agent fares: [Errno 2] No such file or directory",
            ],
            [formatEvent(event) for event in events],
        )


class StatusLineTests(SynchronousTestCase):
    def test_well(self) -> None:
        """The line tells the amphora's place, and how much it has to do."""
        report = HeartbeatReport(7, 100, 0, (ControllerReport(Controller("192.0.2.1", 5555), True),))
        line = status_line(Standing("ACTIVE-STANDBY", "OK", "STANDBY"), 3, report)
        self.assertEqual("STANDBY (ACTIVE-STANDBY); listeners: 3; heartbeats sent: 7", line)

    def test_unreachable(self) -> None:
        """The controllers that cannot be reached are named; of those that were not tried yet nothing is said."""
        reachable = (("192.0.2.1", False), ("192.0.2.2", None), ("192.0.2.3", True))
        controllers = tuple(ControllerReport(Controller(host, 5555), known) for host, known in reachable)
        line = status_line(Standing("SINGLE", "OK", "ACTIVE"), 0, HeartbeatReport(0, 0, 0, controllers))
        self.assertEqual("ACTIVE (SINGLE); listeners: 0; heartbeats sent: 0; out of reach: 192.0.2.1 port 5555", line)
