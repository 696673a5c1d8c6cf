"""What a VIP's interface should let in, as a controller tells it, and as it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final, Literal, get_args

from attrs import frozen

from amphora.network.errors import InvalidRules
from amphora.network.state import Subnet

Protocol = Literal["TCP", "UDP", "SCTP", "vrrp"]

_PROTOCOLS: Final[Mapping[str, Protocol]] = {protocol: protocol for protocol in get_args(Protocol)}
_FIELDS: Final = ("protocol", "cidr", "port")
_HIGHEST_PORT: Final = 65535
_SHOWN: Final = 80
"""Characters of what was sent that an error repeats."""


@frozen
class FilterRule:
    """
    Who may come in, and whereto.

    `cidr` is where it comes from; None is everywhere, of both IP versions.  `port` means nothing for VRRP, which has
    none.
    """

    protocol: Protocol
    cidr: Subnet | None
    port: int

    def encode(self) -> dict[str, Any]:
        """As a controller sends it."""
        return {
            "protocol": self.protocol,
            "cidr": None if self.cidr is None else str(self.cidr),
            "port": self.port,
        }


def read_rules(body: Sequence[object]) -> tuple[FilterRule, ...]:
    """
    Octavia's rules for an interface: an array of objects with `protocol`, `cidr` and `port`, and nothing else.

    @raise InvalidRules: naming the first entry that is wrong, counted from 1, and its field.
    """
    return tuple(_rule(number, entry) for number, entry in enumerate(body, 1))


def _rule(number: int, entry: object) -> FilterRule:
    def refuse(problem: str) -> InvalidRules:
        return InvalidRules(f"rule {number}: {problem}")

    if not isinstance(entry, dict):
        raise refuse("is not a JSON object")
    for name in _FIELDS:
        if name not in entry:
            raise refuse(f"{name} is missing")
    for name in entry:
        if name not in _FIELDS:
            raise refuse(f"{name[:_SHOWN]} is not known")
    protocol, cidr, port = (entry[name] for name in _FIELDS)
    if not isinstance(protocol, str) or protocol not in _PROTOCOLS:
        raise refuse(f"protocol is none of {', '.join(_PROTOCOLS)}: {_shown(protocol)}")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= _HIGHEST_PORT:
        raise refuse(f"port is not a number from 1 to {_HIGHEST_PORT}: {_shown(port)}")
    if cidr is not None and not isinstance(cidr, str):
        raise refuse(f"cidr is neither a text nor null: {_shown(cidr)}")
    try:
        subnet = None if cidr is None else _subnet(cidr)
    except ValueError:
        raise refuse(f"cidr is not an address and the length of its prefix: {_shown(cidr)}") from None
    return FilterRule(_PROTOCOLS[protocol], subnet, port)


def _subnet(text: str) -> Subnet:
    """Bits beyond the prefix are passed over.  @raise ValueError: for what is none, or holds only for one link."""
    if "%" in text:
        raise ValueError(text)
    return ip_network(text, strict=False)


def _shown(value: object) -> str:
    return str(value)[:_SHOWN]
