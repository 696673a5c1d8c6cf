"""
Finding daemons by what they were given, where no pid file tells of them.

A haproxy that is still loading has no pid file yet when its agent is killed, and a worker that was stopped outlives its
master; so does a stopped child of a keepalived.  They hold addresses that others need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from attrs import define, field

from amphora.process import ProcessIdentity

_EXEC_PAUSE = 0.005
_EXEC_LOOKS = 200


@define
class Family:
    """The processes that were given one configuration: masters lead a session of their own, workers do not."""

    masters: list[ProcessIdentity] = field(factory=list)
    workers: list[ProcessIdentity] = field(factory=list)


def given_files(process: ProcessIdentity) -> list[str]:
    """The configuration files on a daemon's command line; a haproxy's reload adds to that line, but changes no file."""
    return [value for option, value in pairwise(process.command_line()) if option == "-f"]


def runs(process: ProcessIdentity, program: str) -> bool:
    """Is this the program of the process, under whatever name?"""
    return process.executable() == os.path.realpath(program)


def find_families(program: str) -> dict[Path, Family]:
    """
    All that run this program, by the first configuration file that they were given.

    Reads all of C{/proc}; blocks.
    """
    found: dict[Path, Family] = {}
    for process in _all_processes():
        if not runs(process, program):
            continue
        _await_command_line(process)
        files = given_files(process)
        if not files:
            continue
        family = found.setdefault(Path(files[0]), Family())
        try:
            leads = os.getsid(process.pid) == process.pid
        except ProcessLookupError:
            continue
        (family.masters if leads else family.workers).append(process)
    return found


def _await_command_line(process: ProcessIdentity) -> None:
    """
    Wait while a process has none: a haproxy that reloads executes itself, and shows none for a moment.

    Its workers would be taken for ones that have outlived it, and ended.
    """
    for _ in range(_EXEC_LOOKS):
        if process.command_line() or not process.alive:
            return
        time.sleep(_EXEC_PAUSE)


def _all_processes() -> Iterable[ProcessIdentity]:
    for entry in os.listdir("/proc"):
        process = ProcessIdentity.of(int(entry)) if entry.isdecimal() else None
        if process is not None:
            yield process
