"""What an unmodified Octavia does with amphorae: every method of its client, new configurations, rotation, failover."""

from __future__ import annotations

import copy
from typing import Any, Final

from twisted.internet.defer import Deferred

from tests.integration.harness import free_port, new_id, wait_until
from tests.integration.lvs import LvsText
from tests.integration.octavia_cloud import (
    MEMBER_SUBNET,
    VIP,
    VIP_SUBNET,
    Amphora,
    Controller,
    OctaviaError,
    OctaviaTestCase,
    for_this_machine,
)
from tests.integration.pair import run
from tests.integration.support import requires

OWN = "10.99.0.11"
_MASTER: Final[dict[str, Any]] = {"role": "MASTER", "vrrp_priority": 100, "vrrp_id": 1, "vrrp_interface": "eth1"}
_HAPROXY = """
global
    daemon
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend {listener}
    bind {vip}:80
    http-request return status 200
"""


def _without_pool(protocol: str, port: int) -> dict[str, Any]:
    return {"id": new_id(), "protocol": protocol, "protocol_port": port, "default_pool_id": None}


def _rules(amphora: Amphora) -> str:
    """What the packet filter of an amphora says."""
    return run("ip", "netns", "exec", amphora.host.name, "nft", "list", "ruleset")


@requires("root", "haproxy", "keepalived", "ip", "nft", "octavia")
class AmphoraTests(OctaviaTestCase):
    """One amphora."""

    async def test_every_method(self) -> None:
        """Every method of Octavia's client and driver finds its route, and takes the answer."""
        plan = self.cloud.plan
        plan.update(topology="ACTIVE_STANDBY", vrrp_auth_pass="b20e06c", vnic_type="direct")
        amphora = await self.cloud.boot(**_MASTER)
        await self._client_alone(amphora)
        await self._vrrp(amphora)
        await self._lvs(amphora)
        await self._driver(amphora)
        self.assertEqual(await amphora.call("uncalled"), [])

    async def _client_alone(self, amphora: Amphora) -> None:
        balancer_id, listener_id, filename = new_id(), new_id(), f"{new_id()}.pem"

        async def client(method: str, *arguments: object) -> Any:
            return await amphora.call("client", method, *arguments)

        self.assertEqual(await client("get_api_version"), {"api_version": "1.0"})
        self.assertEqual((await client("get_info"))["api_version"], "1.0")
        self.assertIn("free", (await client("get_details"))["memory"])
        plugged = {
            "subnet_cidr": VIP_SUBNET["cidr"],
            "gateway": VIP_SUBNET["gateway_ip"],
            "mac_address": amphora.port.mac,
            "vrrp_ip": OWN,
            "mtu": 1400,
            "host_routes": [{"destination": "10.96.0.0/24", "nexthop": "10.99.0.2"}],
            "additional_vips": [],
            "is_sriov": True,
        }
        await client("plug_vip", VIP, plugged)
        self.assertIn(" mtu 1400 ", amphora.host.ip("link", "show", "eth1"))
        self.assertIn("10.96.0.0/24 via 10.99.0.2 ", amphora.host.ip("route", "show"))
        port = self.cloud.lab.port()
        fixed = {
            "ip_address": "10.98.0.11",
            "subnet_cidr": MEMBER_SUBNET["cidr"],
            "host_routes": [{"destination": "10.95.0.0/24", "nexthop": "10.98.0.2"}],
            "gateway": None,
        }
        await client("plug_network", {"mac_address": port.mac, "fixed_ips": [fixed], "mtu": 1300, "is_sriov": False})
        self.assertIn(" mtu 1300 ", amphora.host.ip("link", "show", "eth2"))
        self.assertIn("10.95.0.0/24 via 10.98.0.2 ", amphora.host.ip("route", "show"))
        self.assertEqual(await client("get_interface", OWN), {"message": "OK", "interface": "eth1"})
        await client("set_interface_rules", OWN, [{"protocol": "TCP", "cidr": "10.99.0.0/24", "port": 8080}])
        self.assertIn("tcp dport 8080 accept", _rules(amphora))
        self.assertEqual(await client("get_cert_md5sum", balancer_id, filename, [404]), None)
        await client("upload_cert_pem", balancer_id, filename, "any bytes\n")
        self.assertEqual(await client("get_cert_md5sum", balancer_id, filename), "8974ff5bedd7cfb5cca3c259306b9ba0")
        await client("upload_config", balancer_id, _HAPROXY.format(listener=listener_id, vip=VIP))
        await client("start_listener", balancer_id)
        await client("reload_listener", balancer_id)
        [told] = await client("get_all_listeners")
        self.assertEqual(told, {"status": "ACTIVE", "uuid": listener_id, "type": "HTTP"})
        for _ in range(2):
            await client("delete_cert_pem", balancer_id, filename)
            await client("delete_listener", balancer_id)
        self.assertEqual(await client("get_all_listeners"), [])
        # The client has a method for it, but Octavia's own agent has no such route either, and no flow calls it.
        status = amphora.call("client", "get_listener_status", listener_id)
        error = await self.assertFailure(status, OctaviaError)
        self.assertEqual(error.name, "InvalidRequest")
        text = for_this_machine(await amphora.call("agent_config"), amphora.host.name)
        await client("update_agent_config", text)
        await client("update_cert_for_rotation", await amphora.call("generate_server_pem"))

    async def _vrrp(self, amphora: Amphora) -> None:
        """Upload, start, reload and stop keepalived, by the driver, as Octavia's template has it."""
        plan = self.cloud.plan
        plan["listeners"] = [_without_pool("HTTP", 80)]
        self.assertEqual(await amphora.call("update_vrrp"), "eth1")
        await amphora.call("update")
        await wait_until(lambda: amphora.has(VIP), "keepalived to bring the VIP")
        await amphora.call("of_balancer", "reload_vrrp_service")
        await amphora.call("of_balancer", "stop_vrrp_service")
        await wait_until(lambda: not amphora.has(VIP), "keepalived to take the VIP away")
        await amphora.call("client", "start_vrrp")
        await wait_until(lambda: amphora.has(VIP), "keepalived to bring it again")
        await amphora.call("client", "reload_vrrp")
        await amphora.call("client", "stop_vrrp")
        await amphora.call("of_amphora", "stop_vrrp_service_on_amphora")

    async def _lvs(self, amphora: Amphora) -> None:
        """Keepalived for a UDP listener which, having no pool, asks nothing of the kernel."""
        listener_id = new_id()
        text = LvsText(listener_id, disabled=True).text().decode()
        for _ in range(2):
            await amphora.call("client", "upload_udp_config", listener_id, text)
            await amphora.call("client", "reload_listener", listener_id)
        # The client has no method for this one.
        self.assertEqual(await amphora.call("client", "get", f"listeners/{listener_id}/udp_listener"), [200, text])
        told = [each for each in await amphora.call("client", "get_all_listeners") if each["uuid"] == listener_id]
        self.assertEqual(told, [{"status": "OFFLINE", "uuid": listener_id, "type": "UDP"}])
        for _ in range(2):
            await amphora.call("client", "delete_listener", listener_id)

    async def _driver(self, amphora: Amphora) -> None:
        plan = self.cloud.plan
        await amphora.call("get_info")
        await amphora.call("check")
        await amphora.call("plug_vip")
        port = self.cloud.lab.port()
        fixed = {"ip_address": "10.98.0.12", "subnet": MEMBER_SUBNET}
        await amphora.call("plug_network", {"id": new_id(), "mac_address": port.mac, "fixed_ips": [fixed]})
        self.assertEqual(await amphora.call("interface", "10.98.0.12"), "eth3")
        await amphora.call("set_rules", [{"protocol": "vrrp", "cidr": "10.99.0.12/32", "port": 112}])
        self.assertIn("10.99.0.12", _rules(amphora))
        await amphora.call("of_balancer", "update")
        await amphora.call("start")
        await amphora.call("reload")
        await amphora.call("delete_listener", plan["listeners"][0]["id"])
        await amphora.call("rotate")
        text = for_this_machine(await amphora.call("agent_config"), amphora.host.name)
        await amphora.call("update_agent_config", text)
        # These two ask nothing of an agent.
        await amphora.call("of_amphora", "get_diagnostics")
        await amphora.call("of_amphora", "finalize_amphora")

    async def test_configuration_update(self) -> None:
        """A new configuration holds while the agent runs: another controller hears it, by its own key and interval."""
        amphora = await self.cloud.boot(heartbeat_interval=3600)
        await amphora.call("get_info")
        options = copy.deepcopy(amphora.controller.options)
        port = free_port()
        options["health_manager"].update(
            bind_port=port,
            controller_ip_port_list=[f"127.0.0.1:{port}"],
            heartbeat_key="another key",
            heartbeat_interval=1,
        )
        another = Controller(options)
        self.addCleanup(lambda: Deferred.fromCoroutine(another.end()))
        await another.start()

        async def call(name: str, *arguments: object) -> Any:
            return await another.call(name, self.cloud.plan, *arguments, amphora=amphora.index)

        text = for_this_machine(await call("agent_config"), amphora.host.name)
        await call("update_agent_config", text)
        heard = [await another.call("heartbeat", self.cloud.plan) for _ in range(3)]
        self.assertEqual([each["refreshed"] for each in heard], [True] * 3)
        first = heard[0]["message"]["seq"]
        self.assertEqual([each["message"]["seq"] for each in heard], [first, first + 1, first + 2])

        error = await self.assertFailure(amphora.call("client", "update_agent_config", "no INI at all"), OctaviaError)
        self.assertEqual(error.name, "InvalidRequest")
        await another.call("heartbeat", self.cloud.plan)

    async def test_certificate_rotation(self) -> None:
        """The certificate is replaced while the agent serves: the old connection ends well, a new one sees the new."""
        amphora = await self.cloud.boot()
        await amphora.call("get_info")
        pem = await amphora.call("rotate")
        self.assertEqual(amphora.agent.pki.server.read_text(), pem)
        await amphora.call("get_info")
        error = await self.assertFailure(amphora.call("client", "update_cert_for_rotation", "half a PEM"), OctaviaError)
        self.assertEqual(error.name, "InvalidRequest")
        await amphora.call("get_info")

    async def test_both_versions(self) -> None:
        """What one version of the API has made the other sees, on one amphora at the same time."""
        amphora = await self.cloud.boot()
        await amphora.call("plug_vip")
        balancer_id, listener_id = new_id(), new_id()
        configuration = _HAPROXY.format(listener=listener_id, vip=VIP)
        await amphora.call("client", "upload_config", balancer_id, configuration)
        self.assertEqual(await amphora.client.haproxy(balancer_id), configuration.encode())
        await amphora.client.start(balancer_id)
        [told] = await amphora.call("client", "get_all_listeners")
        self.assertEqual(told["uuid"], listener_id)
        await amphora.client.delete(balancer_id)
        self.assertEqual(await amphora.call("client", "get_all_listeners"), [])


