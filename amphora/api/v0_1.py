"""
The routes of the v0.1 specification: each reads its request, calls one method, and answers.

Those that change what the amphora does are closed while its topology changes.
"""

from __future__ import annotations

import socket
from typing import Any, ClassVar

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.routing import BaseConverter

from amphora.api.answers import CONFIGURATION_VALID, OK, answer_bytes, answer_json
from amphora.api.bodies import body_bytes, body_file, body_object
from amphora.api.details import Details
from amphora.api.errors import ErrorAnswer, RequestRefused, install_error_pages
from amphora.api.routing import new_app, uuid_in
from amphora.loadbalancer.instance import ACTIONS, Action, Done, InstanceStatus
from amphora.loadbalancer.instances import Instances
from amphora.loadbalancer.stats import Backend
from amphora.network.plugging import Network
from amphora.network.requests import read_port_request, read_vip_request
from amphora.system.server_certificate import ServerCertificate
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.topology import AmphoraTopology
from amphora.vrrp.topology_request import read_request

_LISTENER = "/listeners/<listener>"
_CERTIFICATE = "/listeners/<listener>/certificates/<filename>"


class _Action(BaseConverter):
    """Any word but the one that names the configuration: `PUT` on that is a 405, not an unknown action."""

    regex = "(?!haproxy$)[^/]+"


@define(eq=False, slots=False)
class V01:
    """A v0.1 listener is an instance."""

    app = new_app()
    app.url_map.converters["action"] = _Action
    install_error_pages(app)
    api_version: ClassVar[str] = "0.1"

    _amphora_id: str
    _instances: Instances
    _network: Network
    _keepalived: Keepalived
    _topology: AmphoraTopology
    _details: Details
    _server_certificate: ServerCertificate

    def resource(self) -> IResource:
        resource: IResource = self.app.resource()
        return resource

    @app.route("/topology", methods=["GET"])
    async def topology(self, request: IRequest) -> bytes:
        """Specification: Get amphora topology."""
        standing = self._topology.standing
        body = {
            "hostname": socket.gethostname(),
            "uuid": self._amphora_id,
            "topology": standing.topology,
            "role": standing.role,
            "ha_ip": self._topology.ha_ip,
        }
        return answer_json(request, 200, body)

    @app.route("/topology", methods=["POST"])
    async def set_topology(self, request: IRequest) -> bytes:
        """Specification: Set amphora topology."""
        self._topology.require_rest()
        done = await self._topology.change(read_request(body_object(request, "Invalid request")))
        return answer_json(request, 200 if done else 202, OK)

    @app.route("/details", methods=["GET"])
    async def details(self, request: IRequest) -> bytes:
        """Specification: Get amphora details."""
        return answer_json(request, 200, await self._details.tell(self.api_version))

    @app.route("/listeners", methods=["GET"])
    async def listeners(self, request: IRequest) -> bytes:
        """Specification: Get all listeners' statuses."""
        return answer_json(request, 200, [_summary(status) for status in await self._instances.statuses()])

    @app.route(_LISTENER, methods=["GET"])
    async def listener(self, request: IRequest, listener: str) -> bytes:
        """Specification: Get a listener's status."""
        status = await self._instances.get(_listener_id(listener)).status()
        return answer_json(request, 200, {**_summary(status), "pools": _pools(status)})

    @app.route("/listeners/<listener>/<action:action>", methods=["PUT"])
    async def act(self, request: IRequest, listener: str, action: str) -> bytes:
        """Specification: Start or Stop a listener.  The action is looked at first."""
        self._topology.require_rest()
        known_action = _action(action)
        listener_id = _listener_id(listener)
        done = await self._instances.get(listener_id).act(known_action)
        return answer_json(request, 202, {**OK, "details": _details(listener_id, done)})

    @app.route(_LISTENER, methods=["DELETE"])
    async def delete(self, request: IRequest, listener: str) -> bytes:
        """Specification: Delete a listener."""
        self._topology.require_rest()
        await self._instances.get(_listener_id(listener)).delete()
        return answer_json(request, 200, OK)

    @app.route(_CERTIFICATE, methods=["PUT"])
    async def put_certificate(self, request: IRequest, listener: str, filename: str) -> bytes:
        """Specification: Upload SSL certificate PEM file."""
        self._topology.require_rest()
        await self._instances.get(_listener_id(listener)).put_certificate(filename, body_bytes(request))
        return answer_json(request, 201, OK)

    @app.route(_CERTIFICATE, methods=["GET"])
    async def certificate(self, request: IRequest, listener: str, filename: str) -> bytes:
        """Specification: Get SSL certificate md5sum."""
        md5 = await self._instances.get(_listener_id(listener)).certificate_md5(filename)
        return answer_json(request, 200, {"md5sum": md5})

    @app.route(_CERTIFICATE, methods=["DELETE"])
    async def delete_certificate(self, request: IRequest, listener: str, filename: str) -> bytes:
        """Specification: Delete SSL certificate PEM file."""
        self._topology.require_rest()
        await self._instances.get(_listener_id(listener)).delete_certificate(filename)
        return answer_json(request, 200, OK)

    @app.route("/listeners/<amphora_id>/<listener>/haproxy", methods=["PUT"])
    async def upload(self, request: IRequest, amphora_id: str, listener: str) -> bytes:
        """Specification: Upload listener haproxy configuration."""
        self._topology.require_rest()
        instance_id = _listener_id(listener)
        amphora = uuid_in(amphora_id, "The amphora's id")
        await self._instances.upload(instance_id, amphora, await body_file(request))
        return answer_json(request, 201, OK)

    @app.route("/listeners/<listener>/haproxy", methods=["GET"])
    async def configuration(self, request: IRequest, listener: str) -> bytes:
        """Specification: Get listener haproxy configuration."""
        content = await self._instances.get(_listener_id(listener)).configuration()
        return answer_bytes(request, 200, content, "text/plain")

    @app.route("/interface/<ip>", methods=["GET"])
    async def interface(self, request: IRequest, ip: str) -> bytes:
        """Specification: Get interface."""
        return answer_json(request, 200, {**OK, "interface": await self._network.interface_of(ip)})

    @app.route("/plug/vip/<vip>", methods=["POST"])
    async def plug_vip(self, request: IRequest, vip: str) -> bytes:
        """Specification: Plug VIP."""
        self._topology.require_rest()
        wish = read_vip_request(vip, body_object(request, "Invalid subnet information"))
        interface = await self._network.plug_vip(wish)
        return answer_json(request, 202, {**OK, "details": f"VIP {wish.ip} plugged on interface {interface}"})

    @app.route("/plug/network", methods=["POST"])
    @app.route("/plug/network/", methods=["POST"])
    async def plug_network(self, request: IRequest) -> bytes:
        """Specification: Plug Network."""
        self._topology.require_rest()
        mac = read_port_request(body_object(request, "Invalid port information"))
        interface = await self._network.plug_network(mac)
        return answer_json(request, 202, {**OK, "details": f"Plugged interface {interface}"})

    @app.route("/certificate", methods=["PUT"])
    async def put_server_certificate(self, request: IRequest) -> bytes:
        """Specification: Upload SSL server certificate PEM file for Controller Communication."""
        await self._server_certificate.replace(body_bytes(request))
        return answer_json(request, 202, OK)

    @app.route("/vrrp/upload", methods=["PUT"])
    async def upload_vrrp(self, request: IRequest) -> bytes:
        """Specification: Upload keepalived configuration."""
        await self._keepalived.upload(body_bytes(request))
        return answer_json(request, 200, OK)

    @app.route("/vrrp/<action>", methods=["PUT"])
    async def act_vrrp(self, request: IRequest, action: str) -> bytes:
        """Specification: Start, Stop, or Reload keepalived."""
        details = await self._keepalived.act(_action(action))
        return answer_json(request, 202, {**OK, "details": details})


