"""
Telling the neighbours of an interface that an address is here now, so that none keeps an older answer.

Of IPv4: a gratuitous ARP request (RFC 5227, 3), whose sender and target are the address.  Of IPv6: an unsolicited
neighbour advertisement to all nodes (RFC 4861, 7.2.6), with the override flag.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from attrs import frozen

from amphora.network.inside import inside
from amphora.network.state import IP

_BROADCAST = b"\xff" * 6
_ETHERTYPE_ARP = 0x0806
_ALL_NODES = "ff02::1"
_OVERRIDE = 0x20000000
_NEIGHBOUR_ADVERTISEMENT = 136
_TARGET_LINK_ADDRESS = 2
_TIMEOUT = 1.0


@frozen
class Advertisement:
    """That an address is at an interface, whose index and MAC address are these."""

    interface: str
    index: int
    mac: str
    ip: IP


def arp_frame(mac: str, ip: IPv4Address) -> bytes:
    """The Ethernet frame of a gratuitous ARP request (RFC 826)."""
    station = bytes.fromhex(mac.replace(":", ""))
    header = _BROADCAST + station + struct.pack("!H", _ETHERTYPE_ARP)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return header + request + station + ip.packed + _BROADCAST + ip.packed


def neighbour_advertisement(mac: str, ip: IPv6Address) -> bytes:
    """The ICMPv6 message (RFC 4861, 4.4 and 4.6.1); the kernel puts the checksum in."""
    station = bytes.fromhex(mac.replace(":", ""))
    message = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + ip.packed
    return message + struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + station


def advertise(namespace: str, advertisements: Iterable[Advertisement]) -> list[str]:
    """
    Send each once, from inside a namespace (empty: our own).  Blocks.

    @return: What could not be sent, and why.
    """

    def send_all() -> list[str]:
        problems = []
        for one in advertisements:
            try:
                _send(one)
            except OSError as error:
                problems.append(f"{one.ip} on {one.interface}: {error.strerror or error}")
        return problems

    try:
        return inside(namespace, send_all)
    except OSError as error:
        return [f"the network namespace cannot be entered: {error.strerror}"]


def _send(one: Advertisement) -> None:
    if isinstance(one.ip, IPv4Address):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
            link.settimeout(_TIMEOUT)
            link.bind((one.interface, 0))
            link.send(arp_frame(one.mac, one.ip))
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as icmp:
        icmp.settimeout(_TIMEOUT)
        # Receivers drop what a router could have forwarded.
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, one.index)
        icmp.bind((str(one.ip), 0))
        icmp.sendto(neighbour_advertisement(one.mac, one.ip), (_ALL_NODES, 0, 0, one.index))
