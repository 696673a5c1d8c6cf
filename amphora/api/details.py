"""
What `GET details` of v0.1 answers: the specification's names and units, of what the parts of the agent know.

Nothing here waits for a haproxy: what is told of them is what the agent and the kernel know.  The specification allows
more than it names; ours are named at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

import amphora
from amphora.api.info import AmphoraInfo
from amphora.health.sender import HeartbeatReport
from amphora.process import ProcessIdentity
from amphora.system.figures import Meter
from amphora.system.packages import Packages
from amphora.system.window import Bandwidth
from amphora.vrrp.standing import Standing


@frozen
class Details:
    """The answer, of its sources."""

    _info: AmphoraInfo
    _meter: Meter
    _packages: Packages
    _listeners: Callable[[], Sequence[str]]
    _haproxies: Callable[[], Sequence[ProcessIdentity]]
    _heartbeat: Callable[[], HeartbeatReport]
    _standing: Callable[[], Standing]

    async def tell(self, api_version: str) -> dict[str, Any]:
        """
        Specification: Get amphora details.

        Memory and disk are in kilobytes, CPU in percent of all CPUs, networks in bytes per second, both over the last
        thirty seconds.  `network_tx` and `network_rx` are those of all `networks` together.
        """
        info = await self._info.tell(api_version)
        figures = await self._meter.read()
        packages = await self._packages.read()
        standing = self._standing()
        machine, networks = figures.machine, figures.networks.values()
        return {
            **info,
            "networks": {name: _bandwidth(network) for name, network in figures.networks.items()},
            **_bandwidth(Bandwidth(sum(each.sent for each in networks), sum(each.received for each in networks))),
            "active": standing.active,
            "haproxy_count": len(self._haproxies()),
            "cpu": _rounded(asdict(figures.cpu)),
            "memory": asdict(machine.memory),
            "disk": asdict(machine.disk),
            "load": [round(load, 2) for load in machine.load],
            "topology": standing.topology,
            "topology_status": standing.status,
            "listeners": list(self._listeners()),
            "packages": [{package.name: package.version} for package in packages],
            # What the specification does not name.
            "agent_version": amphora.__version__,
            "agent_memory": machine.agent_memory,
            "certificates_in_memory": machine.certificates_in_memory,
            "cpu_count": machine.cpu_count,
            "haproxy_memory": machine.haproxies.memory,
            "haproxy_workers": {"running": machine.haproxies.workers, "old": machine.haproxies.old},
            "heartbeat": tell_heartbeats(self._heartbeat()),
        }


def _bandwidth(bandwidth: Bandwidth) -> dict[str, int]:
    return {"network_tx": round(bandwidth.sent), "network_rx": round(bandwidth.received)}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(figure, 2) for name, figure in figures.items()}


def tell_heartbeats(report: HeartbeatReport) -> dict[str, Any]:
    """What became of the heartbeats, as all versions tell it."""
    return {
        "sent": report.sent,
        "bytes": report.size,
        "members_left_out": report.left_out,
        "controllers": [
            {"host": each.controller.host, "port": each.controller.port, "reachable": each.reachable}
            for each in report.controllers
        ],
    }
