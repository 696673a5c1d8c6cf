"""What can go wrong with a load balancer, in its own words; `amphora.api.errors` gives each its status and JSON."""

from __future__ import annotations

from attrs import frozen


class LoadBalancerError(Exception):
    """What the caller asked for was not done."""


@frozen
class InstanceNotFound(LoadBalancerError):
    """Nothing was ever uploaded under this id."""

    instance_id: str


@frozen
class CertificateNotFound(LoadBalancerError):
    """The instance has no certificate file of this name."""

    filename: str


@frozen
class BadFilename(LoadBalancerError):
    """A certificate's file name is not one that we store."""

    filename: str


@frozen
class InvalidConfiguration(LoadBalancerError):
    """haproxy does not take the uploaded configuration; `output` is what it said."""

    output: str


@frozen
class NoConfiguration(LoadBalancerError):
    """The instance is known, but every configuration that was uploaded for it was refused."""

    action: str
    instance_id: str


@frozen
class NotRunning(LoadBalancerError):
    """What should be stopped does not run; `details` names the process that was looked for."""

    details: str


@frozen
class ActionFailed(LoadBalancerError):
    """Starting, stopping or reloading haproxy failed; `details` has haproxy's own words where it said any."""

    action: str
    details: str


@frozen
class StorageFailed(LoadBalancerError):
    """The disk would not take it (full, read-only, failing, or not a memory file system)."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} cannot be stored: {self.reason}"
