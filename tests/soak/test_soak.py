"""A few seconds of `script/soak`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import amphora
from tests.integration.support import requires

_SOAK = Path(amphora.__file__).parent.parent / "script" / "soak.py"


@requires("root", "haproxy", "keepalived", "ip", "nft", "unshare", "mount")
class SoakTests(TestCase):
    timeout = 300

    async def test_soak(self) -> None:
        """It does something of everything, all holds, and nothing is left of it."""
        temporary = self.mktemp()
        os.makedirs(temporary)
        ended = await deferToThread(
            subprocess.run,
            [sys.executable, str(_SOAK), "--minutes", "0.1", "--seed", "ci", "--report", "soak.md"],
            env={**os.environ, "PYTHONPATH": str(_SOAK.parent.parent)},
            cwd=temporary,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.assertEqual(0, ended.returncode, ended.stdout + ended.stderr)
        report = (Path(temporary) / "soak.md").read_text()
        self.assertIn("everything held", report)
        self.assertIn(report, ended.stdout)
        self.assertEqual([], list(Path(tempfile.gettempdir()).glob("soak-*/*")))
