"""Tests for L{amphora.health_checker}, what of it needs no wire."""

from __future__ import annotations

import struct
import sys
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora import health_checker
from amphora.health_checker import answer_in, crc32c, init, main, packet

PORTS = (40000, 3868)
TAG = 0xCAFE1234
INIT_ACK, ABORT, HEARTBEAT = 2, 6, 4
VALUE = struct.pack("!IIHHI", 99, 65535, 1, 1, 1)


def reply(kind: int, tag: int = TAG, value: bytes = b"", flags: int = 0) -> bytes:
    return packet(PORTS[1], PORTS[0], tag, kind, value, flags)


class ChecksumTests(SynchronousTestCase):
    def test_known(self) -> None:
        """The checksums of RFC 3720, B.4, which uses the same."""
        ascending = bytes(range(32))
        for data, expected in (
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (ascending, 0x46DD794E),
            (ascending[::-1], 0x113FDB5C),
            (b"123456789", 0xE3069283),
        ):
            self.assertEqual(expected, crc32c(data))


class AnswerTests(SynchronousTestCase):
    def test_answers(self) -> None:
        """What answers our INIT is told by its kind; an INIT ACK with the tag that its sender wants to see."""
        self.assertEqual((INIT_ACK, 99), answer_in(reply(INIT_ACK, value=VALUE), *PORTS, TAG))
        self.assertEqual((INIT_ACK, 0), answer_in(reply(INIT_ACK), *PORTS, TAG))
        self.assertEqual((ABORT, 0), answer_in(reply(ABORT), *PORTS, TAG))
        self.assertEqual((ABORT, 0), answer_in(reply(ABORT, tag=0, flags=1), *PORTS, TAG))
        self.assertEqual((HEARTBEAT, 0), answer_in(reply(HEARTBEAT), *PORTS, TAG))

    def test_strangers(self) -> None:
        """Packets of others, with other ports or another tag, damaged or cut short, are no answers."""
        good = reply(INIT_ACK, value=VALUE)
        for data in (
            b"",
            good[:15],
            good[:-1] + b"\0" if good[-1] else good[:-1] + b"\1",
            reply(INIT_ACK, tag=TAG + 1),
            reply(ABORT, tag=0),
            packet(PORTS[1], PORTS[0] + 1, TAG, INIT_ACK),
            packet(PORTS[1] + 1, PORTS[0], TAG, INIT_ACK),
            init(*PORTS, TAG, 1),
        ):
            self.assertIsNone(answer_in(data, *PORTS, TAG), data)

    @given(st.binary(max_size=64))
    def test_noise(self, data: bytes) -> None:
        """Nothing that comes from the wire is more than no answer."""
        self.assertIsNone(answer_in(data, *PORTS, TAG))

    def test_init(self) -> None:
        """An INIT has no tag in its header, and the one that is wanted in its chunk; its checksum is right."""
        data = init(*PORTS, TAG, 7)
        self.assertEqual((*PORTS, 0), struct.unpack_from("!HHI", data))
        self.assertEqual((1, 0, 20, TAG), struct.unpack_from("!BBHI", data, 12))
        self.assertEqual(32, len(data))
        self.assertEqual(crc32c(data[:8] + bytes(4) + data[12:]), struct.unpack_from("<I", data, 8)[0])


class CommandLineTests(SynchronousTestCase):
    def ends_with(self, *arguments: str) -> object:
        with self.assertRaises(SystemExit) as raised:
            main(list(arguments))
        return raised.exception.code

    def test_usage(self) -> None:
        """What it does not understand, or cannot do, is told on standard error, and is no verdict on a member."""
        self.patch(sys, "stderr", StringIO())
        for arguments in ((), ("udp", "127.0.0.1", "1"), ("sctp", "127.0.0.1"), ("sctp", "host.example", "1")):
            self.assertEqual(3, self.ends_with(*arguments), arguments)
        self.assertEqual(3, self.ends_with("sctp", "-t", "soon", "127.0.0.1", "1"))
        self.assertEqual(3, self.ends_with("sctp", "127.0.0.1", "70000"))

    def test_options(self) -> None:
        """The time may be given or not."""
        asked: list[tuple[str, int, float]] = []

        def check(address: str, port: int, timeout: float) -> int:
            asked.append((address, port, timeout))
            return 1

        self.patch(health_checker, "check", check)
        self.assertEqual(1, self.ends_with("sctp", "-t", "5", "192.0.2.1", "3868"))
        self.assertEqual(1, self.ends_with("SCTP", "fd00::1", "3868"))
        self.assertEqual([("192.0.2.1", 3868, 5.0), ("fd00::1", 3868, 3.0)], asked)
