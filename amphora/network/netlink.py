"""
Reading and changing a namespace's network through netlink.  All of it blocks: it is called through `amphora.blocking`.

pyroute2 costs some 9 MB, so it is imported by the first call.  Its sockets work on an asyncio loop; here each call has
one of its own, in its own thread, for as long as it takes: what a call opens it closes, and an answer that does not
come is not waited for.  (A request itself is worked off by the kernel while it is sent; nobody can hurry that.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from amphora.network.inside import HANDLES, inside
from amphora.network.state import (
    PROTOCOL,
    RULE_PRIORITY,
    Address,
    FoundAddress,
    Link,
    Route,
    Rule,
    Snapshot,
    normalised_mac,
)
from amphora.network.steps import (
    Add,
    Change,
    MoveIn,
    MoveOut,
    Remove,
    Rename,
    SetDown,
    SetMtu,
    SetUp,
    StepFailed,
    Undoing,
)
from amphora.system.netlink import understood

T = TypeVar("T")
Netlink = Any
"""An C{AsyncIPRoute}: pyroute2 has no annotations."""

ANSWER_TIMEOUT = 5.0
"""Seconds for one look, or for one row of changes."""
_LOOKS = 20
"""How often a look is taken again that was disturbed by changes."""

# rtnetlink(7), linux/if.h, linux/if_addr.h, linux/rtnetlink.h, linux/fib_rules.h
_UP = 0x1
_LOOPBACK = 0x8
_TENTATIVE = 0x40
_DAD_FAILED = 0x08
_FOREVER = 0xFFFFFFFF
_UNICAST = 1
_CLONED = 0x200
_ONLINK = 0x4
_SCOPE_LINK = 253
_TO_TABLE = 1


def look(namespace: str) -> Snapshot:
    """
    Read a namespace (empty: our own).

    @raise OSError: if it cannot be entered, or the kernel does not tell, or nothing that makes sense.
    """
    with understood():
        return inside(namespace, lambda: _run(_look))


def carry_out(namespace: str, changes: Sequence[Change | Undoing]) -> None:
    """
    Make changes in a namespace, one after the other.

    @raise StepFailed: at the first that the kernel refuses; those after it are not made.
    """
    done = 0

    async def make_all(row: Sequence[Change | Undoing], kernel: Netlink) -> None:
        nonlocal done
        for change in row:
            await _make(kernel, change, namespace)
            done += 1

    # A link can only be taken by where it is.
    for outside, group in groupby(changes, key=lambda change: isinstance(change, MoveIn)):
        try:
            inside("" if outside else namespace, partial(_run, partial(make_all, list(group))))
        except OSError as error:
            raise StepFailed(changes[done], error.strerror or str(error), done) from error


def _run(work: Callable[[Netlink], Coroutine[Any, Any, T]]) -> T:
    """@raise OSError: with the kernel's number and words, or where no answer came."""
    from pyroute2 import AsyncIPRoute, NetlinkError  # type: ignore[import-untyped]

    async def bounded() -> T:
        # Without ext_ack the kernel tells numbers only: "Network is unreachable" for "Nexthop has invalid gateway".
        async with AsyncIPRoute(ext_ack=True) as kernel:
            return await asyncio.wait_for(work(kernel), ANSWER_TIMEOUT)

    try:
        return asyncio.run(bounded())
    except NetlinkError as error:
        raise OSError(error.code, error.args[1]) from error
    except TimeoutError as error:
        raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {ANSWER_TIMEOUT:g} s") from error


# Reading


async def _look(kernel: Netlink) -> Snapshot:
    from pyroute2.netlink import rtnl  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.fibmsg import fibmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

    def of(family: int, request: Any) -> Any:
        request["family"] = family
        return request

    links = await _dump(kernel, rtnl.RTM_GETLINK, of(socket.AF_UNSPEC, ifinfmsg()), _link)
    addresses = await _dump(kernel, rtnl.RTM_GETADDR, of(socket.AF_UNSPEC, ifaddrmsg()), _address)
    routes: list[tuple[int, Route]] = []
    rules: list[Rule] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        routes += await _dump(kernel, rtnl.RTM_GETROUTE, of(family, rtmsg()), _route)
        rules += await _dump(kernel, rtnl.RTM_GETRULE, of(family, fibmsg()), _rule)
    return Snapshot(tuple(links), tuple(addresses), tuple(routes), tuple(rules))


async def _dump(kernel: Netlink, kind: int, request: Any, read: Callable[[Any], T | None]) -> list[T]:
    """
    Ask for all of a kind.

    What changes while the kernel tells may be told twice or not at all; it marks such an answer, and pyroute2 does not
    look at the mark.
    """
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST

    for _ in range(_LOOKS):
        marked = False

        def notice(message: Any) -> bool:
            nonlocal marked
            marked = marked or bool(message["header"]["flags"] & NLM_F_DUMP_INTR)
            return False

        answer = await kernel.nlm_request(request, kind, NLM_F_REQUEST | NLM_F_DUMP, callback=notice)
        found = [thing async for message in answer if (thing := read(message)) is not None]
        if not marked:
            return found
    raise OSError(errno.EAGAIN, "the network changes too fast to be read")


