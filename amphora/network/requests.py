"""What a controller asks to be plugged, checked before anything is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_network

from attrs import evolve, frozen

from amphora.network.errors import (
    InvalidFixedIp,
    InvalidPort,
    InvalidSubnet,
    InvalidVip,
    InvalidVrrpAddress,
    NetworkError,
)
from amphora.network.state import IP, Address, FixedIp, HostRoute, Subnet, normalised_mac, plain_ip

_CIDR = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")
_SHOWN = 80
"""Characters of what was sent that an error repeats."""
_LEAST_MTU_6 = 1280
_GREATEST_NUMBER = 2**31 - 1
"""What netlink takes and gives of an MTU, without a sign."""
_VIP_KEYS = ("subnet_cidr", "gateway", "mac_address")
_FURTHER_VIP_KEYS = ("ip_address", "subnet_cidr", "gateway", "host_routes")

Refusal = Callable[[str], NetworkError]
"""Makes an error of what is wrong."""


@frozen
class VipRequest:
    """A VIP, its subnet and gateway, and the MAC address of the interface that is to have it."""

    ip: IP
    subnet: Subnet
    gateway: IP | None
    mac: str
    host_routes: tuple[HostRoute, ...] = ()


@frozen
class PortRequest:
    """
    What the API 1.0 asks of an interface.

    `all_vips`: a VIP of 1.0 that is not among `vips` is not wanted any more.  `vrrp_ip` counts where there are VIPs.
    The network is asked for an address where that is None, or where there are no VIPs and `fixed_ips` is empty.
    `fixed_ips` of None: nothing is said of them.  `mtu` of None: the link keeps its own.
    """

    mac: str
    vips: tuple[VipRequest, ...] = ()
    all_vips: bool = False
    vrrp_ip: Address | None = None
    fixed_ips: tuple[FixedIp, ...] | None = None
    mtu: int | None = None
    is_sriov: bool = False


def read_vip_request(vip: str, body: Mapping[str, object]) -> VipRequest:
    """
    Specification: Plug VIP.

    Whether the gateway can be reached is left to the kernel: it may be outside of the subnet, as a link-local one is.

    @param body: `subnet_cidr`, `gateway` and `mac_address`; anything else is passed over.
    @raise InvalidVip, InvalidSubnet: naming what is wrong.
    """
    ip = _vip(vip)
    subnet = _subnet(_text(body, "subnet_cidr"))
    gateway = _ip(_text(body, "gateway"), "gateway", InvalidSubnet)
    mac = _mac(body, InvalidSubnet)
    return _in_subnet(VipRequest(ip, subnet, gateway, mac), InvalidSubnet)


def read_vips_request(vip: str, body: Mapping[str, object]) -> PortRequest:
    """
    API 1.0: plug VIP, and what else comes with it.

    VIPs that the interface has besides go if `additional_vips` tells of all, and stay where it is absent.

    @param body: `subnet_cidr`, `gateway` (or null), `mac_address`; and perhaps `vrrp_ip`, `mtu`, `host_routes`,
        `additional_vips`, `is_sriov`.
    @raise InvalidSubnet: if something is missing, or of a wrong kind.
    @raise InvalidVip: if a VIP, a subnet, a gateway or a host route cannot serve.
    @raise InvalidVrrpAddress: if `vrrp_ip` cannot.
    """
    request = _read_vips(vip, body, _mac(_complete(body, _VIP_KEYS, InvalidSubnet), InvalidSubnet))
    return _fitting(
        evolve(
            request,
            all_vips=body.get("additional_vips") is not None,
            mtu=_mtu(body, InvalidSubnet),
            is_sriov=_flag(body, "is_sriov", InvalidSubnet),
        ),
        InvalidSubnet,
    )


def read_network_request(body: Mapping[str, object]) -> PortRequest:
    """
    API 1.0: plug a network, or give the interface of a VIP further addresses (`vip_net_info`).

    Octavia tells of the interface's first VIP only then: the others stay.

    @param body: `mac_address`; and perhaps `fixed_ips`, `mtu`, `is_sriov`, `vip_net_info`.
    @raise InvalidPort: if something is missing, or of a wrong kind.
    @raise InvalidFixedIp: if an address, a subnet, a gateway or a host route of `fixed_ips` cannot serve.
    @raise InvalidVip, InvalidVrrpAddress: if what `vip_net_info` tells cannot.
    """
    mac = _mac(body, InvalidPort)
    info = body.get("vip_net_info")
    if info is None:
        request = PortRequest(mac)
    elif isinstance(info, dict):
        _complete(info, ("vip", *_VIP_KEYS), InvalidPort)
        request = _read_vips(_text(info, "vip", InvalidPort), info, mac, InvalidPort)
    else:
        raise InvalidPort("vip_net_info is not an object")
    return _fitting(
        evolve(
            request,
            fixed_ips=tuple(_fixed_ip(each) for each in _objects(body, "fixed_ips", InvalidPort)),
            mtu=_mtu(body, InvalidPort),
            # Octavia tells it of the port, not of the VIP on it.
            is_sriov=_flag(body, "is_sriov", InvalidPort) or _flag(info or {}, "is_sriov", InvalidPort),
        ),
        InvalidPort,
    )


def read_port_request(body: Mapping[str, object]) -> str:
    """
    Specification: Plug Network.

    @return: The MAC address, as L{normalised_mac} has it.
    @raise InvalidPort: naming what is wrong.
    """
    return _mac(body, InvalidPort)


def _read_vips(text: str, body: Mapping[str, object], mac: str, refuse: Refusal = InvalidSubnet) -> PortRequest:
    """@param refuse: What is said to what is missing, or of a wrong kind."""
    further = _objects(body, "additional_vips", refuse)
    for each in further:
        _complete(each, _FURTHER_VIP_KEYS, refuse)
    told = [(text, body), *((_text(each, "ip_address", refuse), each) for each in further)]
    vips = []
    for address, entry in told:
        ip, subnet = _vip(address), _subnet(_text(entry, "subnet_cidr", refuse), InvalidVip)
        gateway = None if entry["gateway"] is None else _ip(_text(entry, "gateway", refuse), "gateway", InvalidVip)
        routes = _host_routes(entry, refuse, InvalidVip)
        vips.append(_in_subnet(VipRequest(ip, subnet, gateway, mac, routes), InvalidVip))
    if len({vip.ip for vip in vips}) < len(vips):
        raise InvalidVip("one VIP is told twice")
    return PortRequest(mac, tuple(vips), vrrp_ip=_vrrp_ip(body, vips, refuse))


def _vrrp_ip(body: Mapping[str, object], vips: Sequence[VipRequest], refuse: Refusal) -> Address | None:
    if body.get("vrrp_ip") is None:
        return None
    subnet = vips[0].subnet
    ip = _ip(_text(body, "vrrp_ip", refuse), "vrrp_ip", InvalidVrrpAddress)
    if ip not in subnet:
        raise InvalidVrrpAddress(f"{ip} is not in the VIP's subnet {subnet}")
    if any(vip.ip == ip for vip in vips):
        raise InvalidVrrpAddress(f"{ip} is the VIP itself")
    return Address(ip, subnet.prefixlen)


def _fixed_ip(entry: Mapping[str, object]) -> FixedIp:
    _complete(entry, ("ip_address", "subnet_cidr"), InvalidPort)
    ip = _ip(_text(entry, "ip_address", InvalidPort), "ip_address", InvalidFixedIp)
    subnet = _subnet(_text(entry, "subnet_cidr", InvalidPort), InvalidFixedIp)
    if ip not in subnet:
        raise InvalidFixedIp(f"{ip} is not in subnet_cidr {subnet}")
    gateway = None
    if entry.get("gateway") is not None:
        gateway = _ip(_text(entry, "gateway", InvalidPort), "gateway", InvalidFixedIp)
        if gateway.version != ip.version:
            raise InvalidFixedIp(f"gateway {gateway} is not of the IP version of {ip}")
    return FixedIp(ip, subnet, gateway, _host_routes(entry, InvalidPort, InvalidFixedIp))


def _host_routes(entry: Mapping[str, object], refuse: Refusal, refuse_value: Refusal) -> tuple[HostRoute, ...]:
    routes = []
    for each in _objects(entry, "host_routes", refuse):
        text = _text(each, "destination", refuse)
        nexthop = _ip(_text(each, "nexthop", refuse), "nexthop", refuse_value)
        try:
            # A user may write it with any address of the destination.
            destination = ip_network(text, strict=False)
        except ValueError:
            raise refuse_value(f"destination is not a network: {text[:_SHOWN]}") from None
        if destination.version != nexthop.version:
            raise refuse_value(f"nexthop {nexthop} is not of the IP version of destination {destination}")
        routes.append(HostRoute(destination, nexthop))
    return tuple(routes)


def _fitting(request: PortRequest, refuse: Refusal) -> PortRequest:
    """With a smaller MTU, the kernel takes IPv6 off the link (RFC 8200, 5)."""
    ips = [vip.ip for vip in request.vips] + [fixed.ip for fixed in request.fixed_ips or ()]
    if request.mtu is not None and request.mtu < _LEAST_MTU_6 and any(ip.version == 6 for ip in ips):
        raise refuse(f"mtu {request.mtu} is less than {_LEAST_MTU_6}, which IPv6 needs")
    return request


def _in_subnet(request: VipRequest, refuse: Refusal) -> VipRequest:
    """@param refuse: What is said to a subnet or gateway that does not go with the VIP."""
    ip, subnet, gateway = request.ip, request.subnet, request.gateway
    if ip.version != subnet.version:
        raise refuse(f"subnet_cidr {subnet} is not of the VIP's IP version")
    if gateway is not None and gateway.version != subnet.version:
        raise refuse(f"gateway {gateway} is not of the VIP's IP version")
    if ip not in subnet:
        raise refuse(f"the VIP {ip} is not in subnet_cidr {subnet}")
    if gateway == ip:
        raise refuse(f"gateway {gateway} is the VIP itself")
    if subnet.prefixlen < subnet.max_prefixlen - 1 and ip in _reserved(subnet):
        raise InvalidVip(f"{ip} is the address of the subnet {subnet} itself, not of an interface in it")
    return request


def _vip(text: str) -> IP:
    ip = plain_ip(text)
    if ip is None:
        raise InvalidVip(f"not an IPv4 or IPv6 address: {text[:_SHOWN]}")
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local:
        raise InvalidVip(f"not an address that a VIP can have: {ip}")
    return ip


def _ip(text: str, key: str, refuse: Refusal) -> IP:
    ip = plain_ip(text)
    if ip is None:
        raise refuse(f"{key} is not an IPv4 or IPv6 address: {text[:_SHOWN]}")
    return ip


def _complete(body: Mapping[str, object], keys: Iterable[str], refuse: Refusal) -> Mapping[str, object]:
    for key in keys:
        if key not in body:
            raise refuse(f"{key} is missing")
    return body


def _objects(body: Mapping[str, object], key: str, refuse: Refusal) -> list[Mapping[str, object]]:
    """A list of objects; nothing where it is absent or null."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise refuse(f"{key} is not a list of objects")
    return value


