"""Tests for L{amphora.vrrp.store}."""

from __future__ import annotations

import json
import os
import stat

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.keepalived import files
from amphora.testing.fakes import full_disk
from amphora.vrrp import store
from amphora.vrrp.store import VrrpFiles, VrrpState
from tests.integration.support import short_directory

RUNNING = VrrpState(should_run=True)


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = VrrpFiles(short_directory(self) / "base" / "vrrp")
        files.prepare(self.files)

    def uploaded(self, content: bytes, state: VrrpState = RUNNING) -> None:
        """Store a configuration as an upload does."""
        files.stage(self.files, content)
        files.accept(self.files, store.encode_state(state))

    def ran(self, content: bytes) -> None:
        """The same, and let it have run."""
        self.uploaded(content)
        files.begin_run(self.files)
        files.confirm_run(self.files)

    def everything(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.files.directory.iterdir()}


class LayoutTests(StoreTestCase):
    def test_paths(self) -> None:
        """The names that a controller's templates know are Octavia's; all are in one directory."""
        directory = self.files.directory
        self.assertEqual(directory / "octavia-keepalived.conf", self.files.config)
        self.assertEqual(directory / "octavia-keepalived.pid", self.files.pid_file)
        names = ("config", "candidate", "running", "previous", "main", "trial", "fifo", "log", "state")
        paths = [*(getattr(self.files, name) for name in names), *self.files.pid_files.values()]
        self.assertEqual({directory}, {path.parent for path in paths})
        self.assertEqual(11, len(set(paths)))

    def test_prepare(self) -> None:
        """The directory is made, open to whoever runs scripts; what was half-made is forgotten, the rest is kept."""
        self.uploaded(b"old")
        before = self.everything()
        self.files.candidate.touch()
        self.files.trial.touch()
        self.files.directory.chmod(0o700)
        for _ in range(2):
            files.prepare(self.files)
            self.assertEqual(0o755, stat.S_IMODE(self.files.directory.stat().st_mode))
            self.assertEqual(before, self.everything())

    def test_settings(self) -> None:
        """What keepalived is started with first settles whom scripts run as, and includes a file beside it."""
        lines = [line.strip() for line in files.main_text(self.files, self.files.running).decode().splitlines()]
        self.assertEqual(
            ["script_user root", "enable_script_security", f'vrrp_notify_fifo "{self.files.fifo}" root root'],
            lines[2:5],
        )
        self.assertEqual("include running.conf", lines[-1])


class StateTests(StoreTestCase):
    def test_remembered(self) -> None:
        """What is remembered is found again."""
        for state in (VrrpState(), RUNNING, VrrpState(retired=True)):
            store.save_state(self.files, state)
            self.assertEqual(state, store.load_state(self.files))

    def test_forgotten(self) -> None:
        """A memory that is missing or damaged gives way to what a running keepalived leaves."""
        self.assertEqual(VrrpState(), store.load_state(self.files))
        self.ran(b"one")
        for content in (b"", b"{", b"[]", b'{"should_run": true}', b"\xff", b"[" * 100_000):
            self.files.state.write_bytes(content)
            self.assertEqual(VrrpState(), store.load_state(self.files))
        self.assertEqual(RUNNING, store.load_state(self.files, runs=True))
        self.files.pid_file.touch()
        self.assertEqual(RUNNING, store.load_state(self.files))

    @given(st.dictionaries(st.sampled_from(("should_run", "retired", "x")), st.booleans() | st.integers() | st.none()))
    def test_any_memory(self, known: dict[str, object]) -> None:
        """Whatever stands there, only what says so is a wish; where it says neither, what there is tells."""
        self.files.state.write_bytes(json.dumps(known).encode())
        state = store.load_state(self.files)
        wishes = [known.get(name) for name in ("should_run", "retired")]
        whole = all(isinstance(wish, bool) for wish in wishes)
        self.assertEqual(VrrpState(*(wish is True for wish in wishes)) if whole else VrrpState(), state)


