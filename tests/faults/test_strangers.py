"""Strangers who flood, stall and lie, and clients with a certificate who do: a good client hears nothing of them."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from amphora.api.channel import Limits
from amphora.api.v0_1 import V01
from amphora.api.v1_0 import V10
from amphora.testing.pki import CLIENT, SERVER, Authority, Issued, Part, Validity, new_key
from tests.faults.crowd import Crowd, Held, Memory, OddClient, allow_files, open_files
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AMPHORA_ID, PATIENCE, RawClient, client_context, new_id, read_all, wait_until
from tests.integration.support import count, requires

LIMITS = Limits()
GET = b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n"
PUT = f"PUT /1.0/loadbalancer/{AMPHORA_ID}/{AMPHORA_ID}/haproxy HTTP/1.1\r\nHost: a\r\n".encode()
_NO_NAME = x509.Name([])


def many_certificates(number: int) -> bytes:
    """The smallest certificates there are: what they take in memory is many times what they take on the way."""
    key = new_key()
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NO_NAME)
        .issuer_name(_NO_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM) * number


class StrangerTestCase(FaultTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.addCleanup(allow_files(8192))
        self.crowd = Crowd(self.agent.port)
        self.addCleanup(self.crowd.go)

    def context(self, issued: Issued | None = None, more: bytes = b"") -> ssl.SSLContext:
        """A client that shows this certificate, and others after it."""
        path: Path | None = None
        if issued is not None:
            path = self.directory / f"{new_id()}.pem"
            path.write_bytes(issued.pem(Part.CERTIFICATE, Part.KEY, Part.CHAIN) + more)
        context = client_context(self.pki, path)
        context.check_hostname = False
        return context

    def come(self, number: int, act: Callable[[], Held], at_once: int = 16) -> Deferred[None]:
        return self.crowd.come(number, act, at_once)

    async def assert_refused(self, *exchanges: tuple[RawClient, bytes, int]) -> None:
        """There is one answer each, this one, and then the connection ends."""

        def exchange(client: RawClient, request: bytes) -> bytes:
            with client.connect() as connection:
                connection.sendall(request)
                return read_all(connection)

        def exchange_all() -> list[bytes]:
            # The agent listens for two seconds to what follows a refused request: it is all done at once.
            with ThreadPoolExecutor(40) as threads:
                waiting = [threads.submit(exchange, client, request) for client, request, _ in exchanges]
                return [each.result() for each in waiting]

        for (_, request, status), answer in zip(exchanges, await deferToThread(exchange_all), strict=True):
            self.assertEqual(1, answer.count(b"HTTP/1.1 "), (request[:500], answer))
            self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), (request[:500], answer))


@requires("haproxy", "openssl")
class CrowdTests(StrangerTestCase):
    """Who has no certificate of ours."""

    interval = 2

    async def test_C1_floods(self) -> None:
        """
        Whatever strangers do in numbers, they are refused, the others are served, and what the agent holds for them all
        stays below what it says at its start.
        """
        bound = LIMITS.strangers * LIMITS.stranger_memory
        self.assertIn(f"strangers, {LIMITS.strangers} at a time, can make it hold {bound // 2**20} MiB", self.agent.log)
        memory = Memory(self.agent.pid)
        before, lines, files = memory.now(), self.agent.log.count("\n"), open_files(self.agent.pid)
        began = monotonic()
        watched = memory.watch()
        try:
            async with self.watch():
                for number, act in self.floods():
                    await self.come(number, act)
                    # Of a burst more are taken than may stay, for a moment.
                    await wait_until(
                        lambda: open_files(self.agent.pid) <= files + LIMITS.strangers + 5, "strangers to be bounded"
                    )
                    self.crowd.go()
                stranger = RawClient(self.agent.port, client_context(self.pki))
                endless = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"8\r\nxxxxxxxx\r\n" * 60_000
                await self.assert_refused((stranger, GET * 10_000, 401), (stranger, endless, 401))
        finally:
            memory.stop()
            await watched
        self.assertLess(memory.peak - before, bound)
        # A line a minute for each kind of refusal.
        minutes = 1 + (monotonic() - began) // 60
        self.assertLess(self.agent.log.count("\n") - lines, 30 * minutes, self.agent.log)
        self.assertIn("bytes of a handshake", self.agent.log)
        self.assertIn("TLS records of a stranger", self.agent.log)
        await wait_until(lambda: open_files(self.agent.pid) <= files + 5, "all strangers to be forgotten")

    def floods(self) -> Iterator[tuple[int, Callable[[], Held]]]:
        connect = self.crowd.connect
        nobody = self.context()

        def says(data: bytes) -> Callable[[], Held]:
            def say() -> Held:
                connection = connect()
                connection.sendall(data)
                return connection

            return say

        def asks(context: ssl.SSLContext, *segments: bytes) -> Callable[[], Held]:
            def ask() -> Held:
                connection = self.crowd.connect_over(context)
                for segment in segments:
                    connection.sendall(segment)
                return connection

            return ask

        # Silence, and what is no TLS.
        yield 2000, connect
        yield 500, says(_client_hello()[:-20])
        yield 300, says(_long_hello(16_000))
        yield 300, says(_long_hello(130_000))
        yield 20, says(GET)
        for garbage in (
            b"\0" * 5,
            b"\xff" * 70_000,
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x03\0\0" * 100,
            b"\x15\x03\x03\0\2\1\0",
        ):
            yield 5, says(garbage)
        for extension in (b"\x00\x00", b"\x00\x10", b"\x00\x2b", b"\x00\x0d"):
            yield 5, says(_client_hello(extension + b"\x00\x04\xff\xff\xff\xff"))
        yield 20, lambda: _odd_names(connect())
        # Certificates: as many as are heard out, and more.
        foreign = Authority.create("other").issue("controller", usages=(CLIENT,))
        yield 300, asks(self.context(foreign, many_certificates(50)))
        yield 20, asks(self.context(foreign, many_certificates(300)))
        # Every kind of stranger, with whatever it is in a request that takes long.
        for shown in self.strangers():
            context = self.context(shown)
            yield 30, asks(context)
            yield 30, asks(context, b"GET /" + b"x" * 16_000)
            yield 10, asks(context, GET[:-2], b"X: " + b"x" * 10_000)
            yield 10, asks(context, PUT + b"Content-Length: 1000000\r\n\r\n", b"x" * 500_000)
        yield (
            5,
            asks(nobody, PUT + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 100),
        )
        yield 5, asks(nobody, GET * 10_000)
        yield 8, lambda: self._drips(nobody, b"G")
        yield 8, lambda: self._updates_keys(2000)
        yield 8, self._renegotiates

    def strangers(self) -> Iterator[Issued | None]:
        ours = self.pki.authority
        yield None
        yield Authority.create("other").issue("controller", usages=(CLIENT,))
        yield Authority.create(ours.name).issue("controller", usages=(CLIENT,))
        yield ours.issue("controller", usages=(CLIENT,), validity=Validity.EXPIRED)
        yield ours.issue("controller", usages=(CLIENT,), validity=Validity.NOT_YET)
        yield ours.issue("controller", usages=(SERVER,))

    def _drips(self, context: ssl.SSLContext, drop: bytes) -> Held:
        connection = self.crowd.connect_over(context)
        for _ in range(2000):
            connection.sendall(drop)
        return connection

    def _updates_keys(self, times: int) -> Held:
        client = OddClient(self.crowd.connect(), ssl.TLSVersion.TLSv1_3)
        for _ in range(times):
            if not client.update_keys():
                break
        return client

    def _renegotiates(self) -> Held:
        client = OddClient(self.crowd.connect(), ssl.TLSVersion.TLSv1_2)
        if client.renegotiate():
            raise AssertionError("it renegotiated")
        return client


@requires("haproxy", "openssl")
class ClientTests(StrangerTestCase):
    """Who has a certificate, and misbehaves."""

    def one_of_us(self) -> ssl.SSLContext:
        return client_context(self.pki, self.pki.client, self.pki.client_key)

    async def test_E1_connections(self) -> None:
        """
        Four hundred connections, fifty uploads that drip, and renegotiation: the idle ones are closed, the others wait
        for nobody.
        """
        ours = self.one_of_us()
        ours.check_hostname = False

        def upload() -> Held:
            connection = self.crowd.connect_over(ours)
            connection.sendall(PUT + b"Content-Length: 100000\r\n\r\nx")
            connection.sendall(b"x")
            return connection

        async with self.watch() as watch:
            files = open_files(self.agent.pid)
            await self.come(400, lambda: self.crowd.connect_over(ours))
            await wait_until(
                lambda: open_files(self.agent.pid) <= files + LIMITS.verified + 1, "those without room to be closed"
            )
            await self.come(50, upload)
            await watch.goes_on()
            answered = watch.questions.answered
            await wait_until(lambda: watch.questions.answered > answered + 10, "ten more answers")
            self.crowd.go()

    async def test_E1_answers_that_nobody_reads(self) -> None:
        """Of thousands of requests in one go so many are answered as are read; in the end it is all of them."""
        requests = count(2_000, 10_000)
        listener = self.balancer.listener_id
        await self.client.upload_haproxy(listener, self.balancer.config() + b"# a comment\n" * 1000)
        ask = f"GET /v0.1/listeners/{listener}/haproxy HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        last = ask.replace(b"Host", b"Connection: close\r\nHost")
        memory = Memory(self.agent.pid)

        async with self.watch() as watch:
            before = memory.now()
            with self.raw_client().connect() as connection:
                await deferToThread(connection.sendall, ask * (requests - 1) + last)
                await watch.goes_on()
                grown = memory.now() - before
                connection.settimeout(PATIENCE)
                answers = await deferToThread(read_all, connection)
        self.assertEqual(requests, answers.count(b"HTTP/1.1 200 OK\r\n"))
        self.assertLess(grown, 8 * 2**20)
        self.assertGreater(len(answers), 16 * 2**20)

    async def test_E1_large_answers_that_nobody_reads(self) -> None:
        """Twenty clients who ask for a large configuration, and do not read it, keep no one else waiting."""
        ours = self.one_of_us()
        ours.check_hostname = False
        large = self.balancer.config() + b"# a comment\n" * 50_000
        await self.client.upload_haproxy(self.balancer.listener_id, large)
        ask = f"GET /v0.1/listeners/{self.balancer.listener_id}/haproxy HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        memory = Memory(self.agent.pid)

        def slow() -> Held:
            connection = self.crowd.connect_over(ours)
            connection.sendall(ask)
            return connection

        async with self.watch() as watch:
            before = memory.now()
            await self.come(20, slow)
            await watch.goes_on()
            self.assertLess(memory.now() - before, 40 * len(large))


@requires("haproxy")
class HTTPTests(StrangerTestCase):
    """Requests that are not what they seem."""

    async def test_C6_smuggled(self) -> None:
        """
        A request whose length is told in two ways, or in a way that two readers may take differently, is refused with
        all that follows it.
        """
        inner = b"DELETE /v0.1/listeners/%s HTTP/1.1\r\nHost: a\r\n\r\n" % self.balancer.listener_id.encode()
        chunked = b"Transfer-Encoding: chunked\r\n"
        stranger, ours = RawClient(self.agent.port, client_context(self.pki)), self.raw_client()
        exchanges = []
        for headers in (
            b"Content-Length: 0\r\nContent-Length: 10\r\n",
            b"Content-Length: 5\r\nContent-Length: 5\r\n",
            b"Content-Length: 0, 10\r\n",
            b"Content-Length: 10\r\n" + chunked,
            chunked + b"Content-Length: 10\r\n",
            chunked + chunked,
            b"Transfer-Encoding: identity, chunked\r\n",
            b"Transfer-Encoding: chunked, chunked\r\n",
            b"Transfer-Encoding: xchunked\r\n",
            b"Transfer-Encoding: chunked\x0b\r\n",
            b'Transfer-Encoding: "chunked"\r\n',
            b"Transfer-Encoding : chunked\r\n",
            b"Transfer-Encoding: \x00chunked\r\n",
            b"Transfer-Encoding:\r\n chunk\r\n ed\r\n",
            b"Content-Length : 10\r\n",
            b"Content-Length: +10\r\n",
            b"Content-Length: -10\r\n",
            b"Content-Length: 0x10\r\n",
            b"Content-Length: 1_0\r\n",
            b"Content-Length: 1e1\r\n",
            b"Content-Length: \xd9\xa1\r\n",
            b"Content-Length:\r\n",
            b"Content-Length: 1\r\n 0\r\n",
            b"X: y\nContent-Length: 10\r\n",
            b"X: y\rContent-Length: 10\r\n",
            b" Content-Length: 10\r\n",
            b"no colon\r\n",
            b": no name\r\n",
            b"Content\x00-Length: 10\r\n",
        ):
            request = b"PUT /info HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + inner
            exchanges += [(ours, request, 400), (stranger, request, 401)]
        for body in (b"-1\r\n", b"0x4\r\n", b"+4\r\n", b"4 \r\n", b"4\nbody", b"4\r\nbodyX\r\n", b"\r\n"):
            exchanges.append((ours, PUT + chunked + b"\r\n" + body + inner, 400))
        async with self.watch():
            await self.assert_refused(*exchanges)
            self.assertEqual(1, len(await self.client.listeners()))

    async def test_C6_traversals(self) -> None:
        """
        No part of any route of either API leads out of the agent's directories, however it is written: nothing there is
        told, changed or made.
        """
        secret = self.directory / "outside" / "secret.pem"
        secret.parent.mkdir()
        secret.write_text("what nobody may read")
        outside = self.outside()
        requests = list(self.traversals())
        self.assertGreater(len(requests), 500)
        async with self.watch():
            answers = await deferToThread(self._ask_all, requests)
        for (method, path), (status, body) in zip(requests, answers, strict=True):
            with self.subTest(method=method, path=path):
                self.assertIn(status, (400, 404, 405))
                self.assertNotIn(b"what nobody", body)
                self.assertNotIn(b"root:", body)
        self.assertEqual(outside, self.outside())

    def outside(self) -> dict[str, bytes]:
        """Each file that is not the agent's own."""
        return {
            str(path): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file() and not path.is_relative_to(self.agent.base_path)
        }

    def traversals(self) -> Iterator[tuple[str, str]]:
        """Each method of each route, with each of its parts replaced by each way out."""
        up = "../" * 12
        odd = [
            "..", ".", "%2e%2e", "%2E%2e", ".%2e", "%2e", "...", "%252e%252e", "..%5c..%5c", "..;", "%c0%ae%c0%ae",
            "%e0%80%ae", "%uff0e", "~", "-", "%20", "%00", "a%00.pem", "a.pem%00", "a%0d%0ax.pem", "a%0a", "*", "C:",
            "%2fetc%2fpasswd", quote(up + "etc/passwd", safe=""), quote(up, safe="") + "etc%2Fshadow.pem",
            quote("../../outside/secret.pem", safe=""), quote("../../../outside/secret.pem", safe=""),
            "..%2f" * 3 + "outside%2fsecret.pem", "%252e%252e%252foutside%252fsecret.pem", "x" * 5000,
        ]  # fmt: skip
        usual = {"amphora": AMPHORA_ID, "amphora_id": AMPHORA_ID, "ip": "192.0.2.1", "vip": "192.0.2.1"}
        for prefix, version in (("/v0.1", V01), ("/1.0", V10)):
            app: Any = version.app
            for rule in app.url_map.iter_rules():
                names = re.findall(r"<(?:[^<>:]+:)?([^<>]+)>", rule.rule)
                for name in names:
                    for way in odd:
                        values = {other: usual.get(other, self.balancer.listener_id) for other in names}
                        values.update(action="start", filename="a.pem")
                        values[name] = way
                        path = prefix + re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule).format(**values)
                        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                            yield method, path

    def _ask_all(self, requests: list[tuple[str, str]]) -> list[tuple[int, bytes]]:
        answers = []
        connection = self.raw_client().connect()
        for method, path in requests:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            answer = b""
            while (end := answer.find(b"\r\n\r\n")) < 0:
                answer += _some(connection)
            length = int(re.findall(rb"Content-Length: (\d+)", answer[:end])[0])
            while len(answer) < end + 4 + length:
                answer += _some(connection)
            answers.append((int(answer[9:12]), answer[end:]))
            if b"Connection: close" in answer[:end]:
                connection.close()
                connection = self.raw_client().connect()
        connection.close()
        return answers


