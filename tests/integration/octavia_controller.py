"""
The controller's side of the interoperability tests: Octavia itself, unmodified, in an environment of its own.

    python -P octavia_controller.py OPTIONS

OPTIONS is a JSON object, by group and name, of what `octavia.conf` would say.  Then each line on standard input is a
call, ``{"call": NAME, "plan": PLAN, "arguments": […], "options": {…}}``, and each line on standard output its answer:
``{"result": …}`` or ``{"error": CLASS, "text": TEXT, "log": LINES}``.  A plan describes a load balancer much as
Octavia's own API does; Octavia's data models are made of it anew for each call, as its flows read them anew from the
database.

Nothing of Octavia is replaced but its database: the health manager finds the plan in place of it.
"""
# Octavia is not in the environment that mypy knows: none of its names has a type here.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

# The other backend needs eventlet, and Octavia's flows do not depend on either.
from oslo_config import cfg
from oslo_log import log
from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)

from octavia.amphorae.backends.agent import agent_jinja_cfg  # noqa: E402
from octavia.amphorae.drivers.haproxy import rest_api_driver  # noqa: E402
from octavia.amphorae.drivers.health import heartbeat_udp  # noqa: E402
from octavia.certificates.generator import local as generator  # noqa: E402
from octavia.certificates.manager import local as manager  # noqa: E402
from octavia.common import data_models  # noqa: E402
from octavia.network import data_models as network_models  # noqa: E402

PROJECT = "b1c2d3e4f5a64b7c8d9e0f1a2b3c4d5e"
_REQUESTS = {"request", "get", "post", "put", "delete", "head"}
"""What the client's methods are made of; the driver's own `delete` is another."""
Plan = dict[str, Any]


# Octavia's data models, from a plan


def build(plan: Plan) -> Any:
    """The load balancer that a plan describes, with all that belongs to it, each linked to each as in the database."""
    balancer = data_models.LoadBalancer(
        id=plan["id"],
        project_id=PROJECT,
        enabled=plan.get("enabled", True),
        topology=plan["topology"],
        provisioning_status="ACTIVE",
        vip=data_models.Vip(
            load_balancer_id=plan["id"], ip_address=plan["vip"], vnic_type=plan.get("vnic_type", "normal")
        ),
        additional_vips=[
            data_models.AdditionalVip(load_balancer_id=plan["id"], ip_address=vip["ip_address"])
            for vip in plan.get("additional_vips", [])
        ],
    )
    balancer.amphorae = [
        data_models.Amphora(
            load_balancer_id=plan["id"],
            status=amphora.get("status", "ALLOCATED"),
            load_balancer=balancer,
            ha_ip=plan["vip"],
            **{name: value for name, value in amphora.items() if name not in {"status", "mac_address"}},
        )
        for amphora in plan["amphorae"]
    ]
    if plan["topology"] == "ACTIVE_STANDBY":
        balancer.vrrp_group = data_models.VRRPGroup(
            load_balancer_id=plan["id"],
            vrrp_group_name=plan["id"].replace("-", ""),
            vrrp_auth_type="PASS",
            vrrp_auth_pass=plan["vrrp_auth_pass"],
            advert_int=1,
            load_balancer=balancer,
        )
    pools = {pool["id"]: _pool(pool, balancer) for pool in plan.get("pools", [])}
    balancer.pools = list(pools.values())
    balancer.listeners = [_listener(listener, balancer, pools) for listener in plan.get("listeners", [])]
    return balancer


def _pool(plan: Plan, balancer: Any) -> Any:
    plan = {"enabled": True, "lb_algorithm": "ROUND_ROBIN", "tls_enabled": False, **plan}
    members = plan.pop("members", [])
    monitor = plan.pop("health_monitor", None)
    persistence = plan.pop("session_persistence", None)
    pool = data_models.Pool(
        project_id=PROJECT,
        load_balancer_id=balancer.id,
        load_balancer=balancer,
        provisioning_status="ACTIVE",
        operating_status="ONLINE",
        **plan,
    )
    pool.members = [
        data_models.Member(
            pool_id=pool.id, pool=pool, provisioning_status="ACTIVE", **{"enabled": True, "weight": 1, **member}
        )
        for member in members
    ]
    if monitor is not None:
        timing = {"delay": 1, "timeout": 1, "fall_threshold": 1, "rise_threshold": 1, "enabled": True}
        pool.health_monitor = data_models.HealthMonitor(
            pool_id=pool.id, pool=pool, provisioning_status="ACTIVE", **{**timing, **monitor}
        )
    if persistence is not None:
        pool.session_persistence = data_models.SessionPersistence(pool_id=pool.id, pool=pool, **persistence)
    return pool


