"""
Where an instance's files lie, and what of it is remembered: one directory each below the base path.

The names that a controller's templates know (`haproxy.cfg`, `ID.pid`, `../ID.sock`) are Octavia's; the
others are ours.  All functions that touch a disk may block: they are called through `amphora.blocking`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from amphora.files import (
    DAMAGED,
    beside,
    flag,
    make_directory,
    remembered,
    remove_unfinished,
    rename_synced,
    replace_file,
    sync_directory,
    write_synced,
)
from amphora.loadbalancer.haproxy_config import HaproxyConfig, parse_config
from amphora.process import read_pid_file

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@frozen
class InstanceState:
    """
    What is remembered of an instance beside its files.

    `amphora_id` is the one that the last accepted upload named (haproxy's peer name comes from it);
    `should_run` is the controller's wish; `refused` tells that no upload was accepted yet; `deleted` that a
    deletion has begun and only needs to be finished, `vips_stay` that it leaves the VIPs alone; `kept` that the
    upload does not come up, and what ran before runs in its place.
    """

    amphora_id: str = ""
    should_run: bool = False
    refused: bool = False
    deleted: bool = False
    kept: bool = False
    vips_stay: bool = False


@frozen
class InstanceFiles:
    """The paths of one instance."""

    instance_id: str
    directory: Path
    certificates: Path

    @property
    def config(self) -> Path:
        """The configuration as it was uploaded, byte for byte."""
        return self.directory / "haproxy.cfg"

    @property
    def candidate(self) -> Path:
        """An uploaded configuration that has not been checked yet."""
        return beside(self.config)

    @property
    def overlay_candidate(self) -> Path:
        """The overlay under which a candidate is checked."""
        return beside(self.overlay)

    @property
    def running(self) -> Path:
        """
        The configuration that haproxy is given: the uploaded one as it was at the last start or reload.

        So what last ran is kept when an upload turns out not to start.
        """
        return self.directory / "running.cfg"

    @property
    def previous(self) -> Path:
        """What ran before, while it is not yet known whether the running configuration works."""
        return self.directory / "previous.cfg"

    @property
    def overlay(self) -> Path:
        """What this agent adds to the running configuration."""
        return self.directory / "agent.cfg"

    @property
    def previous_overlay(self) -> Path:
        """What this agent added to the previous configuration."""
        return self.directory / "previous-agent.cfg"

    @property
    def pid_file(self) -> Path:
        return self.directory / f"{self.instance_id}.pid"

    @property
    def stats_socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def master_socket(self) -> Path:
        return self.directory / "master.sock"

    @property
    def log(self) -> Path:
        """What haproxy wrote on its own output."""
        return self.directory / "haproxy.log"

    @property
    def state(self) -> Path:
        return self.directory / "instance.json"


class BasePathTaken(Exception):
    """Another agent works on the same files."""


@frozen
class Store:
    """All instances' files below a base path and a certificate path."""

    base_path: Path
    base_cert_dir: Path

    @property
    def spool(self) -> Path:
        """Where uploads are collected: on the file system of their places, so that they can be renamed there."""
        return self.base_path / "spool"

    def lock(self) -> int:
        """
        Claim the base path for this agent, until the descriptor is closed or the process ends.

        @raise BasePathTaken: if another agent has it: two of them would take each other's haproxies for dead.
        """
        self.base_path.mkdir(parents=True, exist_ok=True)
        path = self.base_path / "agent.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            if not path.exists():
                raise
            # A disk that takes nothing keeps no agent from seeing to what runs.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BasePathTaken(f"another agent runs with base_path {self.base_path}") from None
        return handle

    @property
    def vrrp(self) -> Path:
        """Where keepalived's files are; the controller's templates know the name."""
        return self.base_path / "vrrp"

    @property
    def notify_socket(self) -> Path:
        return self.base_path / "notify.sock"

    @property
    def sessions_socket(self) -> Path:
        """Where sessions with old workers are kept when no agent runs."""
        return self.base_path / "sessions.sock"

    def prepare(self) -> None:
        """Make the directories that all else needs, and forget what an earlier agent left half-collected."""
        self.base_path.mkdir(parents=True, exist_ok=True)
        self.base_cert_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_unfinished(self.base_path)
        shutil.rmtree(self.spool, ignore_errors=True)
        with suppress(OSError):
            self.spool.mkdir(mode=0o700, exist_ok=True)
        for parent in (self.base_path, self.base_cert_dir):
            for directory in parent.iterdir():
                if UUID.fullmatch(directory.name) and not directory.is_symlink():
                    if parent == self.base_path:
                        _finish_acceptance(self.files(directory.name))
                    remove_unfinished(directory)
                    with suppress(OSError):
                        directory.rmdir()

    def files(self, instance_id: str) -> InstanceFiles:
        return InstanceFiles(instance_id, self.base_path / instance_id, self.base_cert_dir / instance_id)

    def instance_ids(self) -> list[str]:
        """Every instance of which there is a configuration, a pid file, a stats socket or a memory."""
        found = []
        for entry in sorted(os.listdir(self.base_path)):
            files = self.files(entry)
            signs = (files.config, files.pid_file, files.stats_socket, files.state, self.base_path / f"{entry}.sock")
            if UUID.fullmatch(entry) and files.directory.is_dir() and any(sign.exists() for sign in signs):
                found.append(entry)
        return found

    def certificate_ids(self) -> list[str]:
        """Every id of which there are certificates, whether or not there is an instance."""
        return [entry for entry in sorted(os.listdir(self.base_cert_dir)) if UUID.fullmatch(entry)]

    def new_spool_file(self) -> tuple[int, Path]:
        """A new empty file to collect an upload in: its descriptor, open for writing, and its path."""
        self.spool.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.spool)
        return handle, Path(name)


