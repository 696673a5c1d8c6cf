"""
An amphora with everything that can be done with one, and its surroundings.

It lives in namespaces that C{script/soak} has made for it: of processes, of mounts and of the network.  So all of it
is gone with the process that made them, whatever that process came to.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from attrs import define, evolve, field
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from amphora.client import AmphoraClient, Credentials
from amphora.listener import Heartbeat, HeartbeatListener
from amphora.network.inside import inside
from amphora.process import ProcessIdentity
from amphora.testing.pki import Part, ThrowAwayPKI, listener_pem
from tests.integration.harness import (
    AMPHORA_ID,
    AgentProcess,
    LoadBalancer,
    Member,
    RawClient,
    client_context,
    new_id,
    wait_until,
)
from tests.integration.lab import Host, Lab
from tests.integration.lvs import KEEPALIVED, LvsText
from tests.integration.networks import ip
from tests.integration.pair import VIRTUAL_ADDRESS, Side, VrrpConfig, run
from tests.soak.traffic import Target
from tests.soak.windows import KEEPALIVED as THE_KEEPALIVED
from tests.soak.windows import Windows

DISK_SIZE: Final = "96m"
MANY: Final = 1000
"""Members of the largest load balancer."""
PEM: Final = "www.example.com.pem"
KEY: Final = "a key of the soak"

_RETRIES: Final = ("retries 3", "option redispatch", "retry-on all-retryable-errors")
"""A member that goes away costs no request: what fails is then not the members' doing."""


class _Echo(Protocol):
    """Says again what it hears."""

    def __init__(self, connections: set[_Echo]) -> None:
        self._connections = connections

    def connectionMade(self) -> None:
        self._connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connections.discard(self)


class _EchoFactory(Factory):
    noisy = False

    def __init__(self) -> None:
        self.connections: set[_Echo] = set()

    def buildProtocol(self, _: object) -> _Echo:
        return _Echo(self.connections)


@define(eq=False)
class Flapping:
    """A member that goes down and up again, and since when it is what it is."""

    member: Member
    now: Any
    is_up: bool = field(init=False, default=True)
    since: float = field(init=False, default=0.0)

    async def flip(self) -> None:
        self.since = self.now()
        self.is_up = not self.is_up
        if self.is_up:
            self.member.up()
        else:
            await self.member.down()
        self.since = self.now()


@define(eq=False)
class Balancer:
    """One haproxy of the amphora, with one listener (v0.1) or several (1.0), and the clients' ways to it."""

    name: str
    version: str
    instance_id: str
    parts: Sequence[LoadBalancer]
    flapping: Sequence[Flapping] = ()
    """Those of its members that go down and up."""
    pem: bytes = field(default=b"", repr=False)
    """The certificate that its TLS listener has."""
    revision: int = 0
    targets: list[Target] = field(init=False, factory=list)
    lives: bool = field(init=False, default=False)
    """Whether heartbeats have to tell that it is well, but for what windows explain."""

    def config(self) -> bytes:
        """Its configuration, which differs from one revision to the next."""
        first, *others = (part.config() for part in self.parts)
        frontends = [b"frontend " + other.partition(b"frontend ")[2] for other in others]
        return b"".join([b"# revision %d\n" % self.revision, first, *frontends])


def _ports() -> Iterator[int]:
    """Ports below those that the kernel gives to outgoing connections."""
    return itertools.count(10_001)


