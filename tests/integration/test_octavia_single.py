"""An unmodified Octavia has one amphora balance load: its driver, templates and health manager, in its flows' order."""

from __future__ import annotations

import ssl
from typing import Any

from amphora.testing.pki import CLIENT, SERVER, Authority, Issued, Part
from tests.integration.harness import new_id, wait_until
from tests.integration.lvs import EVERYTHING_FOR_LVS
from tests.integration.octavia_cloud import (
    MEMBER_SUBNET,
    SECOND_SUBNET,
    SECOND_VIP,
    SUBNET6,
    VIP,
    VIP6,
    VIP_SUBNET,
    Amphora,
    OctaviaError,
    OctaviaTestCase,
)
from tests.integration.pair import keepalives_of, run
from tests.integration.support import requires
from tests.integration.test_octavia_configurations import revocations

OWN = "10.99.0.11"


def listener(protocol: str, port: int, pool: dict[str, Any] | None, **more: object) -> dict[str, Any]:
    return {
        "id": new_id(),
        "protocol": protocol,
        "protocol_port": port,
        "default_pool_id": None if pool is None else pool["id"],
        **more,
    }


def pool(protocol: str, *members: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"id": new_id(), "protocol": protocol, "members": list(members), **more}


class SingleTestCase(OctaviaTestCase):
    """A load balancer of the topology SINGLE."""

    async def _plugged(self, **booted: Any) -> Amphora:
        """An amphora that has its VIPs and a port in the members' network."""
        self.cloud.plan["additional_vips"] = [
            {"ip_address": SECOND_VIP, "subnet": SECOND_SUBNET},
            {"ip_address": VIP6, "subnet": SUBNET6},
        ]
        amphora = await self.cloud.boot(**booted)
        info = await amphora.call("get_info")
        self.assertEqual(info["api_version"], "1.0")
        await amphora.call("plug_vip")
        await self._plug_members(amphora)
        return amphora

    async def _plug_members(self, amphora: Amphora) -> None:
        port = self.cloud.lab.port()
        fixed = {"ip_address": "10.98.0.11", "subnet": MEMBER_SUBNET}
        await amphora.call("plug_network", {"id": new_id(), "mac_address": port.mac, "fixed_ips": [fixed]})

    async def _serves(self, port: int, member: dict[str, Any], vip: str = VIP, **options: Any) -> str:
        """Ask until the member answers.  A connection that is refused is one that haproxy has not opened yet."""

        async def so() -> str | None:
            try:
                answer = await self.cloud.get(port, vip=vip, **options)
            except ConnectionError:
                return None
            return answer if member["id"] in answer else None

        answer: str = await wait_until(so, f"the member behind port {port} of {vip} to answer")
        return answer