def load_state(files: InstanceFiles, *, runs: bool = False) -> InstanceState:
    """
    What is remembered.

    A memory that is missing or damaged gives way to what can be seen: a configuration, and a haproxy or its pid file,
    are what an instance that should run leaves behind.

    @param runs: Is there a haproxy of this instance?
    """
    state = remembered(files.state, _decode_state)
    if state is None:
        accepted = files.config.exists() or files.running.exists()
        return InstanceState(should_run=accepted and (runs or files.pid_file.exists()), refused=not accepted)
    return state


def recover_upload(files: InstanceFiles) -> bool:
    """
    Where the upload is lost, and what ran last is not, that takes its place.

    @return: Was it so?
    """
    if files.config.exists() or not files.running.exists():
        return False
    os.link(files.running, files.config)
    return True


def save_state(files: InstanceFiles, state: InstanceState) -> None:
    """@raise OSError: as the system says; what was remembered before still is then."""
    make_directory(files.directory)
    replace_file(files.state, _encode_state(state))


def _decode_state(known: Any) -> InstanceState:
    """@raise ValueError, TypeError, KeyError, AttributeError: for what is none."""
    amphora_id = known["amphora_id"]
    if amphora_id != "" and not UUID.fullmatch(amphora_id):
        raise ValueError("it names no amphora")
    return InstanceState(
        amphora_id=amphora_id,
        should_run=flag(known, "should_run"),
        refused=flag(known, "refused"),
        deleted=flag(known, "deleted"),
        kept=known.get("kept") is True,
        vips_stay=known.get("vips_stay") is True,
    )


def _encode_state(state: InstanceState) -> bytes:
    return json.dumps(asdict(state)).encode() + b"\n"


def stage_configuration(files: InstanceFiles, spooled: Path, overlay: bytes) -> None:
    """
    Put an upload and its overlay beside the places that they are meant for.

    @raise OSError: as the system says; nothing is left there then.
    """
    make_directory(files.directory)
    try:
        write_synced(files.overlay_candidate, overlay)
        os.chmod(spooled, 0o600)
        rename_synced(spooled, files.candidate)
    except OSError:
        unstage(files)
        raise


def accept_configuration(files: InstanceFiles, state: InstanceState) -> None:
    """
    The staged upload becomes the configuration; what runs goes on with its own.

    All that needs room on the disk is written first, so that a full one changes nothing.

    @raise OSError: as the system says; the staged upload is gone then.
    """
    try:
        write_synced(beside(files.state), _encode_state(state))
        files.overlay_candidate.unlink()
        rename_synced(files.candidate, files.config)
    except OSError:
        if files.candidate.exists():
            unstage(files)
            raise
    # It is in its place, and thereby accepted.  Where a failing disk lets no memory follow, the next agent does.
    with suppress(OSError):
        rename_synced(beside(files.state), files.state)


def _finish_acceptance(files: InstanceFiles) -> None:
    """
    An agent that was killed when the staged upload was in its place, and the memory that goes with it was not, had
    accepted it.  (A memory that was to change alone is as good new as old.)
    """
    with suppress(OSError, *DAMAGED):
        if files.config.exists() and not files.candidate.exists():
            _decode_state(json.loads(beside(files.state).read_bytes()))
            rename_synced(beside(files.state), files.state)


def refuse_configuration(files: InstanceFiles, state: InstanceState) -> None:
    """
    The staged upload goes away; where nothing better is, it is remembered that there was one.

    @raise OSError: as the system says, if that could not be remembered.
    """
    unstage(files)
    if not files.config.exists() or load_state(files) != state:
        save_state(files, state)


