"""Octavia's controller, the amphorae that it drives, and the network around them: as real as one machine allows."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from amphora.client import AmphoraClient, Credentials
from amphora.files import write_synced
from amphora.testing.pki import ThrowAwayPKI
from tests.integration.harness import PATIENCE, AgentProcess, free_port, new_id, read_all, wait_until
from tests.integration.lab import Host, Lab, Port
from tests.integration.lvs import KEEPALIVED, keepalived_with_fake_ipvs
from tests.integration.pair import end_keepaliveds, keepalives_of
from tests.integration.support import OCTAVIA, program, short_directory

VIP = "10.99.0.100"
VIP_SUBNET = {"cidr": "10.99.0.0/24", "gateway_ip": "10.99.0.1"}
SECOND_VIP = "10.97.0.100"
SECOND_SUBNET = {"cidr": "10.97.0.0/24", "gateway_ip": "10.97.0.1"}
VIP6 = "2001:db8:99::100"
SUBNET6 = {"cidr": "2001:db8:99::/64", "gateway_ip": "2001:db8:99::1"}
MEMBER_SUBNET = {"cidr": "10.98.0.0/24", "gateway_ip": "10.98.0.1"}
HEARTBEAT_KEY = "a key of the cloud"
MEMORY = 1024 * 1024
"""Kilobytes of memory that an amphora has.  Octavia sizes haproxy's TLS cache by it: a big machine's takes minutes."""
_WITH_OWN_FILES = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'
"""Files, each with the one that it takes the place of, `--`, and a command."""

Plan = dict[str, Any]


@frozen
class OctaviaError(Exception):
    """What Octavia's own code raised: the name of the exception's class, its text, and what was logged before it."""

    name: str
    text: str
    log: tuple[str, ...]


class _ControllerProtocol(ProcessProtocol):
    """A line for a line: answers come in the order of the calls."""

    def __init__(self) -> None:
        self.log = ""
        self.ended: Deferred[None] = Deferred()
        self.waiting: list[Deferred[Any]] = []
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            waiter = self.waiting.pop(0)
            if "error" in answer:
                waiter.errback(OctaviaError(answer["error"], answer["text"], tuple(answer["log"])))
            else:
                waiter.callback(answer["result"])

    def errReceived(self, data: bytes) -> None:
        self.log += data.decode("utf-8", "replace")

    def processEnded(self, reason: Failure) -> None:
        for waiter in self.waiting:
            waiter.errback(AssertionError(f"the controller ended: {self.log}"))
        self.ended.callback(None)


@define(eq=False)
class Controller:
    """`octavia_controller.py`, as a process."""

    options: dict[str, dict[str, object]]
    _protocol: _ControllerProtocol = field(init=False, factory=_ControllerProtocol)
    _transport: IProcessTransport | None = field(init=False, default=None)

    @property
    def log(self) -> str:
        """What Octavia has logged."""
        return self._protocol.log

    async def start(self) -> None:
        """Start it, and wait until it takes calls."""
        from twisted.internet import reactor

        program = Path(__file__).with_name("octavia_controller.py")
        ready: Deferred[Any] = Deferred()
        self._protocol.waiting.append(ready)
        self._transport = cast(Any, reactor).spawnProcess(
            self._protocol,
            str(OCTAVIA),
            [str(OCTAVIA), "-P", "-W", "ignore", str(program), json.dumps(self.options)],
            env=dict(os.environ),
        )
        await ready

    def call(self, name: str, plan: Plan, *arguments: object, **options: object) -> Deferred[Any]:
        """One of its methods, on a plan as it is now.  @raise OctaviaError: what it raised"""
        given = [{"base64": base64.b64encode(each).decode()} if isinstance(each, bytes) else each for each in arguments]
        message = {"call": name, "plan": plan, "arguments": given, "options": options}
        answer: Deferred[Any] = Deferred()
        self._protocol.waiting.append(answer)
        cast(Any, self._transport).write(json.dumps(message).encode() + b"\n")
        return answer

    async def end(self) -> None:
        """End it."""
        if self._transport is not None:
            if not self._protocol.ended.called:
                self._transport.signalProcess("KILL")
            await self._protocol.ended


def for_this_machine(rendered: str, namespace: str) -> str:
    """An agent's configuration as Octavia renders it, with the options that let several amphorae be on one machine."""
    own = f"[amphora_agent]\nnetwork_namespace = {namespace}\n"
    return rendered.replace("use_syslog = True", "use_syslog = False").replace("[amphora_agent]\n", own)


