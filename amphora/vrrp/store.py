"""
Where keepalived's files lie, and what is remembered of it: one directory below the base path.

The names `octavia-keepalived.conf`, `octavia-keepalived.pid` and `check_script.sh` are Octavia's; the others are ours.
All functions may wait for a disk: they are called through `amphora.blocking`.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from attrs import asdict, frozen

from amphora.files import beside, remove_unfinished, rename_synced, replace_file, sync_directory, write_synced
from amphora.vrrp.keepalived_config import KeepalivedConfig, parse_config


@frozen
class VrrpState:
    """
    What is remembered beside the files.

    `should_run` is the controller's wish; `retired` tells that it wished for an amphora without a peer since the last
    upload or start.
    """

    should_run: bool = False
    retired: bool = False


@frozen
class VrrpFiles:
    """The paths of the amphora's keepalived."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration as it was uploaded, byte for byte."""
        return self.directory / "octavia-keepalived.conf"

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
    def fifo(self) -> Path:
        """Where keepalived tells its role."""
        return self.directory / "notify.fifo"

    @property
    def pid_file(self) -> Path:
        return self.directory / "octavia-keepalived.pid"

    @property
    def vrrp_pid_file(self) -> Path:
        """That of keepalived's child, which speaks VRRP."""
        return self.directory / "octavia-keepalived.vrrp.pid"

    @property
    def log(self) -> Path:
        """What keepalived wrote on its own output."""
        return self.directory / "keepalived.log"

    @property
    def state(self) -> Path:
        return self.directory / "keepalived.json"


def prepare(files: VrrpFiles) -> None:
    """Make the directory, open to whomever keepalived runs scripts as, and forget what was left half-made."""
    make_open_directory(files.directory)
    remove_unfinished(files.directory)


def make_open_directory(path: Path) -> None:
    """Make a directory that all may enter and read, whatever our umask is."""
    path.mkdir(parents=True, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != 0o755:
        path.chmod(0o755)


def main_text(files: VrrpFiles, config: Path) -> bytes:
    """
    What makes a configuration run as we need it.

    `script_user` stands first: keepalived looks for a user `keepalived_script` at the first setting that needs one, and
    where there is none, a reload after C{enable_script_security} drops the FIFO and every check script.  With script
    security off, C{keepalived -t} hides errors behind its warning about that (seen with 2.2.7).
    """
    return f"""\
# Written by the amphora agent.
global_defs {{
    script_user root
    enable_script_security
    vrrp_notify_fifo "{files.fifo}" root root
}}
include {config.name}
""".encode()


def load_state(files: VrrpFiles) -> VrrpState:
    """What is remembered; a memory that is missing or damaged gives way to what a keepalived leaves behind."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(files.state.read_bytes())
        return VrrpState(should_run=known["should_run"] is True, retired=known["retired"] is True)
    return VrrpState(should_run=files.running.exists() and files.pid_file.exists())


def save_state(files: VrrpFiles, state: VrrpState) -> None:
    """@raise OSError: as the system says; what was remembered before still is then."""
    replace_file(files.state, _encode_state(state))


def _encode_state(state: VrrpState) -> bytes:
    return json.dumps(asdict(state)).encode() + b"\n"


def stage(files: VrrpFiles, content: bytes) -> None:
    """
    Put an upload where it can be checked.

    @raise OSError: as the system says; nothing is left there then.
    """
    try:
        write_synced(files.candidate, content)
        write_synced(files.trial, main_text(files, files.candidate))
    except OSError:
        unstage(files)
        raise


def accept(files: VrrpFiles, state: VrrpState) -> None:
    """
    The staged upload becomes the configuration; what runs goes on with its own.

    All that needs room on the disk is written first, so that a full one changes nothing.

    @raise OSError: as the system says; the staged upload is gone then.
    """
    try:
        write_synced(beside(files.state), _encode_state(state))
        files.trial.unlink()
        rename_synced(files.candidate, files.config)
        rename_synced(beside(files.state), files.state)
    except OSError:
        unstage(files)
        raise


def unstage(files: VrrpFiles) -> None:
    """The staged upload goes away."""
    with suppress(OSError):
        for path in (files.candidate, files.trial, beside(files.state)):
            path.unlink(missing_ok=True)


def stage_again(files: VrrpFiles) -> None:
    """Put the accepted configuration where it can be checked: what it names may have changed.  @raise OSError: so."""
    try:
        write_synced(files.trial, main_text(files, files.config))
    except OSError:
        unstage(files)
        raise


def begin_run(files: VrrpFiles) -> None:
    """
    Give the uploaded configuration to keepalived, and keep what ran before until L{confirm_run}.

    A file is never changed in place, so that links serve as copies.
    """
    if files.running.exists() and not files.previous.exists():
        os.link(files.running, files.previous)
    new = beside(files.running)
    new.unlink(missing_ok=True)
    os.link(files.config, new)
    write_main(files)
    _put(new, files.running)
    sync_directory(files.directory)


def write_main(files: VrrpFiles) -> None:
    """Write what keepalived is started with, where this agent would write it otherwise than it stands there."""
    text = main_text(files, files.running)
    with suppress(FileNotFoundError):
        if files.main.read_bytes() == text:
            return
    replace_file(files.main, text)


def confirm_run(files: VrrpFiles) -> None:
    """The running configuration works: what ran before is not needed any more."""
    files.previous.unlink(missing_ok=True)


def return_run(files: VrrpFiles) -> bool:
    """
    The running configuration does not work: what ran before takes its place again.  That needs no room on the disk.

    @return: False where nothing ran before, and nothing was changed.
    """
    if not files.previous.exists():
        return False
    _put(files.previous, files.running)
    sync_directory(files.directory)
    return True


def forget_run(files: VrrpFiles) -> None:
    """The running configuration does not work, and none ran before: nothing is to be started again."""
    files.running.unlink(missing_ok=True)


def _put(source: Path, target: Path) -> None:
    os.rename(source, target)
    # Renaming one name of a file over another name of it does nothing: see rename(2).
    source.unlink(missing_ok=True)


def runs_upload(files: VrrpFiles) -> bool:
    """Is the running configuration the uploaded one?"""
    return files.running.exists() and files.running.samefile(files.config)


def read_config(path: Path) -> KeepalivedConfig | None:
    """What a configuration file says; None where there is no such file."""
    try:
        return parse_config(path.read_bytes())
    except FileNotFoundError:
        return None


def forget_process(files: VrrpFiles) -> None:
    """
    Take away what a process that has ended leaves behind.

    A keepalived that finds either file, with the id of any process in it, does not start.
    """
    for path in (files.pid_file, files.vrrp_pid_file):
        path.unlink(missing_ok=True)
