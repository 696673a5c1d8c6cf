"""The edge on real sockets: mutual TLS, strangers, refusals that reach their reader, stalled clients."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from amphora.client import Unauthorized
from amphora.testing.pki import CLIENT, SERVER, Authority, Issued, Part, Validity, listener_pem
from tests.integration.harness import AMPHORA_ID, PATIENCE, AgentTestCase, RawClient, client_context, new_id
from tests.integration.support import count, requires

GET = b"GET /info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}


class EdgeTestCase(AgentTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    def strangers(self) -> dict[str, Issued | None]:
        """Every kind of client that must not get in, with what it shows."""
        ours = self.pki.authority
        return {
            "no certificate": None,
            "foreign CA": Authority.create("some other authority").issue("controller", usages=(CLIENT,)),
            "same CA name, another key": Authority.create(ours.name).issue("controller", usages=(CLIENT,)),
            "same CA name, another key, no key identifiers": Authority.create(ours.name).issue(
                "controller", usages=(CLIENT,), key_identifiers=False
            ),
            "expired": ours.issue("controller", usages=(CLIENT,), validity=Validity.EXPIRED),
            "not yet valid": ours.issue("controller", usages=(CLIENT,), validity=Validity.NOT_YET),
            "a server's": ours.issue("controller", usages=(SERVER,)),
        }

    def client_showing(self, issued: Issued | None, version: ssl.TLSVersion | None = None) -> RawClient:
        """A client that shows this certificate, on one version of TLS or on the best."""
        if issued is None:
            context = client_context(self.pki)
        else:
            path = self.directory / f"{new_id()}.pem"
            path.write_bytes(issued.pem(Part.CERTIFICATE, Part.KEY, Part.CHAIN))
            context = client_context(self.pki, path)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return RawClient(self.agent.port, context)

    def good_client(self, version: ssl.TLSVersion | None = None) -> RawClient:
        return self.client_showing(self.pki.authority.issue("controller", usages=(CLIENT,)), version)

    def assert_answer(self, answer: bytes, status: int, message: str) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 %d " % status), answer)
        self.assertEqual(message, json.loads(body)["message"])


@requires("haproxy")
class AnsweringTests(EdgeTestCase):
    """`client_auth = answer`, the default."""

    async def test_strangers(self) -> None:
        """Every stranger hears 401 on every route, on either version of TLS; nothing of what it sent was done."""
        listener = new_id()
        requests = (
            GET,
            b"GET /v0.1/listeners HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /no/such/route HTTP/1.1\r\nHost: a\r\n\r\n",
            f"PUT /v0.1/listeners/{AMPHORA_ID}/{listener}/haproxy HTTP/1.1\r\nContent-Length: 1\r\n\r\n#".encode(),
        )
        for name, shown in self.strangers().items():
            for version_name, version in VERSIONS.items():
                for request in requests:
                    answer = await self.client_showing(shown, version).ask(request)
                    with self.subTest(name, version=version_name):
                        self.assert_answer(answer, 401, "Unauthorized")
                        self.assertIn(b"Connection: close", answer)
        self.assertEqual((), await self.client.listeners())

    async def test_C3_good_clients(self) -> None:
        """A client with a certificate of the CA's gets in on either version, with and without key identifiers (C3)."""
        for version in VERSIONS.values():
            self.assertIn(b"200 OK", await self.good_client(version).ask(GET))
        for issued in (
            self.pki.authority.issue("controller", usages=(), names=(), key_identifiers=False),
            self.pki.authority.subordinate().issue("controller", usages=(CLIENT,)),
            self.pki.authority.issue("controller", use_rsa=True),
        ):
            self.assertIn(b"200 OK", await self.client_showing(issued).ask(GET))

    async def test_our_client_as_a_stranger(self) -> None:
        """Our own client tells a 401 from a connection that broke."""
        foreign = Authority.create("other").issue("controller", usages=(CLIENT,))
        self.pki.client.write_bytes(foreign.certificate_pem)
        self.pki.client_key.write_bytes(foreign.key_pem)
        stranger = self.new_client()
        with self.assertRaises(Unauthorized):
            await stranger.info()

    async def test_C2_old_versions(self) -> None:
        """TLS 1.1 and older are not spoken (C2)."""
        client = self.good_client()
        client.context.minimum_version = ssl.TLSVersion.TLSv1
        client.context.maximum_version = ssl.TLSVersion.TLSv1_1
        client.context.set_ciphers("ALL:@SECLEVEL=0")
        with self.assertRaises((ssl.SSLError, OSError)):
            await client.ask(GET)

    async def test_no_session_is_resumed(self) -> None:
        """
        A session is never resumed, neither a friend's nor a stranger's: a resumed handshake shows no certificate, and a
        stranger that could resume would come in.
        """

        def resume(client: RawClient) -> list[tuple[bytes, bool | None]]:
            seen = []
            session = None
            for _ in range(3):
                plain = socket.create_connection(("127.0.0.1", self.agent.port), timeout=PATIENCE)
                with client.context.wrap_socket(plain, server_hostname=AMPHORA_ID, session=session) as connection:
                    connection.sendall(GET)
                    answer = b""
                    while data := connection.recv(65536):
                        answer += data
                    seen.append((answer[:12], connection.session_reused))
                    session = connection.session
            return seen

        for version in VERSIONS.values():
            foreign = self.strangers()["foreign CA"]
            stranger = await deferToThread(resume, self.client_showing(foreign, version))
            self.assertEqual([(b"HTTP/1.1 401", False)] * 3, stranger)
            friend = await deferToThread(resume, self.good_client(version))
            self.assertEqual([(b"HTTP/1.1 200", False)] * 3, friend)

    async def test_refusals_reach_their_reader(self) -> None:
        """The answer to a refused request is read whole, whatever of a body follows, and however."""
        half_a_mebibyte = b"x" * 512 * 1024
        head = b"PUT /v0.1/listeners/x/y/haproxy HTTP/1.1\r\nHost: a\r\n"
        length = b"Content-Length: %d\r\n\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        variants: dict[str, tuple[bytes, ...]] = {
            "same segment": (head + length % 4 + b"body",),
            "later": (head + length % len(half_a_mebibyte), half_a_mebibyte),
            "chunked": (head + chunked, b"80000\r\n" + half_a_mebibyte + b"\r\n0\r\n\r\n"),
            "pipelined": (GET.replace(b"Connection: close\r\n", b"") * 5,),
        }
        for name, segments in variants.items():
            for _ in range(count(1, 10)):
                answer = await self.client_showing(None).exchange(*segments)
                with self.subTest(name):
                    self.assertEqual(1, answer.count(b"HTTP/1.1 "))
                    self.assert_answer(answer, 401, "Unauthorized")

    async def test_error_pages(self) -> None:
        """What the specification does not name is JSON too; a 405 says what is allowed."""
        client = self.raw_client()

        async def call(method: str, path: str) -> bytes:
            return await client.ask(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())

        for path in (
            "/nope",
            "/v0.1",
            "/v0.1/nope",
            "/v0.2/listeners",
            "/v0.1//listeners",
            "/info/x",
            "/1.0",
            "/1.0/nope",
        ):
            answer = await call("GET", path)
            self.assert_answer(answer, 404, "Not Found")
            self.assertIn(b"Content-Type: application/json\r\n", answer)
        for method, path, allowed in (
            ("POST", "/info", b"GET, HEAD"),
            ("DELETE", "/v0.1/listeners", b"GET, HEAD"),
            ("OPTIONS", "/info", b"GET, HEAD"),
            ("BREW", "/info", b"GET, HEAD"),
            ("POST", f"/v0.1/listeners/{new_id()}", b"DELETE, GET, HEAD"),
            ("PATCH", f"/v0.1/listeners/{new_id()}/certificates/a.pem", b"DELETE, GET, HEAD, PUT"),
        ):
            answer = await call(method, path)
            self.assert_answer(answer, 405, "Method Not Allowed")
            self.assertIn(b"Allow: " + allowed + b"\r\n", answer)
        for path in ("/%ff", "/v0.1/listeners/%ff", "/v0.1/listeners/..%2f..%2fetc%2fpasswd", "/v0.1/%2e%2e%2finfo"):
            self.assert_answer(await call("GET", path), 400, "Bad Request")
        self.assertIn(b"200 OK", await call("GET", "/v0.1/listeners/"))

    async def test_head(self) -> None:
        """A HEAD is answered like a GET, without a body."""
        answer = await self.raw_client().exchange(GET.replace(b"GET", b"HEAD"))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertTrue(answer.endswith(b"\r\n\r\n"))

    async def test_strange_hosts(self) -> None:
        """Whatever a client calls us, it is answered."""
        for host in (b"\xff\xfe", b"..", b"[", b"a" * 300, b"xn--zzzzzz\xe4", b""):
            answer = await self.raw_client().ask(GET.replace(b"Host: a", b"Host: " + host))
            self.assertIn(b"200 OK", answer)

    async def test_keys_are_not_in_temporary_files(self) -> None:
        """While half of a large PEM body has arrived, the agent has no temporary file open (C4)."""
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE) + b"#" * 300_000
        head = (
            f"PUT /v0.1/listeners/{new_id()}/certificates/a.pem HTTP/1.1\r\nContent-Length: {len(pem)}\r\n\r\n"
        ).encode()

        def look() -> list[str]:
            with self.raw_client().connect() as connection:
                connection.sendall(head + pem[:200_000])
                connection.settimeout(1)
                # Nothing comes before the body is whole; by then the agent has had a second to put it somewhere.
                with contextlib.suppress(TimeoutError):
                    connection.recv(1)
                return self._open_files()

        files = await deferToThread(look)
        self.assertTrue(files)
        self.assertEqual([], [path for path in files if path.startswith(("/tmp", "/var/tmp", str(self.directory)))])

    def _open_files(self) -> list[str]:
        """What the agent has open and is a file, or was one."""
        directory = Path(f"/proc/{self.agent.pid}/fd")
        found = []
        for entry in directory.iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                if target.startswith("/") and not target.endswith((".sock", "agent.lock")):
                    found.append(target)
        return found

    async def test_stalled_strangers(self) -> None:
        """Three hundred connections that say nothing, or half a handshake, keep no good client waiting (E1)."""
        stalled: list[socket.socket] = []
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", self.agent.port), timeout=PATIENCE)
            if number % 2:
                connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            stalled.append(connection)
        try:
            for _ in range(5):
                self.assertEqual(AMPHORA_ID, (await self.client.info()).uuid)
                self.assertIn(b"200 OK", await self.good_client().ask(GET))
        finally:
            for connection in stalled:
                connection.close()


