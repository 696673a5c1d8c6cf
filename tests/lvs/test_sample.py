"""Tests for L{amphora.lvs.sample}."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from amphora.lvs.kernel import Ipvs, Service, parse_table
from amphora.lvs.run import LvsRun
from amphora.lvs.sample import LvsSample, sample_of
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Reading, Traffic
from tests.lvs.samples import LISTENER, POOL, config, member_id, table

KEEPALIVED = ProcessIdentity(70, 1500)

BOTH = table("udp-v4", "udp-v6")
NOBODY = table() + "UDP  0A000002:0035 wrr \nUDP  [2001:0db8:0000:0000:0000:0000:0000:0002]:0035 wrr \n"


def run(name: str, *, settled: bool = True) -> LvsRun:
    """A listener with this configuration, which runs."""
    return LvsRun(LISTENER, config(name), KEEPALIVED, settled)


def said(name: str, text: str, *, settled: bool = True) -> Answer:
    """What is told of it when this is the kernel's table."""
    answer = sample_of(run(name, settled=settled), Ipvs(parse_table(text), {})).answer
    assert answer is not None
    return answer


def pool(name: str, text: str, *, settled: bool = True) -> tuple[str, dict[int, str]]:
    """The status of its pool, and those of the members by their numbers."""
    state = said(name, text, settled=settled).pools[POOL]
    return state.status, {int(member[-1]): status for member, status in state.members.items()}


class PoolTests(SynchronousTestCase):
    """Pools and their members."""

    def test_D7_up(self) -> None:
        """A member that the kernel lists is up, one with weight 0 drains."""
        self.assertEqual(pool("udp", table("udp-v4")), ("UP", {1: "UP", 2: "DRAIN"}))
        self.assertEqual(pool("udp-v6", table("udp-v6")), ("UP", {3: "UP", 4: "UP"}))

    def test_D7_unchecked(self) -> None:
        """One that is not checked is said not to be, but drains with weight 0 as well."""
        for name in ("udp-unchecked", "udp-monitor-disabled"):
            self.assertEqual(pool(name, table("udp-v4")), ("UP", {1: "no check", 2: "DRAIN"}))

    def test_D7_down(self) -> None:
        """A member that the kernel does not list is down, while a pool is up that has others."""
        self.assertEqual(pool("udp-v6", table("udp-v6-one")), ("UP", {3: "UP", 4: "DOWN"}))

    def test_D7_all_down(self) -> None:
        """Checked members that are all missing are down, and so is their pool, with or without its service."""
        for text in (NOBODY, table(), table("udp-v4-second")):
            self.assertEqual(pool("udp", text), ("DOWN", {1: "DOWN", 2: "DOWN"}))

    def test_D7_none_listed_unchecked(self) -> None:
        """Members that nobody checks are not down where the kernel lists none: that is not known."""
        self.assertEqual(pool("udp-unchecked", NOBODY), ("UP", {1: "no check", 2: "no check"}))

    def test_D7_one_missing_unchecked(self) -> None:
        """Where it lists others, one that is missing is down, checked or not."""
        text = table("udp-v4").replace("0A000063", "0A000064")
        self.assertEqual(pool("udp-unchecked", text), ("UP", {1: "DOWN", 2: "DRAIN"}))

    def test_D7_restarting(self) -> None:
        """Until keepalived has applied a configuration, a member that is not listed is not down, nor is its pool."""
        self.assertEqual(pool("udp-v6", table("udp-v6-one"), settled=False), ("UP", {3: "UP", 4: "RESTARTING"}))
        self.assertEqual(pool("udp", table(), settled=False), ("UP", {1: "RESTARTING", 2: "RESTARTING"}))
        self.assertEqual(pool("udp-unchecked", table(), settled=False), ("UP", {1: "no check", 2: "no check"}))

    def test_D7_dual_stack(self) -> None:
        """The members of both families are in one pool, which is up while either has any."""
        self.assertEqual(
            pool("udp-dual", BOTH), ("UP", {1: "UP", 2: "DRAIN", 5: "MAINT", 3: "UP", 4: "UP", 6: "MAINT"})
        )
        self.assertEqual(
            pool("udp-dual", table("udp-v6")),
            ("UP", {1: "DOWN", 2: "DOWN", 5: "MAINT", 3: "UP", 4: "UP", 6: "MAINT"}),
        )
        self.assertEqual(pool("udp-dual", NOBODY)[0], "DOWN")
        self.assertEqual(pool("udp-dual-one-family", BOTH), ("UP", {1: "UP", 2: "DRAIN"}))

    def test_D7_disabled_member(self) -> None:
        """A disabled member is in maintenance, whatever the kernel says."""
        for text, status in ((table("udp-v4"), "UP"), (table(), "DOWN")):
            self.assertEqual(pool("udp-member-disabled", text), (status, {1: status, 2: "MAINT"}))

    def test_D7_many_vips(self) -> None:
        """A member is up if any of its family's services lists it."""
        self.assertEqual(
            pool("udp-many-vips", table("udp-v4-second", "udp-v6-second")),
            ("UP", {1: "UP", 2: "DRAIN", 3: "UP", 4: "DOWN"}),
        )

    def test_D7_empty(self) -> None:
        """A pool without members is up and empty."""
        self.assertEqual(pool("udp-empty-pool", table()), ("UP", {}))

    def test_D7_no_pool(self) -> None:
        """No pool is told where there is none, it is disabled, or its load balancer is; the listener is."""
        for name in ("udp-no-pool", "udp-pool-disabled", "udp-load-balancer-disabled"):
            self.assertEqual(said(name, BOTH).pools, {})
            self.assertEqual(said(name, table()).listeners, {LISTENER: ListenerState("OPEN", 0)})

    def test_protocols(self) -> None:
        """A service of another protocol at the same address is another's."""
        self.assertEqual(pool("sctp", BOTH)[0], "DOWN")
        self.assertEqual(pool("sctp", BOTH.replace("UDP", "SCTP"))[1], {1: "UP", 2: "DRAIN", 3: "UP", 4: "UP"})


