"""From what there is to what there should be, by differences alone: nothing that is right is ever touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from amphora.network.plan import Found, Port, Wanted
from amphora.network.state import Address, Link, Route, Snapshot
from amphora.network.steps import Add, AwaitUsable, Change, MoveIn, Remove, Rename, SetMtu, SetUp, Step

T = TypeVar("T")


def place(found: Found, name: str) -> list[Change]:
    """What brings a link into the amphora's namespace, by its name there."""
    if found.outside:
        return [MoveIn(found.link, name)]
    return [Rename(found.link, name)] if found.link.name != name else []


def reconcile(link: Link, port: Port, wanted: Wanted, snapshot: Snapshot) -> list[Step]:
    """
    What makes a link have what it should, in the order in which the kernel takes it; nothing where it has.

    What is taken away is ours alone: addresses that we gave it, routes that have our number and lead through this link,
    rules that have it and are for one of its addresses; and of an address that it should have, another prefix.
    """
    there = {found.address: found for found in snapshot.addresses if found.index == link.index}
    routes = {route for index, route in snapshot.routes if index == link.index}
    own_ips = {address.ip for address in port.ours} | {vip.ip for vip in port.vips}
    rules = {rule for rule in snapshot.rules if rule.source in own_ips}
    wanted_ips = {address.ip: address for address in wanted.addresses}

    def superfluous(address: Address) -> bool:
        if address in wanted.addresses:
            # The kernel asks again whether somebody has it only if it is given anew.
            return there[address].duplicate
        return address in port.ours or address.ip in wanted_ips

    gone = {address for address in there if superfluous(address)}
    # An address of IPv6 is there once, whatever its prefix.  All others go last: with its last one of IPv4, a link
    # loses routes that nobody undoing this would know of.
    first = {address for address in gone if address.ip in wanted_ips}
    steps: list[Step] = [] if wanted.mtu in (None, link.mtu) else [SetMtu(link, wanted.mtu)]
    steps += [] if link.up else [SetUp(link)]
    steps += [Remove(link, rule) for rule in _in_order(rules - wanted.rules)]
    steps += [Remove(link, route) for route in reversed(_routes_in_order(routes - wanted.routes))]
    steps += [Remove(link, address) for address in _in_order(first)]
    # IPv4 first: it does not wait.
    for version in (4, 6):
        addresses = [address for address in _in_order(wanted.addresses) if address.ip.version == version]
        steps += [Add(link, address) for address in addresses if address not in there or address in gone]
        if version == 6:
            # Of all, it is found out at the same time.
            waiting = [address for address in addresses if address not in there or not there[address].usable]
            steps += [AwaitUsable(link, address.ip) for address in waiting]
        steps += [
            Add(link, route)
            for route in _routes_in_order(wanted.routes - routes)
            if route.destination.version == version
        ]
        steps += [Add(link, rule) for rule in _in_order(wanted.rules - rules) if rule.source.version == version]
    steps += [Remove(link, address) for address in _in_order(gone - first)]
    return steps


def _in_order(things: Iterable[T]) -> list[T]:
    return sorted(things, key=str)


def _routes_in_order(routes: Iterable[Route]) -> list[Route]:
    """A gateway is only taken where a route leads to it."""
    return sorted(routes, key=lambda route: (route.gateway is not None, str(route)))