@requires("haproxy")
class SizeTests(EdgeTestCase):
    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"max_body_size": 100_000}}

    async def test_too_large(self) -> None:
        """A body above the limit is a 413 that its sender gets to read, announced or chunked."""
        body = b"x" * 600_000
        head = f"PUT /v0.1/listeners/{AMPHORA_ID}/{new_id()}/haproxy HTTP/1.1\r\nHost: a\r\n".encode()
        for segments in (
            (head + b"Content-Length: 100001\r\n\r\n",),
            (head + b"Content-Length: 600000\r\n\r\n" + body,),
            (head + b"Content-Length: 600000\r\n\r\n", body),
            (head + b"Transfer-Encoding: chunked\r\n\r\n", b"927c0\r\n" + body + b"\r\n0\r\n\r\n"),
            (head + b"Content-Length: 600000\r\n\r\n" + body + GET,),
        ):
            answer = await self.raw_client().exchange(*segments)
            self.assertEqual(1, answer.count(b"HTTP/1.1 "))
            self.assert_answer(answer, 413, "Content Too Large")
            self.assertIn(b"at most 100000 bytes", answer)
        self.assertEqual([], list((self.agent.base_path / "spool").iterdir()))
        self.assertEqual((), await self.client.listeners())


@requires("haproxy")
class DeadlineTests(EdgeTestCase):
    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"agent_request_read_timeout": 3}}

    async def test_deadlines(self) -> None:
        """Whoever stalls, in the handshake, the headers or the body, is cut off, also if it drips a byte at times."""

        def stall_handshake() -> bytes:
            with socket.create_connection(("127.0.0.1", self.agent.port), timeout=PATIENCE) as connection:
                try:
                    return connection.recv(1)
                except ConnectionResetError:
                    return b""

        def drip(client: RawClient, head: bytes, drop: bytes) -> bytes:
            """Send a byte every half second until an answer comes, and answer with that."""
            with client.connect() as connection:
                connection.sendall(head)
                connection.settimeout(0.5)
                for _ in range(int(PATIENCE * 2)):
                    try:
                        return connection.recv(65536)
                    except TimeoutError:
                        connection.sendall(drop)
                raise AssertionError("nothing ended the connection")

        body = b"PUT /v0.1/listeners/x/certificates/a.pem HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
        handshake, headers, late_body, stranger = await gatherResults(
            [
                deferToThread(stall_handshake),
                deferToThread(drip, self.good_client(), b"GET / HTTP/1.1\r\nX: ", b"x"),
                deferToThread(drip, self.good_client(), body, b"x"),
                deferToThread(drip, self.client_showing(None), b"GET / HTTP/1.1\r\nX: ", b"x"),
            ]
        )
        self.assertEqual(b"", handshake)
        self.assert_answer(headers, 408, "Request Timeout")
        self.assert_answer(late_body, 408, "Request Timeout")
        self.assert_answer(stranger, 401, "Unauthorized")


@requires("haproxy")
class HandshakeTests(EdgeTestCase):
    """`client_auth = handshake`."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"client_auth": "handshake"}}

    async def test_strangers_do_not_get_in(self) -> None:
        """TLS itself refuses strangers: not a byte of HTTP is answered."""
        for name, shown in self.strangers().items():
            for version in VERSIONS.values():
                failed = await deferToThread(_refused_by_tls, self.client_showing(shown, version).ask_at_once)
                self.assertTrue(failed, name)

    async def test_good_clients(self) -> None:
        """Who has a certificate of the CA's is served as ever."""
        for version in VERSIONS.values():
            self.assertIn(b"200 OK", await self.good_client(version).ask(GET))


def _refused_by_tls(ask: Callable[[bytes], bytes]) -> bool:
    try:
        ask(GET)
    except (OSError, RemoteDisconnected):
        return True
    return False
