"""
Telling systemd, where it has started the agent, that it serves, and that its heartbeats go on: sd_notify(3).

The watchdog of the unit (C{WatchdogSec}) is fed by nothing but rounds of heartbeats that came to their end.  What keeps
them from that, be it a reactor that hangs, a thread that never comes back or a mistake of ours, ends with an agent that
is killed and started anew, long before a controller takes the amphora for dead.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from attrs import define, field
from twisted.logger import Logger

from amphora.health.sender import HeartbeatReport
from amphora.vrrp.standing import Standing

_STEP = 90.0
"""Seconds that one step of a start may take.  The unit's own limit counts until the first one is told."""


@define(eq=False)
class ServiceManager:
    """
    Who started the agent and waits to be told how it fares; nobody, where that was not systemd.

    Each message is one datagram, which is sent or dropped at once.  That they do not arrive is logged when it begins,
    and changes nothing else.
    """

    _log = Logger()

    _address: str | None = None
    """Where it listens: a path, or a name in the abstract namespace, which begins with C{@}."""
    _watchdog: float = 0.0
    """Seconds after which the unit wants to have the agent killed that has not spoken; 0 where it does not."""
    _unheard: bool = field(init=False, default=False)

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> ServiceManager:
        """
        The one that the environment tells of.

        @param pid: The agent's.  A watchdog that is meant for another process is none.
        """
        address = environment.get("NOTIFY_SOCKET") or None
        watchdog = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(address, int(watchdog) / 1e6 if address and meant and watchdog.isdecimal() else 0.0)

    def starting(self, step: str) -> None:
        """A step of the start begins, and may take its time."""
        self._send(f"STATUS=Starting: {step}", f"EXTEND_TIMEOUT_USEC={_microseconds(_STEP)}")

    def ready(self, patience: float | None) -> None:
        """
        The agent serves.

        @param patience: As L{watch} has it.
        """
        # The watchdog runs from the moment of READY: its time is told together with that.
        self._send("READY=1", "STATUS=Serving", *self._watched(patience))

    def watch(self, patience: float | None) -> None:
        """
        Let the watchdog bite when nothing was done for so long, or for what the unit says if that is longer.

        @param patience: Seconds; None where nothing is to be done, and nothing can be overdue.
        """
        self._send(*self._watched(patience))

    def alive(self, status: str) -> None:
        """What the watchdog looks for was done.  C{status} is for who looks at the unit."""
        self._send(f"STATUS={status}", *(["WATCHDOG=1"] if self._watchdog else []))

    def stopping(self) -> None:
        """The agent was told to end, and does."""
        self._send("STOPPING=1", "STATUS=Stopping")

    def _watched(self, patience: float | None) -> list[str]:
        if not self._watchdog:
            return []
        return [f"WATCHDOG_USEC={0 if patience is None else _microseconds(max(patience, self._watchdog))}"]

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        address = self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as speaking:
                # In the abstract namespace a name begins with a zero byte.
                speaking.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            if not self._unheard:
                self._log.error("systemd cannot be told how the agent fares: {error}", error=error)
            self._unheard = True
        else:
            self._unheard = False


def status_line(standing: Standing, listeners: int, heartbeats: HeartbeatReport) -> str:
    """How the agent fares, in one line."""
    unreached = [
        f"{each.controller.host} port {each.controller.port}"
        for each in heartbeats.controllers
        if each.reachable is False
    ]
    parts = (
        f"{standing.role} ({standing.topology})",
        f"listeners: {listeners}",
        f"heartbeats sent: {heartbeats.sent}",
        *([f"out of reach: {', '.join(unreached)}"] if unreached else ()),
    )
    return "; ".join(parts)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
