"""The controller's socket: what arrives on it, and when."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from attrs import frozen

from amphora.health.envelope import unseal

KEY = "script/bench"


@frozen
class Datagram:
    """One heartbeat: when it was here, by the monotonic clock, and its bytes."""

    at: float
    data: bytes

    @property
    def message(self) -> dict[str, Any]:
        """What it says; its signature is checked."""
        return unseal(KEY, self.data)


class Receiver:
    """Takes datagrams in, in a thread; used with C{with}."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.received: list[Datagram] = []
        self._thread = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An empty datagram is the end: closing a socket does not wake who reads from it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _take(self) -> None:
        while data := self._socket.recv(65536):
            self.received.append(Datagram(time.monotonic(), data))

    def since(self, moment: float) -> list[Datagram]:
        """What has arrived after a moment of the monotonic clock."""
        return [each for each in self.received if each.at > moment]


def until(holds: Callable[[], bool], patience: float) -> bool:
    """Wait for something to be so.  @return: Whether it came to be within so many seconds."""
    end = time.monotonic() + patience
    while not (so := holds()) and time.monotonic() < end:
        time.sleep(0.005)
    return so
