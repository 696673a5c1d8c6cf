"""
The settings in force, and the file that they come from: both may be replaced while the agent runs.

A new file is read, checked and stored before any of it is in force.  One that an agent has come up with, or that is all
in force, is kept beside the file: an editor that was killed, or a disk that was full, may leave half a file, and an
amphora whose agent does not start is replaced by its controller, with all that it serves.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from attrs import define, evolve, field, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.config import OPTIONS, ConfigError, Controller, Option, Settings, load_settings, read_settings
from amphora.files import beside, rename_synced, replace_file, write_synced
from amphora.jobs import JobQueue
from amphora.loadbalancer.errors import StorageFailed

T = TypeVar("T")

_log = Logger()


class SettingsError(Exception):
    """A new configuration was not taken, and nothing was changed."""


@frozen
class SettingsRefused(SettingsError):
    """It cannot be used: `reason` names the section, the option and what is allowed."""

    reason: str


@frozen
class SettingsNotStored(SettingsError):
    """The disk does not take it: `reason` is what the system says."""

    reason: str


def last_good(path: Path) -> Path:
    """Where the configuration is kept that has last worked as a whole, whatever has become of the file since."""
    return path.with_name(f"{path.name}.last-good")


def load_usable_settings(path: str) -> Settings:
    """
    Read the file at `path`; where it cannot be used, what has worked last, which is logged.

    @raise ConfigError: what is wrong with the file, where there is nothing to take its place.
    """
    try:
        return load_settings(path)
    except ConfigError as error:
        kept = last_good(Path(path))
        try:
            settings = load_settings(str(kept))
        except ConfigError:
            raise error from None
        _log.error(
            "{error}. The agent starts with the last configuration that has worked, {kept}: put the file right",
            error=error,
            kept=str(kept),
        )
        return settings


@define(eq=False)
class LiveSettings:
    """
    The one place that knows the settings in force.

    Who is to follow a change is told by `apply`; who needs a value once in a while asks C{now} for it.
    """

    _log = Logger()

    path: Path
    """The file that the agent was started with."""
    now: Settings
    """In force: what may change at once as the file says, all else as it was when the agent started."""
    _blocking: BlockingCalls
    _check: Callable[[Settings], None]
    """Finds what would keep the next agent from starting with these; may block.  Raises `ConfigError`."""
    _prepare: Callable[[Settings], Awaitable[Sequence[str]]]
    """
    Called before a file is taken, which the disk has: tells, one line each, what of it will be without effect.  Raises
    `StorageFailed`.
    """
    _apply: Callable[[Settings], None]
    """Puts them in force."""
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._jobs = JobQueue("configuration", lambda: None, (SettingsError,))

    def replace(self, content: bytes) -> Deferred[Sequence[str]]:
        """
        Take a new file.

        @return: Fires with what its sender should know of it, one line each: what waits for the next start, what is
            not known.
        @raise SettingsRefused, SettingsNotStored: and nothing was changed.
        """
        return self._jobs.run(lambda: self._replace(content))

    def reread(self) -> Deferred[Sequence[str]]:
        """
        Take what is in the file now.

        @return: as L{replace}.
        @raise SettingsRefused: if it cannot be used; what was in force stays in force.
        @raise SettingsNotStored: if it cannot be read.
        """
        return self._jobs.run(self._reread)

    def keep(self) -> Deferred[None]:
        """The agent has come up: keep the file, if that is what it did so with, for a start at which it cannot."""
        return self._jobs.run(self._keep_file)

    # The jobs

    async def _replace(self, content: bytes) -> Sequence[str]:
        new = await self._read(content)
        path = await self._stored(lambda: Path(os.path.realpath(self.path)))
        # What has to be remembered is so once the disk has the file, and before the file is in its place: an agent that
        # is killed in between leaves an amphora that stays what it is.
        await self._stored(lambda: _write_alike(path, content))
        try:
            remarks = await self._prepared(new)
            await self._stored(lambda: rename_synced(beside(path), path))
        except SettingsError:
            with suppress(OSError):
                await self._blocking.run(beside(path).unlink, missing_ok=True)
            raise
        return await self._take(new, content, remarks)

    async def _stored(self, write: Callable[[], T]) -> T:
        try:
            return await self._blocking.run(write)
        except OSError as error:
            self._log.error("{path}: a new configuration cannot be stored: {error}", path=str(self.path), error=error)
            raise SettingsNotStored(error.strerror or str(error)) from error

    async def _reread(self) -> Sequence[str]:
        content = await self._content()
        new = await self._read(content)
        remarks = await self._prepared(new)
        return await self._take(new, content, remarks)

    async def _keep_file(self) -> None:
        with suppress(SettingsError):
            content = await self._content()
            if not self._waiting(await self._read(content)):
                await self._keep(content)

    async def _take(self, new: Settings, content: bytes, remarks: Sequence[str]) -> Sequence[str]:
        said = self._put_in_force(new, remarks)
        if not self._waiting(new):
            # Of all else only the next start shows whether it works.
            await self._keep(content)
        return said

    async def _content(self) -> bytes:
        try:
            return await self._blocking.run(self.path.read_bytes)
        except OSError as error:
            raise SettingsNotStored(f"{self.path}: cannot be read: {error.strerror}") from error

    async def _read(self, content: bytes) -> Settings:
        def read() -> Settings:
            settings = read_settings(content, self.path.name)
            _require_heartbeats(self.now, settings)
            self._check(settings)
            return settings

        try:
            return await self._blocking.run(read)
        except ConfigError as error:
            raise SettingsRefused(str(error)) from None

    async def _prepared(self, new: Settings) -> Sequence[str]:
        try:
            return await self._prepare(new)
        except StorageFailed as error:
            raise SettingsNotStored(error.reason) from error

    async def _keep(self, content: bytes) -> None:
        """A disk that does not take it is told: what was kept before still serves."""

        def write() -> None:
            kept = last_good(self.path)
            with suppress(FileNotFoundError):
                if kept.read_bytes() == content and stat.S_IMODE(kept.stat().st_mode) == 0o600:
                    return
            replace_file(kept, content)

        try:
            await self._blocking.run(write)
        except OSError as error:
            self._log.warn("the configuration cannot be kept for a start without it: {error}", error=error)

    def _put_in_force(self, new: Settings, remarks: Sequence[str]) -> Sequence[str]:
        before = self.now
        self.now = evolve(before, **{each.name: getattr(new, each.name) for each in OPTIONS if each.live})
        for option in OPTIONS:
            if option.live and getattr(before, option.name) != getattr(self.now, option.name):
                self._log.info("{change}", change=_change(option, before, self.now))
        self._apply(self.now)
        self._log.debug("This line is only logged where debug is true")
        said = [*new.notes, *remarks]
        if waiting := self._waiting(new):
            said.append(f"In force when the agent starts next: {', '.join(waiting)}")
        for line in said:
            self._log.warn("{line}", line=line)
        return said

    def _waiting(self, new: Settings) -> list[str]:
        """What of these is not in force."""
        return [each.title for each in OPTIONS if getattr(self.now, each.name) != getattr(new, each.name)]


def _require_heartbeats(now: Settings, new: Settings) -> None:
    """
    An amphora that sends heartbeats goes on to: its controller replaces one that falls silent.

    @raise ConfigError: for what is missing.
    """
    if now.heartbeat_key is None or not now.controller_ip_port_list:
        return
    for name, what in (("heartbeat_key", "no key"), ("controller_ip_port_list", "no controller that can be used")):
        if not getattr(new, name):
            title = f"[health_manager] {name}"
            remarks = "".join(f"; {note}" for note in new.notes if title in note)
            raise ConfigError(
                f"{title}: {what} is given, and an amphora that falls silent is replaced by its controller{remarks}"
            )


def _change(option: Option, before: Settings, now: Settings) -> str:
    if option.secret:
        return f"{option.title} is another from now on"
    old, new = (_shown(getattr(each, option.name)) for each in (before, now))
    return f"{option.title} is {new} from now on; it was {old}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(each) for each in value) or "empty"
    if isinstance(value, Controller):
        return f"{value.host} port {value.port}"
    return str(value)


def _write_alike(path: Path, content: bytes) -> None:
    """
    Write beside a file what is to replace it, with the same owner and rights; a new one for us alone.

    @raise OSError: as the system says; nothing is left of it then.
    """
    unfinished = beside(path)
    write_synced(unfinished, content)
    try:
        with suppress(FileNotFoundError):
            status = path.stat()
            os.chown(unfinished, status.st_uid, status.st_gid)
            unfinished.chmod(stat.S_IMODE(status.st_mode))
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


class FollowsItsFile(Service):
    """Takes the file again on SIGHUP, and keeps what the agent has come up with."""

    _log = Logger()

    def __init__(self, reactor: IReactorFromThreads, settings: LiveSettings) -> None:
        self._reactor = reactor
        self._live = settings
        self._before: Any = None

    def startService(self) -> None:
        super().startService()
        self._live.keep()
        self._before = signal.signal(signal.SIGHUP, self._hung_up)

    def stopService(self) -> None:
        super().stopService()
        # C{makeService} has seen to it that this ends nothing.
        signal.signal(signal.SIGHUP, self._before)

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.reread)

    def reread(self) -> None:
        """Take the file again; one that cannot be used is told, and changes nothing."""
        self._log.info("{path}: reading it again", path=str(self._live.path))
        Deferred.fromCoroutine(self._reread())

    async def _reread(self) -> None:
        try:
            await self._live.reread()
        except (SettingsRefused, SettingsNotStored) as error:
            self._log.error(
                "{path}: cannot be taken, nothing was changed: {reason}",
                path=str(self._live.path),
                reason=error.reason,
            )
        except Exception:
            self._log.failure("{path}: cannot be taken", path=str(self._live.path))
