"""What heartbeats told, held against what was true."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import define, field

from amphora.listener import Heartbeat
from tests.soak.windows import AGENT, CONTROLLERS, GRACE, KEEPALIVED, Windows
from tests.soak.world import Balancer

SILENCING: Final = (AGENT, CONTROLLERS, KEEPALIVED)
"""What heartbeats may rightly be late by: without keepalived none is sent, as today's controller expects."""


@define(eq=False)
class Ears:
    """All controllers together: they are told in turn."""

    windows: Windows
    interval: int = 1
    """Seconds from one regular heartbeat to the next."""
    balancers: list[Balancer] = field(factory=list)
    """Those that have to be well whenever no window says otherwise."""
    listening: bool = False
    """Whether what is heard is held against what is true, which it is not before all is set up."""
    number: int = field(init=False, default=0)
    late: list[float] = field(init=False, factory=list)
    """Seconds beyond the interval, of each heartbeat that nothing kept."""
    kept: dict[str, list[float]] = field(init=False, factory=lambda: defaultdict(list))
    """The same of those that something did, by what it was."""
    wrong: Counter[str] = field(init=False, factory=Counter)
    """How often what was told is not what was true, by kind."""
    examples: list[str] = field(init=False, factory=list)
    told: dict[str, Counter[str]] = field(init=False, factory=lambda: defaultdict(Counter))
    """By listener: the sums of `tx`, `rx` and `totconns`."""
    lost: int = field(init=False, default=0)
    """How many sequence numbers were missing while a window explains it."""
    _last: Heartbeat | None = field(init=False, default=None)

    def heard(self, heartbeat: Heartbeat) -> None:
        """Take one in."""
        for listener_id, listener in heartbeat.message["listeners"].items():
            self.told[listener_id].update({name: listener["stats"][name] for name in ("tx", "rx", "totconns")})
        last, self._last = self._last, heartbeat
        if not self.listening or last is None:
            return
        self.number += 1
        why = self.windows.why(SILENCING, last.received, heartbeat.received)
        lateness = max(heartbeat.received - last.received - self.interval, 0.0)
        (self.late if why is None else self.kept[why]).append(lateness)
        self._see_sequence(last, heartbeat, why)
        for kind, words in self._untruths(heartbeat):
            self._tell(kind, heartbeat, words)

    def _see_sequence(self, last: Heartbeat, now: Heartbeat, why: str | None) -> None:
        missing = now.sequence - last.sequence - 1
        if missing == 0:
            return
        if why is None:
            self._tell("sequence", now, f"{now.sequence} follows {last.sequence}")
        elif missing > 0:
            self.lost += missing

    def _tell(self, kind: str, heartbeat: Heartbeat, words: str) -> None:
        self.wrong[kind] += 1
        if len(self.examples) < 50:
            self.examples.append(f"{heartbeat.received:.1f} seq {heartbeat.sequence}: {kind}: {words}")

    def _untruths(self, heartbeat: Heartbeat) -> Iterator[tuple[str, str]]:
        began, ended = heartbeat.received - GRACE, heartbeat.received
        message = heartbeat.message
        if self.windows.why([KEEPALIVED], began, ended) is None and message["role"] != "ACTIVE":
            yield "role", str(message["role"])
        for balancer in self.balancers:
            if balancer.lives and self.windows.why([balancer.instance_id], began, ended) is None:
                yield from self._about(balancer, message, began)

    def _about(self, balancer: Balancer, message: Mapping[str, Any], began: float) -> Iterator[tuple[str, str]]:
        flapping = {each.member.name: each for each in balancer.flapping}
        for part in balancer.parts:
            where = f"{balancer.name}, {part.listener_id}"
            listener = message["listeners"].get(part.listener_id)
            status = "absent" if listener is None else listener["status"]
            if status != "OPEN":
                yield "status of a listener", f"{where}: {status}"
            pool = message["pools"].get(f"{part.pool_id}:{part.listener_id}")
            if pool is None:
                yield "status of a pool", f"{where}: absent"
                continue
            if pool["status"] != "UP":
                yield "status of a pool", f"{where}: {pool['status']}"
            for member in part.members:
                told = pool["members"].get(member.name, "absent")
                flaps = flapping.get(member.name)
                if flaps is not None and flaps.since > began:
                    continue
                if (told == "UP") != (flaps is None or flaps.is_up):
                    yield "status of a member", f"{where}, {member.name}: {told}"
