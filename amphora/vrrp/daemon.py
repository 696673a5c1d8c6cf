"""
One keepalived: started, reloaded, stopped, found again, heard and watched.

It runs in the foreground of a session of its own, and outlives this agent: whatever becomes of us, the virtual address
stays where it is.  What was started reads the configuration; a child of it speaks VRRP.  (keepalived(8); what is relied
on is tried in `tests/integration/test_keepalived_facts.py`.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from amphora import output
from amphora.blocking import BlockingCalls
from amphora.families import Family, find_families, given_files, runs
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
from amphora.vrrp import pulse, store
from amphora.vrrp.addresses import held_addresses, withdraw
from amphora.vrrp.keepalived_config import KeepalivedConfig
from amphora.vrrp.notify_fifo import Event, NotifyFifo, State
from amphora.vrrp.pulse import Pulse
from amphora.vrrp.standing import Role
from amphora.vrrp.store import VrrpFiles

CHECK_TIMEOUT = 30.0
START_PATIENCE = 5.0
"""Seconds for each instance to tell its first state; one that is silent for longer is none that failed."""
RELOAD_TIMEOUT = 5.0
STOP_TIMEOUT = 5.0
"""Seconds between asking keepalived to end and ending it."""
KILL_TIMEOUT = 5.0
_POLL = 0.05
_RELOADED = "Reload complete"
"""What keepalived writes when its child has taken over the new configuration."""


class KeepalivedFailed(Exception):
    """keepalived did not do what it was told; the text is its own where it said anything."""


class ReloadUndecided(KeepalivedFailed):
    """keepalived was told to reload, and what comes of it is not known yet."""


class KeepalivedNotFound(Exception):
    """There is no such process; the text names the one that was looked for."""


class IKeepalivedReactor(IProcessReactor, IReactorFDSet):
    """What running a keepalived needs of a reactor."""


@frozen
class KeepalivedProgram:
    """
    The installed keepalived, and where it runs and logs.

    @ivar namespace: empty for the agent's own.
    @ivar facility: the number of the LOG_LOCAL syslog facility for what it says; None for no syslog.
    """

    path: str
    namespace: str
    facility: int | None

    @property
    def _command(self) -> tuple[str, ...]:
        prefix = ("ip", "netns", "exec", self.namespace) if self.namespace else ()
        # No checks of real servers: their processes would share files with another keepalived's.
        return (*prefix, self.path, "--vrrp")

    def check_command(self, files: VrrpFiles) -> list[str]:
        return [*self._command, "--config-test", "-f", str(files.trial)]

    def start_command(self, files: VrrpFiles) -> list[str]:
        syslog = ("--no-syslog",) if self.facility is None else ("--log-facility", str(self.facility))
        return [
            *(*self._command, "--dont-fork", "--log-console", *syslog),
            *("-f", str(files.main), "-p", str(files.pid_file), "-r", str(files.vrrp_pid_file)),
        ]

    def is_running_as(self, process: ProcessIdentity, files: VrrpFiles) -> bool:
        """Is this the keepalived that was given our files?  Its child was given them too, but leads no session."""
        try:
            leads = os.getsid(process.pid) == process.pid
        except ProcessLookupError:
            return False
        return leads and runs(process, self.path) and given_files(process) == [str(files.main)]


def role_of(names: frozenset[str], states: Mapping[str, State]) -> Role | None:
    """ACTIVE where all of these instances are MASTER, STANDBY where one is not; None where one is not known."""
    if not names or not names <= states.keys():
        return None
    return "ACTIVE" if all(states[name] == "MASTER" for name in names) else "STANDBY"


@define(eq=False)
class Daemon:
    """
    The amphora's keepalived.

    Its methods are the steps of jobs: whoever calls them sees to it that one runs at a time.
    """

    _log = Logger()

    _reactor: IKeepalivedReactor
    _blocking: BlockingCalls
    _program: KeepalivedProgram
    _files: VrrpFiles
    _died: Callable[[], None]
    """Called when it ends without having been told to."""
    _changed: Callable[[], None]
    """Called when an instance's state, or whether it hangs, has changed."""

    hangs: bool = field(init=False, default=False)
    """Whether it is there, but shows no sign of life."""
    _watch: ProcessWatch | None = field(init=False, default=None)
    _expecting: bool = field(init=False, default=False)
    """Whether a job looks for its end itself."""
    _states: dict[str, State] = field(init=False, factory=dict)
    _fifo: NotifyFifo = field(init=False)
    _pulse: Pulse = field(init=False, factory=Pulse)
    _looking: LoopingCall = field(init=False)
    _unfelt: bool = field(init=False, default=False)
    """Whether the last look for signs of life failed."""

    def __attrs_post_init__(self) -> None:
        self._fifo = NotifyFifo(self._reactor, self._blocking, self._files.fifo, self._heard)
        self._looking = LoopingCall(self._feel_pulse)
        self._looking.clock = self._reactor

    @property
    def process(self) -> ProcessIdentity | None:
        """The process that was started; None where none runs."""
        return None if self._watch is None else self._watch.identity

    def role(self, config: KeepalivedConfig | None) -> Role | None:
        """What the instances of the running configuration are; None where that is not known, or nothing runs."""
        return None if config is None or self.process is None else role_of(config.names, self._states)

    async def check(self) -> CommandResult:
        """
        Let keepalived judge what is staged, where it would run: it looks for the links that are named.

        @raise KeepalivedFailed: if it could not be asked.
        """
        await self._ensure_namespace()
        try:
            return await run_command(self._reactor, self._program.check_command(self._files), timeout=CHECK_TIMEOUT)
        except CommandFailed as error:
            raise KeepalivedFailed(str(error)) from error

    async def start(self, config: KeepalivedConfig) -> ProcessIdentity:
        """
        Start it, and wait until each instance has told its first state.

        @param config: What the running configuration says.
        @raise KeepalivedFailed: if it ended instead.
        @raise OSError: if it could not be started.
        """
        await self._ensure_namespace()
        await self._fifo.open()
        await self._blocking.run(store.forget_process, self._files)
        self._states.clear()
        log = await self._blocking.run(output.open_for, self._files.log)
        try:
            position = os.fstat(log).st_size
            pid = spawn_daemon(self._reactor, self._program.start_command(self._files), output=log, environment={})
        except CommandFailed as error:
            raise KeepalivedFailed(str(error)) from error
        finally:
            os.close(log)
        process = ProcessIdentity.of(pid)
        if process is None or not self._begin_watching(process):
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended at once"))
        self._expecting = True
        try:
            await self._until(lambda: self.process is None or config.names <= self._states.keys(), START_PATIENCE)
        finally:
            self._expecting = False
        if self.process is None:
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended while it started"))
        await self._look_at_addresses(config)
        return process

    async def reload(self, config: KeepalivedConfig) -> None:
        """
        Let it load its files anew, and wait until it says that it has.  Addresses that stay are never taken away.

        @param config: What the running configuration says now.
        @raise ReloadUndecided: if it did not say so in time.
        @raise KeepalivedFailed: if it ended.
        @raise KeepalivedNotFound: if it does not run.
        @raise OSError: if it could not be told.
        """
        process = await self._running()
        await self._fifo.open()
        await self._blocking.run(output.trim, self._files.log)
        position = await self._blocking.run(output.size, self._files.log)
        deadline = self._reactor.seconds() + RELOAD_TIMEOUT
        self._expecting = True
        try:
            process.send_signal(signal.SIGHUP)
            while self.process is not None:
                if _RELOADED in await self._blocking.run(output.since, self._files.log, position):
                    break
                if self._reactor.seconds() > deadline:
                    problem = f"keepalived did not say within {RELOAD_TIMEOUT:g} s that it has reloaded"
                    raise ReloadUndecided(await self._said_since(position, problem))
                await deferLater(self._reactor, _POLL)
        except OSError as error:
            raise ReloadUndecided(f"what keepalived says cannot be read: {error.strerror}") from error
        finally:
            self._expecting = False
        if self.process is None:
            raise KeepalivedFailed(await self._said_since(position, "keepalived ended while it reloaded"))
        # What did not change in a reload is not told, not even under another name.
        await self._look_at_addresses(config)

    async def stop(self, config: KeepalivedConfig | None) -> None:
        """
        End it within ten seconds, whatever state it is in: politely at first, then not.

        @param config: What the running configuration says: its addresses are taken away where keepalived cannot.
        @raise KeepalivedNotFound: if it does not run.
        @raise KeepalivedFailed: if even the kernel could not end it.
        """
        process = await self._running()
        self._expecting = True
        try:
            await self._end([process], config)
            # Its end may not have been heard yet, and is no news any more.
            self._stop_watching()
        finally:
            self._expecting = False
        await self._blocking.run(store.forget_process, self._files)

    async def adopt(self, family: Family, config: KeepalivedConfig | None) -> None:
        """
        Look for a keepalived that an earlier agent left running, and watch over it from now on.

        A child that has outlived its parent is ended: nobody else can, and it holds the addresses.

        @param family: The processes that have our files.
        @param config: What the running configuration says.
        """
        pid = await self._blocking.run(read_pid_file, self._files.pid_file)
        if pid is None or not self._adopt(pid):
            # The pid file is lost, speaks of somebody else, or is not there yet.
            for master in family.masters:
                if self._adopt(master.pid):
                    break
        if self.process is not None:
            await self._look_at_addresses(config)
            self._changed()
            return
        for child in family.workers:
            self._log.warn("keepalived's child {pid} has outlived its parent; ending it", pid=child.pid)
        if family.workers:
            await self._end(family.workers, config)

    async def look_around(self, config: KeepalivedConfig | None) -> None:
        """The same for what has been left since: called before a start."""
        if self.process is None:
            found = await self._blocking.run(find_families, self._program.path)
            await self.adopt(found.get(self._files.main, Family()), config)

    async def listen(self) -> None:
        """Hear what keepalived says, also what it said since an earlier agent listened; nothing if there was none."""
        try:
            if await self._blocking.run(self._files.fifo.exists):
                await self._fifo.open()
        except OSError as error:
            self._log.error("keepalived cannot be heard until it is started or reloaded: {error}", error=error)

    def let_go(self) -> None:
        """This agent ends; keepalived does not."""
        self._stop_watching()
        self._fifo.close()

    async def withdraw_addresses(self, config: KeepalivedConfig | None) -> None:
        """Take away the addresses that a keepalived left which did not end by itself: its peer has them now."""
        if config is None:
            return
        try:
            left = await self._blocking.run(withdraw, config.addresses, self._program.namespace)
        except OSError as error:
            self._log.error("addresses that keepalived left cannot be taken away: {error}", error=error)
        else:
            if left:
                self._log.warn("took away what keepalived left: {addresses}", addresses=", ".join(sorted(left)))

    # Its life

    async def _ensure_namespace(self) -> None:
        if self._program.namespace:
            try:
                await ensure_namespace(self._reactor, self._program.namespace)
            except NamespaceUnusable as error:
                raise KeepalivedFailed(str(error)) from error

    async def _running(self) -> ProcessIdentity:
        if self.process is None:
            pid = await self._blocking.run(read_pid_file, self._files.pid_file)
            named = "keepalived process" if pid is None else f"keepalived process with PID {pid}"
            raise KeepalivedNotFound(f"{named} not found")
        return self.process

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
        watch = ProcessWatch(self._reactor, process, self._ended)
        if not watch.start():
            return False
        self._watch = watch
        self._pulse = Pulse()
        self._looking.start(pulse.INTERVAL)
        return True

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
            self._looking.stop()
            self.hangs = False
            self._states.clear()

    def _ended(self) -> None:
        self._stop_watching()
        if not self._expecting:
            self._died()

    async def _end(self, processes: Iterable[ProcessIdentity], config: KeepalivedConfig | None) -> None:
        """@raise KeepalivedFailed: if one of them stays."""
        heads = tuple(processes)
        everyone = (*heads, *(child for head in heads for child in head.children()))
        for head in heads:
            head.send_signal(signal.SIGTERM)
        for process in everyone:
            # One that was stopped can end by itself, and give the addresses back, if it goes on.
            process.send_signal(signal.SIGCONT)
        if await self._until(lambda: not any(process.alive for process in everyone), STOP_TIMEOUT):
            return
        self._log.warn(
            "keepalived {pid} did not end within {seconds:g} s: killing it", pid=heads[0].pid, seconds=STOP_TIMEOUT
        )
        # Read again: a child may have been replaced since.
        everyone = (*everyone, *(child for head in heads for child in head.children()))
        for process in everyone:
            process.send_signal(signal.SIGKILL)
        gone = await self._until(lambda: not any(process.alive for process in everyone), KILL_TIMEOUT)
        await self.withdraw_addresses(config)
        if not gone:
            raise KeepalivedFailed(f"keepalived process with PID {heads[0].pid} cannot be ended")

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until the condition holds; False if it did not within so many seconds."""
        deadline = self._reactor.seconds() + seconds
        while not condition():
            if self._reactor.seconds() > deadline:
                return False
            await deferLater(self._reactor, _POLL)
        return True

    async def _said_since(self, position: int, otherwise: str) -> str:
        said = await self._blocking.run(output.since, self._files.log, position)
        return f"{otherwise}:\n{said}" if said else otherwise

    # Its role, and whether it lives

    def _heard(self, event: Event) -> None:
        if event.state in ("STOP", "DELETED"):
            self._states.pop(event.instance, None)
        else:
            self._states[event.instance] = event.state
        self._changed()

    async def _look_at_addresses(self, config: KeepalivedConfig | None) -> None:
        """
        Learn from the addresses that are there what no event has told.

        keepalived would write a dump if it were asked, but not every build of it, and with the password in it.
        """
        unknown = [] if config is None else [one for one in config.instances if one.name not in self._states]
        if not unknown:
            return
        try:
            held = await self._blocking.run(held_addresses, self._program.namespace)
        except OSError as error:
            self._log.error("keepalived's addresses cannot be looked for: {error}", error=error)
            return
        for instance in unknown:
            # What was heard meanwhile is newer.
            self._states.setdefault(instance.name, "BACKUP" if held.isdisjoint(instance.addresses) else "MASTER")

    def _feel_pulse(self) -> None:
        process = self.process
        if process is None:
            return
        try:
            hangs = not self._pulse.feel(process)
        except OSError as error:
            if not self._unfelt:
                self._unfelt = True
                self._log.error("whether keepalived lives cannot be seen; trying again: {error}", error=error)
            return
        self._unfelt = False
        if hangs == self.hangs:
            return
        self.hangs = hangs
        if hangs:
            self._log.error(
                "keepalived, process {pid}, or its child shows no sign of life: is one of them stopped, or does it "
                "wait for a disk? It is left alone",
                pid=process.pid,
            )
        else:
            self._log.info("keepalived, process {pid}, lives again", pid=process.pid)
        self._changed()
