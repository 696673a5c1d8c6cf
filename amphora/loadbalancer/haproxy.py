"""
One haproxy: started, reloaded, stopped, found again, and watched.

It runs in master-worker mode, in the foreground of a session of its own, and outlives this agent: whatever
becomes of us, traffic flows.  The next agent knows it by its pid file, its program and its files.  (haproxy
management guide, 3 and 4; what is relied on is tried in `tests/integration/test_haproxy_facts.py`.)
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import deferLater
from twisted.logger import Logger

from amphora import output
from amphora.blocking import BlockingCalls
from amphora.families import Family, find_families, given_files, runs
from amphora.loadbalancer import store
from amphora.loadbalancer.haproxy_config import HaproxyConfig
from amphora.loadbalancer.kept_sessions import IKeeperReactor, KeptSessions, Label
from amphora.loadbalancer.leftovers import Leftovers
from amphora.loadbalancer.notify import NotifySocket
from amphora.loadbalancer.old_workers import LOAD, Ask, OldWorker, StatsSession, hold
from amphora.loadbalancer.sample import OldFigures
from amphora.loadbalancer.sockets import NoAnswer, Silence, ask
from amphora.loadbalancer.stats import UnreadableStats
from amphora.loadbalancer.store import InstanceFiles
from amphora.process import (
    CommandFailed,
    CommandResult,
    ProcessIdentity,
    ProcessWatch,
    run_command,
    spawn_daemon,
)

CHECK_TIMEOUT = 30.0
READY_TIMEOUT = 10.0
"""Seconds for haproxy to judge a configuration, and to become ready; a large one has its weight's more."""
STOP_TIMEOUT = 5.0
"""Seconds between asking haproxy to end and ending it."""
KILL_TIMEOUT = 5.0
STATE_TIMEOUT = 5.0
HOLD_TIMEOUT = 2.0
OLD_WORKER_TIMEOUT = 3600.0
"""Seconds after which a question to an old worker is given up: until then it is waited for again and again."""
_POLL = 0.05
_EXEC_PATIENCE = 1.0
"""Seconds for a master to be known again that executes itself."""
_FINAL_KEPT = 16
"""Of how many workers that have ended the last figures are kept to be counted."""


class HaproxyFailed(Exception):
    """haproxy did not do what it was told; the text is its own where it said anything."""


class ReloadUndecided(HaproxyFailed):
    """haproxy was told to reload, and what comes of it is not known yet."""


class HaproxyNotFound(Exception):
    """There is no such process; the text names the one that was looked for."""


class IHaproxyReactor(IKeeperReactor, IReactorFDSet):
    """What running a haproxy needs of a reactor."""


@frozen
class Worker:
    """A line of the master's `show proc`; the worker with no reloads behind it is the one that accepts connections."""

    pid: int
    reloads: int


@frozen
class Processes:
    """The master's `show proc`: how often it was reloaded, and its workers."""

    reloads: int
    workers: tuple[Worker, ...]

    @property
    def current(self) -> Worker | None:
        return next((worker for worker in self.workers if worker.reloads == 0), None)

    @property
    def old(self) -> tuple[Worker, ...]:
        """Those that still finish the connections that they had before a reload, the last replaced first."""
        return tuple(sorted((worker for worker in self.workers if worker.reloads), key=lambda worker: worker.reloads))


def parse_processes(answer: bytes) -> Processes:
    """@raise NoAnswer: for an answer that is not a table of processes, as a master that is reloading gives."""
    text = answer.decode("ascii", "replace")
    master = re.search(r"^\d+\s+master\s+(\d{1,9})\b", text, re.MULTILINE)
    if master is None:
        raise NoAnswer("the master did not list its processes")
    workers = re.findall(r"^(\d{1,9})\s+worker\s+(\d{1,9})\b", text, re.MULTILINE)
    return Processes(int(master[1]), tuple(Worker(int(pid), int(reloads)) for pid, reloads in workers))


