"""
What the heartbeats read of all load balancers at one moment.

Which frontend is whose listener is told in L{amphora.loadbalancer.listeners}.  A backend is a pool; one whose name says
no listener gets the instance's id for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from amphora.loadbalancer.listeners import is_internal, listener_of
from amphora.loadbalancer.stats import Frontend, Stats
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Reading, Traffic


@frozen
class OldFigures:
    """An old worker's counters; it stays in the samples until they were told for the last time."""

    worker: ProcessIdentity
    stats: Stats


@frozen
class InstanceSample:
    """
    One instance that should be told of: its id, and what its haproxy answered, with the worker that did.

    `stats` and `worker` are None where haproxy did not answer in time (hung, starting, dead).  It is an
    L{amphora.sample.Sample}.
    """

    instance_id: str
    stats: Stats | None
    worker: ProcessIdentity | None
    old: tuple[OldFigures, ...] = ()
    """What workers carry, or carried, that a reload left to finish their connections."""

    @property
    def source_id(self) -> str:
        return self.instance_id

    @property
    def name(self) -> str:
        return f"haproxy of {self.instance_id}"

    @property
    def answer(self) -> Answer | None:
        # A worker that a reload replaces may be the one that answers: its listeners are closed, the amphora's are not.
        if self.stats is None or self.stats.stopping:
            return None
        listeners: dict[str, ListenerState] = {}
        for listener_id, frontend in _listeners(self.instance_id, self.stats):
            state = ListenerState(frontend.status, frontend.current)
            listeners[listener_id] = listeners[listener_id] + state if listener_id in listeners else state
        pools = {
            backend.name if ":" in backend.name else f"{backend.name}:{self.instance_id}": PoolState(
                backend.status, backend.members, backend.usable
            )
            for backend in self.stats.backends
            if not is_internal(backend.name)
        }
        return Answer(listeners, pools)

    @property
    def readings(self) -> tuple[Reading, ...]:
        current = () if self.stats is None or self.worker is None else (OldFigures(self.worker, self.stats),)
        readings: dict[ProcessIdentity, Reading] = {}
        for figures in (*current, *self.old):
            # While a reload goes on, the old worker may still be the one that answers.
            readings.setdefault(
                figures.worker, Reading(figures.worker, traffic_by_listener(self.instance_id, figures.stats))
            )
        return tuple(readings.values())


def traffic_by_listener(instance_id: str, stats: Stats) -> dict[str, Traffic]:
    """Sum up what each listener of an instance carried since the worker's start."""
    traffic: dict[str, Traffic] = {}
    for listener_id, frontend in _listeners(instance_id, stats):
        traffic[listener_id] = traffic.get(listener_id, Traffic()) + Traffic(
            tx=frontend.bytes_out, rx=frontend.bytes_in, totconns=frontend.total, ereq=frontend.request_errors
        )
    return traffic


def _listeners(instance_id: str, stats: Stats) -> Iterator[tuple[str, Frontend]]:
    """All frontends, with the ids of the listeners that they are told as."""
    for frontend in stats.frontends:
        if not is_internal(frontend.name):
            yield listener_of(frontend.name, instance_id), frontend