@requires("root", "haproxy", "keepalived", "ip", "octavia")
class SingleTests(SingleTestCase):
    """The life of a load balancer that haproxy serves."""

    async def test_vips_and_members(self) -> None:
        """A booted amphora is given its VIPs, of both families, and a port to its members; each is where it is told."""
        amphora = await self._plugged()
        for address in (VIP, SECOND_VIP, VIP6, "10.99.0.11"):
            self.assertTrue(amphora.has(address), address)
            self.assertEqual(await amphora.call("interface", address), "eth1")
        self.assertEqual(await amphora.call("interface", "10.98.0.11"), "eth2")
        error = await self.assertFailure(amphora.call("interface", "10.98.0.99"), OctaviaError)
        self.assertEqual(error.name, "NotFound")

    async def test_plugged_twice(self) -> None:
        """A flow that is tried again plugs what is plugged: Octavia goes on, and nothing is lost."""
        amphora = await self._plugged()
        await amphora.call("plug_vip")
        for address in (VIP, SECOND_VIP, VIP6):
            self.assertTrue(amphora.has(address), address)

    async def test_life(self) -> None:
        """A load balancer is created, changed and deleted; clients are served, and each heartbeat counts."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        first, second = self.cloud.new_member(8001), self.cloud.new_member(8002)
        web = pool(
            "HTTP",
            first,
            health_monitor={
                "id": new_id(),
                "type": "HTTP",
                "http_method": "GET",
                "url_path": "/",
                "expected_codes": "200",
                "http_version": 1.0,
            },
        )
        plan["pools"] = [web]
        plan["listeners"] = [listener("HTTP", 80, web, insert_headers={"X-Forwarded-For": "true"})]
        await amphora.call("update")
        for vip in (VIP, SECOND_VIP, VIP6):
            answer = await self._serves(80, first, vip)
            self.assertIn("x-forwarded-for: ", answer.lower())
        await amphora.well()

        # A TCP listener with a pool of its own.
        tcp = pool(
            "TCP", second, health_monitor={"id": new_id(), "type": "TCP"}, session_persistence={"type": "SOURCE_IP"}
        )
        plan["pools"].append(tcp)
        plan["listeners"].append(listener("TCP", 8080, tcp))
        await amphora.call("update")
        await self._serves(8080, second)
        for vip in (VIP, SECOND_VIP, VIP6):
            await self._serves(80, first, vip)
        await amphora.well()

        # Members come and go.
        web["members"] = [second]
        await amphora.call("update")
        for vip in (VIP, SECOND_VIP, VIP6):
            await self._serves(80, second, vip)
        await amphora.well()

        # A listener that is disabled is not told of, and is not missed.
        plan["listeners"][1]["enabled"] = False
        await amphora.call("update")
        seen = await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")
        self.assertEqual(list(seen["message"]["listeners"]), [plan["listeners"][0]["id"]])

        # Both listeners are deleted, and with the last one all of it.
        for each in list(reversed(plan["listeners"])):
            await amphora.call("delete_listener", each["id"])
            plan["listeners"].remove(each)
            await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")
        self.assertEqual(amphora.agent.all_haproxies(), [])
        self.assertEqual(await amphora.call("client", "get_all_listeners"), [])

    async def test_terminated_https(self) -> None:
        """A listener that ends TLS shows the tenant's certificates, and the renewed one after an update."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        member = self.cloud.new_member(8001)
        web = pool("HTTP", member)
        plan["pools"] = [web]
        authority = Authority.create()
        secure = listener(
            "TERMINATED_HTTPS",
            443,
            web,
            hsts_max_age=3600,
            tls_versions=["TLSv1.2", "TLSv1.3"],
            tls_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256",
            alpn_protocols=["h2", "http/1.1"],
        )
        plan["listeners"] = [secure]

        async def store(name: str) -> str:
            issued = authority.issue(name, usages=(SERVER,))
            reference: str = await amphora.controller.call(
                "store_certificate", plan, issued.pem(Part.CERTIFICATE).decode(), issued.pem(Part.KEY).decode()
            )
            return reference

        secure["tls_certificate_id"] = await store("www.example.com")
        secure["sni_container_ids"] = [await store("other.example.com")]
        await amphora.call("update")
        context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        answer = await self._serves(443, member, tls=context)
        self.assertIn("strict-transport-security: max-age=3600;", answer.lower())
        await amphora.well()

        uploaded = {each.name for each in (amphora.agent.cert_dir / plan["id"]).iterdir()}
        secure["tls_certificate_id"] = await store("www.example.com")
        await amphora.call("update")
        self.assertEqual(len({each.name for each in (amphora.agent.cert_dir / plan["id"]).iterdir()} - uploaded), 1)
        await self._serves(443, member, tls=context)

    async def test_client_certificates(self) -> None:
        """A listener lets in clients whose certificates its authority has issued and not revoked, and nobody else."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        member = self.cloud.new_member(8001)
        web = pool("HTTP", member)
        authority, clients = Authority.create(), Authority.create("authority for clients")
        served = authority.issue("www.example.com", usages=(SERVER,))
        welcome, revoked = (clients.issue(name, usages=(CLIENT,), names=()) for name in ("welcome", "revoked"))
        own = await amphora.controller.call(
            "store_certificate", plan, served.pem(Part.CERTIFICATE).decode(), served.pem(Part.KEY).decode()
        )
        secure = listener(
            "TERMINATED_HTTPS",
            443,
            web,
            tls_certificate_id=own,
            client_authentication="MANDATORY",
            client_ca_tls_certificate_id=self._secret(clients.certificate_pem),
            client_crl_container_id=self._secret(revocations(clients)),
        )
        plan.update(pools=[web], listeners=[secure])
        await amphora.call("update")

        def context(client: Issued | None) -> ssl.SSLContext:
            made = ssl.create_default_context(cadata=authority.certificate_pem.decode())
            # With a later version the client hears of a refusal only when it reads.
            made.maximum_version = ssl.TLSVersion.TLSv1_2
            if client is not None:
                both = self.cloud.directory / f"{new_id()}.pem"
                both.write_bytes(client.pem(Part.CERTIFICATE, Part.KEY))
                made.load_cert_chain(both)
            return made

        for client in (welcome, revoked):
            await self._serves(443, member, tls=context(client))
        await self.assertFailure(self.cloud.get(443, tls=context(None)), ssl.SSLError)
        secure["client_crl_container_id"] = self._secret(revocations(clients, revoked.certificate))
        await amphora.call("update")

        async def refused() -> bool:
            try:
                await self.cloud.get(443, tls=context(revoked))
            except ssl.SSLError:
                return True
            return False

        await wait_until(refused, "the new list to be in force")
        await self._serves(443, member, tls=context(welcome))
        await amphora.well()

    def _secret(self, content: bytes) -> str:
        """Keep something at the key manager.  @return: the reference"""
        reference = new_id()
        (self.cloud.directory / "secrets" / f"{reference}.crt").write_bytes(content)
        return reference

    async def test_pools(self) -> None:
        """Members of several pools come and go, are disabled and return, each in its own pool."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        first, second, third = (self.cloud.new_member(port) for port in (8001, 8002, 8003))
        web, api, idle = pool("HTTP", first), pool("HTTP", second), pool("HTTP")
        plan.update(
            pools=[web, api, idle],
            listeners=[listener("HTTP", 80, web), listener("HTTP", 81, api), listener("HTTP", 82, idle)],
        )
        await amphora.call("update")
        await self._serves(80, first)
        await self._serves(81, second)
        self.assertIn(" 503 ", await self.cloud.get(82))
        await amphora.well()

        # One moves to the pool that had none, and another takes its place.
        web["members"], idle["members"] = [third], [first]
        await amphora.call("update")
        for port, member in ((80, third), (81, second), (82, first)):
            await self._serves(port, member)
        await amphora.well()

        third["enabled"] = False
        await amphora.call("update")
        seen = await amphora.seen_by_controller(
            lambda seen: seen["refreshed"] and seen["statuses"].get(third["id"]) == "OFFLINE", "a disabled member"
        )
        self.assertEqual(seen["statuses"][second["id"]], "NO_MONITOR")
        self.assertIn(" 503 ", await self.cloud.get(80))
        third["enabled"] = True
        await amphora.call("update")
        await self._serves(80, third)

    async def test_l7(self) -> None:
        """Policies redirect to another pool, redirect to an URL and reject, as their rules say."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        first, second = self.cloud.new_member(8001), self.cloud.new_member(8002)
        web, api = pool("HTTP", first), pool("HTTP", second)
        plan["pools"] = [web, api]

        def rule(value: str) -> dict[str, Any]:
            return {"id": new_id(), "type": "PATH", "compare_type": "STARTS_WITH", "value": value}

        plan["listeners"] = [
            listener(
                "HTTP",
                80,
                web,
                l7policies=[
                    {
                        "id": new_id(),
                        "position": 1,
                        "action": "REDIRECT_TO_POOL",
                        "redirect_pool_id": api["id"],
                        "l7rules": [rule("/api")],
                    },
                    {
                        "id": new_id(),
                        "position": 2,
                        "action": "REDIRECT_TO_URL",
                        "redirect_url": "http://example.com/a?b&c",
                        "redirect_http_code": 302,
                        "l7rules": [rule("/moved")],
                    },
                    {"id": new_id(), "position": 3, "action": "REJECT", "l7rules": [rule("/secret group ü")]},
                ],
            )
        ]
        await amphora.call("update")
        await self._serves(80, first)
        self.assertIn(second["id"], await self.cloud.get(80, "/api/x"))
        self.assertIn(" 302 ", await self.cloud.get(80, "/moved"))
        await amphora.well()

    async def test_refused(self) -> None:
        """A configuration that haproxy does not take is an InvalidRequest to Octavia, and the one that ran goes on."""
        amphora = await self._plugged()
        member = self.cloud.new_member(8001)
        web = pool("HTTP", member)
        self.cloud.plan["pools"] = [web]
        self.cloud.plan["listeners"] = [listener("HTTP", 80, web)]
        await amphora.call("update")
        await self._raises("InvalidRequest", amphora, "client", "upload_config", self.cloud.plan["id"], "no such thing")
        await self._serves(80, member)
        await amphora.well()

    async def test_errors(self) -> None:
        """What is refused, not there, or there already is to Octavia the exception that its flows count on."""
        amphora = await self._plugged()
        plugged = {"subnet_cidr": "10.99.0.0/24", "gateway": None, "mac_address": amphora.port.mac, "mtu": 1450}
        unknown = new_id()
        for call, *arguments in (
            ("plug_vip", "10.99.0.300", plugged),
            ("plug_vip", VIP, {**plugged, "vrrp_ip": "no address"}),
            ("plug_network", {"mac_address": 5}),
            ("get_interface", "no address"),
            ("set_interface_rules", OWN, [{"protocol": "HTTP", "cidr": None, "port": 80}]),
            ("upload_cert_pem", unknown, "no-pem.txt", "any bytes"),
            ("upload_udp_config", unknown, "no configuration"),
            ("upload_vrrp_config", "no configuration"),
            ("update_cert_for_rotation", "no certificate"),
            ("update_agent_config", "no configuration"),
        ):
            await self._raises("InvalidRequest", amphora, "client", call, *arguments)
        for call, *arguments in (
            ("get_interface", "10.98.0.99"),
            ("get_cert_md5sum", unknown, f"{unknown}.pem"),
            ("start_listener", unknown),
            ("reload_listener", unknown),
        ):
            await self._raises("NotFound", amphora, "client", call, *arguments)
        await self._raises("Conflict", amphora, "client", "plug_vip", VIP, await self._as_plugged(amphora))

    async def test_late_port(self) -> None:
        """A port that comes after Octavia has begun to ask for it is plugged; one that never comes times out."""
        amphora = await self._plugged()
        port = self.cloud.lab.port()
        late = "02:00:00:00:00:99"
        fixed = {"ip_address": "10.98.0.12", "subnet": MEMBER_SUBNET}
        request = {"id": new_id(), "mac_address": late, "fixed_ips": [fixed]}
        asked = amphora.call("plug_network", request)
        await wait_until(lambda: "Retrying" in amphora.controller.log, "Octavia to ask again")
        run("ip", "link", "set", port.link, "address", late)
        await asked
        self.assertTrue(amphora.has("10.98.0.12"))
        await self._raises("TimeOutException", amphora, "plug_network", {**request, "mac_address": "02:00:00:00:00:98"})

    async def test_udp_without_ipvs(self) -> None:
        """Where the kernel cannot balance, a UDP listener's start says so, and an HTTP listener beside it goes on."""
        amphora = await self._plugged()
        plan = self.cloud.plan
        member = self.cloud.new_member(8001)
        web, udp = pool("HTTP", member), pool("UDP", {**member, "id": new_id()})
        plan.update(pools=[web], listeners=[listener("HTTP", 80, web)])
        await amphora.call("update")
        await amphora.well()
        plan["pools"].append(udp)
        plan["listeners"].append(listener("UDP", 5353, udp))
        error = await self._raises("InternalServerError", amphora, "update")
        self.assertIn("modprobe ip_vs", " ".join(error.log))
        await self._serves(80, member)
        seen = await amphora.seen_by_controller(lambda seen: not seen["refreshed"], "a listener missing")
        self.assertEqual(list(seen["message"]["listeners"]), [plan["listeners"][0]["id"]])
        await amphora.call("delete_listener", plan["listeners"][1]["id"])
        del plan["listeners"][1], plan["pools"][1]
        await amphora.well()

    async def _as_plugged(self, amphora: Amphora) -> dict[str, Any]:
        """What Octavia has asked for, again."""
        more = ((SECOND_VIP, SECOND_SUBNET), (VIP6, SUBNET6))
        return {
            "subnet_cidr": VIP_SUBNET["cidr"],
            "gateway": VIP_SUBNET["gateway_ip"],
            "mac_address": amphora.port.mac,
            "vrrp_ip": OWN,
            "mtu": 1450,
            "host_routes": [],
            "additional_vips": [
                {"ip_address": ip, "subnet_cidr": of["cidr"], "gateway": of["gateway_ip"], "host_routes": []}
                for ip, of in more
            ],
            "is_sriov": False,
        }

    async def _raises(self, name: str, amphora: Amphora, call: str, *arguments: object) -> OctaviaError:
        error: OctaviaError = await self.assertFailure(amphora.call(call, *arguments), OctaviaError)
        self.assertEqual(error.name, name, (call, arguments, error))
        return error


