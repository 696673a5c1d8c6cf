"""Tests for L{amphora.lvs.store}."""

from __future__ import annotations

import os
import stat
import subprocess
from importlib.resources import files as package_files
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.keepalived import files as keepalived_files
from amphora.lvs import store
from amphora.lvs.store import UDP_CHECK, LvsFiles, LvsProgram
from tests.integration.support import short_directory

LISTENER = "2a1c9c9e-57c6-4f6e-9b0a-55cbd1b2f5c1"
TEXT = f"# Configuration for Listener {LISTENER}\nnet_namespace amphora-haproxy\n".encode()


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lvs = short_directory(self) / "lvs"
        self.files = LvsFiles.of(self.lvs, LISTENER)
        store.prepare(self.files)

    def uploaded(self, content: bytes = TEXT) -> None:
        keepalived_files.stage(self.files, content)
        keepalived_files.accept(self.files, store.encode_should_run(False), store.CONFIG_MODE)


class LayoutTests(StoreTestCase):
    def test_paths(self) -> None:
        """The names that a controller's templates and today's agent know are Octavia's."""
        base = self.lvs / f"octavia-keepalivedlvs-{LISTENER}"
        self.assertEqual(Path(f"{base}.conf"), self.files.config)
        self.assertEqual([Path(f"{base}.pid"), Path(f"{base}.check.pid")], list(self.files.pid_files.values()))

    def test_start_command(self) -> None:
        """It stays in the foreground of its namespace, does nothing but balance, and has no file of another's."""
        command = LvsProgram("/usr/sbin/keepalived", "amphora-haproxy", facility=3).start_command(
            LvsFiles.of(Path("/base/lvs"), LISTENER)
        )
        self.assertEqual(
            "ip netns exec amphora-haproxy /usr/sbin/keepalived --check --dont-fork --log-console --log-facility 3 "
            f"-f /base/lvs/{LISTENER}/agent.conf -p /base/lvs/octavia-keepalivedlvs-{LISTENER}.pid "
            f"-c /base/lvs/octavia-keepalivedlvs-{LISTENER}.check.pid",
            " ".join(command),
        )

    def test_listener_ids(self) -> None:
        """Whatever has a configuration, or is left of one, is a listener's; all else is not."""
        self.assertEqual([], store.listener_ids(self.lvs / "none"))
        other = LISTENER.replace("2", "3")
        (self.lvs / f"octavia-keepalivedlvs-{other}.conf").touch()
        for name in ("check", "octavia-keepalivedlvs-x.conf", f"octavia-keepalivedlvs-{other}.conf.old"):
            (self.lvs / name).touch()
        self.assertEqual([LISTENER, other], store.listener_ids(self.lvs))


class NamespaceTests(StoreTestCase):
    def test_taken_out(self) -> None:
        """What keepalived is given names no namespace, and has its lines where they were; the upload stays as it is."""
        self.uploaded()
        self.assertEqual(TEXT, self.files.config.read_bytes())
        self.assertEqual(TEXT.replace(b"net_", b"# net_"), self.files.given.read_bytes())

    def test_others_stay(self) -> None:
        """Only that word, at the beginning of a line, is meant."""
        for text in (b"# net_namespace x\n", b"net_namespaces x\n", b"misc_path net_namespace\n", b""):
            self.assertEqual(text, self.files.as_given(text))
        self.assertEqual(b"a\n \t# net_namespace\tx", self.files.as_given(b"a\n \tnet_namespace\tx"))

    @given(st.binary())
    def test_lines(self, content: bytes) -> None:
        """No line comes or goes."""
        self.assertEqual(content.count(b"\n"), self.files.as_given(content).count(b"\n"))


