"""The routes of the API 1.0 that today's controller drives load balancers with, on real haproxy."""

from __future__ import annotations

import hashlib
import signal

from attrs import evolve
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part, listener_pem
from tests.integration.harness import AMPHORA_ID, LoadBalancer, Member, get, new_id, wait_until
from tests.integration.support import requires
from tests.integration.test_configurations import get_over_tls
from tests.integration.test_listeners import RouteTestCase

OK = {"message": "OK"}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def not_there(load_balancer: str) -> dict[str, str]:
    return {"message": "Loadbalancer Not Found", "details": f"No loadbalancer with UUID: {load_balancer}"}


def of_one(listener: str, member: Member) -> LoadBalancer:
    return LoadBalancer(listener_id=listener, members=(member,))


class LoadBalancerTestCase(RouteTestCase):
    version = "1.0"

    def upload_path(self, load_balancer: str) -> str:
        return f"/loadbalancer/{AMPHORA_ID}/{load_balancer}/haproxy"

    async def told(self) -> list[tuple[str, str, str]]:
        """All listeners: id, status, type."""
        answer = await self.call("GET", "/listeners")
        self.assertEqual(200, answer.status)
        return [(each["uuid"], each["status"], each["type"]) for each in answer.json]


@requires("haproxy")
class LifeTests(LoadBalancerTestCase):
    """A load balancer's life."""

    async def test_life(self) -> None:
        """It is uploaded, started by a reload, reloaded, stopped twice, started and deleted twice."""
        member = self.new_member()
        load_balancer, (first, second) = new_id(), (of_one(new_id(), member), of_one(new_id(), member))
        path = f"/loadbalancer/{load_balancer}"
        config = first.config()
        uploaded = await self.call("PUT", self.upload_path(load_balancer), config)
        self.assertEqual((202, OK), (uploaded.status, uploaded.json))
        read = await self.call("GET", f"{path}/haproxy")
        self.assertEqual((200, "text/plain", config), (read.status, read.headers["content-type"], read.body))
        self.assertEqual([f'"{md5(config)}"'] * 2, [answer.headers["etag"] for answer in (uploaded, read)])
        self.assertEqual([(first.listener_id, "OFFLINE", "HTTP")], await self.told())

        started = {**OK, "details": f"Configuration file is valid\nhaproxy daemon for {load_balancer} started"}
        reloaded = {**OK, "details": f"Listener {load_balancer} reloaded"}
        stopped = {**OK, "details": f"Listener {load_balancer} stoped"}
        await self.assert_answer("PUT", f"{path}/reload", 202, started)
        self.assertTrue((await get(first.port)).endswith(member.name.encode()))
        self.assertEqual([(first.listener_id, "ACTIVE", "HTTP")], await self.told())
        both = config + second.config().partition(b"frontend ")[2].join((b"frontend ", b""))
        await self.assert_answer("PUT", self.upload_path(load_balancer), 202, OK, both)
        await self.assert_answer("PUT", f"{path}/Reload", 202, reloaded)
        self.assertTrue((await get(second.port)).endswith(member.name.encode()))
        self.assertEqual([(each.listener_id, "ACTIVE", "HTTP") for each in (first, second)], await self.told())
        for _ in range(2):
            await self.assert_answer("PUT", f"{path}/stop", 202, stopped)
            self.assertEqual([], self.agent.all_haproxies())
        await self.assert_answer("PUT", f"{path}/START", 202, started)
        for _ in range(2):
            await self.assert_answer("DELETE", f"/listeners/{load_balancer}", 200, OK)
            self.assertEqual([], self.agent.all_haproxies())
            self.assertEqual([], await self.told())
        self.assertFalse((self.agent.base_path / load_balancer).exists())

    async def test_unknown(self) -> None:
        """What was never uploaded is a 404 in JSON, but may be deleted; the action is looked at first."""
        unknown = new_id()
        path = f"/loadbalancer/{unknown}"
        for action in ("start", "stop", "reload"):
            await self.assert_answer("PUT", f"{path}/{action}", 404, not_there(unknown))
        await self.assert_answer("GET", f"{path}/haproxy", 404, not_there(unknown))
        await self.assert_answer("DELETE", f"/listeners/{unknown}", 200, OK)
        wrong = {"message": "Invalid Request", "details": "Unknown action: restart"}
        await self.assert_answer("PUT", f"{path}/restart", 400, wrong)
        self.assertEqual([], await self.told())

    async def test_ids(self) -> None:
        """An id that is no UUID is a 400 that names it, wherever it stands."""
        good = new_id()
        for method, path in (
            ("PUT", f"/loadbalancer/{AMPHORA_ID}/bad/haproxy"),
            ("PUT", f"/loadbalancer/bad/{good}/haproxy"),
            ("GET", "/loadbalancer/bad/haproxy"),
            ("PUT", "/loadbalancer/bad/start"),
            ("DELETE", "/listeners/bad"),
            *((method, "/loadbalancer/bad/certificates/a.pem") for method in ("PUT", "GET", "DELETE")),
        ):
            answer = await self.call(method, path, b"")
            self.assertEqual(400, answer.status, path)
            self.assertIn("is not a UUID: bad", answer.json["details"])

    async def test_framework(self) -> None:
        """What no route answers is JSON in the words of both agents."""
        for method, path, status in (
            ("GET", f"/listeners/{new_id()}", 405),
            ("GET", "/nowhere", 404),
            ("GET", "", 404),
            ("GET", "/", 404),
            ("POST", "/info", 405),
        ):
            answer = await self.call(method, path)
            self.assertEqual((status, status), (answer.status, answer.json["http_code"]))
            self.assertTrue(answer.json["error"].startswith(f"{status} "), answer.json)
            self.assertIn("message", answer.json)

    async def test_refused(self) -> None:
        """A configuration that haproxy does not take is a 400 in its words; there is no load balancer then."""
        load_balancer = new_id()
        refused = await self.call("PUT", self.upload_path(load_balancer), LoadBalancer().config() + b"BAD_LINE\n")
        self.assertEqual((400, "Invalid request"), (refused.status, refused.json["message"]))
        self.assertIn("unknown keyword 'BAD_LINE'", refused.json["details"])
        self.assertEqual([], await self.told())
        for action in ("start", "reload"):
            await self.assert_answer("PUT", f"/loadbalancer/{load_balancer}/{action}", 404, not_there(load_balancer))
        await self.assert_answer("DELETE", f"/listeners/{load_balancer}", 200, OK)
        self.assertFalse((self.agent.base_path / load_balancer).exists())

    async def test_delete_of_what_cannot_be_read(self) -> None:
        """An instance that the agent could not make out when it started is deleted all the same; its haproxy ends."""
        balancer = await self.running(LoadBalancer())
        files = self.agent.base_path / balancer.listener_id
        await self.agent.end(signal.SIGKILL)
        (files / "haproxy.cfg").unlink()
        (files / "haproxy.cfg").mkdir()
        await self.agent.start()
        self.assertTrue(self.agent.all_haproxies())
        await self.assert_answer("DELETE", f"/listeners/{balancer.listener_id}", 200, OK)
        self.assertEqual([], self.agent.all_haproxies())
        self.assertFalse(files.exists())

    async def test_details(self) -> None:
        """Details name the listeners and tell today's units; info begins as they do."""
        balancer = await self.running(LoadBalancer())
        info, told = (await self.call("GET", "/info")).json, (await self.call("GET", "/details")).json
        self.assertEqual(info, {name: told[name] for name in info})
        self.assertEqual("1.0", told["api_version"])
        self.assertTrue(all(part.isdecimal() for part in told["haproxy_version"].split(".")[:2]), told)
        self.assertEqual(([balancer.listener_id], 1), (told["listeners"], told["haproxy_count"]))
        for name, kind in (("total", int), ("user", str), ("system", str), ("soft_irq", str)):
            self.assertIs(kind, type(told["cpu"][name]), name)
        with open("/proc/stat") as stat:
            now = [int(word) for word in stat.readline().split()[1:]]
        self.assertTrue(0 < int(told["cpu"]["user"]) <= now[0] + now[1])
        self.assertTrue(int(told["cpu"]["system"]) <= now[2])


