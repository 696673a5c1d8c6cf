"""
Play the controller of one amphora: the second half of `script/demo`, inside its environment.

The agent is a process of its own, as twistd starts it; the members, the clients and the controller are in this one.
Everything happens in a temporary directory and on the loopback interface, and all of it is gone at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar, cast
from uuid import uuid4

from attrs import define, field, frozen
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import (
    IListeningPort,
    IProcessTransport,
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
)
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from amphora.client import (
    AmphoraClient,
    ClientError,
    Credentials,
    Exchange,
    IClientReactor,
    Refused,
    Unauthorized,
    Unreachable,
)
from amphora.listener import Heartbeat, HeartbeatListener, IListenerReactor
from amphora.testing.pki import ThrowAwayPKI

ADDRESS = "127.0.0.1"
PACED_REQUESTS = 200
REQUESTS_PER_SECOND = 60
CLIENTS = 8
LEAST_UNDER_LOAD = 2000
MOST_UNDER_LOAD = 10_000
RELOADS = 3
PATIENCE = 15.0
"""Seconds that anything of the demo may take before it counts as not happening."""

T = TypeVar("T")


class IDemoReactor(IClientReactor, IListenerReactor, IReactorProcess, IReactorCore, IReactorFromThreads):
    """What the demo needs of a reactor."""


class Failed(Exception):
    """A step that did not happen: what was expected, and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}, saw {seen}")
        self.expected = expected
        self.seen = seen


class Screen:
    """What the user sees.  UUIDs are shown as what they stand for."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self.names: dict[str, str] = {}
        """By UUID, or another text that is long and says little: the word that is shown in its place."""

    def heading(self, text: str) -> None:
        """Begin a step."""
        self._print(Text(f"\n{text}", "bold"))

    def line(self, text: str, style: str = "") -> None:
        """Tell something."""
        self._print(Text(f"  {self._named(text)}", style))

    def done(self, text: str) -> None:
        """Tell what was shown to be so."""
        self._print(Text.assemble(("  ✓ ", "green"), self._named(text)))

    def failed(self, failure: Failed, log: Sequence[str]) -> None:
        """Tell what did not happen, with the end of the agent's log."""
        self._print(Text("\n  ✗ This did not happen.", "bold red"))
        self.line(f"expected  {failure.expected}")
        self.line(f"saw       {failure.seen}")
        if log:
            self._print(Text("\n  The agent's log ends:", "bold"))
            for line in log:
                self.line(line, "dim")

    def exchange(self, exchange: Exchange) -> None:
        """Show a REST call and its answer: a line, and more where the answer has more to say."""
        summary, more = _told(exchange.answer)
        style = "green" if exchange.status < 300 else "yellow"
        call = f"  {exchange.method:<7}{self._named(exchange.path):<48}"
        self._print(Text.assemble(call, (f"{exchange.status}", style), f"  {summary}" if summary else ""))
        for line in more:
            for part in wrap(self._named(line), 92, break_long_words=False, break_on_hyphens=False):
                self._print(Text(f"         {part}", "dim"))

    def split(self, answered: Counter[str]) -> None:
        """Show how requests were shared out."""
        whole = max(answered.values(), default=1)
        for name in sorted(answered):
            bar = "━" * round(40 * answered[name] / whole)
            self._print(Text.assemble(f"  {name:<12}", (bar, "cyan"), f" {answered[name]}"))

    @contextmanager
    def table(self, columns: Sequence[str]) -> Iterator[Callable[[Sequence[str]], None]]:
        """Have rows shown as they come: as a table that grows on a terminal, as lines elsewhere."""
        if not self._console.is_terminal:
            self._print(Text("  " + "".join(f"{column:>14}" for column in columns), "bold"))
            yield lambda row: self._print(Text("  " + "".join(f"{cell:>14}" for cell in row)))
            return
        table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
        for column in columns:
            table.add_column(column, justify="right", min_width=8)
        with Live(table, console=self._console, auto_refresh=False) as live:

            def add(row: Sequence[str]) -> None:
                table.add_row(*(Text(cell, "red" if cell == "DOWN" else "") for cell in row))
                live.update(table, refresh=True)

            yield add

    def _named(self, text: str) -> str:
        for long, short in self.names.items():
            text = text.replace(long, short)
        return text

    def _print(self, text: Text) -> None:
        self._console.print(text)


