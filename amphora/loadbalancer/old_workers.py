"""
Workers that a reload left to finish their connections: what they still carry is counted too.

haproxy counts a TCP session's bytes when it ends, and a worker that has no session left is gone at once, with all
that it had counted since it was last asked.  But a session on its stats socket is one of those that it waits for.
So each worker is asked for an interactive session before a reload takes its socket away; that is closed when its
last figures are known.  Should this agent die, the session ends with it, and no worker stays for its sake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from amphora.loadbalancer.sockets import ANSWER_LIMIT, ISocketReactor, NoAnswer
from amphora.loadbalancer.stats import QUESTION, Stats, UnreadableStats, parse_stats
from amphora.process import ProcessIdentity

_PROMPT = b"\n> "

Ask = Callable[[float], Awaitable[bytes]]
"""Asks a worker for its figures within so many seconds.  @raise NoAnswer: if there is no answer, and will be none."""


class StatsSession(Protocol):
    """An interactive session on a stats socket (management guide, 9.3, C{prompt}): question after question."""

    transport: ITCPTransport

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: Deferred[bytes] | None = None
        self._lock = DeferredLock()
        self._over = False

    @classmethod
    async def open(cls, reactor: ISocketReactor, path: Path, *, timeout: float) -> StatsSession:
        """@raise NoAnswer: if nobody answers there in time."""
        factory = Factory.forProtocol(cls)
        factory.noisy = False
        try:
            session = await UNIXClientEndpoint(reactor, str(path), timeout=timeout).connect(factory)
        except Exception as error:
            raise NoAnswer(f"nobody listens on {path} ({type(error).__name__})") from None
        assert isinstance(session, StatsSession)
        await session.ask(reactor, b"prompt\n", timeout=timeout)
        return session

    async def ask(self, reactor: ISocketReactor, question: bytes, *, timeout: float) -> bytes:
        """
        Ask, after the questions that were asked before.

        @raise NoAnswer: if the session is over, or ends, or the answer takes too long; then it is over.
        """
        await self._lock.acquire()
        try:
            if self._over:
                raise NoAnswer("the session is over")
            self._received.clear()
            self._answered = Deferred(lambda _: self.transport.abortConnection())
            self.transport.write(question)
            try:
                return await self._answered.addTimeout(timeout, reactor)
            except TimeoutError:
                raise NoAnswer(f"no answer within {timeout:g} s") from None
        finally:
            self._answered = None
            self._lock.release()

    def close(self) -> None:
        """End the session: a worker that has nothing else to wait for ends, too."""
        self._over = True
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > ANSWER_LIMIT:
            self.transport.abortConnection()
        elif self._received.endswith(_PROMPT) and self._answered is not None:
            answered, self._answered = self._answered, None
            # The line's end before the prompt is the answer's own.
            answered.callback(bytes(self._received[: 1 - len(_PROMPT)]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        if self._answered is not None and not self._answered.called:
            self._answered.errback(NoAnswer("the worker has ended the session"))


@define(eq=False)
class OldWorker:
    """One worker that finishes its connections; `final` when its figures change no more."""

    process: ProcessIdentity
    stats: Stats
    _ask: Ask
    _close: Callable[[], None]
    _held: bool = True
    """Whether no answer means that it is gone; a master that is asked for it may just be busy."""
    final: bool = field(init=False, default=False)

    async def read(self, timeout: float) -> None:
        """Ask for its figures.  The last ones that it told stand when it is gone, and are final then."""
        if self.final:
            return
        try:
            stats = parse_stats(await self._ask(timeout))
        except NoAnswer:
            if self._held or not self.process.alive:
                self.finish()
            return
        except UnreadableStats:
            return
        if self.final or stats.pid != self.process.pid:
            return
        self.stats = stats
        if stats.stopping and not any(frontend.current for frontend in stats.frontends):
            self.finish()

    def finish(self) -> None:
        """Its figures are final: let it go."""
        if not self.final:
            self.final = True
            self._close()


async def hold(reactor: ISocketReactor, path: Path, *, timeout: float) -> OldWorker:
    """
    Keep the worker that listens on a stats socket now from ending before its last figures are known.

    @raise NoAnswer, UnreadableStats: if it cannot be held.
    """
    session = await StatsSession.open(reactor, path, timeout=timeout)

    async def ask(seconds: float) -> bytes:
        # In a session each command is answered by itself, with a prompt after it.
        commands = [command.strip() + b"\n" for command in QUESTION.split(b";")]
        return b"".join([await session.ask(reactor, command, timeout=seconds) for command in commands])

    try:
        stats = parse_stats(await ask(timeout))
        process = ProcessIdentity.of(stats.pid)
        if process is None:
            raise NoAnswer("the worker has ended")
    except (NoAnswer, UnreadableStats):
        session.close()
        raise
    return OldWorker(process, stats, ask, session.close)
