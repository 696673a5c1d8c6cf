"""The stand-in for nft does what the real one does; see `tests.integration.test_nftables`."""

from __future__ import annotations

from amphora.testing.fake_nft import FakeNft
from tests.network.nft_contract import NftContract


class FakeNftTests(NftContract):
    def setUp(self) -> None:
        self.fake = FakeNft()
        self.nft = self.fake

    def tables(self) -> set[str]:
        return set(self.fake.tables)


del NftContract
