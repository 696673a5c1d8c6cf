"""All instances of this amphora."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.logger import Logger

from amphora import output
from amphora.families import Family, find_families
from amphora.loadbalancer.errors import InstanceNotFound, LoadBalancerError
from amphora.loadbalancer.instance import Instance, InstanceStatus, Surroundings
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.store import Store
from amphora.network.bind import Bind
from amphora.process import ProcessIdentity

T = TypeVar("T")

_AT_ONCE = 32
_ANYTHING = Bind("::", 0)


@define(eq=False)
class Instances:
    """Finds an instance by its id, and tells of all of them."""

    _log = Logger()

    _program: str
    """The path of haproxy."""
    _store: Store
    _surroundings: Surroundings
    _expect: Callable[[Iterable[Path]], Awaitable[None]]
    """Told the stats sockets of all haproxies that have to answer, whenever that changes."""
    _known: dict[str, Instance] = field(init=False, factory=dict)
    _unread: set[str] = field(init=False, factory=set)
    """Those of which it is not known what they are."""

    async def adopt(self) -> None:
        """
        Find all that an earlier agent left.  One instance that cannot be read hinders no other, those whose haproxy
        hangs are waited for together, and none that has to be started is waited for.

        @raise OSError: if the base path cannot be read or written.
        """
        blocking = self._surroundings.blocking
        found = await blocking.run(find_families, self._program)
        instance_ids = await blocking.run(self._store.instance_ids)
        await _all(
            self._adopt(instance_id, found.get(self._store.files(instance_id).running, Family()))
            for instance_id in instance_ids
        )
        await _all(self._finish_deletion(instance) for instance in list(self._known.values()))
        await self._tell_expected()

    async def _adopt(self, instance_id: str, family: Family) -> None:
        try:
            await self._make(instance_id).adopt(family)
        except LoadBalancerError as error:
            self._unread.add(instance_id)
            self._log.error("{instance}: {error}", instance=instance_id, error=repr(error))
        except Exception:
            self._unread.add(instance_id)
            self._log.failure("{instance}: cannot be adopted", instance=instance_id)

    async def _finish_deletion(self, instance: Instance) -> None:
        try:
            await instance.finish_deletion()
        except LoadBalancerError as error:
            self._log.error("{instance}: cannot be deleted: {error}", instance=instance.instance_id, error=repr(error))

    async def finish(self) -> None:
        """The agent ends: what is being done is done to its end."""
        await _all(instance.finish() for instance in list(self._known.values()))

    def release(self) -> None:
        """All haproxies are left alone."""
        for instance in self._known.values():
            instance.release()

    def get(self, instance_id: str) -> Instance:
        """@raise InstanceNotFound: if nothing was uploaded for this id."""
        instance = self._known.get(instance_id)
        if instance is None or not instance.exists:
            raise InstanceNotFound(instance_id)
        return instance

    @property
    def binds(self) -> frozenset[Bind]:
        """The addresses that are meant for any of them; one that could not be read may be meant for all."""
        known = frozenset(bind for instance in self._known.values() for bind in instance.binds)
        return known | {_ANYTHING} if self._unread else known

    async def upload(self, instance_id: str, amphora_id: str, spooled: Path) -> None:
        """
        Take a configuration for a new or a known instance.

        @raise InvalidConfiguration, ActionFailed, StorageFailed: and what there was is as it was.
        """
        await (self._known.get(instance_id) or self._make(instance_id)).upload(amphora_id, spooled)
        self._unread.discard(instance_id)

    def ids(self) -> list[str]:
        """All that were uploaded, in order."""
        return sorted(instance_id for instance_id, instance in self._known.items() if instance.exists)

    def processes(self) -> list[ProcessIdentity]:
        """The masters of the haproxies that run."""
        return [instance.process for instance in self._known.values() if instance.process is not None]

    async def statuses(self) -> list[InstanceStatus]:
        """How all fare, in the order of their ids."""
        present = [instance for _, instance in sorted(self._known.items()) if instance.exists]
        return await _all(instance.status() for instance in present)

    async def samples(self, timeout: float) -> list[InstanceSample]:
        """
        What a heartbeat tells: all instances that should run.

        @param timeout: Seconds that any one of them may take; one that hangs is told without its figures.
        """
        present = [instance for instance in self._known.values() if instance.exists and instance.should_run]
        return await _all(instance.sample(timeout) for instance in present)

    def taken(self, samples: Iterable[InstanceSample]) -> None:
        """These samples' traffic was told to a controller, or will be."""
        for sample in samples:
            instance = self._known.get(sample.instance_id)
            if instance is not None:
                instance.taken(sample)

    async def save_server_states(self) -> None:
        """Write down which servers are up, for those whose configuration asks for it."""
        await _all(_waited_for(instance.save_server_state()) for instance in list(self._known.values()))

    async def trim_logs(self) -> None:
        """Keep what haproxies wrote within bounds.  @raise OSError: as the system says."""
        for instance_id in list(self._known):
            await self._surroundings.blocking.run(output.trim, self._store.files(instance_id).log)

    def _make(self, instance_id: str) -> Instance:
        def settled() -> None:
            if not instance.exists and self._known.get(instance_id) is instance:
                del self._known[instance_id]

        def holder(bind: Bind) -> str | None:
            return next((other.instance_id for other in self._known.values() if other.holds(bind)), None)

        instance = Instance(
            instance_id, self._store.files(instance_id), self._surroundings, settled, holder, self._tell_expected
        )
        self._known[instance_id] = instance
        return instance

    async def _tell_expected(self) -> None:
        await self._expect([instance.stats_socket for instance in self._known.values() if instance.expected])


async def _all(works: Iterable[Coroutine[Deferred[Any], Any, T]]) -> list[T]:
    """
    Do all at once, but not so many that descriptors run short.

    Whoever asks may be cancelled; then so are they, and nothing is left that nobody hears of.
    """
    places = DeferredSemaphore(_AT_ONCE)

    async def one(work: Coroutine[Deferred[Any], Any, T]) -> T:
        return await places.run(Deferred.fromCoroutine, work)

    try:
        return list(await gatherResults([Deferred.fromCoroutine(one(work)) for work in works], consumeErrors=True))
    except FirstError as error:
        raise _cause(error) from None


async def _waited_for(job: Deferred[T]) -> T:
    return await job


def _cause(error: FirstError) -> BaseException:
    cause = error.subFailure.value
    return error if cause is None else cause
