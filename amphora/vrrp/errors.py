"""What can go wrong with keepalived, in its own words; `amphora.api.errors` gives each its status and JSON."""

from __future__ import annotations

from attrs import frozen


class VrrpError(Exception):
    """What the caller asked for was not done."""


@frozen
class ConfigurationRefused(VrrpError):
    """keepalived does not take the uploaded configuration, or there is nothing in it; `reason` says more."""

    reason: str


@frozen
class ConfigurationNotStored(VrrpError):
    """The upload was not judged, or the disk would not take it."""

    reason: str


@frozen
class ActionFailed(VrrpError):
    """Starting, stopping or reloading keepalived failed; `details` has its own words where it said any."""

    action: str
    details: str


@frozen
class NotRunning(ActionFailed):
    """There is no keepalived that could be stopped."""
