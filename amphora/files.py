"""Replacing files whole.  Everything here may wait for a disk: call it through L{amphora.blocking}."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.logger import Logger

T = TypeVar("T")

DAMAGED: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What it may end in when JSON is read that is no longer what was written."""

_log = Logger()
_UNFINISHED = ".*.new"
_OCTAL = re.compile(r"\\([0-7]{3})")


FileMark = tuple[int, int, int]
"""What tells whether a file was replaced or written to since: its inode, its size, its time of change."""


def file_mark(path: str | Path) -> FileMark:
    """@raise OSError: as the system says."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def beside(path: Path) -> Path:
    """Where a file is made before it takes its place: haproxy passes over such names in a certificate directory."""
    return path.with_name(f".{path.name}.new")


def remove_unfinished(directory: Path) -> None:
    """
    Take away what was being made in a directory when an earlier agent was killed.

    Where a disk does not let go of it, it stays: it hinders nobody.
    """
    for path in directory.glob(_UNFINISHED):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def forget_unfinished(path: Path) -> None:
    """Take away what was being made in the place of one file when an earlier agent was killed."""
    with suppress(OSError):
        beside(path).unlink(missing_ok=True)


def remembered(path: Path, read: Callable[[Any], T]) -> T | None:
    """
    What a JSON file of ours remembers.

    @param read: Makes it of the JSON; may raise any of L{DAMAGED}.
    @return: None where there is no such file, or none that can be used, which is logged.
    """
    try:
        return read(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, *DAMAGED) as error:
        _log.error(
            "{path} cannot be used: {problem}. What runs counts in its place, and what else there is",
            path=str(path),
            problem=repr(error),
        )
        return None


def flag(known: Any, name: str) -> bool:
    """What a record says yes or no to.  @raise ValueError, TypeError, KeyError: if it says neither."""
    value = known[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")
    return value


def make_directory(path: Path) -> None:
    """Make a directory for us alone, where there is none, and wait until the disk has it."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """
    Write a file so that whoever reads it, also after a power loss, finds the old or the new one, whole.

    @raise OSError: as the system says; the old file is untouched then, and nothing is left beside it.
    """
    unfinished = beside(path)
    try:
        write_synced(unfinished, content, mode)
        rename_synced(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes, mode: int = 0o600) -> None:
    """
    Make a file anew, with these rights from its first byte on, and wait until the disk has it.

    @raise OSError: as the system says; there is no such file then.
    """
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
    except OSError:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def rename_synced(source: Path, target: Path) -> None:
    """Rename, and wait until the disk has the new name."""
    os.rename(source, target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Wait until the disk has a directory's names."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def on_memory_file_system(path: Path, mount_table: Path = Path("/proc/self/mountinfo")) -> bool:
    """
    Is this path, or where it would be made, on tmpfs or ramfs?

    @param mount_table: as proc(5) describes C{mountinfo}: a mount's own number, the number of the one that it is
        mounted on, device, root, mount point; the kind of file system is the first word after a lone hyphen.
    """
    kinds: dict[str, str] = {}
    mounts: list[tuple[str, str, str]] = []
    for line in mount_table.read_text("utf-8", "surrogateescape").split("\n"):
        before, _, after = line.partition(" - ")
        if after:
            number, parent, _, _, point, *_ = before.split(" ")
            kinds[number] = after.split(" ")[0]
            mounts.append((number, parent, _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), point)))
    # A path is followed as the kernel does, from mount to mount, so that those hidden under a later one do not count.
    # What the first one is mounted on is not in the table, or it is itself.
    mounted = {(parent if parent in kinds and parent != me else "", point): me for me, parent, point in mounts}
    seen = ""
    where = Path(os.path.realpath(path))
    for step in (*reversed(where.parents), where):
        while (seen, str(step)) in mounted:
            seen = mounted[seen, str(step)]
    return kinds.get(seen) in ("tmpfs", "ramfs")