def unstage(files: InstanceFiles) -> None:
    """The staged upload goes away, and of an instance that was not there before, all of it."""
    with suppress(OSError):
        for path in (files.candidate, files.overlay_candidate, beside(files.state)):
            path.unlink(missing_ok=True)
        # Of an instance that was not there before, nothing is left.
        files.directory.rmdir()


def begin_run(files: InstanceFiles, overlay: bytes) -> None:
    """
    Give the uploaded configuration to haproxy, and keep what ran before until L{confirm_run}.

    A file is never changed in place, so that links serve as copies.

    @raise OSError: as the system says; what is given to haproxy is as it was then, and so is the room on the disk.
    """
    links = [(files.config, beside(files.running))]
    if files.running.exists() and not files.previous.exists():
        links.append((files.running, files.previous))
        if files.overlay.exists():
            links.append((files.overlay, files.previous_overlay))
    try:
        write_synced(beside(files.overlay), overlay)
        for path, link in links:
            link.unlink(missing_ok=True)
            os.link(path, link)
    except OSError:
        for path in (beside(files.overlay), *(link for _, link in links)):
            path.unlink(missing_ok=True)
        raise
    rename_synced(beside(files.overlay), files.overlay)
    _put(beside(files.running), files.running)


def confirm_run(files: InstanceFiles) -> None:
    """The running configuration works: what ran before is not needed any more."""
    files.previous_overlay.unlink(missing_ok=True)
    # Last: as long as it is there, the next agent does this.
    files.previous.unlink(missing_ok=True)


def return_run(files: InstanceFiles) -> None:
    """
    The running configuration does not work: what ran before, if anything did, takes its place again.

    That needs no room on the disk.
    """
    if files.previous.exists():
        if files.previous_overlay.exists():
            _put(files.previous_overlay, files.overlay)
        _put(files.previous, files.running)
    else:
        files.running.unlink(missing_ok=True)
        files.overlay.unlink(missing_ok=True)


def _put(source: Path, target: Path) -> None:
    rename_synced(source, target)
    # Renaming one name of a file over another name of it does nothing: see rename(2).
    source.unlink(missing_ok=True)


def is_marked(files: InstanceFiles, mark: str) -> bool:
    """Does one line of the running configuration's overlay end in this?"""
    return any(line.endswith(f" {mark}") for line in files.overlay.read_text().splitlines())


def has_other_to_run(files: InstanceFiles) -> bool:
    """Is there a running configuration, and is it another than what was uploaded last?"""
    return files.running.exists() and not files.running.samefile(files.config)


def require_socket_room(files: InstanceFiles, sockets: tuple[Path, ...]) -> None:
    """
    Make sure that haproxy can make its sockets anew: where it cannot, a reload ends it.

    @raise OSError: as the system says.
    """
    for directory in {files.directory, *(path.parent for path in sockets)}:
        # So named that the next agent takes them away if this one is killed now; nor do they mislead this one then.
        trial, second = beside(directory / "trial"), beside(directory / "trial.bak")
        try:
            for path in (trial, second):
                path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(str(trial))
            os.link(trial, second)
        finally:
            for path in (trial, second):
                path.unlink(missing_ok=True)


def read_config(path: Path) -> HaproxyConfig | None:
    """What a configuration file says; None where there is no such file."""
    try:
        return parse_config(path.read_bytes())
    except FileNotFoundError:
        return None


def read_pid(files: InstanceFiles) -> int | None:
    """The process id that haproxy left in its pid file; None where there is no file, or no number in it."""
    return read_pid_file(files.pid_file)


def forget_process(files: InstanceFiles) -> None:
    """Take away what a process that has ended leaves behind."""
    for path in (files.pid_file, files.stats_socket, files.master_socket):
        path.unlink(missing_ok=True)


def remove_instance(files: InstanceFiles, sockets: tuple[Path, ...]) -> None:
    """
    Take away all of an instance whose haproxy has ended: certificates, logs, sockets, configuration; its memory goes
    last.

    @param sockets: what the configuration names; those outside of the base path are not ours to remove.
    """
    remove_certificates(files)
    base = files.directory.parent.resolve()
    for path in (*sockets, files.directory.parent / f"{files.instance_id}.sock"):
        if path.parent.resolve().is_relative_to(base) and _is_abandoned_socket(path):
            path.unlink(missing_ok=True)
    if not files.directory.is_symlink():
        for entry in files.directory.iterdir():
            if entry != files.state:
                _remove_tree(entry)
    _remove_tree(files.directory)
    sync_directory(files.directory.parent)


def remove_certificates(files: InstanceFiles) -> bool:
    """Take away all of an instance's certificates.  @return: Whether there were any."""
    if not os.path.lexists(files.certificates):
        return False
    _remove_tree(files.certificates)
    sync_directory(files.certificates.parent)
    return True


def _is_abandoned_socket(path: Path) -> bool:
    """A configuration may name any path, also that of a socket on which another process listens."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
