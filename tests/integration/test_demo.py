"""The README's first command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import amphora
from tests.integration.support import requires

_DEMO = Path(amphora.__file__).parent.parent / "script" / "demo.py"


@requires("haproxy")
class DemoTests(TestCase):
    timeout = 300

    async def test_demo(self) -> None:
        """The demo does all that it shows, says that it did, and ends with status 0."""
        ended = await deferToThread(
            subprocess.run,
            [sys.executable, str(_DEMO)],
            env={**os.environ, "PYTHONPATH": str(_DEMO.parent.parent)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.assertEqual(0, ended.returncode, ended.stdout + ended.stderr)
        for shown in ("none failed", "the temporary directory is removed"):
            self.assertIn(shown, ended.stdout)
