"""What the heartbeats read of all load balancers at one moment."""

from __future__ import annotations

from attrs import frozen

from amphora.loadbalancer.stats import Stats
from amphora.process import ProcessIdentity


@frozen
class OldFigures:
    """An old worker's counters; it stays in the samples until they were told for the last time."""

    worker: ProcessIdentity
    stats: Stats


@frozen
class InstanceSample:
    """
    One instance that should be told of: its id, and what its haproxy answered, with the worker that did.

    `stats` and `worker` are None where haproxy did not answer in time (hung, starting, dead).
    """

    instance_id: str
    stats: Stats | None
    worker: ProcessIdentity | None
    old: tuple[OldFigures, ...] = ()
    """What workers carry, or carried, that a reload left to finish their connections."""
