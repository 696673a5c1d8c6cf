"""The same in a network namespace, as amphorae have it: with cables that lead to others."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve

from tests.faults.watched import FaultTestCase, Traffic
from tests.integration.api_1_0 import Answer, call
from tests.integration.harness import LoadBalancer
from tests.integration.networks import Cable, new_cable, new_namespace

VIP = "203.0.113.2"
CLIENT = "203.0.113.9"


class InsideTestCase(FaultTestCase):
    """haproxy and its members are in a namespace; its VIP is asked by a client at the other end of a cable."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.namespace, self.far = new_namespace(self), new_namespace(self)
        return {"amphora_agent": {"network_namespace": self.namespace}}

    async def start(self, *controllers: str) -> None:
        await super().start(*controllers)
        self.vip_cable = self.cable()
        self.vip_cable.give_far_end(f"{CLIENT}/24")
        await self.plug_vip()

    async def running(self, balancer: LoadBalancer) -> LoadBalancer:
        """It listens on the VIP, too."""
        return await super().running(evolve(balancer, extra_binds=(f"{VIP}:{balancer.port}",)))

    def new_traffic(self) -> Traffic:
        return Traffic(self.balancer.port, self.far, VIP)

    def cable(self, **how: str) -> Cable:
        return new_cable(self, self.far, **how)

    async def plug_vip(self) -> None:
        """As today's controller does; whether it is plugged for the first time, or again."""
        self.assertIn((await self.plug(f"/plug/vip/{VIP}", self.vip_body())).status, (202, 409))

    def vip_body(self, **changes: object) -> dict[str, object]:
        return {
            "subnet_cidr": "203.0.113.0/24",
            "gateway": "203.0.113.1",
            "mac_address": self.vip_cable.mac,
            "vrrp_ip": "203.0.113.5",
            "mtu": 1450,
            "host_routes": [],
            "additional_vips": [],
            "is_sriov": False,
            **changes,
        }

    async def plug(self, path: str, body: Any) -> Answer:
        return await call(self.raw_client(), "POST", path, json.dumps(body).encode())
