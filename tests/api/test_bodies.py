"""Tests for L{amphora.api.bodies}: spooling with a disk that takes its time, or takes nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from amphora.api.bodies import SpooledBody, body_array, body_object, is_configuration
from amphora.api.errors import RequestRefused
from amphora.loadbalancer.errors import StorageFailed
from amphora.testing.fakes import CallsLater, full_disk

HIGH_WATER = 256 * 1024


class FakeFlow:
    """Remembers whether the sender is held back."""

    def __init__(self) -> None:
        self.paused = False
        self.changes = 0

    def pause(self) -> None:
        assert not self.paused
        self.paused = True
        self.changes += 1

    def resume(self) -> None:
        assert self.paused
        self.paused = False
        self.changes += 1


class FakeSpool:
    """Makes files in a directory, as long as it can."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problem: OSError | None = None

    def new_spool_file(self) -> tuple[int, Path]:
        if self.problem is not None:
            raise self.problem
        handle, name = tempfile.mkstemp(dir=self.directory)
        return handle, Path(name)


class SpooledBodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.spool = FakeSpool(directory)
        self.blocking = CallsLater()
        self.flow = FakeFlow()
        self.body = SpooledBody(self.blocking, self.spool, self.flow)
        self.descriptors = self.open_files()

    def open_files(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def files(self) -> list[str]:
        return os.listdir(self.spool.directory)

    def assert_nothing_left(self) -> None:
        """No file, no descriptor, no call that was not made."""
        self.blocking.make_all()
        self.assertEqual([], self.files())
        self.assertEqual(self.descriptors, self.open_files())

    def assert_storage_failed(self, taking: Deferred[Path], reason: str) -> None:
        error = self.failureResultOf(taking, StorageFailed).value
        self.assertEqual(("configuration", reason), (error.what, error.reason))

    # When all goes well

    def test_taken(self) -> None:
        """What was written, in however many parts, is in the file that is handed over; then it is the taker's."""
        parts = [b"one", b"", b"two" * 100_000, b"three"]
        for part in parts:
            self.body.write(part)
        self.assertEqual(sum(map(len, parts)), self.body.tell())
        self.assertEqual(0, self.body.seek(0))
        taking = self.body.take()
        self.assertNoResult(taking)
        self.blocking.make_all()
        path = self.successResultOf(taking)
        self.assertEqual(b"".join(parts), path.read_bytes())
        self.body.close()
        self.assertTrue(path.exists())
        path.unlink()
        self.assert_nothing_left()

    def test_one_call_at_a_time(self) -> None:
        """However much arrives, one thread at most is at work for a body."""
        for _ in range(10):
            self.body.write(b"x")
            self.assertEqual(1, self.blocking.waiting)
        self.body.take()
        self.assertEqual(1, self.blocking.waiting)
        self.blocking.make_one()
        self.assertEqual(1, self.blocking.waiting)
        self.blocking.make_all()
        self.assertEqual([10], [(self.spool.directory / name).stat().st_size for name in self.files()])

    def test_empty(self) -> None:
        """A body of no bytes is a file of no bytes."""
        taking = self.body.take()
        self.blocking.make_all()
        self.assertEqual(b"", self.successResultOf(taking).read_bytes())

    # When the sender is faster than the disk

    def test_held_back(self) -> None:
        """A sender is held back once more than so much waits for the disk, and goes on when it has been taken."""
        self.body.write(b"x")
        self.body.write(b"x" * HIGH_WATER)
        self.assertFalse(self.flow.paused)
        self.body.write(b"x")
        self.assertTrue(self.flow.paused)
        self.body.write(b"x")
        self.blocking.make_one()
        self.assertTrue(self.flow.paused)
        self.blocking.make_one()
        self.assertEqual((False, 2), (self.flow.paused, self.flow.changes))

    def test_held_back_again(self) -> None:
        """As often as it takes."""
        for _ in range(3):
            self.body.write(b"x")
            self.body.write(b"x" * (HIGH_WATER + 1))
            self.blocking.make_all()
        self.assertEqual((False, 6), (self.flow.paused, self.flow.changes))

    def test_taken_while_held_back(self) -> None:
        """The last part may still wait for the disk when the body is asked for: it is in the file."""
        self.body.write(b"x")
        self.body.write(b"x" * (HIGH_WATER + 1))
        taking = self.body.take()
        self.blocking.make_all()
        self.assertEqual(HIGH_WATER + 2, self.successResultOf(taking).stat().st_size)
        self.assertFalse(self.flow.paused)

    # When the disk fails

    def test_full(self) -> None:
        """A full disk is told when the body is asked for; what comes until then is dropped, and nothing is left."""
        self.body.write(b"x" * 1000)
        self.blocking.make_all()
        self.body.write(b"x" * 1000)
        with full_disk(1500):
            self.blocking.make_all()
        self.body.write(b"x" * 1000)
        self.assertEqual((0, 3000), (self.blocking.waiting, self.body.tell()))
        taking = self.body.take()
        self.blocking.make_all()
        self.assert_storage_failed(taking, os.strerror(errno.EFBIG))
        self.assert_nothing_left()

    def test_full_while_held_back(self) -> None:
        """A sender that was held back is let go when the disk fails: it shall hear of it, not wait for its deadline."""
        self.body.write(b"x")
        self.body.write(b"x" * (HIGH_WATER + 1))
        self.assertTrue(self.flow.paused)
        with full_disk():
            self.blocking.make_all()
        self.assertFalse(self.flow.paused)
        self.body.write(b"x" * (HIGH_WATER + 1))
        self.assertFalse(self.flow.paused)
        taking = self.body.take()
        self.blocking.make_all()
        self.assert_storage_failed(taking, os.strerror(errno.EFBIG))
        self.assert_nothing_left()

    def test_no_file(self) -> None:
        """A directory in which no file can be made is told in the same way, also for a body of no bytes."""
        for content in (b"x", b""):
            body = SpooledBody(self.blocking, self.spool, self.flow)
            self.spool.problem = OSError(errno.EROFS, "Read-only file system")
            body.write(content)
            taking = body.take()
            self.blocking.make_all()
            self.assert_storage_failed(taking, "Read-only file system")
            self.assert_nothing_left()

    def test_problem_without_words(self) -> None:
        """An error for which the system has no words is told by its own."""
        self.spool.problem = OSError("strange")
        taking = self.body.take()
        self.blocking.make_all()
        self.assert_storage_failed(taking, "strange")

    def test_sync_fails(self) -> None:
        """A disk that fails only when the file is to be safe there has failed."""

        def fail(handle: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        self.body.write(b"x")
        self.patch(os, "fsync", fail)
        taking = self.body.take()
        self.blocking.make_all()
        self.assert_storage_failed(taking, "Input/output error")
        self.assert_nothing_left()

    # When the client goes away

    def test_gone_while_it_arrives(self) -> None:
        """A client that leaves in the middle leaves nothing, whatever is at work then."""
        for made in range(3):
            body = SpooledBody(self.blocking, self.spool, self.flow)
            body.write(b"x" * 10)
            if made > 0:
                self.blocking.make_one()
            body.write(b"x" * 10)
            if made > 1:
                self.blocking.make_one()
            body.close()
            self.assert_nothing_left()

    def test_gone_before_it_is_taken(self) -> None:
        """What a client left behind cannot be taken for the whole."""
        self.body.write(b"x")
        self.body.write(b"x" * 10)
        self.body.close()
        self.assert_storage_failed(self.body.take(), "the client has gone away")
        self.assert_nothing_left()

    def test_gone_before_it_began(self) -> None:
        """A body of which nothing came needs no file to be thrown away."""
        self.body.close()
        self.assertEqual(0, self.blocking.waiting)
        self.assert_nothing_left()

    def test_gone_while_held_back(self) -> None:
        """What waits for the disk is not written any more; the sender may be at its next request, and is left alone."""
        self.body.write(b"x")
        self.body.write(b"x" * (HIGH_WATER + 1))
        self.body.close()
        self.blocking.make_one()
        self.assertEqual([1], [(self.spool.directory / name).stat().st_size for name in self.files()])
        self.assert_nothing_left()
        self.assertEqual(1, self.flow.changes)

    def test_gone_while_it_is_taken(self) -> None:
        """A client that leaves between the question for the file and its answer leaves nothing, at any moment."""
        for made in range(4):
            body = SpooledBody(self.blocking, self.spool, self.flow)
            body.write(b"x")
            body.write(b"y")
            taking = body.take()
            for _ in range(made):
                if self.blocking.waiting > 0:
                    self.blocking.make_one()
            if taking.called:
                self.successResultOf(taking).unlink()
            else:
                taking.cancel()
                self.failureResultOf(taking, CancelledError)
            body.close()
            self.assert_nothing_left()

    def test_gone_while_it_is_taken_from_a_full_disk(self) -> None:
        """Nobody is there to be told that the disk failed, and that is no error."""
        self.body.write(b"x")
        taking = self.body.take()
        taking.cancel()
        self.failureResultOf(taking, CancelledError)
        self.body.close()
        with full_disk():
            self.blocking.make_all()
        self.assert_nothing_left()
        self.assertEqual([], self.flushLoggedErrors())


class IsConfigurationTests(SynchronousTestCase):
    """Which bodies are spooled: those of the route that asks for a file, however its path is written."""

    def test_paths(self) -> None:
        """Escapes and a last slash are as the routes take them."""
        for method, path, spooled in (
            (b"PUT", b"/v0.1/listeners/a/b/haproxy", True),
            (b"PUT", b"/v1.0/listeners/a/b/haproxy", True),
            (b"PUT", b"/v0.1/listeners/a/b/haproxy/", True),
            (b"PUT", b"/v0.1/listeners/a/b/haproxy?a=b/c", True),
            (b"PUT", b"/v0.1/listeners/a/b/hapr%6fxy", True),
            (b"PUT", b"/v0.1/%6cisteners/%61/b/haproxy", True),
            (b"PUT", b"/1.0/loadbalancer/a/b/haproxy", True),
            (b"PUT", b"/1.0/loadbalancer/a/haproxy", False),
            (b"PUT", b"/1.0/loadbalancer/a/certificates/haproxy", False),
            (b"GET", b"/v0.1/listeners/a/b/haproxy", False),
            (b"POST", b"/v0.1/listeners/a/b/haproxy", False),
            (b"put", b"/v0.1/listeners/a/b/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/b/c/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/b/haproxy//", False),
            (b"PUT", b"/v0.1/listeners//b/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/b/haproxy.pem", False),
            (b"PUT", b"/v0.1/listeners/a/certificates/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/%63ertificates/haproxy", False),
            (b"PUT", b"/v0.1/listeners/a/b%00/haproxy\n", False),
        ):
            self.assertEqual(spooled, is_configuration(method, path), path)


class JsonBodyTests(SynchronousTestCase):
    """Bodies that are JSON objects or arrays."""

    def read(self, body: bytes, reader: Callable[[Any, str], Any] = body_object) -> Any:
        request = SimpleNamespace(content=BytesIO(body))
        return reader(request, "No good")

    def test_object(self) -> None:
        """An object is read, whatever it holds."""
        self.assertEqual({"a": None, "b": [1]}, self.read(b'{"a": null, "b": [1]}'))

    def test_array(self) -> None:
        """So is an array."""
        self.assertEqual([{"a": None}, 1], self.read(b'[{"a": null}, 1]', body_array))
        self.assertEqual([], self.read(b"[]", body_array))

    def test_anything_else(self) -> None:
        """All else is refused, and why."""
        broken = (b"", b"{", b"\xff", b"[" * 100_000, b"{'a': 1}")
        for reader, body, details in (
            *((reader, body, "The body is not JSON") for reader in (body_object, body_array) for body in broken),
            *((body_object, body, "The body is not a JSON object") for body in (b"[]", b"1", b"null", b'"{}"')),
            *((body_array, body, "The body is not a JSON array") for body in (b"{}", b"1", b"null", b'"[]"')),
        ):
            with self.assertRaises(RequestRefused) as caught:
                self.read(body, reader)
            answer = caught.exception.answer
            self.assertEqual((400, "No good", details), (answer.status, answer.message, answer.details), body[:9])
