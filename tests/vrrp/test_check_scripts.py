"""Tests for L{amphora.vrrp.check_scripts}; the scripts themselves are tried in the integration tests."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.process import ProcessIdentity
from amphora.testing.fakes import CallsLater
from amphora.vrrp.check_scripts import RETRY_PAUSE, CheckScripts
from tests.integration.support import short_directory

A, B = Path("/base/a/agent.sock"), Path("/base/b/agent.sock")


class CheckScriptsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.blocking = CallsLater()
        self.directory = short_directory(self) / "vrrp"
        self.list = self.directory / "haproxy_sockets"
        self.scripts = CheckScripts(self.clock, self.blocking, self.directory)
        self.install()

    def install(self) -> None:
        installed = Deferred.fromCoroutine(self.scripts.install())
        self.blocking.make_all()
        self.successResultOf(installed)

    def expect(self, *sockets: Path) -> None:
        expecting = Deferred.fromCoroutine(self.scripts.expect(sockets))
        self.blocking.make_all()
        self.successResultOf(expecting)

    @contextmanager
    def in_the_way(self, name: str) -> Iterator[Sequence[LogEvent]]:
        """Let no file of this name be written; what is logged meanwhile."""
        obstacle = self.directory / f".{name}.new"
        obstacle.mkdir()
        with capturedLogs() as events:
            yield events
        obstacle.rmdir()

    def test_installed(self) -> None:
        """The scripts are there, for everybody to run, and installing them again touches nothing."""
        for _ in range(2):
            paths = sorted(path for path in self.directory.rglob("*") if path.is_file())
            self.assertEqual(
                ["check_script.sh", "haproxy_check_script.sh", "lvs_udp_check.sh"], [path.name for path in paths]
            )
            self.assertEqual({0o755}, {stat.S_IMODE(path.stat().st_mode) for path in paths})
            numbers = [path.stat().st_ino for path in paths]
            self.install()
            self.assertEqual(numbers, [path.stat().st_ino for path in paths])

    def test_no_room(self) -> None:
        """A disk that takes no script is told, with what is there untouched."""
        script = self.directory / "check_script.sh"
        script.write_bytes(b"#!/bin/sh\n")
        with self.in_the_way("check_script.sh") as events:
            self.install()
        self.assertEqual([LogLevel.error], [event["log_level"] for event in events])
        self.assertEqual(b"#!/bin/sh\n", script.read_bytes())

    def test_list(self) -> None:
        """The list is in the order of its lines, whatever order it came in; what is the same is not written again."""
        self.expect(B, A)
        self.assertEqual(f"{A}\n{B}\n", self.list.read_text())
        self.assertEqual(0o644, stat.S_IMODE(self.list.stat().st_mode))
        number = self.list.stat().st_ino
        self.expect(A, B)
        self.assertEqual(number, self.list.stat().st_ino)
        self.expect()
        self.assertEqual("", self.list.read_text())

    def test_never_any(self) -> None:
        """Where there never was one, there is no list."""
        self.expect()
        self.assertFalse(self.list.exists())

    def test_processes(self) -> None:
        """UDP listeners' keepaliveds are listed with their times of start; with one there is a list of sockets too."""
        balancing = self.directory / "lvs_processes"
        self.expect_processes()
        self.assertEqual((False, False), (balancing.exists(), self.list.exists()))
        self.expect_processes(ProcessIdentity(17, 1234), None)
        self.assertEqual("17 1234\n0 0\n", balancing.read_text())
        self.assertEqual("", self.list.read_text())
        self.expect(A)
        self.expect_processes()
        self.assertEqual(("", f"{A}\n"), (balancing.read_text(), self.list.read_text()))

    def test_earlier_list_holds(self) -> None:
        """Until it is told of UDP listeners' keepaliveds, an earlier agent's list of them is left as it is."""
        balancing = self.directory / "lvs_processes"
        balancing.write_text("17 1234\n")
        self.expect(A)
        self.assertEqual("17 1234\n", balancing.read_text())
        self.expect_processes()
        self.assertEqual("", balancing.read_text())

    def expect_processes(self, *processes: ProcessIdentity | None) -> None:
        expecting = Deferred.fromCoroutine(self.scripts.expect_processes(processes))
        self.blocking.make_all()
        self.successResultOf(expecting)

    def test_last_one_counts(self) -> None:
        """Of several that are told while the disk is slow, the last one stands."""
        waiting = [Deferred.fromCoroutine(self.scripts.expect(sockets)) for sockets in ((A,), (A, B), (B,))]
        self.assertEqual(1, self.blocking.waiting)
        self.blocking.make_all()
        for each in waiting:
            self.successResultOf(each)
        self.assertEqual(f"{B}\n", self.list.read_text())

    def test_tried_again(self) -> None:
        """A list that cannot be written is told and tried again, until it is, or another one was."""
        self.expect(A)
        with self.in_the_way("haproxy_sockets") as events:
            self.expect(A, B)
            self.clock.advance(RETRY_PAUSE)
            self.blocking.make_all()
        self.assertEqual([LogLevel.error] * 2, [event["log_level"] for event in events])
        self.assertEqual(f"{A}\n", self.list.read_text())
        self.clock.advance(RETRY_PAUSE)
        self.blocking.make_all()
        self.assertEqual(f"{A}\n{B}\n", self.list.read_text())
        self.assertEqual([], self.clock.getDelayedCalls())
        with self.in_the_way("haproxy_sockets"):
            self.expect(B)
        self.expect(A, B)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_close(self) -> None:
        """Once closed it tries nothing again."""
        with self.in_the_way("haproxy_sockets"):
            self.expect(A)
        self.scripts.close()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.scripts.close()
