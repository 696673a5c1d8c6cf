"""The agent's own certificate is changed while clients are there."""

from __future__ import annotations

import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

from cryptography import x509
from twisted.internet.threads import deferToThread

from amphora.client import Refused
from amphora.testing.pki import Part
from tests.integration.harness import AMPHORA_ID
from tests.integration.support import requires
from tests.integration.test_listeners import RouteTestCase

GET = b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n"


@requires("haproxy")
class ServerCertificateTests(RouteTestCase):
    def new_certificate(self) -> bytes:
        return self.pki.authority.issue(AMPHORA_ID).pem(Part.KEY, Part.CERTIFICATE)

    async def shown(self) -> int:
        """The serial number of what a new connection is shown."""

        def look() -> int:
            with self.raw_client().connect() as connection:
                certificate = connection.getpeercert(binary_form=True)
                assert certificate is not None
                return x509.load_der_x509_certificate(certificate).serial_number

        return await deferToThread(look)

    async def test_E7_rotation(self) -> None:
        """Under twenty clients that stay connected it is changed, again and again; none of their requests fails."""
        enough = threading.Event()

        def stay() -> int:
            """Ask on one connection until told to stop."""
            with self.raw_client().connect() as connection:
                asked = 0
                while not (asked and enough.is_set()):
                    connection.sendall(GET)
                    answer = b""
                    while b'"api_version"' not in answer or not answer.endswith(b"}\n"):
                        data = connection.recv(65536)
                        if not data:
                            raise ssl.SSLEOFError("the agent has hung up")
                        answer += data
                    self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)
                    asked += 1
                return asked

        # The reactor's own threads are fewer, and the changes below need some.
        threads = ThreadPoolExecutor(20)
        self.addCleanup(threads.shutdown)
        self.addCleanup(enough.set)
        clients = [threads.submit(stay) for _ in range(20)]
        process = self.agent.pid
        serials = {await self.shown()}
        for number in range(1, 6):
            pem = self.new_certificate()
            await self.assert_answer("PUT", "/certificate", 202, {"message": "OK"}, pem)
            serials.add(await self.shown())
            self.assertEqual(number + 1, len(serials))
            self.assertEqual(pem, self.pki.server.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(self.pki.server.stat().st_mode))
        enough.set()
        self.assertGreaterEqual(min(await deferToThread(lambda: [client.result() for client in clients])), 1)
        self.assertEqual(process, self.agent.pid)
        self.assertNotIn("PRIVATE KEY", self.agent.log)
        last = await self.shown()
        await self.agent.end()
        await self.agent.start()
        self.assertEqual(last, await self.shown())

    async def test_A23_refused(self) -> None:
        """What cannot serve is answered in the specification's sentences; that, and half a body, leave the old one."""
        before = await self.shown()
        stored = self.pki.server.read_bytes()
        issued, other = self.pki.authority.issue(AMPHORA_ID), self.pki.authority.issue(AMPHORA_ID)
        for pem, problem in (
            (b"", "No certificate found"),
            (issued.key_pem, "No certificate found"),
            (issued.certificate_pem, "No RSA key found"),
            (other.key_pem + issued.certificate_pem, "Certificate and key do not match"),
        ):
            answer = await self.call("PUT", "/certificate", pem)
            self.assertEqual((400, problem), (answer.status, answer.json["message"]))
            with self.assertRaises(Refused):
                await self.client.replace_server_certificate(pem)
        await deferToThread(self.send_half, self.new_certificate())
        self.assertEqual((before, stored), (await self.shown(), self.pki.server.read_bytes()))

    def send_half(self, pem: bytes) -> None:
        """Hang up in the middle of it.  Blocks."""
        head = f"PUT /v0.1/certificate HTTP/1.1\r\nHost: a\r\nContent-Length: {len(pem)}\r\n\r\n"
        with self.raw_client().connect() as connection:
            connection.sendall(head.encode() + pem[: len(pem) // 2])
