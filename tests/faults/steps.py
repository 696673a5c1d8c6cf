"""Killing an agent between any two of its steps, and letting a disk fail under it: see `steps.c`."""

from __future__ import annotations

import errno
import mmap
import struct
from pathlib import Path

from attrs import define, field

from tests.integration.pair import run

_LAYOUT = struct.Struct("iiqq256s512s")
_NOTHING, _KILL, _FAIL = range(3)


@define(eq=False)
class Steps:
    """What the library in one agent after the other is told, and tells."""

    _library: Path
    _file: Path
    _shared: mmap.mmap = field(init=False)

    @classmethod
    def in_directory(cls, directory: Path) -> Steps:
        """Build the library there.  Blocks."""
        library, file = directory / "steps.so", directory / "steps"
        run("gcc", "-shared", "-fPIC", "-Wall", "-o", str(library), str(Path(__file__).with_name("steps.c")), "-ldl")
        file.write_bytes(bytes(_LAYOUT.size))
        return cls(library, file)

    def __attrs_post_init__(self) -> None:
        with self._file.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _LAYOUT.size)

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command that becomes an agent with the library in it."""
        return ("env", f"LD_PRELOAD={self._library}", f"AMPHORA_STEPS={self._file}")

    def count(self) -> None:
        """Count steps from now on, and do nothing else."""
        self._tell(_KILL, at=0)

    def kill_at(self, step: int) -> None:
        """Kill the agent before its so many-th step from now on; the first is 1."""
        self._tell(_KILL, at=step)

    def fail_at(self, step: int, below: Path, error: int = errno.EIO) -> None:
        """Let all steps below this directory, from the so many-th on, fail with this error.  0: count them only."""
        self._tell(_FAIL, at=step, below=below, error=error)

    def leave(self) -> None:
        """Do nothing from now on."""
        self._shared[: struct.calcsize("i")] = struct.pack("i", _NOTHING)

    @property
    def taken(self) -> int:
        """How many steps there were."""
        return int(_LAYOUT.unpack(self._shared[:])[3])

    @property
    def last(self) -> str:
        """The step before which the agent was killed, or the first that failed; empty where it was none yet."""
        last: bytes = _LAYOUT.unpack(self._shared[:])[5]
        return last.partition(b"\0")[0].decode()

    def _tell(self, what: int, *, at: int, below: Path = Path("/"), error: int = 0) -> None:
        self.leave()
        told = _LAYOUT.pack(_NOTHING, error, at, 0, str(below).encode(), b"")
        self._shared[struct.calcsize("i") :] = told[struct.calcsize("i") :]
        self._shared[: struct.calcsize("i")] = struct.pack("i", what)
