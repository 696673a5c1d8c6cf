"""
Sessions with old workers that outlast this agent: handed to a L{session_keeper}, and taken over from it.

The keeper is started when the first session is to be kept, and ends by itself some time after the last one has ended.
It has the sessions, and so do we: all that an agent that ends has to do is to close its own without ending them.

A keeper that fails costs the next agent exactness, and nobody anything else: what it does is waited for no longer than
L{KEEP_TIMEOUT}, what became of it is logged once, and where it died another one is given what it had.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IFileDescriptorReceiver, IReactorSocket, ITCPTransport, IUNIXTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from amphora.backoff import BackOff
from amphora.blocking import BlockingCalls
from amphora.files import beside
from amphora.loadbalancer import session_keeper
from amphora.loadbalancer.sockets import ISocketReactor, end_session
from amphora.process import CommandFailed, IProcessReactor, ProcessIdentity, spawn_daemon
from amphora.waiting import within

KEEP_TIMEOUT = 2.0
"""Seconds that a reload waits at most until its session is kept."""
TAKE_TIMEOUT = 2.0
"""Seconds that an agent that starts waits for the sessions of an earlier one."""
_ANSWER_TIMEOUT = 1.0
_START_TIMEOUT = 10.0
"""Seconds for a keeper that was just started; on a busy machine it is not up at once."""
_BACKLOG = 16

T = TypeVar("T")
_Line = tuple[bytes, int | None]
"""What a keeper says, and the descriptor that came with it."""


class IKeeperReactor(IReactorSocket, ISocketReactor, IProcessReactor):
    """What keeping sessions needs of a reactor."""


class KeeperFailed(Exception):
    """Sessions are not kept; the text says why."""


@frozen
class Label:
    """What a later agent has to know of a session: the instance, its worker, and what that was told to load last."""

    instance_id: str
    worker: ProcessIdentity
    mark: str
    """What the worker answers when it is asked for the mark of its load."""

    def encode(self) -> bytes:
        return json.dumps(
            {
                "instance": self.instance_id,
                "pid": self.worker.pid,
                "started": self.worker.started,
                "mark": self.mark,
            }
        ).encode()

    @classmethod
    def decode(cls, text: bytes) -> Label:
        """@raise ValueError: if it is none of ours."""
        try:
            said = json.loads(text)
            instance_id, pid, started, mark = (said[name] for name in ("instance", "pid", "started", "mark"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("it is no label of a session") from None
        if not (isinstance(instance_id, str) and isinstance(mark, str) and type(pid) is type(started) is int):
            raise ValueError("it is no label of a session")
        return cls(instance_id, ProcessIdentity(pid, started), mark)


class Session(Protocol):
    """What is kept of a session."""

    @property
    def over(self) -> bool:
        """Has it ended?  Its descriptor is closed then."""

    @property
    def descriptor(self) -> int: ...


@frozen
class TakenSession:
    """A session of an earlier agent: its descriptor, which has to be closed, and what it is."""

    label: Label
    descriptor: int


@implementer(IFileDescriptorReceiver)
class KeeperConnection(LineOnlyReceiver):
    """A connection to a keeper: one question at a time."""

    delimiter = b"\n"
    MAX_LENGTH = 4096
    transport: ITCPTransport  # what a UNIX socket offers is the same, and more

    def __init__(self, ended: Callable[[KeeperConnection], None]) -> None:
        self._ended = ended
        self._over = False
        self._descriptors: list[int] = []
        self._lines: list[_Line] = []
        self._last: Callable[[bytes], bool] | None = None
        self._answered: Deferred[list[_Line]] | None = None
        self.kept: set[Label] = set()
        """The sessions that it has from us."""

    async def keep(self, label: Label, descriptor: int) -> None:
        """@raise KeeperFailed: if it does not."""
        text = label.encode()
        try:
            # What is sent is sent later: by then the session may be over, and its descriptor another's.
            copy = os.dup(descriptor)
        except OSError as error:
            raise KeeperFailed(f"a session cannot be handed over: {error.strerror}") from None
        try:
            answering = self._ask(b"keep " + text, lambda line: True)
            cast(IUNIXTransport, self.transport).sendFileDescriptor(copy)
            ((answer, _),) = await answering
        finally:
            os.close(copy)
        if answer != b"kept " + text:
            raise KeeperFailed("it takes no more sessions")
        self.kept.add(label)

    async def take(self) -> list[TakenSession]:
        """All that it keeps.  @raise KeeperFailed: if it does not tell."""
        taken: list[TakenSession] = []
        lines = await self._ask(b"give", lambda line: line == b"end")
        try:
            for line, descriptor in lines[:-1]:
                if descriptor is None:
                    raise ValueError("a session has no descriptor")
                taken.append(TakenSession(Label.decode(line.removeprefix(b"session ")), descriptor))
        except ValueError as error:
            for _, descriptor in lines:
                if descriptor is not None:
                    os.close(descriptor)
            raise KeeperFailed(f"its answer makes no sense: {error}") from None
        self.kept = {session.label for session in taken}
        return taken

    def close(self) -> None:
        self._over = True
        self.transport.abortConnection()

    def _ask(self, line: bytes, last: Callable[[bytes], bool]) -> Deferred[list[_Line]]:
        """
        @return: Fires with the lines of the answer, up to the last one, and what descriptor came with each.
        @raise KeeperFailed: if it is gone already.
        """
        if self._over:
            raise KeeperFailed("it has ended")
        self._last, self._answered = last, Deferred()
        self.sendLine(line)
        return self._answered

    def fileDescriptorReceived(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        if self._answered is None or self._last is None:
            self.close()
            return
        has_descriptor = line.startswith(b"session ") and self._descriptors
        self._lines.append((line, self._descriptors.pop(0) if has_descriptor else None))
        if self._last(line):
            lines, self._lines = self._lines, []
            answered, self._answered = self._answered, None
            answered.callback(lines)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        for descriptor in (*self._descriptors, *(each for _, each in self._lines if each is not None)):
            os.close(descriptor)
        self._descriptors, self._lines = [], []
        answered, self._answered = self._answered, None
        if answered is not None:
            answered.errback(KeeperFailed("it did not answer, or not in its language"))
        self._ended(self)


@define(eq=False)
class KeptSessions:
    """The sessions of all instances, as far as they are to outlast this agent."""

    _log = Logger()

    _reactor: IKeeperReactor
    _blocking: BlockingCalls
    _path: Path
    """Of the keeper's socket."""
    _command: Sequence[str] = (sys.executable, "-I", "-S", session_keeper.__file__)
    """What starts a keeper when the path of its socket is added."""

    _keeper: KeeperConnection | None = field(init=False, default=None)
    _sessions: dict[Label, Session] = field(init=False, factory=dict)
    """Those that are to be kept."""
    _taken: list[TakenSession] = field(init=False, factory=list)
    _one_at_a_time: DeferredLock = field(init=False, factory=DeferredLock)
    _again: BackOff = field(init=False)
    _failing: bool = field(init=False, default=False)
    _released: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._again = BackOff(self._reactor, self._hand_over_again)

    # What an earlier agent left

    async def take(self) -> None:
        """Take over what an earlier agent left to a keeper, if it did, for L{claim}."""
        try:
            await self._one_at_a_time.run(Deferred.fromCoroutine, self._take())
        except KeeperFailed as error:
            self._log.warn(
                "{path}: sessions with old haproxy workers that an earlier agent left cannot be taken over: {error}. "
                "What these workers count after they were last asked may not be told",
                path=str(self._path),
                error=error,
            )

    async def _take(self) -> None:
        keeper = await self._reach(TAKE_TIMEOUT)
        if keeper is not None:
            try:
                self._taken = await self._in_time(TAKE_TIMEOUT, keeper.take())
            except KeeperFailed:
                keeper.close()
                raise
            self._keeper = keeper

    def claim(self, instance_id: str) -> list[TakenSession]:
        """The sessions with workers of an instance; their descriptors are the caller's to close."""
        claimed = [session for session in self._taken if session.label.instance_id == instance_id]
        self._taken = [session for session in self._taken if session not in claimed]
        return claimed

    def drop_unclaimed(self) -> None:
        """Nobody asks for the rest: the keeper has them too, and their workers would wait for them for ever."""
        taken, self._taken = self._taken, []
        for session in taken:
            end_session(session.descriptor)
            os.close(session.descriptor)

    # What this one leaves

    async def keep(self, label: Label, session: Session) -> None:
        """See to it that a session outlasts this agent, and wait for that, but not for long.  Never raises."""
        self._sessions[label] = session
        if self._keeper is not None:
            # It may have an earlier session with the same worker.
            self._keeper.kept.discard(label)
        await self._hand_over_in_time()

    def taken_over(self, label: Label, session: Session) -> None:
        """An earlier agent's session goes on as ours: a keeper has it already."""
        self._sessions[label] = session

    async def release(self) -> None:
        """This agent ends.  Called while its sessions are still open."""
        self._released = True
        self._again.cancel()
        await self._hand_over_in_time()
        if self._keeper is not None:
            self._keeper.close()

    async def _hand_over_in_time(self) -> None:
        handing_over = self._one_at_a_time.run(Deferred.fromCoroutine, self._hand_over())
        try:
            await within(self._reactor, KEEP_TIMEOUT, handing_over)
        except TimeoutError:
            self._tell_failure(f"no keeper was ready within {KEEP_TIMEOUT:g} s")
        except Exception:
            self._log.failure("sessions with old haproxy workers cannot be handed over")

    def _hand_over_again(self) -> None:
        Deferred.fromCoroutine(self._hand_over_in_time())

    async def _hand_over(self) -> None:
        """Give all that it has not got yet to the keeper that there is, or else to another one."""
        if not self._unkept():
            return
        try:
            try:
                await self._give_to(self._keeper or await self._reach(_ANSWER_TIMEOUT), _ANSWER_TIMEOUT)
            except KeeperFailed:
                await self._give_to(await self._start(), _START_TIMEOUT)
        except KeeperFailed as error:
            self._tell_failure(str(error))
        else:
            if self._failing:
                self._failing = False
                self._log.info("sessions with old haproxy workers are kept again")

    def _unkept(self) -> list[tuple[Label, Session]]:
        self._sessions = {label: session for label, session in self._sessions.items() if not session.over}
        kept = set() if self._keeper is None else self._keeper.kept
        return [(label, session) for label, session in self._sessions.items() if label not in kept]

    async def _give_to(self, keeper: KeeperConnection | None, timeout: float) -> None:
        if keeper is None:
            raise KeeperFailed("there is none")
        self._keeper = keeper
        try:
            for label, session in self._unkept():
                if not session.over:
                    await self._in_time(timeout, keeper.keep(label, session.descriptor))
        except KeeperFailed:
            self._keeper = None
            keeper.close()
            raise

    async def _reach(self, timeout: float) -> KeeperConnection | None:
        """
        Speak to the keeper that there is.

        @return: None where nobody listens.
        @raise KeeperFailed: if somebody should, and does not in time.
        """
        factory = Factory.forProtocol(lambda: KeeperConnection(self._ended))
        factory.noisy = False
        try:
            connection = await UNIXClientEndpoint(self._reactor, str(self._path), timeout=timeout).connect(factory)
        except ConnectTimeout:
            raise KeeperFailed(f"no connection within {timeout:g} s") from None
        except ConnectError:
            return None
        assert isinstance(connection, KeeperConnection)
        return connection

    async def _start(self) -> KeeperConnection:
        """@raise KeeperFailed: if no keeper comes up."""
        try:
            listening = await self._blocking.run(_listen, self._path)
            with listening, open(os.devnull, "r+b") as nowhere:
                spawn_daemon(
                    self._reactor,
                    [*self._command, str(self._path)],
                    output=nowhere.fileno(),
                    environment={},
                    given=listening.fileno(),
                )
        except OSError as error:
            raise KeeperFailed(f"{self._path} cannot be made: {error.strerror}") from None
        except CommandFailed as error:
            raise KeeperFailed(str(error)) from None
        keeper = await self._reach(_START_TIMEOUT)
        if keeper is None:
            raise KeeperFailed(f"the keeper that was started does not listen on {self._path}")
        return keeper

    async def _in_time(self, seconds: float, answering: Coroutine[Deferred[Any], Any, T]) -> T:
        try:
            return await within(self._reactor, seconds, Deferred.fromCoroutine(answering))
        except TimeoutError:
            raise KeeperFailed(f"no answer within {seconds:g} s") from None

    def _ended(self, keeper: KeeperConnection) -> None:
        if keeper is not self._keeper:
            return
        self._keeper = None
        if self._unkept() and not self._released:
            self._again.start_later()
            self._log.warn(
                "the process that keeps sessions with old haproxy workers beyond the end of this agent has ended; "
                "another one takes its place"
            )

    def _tell_failure(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._log.warn(
                "sessions with old haproxy workers are not kept beyond the end of this agent: {reason}. Should it end "
                "before their connections do, what these count then may not be told",
                reason=reason,
            )


def _listen(path: Path) -> socket.socket:
    """
    Listen there, whoever did before, for nobody but ourselves.  May wait for a disk.

    @raise OSError: as the system says.
    """
    unfinished = beside(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        unfinished.unlink(missing_ok=True)
        listening.bind(str(unfinished))
        unfinished.chmod(0o600)
        listening.listen(_BACKLOG)
        unfinished.rename(path)
    except OSError:
        listening.close()
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    return listening
