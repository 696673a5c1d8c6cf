"""keepalived as today's controller drives it: by the API 1.0, with the text of its own template."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

from attrs import define
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from amphora.listener import Heartbeat, HeartbeatListener
from tests.integration import api_1_0
from tests.integration.amphora_pair import SUBNET, VIP, Amphora, Pair
from tests.integration.harness import LoadBalancer, wait_until
from tests.integration.pair import EVERYTHING_FOR_PAIRS, PairTestCase, keepalives_of, run
from tests.integration.support import requires, short_directory

TEMPLATE = (Path(__file__).parent.parent / "octavia" / "octavia-keepalived.conf").read_text()
SECOND_VIP, OTHER_FAMILY = "192.0.2.101", "2001:db8::100"
KEY = "a key of the tests"


@requires(*EVERYTHING_FOR_PAIRS)
class OneOfAPairTests(PairTestCase):
    """The configuration says that the amphora is one of a pair, and nobody POSTs a topology."""

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        super().setUp()
        self.heard: list[Heartbeat] = []
        listener = HeartbeatListener(reactor=cast(Any, reactor), key=KEY, received=self.heard.append)
        listener.startService()
        self.addCleanup(listener.stopService)
        self.agent.options["controller_worker"] = {"loadbalancer_topology": "ACTIVE_STANDBY"}
        self.agent.options["health_manager"] = {
            "heartbeat_interval": 1,
            "controller_ip_port_list": f"127.0.0.1:{listener.port}",
        }
        await self.agent.start()

    async def call(self, method: str, path: str, body: bytes | None = None) -> api_1_0.Answer:
        return await api_1_0.call(self.raw_client(), method, path, body)

    def rendered(self) -> bytes:
        text = TEMPLATE.replace("eth1", self.pair.ours.link).replace("/var/lib/octavia", str(self.agent.base_path))
        return text.encode()

    async def hears(self, role: str) -> None:
        """Wait until a heartbeat tells this role."""
        already = len(self.heard)

        def told() -> bool:
            return any(each.message["role"] == role for each in self.heard[already:])

        await wait_until(told, f"a heartbeat of the role {role}")

    async def test_order(self) -> None:
        """
        The controller's own order: interface, upload, start, listeners.

        Heartbeats pause between upload and start.  Until there is a listener the amphora is no use, and leaves the VIPs
        to its peer; then it takes them, those of both families, with their routes and rules.
        """
        link, address = self.pair.ours.link, self.pair.ours.address
        await self.hears("STANDBY")
        answer = await self.call("GET", f"/interface/{address}")
        self.assertEqual((200, {"message": "OK", "interface": link}), (answer.status, answer.json))

        text = self.rendered()
        for _ in range(2):
            answer = await self.call("PUT", "/vrrp/upload", text)
            self.assertEqual((200, {"message": "OK"}), (answer.status, answer.json))
            self.assertEqual(f'"{hashlib.md5(text).hexdigest()}"', answer.headers["etag"])
        self.assertEqual(text, self.uploaded.read_bytes())
        silent = "no heartbeats are sent: keepalived does not run"
        await wait_until(lambda: silent in self.agent.log, "the agent to fall silent")
        self.assertIn("leave out a part of it", self.agent.log)

        answer = await self.call("PUT", "/vrrp/start")
        self.assertEqual((202, {"message": "OK", "details": "keepalived started"}), (answer.status, answer.json))
        await self.hears("STANDBY")
        said = self.vrrp / "keepalived.log"
        await wait_until(lambda: "VRRP_Script(check_script) failed" in said.read_text(), "the check to fail")
        answer = await self.call("GET", "/interface/192.0.2.100")
        missing = {"message": "Error interface not found for IP address"}
        self.assertEqual((404, missing), (answer.status, answer.json))

        await self.running(LoadBalancer(members=(self.new_member(),)))
        await self.until_held()
        await self.hears("ACTIVE")
        for vip in ("192.0.2.100", SECOND_VIP, "2001:DB8:0::100"):
            self.assertEqual(link, (await self.call("GET", f"/interface/{vip}")).json["interface"], vip)
        for family, vip, route in (("-4", "192.0.2.100", "192.0.2.1"), ("-6", OTHER_FAMILY, "2001:db8::1")):
            within = ("ip", "-n", self.pair.ours.namespace, family)
            self.assertIn(f"default via {route} dev {link}", run(*within, "route", "show", "table", "1"))
            self.assertIn(f"from {vip} lookup 1", run(*within, "rule"))

    async def test_actions(self) -> None:
        """
        Actions are taken in any case of letters, and twice: who did not hear an answer repeats the request.

        The start of a keepalived that runs loads what was uploaded since, in the same process.
        """
        await self.call("PUT", "/vrrp/upload", self.rendered())
        for action, details in (("START", "started"), ("start", "started"), ("Reload", "reloaded")):
            answer = await self.call("PUT", f"/vrrp/{action}")
            self.assertEqual((202, f"keepalived {details}"), (answer.status, answer.json["details"]))
        process = self.keepalived()
        assert process is not None
        changed = self.rendered().replace(b"priority 100\n    nopreempt", b"priority 90\n    nopreempt")
        self.assertNotEqual(self.rendered(), changed)
        await self.call("PUT", "/vrrp/upload", changed)
        self.assertEqual(202, (await self.call("PUT", "/vrrp/start")).status)
        self.assertEqual(process, self.keepalived())
        self.assertEqual(changed, (self.vrrp / "running.conf").read_bytes())
        for _ in range(2):
            answer = await self.call("PUT", "/vrrp/stop")
            self.assertEqual((202, "keepalived stoped"), (answer.status, answer.json["details"]))
        self.assertEqual([], keepalives_of(self.directory))

    async def test_other_configuration(self) -> None:
        """
        A controller pushes its configuration, with its own topology, to all amphorae: keepalived goes on as it is, the
        amphora stays one of its pair, and so it does under the next agent.
        """
        await self.running(LoadBalancer(members=(self.new_member(),)))
        await self.call("PUT", "/vrrp/upload", self.rendered().replace(b"interval 5", b"interval 1"))
        await self.call("PUT", "/vrrp/start")
        await self.until_held()
        process = self.keepalived()
        self.agent.options["controller_worker"] = {"loadbalancer_topology": "SINGLE"}
        answer = await self.call("PUT", "/config", self.agent.config().encode())
        remark = "[controller_worker] loadbalancer_topology: The topology stays ACTIVE-STANDBY"
        self.assertEqual((202, remark), (answer.status, answer.json["details"]))
        await self.agent.end()
        await self.agent.start()
        await self.hears("ACTIVE")
        self.assertEqual("ACTIVE-STANDBY", self.heard[-1].message["topology"])
        self.assertTrue(self.pair.ours.holds())
        self.assertEqual(process, self.keepalived())

    async def test_refused(self) -> None:
        """What is refused is told in codes that a controller knows, and changes nothing."""
        for path, status, message in (
            ("/interface/10.6.0.1.1", 400, "Invalid IP address"),
            ("/interface/203.0.113.77", 404, "Error interface not found for IP address"),
        ):
            answer = await self.call("GET", path)
            self.assertEqual((status, {"message": message}), (answer.status, answer.json))
        answer = await self.call("PUT", "/vrrp/start")
        self.assertEqual((500, "Failed to start octavia-keepalived service"), (answer.status, answer.json["message"]))
        answer = await self.call("PUT", "/vrrp/restart")
        self.assertEqual((400, "Unknown action: restart"), (answer.status, answer.json["details"]))
        text = self.rendered()
        await self.call("PUT", "/vrrp/upload", text)
        for bad, words in ((b"", "no vrrp_instance"), (text[:200], "missing '}'"), (text + b"nonsense\n", "nonsense")):
            answer = await self.call("PUT", "/vrrp/upload", bad)
            self.assertEqual((400, "Invalid request"), (answer.status, answer.json["message"]))
            self.assertIn(words, answer.json["details"])
            self.assertEqual(text, self.uploaded.read_bytes())


@define(eq=False)
class OctaviaPair(Pair):
    """A pair that learns from its configuration that it is one, and gets keepalived's from Octavia's template."""

    def _amphora(self, name: str, address: str) -> Amphora:
        amphora = super()._amphora(name, address)
        amphora.agent.options["controller_worker"] = {"loadbalancer_topology": "ACTIVE_STANDBY"}
        return amphora

    async def _join(self, amphora: Amphora, role: str) -> None:
        await amphora.client.plug_vip(VIP, subnet_cidr=SUBNET, gateway="10.99.0.1", mac_address=amphora.port.mac)
        await wait_until(lambda: f" {amphora.address}/24" in amphora.host.addresses(), "the port to have its address")
        interface = (await self.call(amphora, "GET", f"/interface/{amphora.address}")).json["interface"]
        text = self.rendered(amphora, interface)
        assert (await self.call(amphora, "PUT", "/vrrp/upload", text)).status == 200
        assert (await self.call(amphora, "PUT", "/vrrp/start")).status == 202
        await amphora.client.upload_haproxy(self.listener_id, self._haproxy_config())
        await amphora.client.start(self.listener_id)

    async def call(self, amphora: Amphora, method: str, path: str, body: bytes | None = None) -> api_1_0.Answer:
        return await api_1_0.call(amphora.raw_client(), method, path, body)

    def rendered(self, amphora: Amphora, interface: str) -> bytes:
        peer = next(each for each in self.amphorae if each is not amphora)
        text = TEMPLATE.replace("eth1", interface).replace("/var/lib/octavia", str(amphora.agent.base_path))
        for before, after in (
            ("priority 100\n    nopreempt", f"priority {100 if amphora is self.amphorae[0] else 90}\n    nopreempt"),
            ("192.0.2.100", VIP),
            ("192.0.2.101", "10.99.0.101"),
            ("unicast_src_ip 192.0.2.2", f"unicast_src_ip {amphora.address}"),
            ("        192.0.2.3\n", f"        {peer.address}\n"),
            ("192.0.2.", "10.99.0."),
        ):
            text = text.replace(before, after)
        return text.encode()

    async def holder(self) -> set[str]:
        """The names of the amphorae that tell that they have the VIP, as a controller asks before a failover."""
        answers = [(each, await self.call(each, "GET", f"/interface/{VIP}")) for each in self.amphorae]
        assert {answer.status for _, answer in answers} <= {200, 404}
        return {each.name for each, answer in answers if answer.status == 200}


@requires("root", "haproxy", "keepalived", "ip", "dnsmasq")
class FailoverTests(TestCase):
    timeout = 300

    async def test_failover(self) -> None:
        """Two amphorae that nobody told a topology share the VIP: when haproxy hangs on the one, the other serves."""
        pair = OctaviaPair(Path(short_directory(self)))
        self.addCleanup(lambda: Deferred.fromCoroutine(pair.clean_up()))
        await pair.set_up()
        before = await pair.holder()
        fault = await pair.stop_haproxy()
        self.assertLess(fault.failed, fault.requests)
        self.assertEqual({"member-2"}, pair.client.served_by())
        after = await pair.holder()
        self.assertEqual((1, {"left", "right"}), (len(before), before | after))
        for amphora in pair.amphorae:
            self.assertNotIn("Traceback", amphora.agent.log)
