"""
The scripts that keepalived runs to learn whether this amphora can serve, and the list that ours reads.

A configuration names `vrrp/check_script.sh` in its `vrrp_script` and `track_script`; that runs all scripts in
`vrrp/check_scripts/`, of which two are ours: one looks at haproxies, one at the keepaliveds of UDP listeners.  The
scripts never change while the agent lives: what they are to look at stands in files that are replaced whole.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files as package_files
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import remove_unfinished, replace_file
from amphora.keepalived.files import make_open_directory
from amphora.process import ProcessIdentity

CHECK_SCRIPT = "check_script.sh"
HAPROXY_CHECK_SCRIPT = "haproxy_check_script.sh"
HAPROXY_SOCKETS = "haproxy_sockets"
LVS_CHECK_SCRIPT = "lvs_udp_check.sh"
LVS_PROCESSES = "lvs_processes"
RETRY_PAUSE = 10.0
"""Seconds after which a list that could not be written is tried again."""


@define(eq=False)
class CheckScripts:
    """Our scripts and their lists, in C{vrrp} below the base path."""

    _log = Logger()

    _clock: IReactorTime
    _blocking: BlockingCalls
    _directory: Path
    _sockets: tuple[Path, ...] = field(init=False, default=())
    _processes: tuple[ProcessIdentity | None, ...] | None = field(init=False, default=None)
    """None until they are told: an earlier agent's list holds until then."""
    _lock: DeferredLock = field(init=False, factory=DeferredLock)
    _retry: IDelayedCall | None = field(init=False, default=None)

    async def install(self) -> None:
        """Put our scripts into place where they are missing or another agent's; a disk that takes none is told."""
        try:
            await self._blocking.run(self._install)
        except OSError as error:
            self._log.error("keepalived's check scripts cannot be installed: {error}", error=error)

    async def expect(self, sockets: Iterable[Path]) -> None:
        """
        From now on a haproxy has to answer on these stats sockets, and on no others.

        As long as there was none ever, there is no list, and the check fails: nothing could serve the virtual address.
        An empty list passes: all were stopped or deleted on purpose.  A disk that does not take the list is told, and
        tried again: nobody's start or stop fails for that.
        """
        self._sockets = tuple(sorted(sockets))
        await self._write()

    async def expect_processes(self, processes: Iterable[ProcessIdentity | None]) -> None:
        """
        From now on these have to be there for UDP listeners, and no others; None stands for one that does not run.

        An amphora that was given nothing but UDP listeners needs no haproxy: then there is an empty list of those.
        """
        self._processes = tuple(processes)
        await self._write()

    def close(self) -> None:
        """The agent ends: nothing is tried again."""
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    async def _write(self) -> None:
        self.close()
        try:
            await self._lock.run(lambda: self._blocking.run(self._replace, self._sockets, self._processes))
        except OSError as error:
            self._log.error(
                "keepalived's check goes on with what it knows: {error}; trying again in {pause:g} s",
                error=error,
                pause=RETRY_PAUSE,
            )
            self.close()
            self._retry = self._clock.callLater(RETRY_PAUSE, lambda: Deferred.fromCoroutine(self._write()))

    # These run in a thread, one at a time.

    def _install(self) -> None:
        scripts = self._directory / "check_scripts"
        for directory in (self._directory, scripts):
            make_open_directory(directory)
            remove_unfinished(directory)
        for path in (
            self._directory / CHECK_SCRIPT,
            scripts / HAPROXY_CHECK_SCRIPT,
            scripts / LVS_CHECK_SCRIPT,
        ):
            content = package_files("amphora.vrrp").joinpath("scripts", path.name).read_bytes()
            with suppress(FileNotFoundError):
                if path.read_bytes() == content and stat.S_IMODE(path.stat().st_mode) == 0o755:
                    continue
            replace_file(path, content, 0o755)
            self._log.info("installed {path}", path=str(path))

    def _replace(self, sockets: tuple[Path, ...], processes: tuple[ProcessIdentity | None, ...] | None) -> None:
        if processes is not None:
            balancing = "".join("0 0\n" if each is None else f"{each.pid} {each.started}\n" for each in processes)
            # First: as soon as there is a list of haproxies, an empty one too, it is this one that can fail.
            _replace_list(self._directory / LVS_PROCESSES, balancing, make=bool(processes))
        answering = "".join(f"{socket}\n" for socket in sockets)
        _replace_list(self._directory / HAPROXY_SOCKETS, answering, make=bool(sockets or processes))


def _replace_list(path: Path, text: str, *, make: bool) -> None:
    """Put a list into place, where it stands otherwise there; where none was ever, only if one is to be made."""
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        if not make:
            return
    replace_file(path, content, 0o644)
