"""All instances of this amphora."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.logger import Logger

from amphora import output
from amphora.families import Family, find_families
from amphora.loadbalancer.errors import InstanceNotFound, LoadBalancerError
from amphora.loadbalancer.instance import Instance, InstanceStatus, Surroundings
from amphora.loadbalancer.listeners import Listener
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.store import Store
from amphora.network.bind import Bind
from amphora.process import ProcessIdentity

T = TypeVar("T")

_AT_ONCE = 32
_ORPHANED = 24 * 3600.0
"""Seconds that certificates may wait for their configuration."""
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
    _orphans: dict[str, float] = field(init=False, factory=dict)
    """Since when there are certificates without an instance."""

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

    async def upload(self, instance_id: str, amphora_id: str, spooled: Path) -> str:
        """
        Take a configuration for a new or a known instance.

        @return: The MD5 sum of its bytes, in hexadecimal.
        @raise InvalidConfiguration, ActionFailed, StorageFailed: and what there was is as it was.
        """
        return await self._at(instance_id).upload(amphora_id, spooled)

    async def discard(self, instance_id: str) -> None:
        """
        Take away whatever there is of an instance, if only certificates or nothing; VIPs stay.

        @raise ActionFailed, StorageFailed: if not all of it could be.
        """
        await self._at(instance_id).discard()

    async def put_file(self, instance_id: str, filename: str, content: bytes) -> None:
        """
        Keep a file that a configuration names, or will: certificates of an instance that may not be there yet.

        @raise BadFilename, StorageFailed: and nothing is changed.
        """
        self._orphans.pop(instance_id, None)
        await self._at(instance_id).put_file(filename, content)

    async def file_md5(self, instance_id: str, filename: str) -> str:
        """
        Who asks is about to name the file in a configuration, and does not put it once more where it is the same.

        @raise BadFilename, CertificateNotFound, StorageFailed: as they say.
        """
        self._orphans.pop(instance_id, None)
        return await self._at(instance_id).file_md5(filename)

    async def discard_file(self, instance_id: str, filename: str) -> None:
        """Take a file away, if it is there.  @raise BadFilename, StorageFailed: as they say."""
        await self._at(instance_id).discard_file(filename)

    def ids(self) -> list[str]:
        """All that were uploaded, in order."""
        return sorted(instance_id for instance_id, instance in self._known.items() if instance.exists)

    def listeners(self) -> list[Listener]:
        """The listeners of all accepted configurations, in the order of their ids."""
        present = [instance for instance in self._known.values() if instance.exists]
        return sorted(listener for instance in present for listener in instance.listeners)

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

    async def glances(self, timeout: float) -> list[InstanceSample]:
        """The same for who looks for changes; see L{Instance.glance}."""
        present = [instance for instance in self._known.values() if instance.exists and instance.should_run]
        return await _all(instance.glance(timeout) for instance in present)

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

    async def remove_orphans(self) -> None:
        """
        Take away certificates that have waited for a configuration for a day: nobody would ever ask for them again.

        @raise OSError: if they cannot be looked for.
        """
        now = self._surroundings.reactor.seconds()
        found = set(await self._surroundings.blocking.run(self._store.certificate_ids))
        self._orphans = {each: self._orphans.get(each, now) for each in found - self._known.keys() - self._unread}
        for instance_id, since in list(self._orphans.items()):
            # While others are removed, somebody may have come for this one.
            if now - since < _ORPHANED or self._orphans.get(instance_id) != since:
                continue
            # Those that cannot be removed, which is logged, are tried again in a day.
            self._orphans[instance_id] = now
            with suppress(LoadBalancerError):
                if await self._at(instance_id).discard_orphans():
                    self._log.warn(
                        "{instance}: removed certificates that no configuration came for in a day", instance=instance_id
                    )

    def _at(self, instance_id: str) -> Instance:
        """The instance of this id; a new one is forgotten when its job has made nothing of it."""
        return self._known.get(instance_id) or self._make(instance_id)

    def _make(self, instance_id: str) -> Instance:
        def settled() -> None:
            if not instance.exists and self._known.get(instance_id) is instance:
                del self._known[instance_id]

        def made_out() -> None:
            self._unread.discard(instance_id)

        def holder(bind: Bind) -> str | None:
            return next((other.instance_id for other in self._known.values() if other.holds(bind)), None)

        instance = Instance(
            instance_id,
            self._store.files(instance_id),
            self._surroundings,
            settled,
            made_out,
            holder,
            self._tell_expected,
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
    begun: list[Deferred[T]] = [places.run(Deferred.fromCoroutine, work) for work in works]
    try:
        return list(await gatherResults(begun, consumeErrors=True))
    except FirstError as error:
        raise _cause(error) from None


async def _waited_for(job: Deferred[T]) -> T:
    return await job


def _cause(error: FirstError) -> BaseException:
    cause = error.subFailure.value
    return error if cause is None else cause