def _some(connection: ssl.SSLSocket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise AssertionError("the agent has hung up")
    return data


def _client_hello(extension: bytes = b"") -> bytes:
    """What OpenSSL begins with, an extension put before its others."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="a" * 60).do_handshake()
    hello = outgoing.read()
    if not extension:
        return hello
    # The record's head, type and length, version, random, session id; ciphers, compression and extensions follow.
    ciphers = 5 + 4 + 2 + 32 + 33
    at = ciphers + 2 + int.from_bytes(hello[ciphers : ciphers + 2]) + 2
    extensions = extension + hello[at + 2 :]
    body = hello[9:at] + len(extensions).to_bytes(2) + extensions
    handshake = b"\x01" + len(body).to_bytes(3) + body
    return hello[:3] + len(handshake).to_bytes(2) + handshake


def _long_hello(size: int) -> bytes:
    """A first message that is announced to be so long, but for its last bytes, in records of 16 KiB."""
    message = b"\x01" + size.to_bytes(3) + b"\x03\x03" + bytes(size - 100)
    records = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
    return b"".join(b"\x16\x03\x01" + len(record).to_bytes(2) + record for record in records)


def _odd_names(connection: socket.socket) -> Held:
    """Ask for a host and for protocols that nobody has."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"\xff" * 255, b"h2", b"\0"] * 20)
    client = SSL.Connection(context, connection)
    client.set_tlsext_host_name(b"\xff../\r\n" * 40)
    client.set_connect_state()
    connection.settimeout(None)
    with contextlib.suppress(SSL.Error):
        client.do_handshake()
    return connection
