"""
The routes that today's Octavia controller calls: each reads its request, calls one method, and answers.

A load balancer is an instance, each of its frontends a listener.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from amphora.api.answers import OK, answer_json
from amphora.api.bodies import body_object
from amphora.api.errors import install_error_pages
from amphora.api.errors_1_0 import answer_for_1_0
from amphora.api.info import AmphoraInfo
from amphora.api.routing import new_app
from amphora.network.plugging import Network
from amphora.network.requests import read_network_request, read_vips_request
from amphora.vrrp.topology import AmphoraTopology


@define(eq=False, slots=False)
class V10:
    """Octavia's API 1.0."""

    app = new_app()
    install_error_pages(app, answer_for_1_0)
    api_version: ClassVar[str] = "1.0"

    _info: AmphoraInfo
    _network: Network
    _topology: AmphoraTopology

    def resource(self) -> IResource:
        resource: IResource = self.app.resource()
        return resource

    # Who this amphora is

    @app.route("/info", methods=["GET"])
    async def info(self, request: IRequest) -> bytes:
        """What a controller asks for until a new amphora answers."""
        return answer_json(request, 200, await self._info.tell(self.api_version))

    # Load balancers and their listeners

    # LVS listeners

    # The network

    @app.route("/plug/vip/<vip>", methods=["POST"])
    async def plug_vip(self, request: IRequest, vip: str) -> bytes:
        """Give an interface VIPs, and an address of its own."""
        self._topology.require_rest()
        wish = read_vips_request(vip, body_object(request, "Invalid subnet information"))
        interface = await self._network.plug_vips(wish)
        vips = ", ".join(each.ip.exploded for each in wish.vips)
        return answer_json(request, 202, {**OK, "details": f"VIPs plugged on interface {interface}: {vips}"})

    @app.route("/plug/network", methods=["POST"])
    async def plug_network(self, request: IRequest) -> bytes:
        """Give an interface addresses in members' networks, or other ones than it had."""
        self._topology.require_rest()
        wish = read_network_request(body_object(request, "Invalid port information"))
        plugged = await self._network.plug_port(wish)
        done = "Plugged on interface" if plugged.before is None else "Updated existing interface"
        return answer_json(request, 202, {**OK, "details": f"{done} {plugged.interface}"})

    # keepalived

    # The agent itself
