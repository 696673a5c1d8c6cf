"""
When the heartbeats of many agents arrive: `script/bench --fleet N`.

All agents are in one process, and each is what an agent has for this: a watcher for changes and a sender of heartbeats,
with sockets, signatures and counters of its own.  What they tell of is made up.  All are started at once, and later all
of their members fail and come back, again and again, as if a network between them and the amphorae came and went.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from attrs import define, frozen
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import deferLater

from amphora.blocking import InThreads
from amphora.config import Controller
from amphora.health.changes import ChangeWatcher
from amphora.health.counters import Counters
from amphora.health.sender import HeartbeatSender, HeartbeatSettings
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.stats import Backend, Frontend, Stats
from amphora.process import ProcessIdentity, boot_id
from benchmarks.balancers import identifier
from benchmarks.receiver import KEY, Datagram, Receiver

INTERVAL = 10
PARTS = 20
"""Into so many parts an interval is cut."""
FLAPS, FLAP = 10, 0.7
"""How often all members change their state, and seconds from one change to the next."""


@define(eq=False)
class Network:
    """What is between all amphorae and their members."""

    up: bool = True


@frozen
class Amphora:
    """One agent's haproxy, as far as a heartbeat tells of it: a listener, a pool and ten members."""

    number: int
    network: Network

    @property
    def id(self) -> str:
        return identifier("amphora", self.number)

    async def samples(self) -> Sequence[InstanceSample]:
        listener, pool = (identifier(kind, self.number) for kind in ("listener", "pool"))
        state = "UP" if self.network.up else "DOWN"
        members = {identifier("member", 10 * self.number + each): state for each in range(10)}
        frontend = Frontend(listener, "OPEN", 0, 0, 0, 0, 0)
        stats = Stats(1, "2.6.12", (frontend,), (Backend(f"{pool}:{listener}", state, members),))
        return [InstanceSample(listener, stats, ProcessIdentity(1, 1))]


def spread(title: str, datagrams: Sequence[Datagram], begun: float, seconds: float) -> list[str]:
    """Tell when they came: a line for each part of the time, with how many."""
    part = seconds / PARTS
    counts = Counter(min(PARTS - 1, int((each.at - begun) / part)) for each in datagrams)
    most = max(counts.values(), default=1)
    lines = [f"{title}: {len(datagrams):,} heartbeats"]
    for number in range(PARTS):
        bar = "━" * round(40 * counts[number] / most)
        lines.append(f"  {number * part:5.2f} s {counts[number]:6,} {bar}")
    mean = len(datagrams) / PARTS
    lines.append(f"  at most {most:,} in {part:g} s, {most / mean if mean else 0:.1f} times the mean")
    return lines


def busiest(datagrams: Sequence[Datagram], seconds: float) -> int:
    """How many came in the busiest stretch of so many seconds."""
    times = sorted(each.at for each in datagrams)
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def run(number: int, *, quick: bool, report: str | None) -> int:
    """Have so many agents speak to one receiver, and print when it heard them."""
    from twisted.internet import reactor

    # Only what the kernel hands over counts: a receiver that is late would tell of itself.
    lines: list[str] = []
    with TemporaryDirectory() as folder, Receiver() as receiver:

        async def play() -> None:
            try:
                lines.extend(await _play(cast(Any, reactor), number, receiver, Path(folder), 1 if quick else 3))
            finally:
                cast(Any, reactor).stop()

        cast(Any, reactor).callWhenRunning(lambda: Deferred.fromCoroutine(play()).addErrback(_tell))
        cast(Any, reactor).run()
    print(*lines, sep="\n")
    if report:
        Path(report).write_text("\n".join(["```", *lines, "```", ""]), "utf-8")
    return 0 if lines else 1


def _tell(reason: Any) -> None:
    reason.printTraceback()


async def _play(reactor: Any, number: int, receiver: Receiver, folder: Path, intervals: int) -> list[str]:
    network = Network()
    settings = HeartbeatSettings(KEY, (Controller("127.0.0.1", receiver.port),), INTERVAL)
    watchers, senders = [], []
    for each in range(number):
        amphora = Amphora(each, network)
        directory = folder / amphora.id
        directory.mkdir()
        sender = HeartbeatSender(
            reactor=reactor,
            blocking=InThreads(reactor),
            look_ups=InThreads(reactor),
            amphora_id=amphora.id,
            settings=settings,
            samples=amphora.samples,
            counters=Counters(directory, boot_id=boot_id(), agent_started=ProcessIdentity.current().started),
        )
        watchers.append(ChangeWatcher(reactor=reactor, interval=1.0, samples=amphora.samples, changed=sender.beat_now))
        senders.append(sender)
    begun = time.monotonic()
    for service in (*senders, *watchers):
        service.startService()
    lines = [f"{number:,} agents, started together, a heartbeat every {INTERVAL} s"]
    await deferLater(reactor, INTERVAL)
    lines += spread("the first interval", receiver.since(begun), begun, INTERVAL)
    for count in range(intervals):
        since = time.monotonic()
        await deferLater(reactor, INTERVAL)
        lines += spread(f"interval {count + 2}", receiver.since(since), since, INTERVAL)
    since = time.monotonic()
    for _ in range(FLAPS):
        network.up = not network.up
        await deferLater(reactor, FLAP)
    await deferLater(reactor, 2.0)
    heard = receiver.since(since)
    lines.append(
        f"all members of all agents change {FLAPS} times in {FLAPS * FLAP:g} s: {len(heard):,} heartbeats, "
        f"{len(heard) / number:.1f} from each agent; at most {busiest(heard, 1.0) / number:.1f} from each in a second, "
        f"at most {busiest(heard, 0.1):,} of all in 0.1 s"
    )
    await gatherResults([maybeDeferred(service.stopService) for service in (*watchers, *senders)])
    return lines
