"""Tests for L{amphora.system.haproxy_version}."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.system.haproxy_version import HaproxyVersion
from amphora.testing.fakes import CallsLater, FakeProcessReactor

VERSION = "2.6.12-1+deb12u4"
OUTPUT = f"""\
HAProxy version {VERSION} 2026/10/17 - https://haproxy.org/
Status: long-term supported branch - will stop receiving fixes around Q2 2027.
Running on: Linux 6.1.0 #1 SMP x86_64
"""


class HaproxyVersionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeProcessReactor()
        self.path = Path(self.mktemp()).absolute()
        self.install("one")
        self.version = HaproxyVersion(self.reactor, AtOnce(), str(self.path))

    def install(self, content: str) -> None:
        """Put a file in the program's place."""
        new = self.path.with_suffix(".new")
        new.write_text(content)
        os.replace(new, self.path)

    def ask(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.version.read())

    def answer(self, output: str = OUTPUT, code: int = 0) -> str:
        """Ask, and let the program answer."""
        asking = self.ask()
        process = self.reactor.processes[-1]
        self.assertEqual([str(self.path), "-v"], process.command)
        process.says(output.encode())
        process.exits(code)
        return self.successResultOf(asking)

    def test_version(self) -> None:
        """The version is told as haproxy words it, newer and older ones."""
        self.assertEqual(VERSION, self.answer())
        self.install("older")
        self.assertEqual("2.0.13-2ubuntu0.3", self.answer("HA-Proxy version 2.0.13-2ubuntu0.3 2021/08/27\n"))

    def test_hung_disk(self) -> None:
        """While its file cannot be looked at, nor whether it was replaced, the version that is known is told."""
        self.assertEqual(VERSION, self.answer())
        blocking = CallsLater()
        self.version._blocking = blocking
        asking = self.ask()
        self.reactor.advance(0.5)
        self.assertNoResult(asking)
        self.reactor.advance(0.5)
        self.assertEqual(VERSION, self.successResultOf(asking))

    def test_once(self) -> None:
        """haproxy is asked once, and again when its file has been replaced."""
        self.assertEqual(VERSION, self.answer())
        self.assertEqual(VERSION, self.successResultOf(self.ask()))
        self.assertEqual(1, len(self.reactor.processes))
        self.install("two")
        self.assertEqual("2.8.1", self.answer("HAProxy version 2.8.1 2023\n"))

    def test_disk(self) -> None:
        """The disk, which may hang, is not waited for in the reactor's thread."""
        calls = CallsLater()
        self.version = HaproxyVersion(self.reactor, calls, str(self.path))
        asking = self.ask()
        self.assertNoResult(asking)
        self.path.unlink()
        calls.make_all()
        self.assertEqual("", self.successResultOf(asking))

    def test_failures(self) -> None:
        """A haproxy that is not there, hangs, or says something else has no version; each is logged and asked again."""

        def missing() -> None:
            self.path.unlink()
            self.assertEqual("", self.successResultOf(self.ask()))
            self.install("again")

        def hangs() -> None:
            asking = self.ask()
            self.reactor.advance(10)
            self.assertEqual("", self.successResultOf(asking))

        def cannot_be_started() -> None:
            self.version = HaproxyVersion(FakeProcessReactor(missing=(str(self.path),)), AtOnce(), str(self.path))
            self.assertEqual("", self.successResultOf(self.ask()))
            self.version = HaproxyVersion(self.reactor, AtOnce(), str(self.path))

        def says_something_else() -> None:
            self.assertEqual("", self.answer("Segmentation fault\n", 139))

        for fail, problem in (
            (missing, "No such file or directory"),
            (hangs, "did not end within 10 s"),
            (cannot_be_started, "cannot be run"),
            (says_something_else, "Segmentation fault"),
        ):
            with capturedLogs() as events:
                fail()
            (event,) = events
            self.assertEqual(LogLevel.error, event["log_level"])
            self.assertIn(problem, " ".join(str(event.get(name)) for name in ("error", "output")))
            self.assertIn(str(self.path), " ".join(str(event.get(name)) for name in ("path", "error")))
            self.assertEqual(VERSION, self.answer())
            self.install(problem)

    def test_cancelled(self) -> None:
        """A client that goes away while haproxy is asked leaves no process behind, and the next is answered."""
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(["KILL"], self.reactor.processes[-1].signals)
        self.reactor.advance(0)
        self.assertEqual(VERSION, self.answer())
