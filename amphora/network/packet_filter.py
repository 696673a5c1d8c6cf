"""
The packet filter of SR-IOV ports and the address translation of all, as the kernel and the disk have them.

The file is the last rule set that was in force.  Of it only what the controller sent is read back, in one piece or not
at all; a filter without rules is closed, so nothing that happens to the file opens a port.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attrs import define, field
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import beside, rename_synced, write_synced
from amphora.network import nftables
from amphora.network.errors import RulesNotReplaced
from amphora.network.nft import Nft, NftFailed, NftUndecided
from amphora.network.nftables import RuleSet
from amphora.network.plan import Port


@define(eq=False)
class PacketFilter:
    """One call at a time: they are of jobs of one queue."""

    _log = Logger()

    _nft: Nft
    _blocking: BlockingCalls
    _path: Path
    _rules: RuleSet | None = field(init=False, default=None)
    _problem: str | None = field(init=False, default=None)
    """Why there is no translation."""

    @property
    def lacking(self) -> bool:
        """Did the translation fail when it was last to be made?"""
        return self._problem is not None

    async def load(self, ports: Iterable[Port]) -> None:
        """
        Read the rules that were last in force.

        Where that fails, the log tells it, and nothing is let in until there are rules again.
        """
        try:
            self._rules = nftables.read_stored_rules(await self._blocking.run(self._path.read_bytes))
        except FileNotFoundError:
            problem = "it is not there"
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError as error:
            problem = str(error)
        else:
            return
        closed = [port.name for port in ports if nftables.is_filtered(port)]
        if closed:
            self._log.error(
                "The rules of {interfaces} cannot be read, {path}: {problem}. "
                "No connection is let in until the controller sends them again",
                interfaces=", ".join(closed),
                path=str(self._path),
                problem=problem,
            )

    async def guard(self, ports: Iterable[Port]) -> None:
        """
        Have the filter of these ports in force: for one that is to come up, before it does.

        @raise NftFailed: what was in force still is.
        """
        script = nftables.filter_script(ports, self._rules)
        if script is not None:
            await self._nft.load(script)

    async def translate(self, ports: Iterable[Port]) -> None:
        """
        Have the translation of these ports, and no filter that guards none of them.

        Only LVS listeners need it, so a failure is a warning, once.
        """
        try:
            await self._nft.load(nftables.translation_script(ports))
        except NftFailed as error:
            if self._problem != str(error):
                self._problem = str(error)
                self._log.warn(
                    "UDP and SCTP listeners cannot reach their members, which is tried again: {problem}",
                    problem=self._problem,
                )
        else:
            self._problem = None

    async def restore(self, ports: Iterable[Port]) -> None:
        """Have both as these ports have them; what fails is told in the log."""
        ports = list(ports)
        try:
            await self.guard(ports)
        except NftFailed as error:
            self._log.error("The packet filter cannot be put back: {problem}", problem=str(error))
        await self.translate(ports)

    async def replace(self, before: Iterable[Port], ports: Iterable[Port], rules: RuleSet) -> None:
        """
        Put a rule set in the place of the one before, in the kernel and on the disk.

        @param before: The ports as they were.
        @param ports: The ports as they are to be: the one that the rules are for is filtered.
        @raise RulesNotReplaced: what was in force still is.
        """
        script = nftables.filter_script(ports, rules)
        assert script is not None
        unfinished = beside(self._path)
        try:
            await self._blocking.run(write_synced, unfinished, nftables.stored_rules(rules, script))
            await self._nft.check(script)
            await self._nft.load(script)
        except (OSError, NftFailed) as error:
            await self._blocking.run(_remove, unfinished)
            if isinstance(error, NftUndecided):
                await self.restore(before)
            raise RulesNotReplaced(self._words(error)) from error
        try:
            await self._blocking.run(rename_synced, unfinished, self._path)
        except OSError as error:
            await self._blocking.run(_remove, unfinished)
            await self.restore(before)
            raise RulesNotReplaced(self._words(error)) from error
        self._rules = rules

    def _words(self, error: Exception) -> str:
        return f"{self._path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
