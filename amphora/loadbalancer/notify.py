"""
Where haproxy masters tell that they are ready: sd_notify(3) datagrams on a socket at a fixed path.

The path outlives us: a haproxy that an earlier agent started tells this one of its reloads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorUNIXDatagram
from twisted.internet.protocol import DatagramProtocol

_LONGEST = 8192
_PID_DIGITS = 10


class INotifyReactor(IReactorUNIXDatagram):
    """What hearing needs of a reactor."""


@define(eq=False)
class NotifySocket:
    """Hears `READY=1` with `MAINPID=n` and tells whoever subscribed to that process id."""

    path: Path
    _ready: set[int] = field(init=False, factory=set)
    _subscribers: dict[int, Callable[[], None]] = field(init=False, factory=dict)
    _reactor: INotifyReactor | None = field(init=False, default=None)
    _port: IListeningPort | None = field(init=False, default=None)

    def listen(self, reactor: INotifyReactor) -> None:
        """
        Take the path over from an earlier agent.

        @raise OSError, CannotListenError: as the system says; L{ensure} tries again.
        """
        self._reactor = reactor
        self.ensure()

    def ensure(self) -> None:
        """
        Be there before somebody is told to speak: listen, if that could not be done before.

        @raise OSError, CannotListenError: as the system says.
        """
        if self._reactor is not None and self._port is None:
            self.path.unlink(missing_ok=True)
            self._port = self._reactor.listenUNIXDatagram(str(self.path), _Receiver(self.heard), _LONGEST, 0o600)

    async def close(self) -> None:
        self._reactor = None
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)

    def subscribe(self, pid: int, heard: Callable[[], None]) -> None:
        """Begin to listen for this process; what it said before is not known."""
        self._subscribers[pid] = heard
        self.forget(pid)

    def unsubscribe(self, pid: int) -> None:
        self._subscribers.pop(pid, None)
        self.forget(pid)

    def said_ready(self, pid: int) -> bool:
        """Has this process said that it is ready since it was last forgotten?"""
        return pid in self._ready

    def forget(self, pid: int) -> None:
        self._ready.discard(pid)

    def heard(self, datagram: bytes) -> None:
        """One datagram: lines of `NAME=value`."""
        facts = dict(line.split(b"=", 1) for line in datagram.splitlines() if b"=" in line)
        pid = facts.get(b"MAINPID", b"")
        if facts.get(b"READY") != b"1" or not pid.isdigit() or len(pid) > _PID_DIGITS:
            return
        subscriber = self._subscribers.get(int(pid))
        if subscriber is not None:
            self._ready.add(int(pid))
            subscriber()


class _Receiver(DatagramProtocol):
    noisy = False

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self._heard(datagram)
