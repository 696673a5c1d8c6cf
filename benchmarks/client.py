"""
The load: several clients that ask one route over mutual TLS as fast as they are answered.

A program of its own, with nothing but the standard library in it, so that its cost is small; it tells that cost.  Each
client is a process.  The one argument is a JSON object with the fields of L{Load}; what is printed is one with those of
L{Outcome}.

Each request has a deadline.  One that is not answered, or not with status 200, counts as an error and not as a request.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import ssl
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any, TypedDict


class Load(TypedDict):
    """Who asks what, and for how long."""

    address: tuple[str, int]
    name: str
    """Whom the server's certificate has to name."""
    ca: str
    certificate: str
    key: str
    path: str
    clients: int
    seconds: float
    requests: int
    """An end that may come before C{seconds}: so many requests of all clients together; 0 for none."""
    keep: bool
    """Whether a connection is used again, as long as the server lets it stand; else each request has a new one."""
    timeout: float


class Outcome(TypedDict):
    """What came of it: all times in seconds."""

    requests: int
    connections: int
    seconds: float
    p50: float
    p99: float
    longest: float
    cpu: float
    """What the clients used."""
    errors: dict[str, int]
    tls: str


def tls_of(load: Load) -> ssl.SSLContext:
    """TLS as the controller's client speaks it by default: version 1.2, both sides checked, nothing resumed."""
    context = ssl.create_default_context(cafile=load["ca"])
    context.load_cert_chain(load["certificate"], load["key"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


class Client:
    """One client, and what it has counted."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._context = tls_of(load)
        self._connection: ssl.SSLSocket | None = None
        self._question = (
            f"GET {load['path']} HTTP/1.1\r\nHost: {load['name']}\r\nUser-Agent: script/bench\r\n"
            f"Accept: */*\r\nConnection: {'keep-alive' if load['keep'] else 'close'}\r\n\r\n"
        ).encode()
        self.times = array("d")
        self.errors: Counter[str] = Counter()
        self.connections = 0
        self.cipher = ""

    def ask(self) -> None:
        """Ask once."""
        begun = time.monotonic()
        try:
            connection = self._connection or self._connect()
            connection.sendall(self._question)
            more = self._read(connection)
        except OSError as problem:
            self.errors[type(problem).__name__ if not problem.strerror else problem.strerror] += 1
            self._close()
            return
        self.times.append(time.monotonic() - begun)
        if not (more and self._load["keep"]):
            self._close()

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self._load["address"], self._load["timeout"])
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = self._context.wrap_socket(plain, server_hostname=self._load["name"])
        self.connections += 1
        cipher = self._connection.cipher()
        self.cipher = f"{self._connection.version()} {cipher[0] if cipher else ''}"
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @staticmethod
    def _read(connection: ssl.SSLSocket) -> bool:
        """Read an answer whole.  @return: Whether the connection stands after it."""
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = connection.recv(65536)
            if not data:
                raise OSError("the connection was closed before the answer")
            answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.lower().split(b"\r\n")
        if status.split()[1] != b"200":
            raise OSError(status.decode("latin-1"))
        headers = dict(line.split(b": ", 1) for line in lines if b": " in line)
        missing = int(headers[b"content-length"]) - len(body)
        while missing > 0:
            data = connection.recv(65536)
            if not data:
                raise OSError("the connection was closed within the answer")
            missing -= len(data)
        return headers.get(b"connection") != b"close"


def work(load: Load, share: int) -> dict[str, Any]:
    """Be one client."""
    client = Client(load)
    end = time.monotonic() + load["seconds"]
    while time.monotonic() < end and not 0 < share <= len(client.times):
        client.ask()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "times": list(client.times),
        "connections": client.connections,
        "errors": client.errors,
        "cpu": used.ru_utime + used.ru_stime,
        "tls": client.cipher,
    }


def in_process(function: Callable[[], dict[str, Any]]) -> int:
    """Have a process do something.  @return: A descriptor that its result can be read from."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as result:
            json.dump(function(), result)
        os._exit(0)
    os.close(writing)
    return reading


def run(load: Load) -> Outcome:
    """Set all clients to work, and sum up what they tell."""
    begun = time.monotonic()
    share = -(-load["requests"] // load["clients"])
    results = [in_process(lambda: work(load, share)) for _ in range(load["clients"])]
    told = []
    for result in results:
        with os.fdopen(result) as reading:
            told.append(json.load(reading))
    seconds = time.monotonic() - begun
    times = sorted(took for each in told for took in each["times"])
    errors: Counter[str] = Counter()
    for each in told:
        errors.update(each["errors"])

    def at(share: float) -> float:
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0

    return Outcome(
        requests=len(times),
        connections=sum(each["connections"] for each in told),
        seconds=seconds,
        p50=at(0.5),
        p99=at(0.99),
        longest=at(1),
        cpu=sum(each["cpu"] for each in told),
        errors=dict(errors),
        tls=next((each["tls"] for each in told if each["tls"]), ""),
    )


if __name__ == "__main__":
    json.dump(run(json.loads(sys.argv[1])), sys.stdout)
