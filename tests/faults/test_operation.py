"""What an operator does, or finds in the morning."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl

from twisted.internet.error import ProcessTerminated
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part, listener_pem
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AgentTestCase, LoadBalancer, get, take_port, wait_until
from tests.integration.support import count, requires

PEM = "www.example.com.pem"


@requires("haproxy")
class LogTests(FaultTestCase):
    """How much the log says."""

    @property
    def lines(self) -> int:
        return self.agent.log.count("\n")

    async def test_E3_lines(self) -> None:
        """
        While nothing changes nothing is said, however many heartbeats leave and questions come.  A haproxy that dies
        and cannot come back is told in so many lines.
        """
        async with self.watch(true=lambda _: True, spares_traffic=False) as watch:
            before, heard = self.lines, len(watch.heartbeats)
            await wait_until(lambda: len(watch.heartbeats) >= heard + count(4, 60), "heartbeats")
            self.assertEqual(before, self.lines, self.agent.log)
            haproxy = self.agent.haproxy(self.balancer.listener_id)
            assert haproxy is not None
            for process in self.agent.all_haproxies():
                process.send_signal(signal.SIGKILL)
            with await take_port(self.balancer.port):
                heard = len(watch.heartbeats)
                await wait_until(lambda: len(watch.heartbeats) >= heard + count(6, 60), "heartbeats")
            self.assertLess(self.lines - before, 20, self.agent.log)


@requires("haproxy")
class RebootTests(FaultTestCase):
    async def test_E6_no_certificates(self) -> None:
        """
        Where certificates were lost in a reboot the API answers, load balancers without TLS serve, and the others are
        told as what they are; a certificate that is brought again brings its load balancer back.
        """
        tls = LoadBalancer(members=self.members)
        directory = self.agent.cert_dir / tls.listener_id
        secure = LoadBalancer(
            listener_id=tls.listener_id, members=self.members, bind_options=f"ssl crt {directory / PEM}"
        )
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        await self.client.upload_haproxy(tls.listener_id, tls.config())
        await self.client.put_certificate(tls.listener_id, PEM, pem)
        await self.running(secure)
        self.assertIn(b"200 OK", await deferToThread(_get_over_tls, secure.port))
        await self.agent.end(signal.SIGKILL)
        for process in (*self.agent.all_haproxies(), *self.agent.keepers()):
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self.agent.all_haproxies(), "all haproxies to end")
        shutil.rmtree(self.agent.cert_dir)
        self.heard.clear()
        await self.agent.start()
        await wait_until(lambda: self.heard and self.is_well(self.heard[-1].message), "the other to be told well")
        async with self.watch():
            listener = await self.client.listener(tls.listener_id)
            self.assertEqual("ERROR", listener.status)
            lines = self.agent.log.count(str(directory))
            await self.next_heartbeat()
            self.assertLess(lines, 10, self.agent.log)
            await self.client.put_certificate(tls.listener_id, PEM, pem)
            await self.client.start(tls.listener_id)
            self.assertIn(b"200 OK", await deferToThread(_get_over_tls, secure.port))


@requires("haproxy")
class StartAndStopTests(AgentTestCase):
    async def test_E9_no_configuration(self) -> None:
        """An agent without a configuration ends with one line that names the file, and makes nothing."""
        self.agent.keeps_config = True
        before = sorted(self.directory.rglob("*"))
        reason = await self.agent.spawn()
        assert isinstance(reason, ProcessTerminated), self.agent.log
        self.assertEqual(1, reason.exitCode, self.agent.log)
        self.assertEqual(1, len(self.agent.log.splitlines()), self.agent.log)
        self.assertIn(str(self.agent.config_file), self.agent.log)
        self.assertEqual(before, sorted(self.directory.rglob("*")))

    async def test_E11_stop(self) -> None:
        """Who is connected to an agent that stops hears of it, a stalled stranger too; who comes is refused."""
        await self.agent.start()

        def open_all() -> list[socket.socket]:
            stalled = socket.create_connection(("127.0.0.1", self.agent.port), timeout=60)
            used = self.raw_client().connect()
            used.sendall(b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n")
            used.recv(65536)
            return [stalled, self.raw_client().connect(), used]

        def all_end(connections: list[socket.socket]) -> list[bytes]:
            heard = []
            for connection in connections:
                with connection:
                    try:
                        heard.append(connection.recv(65536))
                    except ConnectionResetError:
                        heard.append(b"")
            return heard

        connections = await deferToThread(open_all)
        await self.agent.end()
        self.assertEqual([b""] * 3, await deferToThread(all_end, connections))
        with self.assertRaises(ConnectionRefusedError):
            await get(self.agent.port)


def _get_over_tls(port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer
