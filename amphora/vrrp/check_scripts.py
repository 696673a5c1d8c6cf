"""
The scripts that keepalived runs to learn whether this amphora can serve, and the list that ours reads.

A configuration names `vrrp/check_script.sh` in its `vrrp_script` and `track_script`; that runs all scripts in
`vrrp/check_scripts/`, of which one is ours.  The scripts never change while the agent lives: what they are to look at
stands in a file that is replaced whole.
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

CHECK_SCRIPT = "check_script.sh"
HAPROXY_CHECK_SCRIPT = "haproxy_check_script.sh"
HAPROXY_SOCKETS = "haproxy_sockets"
RETRY_PAUSE = 10.0
"""Seconds after which a list that could not be written is tried again."""


@define(eq=False)
class CheckScripts:
    """Our scripts and their list, in C{vrrp} below the base path."""

    _log = Logger()

    _clock: IReactorTime
    _blocking: BlockingCalls
    _directory: Path
    _expected: tuple[Path, ...] = field(init=False, default=())
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
        self._expected = tuple(sorted(sockets))
        await self._write()

    def close(self) -> None:
        """The agent ends: nothing is tried again."""
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    async def _write(self) -> None:
        self.close()
        try:
            await self._lock.run(lambda: self._blocking.run(self._replace, self._expected))
        except OSError as error:
            self._log.error(
                "keepalived's check goes on with the haproxies that it knows: {error}; trying again in {pause:g} s",
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
        for path in (self._directory / CHECK_SCRIPT, scripts / HAPROXY_CHECK_SCRIPT):
            content = package_files("amphora.vrrp").joinpath("scripts", path.name).read_bytes()
            with suppress(FileNotFoundError):
                if path.read_bytes() == content and stat.S_IMODE(path.stat().st_mode) == 0o755:
                    continue
            replace_file(path, content, 0o755)
            self._log.info("installed {path}", path=str(path))

    def _replace(self, sockets: tuple[Path, ...]) -> None:
        path = self._directory / HAPROXY_SOCKETS
        content = "".join(f"{socket}\n" for socket in sockets).encode()
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            if not sockets:
                return
        replace_file(path, content, 0o644)
