"""
Where the files of the keepalived that speaks VRRP lie, and what is remembered of it: one directory below the base path.

The names `octavia-keepalived.conf`, `octavia-keepalived.pid` and `check_script.sh` are Octavia's; the others are ours.
All functions may wait for a disk: they are called through `amphora.blocking`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from amphora.files import flag, remembered, replace_file
from amphora.keepalived.files import KeepalivedFiles
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
class VrrpFiles(KeepalivedFiles):
    """The paths of the amphora's keepalived."""

    @property
    def config(self) -> Path:
        return self.directory / "octavia-keepalived.conf"

    @property
    def fifo(self) -> Path:
        """Where keepalived tells its role."""
        return self.directory / "notify.fifo"

    @property
    def pid_files(self) -> Mapping[str, Path]:
        """That of the process, and that of its child, which speaks VRRP."""
        return {
            "-p": self.directory / "octavia-keepalived.pid",
            "-r": self.directory / "octavia-keepalived.vrrp.pid",
        }

    @property
    def settings(self) -> tuple[str, ...]:
        return (f'vrrp_notify_fifo "{self.fifo}" root root',)


def load_state(files: VrrpFiles, *, runs: bool = False) -> VrrpState:
    """
    What is remembered; a memory that is missing or damaged gives way to what a keepalived leaves behind.

    @param runs: Is there a keepalived of ours?
    """

    def read(known: Any) -> VrrpState:
        return VrrpState(should_run=flag(known, "should_run"), retired=flag(known, "retired"))

    return remembered(files.state, read) or VrrpState(
        should_run=files.running.exists() and (runs or files.pid_file.exists())
    )


def save_state(files: VrrpFiles, state: VrrpState) -> None:
    """@raise OSError: as the system says; what was remembered before still is then."""
    replace_file(files.state, encode_state(state))


def encode_state(state: VrrpState) -> bytes:
    """As it is remembered."""
    return json.dumps(asdict(state)).encode() + b"\n"


def read_config(path: Path) -> KeepalivedConfig | None:
    """What a configuration file says; None where there is no such file."""
    try:
        return parse_config(path.read_bytes())
    except FileNotFoundError:
        return None
