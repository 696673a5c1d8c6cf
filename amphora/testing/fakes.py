"""
Stand-ins with a behaviour, for tests: programs that end when the test says so, sockets and disks that answer later.

They take the place of what a part is given, so that its test needs no thread, no process, and no time.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
    ProcessDone,
    ProcessExitedAlready,
    ProcessTerminated,
)
from twisted.internet.interfaces import IProcessTransport, IProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from amphora.loadbalancer.sockets import ISocketReactor
from amphora.process import IProcessReactor

P = ParamSpec("P")
T = TypeVar("T")


class CallsLater:
    """An L{amphora.blocking.BlockingCalls} whose calls are made when the test says so, in their order."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Keep a call."""
        result: Deferred[T] = Deferred()
        self._calls.append(lambda: maybeDeferred(function, *args, **kwargs).chainDeferred(result))
        return result

    @property
    def waiting(self) -> int:
        """How many calls are kept."""
        return len(self._calls)

    def make_one(self) -> None:
        """Make the call that has waited longest."""
        self._calls.pop(0)()

    def make_all(self) -> None:
        """Make all calls, also those that come of them."""
        while self._calls:
            self.make_one()


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """
    Let no file of this process grow beyond so many bytes: writing more fails as it does on a full disk.

    The error is EFBIG and not ENOSPC; where that matters, take a small tmpfs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@implementer(IProcessTransport)
@define(eq=False)
class FakeProcess:
    """
    A process that ends when the test says so, or when it is killed.

    As with a real one, its end is told once it is over *and* nobody holds its output open any more.
    """

    pid: int
    command: list[str]
    environment: dict[str, str]
    child_fds: dict[int, str | int]
    signals: list[str] = field(init=False, factory=list)
    output_held: bool = field(init=False, default=False)
    """A child of its own holds its output open when it ends."""
    stdin: bytes = field(init=False, default=b"")
    """What it was given to read."""
    stdin_open: bool = field(init=False, default=True)
    _clock: Clock
    _protocol: Any
    _reason: BaseException | None = field(init=False, default=None)
    _output_open: bool = field(init=False, default=True)
    _told: bool = field(init=False, default=False)

    def says(self, text: bytes, *, on_stderr: bool = False) -> None:
        """Write on its output."""
        if self._output_open:
            self._protocol.childDataReceived(2 if on_stderr else 1, text)

    def exits(self, code: int = 0, *, by: signal.Signals | None = None) -> None:
        """End, of itself or by a signal."""
        if by is not None:
            self._reason = ProcessTerminated(None, by.value, by.value)
        else:
            self._reason = ProcessTerminated(code, None, code << 8) if code else ProcessDone(0)
        if not self.output_held:
            self._output_open = False
        self._tell()

    def _tell(self) -> None:
        if self._reason is not None and not self._output_open and not self._told:
            self._told = True
            self._protocol.processEnded(Failure(self._reason))

    # IProcessTransport

    def signalProcess(self, signalID: str | int) -> None:
        if self._reason is not None:
            raise ProcessExitedAlready()
        self.signals.append(str(signalID))
        if signalID == "KILL":
            self._clock.callLater(0, self.exits, by=signal.SIGKILL)

    def closeStdin(self) -> None:
        self.stdin_open = False

    def closeStdout(self) -> None:
        self._output_open = False
        self._clock.callLater(0, self._tell)

    def closeStderr(self) -> None:
        """It is one with the standard output."""

    def loseConnection(self) -> None:
        self.closeStdin()
        self.closeStdout()

    def closeChildFD(self, descriptor: int) -> None:
        {0: self.closeStdin, 1: self.closeStdout, 2: self.closeStderr}[descriptor]()

    def writeToChild(self, childFD: int, data: bytes) -> None:
        raise AssertionError("nothing asks this of a process of ours")

    def write(self, data: bytes) -> None:
        assert self.stdin_open
        self.stdin += data

    def writeSequence(self, data: Iterable[bytes]) -> None:
        raise AssertionError("nothing asks this of a process of ours")

    def getPeer(self) -> Any:
        raise AssertionError("nothing asks this of a process of ours")

    def getHost(self) -> Any:
        raise AssertionError("nothing asks this of a process of ours")


@implementer(IProcessReactor)
class FakeProcessReactor(Clock):
    """Starts L{FakeProcess}es; `missing` names the programs that cannot be started."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self._missing = missing

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: Any,
        args: Any = (),
        env: Mapping[Any, Any] | None = None,
        path: Any = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: Any = False,
        childFDs: Mapping[int, str | int] | None = None,
    ) -> IProcessTransport:
        """@raise FileNotFoundError: for a program that is missing."""
        if args[0] in self._missing:
            raise FileNotFoundError(2, "No such file or directory", executable)
        process = FakeProcess(
            pid=1000 + len(self.processes),
            command=list(args),
            environment=dict(env or {}),
            child_fds=dict(childFDs or {0: "w", 1: "r", 2: "r"}),
            clock=self,
            protocol=processProtocol,
        )
        self.processes.append(process)
        processProtocol.makeConnection(process)
        return process


class FakeConnection(StringTransport):
    """One connection to a UNIX socket: what was written to it, and how it ended."""

    def __init__(self, protocol: IProtocol) -> None:
        super().__init__()
        self.given: list[int] = []
        """The inodes of the descriptors that were sent."""
        self.aborted = False
        """Whether it was closed without being shut down."""
        self._protocol: Any = protocol
        protocol.makeConnection(self)

    def answer(self, data: bytes, descriptor: int | None = None) -> None:
        """The other side writes, and sends a copy of a descriptor with it."""
        if descriptor is not None:
            self._protocol.fileDescriptorReceived(os.dup(descriptor))
        self._protocol.dataReceived(data)

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def sendFileDescriptor(self, descriptor: int) -> None:
        self.given.append(os.fstat(descriptor).st_ino)

    def close(self, reason: Exception | None = None) -> None:
        """The connection ends: the other side closes it, or what the reason says happens."""
        self.connected = False
        self._protocol.connectionLost(Failure(reason or ConnectionDone()))


@implementer(ISocketReactor)
class FakeSocketReactor(MemoryReactorClock):
    """Connects to UNIX sockets when the test says so."""

    def accept(self) -> FakeConnection:
        """The next connection attempt succeeds."""
        _, factory, *_ = self.unixClients.pop(0)
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        return FakeConnection(protocol)

    def refuse(self, reason: Exception | None = None) -> None:
        """The next connection attempt fails."""
        _, factory, *_ = self.unixClients.pop(0)
        factory.clientConnectionFailed(self.connectors[-1], Failure(reason or ConnectionRefusedError()))
