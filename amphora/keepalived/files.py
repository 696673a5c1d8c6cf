"""
The files of one keepalived, and how an upload becomes what runs.

All functions may wait for a disk: they are called through `amphora.blocking`.
"""

from __future__ import annotations

import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from amphora.files import DAMAGED, beside, remove_unfinished, rename_synced, replace_file, sync_directory, write_synced


@frozen
class KeepalivedFiles(ABC):
    """The paths of one keepalived: the controller's names are given by each kind, ours lie in a directory."""

    directory: Path

    @property
    @abstractmethod
    def config(self) -> Path:
        """The configuration as it was uploaded, byte for byte."""

    @property
    def given(self) -> Path:
        """The uploaded configuration as keepalived is to have it, where that is not the very same."""
        return self.config

    @property
    @abstractmethod
    def pid_files(self) -> Mapping[str, Path]:
        """By keepalived's options for them; that of the process that was started comes first."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Lines for C{global_defs} of which only this kind has need."""
        return ()

    def as_given(self, content: bytes) -> bytes:
        """What of an upload keepalived is given."""
        return content

    @property
    def pid_file(self) -> Path:
        return next(iter(self.pid_files.values()))

    @property
    def candidate(self) -> Path:
        """An uploaded configuration that has not been checked yet."""
        return beside(self.config)

    @property
    def running(self) -> Path:
        """
        The configuration that keepalived is given: the uploaded one as it was at the last start or reload.

        A keepalived that died is started again with this, whatever was uploaded meanwhile.
        """
        return self.directory / "running.conf"

    @property
    def previous(self) -> Path:
        """What ran before, while it is not yet known whether the running configuration works."""
        return self.directory / "previous.conf"

    @property
    def main(self) -> Path:
        """What keepalived is started with: this agent's settings, and the running configuration as an include."""
        return self.directory / "agent.conf"

    @property
    def trial(self) -> Path:
        """The same for a configuration that is to be checked."""
        return beside(self.main)

    @property
    def log(self) -> Path:
        """What keepalived wrote on its own output."""
        return self.directory / "keepalived.log"

    @property
    def state(self) -> Path:
        """What is remembered beside."""
        return self.directory / "keepalived.json"


def make_open_directory(path: Path) -> None:
    """Make a directory that all may enter and read, whatever our umask is."""
    path.mkdir(parents=True, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != 0o755:
        path.chmod(0o755)


def prepare(files: KeepalivedFiles) -> None:
    """
    Make the directory, open to whomever keepalived runs scripts as, and forget what was left half-made.

    An agent that was killed when the staged upload was in its place, and the memory that goes with it was not, had
    accepted it.  (A memory that was to change alone is as good new as old.)
    """
    make_open_directory(files.directory)
    with suppress(OSError, *DAMAGED):
        if files.config.exists() and not files.candidate.exists():
            json.loads(beside(files.state).read_bytes())
            rename_synced(beside(files.state), files.state)
    remove_unfinished(files.directory)


def main_text(files: KeepalivedFiles, config: Path) -> bytes:
    """
    What makes a configuration run as we need it.

    `script_user` stands first: keepalived looks for a user `keepalived_script` at the first setting that needs one, and
    where there is none, a reload after C{enable_script_security} drops the FIFO and every check script.  With script
    security off, C{keepalived -t} hides errors behind its warning about that (seen with 2.2.7).
    """
    lines = ("script_user root", "enable_script_security", *files.settings)
    settings = "".join(f"    {line}\n" for line in lines)
    return f"# Written by the amphora agent.\nglobal_defs {{\n{settings}}}\ninclude {config.name}\n".encode()


def stage(files: KeepalivedFiles, content: bytes) -> None:
    """
    Put an upload where it can be checked.

    @raise OSError: as the system says; nothing is left there then.
    """
    try:
        write_synced(files.candidate, content)
        if files.given != files.config:
            write_synced(beside(files.given), files.as_given(content))
        write_synced(files.trial, main_text(files, beside(files.given)))
    except OSError:
        unstage(files)
        raise


def accept(files: KeepalivedFiles, state: bytes, mode: int = 0o600) -> None:
    """
    The staged upload becomes the configuration; what runs goes on with its own.

    All that needs room on the disk is written first, so that a full one changes nothing.

    @param state: What is to be remembered.
    @raise OSError: as the system says; the staged upload is gone then.
    """
    try:
        write_synced(beside(files.state), state)
        files.trial.unlink()
        files.candidate.chmod(mode)
        rename_synced(files.candidate, files.config)
        if files.given != files.config:
            rename_synced(beside(files.given), files.given)
    except OSError:
        unstage(files)
        raise
    # It is in its place, and thereby accepted.  Where a failing disk lets no memory follow, the next agent does.
    with suppress(OSError):
        rename_synced(beside(files.state), files.state)


def unstage(files: KeepalivedFiles) -> None:
    """The staged upload goes away."""
    with suppress(OSError):
        for path in (files.candidate, beside(files.given), files.trial, beside(files.state)):
            path.unlink(missing_ok=True)


def stage_again(files: KeepalivedFiles) -> None:
    """Put the accepted configuration where it can be checked: what it names may have changed.  @raise OSError: so."""
    try:
        write_synced(files.trial, main_text(files, files.given))
    except OSError:
        unstage(files)
        raise


def begin_run(files: KeepalivedFiles) -> None:
    """
    Give the uploaded configuration to keepalived, and keep what ran before until L{confirm_run}.

    A file is never changed in place, so that links serve as copies.
    """
    if files.running.exists() and not files.previous.exists():
        os.link(files.running, files.previous)
    new = beside(files.running)
    new.unlink(missing_ok=True)
    os.link(files.given, new)
    write_main(files)
    _put(new, files.running)
    sync_directory(files.directory)


def write_main(files: KeepalivedFiles) -> None:
    """Write what keepalived is started with, where this agent would write it otherwise than it stands there."""
    text = main_text(files, files.running)
    with suppress(FileNotFoundError):
        if files.main.read_bytes() == text:
            return
    replace_file(files.main, text)


def confirm_run(files: KeepalivedFiles) -> None:
    """The running configuration works: what ran before is not needed any more."""
    files.previous.unlink(missing_ok=True)


def run_is_confirmed(files: KeepalivedFiles) -> bool:
    """False if a start or reload was on its way, and what came of it was not seen."""
    return not files.previous.exists()


def return_run(files: KeepalivedFiles) -> bool:
    """
    The running configuration does not work: what ran before takes its place again.  That needs no room on the disk.

    @return: False where nothing ran before, and nothing was changed.
    """
    if not files.previous.exists():
        return False
    _put(files.previous, files.running)
    sync_directory(files.directory)
    return True


def forget_run(files: KeepalivedFiles) -> None:
    """The running configuration does not work, and none ran before: nothing is to be started again."""
    files.running.unlink(missing_ok=True)


def _put(source: Path, target: Path) -> None:
    os.rename(source, target)
    # Renaming one name of a file over another name of it does nothing: see rename(2).
    source.unlink(missing_ok=True)


def runs_upload(files: KeepalivedFiles) -> bool:
    """Is the running configuration the uploaded one?"""
    return files.running.exists() and files.running.samefile(files.given)


def forget_process(files: KeepalivedFiles) -> None:
    """
    Take away what a process that has ended leaves behind.

    A keepalived that finds any of these files, with the id of any process in it, does not start.
    """
    for path in files.pid_files.values():
        path.unlink(missing_ok=True)
