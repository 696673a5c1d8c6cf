"""Asking a haproxy through a UNIX socket: one question, one answer, under one deadline."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, NotConnectingError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IReactorTime,
    IReactorUNIX,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes: a `show stat` of 100,000 servers is a third of it."""

_TURNS = 8
"""
Of the reactor, that an answer is given after its time: connecting, writing, reading.  One that had its hands full with
other connections must not take what waits there for silence.
"""


_READ = 256 * 1024
"""
Bytes to read at once: more than the kernel keeps.  Between two reads the reactor serves everybody else, and 10,000
servers are 2.4 MB.
"""


class ISocketReactor(IReactorUNIX, IReactorTime):
    """What asking needs of a reactor."""


class NoAnswer(Exception):
    """Nobody listens there, or the answer did not come, not in time, or not whole."""


class Silence(NoAnswer):
    """Somebody is there, but says nothing, or not in time."""


class _Asking(Protocol):
    transport: ITCPTransport  # what a UNIX socket offers is the same

    def __init__(self, question: bytes, answered: Deferred[bytes]) -> None:
        self._question = question
        self._answered = answered
        self._pieces: list[bytes] = []
        self._length = 0

    def connectionMade(self) -> None:
        cast(Any, self.transport).bufferSize = _READ
        self.transport.write(self._question)

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)
        self._length += len(data)
        if self._length > ANSWER_LIMIT:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._answered.called:
            return
        if self._length > ANSWER_LIMIT:
            self._answered.errback(NoAnswer(f"the answer has more than {ANSWER_LIMIT} bytes"))
        elif reason.check(ConnectionDone):
            self._answered.callback(b"".join(self._pieces))
        else:
            self._answered.errback(NoAnswer(f"the connection broke: {reason.getErrorMessage()}"))


class _AskingFactory(ClientFactory):
    """
    Makes one connection, for one question.

    Every haproxy is asked every second: an endpoint, which wraps factory and protocol, would cost half as much again.
    """

    noisy = False

    def __init__(self, path: Path, question: bytes, answered: Deferred[bytes]) -> None:
        self._path = path
        self._question = question
        self._answered = answered
        self.asking: _Asking | None = None
        """None until there is a connection."""

    def buildProtocol(self, addr: IAddress | None) -> _Asking:
        self.asking = _Asking(self._question, self._answered)
        return self.asking

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._answered.called:
            self._answered.errback(NoAnswer(f"nobody listens on {self._path} ({type(reason.value).__name__})"))


async def ask(reactor: ISocketReactor, path: Path, question: bytes, *, timeout: float) -> bytes:
    """
    Send a question and read until the other side closes, as haproxy does after each answer.

    @param timeout: Seconds for all of it, connecting included; some turns of the reactor's are allowed in any case.
    @raise NoAnswer: if there is none; the text says why.
    """
    answered: Deferred[bytes] = Deferred()
    factory = _AskingFactory(path, question, answered)

    deadline: IDelayedCall

    def give_up(turns: int) -> None:
        nonlocal deadline
        if turns:
            deadline = reactor.callLater(0, give_up, turns - 1)
        elif not answered.called:
            missing = "answer" if factory.asking else "connection"
            answered.errback(NoAnswer(f"no {missing} within {timeout:g} s"))

    # A worker that dies while the connection stands in its queue resets it; one that is stopped leaves it there.
    deadline = reactor.callLater(timeout, give_up, _TURNS)
    connector = reactor.connectUNIX(str(path), factory, timeout=timeout + 1)
    try:
        return await answered
    finally:
        if deadline.active():
            deadline.cancel()
        # Answered, it is closed already; overdue or cancelled, nothing may stay open.
        if factory.asking is not None:
            factory.asking.transport.abortConnection()
        else:
            with suppress(NotConnectingError):
                connector.stopConnecting()


def end_session(descriptor: int) -> None:
    """End a connection for all who have it; the descriptor is the caller's to close."""
    with suppress(OSError):
        # Nothing new is opened for it: descriptors may have run out.
        connection = socket.socket(fileno=descriptor)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()
