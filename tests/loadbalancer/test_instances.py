"""Tests for L{amphora.loadbalancer.instances}: what may be there of an instance before there is one."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce, BlockingCalls
from amphora.loadbalancer import store
from amphora.loadbalancer.errors import (
    BadFilename,
    CertificateNotFound,
    InstanceNotFound,
    NotRunning,
    StorageFailed,
)
from amphora.loadbalancer.final_logs import Nowhere
from amphora.loadbalancer.haproxy import Haproxy, HaproxyProgram
from amphora.loadbalancer.instance import Surroundings
from amphora.loadbalancer.instances import Instances
from amphora.loadbalancer.kept_sessions import KeptSessions
from amphora.loadbalancer.notify import NotifySocket
from amphora.loadbalancer.store import InstanceFiles, InstanceState, Store, load_state, save_state
from amphora.network.bind import Bind
from amphora.testing.fakes import CallsLater
from tests.integration.support import short_directory

ID = "11111111-0000-4000-8000-000000000001"
OTHER = "11111111-0000-4000-8000-000000000002"
DAY = 24 * 3600
P = ParamSpec("P")
T = TypeVar("T")


@define
class Switched:
    """Blocking calls, made by what the test says."""

    by: BlockingCalls

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self.by.run(function, *args, **kwargs)


def _full(files: InstanceFiles, state: InstanceState) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FileTests(SynchronousTestCase):
    """Files that a configuration will name."""

    def setUp(self) -> None:
        base = short_directory(self)
        self.clock = Clock()
        self.store = Store(base, base / "certs")
        self.store.prepare()
        self.calls = CallsLater()
        self.blocking = Switched(AtOnce())
        reactor, blocking = cast(Any, self.clock), self.blocking
        notify = NotifySocket(self.store.notify_socket)
        program = HaproxyProgram("/no/haproxy", "")
        kept = KeptSessions(reactor, blocking, self.store.sessions_socket)

        def make_haproxy(files: InstanceFiles, died: Callable[[], None], spoke: Callable[[], None]) -> Haproxy:
            return Haproxy(reactor, blocking, program, notify, kept, files, died, spoke)

        self.instances = Instances(
            "/no/haproxy",
            self.store,
            Surroundings(
                reactor=reactor,
                blocking=blocking,
                make_haproxy=make_haproxy,
                logs=Nowhere(),
                amphora_id=OTHER,
                namespace="",
                base_path=base,
                starts=DeferredSemaphore(1),
                as_root=False,
                require_memory_fs=False,
                changed=lambda: None,
            ),
            self.expect,
        )

    async def expect(self, sockets: object) -> None: ...

    def test_wish_that_the_disk_did_not_take(self) -> None:
        """A stop that a full disk did not take is remembered by the next one, and nothing starts again."""
        files = self.store.files(ID)
        save_state(files, InstanceState(should_run=True))
        files.config.write_bytes(b"frontend f\n bind 127.0.0.1:1\n")
        with capturedLogs():
            self.result(self.instances.adopt())
            instance = self.instances.get(ID)
            full = self.patch(store, "save_state", _full)
            self.failureResultOf(instance.act("stop"), StorageFailed)
            self.assertTrue(load_state(files).should_run)
            full.restore()
            self.failureResultOf(instance.act("stop"), NotRunning)
        self.assertFalse(load_state(files).should_run)
        self.result(self.instances.finish())

    def result(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, work: Any, *kinds: type[Exception]) -> None:
        self.failureResultOf(Deferred.fromCoroutine(work), *kinds)

    def put(self, instance_id: str = ID, content: bytes = b"anything\r\n\xff") -> None:
        self.result(self.instances.put_file(instance_id, "a.pem", content))

    def test_any_bytes(self) -> None:
        """Any bytes are kept, for us alone, and answered for by their sum; that makes no instance of them."""
        self.put()
        path = self.store.files(ID).certificates / "a.pem"
        self.assertEqual((b"anything\r\n\xff", 0o600), (path.read_bytes(), path.stat().st_mode & 0o777))
        self.assertEqual(
            hashlib.md5(b"anything\r\n\xff").hexdigest(), self.result(self.instances.file_md5(ID, "a.pem"))
        )
        self.assertEqual([], self.instances.ids())
        self.assertRaises(InstanceNotFound, self.instances.get, ID)

    def test_absent(self) -> None:
        """What is not there has no sum; taking it away, twice too, is no error."""
        self.refused(self.instances.file_md5(ID, "a.pem"), CertificateNotFound)
        self.put()
        for _ in range(2):
            self.result(self.instances.discard_file(ID, "a.pem"))
            self.refused(self.instances.file_md5(ID, "a.pem"), CertificateNotFound)
        self.assertEqual([], self.store.certificate_ids())

    def test_names(self) -> None:
        """A file's name is of the strict kind, and one that is not leaves no trace."""
        for name in ("a.pem.txt", "..pem/", "../a.pem", "a b.pem", ".pem/x", ""):
            self.refused(self.instances.put_file(ID, name, b""), BadFilename)
            self.refused(self.instances.file_md5(ID, name), BadFilename)
            self.refused(self.instances.discard_file(ID, name), BadFilename)
        self.assertEqual([], self.store.certificate_ids())

    def test_no_place(self) -> None:
        """A place that cannot be written to is told."""
        self.store.base_cert_dir.rmdir()
        self.refused(self.instances.put_file(ID, "a.pem", b"new"), StorageFailed)

    def test_discard(self) -> None:
        """Discarding takes away files that have no instance, and is no error where there is nothing."""
        self.put()
        for _ in range(2):
            self.result(self.instances.discard(ID))
            self.assertEqual([], self.store.certificate_ids())

    def test_unread(self) -> None:
        """What cannot be read may hold any address, until it is taken away: also if the client is gone by then."""
        files = self.store.files(ID)
        files.directory.mkdir()
        files.config.mkdir()
        with capturedLogs():
            self.result(self.instances.adopt())
        self.assertEqual({Bind("::", 0)}, self.instances.binds)
        files.config.rmdir()
        self.blocking.by = self.calls
        discarding = Deferred.fromCoroutine(self.instances.discard(ID))
        discarding.cancel()
        self.failureResultOf(discarding, CancelledError)
        self.calls.make_all()
        self.assertFalse(files.directory.exists())
        self.assertEqual(frozenset(), self.instances.binds)

    def test_orphans(self) -> None:
        """Files that have waited for their configuration for a day go; a new one begins another day."""
        self.put()
        self.put(OTHER)
        self.result(self.instances.remove_orphans())
        self.clock.advance(DAY - 1)
        self.result(self.instances.remove_orphans())
        self.put(OTHER)
        self.clock.advance(2)
        with capturedLogs() as events:
            self.result(self.instances.remove_orphans())
        self.assertEqual([OTHER], self.store.certificate_ids())
        self.assertEqual(
            [ID], [event["instance"] for event in events if "no configuration came" in event["log_format"]]
        )

    def test_orphans_that_are_asked_for(self) -> None:
        """Files that a controller finds there, and does not put again, have another day."""
        self.put()
        self.result(self.instances.remove_orphans())
        self.clock.advance(DAY)
        self.result(self.instances.file_md5(ID, "a.pem"))
        self.result(self.instances.remove_orphans())
        self.assertEqual([ID], self.store.certificate_ids())

    def test_orphans_that_are_put_meanwhile(self) -> None:
        """A file that comes while those of others are removed stays."""
        self.put()
        self.put(OTHER)
        self.result(self.instances.remove_orphans())
        self.clock.advance(DAY)
        self.blocking.by = self.calls
        removing = Deferred.fromCoroutine(self.instances.remove_orphans())
        self.calls.make_one()
        first, second = sorted((ID, OTHER))
        putting = [Deferred.fromCoroutine(self.instances.put_file(each, "a.pem", b"new")) for each in (first, second)]
        self.calls.make_all()
        for each in (removing, *putting):
            self.successResultOf(each)
        self.assertEqual([first, second], self.store.certificate_ids())

    def test_orphans_that_an_instance_came_for(self) -> None:
        """The files of an instance of which something is on the disk stay, whatever is known of it."""
        self.put()
        self.result(self.instances.remove_orphans())
        save_state(self.store.files(ID), InstanceState(refused=True))
        self.clock.advance(2 * DAY)
        self.result(self.instances.remove_orphans())
        self.assertEqual([ID], self.store.certificate_ids())