@frozen
class HaproxyProgram:
    """The installed haproxy and where it runs; `namespace` is empty for the agent's own."""

    path: str
    namespace: str

    @property
    def _prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()

    def check_command(self, config: Path, overlay: Path, peer: str) -> list[str]:
        return [*self._prefix, self.path, "-c", "-f", str(config), "-f", str(overlay), "-L", peer]

    def start_command(self, files: InstanceFiles, peer: str) -> list[str]:
        return [
            *self._prefix,
            *(self.path, "-Ws", "-f", str(files.running), "-f", str(files.overlay)),
            *("-p", str(files.pid_file), "-S", f"{files.master_socket},mode,600", "-L", peer),
        ]

    def is_running_as(self, process: ProcessIdentity, files: InstanceFiles) -> bool:
        """
        Is this process the master of this instance?

        A reload changes the command line, but neither the program nor the files that it was given.
        """
        return runs(process, self.path) and given_files(process) == [str(files.running), str(files.overlay)]


def overlay_for(files: InstanceFiles, config: HaproxyConfig, *, peer: str, load: str, as_root: bool) -> bytes:
    """
    What we add to an uploaded configuration: a second file with a `global` section.

    Our own stats socket; `noreuseport`, because two haproxies on one address would otherwise share its
    connections silently; and the group to run as where the upload, like Octavia's, leaves it to the host.

    Not so with an address of IPv6 that is bound without `v6only`, as Octavia binds an IPv6 VIP: the kernel marks its
    socket as IPv6 only, haproxy 2.6 does not take it over from the old worker for that, and binds another one beside
    it in a reload, which it has to be allowed to share.  What keeps two haproxies apart then is the trial before.

    @param peer: Which of the peers in the configuration it is.
    @param load: A mark that is given once, by which a worker tells what it was given.
    """
    lines = [
        "# Written by the amphora agent; read together with haproxy.cfg.",
        "global",
        f"    stats socket {files.stats_socket} mode 600 level admin expose-fd listeners",
        # How long an interactive session may rest: ours rest from one heartbeat to the next.
        "    stats timeout 1h",
        *([] if any(bind.is_rebound for bind in config.addresses(peer)) else ["    noreuseport"]),
        f"    setenv {LOAD} {load}",
    ]
    if as_root and not config.own_group:
        lines.append(f"    group {grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name}")
    return "\n".join(lines).encode() + b"\n"


