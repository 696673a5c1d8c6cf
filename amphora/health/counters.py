"""
How much of each listener's traffic the controller was already told, so that it is told the rest, and never twice.

haproxy counts from a worker's start; a heartbeat tells what came since the last one.  So there is a *baseline* for
each worker of a source, the one that accepts connections and those that finish theirs after a reload: what its
counters said when they were last told.  Another worker has other counters and starts from zero.

Readings live in a file too, for the next agent:

    {"version": 3, "boot": BOOT_ID, "since": TICKS,
     "instances": {INSTANCE: [{"pid": PID, "started": TICKS,
                               "listeners": {LISTENER: {"tx": n, "rx": n, "totconns": n, "ereq": n}}}]},
     "untold": {LISTENER: {"tx": n, "rx": n, "totconns": n, "ereq": n}}}

What was read and could not be told stands there as well: the worker that carried it may be gone by the time somebody
listens.

When in doubt, traffic is lost rather than told twice:

- New baselines are renamed into place before the heartbeat leaves.  An agent that is killed before it does has told
  nothing and will not tell it: one interval's traffic, as nobody tries to tell more before a heartbeat has arrived.
- Where they cannot be written (a full disk), the old file is removed and heartbeats go on from memory: an agent that
  comes later finds no file.  Where it cannot be removed either, the baselines stay as they are, heartbeats tell no
  traffic, and all of it is told once the disk works again, by this agent or by the next.
- Without a file that can be read, nobody knows what was told of a worker older than the agent: the first look at it
  only sets its baseline.  `since` hands that on to later agents: it is the start of the last agent that found no
  file, and zero if none of this boot did.
- The kernel's counters, those of UDP and SCTP listeners, may outlast the keepalived that has set them up, or begin anew
  with the next.  Where they say no less than was told of the last, they are taken for the same.
- A file of another boot says nothing of the workers of this one, but none of them can have been told of yet.

Nothing is synced to the disk: a process that dies does not take back what it wrote, and after a loss of power
there are new workers as well as a new boot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import asdict, frozen
from twisted.logger import Logger

from amphora.files import beside
from amphora.process import ProcessIdentity
from amphora.sample import Reading, Sample, Traffic

FILE_NAME: Final = "stats_counters.json"
_FORMAT: Final = 3


@frozen
class Deltas:
    """
    What is to be told, by listener id, and the baselines, by source id, that hold once it was told or written down.
    """

    traffic: Mapping[str, Traffic]
    baselines: Mapping[str, tuple[Reading, ...]]


class Counters:
    """
    The baselines of all sources: what each process's counters said when they were last told.

    Apart from `deltas`, each method waits for the disk: they are called in a thread, one at a time.  The order is
    C{load} once; then for each heartbeat C{deltas}, C{advance}, and C{put_back} if it did not leave, or C{deltas} and
    C{keep} where none is to tell it.
    """

    _log = Logger()

    def __init__(self, directory: Path, *, boot_id: str, agent_started: int) -> None:
        """
        @param directory: Where the file stands: the `base_path`.
        @param boot_id: What the kernel says in C{/proc/sys/kernel/random/boot_id}.
        @param agent_started: When this agent started, in clock ticks since boot, as in L{ProcessIdentity.started}.
        """
        self._path = directory / FILE_NAME
        self._boot_id = boot_id
        self._since = agent_started
        self._baselines: Mapping[str, tuple[Reading, ...]] = {}
        self._untold: Mapping[str, Traffic] = {}
        self._telling: Mapping[str, Traffic] = {}
        self._written: tuple[object, object] | None = None
        self._failing = False

    def load(self) -> None:
        """Take over what the agent before us left.  Never raises: a file that is torn or empty is as good as none."""
        try:
            content = json.loads(self._path.read_bytes())
            self._since, self._baselines, self._untold = _parsed(content, self._boot_id)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as problem:
            self._log.warn(
                "{path} cannot be used: {problem}. What was counted before this moment is not told",
                path=str(self._path),
                problem=problem,
            )

    def deltas(self, samples: Iterable[Sample]) -> Deltas:
        """
        Tell what came since the baselines, and what was not told before.

        @param samples: All sources there are.  A worker that did not answer keeps its baseline as long as it lives.
            A source that is not among them is gone, and its worker with it: its baseline goes too.
        """
        traffic: dict[str, Traffic] = {}
        baselines: dict[str, tuple[Reading, ...]] = {}
        for sample in samples:
            known = self._baselines.get(sample.source_id, ())
            readings = sample.readings
            for now in readings:
                told = self._told(sample.source_id, known, now)
                for listener_id, total in now.listeners.items():
                    came = total.since(told.get(listener_id, Traffic()))
                    traffic[listener_id] = traffic.get(listener_id, Traffic()) + came
            kept = _not_read(known, readings, sample)
            if readings or kept:
                baselines[sample.source_id] = (*readings, *kept)
        there = {
            listener_id for workers in baselines.values() for baseline in workers for listener_id in baseline.listeners
        }
        for listener_id in there & self._untold.keys():
            traffic[listener_id] = traffic.get(listener_id, Traffic()) + self._untold[listener_id]
        return Deltas(traffic, baselines)

    def advance(self, deltas: Deltas) -> bool:
        """
        Make new baselines hold, in the file first.

        @return: False if a file with the old ones stands there and cannot be changed: then this traffic must not be
            told now.  It stays in what L{deltas} answers next.
        """
        if not self._write(deltas.baselines, {}):
            return False
        self._baselines, self._untold, self._telling = deltas.baselines, {}, deltas.traffic
        return True

    def put_back(self) -> None:
        """What the last `advance` counted as told was not: it waits for a heartbeat that leaves."""
        self._untold, self._telling = _something(self._telling), {}
        self._write(self._baselines, self._untold)

    def keep(self, deltas: Deltas) -> bool:
        """
        Write down what nobody is told now.

        @return: False if a file stands there that cannot be changed: then it stays in what L{deltas} answers next.
        """
        untold = _something(deltas.traffic)
        if not self._write(deltas.baselines, untold):
            return False
        self._baselines, self._untold = deltas.baselines, untold
        return True

    def _told(self, source_id: str, known: tuple[Reading, ...], now: Reading) -> Mapping[str, Traffic]:
        """What was told of a worker that answers now."""
        for before in known:
            if before.worker == now.worker:
                return before.listeners
        if any(before.worker.started > now.worker.started for before in known):
            # A later one was told of already: this one's last word was, too.
            return now.listeners
        if now.outlasting and known:
            last = max(known, key=lambda reading: reading.worker.started)
            return {
                listener_id: told
                for listener_id, told in last.listeners.items()
                if now.listeners.get(listener_id, Traffic()).reaches(told)
            }
        if now.worker.started > self._since:
            return {}
        # What it did before is unknown.  That it is told from here on holds even if this heartbeat does not leave.
        self._baselines = {**self._baselines, source_id: (*self._baselines.get(source_id, ()), now)}
        return now.listeners

    def _write(self, baselines: Mapping[str, tuple[Reading, ...]], untold: Mapping[str, Traffic]) -> bool:
        """Put both into the file; answer whether no others stand there."""
        if self._written == (baselines, untold):
            return True
        content = json.dumps(_document(self._boot_id, self._since, baselines, untold), separators=(",", ":"))
        unfinished = beside(self._path)
        try:
            unfinished.unlink(missing_ok=True)
            with open(unfinished, "x", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
                file.write(content)
            os.rename(unfinished, self._path)
        except OSError as problem:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            removed = self._remove()
            self._tell_failure(problem, removed)
            return removed
        self._written = (baselines, untold)
        if self._failing:
            self._failing = False
            self._log.info("{path} can be written again", path=str(self._path))
        return True

    def _remove(self) -> bool:
        self._written = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _tell_failure(self, problem: OSError, removed: bool) -> None:
        if self._failing:
            return
        self._failing = True
        self._log.error(
            "{path} cannot be written: {problem}. {consequence}",
            path=str(self._path),
            problem=problem,
            consequence="Heartbeats go on; what came since the last one is not told if the agent ends now"
            if removed
            else "Nor can it be removed: heartbeats go on without traffic figures until it can be written",
        )


def _not_read(known: tuple[Reading, ...], readings: tuple[Reading, ...], sample: Sample) -> tuple[Reading, ...]:
    """
    The baselines that hold on though their workers did not answer now.

    Where an answer came from an older worker, or none did, the newer one is there all the same.
    """
    read = {reading.worker for reading in readings}
    unread = tuple(baseline for baseline in known if baseline.worker not in read)
    if sample.worker is None or not any(reading.worker == sample.worker for reading in readings):
        return unread
    started = sample.worker.started
    return tuple(baseline for baseline in unread if baseline.worker.started > started or baseline.worker.alive)


def _something(traffic: Mapping[str, Traffic]) -> Mapping[str, Traffic]:
    """All of it but nothings."""
    return {listener_id: came for listener_id, came in traffic.items() if came != Traffic()}


def _document(
    boot_id: str, since: int, baselines: Mapping[str, tuple[Reading, ...]], untold: Mapping[str, Traffic]
) -> dict[str, Any]:
    instances = {
        instance_id: [
            {
                "pid": baseline.worker.pid,
                "started": baseline.worker.started,
                "listeners": _encoded(baseline.listeners),
            }
            for baseline in workers
        ]
        for instance_id, workers in baselines.items()
    }
    return {
        "version": _FORMAT,
        "boot": boot_id,
        "since": since,
        "instances": instances,
        "untold": _encoded(untold),
    }


def _encoded(listeners: Mapping[str, Traffic]) -> dict[str, dict[str, int]]:
    return {listener_id: asdict(traffic) for listener_id, traffic in listeners.items()}


def _decoded(listeners: Any) -> dict[str, Traffic]:
    return {
        listener_id: Traffic(**{name: _count(traffic[name]) for name in ("tx", "rx", "totconns", "ereq")})
        for listener_id, traffic in listeners.items()
    }


def _parsed(document: Any, boot_id: str) -> tuple[int, Mapping[str, tuple[Reading, ...]], Mapping[str, Traffic]]:
    """
    Read what L{_document} wrote.

    @return: C{since}, the baselines, and what was not told: zero and none from another boot.
    @raise ValueError: if it is anything else.
    """
    try:
        if document["version"] != _FORMAT:
            raise ValueError("it has another format")
        if document["boot"] != boot_id:
            return 0, {}, {}
        baselines = {
            instance_id: tuple(
                Reading(
                    ProcessIdentity(_count(worker["pid"]), _count(worker["started"])), _decoded(worker["listeners"])
                )
                for worker in workers
            )
            for instance_id, workers in document["instances"].items()
        }
        return _count(document["since"]), baselines, _decoded(document["untold"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it has another format") from None


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a number in it is none")
    return value
