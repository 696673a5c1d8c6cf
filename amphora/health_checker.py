"""
`amphora-health-checker sctp [-t SECONDS] ADDRESS PORT`: does an SCTP server answer there?

keepalived runs it for the members of SCTP pools, so it loads next to nothing.  It sends an INIT chunk from a raw
socket, as one does that wants an association (RFC 9260, 3.3.2), and ends by what comes back:

    0  INIT ACK: it serves
    1  ABORT: nobody listens on this port
    2  nothing in time
    3  anything else, and whatever goes wrong here

Every packet is an SCTP header (source port, destination port, verification tag, CRC32c) and chunks, each of a type,
flags, its length and its value.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import NoReturn

SERVES, REFUSES, SILENT, OTHER = 0, 1, 2, 3
USAGE = "usage: amphora-health-checker sctp [-t SECONDS] ADDRESS PORT"

_INIT, _INIT_ACK, _ABORT = 1, 2, 6
_HEADER = struct.Struct("!HHII")
_CHUNK = struct.Struct("!BBH")
_PROTOCOL = 132
"""IPPROTO_SCTP."""
_TAG_REFLECTED = 1
"""The T bit of an ABORT: its tag is the one that its sender was sent, for it has none of its own."""
_WINDOW = 64 * 1024
_STREAMS = 1
_PATIENCE = 3.0
_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed."""


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (_POLYNOMIAL if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def packet(source: int, destination: int, tag: int, kind: int, value: bytes = b"", flags: int = 0) -> bytes:
    """A packet with one chunk, whose value is a multiple of four bytes long."""
    chunk = _CHUNK.pack(kind, flags, _CHUNK.size + len(value)) + value
    checksum = crc32c(_HEADER.pack(source, destination, tag, 0) + chunk)
    # It is sent with its lowest byte first, other than the rest.
    return _HEADER.pack(source, destination, tag, int.from_bytes(checksum.to_bytes(4, "little"), "big")) + chunk


def init(source: int, destination: int, tag: int, sequence: int) -> bytes:
    """An INIT: its header has no tag yet, its chunk tells the one that answers are to carry."""
    return packet(source, destination, 0, _INIT, struct.pack("!IIHHI", tag, _WINDOW, _STREAMS, _STREAMS, sequence))


def answer_in(data: bytes, source: int, destination: int, tag: int) -> tuple[int, int] | None:
    """
    What a packet answers to the INIT with these ports and this tag.

    @return: The type of its first chunk, and the tag that the other side wants to see (0 where it has none); None where
        it is no answer to that.
    """
    if len(data) < _HEADER.size + _CHUNK.size:
        return None
    sender, receiver, seen, checksum = _HEADER.unpack_from(data)
    blank = data[: _HEADER.size - 4] + bytes(4) + data[_HEADER.size :]
    if checksum.to_bytes(4, "big") != crc32c(blank).to_bytes(4, "little"):
        return None
    kind, flags, _ = _CHUNK.unpack_from(data, _HEADER.size)
    # An ABORT with the T bit carries the tag of the header that it answers; an INIT's has none.
    expected = (0, tag) if kind == _ABORT and flags & _TAG_REFLECTED else (tag,)
    if (sender, receiver) != (destination, source) or seen not in expected:
        return None
    value = _HEADER.size + _CHUNK.size
    wanted = struct.unpack_from("!I", data, value)[0] if kind == _INIT_ACK and len(data) >= value + 4 else 0
    return kind, wanted


def check(address: str, port: int, timeout: float) -> int:
    """Ask, and wait.  @return: The exit code.  @raise OSError: if it cannot be asked."""
    deadline = time.monotonic() + timeout
    family, _, _, _, where = socket.getaddrinfo(address, None, type=socket.SOCK_RAW, flags=socket.AI_NUMERICHOST)[0]
    # A port like those that the kernel gives away, and no tag that is 0: that is an INIT's header's own.
    source = 32768 + int.from_bytes(os.urandom(2), "big") % 28232
    tag = int.from_bytes(os.urandom(4), "big") or 1
    with socket.socket(family, socket.SOCK_RAW, _PROTOCOL) as wire:
        wire.connect(where)
        wire.send(init(source, port, tag, tag))
        while (left := deadline - time.monotonic()) > 0:
            wire.settimeout(left)
            try:
                data = wire.recv(65535)
            except TimeoutError:
                break
            if family == socket.AF_INET:
                # Raw sockets of IPv4 show its header, which tells its own length in words of four bytes.
                data = data[(data[0] & 15) * 4 :]
            answer = answer_in(data, source, port, tag)
            if answer is None:
                continue
            kind, wanted = answer
            if wanted:
                # Nobody is to keep an association half open for us.
                wire.send(packet(source, port, wanted, _ABORT))
            return {_INIT_ACK: SERVES, _ABORT: REFUSES}.get(kind, OTHER)
    return SILENT


def main(arguments: list[str] | None = None) -> NoReturn:
    """What keepalived runs."""
    match sys.argv[1:] if arguments is None else arguments:
        case [protocol, "-t", seconds, address, port] if protocol.lower() == "sctp":
            patience = seconds
        case [protocol, address, port] if protocol.lower() == "sctp":
            patience = str(_PATIENCE)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(OTHER)
    try:
        sys.exit(check(address, int(port), float(patience)))
    except (OSError, ValueError, struct.error) as error:
        print(f"{address} {port}: {error}", file=sys.stderr)
        sys.exit(OTHER)