@requires("haproxy")
class CertificateTests(LoadBalancerTestCase):
    """Files that a configuration names come before it."""

    async def test_before_the_configuration(self) -> None:
        """A certificate and a list of them are kept without a load balancer; the upload that names them is taken."""
        load_balancer, balancer = new_id(), LoadBalancer(members=(self.new_member(),))
        directory = self.agent.cert_dir / load_balancer
        path = f"/loadbalancer/{load_balancer}/certificates"
        own, own_list = f"{new_id()}.pem", f"{balancer.listener_id}.pem"
        pem = listener_pem("www.example.com", Part.CERTIFICATE, Part.KEY, Part.CHAIN).replace(b"\n", b"\r\n")
        for name, content in ((own, pem), (own_list, f"{directory / own}\n".encode()), ("any.pem", b"\xff\0")):
            missing = {"message": "Certificate Not Found", "details": f"No certificate with filename: {name}"}
            await self.assert_answer("GET", f"{path}/{name}", 404, missing)
            for _ in range(2):
                await self.assert_answer("PUT", f"{path}/{name}", 200, OK, content)
            await self.assert_answer("GET", f"{path}/{name}", 200, {"md5sum": md5(content)})
            self.assertEqual(0o600, (directory / name).stat().st_mode & 0o777)
        self.assertEqual([], await self.told())
        config = evolve(balancer, bind_options=f"ssl crt-list {directory / own_list}").config()
        await self.assert_answer("PUT", self.upload_path(load_balancer), 202, OK, config)
        self.assertEqual(202, (await self.call("PUT", f"/loadbalancer/{load_balancer}/reload")).status)
        self.assertIn(b"200 OK", await deferToThread(get_over_tls, balancer.port))
        self.assertEqual([(balancer.listener_id, "ACTIVE", "TERMINATED_HTTPS")], await self.told())
        for _ in range(2):
            await self.assert_answer("DELETE", f"{path}/any.pem", 200, OK)
        await self.assert_answer("DELETE", f"/listeners/{load_balancer}", 200, OK)
        self.assertFalse(directory.exists())

    async def test_alone(self) -> None:
        """Certificates alone survive the agent, and go when their load balancer, which never came, is deleted."""
        load_balancer = new_id()
        path = f"/loadbalancer/{load_balancer}/certificates/a.pem"
        await self.assert_answer("PUT", path, 200, OK, b"x")
        await self.agent.end()
        await self.agent.start()
        await self.assert_answer("GET", path, 200, {"md5sum": md5(b"x")})
        await self.assert_answer("DELETE", f"/listeners/{load_balancer}", 200, OK)
        self.assertEqual([], list(self.agent.cert_dir.iterdir()))

    async def test_names(self) -> None:
        """A name of another kind is refused, also where it would do for today's agent."""
        for name in ("a.pem.txt", "a", "a%20b.pem", "%c3%a4.pem"):
            for method in ("PUT", "GET", "DELETE"):
                path = f"/loadbalancer/{new_id()}/certificates/{name}"
                await self.assert_answer(method, path, 400, {"message": "Filename has wrong format"}, b"")
        self.assertEqual([], list(self.agent.cert_dir.iterdir()))


