"""What `POST topology` asks for, and whether it makes sense (specification: Set amphora topology)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, cast, get_args

from attrs import field, frozen

from amphora.vrrp.keepalived_config import KeepalivedConfig
from amphora.vrrp.standing import Role, Topology

TOPOLOGIES: Final = get_args(Topology)
ROLES: Final = get_args(Role)
PAIR: Final = "ACTIVE-STANDBY"

_LONGEST_SECRET = 1024
_SIGNIFICANT = 8
"""Of an C{auth_pass} keepalived looks at so many characters (RFC 2338, 5.3.10: 64 bits)."""


@frozen
class InvalidTopology(Exception):
    """A request that is not taken: a sentence for each thing that is wrong with it, none of them quotes the secret."""

    problems: tuple[str, ...]


@frozen
class TopologyRequest:
    """A topology and, in a pair, the role that is asked for, the address that both share, and their secret."""

    topology: Topology
    role: Role = "ACTIVE"
    ha_ip: str = ""
    secret: str = field(default="", repr=False)

    @property
    def is_pair(self) -> bool:
        return self.topology == PAIR


def read_request(body: Mapping[str, Any]) -> TopologyRequest:
    """
    Read a request's body, a JSON object.

    Role, address and secret count in ACTIVE-STANDBY only; elsewhere they are passed over.

    @raise InvalidTopology: for all that is wrong with it at once.
    """
    topology = body.get("topology")
    if topology in TOPOLOGIES and topology != PAIR:
        return TopologyRequest(cast(Topology, topology))
    problems: list[str] = []
    if topology != PAIR:
        problems.append("topology is missing" if topology is None else f"Unknown topology: {_shown(topology)}")
        # Which of the others would be needed cannot be told; of those that are there, what is wrong can.
        body = {**_HARMLESS, **{name: value for name, value in body.items() if value is not None}}
    ha_ip = _read_address(body.get("ha_ip"), problems)
    if body.get("role") not in ROLES:
        role = body.get("role")
        problems.append("role is missing" if role is None else f"Unknown role: {_shown(role)}")
    secret = body.get("secret")
    if not isinstance(secret, str) or not secret:
        problems.append("secret is missing" if secret in (None, "") else "secret is not a text")
    elif not secret.isprintable() or len(secret) > _LONGEST_SECRET:
        problems.append(f"secret is not a line of at most {_LONGEST_SECRET} printable characters")
    if problems:
        raise InvalidTopology(tuple(problems))
    return TopologyRequest(PAIR, cast(Role, body["role"]), ha_ip, cast(str, secret))


_HARMLESS: Final[dict[str, Any]] = {"role": "ACTIVE", "ha_ip": "::", "secret": "x"}


def _read_address(text: object, problems: list[str]) -> str:
    if text is None:
        problems.append("ha_ip is missing")
        return ""
    # A number is an address to the library, and so is one with a zone; neither is one that a pair can share.
    if isinstance(text, str) and "%" not in text:
        with suppress(ValueError):
            return str(ip_address(text.strip()))
    problems.append(f"Invalid ha_ip: {_shown(text)}")
    return ""


def _shown(value: object) -> str:
    """A value of the client's, on one line that does not end it."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


def differences(request: TopologyRequest, config: KeepalivedConfig) -> tuple[str, ...]:
    """
    What of a pair's request is not what its keepalived configuration says ("topology logic test").

    Where that authenticates nobody, no secret is at odds with it; what it says by variables, only keepalived knows.
    """
    problems: list[str] = []
    if request.ha_ip not in config.addresses and not any(instance.opaque for instance in config.instances):
        problems.append(f"ha_ip {request.ha_ip} is not among the virtual addresses of the keepalived configuration")
    passwords = {instance.auth_pass[:_SIGNIFICANT] for instance in config.instances if instance.auth_pass is not None}
    if passwords and request.secret[:_SIGNIFICANT] not in passwords:
        problems.append("secret is not the auth_pass of the keepalived configuration")
    return tuple(problems)
