"""The agent as an amphora runs it: by its unit, under the real systemd, with no more rights than the unit leaves it."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import TestCase

from amphora.process import ProcessIdentity
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AgentProcess, free_port, get, wait_until
from tests.integration.machine import CONF, Machine, UnitAgent
from tests.integration.support import count, requires, short_directory
from tests.test_units import limits

UNIT = "amphora-agent.service"
_FORBIDDEN = {"SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_BOOT": 22, "SYS_TIME": 25, "MKNOD": 27, "SYSLOG": 34, "BPF": 39}
"""Some rights that nobody here needs, and their numbers; see capabilities(7)."""


def status_of(process: ProcessIdentity) -> dict[str, str]:
    """What the kernel tells of a process; see C{/proc/PID/status} in proc(5)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class UnitTestCase(FaultTestCase):
    agent: UnitAgent
    drop_in = ""
    """What the unit says besides."""

    def make_agent(self) -> AgentProcess:
        machine = Machine(self.directory)
        self.addCleanup(machine.end)
        return UnitAgent(self.directory, self.pki, free_port(), machine=machine, drop_in=self.drop_in)

    async def start(self, *controllers: str) -> None:
        await super().start(controllers[0])
        self.namespace = self.agent.namespace

    async def main_process(self) -> ProcessIdentity:
        process = self.agent.machine.process(int(await self.agent.machine.show(UNIT, "MainPID")))
        assert process is not None
        return process

    def haproxy(self) -> ProcessIdentity:
        process = self.agent.haproxy(self.balancer.listener_id)
        assert process is not None
        return process


@requires("root", "haproxy", "ip", "machine")
class UnitTests(UnitTestCase):
    async def test_confined(self) -> None:
        """The agent and haproxy have no rights but those of the unit, and the mounts that everybody has."""
        mounts = os.readlink(f"/proc/{self.agent.machine.init}/ns/mnt")
        self.assertEqual(mounts, os.readlink(f"/proc/{(await self.main_process()).pid}/ns/mnt"))
        for process in (await self.main_process(), self.haproxy()):
            status = status_of(process)
            self.assertEqual(("1", "2"), (status["NoNewPrivs"], status["Seccomp"]))
            rights = int(status["CapEff"], 16) | int(status["CapBnd"], 16)
            self.assertEqual([], [name for name, number in _FORBIDDEN.items() if rights >> number & 1])
        certificates = self.agent.base_path / "certs"
        self.assertEqual(0o700, stat.S_IMODE(certificates.stat().st_mode))
        self.assertNotIn("not on a memory file system", self.agent.log)

    async def test_tenants_configuration(self) -> None:
        """What a configuration may ask for is left to haproxy: another user, a root of its own, regular expressions."""
        demanding = evolve(
            self.balancer,
            extra_global=("user nobody", "chroot /run"),
            # They are compiled to code as they are read.
            extra_frontend=("http-request deny if { path -m reg ^/(a|b)+c$ }",),
        )
        await self.client.upload_haproxy(self.balancer.listener_id, demanding.config())
        await self.client.reload(self.balancer.listener_id)
        self.assertIn(b" 200 OK\r\n", await get(self.balancer.port, namespace=self.namespace))
        self.assertTrue(self.is_well((await self.next_heartbeat()).message))
        details = await self.client.details()
        self.assertEqual(1, details.haproxy_count)
        haproxy = self.haproxy()
        await self.client.stop(self.balancer.listener_id)
        self.assertFalse(haproxy.alive)

    @requires("ping")
    async def test_ping(self) -> None:
        """A health monitor of the type PING, run without any right, tells who answers from who does not."""
        wrapper = self.agent.base_path / "ping-wrapper.sh"
        wrapper.write_text('#!/bin/sh\nexec /bin/ping -q -n -w 1 -c 1 "$HAPROXY_SERVER_ADDR" > /dev/null 2>&1\n')
        wrapper.chmod(0o755)
        self.agent.base_path.chmod(0o755)
        monitored = evolve(
            self.balancer,
            extra_global=("user nobody", "external-check", "insecure-fork-wanted"),
            extra_defaults=("option external-check", "external-check command /var/lib/octavia/ping-wrapper.sh"),
            extra_sections=("backend silent", "    server silent 192.0.2.1:80 check inter 200ms fall 1 rise 1"),
        )
        await self.client.upload_haproxy(self.balancer.listener_id, monitored.config())
        await self.client.reload(self.balancer.listener_id)

        def silent(message: Mapping[str, Any]) -> bool:
            pool = message["pools"].get(f"silent:{self.balancer.listener_id}")
            return pool is not None and pool["members"]["silent"].startswith("DOWN")

        await wait_until(lambda: silent(self.heard[-1].message), "who does not answer to be told down")
        self.assertTrue(self.is_well((await self.next_heartbeat()).message))

    async def test_told(self) -> None:
        """
        systemd is told how the agent fares, and for how long its heartbeats may take, as that is now.

        haproxy speaks to the agent, and not to systemd.
        """
        machine = self.agent.machine
        environment = Path(f"/proc/{self.haproxy().pid}/environ").read_bytes().split(b"\0")
        sockets = [each for each in environment if each.startswith((b"NOTIFY_SOCKET=", b"WATCHDOG_"))]
        self.assertEqual([b"NOTIFY_SOCKET=/var/lib/octavia/notify.sock"], sockets)

        async def told() -> bool:
            return (await machine.show(UNIT, "StatusText")).startswith("ACTIVE (SINGLE); listeners: 1; ")

        await wait_until(told, "the unit to tell how the agent fares")
        self.assertEqual("30s", await machine.show(UNIT, "WatchdogUSec"))
        self.agent.options["health_manager"]["heartbeat_interval"] = 60
        self.agent.write_config()
        await machine.systemctl("reload", UNIT)

        async def longer() -> bool:
            return await machine.show(UNIT, "WatchdogUSec") == "2min 34s"

        await wait_until(longer, "the watchdog to have time for rarer heartbeats")

    async def test_E8_by_systemd(self) -> None:
        """systemd stops, starts and restarts the agent, and haproxy takes no notice."""
        haproxy = self.haproxy()
        async with self.watch(spares_agent=False):
            await self.agent.machine.systemctl("restart", UNIT)
            await self.agent.machine.systemctl("stop", UNIT)
            await self.agent.machine.systemctl("start", UNIT)
        self.assertEqual(haproxy, self.haproxy())