def _by_section(text: str) -> dict[str, dict[str, object]]:
    parser = ConfigParser(interpolation=None, default_section="")
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def _write_meminfo(path: Path) -> None:
    """This machine's figures of memory, scaled down to an amphora's."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    total = next(int(words[1]) for words in lines if words[0] == "MemTotal:")
    scaled = [f"{words[0]} {int(words[1]) * MEMORY // total} {' '.join(words[2:])}\n" for words in lines]
    path.write_text("".join(scaled))


class _EchoProtocol(LineReceiver):
    """Answers a request with its own name and the request as it came, and closes."""

    name = b""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        if line:
            self._lines.append(line)
            return
        assert self.transport is not None
        body = b"\n".join([self.name, *self._lines])
        self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        self.transport.loseConnection()


@define(eq=False)
class Amphora:
    """An amphora, and the controller that drives it: one each, as a controller knows but one base path."""

    cloud: Cloud
    index: int
    directory: Path
    host: Host
    port: Port
    agent: AgentProcess
    controller: Controller
    client: AmphoraClient

    def call(self, name: str, *arguments: object, **options: object) -> Deferred[Any]:
        """Have the controller do something with this amphora."""
        return self.controller.call(name, self.cloud.plan, *arguments, amphora=self.index, **options)

    def has(self, address: str) -> bool:
        """Does it have an address?"""
        return f" {address}/" in self.host.addresses()

    async def die(self) -> None:
        """End all at once, as a machine that is switched off does."""
        await self.agent.end(signal.SIGKILL)
        for process in (*keepalives_of(self.directory), *self.agent.all_haproxies()):
            process.send_signal(signal.SIGKILL)
        self.host.ip("link", "set", "eth1", "down")

    async def seen_by_controller(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Let the health manager work through heartbeats until it has made this of one."""

        async def so() -> dict[str, Any] | None:
            seen: dict[str, Any] = await self.controller.call("heartbeat", self.cloud.plan)
            return seen if condition(seen) else None

        found: dict[str, Any] = await wait_until(so, f"the controller to see {what}")
        return found

    async def well(self) -> None:
        """Wait until a heartbeat counts as a sign of life, and all things that are enabled are seen ONLINE."""
        expected = [
            *(each["id"] for each in self.cloud.plan["listeners"] if each.get("enabled", True)),
            *(each["id"] for each in self.cloud.plan["pools"]),
            *(member["id"] for pool in self.cloud.plan["pools"] for member in pool.get("members", [])),
        ]

        def so(seen: dict[str, Any]) -> bool:
            statuses = {seen["statuses"].get(each) for each in expected}
            return seen["refreshed"] and statuses <= {"ONLINE", "NO_MONITOR"}

        await self.seen_by_controller(so, "all of it well")


