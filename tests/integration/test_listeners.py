"""The listener routes of v0.1 on real haproxy: each code and each body of the specification."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from typing import Any

from attrs import evolve
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part, listener_pem
from tests.integration.harness import AMPHORA_ID, AgentTestCase, LoadBalancer, get, new_id, wait_until
from tests.integration.support import requires


class _Answer:
    """An HTTP answer taken apart."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class CallingTestCase(AgentTestCase):
    """Calls routes as the specification writes them."""

    version = "v0.1"

    async def call(self, method: str, path: str, body: bytes | None = None, version: str = "") -> _Answer:
        """One request as the specification writes it, below the version."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        version = version or self.version
        head = f"{method} /{version}{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n".encode()
        return _Answer(await self.raw_client().exchange(head + length + b"\r\n" + (body or b"")))

    async def assert_answer(self, method: str, path: str, status: int, body: object, send: bytes | None = None) -> None:
        answer = await self.call(method, path, send)
        self.assertEqual((status, body), (answer.status, answer.json))

    def upload_path(self, listener_id: str) -> str:
        return f"/listeners/{AMPHORA_ID}/{listener_id}/haproxy"


class RouteTestCase(CallingTestCase):
    """The same, of an agent that has started."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()


@requires("haproxy")
class ListenerRouteTests(RouteTestCase):
    """A listener's life."""

    async def test_life(self) -> None:
        """A configuration is uploaded, started, served from, told of, reloaded, stopped and deleted."""
        first, second = self.new_member(), self.new_member()
        balancer = LoadBalancer(members=(first, second))
        listener = f"/listeners/{balancer.listener_id}"
        await self.assert_answer(
            "PUT", self.upload_path(balancer.listener_id), 201, {"message": "OK"}, balancer.config()
        )
        summary = {"uuid": balancer.listener_id, "type": "HTTP"}
        await self.assert_answer("GET", "/listeners", 200, [{"status": "STOPPED", **summary}])
        started = await self.call("PUT", f"{listener}/start")
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        self.assertEqual(
            (
                202,
                {
                    "message": "OK",
                    "details": "Configuration file is valid\n"
                    f"haproxy daemon for {balancer.listener_id} started (pid {master.pid})",
                },
            ),
            (started.status, started.json),
        )
        answers = {(await get(balancer.port)).rpartition(b"\r\n\r\n")[2].decode() for _ in range(10)}
        self.assertEqual({first.name, second.name}, answers)
        pool: dict[str, Any] = {
            "uuid": balancer.pool_id,
            "status": "UP",
            "members": [{first.name: "UP"}, {second.name: "UP"}],
        }
        await self.assert_answer("GET", listener, 200, {"status": "ACTIVE", **summary, "pools": [pool]})
        await second.down()
        pool = {**pool, "status": "DEGRADED", "members": [{first.name: "UP"}, {second.name: "DOWN"}]}

        async def told() -> bool:
            return bool((await self.call("GET", listener)).json["pools"] == [pool])

        await wait_until(told, "the member to be told down")
        reloaded = await self.call("PUT", f"{listener}/reload")
        self.assertEqual(202, reloaded.status)
        self.assertIn(f"haproxy daemon for {balancer.listener_id} reloaded", reloaded.json["details"])
        self.assertEqual(master, self.agent.haproxy(balancer.listener_id))
        stopped = await self.call("PUT", f"{listener}/stop")
        self.assertEqual(202, stopped.status)
        self.assertEqual([], self.agent.all_haproxies())
        await self.assert_answer("GET", listener, 200, {"status": "STOPPED", **summary, "pools": []})
        await self.assert_answer("DELETE", listener, 200, {"message": "OK"})
        await self.assert_answer("GET", "/listeners", 200, [])
        # The first is there from time to time, the other until what kept the old worker's session has ended.
        passing = {"stats_counters.json", "sessions.sock"}
        left = {entry.name for entry in self.agent.base_path.iterdir()}
        self.assertEqual({"agent.lock", "certs", "lvs", "notify.sock", "spool", "vrrp"}, left - passing)

    async def test_unknown_listener(self) -> None:
        """Every route of a listener that nobody uploaded answers the specification's 404."""
        unknown = new_id()
        missing = {"message": "Listener Not Found", "details": f"No listener with UUID: {unknown}"}
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/haproxy"),
            ("PUT", "/start"),
            ("PUT", "/stop"),
            ("PUT", "/reload"),
            ("PUT", "/certificates/www.example.com.pem"),
            ("GET", "/certificates/www.example.com.pem"),
            ("DELETE", "/certificates/www.example.com.pem"),
        ):
            await self.assert_answer(method, f"/listeners/{unknown}{path}", 404, missing)

    async def test_unknown_action(self) -> None:
        """The action is looked at before the listener is looked for."""
        refused = {"message": "Invalid Request", "details": "Unknown action: BAD_TEST_DATA"}
        await self.assert_answer("PUT", f"/listeners/{new_id()}/BAD_TEST_DATA", 400, refused)

    async def test_not_a_uuid(self) -> None:
        """An id that is not a UUID is refused by name."""
        refused = {"message": "Invalid request", "details": "The listener's id is not a UUID: 17"}
        await self.assert_answer("GET", "/listeners/17", 400, refused)
        await self.assert_answer("PUT", f"/listeners/{AMPHORA_ID}/17/haproxy", 400, refused, b"x")

    async def test_configuration_path_needs_both_ids(self) -> None:
        """An upload without the amphora's id is a 405 that names what may be done there."""
        answer = await self.call("PUT", f"/listeners/{new_id()}/haproxy", b"x")
        self.assertEqual((405, "GET, HEAD"), (answer.status, answer.headers["allow"]))
        self.assertEqual("Method Not Allowed", answer.json["message"])

    async def test_invalid_configuration(self) -> None:
        """A configuration that haproxy refuses is answered with haproxy's words, and changes nothing."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        before = self.agent.haproxy(balancer.listener_id)
        refused = await self.call("PUT", self.upload_path(balancer.listener_id), balancer.config() + b"BAD_LINE\n")
        self.assertEqual((400, "Invalid request"), (refused.status, refused.json["message"]))
        line = balancer.config().count(b"\n") + 1
        self.assertIn(f"parsing [haproxy.cfg:{line}]", refused.json["details"])
        self.assertIn("unknown keyword 'BAD_LINE'", refused.json["details"])
        self.assertEqual(balancer.config(), (await self.call("GET", f"/listeners/{balancer.listener_id}/haproxy")).body)
        await self.client.reload(balancer.listener_id)
        self.assertIn(b"200 OK", await get(balancer.port))
        self.assertEqual(before, self.agent.haproxy(balancer.listener_id))
        directory = self.agent.base_path / balancer.listener_id
        self.assertEqual([], [path.name for path in directory.iterdir() if path.name.endswith(".new")])

    async def test_first_configuration_refused(self) -> None:
        """
        A listener of which only a refused configuration is known is in ERROR, takes certificates, and can be
        deleted: so can a TLS listener's certificate follow its first upload.
        """
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE, Part.CHAIN)
        balancer = LoadBalancer()
        path = self.agent.cert_dir / balancer.listener_id / "www.example.com.pem"
        balancer = evolve(balancer, bind_options=f"ssl crt {path}")
        listener = f"/listeners/{balancer.listener_id}"
        self.assertEqual(
            400, (await self.call("PUT", self.upload_path(balancer.listener_id), balancer.config())).status
        )
        await self.assert_answer(
            "GET", "/listeners", 200, [{"status": "ERROR", "uuid": balancer.listener_id, "type": "TCP"}]
        )
        self.assertEqual(404, (await self.call("GET", f"{listener}/haproxy")).status)
        self.assertEqual(500, (await self.call("PUT", f"{listener}/start")).status)
        await self.assert_answer("PUT", f"{listener}/certificates/www.example.com.pem", 201, {"message": "OK"}, pem)
        await self.running(balancer)
        await self.assert_answer(
            "GET", "/listeners", 200, [{"status": "ACTIVE", "uuid": balancer.listener_id, "type": "TERMINATED_HTTPS"}]
        )
        other = new_id()
        self.assertEqual(400, (await self.call("PUT", self.upload_path(other), b"BAD_LINE\n")).status)
        await self.assert_answer("DELETE", f"/listeners/{other}", 200, {"message": "OK"})
        self.assertEqual(404, (await self.call("GET", f"/listeners/{other}")).status)

    async def test_nothing_to_listen_with(self) -> None:
        """An upload without any frontend, an empty one first of all, is refused: it would end all service."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        for config in (b"", b"# nothing\n", b"backend b\n    mode http\n"):
            answer = await self.call("PUT", self.upload_path(balancer.listener_id), config)
            self.assertEqual((400, "Invalid request"), (answer.status, answer.json["message"]))
            self.assertIn("no frontend", answer.json["details"])
        self.assertEqual(balancer.config(), await self.client.haproxy(balancer.listener_id))

    async def test_sockets_of_others(self) -> None:
        """A configuration may not make a socket where the agent, or another listener, has one."""
        base = self.agent.base_path
        listener_id, other = new_id(), new_id()
        for path in (
            base / "notify.sock",
            base / f"{other}.sock",
            base / other / "agent.sock",
            base / listener_id / "agent.sock",
            base / listener_id / "master.sock",
            base / listener_id / ".." / "notify.sock",
        ):
            balancer = LoadBalancer(
                listener_id=listener_id, extra_global=(f"stats socket {path} mode 0666 level user",)
            )
            answer = await self.call("PUT", self.upload_path(listener_id), balancer.config())
            self.assertEqual((400, "Invalid request"), (answer.status, answer.json["message"]))
            self.assertIn("is not this listener's to make", answer.json["details"])

    async def test_clients_that_do_not_wait(self) -> None:
        """Whoever asks and leaves before the answer leaves no trace in the log."""
        await self.running(LoadBalancer())
        raw = self.raw_client()

        def ask_and_leave() -> None:
            for _ in range(20):
                with raw.connect() as connection:
                    connection.sendall(b"GET /v0.1/listeners HTTP/1.1\r\nHost: a\r\n\r\n" * 3)

        await deferToThread(ask_and_leave)
        self.assertEqual(1, len(await self.client.listeners()))

    async def test_A21_configuration_comes_back_byte_for_byte(self) -> None:
        """What is answered is what was uploaded: CRLF, characters that are not UTF-8, large, and all (A21, A22)."""
        for config in (
            LoadBalancer().config().replace(b"\n", b"\r\n"),
            LoadBalancer().config() + b"# \xe4\xff \xc3\xa4\n    # user group of things\n",
            LoadBalancer().config() + b"".join(b"# padding %06d\n" % line for line in range(60_000)),
        ):
            listener_id = new_id()
            self.assertEqual(201, (await self.call("PUT", self.upload_path(listener_id), config)).status)
            answer = await self.call("GET", f"/listeners/{listener_id}/haproxy")
            self.assertEqual((200, "text/plain"), (answer.status, answer.headers["content-type"]))
            self.assertEqual(config, answer.body)

    async def test_A22_characters_cut_in_two(self) -> None:
        """Characters of two bytes may lie across any border, of a hundred bytes too, or of what came at once."""
        config = bytearray(LoadBalancer().config().replace(b"# Configuration", b"# " + b"." * 300, 1))
        config[99:101] = config[199:201] = "ü".encode()
        listener_id = new_id()
        head = (
            f"PUT /v0.1{self.upload_path(listener_id)} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n"
            f"Content-Length: {len(config)}\r\n\r\n"
        ).encode()
        segments = (head, bytes(config[:100]), bytes(config[100:200]), bytes(config[200:]))
        self.assertEqual(201, _Answer(await self.raw_client().exchange(*segments)).status)
        self.assertEqual(bytes(config), await self.client.haproxy(listener_id))
        self.assertIn("ü".encode(), config)

    async def test_start_twice(self) -> None:
        """A listener that runs is not started again."""
        balancer = await self.running(LoadBalancer())
        before = self.agent.all_haproxies()
        answer = await self.call("PUT", f"/listeners/{balancer.listener_id}/start")
        self.assertEqual(202, answer.status)
        self.assertEqual(before, self.agent.all_haproxies())

    async def test_reload_of_what_does_not_run(self) -> None:
        """A reload starts what is stopped."""
        balancer = LoadBalancer(members=(self.new_member(),))
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        answer = await self.call("PUT", f"/listeners/{balancer.listener_id}/reload")
        self.assertEqual(202, answer.status)
        self.assertIn(f"haproxy daemon for {balancer.listener_id} started", answer.json["details"])
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_stop_of_what_does_not_run(self) -> None:
        """Stopping what is stopped is an error that tells what was looked for."""
        balancer = LoadBalancer()
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        failed = {
            "message": "Error stopping haproxy",
            "details": f"haproxy process for {balancer.listener_id} not found",
        }
        await self.assert_answer("PUT", f"/listeners/{balancer.listener_id}/stop", 500, failed)

    async def test_start_fails(self) -> None:
        """A start on an address that another listener has names that one; nothing runs then, and it is STOPPED."""
        holder = await self.running(LoadBalancer(members=(self.new_member(),)))
        balancer = LoadBalancer(port=holder.port)
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        answer = await self.call("PUT", f"/listeners/{balancer.listener_id}/start")
        self.assertEqual((500, "Error starting haproxy"), (answer.status, answer.json["message"]))
        self.assertIn(
            f"cannot bind 127.0.0.1:{holder.port} (Address already in use): listener {holder.listener_id} has it",
            answer.json["details"],
        )
        self.assertIsNone(self.agent.haproxy(balancer.listener_id))
        status = await self.client.listener(balancer.listener_id)
        self.assertEqual("STOPPED", status.status)
        self.assertIn(b"200 OK", await get(holder.port))

    async def test_A2_reload_fails(self) -> None:
        """A reload that does not come about is a 500 with haproxy's words, and the old configuration serves on (A2)."""
        holder = await self.running(LoadBalancer(members=(self.new_member(),)))
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        taken = evolve(balancer, extra_binds=(f"127.0.0.1:{holder.port}",))
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        answer = await self.call("PUT", f"/listeners/{balancer.listener_id}/reload")
        self.assertEqual((500, "Error reloading haproxy"), (answer.status, answer.json["message"]))
        self.assertIn(f"127.0.0.1:{holder.port}", answer.json["details"])
        self.assertIn(b"200 OK", await get(balancer.port))
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        self.assertEqual(202, (await self.call("PUT", f"/listeners/{balancer.listener_id}/reload")).status)

    async def test_reload_under_load(self) -> None:
        """No request fails over ten reloads, and they are all counted by somebody."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(), self.new_member())))
        going = True
        answers: list[bytes] = []

        async def load() -> None:
            while going:
                answers.append(await get(balancer.port))

        from twisted.internet.defer import Deferred

        loads = [Deferred.fromCoroutine(load()) for _ in range(4)]
        for _ in range(10):
            await self.client.reload(balancer.listener_id)
        going = False
        await gatherResults(loads)
        self.assertEqual([], [answer for answer in answers if b"200 OK" not in answer])
        self.assertTrue(answers)

    async def test_client_goes_away(self) -> None:
        """A client that leaves in the middle of an upload changes nothing; one that leaves in a start has begun it."""
        balancer = LoadBalancer(members=(self.new_member(),))
        config = balancer.config()
        half = (
            f"PUT /v0.1{self.upload_path(balancer.listener_id)} HTTP/1.1\r\nHost: a\r\n"
            f"Content-Length: {len(config)}\r\n\r\n"
        ).encode() + config[: len(config) // 2]
        raw = self.raw_client()

        def send_and_leave(data: bytes) -> None:
            with raw.connect() as connection:
                connection.sendall(data)

        await deferToThread(send_and_leave, half)
        spool = self.agent.base_path / "spool"
        await wait_until(lambda: not list(spool.iterdir()), "the half upload to be forgotten")
        self.assertEqual([], (await self.call("GET", "/listeners")).json)
        await self.client.upload_haproxy(balancer.listener_id, config)
        await deferToThread(
            send_and_leave, f"PUT /v0.1/listeners/{balancer.listener_id}/start HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )

        async def active() -> bool:
            return (await self.client.listener(balancer.listener_id)).status == "ACTIVE"

        await wait_until(active, "the start to be finished")
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_client_goes_away_in_a_reload(self) -> None:
        """A reload whose client leaves comes about all the same."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        raw = self.raw_client()
        request = f"PUT /v0.1/listeners/{balancer.listener_id}/reload HTTP/1.1\r\nHost: a\r\n\r\n".encode()

        def send_and_leave() -> None:
            with raw.connect() as connection:
                connection.sendall(request)

        await deferToThread(send_and_leave)
        await wait_until(lambda: "haproxy reloaded" in self.agent.log, "the reload to be finished")
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_deleted_sockets(self) -> None:
        """The stats socket that a configuration names goes with its listener; a file that it names does not."""
        listener_id = new_id()
        socket = self.agent.base_path / f"{listener_id}.sock"
        balancer = LoadBalancer(listener_id=listener_id, extra_global=(f"stats socket {socket} mode 0666 level user",))
        await self.running(balancer)
        self.assertTrue(socket.is_socket())
        await self.client.delete(listener_id)
        self.assertFalse(socket.exists())
        self.assertFalse((self.agent.base_path / listener_id).exists())
        self.assertEqual([], self.agent.all_haproxies())

    async def test_error_when_haproxy_is_gone(self) -> None:
        """A haproxy that should run and does not is told as ERROR."""
        balancer = await self.running(LoadBalancer())
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        for process in (master, *master.children()):
            process.send_signal(signal.SIGSTOP)

        async def status() -> str:
            return (await self.client.listener(balancer.listener_id)).status

        self.assertEqual("ERROR", await status())
        for process in (master, *master.children()):
            process.send_signal(signal.SIGCONT)
        self.assertEqual("ACTIVE", await status())

    async def test_info(self) -> None:
        """`/info` tells who the amphora is and which haproxy it has."""
        info = await self.client.info()
        self.assertEqual((AMPHORA_ID, "0.1"), (info.uuid, info.api_version))
        self.assertRegex(info.haproxy_version, r"^\d+\.\d+")


