"""
Which of a load balancer's frontends are whose listeners.

A frontend that is named by a UUID is a listener; all other frontends of an instance are together one that has the
instance's own id.  The proxies that a controller adds for its metrics are nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

from amphora.loadbalancer.haproxy_config import FrontendConfig

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
PROMETHEUS_PROXIES: Final = {"prometheus-exporter-internal-endpoint", "prometheus-exporter-internal"}
"""The proxies that the controller adds for its metrics: nobody's listener, nobody's pool."""


@frozen(order=True)
class Listener:
    """A listener's id, and what kind it is: `HTTP`, `TCP` or `TERMINATED_HTTPS`."""

    listener_id: str
    kind: str


def is_internal(proxy: str) -> bool:
    """Is a frontend or backend of this name nobody's listener, and nobody's pool?"""
    return proxy in PROMETHEUS_PROXIES


def listener_of(frontend: str, instance_id: str) -> str:
    """The id of the listener that a frontend which is not internal belongs to."""
    return frontend if _UUID.fullmatch(frontend) else instance_id


def listener_type(frontends: Iterable[FrontendConfig]) -> str:
    """What both APIs call a listener's type; of several frontends the most special one's."""
    kinds = {"TERMINATED_HTTPS" if frontend.tls else frontend.mode.upper() for frontend in frontends}
    return next((kind for kind in ("TERMINATED_HTTPS", "HTTP") if kind in kinds), "TCP")


def listeners_of(instance_id: str, frontends: Sequence[FrontendConfig]) -> tuple[Listener, ...]:
    """All listeners of an instance, in the order of its configuration."""
    found: dict[str, list[FrontendConfig]] = {}
    for frontend in frontends:
        if not is_internal(frontend.name):
            found.setdefault(listener_of(frontend.name, instance_id), []).append(frontend)
    return tuple(Listener(listener_id, listener_type(own)) for listener_id, own in found.items())
