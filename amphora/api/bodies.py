"""
Request bodies: where they are kept while they arrive, and how routes read them.

Left alone, Twisted keeps a body of 100 kB and more in a temporary file, where a tenant's private key would land
on a disk.  Here a body stays in memory, except for haproxy configurations: those are large, and are collected
in a file beside their place, written by a thread.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from amphora.api.errors import ErrorAnswer, RequestRefused
from amphora.blocking import BlockingCalls
from amphora.loadbalancer.errors import StorageFailed

_CONFIGURATION_PATH = re.compile(rb"/[^/]+/(?:listeners|loadbalancer)/[^/]+/(?!certificates/)[^/]+/haproxy/?")
_HIGH_WATER = 256 * 1024
"""Bytes that may wait for the disk before the client is asked to wait."""


class Body(Protocol):
    """What Twisted asks of a request's content."""

    def write(self, data: bytes) -> object: ...
    def tell(self) -> int: ...
    def seek(self, offset: int, whence: int = 0) -> int: ...
    def close(self) -> None: ...


class SpoolDirectory(Protocol):
    """Makes files to collect bodies in; `amphora.loadbalancer.store.Store` is one."""

    def new_spool_file(self) -> tuple[int, Path]: ...


class Flow(Protocol):
    """Holds back a client that sends faster than a disk writes."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


@define(eq=False)
class SpooledBody:
    """
    A body that is written to a file by a thread while it arrives.

    A disk that does not take it is told when the body is asked for; until then what arrives is dropped.
    """

    _blocking: BlockingCalls
    _directory: SpoolDirectory
    _flow: Flow

    _length: int = field(init=False, default=0)
    _waiting: bytearray = field(init=False, factory=bytearray)
    _file: tuple[int, Path] | None = field(init=False, default=None)
    _at_work: bool = field(init=False, default=False)
    _paused: bool = field(init=False, default=False)
    _problem: OSError | None = field(init=False, default=None)
    _taken: bool = field(init=False, default=False)
    _closed: bool = field(init=False, default=False)
    _taker: Deferred[Path] | None = field(init=False, default=None)

    def write(self, data: bytes) -> None:
        self._length += len(data)
        if self._problem is None:
            self._waiting += data
            if len(self._waiting) > _HIGH_WATER and not self._paused:
                self._paused = True
                self._flow.pause()
            self._work()

    def tell(self) -> int:
        return self._length

    def seek(self, offset: int, whence: int = 0) -> int:
        """Twisted rewinds a body that has arrived; this one is not read through Twisted."""
        return 0

    def take(self) -> Deferred[Path]:
        """
        The file with the whole body; it is the caller's from now on.

        @raise StorageFailed: if the disk did not take it, or the request is over already.
        """
        if self._closed:
            return fail(StorageFailed("configuration", "the client has gone away"))
        self._taken = True
        # Cancelled (the client went away), it is only marked as called.
        taker: Deferred[Path] = Deferred(lambda _: None)
        self._taker = taker
        self._work()
        return taker

    def close(self) -> None:
        """The request is over, and its sender is no longer ours to hold back: a file that nobody took goes away."""
        self._closed = True
        if not self._taken:
            self._waiting.clear()
        self._work()

    def _work(self) -> None:
        """Do what is to be done next, one thing at a time."""
        if self._at_work:
            return
        if self._waiting and self._problem is None:
            data, self._waiting = bytes(self._waiting), bytearray()
            self._in_thread(self._blocking.run(self._append, data))
        elif self._taker is not None:
            taker, self._taker = self._taker, None
            finished = self._blocking.run(self._finish)
            self._in_thread(
                finished.addCallbacks(self._hand_over, self._fail, callbackArgs=(taker,), errbackArgs=(taker,))
            )
        elif self._closed and not self._taken and self._file is not None:
            self._in_thread(self._blocking.run(self._discard))

    def _in_thread(self, work: Deferred[None]) -> None:
        self._at_work = True
        work.addErrback(self._failed).addCallback(self._worked)

    def _failed(self, reason: Failure) -> None:
        reason.trap(OSError)
        assert isinstance(reason.value, OSError)
        self._problem = reason.value
        self._waiting.clear()

    def _worked(self, _: None) -> None:
        self._at_work = False
        if self._paused and not self._closed and len(self._waiting) <= _HIGH_WATER:
            self._paused = False
            self._flow.resume()
        self._work()

    def _fail(self, reason: Failure, taker: Deferred[Path]) -> None:
        if not taker.called:
            taker.errback(reason)

    def _hand_over(self, path: Path, taker: Deferred[Path]) -> Deferred[None] | None:
        if taker.called:
            return self._blocking.run(path.unlink)
        taker.callback(path)
        return None

    # These run in a thread, one at a time.

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._directory.new_spool_file()
        view = memoryview(data)
        while view:
            view = view[os.write(self._file[0], view) :]

    def _finish(self) -> Path:
        try:
            if self._problem is not None:
                raise self._problem
            self._append(b"")
            assert self._file is not None
            handle, path = self._file
            os.fsync(handle)
        except OSError as error:
            with suppress(OSError):
                self._discard()
            raise StorageFailed("configuration", error.strerror or str(error)) from error
        self._file = None
        os.close(handle)
        return path

    def _discard(self) -> None:
        if self._file is not None:
            handle, path = self._file
            self._file = None
            os.close(handle)
            path.unlink(missing_ok=True)


def is_configuration(method: bytes, path: bytes) -> bool:
    """Is this the upload of a haproxy configuration?  Told as the routes tell it, escapes and all."""
    return method == b"PUT" and _CONFIGURATION_PATH.fullmatch(unquote_to_bytes(path.partition(b"?")[0])) is not None


def body_bytes(request: IRequest) -> bytes:
    """A body that was kept in memory."""
    content = request.content
    assert isinstance(content, BytesIO)
    return content.getvalue()


def body_object(request: IRequest, refusal: str) -> dict[str, Any]:
    """
    A body that is a JSON object.

    @param refusal: What a client whose body is none is told.
    @raise RequestRefused: 400 for all else.
    """
    value = _body_json(request, refusal)
    if not isinstance(value, dict):
        raise RequestRefused(ErrorAnswer(400, refusal, "The body is not a JSON object"))
    return value


def body_array(request: IRequest, refusal: str) -> list[Any]:
    """
    A body that is a JSON array.

    @param refusal: What a client whose body is none is told.
    @raise RequestRefused: 400 for all else.
    """
    value = _body_json(request, refusal)
    if not isinstance(value, list):
        raise RequestRefused(ErrorAnswer(400, refusal, "The body is not a JSON array"))
    return value


def _body_json(request: IRequest, refusal: str) -> Any:
    try:
        return json.loads(body_bytes(request))
    except (ValueError, RecursionError):
        raise RequestRefused(ErrorAnswer(400, refusal, "The body is not JSON")) from None


def body_file(request: IRequest) -> Deferred[Path]:
    """A haproxy configuration's file.  @raise StorageFailed: if the disk did not take it."""
    content = request.content
    if isinstance(content, SpooledBody):
        return content.take()
    return fail(TypeError("this body is in memory"))
