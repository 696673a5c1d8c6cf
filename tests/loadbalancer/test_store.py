"""Tests for L{amphora.loadbalancer.store}."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.files import beside
from amphora.loadbalancer import store
from amphora.loadbalancer.store import BasePathTaken, InstanceState, Store
from amphora.testing.fakes import full_disk
from tests.integration.support import short_directory

ID = "11111111-0000-4000-8000-000000000001"
OTHER = "11111111-0000-4000-8000-000000000002"
AMPHORA = "22222222-0000-4000-8000-000000000001"
RUNNING = InstanceState(amphora_id=AMPHORA, should_run=True)


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.outside = short_directory(self)
        self.store = Store(self.outside / "base", self.outside / "base" / "certs")
        self.store.prepare()
        self.files = self.store.files(ID)

    def spooled(self, content: bytes = b"new") -> Path:
        handle, path = self.store.new_spool_file()
        os.write(handle, content)
        os.close(handle)
        return path

    def accepted(self, content: bytes = b"old", state: InstanceState = RUNNING) -> None:
        """Store a configuration as an upload does."""
        store.stage_configuration(self.files, self.spooled(content), b"overlay of " + content)
        store.accept_configuration(self.files, state)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.files.directory))

    def listening(self, path: Path) -> socket.socket:
        """A socket on which somebody listens until the test ends, or closes it."""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(path))
        listener.listen()
        return listener

    def abandoned(self, path: Path) -> Path:
        """A socket that a process left behind."""
        self.listening(path).close()
        return path


class LayoutTests(StoreTestCase):
    """Where files lie."""

    def test_paths(self) -> None:
        """The names that a controller's templates know are Octavia's."""
        base = self.store.base_path
        self.assertEqual(base / ID / "haproxy.cfg", self.files.config)
        self.assertEqual(base / ID / f"{ID}.pid", self.files.pid_file)
        self.assertEqual(base / "certs" / ID, self.files.certificates)

    def test_all_in_one_directory(self) -> None:
        """Everything of an instance but its certificates is in its directory, each file under a name of its own."""
        names = ("config", "candidate", "overlay", "overlay_candidate", "pid_file", "stats_socket", "master_socket")
        paths = [getattr(self.files, name) for name in (*names, "log", "state", "running", "previous")]
        self.assertEqual({self.files.directory}, {path.parent for path in paths})
        self.assertEqual(11, len(set(paths)))

    def test_prepare(self) -> None:
        """The directories are made, those that hold what clients sent for us alone; again, nothing changes."""
        self.store.prepare()
        for path in (self.store.spool, self.store.base_cert_dir):
            self.assertEqual(0o700, stat.S_IMODE(path.stat().st_mode))

    def test_prepare_removes_leftovers(self) -> None:
        """What an agent that was killed left half-done goes away, and only that."""
        self.spooled()
        self.accepted()
        self.files.candidate.write_bytes(b"half")
        self.files.certificates.mkdir()
        (self.files.certificates / ".a.pem.new").write_bytes(b"half a key")
        (self.files.certificates / "a.pem").write_bytes(b"key")
        (self.store.base_path / "not-ours").mkdir()
        (self.store.base_path / "not-ours" / ".a.new").touch()
        (self.store.base_path / OTHER).touch()
        self.store.prepare()
        self.assertEqual([], os.listdir(self.store.spool))
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())
        self.assertEqual(["a.pem"], os.listdir(self.files.certificates))
        self.assertEqual([".a.new"], os.listdir(self.store.base_path / "not-ours"))

    def test_prepare_finishes_an_acceptance(self) -> None:
        """What goes with an upload that is in its place is remembered, also if the agent was killed before."""
        self.accepted(state=InstanceState(refused=True))
        unfinished = beside(self.files.state)
        for content, remembered in ((b"{", InstanceState(refused=True)), (self.memory(RUNNING), RUNNING)):
            unfinished.write_bytes(content)
            self.store.prepare()
            self.assertEqual(remembered, store.load_state(self.files))
            self.assertFalse(unfinished.exists())

    def test_prepare_forgets_what_was_not_accepted(self) -> None:
        """The memory that goes with an upload that is not in its place yet goes away with it."""
        self.accepted()
        self.files.candidate.write_bytes(b"new")
        beside(self.files.state).write_bytes(self.memory(InstanceState()))
        self.store.prepare()
        self.assertEqual((RUNNING, b"old"), (store.load_state(self.files), self.files.config.read_bytes()))

    def memory(self, state: InstanceState) -> bytes:
        return json.dumps(asdict(state)).encode()

    def test_lock_on_a_failing_disk(self) -> None:
        """Where a file cannot be made or written to, one that is there is locked all the same; where none is, no."""
        os.close(self.store.lock())

        def fail(path: Any, flags: int, *more: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, "Read-only file system")
            return real(path, flags, *more)

        real = os.open
        self.patch(os, "open", fail)
        handle = self.store.lock()
        self.assertRaises(BasePathTaken, self.store.lock)
        os.close(handle)
        (self.store.base_path / "agent.lock").unlink()
        self.assertRaises(OSError, self.store.lock)

    def test_prepare_follows_no_link(self) -> None:
        """A link in an instance's place is not looked into."""
        (self.outside / ".a.new").touch()
        (self.store.base_path / ID).symlink_to(self.outside)
        self.store.prepare()
        self.assertTrue((self.outside / ".a.new").exists())

    def test_spool_file(self) -> None:
        """Each upload is collected in a file of its own, for us alone, on the file system of its place."""
        first, second = self.spooled(), self.spooled()
        self.assertNotEqual(first, second)
        self.assertEqual(0o600, stat.S_IMODE(first.stat().st_mode))
        self.assertTrue(first.is_relative_to(self.store.base_path))

    def test_instance_ids(self) -> None:
        """An instance is a directory named by a UUID, of which there is anything that matters, in order."""
        signs = (
            lambda files: files.config.touch(),
            lambda files: files.pid_file.touch(),
            lambda files: files.stats_socket.touch(),
            lambda files: files.state.touch(),
            lambda files: (self.store.base_path / f"{files.instance_id}.sock").touch(),
        )
        ids = [f"{number}1111111-0000-4000-8000-000000000001" for number in range(len(signs))]
        for instance_id, sign in reversed([*zip(ids, signs, strict=True)]):
            files = self.store.files(instance_id)
            files.directory.mkdir()
            self.assertNotIn(instance_id, self.store.instance_ids())
            sign(files)
        self.store.files(OTHER).directory.mkdir()
        for name in ("not-a-uuid", ID.upper().replace("1", "A"), f"{ID}x"):
            (self.store.base_path / name).mkdir()
            (self.store.base_path / name / "haproxy.cfg").touch()
        (self.store.base_path / OTHER[:-1]).touch()
        self.assertEqual(ids, self.store.instance_ids())