@define(eq=False)
class Haproxy:
    """
    The haproxy process of one instance.

    Its methods are the steps of jobs: the instance sees to it that one runs at a time.
    """

    _log = Logger()

    _reactor: IHaproxyReactor
    _blocking: BlockingCalls
    _program: HaproxyProgram
    _notify: NotifySocket
    _kept: KeptSessions
    _files: InstanceFiles
    _died: Callable[[], None]
    """Called when it ends without having been told to."""
    _spoke: Callable[[], None]
    """Called when it says that it is ready and nobody waits for that: a reload that took too long has ended."""

    _watch: ProcessWatch | None = field(init=False, default=None)
    _old: list[OldWorker] = field(init=False, factory=list)
    _leftovers: Leftovers = field(init=False)
    _stopping: bool = field(init=False, default=False)
    _news: Deferred[None] | None = field(init=False, default=None)
    """Fired by what the job at work waits for: the process is ready, or has ended."""

    def __attrs_post_init__(self) -> None:
        self._leftovers = Leftovers(self._reactor, self._files.instance_id)

    @property
    def process(self) -> ProcessIdentity | None:
        """The master process; None where none runs."""
        return None if self._watch is None else self._watch.identity

    @property
    def has_spoken(self) -> bool:
        """Has it said that it is ready since it was last told to reload?"""
        return self.process is not None and self._notify.said_ready(self.process.pid)

    async def check(self, config: Path, overlay: Path, peer: str, weight: float) -> CommandResult:
        """
        Let haproxy judge a configuration.

        @param weight: The configuration's: large ones take longer.
        @raise HaproxyFailed: if it could not be asked.
        """
        try:
            return await run_command(
                self._reactor,
                self._program.check_command(config, overlay, peer),
                timeout=CHECK_TIMEOUT + weight,
            )
        except CommandFailed as error:
            raise HaproxyFailed(str(error)) from error

    async def start(self, peer: str, weight: float) -> int:
        """
        Start it and wait until it says that it is ready.

        @param weight: The configuration's: large ones take longer.
        @return: The master's process id.
        @raise HaproxyFailed: if it ended instead, or said nothing in time; nothing runs then.
        """
        self._require_hearing()
        log = await self._blocking.run(output.open_for, self._files.log)
        try:
            position = os.fstat(log).st_size
            pid = spawn_daemon(
                self._reactor,
                self._program.start_command(self._files, peer),
                output=log,
                environment={"NOTIFY_SOCKET": str(self._notify.path)},
            )
        except CommandFailed as error:
            raise HaproxyFailed(str(error)) from error
        finally:
            os.close(log)
        process = ProcessIdentity.of(pid)
        if process is None or not self._begin_watching(process):
            raise HaproxyFailed(await self._said_since(position, "haproxy ended at once"))
        patience = READY_TIMEOUT + weight
        try:
            await self._until(lambda: self._notify.said_ready(pid), patience)
        except TimeoutError:
            await self.stop()
            raise HaproxyFailed(
                await self._said_since(position, f"haproxy was not ready within {patience:.0f} s and was ended")
            ) from None
        if self.process is None:
            raise HaproxyFailed(await self._said_since(position, "haproxy ended while it started"))
        return pid

    def _require_hearing(self) -> None:
        """@raise HaproxyFailed: if it could not tell us that it is ready."""
        try:
            self._notify.ensure()
        except (OSError, CannotListenError) as error:
            raise HaproxyFailed(f"haproxy's word cannot be heard: {error}") from error

    async def reload(self, weight: float) -> Processes:
        """
        Let it load its files anew, without losing a connection, and wait for the outcome.

        @param weight: The configuration's: large ones take longer.
        @return: The master's processes afterwards.
        @raise HaproxyFailed: if it still runs what it ran before, or ended.
        @raise HaproxyNotFound: if it does not run.
        """
        process = await self._running()
        self._require_hearing()
        patience = READY_TIMEOUT + weight
        deadline = self._reactor.seconds() + patience
        await self._blocking.run(output.trim, self._files.log)
        position = await self._blocking.run(output.size, self._files.log)
        held = await self._hold()
        if held is not None:
            await self._keep(held)
        signalled = False
        try:
            before = await self._processes(deadline)
            if held is not None:
                # From now on another worker may be the one that answers.
                self._old.append(held)
            signalled = True
            self._notify.forget(process.pid)
            process.send_signal(signal.SIGUSR2)
            # Ready is also said after a load that failed; what came of it, the master tells.  One that cannot say it
            # (somebody else has started it) is asked all the same.
            with suppress(TimeoutError):
                await self._until(lambda: self._notify.said_ready(process.pid), patience)
            after = await self._processes(deadline)
            while after.reloads == before.reloads and self.process is not None:
                if self._reactor.seconds() > deadline:
                    raise TimeoutError()
                await deferLater(self._reactor, _POLL)
                after = await self._processes(deadline)
        except TimeoutError:
            if not signalled:
                self._let_go(held)
            raise (ReloadUndecided if signalled else HaproxyFailed)(
                await self._said_since(position, f"haproxy did not finish the reload within {patience:.0f} s")
            ) from None
        if self.process is None:
            raise HaproxyFailed(await self._said_since(position, "haproxy ended while it reloaded"))
        if after.current is None:
            self._let_go(held)
            raise HaproxyFailed(await self._said_since(position, "haproxy goes on with what it ran before"))
        return after

    async def _keep(self, held: OldWorker) -> None:
        """Let the session with a worker outlast this agent; an earlier one with the same worker is not needed."""
        for old in self._old:
            if old.process == held.process:
                self._let_go(old)
        if held.session is not None:
            await self._kept.keep(Label(self._files.instance_id, held.process, held.session.mark), held.session)

    def _let_go(self, held: OldWorker | None) -> None:
        """The reload that a worker was held for does not replace it."""
        if held is not None:
            held.finish()
            self._old = [old for old in self._old if old is not held]

    async def stop(self) -> None:
        """
        End it within ten seconds, whatever state it is in: politely at first, then not.

        @raise HaproxyNotFound: if it does not run.
        @raise HaproxyFailed: if even the kernel could not end it.
        """
        process = await self._running()
        workers = process.children()
        self._stopping = True
        try:
            process.send_signal(signal.SIGTERM)
            try:
                await self._until(lambda: False, STOP_TIMEOUT)
            except TimeoutError:
                self._log.warn(
                    "haproxy {pid} of {instance} did not end within {seconds:g} s: killing it",
                    pid=process.pid,
                    instance=self._files.instance_id,
                    seconds=STOP_TIMEOUT,
                )
                # Read again: it may have started a worker since.  A stopped worker would outlive its master.
                workers = process.children() or workers
                process.send_signal(signal.SIGKILL)
            # What has ended by itself is not hurt by this.
            await self._end((process, *workers))
            # Its end may not have been heard yet, and is no news any more.  What old workers had not told yet is
            # lost: told later, of an instance that was forgotten meanwhile, it would be told twice.
            self._stop_watching()
            self._old = []
        finally:
            self._stopping = False
        await self._blocking.run(store.forget_process, self._files)

    async def last_load_worked(self) -> bool:
        """
        Does the worker that accepts connections run what was last put in place for it?

        @raise HaproxyFailed: if the master does not tell, or ends.
        """
        try:
            processes = await self._processes(self._reactor.seconds() + READY_TIMEOUT)
        except TimeoutError:
            raise HaproxyFailed("haproxy does not tell what came of its last reload") from None
        if self.process is None:
            raise HaproxyFailed("haproxy ended before it told what came of its last reload")
        if processes.current is None:
            # Whoever was held for it goes on as before.
            for old in self._old:
                if old.stats is not None and not old.stats.stopping:
                    self._let_go(old)
            return False
        # The master may never have been told to load it: an agent can die before it sends the signal.
        question = f"show env {LOAD}\n".encode()
        try:
            answer = await ask(self._reactor, self._files.stats_socket, question, timeout=STATE_TIMEOUT)
        except NoAnswer:
            # The worker hangs; the master's word has to do.
            return True
        mark = answer.strip().decode("ascii", "replace").partition("=")[2]
        return await self._blocking.run(store.is_marked, self._files, f"{LOAD} {mark}")

    async def server_state(self) -> bytes:
        """
        What haproxy takes back from a C{server-state-file} (management guide, 9.3), ending in a newline.

        @raise NoAnswer: if it does not tell.
        """
        answer = await ask(self._reactor, self._files.stats_socket, b"show servers state\n", timeout=STATE_TIMEOUT)
        if not answer.startswith(b"1\n#"):
            raise NoAnswer("the answer is no server state")
        return answer.rstrip(b"\n") + b"\n"

    async def adopt(self, family: Family) -> None:
        """
        Look for a haproxy that an earlier agent left running for this instance, and watch over it from now on.

        Workers that have outlived their master are ended: nobody else can, and they hold addresses.

        @param family: What L{find_families} found for this instance.
        """
        pid = await self._blocking.run(store.read_pid, self._files)
        if pid is None or not self._adopt(pid):
            # The pid file is lost, speaks of somebody else, or is not there yet.
            await self._adopt_one_of(family.masters)
            found = None if self._watch is None else self._watch.identity.pid
            if pid not in (None, found) and ProcessIdentity.of(pid) is not None:
                self._log.warn(
                    "The pid file of {instance} names process {pid}, which is not its haproxy: left alone",
                    instance=self._files.instance_id,
                    pid=pid,
                )
        if self._watch is None:
            for worker in family.workers:
                self._log.warn(
                    "{instance}: worker {pid} has outlived its master; ending it",
                    instance=self._files.instance_id,
                    pid=worker.pid,
                )
            await self._end(family.workers)
            await self._blocking.run(store.forget_process, self._files)

    async def _adopt_one_of(self, masters: Sequence[ProcessIdentity]) -> None:
        """One that executes itself, as it does in a reload, is not known again for a moment: looked for until it is."""
        deadline = self._reactor.seconds() + _EXEC_PATIENCE
        while True:
            alive = [master for master in masters if master.alive]
            found = any(self._adopt(master.pid) for master in alive)
            if found or not alive or self._reactor.seconds() > deadline:
                return
            await deferLater(self._reactor, _POLL)

    async def look_around(self) -> None:
        """The same for what has been left since: called before a start, and before all of an instance is removed."""
        if self._watch is None:
            found = await self._blocking.run(find_families, self._program.path)
            await self.adopt(found.get(self._files.running, Family()))

    async def _end(self, processes: Sequence[ProcessIdentity]) -> None:
        """Kill them, and wait until they are gone.  @raise HaproxyFailed: if one of them stays."""
        deadline = self._reactor.seconds() + KILL_TIMEOUT
        for process in processes:
            process.send_signal(signal.SIGKILL)
        while any(process.alive for process in processes):
            if self._reactor.seconds() > deadline:
                raise HaproxyFailed(f"haproxy process with PID {processes[0].pid} cannot be ended")
            await deferLater(self._reactor, _POLL)

    def _adopt(self, pid: int) -> bool:
        process = ProcessIdentity.of(pid)
        known = process is not None and self._program.is_running_as(process, self._files)
        return process is not None and known and self._begin_watching(process)

    async def _hold(self) -> OldWorker | None:
        """
        Keep the worker that a reload is about to replace until its last figures are known.

        @raise HaproxyFailed: if it hangs.  It could not hand its addresses over then, so that the reload would fail;
            but the stats socket would have been put in another's place by then, and be gone with that.
        """
        try:
            return await hold(self._reactor, self._files.stats_socket, timeout=HOLD_TIMEOUT)
        except Silence as error:
            raise HaproxyFailed(f"haproxy's worker hangs and cannot be replaced: {error}") from None
        except (NoAnswer, UnreadableStats) as error:
            self._log.warn(
                "{instance}: the last figures of the worker before this reload will not be known: {error}",
                instance=self._files.instance_id,
                error=error,
            )
            return None

    async def find_old_workers(self) -> None:
        """
        Count on what workers carry that an earlier agent's reload left.

        Where its session with a worker was not kept, that worker is asked through the master, which cannot hold it:
        what it counts after it was last asked is lost.
        """
        for taken in self._kept.claim(self._files.instance_id):
            try:
                session = StatsSession.go_on(self._reactor, taken.descriptor, taken.label.mark)
            except NoAnswer as error:
                self._log.warn(
                    "{instance}: what an old worker, process {pid}, counts from now on may not be told: {error}",
                    instance=self._files.instance_id,
                    pid=taken.label.worker.pid,
                    error=error,
                )
                continue
            self._kept.taken_over(taken.label, session)
            self._old.append(OldWorker.held_by(session, taken.label.worker, None))
        with suppress(TimeoutError):
            processes = await self._processes(self._reactor.seconds() + HOLD_TIMEOUT)
            held = {old.process.pid: old for old in self._old}
            if processes.current is not None:
                # The reload that it was held for has not replaced it.
                self._let_go(held.get(processes.current.pid))
            for worker in processes.old:
                process = ProcessIdentity.of(worker.pid)
                if process is not None and worker.pid not in held:
                    self._old.append(OldWorker(process, None, self._through_master(worker.pid)))
        await self.old_figures(HOLD_TIMEOUT)

    def _through_master(self, pid: int) -> Ask:
        question = b"@!%d show info;@!%d show stat -1 7 -1;quit\n" % (pid, pid)
        socket = self._files.master_socket
        return lambda: Deferred.fromCoroutine(ask(self._reactor, socket, question, timeout=OLD_WORKER_TIMEOUT))

    async def old_figures(self, timeout: float) -> tuple[OldFigures, ...]:
        """What old workers carry, each waited for so many seconds at most; of those that have ended, the last word."""
        self._forget_untaken()
        old = tuple(self._old)
        if old:
            await gatherResults(
                [Deferred.fromCoroutine(worker.read(self._reactor, timeout)) for worker in old], consumeErrors=True
            )
        self._leftovers.look(worker.process for worker in old if worker.idle)
        return tuple(OldFigures(worker.process, worker.stats) for worker in old if worker.stats is not None)

    def figures_taken(self, figures: Iterable[OldFigures]) -> None:
        """These were counted: workers whose figures are final are of no interest any more."""
        taken = {each.worker: each.stats for each in figures}
        self._old = [old for old in self._old if not (old.final and taken.get(old.process) == old.stats)]

    def _forget_untaken(self) -> None:
        """Where nobody ever counts them, figures do not pile up."""
        final = [old for old in self._old if old.final]
        for old in final[: max(0, len(final) - _FINAL_KEPT)]:
            self._old.remove(old)

    async def _processes(self, deadline: float) -> Processes:
        """
        Ask the master for its processes.  While it reloads it resets connections or keeps silent: then again.

        @raise TimeoutError: when the deadline is over.
        """
        while True:
            try:
                return parse_processes(
                    await ask(self._reactor, self._files.master_socket, b"show proc;quit\n", timeout=1.0)
                )
            except NoAnswer:
                if self.process is None:
                    return Processes(-1, ())
                if self._reactor.seconds() > deadline:
                    raise TimeoutError() from None
                await deferLater(self._reactor, _POLL)

    async def _running(self) -> ProcessIdentity:
        if self._watch is None:
            pid = await self._blocking.run(store.read_pid, self._files)
            named = f"process with PID {pid}" if pid is not None else f"process for {self._files.instance_id}"
            raise HaproxyNotFound(f"haproxy {named} not found")
        return self._watch.identity

    def _begin_watching(self, process: ProcessIdentity) -> bool:
        watch = ProcessWatch(self._reactor, process, self._ended)
        if not watch.start():
            return False
        self._watch = watch
        self._notify.subscribe(process.pid, self._said_ready)
        return True

    def release(self) -> None:
        """This agent ends; haproxy does not."""
        for old in self._old:
            old.leave()
        self._stop_watching()

    def _stop_watching(self) -> None:
        for old in self._old:
            old.finish()
        if self._watch is not None:
            self._notify.unsubscribe(self._watch.identity.pid)
            self._watch.stop()
            self._watch = None

    def _ended(self) -> None:
        expected = self._stopping or self._news is not None
        self._stop_watching()
        self._heard()
        if not expected:
            self._died()

    def _said_ready(self) -> None:
        if self._news is None:
            self._spoke()
        self._heard()

    def _heard(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until the condition holds or the process has ended.  @raise TimeoutError: after so many seconds."""
        deadline = self._reactor.seconds() + seconds
        while self.process is not None and not condition():
            self._news = Deferred()
            try:
                waiting: Awaitable[None] = self._news.addTimeout(
                    max(0.0, deadline - self._reactor.seconds()), self._reactor
                )
                await waiting
            finally:
                self._news = None

    async def _said_since(self, position: int, otherwise: str) -> str:
        said = await self._blocking.run(output.since, self._files.log, position)
        return f"{otherwise}:\n{said}" if said else otherwise
