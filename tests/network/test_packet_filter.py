"""Tests for L{amphora.network.packet_filter}: kernel and disk change together, or not at all."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import ensureDeferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.files import beside
from amphora.network.errors import RulesNotReplaced
from amphora.network.nft import NftFailed, NftUndecided
from amphora.network.nftables import FILTER_TABLE, RuleSet
from amphora.network.packet_filter import PacketFilter
from amphora.testing.fake_nft import FakeNft
from amphora.testing.fakes import full_disk
from tests.integration.support import short_directory
from tests.network.ports import EVERY_RULE, PLAIN, SRIOV

RULES = RuleSet(SRIOV.mac, EVERY_RULE)
NONE = RuleSet(SRIOV.mac, ())


class PacketFilterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.nft = FakeNft()
        self.path = short_directory(self) / "rules"
        self.filter = PacketFilter(self.nft, AtOnce(), self.path)

    def replace(self, rules: RuleSet) -> None:
        self.successResultOf(ensureDeferred(self.filter.replace([SRIOV], [SRIOV], rules)))

    def failure(self, rules: RuleSet) -> str:
        replacing = ensureDeferred(self.filter.replace([SRIOV], [SRIOV], rules))
        details: str = self.failureResultOf(replacing, RulesNotReplaced).value.details
        return details

    def next_agent(self) -> list[str]:
        """Another agent finds what this one left.  @return: What it says about it."""
        self.filter = PacketFilter(self.nft, AtOnce(), self.path)
        with capturedLogs() as events:
            self.successResultOf(ensureDeferred(self.filter.load([SRIOV, PLAIN])))
        return [str(event["problem"]) for event in events if event["log_level"] is LogLevel.error]

    def open_ports(self) -> int:
        """How many lines let somebody in, after the filter was put in force."""
        self.successResultOf(ensureDeferred(self.filter.guard([SRIOV])))
        return self.nft.tables[FILTER_TABLE].partition("amphora_vip_chain {")[2].count("accept")

    def test_replace(self) -> None:
        """A rule set takes the place of the one before, for us alone to read, and outlives the agent."""
        self.replace(NONE)
        self.replace(RULES)
        self.assertEqual(0o600, self.path.stat().st_mode & 0o777)
        self.assertEqual(len(EVERY_RULE), self.open_ports())
        self.assertEqual([], self.next_agent())
        self.assertEqual(len(EVERY_RULE), self.open_ports())

    def test_refused(self) -> None:
        """What nft refuses is told in its words, and nothing is changed."""
        self.replace(RULES)
        before = (self.nft.tables, self.path.read_bytes())
        self.nft.refused = "nft: Operation not permitted"
        self.assertEqual(self.nft.refused, self.failure(NONE))
        self.assertEqual(before, (self.nft.tables, self.path.read_bytes()))
        self.assertFalse(beside(self.path).exists())
        self.nft.refused = ""
        self.assertEqual(len(EVERY_RULE), self.open_ports())

    def test_undecided(self) -> None:
        """Where nft is ended, and may have brought the rules in, what was in force is put back."""
        self.replace(RULES)
        before = self.nft.tables[FILTER_TABLE]
        load = FakeNft.load

        async def overdue(nft: FakeNft, script: str) -> None:
            await load(nft, script)
            self.patch(FakeNft, "load", load)
            raise NftUndecided("nft did not end within 10 s")

        self.patch(FakeNft, "load", overdue)
        self.assertIn("did not end", self.failure(NONE))
        self.assertEqual(before, self.nft.tables[FILTER_TABLE])

    def test_full_disk(self) -> None:
        """A disk that does not take them is told, and nothing is changed."""
        self.replace(RULES)
        before = (self.nft.tables, self.path.read_bytes())
        with full_disk(10):
            self.assertIn(str(self.path), self.failure(NONE))
        self.assertEqual(before, (self.nft.tables, self.path.read_bytes()))
        self.assertFalse(beside(self.path).exists())

    def test_no_rename(self) -> None:
        """Where the file cannot take its place the kernel goes back to the old rules."""
        self.path.mkdir()
        self.assertIn("Is a directory", self.failure(RULES))
        self.assertNotIn("amphora_vip_chain", self.nft.tables[FILTER_TABLE])

    def test_lost(self) -> None:
        """Without its file a port is closed, which the log says (A19)."""
        self.assertEqual(["it is not there"], self.next_agent())
        self.assertEqual(0, self.open_ports())
        self.replace(RULES)
        self.path.write_bytes(self.path.read_bytes()[:200])
        (problem,) = self.next_agent()
        self.assertIn("it tells no rules", problem)
        self.assertEqual(0, self.open_ports())
        self.path.unlink()
        self.path.mkdir()
        self.assertEqual(["Is a directory"], self.next_agent())

    def test_nothing_to_guard(self) -> None:
        """Where no port is filtered nobody misses a file, and nft is not asked for a filter."""
        with capturedLogs() as events:
            self.successResultOf(ensureDeferred(self.filter.load([PLAIN, evolve(SRIOV, is_sriov=False)])))
            self.successResultOf(ensureDeferred(self.filter.guard([PLAIN])))
        self.assertEqual(([], 0), (events, self.nft.loads))

    def test_no_nft(self) -> None:
        """Without nft there is one warning; a port that has to be filtered is refused; all is well once it is there."""
        self.nft.refused = "there is no nft: install nftables"
        with capturedLogs() as events:
            for _ in range(3):
                self.successResultOf(ensureDeferred(self.filter.translate([PLAIN])))
        self.assertEqual([self.nft.refused], [event["problem"] for event in events])
        self.assertTrue(self.filter.lacking)
        self.failureResultOf(ensureDeferred(self.filter.guard([SRIOV])), NftFailed)
        self.nft.refused = ""
        self.successResultOf(ensureDeferred(self.filter.translate([PLAIN])))
        self.assertFalse(self.filter.lacking)

    def test_restore(self) -> None:
        """What cannot be put back is told."""
        self.nft.refused = "nft: no"
        with capturedLogs() as events:
            self.successResultOf(ensureDeferred(self.filter.restore([SRIOV])))
        self.assertEqual([LogLevel.error, LogLevel.warn], [event["log_level"] for event in events])
