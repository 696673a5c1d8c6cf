"""The program C{nft}, which brings scripts of L{amphora.network.nftables} into the kernel."""

from __future__ import annotations

import shutil
from typing import Protocol

from attrs import frozen

from amphora.blocking import BlockingCalls
from amphora.process import ENVIRONMENT, CommandFailed, IProcessReactor, run_command

_TIMEOUT = 10.0


class NftFailed(Exception):
    """A script was not carried out, and nothing of it is in the kernel; the text is what nft says."""


class NftUndecided(NftFailed):
    """Whether a script was carried out is not known: nft was ended, or did not run to its end."""


class Nft(Protocol):
    """What is asked of nft."""

    async def check(self, script: str) -> None:
        """Would the kernel take it?  @raise NftFailed: if not."""

    async def load(self, script: str) -> None:
        """Carry it out, all or nothing.  @raise NftFailed: then nothing."""


@frozen
class NftProgram:
    """The real one.  `namespace` is where it works; empty, it is the agent's own."""

    _reactor: IProcessReactor
    _blocking: BlockingCalls
    _namespace: str
    _program: str = "nft"

    async def check(self, script: str) -> None:
        await self._run(script, "--check")

    async def load(self, script: str) -> None:
        await self._run(script)

    async def _run(self, script: str, *options: str) -> None:
        # Where there is a namespace, what fails to be found is told by ip, in other words.
        if await self._blocking.run(shutil.which, self._program, path=ENVIRONMENT["PATH"]) is None:
            raise NftFailed(f"there is no {self._program}: install nftables")
        inside = ["ip", "netns", "exec", self._namespace] if self._namespace else []
        command = [*inside, self._program, *options, "--file", "-"]
        try:
            result = await run_command(self._reactor, command, timeout=_TIMEOUT, stdin=script.encode())
        except CommandFailed as error:
            # The kernel takes a script as a whole, and may have done so in spite of this: replacing is repeatable.
            raise NftUndecided(str(error)) from error
        if not result.succeeded:
            raise NftFailed(f"nft: {result.output.strip() or f'ended with {result.exit_code}'}")
