"""A real agent in a process of its own, and what plays the world around it: members, clients, a controller."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import random
import signal
import socket
import ssl
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, cast

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import amphora
from amphora.client import AmphoraClient, Credentials
from amphora.network.inside import inside
from amphora.process import ProcessIdentity
from amphora.testing.pki import ThrowAwayPKI
from tests.integration.support import short_directory

PATIENCE = 60.0
"""Seconds after which a test stops to wait for what should have happened long ago."""

AMPHORA_ID = "3dd1f8e2-7f6c-4d0e-9a3c-4f4c1c6b2a11"


def new_id() -> str:
    return str(uuid.uuid4())


_taken_ports: set[int] = set()


@functools.cache
def _port_locks() -> int:
    """A file for all runs of tests at a time: whoever has locked its n-th byte has port n, as long as he lives."""
    path = Path(tempfile.gettempdir()) / f"amphora-tests-{os.getuid()}.ports"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def free_port() -> int:
    """
    A TCP port on loopback that nobody has at this moment, and that no other test is given.

    It is none of those that the kernel gives to outgoing connections: what is stopped for a while has to get it back.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        if port in _taken_ports:
            continue
        with socket.socket() as probe, suppress(OSError):
            fcntl.lockf(_port_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _taken_ports.add(port)
            probe.bind(("127.0.0.1", port))
            return port


async def take_port(port: int) -> socket.socket:
    """
    Listen on a port of loopback, once it is free.

    A process that was killed may be gone from the lists while the last of its threads still has its sockets.
    """

    def take() -> socket.socket | None:
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
        return None

    return cast(socket.socket, await wait_until(take, f"port {port} to be free"))


async def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """
    Wait until the condition, or what it awaits, is true, and answer with it.

    @raise AssertionError: if it stays false.
    """
    from twisted.internet import reactor

    clock = cast(Any, reactor)
    deadline = clock.seconds() + PATIENCE
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if clock.seconds() > deadline:
            raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}")
        await deferLater(clock, 0.05)


class _AgentProtocol(ProcessProtocol):
    def __init__(self) -> None:
        self.output = bytearray()
        self.ended: Deferred[BaseException] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        assert reason.value is not None
        self.ended.callback(reason.value)


