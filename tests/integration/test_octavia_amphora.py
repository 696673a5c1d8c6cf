"""What an unmodified Octavia does with amphorae: every method of its client, new configurations, rotation, failover."""

from __future__ import annotations

from tests.integration.harness import new_id, wait_until
from tests.integration.octavia_cloud import (
    MEMBER_SUBNET,
    VIP,
    VIP_SUBNET,
    Amphora,
    OctaviaError,
    OctaviaTestCase,
    for_this_machine,
)
from tests.integration.support import requires

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


@requires("root", "haproxy", "keepalived", "ip", "octavia")
class AmphoraTests(OctaviaTestCase):
    """One amphora."""

    async def test_every_method(self) -> None:
        """Every method of Octavia's client finds its route, and takes the answer."""
        amphora = await self.cloud.boot()
        balancer_id, listener_id, filename = new_id(), new_id(), f"{new_id()}.pem"

        async def client(method: str, *arguments: object) -> object:
            return await amphora.call("client", method, *arguments)

        self.assertEqual(await client("get_api_version"), {"api_version": "1.0"})
        self.assertEqual((await amphora.call("client", "get_info"))["api_version"], "1.0")
        self.assertIn("free", (await amphora.call("client", "get_details"))["memory"])
        plugged = {
            "subnet_cidr": VIP_SUBNET["cidr"],
            "gateway": VIP_SUBNET["gateway_ip"],
            "mac_address": amphora.port.mac,
            "vrrp_ip": "10.99.0.11",
            "mtu": 1450,
            "host_routes": [],
            "additional_vips": [],
            "is_sriov": False,
        }
        await client("plug_vip", VIP, plugged)
        port = self.cloud.lab.port()
        fixed: dict[str, object] = {
            "ip_address": "10.98.0.11",
            "subnet_cidr": MEMBER_SUBNET["cidr"],
            "host_routes": [],
            "gateway": None,
        }
        await client("plug_network", {"mac_address": port.mac, "fixed_ips": [fixed], "mtu": 1450, "is_sriov": False})
        self.assertEqual(await client("get_interface", VIP), {"message": "OK", "interface": "eth1"})
        self.assertEqual(await client("get_cert_md5sum", balancer_id, filename, [404]), None)
        await client("upload_cert_pem", balancer_id, filename, "any bytes\n")
        self.assertEqual(await client("get_cert_md5sum", balancer_id, filename), "8974ff5bedd7cfb5cca3c259306b9ba0")
        configuration = _HAPROXY.format(listener=listener_id, vip=VIP)
        await client("upload_config", balancer_id, configuration)
        await client("start_listener", balancer_id)
        await client("reload_listener", balancer_id)
        [told] = await amphora.call("client", "get_all_listeners")
        self.assertEqual(told, {"status": "ACTIVE", "uuid": listener_id, "type": "HTTP"})
        for _ in range(2):
            await client("delete_cert_pem", balancer_id, filename)
            await client("delete_listener", balancer_id)
        self.assertEqual(await client("get_all_listeners"), [])
        error = await self.assertFailure(amphora.call("client", "get_listener_status", listener_id), OctaviaError)
        self.assertEqual(error.name, "InvalidRequest")

    async def test_configuration_update(self) -> None:
        """A new configuration is taken while the agent runs: another place for heartbeats, another key."""
        amphora = await self.cloud.boot()
        await amphora.call("get_info")
        text = for_this_machine(await amphora.call("agent_config"), amphora.host.name)
        changed = text.replace("heartbeat_interval = 1\n", "heartbeat_interval = 2\n")
        self.assertNotEqual(changed, text)
        await amphora.call("update_agent_config", changed)
        await amphora.seen_by_controller(lambda seen: seen["refreshed"], "heartbeats go on")
        error = await self.assertFailure(amphora.call("client", "update_agent_config", "no INI at all"), OctaviaError)
        self.assertEqual(error.name, "InvalidRequest")
        await amphora.call("get_info")

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
