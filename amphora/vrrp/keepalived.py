"""
What a controller asks of keepalived: a configuration, and whether it runs.

All that changes it is a job of its queue: one at a time, to the end, whether or not the client that asked still waits.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from amphora import output
from amphora.backoff import BackOff
from amphora.blocking import BlockingCalls
from amphora.families import Family, find_families
from amphora.jobs import JobQueue
from amphora.keepalived import files
from amphora.keepalived.process import IKeepalivedReactor, KeepalivedFailed, KeepalivedNotFound, ReloadUndecided
from amphora.keepalived.verdict import objection, passed_over
from amphora.process import ProcessIdentity
from amphora.vrrp import store
from amphora.vrrp.daemon import Daemon, KeepalivedProgram
from amphora.vrrp.errors import ActionFailed, ConfigurationNotStored, ConfigurationRefused, NotRunning, VrrpError
from amphora.vrrp.keepalived_config import KeepalivedConfig, parse_config
from amphora.vrrp.standing import Role
from amphora.vrrp.store import VrrpFiles, VrrpState

Action = Literal["start", "stop", "reload"]

_NOTHING_UPLOADED = "No keepalived configuration was uploaded"
_KEPT_RUNS = "The configuration that ran before runs in its place"

T = TypeVar("T")
Work = Callable[[], Coroutine[Deferred[Any], Any, T]]


@frozen
class _Appearance:
    """What others may want to know of it."""

    process: ProcessIdentity | None
    runs: bool
    role: Role | None
    configured: bool


@define(eq=False)
class Keepalived:
    """The amphora's keepalived, uploaded or not, running or not."""

    _log = Logger()

    _reactor: IKeepalivedReactor
    _blocking: BlockingCalls
    _program: KeepalivedProgram
    _files: VrrpFiles
    changed: Callable[[], None]
    """Called when its role, its process, or whether it hangs has changed."""

    config: KeepalivedConfig | None = field(init=False, default=None)
    """What the accepted configuration says of itself; None as long as there is none."""
    _running: KeepalivedConfig | None = field(init=False, default=None)
    """The same of the one that keepalived runs, or ran last."""
    _state: VrrpState = field(init=False, factory=VrrpState)
    _told: _Appearance | None = field(init=False, default=None)
    _bringing_up: bool = field(init=False, default=False)
    _released: bool = field(init=False, default=False)
    _daemon: Daemon = field(init=False)
    _restart: BackOff = field(init=False)
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._daemon = Daemon(self._reactor, self._blocking, self._program, self._files, self._died, self._look)
        self._restart = BackOff(self._reactor, self._restart_now)
        self._jobs = JobQueue("keepalived", lambda: None, (VrrpError,))

    # What can be asked

    @property
    def configured(self) -> bool:
        """Was a configuration uploaded, and is the amphora one of a pair since?"""
        return self.config is not None and not self._state.retired

    @property
    def role(self) -> Role | None:
        """What keepalived says of itself; None while it does not run, hangs, or has not said it."""
        return self._daemon.role(self._running) if self.runs else None

    @property
    def runs(self) -> bool:
        """Is it there, and does it show signs of life?  One that hangs is noticed within ten seconds."""
        return self._daemon.process is not None and not self._daemon.hangs

    @property
    def process(self) -> ProcessIdentity | None:
        """Its first process; None where none runs."""
        return self._daemon.process

    @property
    def shortcoming(self) -> str | None:
        """Why the amphora is no use to its peer; None where it is, or where it has none."""
        if not self.configured or self.runs:
            return None
        return "keepalived does not run" if self._daemon.process is None else "keepalived hangs"

    # What can be done

    def upload(self, content: bytes) -> Deferred[None]:
        """
        Take a new configuration, if keepalived finds it valid.  What runs goes on as it is.

        @raise ConfigurationRefused: with keepalived's words.
        @raise ConfigurationNotStored: with the system's.  After either, everything is as it was.
        """
        return self._run_job("upload", lambda: self._upload(content))

    def act(self, action: Action) -> Deferred[str]:
        """
        Start, stop or reload.

        @return: The specification's sentence that says what was done.
        @raise ActionFailed: with keepalived's words.
        @raise NotRunning: by a stop, where nothing runs; it will not be started by itself either.
        """
        work: dict[Action, Work[str]] = {"start": self._start, "stop": self._stop, "reload": self._reload}
        return self._run_job(action, work[action])

    def step_down(self) -> Deferred[None]:
        """
        Give the addresses to the peer, or end what hangs, by beginning anew with what ran last.

        @raise ActionFailed: if it does not come up again, which is tried on and on.
        """
        return self._run_job("reload", self._step_down)

    def retire(self) -> Deferred[None]:
        """
        The amphora has no peer from now on: stop it, where it runs.

        @raise ActionFailed: if it cannot be stopped; it counts as retired all the same.
        """
        return self._run_job("stop", self._retire)

    async def trim_log(self) -> None:
        """Keep what keepalived wrote within bounds.  @raise OSError: as the system says."""
        await self._blocking.run(output.trim, self._files.log)

    # When the agent starts and ends

    async def adopt(self) -> None:
        """Find what an earlier agent left.  What should run and does not is started in a job of its own."""
        try:
            await self._run_job("start", self._adopt)
        except VrrpError as error:
            self._log.error("keepalived cannot be looked after: {error}", error=repr(error))

    async def release(self) -> None:
        """The agent ends: jobs are finished, keepalived is left alone."""
        self._released = True
        self._restart.cancel()
        await self._jobs.finished()
        self._daemon.let_go()

    # The jobs

    async def _upload(self, content: bytes) -> None:
        config = await self._blocking.run(parse_config, content)
        if not config.instances:
            raise ConfigurationRefused("The configuration has no vrrp_instance")
        state = evolve(self._state, retired=False)
        await self._blocking.run(files.stage, self._files, content)
        try:
            problem = await self._objection(config)
            if problem is not None:
                raise ConfigurationRefused(problem)
            await self._blocking.run(files.accept, self._files, store.encode_state(state))
        finally:
            await self._blocking.run(files.unstage, self._files)
        self._state, self.config = state, config
        self._log.info("took a keepalived configuration with {count} instances", count=len(config.instances))
        self._look()

    async def _start(self) -> str:
        config = self._uploaded("start")
        before = self._state
        await self._remember(VrrpState(should_run=True))
        try:
            if self._daemon.process is None:
                await self._run(config)
            elif not await self._blocking.run(files.runs_upload, self._files):
                await self._load(config)
        except (KeepalivedFailed, OSError):
            # Where not even this can be written down, the next agent tries to start it, as this one was told to.
            with suppress(OSError):
                await self._remember(before)
            raise
        return "keepalived started"

    async def _reload(self) -> str:
        config = self._uploaded("reload")
        if self._daemon.process is None:
            return await self._start()
        await self._remember(VrrpState(should_run=True))
        await self._load(config)
        return "keepalived reloaded"

    async def _stop(self) -> str:
        await self._stop_with(evolve(self._state, should_run=False))
        return "keepalived stopped"

    async def _step_down(self) -> None:
        if self._daemon.process is not None:
            await self._daemon.stop(self._running)
            self._look()
            if not await self._start_kept():
                raise KeepalivedFailed("keepalived does not come up again")

    async def _retire(self) -> None:
        with suppress(KeepalivedNotFound):
            await self._stop_with(VrrpState(retired=True))

    async def _stop_with(self, state: VrrpState) -> None:
        self._restart.cancel()
        problem: OSError | None = None
        try:
            await self._remember(state)
        except OSError as error:
            # A full disk keeps nothing running.
            problem = error
            self._state = state
        try:
            await self._daemon.look_around(self._running)
            await self._daemon.stop(self._running)
            self._log.info("keepalived stopped")
        finally:
            self._look()
            if problem is not None:
                raise problem

    async def _adopt(self) -> None:
        found = await self._blocking.run(find_families, self._program.path)
        family = found.get(self._files.main, Family())

        def look() -> tuple[bool, VrrpState, KeepalivedConfig | None, KeepalivedConfig | None]:
            files.prepare(self._files)
            return (
                files.run_is_confirmed(self._files),
                store.load_state(self._files, runs=bool(family.masters)),
                store.read_config(self._files.config),
                store.read_config(self._files.running),
            )

        confirmed, self._state, self.config, self._running = await self._blocking.run(look)
        await self._daemon.listen()
        await self._daemon.adopt(family, self._running)
        process = self._daemon.process
        if process is None:
            if self._should_run:
                self._log.warn("keepalived should run and does not; starting it")
                self._restart_later()
        elif not self._state.should_run:
            self._log.info("keepalived, process {pid}, should not run; stopping it", pid=process.pid)
            await self._daemon.stop(self._running)
        else:
            self._log.info("found keepalived, process {pid}", pid=process.pid)
            if not confirmed:
                self._load_again_later()

    # Running, and going on to run

    @property
    def _should_run(self) -> bool:
        return self._state.should_run and self._running is not None

    async def _run(self, config: KeepalivedConfig) -> None:
        """
        Start keepalived with the uploaded configuration.

        @raise KeepalivedFailed: if it does not come up; what ran before is what would run next, then.
        """
        await self._daemon.look_around(self._running)
        if self._daemon.process is not None:
            await self._load(config)
            return
        await self._require_valid(config)
        await self._begin_run(config)
        try:
            process = await self._daemon.start(config)
        except (KeepalivedFailed, OSError):
            if not await self._return_run():
                await self._blocking.run(files.forget_run, self._files)
                self._running = None
            raise
        await self._confirm_run()
        self._log.info("keepalived started, process {pid}", pid=process.pid)

    async def _load(self, config: KeepalivedConfig) -> None:
        """Let the running keepalived load the uploaded configuration.  @raise KeepalivedFailed: if it does not."""
        await self._require_valid(config)
        await self._begin_run(config)
        await self._apply(config)

    async def _apply(self, config: KeepalivedConfig) -> None:
        """Have the running keepalived load what it is given.  @raise KeepalivedFailed: if it does not."""
        try:
            await self._daemon.reload(config)
        except ReloadUndecided:
            # It was told, and will do so when it goes on.
            raise
        except OSError:
            await self._return_run()
            raise
        except (KeepalivedFailed, KeepalivedNotFound) as error:
            kept = await self._return_run() and await self._start_kept()
            raise KeepalivedFailed(f"{error}\n{_KEPT_RUNS}" if kept else str(error)) from error
        await self._confirm_run()
        self._log.info("keepalived reloaded")

    def _load_again_later(self) -> None:
        """An earlier agent ended before it saw, and perhaps before it told keepalived, what was to be loaded."""

        async def load_again() -> None:
            running = self._running
            if self._should_run and running is not None and self._daemon.process is not None and not self._released:
                await self._apply(running)

        self._run_job("reload", load_again).addErrback(
            lambda reason: self._log.error(
                "keepalived does not load what it was to: {reason}", reason=self._tellable(repr(reason.value))
            )
        )

    async def _begin_run(self, config: KeepalivedConfig) -> None:
        await self._blocking.run(files.begin_run, self._files)
        self._running = config

    async def _confirm_run(self) -> None:
        await self._blocking.run(files.confirm_run, self._files)
        self._look()

    async def _return_run(self) -> bool:
        """What ran before is what runs next.  @return: False where nothing ran before."""
        if not await self._blocking.run(files.return_run, self._files):
            return False
        self._running = await self._blocking.run(store.read_config, self._files.running)
        return True

    async def _start_kept(self) -> bool:
        """Start keepalived with what it ran, or ran before.  @return: whether it runs now."""
        while self._running is not None:
            # What died may have left a child, which holds the addresses.
            await self._daemon.look_around(self._running)
            if self._daemon.process is not None:
                return True
            try:
                await self._blocking.run(files.write_main, self._files)
                process = await self._daemon.start(self._running)
            except KeepalivedFailed as error:
                self._log.error("keepalived does not come up: {error}", error=self._tellable(str(error)))
                # A reload whose outcome was never known may have put this in place.
                if not await self._return_run():
                    await self._daemon.withdraw_addresses(self._running)
                    return False
            else:
                self._log.info("keepalived started, process {pid}", pid=process.pid)
                await self._confirm_run()
                return True
        return False

    def _died(self) -> None:
        self._log.error("keepalived died; what it said last is in {log}", log=str(self._files.log))
        self._look()
        if self._should_run:
            self._restart_later()

    def _restart_later(self) -> None:
        """Start again what should run."""
        if self._released:
            return
        pause = self._restart.start_later()
        if pause:
            self._log.warn("keepalived is started again in {pause:g} s", pause=pause)

    def _restart_now(self) -> None:
        self._bringing_up = True
        self._run_job("start", self._bring_up).addErrback(
            lambda reason: self._log.error(
                "keepalived cannot be started again: {reason}", reason=self._tellable(repr(reason.value))
            )
        )

    async def _bring_up(self) -> None:
        """Start what should run and does not, as it ran last; if it cannot be, try again later."""
        self._bringing_up = False
        if not self._should_run or self._daemon.process is not None or self._released:
            return
        if not await self._start_kept():
            self._restart_later()

    # What the jobs are made of

    def _run_job(self, name: str, work: Work[T]) -> Deferred[T]:
        async def job() -> T:
            try:
                return await work()
            except KeepalivedNotFound as error:
                raise NotRunning(name, str(error)) from None
            except KeepalivedFailed as error:
                raise self._failure(name, self._tellable(str(error))) from None
            except OSError as error:
                self._log.error("keepalived: {error}", error=error)
                raise self._failure(name, str(error.strerror or error)) from error
            finally:
                # However a job ended: what should run is not left lying.
                waiting = self._bringing_up or self._restart.waiting
                if self._should_run and self._daemon.process is None and not waiting:
                    self._restart_later()

        return self._jobs.run(job)

    def _failure(self, name: str, reason: str) -> VrrpError:
        return ConfigurationNotStored(reason) if name == "upload" else ActionFailed(name, reason)

    async def _require_valid(self, config: KeepalivedConfig) -> None:
        """
        Judge the uploaded configuration again before keepalived is given it: what it names may have changed.

        @raise KeepalivedFailed: with keepalived's words.
        """
        await self._blocking.run(files.stage_again, self._files)
        try:
            problem = await self._objection(config)
        finally:
            await self._blocking.run(files.unstage, self._files)
        if problem is not None:
            raise KeepalivedFailed(problem)

    async def _objection(self, config: KeepalivedConfig) -> str | None:
        """What keepalived has against what is staged.  @raise KeepalivedFailed: if it could not be asked."""
        result = await self._daemon.check()
        problem = objection(result, self._files)
        if problem is None and (left_out := passed_over(result, self._files)):
            self._log.warn("keepalived will leave out a part of it: {lines}", lines="; ".join(left_out))
        return None if problem is None else config.without_secrets(problem)

    def _uploaded(self, action: str) -> KeepalivedConfig:
        """@raise ActionFailed: where there is nothing to run."""
        if self.config is None:
            raise ActionFailed(action, _NOTHING_UPLOADED)
        return self.config

    def _tellable(self, text: str) -> str:
        for config in (self.config, self._running):
            if config is not None:
                text = config.without_secrets(text)
        return text

    async def _remember(self, state: VrrpState) -> None:
        if state != self._state:
            await self._blocking.run(store.save_state, self._files, state)
            self._state = state

    def _look(self) -> None:
        """Tell if anything is otherwise than it was told."""
        before, now = self._told, _Appearance(self._daemon.process, self.runs, self.role, self.configured)
        if now == before:
            return
        self._told = now
        if now.role is not None and (before is None or now.role != before.role):
            self._log.info("by keepalived's word this amphora is {role}", role=now.role)
        self.changed()
