"""Tests for L{amphora.output}."""

from __future__ import annotations

import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from amphora import output
from tests.integration.support import short_directory


class OutputTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = short_directory(self) / "daemon.log"

    def test_none(self) -> None:
        """A file that is not there is empty."""
        self.assertEqual((0, ""), (output.size(self.path), output.since(self.path, 0)))
        output.trim(self.path)
        self.assertFalse(self.path.exists())

    def test_since(self) -> None:
        """What came after a position is told, without the blanks around it, its end where there is too much."""
        self.path.write_bytes(b"before\nafter\xff\n")
        self.assertEqual("after\ufffd", output.since(self.path, 7))
        self.assertEqual("r\ufffd", output.since(self.path, 0, limit=3))
        self.assertEqual("", output.since(self.path, 14))

    def test_since_a_position_that_was_cut(self) -> None:
        """A file that is shorter than it was has been cut: its end is told."""
        self.path.write_bytes(b"short")
        self.assertEqual("short", output.since(self.path, 1000))

    def test_trim(self) -> None:
        """A file longer than its limit is cut to its end, in place; others are left alone."""
        content = b"".join(b"%07d\n" % number for number in range(output.LIMIT // 8))
        self.path.write_bytes(content)
        output.trim(self.path)
        self.assertEqual(output.LIMIT, output.size(self.path))
        self.path.write_bytes(content + b"last one\n")
        number = self.path.stat().st_ino
        output.trim(self.path)
        self.assertEqual(output.LIMIT // 2, output.size(self.path))
        self.assertEqual(number, self.path.stat().st_ino)
        self.assertTrue(self.path.read_bytes().endswith(b"131071\nlast one\n"))

    def test_trim_what_is_no_text(self) -> None:
        """Bytes that are no text take no more room than they did."""
        self.path.write_bytes(b"\xff" * (output.LIMIT + 1))
        output.trim(self.path)
        self.assertEqual(output.LIMIT // 2, output.size(self.path))

    def test_open(self) -> None:
        """A daemon goes on appending after its file was cut."""
        handle = output.open_for(self.path)
        self.addCleanup(os.close, handle)
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        os.write(handle, b"x" * (output.LIMIT + 1))
        os.close(output.open_for(self.path))
        os.write(handle, b"more")
        self.assertEqual(output.LIMIT // 2 + 4, output.size(self.path))
        self.assertFalse(os.get_inheritable(handle))
