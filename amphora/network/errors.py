"""What can go wrong with the network, in its own words; `amphora.api.errors` gives each its status and JSON."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

What = Literal["VIP", "Port", "network", "vip"]
"""What was to be plugged, in the words of the specification, and of the API 1.0 where these are others."""


class NetworkError(Exception):
    """What the caller asked for was not done."""


@frozen
class InvalidVip(NetworkError):
    """The address to plug is none that an interface could have."""

    reason: str


@frozen
class InvalidSubnet(NetworkError):
    """The subnet, the gateway or the MAC address that came with a VIP cannot serve, or is missing."""

    reason: str


@frozen
class InvalidPort(NetworkError):
    """The MAC address of a port cannot serve, or is missing."""

    reason: str


@frozen
class InvalidVrrpAddress(NetworkError):
    """The own address of a VIP's interface cannot serve."""

    reason: str


@frozen
class InvalidFixedIp(NetworkError):
    """An address that a port should have for itself cannot serve."""

    reason: str


@frozen
class InterfaceExists(NetworkError):
    """All that was asked for is there already, and was verified."""

    interface: str


@frozen
class BadAddress(NetworkError):
    """What an interface was asked for by is no address."""

    text: str


@frozen
class AddressNotFound(NetworkError):
    """No interface has this address."""

    text: str


@frozen
class InterfaceNotFound(NetworkError):
    """There is no interface with this MAC address that could be plugged."""

    mac: str


@frozen
class PlugFailed(NetworkError):
    """Plugging failed, and what it had changed is as it was; `details` has the kernel's own words."""

    what: What
    details: str

    def __str__(self) -> str:
        return self.details


@frozen
class InvalidRules(NetworkError):
    """What an interface should let in is not told as it should be; the reason names the entry and the field."""

    reason: str


@frozen
class RulesNotReplaced(NetworkError):
    """The rules that were in force still are, in the kernel and on the disk; `details` has the system's own words."""

    details: str


@frozen
class NetworkUnreadable(NetworkError):
    """The kernel does not tell what interfaces there are; `reason` is what the system says."""

    reason: str
