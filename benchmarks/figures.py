"""
The figures: what each is, its goal, and how it is measured.

Figures that can share one start of an agent do; a L{Group} is such a start.  A measurement is a number or, where the
agent cannot do what is measured, the words that the table has in its place.
"""

from __future__ import annotations

import math
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Literal

from attrs import frozen

from amphora.testing.pki import ThrowAwayPKI
from benchmarks.agents import PORT, Agent, Setup
from benchmarks.balancers import Balancer, identifier
from benchmarks.client import Outcome
from benchmarks.receiver import Datagram, until
from benchmarks.visit import NotDone, Visit, visit

Measured = float | str
Unit = Literal["MB", "s", "ms", "/s"]


@frozen
class Figure:
    """One line of the table."""

    name: str
    title: str
    unit: Unit
    goal: float | None
    """Ours divided by the reference's: at most that, or at least for what there should be much of."""
    more_is_better: bool = False
    alone: float | None = None
    """What ours has to keep to where the reference cannot do it at all."""


@frozen
class Scale:
    """How much is done for a figure; times in seconds."""

    settle: float
    """For an agent to come to rest."""
    load: float
    """For each kind of load."""
    idle: float
    requests: int
    """After which memory is read again."""
    changes: int
    rounds: float
    """For heartbeats that follow each other in a second or two."""
    strangers: int
    checks: int


FULL = Scale(settle=10, load=10, idle=60, requests=10_000, changes=5, rounds=60, strangers=500, checks=20)
QUICK = Scale(settle=3, load=2, idle=10, requests=1_000, changes=2, rounds=8, strangers=500, checks=10)

SMALL = Balancer(listeners=1, members=10)
_MEMBER = 3
"""Of those the one whose state is changed."""
LARGE = Balancer(listeners=100, members=10_000)
FITTING = Balancer(listeners=100, members=2_000)
"""Its heartbeat fits a datagram, the reference's too."""

FIGURES = (
    Figure("memory-idle", "memory (PSS), idle", "MB", 0.42),
    Figure("memory-used", "memory (PSS), after requests", "MB", 0.35),
    Figure("first-heartbeat", "start to first heartbeat", "s", 0.5),
    Figure("first-answer", "start to first API answer", "s", 0.5),
    Figure("new-connections", "GET /, a new connection each", "/s", 3, more_is_better=True),
    Figure("kept-alive", "GET /, connections kept alive", "/s", 20, more_is_better=True),
    Figure("details", "GET details, a new connection each", "/s", 15, more_is_better=True),
    Figure("idle-cpu", "CPU in an idle hour", "s", 1.0),
    Figure("change", "a member's change to the controller", "s", 0.2),
    Figure("strangers", "API p99 while 500 strangers stall", "ms", None, alone=1000),
    Figure("heartbeat-cpu", "CPU of a heartbeat, 10,000 members", "ms", 0.15),
    Figure("lateness", "heartbeat lateness p99, API loaded, 10,000 members", "ms", None, alone=500),
    Figure("lateness-fitting", "the same with 2,000 members", "ms", 0.2),
    Figure("upload-cpu", "CPU of upload and reload, 10,000 members", "s", 0.5),
    Figure("check-script", "VRRP check script, one run", "ms", 0.3),
)

Notes = dict[str, list[Outcome]]
"""By figure: what the load's clients told, for their own cost."""


