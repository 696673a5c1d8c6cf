"""What we read of a configuration and of a stats socket, beside what the installed haproxy says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from amphora.loadbalancer.haproxy_config import parse_config
from amphora.loadbalancer.sockets import NoAnswer, ask
from amphora.loadbalancer.stats import QUESTION, parse_stats
from amphora.process import ProcessIdentity, run_command, spawn_daemon
from tests.integration.harness import free_port, wait_until
from tests.integration.support import program, requires, short_directory

FORGED = b'no "x", y\nevil,FRONTEND,,,0,0,0,9,9,9,0,0,0,,,,,OPEN,,,,,,,,,,,,,,,\n\nz\xff'


class _Forger(Protocol):
    """Greets like a MySQL server that is not willing, with a text of its choice."""

    def connectionMade(self) -> None:
        body = b"\xff\x15\x04" + FORGED
        assert self.transport is not None
        self.transport.write(len(body).to_bytes(3, "little") + b"\0" + body)


class _Rude(Protocol):
    """Answers an HTTP check with words of its choice."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b'HTTP/1.0 500 Fehler-\xfc, "so", what\r\n\r\n')
        self.transport.loseConnection()


@requires("haproxy")
class ReadingTests(TestCase):
    timeout = 180

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.directory = short_directory(self)
        self.socket = self.directory / "s"

    def member(self, protocol: Callable[[], Protocol]) -> int:
        factory = Factory.forProtocol(protocol)
        factory.noisy = False
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(maybeDeferred, port.stopListening)
        number: int = port.getHost().port
        return number

    async def start(self, config: bytes) -> None:
        """Start a haproxy, and wait until it answers."""
        path = self.directory / "haproxy.cfg"
        path.write_bytes(config + b"\n")
        with open(self.directory / "log", "wb") as log:
            command = [program("haproxy") or "haproxy", "-db", "-f", str(path)]
            pid = spawn_daemon(self.reactor, command, output=log.fileno(), environment={})
        process = ProcessIdentity.of(pid)
        assert process is not None

        async def end() -> None:
            process.send_signal(signal.SIGKILL)
            await wait_until(lambda: not process.alive, "haproxy to end")

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))

        async def answers() -> bool:
            self.assertTrue(process.alive, (self.directory / "log").read_text())
            try:
                return bool(await self.raw())
            except NoAnswer:
                return False

        await wait_until(answers, "haproxy to answer")

    async def raw(self) -> bytes:
        return await ask(self.reactor, self.socket, QUESTION, timeout=30)

    async def test_configuration(self) -> None:
        """Frontends, their modes and the number of servers are those that haproxy finds, however they are written."""
        config = f"""
            global # comment
                stats socket "{self.socket}" mode 600 level admin
            defaults web
                mode 'http'
                timeout client 5s
                timeout server 5s
                timeout connect 5s
            defaults plain from web
                mode tcp # http
            frontend a
                bind 127.0.0.1:{free_port()} # \u2028 mode http
            "frontend" b-c from web
                bind "127.0.0.1:{free_port()}"
                default_backend d
            listen d.e
                mode "ht"tp
                bind 127.0.0.1:{free_port()}
                server one 127.0.0.1:1
                #server two 127.0.0.1:1
                'server' three 127.0.0.1:1
            backend d from web
                http-request set-header X-A "a # b" if {{ path_beg '/my group' }}
                server f 127.0.0.1:1 weight 0
        """.encode()
        await self.start(config)
        read = parse_config(config)
        stats = parse_stats(await self.raw())
        self.assertEqual([frontend.name for frontend in stats.frontends], [one.name for one in read.frontends])
        self.assertEqual(sum(len(backend.members) for backend in stats.backends), read.members)
        self.assertEqual((self.socket,), read.stats_sockets)
        head, *rows = (await self.raw()).decode().partition("# ")[2].splitlines()
        column = head.split(",").index("mode")
        modes = {row.split(",")[0]: row.split(",")[column] for row in rows if ",FRONTEND," in row}
        self.assertEqual(modes, {one.name: one.mode for one in read.frontends})

    async def test_texts_of_members(self) -> None:
        """What members write into a check's text, line ends and rows of their own too, hides or forges none (B1)."""
        config = f"""
            global
                stats socket {self.socket} mode 600 level admin
            defaults
                timeout client 5s
                timeout server 5s
                timeout connect 5s
            frontend front
                bind 127.0.0.1:{free_port()}
            backend sql
                option mysql-check
                server forger 127.0.0.1:{self.member(_Forger)} check inter 100ms fall 1
            backend web
                mode http
                option httpchk GET /
                server rude 127.0.0.1:{self.member(_Rude)} check inter 100ms fall 1
            backend last
                server quiet 127.0.0.1:1
        """.encode()
        await self.start(config)

        async def both_checked() -> bool:
            answer = await self.raw()
            return b"\nevil,FRONTEND," in answer and b"Fehler-\xfc" in answer

        await wait_until(both_checked, "haproxy to tell of both checks")
        stats = parse_stats(await self.raw())
        self.assertEqual(["front"], [frontend.name for frontend in stats.frontends])
        self.assertEqual(
            [("sql", {"forger": "DOWN"}), ("web", {"rude": "DOWN"}), ("last", {"quiet": "no check"})],
            [(backend.name, backend.members) for backend in stats.backends],
        )

    async def test_the_answers_end(self) -> None:
        """haproxy ends its answer with an empty line, and only there."""
        await self.start(f"global\n stats socket {self.socket} mode 600\n".encode())
        answer = await self.raw()
        self.assertTrue(answer.endswith(b"\n\n"))
        self.assertEqual(2, answer.rstrip(b"\n").count(b"\n\n") + 1)

    async def test_version(self) -> None:
        """Its version is in its answers as on its command line."""
        await self.start(f"global\n stats socket {self.socket} mode 600\n".encode())
        said = await run_command(self.reactor, [program("haproxy") or "haproxy", "-v"], timeout=30)
        self.assertIn(f"version {parse_stats(await self.raw()).version} ", said.output)
