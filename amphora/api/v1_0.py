"""
The routes that today's Octavia controller calls: each reads its request, calls one method, and answers.

A load balancer is an instance, each of its frontends a listener.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from amphora.api.answers import answer_json
from amphora.api.errors import install_error_pages
from amphora.api.errors_1_0 import answer_for_1_0
from amphora.api.info import AmphoraInfo
from amphora.api.routing import new_app


@define(eq=False, slots=False)
class V10:
    """Octavia's API 1.0."""

    app = new_app()
    install_error_pages(app, answer_for_1_0)
    api_version: ClassVar[str] = "1.0"

    _info: AmphoraInfo

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

    # keepalived

    # The agent itself
