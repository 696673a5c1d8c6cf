"""
The amphora's topology: OK, then TOPOLOGY-CHANGE for as long as keepalived takes, then OK again.

The role that is told is keepalived's, not the one that was asked for.  A keepalived configuration is the controller's
text: it is checked against what is asked for, never edited.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from attrs import asdict, define, field, frozen
from automat import TypeMachineBuilder
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import DAMAGED, make_directory, replace_file
from amphora.jobs import JobQueue
from amphora.loadbalancer.errors import StorageFailed
from amphora.process import ProcessIdentity
from amphora.vrrp.keepalived import Action
from amphora.vrrp.keepalived_config import KeepalivedConfig
from amphora.vrrp.standing import Role, Standing, Topology, TopologyStatus
from amphora.vrrp.topology_request import ROLES, TOPOLOGIES, InvalidTopology, TopologyRequest, differences

PATIENCE = 30.0
"""Seconds that a transition may take; then what is true is told, whatever was asked for."""


class TransitionInProgress(Exception):
    """Nothing is changed while the topology changes."""


class SupervisedKeepalived(Protocol):
    """What a topology needs of keepalived; L{amphora.vrrp.keepalived.Keepalived} is one."""

    @property
    def configured(self) -> bool: ...
    @property
    def runs(self) -> bool: ...
    @property
    def role(self) -> Role | None: ...
    @property
    def process(self) -> ProcessIdentity | None: ...
    @property
    def config(self) -> KeepalivedConfig | None: ...
    def act(self, action: Action) -> Deferred[str]: ...
    def step_down(self) -> Deferred[None]: ...
    def retire(self) -> Deferred[None]: ...


class _Transition(Protocol):
    """The inputs of the state machine."""

    def begin(self) -> None:
        """Something is about to move."""

    def end(self) -> None:
        """It has come to rest."""

    def require_rest(self) -> None:
        """@raise TransitionInProgress: while something moves."""

    def status(self) -> TopologyStatus:
        """What is told of it."""


def _build_machine() -> Callable[[object], _Transition]:
    builder = TypeMachineBuilder(_Transition, object)
    at_rest = builder.state("OK")
    moving = builder.state("TOPOLOGY-CHANGE")
    at_rest.upon(_Transition.begin).to(moving).returns(None)
    at_rest.upon(_Transition.require_rest).loop().returns(None)
    at_rest.upon(_Transition.status).loop().returns("OK")
    moving.upon(_Transition.end).to(at_rest).returns(None)
    moving.upon(_Transition.status).loop().returns("TOPOLOGY-CHANGE")

    @moving.upon(_Transition.begin).loop()
    def refuse_to_begin(transition: _Transition, core: object) -> None:
        raise TransitionInProgress()

    @moving.upon(_Transition.require_rest).loop()
    def refuse(transition: _Transition, core: object) -> None:
        raise TransitionInProgress()

    return builder.build()


_machine = _build_machine()


@frozen
class _Record:
    """What is remembered: what was asked for last, and whether that is still being brought about."""

    asked: TopologyRequest
    moving: bool = False


@define(eq=False)
class AmphoraTopology:
    """
    One amphora's topology.

    L{resume} is called once, when it is known what keepalived does.
    """

    _log = Logger()

    _reactor: IReactorTime
    _blocking: BlockingCalls
    _path: Path
    """The file that remembers it; it holds the pair's secret."""
    _keepalived: SupervisedKeepalived
    _hand_over_vips: Callable[[], Awaitable[None]]
    """Gives the plugged VIPs to keepalived, or takes them back, as L{keepalived_owns_vips} says now."""
    _changed: Callable[[], None]
    """Called when a transition has ended."""
    _record: _Record
    _recorded: bool = field(init=False, default=False)
    """Whether that is remembered for the next agent; until something is, the configuration's topology counts."""
    _transition: _Transition = field(init=False, factory=lambda: _machine(None))
    _jobs: JobQueue = field(init=False)
    _moving: Deferred[None] | None = field(init=False, default=None)
    """The transition, to its end."""
    _bringing: Deferred[None] | None = field(init=False, default=None)
    """The part of it that may be broken off."""
    _news: Deferred[None] | None = field(init=False, default=None)
    _released: bool = field(init=False, default=False)

    @classmethod
    def create(
        cls,
        reactor: IReactorTime,
        blocking: BlockingCalls,
        *,
        path: Path,
        keepalived: SupervisedKeepalived,
        hand_over_vips: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        default: Topology,
    ) -> AmphoraTopology:
        """@param default: What holds until a controller sets another: the configuration's `loadbalancer_topology`."""
        return cls(reactor, blocking, path, keepalived, hand_over_vips, changed, _by_default(default))

    def __attrs_post_init__(self) -> None:
        self._jobs = JobQueue("topology", lambda: None, (InvalidTopology, TransitionInProgress, StorageFailed))

    # What can be asked

    @property
    def standing(self) -> Standing:
        """Topology, status and role, as they are now."""
        return Standing(self._record.asked.topology, self._transition.status(), self._role())

    @property
    def ha_ip(self) -> str:
        """The address that the pair shares; empty in other topologies."""
        return self._record.asked.ha_ip

    @property
    def keepalived_owns_vips(self) -> bool:
        return self._record.asked.is_pair

    def require_rest(self) -> None:
        """@raise TransitionInProgress: while the topology changes."""
        self._transition.require_rest()

    def _role(self) -> Role:
        if not self._record.asked.is_pair:
            return "ACTIVE"
        if not self._keepalived.configured:
            return self._record.asked.role
        return self._keepalived.role or "STANDBY"

    # What can be done

    def change(self, request: TopologyRequest) -> Deferred[bool]:
        """
        Take another topology, role, address and secret.

        @return: Fires with True when all of it holds, with False when keepalived has begun to move.
        @raise InvalidTopology: if it is at odds with the keepalived configuration.
        @raise TransitionInProgress, StorageFailed: and nothing was changed.
        """
        return self._jobs.run(lambda: self._change(request))

    def stay(self, default: Topology, *, in_use: bool) -> Deferred[str | None]:
        """
        The configuration is about to name this topology.

        A controller pushes one configuration, with the topology of its own, to amphorae that were made for another: one
        that serves stays what it is.  (Seen with Octavia 19: C{amphora configure} takes it from the flavor or from the
        controller's configuration, not from the load balancer.)

        @param in_use: Would it turn something over that serves?
        @return: Fires with a sentence if the topology will not be that; with None if L{take_default} makes it so.
        @raise StorageFailed: if that cannot be remembered.
        """
        return self._jobs.run(lambda: self._stay(default, in_use))

    def take_default(self, default: Topology, *, in_use: bool) -> None:
        """
        The configuration names this topology: it counts if no other was settled on.

        @param in_use: as for L{stay}: since that was asked, the amphora may have begun to serve.
        """
        if self._recorded or default == self._record.asked.topology:
            return
        if in_use:
            self._log.warn("The topology stays {topology}", topology=self._record.asked.topology)
            self._jobs.run(lambda: self._stay(default, in_use)).addErrback(
                lambda reason: self._log.failure("The topology cannot be remembered", reason)
            )
        else:
            self._record = _by_default(default)
            self._log.info("The topology is {topology} from now on", topology=default)
            self._changed()

    def keepalived_changed(self) -> None:
        """keepalived has come, gone, or taken another role."""
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    async def load(self) -> None:
        """Remember what was asked for before this agent started."""
        try:
            self._record = _decode(await self._blocking.run(self._path.read_bytes))
            self._recorded = True
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._log.error(
                "{path} cannot be used: {error}. The topology is {topology} until a controller sets it",
                path=str(self._path),
                error=error,
                topology=self._record.asked.topology,
            )

    def resume(self) -> None:
        """Go on with a transition that the last agent did not finish."""
        if self._record.moving:
            self._transition.begin()
            self._moving = Deferred.fromCoroutine(self._move(self._record.asked))

    async def release(self) -> None:
        """The agent ends: a transition is left to the next one."""
        self._released = True
        if self._bringing is not None:
            self._bringing.cancel()
        await self._jobs.finished()
        if self._moving is not None:
            await self._moving

    # The jobs

    async def _stay(self, default: Topology, in_use: bool) -> str | None:
        if default == self._record.asked.topology:
            return None
        if in_use and not self._recorded:
            await self._remember(self._record)
        return f"The topology stays {self._record.asked.topology}" if self._recorded else None

    async def _change(self, request: TopologyRequest) -> bool:
        self._transition.begin()
        try:
            if request.is_pair and self._keepalived.configured and self._keepalived.config is not None:
                problems = differences(request, self._keepalived.config)
                if problems:
                    raise InvalidTopology(problems)
            await self._remember(_Record(request, moving=True))
        except BaseException:
            self._transition.end()
            raise
        self._log.info("The topology is {topology} from now on", topology=request.topology)
        waits = self._has_to_wait(request)
        self._moving = Deferred.fromCoroutine(self._move(request))
        if not waits:
            await self._moving
        return not waits

    def _has_to_wait(self, request: TopologyRequest) -> bool:
        """Does keepalived have to be brought up, down or over?"""
        if not request.is_pair:
            return self._keepalived.process is not None
        return self._keepalived.configured and (not self._keepalived.runs or self._keepalived.role != request.role)

    # The transition

    async def _move(self, request: TopologyRequest) -> None:
        self._bringing = Deferred.fromCoroutine(self._bring_about(request))
        try:
            await self._bringing.addTimeout(PATIENCE, self._reactor)
        except TimeoutError:
            self._log.error(
                "The change of topology to {topology} did not end within {seconds:g} s; the role is {role}",
                topology=request.topology,
                seconds=PATIENCE,
                role=self._role(),
            )
        except Exception as error:
            if not self._released:
                self._log.error(
                    "The change of topology to {topology} failed: {error}", topology=request.topology, error=error
                )
        self._bringing = None
        if not self._released:
            await self._settle(request)

    async def _bring_about(self, request: TopologyRequest) -> None:
        if not request.is_pair:
            try:
                if self._keepalived.configured or self._keepalived.process is not None:
                    await self._keepalived.retire()
            finally:
                # Whatever else went wrong: with nobody there who could hold them, the addresses are ours.
                if self._keepalived.process is None:
                    await self._hand_over()
            return
        await self._hand_over()
        if not self._keepalived.configured:
            return
        hangs = self._keepalived.process is not None and not self._keepalived.runs
        if hangs or (self._keepalived.role == "ACTIVE" and request.role == "STANDBY"):
            await self._keepalived.step_down()
        if self._keepalived.process is None:
            await self._keepalived.act("start")
        while self._keepalived.role != request.role:
            self._news = Deferred()
            await self._news

    async def _hand_over(self) -> None:
        try:
            await self._hand_over_vips()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("the plugged VIPs cannot be handed over")

    async def _settle(self, request: TopologyRequest) -> None:
        try:
            await self._remember(_Record(request))
        except StorageFailed:
            # It is logged; the next agent would go through the same change once more, and find it done.
            self._record = _Record(request)
        self._moving = None
        self._transition.end()
        self._changed()

    async def _remember(self, record: _Record) -> None:
        def write() -> None:
            make_directory(self._path.parent)
            replace_file(self._path, _encode(record))

        try:
            await self._blocking.run(write)
        except OSError as error:
            self._log.error("the topology cannot be stored in {path}: {error}", path=str(self._path), error=error)
            raise StorageFailed("topology", error.strerror or str(error)) from error
        self._record = record
        self._recorded = True


def _by_default(topology: Topology) -> _Record:
    return _Record(TopologyRequest(topology, "STANDBY"))


def _encode(record: _Record) -> bytes:
    return json.dumps({**asdict(record.asked), "moving": record.moving}).encode() + b"\n"


def _decode(content: bytes) -> _Record:
    """@raise ValueError: if it is not what L{_encode} makes."""
    try:
        known: Any = json.loads(content)
        asked = TopologyRequest(known["topology"], known["role"], str(known["ha_ip"]), str(known["secret"]))
        moving = known["moving"] is True
    except DAMAGED:
        raise ValueError("it has another format") from None
    if asked.topology not in TOPOLOGIES or asked.role not in ROLES:
        raise ValueError("it names a topology or role that is not known")
    return _Record(asked, moving)