class StateTests(StoreTestCase):
    """What is remembered."""

    def test_remembered(self) -> None:
        """What is saved is loaded."""
        for state in (
            *(InstanceState(), RUNNING, InstanceState(AMPHORA, False, True, True)),
            *(InstanceState(kept=True), InstanceState(deleted=True, vips_stay=True)),
        ):
            store.save_state(self.files, state)
            self.assertEqual(state, store.load_state(self.files))
            self.assertEqual(0o600, stat.S_IMODE(self.files.state.stat().st_mode))

    def test_nothing_remembered(self) -> None:
        """Without a memory a configuration, and a haproxy or its pid file, tell that it should run."""
        self.assertEqual(InstanceState(refused=True), store.load_state(self.files))
        self.files.directory.mkdir()
        self.files.pid_file.touch()
        self.assertEqual(InstanceState(refused=True), store.load_state(self.files))
        self.files.config.touch()
        self.assertEqual(InstanceState(should_run=True), store.load_state(self.files))
        self.files.pid_file.unlink()
        self.assertEqual(InstanceState(), store.load_state(self.files))
        self.assertEqual(InstanceState(should_run=True), store.load_state(self.files, runs=True))

    def test_lost_upload(self) -> None:
        """An upload that is lost is what ran last, where anything did: also if nothing is remembered."""
        self.files.directory.mkdir()
        self.assertFalse(store.recover_upload(self.files))
        self.files.running.write_bytes(b"ran")
        self.assertEqual(InstanceState(should_run=True), store.load_state(self.files, runs=True))
        self.assertTrue(store.recover_upload(self.files))
        self.assertEqual((b"ran", False), (self.files.config.read_bytes(), store.recover_upload(self.files)))

    def test_damaged(self) -> None:
        """A memory that is damaged in any way gives way to what lies there, and the log tells it."""
        self.accepted()
        whole = json.dumps(asdict(RUNNING))
        peerless = json.dumps({**asdict(RUNNING), "amphora_id": "\ud800"}).encode()
        damages = (b"", b"\0\0", b"[]", b"7", b"{}", b"null", whole[:-5].encode(), b"9" * 5000, b'"\xff"', peerless)
        for content in (*damages, b"[" * 100_000):
            self.files.state.write_bytes(content)
            with capturedLogs() as log:
                self.assertEqual(InstanceState(), store.load_state(self.files), content)
            self.assertIn(f"{self.files.state} cannot be used: ", "\n".join(map(formatEvent, log)))
        self.files.state.unlink()
        self.files.state.mkdir()
        self.assertEqual(InstanceState(), store.load_state(self.files))

    @given(st.binary() | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps).map(str.encode))
    def test_any_memory(self, content: bytes) -> None:
        """Any bytes give a state."""
        self.files.directory.mkdir(exist_ok=True)
        self.files.state.write_bytes(content)
        self.assertIsInstance(store.load_state(self.files), InstanceState)

    def test_save_fails(self) -> None:
        """What could not be saved leaves what was remembered."""
        store.save_state(self.files, RUNNING)
        with full_disk():
            self.assertRaises(OSError, store.save_state, self.files, InstanceState())
        self.assertEqual(RUNNING, store.load_state(self.files))
        self.assertEqual(["instance.json"], self.names())


