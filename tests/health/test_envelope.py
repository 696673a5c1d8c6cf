"""Tests for L{amphora.health.envelope}."""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from amphora.health.envelope import BadEnvelope, seal, unseal

KEY = "a key, not ASCII: ü"
MESSAGE = {"id": "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce", "ver": 3, "seq": 0, "listeners": {}, "pools": {"ü": "€"}}


def signed(payload: bytes) -> bytes:
    """Close a payload with the right HMAC, made without the code under test."""
    return payload + hmac.new(KEY.encode(), payload, hashlib.sha256).hexdigest().encode()


class SealTests(SynchronousTestCase):
    """What is written."""

    def test_format(self) -> None:
        """A datagram is compact JSON, compressed, and the lower-case hexadecimal HMAC of what was compressed."""
        datagram = seal(KEY, MESSAGE)
        payload = datagram[:-64]
        self.assertEqual(datagram, signed(payload))
        self.assertEqual(
            zlib.decompress(payload).decode("utf-8"),
            '{"id":"6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce","ver":3,"seq":0,"listeners":{},"pools":{"ü":"€"}}',
        )

    def test_any_text(self) -> None:
        """A lone surrogate, which UTF-8 has no bytes for, costs one character and not the heartbeat."""
        self.assertEqual(unseal(KEY, seal(KEY, {"id": "a\ud800b"})), {"id": "a?b"})


class UnsealTests(SynchronousTestCase):
    """What is read, and what is refused."""

    def assert_bad(self, datagram: bytes, reason: str) -> None:
        """The datagram is refused for this reason."""
        self.assertEqual(str(self.assertRaises(BadEnvelope, unseal, KEY, datagram)), reason)

    def test_round_trip(self) -> None:
        """What was sealed is read back the same."""
        self.assertEqual(unseal(KEY, seal(KEY, MESSAGE)), MESSAGE)

    def test_raw_digest(self) -> None:
        """The 32 bytes of the digest serve as well as their hexadecimal form."""
        payload = zlib.compress(json.dumps(MESSAGE).encode())
        self.assertEqual(unseal(KEY, payload + hmac.digest(KEY.encode(), payload, "sha256")), MESSAGE)

    def test_changed(self) -> None:
        """A datagram with any one byte changed, or with any number of bytes cut off its end, is refused."""
        datagram = seal(KEY, MESSAGE)
        for position in range(len(datagram)):
            changed = bytearray(datagram)
            changed[position] ^= 1
            self.assert_bad(bytes(changed), "the HMAC does not match")
            self.assert_bad(datagram[:position], "the HMAC does not match")

    def test_other_key(self) -> None:
        """A heartbeat of somebody with another key is refused."""
        self.assert_bad(seal("another key", MESSAGE), "the HMAC does not match")

    def test_not_zlib(self) -> None:
        """Well signed, but not compressed, cut short, or with something behind it: refused."""
        whole = zlib.compress(b"{}")
        self.assert_bad(signed(b"{}"), "the payload is not a zlib stream")
        self.assert_bad(signed(b""), "the payload is not one whole zlib stream")
        self.assert_bad(signed(whole[:-1]), "the payload is not one whole zlib stream")
        self.assert_bad(signed(whole + b"{}"), "the payload is not one whole zlib stream")

    def test_bomb(self) -> None:
        """What would unpack to 16 MiB or more is not unpacked to the end."""
        self.assert_bad(signed(zlib.compress(b" " * 64 * 1024 * 1024)), "the message is 16 MiB long or more")

    def test_not_an_object(self) -> None:
        """Well signed and compressed, but not a JSON object: refused, however deep it is nested."""
        for text in (b"", b"{", b"\xff", b"[" * 200_000):
            self.assert_bad(signed(zlib.compress(text)), "the message is not JSON")
        other: Any
        for other in ([MESSAGE], "text", 1, None):
            self.assert_bad(signed(zlib.compress(json.dumps(other).encode())), "the message is not a JSON object")
