"""What has to be done from time to time for daemons that nobody asks anything of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

INTERVAL = 60.0


class Housekeeping(Service):
    """Keeps the logs of daemons that run for months without a reload within their bounds."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, trimming: Iterable[Callable[[], Awaitable[None]]]) -> None:
        self._trimming = tuple(trimming)
        self._loop = LoopingCall(self._round)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _round(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._guarded_round())

    async def _guarded_round(self) -> None:
        for trim in self._trimming:
            try:
                await trim()
            except OSError as error:
                self._log.warn("a daemon's log cannot be kept short: {error}", error=error)
            except Exception:
                self._log.failure("a daemon's log cannot be kept short")
