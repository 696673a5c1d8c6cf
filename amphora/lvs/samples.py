"""Asking the kernel, for heartbeats, how all UDP and SCTP listeners fare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.blocking import BlockingCalls
from amphora.lvs.kernel import Ipvs, IpvsMissing, read_ipvs
from amphora.lvs.run import LvsRun
from amphora.lvs.sample import LvsSample, sample_of
from amphora.waiting import within

_NO_IPVS = "the kernel has no IP virtual server: UDP and SCTP listeners carry nothing until its module ip_vs is loaded"


@define(eq=False)
class LvsSamples:
    """
    Tells of all listeners that should run.  It never fails: what goes wrong is logged once, and costs these listeners
    their answers, and haproxy's nothing.
    """

    _log = Logger()

    _reactor: IReactorTime
    _blocking: BlockingCalls
    _namespace: str
    _runs: Callable[[], Sequence[LvsRun]]
    _read: Callable[[str], Ipvs] = read_ipvs
    _listeners: tuple[str, ...] = field(init=False, default=())
    """Those that were there last."""
    _reading: bool = field(init=False, default=False)
    _waiting: list[Deferred[Ipvs | None]] = field(init=False, factory=list)
    _problem: str | None = field(init=False, default=None)
    """What was logged last."""

    async def samples(self, timeout: float) -> list[LvsSample]:
        """
        Tell what a heartbeat says of them.

        @param timeout: Seconds after which the kernel is not waited for.
        """
        try:
            runs = self._runs()
            self._listeners = tuple(run.listener_id for run in runs)
            # One without a pool has nothing in the kernel, whose module is not even loaded where all are so.
            ipvs = await self._ask(timeout) if any(run.config.virtual_servers for run in runs) else Ipvs({}, {})
            return [sample_of(run, ipvs) for run in runs]
        except CancelledError:
            raise
        except Exception as problem:
            self._tell(f"UDP and SCTP listeners cannot be told of: {problem!r}")
            return [LvsSample(listener_id) for listener_id in self._listeners]

    async def _ask(self, timeout: float) -> Ipvs | None:
        """Whoever asks while an answer is awaited is given that one: no more than one thread waits for the kernel."""
        waiter: Deferred[Ipvs | None] = Deferred()
        self._waiting.append(waiter)
        if not self._reading:
            self._reading = True
            self._blocking.run(self._read, self._namespace).addCallbacks(self._have_read, self._have_failed)
        try:
            return await within(self._reactor, timeout, waiter)
        except TimeoutError:
            self._waiting.remove(waiter)
            self._tell("the kernel does not tell in time how UDP and SCTP listeners fare")
            return None

    def _have_read(self, ipvs: Ipvs) -> None:
        self._tell(
            None if ipvs.problem is None else f"traffic of UDP and SCTP listeners cannot be counted: {ipvs.problem}"
        )
        self._answer(ipvs)

    def _have_failed(self, failure: Failure) -> None:
        if failure.check(IpvsMissing):
            self._tell(_NO_IPVS)
            self._answer(Ipvs({}, {}))
        else:
            self._tell(f"the kernel cannot be asked how UDP and SCTP listeners fare: {failure.getErrorMessage()}")
            self._answer(None)

    def _answer(self, ipvs: Ipvs | None) -> None:
        self._reading = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(ipvs)

    def _tell(self, problem: str | None) -> None:
        if problem is None and self._problem is not None:
            self._log.info("the kernel tells again how UDP and SCTP listeners fare")
        elif problem is not None and problem != self._problem:
            self._log.error("{problem}", problem=problem)
        self._problem = problem
