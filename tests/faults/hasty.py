"""Agents in a hurry, and programs that hang when a test says so: no test waits as long as the usual agent would."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import frozen

import amphora
from tests.integration.harness import AgentProcess
from tests.integration.support import program


@frozen
class StuckProgram:
    """Stands in a program's place, and becomes it; or, while it is to hang, something that never ends."""

    path: Path
    _switch: Path

    @classmethod
    def create(cls, directory: Path, name: str) -> StuckProgram:
        """@param directory: Where it is put, by the name of the program that it stands for."""
        directory.mkdir(exist_ok=True)
        stuck = cls(directory / name, directory / f"{name}-hangs")
        stuck.path.write_text(
            f'#!/bin/sh\n[ -e {stuck._switch} ] && exec tail -f {stuck._switch}\nexec {program(name)} "$@"\n'
        )
        stuck.path.chmod(0o755)
        return stuck

    def hang(self) -> None:
        """Whoever runs it from now on waits in vain."""
        self._switch.touch()

    def go_on(self) -> None:
        self._switch.unlink()

    def end(self) -> None:
        """Let none hang any more: where a test fails its agent may not come to end them."""
        self._switch.unlink(missing_ok=True)
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """The process ids of those that hang."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdigit() else []
            except OSError:
                continue
            if os.fsencode(self._switch) in words:
                found.append(int(entry))
        return found


def hurry(agent: AgentProcess, directory: Path, changes: Mapping[str, object], *, programs: Path | None = None) -> None:
    """
    Have the agent, when it starts, know other constants than those it comes with.

    @param directory: A place for a file that says so.
    @param changes: Values of what modules have, as in `{"amphora.network.nft:_TIMEOUT": 1.0}`.
    @param programs: A directory that it looks for programs in, before all others.
    """
    directory.mkdir(exist_ok=True)
    lines = ["import os, sys"]
    for key, value in changes.items():
        module, _, name = key.partition(":")
        lines += [f"import {module}", f"sys.modules['{module}'].{name} = {value!r}"]
    if programs is not None:
        lines += ["import amphora.process", f"amphora.process.ENVIRONMENT['PATH'] = '{programs}:' + os.environ['PATH']"]
    # Python runs it before all else.
    (directory / "sitecustomize.py").write_text("\n".join([*lines, ""]))
    agent.wrapper = ("env", f"PYTHONPATH={directory}:{Path(amphora.__file__).parent.parent}")