@requires("root", "haproxy", "ip", "machine")
class WatchdogTests(UnitTestCase):
    drop_in = "WatchdogSec=2"
    """Less than what the agent allows its rounds of heartbeats, which it tells systemd: 6.5 s."""

    async def test_B4_hangs(self) -> None:
        """An agent that hangs tells where, and is started anew before a controller takes the amphora for dead."""
        haproxy = self.haproxy()
        async with self.watch(spares_agent=False):
            hung = await self.main_process()
            hung.send_signal(signal.SIGSTOP)
            await wait_until(lambda: not hung.alive, "the watchdog to bite")
        self.assertEqual(haproxy, self.haproxy())
        self.assertIn("Fatal Python error: Aborted", self.agent.log)


@requires("root", "haproxy", "keepalived", "ip", "dnsmasq", "gcc", "nft", "machine")
class LimitsTests(TestCase):
    """What else the agent does, and keepalived with it, under the limits of the unit."""

    timeout = 1800

    TESTS = (
        "tests.integration.test_lvs.LifeTests.test_life",
        "tests.integration.test_network.SpecificationTests.test_plug_vip",
        "tests.integration.test_nftables.NftProgramTests.test_filter",
        "tests.integration.test_vrrp.RoleTests.test_pair",
    )
    ALL_TESTS = tuple(
        f"tests.integration.test_{name}"
        for name in (
            *("adoption", "agent_1_0", "details", "listeners", "load_balancers_1_0", "lvs", "metrics", "network"),
            *("network_dhcp", "nftables", "plug_1_0", "supervision", "topology", "vrrp", "vrrp_1_0"),
        )
    )

    async def test_limits(self) -> None:
        """Tests that pass without the unit's limits pass with them: these are run as a service that has them."""
        directory = short_directory(self)
        machine = Machine(directory)
        self.addCleanup(machine.end)
        await machine.boot()
        tests = self.ALL_TESTS if count(0, 1) else self.TESTS
        unit = machine.root / "run/systemd/system/tests.service"
        unit.parent.mkdir(exist_ok=True)
        # One test holds a process with ptrace(2), which the agent may not.
        lines = (
            "[Service]",
            "Type=oneshot",
            *limits(),
            "SystemCallFilter=ptrace",
            f"WorkingDirectory={CONF.parent}",
            f"Environment=PATH={os.environ['PATH']} AMPHORA_REQUIRE_INTEGRATION=1 PYTHONDONTWRITEBYTECODE=1",
            f"ExecStart={sys.executable} -m twisted.trial --temp-directory=/run/trial {' '.join(tests)}",
            "StandardOutput=file:/run/tests",
            "",
        )
        unit.write_text("\n".join(lines))
        await machine.systemctl("daemon-reload")
        done = await machine.run("systemctl", "start", "tests.service", patience=self.timeout)
        self.assertEqual(0, done.returncode, (machine.root / "run/tests").read_text())
