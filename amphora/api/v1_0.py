"""
The routes that today's Octavia controller calls: each reads its request, calls one method, and answers.

A load balancer is an instance, each of its frontends a listener.  Those of UDP and SCTP are objects of their own, which
are started, stopped and deleted by their own ids.  The controller repeats what it got no answer to: whatever is asked
for twice is there, or gone, once.  What changes a load balancer is closed while the topology changes, which only
happens where v0.1 is spoken as well: who asked for that change was promised it.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from attrs import define
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from amphora.api.answers import CONFIGURATION_VALID, OK, answer_bytes, answer_json, etag
from amphora.api.bodies import body_array, body_bytes, body_file, body_object
from amphora.api.details_1_0 import API_VERSION, Details10
from amphora.api.errors import ErrorAnswer, RequestRefused, install_error_pages
from amphora.api.errors_1_0 import UNFORESEEN_1_0, answer_for_1_0
from amphora.api.routing import new_app, uuid_in
from amphora.live_settings import LiveSettings
from amphora.loadbalancer.errors import NotRunning
from amphora.loadbalancer.instance import ACTIONS, Action, Done, Status
from amphora.loadbalancer.instances import Instances
from amphora.lvs.listeners import LvsListeners
from amphora.network.filter_rules import read_rules
from amphora.network.plugging import Network
from amphora.network.requests import read_network_request, read_vips_request
from amphora.system.server_certificate import ServerCertificate
from amphora.vrrp import errors as vrrp_errors
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.topology import AmphoraTopology

_CERTIFICATE = "/loadbalancer/<load_balancer>/certificates/<filename>"

_STATUSES: dict[Status, str] = {"ACTIVE": "ACTIVE", "STOPPED": "OFFLINE", "ERROR": "ERROR"}


@define(eq=False, slots=False)
class V10:
    """Octavia's API 1.0."""

    app = new_app()
    install_error_pages(app, answer_for_1_0, UNFORESEEN_1_0)
    api_version: ClassVar[str] = API_VERSION

    _details: Details10
    _instances: Instances
    _lvs_listeners: LvsListeners
    _network: Network
    _keepalived: Keepalived
    _topology: AmphoraTopology
    _server_certificate: ServerCertificate
    _settings: LiveSettings

    def resource(self) -> IResource:
        resource: IResource = self.app.resource()
        return resource

    # Who this amphora is

    @app.route("/info", methods=["GET"])
    async def info(self, request: IRequest) -> bytes:
        """What a controller asks for until a new amphora answers."""
        return answer_json(request, 200, await self._details.info())

    @app.route("/details", methods=["GET"])
    async def details(self, request: IRequest) -> bytes:
        """What a controller asks before it renders a haproxy configuration."""
        return answer_json(request, 200, await self._details.details())

    # Load balancers and their listeners

    @app.route("/loadbalancer/<amphora>/<load_balancer>/haproxy", methods=["PUT"])
    async def upload(self, request: IRequest, amphora: str, load_balancer: str) -> bytes:
        """Take a haproxy configuration; what runs goes on until it is told to reload."""
        self._topology.require_rest()
        load_balancer_id = _load_balancer_id(load_balancer)
        amphora_id = uuid_in(amphora, "The amphora's id")
        md5 = await self._instances.upload(load_balancer_id, amphora_id, await body_file(request))
        return answer_json(request, 202, OK, etag(md5))

    @app.route("/loadbalancer/<load_balancer>/haproxy", methods=["GET"])
    async def configuration(self, request: IRequest, load_balancer: str) -> bytes:
        """The haproxy configuration, as it was uploaded."""
        content = await self._instances.get(_load_balancer_id(load_balancer)).configuration()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return answer_bytes(request, 200, content, "text/plain", etag(md5))

    @app.route("/loadbalancer/<load_balancer>/<action>", methods=["PUT"])
    async def act(self, request: IRequest, load_balancer: str, action: str) -> bytes:
        """Start, stop or reload a load balancer, or a UDP listener.  The action is looked at first."""
        known_action = _action(action)
        self._topology.require_rest()
        load_balancer_id = _load_balancer_id(load_balancer)
        if self._lvs_listeners.has(load_balancer_id):
            participle = await self._lvs_listeners.get(load_balancer_id).act(known_action)
            details = f"keepalivedlvs listener {load_balancer_id} {participle}"
            return answer_json(request, 202, {**OK, "details": details})
        try:
            done = await self._instances.get(load_balancer_id).act(known_action)
        except NotRunning:
            # As it should not: whoever asks again, because the answer got lost, has what he wants.
            done = Done("stop")
        return answer_json(request, 202, {**OK, "details": _words(load_balancer_id, done)})

    @app.route("/listeners", methods=["GET"])
    async def listeners(self, request: IRequest) -> bytes:
        """How the listeners fare: those of a load balancer all alike."""
        found = [
            {"status": _STATUSES[status.status], "uuid": listener.listener_id, "type": listener.kind}
            for status in await self._instances.statuses()
            for listener in status.listeners
        ]
        found += [
            {"status": status.status, "uuid": status.listener_id, "type": "UDP"}
            for status in self._lvs_listeners.statuses()
        ]
        return answer_json(request, 200, found)

    @app.route("/listeners/<load_balancer>", methods=["DELETE"])
    async def delete(self, request: IRequest, load_balancer: str) -> bytes:
        """Take a load balancer, or a UDP listener, away: it is gone also where there was none.  Its VIPs stay."""
        self._topology.require_rest()
        load_balancer_id = _load_balancer_id(load_balancer)
        if not await self._lvs_listeners.discard(load_balancer_id):
            await self._instances.discard(load_balancer_id)
        return answer_json(request, 200, OK)

    @app.route(_CERTIFICATE, methods=["PUT"])
    async def put_certificate(self, request: IRequest, load_balancer: str, filename: str) -> bytes:
        """Keep a file that a configuration will name, whatever it holds: it comes before the configuration."""
        self._topology.require_rest()
        await self._instances.put_file(_load_balancer_id(load_balancer), filename, body_bytes(request))
        return answer_json(request, 200, OK)

    @app.route(_CERTIFICATE, methods=["GET"])
    async def certificate(self, request: IRequest, load_balancer: str, filename: str) -> bytes:
        """By its sum a controller sees whether it has to bring the file."""
        md5 = await self._instances.file_md5(_load_balancer_id(load_balancer), filename)
        return answer_json(request, 200, {"md5sum": md5})

    @app.route(_CERTIFICATE, methods=["DELETE"])
    async def delete_certificate(self, request: IRequest, load_balancer: str, filename: str) -> bytes:
        """Take such a file away: it is gone also where there was none."""
        self._topology.require_rest()
        await self._instances.discard_file(_load_balancer_id(load_balancer), filename)
        return answer_json(request, 200, OK)

    # LVS listeners

    @app.route("/listeners/<amphora>/<listener>/udp_listener", methods=["PUT"])
    async def upload_lvs(self, request: IRequest, amphora: str, listener: str) -> bytes:
        """Take a UDP or SCTP listener's configuration; what runs goes on until it is told to reload."""
        self._topology.require_rest()
        uuid_in(amphora, "The amphora's id")
        md5 = await self._lvs_listeners.upload(_listener_id(listener), body_bytes(request))
        return answer_json(request, 200, OK, etag(md5))

    @app.route("/listeners/<listener>/udp_listener", methods=["GET"])
    async def lvs_configuration(self, request: IRequest, listener: str) -> bytes:
        """A UDP or SCTP listener's configuration, as it was uploaded."""
        content = await self._lvs_listeners.get(_listener_id(listener)).configuration()
        return answer_bytes(request, 200, content, "text/plain")

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

    @app.route("/interface/<ip>", methods=["GET"])
    async def interface(self, request: IRequest, ip: str) -> bytes:
        """Which interface has an address: of a pair's VIP, a controller learns by it which amphora has it."""
        return answer_json(request, 200, {**OK, "interface": await self._network.interface_of(ip)})

    @app.route("/interface/<ip>/rules", methods=["PUT"])
    async def replace_rules(self, request: IRequest, ip: str) -> bytes:
        """What the interface with this address lets in: the interface is looked for first."""
        interface = await self._network.interface_of(ip)
        rules = read_rules(body_array(request, "Invalid rules information"))
        await self._network.replace_rules(interface, rules)
        return answer_json(request, 200, OK)

    # keepalived

    @app.route("/vrrp/upload", methods=["PUT"])
    async def upload_vrrp(self, request: IRequest) -> bytes:
        """Take a configuration; what runs goes on as it is until it is started or reloaded."""
        content = body_bytes(request)
        await self._keepalived.upload(content)
        return answer_json(request, 200, OK, etag(hashlib.md5(content, usedforsecurity=False).hexdigest()))

    @app.route("/vrrp/<action>", methods=["PUT"])
    async def vrrp(self, request: IRequest, action: str) -> bytes:
        """Start, stop or reload it; the start of one that runs loads what was uploaded since."""
        known = _action(action)
        try:
            details = await self._keepalived.act(known)
        except vrrp_errors.NotRunning:
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


def _action(text: str) -> Action:
    """@raise RequestRefused: 400 for all that is none, in whatever case."""
    word = text.lower()
    if word not in ACTIONS:
        raise RequestRefused(ErrorAnswer(400, "Invalid Request", f"Unknown action: {text}"))
    return ACTIONS[word]


def _words(load_balancer_id: str, done: Done) -> str:
    """What today's agent tells of what was done, spelled as it spells it."""
    match done.action:
        case "start":
            words = f"{CONFIGURATION_VALID}\nhaproxy daemon for {load_balancer_id} started"
        case "stop":
            words = f"Listener {load_balancer_id} stoped"
        case "reload":
            words = f"Listener {load_balancer_id} reloaded"
    return f"{words}\n{done.note}" if done.note else words


def _load_balancer_id(text: str) -> str:
    return uuid_in(text, "The load balancer's id")


def _listener_id(text: str) -> str:
    return uuid_in(text, "The listener's id")
