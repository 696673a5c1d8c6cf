"""A disk that is really full: a tmpfs of a few pages."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.files import on_memory_file_system, replace_file
from amphora.loadbalancer import certificates, store
from amphora.loadbalancer.store import InstanceState, Store
from tests.integration.support import requires, short_directory

ID = "11111111-0000-4000-8000-000000000001"
STATE = InstanceState(amphora_id=ID, should_run=True)
SIZE = 128 * 1024


@requires("root", "mount")
class FullDiskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = short_directory(self)
        options = f"size={SIZE},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.directory)], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(self.directory)], check=True)
        self.store = Store(self.directory / "base", self.directory / "certs")
        self.store.prepare()
        self.files = self.store.files(ID)

    def fill(self, room: int = 0) -> None:
        """Leave so many bytes, rounded down to pages."""
        filler = self.directory / "filler"
        filler.unlink(missing_ok=True)
        filler.touch()
        room_now = os.statvfs(self.directory).f_bavail * os.statvfs(self.directory).f_frsize
        filler.write_bytes(b"x" * (room_now - room))

    def upload(self, content: bytes) -> Path:
        handle, path = self.store.new_spool_file()
        os.write(handle, content)
        os.close(handle)
        return path

    def everything(self) -> dict[str, bytes]:
        """Every file but the filler."""
        paths = [path for path in self.directory.rglob("*") if path.is_file() and path.name != "filler"]
        return {str(path): path.read_bytes() for path in paths}

    def assert_full(self, change: object, *arguments: object) -> None:
        error = self.assertRaises(OSError, change, *arguments)
        self.assertEqual(errno.ENOSPC, error.errno)

    def test_kind(self) -> None:
        """The kernel's own table says that this is memory."""
        self.assertTrue(on_memory_file_system(self.directory / "not" / "there"))
        self.assertFalse(on_memory_file_system(Path("/proc")))

    def test_replace(self) -> None:
        """A file that does not fit leaves the old one, and nothing beside it; with room again it fits."""
        path = self.directory / "file"
        replace_file(path, b"old")
        self.fill(room=4096)
        before = self.everything()
        self.assert_full(replace_file, path, b"x" * 20_000)
        self.assertEqual(before, self.everything())
        (self.directory / "filler").unlink()
        replace_file(path, b"x" * 20_000)
        self.assertEqual(20_000, path.stat().st_size)

    def test_A23_certificate(self) -> None:
        """So does a certificate (A23)."""
        certificates.store_certificate(self.files.certificates, "a.pem", b"old")
        self.fill()
        before = self.everything()
        self.assert_full(certificates.store_certificate, self.files.certificates, "a.pem", b"new")
        self.assert_full(certificates.store_certificate, self.files.certificates, "b.pem", b"new")
        self.assertEqual(before, self.everything())

    def test_upload(self) -> None:
        """An upload that finds no room when it is staged, or accepted, leaves what was before."""
        store.stage_configuration(self.files, self.upload(b"old"), b"overlay")
        store.accept_configuration(self.files, STATE)
        before = self.everything()
        spooled = self.upload(b"new")
        self.fill()
        self.assert_full(store.stage_configuration, self.files, spooled, b"overlay")
        spooled.unlink()
        self.assertEqual(before, self.everything())
        (self.directory / "filler").unlink()
        store.stage_configuration(self.files, self.upload(b"new"), b"overlay")
        self.fill()
        self.assert_full(store.accept_configuration, self.files, InstanceState())
        self.assertEqual(before, self.everything())
