"""
Workers that a reload left to finish their connections: what they still carry is counted too.

haproxy counts a TCP session's bytes when it ends, and a worker that has no session left is gone at once, with all
that it had counted since it was last asked.  But a session on its stats socket is one of those that it waits for.
So each worker is asked for an interactive session before a reload takes its socket away; that is closed when its
last figures are known.  Should this agent die, the session ends with it, and no worker stays for its sake.

A question that is not answered in time is not given up, it is waited for again: one that hung for a while goes on to
be held then.  A master, too, would lose one of its ten places for each question to a hung worker that is abandoned, and
with the last of them it would be deaf (seen with 2.6).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.loadbalancer.sockets import ANSWER_LIMIT, ISocketReactor, NoAnswer, Silence
from amphora.loadbalancer.stats import QUESTION, Stats, UnreadableStats, parse_stats
from amphora.process import ProcessIdentity
from amphora.waiting import within

_PROMPT = b"\n> "

Ask = Callable[[], Deferred[bytes]]
"""Asks a worker for its figures, however long it takes.  Fails with L{NoAnswer} if there will be no answer."""


class StatsSession(Protocol):
    """An interactive session on a stats socket (management guide, 9.3, C{prompt}): question after question."""

    transport: ITCPTransport

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: Deferred[bytes] | None = None
        self._over = False

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
            await within(reactor, timeout, session.ask(b"prompt\n"))
        except TimeoutError:
            session.close()
            raise Silence(f"no answer within {timeout:g} s") from None
        return session

    def ask(self, question: bytes) -> Deferred[bytes]:
        """
        Ask, when what was asked before has been answered.

        @return: Fires with the answer; fails with L{NoAnswer} if the session is over, or ends.
        """
        if self._over:
            return fail(NoAnswer("the session is over"))
        self._received.clear()
        self._answered = Deferred()
        self.transport.write(question)
        return self._answered

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
    _close: Callable[[], None]
    _held: bool = True
    """Whether no answer means that it is gone; a master that is asked for it may just be busy."""
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
            if self._held or not self.process.alive:
                self.finish()
        except (UnreadableStats, CancelledError):
            pass

    def _have_read(self, result: None) -> None:
        self._asking = self._reading = None

    def _take(self, stats: Stats) -> None:
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
            if self._asking is not None:
                self._asking.cancel()


async def hold(reactor: ISocketReactor, path: Path, *, timeout: float) -> OldWorker:
    """
    Keep the worker that listens on a stats socket now from ending before its last figures are known.

    @raise NoAnswer, UnreadableStats: if it cannot be held; L{Silence} where it hangs.
    """
    session = await StatsSession.open(reactor, path, timeout=timeout)

    async def ask() -> bytes:
        # In a session each command is answered by itself, with a prompt after it.
        commands = [command.strip() + b"\n" for command in QUESTION.split(b";")]
        return b"".join([await session.ask(command) for command in commands])

    try:
        stats = parse_stats(await within(reactor, timeout, Deferred.fromCoroutine(ask())))
        process = ProcessIdentity.of(stats.pid)
        if process is None:
            raise NoAnswer("the worker has ended")
    except TimeoutError:
        session.close()
        raise Silence(f"no answer within {timeout:g} s") from None
    except (NoAnswer, UnreadableStats):
        session.close()
        raise
    return OldWorker(process, stats, lambda: Deferred.fromCoroutine(ask()), session.close)
