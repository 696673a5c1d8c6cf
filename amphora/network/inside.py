"""Doing something inside a network namespace, on behalf of a process that stays outside."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HANDLES = Path("/run/netns")
"""Where C{ip netns} keeps a file for each namespace that has a name."""

PATIENCE = 10.0
"""Seconds that a call is waited for: more than anything takes in there that has a deadline of its own."""

MOST_HUNG = 8
"""How many calls that nobody waits for any more may be left hanging in the kernel; with as many, no other is begun."""

_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of setns(2)."""

_hung: set[threading.Thread] = set()


def inside(namespace: str, function: Callable[[], T], *, patience: float | None = PATIENCE) -> T:
    """
    Call a function in the namespace of this name (empty: our own) and return what it returns.  Blocks.

    What it opens (a socket, a file below C{/proc/thread-self/net}) belongs to the namespace for good, whoever uses it
    later.

    A network that hangs in the kernel (its one lock is held by a driver, say) holds up nobody else: the caller is told
    so in time, and of the threads that hang with it there are few.

    @param patience: Seconds after which it is not waited for; None for a function that has a deadline of its own.
    @raise OSError: if the namespace cannot be entered, or does not answer.  What the function raises is raised as well.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            if namespace:
                _enter(namespace)
            results.append(function())
        except BaseException as failure:
            failures.append(failure)

    _hung.difference_update([thread for thread in list(_hung) if not thread.is_alive()])
    if len(_hung) >= MOST_HUNG:
        raise OSError(errno.EBUSY, f"{len(_hung)} calls hang in the kernel's network already", namespace or None)
    # A thread of its own: it cannot leave the namespace it has entered, and threads of a pool come back.
    thread = threading.Thread(target=work, name=f"inside {namespace}", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        _hung.add(thread)
        raise OSError(errno.ETIMEDOUT, f"the kernel's network did not answer within {patience:g} s", namespace or None)
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