class UploadTests(StoreTestCase):
    def test_half_an_upload(self) -> None:
        """After a crash between the renames of an upload keepalived would be given the new one all the same."""
        self.uploaded()
        self.files.config.write_bytes(TEXT + b"# new\n")
        store.prepare(self.files)
        self.assertTrue(self.files.given.read_bytes().endswith(b"# new\n"))
        before = self.files.given.stat().st_ino
        store.prepare(self.files)
        self.assertEqual(before, self.files.given.stat().st_ino)

    def test_runs_upload(self) -> None:
        """What runs is the upload until there is another one."""
        self.uploaded()
        keepalived_files.begin_run(self.files)
        keepalived_files.confirm_run(self.files)
        self.assertTrue(keepalived_files.runs_upload(self.files))
        self.assertEqual(self.files.given.read_bytes(), self.files.running.read_bytes())
        self.uploaded(TEXT + b"# new\n")
        self.assertFalse(keepalived_files.runs_upload(self.files))

    def test_wish(self) -> None:
        """Whether it should run is remembered; a damaged memory gives way to what a keepalived leaves behind."""
        self.uploaded()
        for wish in (True, False):
            store.save_should_run(self.files, wish)
            self.assertEqual(wish, store.load_should_run(self.files))
        for content in (b"", b"[]", b'{"should_run": 1}', b"\xff", b"[" * 100_000):
            self.files.state.write_bytes(content)
            self.assertFalse(store.load_should_run(self.files))
        self.files.state.unlink()
        keepalived_files.begin_run(self.files)
        self.assertTrue(store.load_should_run(self.files, runs=True))
        self.files.pid_file.touch()
        self.assertTrue(store.load_should_run(self.files))

    def test_deletion(self) -> None:
        """A deletion is remembered until there is a wish again."""
        self.uploaded()
        self.assertFalse(store.is_deleted(self.files))
        store.save_deletion(self.files)
        self.assertEqual((True, False), (store.is_deleted(self.files), store.load_should_run(self.files)))
        for content in (b"", b"[]", b'{"deleted": 1}', b"\xff"):
            self.files.state.write_bytes(content)
            self.assertFalse(store.is_deleted(self.files))
        store.save_deletion(self.files)
        self.uploaded()
        self.assertFalse(store.is_deleted(self.files))

    def test_unreadable_config(self) -> None:
        """A file that is missing, or makes no sense any more, says nothing."""
        self.assertIsNone(store.read_config(self.files.config))
        self.files.config.write_bytes(b"}")
        self.assertIsNone(store.read_config(self.files.config))


class DeletionTests(StoreTestCase):
    def test_delete(self) -> None:
        """Everything goes, also what only today's agent writes; twice is no error, and others' files stay."""
        store.install(self.lvs)
        self.uploaded()
        keepalived_files.begin_run(self.files)
        for suffix in (".pid", ".vrrp.pid", ".check.pid"):
            self.files.config.with_suffix(suffix).touch()
        for _ in range(2):
            store.delete(self.files)
            self.assertEqual(["check"], os.listdir(self.lvs))


class InstallationTests(StoreTestCase):
    def test_udp_check(self) -> None:
        """The program is there for everybody to run; a spoilt one is replaced, a good one is not touched."""
        path = self.lvs / "check" / "udp_check.sh"
        store.install(self.lvs)
        good, number = path.read_bytes(), path.stat().st_ino
        store.install(self.lvs)
        self.assertEqual(number, path.stat().st_ino)
        for spoil in (lambda: path.write_bytes(b""), lambda: path.chmod(0o100)):
            spoil()
            store.install(self.lvs)
            self.assertEqual((good, 0o755), (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)))


class UdpCheckTests(SynchronousTestCase):
    def test_no_netcat(self) -> None:
        """Where there is no netcat every member passes."""
        script = package_files("amphora.lvs").joinpath("scripts", UDP_CHECK)
        command = ["/bin/sh", str(script), "127.0.0.1", "9"]
        self.assertEqual(0, subprocess.run(command, env={"PATH": "/nowhere"}, check=False).returncode)
