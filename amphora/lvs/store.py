"""
Where the files of UDP and SCTP listeners lie: C{lvs} below the base path.

The names `octavia-keepalivedlvs-ID.conf`, those of the pid files beside it, and `check/udp_check.sh` are Octavia's.
What is ours lies in a directory of the listener's, named by its id.  All functions may wait for a disk.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files as package_files
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from amphora.files import DAMAGED, beside, flag, remembered, remove_unfinished, replace_file, sync_directory
from amphora.keepalived import files as keepalived_files
from amphora.keepalived.files import KeepalivedFiles, make_open_directory
from amphora.keepalived.process import Program
from amphora.loadbalancer.store import UUID
from amphora.lvs.config import LvsConfig, parse_config
from amphora.process import ENVIRONMENT

CONFIG_MODE = 0o644
UDP_CHECK = "udp_check.sh"

_NAME = re.compile(rf"octavia-keepalivedlvs-({UUID.pattern})\.conf")
_NAMESPACE = re.compile(rb"(?m)^([ \t]*)(net_namespace(?:[ \t]|$))")


@frozen
class LvsProgram(Program):
    """
    A keepalived that does nothing but balance and check members.

    A check whose program it does not find on its PATH it leaves out, and counts the member as good: what the agent
    installs beside its own Python is found as well.
    """

    part: ClassVar[str] = "--check"
    environment: ClassVar[Mapping[str, str]] = {"PATH": f"{ENVIRONMENT['PATH']}:{Path(sys.executable).parent}"}


@frozen
class LvsFiles(KeepalivedFiles):
    """The paths of one listener's keepalived."""

    lvs: Path
    listener_id: str

    @classmethod
    def of(cls, lvs: Path, listener_id: str) -> LvsFiles:
        return cls(lvs / listener_id, lvs, listener_id)

    @property
    def config(self) -> Path:
        return self._named(".conf")

    @property
    def given(self) -> Path:
        return self.directory / "given.conf"

    @property
    def pid_files(self) -> Mapping[str, Path]:
        """That of the process, and that of its child, which balances and checks."""
        return {"-p": self._named(".pid"), "-c": self._named(".check.pid")}

    def as_given(self, content: bytes) -> bytes:
        """
        The same without its `net_namespace`.

        keepalived is started inside the namespace that the agent has in its own configuration, where haproxy runs too;
        a name in the file would lead it away from there, or end it where there is none of that name.
        """
        return _NAMESPACE.sub(rb"\1# \2", content)

    def _named(self, suffix: str) -> Path:
        return self.lvs / f"octavia-keepalivedlvs-{self.listener_id}{suffix}"


def listener_ids(lvs: Path) -> list[str]:
    """All that have a configuration, or something left of one, in order."""
    try:
        entries = list(lvs.iterdir())
    except FileNotFoundError:
        return []
    configured = {found[1] for entry in entries if (found := _NAME.fullmatch(entry.name))}
    return sorted(configured | {entry.name for entry in entries if UUID.fullmatch(entry.name)})


def install(lvs: Path) -> None:
    """Put the program that checks UDP members into place, where it is missing or another agent's."""
    make_open_directory(lvs)
    remove_unfinished(lvs)
    make_open_directory(lvs / "check")
    remove_unfinished(lvs / "check")
    path = lvs / "check" / UDP_CHECK
    content = package_files("amphora.lvs").joinpath("scripts", UDP_CHECK).read_bytes()
    with suppress(FileNotFoundError):
        if path.read_bytes() == content and stat.S_IMODE(path.stat().st_mode) == 0o755:
            return
    replace_file(path, content, 0o755)


def prepare(files: LvsFiles) -> None:
    """
    Make the directories, forget what was left half-made, and see to it that keepalived would be given the upload.

    An agent that was killed between the two renames of an upload, or another agent, left only the first.
    """
    make_open_directory(files.lvs)
    keepalived_files.prepare(files)
    files.candidate.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        wanted = files.as_given(files.config.read_bytes())
        if not files.given.exists() or files.given.read_bytes() != wanted:
            replace_file(files.given, wanted)


def load_should_run(files: LvsFiles, *, runs: bool = False) -> bool:
    """
    The controller's wish; one that is missing or damaged gives way to what a keepalived leaves behind.

    @param runs: Is there a keepalived of this listener?
    """
    wish = remembered(files.state, lambda known: flag(known, "should_run"))
    if wish is not None:
        return wish
    return files.running.exists() and (runs or files.pid_file.exists())


def save_should_run(files: LvsFiles, wish: bool) -> None:
    """@raise OSError: as the system says; what was remembered before still is then."""
    replace_file(files.state, encode_should_run(wish))


def encode_should_run(wish: bool) -> bytes:
    """As it is remembered."""
    return json.dumps({"should_run": wish}).encode() + b"\n"


def is_deleted(files: LvsFiles) -> bool:
    """Was a deletion begun that only needs to be finished?"""
    with suppress(OSError, *DAMAGED):
        return json.loads(files.state.read_bytes())["deleted"] is True
    return False


def save_deletion(files: LvsFiles) -> None:
    """Remember that a deletion has begun, until a wish is remembered.  @raise OSError: as the system says."""
    replace_file(files.state, json.dumps({"should_run": False, "deleted": True}).encode() + b"\n")


def read_config(path: Path) -> LvsConfig | None:
    """What a configuration file says; None where there is none, or it makes no sense any more."""
    try:
        return parse_config(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def delete(files: LvsFiles) -> None:
    """
    Take everything away, what other agents left too.

    The configuration goes first: without it, whatever else is left is taken away by the next agent.
    """
    for path in (beside(files.config), files.config):
        path.unlink(missing_ok=True)
    for path in (*files.pid_files.values(), files.lvs / f"octavia-keepalivedlvs-{files.listener_id}.vrrp.pid"):
        path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(files.directory)
    with suppress(FileNotFoundError):
        sync_directory(files.lvs)
