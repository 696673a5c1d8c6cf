"""Strangers in numbers, and a TLS client that may do what Python's own may not."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.integration.harness import PATIENCE

ELSEWHERE = "127.0.0.2"
"""The address that a crowd comes from."""


class Held(Protocol):
    """A connection that stays until it is closed."""

    def close(self) -> None: ...


@define(eq=False)
class Crowd:
    """Many connections to one port, all from one address."""

    port: int
    held: list[Held] = field(init=False, factory=list)
    failures: int = field(init=False, default=0)

    def connect(self) -> socket.socket:
        """Blocks."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE, source_address=(ELSEWHERE, 0))

    def connect_over(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """The same over TLS."""
        plain = self.connect()
        try:
            return context.wrap_socket(plain, server_hostname="a")
        except OSError:
            plain.close()
            raise

    def come(self, number: int, act: Callable[[], Held], at_once: int = 16) -> Deferred[None]:
        """Let so many do this; their connections stay, those that the other side does not end."""
        return deferToThread(self._come, number, act, at_once)

    def _come(self, number: int, act: Callable[[], Held], at_once: int) -> None:
        def come(_: int) -> None:
            try:
                self.held.append(act())
            except OSError:
                self.failures += 1

        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(come, range(number)))

    def go(self) -> None:
        """All leave."""
        while self.held:
            self.held.pop().close()


@define(eq=False)
class Memory:
    """What a process holds, and how much that was at most while it was looked at.  In bytes."""

    pid: int
    peak: int = field(init=False, default=0)
    _over: threading.Event = field(init=False, factory=threading.Event)

    def now(self) -> int:
        """Its share of what it has in memory (PSS, proc(5))."""
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024

    def watch(self) -> Deferred[None]:
        """Look again and again, in a thread, until told to stop."""

        def look() -> None:
            while not self._over.wait(0.05):
                self.peak = max(self.peak, self.now())

        return deferToThread(look)

    def stop(self) -> None:
        self._over.set()


def allow_files(number: int) -> Callable[[], None]:
    """Let this process have so many files open.  @return: What takes that back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(number, before[0]), max(number, before[1])))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_files(pid: int) -> int:
    """How many files and connections a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


_LIBRARY = ctypes.util.find_library("ssl")
_POINTER = ctypes.c_void_p
_SET_MIN_VERSION, _SET_MAX_VERSION = 123, 124
_TYPES: dict[str, tuple[object, list[object]]] = {
    "TLS_client_method": (_POINTER, []),
    "SSL_CTX_new": (_POINTER, [_POINTER]),
    "SSL_CTX_ctrl": (ctypes.c_long, [_POINTER, ctypes.c_int, ctypes.c_long, _POINTER]),
    "SSL_CTX_free": (None, [_POINTER]),
    "SSL_new": (_POINTER, [_POINTER]),
    "SSL_free": (None, [_POINTER]),
    "SSL_set_fd": (ctypes.c_int, [_POINTER, ctypes.c_int]),
    "SSL_connect": (ctypes.c_int, [_POINTER]),
    "SSL_do_handshake": (ctypes.c_int, [_POINTER]),
    "SSL_key_update": (ctypes.c_int, [_POINTER, ctypes.c_int]),
    "SSL_renegotiate": (ctypes.c_int, [_POINTER]),
    "SSL_write": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int]),
}


class OddClient:
    """The machine's OpenSSL (SSL_key_update(3), SSL_renegotiate(3)) on a connected socket.  All of it blocks."""

    def __init__(self, connection: socket.socket, version: ssl.TLSVersion) -> None:
        """@raise OSError: if there is no handshake."""
        self._library = ctypes.CDLL(_LIBRARY)
        for name, (result, arguments) in _TYPES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        connection.settimeout(None)
        self._connection = connection
        self._context = self._library.SSL_CTX_new(self._library.TLS_client_method())
        for which in (_SET_MIN_VERSION, _SET_MAX_VERSION):
            self._library.SSL_CTX_ctrl(self._context, which, version, None)
        self._ssl = self._library.SSL_new(self._context)
        self._library.SSL_set_fd(self._ssl, connection.fileno())
        if self._library.SSL_connect(self._ssl) != 1:
            self.close()
            raise OSError("no handshake")

    def update_keys(self) -> bool:
        """Ask for new keys on both sides.  @return: Could that be sent?"""
        return bool(self._library.SSL_key_update(self._ssl, 1) == 1 and self._library.SSL_do_handshake(self._ssl) == 1)

    def renegotiate(self) -> bool:
        """@return: Did the other side take part?"""
        return bool(self._library.SSL_renegotiate(self._ssl) == 1 and self._library.SSL_do_handshake(self._ssl) == 1)

    def write(self, data: bytes) -> bool:
        """@return: Could it be sent?"""
        return bool(self._library.SSL_write(self._ssl, data, len(data)) == len(data))

    def close(self) -> None:
        self._library.SSL_free(self._ssl)
        self._library.SSL_CTX_free(self._context)
        with suppress(OSError):
            self._connection.close()
