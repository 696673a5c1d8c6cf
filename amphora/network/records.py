"""
What was plugged, on disk: one file for each interface, below C{agent_server_network_dir}.

The keys are Octavia's (C{name}, C{if_type}, C{addresses}, C{routes}, C{rules}), so that who knows its files can read
ours.  Read back are our own, C{mac_address}, C{vips}, C{vrrp_ip}, C{fixed_ips} and C{lease}, further C{mtu} and
C{is_sriov}, and which addresses we gave (C{octavia_owned}): the rest follows from them.

There is no second file that says which MAC address has which name (C{plugged_interfaces} of Octavia's agent): it could
only contradict these.  Nor would writing it serve that agent's C{amphora-netns.service}: what that unit brings up next
is for a program that reads files of its own.  That agent's files have no C{mac_address}; they are told and passed over,
and what they tell of is plugged again by the next plug.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from attrs import frozen

from amphora.files import DAMAGED, remove_unfinished, replace_file, sync_directory
from amphora.network.dhcp import Lease
from amphora.network.plan import Port, Vip, Wanted
from amphora.network.state import (
    IP,
    MAIN_TABLE,
    RESERVED_TABLES,
    Address,
    FixedIp,
    HostRoute,
    Route,
    Rule,
    normalised_mac,
)

_MODE = 0o644


@frozen
class Records:
    """All methods may wait for a disk."""

    _directory: Path

    def load(self) -> tuple[list[Port], list[str]]:
        """
        Read all records, in the order of their names.

        @return: The records; and what cannot be read, and why.
        @raise OSError: if the directory cannot be read.
        """
        if not self._directory.exists():
            return [], []
        remove_unfinished(self._directory)
        ports: dict[str, Port] = {}
        problems: list[str] = []
        for path in sorted(path for path in self._directory.iterdir() if path.suffix == ".json"):
            try:
                port = _decode(json.loads(path.read_bytes()))
                if path != self._path(port.name):
                    raise ValueError(f"is the record of {port.name}")
                if port.mac in ports:
                    raise ValueError(f"has the MAC address of {ports[port.mac].name}")
                ports[port.mac] = port
            except (OSError, *DAMAGED) as error:
                problems.append(f"{path}: {error!r}")
        return list(ports.values()), problems

    def save(self, port: Port, wanted: Wanted) -> None:
        """
        Write a record, unless it is there.

        @raise OSError: as the system says; what was there before still is then.
        """
        path = self._path(port.name)
        content = json.dumps(_encode(port, wanted), indent=2).encode() + b"\n"
        if path.exists() and path.read_bytes() == content:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, _MODE)

    def remove(self, name: str) -> None:
        """Take a record away.  @raise OSError: as the system says."""
        path = self._path(name)
        if path.exists():
            path.unlink()
            sync_directory(self._directory)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _encode(port: Port, wanted: Wanted) -> dict[str, Any]:
    ours = [{"address": str(each.ip), "prefixlen": each.prefixlen, "octavia_owned": True} for each in port.ours]
    others = [
        {"address": str(vip.ip), "prefixlen": vip.ip.max_prefixlen, "octavia_owned": False}
        for vip in port.vips
        if vip.in_use and vip.address not in port.ours
    ]
    return {
        "name": port.name,
        "if_type": port.kind,
        "mac_address": port.mac,
        "vips": [
            {
                "ip_address": str(vip.ip),
                "subnet_cidr": str(vip.subnet),
                "gateway": _text(vip.gateway),
                "table": vip.table,
                "in_use": vip.in_use,
                "lasting": vip.lasting,
                "host_routes": _encode_host_routes(vip.host_routes),
            }
            for vip in port.vips
        ],
        "vrrp_ip": _text(port.vrrp_ip),
        "fixed_ips": [
            {
                "ip_address": str(fixed.ip),
                "subnet_cidr": str(fixed.subnet),
                "gateway": _text(fixed.gateway),
                "host_routes": _encode_host_routes(fixed.host_routes),
            }
            for fixed in port.fixed_ips
        ],
        "is_sriov": port.is_sriov,
        **({} if port.mtu is None else {"mtu": port.mtu}),
        **({} if port.lease is None else {"lease": _encode_lease(port.lease)}),
        "addresses": [
            *sorted(ours, key=str),
            *sorted(others, key=str),
            *([{"dhcp": True}] if wanted.dhcp else []),
            *([{"ipv6auto": True}] if 6 in port.asks_for else []),
        ],
        "routes": sorted((_encode_route(route) for route in wanted.routes), key=str),
        "rules": sorted((_encode_rule(rule) for rule in wanted.rules), key=str),
    }


def _text(what: object) -> str | None:
    return None if what is None else str(what)


def _encode_host_routes(routes: Iterable[HostRoute]) -> list[dict[str, str]]:
    return [{"destination": str(route.destination), "nexthop": str(route.nexthop)} for route in routes]


def _encode_lease(lease: Lease) -> dict[str, Any]:
    return {
        "ip_address": str(lease.ip),
        "prefixlen": lease.prefixlen,
        "seconds": lease.seconds,
        "host_routes": [
            {"destination": str(destination), "nexthop": None if gateway is None else str(gateway)}
            for destination, gateway in lease.routes
        ],
    }


def _encode_route(route: Route) -> dict[str, Any]:
    return {
        "dst": str(route.destination),
        **({} if route.gateway is None else {"gateway": str(route.gateway)}),
        **({"scope": "link"} if route.gateway is None else {}),
        **({"flags": ["onlink"]} if route.onlink else {}),
        **({} if route.source is None else {"prefsrc": str(route.source)}),
        **({} if route.table == MAIN_TABLE else {"table": route.table}),
    }


def _encode_rule(rule: Rule) -> dict[str, Any]:
    return {"src": str(rule.source), "src_len": rule.source.max_prefixlen, "table": rule.table}


def _decode(known: Mapping[str, Any]) -> Port:
    """@raise ValueError, TypeError, KeyError, AttributeError: for what is no record."""
    mac = normalised_mac(known["mac_address"])
    name = known["name"]
    if mac is None or not isinstance(name, str) or not name or "/" in name:
        raise ValueError("has no name or no MAC address")
    return Port(
        name=name,
        mac=mac,
        vips=tuple(_decode_vip(vip) for vip in known["vips"]),
        lease=_decode_lease(known["lease"]) if "lease" in known else None,
        ours=frozenset(
            Address(ip_address(str(each["address"])), int(each["prefixlen"]))
            for each in known["addresses"]
            if each.get("octavia_owned") is True
        ),
        vrrp_ip=_decode_address(known.get("vrrp_ip")),
        fixed_ips=tuple(
            FixedIp(
                ip=ip_address(str(each["ip_address"])),
                subnet=ip_network(str(each["subnet_cidr"])),
                gateway=_decode_ip(each["gateway"]),
                host_routes=_decode_host_routes(each["host_routes"]),
            )
            for each in known.get("fixed_ips", ())
        ),
        mtu=int(known["mtu"]) if "mtu" in known else None,
        is_sriov=known.get("is_sriov") is True,
    )


def _decode_ip(text: str | None) -> IP | None:
    return None if text is None else ip_address(str(text))


def _decode_address(text: str | None) -> Address | None:
    if text is None:
        return None
    interface = ip_interface(str(text))
    return Address(interface.ip, interface.network.prefixlen)


def _decode_host_routes(known: Iterable[Mapping[str, Any]]) -> tuple[HostRoute, ...]:
    return tuple(HostRoute(ip_network(str(each["destination"])), ip_address(str(each["nexthop"]))) for each in known)


def _decode_lease(known: Mapping[str, Any]) -> Lease:
    return Lease(
        ip=IPv4Address(str(known["ip_address"])),
        prefixlen=int(known["prefixlen"]),
        seconds=int(known["seconds"]),
        routes=tuple(
            (IPv4Network(str(each["destination"])), IPv4Address(each["nexthop"]) if each["nexthop"] else None)
            for each in known["host_routes"]
        ),
    )


def _decode_vip(known: Mapping[str, Any]) -> Vip:
    vip = Vip(
        ip=ip_address(str(known["ip_address"])),
        subnet=ip_network(str(known["subnet_cidr"])),
        gateway=_decode_ip(known["gateway"]),
        table=int(known["table"]),
        in_use=known["in_use"] is True,
        lasting=known.get("lasting") is True,
        host_routes=_decode_host_routes(known.get("host_routes", ())),
    )
    if (
        vip.ip not in vip.subnet
        or (vip.gateway is not None and vip.ip.version != vip.gateway.version)
        or vip.table < 1
        or vip.table in RESERVED_TABLES
    ):
        raise ValueError(f"contradicts itself: {vip}")
    return vip
