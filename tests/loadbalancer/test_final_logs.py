"""Tests for L{amphora.loadbalancer.final_logs}."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.final_logs import Nowhere, Syslog
from tests.integration.support import short_directory


class SyslogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = short_directory(self) / "log"

    def listen(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(listener.close)
        listener.bind(str(self.path))
        listener.settimeout(30)
        return listener

    def assert_told(self, path: Path, *lines: str) -> None:
        """It did not work, and one line of the log says so."""
        with capturedLogs() as events:
            Syslog(16, str(path)).ship("an-id", list(lines))
        (event,) = events
        self.assertEqual((LogLevel.warn, "an-id", str(path)), (event["log_level"], event["instance"], event["path"]))

    def test_lines(self) -> None:
        """Each line is a datagram with facility, severity and the instance's name."""
        listener = self.listen()
        Syslog(16, str(self.path)).ship("an-id", ["one", "two: ü \udcff"])
        self.assertEqual(b"<134>haproxy-an-id: one", listener.recv(10_000))
        self.assertEqual("<134>haproxy-an-id: two: ü ?".encode(), listener.recv(10_000))

    def test_long_line(self) -> None:
        """A line that no datagram can hold is cut, and those after it come too."""
        listener = self.listen()
        Syslog(0, str(self.path)).ship("an-id", ["x" * 1_000_000, "after"])
        self.assertEqual(8192, len(listener.recv(100_000)))
        self.assertEqual(b"<6>haproxy-an-id: after", listener.recv(10_000))

    def test_nobody(self) -> None:
        """Where no syslog is, or none any more, or something else, that is logged and nothing raised."""
        self.assert_told(self.path, "one", "two")
        self.listen().close()
        self.assert_told(self.path, "one", "two")
        self.path.unlink()
        self.listen(socket.SOCK_STREAM).listen()
        self.assert_told(self.path, "one")
        self.assert_told(Path("/" + "x" * 200), "one")

    def test_syslog_that_hangs(self) -> None:
        """A syslog that reads nothing holds a deletion up for a second, not for ever."""
        self.listen()
        self.assert_told(self.path, *["x" * 8000] * 3000)

    def test_nothing_to_say(self) -> None:
        """An instance without a log sends nothing."""
        listener = self.listen()
        Syslog(16, str(self.path)).ship("an-id", [])
        listener.setblocking(False)
        self.assertRaises(BlockingIOError, listener.recv, 1)

    def test_nowhere(self) -> None:
        """Without a destination the lines are dropped."""
        with capturedLogs() as events:
            Nowhere().ship("an-id", ["one"])
        self.assertEqual([], events)
