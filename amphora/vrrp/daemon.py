"""
The keepalived that speaks VRRP: started, reloaded, stopped, found again, heard and watched.

It outlives this agent: whatever becomes of us, the virtual address stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from attrs import define, field, frozen
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.families import Family
from amphora.keepalived.process import IKeepalivedReactor, KeepalivedProcess, Program
from amphora.process import CommandResult, ProcessIdentity
from amphora.vrrp.addresses import held_addresses, withdraw
from amphora.vrrp.keepalived_config import KeepalivedConfig
from amphora.vrrp.notify_fifo import Event, NotifyFifo, State
from amphora.vrrp.standing import Role
from amphora.vrrp.store import VrrpFiles

START_PATIENCE = 5.0
"""Seconds for each instance to tell its first state; one that is silent for longer is none that failed."""


@frozen
class KeepalivedProgram(Program):
    """A keepalived that does nothing but speak VRRP."""

    part: ClassVar[str] = "--vrrp"


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

    _states: dict[str, State] = field(init=False, factory=dict)
    _config: KeepalivedConfig | None = field(init=False, default=None)
    """What the configuration says that runs, as far as the last step was told."""
    _fifo: NotifyFifo = field(init=False)
    _process: KeepalivedProcess = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._fifo = NotifyFifo(self._reactor, self._blocking, self._files.fifo, self._heard)
        self._process = KeepalivedProcess(
            "keepalived",
            self._reactor,
            self._blocking,
            self._program,
            self._files,
            died=self._died,
            ended=self._states.clear,
            hang_changed=self._changed,
            killed=self._withdraw,
            needs_child=True,
        )

    @property
    def process(self) -> ProcessIdentity | None:
        """The process that was started; None where none runs."""
        return self._process.identity

    @property
    def hangs(self) -> bool:
        """Whether it is there, but shows no sign of life."""
        return self._process.hangs

    def role(self, config: KeepalivedConfig | None) -> Role | None:
        """What the instances of the running configuration are; None where that is not known, or nothing runs."""
        return None if config is None or self.process is None else role_of(config.names, self._states)

    async def check(self) -> CommandResult:
        """
        Let keepalived judge what is staged, where it would run: it looks for the links that are named.

        @raise KeepalivedFailed: if it could not be asked.
        """
        return await self._process.check()

    async def start(self, config: KeepalivedConfig) -> ProcessIdentity:
        """
        Start it, and wait until each instance has told its first state.

        @param config: What the running configuration says.
        @raise KeepalivedFailed: if it ended instead.
        @raise OSError: if it could not be started.
        """

        async def up(position: int) -> bool:
            return config.names <= self._states.keys()

        self._config = config
        await self._process.ensure_namespace()
        await self._fifo.open()
        self._states.clear()
        process, _ = await self._process.start(up, START_PATIENCE)
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
        await self._fifo.open()
        await self._process.reload()
        self._config = config
        # What did not change in a reload is not told, not even under another name.
        await self._look_at_addresses(config)

    async def stop(self, config: KeepalivedConfig | None) -> None:
        """
        End it within ten seconds, whatever state it is in: politely at first, then not.

        @param config: What the running configuration says: its addresses are taken away where keepalived cannot.
        @raise KeepalivedNotFound: if it does not run.
        @raise KeepalivedFailed: if even the kernel could not end it.
        """
        self._config = config
        await self._process.stop()

    async def adopt(self, family: Family, config: KeepalivedConfig | None) -> None:
        """
        Look for a keepalived that an earlier agent left running, and watch over it from now on.

        A child that has outlived its parent is ended: nobody else can, and it holds the addresses.

        @param family: The processes that have our files.
        @param config: What the running configuration says.
        """
        self._config = config
        if await self._process.adopt(family):
            await self._found(config)

    async def look_around(self, config: KeepalivedConfig | None) -> None:
        """The same for what has been left since: called before a start."""
        self._config = config
        if await self._process.look_around():
            await self._found(config)

    async def _found(self, config: KeepalivedConfig | None) -> None:
        await self._look_at_addresses(config)
        self._changed()

    async def listen(self) -> None:
        """Hear what keepalived says, also what it said since an earlier agent listened; nothing if there was none."""
        try:
            if await self._blocking.run(self._files.fifo.exists):
                await self._fifo.open()
        except OSError as error:
            self._log.error("keepalived cannot be heard until it is started or reloaded: {error}", error=error)

    def let_go(self) -> None:
        """This agent ends; keepalived does not."""
        self._process.let_go()
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

    async def _withdraw(self) -> None:
        await self.withdraw_addresses(self._config)

    # Its role

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
