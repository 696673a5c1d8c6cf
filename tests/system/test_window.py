"""Tests for L{amphora.system.window}."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.system.links import LinkCounters
from amphora.system.window import WINDOW, Bandwidth, CpuTimes, CpuUsage, Sample, Window

BOOT = CpuTimes(total=1000.0, idle=900.0, user=60.0, system=30.0, soft_irq=5.0)
NOTHING = CpuUsage(0.0, 0.0, 0.0, 0.0)


def window_of(*samples: Sample) -> Window:
    window = Window()
    for sample in samples:
        window.add(sample)
    return window


def sample(at: float, links: Mapping[str, LinkCounters] | None = None, cpu: CpuTimes = BOOT) -> Sample:
    return Sample(at, cpu, links or {})


class WindowTests(SynchronousTestCase):
    def test_empty(self) -> None:
        """Without samples nothing is known, and with one no rates are."""
        self.assertEqual((NOTHING, {}, 0.0), (Window().cpu(), Window().networks(), Window().length))
        one = window_of(sample(7.0, {"eth1": LinkCounters(2, 500, 600)}))
        self.assertEqual((NOTHING, {"eth1": Bandwidth(0.0, 0.0)}, 0.0), (one.cpu(), one.networks(), one.length))

    def test_first_half_minute(self) -> None:
        """Until there are thirty seconds, the window is what there is."""
        window = window_of(*(sample(at, {"eth1": LinkCounters(2, int(10 * at), 0)}) for at in (100.0, 100.5)))
        self.assertEqual((0.5, Bandwidth(0.0, 10.0)), (window.length, window.networks()["eth1"]))
        window.add(sample(110.0, {"eth1": LinkCounters(2, 1200, 0)}))
        self.assertEqual((10.0, Bandwidth(0.0, 20.0)), (window.length, window.networks()["eth1"]))

    def test_slides(self) -> None:
        """What is older than thirty seconds counts no more."""
        received = [0, 30000, 30000, 30060]
        window = window_of(*(sample(15.0 * n, {"eth1": LinkCounters(2, each, 0)}) for n, each in enumerate(received)))
        self.assertEqual((WINDOW, Bandwidth(0.0, 2.0)), (window.length, window.networks()["eth1"]))

    def test_pause(self) -> None:
        """After a pause longer than the window, the rate is that of the pause."""
        window = window_of(*(sample(at, {"eth1": LinkCounters(2, int(at), 0)}) for at in (0.0, 2.0, 102.0)))
        self.assertEqual((100.0, Bandwidth(0.0, 1.0)), (window.length, window.networks()["eth1"]))


class CpuTests(SynchronousTestCase):
    def usage(self, **spent: float) -> CpuUsage:
        """What ten seconds of CPU time are told as."""
        times = {name: getattr(BOOT, name) + seconds for name, seconds in spent.items()}
        return window_of(sample(0.0), sample(5.0, cpu=evolve(BOOT, total=1010.0, **times))).cpu()

    def test_shares(self) -> None:
        """Usage is in percent of all CPUs; interrupts and stolen time are in the total."""
        self.assertEqual(
            CpuUsage(total=60.0, user=30.0, system=15.0, soft_irq=5.0),
            self.usage(idle=4.0, user=3.0, system=1.5, soft_irq=0.5),
        )

    def test_idle_and_busy(self) -> None:
        """A machine that does nothing has 0 percent, one that only works 100."""
        self.assertEqual(NOTHING, self.usage(idle=10.0))
        self.assertEqual(CpuUsage(100.0, 100.0, 0.0, 0.0), self.usage(user=10.0))

    def test_set_back(self) -> None:
        """Counters that the kernel sets back make no figure below 0 or above 100."""
        self.assertEqual(CpuUsage(100.0, 0.0, 0.0, 0.0), self.usage(idle=-1.0, user=-2.0, system=-3.0, soft_irq=-4.0))
        back = evolve(BOOT, total=10.0, idle=9.0, user=1.0)
        self.assertEqual(NOTHING, window_of(sample(0.0), sample(5.0, cpu=back)).cpu())


class NetworkTests(SynchronousTestCase):
    def rates(self, *states: Mapping[str, tuple[int, int, int]]) -> dict[str, Bandwidth]:
        """The rates after looks that are two seconds apart: by name, index and bytes received and sent."""
        return window_of(
            *(
                sample(2.0 * number, {name: LinkCounters(*counters) for name, counters in links.items()})
                for number, links in enumerate(states)
            )
        ).networks()

    def test_directions(self) -> None:
        """Each link has its own rates, one for each direction."""
        self.assertEqual(
            {"eth1": Bandwidth(sent=25.0, received=100.0), "eth2": Bandwidth(sent=0.0, received=0.0)},
            self.rates(
                {"eth1": (2, 1000, 50), "eth2": (3, 9, 9)},
                {"eth1": (2, 1100, 100), "eth2": (3, 9, 9)},
                {"eth1": (2, 1400, 150), "eth2": (3, 9, 9)},
            ),
        )

    def test_comes(self) -> None:
        """What a link carried before it was here does not count, and its rate is that of the time since."""
        before: Mapping[str, tuple[int, int, int]] = {}
        self.assertEqual({"eth1": Bandwidth(0.0, 0.0)}, self.rates(before, before, {"eth1": (2, 10**12, 10**12)}))
        self.assertEqual(
            {"eth1": Bandwidth(0.0, 500.0)},
            self.rates(before, before, {"eth1": (2, 10**12, 7)}, {"eth1": (2, 10**12 + 1000, 7)}),
        )

    def test_goes(self) -> None:
        """A link that has gone is not told of."""
        self.assertEqual({}, self.rates({"eth1": (2, 0, 0)}, {"eth1": (2, 1000, 0)}, {}))

    def test_goes_and_comes(self) -> None:
        """A link that was away begins anew."""
        self.assertEqual(
            {"eth1": Bandwidth(0.0, 1.0)},
            self.rates({"eth1": (2, 0, 0)}, {}, {"eth1": (2, 1000, 0)}, {"eth1": (2, 1002, 0)}),
        )

    def test_made_anew(self) -> None:
        """Another link under the same name begins anew, though it may have carried more."""
        self.assertEqual(
            {"eth1": Bandwidth(0.0, 1.0)},
            self.rates({"eth1": (2, 5, 5)}, {"eth1": (9, 10**9, 5)}, {"eth1": (9, 10**9 + 2, 5)}),
        )

    def test_set_back(self) -> None:
        """So does a link whose counters were set back, in either direction."""
        for before in ((2, 900, 0), (2, 0, 900)):
            self.assertEqual(
                {"eth1": Bandwidth(2.0, 1.0)},
                self.rates({"eth1": before}, {"eth1": (2, 0, 0)}, {"eth1": (2, 2, 4)}),
            )
            self.assertEqual({"eth1": Bandwidth(0.0, 0.0)}, self.rates({"eth1": before}, {"eth1": (2, 0, 0)}))

    @given(
        st.lists(st.one_of(st.none(), st.tuples(st.integers(2, 3), st.integers(0, 10**6), st.booleans())), max_size=40)
    )
    def test_never_absurd(self, looks: list[tuple[int, int, bool] | None]) -> None:
        """Whatever links do, no rate is below 0, or above the fastest that there was between two looks."""
        states: list[Mapping[str, tuple[int, int, int]]] = []
        carried = 0
        for look in looks:
            if look is None:
                states.append({})
            else:
                index, more, reset = look
                carried = more if reset else carried + more
                states.append({"eth1": (index, carried, carried)})
        for rate in self.rates(*states).values():
            self.assertTrue(0.0 <= rate.sent == rate.received <= max(look[1] for look in looks if look) / 2.0)
