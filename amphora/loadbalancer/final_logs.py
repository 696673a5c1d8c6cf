"""Where the last words of a deleted instance's haproxy go."""

from __future__ import annotations

import socket
from typing import Protocol

from attrs import frozen
from twisted.logger import Logger

_INFORMATIONAL = 6
"""RFC 5424, 6.2.1."""
_LONGEST = 8192
"""Bytes of a datagram: more than any syslog has to take (RFC 5424, 6.1), and less than any socket refuses."""


class LogDestination(Protocol):
    """Takes the lines of an instance's log before it is removed.  May block, and never raises."""

    def ship(self, instance_id: str, lines: list[str]) -> None: ...


@frozen
class Nowhere:
    """No destination is configured."""

    def ship(self, instance_id: str, lines: list[str]) -> None:
        """Drop them."""


@frozen
class Syslog:
    """The host's syslog, in the form of RFC 3164; `facility` is its code, 16 for local0."""

    facility: int
    path: str = "/dev/log"

    _log = Logger()

    def ship(self, instance_id: str, lines: list[str]) -> None:
        """Send each line as one datagram."""
        head = f"<{self.facility * 8 + _INFORMATIONAL}>haproxy-{instance_id}: ".encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
                syslog.settimeout(1.0)
                syslog.connect(self.path)
                for line in lines:
                    syslog.send((head + line.encode("utf-8", "replace"))[:_LONGEST])
        except OSError as error:
            self._log.warn(
                "{instance}: its last log lines could not be sent to syslog at {path}: {error}",
                instance=instance_id,
                path=self.path,
                error=error,
            )
