"""
Starting programs, and watching those that outlive us: the only place that does either.

A *command* is short: it runs under a deadline and its whole output is the result.  A *daemon* is started in a
session of its own, with its output in a file, so that it goes on when this agent dies; it is then known by
its L{ProcessIdentity} alone, whoever started it, and its end is heard through a pidfd.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IProcessTransport,
    IReactorFDSet,
    IReactorProcess,
    IReactorTime,
    IReadDescriptor,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

OUTPUT_LIMIT = 64 * 1024
"""How many bytes of a command's output are kept; what comes after is dropped."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class CommandFailed(Exception):
    """A command could not be started, or did not end in time."""


class IProcessReactor(IReactorProcess, IReactorTime):
    """What running a command needs of a reactor."""


@frozen
class CommandResult:
    """How a command ended: its exit code (negative: the signal that ended it) and its output, both streams together."""

    exit_code: int
    output: str

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0


class _CommandProtocol(ProcessProtocol):
    def __init__(self, ended: Deferred[CommandResult], stdin: bytes) -> None:
        self._ended = ended
        self._stdin = stdin
        self._output = bytearray()

    def connectionMade(self) -> None:
        transport = self.transport
        assert transport is not None
        if self._stdin:
            transport.write(self._stdin)
        transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._output += data[: OUTPUT_LIMIT - len(self._output)]

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self._ended.callback(CommandResult(_exit_code(reason), self._output.decode("utf-8", "replace")))


def _exit_code(reason: Failure) -> int:
    ended = reason.value
    if isinstance(ended, ProcessDone):
        return 0
    assert isinstance(ended, ProcessTerminated)
    return -ended.signal if ended.signal is not None else ended.exitCode or 1


async def run_command(
    reactor: IProcessReactor, command: Sequence[str], *, timeout: float, stdin: bytes = b""
) -> CommandResult:
    """
    Run a command to its end.  Its environment is fixed.  Cancelled, it is killed.

    @param timeout: Seconds after which it is killed.
    @param stdin: All that it has to read.
    @raise CommandFailed: if it could not be started, or did not end, or let go of its output, in time.
    """
    ended: Deferred[CommandResult] = Deferred()
    protocol = _CommandProtocol(ended, stdin)
    try:
        transport = reactor.spawnProcess(protocol, _find(command[0]), command, env=ENVIRONMENT)
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    overdue = False

    def end() -> None:
        with suppress(ProcessExitedAlready):
            transport.signalProcess("KILL")
        # Something it started may hold the pipes open; its own end is what we wait for.
        transport.loseConnection()

    def give_up() -> None:
        nonlocal overdue
        overdue = True
        end()

    deadline = reactor.callLater(timeout, give_up)
    try:
        result = await ended
    except CancelledError:
        end()
        raise
    finally:
        if deadline.active():
            deadline.cancel()
    if overdue:
        raise CommandFailed(f"{command[0]} did not end within {timeout:g} s and was killed")
    return result


def _find(program: str) -> str:
    """Where a program is; Twisted would look along our own path, which may lack the folders of daemons."""
    return shutil.which(program, path=ENVIRONMENT["PATH"]) or program


class _DaemonProtocol(ProcessProtocol):
    """Hears only who it is: a daemon's output is in a file, and its end comes through its pidfd."""

    pid = 0

    def connectionMade(self) -> None:
        # Later, one that ended at once would have no process id any more.
        transport: IProcessTransport | None = self.transport
        assert transport is not None and isinstance(transport.pid, int)
        self.pid = transport.pid