def _link(message: Any) -> Link | None:
    if message["flags"] & _LOOPBACK:
        return None
    names = message.get_attr("IFLA_PROP_LIST")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=normalised_mac(message.get_attr("IFLA_ADDRESS") or "") or "",
        up=bool(message["flags"] & _UP),
        altnames=tuple(names.get_attrs("IFLA_ALT_IFNAME")) if names else (),
        mtu=message.get_attr("IFLA_MTU"),
    )


def _address(message: Any) -> FoundAddress | None:
    if message["family"] not in (socket.AF_INET, socket.AF_INET6):
        return None
    # Of a point-to-point link, IFA_ADDRESS is the other side's.
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    if flags is None:
        flags = message["flags"]
    return FoundAddress(
        index=message["index"],
        address=Address(ip_address(text), message["prefixlen"]),
        tentative=bool(flags & _TENTATIVE),
        duplicate=bool(flags & _DAD_FAILED),
    )


def _route(message: Any) -> tuple[int, Route] | None:
    index = message.get_attr("RTA_OIF")
    if message["proto"] != PROTOCOL or message["type"] != _UNICAST or message["flags"] & _CLONED or index is None:
        return None
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    gateway, source = (message.get_attr(name) for name in ("RTA_GATEWAY", "RTA_PREFSRC"))
    return index, Route(
        destination=ip_network((message.get_attr("RTA_DST") or anywhere, message["dst_len"])),
        table=message.get_attr("RTA_TABLE"),
        metric=message.get_attr("RTA_PRIORITY") or 0,
        gateway=ip_address(gateway) if gateway else None,
        source=ip_address(source) if source else None,
        onlink=bool(message["flags"] & _ONLINK),
    )


def _rule(message: Any) -> Rule | None:
    source = message.get_attr("FRA_SRC")
    if message.get_attr("FRA_PROTOCOL") != PROTOCOL or message["action"] != _TO_TABLE or source is None:
        return None
    return Rule(ip_address(source), message.get_attr("FRA_TABLE"))


# Changing


async def _make(kernel: Netlink, change: Change | Undoing, namespace: str) -> None:
    match change:
        case MoveIn(link, name):
            await _move_in(kernel, link, name, namespace)
        case MoveOut(name, link):
            await _move_out(kernel, name, link)
        case Rename(link, name):
            await kernel.link("set", index=link.index, ifname=name)
        case SetMtu(link, mtu):
            await kernel.link("set", index=link.index, mtu=mtu)
        case SetUp(link):
            await kernel.link("set", index=link.index, state="up")
        case SetDown(link):
            await kernel.link("set", index=link.index, state="down")
        case Add(link, what):
            await _tell(kernel, "add", link, what)
        case Remove(link, what):
            await _tell(kernel, "del", link, what)


async def _tell(kernel: Netlink, command: str, link: Link, what: Address | Route | Rule) -> None:
    match what:
        case Address(ip, prefixlen):
            preference: dict[str, int] = {}
            if command == "add" and ip.version == 6 and prefixlen == ip.max_prefixlen:
                # Deprecated (RFC 4862, 5.5.4): what leaves has the interface's own address, unless it is an answer.
                preference = {"preferred_lft": 0, "valid_lft": _FOREVER}
            await kernel.addr(command, index=link.index, address=str(ip), prefixlen=prefixlen, **preference)
        case Route():
            optional = {"gateway": what.gateway, "prefsrc": what.source}
            await kernel.route(
                command,
                family=_family(what.destination.version),
                dst=str(what.destination),
                oif=link.index,
                table=what.table,
                priority=what.metric,
                proto=PROTOCOL,
                flags=_ONLINK if what.onlink else 0,
                scope=_SCOPE_LINK if what.destination.version == 4 and what.gateway is None else 0,
                **{key: str(ip) for key, ip in optional.items() if ip is not None},
            )
        case Rule(source, table):
            await kernel.rule(
                command,
                family=_family(source.version),
                src=str(source),
                src_len=source.max_prefixlen,
                table=table,
                priority=RULE_PRIORITY,
                protocol=PROTOCOL,
            )


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


async def _move_in(kernel: Netlink, link: Link, name: str, namespace: str) -> None:
    """
    One message moves and renames, so that a link whose own name is taken in there gets past it.

    The kernel moves first.  If the other name cannot be had, the link is in there with its own, and is brought back.
    """
    with _opened(HANDLES / namespace) as handle:
        try:
            await kernel.link("set", index=link.index, net_ns_fd=handle, ifname=name)
        except Exception:
            with suppress(Exception):
                inside(namespace, lambda: _run(lambda within: _move_out(within, link.name, link)))
            raise


async def _move_out(kernel: Netlink, name: str, link: Link) -> None:
    # Its index may be another than it was outside.
    (found,) = await kernel.link("get", ifname=name)
    # That of our first thread, which never enters another.
    with _opened(Path(f"/proc/{os.getpid()}/ns/net")) as handle:
        await kernel.link("set", index=found["index"], net_ns_fd=handle, ifname=link.name)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
