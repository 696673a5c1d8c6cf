"""What the packet filter relies on of nft: tried on the real one and on the one that takes its place in tests."""

from __future__ import annotations

from abc import abstractmethod

from twisted.trial.unittest import TestCase

from amphora.network.nft import Nft, NftFailed
from amphora.network.nftables import FILTER_TABLE, RuleSet, filter_script, translation_script
from amphora.network.plan import Port
from tests.network.ports import EVERY_RULE, PLAIN, SRIOV

TRANSLATIONS = {"ip octavia-ipv4", "ip6 octavia-ipv6"}


class NftContract(TestCase):
    """Subclasses say what nft is, and what tables there are."""

    nft: Nft

    @abstractmethod
    def tables(self) -> set[str]:
        """The tables' families and names."""

    async def guard(self, *ports: Port) -> None:
        script = filter_script(ports, RuleSet(SRIOV.mac, EVERY_RULE))
        assert script is not None
        await self.nft.load(script)

    async def test_filter(self) -> None:
        """The filter is taken, again and again, and taken away by the translation of ports that need none."""
        await self.guard(SRIOV)
        await self.guard(SRIOV, PLAIN)
        self.assertEqual({FILTER_TABLE}, self.tables())
        await self.nft.load(translation_script([PLAIN]))
        await self.nft.load(translation_script([PLAIN]))
        self.assertEqual(TRANSLATIONS, self.tables())

    async def test_translation(self) -> None:
        """The translation leaves a filter that is needed, and goes with the last port."""
        await self.guard(SRIOV)
        await self.nft.load(translation_script([SRIOV, PLAIN]))
        self.assertEqual({FILTER_TABLE, *TRANSLATIONS}, self.tables())
        await self.nft.load(translation_script([]))
        self.assertEqual(set(), self.tables())

    async def test_check(self) -> None:
        """A check changes nothing."""
        await self.nft.check(translation_script([PLAIN]))
        self.assertEqual(set(), self.tables())

    async def test_refused(self) -> None:
        """What is wrong at its end is refused as a whole."""
        await self.nft.load(translation_script([PLAIN]))
        for wrong in ("garbage\n", "delete table inet nobody\n"):
            for work in (self.nft.check, self.nft.load):
                with self.assertRaises(NftFailed) as caught:
                    await work(translation_script([]) + wrong)
                self.assertIn("nft: ", str(caught.exception))
            self.assertEqual(TRANSLATIONS, self.tables())
