"""
Old workers that have nothing left to do, and do not end all the same.

That happens with haproxy 2.6, about once in a thousand reloads of a busy machine (seen: no session, `Stopping: 1`, only
the job that never hinders an end, for as long as one looked).  Each would keep its memory until the amphora ends.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from amphora.process import ProcessIdentity

GRACE = 20.0
"""Seconds that such a worker is given to end by itself; peers take up to five to hand their tables over."""

_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


@define(eq=False)
class Leftovers:
    """Ends them."""

    _log = Logger()

    _clock: IReactorTime
    _instance_id: str
    _known: dict[ProcessIdentity, tuple[float, int]] = field(init=False, factory=dict)
    """Since when each is idle, or was sent its last signal, and how many those were."""

    def look(self, idle: Iterable[ProcessIdentity]) -> None:
        """
        End those whose time is over.

        @param idle: Workers that have said that they are stopping and have no session; they are remembered.
        """
        now = self._clock.seconds()
        for process in idle:
            self._known.setdefault(process, (now, 0))
        for process, (since, sent) in list(self._known.items()):
            if sent == len(_SIGNALS) or not process.alive:
                del self._known[process]
            elif now - since >= GRACE:
                self._log.warn(
                    "{instance}: an old haproxy worker, process {pid}, has nothing left to do and does not end; it is "
                    "sent {signal}",
                    instance=self._instance_id,
                    pid=process.pid,
                    signal=_SIGNALS[sent].name,
                )
                process.send_signal(_SIGNALS[sent])
                self._known[process] = (now, sent + 1)
