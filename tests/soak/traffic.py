"""Clients of the load balancers: some that ask again and again, some that stay connected."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from amphora.network.inside import inside

TIME_OUT: Final = 20.0
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
LINE: Final = b"are you still there?\n"
_LARGEST_ANSWER: Final = 1024
"""Bytes that may have been sent to a client that has not got them: one answer."""

# One for all: making one takes longer than a request.
_TRUSTING: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TRUSTING.check_hostname = False
_TRUSTING.verify_mode = ssl.CERT_NONE


@frozen
class Failed:
    """A request that was not answered as it had to be: from when to when, and what was seen."""

    began: float
    ended: float
    seen: str


@define(eq=False)
class Target:
    """An address that clients ask, and what came of it.  Several may lead to one listener."""

    name: str
    listener_id: str
    about: frozenset[str]
    """What it depends on, as windows name it."""
    namespace: str
    port: int
    host: str = "127.0.0.1"
    tls: bool = False
    stays: bool = False
    """Whether it echoes lines for as long as the client stays."""
    served: int = field(init=False, default=0)
    connections: int = field(init=False, default=0)
    sent: int = field(init=False, default=0)
    """Bytes, without those of TLS, that clients have handed over."""
    received: int = field(init=False, default=0)
    failures: list[Failed] = field(init=False, factory=list)
    _broken_off: int = field(init=False, default=0)
    in_flight: int = field(init=False, default=0)
    paused: bool = field(init=False, default=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    @property
    def most_received(self) -> int:
        """As many bytes as clients may have been sent, those included that a failure has cost."""
        with self._lock:
            return self.received + _LARGEST_ANSWER * self._broken_off

    def ask(self) -> None:
        """One request, or one long visit's beginning; nothing while it is paused.  Blocks."""
        self.stay(1, threading.Event())

    def stay(self, lines: int, ended: threading.Event) -> None:
        """The same, with so many lines, half a second each, where lines are echoed.  Blocks."""
        with self._one() as wanted:
            if not wanted:
                return
            began = time.time()
            try:
                self._visit(lines, ended)
            except OSError as error:
                with self._lock:
                    self.failures.append(Failed(began, time.time(), repr(error)))

    def probe(self) -> bool:
        """Whether a request is answered now, though it be paused; that one is not is nobody's failure.  Blocks."""
        try:
            self._visit(1, threading.Event())
        except OSError:
            return False
        return True

    @contextmanager
    def _one(self) -> Iterator[bool]:
        with self._lock:
            wanted = not self.paused
            self.in_flight += wanted
        try:
            yield wanted
        finally:
            with self._lock:
                self.in_flight -= wanted

    def _visit(self, lines: int, ended: threading.Event) -> None:
        """@raise OSError: for what was not answered as it has to be"""
        try:
            with self._connect() as connection:
                if self.stays:
                    self._chat(connection, lines, ended)
                else:
                    self._request(connection)
        except OSError:
            with self._lock:
                self._broken_off += 1
            raise

    def _connect(self) -> socket.socket:
        with self._lock:
            self.connections += 1
        plain = socket.create_connection((self.host, self.port), timeout=TIME_OUT)
        if not self.tls:
            return plain
        return _TRUSTING.wrap_socket(plain)

    def _request(self, connection: socket.socket) -> None:
        self._send(connection, REQUEST)
        answer = b""
        while data := self._receive(connection):
            answer += data
        if b" 200 OK\r\n" not in answer or b"\r\n\r\n" not in answer:
            raise ConnectionError(repr(answer[:60]) if answer else "closed without an answer")
        with self._lock:
            self.served += 1

    def _chat(self, connection: socket.socket, lines: int, ended: threading.Event) -> None:
        for _ in range(lines):
            self._send(connection, LINE)
            answer = b""
            while len(answer) < len(LINE):
                data = self._receive(connection)
                if not data:
                    raise ConnectionError("closed by the other side")
                answer += data
            with self._lock:
                self.served += 1
            if ended.wait(0.5):
                return

    def _send(self, connection: socket.socket, data: bytes) -> None:
        with self._lock:
            self.sent += len(data)
        connection.sendall(data)

    def _receive(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        with self._lock:
            self.received += len(data)
        return data


@define(eq=False)
class Crowd:
    """Clients, each in a thread and inside a namespace, until they are told to go home."""

    seed: str
    _home: threading.Event = field(init=False, factory=threading.Event)
    _running: list[Deferred[None]] = field(init=False, factory=list)

    def ask(self, namespace: str, targets: Sequence[Target], pause: float) -> None:
        """One more client, which asks one of the targets, waits so many seconds, and so on."""
        chance = random.Random(f"{self.seed} client {len(self._running)}")

        def again_and_again() -> None:
            while not self._home.wait(pause * chance.uniform(0.5, 1.5)):
                chance.choice(targets).ask()

        self._running.append(deferToThread(inside, namespace, again_and_again, patience=None))

    def stay(self, namespace: str, target: Target, lines: int) -> None:
        """One more client, which stays for about so many lines, then comes back."""
        chance = random.Random(f"{self.seed} client {len(self._running)}")

        def again_and_again() -> None:
            while not self._home.wait(0.2):
                target.stay(chance.randint(lines // 2, lines + lines // 2), self._home)

        self._running.append(deferToThread(inside, namespace, again_and_again, patience=None))

    async def go_home(self) -> None:
        """Have all of them end what they are at, and wait until they have."""
        self._home.set()
        await gatherResults(self._running)
