"""PROMETHEUS listeners as today's controller configures them, on a real haproxy in a namespace."""

from __future__ import annotations

import signal
import socket
from functools import partial

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from amphora.metrics.exporter import EXPORTER_PORT
from amphora.metrics.source import HAPROXY_PORT, LOOPBACK
from amphora.network.inside import inside
from tests.integration.harness import AgentTestCase, LoadBalancer, new_id, read_all, wait_until
from tests.integration.networks import PATIENCE, new_namespace
from tests.integration.support import requires

METRICS_PORT = 8088


def prometheus_sections(listener_id: str) -> tuple[str, ...]:
    """What the controller adds for a PROMETHEUS listener."""
    return (
        "frontend prometheus-exporter-internal-endpoint",
        f"    bind {LOOPBACK}:{HAPROXY_PORT}",
        "    mode http",
        "    no log",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        "    http-request reject",
        "    timeout http-request 5s",
        "    timeout client 5s",
        "backend prometheus-exporter-internal",
        "    mode http",
        "    no log",
        "    balance first",
        "    timeout connect 5s",
        "    timeout server 5s",
        f"    server prometheus-internal {LOOPBACK}:{EXPORTER_PORT}",
        f"frontend {listener_id}",
        f"    bind {LOOPBACK}:{METRICS_PORT}",
        "    mode http",
        "    timeout client 50000",
        "    default_backend prometheus-exporter-internal",
    )


@requires("root", "haproxy", "ip")
class MetricsTests(AgentTestCase):
    def agent_options(self) -> dict[str, dict[str, object]]:
        self.namespace = new_namespace(self)
        return {"amphora_agent": {"network_namespace": self.namespace}}

    def connect(self, port: int) -> socket.socket:
        return inside(
            self.namespace, lambda: socket.create_connection((LOOPBACK, port), timeout=PATIENCE), patience=None
        )

    def scrape(self, port: int = METRICS_PORT, method: str = "GET") -> Deferred[bytes]:
        def exchange() -> bytes:
            with self.connect(port) as connection:
                request = f"{method} /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                return read_all(connection)

        return deferToThread(exchange)

    async def tells(self, code: bytes, port: int = METRICS_PORT) -> bool:
        return (await self.scrape(port)).split(b" ", 2)[1] == code

    async def served(self) -> LoadBalancer:
        """A load balancer with a PROMETHEUS listener, whose metrics are served."""
        self.listener_id = new_id()
        balancer = LoadBalancer(extra_sections=prometheus_sections(self.listener_id))
        await self.running(balancer)
        await wait_until(partial(self.tells, b"200"), "metrics to be served")
        return balancer

    async def test_scrape(self) -> None:
        """Metrics come through the listener, in Octavia's words, and not those of the proxies that carry them."""
        await self.agent.start()
        balancer = await self.served()
        head, _, body = (await self.scrape()).partition(b"\r\n\r\n")
        self.assertIn(b"content-type: text/plain; version=0.0.4\r\n", head.lower() + b"\r\n")
        text = body.decode()
        for listener_id in (balancer.listener_id, self.listener_id):
            self.assertIn(f'octavia_listener_status{{listener="{listener_id}",state="UP"}} 1\n', text)
        self.assertIn(f'octavia_pool_active_members{{pool="{balancer.pool_id}:{balancer.listener_id}"}} 0\n', text)
        self.assertIn("\noctavia_loadbalancer_cpu ", text)
        self.assertIn("\noctavia_loadbalancer_max_connections 1000\n", text)
        self.assertNotIn("haproxy_", text)
        self.assertNotIn("prometheus", text)
        head, _, body = (await self.scrape(method="HEAD")).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "))
        self.assertEqual(b"", body)

    async def test_agent_comes_and_goes(self) -> None:
        """Without an agent the listener says that nobody tells metrics; with the next one they are back."""
        await self.agent.start()
        await self.served()
        await self.agent.end(signal.SIGKILL)
        self.assertTrue((await self.scrape()).startswith(b"HTTP/1.1 503 "))
        await self.agent.start()
        await wait_until(partial(self.tells, b"200"), "metrics to be served again")

    async def test_D9_hung_haproxy(self) -> None:
        """A hundred scrapes of a haproxy that hangs are all answered, by one question to it."""
        await self.agent.start()
        await self.served()
        processes = self.agent.all_haproxies()
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            await wait_until(partial(self.tells, b"504", EXPORTER_PORT), "what was fresh to be old")
            answers = await gatherResults([self.scrape(EXPORTER_PORT) for _ in range(100)])
            codes = {answer.split(b" ", 2)[1] for answer in answers}
            self.assertLessEqual(codes, {b"503", b"504"})
            await self.client.info()
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
        await wait_until(partial(self.tells, b"200"), "metrics to be served again")

    async def test_only_where_wanted(self) -> None:
        """An amphora without such a listener has no such port."""
        await self.agent.start()
        balancer = await self.served()
        await self.client.delete(balancer.listener_id)

        async def closed() -> bool:
            try:
                await self.scrape(EXPORTER_PORT)
            except ConnectionRefusedError:
                return True
            return False

        await wait_until(closed, "the port to be closed")
