"""Two amphorae that share an address, their network, a client that never stops asking, and what can befall them."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import LineReceiver

from amphora.client import AmphoraClient, Credentials
from amphora.listener import Heartbeat, HeartbeatListener
from amphora.loadbalancer.instance import peer_name
from amphora.process import ProcessIdentity
from amphora.testing.pki import ThrowAwayPKI
from tests.integration.harness import AgentProcess, RawClient, client_context, free_port, new_id, wait_until
from tests.integration.lab import Host, Lab, Port
from tests.integration.support import program

VIP = "10.99.0.100"
SUBNET = "10.99.0.0/24"
GATEWAY = "10.99.0.1"
SECRET = "b20e06cf1abcf29c708d3b437f4a29892a0921d0"
KEY = "a key of the pair"
PACE = 0.05
"""Seconds between two requests of the client."""


class _Member(LineReceiver):
    """Answers a request with its name, and closes."""

    name = b""

    def lineReceived(self, line: bytes) -> None:
        if not line:
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.name)
            self.transport.loseConnection()


@frozen
class Answered:
    """A request of the client's: when it ended, in the reactor's seconds, and by whom it was answered, if it was."""

    ended: float
    member: str | None


@define(eq=False)
class Client:
    """Asks the VIP, on a new connection each time, at an even pace."""

    host: Host
    answers: list[Answered] = field(factory=list)
    _loop: LoopingCall = field(init=False)
    _asking: set[Deferred[Any]] = field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(self._ask)

    def start(self) -> None:
        self._loop.start(PACE)

    async def stop(self) -> None:
        self._loop.stop()
        await gatherResults(list(self._asking))

    def _ask(self) -> None:
        from twisted.internet import reactor

        # More than a few at a time are of no use: each of them waits for the same thing.
        if len(self._asking) >= 20:
            return

        def done(member: str | None) -> None:
            self._asking.discard(asking)
            self.answers.append(Answered(cast(Any, reactor).seconds(), member))

        asking = Deferred.fromCoroutine(self._ask_once())
        self._asking.add(asking)
        asking.addCallback(done)

    async def _ask_once(self) -> str | None:
        try:
            return await deferToThread(self._request)
        except OSError:
            return None

    def _request(self) -> str | None:
        with self.host.connect(VIP, 80, timeout=1.0) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := connection.recv(65536):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return body.decode() if b" 200 " in head.split(b"\r\n")[0] and body else None

    def served_by(self) -> set[str]:
        """The members that have answered."""
        return {answer.member for answer in self.answers if answer.member is not None}

    def failed(self, since: int) -> int:
        """How many requests failed, of those that ended since there were so many."""
        return sum(answer.member is None for answer in self.answers[since:])

    def outage(self, since: int) -> float:
        """The longest time between two good answers, in seconds, from the last one before there were so many on."""
        good = [(number, answer.ended) for number, answer in enumerate(self.answers) if answer.member is not None]
        before = [ended for number, ended in good if number < since][-1:]
        times = before + [ended for number, ended in good if number >= since]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


@define(eq=False)
class Amphora:
    """One of the two: its agent, its namespace, and how it is reached."""

    name: str
    amphora_id: str
    agent: AgentProcess
    host: Host
    port: Port
    address: str
    client: AmphoraClient
    haproxy: Path
    """A link to the haproxy program, which the amphora is told of."""

    def raw_client(self) -> RawClient:
        """A controller that speaks bytes."""
        pki = self.agent.pki
        return RawClient(self.agent.port, client_context(pki, pki.client, pki.client_key), amphora_id=self.amphora_id)

    async def role(self) -> str:
        return (await self.client.topology()).role

    def has_vip(self) -> bool:
        return f" {VIP}/" in self.host.addresses()

    def keepalived(self) -> list[ProcessIdentity]:
        """The processes of its keepalived, the parent first; none where it does not run."""
        try:
            pid = int((self.agent.base_path / "vrrp" / "octavia-keepalived.pid").read_text())
        except (FileNotFoundError, ValueError):
            return []
        parent = ProcessIdentity.of(pid)
        if parent is None or str(self.agent.base_path) not in " ".join(parent.command_line()):
            return []
        return [parent, *parent.children()]


@frozen
class Fault:
    """What befell the active amphora, and what came of it; seconds are by the reactor's clock."""

    name: str
    requests: int
    failed: int
    outage: float
    told: float | None
    """Seconds from the VIP's move to the heartbeat that told of the new role; None where nothing moved."""


@define(eq=False)
class Pair:
    """The whole arrangement.  L{set_up} once, then any of the faults, again and again; L{clean_up} at the end."""

    directory: Path
    listener_id: str = field(factory=new_id)
    pool_id: str = field(factory=new_id)
    heard: list[Heartbeat] = field(factory=list)
    amphorae: list[Amphora] = field(factory=list)
    _lab: Lab = field(init=False)
    client: Client = field(init=False)
    _listener: HeartbeatListener = field(init=False)
    _members: list[IListeningPort] = field(init=False, factory=list)

    # Building it

    async def set_up(self) -> None:
        """Bring both up, through their API alone, and wait until one of them serves."""
        from twisted.internet import reactor

        self._lab = Lab()
        self._lab.switch.ip("address", "add", f"{GATEWAY}/24", "dev", "bridge")
        client_host = self._lab.host("client")
        self._lab.plug(client_host, "10.99.0.9/24")
        self.client = Client(client_host)
        self._member(2)
        self._listener = HeartbeatListener(reactor=cast(Any, reactor), key=KEY, received=self.heard.append)
        self._listener.startService()
        self.amphorae = [self._amphora("left", "10.99.0.11"), self._amphora("right", "10.99.0.12")]
        self._lab.serve_dhcp({amphora.port.mac: amphora.address for amphora in self.amphorae})
        for amphora in self.amphorae:
            await amphora.agent.start()
        for amphora, role in zip(self.amphorae, ("ACTIVE", "STANDBY"), strict=True):
            await self._join(amphora, role)
        await self.settled()
        self.client.start()
        await wait_until(lambda: self.client.served_by() == {"member-2"}, "the client to be answered")
        # Either haproxy would send a client that it does not know to this one.
        self._member(1)
        await wait_until(self._all_members_up, "all members to be up")

    async def _all_members_up(self) -> bool:
        pools = [(await each.client.listener(self.listener_id)).pools for each in self.amphorae]
        return all(status == "UP" for (pool,) in pools for status in pool.members.values())

    def _member(self, number: int) -> None:
        from twisted.internet import reactor

        name, port = f"member-{number}", 8000 + number
        factory = Factory.forProtocol(type("Member", (_Member,), {"name": name.encode()}))
        factory.noisy = False
        with self._lab.switch.listen(GATEWAY, port) as listening:
            self._members.append(cast(Any, reactor).adoptStreamPort(listening.fileno(), socket.AF_INET, factory))

    def _amphora(self, name: str, address: str) -> Amphora:
        from twisted.internet import reactor

        amphora_id = new_id()
        directory = self.directory / name
        directory.mkdir()
        haproxy = directory / "haproxy"
        haproxy.symlink_to(program("haproxy") or "haproxy")
        pki = ThrowAwayPKI.create(directory, amphora_id)
        host = self._lab.host(name)
        agent = AgentProcess(
            directory,
            pki,
            free_port(),
            {
                "haproxy_amphora": {"haproxy_cmd": haproxy},
                # Regular heartbeats are ten minutes apart: what is heard sooner was told because something changed.
                "health_manager": {
                    "heartbeat_key": KEY,
                    "heartbeat_interval": 600,
                    "controller_ip_port_list": f"127.0.0.1:{self._listener.port}",
                },
                "amphora_agent": {
                    "amphora_id": amphora_id,
                    "network_namespace": host.name,
                    "agent_server_network_dir": directory / "interfaces",
                },
            },
        )
        credentials = Credentials(pki.ca.read_bytes(), pki.client.read_bytes(), pki.client_key.read_bytes())
        client = AmphoraClient(cast(Any, reactor), amphora_id, "127.0.0.1", agent.port, credentials)
        return Amphora(name, amphora_id, agent, host, self._lab.port(), address, client, haproxy)

    async def _join(self, amphora: Amphora, role: str) -> None:
        """What a controller does, in its order."""
        await self._set_topology(amphora, role)
        await amphora.client.plug_vip(VIP, subnet_cidr=SUBNET, gateway=GATEWAY, mac_address=amphora.port.mac)
        await wait_until(lambda: f" {amphora.address}/24" in amphora.host.addresses(), "the port to have its address")
        await amphora.client.upload_haproxy(self.listener_id, self._haproxy_config())
        await amphora.client.start(self.listener_id)
        await amphora.client.upload_vrrp(self._keepalived_config(amphora))
        await self._set_topology(amphora, role)

    async def _set_topology(self, amphora: Amphora, role: str) -> None:
        await amphora.client.set_topology("ACTIVE-STANDBY", role=role, ha_ip=VIP, secret=SECRET)

    def _haproxy_config(self) -> bytes:
        peers = [f"    peer {peer_name(each.amphora_id)} {each.address}:1025" for each in self.amphorae]
        return "\n".join(
            [
                "global",
                "    daemon",
                "    maxconn 1000",
                "defaults",
                "    mode http",
                "    timeout connect 2s",
                "    timeout client 10s",
                "    timeout server 10s",
                "peers pair_peers",
                *peers,
                f"frontend {self.listener_id}",
                f"    bind {VIP}:80",
                f"    default_backend {self.pool_id}:{self.listener_id}",
                f"backend {self.pool_id}:{self.listener_id}",
                "    balance roundrobin",
                "    stick-table type ip size 10k peers pair_peers",
                "    stick on src",
                *(
                    f"    server member-{number} {GATEWAY}:{8000 + number} check inter 500ms rise 1"
                    for number in (1, 2)
                ),
                "",
            ]
        ).encode()

    def _keepalived_config(self, amphora: Amphora) -> bytes:
        peer = next(each for each in self.amphorae if each is not amphora)
        priority = 100 if amphora is self.amphorae[0] else 90
        return f"""
vrrp_script check_script {{
    script {amphora.agent.base_path}/vrrp/check_script.sh
    interval 1
    fall 2
    rise 2
}}
vrrp_instance pair {{
    interface eth1
    virtual_router_id 7
    priority {priority}
    nopreempt
    accept
    garp_master_refresh 5
    garp_master_refresh_repeat 2
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass {SECRET}
    }}
    unicast_src_ip {amphora.address}
    unicast_peer {{
        {peer.address}
    }}
    virtual_ipaddress {{
        {VIP}
    }}
    track_script {{
        check_script
    }}
}}
""".encode()

    # Looking at it

    async def active(self) -> Amphora:
        """The one that says that it is.  @raise AssertionError: unless it is one of the two that does."""
        roles = [await amphora.role() for amphora in self.amphorae]
        assert sorted(roles) == ["ACTIVE", "STANDBY"], roles
        return self.amphorae[roles.index("ACTIVE")]

    async def settled(self) -> None:
        """Wait until one is active, has the VIP and serves it, and the other stands by."""

        async def so() -> bool:
            roles = []
            for amphora in self.amphorae:
                role = await amphora.role()
                if amphora.has_vip() != (role == "ACTIVE") or len(amphora.keepalived()) < 2:
                    return False
                if (await amphora.client.listener(self.listener_id)).status != "ACTIVE":
                    return False
                roles.append(role)
            return sorted(roles) == ["ACTIVE", "STANDBY"]

        await wait_until(so, "one amphora to be active, and the other to stand by")

    # What can befall it

    async def kill_agent(self) -> Fault:
        """The active agent is killed, and started again after a while."""
        from twisted.internet import reactor

        active = await self.active()
        since = len(self.client.answers)
        await active.agent.end(signal.SIGKILL)
        await deferLater(cast(Any, reactor), 3.0)
        await active.agent.start()
        fault = self._fault("agent killed", since, None)
        await self.settled()
        assert active is await self.active()
        return fault

    async def stop_haproxy(self) -> Fault:
        """The active haproxy hangs."""
        active = await self.active()
        stopped = active.agent.all_haproxies()

        async def hang() -> None:
            for process in stopped:
                process.send_signal(signal.SIGSTOP)

        async def go_on() -> None:
            for process in stopped:
                process.send_signal(signal.SIGCONT)

        return await self._moves("haproxy hangs (SIGSTOP)", hang, go_on)

    async def kill_haproxy(self) -> Fault:
        """The active haproxy is killed, and cannot be started again."""
        active = await self.active()

        def point_to(target: str) -> None:
            new = active.haproxy.with_name("new")
            new.symlink_to(target)
            os.rename(new, active.haproxy)

        async def kill() -> None:
            processes = active.agent.all_haproxies()
            point_to("/bin/false")
            for process in processes:
                process.send_signal(signal.SIGKILL)

        async def repair() -> None:
            point_to(program("haproxy") or "haproxy")

        return await self._moves("haproxy killed and kept down", kill, repair)

    async def kill_keepalived(self) -> Fault:
        """The active keepalived is killed, each time that it is there."""
        active = await self.active()

        def kill_it() -> None:
            for process in active.keepalived():
                process.send_signal(signal.SIGKILL)

        killing = LoopingCall(kill_it)

        async def kill() -> None:
            killing.start(0.02)

        async def let_live() -> None:
            killing.stop()

        return await self._moves("keepalived killed and kept down", kill, let_live)

    async def cut_link(self) -> Fault:
        """The active amphora's link is cut."""
        active = await self.active()

        async def cut() -> None:
            self._lab.cut(active.port)

        async def mend() -> None:
            self._lab.mend(active.port)

        return await self._moves("link cut", cut, mend)

    async def _moves(
        self, name: str, befall: Callable[[], Awaitable[None]], repair: Callable[[], Awaitable[None]]
    ) -> Fault:
        """Something befalls the active one, and the other takes over; then it is repaired."""
        from twisted.internet import reactor

        clock = cast(Any, reactor)
        active = await self.active()
        standby = next(each for each in self.amphorae if each is not active)
        since, heard = len(self.client.answers), len(self.heard)
        await befall()

        async def took_over() -> bool:
            return await deferToThread(standby.has_vip)

        try:
            await wait_until(took_over, "the other amphora to have the VIP")
            moved = clock.seconds()

            def told() -> Heartbeat | None:
                new = self.heard[heard:]
                mine = (each for each in new if each.amphora_id == standby.amphora_id)
                return next((each for each in mine if each.message["role"] == "ACTIVE"), None)

            heartbeat: Heartbeat = await wait_until(told, "its heartbeat to tell so")
            assert await standby.role() == "ACTIVE"
            position = len(self.client.answers)
            await wait_until(
                lambda: any(answer.member for answer in self.client.answers[position + 4 :]), "the client to be served"
            )
        finally:
            await repair()
        fault = self._fault(name, since, heartbeat.received - moved)
        await self.settled()
        return fault

    def _fault(self, name: str, since: int, told: float | None) -> Fault:
        client = self.client
        return Fault(name, len(client.answers) - since, client.failed(since), client.outage(since), told)

    # Taking it away

    async def clean_up(self) -> None:
        """End all that was started."""
        if self.client.answers:
            await self.client.stop()
        for member in self._members:
            await maybeDeferred(member.stopListening)
        await self._listener.stopService()
        for amphora in self.amphorae:
            await amphora.client.close()
            await amphora.agent.end()
            for process in (*amphora.keepalived(), *amphora.agent.all_haproxies()):
                process.send_signal(signal.SIGKILL)
            await wait_until(
                lambda amphora=amphora: not (amphora.keepalived() or amphora.agent.all_haproxies()),  # type: ignore[misc]
                "all to end",
            )
        self._lab.clean_up()
