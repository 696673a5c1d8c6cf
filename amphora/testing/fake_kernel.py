"""
A stand-in for the kernel's network: it holds two namespaces, and refuses what the real one refuses, in its words.

What it does is tried on the real one as well, by `tests/integration/test_network_kernel.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from attrs import define, evolve, field

from amphora.network.advertise import Advertisement
from amphora.network.plan import Sight
from amphora.network.state import IP, Address, FoundAddress, Link, Route, Rule, Snapshot
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

_LARGEST_MTU = 65535


@define(eq=False)
class FakeNamespace:
    """The network of one namespace."""

    links: list[Link] = field(factory=list)
    addresses: list[FoundAddress] = field(factory=list)
    routes: list[tuple[int, Route]] = field(factory=list)
    rules: list[Rule] = field(factory=list)

    def snapshot(self) -> Snapshot:
        """What is there now."""
        return Snapshot(tuple(self.links), tuple(self.addresses), tuple(self.routes), tuple(self.rules))

    def link(self, mac: str) -> Link:
        """The link with this MAC address."""
        (found,) = [link for link in self.links if link.mac == mac]
        return found

    def take_out(self, link: Link) -> Link:
        """A link leaves: its addresses and routes are gone, and it is down."""
        self.links = [one for one in self.links if one.index != link.index]
        self.addresses = [found for found in self.addresses if found.index != link.index]
        self.routes = [(index, route) for index, route in self.routes if index != link.index]
        return evolve(link, up=False)


@define(eq=False)
class FakeKernel:
    """
    An L{amphora.network.kernel.Kernel} that refuses what the real one refuses, in its words.

    Duplicate address detection ends when the test says so.
    """

    apart: bool = True
    """Has the amphora a namespace of its own?"""
    inside: FakeNamespace = field(factory=FakeNamespace)
    outside: FakeNamespace = field(factory=FakeNamespace)
    made: list[Change | Undoing] = field(factory=list)
    """All changes that were made."""
    refused: dict[str, str] = field(factory=dict)
    """Words for changes that are refused, by a part of what the change says of itself."""
    unreadable: OSError | None = None
    sysctls: dict[str, str] = field(factory=dict)
    limits: dict[str, int] = field(factory=dict)
    advertised: list[tuple[str, IP]] = field(factory=list)
    """Interface and address, as often as they were advertised."""
    problems: list[str] = field(factory=list)
    """What does not work of that which nothing depends on."""
    searches: int = 0
    _last_index: int = 1

    def new_link(self, mac: str, name: str = "", *, inside: bool = False, up: bool = False) -> Link:
        """A device appears."""
        self._last_index += 1
        link = Link(self._last_index, name or f"new{self._last_index}", mac, up)
        (self.inside if inside or not self.apart else self.outside).links.append(link)
        return link

    def end_detection(self, *, duplicates: bool = False) -> None:
        """Nobody else has the tentative addresses, or somebody has."""
        self.inside.addresses = [
            evolve(found, tentative=duplicates, duplicate=duplicates) if found.tentative else found
            for found in self.inside.addresses
        ]

    # amphora.network.kernel.Kernel

    def look(self) -> Snapshot:
        if self.unreadable is not None:
            raise self.unreadable
        return self.inside.snapshot()

    def look_around(self) -> Sight:
        return Sight(self.look(), self.outside.snapshot() if self.apart else None)

    def carry_out(self, changes: Sequence[Change | Undoing]) -> None:
        for done, change in enumerate(changes):
            words = [words for part, words in self.refused.items() if part in str(change)]
            try:
                if words:
                    raise _Refused(words[0])
                self._make(change)
            except _Refused as refused:
                raise StepFailed(change, str(refused), done) from None
            self.made.append(change)

    def apply_sysctls(self, settings: Mapping[str, str]) -> list[str]:
        self.sysctls.update(settings)
        return self.problems

    def raise_limits(self, limits: Mapping[str, int]) -> list[str]:
        for path, limit in limits.items():
            self.limits[path] = max(limit, self.limits.get(path, 0))
        return self.problems

    def advertise(self, advertisements: Iterable[Advertisement]) -> list[str]:
        self.advertised += [(one.interface, one.ip) for one in advertisements]
        return self.problems

    def find_devices(self) -> None:
        self.searches += 1

    def _make(self, change: Change | Undoing) -> None:
        inside = self.inside
        match change:
            case MoveIn(link, name):
                self._require_free(inside, name, link)
                inside.links.append(evolve(self.outside.take_out(link), name=name))
            case MoveOut(name, link):
                found = next((one for one in inside.links if one.name == name), None)
                if found is None:
                    raise _Refused("No such device")
                self._require_free(self.outside, link.name, link)
                self.outside.links.append(evolve(inside.take_out(found), name=link.name))
            case Rename(link, name):
                self._require_free(inside, name, link)
                self._replace(link, name=name)
            case SetMtu(link, mtu):
                if mtu > _LARGEST_MTU:
                    raise _Refused("mtu greater than device maximum")
                self._replace(link, mtu=mtu)
            case SetUp(link):
                self._replace(link, up=True)
            case SetDown(link):
                self._replace(link, up=False)
            case Add(link, Address() as address):
                self._add_address(link, address)
            case Add(link, Route() as route):
                self._add_route(link, route)
            case Add(link, Rule() as rule):
                if rule in inside.rules:
                    raise _Refused("File exists")
                inside.rules.append(rule)
            case Remove(link, Address() as address):
                self._remove_address(link, address)
            case Remove(link, Route() as route):
                if (link.index, route) not in inside.routes:
                    raise _Refused("No such process")
                inside.routes.remove((link.index, route))
            case Remove(link, Rule() as rule):
                if rule not in inside.rules:
                    raise _Refused("No such file or directory")
                inside.rules.remove(rule)

    def _require_free(self, namespace: FakeNamespace, name: str, link: Link) -> None:
        names = [name for one in namespace.links if one.index != link.index for name in (one.name, *one.altnames)]
        if name in (*names, *link.altnames):
            raise _Refused("File exists")

    def _replace(self, link: Link, **changes: Any) -> None:
        if all(one.index != link.index for one in self.inside.links):
            raise _Refused("No such device")
        self.inside.links = [evolve(one, **changes) if one.index == link.index else one for one in self.inside.links]

    def _add_address(self, link: Link, address: Address) -> None:
        version = address.ip.version
        for found in self.inside.addresses:
            if found.index == link.index and (
                found.address == address or (version == 6 and found.address.ip == address.ip)
            ):
                raise _Refused("ipv4: Address already assigned" if version == 4 else "ipv6: address already assigned")
        self.inside.addresses.append(FoundAddress(link.index, address, tentative=version == 6))

    def _remove_address(self, link: Link, address: Address) -> None:
        version = address.ip.version
        kept = [found for found in self.inside.addresses if (found.index, found.address) != (link.index, address)]
        if len(kept) == len(self.inside.addresses):
            raise _Refused("ipv4: Address not found" if version == 4 else "ipv6: address not found")
        self.inside.addresses = kept
        if version == 4 and not any(found.index == link.index and found.address.ip.version == 4 for found in kept):
            # Without an address IPv4 is off on a link.
            self.inside.routes = [
                (index, route)
                for index, route in self.inside.routes
                if index != link.index or route.destination.version == 6
            ]

    def _add_route(self, link: Link, route: Route) -> None:
        version = route.destination.version
        if any(
            (other.destination, other.table, other.metric) == (route.destination, route.table, route.metric)
            for _, other in self.inside.routes
        ):
            raise _Refused("File exists")
        here = [found for found in self.inside.addresses if found.index == link.index]
        if route.source is not None and not any(found.usable and found.address.ip == route.source for found in here):
            raise _Refused("Invalid prefsrc address" if version == 4 else "Invalid source address")
        subnets = [ip_network((found.address.ip, found.address.prefixlen), strict=False) for found in here]
        subnets += [
            other.destination for index, other in self.inside.routes if index == link.index and not other.gateway
        ]
        if route.gateway is not None and not route.onlink and not any(route.gateway in each for each in subnets):
            raise _Refused("Nexthop has invalid gateway" if version == 4 else "No route to host")
        if any(found.address.ip == route.gateway for found in here):
            raise _Refused("Nexthop has invalid gateway" if version == 4 else "Gateway can not be a local address")
        self.inside.routes.append((link.index, route))


class _Refused(Exception):
    """What the kernel says."""
