"""Kinds of configurations, and what has to hold for each: peers' tables, crashes, certificates on a full disk."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from itertools import count as all_numbers
from typing import Any, cast
from uuid import NAMESPACE_OID, uuid5

from attrs import evolve
from twisted.internet.threads import deferToThread

from amphora.client import AmphoraFailed
from amphora.loadbalancer.instance import peer_name
from amphora.loadbalancer.sockets import ask
from amphora.testing.pki import Part, listener_pem
from tests.integration.harness import AMPHORA_ID, PATIENCE, LoadBalancer, free_port, get, new_id, read_all, wait_until
from tests.integration.support import count, requires, short_directory
from tests.integration.test_listeners import RouteTestCase
from tests.integration.test_startup import NamespaceTestCase

ANSWERS = "http-request return status 200 content-type text/plain string hello"
PEM = "www.example.com.pem"


def with_table(balancer: LoadBalancer, peer: str) -> LoadBalancer:
    """One that counts its clients in a table, which a reload hands over to the next worker by way of the peers."""
    return evolve(
        balancer,
        extra_frontend=("http-request track-sc0 src table clients", ANSWERS),
        extra_sections=(
            "peers all",
            f"    peer {peer} 127.0.0.1:{free_port()}",
            "backend clients",
            "    stick-table type ip size 10k expire 1h store http_req_cnt peers all",
        ),
    )


def amphorae_with_a_hyphen() -> Iterator[str]:
    """Ids of amphorae whose peer name would begin with a hyphen, which haproxy takes for an option."""
    for number in all_numbers():
        amphora_id = str(uuid5(NAMESPACE_OID, str(number)))
        if peer_name(amphora_id).startswith("x"):
            yield amphora_id


@requires("root", "haproxy", "ip")
class TableTests(NamespaceTestCase):
    async def test_A5_table(self) -> None:
        """
        In a namespace that the agent made tables survive reloads by way of the loopback, and old workers end.

        haproxy hands over what it learnt itself only when it has ceased to wait for what others might know: 2.6 does
        so for five seconds after its start, and as long again for peers on other machines.
        """
        await self.agent.start()
        balancer = await self.running(with_table(LoadBalancer(), peer_name(AMPHORA_ID)))

        async def says(question: str, answer: str) -> bool:
            return answer in await self.asked(balancer, question)

        await wait_until(lambda: says("show peers", "resync_timeout=<PAST>"), "haproxy to cease to wait for others")
        for number in range(1, count(3, 20)):
            self.assertIn("hello", await self.ask_inside(balancer.port))
            counted = f"http_req_cnt={number}\n"
            self.assertIn(counted, await self.asked(balancer, "show table clients"))
            await self.client.reload(balancer.listener_id)
            await wait_until(
                lambda counted=counted: says("show table clients", counted),  # type: ignore[misc]
                "the new worker to have the table",
            )
            await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "the old worker to end")

    async def asked(self, balancer: LoadBalancer, question: str) -> str:
        from twisted.internet import reactor

        socket = self.agent.base_path / balancer.listener_id / "agent.sock"
        answer = await ask(cast(Any, reactor), socket, f"{question}\n".encode(), timeout=PATIENCE)
        return answer.decode()


@requires("haproxy")
class CrashTests(RouteTestCase):
    async def test_A20_crash(self) -> None:
        """Whatever its configuration, and if its peer name began with a hyphen, a haproxy that crashes comes back."""
        amphora_id = next(amphorae_with_a_hyphen())
        plain = LoadBalancer(extra_frontend=(ANSWERS,))
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        path = self.agent.cert_dir / (tls_id := new_id()) / PEM
        state_id = new_id()
        for balancer in (
            plain,
            evolve(plain, listener_id=new_id(), mode="tcp", extra_frontend=(), members=(self.new_member(),)),
            evolve(plain, listener_id=tls_id, bind_options=f"ssl crt {path}"),
            evolve(with_table(plain, peer_name(amphora_id)), listener_id=new_id()),
            evolve(
                plain,
                listener_id=state_id,
                extra_global=(
                    f"stats socket {self.agent.base_path}/{state_id}.sock mode 0666 level user",
                    f"server-state-file {self.agent.base_path}/{state_id}/servers-state",
                ),
                extra_defaults=("load-server-state-from-file global",),
            ),
        ):
            upload = f"/listeners/{amphora_id}/{balancer.listener_id}/haproxy"
            if balancer.listener_id == tls_id:
                self.assertEqual(400, (await self.call("PUT", upload, balancer.config())).status)
                await self.client.put_certificate(tls_id, PEM, pem)
            self.assertEqual(201, (await self.call("PUT", upload, balancer.config())).status)
            await self.client.start(balancer.listener_id)
            master = self.agent.haproxy(balancer.listener_id)
            assert master is not None
            line = master.command_line()
            self.assertEqual(peer_name(amphora_id), line[line.index("-L") + 1])
            master.send_signal(signal.SIGKILL)
            await wait_until(lambda master=master: not master.alive, "haproxy to end")  # type: ignore[misc]

            async def active(balancer: LoadBalancer = balancer) -> bool:
                return (await self.client.listener(balancer.listener_id)).status == "ACTIVE"

            await wait_until(active, "haproxy to be started again")
            answer = await (deferToThread(get_over_tls, balancer.port) if balancer.bind_options else get(balancer.port))
            self.assertIn(b"200 OK", answer)
            await self.client.delete(balancer.listener_id)


def get_over_tls(port: int) -> bytes:
    """One request to loopback, whoever answers.  Blocks."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        return read_all(connection)


@requires("root", "haproxy", "mount")
class CertificateDiskTests(RouteTestCase):
    """The certificates are on a small file system of their own."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.disk = short_directory(self)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.disk)], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(self.disk)], check=True)
        return {"haproxy_amphora": {"base_cert_dir": self.disk}}

    async def test_A23_full_disk_and_half_bodies(self) -> None:
        """
        A certificate that finds no room, and one whose client leaves half-way, change nothing: the old one is served,
        over a reload too.
        """
        listener_id = new_id()
        balancer = LoadBalancer(
            listener_id=listener_id, bind_options=f"ssl crt {self.disk}/{listener_id}/{PEM}", extra_frontend=(ANSWERS,)
        )
        self.assertEqual(400, (await self.call("PUT", self.upload_path(listener_id), balancer.config())).status)
        old, new = (listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE, *more) for more in ((), (Part.CHAIN,)))
        await self.client.put_certificate(listener_id, PEM, old)
        await self.running(balancer)
        filling = self.disk / "filling"
        with self.assertRaises(OSError):
            filling.write_bytes(b"x" * 2**21)
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.put_certificate(listener_id, PEM, new)
        self.assertEqual(
            ("Error storing certificate", "No space left on device"),
            (raised.exception.message, raised.exception.details),
        )
        filling.unlink()
        path = f"/v0.1/listeners/{listener_id}/certificates/{PEM}"
        head = f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(new)}\r\n\r\n".encode()
        raw = self.raw_client()

        def send_half() -> None:
            with raw.connect() as connection:
                connection.sendall(head + new[: len(new) // 2])

        await deferToThread(send_half)
        self.assertEqual([PEM], [entry.name for entry in (self.disk / listener_id).iterdir()])
        self.assertEqual(old, (self.disk / listener_id / PEM).read_bytes())
        await self.client.reload(listener_id)
        self.assertIn(b"200 OK", await deferToThread(get_over_tls, balancer.port))
        await self.client.put_certificate(listener_id, PEM, new)
        self.assertEqual(new, (self.disk / listener_id / PEM).read_bytes())
