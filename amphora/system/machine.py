"""What the machine tells of itself at one moment.  All of it is read from files of the kernel: call it in a thread."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil
from attrs import frozen

from amphora.files import on_memory_file_system
from amphora.process import ProcessIdentity
from amphora.system.window import CpuTimes

_FIGURE = re.compile(r"^(\w+):[ ]+([0-9]{1,15}) kB$", re.MULTILINE)

TUNED_PROFILES: Final = Path("/etc/tuned/active_profile")


@frozen
class Memory:
    """
    The specification's figures in kilobytes, each as the kernel words it in C{/proc/meminfo}, proc(5).

    `cached` is without what the kernel's own caches hold, which is part of `slab`; `committed_as` is what all processes
    were promised, and may be more than there is.
    """

    total: int
    free: int
    available: int
    buffers: int
    cached: int
    swap_used: int
    shared: int
    slab: int
    committed_as: int


@frozen
class Disk:
    """The root file system in kilobytes; `available` is what is left to those who are not root, as C{df} tells."""

    used: int
    available: int


@frozen
class Haproxies:
    """
    The worker processes of all our haproxies, and the memory of masters and workers together in kilobytes.

    `old` of the workers finish the connections that they had before a reload.
    """

    workers: int
    old: int
    memory: int


@frozen
class Machine:
    """
    One look at the machine.

    `load` is of the last 1, 5 and 15 minutes; `agent_memory` is our own, in kilobytes; `certificates_in_memory` tells
    whether tenants' keys are kept on a memory file system; `tuned_profiles` are the names of those that TuneD has
    applied, parted by blanks.
    """

    cpu_count: int
    load: tuple[float, float, float]
    memory: Memory
    disk: Disk
    haproxies: Haproxies
    agent_memory: int
    certificates_in_memory: bool
    tuned_profiles: str = ""


def read_machine(masters: Sequence[ProcessIdentity], certificates: Path) -> Machine:
    """
    Look at the machine.

    @param masters: The haproxies that run.
    @param certificates: Where tenants' certificates and keys are kept.
    """
    disk = psutil.disk_usage("/")
    return Machine(
        cpu_count=os.cpu_count() or 1,
        load=os.getloadavg(),
        memory=parse_memory(Path("/proc/meminfo").read_text("ascii")),
        disk=Disk(used=disk.used // 1024, available=disk.free // 1024),
        haproxies=read_haproxies(masters),
        agent_memory=ProcessIdentity.current().memory(),
        certificates_in_memory=on_memory_file_system(certificates),
        tuned_profiles=read_tuned_profiles(TUNED_PROFILES),
    )


def read_tuned_profiles(path: Path) -> str:
    """What TuneD has written down there; nothing where it does not run, or its file cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def read_cpu_times() -> CpuTimes:
    """What the CPUs have done until now."""
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    user = times.user + times.nice
    # Time of guests is in `user` already.
    return CpuTimes(
        total=idle + user + times.system + times.irq + times.softirq + times.steal,
        idle=idle,
        user=user,
        system=times.system,
        soft_irq=times.softirq,
    )


def parse_memory(meminfo: str) -> Memory:
    """Read C{/proc/meminfo}.  What it does not tell is 0."""
    kilobytes = Counter({name: int(value) for name, value in _FIGURE.findall(meminfo)})
    return Memory(
        total=kilobytes["MemTotal"],
        free=kilobytes["MemFree"],
        available=kilobytes["MemAvailable"],
        buffers=kilobytes["Buffers"],
        cached=kilobytes["Cached"],
        swap_used=kilobytes["SwapTotal"] - kilobytes["SwapFree"],
        shared=kilobytes["Shmem"],
        slab=kilobytes["Slab"],
        committed_as=kilobytes["Committed_AS"],
    )


def read_haproxies(masters: Sequence[ProcessIdentity]) -> Haproxies:
    """
    Look at haproxies.  They are asked nothing: those that hang are counted as well.

    The youngest worker of a master is the one that takes connections; a reload that fails makes none.
    """
    workers = old = memory = 0
    for master in masters:
        program = master.executable()
        # A configuration may have its master start other programs, too (`program` sections).
        children = [child for child in master.children() if child.executable() == program]
        workers += len(children)
        old += max(0, len(children) - 1)
        memory += sum(process.memory() for process in (master, *children))
    return Haproxies(workers, old, memory)