def _listener(plan: Plan, balancer: Any, pools: dict[str, Any]) -> Any:
    # By default it would be 50,000: more files than everybody may open who runs tests.
    plan = {"enabled": True, "connection_limit": 1000, "peer_port": 1025, **plan}
    policies = plan.pop("l7policies", [])
    names = plan.pop("sni_container_ids", [])
    listener = data_models.Listener(
        project_id=PROJECT,
        load_balancer_id=balancer.id,
        load_balancer=balancer,
        provisioning_status="ACTIVE",
        operating_status="ONLINE",
        default_pool=pools.get(plan["default_pool_id"]),
        **plan,
    )
    listener.sni_containers = [
        data_models.SNI(listener_id=listener.id, listener=listener, position=position, tls_container_id=reference)
        for position, reference in enumerate(names)
    ]
    used = [] if listener.default_pool is None else [listener.default_pool]
    for policy_plan in policies:
        rules = policy_plan["l7rules"]
        policy = data_models.L7Policy(
            listener_id=listener.id,
            listener=listener,
            enabled=True,
            provisioning_status="ACTIVE",
            redirect_pool=pools.get(policy_plan.get("redirect_pool_id")),
            **{name: value for name, value in policy_plan.items() if name != "l7rules"},
        )
        policy.l7rules = [
            data_models.L7Rule(
                l7policy_id=policy.id, l7policy=policy, enabled=True, provisioning_status="ACTIVE", **rule
            )
            for rule in rules
        ]
        listener.l7policies.append(policy)
        if policy.redirect_pool is not None and policy.redirect_pool not in used:
            used.append(policy.redirect_pool)
    listener.pools = used
    for pool in used:
        pool.listeners.append(listener)
    return listener


def _subnet(plan: Plan) -> Any:
    routes = [network_models.HostRoute(**route) for route in plan.get("host_routes", [])]
    return network_models.Subnet(cidr=plan["cidr"], gateway_ip=plan.get("gateway_ip"), host_routes=routes)


def _network_config(plan: Plan) -> dict[str, Any]:
    """What a flow knows of the network of a load balancer, by amphora, as the dictionaries that tasks hand on."""
    told = {
        "vip_subnet": _subnet(plan["subnet"]).to_dict(recurse=True),
        "additional_vip_data": [
            {"ip_address": vip["ip_address"], "subnet": _subnet(vip["subnet"]).to_dict(recurse=True)}
            for vip in plan.get("additional_vips", [])
        ],
    }
    return {amphora["id"]: told for amphora in plan["amphorae"]}


def _port(plan: Plan) -> Any:
    return network_models.Port(
        id=plan.get("id"),
        mac_address=plan["mac_address"],
        network=network_models.Network(mtu=plan.get("mtu", 1450)),
        fixed_ips=[
            network_models.FixedIP(ip_address=fixed["ip_address"], subnet=_subnet(fixed["subnet"]))
            for fixed in plan.get("fixed_ips", [])
        ],
    )


# What stands in for the database


class Database:
    """
    What the health manager reads of a load balancer and writes about it.

    Each of its repositories is this: it calls `update` with an object's id, of whatever kind that is.
    """

    def __init__(self) -> None:
        self.plan: Plan = {}
        self.statuses: dict[str, str] = {}
        self.refreshed = False

    def know(self, plan: Plan) -> None:
        self.plan = plan

    def get_lb_for_health_update(self, session: object, amphora_id: str) -> dict[str, Any] | None:
        if amphora_id not in [amphora["id"] for amphora in self.plan["amphorae"]]:
            return None

        def row(kind: Plan, **more: object) -> dict[str, Any]:
            return {**more, "operating_status": self.statuses.get(kind["id"], "OFFLINE")}

        return {
            **row(self.plan, id=self.plan["id"], enabled=self.plan.get("enabled", True), provisioning_status="ACTIVE"),
            "listeners": {
                each["id"]: row(each, protocol=each["protocol"], enabled=each.get("enabled", True))
                for each in self.plan.get("listeners", [])
            },
            "pools": {
                pool["id"]: row(pool, members={member["id"]: row(member) for member in pool.get("members", [])})
                for pool in self.plan.get("pools", [])
            },
        }

    def get(self, session: object, id: str) -> None:
        return None

    def update(self, session: object, id: str, operating_status: str) -> None:
        self.statuses[id] = operating_status

    def replace(self, session: object, amphora_id: str, last_update: object) -> None:
        self.refreshed = True


