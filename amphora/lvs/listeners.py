"""All UDP and SCTP listeners of this amphora."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from amphora.families import Family, find_families
from amphora.lvs import store
from amphora.lvs.errors import LvsError, LvsListenerNotFound
from amphora.lvs.listener import LvsListener, Status, Surroundings
from amphora.lvs.run import LvsRun
from amphora.lvs.store import LvsFiles
from amphora.network.bind import Bind
from amphora.process import ProcessIdentity


@frozen
class LvsStatus:
    """How one listener fares."""

    listener_id: str
    status: Status


@define(eq=False)
class LvsListeners:
    """Finds a listener by its id, and tells of all of them."""

    _log = Logger()

    _directory: Path
    """C{lvs} below the base path."""
    _around: Surroundings
    _expect: Callable[[Iterable[ProcessIdentity | None]], Awaitable[None]]
    """Told the processes of all that should run, None for one that does not, whenever that changes."""
    _told_of_netcat: bool = field(init=False, default=False)
    """Was it logged that there is none?"""
    _known: dict[str, LvsListener] = field(init=False, factory=dict)

    async def adopt(self) -> None:
        """
        Find all that an earlier agent left.  One that cannot be read hinders no other, and none that has to be started
        is waited for.
        """
        blocking = self._around.blocking
        try:
            await blocking.run(store.install, self._directory)
        except OSError as error:
            self._log.error("{check} cannot be installed: {error}", check=store.UDP_CHECK, error=error)
        listener_ids = await blocking.run(store.listener_ids, self._directory)
        found = await blocking.run(find_families, self._around.program.path) if listener_ids else {}
        for listener_id in listener_ids:
            listener = self._make(listener_id)
            try:
                await listener.adopt(found.get(LvsFiles.of(self._directory, listener_id).main, Family()))
            except LvsError as error:
                self._log.error("UDP listener {id}: {error}", id=listener_id, error=repr(error))
        await self._tell_expected()

    async def finish(self) -> None:
        """The agent ends: what is being done is done to its end."""
        await gatherResults([Deferred.fromCoroutine(listener.finish()) for listener in self._known.values()])

    def release(self) -> None:
        """All keepaliveds are left alone."""
        for listener in self._known.values():
            listener.release()

    def has(self, listener_id: str) -> bool:
        """Was a configuration accepted for this id?"""
        listener = self._known.get(listener_id)
        return listener is not None and listener.exists

    def get(self, listener_id: str) -> LvsListener:
        """@raise LvsListenerNotFound: if no configuration was accepted for this id."""
        if not self.has(listener_id):
            raise LvsListenerNotFound(listener_id)
        return self._known[listener_id]

    async def upload(self, listener_id: str, content: bytes) -> str:
        """
        Take a configuration for a new or a known listener.

        @return: The md5 sum of it, in hexadecimal.
        @raise LvsConfigurationRefused, LvsConfigurationNotStored: and what there was is as it was.
        """
        md5 = await (self._known.get(listener_id) or self._make(listener_id)).upload(content)
        if store.UDP_CHECK.encode() in content and not self._told_of_netcat:
            path = self._around.program.environment.get("PATH")
            if await self._around.blocking.run(partial(shutil.which, "nc", path=path)) is None:
                self._told_of_netcat = True
                self._log.error(
                    "UDP members are not checked, all count as well: {check} needs nc, install a netcat",
                    check=store.UDP_CHECK,
                )
        return md5

    async def discard(self, listener_id: str) -> bool:
        """
        Take a listener away, with what is left of one that could not be read.

        @return: False where nothing is known of it, which is no error.
        @raise LvsActionFailed: if it cannot be; it is still there then.
        """
        listener = self._known.get(listener_id)
        if listener is None:
            return False
        await listener.delete()
        return True

    def ids(self) -> list[str]:
        """All that were uploaded, in order."""
        return sorted(listener_id for listener_id in self._known if self.has(listener_id))

    def statuses(self) -> list[LvsStatus]:
        """How all fare, in the order of their ids."""
        return [LvsStatus(listener_id, self._known[listener_id].status) for listener_id in self.ids()]

    def runs(self) -> Sequence[LvsRun]:
        """What is to be told of those that should run, in the order of their ids."""
        runs = (listener.run for _, listener in sorted(self._known.items()))
        return [run for run in runs if run is not None]

    def processes(self) -> list[ProcessIdentity]:
        """The keepaliveds that run."""
        return [listener.process for listener in self._known.values() if listener.process is not None]

    @property
    def binds(self) -> frozenset[Bind]:
        """The addresses that are meant for any of them."""
        return frozenset(bind for listener in self._known.values() for bind in listener.binds)

    async def trim_logs(self) -> None:
        """Keep what keepaliveds wrote within bounds.  @raise OSError: as the system says."""
        for listener in list(self._known.values()):
            await listener.trim_log()

    def _make(self, listener_id: str) -> LvsListener:
        def settled() -> None:
            if listener.forgotten and self._known.get(listener_id) is listener:
                del self._known[listener_id]

        files = LvsFiles.of(self._directory, listener_id)
        listener = LvsListener(listener_id, files, self._around, settled, self._tell_expected)
        self._known[listener_id] = listener
        return listener

    async def _tell_expected(self) -> None:
        await self._expect([run.process for run in self.runs()])
