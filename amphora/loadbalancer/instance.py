"""
One instance: what the v0.1 API calls a listener and today's controller a load balancer.

It is a configuration, certificates, and the one haproxy that runs them.  All that changes it is a job of its
queue: one at a time, to the end, whether or not the client that asked still waits.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import on_memory_file_system
from amphora.jobs import JobQueue
from amphora.loadbalancer import certificates, store
from amphora.loadbalancer.errors import (
    ActionFailed,
    InstanceNotFound,
    InvalidConfiguration,
    NoConfiguration,
    StorageFailed,
)
from amphora.loadbalancer.final_logs import LogDestination
from amphora.loadbalancer.haproxy import Haproxy, HaproxyFailed, HaproxyNotFound, IHaproxyReactor, overlay_for
from amphora.loadbalancer.haproxy_config import HaproxyConfig, parse_config
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.sockets import NoAnswer, ask
from amphora.loadbalancer.stats import QUESTION, Stats, UnreadableStats, parse_stats
from amphora.loadbalancer.store import InstanceFiles, InstanceState
from amphora.process import ProcessIdentity

Action = Literal["start", "stop", "reload"]
ACTIONS: dict[str, Action] = {"start": "start", "stop": "stop", "reload": "reload"}
Status = Literal["ACTIVE", "STOPPED", "ERROR"]

STATS_TIMEOUT = 2.0
CONFIGURATION_VALID = "Configuration file is valid"

T = TypeVar("T")
Work = Callable[[], Coroutine[Deferred[Any], Any, T]]


@frozen
class InstanceStatus:
    """What is told of an instance; `stats` is None where no haproxy answers."""

    instance_id: str
    status: Status
    listener_type: str
    stats: Stats | None


@frozen
class Surroundings:
    """What all instances share."""

    reactor: IHaproxyReactor
    blocking: BlockingCalls
    make_haproxy: Callable[[InstanceFiles, Callable[[], None]], Haproxy]
    logs: LogDestination
    amphora_id: str
    as_root: bool
    require_memory_fs: bool


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

    _state: InstanceState = field(init=False, factory=InstanceState)
    _config: HaproxyConfig | None = field(init=False, default=None)
    """What the accepted configuration says of itself; None as long as there is none."""
    _haproxy: Haproxy = field(init=False)
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._haproxy = self._surroundings.make_haproxy(self._files, self._haproxy_died)
        self._jobs = JobQueue(self.instance_id, self._settled)

    # What can be asked

    @property
    def exists(self) -> bool:
        """Was a configuration uploaded for it, valid or not, and it was not deleted since?"""
        return (self._config is not None or self._state.refused) and not self._state.deleted

    @property
    def should_run(self) -> bool:
        return self._state.should_run and self._config is not None

    async def status(self) -> InstanceStatus:
        """How it fares.  ACTIVE: it should run, runs, and answers; STOPPED: neither; all else is ERROR."""
        stats = (await self._ask_stats(STATS_TIMEOUT))[0]
        status: Status = "ERROR"
        if self.should_run and stats is not None:
            status = "ACTIVE"
        elif self._config is not None and not self._state.should_run and self._haproxy.process is None:
            status = "STOPPED"
        kind = "TCP" if self._config is None else self._config.listener_type
        return InstanceStatus(self.instance_id, status, kind, stats)

    async def sample(self, timeout: float) -> InstanceSample:
        """What a heartbeat tells of it, as far as its haproxy answers within so many seconds."""
        stats, worker = await self._ask_stats(timeout)
        return InstanceSample(self.instance_id, stats, worker)

    async def _ask_stats(self, timeout: float) -> tuple[Stats | None, ProcessIdentity | None]:
        if self._haproxy.process is None:
            return None, None
        try:
            answer = await ask(self._surroundings.reactor, self._files.stats_socket, QUESTION, timeout=timeout)
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

    def upload(self, amphora_id: str, spooled: Path) -> Deferred[None]:
        """
        Take a new configuration, if haproxy finds it valid.  What runs goes on as it is.

        @param spooled: The upload, in a file of ours that is used up.
        @raise InvalidConfiguration: with haproxy's words; everything stays as it was.
        """
        return self._jobs.run(lambda: self._upload(amphora_id, spooled))

    def act(self, action: Action) -> Deferred[str]:
        """
        Start, stop or reload.

        @return: The specification's lines that say what was done.
        @raise ActionFailed: with haproxy's words.
        """
        work: dict[Action, Work[str]] = {"start": self._start, "stop": self._stop, "reload": self._reload}
        return self._jobs.run(work[action])

    def delete(self) -> Deferred[None]:
        """End it and take away all that there is of it."""
        return self._jobs.run(self._delete)

    def put_certificate(self, filename: str, content: bytes) -> Deferred[None]:
        """@raise BadFilename, BadPEM, InstanceNotFound, StorageFailed: and nothing is changed."""
        certificates.check_filename(filename)
        return self._jobs.run(lambda: self._put_certificate(filename, content))

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

        return self._jobs.run(job)

    # When the agent starts and ends

    def adopt(self) -> Deferred[None]:
        """Find out what an earlier agent left, and bring what runs into line with what should run."""
        return self._jobs.run(self._adopt)

    async def release(self) -> None:
        """The agent ends: jobs are finished, haproxy is left alone."""
        await self._jobs.finished()
        self._haproxy.stop_watching()

    # The jobs

    async def _upload(self, amphora_id: str, spooled: Path) -> None:
        as_root = self._surroundings.as_root

        def stage() -> HaproxyConfig:
            try:
                config = parse_config(spooled.read_bytes())
                overlay = overlay_for(self._files, config, as_root=as_root)
                store.stage_configuration(self._files, spooled, overlay)
            finally:
                spooled.unlink(missing_ok=True)
            return config

        config = await self._store("configuration", stage)
        try:
            result = await self._haproxy.check(
                self._files.candidate, self._files.overlay_candidate, peer_name(amphora_id)
            )
        except HaproxyFailed as error:
            await self._refuse()
            raise ActionFailed("check", str(error)) from error
        if not result.succeeded:
            await self._refuse()
            raise InvalidConfiguration(
                result.output.strip()
                .replace(str(self._files.candidate), self._files.config.name)
                .replace(str(self._files.overlay_candidate), self._files.overlay.name)
            )
        state = evolve(self._state, amphora_id=amphora_id, refused=False)
        await self._store("configuration", lambda: store.accept_configuration(self._files, state))
        self._state, self._config = state, config
        self._log.info(
            "{instance}: took a configuration with {frontends} frontends and {members} members",
            instance=self.instance_id,
            frontends=len(config.frontends),
            members=config.members,
        )

    async def _refuse(self) -> None:
        state = evolve(self._state, refused=self._config is None)
        await self._store("configuration", lambda: store.refuse_configuration(self._files, state))
        self._state = state

    async def _start(self) -> str:
        self._require_existence()
        before = self._state
        if self._haproxy.process is not None:
            await self._remember(evolve(before, should_run=True))
            return self._done("started", self._haproxy.process.pid)
        await self._check("start")
        await self._remember(evolve(before, should_run=True))
        try:
            pid = await self._haproxy.start(self._peer(), self._accepted("start").members)
        except HaproxyFailed as error:
            await self._remember(before)
            self._log.error("{instance}: start failed: {error}", instance=self.instance_id, error=error)
            raise ActionFailed("start", str(error)) from error
        self._log.info("{instance}: haproxy started, process {pid}", instance=self.instance_id, pid=pid)
        return self._done("started", pid)

    async def _reload(self) -> str:
        if self._haproxy.process is None:
            return await self._start()
        await self._check("reload")
        await self._remember(evolve(self._state, should_run=True))
        try:
            pid = await self._haproxy.reload(self._accepted("reload").members)
        except (HaproxyFailed, HaproxyNotFound) as error:
            self._log.error("{instance}: reload failed: {error}", instance=self.instance_id, error=error)
            raise ActionFailed("reload", str(error)) from error
        self._log.info("{instance}: haproxy reloaded, process {pid}", instance=self.instance_id, pid=pid)
        return self._done("reloaded", pid)

    async def _stop(self) -> str:
        self._require_existence()
        await self._remember(evolve(self._state, should_run=False))
        try:
            await self._haproxy.stop()
        except (HaproxyFailed, HaproxyNotFound) as error:
            raise ActionFailed("stop", str(error)) from error
        self._log.info("{instance}: haproxy stopped", instance=self.instance_id)
        return f"haproxy daemon for {self.instance_id} stopped"

    async def _delete(self) -> None:
        self._require_existence()
        # From here on the next agent would finish what we can not.
        await self._remember(evolve(self._state, should_run=False, deleted=True))
        await self._finish_deletion()

    async def _finish_deletion(self) -> None:
        if self._haproxy.process is not None:
            try:
                await self._haproxy.stop()
            except HaproxyFailed as error:
                raise ActionFailed("stop", str(error)) from error
        sockets = () if self._config is None else self._config.stats_sockets

        def remove() -> None:
            lines = store.log_since(self._files, 0, store.LOG_LIMIT).splitlines()
            self._surroundings.logs.ship(self.instance_id, lines)
            store.remove_instance(self._files, sockets)

        await self._store("deletion", remove)
        self._config, self._state = None, InstanceState()
        self._log.info("{instance}: deleted", instance=self.instance_id)

    async def _put_certificate(self, filename: str, content: bytes) -> None:
        self._require_existence()
        certificates.check_pem(content)

        def write() -> None:
            if self._surroundings.require_memory_fs and not on_memory_file_system(self._files.certificates):
                raise StorageFailed(
                    "certificate", f"{self._files.certificates.parent} is not on a memory file system (tmpfs or ramfs)"
                )
            certificates.store_certificate(self._files.certificates, filename, content)

        await self._store("certificate", write)
        self._log.info("{instance}: stored certificate {filename}", instance=self.instance_id, filename=filename)

    async def _adopt(self) -> None:
        def look() -> tuple[InstanceState, HaproxyConfig | None]:
            state = store.load_state(self._files)
            try:
                return state, parse_config(self._files.config.read_bytes())
            except FileNotFoundError:
                return state, None

        self._state, self._config = await self._store("configuration", look)
        found = await self._haproxy.adopt()
        if self._state.deleted:
            await self._finish_deletion()
            return
        process = self._haproxy.process
        if found and process is not None:
            self._log.info("{instance}: found its haproxy, process {pid}", instance=self.instance_id, pid=process.pid)
            if not self._state.should_run:
                self._log.info("{instance}: it should not run; stopping it", instance=self.instance_id)
                await self._haproxy.stop()
        elif self.should_run:
            self._log.warn("{instance}: should run and does not; starting it", instance=self.instance_id)
            await self._start()

    # What the jobs are made of

    async def _check(self, action: Action) -> None:
        """Judge the accepted configuration again: what it names (certificates, addresses) may have changed."""
        self._accepted(action)
        try:
            result = await self._haproxy.check(self._files.config, self._files.overlay, self._peer())
        except HaproxyFailed as error:
            raise ActionFailed(action, str(error)) from error
        if not result.succeeded:
            raise ActionFailed(action, result.output.strip())

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

    def _done(self, participle: str, pid: int) -> str:
        return f"{CONFIGURATION_VALID}\nhaproxy daemon for {self.instance_id} {participle} (pid {pid})"

    async def _remember(self, state: InstanceState) -> None:
        if state != self._state:
            await self._store("state", lambda: store.save_state(self._files, state))
            self._state = state

    async def _store(self, what: str, function: Callable[[], T]) -> T:
        """Make a call that may wait for a disk.  @raise StorageFailed: with the system's words."""
        try:
            return await self._surroundings.blocking.run(function)
        except OSError as error:
            self._log.error("{instance}: storing {what}: {error}", instance=self.instance_id, what=what, error=error)
            raise StorageFailed(what, str(error.strerror or error)) from error

    def _haproxy_died(self) -> None:
        self._log.error(
            "{instance}: haproxy died; what it said last is in {log}",
            instance=self.instance_id,
            log=str(self._files.log),
        )
