"""What a controller asks to be plugged, checked before anything is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network

from attrs import frozen

from amphora.network.errors import InvalidPort, InvalidSubnet, InvalidVip, NetworkError
from amphora.network.state import IP, Subnet, normalised_mac, plain_ip

_CIDR = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")
_SHOWN = 80
"""Characters of what was sent that an error repeats."""


@frozen
class VipRequest:
    """A VIP, its subnet and gateway, and the MAC address of the interface that is to have it."""

    ip: IP
    subnet: Subnet
    gateway: IP | None
    mac: str


def read_vip_request(vip: str, body: Mapping[str, object]) -> VipRequest:
    """
    Specification: Plug VIP.

    Whether the gateway can be reached is left to the kernel: it may be outside of the subnet, as a link-local one is.

    @param body: `subnet_cidr`, `gateway` and `mac_address`; anything else is passed over.
    @raise InvalidVip, InvalidSubnet: naming what is wrong.
    """
    ip = plain_ip(vip)
    if ip is None:
        raise InvalidVip(f"not an IPv4 or IPv6 address: {vip}")
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local:
        raise InvalidVip(f"not an address that a VIP can have: {ip}")
    subnet = _subnet(_text(body, "subnet_cidr"))
    gateway_text = _text(body, "gateway")
    gateway = plain_ip(gateway_text)
    if gateway is None:
        raise InvalidSubnet(f"gateway is not an IPv4 or IPv6 address: {gateway_text[:_SHOWN]}")
    mac = _mac(body, InvalidSubnet)
    if ip.version != subnet.version:
        raise InvalidSubnet(f"subnet_cidr {subnet} is not of the VIP's IP version")
    if gateway.version != subnet.version:
        raise InvalidSubnet(f"gateway {gateway} is not of the VIP's IP version")
    if ip not in subnet:
        raise InvalidSubnet(f"the VIP {ip} is not in subnet_cidr {subnet}")
    if gateway == ip:
        raise InvalidSubnet(f"gateway {gateway} is the VIP itself")
    if subnet.prefixlen < subnet.max_prefixlen - 1 and ip in _reserved(subnet):
        raise InvalidVip(f"{ip} is the address of the subnet {subnet} itself, not of an interface in it")
    return VipRequest(ip, subnet, gateway, mac)


def read_port_request(body: Mapping[str, object]) -> str:
    """
    Specification: Plug Network.

    @return: The MAC address, as L{normalised_mac} has it.
    @raise InvalidPort: naming what is wrong.
    """
    return _mac(body, InvalidPort)


def _text(body: Mapping[str, object], key: str, refuse: Callable[[str], NetworkError] = InvalidSubnet) -> str:
    value = body.get(key)
    if value is None:
        raise refuse(f"{key} is missing")
    if not isinstance(value, str):
        raise refuse(f"{key} is not a text")
    return value


def _mac(body: Mapping[str, object], refuse: Callable[[str], NetworkError]) -> str:
    text = _text(body, "mac_address", refuse)
    mac = normalised_mac(text)
    if mac is None:
        raise refuse(f"mac_address is not the MAC address of an interface: {text[:_SHOWN]}")
    return mac


def _subnet(text: str) -> Subnet:
    if not _CIDR.fullmatch(text):
        raise InvalidSubnet(f"subnet_cidr is not an address and the length of its prefix: {text[:_SHOWN]}")
    try:
        subnet = ip_network(text)
    except ValueError as error:
        raise InvalidSubnet(f"subnet_cidr: {error}") from None
    if subnet.prefixlen == 0:
        raise InvalidSubnet(f"subnet_cidr {subnet} is everything, not a subnet")
    return subnet


def _reserved(subnet: Subnet) -> set[IP]:
    """RFC 919 and 922 for IPv4; RFC 4291, 2.6.1, for IPv6, which has no broadcast."""
    return {subnet.network_address, *([subnet.broadcast_address] if subnet.version == 4 else [])}
