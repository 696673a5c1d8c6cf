"""The top of the API: what has no version, and the versions below it."""

from __future__ import annotations

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from amphora.api.answers import answer_json
from amphora.api.errors import install_error_pages
from amphora.api.info import AmphoraInfo
from amphora.api.routing import new_app
from amphora.api.v0_1 import V01
from amphora.api.v1_0 import V10


@define(eq=False, slots=False)
class AmphoraAPI:
    """`/info` and the mounted versions."""

    app = new_app()
    install_error_pages(app)

    _info: AmphoraInfo
    _v0_1: V01
    _v1_0: V10

    def resource(self) -> IResource:
        """What the site serves."""
        resource: IResource = self.app.resource()
        return resource

    @app.route("/", methods=["GET"])
    async def newest_version(self, request: IRequest) -> bytes:
        """What today's controller asks first: it takes its client for this version, and none for another text."""
        return answer_json(request, 200, {"api_version": V10.api_version})

    @app.route("/info", methods=["GET"])
    async def info(self, request: IRequest) -> bytes:
        """Specification: Get amphora info."""
        return answer_json(request, 200, await self._info.tell(V01.api_version))

    @app.route("/v0.1/", branch=True)
    def version_0_1(self, request: IRequest) -> IResource:
        """Specification: all that begins with the version."""
        return self._v0_1.resource()

    @app.route("/1.0/", branch=True)
    def version_1_0(self, request: IRequest) -> IResource:
        """Today's controller: all that begins with the version."""
        return self._v1_0.resource()
