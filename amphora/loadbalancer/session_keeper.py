"""
A program of its own that keeps the agent's sessions with old workers open while no agent runs.

haproxy counts a TCP session's bytes when it ends, and an old worker that waits for no other session is gone then.  So
the agent holds one on its stats socket (L{amphora.loadbalancer.old_workers}); but a descriptor ends with the process
that has it.  This process has it too, and never reads or writes there.

It is started with C{python -I -S session_keeper.py PATH}; its standard input is the listening UNIX socket at PATH.  It
imports next to nothing, as it is there for memory's sake only if it is small: the C{_socket} below C{socket} saves one
megabyte of five.  What is said on that socket are lines; a descriptor (C{SCM_RIGHTS}, unix(7)) comes with the line that
speaks of it:

    keep LABEL      with a session: keep it.  Answered with C{kept LABEL}, or C{refused LABEL} and an end.
    give            tell all that is kept: C{session LABEL} for each, with a copy of it, and then C{end}.

A label is whatever the agent wants to know of a session; one that comes again takes the other's place.  Later agents
speak to this process, too: what these lines mean does not change.

A session is let go when it has ended: an agent that is done with it shuts it down, which ends it for all who have it.
This process ends when it has kept nothing for L{GRACE} seconds.  Without an agent all sessions are ended after L{ALONE}
seconds: no worker stays for ever for the sake of figures that nobody comes to ask for.  haproxy does not see to that:
2.6 mostly leaves a session open that rests, whatever C{stats timeout} says (seen).
"""

from __future__ import annotations

import os
import select
import sys
import time
from _socket import CMSG_SPACE, SCM_RIGHTS, SHUT_RDWR, SOL_SOCKET, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GRACE = 5.0
"""Seconds: reloads often follow on one another."""
ALONE = 3600.0

_LONGEST_LINE = 1024
_CLIENTS = 16
_SESSIONS = 900
"""With these, a process still has descriptors left where it may have 1,024, as is usual."""
_SEND_TIMEOUT = 2.0
_DESCRIPTOR = 4
"""Bytes of one descriptor in a message: an C{int}."""


class Misunderstood(Exception):
    """A client does not speak this language, or wants too much."""


class Client:
    """One connection to us, and what came over it and is not dealt with yet."""

    def __init__(self, connection: socket) -> None:
        self.connection = connection
        self._text = b""
        self.descriptors: list[int] = []

    def receive(self) -> list[bytes]:
        """@return: Whole lines.  @raise EOFError, OSError, Misunderstood: if no more is to be expected of it."""
        text, ancillary, _, _ = self.connection.recvmsg(4096, CMSG_SPACE(8 * _DESCRIPTOR))
        for level, kind, data in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                whole = len(data) - len(data) % _DESCRIPTOR
                self.descriptors += [
                    int.from_bytes(data[place : place + _DESCRIPTOR], sys.byteorder)
                    for place in range(0, whole, _DESCRIPTOR)
                ]
        if not text:
            raise EOFError
        *lines, self._text = (self._text + text).split(b"\n")
        if len(self._text) > _LONGEST_LINE or len(self.descriptors) > len(lines) + 1:
            raise Misunderstood
        return lines

    def say(self, line: bytes, descriptor: int | None = None) -> None:
        """@raise OSError: if it does not listen."""
        ancillary = []
        if descriptor is not None:
            ancillary.append((SOL_SOCKET, SCM_RIGHTS, descriptor.to_bytes(_DESCRIPTOR, sys.byteorder)))
        self.connection.sendmsg([line + b"\n"], ancillary)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.connection.close()


class Keeper:
    """Keeps sessions for whoever asks on a listening socket."""

    def __init__(self, listening: socket, clock: Callable[[], float] = time.monotonic) -> None:
        # All that it can be accepted with here; typeshed does not list it.
        self._listening: Any = listening
        self._clock = clock
        self._clients: dict[int, Client] = {}
        self._kept: dict[int, bytes] = {}
        """By descriptor, their labels."""
        self._poll = select.poll()
        self._poll.register(listening.fileno(), select.POLLIN)
        self._changed = self._clock()
        """When a client, or the last session, went."""

    def serve(self) -> None:
        """Keep sessions as long as there is a reason to."""
        while (left := self.left()) is None or left > 0:
            self.turn(left)

    def left(self) -> float | None:
        """Seconds until nobody needs us any more if nothing happens; None where that is not to be foreseen."""
        if self._kept and self._clients:
            return None
        return self._changed + (ALONE if self._kept else GRACE) - self._clock()

    def turn(self, timeout: float | None) -> None:
        """Deal with what happens, if anything does within so many seconds."""
        for descriptor, _ in self._poll.poll(None if timeout is None else timeout * 1000):
            if descriptor in self._clients:
                self._hear(descriptor)
            elif descriptor in self._kept:
                self._let_go(descriptor)
            else:
                self._accept()

    def end_sessions(self) -> None:
        """End all sessions, whoever has them."""
        for descriptor in list(self._kept):
            try:
                session = socket(fileno=os.dup(descriptor))
                session.shutdown(SHUT_RDWR)
                session.close()
            except OSError:
                # It has ended already.
                pass
            self._let_go(descriptor)

    def _accept(self) -> None:
        try:
            descriptor, _ = self._listening._accept()
        except OSError:
            return
        if len(self._clients) >= _CLIENTS:
            os.close(descriptor)
            return
        connection = socket(fileno=descriptor)
        connection.settimeout(_SEND_TIMEOUT)
        self._clients[descriptor] = Client(connection)
        self._poll.register(descriptor, select.POLLIN)

    def _hear(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        try:
            for line in client.receive():
                self._obey(client, line)
        except (EOFError, OSError, Misunderstood):
            self._poll.unregister(descriptor)
            del self._clients[descriptor]
            client.close()
            self._changed = self._clock()

    def _obey(self, client: Client, line: bytes) -> None:
        word, _, label = line.partition(b" ")
        if word == b"keep" and label:
            if client.descriptors and len(self._kept) < _SESSIONS:
                self._keep(client.descriptors.pop(0), label)
                client.say(b"kept " + label)
            else:
                client.say(b"refused " + label)
                raise Misunderstood
        elif line == b"give":
            for descriptor, each in list(self._kept.items()):
                client.say(b"session " + each, descriptor)
            client.say(b"end")
        else:
            raise Misunderstood

    def _keep(self, descriptor: int, label: bytes) -> None:
        for other in [known for known, its in self._kept.items() if its == label]:
            self._let_go(other)
        self._kept[descriptor] = label
        # That it has ended is told without being asked for.
        self._poll.register(descriptor, select.POLLRDHUP)

    def _let_go(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._kept[descriptor]
        os.close(descriptor)
        if not self._kept:
            self._changed = self._clock()


def has_successor(path: str, own: os.stat_result) -> bool:
    """Has an agent that did not get an answer from us in time put another keeper in our place?"""
    try:
        return not os.path.samestat(os.lstat(path), own)
    except OSError:
        return False


def main() -> None:
    path = sys.argv[1]
    os.chdir("/")
    own = os.lstat(path)
    keeper = Keeper(socket(fileno=0))
    keeper.serve()
    if has_successor(path, own):
        # It has been given all that an agent still has, and goes on with it.
        return
    if os.path.lexists(path):
        os.unlink(path)
    keeper.end_sessions()


if __name__ == "__main__":
    main()
