"""One agent, started afresh in a cage of its own, and what can be asked and measured of it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field, frozen

from amphora.testing.pki import ThrowAwayPKI
from benchmarks.agents import AMPHORA_ID, PORT, Agent, Setup, configuration
from benchmarks.balancers import Balancer, identifier
from benchmarks.cage import Cage, cpu_of, pss_of
from benchmarks.client import Load, Outcome
from benchmarks.receiver import Receiver, until

PATIENCE = 20.0
_ADDRESS = ("127.0.0.1", PORT)
_CLIENT = Path(__file__).with_name("client.py")


class NotDone(Exception):
    """An agent did not do what a figure needs; the text is what the table says in its place."""


@frozen
class Answer:
    """What the API answered."""

    status: int
    body: bytes


@define(eq=False)
class Visit:
    """An agent that runs, with its controller's socket."""

    agent: Agent
    cage: Cage
    pki: ThrowAwayPKI
    receiver: Receiver
    launched: float
    answered: float
    """When the agent was started, and when the API had answered for the first time: of the monotonic clock."""
    _context: ssl.SSLContext = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._context = _context(self.pki)

    # The controller's side

    def ask(self, method: str, path: str, body: bytes = b"", *, expected: tuple[int, ...] = (200, 202)) -> Answer:
        """
        A request on a connection of its own.

        @raise NotDone: for another status than is expected.
        """
        answer = request(self._context, method, path, body)
        if answer.status not in expected:
            raise NotDone(f"{method} {path.rpartition('/')[2]}: {answer.status} {answer.body.decode()[:200]}")
        return answer

    def upload(self, balancer: Balancer, remark: str = "") -> None:
        self.ask("PUT", f"/1.0/loadbalancer/{AMPHORA_ID}/{balancer.id}/haproxy", balancer.config(remark))

    def act(self, balancer: Balancer, action: str) -> None:
        """Have a load balancer started, or read its configuration anew."""
        self.ask("PUT", f"/1.0/loadbalancer/{balancer.id}/{action}")

    def serve(self, balancer: Balancer) -> None:
        """Upload and start it."""
        self.upload(balancer)
        self.act(balancer, "start")

    def load(
        self, path: str, *, seconds: float, requests: int = 0, clients: int = 8, keep: bool = False, timeout: float = 10
    ) -> Outcome:
        """Have clients ask one route; waits for them."""
        load = Load(
            address=_ADDRESS,
            name=AMPHORA_ID,
            ca=str(self.pki.ca),
            certificate=str(self.pki.client),
            key=str(self.pki.client_key),
            path=path,
            clients=clients,
            seconds=seconds,
            requests=requests,
            keep=keep,
            timeout=timeout,
        )
        command = [sys.executable, "-I", "-S", str(_CLIENT), json.dumps(load)]
        outcome: Outcome = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return outcome

    def set_member(self, balancer: Balancer, number: int, state: str) -> None:
        """Have haproxy take a member for `ready` or for one in `maint`enance, as its operator would."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(str(self.cage.directory / "lib" / f"{balancer.id}.sock"))
            server = f"{balancer.backend(0)}/{identifier('member', number)}"
            stats.sendall(f"set server {server} state {state}\n".encode())
            if said := stats.recv(4096).strip():
                raise RuntimeError(f"haproxy: {said.decode()}")

    # The machine's side

    def cpu(self) -> float:
        """Seconds of CPU that all of the agent's processes have used."""
        return cpu_of(self.cage.agent_processes())

    def pss(self) -> float:
        """Bytes of memory of all of the agent's processes."""
        return pss_of(self.cage.agent_processes())

    def cpu_of_a_heartbeat(self, seconds: float) -> float:
        """
        Seconds of CPU for each heartbeat that is made in that time, be it sent or not.

        The reference writes the baselines of its counters down in each round, though it may send nothing.

        @raise NotDone: if none is made.
        """
        path = self.cage.directory / "lib" / "stats_counters.json"
        written: set[int] = set()
        before, begun = self.cpu(), time.monotonic()
        while time.monotonic() < begun + seconds:
            with suppress(OSError):
                written.add(path.stat().st_mtime_ns)
            time.sleep(0.02)
        used, sent = self.cpu() - before, len(self.receiver.since(begun))
        if not (made := sent or len(written) - 1):
            raise NotDone("no heartbeat was made")
        return used / made


def _context(pki: ThrowAwayPKI) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(str(pki.client), str(pki.client_key))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def request(context: ssl.SSLContext, method: str, path: str, body: bytes = b"") -> Answer:
    """@raise OSError: if there is no answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {AMPHORA_ID}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    )
    with (
        socket.create_connection(_ADDRESS, PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=AMPHORA_ID) as connection,
    ):
        connection.sendall(head.encode() + body)
        answer = HTTPResponse(connection)
        answer.begin()
        return Answer(answer.status, answer.read())


def _first_answer(context: ssl.SSLContext) -> float:
    """Ask until there is an answer.  @return: When it was here."""

    def asked() -> bool:
        with suppress(OSError):
            return request(context, "GET", "/").status == 200
        return False

    if not until(asked, PATIENCE):
        raise NotDone("did not start")
    return time.monotonic()


def _drain(path: Path) -> socket.socket:
    """Be the syslog that the reference's server wants to be there."""
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(str(path))

    def read() -> None:
        with suppress(OSError):
            while log.recv(65536):
                pass

    threading.Thread(target=read, daemon=True).start()
    return log


@contextmanager
def visit(agent: Agent, pki: ThrowAwayPKI, setup: Setup | None = None) -> Iterator[Visit]:
    """
    Start an agent; at the end, all that it has started is gone.

    @raise NotDone: if it does not start.
    """
    with (
        TemporaryDirectory(prefix="bench-") as folder,
        Receiver() as receiver,
        Cage(Path(folder), agent.program.parent) as cage,
    ):
        directory = cage.directory
        (directory / "lib" / "haproxy-default-user-group.conf").write_text("global\n    group nogroup\n")
        config = directory / "amphora-agent.conf"
        config.write_text(configuration(setup or Setup(), pki, receiver.port, directory / "etc"))
        log = directory / "agent.log"
        with _drain(directory / "run/rsyslog/octavia/log"):
            command = [str(agent.program), "--config-file", str(config)]
            launched = cage.launch(command, log)
            try:
                answered = _first_answer(_context(pki))
            except NotDone:
                print(
                    f"--- the log of {agent.name} ends:", *log.read_text().splitlines()[-30:], sep="\n", file=sys.stderr
                )
                raise
            yield Visit(agent, cage, pki, receiver, launched, answered)
