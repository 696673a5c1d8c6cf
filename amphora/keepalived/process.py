"""
One keepalived process: started, reloaded, stopped, found again and watched.

It runs in the foreground of a session of its own, and outlives this agent.  What was started reads the configuration; a
child of it does the work.  (keepalived(8); what is relied on is tried in
`tests/integration/test_keepalived_facts.py` and `test_lvs_facts.py`.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from amphora import output
from amphora.blocking import BlockingCalls
from amphora.families import Family, find_families, given_files, runs
from amphora.keepalived import files as keepalived_files
from amphora.keepalived import pulse
from amphora.keepalived.files import KeepalivedFiles
from amphora.keepalived.pulse import Pulse
from amphora.network.namespace import NamespaceUnusable, ensure_namespace
from amphora.process import (
    CommandFailed,
    CommandResult,
    IProcessReactor,
    ProcessIdentity,
    ProcessWatch,
    read_pid_file,
    run_command,
    spawn_daemon,
)

CHECK_TIMEOUT = 30.0
RELOAD_TIMEOUT = 5.0
STOP_TIMEOUT = 5.0
"""Seconds between asking keepalived to end and ending it."""
KILL_TIMEOUT = 5.0
RELOADED = "Reload complete"
"""What keepalived writes when its child has taken over the new configuration."""
_POLL = 0.05


class KeepalivedFailed(Exception):
    """keepalived did not do what it was told; the text is its own where it said anything."""


class ReloadUndecided(KeepalivedFailed):
    """keepalived was told to reload, and what comes of it is not known yet."""


class KeepalivedNotFound(Exception):
    """There is no such process; the text names the one that was looked for."""


class IKeepalivedReactor(IProcessReactor, IReactorFDSet):
    """What running a keepalived needs of a reactor."""


@frozen
class Program:
    """
    The installed keepalived, and where it runs and logs.

    @ivar namespace: empty for the agent's own.
    @ivar facility: the number of the LOG_LOCAL syslog facility for what it says; None for no syslog.
    """

    part: ClassVar[str]
    """The option for the one kind of work that it is to do: another's processes would share files with another's."""
    environment: ClassVar[Mapping[str, str]] = {}
    """What its environment has beside the usual."""

    path: str
    namespace: str
    facility: int | None

    @property
    def _command(self) -> tuple[str, ...]:
        prefix = ("ip", "netns", "exec", self.namespace) if self.namespace else ()
        return (*prefix, self.path, self.part)

    def check_command(self, files: KeepalivedFiles) -> list[str]:
        return [*self._command, "--config-test", "-f", str(files.trial)]

    def start_command(self, files: KeepalivedFiles) -> list[str]:
        syslog = ("--no-syslog",) if self.facility is None else ("--log-facility", str(self.facility))
        pid_files = [word for option, path in files.pid_files.items() for word in (option, str(path))]
        return [*self._command, "--dont-fork", "--log-console", *syslog, "-f", str(files.main), *pid_files]

    def is_running_as(self, process: ProcessIdentity, files: KeepalivedFiles) -> bool:
        """Is this the keepalived that was given our files?  Its child was given them too, but leads no session."""
        try:
            leads = os.getsid(process.pid) == process.pid
        except ProcessLookupError:
            return False
        return leads and runs(process, self.path) and given_files(process) == [str(files.main)]


@define(eq=False)
class KeepalivedProcess:
    """
    At most one process, for one set of files.

    Its methods are the steps of jobs: whoever calls them sees to it that one runs at a time.
    """

    _log = Logger()

    _name: str
    """What it is called in the log."""
    _reactor: IKeepalivedReactor
    _blocking: BlockingCalls
    _program: Program
    _files: KeepalivedFiles
    _died: Callable[[], None]
    """Called when it ends without having been told to."""
    _ended: Callable[[], None]
    """Called when it is no longer watched, however that came."""
    _hang_changed: Callable[[], None]
    """Called when it hangs, or does no longer."""
    _killed: Callable[[], Awaitable[None]]
    """Called when it, or a child of it, had to be killed, and may have left something."""
    _needs_child: bool
    """Does one without a child hang?"""

    hangs: bool = field(init=False, default=False)
    """Whether it is there, but shows no sign of life."""
    _watch: ProcessWatch | None = field(init=False, default=None)
    _expecting: bool = field(init=False, default=False)
    """Whether a job looks for its end itself."""
    _pulse: Pulse = field(init=False)
    _looking: LoopingCall = field(init=False)
    _unfelt: bool = field(init=False, default=False)
    """Whether the last look for signs of life failed."""

    def __attrs_post_init__(self) -> None:
        self._pulse = Pulse(self._needs_child)
        self._looking = LoopingCall(self._feel_pulse)
        self._looking.clock = self._reactor

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process that was started; None where none runs."""
        return None if self._watch is None else self._watch.identity

    async def check(self) -> CommandResult:
        """
        Let keepalived judge what is staged, where it would run: it looks for the links that are named.

        @raise KeepalivedFailed: if it could not be asked.
        """
        await self.ensure_namespace()
        try:
            return await run_command(self._reactor, self._program.check_command(self._files), timeout=CHECK_TIMEOUT)
        except CommandFailed as error:
            raise KeepalivedFailed(str(error)) from error

    async def ensure_namespace(self) -> None:
        """@raise KeepalivedFailed: if there is none, and none can be made."""
        if self._program.namespace:
            try:
                await ensure_namespace(self._reactor, self._program.namespace)
            except NamespaceUnusable as error:
                raise KeepalivedFailed(str(error)) from error

    async def start(self, up: Callable[[int], Awaitable[bool]], patience: float) -> tuple[ProcessIdentity, bool]:
        """
        Start it, and wait until it is up.

        @param up: Tells whether it is, by what the log has after this position, or by anything else.
        @param patience: Seconds to wait; one that is silent for longer is none that failed.
        @return: The process, and whether it is up.
        @raise KeepalivedFailed: if it ended instead.
        @raise OSError: if it could not be started.
        """
        await self.ensure_namespace()
        await self._blocking.run(keepalived_files.forget_process, self._files)
        log = await self._blocking.run(output.open_for, self._files.log)
        try:
            position = os.fstat(log).st_size
            pid = spawn_daemon(
                self._reactor,
                self._program.start_command(self._files),
                output=log,
                environment=self._program.environment,
            )
        except CommandFailed as error:
            raise KeepalivedFailed(str(error)) from error
        finally:
            os.close(log)
        process = ProcessIdentity.of(pid)
        if process is None or not self._begin_watching(process):
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended at once"))
        deadline = self._reactor.seconds() + patience
        self._expecting = True
        is_up = False
        try:
            while (
                self.identity is not None and not (is_up := await up(position)) and self._reactor.seconds() <= deadline
            ):
                await deferLater(self._reactor, _POLL)
        finally:
            self._expecting = False
        if self.identity is None:
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended while it started"))
        return process, is_up

    async def reload(self, applied: Callable[[str], bool] = lambda said: RELOADED in said) -> None:
        """
        Let it load its files anew, and wait until it says that it has.

        @param applied: Tells that by what it said since.
        @raise ReloadUndecided: if it did not say so in time.
        @raise KeepalivedFailed: if it ended.
        @raise KeepalivedNotFound: if it does not run.
        @raise OSError: if it could not be told.
        """
        process = await self._running()
        await self._blocking.run(output.trim, self._files.log)
        position = await self._blocking.run(output.size, self._files.log)
        deadline = self._reactor.seconds() + RELOAD_TIMEOUT
        self._expecting = True
        try:
            process.send_signal(signal.SIGHUP)
            while self.identity is not None:
                if applied(await self._blocking.run(output.since, self._files.log, position)):
                    break
                if self._reactor.seconds() > deadline:
                    problem = f"keepalived did not say within {RELOAD_TIMEOUT:g} s that it has reloaded"
                    raise ReloadUndecided(await self._said_since(position, problem))
                await deferLater(self._reactor, _POLL)
        except OSError as error:
            raise ReloadUndecided(f"what keepalived says cannot be read: {error.strerror}") from error
        finally:
            self._expecting = False
        if self.identity is None:
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended while it reloaded"))

    async def stop(self) -> None:
        """
        End it within ten seconds, whatever state it is in: politely at first, then not.

        @raise KeepalivedNotFound: if it does not run.
        @raise KeepalivedFailed: if even the kernel could not end it.
        """
        process = await self._running()
        self._expecting = True
        try:
            await self._end([process])
            # Its end may not have been heard yet, and is no news any more.
            self._stop_watching()
        finally:
            self._expecting = False
        await self._blocking.run(keepalived_files.forget_process, self._files)

    async def adopt(self, family: Family) -> bool:
        """
        Look for a keepalived that an earlier agent left running, and watch over it from now on.

        A child that has outlived its parent is ended: nobody else can.

        @param family: The processes that have our files.
        @return: Was one found?
        """
        pid = await self._blocking.run(read_pid_file, self._files.pid_file)
        if pid is None or not self._adopt(pid):
            # The pid file is lost, speaks of somebody else, or is not there yet.
            for master in family.masters:
                if self._adopt(master.pid):
                    break
        if self.identity is not None:
            return True
        for child in family.workers:
            self._log.warn("{name}: the child {pid} has outlived its parent; ending it", name=self._name, pid=child.pid)
        if family.workers:
            await self._end(family.workers)
        return False

    async def look_around(self) -> bool:
        """The same for what has been left since: called before a start.  @return: Was one found that is news?"""
        if self.identity is not None:
            return False
        found = await self._blocking.run(find_families, self._program.path)
        return await self.adopt(found.get(self._files.main, Family()))

    def let_go(self) -> None:
        """This agent ends; keepalived does not."""
        self._stop_watching()

    # Its life

    async def _running(self) -> ProcessIdentity:
        if self.identity is None:
            pid = await self._blocking.run(read_pid_file, self._files.pid_file)
            named = "keepalived process" if pid is None else f"keepalived process with PID {pid}"
            raise KeepalivedNotFound(f"{named} not found")
        return self.identity

    def _adopt(self, pid: int) -> bool:
        process = ProcessIdentity.of(pid)
        if process is None:
            return False
        if not self._program.is_running_as(process, self._files):
            self._log.warn(
                "{pid_file} names process {pid}, which is not our keepalived: left alone",
                pid_file=str(self._files.pid_file),
                pid=pid,
            )
            return False
        return self._begin_watching(process)

    def _begin_watching(self, process: ProcessIdentity) -> bool:
        watch = ProcessWatch(self._reactor, process, self._has_ended)
        if not watch.start():
            return False
        self._watch = watch
        self._pulse = Pulse(self._needs_child)
        self._looking.start(pulse.INTERVAL)
        return True

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
            self._looking.stop()
            self.hangs = False
            self._ended()

    def _has_ended(self) -> None:
        self._stop_watching()
        if not self._expecting:
            self._died()

    async def _end(self, processes: Iterable[ProcessIdentity]) -> None:
        """@raise KeepalivedFailed: if one of them stays."""
        heads = tuple(processes)
        everyone: Sequence[ProcessIdentity] = (*heads, *(child for head in heads for child in head.children()))
        for head in heads:
            head.send_signal(signal.SIGTERM)
        for process in everyone:
            # One that was stopped can end by itself, and clean up behind it, if it goes on.
            process.send_signal(signal.SIGCONT)
        if await self._all_gone(everyone, STOP_TIMEOUT):
            return
        self._log.warn(
            "{name}: process {pid} did not end within {seconds:g} s: killing it",
            name=self._name,
            pid=heads[0].pid,
            seconds=STOP_TIMEOUT,
        )
        # Read again: a child may have been replaced since.
        everyone = (*everyone, *(child for head in heads for child in head.children()))
        for process in everyone:
            process.send_signal(signal.SIGKILL)
        gone = await self._all_gone(everyone, KILL_TIMEOUT)
        await self._killed()
        if not gone:
            raise KeepalivedFailed(f"keepalived process with PID {heads[0].pid} cannot be ended")

    async def _all_gone(self, processes: Sequence[ProcessIdentity], seconds: float) -> bool:
        """Wait until all have ended; False if they did not within so many seconds."""
        deadline = self._reactor.seconds() + seconds
        while any(process.alive for process in processes):
            if self._reactor.seconds() > deadline:
                return False
            await deferLater(self._reactor, _POLL)
        return True

    async def _said_since(self, position: int, otherwise: str) -> str:
        said = await self._blocking.run(output.since, self._files.log, position)
        return f"{otherwise}:\n{said}" if said else otherwise

    def _feel_pulse(self) -> None:
        process = self.identity
        if process is None:
            return
        try:
            hangs = not self._pulse.feel(process)
        except OSError as error:
            if not self._unfelt:
                self._unfelt = True
                self._log.error(
                    "{name}: whether it lives cannot be seen; trying again: {error}", name=self._name, error=error
                )
            return
        self._unfelt = False
        if hangs == self.hangs:
            return
        self.hangs = hangs
        if hangs:
            self._log.error(
                "{name}: process {pid}, or its child, shows no sign of life: is one of them stopped, or does it "
                "wait for a disk? It is left alone",
                name=self._name,
                pid=process.pid,
            )
        else:
            self._log.info("{name}: process {pid} lives again", name=self._name, pid=process.pid)
        self._hang_changed()
