"""Doing something inside a network namespace, on behalf of a process that stays outside."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HANDLES = Path("/run/netns")
"""Where C{ip netns} keeps a file for each namespace that has a name."""

_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of setns(2)."""


def inside(namespace: str, function: Callable[[], T]) -> T:
    """
    Call a function in the namespace of this name (empty: our own) and return what it returns.  Blocks.

    What it opens (a socket, a file below C{/proc/thread-self/net}) belongs to the namespace for good, whoever uses it
    later.

    @raise OSError: if the namespace cannot be entered.  What the function raises is raised as well.
    """
    if not namespace:
        return function()
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except BaseException as failure:
            failures.append(failure)

    # A thread of its own: it cannot leave the namespace it has entered, and threads of a pool come back.
    thread = threading.Thread(target=work, name=f"inside {namespace}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(namespace: str) -> None:
    handle = os.open(HANDLES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _NEW_NETWORK) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), namespace)
    finally:
        os.close(handle)