class ConfigurationTests(StoreTestCase):
    """Uploads: staged, then accepted or refused."""

    def test_accept(self) -> None:
        """An accepted upload is the configuration, with its memory, for us alone; what runs goes on with its own."""
        self.accepted(b"new")
        self.assertEqual(b"new", self.files.config.read_bytes())
        self.assertEqual(RUNNING, store.load_state(self.files))
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())
        self.assertEqual(0o600, stat.S_IMODE(self.files.config.stat().st_mode))
        self.assertEqual([], os.listdir(self.store.spool))

    def test_stage(self) -> None:
        """A staged upload changes nothing that counts."""
        self.accepted()
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        self.assertEqual(b"old", self.files.config.read_bytes())
        self.assertEqual(b"new", self.files.candidate.read_bytes())
        self.assertEqual(b"overlay", self.files.overlay_candidate.read_bytes())

    def test_refuse(self) -> None:
        """A refused upload is gone, and what was before is as it was."""
        self.accepted()
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        store.refuse_configuration(self.files, RUNNING)
        self.assertEqual(b"old", self.files.config.read_bytes())
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())

    def test_refuse_the_first(self) -> None:
        """Of a first upload that was refused, it is remembered that there was one."""
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        store.refuse_configuration(self.files, InstanceState(refused=True))
        self.assertEqual(["instance.json"], self.names())
        self.assertEqual([ID], self.store.instance_ids())
        self.assertTrue(store.load_state(self.files).refused)

    def test_refuse_on_a_full_disk(self) -> None:
        """Where a refusal changes nothing that is remembered, it needs no room."""
        self.accepted()
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        with full_disk():
            store.refuse_configuration(self.files, RUNNING)
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())

    def test_stage_on_a_full_disk(self) -> None:
        """An upload that finds no room leaves nothing: of a new instance, not even a directory."""
        spooled = self.spooled()
        with full_disk():
            self.assertRaises(OSError, store.stage_configuration, self.files, spooled, b"overlay")
        self.assertFalse(self.files.directory.exists())
        self.accepted()
        with full_disk():
            self.assertRaises(OSError, store.stage_configuration, self.files, spooled, b"overlay")
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())

    def test_accept_on_a_full_disk(self) -> None:
        """An upload whose memory finds no room is not accepted, in no part."""
        self.accepted()
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        with full_disk():
            self.assertRaises(OSError, store.accept_configuration, self.files, InstanceState(amphora_id=OTHER))
        self.assertEqual(b"old", self.files.config.read_bytes())
        self.assertEqual(RUNNING, store.load_state(self.files))
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())

    def test_accept_without_its_memory(self) -> None:
        """An upload that is in its place is accepted, though its memory cannot follow; the next agent sees to that."""
        self.accepted()
        store.stage_configuration(self.files, self.spooled(), b"overlay")

        def fail(source: Any, target: Path) -> None:
            if target == self.files.state:
                raise OSError(errno.EIO, "Input/output error")
            real(source, target)

        real = os.rename
        patched = self.patch(os, "rename", fail)
        store.accept_configuration(self.files, InstanceState(amphora_id=OTHER))
        patched.restore()
        self.assertEqual(RUNNING, store.load_state(self.files))
        self.store.prepare()
        self.assertEqual(OTHER, store.load_state(self.files).amphora_id)

    def test_accept_fails_half_way(self) -> None:
        """Where the configuration cannot take its place, the old one stays, and with it what is remembered."""
        self.files.directory.mkdir()
        self.files.config.mkdir()
        store.save_state(self.files, RUNNING)
        store.stage_configuration(self.files, self.spooled(), b"overlay")
        self.assertRaises(OSError, store.accept_configuration, self.files, InstanceState())
        self.assertEqual(RUNNING, store.load_state(self.files))
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())


