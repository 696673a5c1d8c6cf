"""
What `GET info` and `GET details` of the API 1.0 answer: today's controller's names and units.

It asks for the details before each upload of a haproxy configuration and fails it without an answer, but does without
any one of them: what cannot be read is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import asdict, define, field
from twisted.logger import Logger

import amphora
from amphora.api.details import tell_heartbeats
from amphora.api.info import AmphoraInfo
from amphora.health.sender import HeartbeatReport
from amphora.process import ProcessIdentity
from amphora.system.figures import Figures, Meter
from amphora.system.packages import Package, Packages
from amphora.vrrp.standing import Standing

API_VERSION: Final = "1.0"

_MEMORY: Final = ("total", "free", "buffers", "cached", "swap_used", "shared", "slab")
_VERSION = re.compile(r"(\d+\.\d+)(.*)")
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@define(eq=False)
class Details10:
    """Both answers, of their sources."""

    _log = Logger()

    _info: AmphoraInfo
    _meter: Meter
    _packages: Packages
    _listeners: Callable[[], Sequence[str]]
    _haproxies: Callable[[], Sequence[ProcessIdentity]]
    _lvs_listeners: Callable[[], Sequence[str]]
    _lvs_processes: Callable[[], int]
    _heartbeat: Callable[[], HeartbeatReport]
    _standing: Callable[[], Standing]

    _blind: bool = field(init=False, default=False)
    """Whether the figures could not be read the last time."""

    async def info(self) -> dict[str, Any]:
        """Who this amphora is, and what runs on it."""
        return tell_info(await self._info.tell(API_VERSION), await self._packages.read())

    async def details(self) -> dict[str, Any]:
        """The same, and how it fares."""
        packages = await self._packages.read()
        return {
            **tell_info(await self._info.tell(API_VERSION), packages),
            **tell_figures(await self._figures()),
            **tell_standing(self._standing()),
            "haproxy_count": len(self._haproxies()),
            "lvs_listener_process_count": self._lvs_processes(),
            "listeners": sorted({*self._listeners(), *self._lvs_listeners()}),
            "packages": {package.name: package.version for package in packages},
            "agent_version": amphora.__version__,
            "heartbeat": tell_heartbeats(self._heartbeat()),
        }

    async def _figures(self) -> Figures | None:
        try:
            figures = await self._meter.read()
        except Exception:
            if not self._blind:
                self._log.failure("details tell no figures of the machine: they cannot be read")
            self._blind = True
            return None
        self._blind = False
        return figures


def tell_info(info: Mapping[str, Any], packages: Sequence[Package]) -> dict[str, Any]:
    """
    The answer to `info`.

    A controller reads only haproxy's version of it, and takes the first two of its parts between dots for numbers.

    @param info: What all versions tell.
    """
    versions = {package.name: package.version for package in packages}
    return {
        **info,
        "haproxy_version": numbered(info["haproxy_version"]) or numbered(versions.get("haproxy", "")),
        "keepalived_version": versions.get("keepalived", ""),
        "ipvsadm_version": versions.get("ipvsadm", ""),
    }


def numbered(version: str) -> str:
    """
    A version that begins with two numbers, each before a dot; empty where it holds none.

    A distribution's epoch goes (`1:2.6.12`), and a development version gets its third number (`3.1-dev2`).
    """
    found = _VERSION.search(version.rpartition(":")[2])
    if found is None:
        return ""
    numbers, rest = found.groups()
    return f"{numbers}{rest}" if rest[:1] in ("", ".") else f"{numbers}.0{rest}"


def tell_figures(figures: Figures | None) -> dict[str, Any]:
    """
    What has come to pass since boot, and what there is now: networks in bytes, those of the amphora's load balancers
    only (`eth…`); CPU times in clock ticks; memory in kilobytes, disk in bytes; numbers as texts where today's agent
    has texts.
    """
    if figures is None:
        return {}
    machine, cpu = figures.machine, figures.newest.cpu
    memory = asdict(machine.memory)
    return {
        "networks": {
            name: {"network_tx": link.sent, "network_rx": link.received}
            for name, link in figures.newest.links.items()
            if name.startswith("eth")
        },
        "cpu_count": machine.cpu_count,
        "cpu": {
            "total": _ticks(cpu.total),
            "user": str(_ticks(cpu.user)),
            "system": str(_ticks(cpu.system)),
            "soft_irq": str(_ticks(cpu.soft_irq)),
        },
        "memory": {name: memory[name] for name in _MEMORY},
        "disk": {"used": machine.disk.used * 1024, "available": machine.disk.available * 1024},
        "load": [f"{load:.2f}" for load in machine.load],
        "active_tuned_profiles": machine.tuned_profiles,
        # What today's agent does not tell.
        "agent_memory": machine.agent_memory,
        "certificates_in_memory": machine.certificates_in_memory,
        "haproxy_memory": machine.haproxies.memory,
        "haproxy_workers": {"running": machine.haproxies.workers, "old": machine.haproxies.old},
    }


def tell_standing(standing: Standing) -> dict[str, Any]:
    """The topology, in Octavia's words.  `active` says that the agent is, of either of a pair."""
    return {
        "active": True,
        "topology": standing.topology.replace("-", "_"),
        "topology_status": standing.status,
        "role": standing.role,
    }


def _ticks(seconds: float) -> int:
    return round(seconds * _CLOCK_TICKS)