@define(eq=False)
class Cloud:
    """A load balancer's plan, its amphorae, clients and members; what it has made is gone after L{clean_up}."""

    directory: Path
    plan: Plan = field(init=False)
    lab: Lab = field(init=False, factory=Lab)
    amphorae: list[Amphora] = field(init=False, factory=list)
    client: Host = field(init=False)
    members: Host = field(init=False)
    _bind_port: int = field(init=False, factory=free_port)
    _listening: list[IListeningPort] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.plan = {
            "id": new_id(),
            "topology": "SINGLE",
            "vip": VIP,
            "subnet": VIP_SUBNET,
            "amphorae": [],
            "listeners": [],
            "pools": [],
        }
        (self.directory / "secrets").mkdir()
        self.client = self.lab.host("client")
        self.lab.plug(self.client, "10.99.0.9/24")
        for address in ("10.97.0.9/24", "2001:db8:99::9/64"):
            self.client.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.members = self.lab.host("members")
        self.lab.plug(self.members, "10.98.0.5/24")

    # Making things

    async def boot(
        self,
        address: str = "127.0.0.1",
        vrrp_ip: str = "10.99.0.11",
        heartbeat_interval: int = 1,
        fake_ipvs: bool = False,
        **about: object,
    ) -> Amphora:
        """
        Boot an amphora as compute and cloud-init do: with the files that the controller makes for it.

        @param fake_ipvs: Whether its keepalived takes the kernel to have IPVS.
        """
        from twisted.internet import reactor

        index = len(self.plan["amphorae"])
        amphora_id = new_id()
        directory = self.directory / f"amphora-{index}"
        directory.mkdir()
        pki = ThrowAwayPKI.create(directory, amphora_id)
        (directory / "ca.key").write_bytes(pki.authority.identity.key_pem)
        both = directory / "both.pem"
        both.write_bytes(pki.client.read_bytes() + pki.client_key.read_bytes())
        host, port = self.lab.host(f"amphora-{index}"), self.lab.port()
        health_port = free_port()
        _write_meminfo(directory / "meminfo")
        unshare = (program("unshare") or "unshare", "--mount", "sh", "-c", _WITH_OWN_FILES, "sh")
        own_files: tuple[str, ...] = (str(directory / "meminfo"), "/proc/meminfo")
        if fake_ipvs:
            own_files += (str(await deferToThread(keepalived_with_fake_ipvs, directory)), KEEPALIVED)
        agent = AgentProcess(directory, pki, self._bind_port, wrapper=(*unshare, *own_files, "--"), host=address)
        controller = Controller(
            {
                "database": {"connection": "sqlite://"},
                "certificates": {
                    "cert_manager": "local_cert_manager",
                    "storage_path": str(self.directory / "secrets"),
                    "ca_certificate": str(pki.ca),
                    "ca_private_key": str(directory / "ca.key"),
                    "ca_private_key_passphrase": None,
                },
                "controller_worker": {"statistics_drivers": ["stats_logger"]},
                "haproxy_amphora": {
                    "base_path": str(agent.base_path),
                    "base_cert_dir": str(agent.cert_dir),
                    "bind_host": address,
                    "bind_port": self._bind_port,
                    "client_cert": str(both),
                    "server_ca": str(pki.ca),
                    # Whoever has to try again for long gets to know that soon.
                    "connection_max_retries": 5,
                    "connection_retry_interval": 1,
                },
                "health_manager": {
                    "bind_ip": "127.0.0.1",
                    "bind_port": health_port,
                    "controller_ip_port_list": [f"127.0.0.1:{health_port}"],
                    "heartbeat_key": HEARTBEAT_KEY,
                    "heartbeat_interval": heartbeat_interval,
                },
                "amphora_agent": {
                    "agent_server_ca": str(pki.ca),
                    "agent_server_cert": str(pki.server),
                    "agent_server_network_dir": str(directory / "interfaces"),
                },
            }
        )
        await controller.start()
        self.plan["amphorae"].append(
            {
                "id": amphora_id,
                "lb_network_ip": address,
                "vrrp_ip": vrrp_ip,
                "vrrp_port_id": new_id(),
                "mac_address": port.mac,
                **about,
            }
        )
        credentials = Credentials(pki.ca.read_bytes(), pki.client.read_bytes(), pki.client_key.read_bytes())
        client = AmphoraClient(cast(Any, reactor), amphora_id, address, self._bind_port, credentials)
        amphora = Amphora(self, index, directory, host, port, agent, controller, client)
        self.amphorae.append(amphora)
        write_synced(pki.server, str(await amphora.call("generate_server_pem")).encode())
        rendered = for_this_machine(await amphora.call("agent_config"), host.name)
        agent.options.update(_by_section(rendered))
        await agent.start()
        return amphora

    def new_member(self, port: int, host: str = "10.98.0.5") -> Plan:
        """Start a web server in the members' network.  @return: what a pool says of it"""
        from twisted.internet import reactor

        member: Plan = {"id": new_id(), "ip_address": host, "protocol_port": port}
        factory = Factory.forProtocol(type("Echo", (_EchoProtocol,), {"name": member["id"].encode()}))
        factory.noisy = False
        with self.members.listen(host, port) as listening:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listening.append(cast(Any, reactor).adoptStreamPort(listening.fileno(), family, factory))
        return member

    # Asking

    def get(self, port: int, path: str = "/", vip: str = VIP, tls: ssl.SSLContext | None = None) -> Deferred[str]:
        """
        One request from the client to a VIP: the whole answer, headers and body.

        @raise OSError: if there is none.
        """
        return deferToThread(self._get, port, path, vip, tls)

    def _get(self, port: int, path: str, vip: str, tls: ssl.SSLContext | None) -> str:
        with self.client.connect(vip, port, timeout=PATIENCE) as plain:
            connection = plain if tls is None else tls.wrap_socket(plain, server_hostname="www.example.com")
            with connection:
                connection.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n".encode()
                )
                return read_all(connection).decode()

    async def clean_up(self) -> None:
        """Take everything away."""
        for amphora in self.amphorae:
            await amphora.client.close()
            await amphora.agent.end()
            for process in amphora.agent.all_haproxies():
                process.send_signal(signal.SIGKILL)
            await amphora.controller.end()
        agents = [amphora.agent for amphora in self.amphorae]
        await wait_until(lambda: not any(agent.all_haproxies() for agent in agents), "haproxies to end")
        await end_keepaliveds(self.directory)
        for listening in self._listening:
            await cast(Any, listening.stopListening())
        self.lab.clean_up()


class OctaviaTestCase(TestCase):
    """A test with a cloud."""

    timeout = 300

    def setUp(self) -> None:
        self.cloud = Cloud(short_directory(self))
        self.addCleanup(lambda: Deferred.fromCoroutine(self._clean_up()))

    async def _clean_up(self) -> None:
        await self.cloud.clean_up()
        for amphora in self.cloud.amphorae:
            self.assertNotIn("Traceback", amphora.agent.log)