def spawn_daemon(
    reactor: IReactorProcess,
    command: Sequence[str],
    *,
    output: int,
    environment: Mapping[str, str],
    given: int | None = None,
) -> int:
    """
    Start a program that stays in the foreground of a session of its own and outlives this process.

    @param output: A file descriptor that its standard output and error go to; the caller closes it.
    @param environment: Added to the fixed L{ENVIRONMENT}.
    @param given: A file descriptor that is its standard input, which is empty without; the caller closes it.
    @return: Its process id: C{setsid} and C{ip netns exec} become the program, they do not stay above it.
    @raise CommandFailed: if it could not be started.
    """
    protocol = _DaemonProtocol()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        reactor.spawnProcess(
            protocol,
            _find("setsid"),
            ["setsid", *command],
            env={**ENVIRONMENT, **environment},
            childFDs={0: nothing if given is None else given, 1: output, 2: output},
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    finally:
        os.close(nothing)
    return protocol.pid


def read_pid_file(path: Path) -> int | None:
    """The process id that a daemon left there; None where no file is, or no number in it.  May wait for a disk."""
    try:
        text = path.read_bytes()[:32].strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 2**31 else None


def boot_id() -> str:
    """What tells one boot of this machine from another; process start times count from it.  See random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@frozen
class ProcessIdentity:
    """
    One process for as long as it lives.  Process ids come back; a pair of id and start time does not.

    `started` is in clock ticks since boot: field 22 of C{/proc/PID/stat}, proc(5).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Who has this process id now; None where nobody has, or only the remains of a process (state Z or X)."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                text = stat.read()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the program's name in brackets, and may itself hold blanks and brackets.
        fields = text.rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid, int(fields[19]))

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This very process."""
        process = cls.of(os.getpid())
        assert process is not None
        return process

    @property
    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    def send_signal(self, number: signal.Signals) -> bool:
        """Signal this very process, never a later one with its id; False where it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def command_line(self) -> list[str]:
        """Its arguments; empty where it is gone."""
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as arguments:
                return os.fsdecode(arguments.read()).split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def executable(self) -> str | None:
        """The program's file, without the mark that it was replaced since; None where it cannot be told."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe").removesuffix(" (deleted)")
        except OSError:
            return None

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds, shared ones included: C{statm}, proc(5); 0 where it is gone."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def children(self) -> list[ProcessIdentity]:
        """Its children that are alive, in the order of their birth."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", "rb") as children:
                pids = [int(pid) for pid in children.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [child for pid in pids if (child := ProcessIdentity.of(pid)) is not None]

    def memory(self) -> int:
        """
        The memory that it takes, in kilobytes; 0 where it is gone.  Takes time where that is much: for threads.

        Pages that several processes share count in equal parts (C{Pss}, proc(5)), so that sums over processes are true;
        where we may not see who shares them, they count whole.
        """
        try:
            with open(f"/proc/{self.pid}/smaps_rollup", "rb") as rollup:
                return int(rollup.read().partition(b"\nPss:")[2].split(maxsplit=1)[0])
        except OSError:
            return self.resident // 1024


@implementer(IReadDescriptor)
@define(eq=False)
class ProcessWatch:
    """Calls `ended` once, when the process is gone; works for a child and for a process that somebody else started."""

    _reactor: IReactorFDSet
    identity: ProcessIdentity
    _ended: Callable[[], None]
    _handle: int = field(init=False, default=-1)

    def start(self) -> bool:
        """
        Begin to watch.

        @return: False if the process is gone already; `ended` is not called then.
        """
        try:
            self._handle = os.pidfd_open(self.identity.pid)
        except OSError:
            # It is gone, or the number is a thread's.
            return False
        if not self.identity.alive:
            self._forget()
            return False
        self._reactor.addReader(self)
        return True

    def stop(self) -> None:
        """Watch no longer."""
        if self._handle != -1:
            self._reactor.removeReader(self)
            self._forget()

    def _forget(self) -> None:
        os.close(self._handle)
        self._handle = -1

    def fileno(self) -> int:
        return self._handle

    def doRead(self) -> None:
        self.stop()
        self._ended()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the descriptor: the process is as good as gone for us."""
        self.stop()

    def logPrefix(self) -> str:
        return "ProcessWatch"
