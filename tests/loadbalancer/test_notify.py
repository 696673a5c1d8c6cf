"""Tests for L{amphora.loadbalancer.notify}."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from amphora.loadbalancer.notify import NotifySocket
from tests.integration.support import short_directory

READY = b"READY=1\nMAINPID=17\n"


class HeardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.notify = NotifySocket(Path("notify"))
        self.calls: list[str] = []
        self.notify.subscribe(17, lambda: self.calls.append("17"))
        self.notify.subscribe(18, lambda: self.calls.append("18"))

    def test_ready(self) -> None:
        """Who subscribed to a process is told that it is ready, nobody else."""
        self.notify.heard(READY)
        self.assertEqual(["17"], self.calls)
        self.assertEqual([True, False], [self.notify.said_ready(pid) for pid in (17, 18)])

    def test_as_haproxy_words_it(self) -> None:
        """Lines in any order, with others among them, with or without an end."""
        for datagram in (b"MAINPID=17\nREADY=1", b"READY=1\nMAINPID=17\nSTATUS=Ready.\n", b"STATUS=a=b\r\n" + READY):
            self.calls.clear()
            self.notify.heard(datagram)
            self.assertEqual(["17"], self.calls, datagram)

    def test_other_news(self) -> None:
        """What is not readiness of a process that somebody waits for is passed over."""
        for datagram in (
            *(b"", b"READY=1", b"RELOADING=1\nMAINPID=17", b"READY=0\nMAINPID=17", b"STOPPING=1", b"READY=1\nMAINPID="),
            *(b"READY=1\nMAINPID=19", b"READY=1\nMAINPID=-17", b"READY=1\nMAINPID=1" + b"7" * 5000, b"\0\xff"),
        ):
            self.notify.heard(datagram)
        self.assertEqual([], self.calls)
        self.assertFalse(self.notify.said_ready(19))

    def test_forget(self) -> None:
        """After a reload was asked for, what was said before does not count, what comes then does."""
        self.notify.heard(READY)
        self.notify.forget(17)
        self.assertFalse(self.notify.said_ready(17))
        self.notify.heard(READY)
        self.assertTrue(self.notify.said_ready(17))
        self.notify.forget(99)

    def test_unsubscribe(self) -> None:
        """A process that is gone is heard no more, and a new one of the same id begins anew."""
        self.notify.heard(READY)
        self.notify.unsubscribe(17)
        self.notify.unsubscribe(17)
        self.notify.heard(READY)
        self.assertFalse(self.notify.said_ready(17))
        self.notify.subscribe(17, lambda: self.calls.append("new"))
        self.assertFalse(self.notify.said_ready(17))
        self.notify.heard(READY)
        self.assertEqual(["17", "new"], self.calls)

    @given(st.binary() | st.lists(st.sampled_from((b"READY=1", b"MAINPID=", b"17", b"\n", b"="))).map(b"".join))
    def test_any_datagram(self, datagram: bytes) -> None:
        """Any bytes can be heard."""
        self.notify.heard(datagram)


class SocketTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.path = short_directory(self) / "notify"
        self.notify = NotifySocket(self.path)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.notify.close()))

    def send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(datagram, str(self.path))

    async def test_heard(self) -> None:
        """A datagram on the path is heard; only we may send one."""
        heard: Deferred[None] = Deferred()
        self.notify.subscribe(17, lambda: heard.callback(None))
        self.notify.listen(self.reactor)
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.send(b"x" * 20_000)
        self.send(READY)
        await heard

    async def test_path_of_an_earlier_agent(self) -> None:
        """The path is taken over, whatever an earlier agent left there."""
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as earlier:
                self.path.unlink(missing_ok=True)
                earlier.bind(str(self.path))
            await self.test_heard()
            await self.notify.close()
        await self.notify.close()

    async def test_no_directory(self) -> None:
        """A path that cannot be had is an error, until it can."""
        notify = NotifySocket(self.path / "no" / "notify")
        with self.assertRaises((OSError, CannotListenError)):
            notify.listen(self.reactor)
        with self.assertRaises((OSError, CannotListenError)):
            notify.ensure()
        notify.path.parent.mkdir(parents=True)
        for _ in range(2):
            notify.ensure()
            self.assertTrue(notify.path.is_socket())
        await notify.close()