@requires("root", "haproxy", "keepalived", "ip", "octavia")
class PairTests(OctaviaTestCase):
    """Two amphorae of the topology ACTIVE_STANDBY."""

    async def test_failover(self) -> None:
        """One of two serves; when it dies the other does, and the controller brings a new one into the pair."""
        plan = self.cloud.plan
        plan["topology"] = "ACTIVE_STANDBY"
        plan["vrrp_auth_pass"] = "b20e06c"
        first = await self.cloud.boot(
            "127.0.0.1", "10.99.0.11", role="MASTER", vrrp_priority=100, vrrp_id=1, vrrp_interface="eth1"
        )
        second = await self.cloud.boot(
            "127.0.0.2", "10.99.0.12", role="BACKUP", vrrp_priority=90, vrrp_id=1, vrrp_interface="eth1"
        )
        plan["listeners"] = [{"id": new_id(), "protocol": "HTTP", "protocol_port": 80, "default_pool_id": None}]
        await self._bring_up(first, second)
        await wait_until(lambda: first.has(VIP) or second.has(VIP), "one amphora to have the VIP")
        await self._answers()
        active, standby = (first, second) if first.has(VIP) else (second, first)
        error = await self.assertFailure(standby.call("interface", VIP), OctaviaError)
        self.assertEqual(error.name, "NotFound")

        # The active one dies; its compute is deleted, and a new amphora takes its place.
        await active.die()
        await wait_until(lambda: standby.has(VIP), "the other amphora to take over")
        await self._answers()
        gone = plan["amphorae"][active.index]
        gone["status"] = "DELETED"
        new = await self.cloud.boot(
            "127.0.0.3",
            "10.99.0.13",
            role=gone["role"],
            vrrp_priority=gone["vrrp_priority"],
            vrrp_id=1,
            vrrp_interface="eth1",
        )
        await new.call("plug_vip")
        for amphora in (new, standby):
            await amphora.call("update")
            self.assertEqual(await amphora.call("update_vrrp"), "eth1")
            await amphora.call("reload")
        await self._answers()
        self.assertNotEqual(new.has(VIP), standby.has(VIP))
        for amphora in (new, standby):
            await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")

    async def _bring_up(self, *amphorae: Amphora) -> None:
        for amphora in amphorae:
            await amphora.call("get_info")
            await amphora.call("plug_vip")
        for amphora in amphorae:
            self.assertEqual(await amphora.call("update_vrrp"), "eth1")
        for amphora in amphorae:
            await amphora.call("update")
            await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")

    async def _answers(self) -> None:
        async def so() -> bool:
            try:
                # There is no pool: haproxy itself answers.
                return " 503 " in await self.cloud.get(80)
            except OSError:
                return False

        await wait_until(so, "the VIP to answer")
