"""
How much each network link has carried: the kernel's answer to one netlink question.

psutil and C{/proc/net/dev} tell of the main thread's namespace, also to a thread that has entered another.
(rtnetlink(7); numbers and layouts are those of C{linux/rtnetlink.h}, C{linux/if_link.h} and C{linux/if.h}.)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from attrs import frozen

from amphora.network.inside import inside
from amphora.system.netlink import ANSWER_SIZE, DUMP, INTERRUPTED, REQUEST, answers, attributes, question, understood

_LINK = struct.Struct("=BxHiII")
"""ifinfomsg: family, hardware type, index, flags, change mask."""
_STATS = struct.Struct("=QQQQ")
"""How rtnl_link_stats64 begins: packets received and sent, bytes received and sent."""

_NEWLINK, _GETLINK = 16, 18
_LOOPBACK = 0x8
_NAME, _STATS64 = 3, 23

_QUESTION = question(_GETLINK, REQUEST | DUMP, _LINK.pack(0, 0, 0, 0, 0))
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
            links, whole = parse_links(iter(lambda: netlink.recv(ANSWER_SIZE), None))
            if whole:
                break
        return links


@understood()
def parse_links(datagrams: Iterator[bytes]) -> tuple[dict[str, LinkCounters], bool]:
    """
    Read the kernel's answer, as many datagrams as it takes.

    @return: The links, and whether none came or went while they were told.
    @raise OSError: the kernel's refusal, or if its answer makes no sense.
    """
    links: dict[str, LinkCounters] = {}
    whole = True
    for kind, flags, body in answers(datagrams):
        whole = whole and not flags & INTERRUPTED
        if kind == _NEWLINK:
            links.update(_link(body))
    return links, whole


def _link(body: bytes) -> dict[str, LinkCounters]:
    """The link that a message tells of; nothing for the loopback."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    if flags & _LOOPBACK:
        return {}
    told = attributes(body[_LINK.size :])
    _, _, received, sent = _STATS.unpack_from(told[_STATS64])
    return {os.fsdecode(told[_NAME].rstrip(b"\0")): LinkCounters(index, received, sent)}
