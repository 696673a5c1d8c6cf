"""Telling neighbours of addresses, several times and in nobody's way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.blocking import BlockingCalls
from amphora.network import plan
from amphora.network.advertise import Advertisement
from amphora.network.kernel import Kernel
from amphora.network.plan import Sight
from amphora.network.state import IP

ADVERTISEMENTS = 3
"""How often neighbours are told of an address: nobody acknowledges that, and a link that just came up may drop it."""
PAUSE = 1.0

Whereabouts = tuple[str, IP]
"""The MAC address of an interface, and one of its addresses."""


@define(eq=False)
class Announcer:
    """Tells the neighbours where addresses are; what does not work is a warning in the log."""

    _log = Logger()

    _reactor: IReactorTime
    _blocking: BlockingCalls
    _kernel: Kernel
    _at_work: set[Deferred[None]] = field(init=False, factory=set)

    def announce(self, addresses: Iterable[Whereabouts]) -> None:
        """Tell of addresses; of those that are not there, or no longer, nothing is told."""
        told = list(addresses)
        if not told:
            return
        announcing = Deferred.fromCoroutine(self._advertise(told))
        self._at_work.add(announcing)

        def ended(result: object) -> None:
            self._at_work.discard(announcing)
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._log.failure("Addresses cannot be advertised", result)

        announcing.addBoth(ended)

    def stop(self) -> None:
        """Tell no more."""
        for announcing in list(self._at_work):
            announcing.cancel()

    async def _advertise(self, addresses: Sequence[Whereabouts]) -> None:
        for number in range(ADVERTISEMENTS):
            if number:
                await deferLater(self._reactor, PAUSE)
            for problem in await self._blocking.run(self._advertise_once, addresses):
                self._log.warn("Neighbours are not told of an address: {problem}", problem=problem)

    def _advertise_once(self, addresses: Sequence[Whereabouts]) -> list[str]:
        try:
            snapshot = self._kernel.look()
        except OSError as error:
            return [str(error)]
        present = {(found.index, found.address.ip) for found in snapshot.addresses if found.usable}
        told = []
        for mac, ip in addresses:
            found = plan.find(mac, Sight(snapshot, None), plugged=True)
            if found is not None and (found.link.index, ip) in present:
                told.append(Advertisement(found.link.name, found.link.index, mac, ip))
        return self._kernel.advertise(told)