@define(eq=False)
class World:
    """What there is.  L{set_up}, and L{clean_up} whatever came of that."""

    directory: Path
    windows: Windows
    now: Any
    heard: Any
    """Called with each heartbeat."""
    interval: int = 1
    """Seconds from one regular heartbeat to the next."""
    lab: Lab = field(init=False, factory=Lab)
    amphora: Host = field(init=False)
    outside: Host = field(init=False)
    agent: AgentProcess = field(init=False)
    pki: ThrowAwayPKI = field(init=False)
    client: AmphoraClient = field(init=False)
    """The controller that speaks v0.1."""
    asker: AmphoraClient = field(init=False)
    """Another, which only asks."""
    raw: RawClient = field(init=False)
    """The controller that speaks 1.0."""
    balancers: list[Balancer] = field(init=False, factory=list)
    udp: LvsText = field(init=False)
    vrrp: VrrpConfig = field(init=False)
    controllers: list[HeartbeatListener] = field(init=False, factory=list)
    _all_controllers: list[HeartbeatListener] = field(init=False, factory=list)
    """Those too that were moved away from."""
    logs: list[tuple[float, float, str]] = field(init=False, factory=list)
    """What each agent that has ended had said, from when to when."""
    agent_began: float = field(init=False, default=0.0)
    _members: list[Member] = field(init=False, factory=list)
    _echo: IListeningPort | None = field(init=False, default=None)
    _echoes: _EchoFactory = field(init=False, factory=_EchoFactory)
    ports: Iterator[int] = field(init=False, factory=_ports)

    @property
    def base_path(self) -> Path:
        return self.agent.base_path

    # Beginning and end

    async def set_up(self) -> None:
        """Bring everything up, by the API alone where it has a way."""
        await deferToThread(self._surround)
        self.controllers = [self.new_controller(), self.new_controller()]
        self.agent.options["health_manager"] = {
            "heartbeat_interval": self.interval,
            "heartbeat_key": KEY,
            "controller_ip_port_list": self.entries(),
        }
        await self.start_agent()
        self.agent.keeps_config = True
        self.client, self.asker = self.new_client(), self.new_client()
        self.raw = RawClient(self.agent.port, client_context(self.pki, self.pki.client, self.pki.client_key))
        self._plan_balancers()
        self.vrrp = VrrpConfig(
            Side(self.amphora.name, "eth0", "192.0.2.2"), Side(self.outside.name, "eth0", "192.0.2.3"), hurry=0
        )
        self.udp = self.new_udp()

    def _surround(self) -> None:
        """The part that needs no agent.  Blocks."""
        self.amphora, self.outside = self.lab.host("amphora"), self.lab.host("outside")
        self.lab.plug(self.amphora, "192.0.2.2/24")
        self.lab.plug(self.outside, "192.0.2.3/24")
        temporary = self.directory / "t"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        self.pki = ThrowAwayPKI.create(self.directory, AMPHORA_ID)
        self.agent = AgentProcess(
            self.directory,
            self.pki,
            next(self.ports),
            {
                "amphora_agent": {"network_namespace": self.amphora.name},
            },
            # The Ctrl-C of a terminal is for us alone.
            wrapper=("setsid",),
        )
        self.base_path.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=755", "tmpfs", str(self.base_path))

    async def clean_up(self) -> list[str]:
        """End everything.  @return: What was left that should have gone by itself."""
        left: list[str] = []
        for client in (self.client, self.asker):
            await client.close()
        await self.end_agent()
        left += [f"process {process.pid}: {' '.join(process.command_line())}" for process in self.agents()]
        # These outlive an agent, as they should.
        for process in self._daemons():
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self._daemons(), "all processes to end")
        for member in self._members:
            await member.down()
        if self._echo is not None:
            await cast(Any, self._echo.stopListening())
        for controller in self.controllers:
            await controller.stopService()
        await deferToThread(self._dissolve)
        left += [f"temporary file {path}" for path in sorted((self.directory / "t").iterdir())]
        return left + await deferToThread(_others)

    def _daemons(self) -> list[ProcessIdentity]:
        return [*self.agent.all_haproxies(), *self.agent.keepers(), *self.keepaliveds()]

    def _dissolve(self) -> None:
        run("umount", "--lazy", str(self.base_path))
        self.lab.clean_up()

    # The agent

    async def start_agent(self) -> None:
        self.agent_began = self.now()
        await self.agent.start()

    async def end_agent(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it, and keep what it has said."""
        await self.agent.end(with_signal)
        self.logs.append((self.agent_began, self.now(), self.agent.log))

    def new_client(self) -> AmphoraClient:
        from twisted.internet import reactor

        credentials = Credentials(
            self.pki.ca.read_bytes(), self.pki.client.read_bytes(), self.pki.client_key.read_bytes()
        )
        return AmphoraClient(cast(Any, reactor), AMPHORA_ID, self.agent.host, self.agent.port, credentials)

    # Controllers' ears

    def new_controller(self, port: int = 0) -> HeartbeatListener:
        from twisted.internet import reactor

        def heard(heartbeat: Heartbeat) -> None:
            self.heard(heartbeat)

        controller = HeartbeatListener(reactor=cast(Any, reactor), key=KEY, received=heard, port=port)
        controller.startService()
        self._all_controllers.append(controller)
        return controller

    def bad_datagrams(self) -> Counter[str]:
        """What controllers heard that is no heartbeat, by the reason."""
        return sum((controller.bad for controller in self._all_controllers), Counter())

    def entries(self) -> str:
        """The option that names them all."""
        return ", ".join(f"127.0.0.1:{controller.port}" for controller in self.controllers)

    # Load balancers

    def new_member(self) -> Member:
        member = Member(new_id(), port=next(self.ports), namespace=self.amphora.name)
        member.up()
        self._members.append(member)
        return member

    def new_part(self, *members: Member, listener_id: str = "", **more: Any) -> LoadBalancer:
        return LoadBalancer(
            listener_id=listener_id or new_id(),
            port=next(self.ports),
            members=members,
            extra_defaults=(*_RETRIES, *more.pop("extra_defaults", ())),
            **more,
        )

    def new_udp(self) -> LvsText:
        """A UDP listener that asks nothing of the kernel, which may know no IPVS; its keepalived runs all the same."""
        return LvsText(namespace=self.amphora.name, port=next(self.ports), disabled=True)

    def new_pem(self) -> bytes:
        return listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE, Part.CHAIN, use_rsa=False)

    def _remembering(self, instance_id: str) -> dict[str, Any]:
        """As Octavia writes it: a new worker begins with what the old one knew of members."""
        return {
            "extra_global": (f"server-state-file {self.base_path}/{instance_id}/servers-state",),
            "extra_defaults": ("load-server-state-from-file global",),
        }

    def _plan_balancers(self) -> None:
        own: dict[str, Any] = {"namespace": self.amphora.name}

        members = [self.new_member() for _ in range(3)]
        web_id, vip_port = new_id(), next(self.ports)
        web = self.new_part(
            *members, listener_id=web_id, extra_binds=(f"0.0.0.0:{vip_port}",), **self._remembering(web_id)
        )
        plain = Balancer("web", "v0.1", web_id, [web], [Flapping(member, self.now) for member in members[1:]])
        plain.targets.append(Target("web", web_id, self._about(web_id), port=web.port, **own))
        plain.targets.append(
            Target(
                "web by its VIP",
                web_id,
                self._about(web_id, THE_KEEPALIVED),
                self.outside.name,
                vip_port,
                VIRTUAL_ADDRESS,
            )
        )

        chat_id = new_id()
        echo = self._new_echo()
        chat = self.new_part(echo, listener_id=chat_id, mode="tcp")
        # A server of TCP has none of HTTP's retries.
        chat = evolve(chat, extra_defaults=_RETRIES[:2])
        staying = Balancer("long connections", "v0.1", chat_id, [chat])
        staying.targets.append(
            Target("long connections", chat_id, self._about(chat_id), port=chat.port, stays=True, **own)
        )

        large_id = new_id()
        large_part = self.new_part(self.new_member(), self.new_member(), listener_id=large_id, extra_servers=MANY - 2)
        large = Balancer(f"{MANY} members", "v0.1", large_id, [large_part])
        large.targets.append(Target(large.name, large_id, self._about(large_id), port=large_part.port, **own))

        tls_id = new_id()
        tls_part = self.new_part(
            self.new_member(), listener_id=tls_id, bind_options=f"ssl crt {self.agent.cert_dir}/{tls_id}/{PEM}"
        )
        tls = Balancer("TLS", "v0.1", tls_id, [tls_part], pem=self.new_pem())
        tls.targets.append(Target("TLS", tls_id, self._about(tls_id), port=tls_part.port, tls=True, **own))

        modern_id = new_id()
        modern_member = [self.new_member() for _ in range(2)]
        parts = [
            self.new_part(*modern_member, **self._remembering(modern_id)),
            self.new_part(self.new_member(), bind_options=f"ssl crt {self.agent.cert_dir}/{modern_id}/{PEM}"),
            self.new_part(self.new_member(), mode="http"),
        ]
        modern = Balancer(
            "1.0, three listeners",
            "1.0",
            modern_id,
            parts,
            [Flapping(member, self.now) for member in modern_member[1:]],
            pem=self.new_pem(),
        )
        for number, part in enumerate(parts):
            name = f"1.0, listener {number + 1}"
            about = self._about(modern_id)
            modern.targets.append(Target(name, part.listener_id, about, port=part.port, tls=number == 1, **own))

        self.balancers = [plain, staying, large, tls, modern]

    def _about(self, instance_id: str, *more: str) -> frozenset[str]:
        return frozenset((instance_id, *more))

    def _new_echo(self) -> Member:
        """A server of our own in the place of a member; it stands for one in a configuration."""
        from twisted.internet import reactor

        echo = Member(new_id(), port=next(self.ports))
        with inside(self.amphora.name, lambda: socket.create_server(("127.0.0.1", echo.port))) as listening:
            listening.setblocking(False)
            self._echo = cast(Any, reactor).adoptStreamPort(listening.fileno(), socket.AF_INET, self._echoes)
        return echo

    def targets(self) -> list[Target]:
        return [target for balancer in self.balancers for target in balancer.targets]

    # Processes

    def workers(self, balancer: Balancer) -> list[ProcessIdentity]:
        """The haproxies of one load balancer but for its master."""
        master = self.agent.haproxy(balancer.instance_id)
        return [one for one in self.haproxies(balancer) if master is None or one.pid != master.pid]

    def haproxies(self, balancer: Balancer) -> list[ProcessIdentity]:
        return [
            one
            for one in self.agent.all_haproxies()
            if any(balancer.instance_id in word for word in one.command_line())
        ]

    def keepaliveds(self) -> list[ProcessIdentity]:
        """All of them, parents and children, of VRRP and of UDP listeners."""
        return [one for one in self._given(self.base_path) if one.command_line()[0] == KEEPALIVED]

    def vrrp_keepaliveds(self) -> list[ProcessIdentity]:
        """The parent first."""
        with suppress(FileNotFoundError, ValueError):
            pid = int((self.base_path / "vrrp" / "octavia-keepalived.pid").read_text())
            ours = [one for one in self.keepaliveds() if "--vrrp" in one.command_line()]
            return sorted(ours, key=lambda one: one.pid != pid)
        return []

    def agents(self) -> list[ProcessIdentity]:
        """Every process that was started as this agent."""
        return self._given(self.agent.config_file)

    def _given(self, path: Path) -> list[ProcessIdentity]:
        """The processes that were given a path, or one below it."""
        found = [ProcessIdentity.of(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
        return [one for one in found if one is not None and any(str(path) in word for word in one.command_line())]


def _others() -> list[str]:
    """What the namespaces of processes and of the network have beside those who are to be there.  Blocks."""
    links = [line.split()[1] for line in ip("-oneline", "link", "show").splitlines()]
    left = [f"link {name}" for name in links if name != "lo:"]
    left += [f"namespace {name}" for name in os.listdir("/run/netns")]
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (1, os.getpid()):
            process = ProcessIdentity.of(int(entry))
            if process is not None:
                words = " ".join(process.command_line()) or Path(f"/proc/{entry}/comm").read_text().strip()
                left.append(f"process {entry}: {words}")
    return left
