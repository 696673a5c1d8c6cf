"""Tests for L{amphora.network.inside}: what is done in no namespace of its own; the others need the real kernel."""

from __future__ import annotations

import errno
import threading

from twisted.trial.unittest import SynchronousTestCase

from amphora.network.inside import MOST_HUNG, inside


class InsideTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.enough = threading.Event()
        self.addCleanup(self.enough.set)
        self.ended = [threading.Event() for _ in range(MOST_HUNG)]

    def hang(self, ended: threading.Event) -> None:
        """A call that hangs until the test is over."""
        self.enough.wait()
        ended.set()

    def assert_fails(self, number: int, *, with_call: threading.Event) -> None:
        with self.assertRaises(OSError) as raised:
            inside("", lambda: self.hang(with_call), patience=0.01)
        self.assertEqual(number, raised.exception.errno)

    def test_result(self) -> None:
        """What the function returns is returned, and what it raises is raised."""
        self.assertEqual(7, inside("", lambda: 7))
        with self.assertRaises(ZeroDivisionError):
            inside("", lambda: 1 // 0)

    def test_no_namespace(self) -> None:
        """A namespace that is not there is told in the system's words."""
        with self.assertRaises(FileNotFoundError):
            inside("no-such-namespace", lambda: 7)

    def test_hangs(self) -> None:
        """What hangs is not waited for; so few threads hang, and when they go on, all is as before."""
        for ended in self.ended:
            self.assert_fails(errno.ETIMEDOUT, with_call=ended)
        self.assert_fails(errno.EBUSY, with_call=threading.Event())
        self.enough.set()
        for thread in threading.enumerate():
            if thread.name.startswith("inside"):
                thread.join()
        self.assertTrue(all(ended.is_set() for ended in self.ended))
        self.assertEqual(7, inside("", lambda: 7))
