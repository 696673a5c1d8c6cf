"""Tests for L{amphora.api.details}: the specification's names and units; real figures are in `tests.integration`."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import amphora
from amphora.api.details import Details
from amphora.api.info import AmphoraInfo
from amphora.blocking import AtOnce
from amphora.config import Controller
from amphora.health.sender import ControllerReport, HeartbeatReport
from amphora.process import ProcessIdentity
from amphora.system.figures import Meter
from amphora.system.links import LinkCounters
from amphora.system.machine import Disk, Haproxies, Machine, Memory
from amphora.system.packages import Packages
from amphora.system.window import CpuTimes
from amphora.testing.fakes import FakeProcessReactor
from amphora.vrrp.standing import Standing

AMPHORA = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"
LISTENERS = ["02d0da8d-fc65-4bc4-bc46-95cadb2315d2", "98e706a7-d22c-422f-9632-499fd83e12c0"]


class DetailsTests(SynchronousTestCase):
    """The answer, of what its sources tell."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.standing = Standing("SINGLE", "OK", "ACTIVE")
        self.masters = [ProcessIdentity(10, 1), ProcessIdentity(20, 1), ProcessIdentity(30, 1)]
        self.report = HeartbeatReport(
            sent=17,
            size=1234,
            left_out=3,
            controllers=(
                ControllerReport(Controller("192.0.2.1", 5555), True),
                ControllerReport(Controller("2001:db8::1", 5555), False),
                ControllerReport(Controller("health.example", 5556), None),
            ),
        )
        self.status = Path(self.mktemp())
        self.status.write_text(
            "\n".join(
                f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n"
                for name, version in (("haproxy", "2.6.12-1+deb12u4"), ("openssl", "1:3.0"))
            )
        )
        self.meter = Meter(
            reactor=self.clock,
            blocking=AtOnce(),
            haproxies=lambda: self.masters,
            read_cpu_times=self.read_cpu_times,
            read_links=self.read_links,
            read_machine=lambda _: Machine(
                cpu_count=2,
                load=(0.5, 0.4501953125, 0.0),
                memory=Memory(4087402, 760656, 2655901, 90980, 1830143, 943, 105792, 158819, 2643480),
                disk=Disk(used=1234567, available=5242880),
                haproxies=Haproxies(workers=4, old=1, memory=98765),
                agent_memory=43210,
                certificates_in_memory=True,
            ),
        )
        self.meter.startService()
        self.clock.advance(2.0)

    async def haproxy_version(self) -> str:
        return "2.6.12"

    def read_cpu_times(self) -> CpuTimes:
        now = self.clock.seconds()
        return CpuTimes(total=3 * now, idle=2 * now, user=0.5 * now, system=0.25 * now, soft_irq=0.0)

    def read_links(self) -> dict[str, LinkCounters]:
        now = self.clock.seconds()
        return {"eth1": LinkCounters(2, int(982001 * now), int(3300138 * now)), "eth2": LinkCounters(3, int(now), 0)}

    def tell(self) -> object:
        """The answer as a client reads it."""
        details = Details(
            info=AmphoraInfo(AMPHORA, self.haproxy_version),
            meter=self.meter,
            packages=Packages(FakeProcessReactor(), AtOnce(), self.status),
            listeners=lambda: LISTENERS,
            haproxies=lambda: self.masters,
            heartbeat=lambda: self.report,
            standing=lambda: self.standing,
        )
        answer = self.successResultOf(Deferred.fromCoroutine(details.tell("0.1")))
        self.hostname = answer["hostname"]
        return json.loads(json.dumps(answer))

    def test_answer(self) -> None:
        """Every attribute of the specification is there, then ours: numbers are numbers, of the units specified."""
        answer = self.tell()
        self.assertEqual(
            {
                "hostname": self.hostname,
                "uuid": AMPHORA,
                "haproxy_version": "2.6.12",
                "api_version": "0.1",
                "networks": {
                    "eth1": {"network_tx": 3300138, "network_rx": 982001},
                    "eth2": {"network_tx": 0, "network_rx": 1},
                },
                "network_tx": 3300138,
                "network_rx": 982002,
                "active": True,
                "haproxy_count": 3,
                "cpu": {"total": 33.33, "user": 16.67, "system": 8.33, "soft_irq": 0.0},
                "memory": {
                    "total": 4087402,
                    "free": 760656,
                    "available": 2655901,
                    "buffers": 90980,
                    "cached": 1830143,
                    "swap_used": 943,
                    "shared": 105792,
                    "slab": 158819,
                    "committed_as": 2643480,
                },
                "disk": {"used": 1234567, "available": 5242880},
                "load": [0.5, 0.45, 0.0],
                "topology": "SINGLE",
                "topology_status": "OK",
                "listeners": LISTENERS,
                "packages": [{"haproxy": "2.6.12-1+deb12u4"}, {"openssl": "1:3.0"}],
                "agent_version": amphora.__version__,
                "agent_memory": 43210,
                "certificates_in_memory": True,
                "cpu_count": 2,
                "haproxy_memory": 98765,
                "haproxy_workers": {"running": 4, "old": 1},
                "heartbeat": {
                    "sent": 17,
                    "bytes": 1234,
                    "members_left_out": 3,
                    "controllers": [
                        {"host": "192.0.2.1", "port": 5555, "reachable": True},
                        {"host": "2001:db8::1", "port": 5555, "reachable": False},
                        {"host": "health.example", "port": 5556, "reachable": None},
                    ],
                },
            },
            answer,
        )

    def test_standing(self) -> None:
        """Topology, status and role are those of now."""
        self.standing = Standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")
        answer = self.tell()
        assert isinstance(answer, dict)
        self.assertEqual(
            ("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", False),
            (answer["topology"], answer["topology_status"], answer["active"]),
        )
