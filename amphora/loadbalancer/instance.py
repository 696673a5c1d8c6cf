"""
One instance: what the v0.1 API calls a listener and today's controller a load balancer.

It is a configuration, certificates, and the one haproxy that runs them.  All that changes it is a job of its
queue: one at a time, to the end, whether or not the client that asked still waits.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from uuid import uuid4

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults, succeed
from twisted.logger import Logger

from amphora import output
from amphora.backoff import BackOff
from amphora.blocking import BlockingCalls
from amphora.families import Family
from amphora.files import on_memory_file_system, replace_file, write_synced
from amphora.jobs import JobQueue
from amphora.loadbalancer import certificates, store
from amphora.loadbalancer.errors import (
    ActionFailed,
    CertificateNotFound,
    InstanceNotFound,
    InvalidConfiguration,
    LoadBalancerError,
    NoConfiguration,
    NotRunning,
    StorageFailed,
)
from amphora.loadbalancer.final_logs import LogDestination
from amphora.loadbalancer.haproxy import (
    Haproxy,
    HaproxyFailed,
    HaproxyNotFound,
    IHaproxyReactor,
    Processes,
    ReloadUndecided,
    overlay_for,
)
from amphora.loadbalancer.haproxy_config import HaproxyConfig, parse_config
from amphora.loadbalancer.listeners import Listener, listener_type, listeners_of
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.sockets import NoAnswer, ask
from amphora.loadbalancer.stats import BRIEF_QUESTION, QUESTION, Stats, UnreadableStats, parse_stats
from amphora.loadbalancer.store import InstanceFiles, InstanceState
from amphora.network.bind import Bind
from amphora.network.errors import NetworkError
from amphora.network.trial import Conflict, conflicts
from amphora.pem import BadPEM, check_pem
from amphora.process import CommandResult, ProcessIdentity

Action = Literal["start", "stop", "reload"]
ACTIONS: dict[str, Action] = {"start": "start", "stop": "stop", "reload": "reload"}
Status = Literal["ACTIVE", "STOPPED", "ERROR"]

STATS_TIMEOUT = 2.0
MANY_MEMBERS = 500
"""With more, who looks for changes every second does not ask for each of them: that would take milliseconds."""

_KEPT_RUNS = "The configuration that ran before runs in its place"

T = TypeVar("T")
Work = Callable[[], Coroutine[Deferred[Any], Any, T]]


@frozen
class Done:
    """
    What was done with haproxy.

    `action` is not always the one that was asked for: a reload of what does not run is a start.  `pid` is the master's,
    None after a stop; `note` says what went wrong on the way.
    """

    action: Action
    pid: int | None = None
    note: str = ""


@frozen
class InstanceStatus:
    """What is told of an instance; `stats` is None where no haproxy answers."""

    instance_id: str
    status: Status
    listener_type: str
    listeners: tuple[Listener, ...]
    stats: Stats | None


class Addresses(Protocol):
    """Sees to it that the addresses that haproxy binds are there, as far as they are VIPs of this amphora."""

    async def provide(self, binds: Iterable[Bind]) -> None:
        """Called before haproxy binds these.  @raise NetworkError: if one that should be there cannot be."""

    def bound(self, binds: Iterable[Bind]) -> None:
        """Called when haproxy listens on these."""

    async def give_up(self, binds: Iterable[Bind]) -> None:
        """Called when what listened on these is being deleted."""


class AsTheyAre:
    """Addresses that nobody sees to."""

    async def provide(self, binds: Iterable[Bind]) -> None: ...

    def bound(self, binds: Iterable[Bind]) -> None: ...

    async def give_up(self, binds: Iterable[Bind]) -> None: ...


@frozen
class Surroundings:
    """What all instances share."""

    reactor: IHaproxyReactor
    blocking: BlockingCalls
    make_haproxy: Callable[[InstanceFiles, Callable[[], None], Callable[[], None]], Haproxy]
    """Takes what to call when haproxy died, and when it says unasked that it is ready."""
    logs: LogDestination
    amphora_id: str
    namespace: str
    base_path: Path
    starts: DeferredSemaphore
    """Lets through as many starts as the machine bears at once, where nobody asked for them one by one."""
    as_root: bool
    require_memory_fs: bool
    changed: Callable[[], None]
    """Called when a process came, went, or was given another configuration."""
    addresses: Addresses = field(factory=AsTheyAre)


def peer_name(amphora_id: str) -> str:
    """
    What haproxy's `-L` and the `peer` lines of Octavia's templates call an amphora.

    It is the base64 of the id's SHA-1 with `_` for `+` and `-` for `/`, without padding, and never with a
    hyphen in front.
    """
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = base64.b64encode(digest, altchars=b"_-").decode().rstrip("=")
    return "x" + name[1:] if name.startswith("-") else name


@define(eq=False)
class Instance:
    """One instance, there from the first upload to its deletion."""

    _log = Logger()

    instance_id: str
    _files: InstanceFiles
    _surroundings: Surroundings
    _settled: Callable[[], None]
    """Called whenever no job is left."""
    _made_out: Callable[[], None]
    """Called when it is known what there is of it: its configuration is taken, or all is taken away."""
    _holder: Callable[[Bind], str | None]
    """Tells which other instance's haproxy has an address."""
    _expectations_changed: Callable[[], Awaitable[None]]
    """Called when its haproxy is to be counted on from now on, or no longer."""

    _state: InstanceState = field(init=False, factory=InstanceState)
    _config: HaproxyConfig | None = field(init=False, default=None)
    """What the accepted configuration says of itself; None as long as there is none."""
    _running: HaproxyConfig | None = field(init=False, default=None)
    """The same of the one that haproxy runs, or ran last."""
    _came_up: bool = field(init=False, default=False)
    """Whether its haproxy came up since it was told to run."""
    _unsaved: bool = field(init=False, default=False)
    """Is C{_state} what the disk did not take?"""
    _undecided: bool = field(init=False, default=False)
    """Whether it is not known yet what came of the last reload."""
    _outlived: bool = field(init=False, default=False)
    """Whether a disk did not let go of what ran before, though it is not needed any more."""
    _saving: bool = field(init=False, default=False)
    _released: bool = field(init=False, default=False)
    _bringing_up: bool = field(init=False, default=False)
    _restart: BackOff = field(init=False)
    _haproxy: Haproxy = field(init=False)
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._restart = BackOff(self._surroundings.reactor, self._restart_now)
        self._haproxy = self._surroundings.make_haproxy(self._files, self._haproxy_died, self._haproxy_spoke)
        self._jobs = JobQueue(self.instance_id, self._settled, (LoadBalancerError, BadPEM))

    # What can be asked

    @property
    def exists(self) -> bool:
        """Was a configuration uploaded for it, valid or not, and was all of it not taken away since?"""
        return self._config is not None or self._state.refused or self._state.deleted

    @property
    def process(self) -> ProcessIdentity | None:
        """The master of its haproxy; None where none runs."""
        return self._haproxy.process

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Those of the accepted configuration."""
        return () if self._config is None else listeners_of(self.instance_id, self._config.frontends)

    @property
    def binds(self) -> frozenset[Bind]:
        """The addresses that are meant for it, whether or not it runs."""
        if self._state.deleted:
            return frozenset()
        return self._own_binds()

    def _own_binds(self) -> frozenset[Bind]:
        configs = [config for config in (self._config, self._running) if config is not None]
        return frozenset(bind for config in configs for bind in config.binds)

    def holds(self, bind: Bind) -> bool:
        """Does its haproxy listen on an address that nobody else could have beside it?"""
        return any(held.overlaps(bind) for held in self._held())

    def _held(self) -> frozenset[Bind]:
        """What its haproxy listens on."""
        if self._running is None or self._haproxy.process is None:
            return frozenset()
        return self._running.addresses(self._peer())

    @property
    def should_run(self) -> bool:
        return self._state.should_run and self._config is not None and not self._state.deleted

    @property
    def expected(self) -> bool:
        """Has its haproxy to answer?  Not before it came up first, and not once it is told to stop."""
        return self.should_run and self._came_up

    @property
    def stats_socket(self) -> Path:
        return self._files.stats_socket

    async def status(self) -> InstanceStatus:
        """
        How it fares.  ACTIVE: it should run, runs what was uploaded, and answers; STOPPED: neither; all else is ERROR.
        """
        stats = (await self._ask_stats(STATS_TIMEOUT))[0]
        status: Status = "ERROR"
        if self.should_run and stats is not None and not self._state.kept:
            status = "ACTIVE"
        elif self._config is not None and not (self._state.should_run or self._state.deleted or self._haproxy.process):
            status = "STOPPED"
        frontends = () if self._config is None else self._config.frontends
        return InstanceStatus(self.instance_id, status, listener_type(frontends), self.listeners, stats)

    async def sample(self, timeout: float) -> InstanceSample:
        """What a heartbeat tells of it, as far as its haproxy answers within so many seconds."""
        return await self._sample(timeout, QUESTION)

    async def glance(self, timeout: float) -> InstanceSample:
        """The same for who looks for changes: where there are many members, they are counted and not named."""
        many = self._config is not None and self._config.members > MANY_MEMBERS
        return await self._sample(timeout, BRIEF_QUESTION if many else QUESTION)

    async def _sample(self, timeout: float, question: bytes) -> InstanceSample:
        # Both at the same moment: a worker that a reload replaces meanwhile must not be missed by either.
        both: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._ask_stats(timeout, question)),
            Deferred.fromCoroutine(self._haproxy.old_figures(timeout)),
        ]
        (stats, worker), old = await gatherResults(both, consumeErrors=True)
        return InstanceSample(self.instance_id, stats, worker, old)

    def taken(self, sample: InstanceSample) -> None:
        """This sample's traffic was told to a controller, or will be."""
        self._haproxy.figures_taken(sample.old)

    async def _ask_stats(
        self, timeout: float, question: bytes = QUESTION
    ) -> tuple[Stats | None, ProcessIdentity | None]:
        if self._haproxy.process is None:
            return None, None
        try:
            answer = await ask(self._surroundings.reactor, self._files.stats_socket, question, timeout=timeout)
            stats = parse_stats(answer)
        except (NoAnswer, UnreadableStats):
            return None, None
        worker = ProcessIdentity.of(stats.pid)
        return (stats, worker) if worker is not None else (None, None)

    async def configuration(self) -> bytes:
        """
        The accepted configuration, byte for byte as it was uploaded.

        @raise InstanceNotFound: where there is none, also if one was refused.
        """
        if self._config is None:
            raise InstanceNotFound(self.instance_id)
        content: bytes = await self._store("configuration", self._files.config.read_bytes)
        return content

    # What can be done

    def upload(self, amphora_id: str, spooled: Path) -> Deferred[str]:
        """
        Take a new configuration, if haproxy finds it valid.  What runs goes on as it is.

        @param spooled: The upload, in a file of ours that is used up.
        @return: The MD5 sum of its bytes, in hexadecimal.
        @raise InvalidConfiguration: with haproxy's words; everything stays as it was.
        """
        return self._run_job(lambda: self._upload(amphora_id, spooled))

    def act(self, action: Action) -> Deferred[Done]:
        """
        Start, stop or reload.

        @raise NotRunning: for a stop of what does not run; that it should not is remembered all the same.
        @raise ActionFailed: with haproxy's words.
        """
        work: dict[Action, Work[Done]] = {"start": self._start, "stop": self._stop, "reload": self._reload}
        return self._run_job(work[action])

    def save_server_state(self) -> Deferred[None]:
        """Write down which servers are up, where its configuration asks for it, for a haproxy that might crash."""

        async def job() -> None:
            self._saving = False
            if self._running is not None:
                await self._save_server_state(self._running)

        if self._saving:
            return succeed(None)
        self._saving = True
        return self._run_job(job)

    def delete(self) -> Deferred[None]:
        """End it and take away all that there is of it, VIPs that only it was bound to among that."""

        async def job() -> None:
            self._require_existence()
            await self._delete(vips_stay=False)

        return self._run_job(job)

    def discard(self) -> Deferred[None]:
        """End it and take away whatever there is of it, if only certificates or nothing; VIPs stay."""

        async def job() -> None:
            if self.exists or await self._store("deletion", self._files.directory.exists):
                await self._delete(vips_stay=True)
            else:
                await self._remove_certificates()
                self._made_out()

        return self._run_job(job)

    def discard_orphans(self) -> Deferred[bool]:
        """Take away its certificates, if they are all that there is of it.  @return: Whether there were any."""

        async def job() -> bool:
            if self.exists or await self._store("deletion", self._files.directory.exists):
                return False
            return await self._remove_certificates()

        return self._run_job(job)

    def put_certificate(self, filename: str, content: bytes) -> Deferred[None]:
        """@raise BadFilename, BadPEM, InstanceNotFound, StorageFailed: and nothing is changed."""
        certificates.check_filename(filename)
        return self._run_job(lambda: self._put_certificate(filename, content))

    def certificate_md5(self, filename: str) -> Deferred[str]:
        """@raise BadFilename, InstanceNotFound, CertificateNotFound, StorageFailed: as they say."""
        return self._certificate_job(filename, certificates.certificate_md5)

    def delete_certificate(self, filename: str) -> Deferred[None]:
        """@raise BadFilename, InstanceNotFound, CertificateNotFound, StorageFailed: as they say."""
        return self._certificate_job(filename, certificates.delete_certificate)

    def _certificate_job(self, filename: str, work: Callable[[Path, str], T]) -> Deferred[T]:
        certificates.check_filename(filename)

        async def job() -> T:
            self._require_existence()
            return await self._store("certificate", lambda: work(self._files.certificates, filename))

        return self._run_job(job)

    # The same for a controller that brings what a configuration names before the configuration: keys and certificates,
    # lists of them, authorities' certificates and lists of revoked ones, all as it likes.

    def put_file(self, filename: str, content: bytes) -> Deferred[None]:
        """@raise BadFilename, StorageFailed: and nothing is changed."""

        async def job() -> None:
            certificates.check_filename(filename)
            await self._keep_file(filename, content)

        return self._run_job(job)

    def file_md5(self, filename: str) -> Deferred[str]:
        """@raise BadFilename, CertificateNotFound, StorageFailed: as they say."""

        async def job() -> str:
            certificates.check_filename(filename)
            return await self._store(
                "certificate", lambda: certificates.certificate_md5(self._files.certificates, filename)
            )

        return self._run_job(job)

    def discard_file(self, filename: str) -> Deferred[None]:
        """Take a file away, if it is there.  @raise BadFilename, StorageFailed: as they say."""

        async def job() -> None:
            certificates.check_filename(filename)
            with suppress(CertificateNotFound):
                await self._store(
                    "certificate", lambda: certificates.delete_certificate(self._files.certificates, filename)
                )

        return self._run_job(job)

    # When the agent starts and ends

    def adopt(self, family: Family) -> Deferred[None]:
        """
        Find out what an earlier agent left.  What should run and does not is started in a job of its own.

        @param family: The processes that have this instance's files.
        """
        return self._run_job(lambda: self._adopt(family))

    def finish_deletion(self) -> Deferred[None]:
        """Go on with a deletion that an earlier agent has begun, if it has."""

        async def job() -> None:
            if self._state.deleted:
                await self._finish_deletion()

        return self._run_job(job)

    async def finish(self) -> None:
        """The agent ends: jobs are done to their end, and no new ones are begun."""
        self._released = True
        self._restart.cancel()
        await self._jobs.finished()

    def release(self) -> None:
        """Leave haproxy alone."""
        self._haproxy.release()

    # The jobs

    async def _upload(self, amphora_id: str, spooled: Path) -> str:
        def stage() -> tuple[HaproxyConfig, str]:
            try:
                content = spooled.read_bytes()
                config = parse_config(content)
                store.stage_configuration(self._files, spooled, self._overlay(config))
            finally:
                spooled.unlink(missing_ok=True)
            return config, hashlib.md5(content, usedforsecurity=False).hexdigest()

        config, md5 = await self._store("configuration", stage)
        objection = self._objection(config)
        if objection is not None:
            await self._refuse()
            raise InvalidConfiguration(objection)
        try:
            result = await self._haproxy.check(
                self._files.candidate, self._files.overlay_candidate, peer_name(amphora_id), config.weight
            )
        except HaproxyFailed as error:
            # It was not judged: nothing is remembered of it.
            await self._store("configuration", lambda: store.unstage(self._files))
            raise ActionFailed("check", str(error)) from error
        if not result.succeeded:
            await self._refuse()
            raise InvalidConfiguration(
                _words(result)
                .replace(str(self._files.candidate), self._files.config.name)
                .replace(str(self._files.overlay_candidate), self._files.overlay.name)
            )
        state = evolve(self._state, amphora_id=amphora_id, refused=False, deleted=False)
        await self._store("configuration", lambda: store.accept_configuration(self._files, state))
        self._state, self._config = state, config
        self._made_out()
        self._log.info(
            "{instance}: took a configuration with {frontends} frontends and {members} members",
            instance=self.instance_id,
            frontends=len(config.frontends),
            members=config.members,
        )
        return md5

    def _objection(self, config: HaproxyConfig) -> str | None:
        """What is wrong with a configuration that haproxy itself would take; None where nothing is."""
        if not config.frontends and not config.stats_sockets:
            # haproxy itself takes no configuration that gives it nothing to listen on: here only our own socket makes
            # it take one.  That of a load balancer that is disabled has sockets, and no frontends.
            return "The configuration has no frontend or listen section"
        base = self._surroundings.base_path
        ours = (self._files.stats_socket, self._files.master_socket)
        for path in (Path(os.path.normpath(socket)) for socket in config.stats_sockets):
            own = path == base / f"{self.instance_id}.sock" or path.parent == self._files.directory
            if path.is_relative_to(base) and (path in ours or not own):
                return f"The stats socket {path} is not this listener's to make"
        return None

    async def _refuse(self) -> None:
        state = evolve(self._state, refused=self._config is None)
        await self._store("configuration", lambda: store.refuse_configuration(self._files, state))
        self._state = state

    async def _start(self) -> Done:
        config = self._accepted("start")
        before = self._state
        await self._remember(evolve(before, should_run=True))
        process = self._haproxy.process
        if process is not None:
            return Done("start", process.pid)
        try:
            pid = await self._run(config)
        except HaproxyFailed as error:
            self._log.error("{instance}: start failed: {error}", instance=self.instance_id, error=error)
            if await self._run_kept(error):
                raise ActionFailed("start", f"{error}\n{_KEPT_RUNS}") from error
            await self._remember(before)
            raise ActionFailed("start", str(error)) from error
        except StorageFailed:
            # Where not even this can be written down, the next agent tries to start it, as this one was told to.
            with suppress(StorageFailed):
                await self._remember(before)
            raise
        return Done("start", pid)

    async def _reload(self) -> Done:
        config = self._accepted("reload")
        if self._haproxy.process is None:
            return await self._start()
        await self._remember(evolve(self._state, should_run=True))
        try:
            if self._undecided:
                await self._finish_reload()
            await self._require_loadable(config)
            await self._save_server_state(config)
            processes = await self._load(config)
        except (HaproxyFailed, HaproxyNotFound) as error:
            self._log.error("{instance}: reload failed: {error}", instance=self.instance_id, error=error)
            if self._haproxy.process is None:
                return await self._start_after_crash(config, str(error))
            raise ActionFailed("reload", str(error)) from error
        self._log.info("{instance}: haproxy reloaded", instance=self.instance_id)
        self._tell_lingering(processes)
        process = self._haproxy.process
        if process is None:
            raise ActionFailed("reload", "haproxy ended after it had reloaded")
        return Done("reload", process.pid)

    def _tell_lingering(self, processes: Processes) -> None:
        # One has been replaced just now, and is let go when its figures were read.
        workers = [ProcessIdentity.of(worker.pid) for worker in processes.old[1:]]
        old = [worker for worker in workers if worker is not None]
        if old:
            self._log.warn(
                "{instance}: {old} old haproxy workers still finish connections that they had before a reload; "
                "they hold {memory} MB, and the oldest was started {age} min ago",
                instance=self.instance_id,
                old=len(old),
                memory=sum(worker.resident for worker in old) // 2**20,
                age=int(max(worker.age for worker in old) // 60),
            )

    async def _start_after_crash(self, config: HaproxyConfig, reason: str) -> Done:
        """A reload has ended haproxy altogether: what it should have loaded is started, or else what ran before."""
        try:
            pid = await self._run(config)
        except (HaproxyFailed, StorageFailed) as error:
            if await self._run_kept(error):
                raise ActionFailed("reload", f"{reason}\n{error}\n{_KEPT_RUNS}") from error
            self._restart_later()
            raise ActionFailed("reload", f"{reason}\n{error}") from error
        return Done("start", pid, reason)

    async def _stop(self) -> Done:
        self._require_existence()
        self._restart.cancel()
        if self._running is not None:
            await self._save_server_state(self._running)
        # A full disk keeps nothing running.
        problem = await self._go_by(evolve(self._state, should_run=False, kept=False))
        await self._expect_it(False)
        try:
            await self._haproxy.stop()
        except HaproxyFailed as error:
            raise ActionFailed("stop", str(error)) from error
        except HaproxyNotFound as error:
            raise (problem or NotRunning(str(error))) from error
        if problem is not None:
            raise problem
        self._log.info("{instance}: haproxy stopped", instance=self.instance_id)
        self._surroundings.changed()
        return Done("stop")

    # Running, and going on to run

    async def _run(self, config: HaproxyConfig) -> int:
        """
        Start haproxy with the uploaded configuration.

        @return: Its process id.
        @raise HaproxyFailed: if it does not come up; what ran before is what would run next, then.
        """
        await self._haproxy.look_around()
        found = self._haproxy.process
        if found is not None:
            self._running = await self._store("configuration", lambda: store.read_config(self._files.running))
            await self._require_loadable(config)
            await self._load(config)
            return found.pid
        await self._require_loadable(config)
        await self._begin_run(config)
        try:
            pid = await self._haproxy.start(self._peer(), config.weight)
        except HaproxyFailed:
            await self._return_run()
            raise
        await self._confirm_run(config)
        self._log.info("{instance}: haproxy started, process {pid}", instance=self.instance_id, pid=pid)
        return pid

    async def _load(self, config: HaproxyConfig) -> Processes:
        """Let the running haproxy load the uploaded configuration.  @raise HaproxyFailed: if it does not."""
        await self._begin_run(config)
        try:
            processes = await self._haproxy.reload(config.weight)
        except ReloadUndecided:
            self._undecided = True
            if self._haproxy.has_spoken:
                # It did so while it was being given up.
                self._haproxy_spoke()
            raise
        except HaproxyFailed:
            await self._return_run()
            raise
        await self._confirm_run(config)
        return processes

    async def _begin_run(self, config: HaproxyConfig) -> None:
        def begin() -> None:
            if self._outlived:
                store.confirm_run(self._files)
            store.begin_run(self._files, self._overlay(config))

        await self._store("configuration", begin)
        self._outlived = False

    async def _confirm_run(self, config: HaproxyConfig) -> None:
        try:
            await self._store("configuration", lambda: store.confirm_run(self._files))
        except StorageFailed:
            # haproxy runs for all that.
            self._outlived = True
        await self._tell_kept(False)
        self._running = config
        self._undecided = False
        await self._expect_it(True)
        self._surroundings.addresses.bound(config.binds)
        self._surroundings.changed()

    async def _return_run(self) -> None:
        await self._store("configuration", lambda: store.return_run(self._files))

    async def _run_kept(self, reason: HaproxyFailed | StorageFailed) -> bool:
        """
        Start haproxy with what ran last, because what was uploaded does not come up, or cannot be put in place.

        @return: Whether it runs now.
        """
        kept = self._running
        if kept is None or self._haproxy.process is not None:
            return False
        other = await self._store("configuration", lambda: store.has_other_to_run(self._files))
        if not other and isinstance(reason, HaproxyFailed):
            return False
        try:
            await self._provide(kept)
            pid = await self._haproxy.start(self._peer(), kept.weight)
        except HaproxyFailed as error:
            self._log.error(
                "{instance}: nor does the configuration that ran before: {error}",
                instance=self.instance_id,
                error=error,
            )
            return False
        self._undecided = False
        await self._tell_kept(other)
        self._surroundings.addresses.bound(kept.binds)
        await self._expect_it(True)
        if other:
            self._log.error(
                "{instance}: the uploaded configuration does not come up; haproxy runs the one from before, "
                "process {pid}",
                instance=self.instance_id,
                pid=pid,
            )
        else:
            self._log.info("{instance}: haproxy started as it was, process {pid}", instance=self.instance_id, pid=pid)
        self._surroundings.changed()
        return True

    async def _tell_kept(self, kept: bool) -> None:
        """Remember whether what ran before runs in the upload's place; on a full disk as long as this agent lives."""
        await self._go_by(evolve(self._state, kept=kept))

    def _haproxy_died(self) -> None:
        self._log.error(
            "{instance}: haproxy died; what it said last is in {log}",
            instance=self.instance_id,
            log=str(self._files.log),
        )
        self._surroundings.changed()
        if self.should_run:
            self._restart_later()

    def _haproxy_spoke(self) -> None:
        if self._undecided and not self._released:
            self._run_job(self._decide).addErrback(lambda reason: reason.trap(LoadBalancerError))

    async def _decide(self) -> None:
        """A reload that took too long has ended: see what came of it."""
        if self._undecided and self._haproxy.process is not None:
            with suppress(HaproxyFailed):
                await self._finish_reload()

    def _restart_later(self) -> None:
        """Start again what should run."""
        if self._released:
            return
        pause = self._restart.start_later()
        if pause:
            self._log.warn(
                "{instance}: haproxy is started again in {pause:g} s", instance=self.instance_id, pause=pause
            )

    def _restart_now(self) -> None:
        self._bringing_up = True
        self._surroundings.starts.run(lambda: self._run_job(self._bring_up)).addErrback(
            lambda reason: self._log.error(
                "{instance}: cannot be started again: {reason}",
                instance=self.instance_id,
                reason=reason.getErrorMessage(),
            )
        )

    async def _bring_up(self) -> None:
        """Start what should run and does not; if it cannot be, try again later."""
        self._bringing_up = False
        config = self._config
        if config is None or not self.should_run or self._haproxy.process is not None or self._released:
            return
        try:
            await self._run(config)
        except (HaproxyFailed, StorageFailed) as error:
            self._log.error("{instance}: start failed: {error}", instance=self.instance_id, error=error)
            if not await self._run_kept(error):
                self._restart_later()

    async def _delete(self, *, vips_stay: bool) -> None:
        self._restart.cancel()
        # From here on the next agent would finish what we can not.  Where not even that can be written down, what
        # follows makes room.
        await self._go_by(evolve(self._state, should_run=False, deleted=True, vips_stay=vips_stay))
        await self._expect_it(False)
        await self._finish_deletion()

    async def _finish_deletion(self) -> None:
        try:
            await self._haproxy.look_around()
            if self._haproxy.process is not None:
                await self._haproxy.stop()
        except HaproxyFailed as error:
            raise ActionFailed("stop", str(error)) from error
        if not self._state.vips_stay:
            await self._surroundings.addresses.give_up(self._own_binds())
        sockets = () if self._config is None else self._config.stats_sockets

        def remove() -> None:
            lines = output.since(self._files.log, 0, output.LIMIT).splitlines()
            self._surroundings.logs.ship(self.instance_id, lines)
            store.remove_instance(self._files, sockets)

        await self._store("deletion", remove)
        self._config, self._running, self._state = None, None, InstanceState()
        self._made_out()
        self._surroundings.changed()
        self._log.info("{instance}: deleted", instance=self.instance_id)

    async def _remove_certificates(self) -> bool:
        return await self._store("deletion", lambda: store.remove_certificates(self._files))

    async def _put_certificate(self, filename: str, content: bytes) -> None:
        self._require_existence()
        await self._surroundings.blocking.run(check_pem, content)
        await self._keep_file(filename, content)

    async def _keep_file(self, filename: str, content: bytes) -> None:
        def write() -> None:
            if self._surroundings.require_memory_fs and not on_memory_file_system(self._files.certificates):
                raise StorageFailed(
                    "certificate", f"{self._files.certificates.parent} is not on a memory file system (tmpfs or ramfs)"
                )
            certificates.store_certificate(self._files.certificates, filename, content)

        await self._store("certificate", write)
        self._log.info("{instance}: stored certificate {filename}", instance=self.instance_id, filename=filename)

    async def _adopt(self, family: Family) -> None:
        def look() -> tuple[InstanceState, HaproxyConfig | None, HaproxyConfig | None, bool]:
            state = store.load_state(self._files, runs=bool(family.masters))
            if not state.deleted and store.recover_upload(self._files):
                self._log.warn(
                    "{instance}: {path} is lost; the configuration that ran last takes its place",
                    instance=self.instance_id,
                    path=str(self._files.config),
                )
            return (
                state,
                store.read_config(self._files.config),
                store.read_config(self._files.running),
                self._files.previous.exists(),
            )

        self._state, self._config, self._running, unsure = await self._store("configuration", look)
        self._came_up = self._state.should_run
        await self._haproxy.adopt(family)
        process = self._haproxy.process
        if self._state.deleted:
            # What it was bound to is given up once it is known what the others are bound to.
            return
        if process is None:
            if self.should_run:
                self._log.warn("{instance}: should run and does not; starting it", instance=self.instance_id)
                self._restart_later()
        elif not self._state.should_run:
            self._log.info(
                "{instance}: its haproxy, process {pid}, should not run; stopping it",
                instance=self.instance_id,
                pid=process.pid,
            )
            await self._haproxy.stop()
        else:
            self._log.info("{instance}: found its haproxy, process {pid}", instance=self.instance_id, pid=process.pid)
            self._undecided = unsure
            if unsure:
                with suppress(HaproxyFailed):
                    await self._finish_reload()
            await self._haproxy.find_old_workers()

    async def _finish_reload(self) -> None:
        """
        A reload was begun whose outcome is not known: haproxy tells.

        @raise HaproxyFailed: if it does not.
        """
        worked = await self._haproxy.last_load_worked()
        self._undecided = False
        if worked:
            self._log.info("{instance}: its last reload came about", instance=self.instance_id)
        else:
            self._log.error("{instance}: its last reload failed", instance=self.instance_id)
            await self._return_run()
        running = await self._store("configuration", lambda: store.read_config(self._files.running))
        if worked and running is not None:
            await self._confirm_run(running)
        else:
            self._running = running
            self._surroundings.changed()

    # What the jobs are made of

    def _run_job(self, work: Work[T]) -> Deferred[T]:
        async def job() -> T:
            try:
                return await work()
            except OSError as error:
                # A log or a pid file that cannot be read or written; what matters more is told in its own words.
                self._log.error("{instance}: {error}", instance=self.instance_id, error=error)
                raise StorageFailed("state", str(error.strerror or error)) from error
            finally:
                # However a job ended: what should run is not left lying.
                waiting = self._bringing_up or self._restart.waiting
                if self.should_run and self._haproxy.process is None and not waiting:
                    self._restart_later()

        return self._jobs.run(job)

    async def _expect_it(self, expected: bool) -> None:
        self._came_up = expected
        await self._expectations_changed()

    async def _require_loadable(self, config: HaproxyConfig) -> None:
        """
        Judge the uploaded configuration again before haproxy is given it: what it names (certificates, addresses) may
        have changed, and what a reload finds out itself, it finds out too late.

        @raise HaproxyFailed: with haproxy's words, or with the addresses that somebody else has.
        """
        await self._provide(config)

        def stage_overlay() -> None:
            write_synced(self._files.overlay_candidate, self._overlay(config))

        await self._store("configuration", stage_overlay)
        try:
            result = await self._haproxy.check(
                self._files.config, self._files.overlay_candidate, self._peer(), config.weight
            )
        finally:
            await self._store("configuration", self._files.overlay_candidate.unlink)
        if not result.succeeded:
            raise HaproxyFailed(_words(result))
        ours = self._held()
        wanted = [bind for bind in config.addresses(self._peer()) if not any(bind.overlaps(held) for held in ours)]
        try:
            taken = await self._surroundings.blocking.run(conflicts, wanted, self._surroundings.namespace)
        except OSError as error:
            raise HaproxyFailed(f"the network namespace cannot be entered: {error.strerror}") from error
        if self._haproxy.process is not None:
            try:
                await self._surroundings.blocking.run(store.require_socket_room, self._files, config.stats_sockets)
            except OSError as error:
                raise HaproxyFailed(f"there is no room for haproxy's sockets: {error.strerror}") from error
        if taken:
            raise HaproxyFailed("\n".join(sorted(self._conflict_text(conflict) for conflict in taken)))

    async def _provide(self, config: HaproxyConfig) -> None:
        """@raise HaproxyFailed: if a VIP that a configuration is bound to cannot be had."""
        try:
            await self._surroundings.addresses.provide(config.binds)
        except NetworkError as error:
            raise HaproxyFailed(f"a VIP cannot be given back: {error}") from error

    def _conflict_text(self, conflict: Conflict) -> str:
        holder = self._holder(conflict.bind)
        whose = "" if holder is None else f": listener {holder} has it"
        return f"cannot bind {conflict.bind.address} ({conflict.reason}){whose}"

    async def _save_server_state(self, config: HaproxyConfig) -> None:
        """
        Write down which servers are up, where the configuration asks for it, so that the next worker knows.

        Where that fails there is no file: no knowledge is better than an old one.
        """
        path = config.state_file
        if path is None or not path.is_relative_to(self._files.directory) or self._haproxy.process is None:
            return
        try:
            state = await self._haproxy.server_state()
            await self._store("server state", lambda: replace_file(path, state))
        except (NoAnswer, StorageFailed) as error:
            self._log.warn(
                "{instance}: its servers' state cannot be saved, they begin anew: {error}",
                instance=self.instance_id,
                error=error,
            )
            await self._surroundings.blocking.run(path.unlink, missing_ok=True)

    def _overlay(self, config: HaproxyConfig) -> bytes:
        as_root = self._surroundings.as_root
        return overlay_for(self._files, config, peer=self._peer(), load=uuid4().hex, as_root=as_root)

    def _accepted(self, action: Action) -> HaproxyConfig:
        """@raise InstanceNotFound, NoConfiguration: where there is nothing to run."""
        self._require_existence()
        if self._config is None:
            raise NoConfiguration(action, self.instance_id)
        return self._config

    def _require_existence(self) -> None:
        if not self.exists:
            raise InstanceNotFound(self.instance_id)

    def _peer(self) -> str:
        return peer_name(self._state.amphora_id or self._surroundings.amphora_id)

    async def _remember(self, state: InstanceState) -> None:
        if state != self._state or self._unsaved:
            await self._store("state", lambda: store.save_state(self._files, state))
            self._state, self._unsaved = state, False

    async def _go_by(self, state: InstanceState) -> StorageFailed | None:
        """
        Remember it, and go by it also where the disk does not take it: it does so with what is remembered next.

        @return: Why the disk did not.
        """
        try:
            await self._remember(state)
        except StorageFailed as error:
            self._state, self._unsaved = state, True
            return error
        return None

    async def _store(self, what: str, function: Callable[[], T]) -> T:
        """Make a call that may wait for a disk.  @raise StorageFailed: with the system's words."""
        try:
            return await self._surroundings.blocking.run(function)
        except OSError as error:
            self._log.error("{instance}: storing {what}: {error}", instance=self.instance_id, what=what, error=error)
            raise StorageFailed(what, str(error.strerror or error)) from error


def _words(result: CommandResult) -> str:
    """Why haproxy does not take a configuration; a program in its place may say nothing."""
    return result.output.strip() or f"haproxy -c ended with {result.exit_code}"
