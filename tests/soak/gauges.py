"""How large the agent is, and what it leaves on the disk and in its log."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from amphora.process import ProcessIdentity
from tests.soak.figures import HOUR
from tests.soak.world import World

_LEVEL: Final = re.compile(r"^\S+ \[[^\]#]*#(debug|info|warn|error|critical)\] ", re.MULTILINE)

_COMPLAINT: Final = re.compile(r"^\S+ \[[^\]#]*#(warn|error|critical)\] (.*)", re.MULTILINE)
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER: Final = re.compile(r"\d+")
_LONGEST: Final = 160


@frozen
class Reading:
    """One look: kibibytes of memory that are the agent's own or its share (PSS), numbers of all else."""

    at: float
    pid: int
    memory: int
    descriptors: int
    haproxies: int
    keepers: int
    keepers_memory: int


@frozen
class Files:
    """What a directory holds."""

    files: int
    kibibytes: int

    @classmethod
    def below(cls, directory: Path) -> Files:
        """Blocks."""
        found = [path.lstat() for path in directory.rglob("*")]
        return cls(len(found), sum(each.st_blocks for each in found) // 2)


def proportional_memory(pid: int) -> int:
    """Kibibytes, proc(5) C{smaps_rollup}.  @raise OSError: where the process is gone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def read(world: World, now: float, agent: ProcessIdentity) -> Reading:
    """Look.  Blocks.  @raise OSError: where the agent ends meanwhile."""
    keepers = world.agent.keepers()
    return Reading(
        now,
        agent.pid,
        proportional_memory(agent.pid),
        len(os.listdir(f"/proc/{agent.pid}/fd")),
        len(world.agent.all_haproxies()),
        len(keepers),
        sum(proportional_memory(keeper.pid) for keeper in keepers),
    )


@define(eq=False)
class Lives:
    """What was read, by agent: each that ran is one life."""

    readings: list[Reading] = field(factory=list)

    def last(self) -> list[Reading]:
        """The readings of the agent that runs now."""
        return [] if not self.readings else [each for each in self.readings if each.pid == self.readings[-1].pid]

    def each(self) -> list[list[Reading]]:
        """The readings of each agent, in their order."""
        lives: dict[int, list[Reading]] = {}
        for reading in self.readings:
            lives.setdefault(reading.pid, []).append(reading)
        return list(lives.values())


def levels(log: str) -> Counter[str]:
    """How many entries a log has of each level."""
    return Counter(_LEVEL.findall(log))


def warnings(log: str) -> Counter[str]:
    """The warnings and errors of a log, those as one that differ in ids and numbers alone."""
    said = (f"{level}: {words}" for level, words in _COMPLAINT.findall(log))
    return Counter(_NUMBER.sub("N", _ID.sub("ID", each))[:_LONGEST] for each in said)


def per_hour(number: int, seconds: float) -> float:
    return number * HOUR / seconds if seconds else 0.0
