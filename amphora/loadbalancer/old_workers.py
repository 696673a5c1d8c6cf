"""
Workers that a reload left to finish their connections: what they still carry is counted too.

haproxy counts a TCP session's bytes when it ends, and a worker that has no session left is gone at once, with all
that it had counted since it was last asked.  But a session on its stats socket is one of those that it waits for.
So each worker is asked for an interactive session before a reload takes its socket away; that is ended when its
last figures are known.  It outlasts this agent (L{amphora.loadbalancer.kept_sessions}), and the next one goes on with
it: whatever was asked and not read to the end, L{StatsSession.figures} finds back to a prompt.

A question that is not answered in time is not given up, it is waited for again: one that hung for a while goes on to
be held then.  A master, too, would lose one of its ten places for each question to a hung worker that is abandoned, and
with the last of them it would be deaf (seen with 2.6).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IFileDescriptor, IReactorSocket, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.loadbalancer.sockets import ANSWER_LIMIT, ISocketReactor, NoAnswer, Silence, end_session
from amphora.loadbalancer.stats import QUESTION, Stats, UnreadableStats, parse_stats
from amphora.process import ProcessIdentity
from amphora.waiting import within

LOAD = "AMPHORA_LOAD"
"""The variable in which a worker has the mark of what it loaded."""
_PROMPT = b"\n> "
_MARK_QUESTION = f"show env {LOAD}\n".encode()

Ask = Callable[[], Deferred[bytes]]
"""Asks a worker for its figures, however long it takes.  Fails with L{NoAnswer} if there will be no answer."""


class StatsSession(Protocol):
    """An interactive session on a stats socket (management guide, 9.3, C{prompt}): question after question."""

    transport: ITCPTransport

    def __init__(self, mark: str = "", *, astray: bool = False) -> None:
        """
        @param mark: What the worker answers when it is asked for the mark of its load, as far as it is known.
        @param astray: Whether answers may still come to what somebody else has asked.
        """
        self.mark = mark
        self.over = False
        self._astray = astray
        self._received = bytearray()
        self._ending = _PROMPT
        self._answered: Deferred[bytes] | None = None

    @classmethod
    async def open(cls, reactor: ISocketReactor, path: Path, *, timeout: float) -> StatsSession:
        """@raise NoAnswer: if nobody answers there; L{Silence} where somebody should in time."""
        factory = Factory.forProtocol(cls)
        factory.noisy = False
        try:
            session = await UNIXClientEndpoint(reactor, str(path), timeout=timeout).connect(factory)
        except Exception as error:
            raise NoAnswer(f"nobody listens on {path} ({type(error).__name__})") from None
        assert isinstance(session, StatsSession)
        try:
            await within(reactor, timeout, Deferred.fromCoroutine(session._begin()))
        except TimeoutError:
            session.close()
            raise Silence(f"no answer within {timeout:g} s") from None
        return session

    @classmethod
    def go_on(cls, reactor: IReactorSocket, descriptor: int, mark: str) -> StatsSession:
        """
        Go on with a session that an earlier agent had, of which nobody knows what it was about to be answered.

        @param descriptor: Is closed.
        @raise NoAnswer: if it cannot be; the session is ended then, or its worker would wait for it for ever.
        """
        session = cls(mark, astray=True)
        factory = cast(ServerFactory, Factory.forProtocol(lambda: session))
        try:
            os.set_blocking(descriptor, False)
            # It makes a copy of its own.
            reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
        except OSError as error:
            end_session(descriptor)
            raise NoAnswer(f"the session cannot be taken over: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return session

    async def _begin(self) -> None:
        await self.ask(b"prompt\n")
        self.mark = (await self.ask(_MARK_QUESTION)).decode("ascii", "replace").strip()

    @property
    def descriptor(self) -> int:
        """Its socket, as long as it is not over."""
        return cast(IFileDescriptor, self.transport).fileno()

    async def figures(self) -> bytes:
        """What a worker answers to L{QUESTION}.  @raise NoAnswer: if the session is over, or ends."""
        if self._astray:
            # Nobody else knows the mark: no text of a member's can be taken for it.
            await self.ask(_MARK_QUESTION, f"{self.mark}\n".encode() + _PROMPT)
            self._astray = False
        # In a session each command is answered by itself, with a prompt after it.
        commands = [command.strip() + b"\n" for command in QUESTION.split(b";")]
        return b"".join([await self.ask(command) for command in commands])

    def lost_its_place(self) -> None:
        """What was taken for an answer was none."""
        self._astray = True

    def ask(self, question: bytes, ending: bytes = _PROMPT) -> Deferred[bytes]:
        """
        Ask, when what was asked before has been answered.

        @param ending: What the answer ends with.
        @return: Fires with the answer; fails with L{NoAnswer} if the session is over, or ends.
        """
        if self.over:
            return fail(NoAnswer("the session is over"))
        self._received.clear()
        self._ending = ending
        self._answered = Deferred()
        self.transport.write(question)
        return self._answered

    def close(self) -> None:
        """End the session, whoever else has it: a worker that has nothing else to wait for ends, too."""
        self.over = True
        # This shuts it down.
        self.transport.loseConnection()

    def leave(self) -> None:
        """Have no more to do with it: it goes on for whoever else has it."""
        self.over = True
        # This closes the descriptor and nothing else.
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > ANSWER_LIMIT:
            self.close()
        elif self._received.endswith(self._ending) and self._answered is not None:
            answered, self._answered = self._answered, None
            # The line's end before the prompt is the answer's own.
            answered.callback(bytes(self._received[: 1 - len(_PROMPT)]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = True
        answered, self._answered = self._answered, None
        if answered is not None:
            answered.errback(NoAnswer("the worker has ended the session"))


@define(eq=False)
class OldWorker:
    """
    One worker that finishes its connections.

    `stats` is what it said last, None before it has said anything; `final` when its figures change no more.
    """

    _log = Logger()

    process: ProcessIdentity
    stats: Stats | None
    _ask: Ask
    session: StatsSession | None = None
    """
    What holds it: no answer means that it is gone then.  Without, its master is asked for it, which may just be busy.
    """
    final: bool = field(init=False, default=False)
    _asking: Deferred[bytes] | None = field(init=False, default=None)
    _reading: Deferred[None] | None = field(init=False, default=None)

    async def read(self, reactor: ISocketReactor, timeout: float) -> None:
        """
        Ask for its figures, or wait on for them, so many seconds.  The last ones that it told stand when it is gone,
        and are final then.
        """
        if self.final:
            return
        reading = self._reading
        if reading is None:
            reading = self._reading = Deferred.fromCoroutine(self._read())
            reading.addErrback(lambda reason: self._log.failure("an old worker cannot be read", reason))
            reading.addBoth(self._have_read)
        with suppress(TimeoutError):
            await within(reactor, timeout, reading)

    async def _read(self) -> None:
        self._asking = self._ask()
        try:
            self._take(parse_stats(await self._asking))
        except NoAnswer:
            if self.session is not None or not self.process.alive:
                self.finish()
        except UnreadableStats:
            if self.session is not None:
                self.session.lost_its_place()
        except CancelledError:
            pass

    def _have_read(self, result: None) -> None:
        self._asking = self._reading = None

    def _take(self, stats: Stats) -> None:
        if self.final or stats.pid != self.process.pid:
            return
        self.stats = stats
        if self.idle:
            self.finish()

    @property
    def idle(self) -> bool:
        """Has it said that it takes no connections any more, and has none?"""
        stats = self.stats
        return stats is not None and stats.stopping and not any(frontend.current for frontend in stats.frontends)

    def finish(self) -> None:
        """Its figures are final: let it go."""
        self._end(StatsSession.close)

    def leave(self) -> None:
        """What it says from now on is for the next agent."""
        self._end(StatsSession.leave)

    def _end(self, end: Callable[[StatsSession], None]) -> None:
        if not self.final:
            self.final = True
            if self.session is not None:
                end(self.session)
            if self._asking is not None:
                self._asking.cancel()

    @classmethod
    def held_by(cls, session: StatsSession, process: ProcessIdentity, stats: Stats | None) -> OldWorker:
        return cls(process, stats, lambda: Deferred.fromCoroutine(session.figures()), session)


async def hold(reactor: ISocketReactor, path: Path, *, timeout: float) -> OldWorker:
    """
    Keep the worker that listens on a stats socket now from ending before its last figures are known.

    @raise NoAnswer, UnreadableStats: if it cannot be held; L{Silence} where it hangs.
    """
    session = await StatsSession.open(reactor, path, timeout=timeout)
    try:
        stats = parse_stats(await within(reactor, timeout, Deferred.fromCoroutine(session.figures())))
        process = ProcessIdentity.of(stats.pid)
        if process is None:
            raise NoAnswer("the worker has ended")
    except TimeoutError:
        session.close()
        raise Silence(f"no answer within {timeout:g} s") from None
    except (NoAnswer, UnreadableStats):
        session.close()
        raise
    return OldWorker.held_by(session, process, stats)
