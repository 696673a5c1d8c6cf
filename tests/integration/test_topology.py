"""The topology routes of v0.1: every example of the specification, and the lock while the topology changes."""

from __future__ import annotations

import json
import socket
import stat
from typing import Any, cast

from twisted.internet.defer import Deferred

from amphora.client import InTransition, Refused
from amphora.listener import Heartbeat, HeartbeatListener
from tests.integration.harness import AMPHORA_ID, LoadBalancer, new_id, wait_until
from tests.integration.lab import Host, Lab
from tests.integration.support import requires
from tests.integration.test_listeners import RouteTestCase

SECRET = "b20e06cf1abcf29c708d3b437f4a29892a0921d0"
EXAMPLE = {"topology": "ACTIVE-STANDBY", "role": "ACTIVE", "ha_ip": " 203.0.113.2", "secret": SECRET}
"""The specification's."""
IN_TRANSITION = {"message": "Topology transition in progress"}
KEY = "a key of the tests"


def encode(**changes: object) -> bytes:
    return json.dumps({**EXAMPLE, **changes}).encode()


@requires("haproxy")
class TopologyRouteTests(RouteTestCase):
    """Without a keepalived configuration: what is asked for is what is told."""

    async def test_get(self) -> None:
        """The specification's example of an amphora that is alone."""
        expected = {
            "hostname": socket.gethostname(),
            "uuid": AMPHORA_ID,
            "topology": "SINGLE",
            "role": "ACTIVE",
            "ha_ip": "",
        }
        await self.assert_answer("GET", "/topology", 200, expected)

    async def test_set(self) -> None:
        """The specification's example is taken, told, and remembered by the next agent; its secret is never told."""
        await self.assert_answer("POST", "/topology", 200, {"message": "OK"}, encode())
        await self.assert_answer("POST", "/topology", 200, {"message": "OK"}, encode(role="STANDBY"))
        await self.agent.end()
        self.assertNotIn("b20e06cf", self.agent.log)
        await self.agent.start()
        topology = await self.client.topology()
        self.assertEqual(
            ("ACTIVE-STANDBY", "STANDBY", "203.0.113.2"), (topology.topology, topology.role, topology.ha_ip)
        )
        for path in ("/topology", "/details"):
            self.assertNotIn(b"b20e06cf", (await self.call("GET", path)).body)
        details = (await self.call("GET", "/details")).json
        self.assertEqual(
            ("ACTIVE-STANDBY", "OK", False), tuple(details[name] for name in ("topology", "topology_status", "active"))
        )
        file = self.agent.base_path / "vrrp" / "topology.json"
        self.assertEqual(0o600, stat.S_IMODE(file.stat().st_mode))
        await self.assert_answer("POST", "/topology", 200, {"message": "OK"}, b'{"topology": "SINGLE"}')
        self.assertEqual("SINGLE", (await self.client.topology()).topology)
        self.assertNotIn(b"b20e06cf", file.read_bytes())

    async def test_refused(self) -> None:
        """The specification's example of a bad topology, and all that is wrong told at once; nothing is changed."""
        await self.assert_answer(
            *("POST", "/topology", 400),
            {"message": "Invalid request", "details": "Unknown topology: BAD_TEST_DATA"},
            encode(topology="BAD_TEST_DATA"),
        )
        with self.assertRaises(Refused) as raised:
            await self.client.set_topology("ACTIVE-STANDBY", role="KING", ha_ip="203.0.113.256")
        self.assertEqual(
            ["Invalid ha_ip: 203.0.113.256", "Unknown role: KING", "secret is missing"],
            raised.exception.details.splitlines(),
        )
        for body in (b"", b"[]", b"\xff", b"topology=SINGLE"):
            answer = await self.call("POST", "/topology", body)
            self.assertEqual((400, "Invalid request"), (answer.status, answer.json["message"]))
        self.assertEqual("SINGLE", (await self.client.topology()).topology)


