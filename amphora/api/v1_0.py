"""
The routes that today's Octavia controller calls: each reads its request, calls one method, and answers.

A load balancer is an instance, each of its frontends a listener.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from amphora.api.answers import OK, answer_json
from amphora.api.bodies import body_bytes
from amphora.api.errors import ErrorAnswer, RequestRefused, install_error_pages
from amphora.api.errors_1_0 import answer_for_1_0
from amphora.api.info import AmphoraInfo
from amphora.api.routing import new_app
from amphora.live_settings import LiveSettings
from amphora.loadbalancer.instance import ACTIONS
from amphora.network.plugging import Network
from amphora.system.server_certificate import ServerCertificate
from amphora.vrrp.errors import NotRunning
from amphora.vrrp.keepalived import Keepalived


@define(eq=False, slots=False)
class V10:
    """Octavia's API 1.0."""

    app = new_app()
    install_error_pages(app, answer_for_1_0)
    api_version: ClassVar[str] = "1.0"

    _info: AmphoraInfo
    _network: Network
    _keepalived: Keepalived
    _server_certificate: ServerCertificate
    _settings: LiveSettings

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

    @app.route("/interface/<ip>", methods=["GET"])
    async def interface(self, request: IRequest, ip: str) -> bytes:
        """Which interface has an address: of a pair's VIP, a controller learns by it which amphora has it."""
        return answer_json(request, 200, {**OK, "interface": await self._network.interface_of(ip)})

    # keepalived

    @app.route("/vrrp/upload", methods=["PUT"])
    async def upload_vrrp(self, request: IRequest) -> bytes:
        """Take a configuration; what runs goes on as it is until it is started or reloaded."""
        content = body_bytes(request)
        await self._keepalived.upload(content)
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return answer_json(request, 200, OK, {"ETag": f'"{etag}"'})

    @app.route("/vrrp/<action>", methods=["PUT"])
    async def vrrp(self, request: IRequest, action: str) -> bytes:
        """Start, stop or reload it; the start of one that runs loads what was uploaded since."""
        if (known := action.lower()) not in ACTIONS:
            raise RequestRefused(ErrorAnswer(400, "Invalid Request", f"Unknown action: {action}"))
        try:
            details = await self._keepalived.act(ACTIONS[known])
        except NotRunning:
            # A controller that has not heard the answer to its first stop sends another.
            details = ""
        if known == "stop":
            # Spelled as today's agent does.
            details = "keepalived stoped"
        return answer_json(request, 202, {**OK, "details": details})

    # The agent itself

    @app.route("/certificate", methods=["PUT"])
    async def put_server_certificate(self, request: IRequest) -> bytes:
        """The agent's own certificate, its key and its chain; nothing is restarted."""
        await self._server_certificate.replace(body_bytes(request))
        return answer_json(request, 202, OK)

    @app.route("/config", methods=["PUT"])
    async def put_config(self, request: IRequest) -> bytes:
        """The whole of a new `amphora-agent.conf`."""
        said = await self._settings.replace(body_bytes(request))
        return answer_json(request, 202, {**OK, "details": "\n".join(said)} if said else OK)