class ListenerTests(SynchronousTestCase):
    """Listeners and their figures."""

    services = tuple(Service("UDP", ip, 53) for ip in ("10.0.0.2", "10.1.0.2", "2001:db8::2", "2001:db8:0:1::2"))

    def counted(self, *services: Service) -> Ipvs:
        """All four services, of which these can be told what they carried: 1, 10, 100 and 1000 times as much."""
        counters = {
            service: Traffic(tx=3 * 10**number, rx=2 * 10**number, totconns=10**number)
            for number, service in enumerate(self.services)
            if service in services
        }
        return Ipvs(parse_table(table("udp-v4", "udp-v4-second", "udp-v6", "udp-v6-second")), counters)

    def test_whole(self) -> None:
        """A listener is open; its figures are those of all its addresses, of both families."""
        sample = sample_of(run("udp-many-vips"), self.counted(*self.services))
        assert sample.answer is not None
        self.assertEqual(sample.answer.listeners, {LISTENER: ListenerState("OPEN", 7 + 30 + 100 + 1000)})
        traffic = Traffic(tx=3333, rx=2222, totconns=1111)
        self.assertEqual(sample.readings, (Reading(KEEPALIVED, {LISTENER: traffic}, outlasting=True),))
        self.assertEqual((sample.source_id, sample.name), (LISTENER, f"keepalived of {LISTENER}"))

    def test_others_services(self) -> None:
        """What belongs to other listeners is not counted."""
        sample = sample_of(run("udp"), self.counted(*self.services))
        self.assertEqual(sample.traffic, Traffic(tx=3, rx=2, totconns=1))

    def test_uncounted(self) -> None:
        """Where the counters of one service are missing, none are told: what is there is told all the same."""
        for ipvs in (self.counted(*self.services[:-1]), evolve(self.counted(), counters=None, problem="no")):
            sample = sample_of(run("udp-many-vips"), ipvs)
            self.assertEqual((sample.traffic, sample.readings), (None, ()))
            self.assertEqual(sample.answer, sample_of(run("udp-many-vips"), self.counted(*self.services)).answer)

    def test_not_set_up_yet(self) -> None:
        """A service that the kernel does not have carried nothing."""
        self.assertEqual(sample_of(run("udp"), Ipvs({}, {})).traffic, Traffic())

    def test_disabled(self) -> None:
        """A disabled listener is not spoken of."""
        self.assertEqual(said("udp-disabled", BOTH), Answer({}, {}))

    def test_silent(self) -> None:
        """One whose keepalived is gone has no answer, nor has any while the kernel has none."""
        gone = evolve(run("udp"), process=None)
        self.assertEqual(sample_of(gone, self.counted(*self.services)), LvsSample(LISTENER))
        self.assertEqual(sample_of(run("udp"), None), LvsSample(LISTENER))

    def test_pool_key(self) -> None:
        """A pool is told by its own id alone."""
        expected = {POOL: PoolState("UP", {member_id(1): "UP", member_id(2): "DRAIN"})}
        self.assertEqual(said("udp", table("udp-v4")).pools, expected)
