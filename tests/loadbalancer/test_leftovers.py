"""Old workers that do not end by themselves."""

from __future__ import annotations

import signal
import subprocess

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.leftovers import GRACE, Leftovers
from amphora.process import ProcessIdentity


class LeftoversTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.leftovers = Leftovers(self.clock, "an instance")

    def worker(self, *command: str) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
        """A process that stands for a worker; once it says something it is ready."""
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        assert child.stdout is not None
        child.stdout.readline()
        process = ProcessIdentity.of(child.pid)
        assert process is not None
        return child, process

    def test_in_time(self) -> None:
        """Whoever ends by itself is sent nothing, and forgotten."""
        child, process = self.worker("sh", "-c", "echo; exec sleep 60")
        self.leftovers.look([process])
        child.kill()
        child.wait()
        self.clock.advance(GRACE)
        with capturedLogs() as events:
            self.leftovers.look([])
        self.assertEqual([], events)

    def test_overdue(self) -> None:
        """Whoever does not is ended when its time is over, also when nobody speaks of it any more."""
        child, process = self.worker("sh", "-c", "echo; exec sleep 60")
        self.leftovers.look([process])
        self.clock.advance(GRACE - 1)
        self.leftovers.look([])
        self.assertIsNone(child.poll())
        self.clock.advance(1)
        self.leftovers.look([])
        self.assertEqual(-signal.SIGTERM, child.wait())

    def test_deaf(self) -> None:
        """One that does not hear is killed."""
        child, process = self.worker("sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done")
        self.leftovers.look([process])
        for _ in range(2):
            self.clock.advance(GRACE)
            self.leftovers.look([process])
        self.assertEqual(-signal.SIGKILL, child.wait())