class UploadTests(StoreTestCase):
    def test_B12_byte_for_byte(self) -> None:
        """An upload is kept byte for byte, for us alone; nothing is left beside it."""
        for content in (b"\xff\x00 one\r\n", b"two"):
            self.uploaded(content)
            self.assertEqual(content, self.files.config.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(self.files.config.stat().st_mode))
            self.assertEqual({"octavia-keepalived.conf", "keepalived.json"}, self.everything().keys())
        self.assertEqual(RUNNING, store.load_state(self.files))

    def test_stage(self) -> None:
        """What is staged can be checked, and goes away again."""
        self.uploaded(b"old")
        before = self.everything()
        files.stage(self.files, b"new")
        self.assertEqual(b"new", self.files.candidate.read_bytes())
        self.assertIn(b"include .octavia-keepalived.conf.new\n", self.files.trial.read_bytes())
        files.unstage(self.files)
        self.assertEqual(before, self.everything())
        files.stage_again(self.files)
        self.assertIn(b"include octavia-keepalived.conf\n", self.files.trial.read_bytes())
        files.unstage(self.files)
        self.assertEqual(before, self.everything())

    def test_full_disk(self) -> None:
        """A disk that is full, at whatever step, changes nothing."""
        self.uploaded(b"old")
        before = self.everything()
        with full_disk():
            for attempt in (lambda: files.stage(self.files, b"new"), lambda: files.stage_again(self.files)):
                self.assertRaises(OSError, attempt)
                self.assertEqual(before, self.everything())
        files.stage(self.files, b"new")
        with full_disk():
            self.assertRaises(OSError, files.accept, self.files, store.encode_state(VrrpState()))
        self.assertEqual(before, self.everything())


class RunTests(StoreTestCase):
    def running(self) -> bytes | None:
        return self.files.running.read_bytes() if self.files.running.exists() else None

    def test_upload_does_not_run(self) -> None:
        """An upload changes nothing of what runs, until a run is begun with it."""
        self.ran(b"one")
        self.uploaded(b"two")
        self.assertEqual(b"one", self.running())
        self.assertFalse(files.runs_upload(self.files))
        files.begin_run(self.files)
        self.assertEqual(b"two", self.running())
        self.assertTrue(files.runs_upload(self.files))

    def test_returned(self) -> None:
        """What does not work gives way to what ran before, however often it was begun, and without room."""
        self.ran(b"one")
        for content in (b"two", b"three"):
            self.uploaded(content)
            files.begin_run(self.files)
        with full_disk():
            self.assertTrue(files.return_run(self.files))
        self.assertEqual(b"one", self.running())
        self.assertFalse(self.files.previous.exists())
        self.assertFalse(files.return_run(self.files))
        self.assertEqual(b"one", self.running())
        self.assertEqual(b"three", self.files.config.read_bytes())

    def test_confirmed(self) -> None:
        """What works is what the next one returns to."""
        self.ran(b"one")
        self.ran(b"two")
        self.uploaded(b"three")
        files.begin_run(self.files)
        files.return_run(self.files)
        self.assertEqual(b"two", self.running())

    def test_first_that_fails(self) -> None:
        """Where nothing ran before, nothing is to run after."""
        self.assertFalse(self.files.running.exists())
        self.uploaded(b"one")
        files.begin_run(self.files)
        self.assertFalse(files.return_run(self.files))
        files.forget_run(self.files)
        self.assertIsNone(self.running())

    def test_same_again(self) -> None:
        """The same configuration can be begun again, and returned to."""
        self.ran(b"one")
        files.begin_run(self.files)
        self.assertTrue(files.return_run(self.files))
        self.assertEqual(b"one", self.running())
        self.assertEqual(
            {"agent.conf", "keepalived.json", "octavia-keepalived.conf", "running.conf"}, self.everything().keys()
        )

    def test_settings_are_kept_up(self) -> None:
        """What keepalived is started with is written where it is missing or another agent's, and only there."""
        self.ran(b"one")
        text, number = self.files.main.read_bytes(), self.files.main.stat().st_ino
        files.write_main(self.files)
        self.assertEqual(number, self.files.main.stat().st_ino)
        self.files.main.write_bytes(b"other")
        files.write_main(self.files)
        self.assertEqual(text, self.files.main.read_bytes())

    def test_full_disk(self) -> None:
        """A first run for which there is no room changes nothing that runs."""
        self.uploaded(b"one")
        with full_disk():
            self.assertRaises(OSError, files.begin_run, self.files)
        self.assertIsNone(self.running())

    def test_read_config(self) -> None:
        """A configuration that is not there is None."""
        self.assertIsNone(store.read_config(self.files.config))
        self.uploaded(b"vrrp_instance a {\n}\n")
        config = store.read_config(self.files.config)
        assert config is not None
        self.assertEqual({"a"}, config.names)

    def test_forget_process(self) -> None:
        """Both pid files go away; twice is no error."""
        for path in self.files.pid_files.values():
            path.touch()
        for _ in range(2):
            files.forget_process(self.files)
        self.assertEqual([], os.listdir(self.files.directory))