@requires("root", "haproxy", "keepalived", "ip")
class TransitionTests(RouteTestCase):
    """With a real keepalived, which becomes MASTER when the test lets it."""

    lab: Lab
    host: Host

    async def setUp(self) -> None:  # type: ignore[override]
        self.lab = Lab()
        self.addCleanup(self.lab.clean_up)
        self.host = self.lab.host("amphora")
        self.lab.plug(self.host, "203.0.113.11/24")
        self.heard: list[Heartbeat] = []
        await super().setUp()

    def agent_options(self) -> dict[str, dict[str, object]]:
        from twisted.internet import reactor

        controller = HeartbeatListener(reactor=cast(Any, reactor), key=KEY, received=self.heard.append)
        controller.startService()
        self.addCleanup(controller.stopService)
        return {
            "amphora_agent": {
                "network_namespace": self.host.name,
                "agent_server_network_dir": self.directory / "interfaces",
            },
            # Regular heartbeats are ten minutes apart: what is heard was told because something changed.
            "health_manager": {
                "heartbeat_interval": 600,
                "controller_ip_port_list": f"127.0.0.1:{controller.port}",
            },
        }

    async def upload_keepalived(self) -> None:
        """A configuration whose check fails until the test says so."""
        self.permit = self.directory / "permit"
        await self.client.upload_vrrp(
            f"""
vrrp_script check {{
    script "/bin/sh -c '[ -e {self.permit} ]'"
    interval 1
    fall 1
    rise 1
}}
vrrp_instance pair {{
    interface eth0
    virtual_router_id 7
    priority 100
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass {SECRET}
    }}
    virtual_ipaddress {{
        203.0.113.2/24
    }}
    track_script {{
        check
    }}
}}
""".encode()
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self._end_keepalived()))

    async def _end_keepalived(self) -> None:
        self.permit.touch()
        await wait_until(self._at_rest, "the topology to be at rest")
        await self.client.set_topology("SINGLE")
        await wait_until(self._at_rest, "keepalived to have ended")

    async def _status(self) -> str:
        answer = await self.call("GET", "/details")
        return str(answer.json["topology_status"])

    async def _at_rest(self) -> bool:
        return await self._status() == "OK"

    async def test_lock(self) -> None:
        """While keepalived moves, nothing is changed: 503 on all routes that the specification names; reads go on."""
        balancer = LoadBalancer()
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        await self.upload_keepalived()
        await self.assert_answer("POST", "/topology", 202, {"message": "OK"}, encode())
        listener = f"/listeners/{balancer.listener_id}"
        plug = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": "78:31:c1:ce:0b:3c"}
        for method, path, body in (
            ("POST", "/topology", encode(topology="SINGLE")),
            ("PUT", self.upload_path(balancer.listener_id), balancer.config()),
            ("PUT", self.upload_path(new_id()), balancer.config()),
            *(("PUT", f"{listener}/{action}", b"") for action in ("start", "stop", "reload")),
            ("DELETE", listener, b""),
            ("PUT", f"{listener}/certificates/www.example.com.pem", b"x"),
            ("DELETE", f"{listener}/certificates/www.example.com.pem", b""),
            ("POST", "/plug/vip/203.0.113.2", json.dumps(plug).encode()),
            ("POST", "/plug/network/", json.dumps(plug).encode()),
        ):
            await self.assert_answer(method, path, 503, IN_TRANSITION, body)
        balancer_1_0 = f"/loadbalancer/{balancer.listener_id}"
        for method, path, body in (
            ("PUT", f"/loadbalancer/{AMPHORA_ID}/{balancer.listener_id}/haproxy", balancer.config()),
            ("PUT", f"{balancer_1_0}/reload", b""),
            ("DELETE", listener, b""),
            ("PUT", f"{balancer_1_0}/certificates/a.pem", b"x"),
            ("DELETE", f"{balancer_1_0}/certificates/a.pem", b""),
        ):
            answer = await self.call(method, path, body, version="1.0")
            self.assertEqual((503, IN_TRANSITION), (answer.status, answer.json), path)
        with self.assertRaises(InTransition):
            await self.client.delete(balancer.listener_id)
        self.assertEqual("TOPOLOGY-CHANGE", await self._status())
        self.assertEqual("STANDBY", (await self.client.topology()).role)
        await self.assert_answer("GET", f"{listener}/certificates/www.example.com.pem", 404, self.not_there())
        self.assertEqual(balancer.config(), await self.client.haproxy(balancer.listener_id))
        self.permit.touch()
        await wait_until(self._at_rest, "keepalived to be MASTER")
        self.assertEqual("ACTIVE", (await self.client.topology()).role)
        last = ("ACTIVE-STANDBY", "OK", "ACTIVE")
        await wait_until(lambda: self.told() == last, "a heartbeat to tell the end of it")
        self.assertIn("203.0.113.2/24", self.host.addresses())
        await self.client.delete(balancer.listener_id)

    def not_there(self) -> dict[str, str]:
        return {
            "message": "Certificate Not Found",
            "details": "No certificate with file name: www.example.com.pem",
        }

    def told(self) -> tuple[str, ...]:
        """Topology, status and role of the last heartbeat."""
        if not self.heard:
            return ()
        return tuple(str(self.heard[-1].message[name]) for name in ("topology", "topology_status", "role"))

    async def test_logic(self) -> None:
        """What is at odds with the keepalived configuration is refused by name, and nothing is changed."""
        await self.upload_keepalived()
        answer = await self.call("POST", "/topology", encode(ha_ip="203.0.113.3", secret="other"))
        self.assertEqual(400, answer.status)
        address, secret = answer.json["details"].splitlines()
        self.assertIn("203.0.113.3", address)
        self.assertIn("auth_pass", secret)
        self.assertEqual("SINGLE", (await self.client.topology()).topology)

    async def test_there_and_back(self) -> None:
        """A pair's amphora is alone again: keepalived ends, its address goes, and heartbeats tell each step."""
        await self.upload_keepalived()
        self.permit.touch()
        self.assertEqual(202, (await self.client.set_topology(**self.wish())).status)
        await wait_until(self._at_rest, "keepalived to be MASTER")
        self.assertEqual(200, (await self.client.set_topology(**self.wish())).status)
        self.assertEqual(202, (await self.client.set_topology("SINGLE")).status)
        await wait_until(lambda: self.told() == ("SINGLE", "OK", "ACTIVE"), "a heartbeat to tell that it is alone")
        self.assertNotIn("203.0.113.2/", self.host.addresses())
        self.assertNotIn("b20e06cf", self.agent.log)

    def wish(self) -> dict[str, str]:
        return {"topology": "ACTIVE-STANDBY", "role": "ACTIVE", "ha_ip": "203.0.113.2", "secret": SECRET}

    async def test_resumed(self) -> None:
        """An agent that is killed in a transition leaves it to the next one."""
        await self.upload_keepalived()
        self.assertEqual(202, (await self.client.set_topology(**self.wish())).status)
        await self.agent.end()
        await self.agent.start()
        self.assertEqual("TOPOLOGY-CHANGE", await self._status())
        self.permit.touch()
        await wait_until(self._at_rest, "keepalived to be MASTER")
        self.assertEqual("ACTIVE", (await self.client.topology()).role)
