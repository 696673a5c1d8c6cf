"""Tests for L{amphora.keepalived.pulse}, on processes that sleep and wake as keepalived does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from amphora.keepalived.pulse import MISSES, Pulse
from amphora.process import ProcessIdentity

PATIENCE = 60.0

SLEEPER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
if os.fork():
    print(flush=True)
while True:
    signal.sigwait({signal.SIGCHLD})
"""
"""A process and its child: each wakes for a SIGCHLD, and sleeps again."""


class PulseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.process = self.start()
        self.pulse = Pulse(needs_child=True)

    def start(self) -> ProcessIdentity:
        """Ended with its child after the test."""
        sleeper = subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPER], stdout=subprocess.PIPE)
        cast(Any, sleeper.stdout).readline()
        process = ProcessIdentity.of(sleeper.pid)
        assert process is not None

        def end() -> None:
            for one in (*process.children(), process):
                one.send_signal(signal.SIGKILL)
            cast(Any, sleeper.stdout).close()
            sleeper.wait(PATIENCE)

        self.addCleanup(end)
        return process

    def sleeps(self, process: ProcessIdentity) -> str:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(line for line in status if line.startswith("voluntary"))

    def looks(self, number: int) -> list[bool]:
        """So many looks, each after whoever can has woken and slept again."""
        verdicts = []
        for _ in range(number):
            verdicts.append(self.pulse.feel(self.process))
            for one in (self.process, *self.process.children()):
                self.let_wake(one)
        return verdicts

    def let_wake(self, process: ProcessIdentity) -> None:
        stopped = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
        if stopped:
            return
        before = self.sleeps(process)
        process.send_signal(signal.SIGCHLD)
        deadline = time.monotonic() + PATIENCE
        while self.sleeps(process) == before and time.monotonic() < deadline:
            os.sched_yield()

    def stop(self, process: ProcessIdentity) -> None:
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while b") T" not in Path(f"/proc/{process.pid}/stat").read_bytes() and time.monotonic() < deadline:
            os.sched_yield()

    def test_alive(self) -> None:
        """Processes that hear their calls live, for as long as one looks."""
        self.assertEqual([True] * 10, self.looks(10))

    def test_stopped(self) -> None:
        """One that is stopped, the process or its child, is a hung one after so many looks, until it goes on."""
        (child,) = self.process.children()
        for one in (self.process, child):
            self.looks(1)
            self.stop(one)
            # Being stopped counts as going to sleep, once.
            self.assertEqual([True] * MISSES + [False] * 2, self.looks(MISSES + 2))
            one.send_signal(signal.SIGCONT)
            self.let_wake(one)
            self.assertEqual([True] * 3, self.looks(3))

    def test_childless(self) -> None:
        """A process whose child stays away is as good as hung."""
        (child,) = self.process.children()
        self.looks(1)
        child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while child.alive and time.monotonic() < deadline:
            os.sched_yield()
        self.assertEqual([True] * (MISSES - 1) + [False] * 2, self.looks(MISSES + 1))

    def test_gone(self) -> None:
        """A process that is gone is somebody else's to notice."""
        gone = ProcessIdentity(2**22 - 1, 0)
        self.assertTrue(self.pulse.feel(gone))