@requires("root", "haproxy", "ip", "octavia", *EVERYTHING_FOR_LVS)
class UdpTests(SingleTestCase):
    """UDP listeners of a real keepalived, which takes the kernel to have IPVS: no packet is balanced."""

    async def test_life(self) -> None:
        """A UDP listener comes, is changed and goes beside an HTTP one, and at each step the heartbeats count."""
        amphora = await self._plugged(fake_ipvs=True)
        plan = self.cloud.plan
        member = self.cloud.new_member(8001)
        web = pool("HTTP", member)
        udp = pool("UDP", {**member, "id": new_id()}, {**member, "id": new_id(), "protocol_port": 8002})
        plan.update(pools=[web], listeners=[listener("HTTP", 80, web)])
        await self._counts(amphora)
        plan["pools"].append(udp)
        plan["listeners"].append(listener("UDP", 5353, udp))
        await self._counts(amphora)
        del udp["members"][0]
        await self._counts(amphora)
        plan["listeners"][1]["enabled"] = False
        await self._counts(amphora)
        plan["listeners"][1]["enabled"] = True
        await self._counts(amphora)
        await self._serves(80, member)

        # The one goes, and the other stays; then that goes as well.
        for each in reversed(list(plan["listeners"])):
            await amphora.call("delete_listener", each["id"])
            plan["listeners"].remove(each)
            await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")
        self.assertEqual(await amphora.call("client", "get_all_listeners"), [])
        self.assertEqual(keepalives_of(amphora.directory), [])

    async def _counts(self, amphora: Amphora) -> None:
        """Bring the plan to the amphora, and wait for a heartbeat that counts: it tells of each listener that is on."""
        await amphora.call("update")
        seen = await amphora.seen_by_controller(lambda seen: seen["refreshed"], "a heartbeat that counts")
        on = {each["id"] for each in self.cloud.plan["listeners"] if each.get("enabled", True)}
        self.assertEqual(set(seen["message"]["listeners"]), on)
