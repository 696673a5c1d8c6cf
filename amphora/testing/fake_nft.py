"""
A stand-in for nft: it keeps tables, and refuses what the test says, in its words.

What it does is tried on the real one as well, by `tests/integration/test_nftables.py`.
"""

from __future__ import annotations

import re

from attrs import define, field
from twisted.internet.defer import Deferred

from amphora.network.nft import NftFailed

_STATEMENT = re.compile(r"(?P<delete>delete )?table (?P<table>\S+ \S+)(?: (?P<body>\{\n(?: .*\n)*\}))?\n")


@define(eq=False)
class FakeNft:
    """An L{amphora.network.nft.Nft}."""

    tables: dict[str, str] = field(factory=dict)
    """What is in each table, by its family and name."""
    refused: str = ""
    """Why nothing is taken."""
    loads: int = 0
    stuck: Deferred[None] | None = None
    """A check takes until this fires."""

    async def check(self, script: str) -> None:
        if self.stuck is not None:
            await self.stuck
        self._carried_out(script)

    async def load(self, script: str) -> None:
        self.tables = self._carried_out(script)
        self.loads += 1

    def _carried_out(self, script: str) -> dict[str, str]:
        if self.refused:
            raise NftFailed(self.refused)
        tables = dict(self.tables)
        position = 0
        while position < len(script):
            statement = _STATEMENT.match(script, position)
            if statement is None:
                raise NftFailed("nft: syntax error")
            table = statement["table"]
            if statement["delete"] and table not in tables:
                raise NftFailed("nft: No such file or directory")
            if statement["delete"]:
                del tables[table]
            else:
                tables[table] = tables.get(table, "") + (statement["body"] or "")
            position = statement.end()
        return tables