@requires("haproxy")
class CertificateRouteTests(RouteTestCase):
    """The certificates of a listener."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.balancer = LoadBalancer()
        await self.client.upload_haproxy(self.balancer.listener_id, self.balancer.config())
        self.certificate = f"/listeners/{self.balancer.listener_id}/certificates/www.example.com.pem"
        self.directory_of_certificates = self.agent.cert_dir / self.balancer.listener_id

    async def test_A23_life_of_a_certificate(self) -> None:
        """It is stored 0600, summed up as it was sent, replaced, deleted, and its empty directory with it (A23)."""
        name = "WILDCARD.example.com.pem"
        path = f"/listeners/{self.balancer.listener_id}/certificates/{name}"
        for order in ((Part.KEY, Part.CERTIFICATE, Part.CHAIN), (Part.CERTIFICATE, Part.KEY)):
            pem = listener_pem("*.example.com", *order).replace(b"\n", b"\r\n")
            await self.assert_answer("PUT", path, 201, {"message": "OK"}, pem)
            stored = self.directory_of_certificates / name
            self.assertEqual((pem, 0o100600), (stored.read_bytes(), stored.stat().st_mode))
            await self.assert_answer("GET", path, 200, {"md5sum": hashlib.md5(pem).hexdigest()})
        await self.assert_answer("DELETE", path, 200, {"message": "OK"})
        self.assertFalse(self.directory_of_certificates.exists())
        missing = {"message": "Certificate Not Found", "details": f"No certificate with file name: {name}"}
        await self.assert_answer("GET", path, 404, missing)
        await self.assert_answer("DELETE", path, 404, missing)

    async def test_A23_bad_pem(self) -> None:
        """A body that cannot serve is refused with the specification's sentence, and the old one stays (A23)."""
        good = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        other = listener_pem("www.example.com", Part.KEY)
        await self.assert_answer("PUT", self.certificate, 201, {"message": "OK"}, good)
        for pem, message in (
            (b"", "No certificate found"),
            (other, "No certificate found"),
            (listener_pem("www.example.com", Part.CERTIFICATE), "No RSA key found"),
            (other + listener_pem("www.example.com", Part.CERTIFICATE), "Certificate and key do not match"),
            (good[: len(good) // 2], "No certificate found"),
        ):
            answer = await self.call("PUT", self.certificate, pem)
            self.assertEqual((400, message), (answer.status, answer.json["message"]))
        self.assertEqual(good, (self.directory_of_certificates / "www.example.com.pem").read_bytes())

    async def test_too_large(self) -> None:
        """A certificate of more than a mebibyte is none."""
        answer = await self.call("PUT", self.certificate, b"x" * (1024 * 1024 + 1))
        self.assertEqual((413, "Content Too Large"), (answer.status, answer.json["message"]))

    async def test_bad_filename(self) -> None:
        """Only names of letters, digits, dots, underscores and hyphens that end in .pem are taken."""
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        for name in ("www.example.com", "a.pem.txt", ".pem", "a%20b.pem", "%2e%2e.pemx", "a*.pem"):
            for method in ("PUT", "GET", "DELETE"):
                await self.assert_answer(
                    method,
                    f"/listeners/{self.balancer.listener_id}/certificates/{name}",
                    400,
                    {"message": "Filename has wrong format"},
                    pem if method == "PUT" else None,
                )
        self.assertFalse(self.directory_of_certificates.exists())

    async def test_deleted_with_its_listener(self) -> None:
        """A listener that goes takes its certificates with it."""
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        await self.assert_answer("PUT", self.certificate, 201, {"message": "OK"}, pem)
        await self.client.delete(self.balancer.listener_id)
        self.assertFalse(self.directory_of_certificates.exists())

    async def test_no_key_in_the_log(self) -> None:
        """Neither a key nor the heartbeat key is ever logged (C7)."""
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        await self.call("PUT", self.certificate, pem)
        await self.call("PUT", self.certificate, pem[: len(pem) // 2])
        secret = pem.decode().splitlines()[1]
        self.assertNotIn(secret, self.agent.log)
        self.assertNotIn("a key of the tests", self.agent.log)


@requires("root", "haproxy")
class MemoryFileSystemTests(RouteTestCase):
    """`require_memory_fs`: where tenants' keys may be stored (C4)."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.on_disk = self.directory / "disk"
        return {
            "amphora_agent": {"require_memory_fs": True},
            "haproxy_amphora": {"base_cert_dir": self.on_disk},
        }

    async def test_C4_refused_on_a_disk(self) -> None:
        """Without a memory file system a key is not stored, and the start has warned; with one it is."""
        self.assertIn(f"{self.on_disk} is not on a memory file system", self.agent.log)
        balancer = LoadBalancer()
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        path = f"/listeners/{balancer.listener_id}/certificates/www.example.com.pem"
        pem = listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE)
        answer = await self.call("PUT", path, pem)
        self.assertEqual((500, "Error storing certificate"), (answer.status, answer.json["message"]))
        self.assertIn("is not on a memory file system", answer.json["details"])
        self.assertEqual([], list(self.on_disk.iterdir()))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.on_disk)], check=True)
        self.addCleanup(subprocess.run, ["umount", str(self.on_disk)], check=True)
        await self.assert_answer("PUT", path, 201, {"message": "OK"}, pem)
        await self.agent.end()
        await self.agent.start()
        self.assertNotIn("is not on a memory file system", self.agent.log)
