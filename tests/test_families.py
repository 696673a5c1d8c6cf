"""Tests for L{amphora.families}."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.families import find_families
from amphora.process import ProcessIdentity


class FindTests(SynchronousTestCase):
    def setUp(self) -> None:
        program = shutil.which("tail")
        assert program is not None
        self.program = program
        # The very option that a daemon is given its configuration with.
        running = subprocess.Popen([program, "-f", "/dev/null"], start_new_session=True, stdout=subprocess.DEVNULL)
        self.addCleanup(running.wait)
        self.addCleanup(running.kill)
        process = ProcessIdentity.of(running.pid)
        assert process is not None
        self.process = process

    def test_found(self) -> None:
        """A process is found by its file; one that leads a session is a master."""
        self.assertIn(self.process, find_families(self.program)[Path("/dev/null")].masters)

    def test_executes_itself(self) -> None:
        """One that just executes itself, and shows no command line meanwhile, is found all the same."""
        read = ProcessIdentity.command_line
        looks = []

        def command_line(process: ProcessIdentity) -> list[str]:
            if process != self.process:
                return read(process)
            looks.append(process)
            return [] if len(looks) < 4 else read(process)

        self.patch(ProcessIdentity, "command_line", command_line)
        self.assertIn(self.process, find_families(self.program)[Path("/dev/null")].masters)
        self.assertGreaterEqual(len(looks), 4)
