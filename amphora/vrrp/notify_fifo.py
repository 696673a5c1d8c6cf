"""
Where keepalived tells what becomes of its instances: a FIFO that it writes one line into for each change.

We make it, and hold it open for reading and writing: so it never ends, and as long as either side has it open, what is
written waits for its reader, also for the next agent's.  keepalived does not wait where it is full: those lines are
lost.  (keepalived.conf(5), C{vrrp_notify_fifo}; tried in `tests/integration/test_keepalived_facts.py`.)
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast, get_args

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from amphora.blocking import BlockingCalls

State = Literal["MASTER", "BACKUP", "FAULT", "STOP", "DELETED"]

_AT_ONCE = 64 * 1024
_LONGEST_LINE = 4096
_EVENT = re.compile(rb'INSTANCE "(.*)" ([A-Z_]+)(?: [0-9]+)?')


@frozen
class Event:
    """A vrrp_instance came into a state."""

    instance: str
    state: State


@define(eq=False)
class EventParser:
    """Makes events of what comes out of the FIFO, in whatever pieces; what is no event is passed over."""

    _rest: bytes = field(init=False, default=b"")

    def feed(self, data: bytes) -> Iterator[Event]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines:
            found = _EVENT.fullmatch(line)
            if found is not None:
                state = found[2].decode("ascii")
                # Others tell of priorities, not of states.
                if state in get_args(State):
                    yield Event(found[1].decode("utf-8", "replace"), cast(State, state))


@implementer(IReadDescriptor)
@define(eq=False)
class NotifyFifo:
    """Our end of the FIFO."""

    _log = Logger()

    _reactor: IReactorFDSet
    _blocking: BlockingCalls
    _path: Path
    _heard: Callable[[Event], None]
    _handle: int = field(init=False, default=-1)
    _parser: EventParser = field(init=False, factory=EventParser)

    async def open(self) -> None:
        """
        Begin to listen; if that was done, see to it that the FIFO is still the one that keepalived would open.

        What waits in it was read when this has ended.

        @raise OSError: if it cannot be made or opened.
        """
        if self._handle != -1 and await self._blocking.run(_is_at, self._handle, self._path):
            return
        handle = await self._blocking.run(_make_and_open, self._path)
        self.close()
        self._handle = handle
        self._parser = EventParser()
        self._reactor.addReader(self)
        self.doRead()

    def close(self) -> None:
        """Listen no longer."""
        if self._handle != -1:
            self._reactor.removeReader(self)
            os.close(self._handle)
            self._handle = -1

    def fileno(self) -> int:
        return self._handle

    def doRead(self) -> None:
        try:
            data = os.read(self._handle, _AT_ONCE)
        except BlockingIOError:
            return
        for event in self._parser.feed(data):
            self._heard(event)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the descriptor."""
        self._log.error("keepalived's changes of role are not heard any more: {reason}", reason=reason.value)
        self.close()

    def logPrefix(self) -> str:
        return "NotifyFifo"


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _make_and_open(path: Path) -> int:
    if os.path.lexists(path) and not stat.S_ISFIFO(os.lstat(path).st_mode):
        path.unlink()
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
