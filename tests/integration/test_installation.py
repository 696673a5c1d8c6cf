"""The package as its users get it: built into a wheel, installed into an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import short_directory

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("amphora", "twisted", "setup.py", "pyproject.toml", "README.md", "LICENSE")


class WheelTests(SynchronousTestCase):
    """A wheel, built offline from a copy of the sources."""

    def setUp(self) -> None:
        """Build the wheel; the checkout stays as it is."""
        self.folder = short_directory(self)
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.folder / "source" / name)
            else:
                shutil.copy(ROOT / name, self.folder / "source" / name)
        self.output(
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
            *("--wheel-dir", str(self.folder), str(self.folder / "source")),
        )
        [self.wheel] = self.folder.glob("*.whl")

    def output(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command without our own environment variables; what it printed, if it succeeded."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def test_content(self) -> None:
        """The wheel holds every module and script, the type marker, the licence and the plugin, and nothing else."""
        with zipfile.ZipFile(self.wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        ours = (path for path in (ROOT / "amphora").rglob("*") if path.suffix in (".py", ".sh"))
        modules = {str(path.relative_to(ROOT)) for path in ours}
        self.assertEqual(names, {*modules, "amphora/py.typed", "twisted/plugins/amphora_plugin.py"})
        self.assertEqual(len(licences), 1)

    def test_twistd(self) -> None:
        """In a fresh environment twistd knows the agent and its options, whatever the working directory."""
        fresh = self.folder / "environment"
        venv.create(fresh, symlinks=True, with_pip=False)
        python = str(fresh / "bin" / "python")
        self.output(
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"),
            str(self.wheel),
        )
        # The dependencies come from the environment that runs this test.  It names no folder of the checkout: a path
        # that a .pth file adds is not searched for .pth files, such as that of an editable installation.
        site_packages = self.output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(site_packages, "dependencies.pth").write_text(
            "".join(f"{sysconfig.get_path(kind)}\n" for kind in ("purelib", "platlib")), "utf-8"
        )
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        where = self.output(python, "-c", "import amphora; print(amphora.__file__)", cwd=elsewhere)
        self.assertTrue(where.startswith(str(fresh)), where)
        told = self.output(str(fresh / "bin" / "amphora-agent"), "--help", cwd=elsewhere)
        self.assertIn("--config-file", told)
        twistd = "from twisted.scripts.twistd import run; run()"
        answer = self.output(python, "-c", twistd, "amphora", "--help", cwd=elsewhere)
        self.assertIn("--config-file", answer)
        self.assertEqual(list(elsewhere.iterdir()), [])