def _told(answer: bytes) -> tuple[str, list[str]]:
    """Sum up an answer's body: what fits beside its status, and the lines below."""
    try:
        value = json.loads(answer)
    except ValueError:
        return f"{len(answer)} bytes", []
    if isinstance(value, dict) and "message" in value:
        return value["message"], value.get("details", "").splitlines()
    text = json.dumps(value)
    return ("", [text]) if len(text) > 30 else (text, [])


class Member(Resource):
    """A web server behind the load balancer, which answers its name."""

    isLeaf = True

    def __init__(self, reactor: IDemoReactor, name: str) -> None:
        super().__init__()
        self.name = name
        self.uuid = str(uuid4())
        self.port = free_port()
        self._reactor = reactor
        self._listening: IListeningPort | None = None

    def up(self) -> None:
        """Listen."""
        self._listening = self._reactor.listenTCP(self.port, cast(Any, Site(self)), interface=ADDRESS)

    async def down(self) -> None:
        """Listen no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)

    def render_GET(self, request: Request) -> bytes:
        return self.name.encode()


@frozen
class Answer:
    """What one request through the load balancer got, and the bytes of HTTP that went either way."""

    member: str
    generation: str
    """Of the configuration that carried it."""
    sent: int
    received: int


class _OneRequest(Protocol):
    """Asks once on a connection of its own."""

    QUESTION = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"

    def __init__(self) -> None:
        self.done: Deferred[Answer] = Deferred(lambda _: self._abort())
        self._received = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.QUESTION)

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        head, _, body = self._received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not status.startswith("HTTP/1.1 200 ") or headers.get("content-length") != str(len(body)):
            self.done.errback(Failed("a whole answer with status 200", status or reason.getErrorMessage()))
            return
        generation = headers.get("x-generation", "")
        self.done.callback(Answer(body.decode(), generation, len(self.QUESTION), len(self._received)))

    def _abort(self) -> None:
        cast(Any, self.transport).abortConnection()


@define
class Traffic:
    """Users of the load balancer: they ask, each time on a new connection, and count."""

    reactor: IDemoReactor
    port: int
    answers: list[Answer] = field(factory=list)
    failures: list[str] = field(factory=list)
    asked: int = 0

    async def request(self) -> None:
        """Ask once."""
        self.asked += 1
        endpoint = TCP4ClientEndpoint(self.reactor, ADDRESS, self.port, timeout=int(PATIENCE))
        try:
            protocol = await connectProtocol(endpoint, _OneRequest())
            self.answers.append(await protocol.done.addTimeout(PATIENCE, self.reactor))
        except Exception as error:
            self.failures.append(str(error) or type(error).__name__)

    async def keep_asking(self, enough: Callable[[], bool]) -> None:
        """Ask, from `CLIENTS` clients at once, until there is enough."""

        async def client() -> None:
            while not enough():
                await self.request()

        await gatherResults([Deferred.fromCoroutine(client()) for _ in range(CLIENTS)], consumeErrors=True)

    def by_member(self) -> Counter[str]:
        """Count the answers by who gave them."""
        return Counter(answer.member for answer in self.answers)


class Heartbeats:
    """All that was heard from the agent, and a way to wait for what is to be heard."""

    def __init__(self, reactor: IDemoReactor) -> None:
        self._reactor = reactor
        self.heard: list[Heartbeat] = []
        self._waiting: Deferred[None] | None = None

    def received(self, heartbeat: Heartbeat) -> None:
        """Take a heartbeat in."""
        self.heard.append(heartbeat)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def next_after(self, position: int, expected: str) -> Heartbeat:
        """
        Wait for the first heartbeat after that many.

        @raise Failed: if none comes.
        """
        while len(self.heard) <= position:
            self._waiting = Deferred()
            await within(self._reactor, self._waiting, expected, "no heartbeat")
        return self.heard[position]

    async def until(self, wanted: str, what: str, told: Callable[[Heartbeat], str]) -> Heartbeat:
        """
        Wait for a heartbeat, heard from now on, that tells what is wanted of something.

        @raise Failed: with what the last one told.
        """
        seen = "nothing"
        expected = f"a heartbeat that tells of {what}: {wanted}"
        begun, position = self._reactor.seconds(), len(self.heard)
        while self._reactor.seconds() < begun + PATIENCE:
            heartbeat = await self.next_after(position, expected)
            position += 1
            seen = told(heartbeat)
            if seen == wanted:
                return heartbeat
        raise Failed(expected, seen)


async def within(reactor: IDemoReactor, result: Deferred[T], expected: str, seen: str) -> T:
    """Wait for something to happen, but not for ever."""

    def late(_: object, timeout: float) -> Failure:
        return Failure(Failed(expected, f"{seen} within {timeout:g} seconds"))

    return cast(T, await result.addTimeout(PATIENCE, reactor, late))


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind((ADDRESS, 0))
        return int(found.getsockname()[1])


class AgentProcess(ProcessProtocol):
    """The agent: `ended` fires when it has, and `how` says how."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.how = ""

    def processEnded(self, reason: Failure) -> None:
        self.how = reason.getErrorMessage()
        self.ended.callback(None)