def _mtu(body: Mapping[str, object], refuse: Refusal) -> int | None:
    value = body.get("mtu")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _GREATEST_NUMBER:
        raise refuse(f"mtu is not a number of octets: {str(value)[:_SHOWN]}")
    return value


def _flag(body: Mapping[str, object], key: str, refuse: Refusal) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise refuse(f"{key} is neither true nor false")
    return value is True


def _text(body: Mapping[str, object], key: str, refuse: Refusal = InvalidSubnet) -> str:
    value = body.get(key)
    if value is None:
        raise refuse(f"{key} is missing")
    if not isinstance(value, str):
        raise refuse(f"{key} is not a text")
    return value


def _mac(body: Mapping[str, object], refuse: Refusal) -> str:
    text = _text(body, "mac_address", refuse)
    mac = normalised_mac(text)
    if mac is None:
        raise refuse(f"mac_address is not the MAC address of an interface: {text[:_SHOWN]}")
    return mac


def _subnet(text: str, refuse: Refusal = InvalidSubnet) -> Subnet:
    if not _CIDR.fullmatch(text):
        raise refuse(f"subnet_cidr is not an address and the length of its prefix: {text[:_SHOWN]}")
    try:
        subnet = ip_network(text)
    except ValueError as error:
        raise refuse(f"subnet_cidr: {error}") from None
    if subnet.prefixlen == 0:
        raise refuse(f"subnet_cidr {subnet} is everything, not a subnet")
    return subnet


def _reserved(subnet: Subnet) -> set[IP]:
    """RFC 919 and 922 for IPv4; RFC 4291, 2.6.1, for IPv6, which has no broadcast."""
    return {subnet.network_address, *([subnet.broadcast_address] if subnet.version == 4 else [])}