class RunTests(StoreTestCase):
    """What haproxy is given, and what it was given before."""

    def uploaded(self, content: bytes) -> None:
        self.accepted(content)

    def running(self) -> tuple[bytes, bytes]:
        return self.files.running.read_bytes(), self.files.overlay.read_bytes()

    def confirmed(self, content: bytes) -> None:
        self.uploaded(content)
        store.begin_run(self.files, b"overlay of " + content)
        store.confirm_run(self.files)

    def test_confirmed(self) -> None:
        """What came up is what runs, and nothing is left of what ran before."""
        self.confirmed(b"one")
        self.confirmed(b"two")
        self.assertEqual((b"two", b"overlay of two"), self.running())
        self.assertEqual(["agent.cfg", "haproxy.cfg", "instance.json", "running.cfg"], self.names())

    def test_returned(self) -> None:
        """What did not come up gives way to what ran before; the upload stays as it is."""
        self.confirmed(b"one")
        self.uploaded(b"two")
        store.begin_run(self.files, b"overlay of two")
        self.assertEqual((b"two", b"overlay of two"), self.running())
        store.return_run(self.files)
        self.assertEqual((b"one", b"overlay of one"), self.running())
        self.assertEqual(b"two", self.files.config.read_bytes())
        self.assertEqual(["agent.cfg", "haproxy.cfg", "instance.json", "running.cfg"], self.names())

    def test_other_to_run(self) -> None:
        """What ran before is another than the upload until that is given to haproxy."""
        self.uploaded(b"one")
        self.assertFalse(store.has_other_to_run(self.files))
        self.confirmed(b"one")
        self.assertFalse(store.has_other_to_run(self.files))
        self.uploaded(b"two")
        self.assertTrue(store.has_other_to_run(self.files))
        store.begin_run(self.files, b"")
        store.return_run(self.files)
        self.assertTrue(store.has_other_to_run(self.files))

    def test_first_that_fails(self) -> None:
        """Where nothing ran before, nothing is left to run."""
        self.uploaded(b"one")
        store.begin_run(self.files, b"overlay")
        store.return_run(self.files)
        self.assertEqual(["haproxy.cfg", "instance.json"], self.names())

    def test_same_again(self) -> None:
        """The same upload once more, confirmed or not, leaves all as it is."""
        self.confirmed(b"one")
        for end in (lambda: store.confirm_run(self.files), lambda: store.return_run(self.files)):
            store.begin_run(self.files, b"overlay of one")
            end()
            self.assertEqual((b"one", b"overlay of one"), self.running())
            self.assertEqual(["agent.cfg", "haproxy.cfg", "instance.json", "running.cfg"], self.names())

    def test_broken_off(self) -> None:
        """An agent that dies in between leaves what ran before, however often that happens."""
        self.confirmed(b"one")
        for content in (b"two", b"three"):
            self.uploaded(content)
            store.begin_run(self.files, b"overlay")
            self.assertEqual(b"one", self.files.previous.read_bytes())

    def test_returned_without_room(self) -> None:
        """What ran before is given back on a full disk too."""
        self.confirmed(b"one")
        self.uploaded(b"two")
        store.begin_run(self.files, b"overlay of two")
        with full_disk():
            store.return_run(self.files)
        self.assertEqual((b"one", b"overlay of one"), self.running())

    def test_returned_in_two_steps(self) -> None:
        """An agent that dies while it gives back what ran before leaves it for the next one to do."""
        self.confirmed(b"one")
        self.uploaded(b"two")
        store.begin_run(self.files, b"overlay of two")
        self.files.previous_overlay.rename(self.files.overlay)
        store.return_run(self.files)
        self.assertEqual((b"one", b"overlay of one"), self.running())

    def test_marks(self) -> None:
        """A mark is that of what runs if it stands at the end of a line of the overlay, whole."""
        self.uploaded(b"one")
        store.begin_run(self.files, b"global\n    setenv NAME 12\n")
        self.assertTrue(store.is_marked(self.files, "NAME 12"))
        for other in ("NAME 1", "NAME ", "AME 12", "NAME 123"):
            self.assertFalse(store.is_marked(self.files, other), other)

    def test_full_disk(self) -> None:
        """Without room for the overlay, what runs is as it was."""
        self.confirmed(b"one")
        self.uploaded(b"two")
        with full_disk():
            self.assertRaises(OSError, store.begin_run, self.files, b"overlay of two")
        self.assertEqual((b"one", b"overlay of one"), self.running())

    def test_read_config(self) -> None:
        """A configuration that is not there is None."""
        self.assertIsNone(store.read_config(self.files.running))
        self.confirmed(b"backend b\n server a 127.0.0.1\n")
        config = store.read_config(self.files.running)
        assert config is not None
        self.assertEqual(1, config.members)