class Demo:
    """The steps, and what they share."""

    def __init__(self, reactor: IDemoReactor, screen: Screen, directory: Path) -> None:
        self._reactor = reactor
        self._screen = screen
        self._directory = directory
        self._base = directory / "run"
        self._log = directory / "agent.log"
        self._amphora_id, self._listener_id, self._pool_id = (str(uuid4()) for _ in range(3))
        self._members = [Member(reactor, "member-one"), Member(reactor, "member-two")]
        self._pki = ThrowAwayPKI.create(directory, self._amphora_id)
        self._key = secrets.token_hex(16)
        self._heartbeats = Heartbeats(reactor)
        self._ear = HeartbeatListener(reactor=reactor, key=self._key, received=self._heartbeats.received)
        self._api_port = free_port()
        self._port = free_port()
        self._agent: AgentProcess | None = None
        self._process: IProcessTransport | None = None
        self._uploaded = b""
        self._client = self._new_client(Credentials.read(self._pki.ca, self._pki.client, self._pki.client_key))
        screen.names = {
            str(directory): "…",
            self._amphora_id: ":amphora_id",
            self._listener_id: ":listener",
            self._pool_id: ":pool",
            **{member.uuid: member.name for member in self._members},
        }

    def _new_client(self, credentials: Credentials, show: bool = True) -> AmphoraClient:
        return AmphoraClient(
            self._reactor,
            self._amphora_id,
            ADDRESS,
            self._api_port,
            credentials,
            timeout=PATIENCE,
            observe=self._screen.exchange if show else lambda _: None,
        )

    async def play(self) -> None:
        """
        All steps but the last.

        @raise Failed: at the first that does not happen.
        """
        await self._start_agent()
        await self._bring_up()
        await self._show_traffic()
        await self._lose_a_member()
        await self._reload_under_load()
        await self._be_refused()

    async def _start_agent(self) -> None:
        self._screen.heading("An amphora and its members")
        self._ear.startService()
        for member in self._members:
            member.up()
            self._screen.line(f"{member.name} listens on {ADDRESS}:{member.port}")
        config = self._write_agent_config()
        program = Path(sys.executable).with_name("twistd")
        arguments = ["--nodaemon", "--pidfile=", "amphora", "--config-file", str(config)]
        self._screen.line(" ".join(["twistd", *arguments]))
        self._agent = AgentProcess()
        with open(os.devnull, "rb") as nothing, self._log.open("ab") as log:
            # A session of its own: Ctrl-C at the terminal is for us, and we end the agent in order.
            self._process = self._reactor.spawnProcess(
                self._agent,
                "setsid",
                ["setsid", str(program), *arguments],
                env=dict(os.environ),
                path=str(self._directory),
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )
        begun = self._reactor.seconds()
        quiet = self._new_client(Credentials.read(self._pki.ca, self._pki.client, self._pki.client_key), show=False)
        while True:
            try:
                info = await quiet.info()
                break
            except Unreachable as error:
                if self._agent.ended.called:
                    raise Failed("an agent that answers", f"it ended: {self._agent.how}") from None
                if self._reactor.seconds() > begun + PATIENCE:
                    raise Failed("an agent that answers", str(error)) from None
                await deferLater(self._reactor, 0.1)
        await quiet.close()
        took = self._reactor.seconds() - begun
        self._screen.done(f"the agent answers after {took:.1f} s; haproxy is {info.haproxy_version}")

    def _write_agent_config(self) -> Path:
        path = self._directory / "amphora-agent.conf"
        path.touch(0o600)
        path.write_text(
            f"""\
[DEFAULT]
use_syslog = False

[haproxy_amphora]
base_path = {self._base}
base_cert_dir = {self._base}/certs
bind_host = {ADDRESS}
bind_port = {self._api_port}
haproxy_cmd = {shutil.which("haproxy")}

[health_manager]
controller_ip_port_list = {ADDRESS}:{self._ear.port}
heartbeat_interval = 1
heartbeat_key = {self._key}

[amphora_agent]
amphora_id = {self._amphora_id}
agent_server_ca = {self._pki.ca}
agent_server_cert = {self._pki.server}
agent_server_network_dir = {self._directory}/interfaces
network_namespace =
""",
            "utf-8",
        )
        return path

    def _haproxy_config(self, generation: int) -> bytes:
        servers = "\n".join(
            f"    server {member.uuid} {ADDRESS}:{member.port} check inter 1s fall 1 rise 1" for member in self._members
        )
        user = "    user nobody\n" if os.geteuid() == 0 else ""
        return f"""\
# Generation {generation}
global
    maxconn 1000
{user}
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    option http-server-close
    option redispatch 1
    retries 3

frontend {self._listener_id}
    bind {ADDRESS}:{self._port}
    http-response set-header x-generation {generation}
    default_backend {self._pool_id}:{self._listener_id}

backend {self._pool_id}:{self._listener_id}
    balance roundrobin
    option httpchk GET /
{servers}
""".encode()

    async def _upload(self, generation: int) -> None:
        self._uploaded = self._haproxy_config(generation)
        await self._client.upload_haproxy(self._listener_id, self._uploaded)

    async def _bring_up(self) -> None:
        self._screen.heading("A controller brings up a listener, over mutual TLS")
        info = await self._client.info()
        expect("the amphora's own id in its info", self._amphora_id, info.uuid)
        await self._upload(1)
        await self._client.start(self._listener_id)
        listener = await self._client.listener(self._listener_id)
        expect("a listener that is up", "ACTIVE", listener.status)
        expect("a pool that is up", ["UP"], [pool.status for pool in listener.pools])

    async def _show_traffic(self) -> None:
        self._screen.heading(f"{PACED_REQUESTS} requests, and what the heartbeats tell of them")
        await self._heartbeats.until("OPEN", "the listener", self._listener_status)
        traffic = Traffic(self._reactor, self._port)
        position = len(self._heartbeats.heard)
        asking = Deferred.fromCoroutine(self._ask_in_pace(traffic))
        told: Counter[str] = Counter()
        shown = 0
        columns = ("heartbeat", "listener", "connections", "received", "sent", *(m.name for m in self._members))
        with self._screen.table(columns) as add:
            while not asking.called or told["totconns"] < PACED_REQUESTS or shown < 5:
                heartbeat = await self._heartbeats.next_after(position, "a heartbeat each second")
                position, shown = position + 1, shown + 1
                stats = heartbeat.message["listeners"].get(self._listener_id, {}).get("stats", {})
                told.update(stats)
                add(
                    [
                        str(heartbeat.sequence),
                        self._listener_status(heartbeat),
                        f"+{stats.get('totconns', 0)}",
                        f"+{stats.get('rx', 0):,} B",
                        f"+{stats.get('tx', 0):,} B",
                        *(self._member_status(heartbeat, member) for member in self._members),
                    ]
                )
                if shown > 20:
                    break
        await asking
        self._screen.split(traffic.by_member())
        expect("no failed request", [], traffic.failures)
        expect("answers from both members", 2, len(traffic.by_member()))
        expect("heartbeats that count each connection once", PACED_REQUESTS, told["totconns"])
        # haproxy counts HTTP as it holds it in memory, without the separators of its lines.
        sent, received = (sum(each) for each in zip(*((a.sent, a.received) for a in traffic.answers), strict=True))
        expect(
            f"heartbeats that count bytes, at most {sent} from users and {received} to them",
            True,
            0 < told["rx"] <= sent and 0 < told["tx"] <= received,
        )
        self._screen.done(
            f"heartbeats count {told['totconns']} connections, each once, {told['rx']:,} B in and {told['tx']:,} B out"
        )

    async def _ask_in_pace(self, traffic: Traffic) -> None:
        for _ in range(PACED_REQUESTS):
            await traffic.request()
            await deferLater(self._reactor, 1 / REQUESTS_PER_SECOND)

    def _listener_status(self, heartbeat: Heartbeat) -> str:
        return str(heartbeat.message["listeners"].get(self._listener_id, {}).get("status", "absent"))

    def _member_status(self, heartbeat: Heartbeat, member: Member) -> str:
        pool = heartbeat.message["pools"].get(f"{self._pool_id}:{self._listener_id}", {})
        return str(pool.get("members", {}).get(member.uuid, "absent"))

    async def _lose_a_member(self) -> None:
        self._screen.heading("A member goes down, and comes back")
        member = self._members[1]
        begun = self._reactor.seconds()
        await member.down()
        heard = await self._heartbeats.until("DOWN", member.name, lambda each: self._member_status(each, member))
        self._screen.done(f"a heartbeat says that {member.name} is DOWN {heard.received - begun:.1f} s after it went")
        listener = await self._client.listener(self._listener_id)
        expect("a pool with a member down", ["DEGRADED"], [pool.status for pool in listener.pools])
        traffic = Traffic(self._reactor, self._port)
        await traffic.keep_asking(lambda: traffic.asked >= 50)
        expect("no failed request without the member", [], traffic.failures)
        expect("answers from the other member alone", [self._members[0].name], list(traffic.by_member()))
        self._screen.done(f"{len(traffic.answers)} requests, all answered by {self._members[0].name}")
        begun = self._reactor.seconds()
        member.up()
        heard = await self._heartbeats.until("UP", member.name, lambda each: self._member_status(each, member))
        self._screen.done(
            f"a heartbeat says that {member.name} is UP {heard.received - begun:.1f} s after it came back"
        )

    async def _reload_under_load(self) -> None:
        self._screen.heading(f"{RELOADS} reloads while {CLIENTS} clients ask, each request on a new connection")
        traffic = Traffic(self._reactor, self._port)
        share = LEAST_UNDER_LOAD // (RELOADS + 1)
        enough = MOST_UNDER_LOAD
        asking = Deferred.fromCoroutine(traffic.keep_asking(lambda: traffic.asked >= enough))
        try:
            for generation in range(2, RELOADS + 2):
                await self._until_asked(traffic, len(traffic.answers) + share)
                await self._upload(generation)
                await self._client.reload(self._listener_id)
        finally:
            enough = max(LEAST_UNDER_LOAD, traffic.asked + share)
        await asking
        by_generation = Counter(answer.generation for answer in traffic.answers)
        for carried in sorted(by_generation):
            self._screen.line(f"configuration {carried} carried {by_generation[carried]:>5} requests")
        expect("no failed request in a reload", [], traffic.failures[:5])
        expect("requests carried by each configuration", RELOADS + 1, len(by_generation))
        expect("the last configuration in force", str(RELOADS + 1), traffic.answers[-1].generation)
        self._screen.done(f"{len(traffic.answers):,} requests, none failed")

    async def _until_asked(self, traffic: Traffic, number: int) -> None:
        begun = self._reactor.seconds()
        while len(traffic.answers) < number:
            if self._reactor.seconds() > begun + PATIENCE:
                raise Failed(f"{number} answered requests", f"{len(traffic.answers)}, {traffic.failures[-1:]}")
            await deferLater(self._reactor, 0.05)

    async def _be_refused(self) -> None:
        self._screen.heading("What is refused changes nothing")
        self._screen.line("a stranger, without a certificate:", "dim")
        stranger = self._new_client(Credentials(self._pki.ca.read_bytes()))
        await refused(stranger.info(), Unauthorized)
        await refused(stranger.delete(self._listener_id), Unauthorized)
        await stranger.close()
        self._screen.line("a configuration that haproxy does not accept:", "dim")
        broken = self._uploaded.replace(b"balance roundrobin", b"balanse roundrobin")
        error = await refused(self._client.upload_haproxy(self._listener_id, broken), Refused)
        if "unknown keyword 'balanse'" not in error.details:
            raise Failed("haproxy's own words on 'balanse'", error.details)
        expect("the accepted configuration", self._uploaded, await self._client.haproxy(self._listener_id))
        traffic = Traffic(self._reactor, self._port)
        await traffic.keep_asking(lambda: traffic.asked >= 50)
        expect("no failed request after the refusals", [], traffic.failures)
        expect("the old configuration in force", {str(RELOADS + 1)}, {answer.generation for answer in traffic.answers})
        self._screen.done(f"{len(traffic.answers)} requests, all carried by configuration {RELOADS + 1}")

    async def stay(self) -> None:
        """Leave everything running, and say how to try it, until broken off."""
        self._screen.heading("All of it stays up until Ctrl-C.  To try:")
        url = f"https://{self._amphora_id}:{self._api_port}"
        stranger = f"curl --resolve {self._amphora_id}:{self._api_port}:{ADDRESS} --cacert {self._pki.ca}"
        curl = f"{stranger} --cert {self._pki.client} --key {self._pki.client_key}"
        listener = f"{url}/v0.1/listeners/{self._listener_id}"
        names, self._screen.names = self._screen.names, {}
        self._screen.line(f"curl http://{ADDRESS}:{self._port}/")
        for words in (f"{url}/info", listener, f"{listener}/haproxy", f"-X PUT {listener}/reload"):
            self._screen.line(f"{curl} {words}")
        self._screen.line(f"{stranger} {url}/info")
        self._screen.line(f"tail -f {self._log}")
        self._screen.names = names
        await Deferred()

    async def take_down(self) -> None:
        """
        The last step, after all others.

        @raise Failed: where something would stay.
        """
        self._screen.heading("All of it goes")
        await self._client.delete(self._listener_id)
        expect("no listener left", (), await self._client.listeners())
        expect("no haproxy left", [], self._haproxy_pids())
        assert self._agent is not None and self._process is not None
        self._process.signalProcess("TERM")
        await within(self._reactor, self._agent.ended, "an agent that ends on SIGTERM", "it did not end")
        # Where twistd was told to end by a signal, it has its process end by that signal, too, after all is done.
        if not any("Server Shut Down." in line for line in self.end_of_log()):
            raise Failed("an agent that ends in order", self._agent.how)
        self._screen.done("haproxy and the agent have ended")

    async def clean_up(self) -> None:
        """End whatever still runs and remove the directory, whatever happened before."""
        await self._client.close()
        if self._agent is not None and self._process is not None:
            for ending in ("TERM", "KILL"):
                if not self._agent.ended.called:
                    self._process.signalProcess(ending)
                    with suppress(Failed):
                        await within(self._reactor, self._agent.ended, "", "")
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._haproxy_pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            begun = self._reactor.seconds()
            while self._haproxy_pids() and self._reactor.seconds() < begun + 5:
                await deferLater(self._reactor, 0.05)
        for member in self._members:
            await member.down()
        if self._ear.running:
            await self._ear.stopService()

    def _haproxy_pids(self) -> list[int]:
        """The processes of the listener's pid file that live and are of our directory."""
        found = []
        with suppress(OSError, ValueError):
            pid_file = self._base / self._listener_id / f"{self._listener_id}.pid"
            for pid in map(int, pid_file.read_text().split()):
                with suppress(OSError):
                    if os.fsencode(self._directory) in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(pid)
        return found

    def end_of_log(self) -> list[str]:
        """The last lines of the agent's log, and how its process ended if it did."""
        lines: list[str] = []
        with suppress(OSError):
            lines = self._log.read_text("utf-8", "replace").splitlines()[-20:]
        return [*lines, self._agent.how] if self._agent is not None and self._agent.how else lines


