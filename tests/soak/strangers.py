"""Those who have no business at the API, and come all the same."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.integration.harness import client_context
from tests.soak.world import World

TIME_OUT: Final = 30.0
CROWD: Final = 20


@define(eq=False)
class Strangers:
    """One kind after another."""

    world: World
    chance: random.Random
    clock: Any
    number: Counter[str] = field(init=False, factory=Counter)
    let_in: list[str] = field(init=False, factory=list)
    """What anyone got that was neither silence nor a 401."""
    going: bool = field(init=False, default=True)
    _home: threading.Event = field(init=False, factory=threading.Event)

    def kinds(self) -> dict[str, Callable[[random.Random], bytes]]:
        return {
            "connections that stay silent": self._stall,
            "requests without a certificate": self._ask,
            "handshakes left": self._shake,
            "garbage": self._garbage,
            "slow headers": self._drip,
        }

    async def run(self, pause: float) -> None:
        """Until they are told to stop."""
        while self.going:
            kind = self.chance.choice(list(self.kinds()))
            try:
                got = await deferToThread(self.kinds()[kind], random.Random(self.chance.random()))
            except OSError:
                got = b""
            self.number[kind] += 1
            if got and b" 401 " not in got.partition(b"\r\n")[0]:
                self.let_in.append(f"{kind}: {got[:100]!r}")
            await deferLater(self.clock, pause * self.chance.uniform(0.5, 1.5))

    def stop(self) -> None:
        self.going = False
        self._home.set()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.world.agent.port), timeout=TIME_OUT)

    def _connect_tls(self) -> ssl.SSLSocket:
        return client_context(self.world.pki).wrap_socket(self._connect(), server_hostname=self.world.raw.amphora_id)

    def _stall(self, chance: random.Random) -> bytes:
        connections = [self._connect() for _ in range(CROWD)]
        self._home.wait(chance.uniform(1, 6))
        for connection in connections:
            connection.close()
        return b""

    def _ask(self, chance: random.Random) -> bytes:
        path = chance.choice(["/info", "/v0.1/details", "/1.0/details", "/v0.1/listeners", "/"])
        with self._connect_tls() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: amphora\r\n\r\n".encode())
            return connection.recv(65536)

    def _shake(self, chance: random.Random) -> bytes:
        for _ in range(CROWD):
            with self._connect() as connection:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                half = client_context(self.world.pki).wrap_bio(incoming, outgoing, server_hostname="x")
                try:
                    half.do_handshake()
                except ssl.SSLWantReadError:
                    hello = outgoing.read()
                    connection.sendall(hello[: chance.randint(1, len(hello))])
        return b""

    def _garbage(self, chance: random.Random) -> bytes:
        with self._connect() as connection:
            connection.sendall(chance.randbytes(chance.randint(1, 20_000)))
            got = connection.recv(65536)
        # An alert of TLS is what somebody gets who does not speak it.
        return b"" if got[:1] == b"\x15" else got

    def _drip(self, chance: random.Random) -> bytes:
        with self._connect_tls() as connection:
            for byte in b"GET /info HTTP/1.1\r\nX-Slow: "[: chance.randint(4, 20)]:
                connection.sendall(bytes([byte]))
                if self._home.wait(0.1):
                    break
            return b""
