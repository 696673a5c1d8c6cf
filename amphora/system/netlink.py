"""
What netlink messages are made of, read and written by hand.

pyroute2 would do it, but importing it takes 9 MB of a process that has to stay small.  (netlink(7); numbers and layouts
are those of C{linux/netlink.h}.)
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

REQUEST: Final = 0x1
ACKNOWLEDGED: Final = 0x4
DUMP: Final = 0x300
INTERRUPTED: Final = 0x10
"""NLM_F_DUMP_INTR: things came or went while they were told, and one may be missing."""

ANSWER_SIZE: Final = 65536
"""What to receive at most: no datagram of the kernel is larger."""

_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence number, port."""
_ATTRIBUTE = struct.Struct("=HH")
"""nlattr: length, type."""
_TYPE = 0x3FFF
"""Without the two bits that say how an attribute is written."""
_ERROR, _DONE = 2, 3


@contextmanager
def understood() -> Iterator[None]:
    """
    Read an answer of the kernel's.

    @raise OSError: if it makes no sense.
    """
    try:
        yield
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise OSError(errno.EBADMSG, f"the kernel's answer makes no sense: {error!r}") from error


def question(kind: int, flags: int, body: bytes) -> bytes:
    """One message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a message."""
    return _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value)


def answers(datagrams: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """
    Type, flags and body of each message of an answer, up to the one that ends it.

    @raise OSError: the kernel's refusal.
    """
    for datagram in datagrams:
        position = 0
        while position + _HEADER.size <= len(datagram):
            length, kind, flags, _, _ = _HEADER.unpack_from(datagram, position)
            body = datagram[position + _HEADER.size : position + length]
            if kind in (_DONE, _ERROR):
                # Both begin with an error number, below zero; where all went well it is 0.
                (code,) = struct.unpack_from("=i", body)
                if code:
                    raise OSError(-code, os.strerror(-code))
            yield kind, flags, body
            if kind in (_DONE, _ERROR):
                return
            position += _aligned(max(length, _HEADER.size))


def attributes(body: bytes) -> dict[int, bytes]:
    """The attributes that a message, or an attribute that holds others, consists of."""
    found: dict[int, bytes] = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, position)
        found[kind & _TYPE] = body[position + _ATTRIBUTE.size : position + length]
        position += _aligned(max(length, _ATTRIBUTE.size))
    return found


def _aligned(length: int) -> int:
    """Messages and attributes begin at multiples of four bytes."""
    return (length + 3) & ~3


def _padded(value: bytes) -> bytes:
    return value + bytes(_aligned(len(value)) - len(value))