def expect(what: str, expected: object, seen: object) -> None:
    """
    Compare.

    @raise Failed: unless both are the same.
    """
    if expected != seen:
        raise Failed(f"{what}: {expected}", str(seen))


R = TypeVar("R", bound=Exception)


async def refused(call: Awaitable[object], kind: type[R]) -> R:
    """
    Wait for a call that has to end in an error.

    @raise Failed: if it does not.
    """
    try:
        answer = await call
    except kind as error:
        return error
    raise Failed(f"the error {kind.__name__}", str(answer))


class BreakingOff:
    """Signals: the first one that means to end the demo cancels its steps; what follows them goes on."""

    def __init__(self, reactor: IDemoReactor) -> None:
        self.asked = False
        self._steps: Deferred[None] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: reactor.callFromThread(self._break_off))

    async def wait_for(self, steps: Deferred[None]) -> None:
        """Wait for the steps' end, their own or ours."""
        self._steps = steps
        if self.asked:
            steps.cancel()
        await steps

    def _break_off(self) -> None:
        self.asked = True
        if self._steps is not None:
            self._steps.cancel()


async def run(reactor: IDemoReactor, keep: bool) -> int:
    """Play, clean up, and return the exit status."""
    breaking_off = BreakingOff(reactor)
    screen = Screen()
    # UNIX sockets' paths are limited to 107 bytes, so wherever TMPDIR is, this is in /tmp.
    directory = Path(tempfile.mkdtemp(prefix="amphora-", dir="/tmp"))
    status = 1
    try:
        demo = Demo(reactor, screen, directory)
        try:
            await breaking_off.wait_for(Deferred.fromCoroutine(play(demo, keep)))
            status = 0
        except Exception as error:
            if breaking_off.asked:
                status = 130
                screen.heading("Broken off.")
            else:
                screen.failed(_as_failed(error), demo.end_of_log())
        await demo.clean_up()
    finally:
        shutil.rmtree(directory)
    if status == 0:
        screen.done("the temporary directory is removed")
    return status


def _as_failed(error: Exception) -> Failed:
    if isinstance(error, Failed):
        return error
    if isinstance(error, ClientError):
        return Failed("another answer", str(error))
    return Failed("no error", "".join(traceback.format_exception(error)))


async def play(demo: Demo, keep: bool) -> None:
    """The demo's steps, with what `--keep` changes."""
    await demo.play()
    if keep:
        with suppress(CancelledError):
            await demo.stay()
    await demo.take_down()


def main() -> int:
    """Read the command line and run the reactor until the demo is over."""
    parser = argparse.ArgumentParser(prog="script/demo", description="Plays the controller of one amphora.")
    parser.add_argument("--keep", action="store_true", help="stay up until Ctrl-C, and print curl lines to try")
    options = parser.parse_args()
    from twisted.internet import reactor as installed

    reactor = cast(IDemoReactor, installed)
    status = 1

    def begin() -> None:
        Deferred.fromCoroutine(run(reactor, options.keep)).addBoth(ended)

    def ended(result: int | Failure) -> None:
        nonlocal status
        if isinstance(result, Failure):
            result.printTraceback()
        else:
            status = result
        reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run()
    return status


if __name__ == "__main__":
    sys.exit(main())
