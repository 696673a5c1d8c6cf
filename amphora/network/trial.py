"""
Trying whether addresses are free, before haproxy is told to take them.

haproxy finds a conflict only after it has paused all of its listeners, and retries for two seconds before it
resumes them: every connection in between is refused.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from amphora.network.bind import Bind

_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of setns(2)."""


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
    found: list[Conflict] = []
    failed: list[OSError] = []

    def work() -> None:
        try:
            if namespace:
                _enter(namespace)
            found.extend(conflict for bind in binds if (conflict := _try(bind)) is not None)
        except OSError as error:
            failed.append(error)

    # A thread of its own: it cannot leave the namespace it has entered, and threads of a pool come back.
    thread = threading.Thread(target=work, name="trial binds")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


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


def _enter(namespace: str) -> None:
    handle = os.open(Path("/run/netns") / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _NEW_NETWORK) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), namespace)
    finally:
        os.close(handle)
