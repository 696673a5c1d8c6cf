"""What controllers asked for, and what came of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from attrs import define, field
from twisted.internet.task import deferLater

from amphora.client import AmphoraError, AmphoraFailed, ClientError, Unreachable
from tests.integration import api_1_0
from tests.integration.harness import RawClient
from tests.soak.windows import AGENT, DISK, Windows

T = TypeVar("T")

PATIENCE: Final = 90.0
"""Seconds after which a controller stops to repeat what does not succeed."""


@define(eq=False)
class Calls:
    """All calls, by kind."""

    windows: Windows
    clock: Any
    seconds: dict[str, list[float]] = field(init=False, factory=lambda: defaultdict(list))
    """How long each answer took that was as expected."""
    excused: Counter[tuple[str, str]] = field(init=False, factory=Counter)
    """How many failed, by kind and by what was done then; each was repeated."""
    failures: list[str] = field(init=False, factory=list)

    async def done(
        self,
        kind: str,
        make: Callable[[], Awaitable[T]],
        *about: str,
        refused: type[ClientError] | None = None,
        repeated: type[ClientError] | None = None,
    ) -> T | None:
        """
        Call until it is done, as a controller does: again, as long as something that was done on purpose explains why
        it failed.

        @param refused: What it has to fail with.
        @param repeated: What a repeat fails with where the first call had been carried out.
        """
        gives_up = self.clock.seconds() + PATIENCE
        first = True
        while True:
            began = self.clock.seconds()
            try:
                result = await make()
            except ClientError as error:
                ended = self.clock.seconds()
                if refused is not None and isinstance(error, refused):
                    self.seconds[kind].append(ended - began)
                    return None
                if repeated is not None and not first and isinstance(error, repeated):
                    return None
                why = self._why(error, about, began, ended)
                if why is None or ended > gives_up:
                    self.failures.append(f"{began:.1f} {kind}: {error!r} after {ended - began:.1f} s ({why})")
                    return None
                self.excused[kind, why] += 1
                first = False
                await deferLater(self.clock, 0.5)
            else:
                self.seconds[kind].append(self.clock.seconds() - began)
                if refused is not None:
                    self.failures.append(f"{began:.1f} {kind}: was taken")
                return result

    def _why(self, error: ClientError, about: tuple[str, ...], began: float, ended: float) -> str | None:
        if isinstance(error, Unreachable):
            return self.windows.why([AGENT], began, ended)
        if isinstance(error, AmphoraFailed):
            return self.windows.why([DISK, *about], began, ended)
        return None


@define(eq=False)
class Modern:
    """Requests of the API 1.0, with the errors of the client for v0.1."""

    raw: RawClient

    async def __call__(self, method: str, path: str, body: bytes | None = None) -> api_1_0.Answer:
        """
        One request below the version.

        @raise AmphoraError: for an answer that is an error.
        @raise Unreachable: where there is no whole answer.
        """
        try:
            answer = await api_1_0.call(self.raw, method, path, body)
        except (OSError, ValueError, IndexError) as error:
            raise Unreachable("the amphora", repr(error), "") from error
        if answer.status >= 400:
            kind = AmphoraFailed if answer.status == 500 else AmphoraError
            words = answer.json if isinstance(answer.json, dict) else {}
            raise kind(answer.status, str(words.get("message", words)), str(words.get("details", "")))
        return answer