def _action(text: str) -> Action:
    """@raise RequestRefused: 400 for all that is none."""
    if text not in ACTIONS:
        raise RequestRefused(ErrorAnswer(400, "Invalid Request", f"Unknown action: {text}"))
    return ACTIONS[text]


def _details(listener_id: str, done: Done) -> str:
    """The specification's lines that say what was done."""
    if done.action == "stop":
        return f"haproxy daemon for {listener_id} stopped"
    participle = "started" if done.action == "start" else "reloaded"
    lines = (CONFIGURATION_VALID, f"haproxy daemon for {listener_id} {participle} (pid {done.pid})", done.note)
    return "\n".join(line for line in lines if line)


def _listener_id(text: str) -> str:
    return uuid_in(text, "The listener's id")


def _summary(status: InstanceStatus) -> dict[str, Any]:
    return {"status": status.status, "uuid": status.instance_id, "type": status.listener_type}


def _pools(status: InstanceStatus) -> list[dict[str, Any]]:
    """
    The specification's `pools`.

    Today's controller names a backend `POOL:LISTENER`; a pool that several listeners share is told once, with each
    member's worst status.
    """
    if status.stats is None:
        return []
    pools: dict[str, list[Backend]] = {}
    for backend in status.stats.backends:
        pools.setdefault(backend.name.partition(":")[0], []).append(backend)
    return [_pool(name, backends) for name, backends in pools.items()]


def _pool(name: str, backends: list[Backend]) -> dict[str, Any]:
    members: dict[str, str] = {}
    for backend in backends:
        for member, text in backend.members.items():
            word = _member_word(text)
            if members.get(member) != "DOWN":
                members[member] = word
    down = sum(word == "DOWN" for word in members.values())
    serving = any(word in ("UP", "no check", "DRAIN") for word in members.values())
    up = serving or not members
    status = "DEGRADED" if down and up else "UP" if up else "DOWN"
    return {"uuid": name, "status": status, "members": [{member: word} for member, word in members.items()]}


def _member_word(text: str) -> str:
    """haproxy adds to some statuses how many checks are still to come, or why: `UP 1/3`, `MAINT (via a/b)`."""
    return text if text == "no check" else text.split(" ", maxsplit=1)[0]
