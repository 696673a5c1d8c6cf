"""Tests for L{amphora.system.links}; links that carry something are in `tests.integration.test_figures`."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.system.links import LinkCounters, parse_links, read_links

UP, LOOPBACK = 0x1, 0x8


def message(kind: int, body: bytes, flags: int = 2) -> bytes:
    """A message as the kernel pads it."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body + bytes(-len(body) % 4)


def link(name: str, index: int, received: int, sent: int, link_flags: int = UP, flags: int = 2) -> bytes:
    """What the kernel tells of a link, with something that nobody asked for in between."""
    body = struct.pack("=BxHiII", 0, 1, index, link_flags, 0)
    for kind, value in (
        (3, name.encode() + b"\0"),
        (13, b"\1"),
        (23, struct.pack("=24Q", 1, 2, received, sent, *range(20))),
    ):
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return message(16, body, flags)


DONE = message(3, struct.pack("=i", 0))


class AnswerTests(SynchronousTestCase):
    def test_datagrams(self) -> None:
        """Links are read from as many datagrams as there are, up to the one that ends them; the loopback is none."""
        datagrams = iter(
            (
                link("lo", 1, 9, 9, UP | LOOPBACK) + link("eth1", 2, 2**40, 7),
                link("a-long-name-15c", 300, 0, 1),
                DONE,
                link("never", 4, 0, 0),
            )
        )
        self.assertEqual(
            ({"eth1": LinkCounters(2, 2**40, 7), "a-long-name-15c": LinkCounters(300, 0, 1)}, True),
            parse_links(datagrams),
        )
        self.assertIn(b"never", next(datagrams))

    def test_interrupted(self) -> None:
        """An answer during which links came or went is known as such, whichever of its messages says so."""
        interrupted = 0x12
        for answer in (
            (link("eth1", 2, 0, 0, flags=interrupted), link("eth2", 3, 0, 0), DONE),
            (link("eth1", 2, 0, 0), message(3, struct.pack("=i", 0), interrupted)),
        ):
            links, whole = parse_links(iter(answer))
            self.assertEqual((LinkCounters(2, 0, 0), False), (links["eth1"], whole))

    def test_refused(self) -> None:
        """The kernel's refusal is raised in its words."""
        for kind in (2, 3):
            with self.assertRaises(PermissionError) as caught:
                parse_links(iter((message(kind, struct.pack("=i", -1) + bytes(16)),)))
            self.assertIn("Operation not permitted", str(caught.exception))


class ReadTests(SynchronousTestCase):
    def test_own_namespace(self) -> None:
        """The links of our own namespace are those that the kernel lists elsewhere, without the loopback."""
        listed = {line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
        self.assertEqual(listed - {"lo"}, set(read_links("")))
        for name, counters in read_links("").items():
            self.assertEqual(socket.if_nametoindex(name), counters.index)

    def test_no_namespace(self) -> None:
        """A namespace that is not there is an error that names it, and no descriptor is left open."""
        before = len(os.listdir("/proc/self/fd"))
        with self.assertRaises(FileNotFoundError) as caught:
            read_links("no-such-namespace")
        self.assertIn("no-such-namespace", str(caught.exception))
        read_links("")
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
