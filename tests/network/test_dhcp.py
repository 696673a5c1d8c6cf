"""Tests for L{amphora.network.dhcp}."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.dhcp import FOREVER, Lease, Reply, discover, packet, read_reply, request
from amphora.testing.fake_dhcp import SERVER, options_of, reply

MAC = "02:00:00:00:00:0a"
STATION = bytes.fromhex("02000000000a")
XID = 0x01020304
GIVEN = IPv4Address("192.0.2.10")
OFFER, ACK, NAK = 2, 5, 6
GATEWAY = "192.0.2.1"


def answer(kind: int, options: dict[int, bytes] | None = None, address: IPv4Address | None = GIVEN) -> bytes:
    return reply(XID.to_bytes(4, "big"), STATION, kind, address, options)


class QuestionTests(SynchronousTestCase):
    def test_discover(self) -> None:
        """A discovery: a BOOTP request of Ethernet with our address, of at least 300 bytes, that says what we wish."""
        message = discover(XID, MAC)
        self.assertEqual(b"\x01\x01\x06\x00\x01\x02\x03\x04" + bytes(20) + STATION + bytes(10 + 192), message[:236])
        self.assertEqual(b"\x63\x82\x53\x63", message[236:240])
        self.assertGreaterEqual(len(message), 300)
        self.assertEqual({53: b"\x01", 55: bytes((1, 51, 121)), 57: b"\x05\x78"}, options_of(message[240:]))

    def test_request(self) -> None:
        """What was offered is asked for from who offered it; what was had before, from everybody."""
        for server in (None, SERVER):
            options = options_of(request(XID, MAC, GIVEN, server)[240:])
            self.assertEqual((b"\x03", GIVEN.packed), (options[53], options[50]))
            self.assertEqual(None if server is None else server.packed, options.get(54))

    def test_packet(self) -> None:
        """It goes from nobody to everybody, from port 68 to port 67, with the sums of IP and UDP in it."""
        for message in (discover(XID, MAC), b"odd"):
            data = packet(message)
            self.assertEqual((0x45, len(data), 17), struct.unpack_from("!BxHxxxxxB", data))
            self.assertEqual(bytes(4) + b"\xff" * 4, data[12:20])
            self.assertEqual((68, 67, 8 + len(message)), struct.unpack_from("!HHH", data, 20))
            self.assertEqual(message, data[28:])
            self.assertEqual(0xFFFF, total(data[:20]))
            self.assertEqual(0xFFFF, total(data[12:20] + struct.pack("!BBH", 0, 17, len(data) - 20) + data[20:]))


def total(data: bytes) -> int:
    """The sum of RFC 1071: all ones where the sum in it is right."""
    words = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while words > 0xFFFF:
        words = (words & 0xFFFF) + (words >> 16)
    return int(words)


class ReplyTests(SynchronousTestCase):
    def lease(self, options: dict[int, bytes]) -> Lease:
        found = read_reply(answer(ACK, options), XID, MAC)
        assert found is not None and found.lease is not None
        return found.lease

    def test_verdicts(self) -> None:
        """An offer and a grant have a lease, a refusal has none."""
        lease = Lease(GIVEN, 24, 3600)
        self.assertEqual(Reply("offer", SERVER, lease), read_reply(answer(OFFER), XID, MAC))
        self.assertEqual(Reply("ack", SERVER, lease), read_reply(answer(ACK), XID, MAC))
        self.assertEqual(Reply("nak", SERVER, None), read_reply(answer(NAK, address=None), XID, MAC))
        self.assertEqual(3600, self.lease({}).seconds)

    def test_no_time(self) -> None:
        """A lease without an end does not end."""
        self.assertEqual(FOREVER, self.lease({51: b"\xff" * 4}).seconds)

    def test_widest_subnet(self) -> None:
        """An address whose subnet would be a default route on the link is none that can be used."""
        for mask in ("0.0.0.0", "128.0.0.0", "254.0.0.0"):
            self.assertIsNone(read_reply(answer(ACK, {1: IPv4Address(mask).packed}), XID, MAC), mask)
        self.assertEqual(8, self.lease({1: IPv4Address("255.0.0.0").packed}).prefixlen)

    def test_routes(self) -> None:
        """Routes to further networks are taken (RFC 3442), on the link too; a default route by any name is not."""
        gateway = IPv4Address(GATEWAY)
        data = b"".join(
            (
                b"\x00" + gateway.packed,
                b"\x01\x00" + gateway.packed,
                b"\x01\x80" + gateway.packed,
                b"\x18\xc6\x33\x64" + gateway.packed,
                b"\x08\x0a" + bytes(4),
                b"\x20\xa9\xfe\xa9\xfe" + gateway.packed,
                b"\x0c\xac\x1f" + gateway.packed,
            )
        )
        self.assertEqual(
            (
                (IPv4Network("198.51.100.0/24"), gateway),
                (IPv4Network("10.0.0.0/8"), None),
                (IPv4Network("169.254.169.254/32"), gateway),
                (IPv4Network("172.16.0.0/12"), gateway),
            ),
            self.lease({121: data}).routes,
        )

    def test_overload(self) -> None:
        """Options that found no room are read where a file's and a server's name would be, and pieces are joined."""
        data = bytearray(answer(ACK, {52: b"\x03", 121: b"\x18\xc6\x33"}))
        data[28 + 108 : 28 + 108 + 5] = b"\x79\x02\x64\xc0\xff"
        data[28 + 44 : 28 + 44 + 6] = b"\x79\x03\x00\x02\x01\xff"
        found = read_reply(bytes(data), XID, MAC)
        assert found is not None and found.lease is not None
        self.assertEqual(((IPv4Network("198.51.100.0/24"), IPv4Address(GATEWAY)),), found.lease.routes)

    def test_not_ours(self) -> None:
        """What is no reply to this question, or is for another, is none."""
        good = answer(ACK)
        self.assertIsNone(read_reply(good, XID + 1, MAC))
        self.assertIsNone(read_reply(good, XID, "02:00:00:00:00:0b"))
        self.assertIsNone(read_reply(packet(discover(XID, MAC)), XID, MAC))
        for position, value in ((20, 1), (23, 69), (28, 1), (28 + 236, 0)):
            changed = bytearray(good)
            changed[position] = value
            self.assertIsNone(read_reply(bytes(changed), XID, MAC), position)

    def test_unusable(self) -> None:
        """An answer without what matters, or with what cannot be an address, is none."""
        wrong: tuple[dict[int, bytes], ...] = (
            *({53: b"\x07"}, {53: b""}, {54: b""}, {1: b"\xff\x00\xff\x00"}),
            *({1: b"\x01"}, {51: b"\x01"}, {121: b"\x21"}),
        )
        for options in wrong:
            self.assertIsNone(read_reply(answer(ACK, options), XID, MAC), options)
        for text in ("0.0.0.0", "127.0.0.1", "224.0.0.1"):
            self.assertIsNone(read_reply(answer(ACK, address=IPv4Address(text)), XID, MAC), text)

    @given(st.binary(max_size=400))
    def test_anything(self, data: bytes) -> None:
        """No packet is more than none."""
        self.assertIsNone(read_reply(data, XID, MAC))

    @given(st.binary(max_size=64), st.integers(0, 400))
    def test_damaged(self, noise: bytes, position: int) -> None:
        """Nor is a reply with anything in it, or cut off, more than a reply."""
        good = answer(ACK, {121: b"\x18\xc6\x33\x64" + IPv4Address(GATEWAY).packed})
        for data in (good[:position] + noise + good[position + len(noise) :], good[:position]):
            found = read_reply(data, XID, MAC)
            if found is not None and found.lease is not None:
                self.assertTrue(all(destination.prefixlen >= 8 for destination, _ in found.lease.routes))