@define(eq=False)
class AgentProcess:
    """`twistd amphora` as an operator starts it."""

    directory: Path
    pki: ThrowAwayPKI
    port: int
    options: dict[str, dict[str, object]] = field(factory=dict)
    """By section, what the configuration file says beside or instead of what every test needs."""
    wrapper: tuple[str, ...] = ()
    """A command that becomes the agent, such as `unshare -m`."""
    host: str = "127.0.0.1"
    """The address that it listens on."""
    twistd_options: tuple[str, ...] = ()
    keeps_config: bool = False
    """Whether a start finds the configuration as the last agent has left it."""
    _protocol: _AgentProtocol | None = field(init=False, default=None)
    _transport: IProcessTransport | None = field(init=False, default=None)
    _paused: bool = field(init=False, default=False)

    @property
    def base_path(self) -> Path:
        return self.directory / "b"

    @property
    def cert_dir(self) -> Path:
        return self.base_path / "certs"

    @property
    def config_file(self) -> Path:
        return self.directory / "conf" / "amphora-agent.conf"

    @property
    def log(self) -> str:
        """All that the running agent, or the last one, has said.  It writes it in a thread, a moment later."""
        if self._protocol is None:
            return ""
        if self._transport is not None and not self._paused and not self._protocol.ended.called:
            time.sleep(0.01)
            self._read()
        return self._protocol.output.decode("utf-8", "replace")

    def _read(self) -> None:
        """Take what it has said by now, and not only in the reactor's next turn."""
        assert self._protocol is not None
        output = cast(Any, self._transport).pipes.get(1)
        known = -1
        while output is not None and len(self._protocol.output) > known:
            known = len(self._protocol.output)
            if output.doRead() is not None:
                break

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return cast(int, self._transport.pid)

    def config(self) -> str:
        """What the configuration file says, by `options`."""
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {"use_syslog": False},
            "haproxy_amphora": {
                "base_path": self.base_path,
                "base_cert_dir": self.cert_dir,
                "bind_host": self.host,
                "bind_port": self.port,
            },
            "health_manager": {"heartbeat_key": "a key of the tests"},
            "amphora_agent": {
                "agent_server_ca": self.pki.ca,
                "agent_server_cert": self.pki.server,
                "agent_server_network_dir": self.directory / "interfaces",
                "amphora_id": AMPHORA_ID,
                "network_namespace": "",
            },
        }
        for section, options in self.options.items():
            sections.setdefault(section, {}).update(options)
        return "\n".join(
            f"[{section}]\n" + "\n".join(f"{name} = {value}" for name, value in options.items())
            for section, options in sections.items()
        )

    def write_config(self) -> None:
        self.config_file.parent.mkdir(exist_ok=True)
        self.config_file.write_text(self.config())

    def spawn(self) -> Deferred[BaseException]:
        """Start it.  @return: Fires with the reason when it has ended."""
        from twisted.internet import reactor

        source = str(Path(amphora.__file__).parent.parent)
        if not self.keeps_config:
            self.write_config()
        self._protocol = _AgentProtocol()
        self._transport = cast(Any, reactor).spawnProcess(
            self._protocol,
            (self.wrapper or (sys.executable,))[0],
            [
                *self.wrapper,
                *(sys.executable, str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile="),
                *self.twistd_options,
                *("amphora", "--config-file", str(self.config_file)),
            ],
            env={**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"},
            path=str(self.directory),
        )
        return self._protocol.ended

    async def start(self) -> None:
        """Start it and wait until it serves."""
        ended = self.spawn()
        await wait_until(lambda: "agent is ready" in self.log or ended.called, "the agent to be ready")
        if ended.called:
            raise AssertionError(f"the agent ended: {self.log}")

    async def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self._transport is not None and self._protocol is not None:
            transport, self._transport = self._transport, None
            if not self._protocol.ended.called:
                transport.signalProcess(with_signal.name.removeprefix("SIG"))
                await self._protocol.ended

    def pause_reading(self) -> None:
        """Let what the agent says lie."""
        self._paused = True
        cast(Any, self._transport).pauseProducing()

    def resume_reading(self) -> None:
        """Take again what it says."""
        self._paused = False
        cast(Any, self._transport).resumeProducing()

    def haproxy(self, instance_id: str) -> ProcessIdentity | None:
        """The haproxy master whose pid file an instance has."""
        try:
            pid = int((self.base_path / instance_id / f"{instance_id}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return ProcessIdentity.of(pid)

    def all_haproxies(self) -> list[ProcessIdentity]:
        """Every process, master or worker, that was started with files of this agent's."""
        return [one for one in self._started() if "haproxy" in (one.executable() or "")]

    @property
    def sessions_socket(self) -> Path:
        """Where sessions with old workers are kept."""
        return self.base_path / "sessions.sock"

    def keepers(self) -> list[ProcessIdentity]:
        """Every process that keeps sessions of this agent's."""
        return [one for one in self._started() if one.command_line()[-1:] == [str(self.sessions_socket)]]

    def _started(self) -> list[ProcessIdentity]:
        """The processes that were given a file of this agent's."""
        found = []
        for entry in os.listdir("/proc"):
            process = ProcessIdentity.of(int(entry)) if entry.isdigit() else None
            if process is not None and any(str(self.base_path) in word for word in process.command_line()):
                found.append(process)
        return found


class _MemberProtocol(LineReceiver):
    """Answers a request, whatever it asks for, and closes: no connection outlives a test."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def connectionMade(self) -> None:
        self._member.connections.add(self)

    def lineReceived(self, line: bytes) -> None:
        if not line:
            body = self._member.name.encode()
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 %s\r\nConnection: close\r\n\r\n%s" % (self._member.status, body))
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._member.connections.discard(self)


@define(eq=False)
class Member:
    """A web server that answers every request with its own name, until it is taken down."""

    name: str
    port: int = field(factory=free_port)
    status: bytes = b"200 OK"
    """As in the status line, the reason phrase included."""
    namespace: str = ""
    """The network namespace whose loopback it listens on; empty for ours."""
    connections: set[_MemberProtocol] = field(init=False, factory=set)
    _listening: IListeningPort | None = field(init=False, default=None)

    def up(self) -> None:
        from twisted.internet import reactor

        factory = Factory.forProtocol(lambda: _MemberProtocol(self))
        factory.noisy = False
        with inside(self.namespace, lambda: socket.create_server(("127.0.0.1", self.port))) as listening:
            listening.setblocking(False)
            adopt = cast(Any, reactor).adoptStreamPort
            self._listening = adopt(listening.fileno(), socket.AF_INET, factory)

    async def down(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        for connection in self.connections:
            cast(Any, connection.transport).abortConnection()
        await wait_until(lambda: not self.connections, "the member's connections to end")


def _member_id(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


@frozen
class LoadBalancer:
    """A haproxy configuration as Octavia lays it out, with its ids."""

    listener_id: str = field(factory=new_id)
    pool_id: str = field(factory=new_id)
    port: int = field(factory=free_port)
    members: tuple[Member, ...] = ()
    mode: str = "http"
    bind_options: str = ""
    check: str = "check inter 200ms fall 1 rise 1"
    extra_binds: tuple[str, ...] = ()
    extra_global: tuple[str, ...] = ()
    extra_defaults: tuple[str, ...] = ()
    extra_frontend: tuple[str, ...] = ()
    extra_sections: tuple[str, ...] = ()
    extra_servers: int = 0
    """How many servers there are beside the members, in a backend of their own that nobody uses."""

    def config(self) -> bytes:
        binds = [f"bind 127.0.0.1:{self.port} {self.bind_options}", *(f"bind {bind}" for bind in self.extra_binds)]
        servers = [f"server {member.name} 127.0.0.1:{member.port} weight 1 {self.check}" for member in self.members]
        return "\n".join(
            [
                f"# Configuration for loadbalancer {self.listener_id}",
                "global",
                "    daemon",
                "    maxconn 1000",
                *(f"    {line}" for line in self.extra_global),
                "defaults",
                f"    mode {self.mode}",
                "    timeout connect 5s",
                "    timeout client 50s",
                "    timeout server 50s",
                *(f"    {line}" for line in self.extra_defaults),
                f"frontend {self.listener_id}",
                *(f"    {bind}" for bind in binds),
                *(f"    {line}" for line in self.extra_frontend),
                f"    default_backend {self.pool_id}:{self.listener_id}",
                f"backend {self.pool_id}:{self.listener_id}",
                *(f"    {server}" for server in servers),
                *self.extra_sections,
                *(["backend unused"] if self.extra_servers else []),
                *(f"    server {_member_id(number)} 127.0.0.1:9 weight 1" for number in range(self.extra_servers)),
                "",
            ]
        ).encode()

    def with_members(self, *members: Member) -> LoadBalancer:
        return evolve(self, members=members)


class Gate:
    """A file that a configuration names, and that haproxy has to wait for until the test lets it go on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path

    @property
    def rule(self) -> str:
        """A line for a frontend."""
        return f"http-request deny if {{ path -f {self._path} }}"

    async def open(self, *, for_good: bool = False) -> None:
        """Let the haproxy that waits, or will, read on; for good, all that come later as well."""
        handle = await wait_until(self._waited_for, "haproxy to read its configuration")
        if for_good:
            self._path.unlink()
            self._path.write_bytes(b"/never\n")
        os.write(handle, b"/never\n")
        os.close(handle)

    def _waited_for(self) -> int | None:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None


def get(port: int, path: str = "/", host: str = "127.0.0.1", namespace: str = "") -> Deferred[bytes]:
    """
    One HTTP request over a connection of its own, in a network namespace (empty: ours): the whole answer.

    @raise OSError: if the connection is refused or broken.
    """
    return deferToThread(inside, namespace, lambda: _get(port, path, host), patience=None)


def _get(port: int, path: str, host: str) -> bytes:
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" % path.encode())
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side closes.  Blocks."""
    answer = b""
    while data := connection.recv(65536):
        answer += data
    return answer


@frozen
class RawClient:
    """Speaks bytes over TLS, well-formed or not."""

    port: int
    context: ssl.SSLContext
    amphora_id: str = field(default=AMPHORA_ID, kw_only=True)

    def connect(self) -> ssl.SSLSocket:
        """Blocks: for use in a thread."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return self.context.wrap_socket(plain, server_hostname=self.amphora_id)

    def exchange(self, *segments: bytes) -> Deferred[bytes]:
        """Send segments, one TLS record each, and read until the other side closes."""
        return deferToThread(self._exchange, segments)

    def ask(self, *segments: bytes) -> Deferred[bytes]:
        """Send segments, and read one answer, as a well-behaved client does."""
        return deferToThread(self.ask_at_once, *segments)

    def ask_at_once(self, *segments: bytes) -> bytes:
        """The same, in a thread of the caller's."""
        with self.connect() as connection:
            for segment in segments:
                connection.sendall(segment)
            answer = HTTPResponse(connection)
            answer.begin()
            body = answer.read()
            head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{answer.msg}".replace("\n", "\r\n")
            return head.replace("\r\r\n", "\r\n").encode() + body

    def _exchange(self, segments: tuple[bytes, ...]) -> bytes:
        with self.connect() as connection:
            for segment in segments:
                connection.sendall(segment)
            return read_all(connection)


def client_context(pki: ThrowAwayPKI, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's TLS settings that trust the amphora; with a certificate, where one is given."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    if certificate is not None:
        context.load_cert_chain(str(certificate), None if key is None else str(key))
    return context


class AgentTestCase(TestCase):
    """A test with a directory, a throw-away PKI and an agent in it, which is ended with all its haproxies."""

    timeout = 300

    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.pki = ThrowAwayPKI.create(self.directory, AMPHORA_ID)
        self.agent = self.make_agent()
        self.addCleanup(lambda: Deferred.fromCoroutine(self._clean_up()))
        self._clients: list[AmphoraClient] = []
        self._members: list[Member] = []
        self.client = self.new_client()

    def make_agent(self) -> AgentProcess:
        return AgentProcess(self.directory, self.pki, free_port(), self.agent_options())

    def agent_options(self) -> dict[str, dict[str, object]]:
        """What this case's agent is configured with beside the usual."""
        return {}

    def new_client(self) -> AmphoraClient:
        from twisted.internet import reactor

        credentials = Credentials(
            self.pki.ca.read_bytes(), self.pki.client.read_bytes(), self.pki.client_key.read_bytes()
        )
        client = AmphoraClient(cast(Any, reactor), AMPHORA_ID, self.agent.host, self.agent.port, credentials)
        self._clients.append(client)
        return client

    def raw_client(self) -> RawClient:
        """A controller that speaks bytes."""
        return RawClient(self.agent.port, client_context(self.pki, self.pki.client, self.pki.client_key))

    def new_member(self, namespace: str = "") -> Member:
        member = Member(new_id(), namespace=namespace)
        member.up()
        self._members.append(member)
        return member

    async def running(self, balancer: LoadBalancer) -> LoadBalancer:
        """Upload and start it."""
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        await self.client.start(balancer.listener_id)
        return balancer

    async def _clean_up(self) -> None:
        for client in self._clients:
            await client.close()
        await self.agent.end()
        for process in (*self.agent.all_haproxies(), *self.agent.keepers()):
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self.agent.all_haproxies() + self.agent.keepers(), "all processes to end")
        for member in self._members:
            await member.down()
        self.assertNotIn("Traceback", self.agent.log)
