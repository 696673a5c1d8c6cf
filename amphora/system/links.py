"""
How much each network link has carried: the kernel's answer to one netlink question, read by hand.

pyroute2 would do it, but importing it takes 9 MB of a process that has to stay small, for one message.  psutil and
C{/proc/net/dev} tell of the main thread's namespace, also to a thread that has entered another.  (netlink(7),
rtnetlink(7); numbers and layouts are those of C{linux/rtnetlink.h}, C{linux/if_link.h} and C{linux/if.h}.)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from attrs import frozen

from amphora.network.inside import inside

_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence number, port."""
_LINK = struct.Struct("=BxHiII")
"""ifinfomsg: family, hardware type, index, flags, change mask."""
_ATTRIBUTE = struct.Struct("=HH")
"""rtattr: length, type."""
_STATS = struct.Struct("=QQQQ")
"""How rtnl_link_stats64 begins: packets received and sent, bytes received and sent."""

_ERROR, _DONE, _NEWLINK, _GETLINK = 2, 3, 16, 18
_REQUEST_DUMP = 0x301
_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: links came or went while they were told, and one may be missing."""
_LOOPBACK = 0x8
_NAME, _STATS64 = 3, 23

_QUESTION = _HEADER.pack(_HEADER.size + _LINK.size, _GETLINK, _REQUEST_DUMP, 0, 0) + _LINK.pack(0, 0, 0, 0, 0)
_ANSWER_SIZE = 65536
_PATIENCE = 5.0
_ATTEMPTS = 3


@frozen
class LinkCounters:
    """Bytes that a link has carried since it was made; a link made anew under the same name has another index."""

    index: int
    received: int
    sent: int


def read_links(namespace: str) -> dict[str, LinkCounters]:
    """
    All links of a network namespace (empty: our own) by name, without the loopback.  Blocks.

    Nothing stays open: a socket left inside would keep a namespace alive, and its links with it, that was taken away.

    @raise OSError: if the namespace cannot be entered, or the kernel does not answer.
    """
    return inside(namespace, _read)


def _read() -> dict[str, LinkCounters]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_PATIENCE)
        for _ in range(_ATTEMPTS):
            netlink.send(_QUESTION)
            links, whole = parse_links(iter(lambda: netlink.recv(_ANSWER_SIZE), None))
            if whole:
                break
        return links


def parse_links(datagrams: Iterator[bytes]) -> tuple[dict[str, LinkCounters], bool]:
    """
    Read the kernel's answer, as many datagrams as it takes.

    @return: The links, and whether none came or went while they were told.
    @raise OSError: the kernel's refusal.
    """
    links: dict[str, LinkCounters] = {}
    whole = True
    for datagram in datagrams:
        for kind, flags, body in _messages(datagram):
            whole = whole and not flags & _INTERRUPTED
            if kind in (_DONE, _ERROR):
                # Both begin with an error number, below zero; where all went well it is 0.
                (code,) = struct.unpack_from("=i", body)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return links, whole
            if kind == _NEWLINK:
                links.update(_link(body))
    return links, False


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message."""
    position = 0
    while position + _HEADER.size <= len(datagram):
        length, kind, flags, _, _ = _HEADER.unpack_from(datagram, position)
        yield kind, flags, datagram[position + _HEADER.size : position + length]
        position += _aligned(length)


def _link(body: bytes) -> dict[str, LinkCounters]:
    """The link that a message tells of; nothing for the loopback."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    if flags & _LOOPBACK:
        return {}
    attributes = dict(_attributes(body[_LINK.size :]))
    _, _, received, sent = _STATS.unpack_from(attributes[_STATS64])
    return {os.fsdecode(attributes[_NAME].rstrip(b"\0")): LinkCounters(index, received, sent)}


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, position)
        yield kind, body[position + _ATTRIBUTE.size : position + length]
        position += _aligned(length)


def _aligned(length: int) -> int:
    """Messages and attributes begin at multiples of four bytes."""
    return (length + 3) & ~3
