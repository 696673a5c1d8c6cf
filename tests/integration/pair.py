"""Two network namespaces with a link between them: an amphora's, and its peer's."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from twisted.trial.unittest import TestCase

from amphora.process import ProcessIdentity, spawn_daemon
from tests.integration.harness import AgentTestCase, new_id, wait_until
from tests.integration.support import program

VIRTUAL_ADDRESS = "192.0.2.100"
PASSWORD = "qT7x-4Zb"
PAIR_HURRY = 0.3
"""Of two that hear each other: slow enough for a machine that has other things to do, too."""

EVERYTHING_FOR_PAIRS = ("root", "haproxy", "keepalived", "ip")


def run(*command: str) -> str:
    """A short command that has to succeed: its output.  Blocks."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"{command} failed: {done.stdout}{done.stderr}")
    return done.stdout


@frozen
class Side:
    """One namespace, its link, and the link's own address."""

    namespace: str
    link: str
    address: str

    def holds(self, address: str = VIRTUAL_ADDRESS) -> bool:
        return bool(run("ip", "-n", self.namespace, "-o", "address", "show", "to", address))

    def set_link(self, state: str) -> None:
        run("ip", "-n", self.namespace, "link", "set", self.link, state)


@define(eq=False)
class Pair:
    """Both sides; taken away with the test."""

    ours: Side
    theirs: Side

    @classmethod
    def create(cls, test: TestCase) -> Pair:
        mark = new_id()[:8]
        sides = [
            Side(f"amphora-{mark}-{side}", f"v{side}{mark}", f"192.0.2.{number}")
            for number, side in ((2, "a"), (3, "b"))
        ]
        for side in sides:
            run("ip", "netns", "add", side.namespace)
            # Links end with their namespace.
            test.addCleanup(run, "ip", "netns", "delete", side.namespace)
        ours, theirs = sides
        ends = (("netns", ours.namespace), ("peer", "name", theirs.link, "netns", theirs.namespace))
        run("ip", "link", "add", ours.link, *ends[0], "type", "veth", *ends[1])
        for side in sides:
            for link in ("lo", side.link):
                run("ip", "-n", side.namespace, "link", "set", link, "up")
            run("ip", "-n", side.namespace, "address", "add", f"{side.address}/24", "dev", side.link)
        return cls(ours, theirs)


@frozen
class VrrpConfig:
    """
    A keepalived configuration as Octavia lays it out.

    In a hurry it speaks version 3 of VRRP, without a password, `hurry` seconds apart.
    """

    side: Side
    peer: Side
    script: Path | None = None
    name: str = field(factory=lambda: new_id().replace("-", ""))
    priority: int = 100
    hurry: float = 0.1
    interval: int = 1
    addresses: tuple[str, ...] = (VIRTUAL_ADDRESS,)

    def text(self) -> bytes:
        speed = ["version 3", f"advert_int {self.hurry}"] if self.hurry else ["advert_int 1"]
        password = ["authentication {", "    auth_type PASS", f"    auth_pass {PASSWORD}", "}"]
        times = 1 if self.hurry else 2
        check = [
            *("vrrp_script check_script {", f"    script {self.script}", f"    interval {self.interval}"),
            *(f"    fall {times}", f"    rise {times}", "}", ""),
        ]
        return "\n".join(
            [
                *(check if self.script else []),
                f"vrrp_instance {self.name} {{",
                f"    interface {self.side.link}",
                "    virtual_router_id 1",
                f"    priority {self.priority}",
                "    nopreempt",
                "    accept",
                "    garp_master_refresh 5",
                "    garp_master_refresh_repeat 2",
                *(f"    {line}" for line in (*speed, *([] if self.hurry else password))),
                "",
                f"    unicast_src_ip {self.side.address}",
                "    unicast_peer {",
                f"        {self.peer.address}",
                "    }",
                "",
                "    virtual_ipaddress {",
                *(f"        {address}" for address in self.addresses),
                "    }",
                "    virtual_routes {",
                f"        192.0.2.0/24 dev {self.side.link} src {self.addresses[0]} scope link table 1",
                "    }",
                "    virtual_rules {",
                *(f"        from {address}/32 table 1 priority 100" for address in self.addresses),
                "    }",
                *(["    track_script {", "        check_script", "    }"] if self.script else []),
                "}",
                "",
            ]
        ).encode()


