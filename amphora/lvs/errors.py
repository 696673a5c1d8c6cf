"""What can go wrong with a UDP or SCTP listener, in its own words; `amphora.api.errors` gives each status and JSON."""

from __future__ import annotations

from attrs import frozen


class LvsError(Exception):
    """What the caller asked for was not done."""


@frozen
class LvsListenerNotFound(LvsError):
    """No configuration was ever accepted under this id."""

    listener_id: str


@frozen
class LvsConfigurationRefused(LvsError):
    """keepalived does not take the uploaded configuration, or it is not this listener's; `reason` says more."""

    reason: str


@frozen
class LvsConfigurationNotStored(LvsError):
    """The upload was not judged, or the disk would not take it."""

    reason: str


@frozen
class LvsActionFailed(LvsError):
    """Starting, stopping, reloading or deleting failed; `details` has keepalived's own words where it said any."""

    action: str
    listener_id: str
    details: str
