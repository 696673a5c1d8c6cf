"""
What a daemon writes on its own output: a file that it appends to, which it has for longer than we live.

The file is kept bounded by cutting it in place: a daemon goes on appending to the same one.  All functions may wait for
a disk.
"""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 1024 * 1024
"""Bytes: a longer file is cut to its later half."""


def size(path: Path) -> int:
    """How much there is; nothing of a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def since(path: Path, position: int, limit: int = 16 * 1024) -> str:
    """The end of what was written after this position, at most `limit` bytes."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(position, length - limit) if position <= length else max(0, length - limit))
            return file.read().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


def trim(path: Path) -> None:
    """Keep it bounded."""
    if size(path) > LIMIT:
        with open(path, "r+b") as file:
            file.seek(-(LIMIT // 2), os.SEEK_END)
            tail = file.read(LIMIT // 2)
            file.seek(0)
            file.truncate()
            file.write(tail)


def open_for(path: Path) -> int:
    """A descriptor that appends, for a daemon to inherit."""
    trim(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