class AtOnce:
    """In place of a pool of processes: what is submitted is done, and its message kept."""

    def __init__(self) -> None:
        self.last: Any = None

    def submit(self, work: Callable[..., None], message: dict[str, Any], *more: object) -> None:
        self.last = message
        work(message, *more)


# What a test may call


class Controller:
    """Each public method is a call; its first argument is the plan."""

    def __init__(self) -> None:
        self._driver = rest_api_driver.HaproxyAmphoraLoadBalancerDriver()
        self._client = self._driver.clients["1.0"]
        self._database = Database()
        self._getter: Any = None
        self._uncalled: set[str] = set()
        self._note_calls_of(self._driver)
        self._note_calls_of(self._client)

    def _note_calls_of(self, noted: Any) -> None:
        for name in dir(noted):
            method = getattr(noted, name)
            if callable(method) and not name.startswith("_") and not (noted is self._client and name in _REQUESTS):
                setattr(noted, name, self._noting(f"{type(noted).__name__}.{name}", method))

    def _noting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        self._uncalled.add(name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._uncalled.discard(name)
            return method(*arguments, **options)

        return call

    def uncalled(self, plan: Plan, amphora: int = 0) -> list[str]:
        """The public methods of driver and client that nobody has called yet."""
        return sorted(self._uncalled)

    def _amphora(self, balancer: Any, index: int = 0) -> Any:
        return balancer.amphorae[index]

    def client(self, plan: Plan, method: str, *arguments: Any, amphora: int = 0) -> Any:
        """Any method of the client of version 1.0.  @return: what it returns; of a response, its status and body."""
        addressed = self._amphora(build(plan), amphora)
        addressed.api_version = "1.0"
        answer = getattr(self._client, method)(addressed, *arguments)
        if not hasattr(answer, "status_code"):
            return answer
        is_json = "json" in answer.headers["Content-Type"]
        return [answer.status_code, answer.json() if is_json else answer.text]

    def of_amphora(self, plan: Plan, method: str, amphora: int = 0) -> None:
        """Any method of the driver that is given an amphora alone."""
        getattr(self._driver, method)(self._amphora(build(plan), amphora))

    def of_balancer(self, plan: Plan, method: str, amphora: int = 0) -> None:
        """Any that is given a load balancer alone, which has this amphora alone, as in `delete_listener`."""
        balancer = build(plan)
        balancer.amphorae = [self._amphora(balancer, amphora)]
        getattr(self._driver, method)(balancer)

    # An amphora's own

    def generate_server_pem(self, plan: Plan, amphora: int = 0) -> str:
        """As GenerateServerPEMTask."""
        made = generator.LocalCertGenerator.generate_cert_key_pair(cn=plan["amphorae"][amphora]["id"], validity=3600)
        return str((made.certificate + made.private_key).decode())

    def agent_config(self, plan: Plan, amphora: int = 0) -> str:
        """What cloud-init is given, and what an update of the agent's configuration sends."""
        rendered = agent_jinja_cfg.AgentJinjaTemplater().build_agent_config(
            plan["amphorae"][amphora]["id"], plan["topology"]
        )
        return str(rendered)

    def get_info(self, plan: Plan, amphora: int = 0) -> Any:
        """As AmphoraComputeConnectivityWait."""
        return self._driver.get_info(self._amphora(build(plan), amphora), raise_retry_exception=True)

    def check(self, plan: Plan, amphora: int = 0) -> None:
        """As AmphoraeGetConnectivityStatus."""
        self._driver.check(self._amphora(build(plan), amphora))

    def rotate(self, plan: Plan, amphora: int = 0) -> str:
        """As the flow that rotates certificates.  @return: the new PEM"""
        pem = self.generate_server_pem(plan, amphora)
        self._driver.upload_cert_amp(self._amphora(build(plan), amphora), pem.encode())
        return pem

    def update_agent_config(self, plan: Plan, text: str, amphora: int = 0) -> None:
        """As AmphoraConfigUpdate."""
        self._driver.update_amphora_agent_config(self._amphora(build(plan), amphora), text)

    # The network

    def plug_vip(self, plan: Plan, amphora: int = 0) -> None:
        """As AmphoraPostVIPPlug."""
        balancer = build(plan)
        port = _port({"mac_address": plan["amphorae"][amphora]["mac_address"]})
        more = [
            network_models.AdditionalVipData(ip_address=vip["ip_address"], subnet=_subnet(vip["subnet"]))
            for vip in plan.get("additional_vips", [])
        ]
        self._driver.post_vip_plug(
            self._amphora(balancer, amphora), balancer, None, port, _subnet(plan["subnet"]), additional_vip_data=more
        )

    def plug_network(self, plan: Plan, port: Plan, amphora: int = 0) -> None:
        """As AmphoraPostNetworkPlug."""
        balancer = build(plan)
        addressed = self._amphora(balancer, amphora)
        self._driver.post_network_plug(addressed, _port(port), _network_config(plan)[addressed.id])

    def interface(self, plan: Plan, address: str, amphora: int = 0) -> Any:
        """The interface that has an address."""
        return self._driver.get_interface_from_ip(self._amphora(build(plan), amphora), address)

    def set_rules(self, plan: Plan, rules: list[Plan], amphora: int = 0) -> None:
        """As SetAmphoraFirewallRules."""
        addressed = self._amphora(build(plan), amphora)
        self._driver.set_interface_rules(addressed, addressed.vrrp_ip, rules)

    # A load balancer

    def store_certificate(self, plan: Plan, certificate: str, key: str, chain: str | None = None) -> Any:
        """What a tenant does at the key manager.  @return: the reference"""
        return manager.LocalCertManager.store_cert(None, certificate, key, intermediates=chain)

    def update(self, plan: Plan, amphora: int = 0) -> None:
        """As AmphoraIndexListenerUpdate, which ListenersUpdate does with each amphora."""
        balancer = build(plan)
        self._driver.update_amphora_listeners(balancer, self._amphora(balancer, amphora))

    def start(self, plan: Plan, amphora: int = 0) -> None:
        """As ListenersStart."""
        balancer = build(plan)
        self._driver.start(balancer, self._amphora(balancer, amphora))

    def reload(self, plan: Plan, amphora: int = 0) -> None:
        """As AmphoraIndexListenersReload."""
        balancer = build(plan)
        self._driver.reload(balancer, self._amphora(balancer, amphora))

    def delete_listener(self, plan: Plan, listener_id: str, amphora: int = 0) -> None:
        """As ListenerDelete, of this amphora's part: others have controllers of their own."""
        balancer = build(plan)
        balancer.amphorae = [self._amphora(balancer, amphora)]
        self._driver.delete(next(each for each in balancer.listeners if each.id == listener_id))

    # keepalived

    def update_vrrp(self, plan: Plan, amphora: int = 0) -> Any:
        """As the three tasks of an amphora in the VRRP subflow.  @return: the interface that was found"""
        balancer = build(plan)
        addressed = self._amphora(balancer, amphora)
        addressed.vrrp_interface = self._driver.get_interface_from_ip(addressed, addressed.vrrp_ip)
        self._driver.update_vrrp_conf(balancer, _network_config(plan), addressed)
        self._driver.start_vrrp_service(addressed)
        return addressed.vrrp_interface

    # Its health

    def heartbeat(self, plan: Plan) -> Any:
        """
        Wait for one heartbeat, and let the health manager make of it what it does.

        @return: The message; whether it counts as a sign of life; the operating statuses, by the ids of things.
        """
        if self._getter is None:
            self._getter = heartbeat_udp.UDPStatusGetter()
            self._getter.health_executor = AtOnce()
            self._getter.stats_executor = AtOnce()
            for name in ("amphora", "amphora_health", "listener", "loadbalancer", "member", "pool"):
                setattr(self._getter.health_updater, f"{name}_repo", self._database)
        self._database.know(plan)
        self._database.refreshed = False
        received = self._getter.health_executor
        received.last = None
        while received.last is None:
            self._getter.check()
        return {
            "message": received.last,
            "refreshed": self._database.refreshed,
            "statuses": self._database.statuses,
        }


class Kept(logging.Handler):
    """Keeps what Octavia logs while it works at a call."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    """Answer calls until the input ends."""
    # Whatever else is printed must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    log.register_options(cfg.CONF)
    cfg.CONF([], project="octavia", default_config_files=[])
    for group, options in json.loads(sys.argv[1]).items():
        for name, value in options.items():
            cfg.CONF.set_override(name, value, group)
    log.setup(cfg.CONF, "octavia")
    kept = Kept()
    logging.getLogger().addHandler(kept)
    controller = Controller()
    answers.write(json.dumps({"result": "ready"}) + "\n")
    answers.flush()
    for line in sys.stdin:
        call = json.loads(line)
        arguments = [
            base64.b64decode(each["base64"]) if isinstance(each, dict) and set(each) == {"base64"} else each
            for each in call["arguments"]
        ]
        kept.lines.clear()
        try:
            result = getattr(controller, call["call"])(call["plan"], *arguments, **call["options"])
            answer = {"result": result}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error), "log": kept.lines}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
