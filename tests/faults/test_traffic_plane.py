"""What is done to the network under the traffic that it carries."""

from __future__ import annotations

import signal
from pathlib import Path

from amphora.client import AmphoraFailed
from tests.faults.hasty import hurry
from tests.faults.inside import VIP, InsideTestCase
from tests.integration.harness import get, wait_until
from tests.integration.networks import delete_namespace, ip, new_cable, unplug
from tests.integration.pair import end_keepaliveds
from tests.integration.support import count, requires

OF_VIP6 = {"subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1"}


@requires("root", "haproxy", "ip", "nft", "ipv6")
class PlugTests(InsideTestCase):
    async def start(self, *controllers: str) -> None:
        hurry(self.agent, self.directory / "hurry", {"amphora.network.plugging:DETECTION": 1.0})
        await super().start(*controllers)

    def routing(self) -> str:
        return ip("-n", self.namespace, "rule") + ip("-n", self.namespace, "route", "show", "table", "1")

    async def test_A9_plugs(self) -> None:
        """
        Interfaces are plugged and plugged again, the VIP's own too, with one subnet more and one less: no request
        fails, no packet of the VIP is sent another way (A8).
        """
        before = self.routing()
        async with self.watch():
            for number in range(1, count(4, 50)):
                member = self.cable()
                for last in (7, 8):
                    address = self.fixed(f"198.51.{number}.{last}")
                    answer = await self.plug("/plug/network", self.port_body(member.mac, address))
                    self.assertEqual(202, answer.status)
                extra = [self.fixed(f"192.0.{number}.7")] if number % 2 else []
                own = self.fixed("203.0.113.5")
                body = {
                    **self.port_body(self.vip_cable.mac, own, *extra),
                    "vip_net_info": {**self.vip_body(), "vip": VIP},
                }
                self.assertEqual(202, (await self.plug("/plug/network", body)).status)
                await self.plug_vip()
                self.assertEqual(before, self.routing())

    def fixed(self, address: str) -> dict[str, object]:
        subnet = f"{address.rpartition('.')[0]}.0/24"
        return {"ip_address": address, "subnet_cidr": subnet, "gateway": None, "host_routes": []}

    def port_body(self, mac: str, *addresses: dict[str, object]) -> dict[str, object]:
        return {"mac_address": mac, "fixed_ips": list(addresses), "mtu": 1450, "is_sriov": False}

    async def test_A14_no_carrier(self) -> None:
        """An IPv6 address of which nobody can say whether it is free is an error in time; nobody else waits for it."""
        cable = self.cable()
        ip("-n", cable.far_namespace, "link", "set", cable.far_name, "down")
        async with self.watch():
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.plug_vip("2001:db8::2", **OF_VIP6, mac_address=cable.mac)
            self.assertIn("was not found out within 1 s: has eth2 a carrier?", raised.exception.details)
            self.assertTrue(cable.outside)


KEEPALIVED = f"""
vrrp_instance pair {{
    interface eth1
    version 3
    virtual_router_id 7
    priority 100
    advert_int 0.1
    unicast_src_ip 203.0.113.5
    unicast_peer {{
        203.0.113.6
    }}
    virtual_ipaddress {{
        {VIP}
    }}
}}
"""


@requires("root", "haproxy", "keepalived", "ip", "nft")
class RebootTests(InsideTestCase):
    """One of a pair, whose peer is away."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {**super().agent_options(), "controller_worker": {"loadbalancer_topology": "ACTIVE_STANDBY"}}

    async def _clean_up(self) -> None:
        try:
            await super()._clean_up()
        finally:
            await end_keepaliveds(self.directory)

    async def serves(self) -> bool:
        try:
            return b"200 OK" in await get(self.balancer.port, host=VIP, namespace=self.far)
        except OSError:
            return False

    async def test_A7_stale_namespace(self) -> None:
        """After a reboot that left a dead namespace's file behind, haproxy and keepalived come up: the VIP serves."""
        await self.client.upload_vrrp(KEEPALIVED.encode())
        await self.client.vrrp("start")
        await wait_until(self.serves, "the VIP to serve")
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        await end_keepaliveds(self.directory)
        for member in self.members:
            await member.down()
        delete_namespace(self.namespace)
        unplug(self.far, self.vip_cable.far_name)
        (Path("/run/netns") / self.namespace).touch()
        self.vip_cable = new_cable(self, self.far, mac=self.vip_cable.mac)
        self.vip_cable.give_far_end("203.0.113.9/24")
        await self.agent.start()
        self.assertIn(f"Network namespace {self.namespace} was stale", self.agent.log)
        for member in self.members:
            member.up()
        await wait_until(self.serves, "the VIP to serve again")
        await wait_until(lambda: self.is_well(self.heard[-1].message), "heartbeats to tell so")