@requires("haproxy")
class BothVersionsTests(LoadBalancerTestCase):
    """v0.1 and 1.0 speak of the same things."""

    async def test_uploaded_by_today(self) -> None:
        """What today's controller uploads, v0.1 lists, reads, stops, starts and deletes."""
        load_balancer, balancer = new_id(), LoadBalancer(members=(self.new_member(),))
        await self.assert_answer("PUT", self.upload_path(load_balancer), 202, OK, balancer.config())
        self.assertEqual(202, (await self.call("PUT", f"/loadbalancer/{load_balancer}/reload")).status)
        self.assertEqual("ACTIVE", (await self.client.listener(load_balancer)).status)
        self.assertEqual(balancer.config(), await self.client.haproxy(load_balancer))
        await self.client.stop(load_balancer)
        self.assertEqual([(balancer.listener_id, "OFFLINE", "HTTP")], await self.told())
        again = await self.call("PUT", f"/listeners/{load_balancer}/stop", version="v0.1")
        self.assertEqual((500, "Error stopping haproxy"), (again.status, again.json["message"]))
        await self.client.start(load_balancer)
        self.assertEqual([(balancer.listener_id, "ACTIVE", "HTTP")], await self.told())
        await self.client.delete(load_balancer)
        self.assertEqual([], await self.told())

    async def test_uploaded_by_the_specification(self) -> None:
        """What v0.1 uploads, with its certificate, today's controller lists, reads, reloads, stops and deletes."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        path = f"/loadbalancer/{balancer.listener_id}"
        pem = listener_pem("www.example.com")
        await self.client.put_certificate(balancer.listener_id, "a.pem", pem)
        await self.assert_answer("GET", f"{path}/certificates/a.pem", 200, {"md5sum": md5(pem)})
        self.assertEqual([(balancer.listener_id, "ACTIVE", "HTTP")], await self.told())
        self.assertEqual(balancer.config(), (await self.call("GET", f"{path}/haproxy")).body)
        for action in ("reload", "stop"):
            self.assertEqual(202, (await self.call("PUT", f"{path}/{action}")).status)
        self.assertEqual("STOPPED", (await self.client.listener(balancer.listener_id)).status)
        await self.assert_answer("DELETE", f"/listeners/{balancer.listener_id}", 200, OK)
        self.assertEqual(0, len(await self.client.listeners()))
        self.assertEqual([], list(self.agent.cert_dir.iterdir()))


@requires("haproxy")
class ImpatienceTests(LoadBalancerTestCase):
    """A controller repeats what it got no answer to."""

    async def test_asked_again_while_it_works(self) -> None:
        """Whoever leaves before the answer and asks again has what he wants, once."""
        load_balancer, balancer = new_id(), LoadBalancer(members=(self.new_member(),))
        config = balancer.config()
        raw = self.raw_client()

        def ask_and_leave(path: str, body: bytes) -> None:
            head = f"PUT /1.0{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            with raw.connect() as connection:
                connection.sendall(head.encode() + body)

        await deferToThread(ask_and_leave, self.upload_path(load_balancer), config)
        await self.assert_answer("PUT", self.upload_path(load_balancer), 202, OK, config)
        path = f"/loadbalancer/{load_balancer}"
        await deferToThread(ask_and_leave, f"{path}/reload", b"")
        self.assertEqual(202, (await self.call("PUT", f"{path}/reload")).status)
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "one master with one worker")
        self.assertIn(b"200 OK", await get(balancer.port))
