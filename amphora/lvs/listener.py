"""
What a controller asks of one UDP or SCTP listener: a configuration, and whether its keepalived runs.

All that changes it is a job of its queue: one at a time, to the end, whether or not the client that asked still waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from amphora import output
from amphora.backoff import BackOff
from amphora.blocking import BlockingCalls
from amphora.families import Family
from amphora.jobs import JobQueue
from amphora.keepalived import files
from amphora.keepalived.process import (
    RELOADED,
    IKeepalivedReactor,
    KeepalivedFailed,
    KeepalivedNotFound,
    KeepalivedProcess,
    Program,
    ReloadUndecided,
)
from amphora.keepalived.verdict import objection
from amphora.lvs import store
from amphora.lvs.config import LvsConfig, parse_config
from amphora.lvs.errors import (
    LvsActionFailed,
    LvsConfigurationNotStored,
    LvsConfigurationRefused,
    LvsError,
    LvsListenerNotFound,
)
from amphora.lvs.run import LvsRun
from amphora.lvs.store import LvsFiles
from amphora.network.bind import Bind
from amphora.network.errors import NetworkError
from amphora.process import ProcessIdentity

Action = Literal["start", "stop", "reload"]
Status = Literal["ACTIVE", "OFFLINE", "ERROR"]

START_PATIENCE = 5.0
"""Seconds for keepalived to say that it is up."""
SETTLES = 30.0
"""Seconds after which a reload that keepalived never confirmed counts as applied, as far as it will be."""

_STARTED = "Startup complete"
_READ = "Configuration file "
"""What keepalived writes when it reads its files; where it finds nothing to balance, it has no more to say."""
_IDLE = "has no configuration to run"
_NO_IPVS = "Can't initialize ipvs"
_WITHOUT_IPVS = (
    "This kernel cannot balance UDP and SCTP: it has no IPVS. Load its module ip_vs (modprobe ip_vs), or run the "
    "amphora on a kernel that has it."
)
_KEPT_RUNS = "The configuration that ran before runs in its place"

T = TypeVar("T")
Work = Callable[[], Coroutine[Deferred[Any], Any, T]]


class Addresses(Protocol):
    """What a listener needs of the network; L{amphora.network.plugging.Network} is one."""

    def provide(self, binds: Iterable[Bind]) -> Coroutine[Deferred[Any], Any, None]: ...
    def bound(self, binds: Iterable[Bind]) -> None: ...


@frozen
class Surroundings:
    """What all listeners have in common."""

    reactor: IKeepalivedReactor
    blocking: BlockingCalls
    program: Program
    addresses: Addresses
    prepare_kernel: Callable[[bool], Awaitable[None]]
    """
    Called with True before a keepalived is to balance; with False when one does or was found, for then the kernel has
    all that can be set.
    """
    changed: Callable[[], None]
    """Called when a listener's process, or whether it should run, has changed."""


