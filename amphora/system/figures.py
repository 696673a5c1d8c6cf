"""
The amphora's figures: sampled all the time, a little, and looked up when somebody asks.

What is told as a rate needs a past: CPU times and links' counters are sampled every ten seconds.  All else is read when
somebody asks, in a thread, and kept for half a second: however many ask, the machine is looked at twice a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.process import ProcessIdentity
from amphora.system.links import LinkCounters
from amphora.system.machine import Machine
from amphora.system.window import Bandwidth, CpuTimes, CpuUsage, Sample, Window

INTERVAL: Final = 10.0
"""
Seconds from one sample to the next.  The oldest within thirty seconds is at least twenty seconds old then; a sample
takes a thread into the namespace, which at two seconds was a third of what an idle agent costs.
"""

SHORTEST: Final = 0.5
"""Seconds at least from one reading to the next, and so the shortest time that a rate is told of."""


@frozen
class Figures:
    """
    What the machine and its networks do; rates are those of the last thirty seconds, or of what there is of them, and
    `newest` are the counters that they end with.
    """

    cpu: CpuUsage
    networks: Mapping[str, Bandwidth]
    newest: Sample
    machine: Machine


class Meter(Service):
    """Tells the machine's L{Figures}."""

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        blocking: BlockingCalls,
        haproxies: Callable[[], Sequence[ProcessIdentity]],
        read_cpu_times: Callable[[], CpuTimes],
        read_links: Callable[[], Mapping[str, LinkCounters]],
        read_machine: Callable[[Sequence[ProcessIdentity]], Machine],
    ) -> None:
        """
        @param haproxies: Tells which haproxies run; asked on the reactor's thread.
        @param read_cpu_times: Called in a thread, as the next two are.
        @param read_links: May raise L{OSError}: then no network has figures until it can be read again.
        @param read_machine: Is given what C{haproxies} tells.
        """
        self._reactor = reactor
        self._blocking = blocking
        self._haproxies = haproxies
        self._read_cpu_times = read_cpu_times
        self._read_links = read_links
        self._read_machine = read_machine
        self._window = Window()
        self._figures: tuple[float, Figures] | None = None
        self._lock = DeferredLock()
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._failing = False
        self._blind = False

    def startService(self) -> None:
        super().startService()
        self._loop.start(INTERVAL)

    def stopService(self) -> Deferred[None]:
        """@return: Fires when nothing is being read any more."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        done: Deferred[None] = self._lock.run(lambda: None)
        return done

    def read(self) -> Deferred[Figures]:
        """The figures of this moment, give or take half a second.  The first half second of all is waited for."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._up_to_date()))

    async def _up_to_date(self) -> Figures:
        if self._figures is None or self._reactor.seconds() - self._figures[0] >= SHORTEST:
            await self._sample_if_due()
            if self._window.length < SHORTEST:
                await deferLater(self._reactor, SHORTEST)
                await self._sample_if_due()
            machine = await self._blocking.run(self._read_machine, self._haproxies())
            newest = self._window.newest
            assert newest is not None
            figures = Figures(self._window.cpu(), self._window.networks(), newest, machine)
            # Counted from the end: where a look takes long, those who waited for it do not each take another.
            self._figures = (self._reactor.seconds(), figures)
        return self._figures[1]

    def _tick(self) -> Deferred[None]:
        return self._lock.run(lambda: Deferred.fromCoroutine(self._guarded_sample()))

    async def _guarded_sample(self) -> None:
        try:
            await self._sample_if_due()
        except Exception:
            if not self._failing:
                self._failing = True
                self._log.failure("the CPUs and networks cannot be sampled")
        else:
            self._failing = False

    async def _sample_if_due(self) -> None:
        newest = self._window.newest
        if newest is None or self._reactor.seconds() - newest.at >= SHORTEST:
            await self._sample()

    async def _sample(self) -> None:
        sample, problem = await self._blocking.run(self._look)
        self._window.add(sample)
        if problem is not None and not self._blind:
            self._log.error("details tell of no networks: {problem}", problem=problem)
        elif self._blind and problem is None:
            self._log.info("details tell of the networks again")
        self._blind = problem is not None

    def _look(self) -> tuple[Sample, OSError | None]:
        links: Mapping[str, LinkCounters] = {}
        problem = None
        try:
            links = self._read_links()
        except OSError as error:
            problem = error
        # The clock is read beside the counters: how long this call waited for its thread is not in their rates.
        return Sample(self._reactor.seconds(), self._read_cpu_times(), links), problem