class ProcessTests(StoreTestCase):
    """What a running haproxy leaves."""

    def setUp(self) -> None:
        super().setUp()
        self.files.directory.mkdir()

    def test_read_pid(self) -> None:
        """A process id is a positive number and nothing else."""
        self.assertIsNone(store.read_pid(self.files))
        for content, pid in (
            (b"123\n", 123),
            (b" 123 ", 123),
            (b"", None),
            (b"0", None),
            (b"-1", None),
            (b"1 2", None),
            (b"1\n2\n", None),
            (b"garbage", None),
            (b"\xb2", None),
            (b"9" * 10_000, None),
            (str(2**31).encode(), None),
        ):
            self.files.pid_file.write_bytes(content)
            self.assertEqual(pid, store.read_pid(self.files), content)
        self.files.pid_file.unlink()
        self.files.pid_file.mkdir()
        self.assertIsNone(store.read_pid(self.files))

    def test_forget(self) -> None:
        """What a process that has ended leaves behind goes away; twice is no error."""
        self.files.pid_file.touch()
        self.abandoned(self.files.stats_socket)
        self.files.config.touch()
        for _ in range(2):
            store.forget_process(self.files)
            self.assertEqual(["haproxy.cfg"], self.names())


class RemoveTests(StoreTestCase):
    """The end of an instance."""

    def remove(self, *sockets: Path) -> None:
        store.remove_instance(self.files, sockets)
        self.assertFalse(os.path.lexists(self.files.directory))
        self.assertFalse(os.path.lexists(self.files.certificates))

    def test_all(self) -> None:
        """Certificates, logs, sockets, and whatever else lies there; the other instances stay."""
        other = self.store.files(OTHER)
        other.directory.mkdir()
        other.certificates.mkdir()
        self.accepted()
        self.files.log.touch()
        self.files.certificates.mkdir()
        (self.files.certificates / "a.pem").touch()
        (self.files.directory / "states").mkdir()
        (self.files.directory / "states" / "1").touch()
        self.abandoned(self.files.stats_socket)
        named = self.abandoned(self.store.base_path / "named.sock")
        octavia = self.abandoned(self.store.base_path / f"{ID}.sock")
        self.remove(named)
        self.assertFalse(named.exists() or octavia.exists())
        self.assertTrue(other.directory.exists() and other.certificates.exists())
        self.assertEqual([], self.store.instance_ids())

    def test_certificates_alone(self) -> None:
        """Certificates may be there without an instance, and go without it."""
        self.assertFalse(store.remove_certificates(self.files))
        self.assertEqual([], self.store.certificate_ids())
        for files in (self.files, self.store.files(OTHER), self.store.files("something else")):
            files.certificates.mkdir()
            (files.certificates / "a.pem").touch()
        self.assertEqual([ID, OTHER], self.store.certificate_ids())
        self.assertTrue(store.remove_certificates(self.files))
        self.assertEqual([OTHER], self.store.certificate_ids())

    def test_without_certificates(self) -> None:
        """An instance that had no certificates, whose directory even is not there, is removed all the same."""
        self.accepted()
        self.store.base_cert_dir.rmdir()
        self.remove()

    def test_again(self) -> None:
        """A removal that was broken off is finished by the next: the memory of it goes last."""
        self.accepted(state=InstanceState(deleted=True))
        self.files.config.unlink()
        self.assertEqual([ID], self.store.instance_ids())
        self.assertTrue(store.load_state(self.files).deleted)
        self.remove()

    def test_links(self) -> None:
        """Links are removed, never what they lead to."""
        treasure = self.outside / "treasure"
        (treasure / "inside").mkdir(parents=True)
        self.accepted()
        (self.files.directory / "link").symlink_to(treasure)
        (self.files.directory / "deep").mkdir()
        (self.files.directory / "deep" / "link").symlink_to(treasure)
        self.files.certificates.symlink_to(treasure)
        self.remove()
        self.assertEqual(["inside"], os.listdir(treasure))

    def test_link_in_its_place(self) -> None:
        """An instance's directory that is a link is removed as a link."""
        treasure = self.outside / "treasure"
        treasure.mkdir()
        (treasure / "haproxy.cfg").touch()
        self.files.directory.symlink_to(treasure)
        self.remove()
        self.assertEqual(["haproxy.cfg"], os.listdir(treasure))

    def test_sockets_elsewhere(self) -> None:
        """What a configuration names outside of the base path is not ours, however it is written."""
        (self.outside / "else").mkdir()
        (self.store.base_path / "link").symlink_to(self.outside / "else")
        elsewhere = [
            self.abandoned(self.outside / "a.sock"),
            self.store.base_path / ".." / "a.sock",
            self.abandoned(self.outside / "else" / "b.sock"),
            self.store.base_path / "link" / "b.sock",
        ]
        self.accepted()
        self.remove(*elsewhere)
        self.assertTrue(all(path.is_socket() for path in elsewhere))

    def test_base_path_that_is_a_link(self) -> None:
        """A base path that is reached through a link is one all the same."""
        (self.outside / "alias").symlink_to(self.store.base_path)
        self.abandoned(self.store.base_path / "a.sock")
        self.accepted()
        self.remove(self.outside / "alias" / "a.sock")
        self.assertFalse((self.store.base_path / "a.sock").exists())

    def test_sockets_in_use(self) -> None:
        """A socket on which somebody else listens stays, also if a configuration claimed it: ours for one."""
        other = self.store.files(OTHER)
        other.directory.mkdir()
        self.listening(other.stats_socket)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self.store.notify_socket))
            self.accepted()
            self.remove(other.stats_socket, self.store.notify_socket)
        self.assertTrue(other.stats_socket.is_socket() and self.store.notify_socket.is_socket())

    def test_what_is_no_socket(self) -> None:
        """A file that a configuration calls its socket stays."""
        file = self.store.base_path / "file"
        file.touch()
        self.accepted()
        self.remove(file, self.store.base_path / "nowhere", Path("/\0"))
        self.assertTrue(file.exists())