@frozen
class Course:
    """What a group is given, and where it puts what it has learnt."""

    agent: Agent
    pki: ThrowAwayPKI
    scale: Scale
    wanted: frozenset[str]
    measured: dict[str, Measured]
    outcomes: Notes

    def wants(self, *names: str) -> bool:
        return not self.wanted.isdisjoint(names)

    def take(self, name: str, measure: Callable[[], Measured]) -> None:
        """Measure one figure, if it is wanted."""
        if self.wants(name):
            try:
                self.measured[name] = measure()
            except NotDone as reason:
                self.measured[name] = str(reason)

    def per_second(self, name: str, here: Visit, path: str, *, keep: bool = False) -> None:
        """Measure how many requests are answered in a second."""

        def measure() -> Measured:
            outcome = here.load(path, seconds=self.scale.load, keep=keep)
            self.outcomes.setdefault(name, []).append(outcome)
            if not outcome["requests"]:
                return f"no answer: {', '.join(outcome['errors'])}"
            return outcome["requests"] / outcome["seconds"]

        self.take(name, measure)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def small(course: Course) -> None:
    """One load balancer with ten members, and the defaults of the configuration."""
    scale = course.scale
    with visit(course.agent, course.pki) as here:

        def first_heartbeat() -> float:
            return _next(here, 0, patience=30).at - here.launched

        course.take("first-answer", lambda: here.answered - here.launched)
        course.take("first-heartbeat", first_heartbeat)
        if not course.wants(
            *("memory-idle", "memory-used", "new-connections", "kept-alive", "details", "idle-cpu", "change"),
            "strangers",
        ):
            return
        here.serve(SMALL)
        time.sleep(scale.settle)
        course.take("memory-idle", lambda: here.pss() / 1e6)

        def idle() -> float:
            before, begun = here.cpu(), time.monotonic()
            time.sleep(scale.idle)
            return (here.cpu() - before) / (time.monotonic() - begun) * 3600

        course.take("idle-cpu", idle)
        course.take("change", lambda: _change(here, scale.changes))
        course.per_second("new-connections", here, "/")
        course.per_second("kept-alive", here, "/", keep=True)
        course.per_second("details", here, "/1.0/details")

        def used() -> float:
            here.load("/", seconds=600, requests=scale.requests)
            return here.pss() / 1e6

        course.take("memory-used", used)
        course.take("strangers", lambda: _among_strangers(here, scale))


def _next(here: Visit, number: int, patience: float) -> Datagram:
    """
    Wait for the first heartbeat after so many.

    @raise NotDone: if none comes.
    """
    received = here.receiver.received
    if not until(lambda: len(received) > number, patience):
        raise NotDone("no heartbeat came")
    return received[number]


def _change(here: Visit, times: int) -> float:
    """
    Seconds from a member's change in haproxy to the heartbeat that tells it, on the average.

    The changes come at even distances within the interval of the heartbeats, so that none of its parts counts more.
    """
    interval = Setup().interval
    took = []
    for number in range(times):
        last = _next(here, len(here.receiver.received), 3 * interval)
        time.sleep(max(0.0, last.at + (number + 0.5) / times * interval - time.monotonic()))
        state, word = ("maint", "MAINT") if number % 2 == 0 else ("ready", "UP")
        heard, changed = len(here.receiver.received), time.monotonic()
        here.set_member(SMALL, _MEMBER, state)
        while not _member_state(each := _next(here, heard, 3 * interval)).startswith(word):
            heard += 1
        took.append(each.at - changed)
    return sum(took) / len(took)


def _member_state(heartbeat: Datagram) -> str:
    pool: Mapping[str, Mapping[str, str]] = heartbeat.message["pools"].get(SMALL.backend(0), {"members": {}})
    return pool["members"].get(identifier("member", _MEMBER), "")


def _among_strangers(here: Visit, scale: Scale) -> Measured:
    """Milliseconds that one answer in a hundred takes longer than, while connections are open that say nothing."""
    with ExitStack() as strangers:
        for _ in range(scale.strangers):
            strangers.enter_context(socket.create_connection(("127.0.0.1", PORT), 10))
        outcome = here.load("/", seconds=scale.load, timeout=5)
    if not outcome["requests"]:
        return f"no answer within 5 s ({', '.join(outcome['errors'])})"
    if outcome["errors"]:
        return f"{sum(outcome['errors'].values())} of {outcome['requests']} got no answer"
    return outcome["p99"] * 1000


def heartbeat_cpu(course: Course) -> None:
    """10,000 members; ours is told to look for changes once an hour, so that nothing but heartbeats is measured."""
    with visit(course.agent, course.pki, Setup(interval=1, poll=3600)) as here:
        here.serve(LARGE)
        time.sleep(course.scale.settle)
        course.measured["heartbeat-cpu"] = here.cpu_of_a_heartbeat(course.scale.rounds) * 1000


