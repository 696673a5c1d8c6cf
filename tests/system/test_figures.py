"""Tests for L{amphora.system.figures}: when is read what, on a clock and with readings of the test's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve
from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from amphora.blocking import AtOnce, BlockingCalls
from amphora.process import ProcessIdentity
from amphora.system.figures import INTERVAL, SHORTEST, Figures, Meter
from amphora.system.links import LinkCounters
from amphora.system.machine import Disk, Haproxies, Machine, Memory
from amphora.system.window import Bandwidth, CpuTimes, CpuUsage
from amphora.testing.fakes import CallsLater

RATE = 1000
"""Bytes per second that the test's link receives."""

MACHINE = Machine(
    cpu_count=2,
    load=(0.5, 0.25, 0.125),
    memory=Memory(1, 2, 3, 4, 5, 6, 7, 8, 9),
    disk=Disk(1, 2),
    haproxies=Haproxies(0, 0, 0),
    agent_memory=1,
    certificates_in_memory=True,
)


class MeterTestCase(SynchronousTestCase):
    """A meter on a machine whose two CPUs are busy half of the time, a link that carries RATE, and a count of looks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_003.5)
        self.haproxies: list[ProcessIdentity] = []
        self.sampled: list[float] = []
        self.looked: list[float] = []
        self.failure: Exception | None = None
        self.meter = self.new_meter(AtOnce())

    def new_meter(self, blocking: BlockingCalls) -> Meter:
        return Meter(
            reactor=self.clock,
            blocking=blocking,
            haproxies=lambda: self.haproxies,
            read_cpu_times=self.read_cpu_times,
            read_links=self.read_links,
            read_machine=self.read_machine,
        )

    def read_cpu_times(self) -> CpuTimes:
        now = self.clock.seconds()
        return CpuTimes(total=2 * now, idle=now, user=0.5 * now, system=0.25 * now, soft_irq=0.25 * now)

    def read_links(self) -> Mapping[str, LinkCounters]:
        self.sampled.append(self.clock.seconds())
        if self.failure is not None:
            raise self.failure
        return {"eth1": LinkCounters(2, int(RATE * self.clock.seconds()), 0)}

    def read_machine(self, haproxies: Sequence[ProcessIdentity]) -> Machine:
        self.looked.append(self.clock.seconds())
        return evolve(MACHINE, haproxies=Haproxies(len(haproxies), 0, 0))

    def read(self) -> Figures:
        return self.successResultOf(self.meter.read())

    def ages(self, moments: list[float]) -> list[float]:
        """How many seconds ago something was done."""
        return [self.clock.seconds() - moment for moment in moments]


class ReadingTests(MeterTestCase):
    """What is answered, and how much is done for it."""

    def test_service(self) -> None:
        """It is a service."""
        verifyObject(IService, self.meter)

    def test_first(self) -> None:
        """Half a second after the start, the rates are those of this half second."""
        self.meter.startService()
        self.clock.advance(SHORTEST)
        figures = self.read()
        self.assertEqual(CpuUsage(total=50.0, user=25.0, system=12.5, soft_irq=12.5), figures.cpu)
        self.assertEqual({"eth1": Bandwidth(sent=0.0, received=RATE)}, figures.networks)
        self.assertEqual(MACHINE, figures.machine)

    def test_too_early(self) -> None:
        """Who asks earlier waits for that."""
        self.meter.startService()
        self.clock.advance(0.125)
        asking = self.meter.read()
        self.clock.advance(SHORTEST - 0.125)
        self.assertNoResult(asking)
        self.clock.advance(0.125)
        self.assertEqual(RATE, self.successResultOf(asking).networks["eth1"].received)

    def test_samples(self) -> None:
        """Once an interval the counters are sampled, and nothing else is read while nobody asks."""
        self.meter.startService()
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual([3 * INTERVAL, 2 * INTERVAL, INTERVAL, 0.0], self.ages(self.sampled))
        self.assertEqual([], self.looked)

    def test_slides(self) -> None:
        """A burst is told for thirty seconds, and no longer."""
        burst = 0

        def read_links() -> Mapping[str, LinkCounters]:
            return {"eth1": LinkCounters(2, burst, 0)}

        self.read_links = read_links  # type: ignore[method-assign]
        self.meter = self.new_meter(AtOnce())
        self.meter.startService()
        self.clock.pump([INTERVAL] * 30)
        burst = 30_000
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual(1000.0, self.read().networks["eth1"].received)
        self.clock.advance(INTERVAL)
        self.assertEqual(0.0, self.read().networks["eth1"].received)

    def test_sampled_when_asked(self) -> None:
        """The last sample is taken when somebody asks, unless the last one is younger than half a second."""
        self.meter.startService()
        self.clock.advance(1.0)
        self.read()
        self.assertEqual([1.0, 0.0], self.ages(self.sampled))
        self.clock.advance(INTERVAL - 1.0)
        self.clock.advance(0.25)
        self.read()
        self.assertEqual([INTERVAL + 0.25, INTERVAL - 0.75, 0.25], self.ages(self.sampled))
        self.assertEqual([INTERVAL - 0.75, 0.0], self.ages(self.looked))

    def test_kept(self) -> None:
        """However many ask, the machine is looked at twice a second."""
        self.meter.startService()
        self.clock.advance(1.0)
        for _ in range(100):
            self.read()
            self.clock.advance(0.0625)
        self.assertEqual(13, len(self.looked))
        self.assertLessEqual(len(self.sampled), 14)

    def test_current(self) -> None:
        """What runs when somebody asks is looked at."""
        self.meter.startService()
        self.clock.advance(1.0)
        self.assertEqual(0, self.read().machine.haproxies.workers)
        self.haproxies = [ProcessIdentity(1, 1), ProcessIdentity(2, 1)]
        self.clock.advance(SHORTEST)
        self.assertEqual(2, self.read().machine.haproxies.workers)


class ThreadTests(MeterTestCase):
    """Readings are made in threads, and may take their time."""

    def setUp(self) -> None:
        super().setUp()
        self.calls = CallsLater()
        self.meter = self.new_meter(self.calls)
        self.meter.startService()
        self.calls.make_all()
        self.clock.advance(1.0)

    def test_shared(self) -> None:
        """Those who ask while the machine is looked at share the look, however long it takes."""
        asking = [self.meter.read() for _ in range(5)]
        self.assertEqual(1, self.calls.waiting)
        self.calls.make_one()
        self.clock.advance(10.0)
        self.calls.make_all()
        self.assertEqual(1, len({id(self.successResultOf(each)) for each in asking}))
        self.assertEqual(1, len(self.looked))

    def test_gone(self) -> None:
        """A client that goes away takes nothing from those who ask with it."""
        first, second, third = (self.meter.read() for _ in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.calls.make_all()
        self.assertEqual(MACHINE, self.successResultOf(third).machine)

    def test_slow_sample(self) -> None:
        """A sample that takes long is not overtaken by the next."""
        self.clock.pump([INTERVAL] * 5)
        self.assertEqual(1, self.calls.waiting)
        self.calls.make_all()
        self.clock.advance(INTERVAL)
        self.assertEqual(1, self.calls.waiting)

    def test_stop(self) -> None:
        """A meter that is stopped ends what it reads, and leaves nothing scheduled."""
        asking = self.meter.read()
        stopped = self.meter.stopService()
        self.assertNoResult(stopped)
        self.calls.make_all()
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(MACHINE, self.successResultOf(asking).machine)
        self.assertEqual([], self.clock.getDelayedCalls())


class TroubleTests(MeterTestCase):
    """What cannot be read."""

    def logged(self, act: Callable[[], object]) -> list[tuple[LogLevel, str]]:
        """What is logged meanwhile."""
        with capturedLogs() as events:
            act()
        return [(event["log_level"], str(event.get("problem", ""))) for event in events]

    def test_no_namespace(self) -> None:
        """Networks that cannot be read are not told of, which is logged once; all else is."""
        self.meter.startService()
        self.failure = FileNotFoundError(2, "No such file or directory", "/run/netns/amphora-haproxy")
        ((level, problem),) = self.logged(lambda: self.clock.pump([INTERVAL] * 3))
        self.assertEqual((LogLevel.error, str(self.failure)), (level, problem))
        figures = self.read()
        self.assertEqual(({}, 50.0, MACHINE), (figures.networks, figures.cpu.total, figures.machine))

    def test_namespace_again(self) -> None:
        """When they can be read again their figures come back, which is logged, without what was missed."""
        self.meter.startService()
        self.failure = OSError(22, "Invalid argument")
        self.clock.advance(INTERVAL)
        self.failure = None
        ((level, _),) = self.logged(lambda: self.clock.advance(INTERVAL))
        self.assertEqual(LogLevel.info, level)
        self.assertEqual({"eth1": Bandwidth(0.0, 0.0)}, self.read().networks)
        self.clock.advance(SHORTEST)
        self.assertEqual({"eth1": Bandwidth(0.0, RATE)}, self.read().networks)

    def test_unforeseen(self) -> None:
        """A fault of the program is logged once, told to those who ask, and over when it is."""
        self.meter.startService()
        self.failure = ValueError("a fault")
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.failureResultOf(self.meter.read(), ValueError)
        self.failure = None
        self.clock.advance(INTERVAL)
        self.assertEqual(RATE, self.read().networks["eth1"].received)

    def test_never_stopped_by_it(self) -> None:
        """Stopping works whatever was wrong."""
        self.failure = ValueError("a fault")
        self.meter.startService()
        self.flushLoggedErrors(ValueError)
        stopped: Deferred[None] = self.meter.stopService()
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual([], self.clock.getDelayedCalls())
