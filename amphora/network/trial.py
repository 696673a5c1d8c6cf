"""
Trying whether addresses are free, before haproxy is told to take them.

haproxy finds a conflict only after it has paused all of its listeners, and retries for two seconds before it
resumes them: every connection in between is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from attrs import frozen

from amphora.network.bind import Bind
from amphora.network.inside import inside


@frozen
class Conflict:
    """An address that cannot be had, and the system's words for it."""

    bind: Bind
    reason: str


def conflicts(binds: Iterable[Bind], namespace: str) -> list[Conflict]:
    """
    Bind each address for a moment, in the namespace (empty: our own).

    Nothing listens on a trial socket, so that no connection is ever taken from anybody.  Blocks.

    @raise OSError: if the namespace cannot be entered.
    """
    return inside(namespace, lambda: [conflict for bind in binds if (conflict := _try(bind)) is not None])


def _try(bind: Bind) -> Conflict | None:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bind.v6only:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if bind.interface:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode())
            trial.bind((bind.host, bind.port))
    except OSError as error:
        return Conflict(bind, error.strerror or str(error))
    return None
