"""The virtual addresses that the namespace's links have: they tell a role where keepalived itself cannot be heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, TypeVar

from attrs import frozen

from amphora.network.inside import inside

T = TypeVar("T")


@frozen
class _Held:
    """An address of a link; `address` is normalised."""

    address: str
    prefix: int
    link: int


def held_addresses(namespace: str) -> frozenset[str]:
    """
    All addresses that there are in the namespace (empty: our own), normalised.  Blocks.

    @raise OSError: if the namespace cannot be entered or asked.
    """

    return _with_netlink(namespace, lambda kernel: frozenset(held.address for held in _addresses(kernel)))


def withdraw(addresses: frozenset[str], namespace: str) -> frozenset[str]:
    """
    Take these addresses away from the links that have them: a keepalived that was killed leaves them.  Blocks.

    @return: those that were there.
    @raise OSError: if the namespace cannot be entered or asked, or one of them stays.
    """

    def remove(kernel: Any) -> frozenset[str]:
        there = [held for held in _addresses(kernel) if held.address in addresses]
        for held in there:
            kernel.addr("del", index=held.link, address=held.address, prefixlen=held.prefix)
        return frozenset(held.address for held in there)

    return _with_netlink(namespace, remove)


def _with_netlink(namespace: str, work: Callable[[Any], T]) -> T:
    """@raise OSError: with the kernel's number and words."""
    # Imported when it is needed: it takes a tenth of a second.
    from pyroute2 import IPRoute, NetlinkError  # type: ignore[import-untyped]

    def call() -> T:
        with IPRoute() as kernel:
            return work(kernel)

    try:
        return inside(namespace, call)
    except NetlinkError as error:
        raise OSError(error.code, error.args[1]) from error


def _addresses(kernel: Any) -> Iterator[_Held]:
    for message in kernel.get_addr():
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if address is not None:
            yield _Held(str(ip_address(address)), message["prefixlen"], message["index"])
