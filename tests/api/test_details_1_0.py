"""Tests for L{amphora.api.details_1_0}: today's names and units, and what becomes of facts that are missing."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import amphora
from amphora.api.details_1_0 import Details10, numbered, tell_info, tell_standing
from amphora.api.info import AmphoraInfo
from amphora.blocking import AtOnce
from amphora.health.sender import HeartbeatReport
from amphora.system.figures import Meter
from amphora.system.links import LinkCounters
from amphora.system.machine import Disk, Haproxies, Machine, Memory
from amphora.system.packages import Package, Packages
from amphora.system.window import CpuTimes
from amphora.testing.fakes import FakeProcessReactor
from amphora.vrrp.standing import ALONE, Standing

AMPHORA = "11111111-0000-4000-8000-000000000001"
FIRST, SECOND, LVS = (f"22222222-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
TICKS = os.sysconf("SC_CLK_TCK")
MACHINE = Machine(
    cpu_count=2,
    load=(0.5, 0.4501953125, 12.0),
    memory=Memory(4087402, 760656, 2655901, 90980, 1830143, 943, 105792, 158819, 2643480),
    disk=Disk(used=1234567, available=5242880),
    haproxies=Haproxies(workers=4, old=1, memory=98765),
    agent_memory=43210,
    certificates_in_memory=True,
    tuned_profiles="virtual-guest amphora",
)
LINKS = {"eth1": LinkCounters(2, 982001, 3300138), "eth2": LinkCounters(3, 1, 0), "gre0": LinkCounters(4, 5, 6)}


class InfoTests(SynchronousTestCase):
    """Who this amphora is."""

    def tell(self, haproxy: str, *packages: Package) -> dict[str, Any]:
        return tell_info({"hostname": "a", "uuid": AMPHORA, "haproxy_version": haproxy, "api_version": "1.0"}, packages)

    def test_versions(self) -> None:
        """Versions of packages are the distribution's, and haproxy's is its own."""
        self.assertEqual(
            {
                "hostname": "a",
                "uuid": AMPHORA,
                "haproxy_version": "2.6.12-1+deb12u4",
                "api_version": "1.0",
                "keepalived_version": "1:2.2.7-1+b2",
                "ipvsadm_version": "1.31-1",
            },
            self.tell(
                "2.6.12-1+deb12u4",
                Package("haproxy", "2.4"),
                Package("ipvsadm", "1.31-1"),
                Package("keepalived", "1:2.2.7-1+b2"),
            ),
        )

    def test_unknown(self) -> None:
        """What is not known is empty; of a haproxy that cannot be asked, the package tells."""
        told = self.tell("")
        self.assertEqual([""] * 3, [told[f"{name}_version"] for name in ("haproxy", "keepalived", "ipvsadm")])
        self.assertEqual("2.6.12-1", self.tell("", Package("haproxy", "1:2.6.12-1"))["haproxy_version"])

    def test_numbered(self) -> None:
        """The first two parts of a version are numbers, as the controller takes them to be."""
        for version, told in (
            ("2.6.12-1+deb12u4", "2.6.12-1+deb12u4"),
            ("2.6", "2.6"),
            ("1:2.6.12", "2.6.12"),
            ("v2.8.5", "2.8.5"),
            ("3.1-dev2-0f8f2c-12", "3.1.0-dev2-0f8f2c-12"),
            ("", ""),
            ("unknown", ""),
            ("3", ""),
        ):
            self.assertEqual(told, numbered(version), version)
            if told:
                self.assertTrue(all(part.isdecimal() for part in told.split(".")[:2]), told)


class StandingTests(SynchronousTestCase):
    """The topology, in Octavia's words."""

    def test_pair(self) -> None:
        """A pair is ACTIVE_STANDBY, and its agent is active whatever its role."""
        self.assertEqual(
            {"active": True, "topology": "ACTIVE_STANDBY", "topology_status": "TOPOLOGY-CHANGE", "role": "STANDBY"},
            tell_standing(Standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")),
        )


class DetailsTests(SynchronousTestCase):
    """The whole answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.problem: Exception | None = None
        self.meter = Meter(
            reactor=self.clock,
            blocking=AtOnce(),
            haproxies=lambda: [],
            read_cpu_times=lambda: CpuTimes(total=3000.5, idle=2000.0, user=500.25, system=250.01, soft_irq=0.0),
            read_links=lambda: LINKS,
            read_machine=self.read_machine,
        )
        self.meter.startService()
        self.listeners, self.lvs_listeners = [SECOND, FIRST], [LVS]
        self.clock.advance(2.0)
        self.details = Details10(
            info=AmphoraInfo(AMPHORA, self.haproxy_version),
            meter=self.meter,
            packages=Packages(FakeProcessReactor(), AtOnce()),
            listeners=lambda: self.listeners,
            haproxies=lambda: [],
            lvs_listeners=lambda: self.lvs_listeners,
            lvs_processes=lambda: len(self.lvs_listeners),
            heartbeat=lambda: HeartbeatReport(sent=17, size=1234, left_out=3, controllers=()),
            standing=lambda: ALONE,
        )

    async def haproxy_version(self) -> str:
        return "2.6.12"

    def read_machine(self, haproxies: object) -> Machine:
        if self.problem is not None:
            raise self.problem
        return MACHINE

    def tell(self) -> Any:
        """The answer as a client reads it."""
        answer = json.loads(json.dumps(self.successResultOf(Deferred.fromCoroutine(self.details.details()))))
        for of_this_machine in ("hostname", "packages", "keepalived_version", "ipvsadm_version"):
            answer.pop(of_this_machine)
        return answer

    def test_answer(self) -> None:
        """Figures are those since boot, in the units and types of today's agent; then come ours."""
        self.assertEqual(
            {
                "uuid": AMPHORA,
                "haproxy_version": "2.6.12",
                "api_version": "1.0",
                "networks": {
                    "eth1": {"network_tx": 3300138, "network_rx": 982001},
                    "eth2": {"network_tx": 0, "network_rx": 1},
                },
                "active": True,
                "haproxy_count": 0,
                "lvs_listener_process_count": 1,
                "cpu_count": 2,
                "cpu": {
                    "total": round(3000.5 * TICKS),
                    "user": str(round(500.25 * TICKS)),
                    "system": str(round(250.01 * TICKS)),
                    "soft_irq": "0",
                },
                "memory": {
                    "total": 4087402,
                    "free": 760656,
                    "buffers": 90980,
                    "cached": 1830143,
                    "swap_used": 943,
                    "shared": 105792,
                    "slab": 158819,
                },
                "disk": {"used": 1234567 * 1024, "available": 5242880 * 1024},
                "load": ["0.50", "0.45", "12.00"],
                "active_tuned_profiles": "virtual-guest amphora",
                "topology": "SINGLE",
                "topology_status": "OK",
                "role": "ACTIVE",
                "listeners": [FIRST, SECOND, LVS],
                "agent_version": amphora.__version__,
                "agent_memory": 43210,
                "certificates_in_memory": True,
                "haproxy_memory": 98765,
                "haproxy_workers": {"running": 4, "old": 1},
                "heartbeat": {"sent": 17, "bytes": 1234, "members_left_out": 3, "controllers": []},
            },
            self.tell(),
        )

    def test_D8_mixes(self) -> None:
        """Whichever listeners there are, none, one kind or both, the answer has the same members, of the same types."""
        shapes = []
        for listeners, lvs_listeners in (([], []), ([SECOND, FIRST], []), ([], [LVS]), ([SECOND, FIRST], [LVS])):
            self.listeners, self.lvs_listeners = listeners, lvs_listeners
            told = self.tell()
            self.assertEqual(sorted(listeners + lvs_listeners), told["listeners"])
            self.assertEqual(len(lvs_listeners), told["lvs_listener_process_count"])
            shapes.append({name: type(value) for name, value in told.items()})
        self.assertEqual(shapes[:1] * 4, shapes)

    def test_missing_figures(self) -> None:
        """Figures that cannot be read are left out, which is logged once: an upload would fail without an answer."""
        self.problem = OSError("no /proc")
        for _ in range(2):
            told = self.tell()
            self.assertFalse({"cpu", "memory", "disk", "networks"} & set(told))
            self.assertEqual([FIRST, SECOND, LVS], told["listeners"])
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.problem = None
        self.assertIn("memory", self.tell())