def _lateness(course: Course, name: str, balancer: Balancer) -> None:
    """Seconds that heartbeats come after their time, which is an interval after the last, while the API is loaded."""
    interval = 1
    with visit(course.agent, course.pki, Setup(interval=interval)) as here:
        here.serve(balancer)
        time.sleep(course.scale.settle)
        begun = time.monotonic()
        outcome = here.load("/", seconds=course.scale.rounds, keep=True)
        course.outcomes.setdefault(name, []).append(outcome)
        heard = [each.at for each in here.receiver.since(begun)]
        if len(heard) < 3:
            raise NotDone(
                "sends none: too large for a datagram"
                if not heard
                else f"sent {len(heard)} in {course.scale.rounds:g} s"
            )
        gaps = (after - before for before, after in pairwise(heard))
        course.measured[name] = percentile((max(0.0, gap - interval) for gap in gaps), 0.99) * 1000


def lateness(course: Course) -> None:
    _lateness(course, "lateness", LARGE)


def lateness_fitting(course: Course) -> None:
    _lateness(course, "lateness-fitting", FITTING)


def upload(course: Course) -> None:
    """The agent's own CPU, from the first byte of the upload to the answer that the reload is done."""
    with visit(course.agent, course.pki) as here:
        here.serve(LARGE)
        time.sleep(course.scale.settle)
        before = here.cpu()
        here.upload(LARGE, "again")
        here.act(LARGE, "reload")
        course.measured["upload-cpu"] = here.cpu() - before


_KEEPALIVED = b"""\
vrrp_script check_script {
    script /var/lib/octavia/vrrp/check_script.sh
    interval 5
    fall 2
    rise 2
}
vrrp_instance one {
    state BACKUP
    interface eth1
    virtual_router_id 1
    priority 100
    authentication {
        auth_type PASS
        auth_pass 1234567
    }
    virtual_ipaddress {
        192.0.2.1
    }
    track_script {
        check_script
    }
}
"""


def check_script(course: Course) -> None:
    """What keepalived runs every few seconds, as each agent installs it, for one load balancer: CPU, all told."""
    with visit(course.agent, course.pki, Setup(topology="ACTIVE_STANDBY")) as here:
        here.ask("PUT", "/1.0/vrrp/upload", _KEEPALIVED)
        here.serve(SMALL)
        time.sleep(course.scale.settle)
        ran = here.cage.run([course.agent.vrrp_check], course.scale.checks)
        if ran.status:
            raise NotDone(f"fails with {ran.status}")
        course.measured["check-script"] = ran.cpu * 1000


GROUPS: tuple[tuple[Callable[[Course], None], tuple[str, ...]], ...] = (
    (
        small,
        tuple(
            figure.name
            for figure in FIGURES
            if figure.name not in ("heartbeat-cpu", "lateness", "lateness-fitting", "upload-cpu", "check-script")
        ),
    ),
    (heartbeat_cpu, ("heartbeat-cpu",)),
    (lateness, ("lateness",)),
    (lateness_fitting, ("lateness-fitting",)),
    (upload, ("upload-cpu",)),
    (check_script, ("check-script",)),
)


def measure(
    agent: Agent, pki: ThrowAwayPKI, scale: Scale, wanted: Collection[str], outcomes: Notes
) -> Mapping[str, Measured]:
    """Measure an agent once."""
    measured: dict[str, Measured] = {}
    for group, names in GROUPS:
        course = Course(agent, pki, scale, frozenset(names) & frozenset(wanted), measured, outcomes)
        if course.wanted:
            try:
                group(course)
            except Exception as problem:
                # An hour's figures are not lost for one that could not be had.
                if not isinstance(problem, NotDone):
                    traceback.print_exc()
                for name in course.wanted:
                    measured.setdefault(name, str(problem))
    return measured