@define(eq=False)
class PlainKeepalived:
    """A keepalived that no agent looks after."""

    directory: Path
    namespace: str

    @property
    def main(self) -> Path:
        return self.directory / "plain.conf"

    @property
    def log(self) -> str:
        return (self.directory / "plain.log").read_text("utf-8", "replace")

    @property
    def child(self) -> ProcessIdentity | None:
        try:
            return ProcessIdentity.of(int((self.directory / "plain.vrrp.pid").read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def start(self, text: bytes) -> ProcessIdentity:
        """Start it in the foreground, as the agent does."""
        from twisted.internet import reactor

        self.main.write_bytes(text)
        output = os.open(self.directory / "plain.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = spawn_daemon(
            cast(Any, reactor),
            [
                *("ip", "netns", "exec", self.namespace, program("keepalived") or "keepalived", "--vrrp"),
                *("--dont-fork", "--log-console", "--no-syslog", "-f", str(self.main)),
                *("-p", str(self.directory / "plain.pid"), "-r", str(self.directory / "plain.vrrp.pid")),
            ],
            output=output,
            environment={},
        )
        os.close(output)
        process = ProcessIdentity.of(pid)
        assert process is not None
        return process


def keepalives_of(directory: Path) -> list[ProcessIdentity]:
    """Every keepalived that was started with files below this directory."""
    found = []
    for entry in os.listdir("/proc"):
        process = ProcessIdentity.of(int(entry)) if entry.isdigit() else None
        if process is None or not (process.executable() or "").endswith("/keepalived"):
            continue
        if any(str(directory) in word for word in process.command_line()):
            found.append(process)
    return found


async def end_keepaliveds(directory: Path) -> None:
    for process in keepalives_of(directory):
        process.send_signal(signal.SIGKILL)
    await wait_until(lambda: not keepalives_of(directory), "keepaliveds to end")


class PairTestCase(AgentTestCase):
    """A test with an agent on one side of a pair."""

    def setUp(self) -> None:
        self.pair = Pair.create(self)
        super().setUp()
        self.vrrp = self.agent.base_path / "vrrp"
        self.uploaded = self.vrrp / "octavia-keepalived.conf"

    async def _clean_up(self) -> None:
        try:
            await super()._clean_up()
        finally:
            await end_keepaliveds(self.directory)

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"network_namespace": self.pair.ours.namespace}}

    def config(self, **changes: Any) -> VrrpConfig:
        return VrrpConfig(self.pair.ours, self.pair.theirs, **changes)

    def keepalived(self) -> ProcessIdentity | None:
        """The process that the pid file names, if it is one of ours."""
        try:
            pid = int((self.vrrp / "octavia-keepalived.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return next((process for process in keepalives_of(self.directory) if process.pid == pid), None)

    async def until_held(self, side: Side | None = None, *, held: bool = True) -> None:
        where = side or self.pair.ours
        await wait_until(lambda: where.holds() == held, f"the virtual address {'on' if held else 'off'} {where.link}")

    async def running_vrrp(self, config: VrrpConfig) -> VrrpConfig:
        """Upload and start it, and wait until it has the virtual address."""
        await self.client.upload_vrrp(config.text())
        await self.client.vrrp("start")
        await self.until_held()
        return config

    def new_peer(self) -> PlainKeepalived:
        """The other side's keepalived, already started."""
        directory = self.directory / f"peer-{new_id()[:8]}"
        directory.mkdir()
        peer = PlainKeepalived(directory, self.pair.theirs.namespace)
        peer.start(VrrpConfig(self.pair.theirs, self.pair.ours, priority=90, hurry=PAIR_HURRY).text())
        return peer
