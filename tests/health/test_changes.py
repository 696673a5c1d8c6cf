"""Noticing changes between heartbeats."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.health.changes import ChangeWatcher
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.stats import Backend, Frontend, Stats
from amphora.lvs.sample import LvsSample
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Sample

FRONTEND = Frontend("f", "OPEN", 0, 0, 0, 0, 0)
STATS = Stats(1, "2.6", (FRONTEND,), (Backend("p", "UP", {"m": "UP", "n": "no check"}),))


class ChangeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.answers: dict[str, Stats | None] = {"a": STATS}
        self.others: list[LvsSample] = []
        self.failure: Exception | None = None
        self.waiting: Deferred[None] | None = None
        self.changes = 0
        self.watcher = self.new_watcher(phase=0.0)
        self.watcher.startService()
        self.clock.advance(0)

    def new_watcher(self, phase: float) -> ChangeWatcher:
        return ChangeWatcher(
            reactor=self.clock, interval=1.0, samples=self.samples, changed=self.changed, phase=lambda: phase
        )

    def changed(self) -> None:
        self.changes += 1

    async def samples(self) -> list[Sample]:
        if self.waiting is not None:
            await self.waiting
        if self.failure is not None:
            raise self.failure
        instances = [
            InstanceSample(name, stats, None if stats is None else ProcessIdentity(stats.pid, 1))
            for name, stats in self.answers.items()
        ]
        return [*instances, *self.others]

    def changes_after(self, **answers: Stats | None) -> int:
        """How many changes the next look finds, when these are the answers."""
        before = self.changes
        self.answers = dict(answers)
        self.clock.advance(1.0)
        return self.changes - before

    def with_members(self, **members: str) -> Stats:
        return evolve(STATS, backends=(Backend("p", "UP", members),))

    def test_first_look(self) -> None:
        """What is there at the start is no change."""
        self.assertEqual(0, self.changes)
        self.assertEqual(0, self.changes_after(a=STATS))

    def test_figures(self) -> None:
        """Traffic is no change."""
        self.assertEqual(0, self.changes_after(a=evolve(STATS, frontends=(Frontend("f", "OPEN", 5, 6, 7, 8, 9),))))

    def test_member(self) -> None:
        """A member that goes down or comes up is a change, and one only."""
        self.assertEqual(1, self.changes_after(a=self.with_members(m="DOWN", n="no check")))
        self.assertEqual(0, self.changes_after(a=self.with_members(m="DOWN 1/2", n="no check")))
        self.assertEqual(1, self.changes_after(a=self.with_members(m="UP", n="no check")))
        self.assertEqual(1, self.changes_after(a=self.with_members(m="UP")))

    def test_counted_members(self) -> None:
        """Where members are counted and not named, another number of those that take sessions is a change."""
        pool = Backend("p", "UP", {}, usable=600)
        self.changes_after(a=evolve(STATS, backends=(pool,)))
        self.assertEqual(0, self.changes_after(a=evolve(STATS, backends=(pool,))))
        self.assertEqual(1, self.changes_after(a=evolve(STATS, backends=(evolve(pool, usable=599),))))

    def test_pool_and_listener(self) -> None:
        """So is a pool's or a listener's status."""
        self.assertEqual(1, self.changes_after(a=evolve(STATS, backends=(Backend("p", "DOWN", {}),))))
        self.assertEqual(1, self.changes_after(a=evolve(STATS, frontends=(evolve(FRONTEND, status="STOP"),))))

    def test_process(self) -> None:
        """So is another worker, an instance that comes, and one that goes."""
        self.assertEqual(1, self.changes_after(a=evolve(STATS, pid=2)))
        self.assertEqual(1, self.changes_after(a=evolve(STATS, pid=2), b=STATS))
        self.assertEqual(1, self.changes_after(b=STATS))

    def test_udp(self) -> None:
        """A member of a UDP listener that goes down is a change, as that of a haproxy is."""
        answer = Answer({"u": ListenerState("OPEN", 0)}, {"p": PoolState("UP", {"m": "UP"})})
        self.others = [LvsSample("u", answer, ProcessIdentity(9, 9))]
        self.assertEqual(1, self.changes_after(a=STATS))
        self.others = [LvsSample("u", evolve(answer, listeners={"u": ListenerState("OPEN", 7)}), ProcessIdentity(9, 9))]
        self.assertEqual(0, self.changes_after(a=STATS))
        for status in ("RESTARTING", "DOWN"):
            down = evolve(answer, pools={"p": PoolState("UP", {"m": status})})
            self.others = [LvsSample("u", down, ProcessIdentity(9, 9))]
            self.assertEqual(1, self.changes_after(a=STATS))
        self.others = [LvsSample("u")]
        self.assertEqual(0, self.changes_after(a=STATS))

    def test_silence(self) -> None:
        """A haproxy that does not answer has not changed, nor when it answers again as before."""
        self.assertEqual(0, self.changes_after(a=None))
        self.assertEqual(0, self.changes_after(a=STATS))
        self.assertEqual(0, self.changes_after(a=None))
        self.assertEqual(1, self.changes_after(a=evolve(STATS, pid=9)))

    def test_failures(self) -> None:
        """Looks that fail are logged once, and the next one works."""
        self.failure = ValueError("no")
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.failure = None
        self.assertEqual(1, self.changes_after(a=evolve(STATS, pid=2)))

    def test_slow_look(self) -> None:
        """A look that takes long is not overtaken by the next."""
        self.waiting = Deferred()
        self.clock.pump([1.0] * 5)
        waiting, self.waiting = self.waiting, None
        self.answers = {"a": evolve(STATS, pid=2)}
        waiting.callback(None)
        self.assertEqual(1, self.changes)

    def test_phase(self) -> None:
        """The first look waits for a part of an interval; one that is stopped before it leaves nothing scheduled."""
        self.watcher.stopService()
        looks = []

        async def samples() -> list[Sample]:
            looks.append(self.clock.seconds())
            return []

        self.samples = samples  # type: ignore[method-assign]
        begun = self.clock.seconds()
        watcher = self.new_watcher(phase=0.75)
        watcher.startService()
        self.clock.pump([0.25] * 8)
        self.assertEqual([begun + 0.75, begun + 1.75], looks)
        watcher.stopService()
        other = self.new_watcher(phase=0.5)
        other.startService()
        other.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopped(self) -> None:
        """A stopped watcher leaves nothing scheduled, and tells nothing any more."""
        self.watcher.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
