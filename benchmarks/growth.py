"""How the cost of our agent grows with what it looks after: `script/bench --growth`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from amphora.testing.pki import ThrowAwayPKI
from benchmarks.agents import AMPHORA_ID, OURS, Setup
from benchmarks.balancers import Balancer
from benchmarks.table import as_markdown, as_text
from benchmarks.visit import NotDone, visit

MEMBERS = tuple(Balancer(listeners=10, members=number) for number in (10, 100, 1_000, 10_000, 20_000))
LISTENERS = tuple(Balancer(listeners=number, members=1_000) for number in (1, 10, 100, 500))
HEAD = ("members", "listeners", "CPU of a heartbeat", "its size", "members told", "CPU of a look", "memory (PSS)")


@frozen
class Cost:
    """What one load balancer costs; seconds of CPU, and bytes."""

    balancer: Balancer
    heartbeat: float
    size: int
    told: int
    """How many members a heartbeat tells of: all, unless they do not fit a datagram."""
    look: float
    """One look for changes; there is one every second."""
    memory: float

    def cells(self) -> tuple[str, ...]:
        return (
            f"{self.balancer.members:,}",
            f"{self.balancer.listeners:,}",
            f"{self.heartbeat * 1000:.1f} ms",
            f"{self.size:,} B",
            f"{self.told:,}",
            f"{self.look * 1000:.1f} ms",
            f"{self.memory / 1e6:.1f} MB",
        )


def measure(balancer: Balancer, pki: ThrowAwayPKI, seconds: float) -> Cost:
    """
    Measure heartbeats, then looks for changes, each alone.

    @param seconds: For each.
    """
    with visit(OURS, pki, Setup(interval=1, poll=3600)) as here:
        here.serve(balancer)
        time.sleep(3)
        heartbeat = here.cpu_of_a_heartbeat(seconds)
        last = here.receiver.received[-1]
        told = sum(len(pool["members"]) for pool in last.message["pools"].values())
    pause = 0.5
    with visit(OURS, pki, Setup(interval=3600, poll=pause)) as here:
        here.serve(balancer)
        time.sleep(3)
        before = here.cpu()
        time.sleep(seconds)
        look = (here.cpu() - before) / (seconds / pause)
        return Cost(balancer, heartbeat, len(last.data), told, look, here.pss())


def run(*, quick: bool, report: str | None, facts: Sequence[str]) -> int:
    """Measure all sizes and print the table."""
    body: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder:
        pki = ThrowAwayPKI.create(Path(folder), AMPHORA_ID, use_rsa=True)
        for balancer in (*MEMBERS, *LISTENERS):
            print(f"{balancer.members:,} members, {balancer.listeners:,} listeners …", file=sys.stderr, flush=True)
            try:
                body.append(measure(balancer, pki, seconds=5 if quick else 30).cells())
            except NotDone as reason:
                print(f"  not measured: {reason}", file=sys.stderr)
    print(as_text(HEAD, body))
    print(*(f"  {fact}" for fact in facts), sep="\n")
    if report:
        Path(report).write_text("\n".join([as_markdown(HEAD, body), "", *(f"- {fact}" for fact in facts), ""]), "utf-8")
    return 0
