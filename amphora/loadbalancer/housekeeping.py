"""What has to be done from time to time, though nobody asks for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

INTERVAL = 60.0


class Housekeeping(Service):
    """
    Does every minute what keeps an agent that runs for months within bounds: daemons' logs, certificates that nobody
    needs.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, chores: Iterable[Callable[[], Awaitable[None]]]) -> None:
        self._chores = tuple(chores)
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
        for chore in self._chores:
            try:
                await chore()
            except OSError as error:
                self._log.warn("housekeeping: {error}", error=error)
            except Exception:
                self._log.failure("housekeeping failed")
