"""
Configurations as Octavia's own templates render them, through the API 1.0, in a real haproxy.

Only their base path is changed; the addresses are those of a namespace that the test makes.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from twisted.internet.threads import deferToThread

from amphora.listener import Heartbeat, HeartbeatListener
from amphora.network.inside import inside
from amphora.testing.pki import Authority, Part
from tests.integration.harness import PATIENCE, Member, read_all, wait_until
from tests.integration.support import requires
from tests.integration.test_listeners import CallingTestCase
from tests.integration.test_network import fetch
from tests.integration.test_startup import NamespaceTestCase

CONFIGURATIONS = Path(__file__).parent.parent / "configurations"
AMPHORA = "00000000-0000-0000-0000-000000000001"
VIP, VIP6, OWN = "10.0.0.7", "fd00::7", "10.0.0.8"
INSTANCE = "00000000-0000-4000-8000-00000000001b"
KEY = "a key of the tests"


def an_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


HTTP, TLS, TCP, METRICS, DISABLED = (an_id(number) for number in (0xA1, 0xA2, 0xA3, 0xA4, 0xA5))
POOL, PINGED, TCP_POOL = (an_id(number) for number in (0xB1, 0xB2, 0xB3))


def revocations(authority: Authority, *revoked: x509.Certificate) -> bytes:
    """The list of what an authority has revoked."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.identity.certificate.subject,
        last_update=now - timedelta(hours=1),
        next_update=now + timedelta(days=1),
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder(each.serial_number, now - timedelta(hours=1)).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(authority.identity.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


@requires("root", "haproxy", "ip")
class OctaviaTests(NamespaceTestCase, CallingTestCase):
    """Load balancers of today's controller."""

    version = "1.0"

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        from twisted.internet import reactor

        self.heard: list[Heartbeat] = []
        controller = HeartbeatListener(
            reactor=cast(Any, reactor), key=KEY, received=self.heard.append, interface="127.0.0.1", port=0
        )
        controller.startService()
        self.addCleanup(controller.stopService)
        self.agent.options["health_manager"] = {
            "heartbeat_interval": 1,
            "heartbeat_key": KEY,
            "controller_ip_port_list": f"127.0.0.1:{controller.port}",
        }
        await self.agent.start()
        for address in (f"{VIP}/32", f"{OWN}/32", f"{VIP6}/128"):
            await self.in_namespace("ip", "address", "add", address, "dev", "lo")

    def configuration(self, name: str) -> bytes:
        """As it was rendered, for this agent's base path."""
        rendered = (CONFIGURATIONS / f"octavia_19_{name}.cfg").read_bytes()
        return rendered.replace(b"/var/lib/octavia", str(self.agent.base_path).encode())

    async def upload(self, content: bytes) -> None:
        answer = await self.call("PUT", f"/loadbalancer/{AMPHORA}/{INSTANCE}/haproxy", content)
        self.assertEqual(202, answer.status, answer.body)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.assertEqual(f'"{md5}"', answer.headers["etag"])

    async def reload(self) -> str:
        answer = await self.call("PUT", f"/loadbalancer/{INSTANCE}/reload")
        self.assertEqual(202, answer.status, answer.body)
        return str(answer.json["details"])

    async def put_files(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            answer = await self.call("PUT", f"/loadbalancer/{INSTANCE}/certificates/{name}", content)
            self.assertEqual(200, answer.status, answer.body)

    async def told(self) -> dict[str, str]:
        """The types of all listeners, which are active."""
        answer = (await self.call("GET", "/listeners")).json
        self.assertEqual({"ACTIVE"} if answer else set(), {each["status"] for each in answer})
        return {each["uuid"]: each["type"] for each in answer}

    def members(self, ports: Iterable[int]) -> None:
        for port in ports:
            member = Member("served", port=port, namespace=self.namespace)
            member.up()
            self._members.append(member)

    async def heartbeat(self, listeners: set[str]) -> Any:
        """The next one that tells these."""
        already = len(self.heard)

        def found() -> Any:
            return next((each for each in self.heard[already:] if set(each.message["listeners"]) == listeners), None)

        return (await wait_until(found, "a heartbeat of these listeners")).message

    async def test_pair(self) -> None:
        """
        One with all kinds of listeners, VIPs of both families and a peer runs as it was rendered: certificates come
        first, as its crt-list names them, then the configuration, then a reload.
        """
        self.members((8081, 8082, 8083, 8084, 8087))
        authority = Authority.create()
        directory = self.agent.cert_dir / INSTANCE
        one = authority.issue("www.example.com").pem(Part.CERTIFICATE, Part.KEY)
        await self.put_files(
            {
                f"{'c' * 40}.pem": one,
                f"{TLS}.pem": f"{directory}/{'c' * 40}.pem\n".encode(),
                f"{'1' * 40}.pem": authority.certificate_pem,
                f"{'2' * 40}.pem": revocations(authority),
            }
        )
        content = self.configuration("pair")
        await self.upload(content)
        self.assertEqual(f"Configuration file is valid\nhaproxy daemon for {INSTANCE} started", await self.reload())
        self.assertEqual(
            {HTTP: "HTTP", TLS: "TERMINATED_HTTPS", TCP: "TCP", METRICS: "HTTP"},
            await self.told(),
        )
        self.assertEqual([HTTP, TLS, TCP, METRICS], (await self.call("GET", "/details")).json["listeners"])
        for vip in (VIP, VIP6):
            for port in (80, 3306):
                self.assertTrue((await fetch(self.namespace, vip, port)).endswith(b"served"), (vip, port))
            self.assertTrue((await deferToThread(self.fetch_over_tls, vip)).endswith(b"served"), vip)

        async def measured() -> bool:
            return b"octavia_loadbalancer_cpu" in await fetch(self.namespace, VIP, 9090)

        await wait_until(measured, "the metrics to be told")
        master = self.agent.haproxy(INSTANCE)
        assert master is not None
        line = master.command_line()
        self.assertEqual("EMVu-ZDJmPQG1OC5nZxY-ur4lsU", line[line.index("-L") + 1])

        message = await self.heartbeat({HTTP, TLS, TCP, METRICS})
        self.assertEqual(
            {f"{POOL}:{HTTP}", f"{POOL}:{TLS}", f"{PINGED}:{HTTP}", f"{TCP_POOL}:{TCP}"}, set(message["pools"])
        )
        members = message["pools"][f"{POOL}:{TLS}"]["members"]
        # Until the first check, which takes seconds, haproxy says `UP 1/3`.
        words = [members[an_id(number)].partition(" ")[0] for number in range(0xC1, 0xC5)]
        self.assertEqual(["UP", "DRAIN", "UP", "MAINT"], words)
        self.assertTrue(all(each["status"] == "OPEN" for each in message["listeners"].values()))

        # A reload keeps what is known of the members, in the file that the configuration names.
        self.assertEqual(f"Listener {INSTANCE} reloaded", await self.reload())
        self.assertTrue((self.agent.base_path / INSTANCE / "servers-state").read_bytes().endswith(b"\n"))
        self.assertEqual(content, (await self.call("GET", f"/loadbalancer/{INSTANCE}/haproxy")).body)
        own_socket = self.agent.base_path / f"{INSTANCE}.sock"
        self.assertTrue(own_socket.is_socket())
        self.assertEqual(200, (await self.call("DELETE", f"/listeners/{INSTANCE}")).status)
        self.assertEqual([], self.agent.all_haproxies())
        self.assertFalse(own_socket.exists() or directory.exists() or (self.agent.base_path / INSTANCE).exists())

    def fetch_over_tls(self, vip: str) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = inside(self.namespace, lambda: socket.create_connection((vip, 443), timeout=PATIENCE), patience=None)
        with plain, context.wrap_socket(plain) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            return read_all(connection)

    async def test_single(self) -> None:
        """A listener that goes is in no answer and no heartbeat after the reload; the other one stays."""
        self.members((8081, 8082))
        content = self.configuration("single")
        await self.upload(content)
        await self.reload()
        self.assertEqual({HTTP: "HTTP", TLS: "TCP"}, await self.told())
        self.assertTrue((await fetch(self.namespace, VIP, 80)).endswith(b"served"))
        await self.heartbeat({HTTP, TLS})
        await self.upload(content.partition(f"frontend {TLS}".encode())[0])
        await self.reload()
        self.assertEqual({HTTP: "HTTP"}, await self.told())
        await self.heartbeat({HTTP})

    async def test_disabled(self) -> None:
        """A load balancer that is disabled has no listeners: it runs, tells of none, and serves again when enabled."""
        self.members((8081,))
        enabled = self.configuration("single")
        for _ in range(2):
            await self.upload(self.configuration("disabled"))
            await self.reload()
            self.assertEqual({}, await self.told())
            await self.heartbeat(set())
            with self.assertRaises(OSError):
                await fetch(self.namespace, VIP, 80)
            await self.upload(enabled)
            await self.reload()
            self.assertTrue((await fetch(self.namespace, VIP, 80)).endswith(b"served"))

    async def test_A21_legacy_group(self) -> None:
        """
        A group that an older controller names is taken as it is, and so is all else: what is read back is what was
        uploaded, and haproxy hears of one group only.
        """
        content = self.configuration("single").replace(b"    user nobody\n", b"    user nobody\n    group nogroup\n")
        content = content.replace(
            b"    mode http\n", b"    mode http\n    acl things path_beg /my\\ group of\\ things\n", 1
        )
        await self.upload(content)
        await self.reload()
        self.assertEqual(content, (await self.call("GET", f"/loadbalancer/{INSTANCE}/haproxy")).body)
        self.assertNotIn("already specified", (self.agent.base_path / INSTANCE / "haproxy.log").read_text())