@define(eq=False)
class LvsListener:
    """One listener and its keepalived."""

    _log = Logger()

    listener_id: str
    _files: LvsFiles
    _around: Surroundings
    _settled: Callable[[], None]
    """Called when no job is at work any more."""
    _expected_changed: Callable[[], Awaitable[None]]
    """Called, and waited for, when what is to be expected of it has changed."""

    config: LvsConfig | None = field(init=False, default=None)
    """What the accepted configuration says of itself; None as long as there is none."""
    should_run: bool = field(init=False, default=False)
    _unread: bool = field(init=False, default=False)
    """Is there something of it that could not be read?"""
    _running: LvsConfig | None = field(init=False, default=None)
    """What the configuration says that keepalived runs, or ran last."""
    _unsettled_since: float | None = field(init=False, default=None)
    _told: tuple[object, ...] = field(init=False, default=())
    _bringing_up: bool = field(init=False, default=False)
    _released: bool = field(init=False, default=False)
    _daemon: KeepalivedProcess = field(init=False)
    _restart: BackOff = field(init=False)
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        around = self._around
        self._daemon = KeepalivedProcess(
            self._name,
            around.reactor,
            around.blocking,
            around.program,
            self._files,
            died=self._died,
            ended=lambda: None,
            hang_changed=around.changed,
            killed=self._killed,
            needs_child=False,
        )
        self._restart = BackOff(around.reactor, self._restart_now)
        self._jobs = JobQueue(self._name, self._settled, (LvsError,))

    # What can be asked

    @property
    def exists(self) -> bool:
        """Was a configuration accepted, and not deleted since?"""
        return self.config is not None

    @property
    def forgotten(self) -> bool:
        """Is there nothing of it that anybody could ask for?"""
        return not self.exists and not self._unread

    @property
    def process(self) -> ProcessIdentity | None:
        """The first process of its keepalived; None where none runs."""
        return self._daemon.identity

    @property
    def run(self) -> LvsRun | None:
        """What is to be told of it; None where it should not run."""
        if not self.should_run or self._running is None:
            return None
        since = self._unsettled_since
        settled = since is None or self._around.reactor.seconds() - since > SETTLES
        return LvsRun(self.listener_id, self._running, self.process, settled)

    @property
    def status(self) -> Status:
        """ACTIVE where it balances; OFFLINE where it should not, or has nothing to; ERROR: anything else."""
        run = self.run
        if run is None:
            return "OFFLINE" if self.process is None else "ERROR"
        if run.process is None or self._daemon.hangs:
            return "ERROR"
        return "ACTIVE" if run.config.virtual_servers else "OFFLINE"

    @property
    def binds(self) -> frozenset[Bind]:
        """The addresses that are meant for it, uploaded or running."""
        return frozenset(
            bind for config in (self.config, self._running) if config is not None for bind in _binds(config)
        )

    # What can be done

    def upload(self, content: bytes) -> Deferred[str]:
        """
        Take a new configuration, if keepalived finds it valid.  What runs goes on as it is.

        @return: The md5 sum of it, in hexadecimal.
        @raise LvsConfigurationRefused: with keepalived's words.
        @raise LvsConfigurationNotStored: with the system's.  After either, everything is as it was.
        """
        return self._run_job("upload", lambda: self._upload(content))

    def act(self, action: Action) -> Deferred[str]:
        """
        Start, stop or reload.

        @return: What was done: `started`, `stoped` or `restarted`, spelled as today's agent spells it.
        @raise LvsActionFailed: with keepalived's words.
        """
        work: dict[Action, Work[str]] = {"start": self._start, "stop": self._stop, "reload": self._reload}
        return self._run_job(action, work[action])

    def delete(self) -> Deferred[None]:
        """
        Stop it, and take all of it away.

        @raise LvsActionFailed: if it cannot be; it is still there then.
        """
        return self._run_job("delete", self._delete)

    async def configuration(self) -> bytes:
        """The configuration as it was uploaded.  @raise LvsListenerNotFound: if there is none."""
        try:
            return await self._around.blocking.run(self._files.config.read_bytes)
        except FileNotFoundError:
            raise LvsListenerNotFound(self.listener_id) from None

    async def trim_log(self) -> None:
        """Keep what keepalived wrote within bounds.  @raise OSError: as the system says."""
        await self._around.blocking.run(output.trim, self._files.log)

    # When the agent starts and ends

    async def adopt(self, family: Family) -> None:
        """
        Find what an earlier agent left.  What should run and does not is started in a job of its own.

        @param family: The processes that have its files.
        @raise LvsError: if it cannot be read.
        """
        await self._run_job("start", lambda: self._adopt(family))

    async def finish(self) -> None:
        """The agent ends: what is being done is done to its end, nothing more is begun."""
        self._released = True
        self._restart.cancel()
        await self._jobs.finished()

    def release(self) -> None:
        """Its keepalived is left alone."""
        self._daemon.let_go()

    # The jobs

    async def _upload(self, content: bytes) -> str:
        try:
            config = await self._around.blocking.run(parse_config, content)
        except ValueError as error:
            raise LvsConfigurationRefused(str(error)) from None
        if config.listener_id != self.listener_id:
            raise LvsConfigurationRefused(f"The configuration is one of listener {config.listener_id}")
        blocking = self._around.blocking
        fresh = self.forgotten
        try:
            await blocking.run(store.prepare, self._files)
            await blocking.run(files.stage, self._files, content)
            try:
                problem = await self._objection()
                if problem is not None:
                    raise LvsConfigurationRefused(problem)
                state = store.encode_should_run(self.should_run)
                await blocking.run(files.accept, self._files, state, store.CONFIG_MODE)
            finally:
                await blocking.run(files.unstage, self._files)
        except BaseException:
            if fresh:
                with suppress(OSError):
                    await blocking.run(store.delete, self._files)
            raise
        self.config, self._unread = config, False
        self._log.info("{name}: took a configuration", name=self._name)
        self._look()
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    async def _start(self) -> str:
        config = self._uploaded()
        before = self.should_run
        await self._remember(True)
        try:
            if self.process is None:
                await self._run(config)
            elif not await self._around.blocking.run(files.runs_upload, self._files):
                await self._load(config)
        except (KeepalivedFailed, NetworkError, OSError):
            # Where not even this can be written down, the next agent tries to start it, as this one was told to.
            with suppress(OSError):
                await self._remember(before)
            raise
        self._around.addresses.bound(_binds(config))
        return "started"

    async def _reload(self) -> str:
        config = self._uploaded()
        if self.process is None:
            return await self._start()
        await self._remember(True)
        await self._load(config)
        self._around.addresses.bound(_binds(config))
        return "restarted"

    async def _stop(self) -> str:
        self._uploaded()
        await self._stop_it()
        return "stoped"

    async def _stop_it(self) -> None:
        self._restart.cancel()
        problem: OSError | None = None
        try:
            await self._remember(False)
        except OSError as error:
            # A full disk keeps nothing running.
            problem = error
            self.should_run = False
        try:
            await self._daemon.look_around()
            # Whoever asks again, because the answer got lost, has what he wants.
            with suppress(KeepalivedNotFound):
                await self._daemon.stop()
                self._log.info("{name}: stopped", name=self._name)
        finally:
            self._look()
            await self._expected_changed()
            if problem is not None:
                raise problem

    async def _delete(self) -> None:
        # From here on the next agent would finish what we can not.
        try:
            await self._around.blocking.run(store.save_deletion, self._files)
        except OSError as error:
            self._log.warn("{name}: {error}", name=self._name, error=error)
        self.should_run = False
        await self._stop_it()
        await self._around.blocking.run(store.delete, self._files)
        self.config = self._running = None
        self._unread = False
        self._log.info("{name}: deleted", name=self._name)
        self._look()

    async def _adopt(self, family: Family) -> None:
        def look() -> tuple[bool, bool, bool, LvsConfig | None, LvsConfig | None]:
            store.prepare(self._files)
            uploaded = self._files.config.exists() and not store.is_deleted(self._files)
            return (
                files.run_is_confirmed(self._files),
                uploaded,
                store.load_should_run(self._files, runs=bool(family.masters)),
                store.read_config(self._files.config) if uploaded else None,
                store.read_config(self._files.running),
            )

        self._unread = True
        confirmed, uploaded, self.should_run, self.config, self._running = await self._around.blocking.run(look)
        self._unread = uploaded and self.config is None
        if self._unread:
            self._log.error(
                "{name}: {path} makes no sense, upload it again: what runs is left as it is",
                name=self._name,
                path=str(self._files.config),
            )
        await self._daemon.adopt(family)
        process = self.process
        if not uploaded:
            # Another agent was killed while it deleted it, or took the first configuration.
            self.should_run = False
        if process is None:
            if self.run is not None:
                self._log.warn("{name}: should run and does not; starting it", name=self._name)
                self._restart_later()
        elif self.run is None:
            self._log.info("{name}: process {pid} should not run; stopping it", name=self._name, pid=process.pid)
            await self._daemon.stop()
        else:
            self._log.info("{name}: found process {pid}", name=self._name, pid=process.pid)
            await self._prepare_kernel(early=False)
            if not confirmed:
                self._unsettled_since = self._around.reactor.seconds()
                self._load_again_later()
        if not uploaded:
            await self._around.blocking.run(store.delete, self._files)
            self._running = None

    # Running, and going on to run

    async def _run(self, config: LvsConfig) -> None:
        """
        Start keepalived with the uploaded configuration.

        @raise KeepalivedFailed: if it does not come up; what ran before is what would run next, then.
        """
        await self._daemon.look_around()
        if self.process is not None:
            await self._load(config)
            return
        await self._require_valid()
        await self._around.addresses.provide(_binds(config))
        await self._begin_run(config)
        try:
            up = await self._start_process(config)
        except (KeepalivedFailed, OSError):
            if not await self._return_run():
                await self._around.blocking.run(files.forget_run, self._files)
                self._running = None
            raise
        await self._started(up)

    async def _load(self, config: LvsConfig) -> None:
        """Let the running keepalived load the uploaded configuration.  @raise KeepalivedFailed: if it does not."""
        await self._require_valid()
        await self._around.addresses.provide(_binds(config))
        await self._begin_run(config)
        await self._apply(config)

    async def _apply(self, config: LvsConfig) -> None:
        """Have the running keepalived load what it is given.  @raise KeepalivedFailed: if it does not."""
        await self._prepare_kernel(early=True)
        process = self.process
        idle = not config.virtual_servers and not (process is not None and process.children())

        def applied(said: str) -> bool:
            # One that had nothing to balance starts its child now; one that has nothing now either has none to speak.
            return RELOADED in said or _STARTED in said or (idle and _READ in said)

        try:
            await self._daemon.reload(applied)
        except ReloadUndecided:
            # It was told, and will do so when it goes on.
            raise
        except OSError:
            await self._return_run()
            self._unsettled_since = None
            raise
        except (KeepalivedFailed, KeepalivedNotFound) as error:
            kept = await self._return_run() and await self._start_kept()
            raise KeepalivedFailed(f"{_explained(str(error))}\n{_KEPT_RUNS}" if kept else str(error)) from error
        await self._confirm_run()
        self._log.info("{name}: reloaded", name=self._name)

    def _load_again_later(self) -> None:
        """An earlier agent ended before it saw, and perhaps before it told keepalived, what was to be loaded."""

        async def load_again() -> None:
            if self.run is not None and self.process is not None and not self._released:
                await self._apply(self.run.config)

        self._run_job("reload", load_again).addErrback(
            lambda reason: self._log.error(
                "{name}: does not load what it was to: {reason}", name=self._name, reason=repr(reason.value)
            )
        )

    async def _start_process(self, config: LvsConfig) -> bool:
        """@return: whether it said that it is up; one that did not may still be about to come up, or to end."""
        self._unsettled_since = self._around.reactor.seconds()
        await self._prepare_kernel(early=True)

        async def up(position: int) -> bool:
            said = await self._around.blocking.run(output.since, self._files.log, position)
            return (_STARTED if config.virtual_servers else _IDLE) in said

        process, is_up = await self._daemon.start(up, START_PATIENCE)
        self._log.info("{name}: started, process {pid}", name=self._name, pid=process.pid)
        return is_up

    async def _started(self, up: bool) -> None:
        """What never said that it is up is not settled, and what ran before is kept, should it end."""
        if up:
            await self._confirm_run()
        else:
            await self._appeared()

    async def _begin_run(self, config: LvsConfig) -> None:
        await self._around.blocking.run(files.begin_run, self._files)
        self._running = config
        self._unsettled_since = self._around.reactor.seconds()

    async def _confirm_run(self) -> None:
        await self._around.blocking.run(files.confirm_run, self._files)
        self._unsettled_since = None
        await self._appeared()

    async def _appeared(self) -> None:
        self._look()
        await self._prepare_kernel(early=False)
        await self._expected_changed()

    async def _prepare_kernel(self, *, early: bool) -> None:
        if self._running is not None and self._running.virtual_servers:
            await self._around.prepare_kernel(early)

    async def _return_run(self) -> bool:
        """What ran before is what runs next.  @return: False where nothing ran before."""
        if not await self._around.blocking.run(files.return_run, self._files):
            return False
        self._running = await self._around.blocking.run(store.read_config, self._files.running)
        return True

    async def _start_kept(self) -> bool:
        """Start keepalived with what it ran, or ran before.  @return: whether it runs now."""
        while self._running is not None:
            # What died may have left a child, which would go on with what it balanced beside the new one.
            if await self._daemon.look_around():
                await self._appeared()
                return True
            try:
                await self._around.blocking.run(files.write_main, self._files)
                up = await self._start_process(self._running)
            except KeepalivedFailed as error:
                self._log.error("{name}: does not come up: {error}", name=self._name, error=_explained(str(error)))
                # A reload whose outcome was never known may have put this in place.
                if not await self._return_run():
                    return False
            else:
                await self._started(up)
                self._around.addresses.bound(_binds(self._running))
                return True
        return False

    def _died(self) -> None:
        self._log.error("{name}: died; what it said last is in {log}", name=self._name, log=str(self._files.log))
        self._look()
        if self.run is not None:
            self._restart_later()

    async def _killed(self) -> None:
        self._log.warn(
            "{name}: was killed, so that the kernel may still balance what it did: see ipvsadm --list", name=self._name
        )

    def _restart_later(self) -> None:
        """Start again what should run."""
        if self._released:
            return
        pause = self._restart.start_later()
        if pause:
            self._log.warn("{name}: is started again in {pause:g} s", name=self._name, pause=pause)

    def _restart_now(self) -> None:
        self._bringing_up = True
        self._run_job("start", self._bring_up).addErrback(
            lambda reason: self._log.error(
                "{name}: cannot be started again: {reason}", name=self._name, reason=repr(reason.value)
            )
        )

    async def _bring_up(self) -> None:
        """Start what should run and does not, as it ran last; if it cannot be, try again later."""
        self._bringing_up = False
        if self.run is None or self.process is not None or self._released:
            return
        if not await self._start_kept():
            self._restart_later()

    # What the jobs are made of

    @property
    def _name(self) -> str:
        return f"UDP listener {self.listener_id}"

    def _run_job(self, name: str, work: Work[T]) -> Deferred[T]:
        async def job() -> T:
            try:
                return await work()
            except (KeepalivedFailed, KeepalivedNotFound, NetworkError) as error:
                raise self._failure(name, _explained(str(error))) from None
            except OSError as error:
                self._log.error("{name}: {error}", name=self._name, error=error)
                raise self._failure(name, str(error.strerror or error)) from error
            finally:
                # However a job ended: what should run is not left lying.
                waiting = self._bringing_up or self._restart.waiting
                if self.run is not None and self.process is None and not waiting:
                    self._restart_later()

        return self._jobs.run(job)

    def _failure(self, name: str, reason: str) -> LvsError:
        if name == "upload":
            return LvsConfigurationNotStored(reason)
        return LvsActionFailed(name, self.listener_id, reason)

    async def _require_valid(self) -> None:
        """
        Judge the uploaded configuration again before keepalived is given it: what it names may have changed.

        @raise KeepalivedFailed: with keepalived's words.
        """
        blocking = self._around.blocking
        await blocking.run(files.stage_again, self._files)
        try:
            problem = await self._objection()
        finally:
            await blocking.run(files.unstage, self._files)
        if problem is not None:
            raise KeepalivedFailed(problem)

    async def _objection(self) -> str | None:
        """What keepalived has against what is staged.  @raise KeepalivedFailed: if it could not be asked."""
        return objection(await self._daemon.check(), self._files)

    def _uploaded(self) -> LvsConfig:
        """@raise LvsListenerNotFound: where there is nothing to run: it was deleted while this waited."""
        if self.config is None:
            raise LvsListenerNotFound(self.listener_id)
        return self.config

    async def _remember(self, wish: bool) -> None:
        if wish != self.should_run:
            await self._around.blocking.run(store.save_should_run, self._files, wish)
            self.should_run = wish

    def _look(self) -> None:
        """Tell if anything is otherwise than it was told."""
        now = (self.process, self.should_run, self.exists)
        if now != self._told:
            self._told = now
            self._around.changed()


def _binds(config: LvsConfig) -> list[Bind]:
    """The addresses that a configuration wants to be reached at."""
    return [Bind(vip.ip, vip.port) for server in config.virtual_servers for vip in server.vips]


def _explained(text: str) -> str:
    """keepalived's words, and what they mean where they leave that open."""
    return f"{text}\n{_WITHOUT_IPVS}" if _NO_IPVS in text else text
