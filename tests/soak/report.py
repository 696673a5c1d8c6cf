"""What came of a soak: what must hold and does not, and a table that can be pasted into a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import define, field

from tests.soak.calls import Calls
from tests.soak.faults import Faults
from tests.soak.figures import growth, spread
from tests.soak.gauges import Files, Lives, Reading, levels, per_hour, warnings
from tests.soak.strangers import Strangers
from tests.soak.traffic import Failed, Target
from tests.soak.truth import Ears
from tests.soak.windows import Windows

LONGEST_SILENCE: Final = 20.0
"""Seconds without a heartbeat that nothing here may cause, but a keepalived that does not run: controllers allow 60."""
MOST_DESCRIPTORS: Final = 16
"""By so many descriptors the same agent may have more at rest after the load than before it."""
_MOST_SAID: Final = 25
MOST_MEMORY: Final = 32 * 1024
"""By so many kibibytes."""


@define(eq=False)
class Report:
    """The figures of one soak."""

    seed: str
    seconds: float
    windows: Windows
    targets: Sequence[Target]
    reloads: Counter[str]
    faults: Faults
    calls: Calls
    ears: Ears
    strangers: Strangers
    lives: Lives
    logs: Sequence[tuple[float, float, str]]
    rest_before: Reading
    """The first agent, all set up and nothing going on."""
    rest_after: Reading
    """The last agent after everything."""
    files_before: Files
    files_after: Files
    bad_datagrams: Counter[str]
    left: Sequence[str]
    broken: Sequence[str]
    """What else did not go as it had to."""
    by_cause: Counter[str] = field(init=False, factory=Counter)
    unexplained: list[str] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        for target in self.targets:
            for failed in target.failures:
                why = self._why(target, failed)
                if why is None:
                    self.unexplained.append(f"{failed.began:.1f} to {failed.ended:.1f} {target.name}: {failed.seen}")
                else:
                    self.by_cause[why] += 1

    def _why(self, target: Target, failed: Failed) -> str | None:
        return self.windows.why(target.about, failed.began, failed.ended)

    # What must hold

    def complaints(self) -> list[str]:
        """What must hold and does not; nothing where all is well."""
        return list(self._complaints())

    def _complaints(self) -> Iterator[str]:
        yield from (f"a request failed that no fault of haproxy's explains: {each}" for each in self.unexplained)
        yield from (f"an API call failed: {each}" for each in self.calls.failures)
        yield from (f"a heartbeat was wrong: {each}" for each in self.ears.examples)
        yield from self._more_than_sent()
        silence = max((*self.ears.late, *self._kept_but_by_keepalived()), default=0.0)
        if silence > LONGEST_SILENCE:
            yield f"no heartbeat for {silence:.1f} s"
        if self.bad_datagrams:
            yield f"datagrams that are no heartbeats: {dict(self.bad_datagrams)}"
        yield from (f"not well again: {each}" for each in self.faults.broken)
        yield from self.broken
        yield from (f"a stranger was let in: {each}" for each in self.strangers.let_in)
        yield from (f"left over: {each}" for each in self.left)
        for _, _, log in self.logs:
            if "Traceback" in log:
                yield "a traceback in the agent's log: " + log[log.index("Traceback") :][:2000]
        grown = self.rest_after.descriptors - self.rest_before.descriptors
        if grown > MOST_DESCRIPTORS:
            yield f"{grown} descriptors more at rest than before"
        grown = self.rest_after.memory - self.rest_before.memory
        if grown > MOST_MEMORY:
            yield f"{grown} KiB of memory more at rest than before"

    def _kept_but_by_keepalived(self) -> list[float]:
        return [each for why, late in self.ears.kept.items() if not why.startswith("keepalived") for each in late]

    def _more_than_sent(self) -> Iterator[str]:
        for listener_id, told, most in self.sums():
            for name, number in told.items():
                if number > most[name]:
                    yield f"heartbeats told {number} of {name} of {listener_id}, and there were {most[name]}"

    def sums(self) -> list[tuple[str, Counter[str], dict[str, int]]]:
        """By listener: what heartbeats told in sum, and the most that there can have been."""
        return [
            (listener_id, self.ears.told.get(listener_id, Counter()), _most(self.targets, listener_id))
            for listener_id in dict.fromkeys(target.listener_id for target in self.targets)
        ]

    # The tables

    def text(self) -> str:
        """In Markdown."""
        complaints = self.complaints()
        outcome = "everything held" if not complaints else f"{len(complaints)} did not hold"
        parts = [
            f"{self.seconds / 60:.1f} minutes, seed {self.seed}: {outcome}.",
            _table(("what", "figure"), self._rows()),
            _table(
                (
                    "fault",
                    "times",
                    "well again after, p50 / p95 / p99 / max",
                    "requests it cost",
                    "heartbeat late, max",
                ),
                self._fault_rows(),
            ),
            _table(("call", "answered", "seconds, p50 / p95 / p99 / max", "repeated over a fault"), self._call_rows()),
        ]
        said: Counter[str] = Counter()
        for _, _, log in self.logs:
            said.update(warnings(log))
        parts.append(
            _table(
                ("what the agent complained of", "times"),
                ((_cell(each), str(times)) for each, times in said.most_common(_MOST_SAID)),
            )
        )
        if complaints:
            parts.append("\n".join(["Did not hold:", "", *(f"- {each}" for each in complaints)]))
        return "\n\n".join(parts) + "\n"

    def _rows(self) -> Iterator[tuple[str, str]]:
        served = sum(target.served for target in self.targets)
        yield "requests through the load balancers", f"{served:,} served, {served / self.seconds:.0f} a second"
        yield "reloads of haproxy under this traffic", f"{sum(self.reloads.values()):,}"
        yield "faults", f"{sum(self.faults.number.values())} of {len(self.faults.number)} kinds"
        yield "requests that a fault of haproxy's or keepalived's own cost", f"{sum(self.by_cause.values())}"
        yield "other requests that failed", f"{len(self.unexplained)}"
        yield "heartbeats", f"{self.ears.number:,}"
        yield "lateness of those that nothing kept, s: p50 / p95 / p99 / max", spread(self.ears.late, digits=3)
        kept = [each for late in self.ears.kept.values() for each in late]
        yield "lateness over faults of agent, keepalived or controllers, s", spread(kept, digits=1)
        told = sum(told["tx"] for _, told, _ in self.sums())
        most = sum(most["tx"] for _, _, most in self.sums())
        yield "bytes told of bytes sent", f"{told / most:.1%} (never more)" if most else "none"
        yield "wrong heartbeats", _counted(self.ears.wrong) or "none"
        yield "heartbeats lost while controllers were away", f"{self.ears.lost}"
        answers = [seconds for each in self.calls.seconds.values() for seconds in each]
        yield "API calls", f"{len(answers):,} of {len(self.calls.seconds)} kinds"
        yield "their answers, s: p50 / p95 / p99 / max", spread(answers, digits=3)
        yield "API calls that failed without a reason", f"{len(self.calls.failures)}"
        yield "strangers", _counted(self.strangers.number) or "none"
        yield from self._sizes()
        yield "left at the end", ", ".join(self.left) or "nothing"

    def _sizes(self) -> Iterator[tuple[str, str]]:
        before, after = self.rest_before, self.rest_after
        yield "agents", f"{len(self.lives.each())}"
        yield "memory of the agent (PSS) at rest, before / after", f"{_mib(before.memory)} / {_mib(after.memory)} MiB"
        yield "its descriptors at rest, before / after", f"{before.descriptors} / {after.descriptors}"
        readings = self.lives.readings
        if readings:
            yield (
                "memory under load, MiB: p50 / p95 / p99 / max",
                spread([each.memory for each in readings], unit=1024, digits=1),
            )
            yield (
                "descriptors under load: p50 / p95 / p99 / max",
                spread([each.descriptors for each in readings], digits=0),
            )
            yield (
                "haproxy processes: p50 / p95 / p99 / max",
                spread([each.haproxies for each in readings], digits=0),
            )
        last = self.lives.last()
        if last:
            minutes = (last[-1].at - last[0].at) / 60
            memory = growth([(each.at, each.memory / 1024) for each in last])
            descriptors = growth([(each.at, each.descriptors) for each in last])
            later = last[len(last) // 2 :]
            steady = growth([(each.at, each.memory / 1024) for each in later])
            yield (
                f"growth of the last agent over its {minutes:.0f} minutes under load",
                f"{memory:+.1f} MiB an hour ({steady:+.1f} in their second half), "
                f"{descriptors:+.1f} descriptors an hour",
            )
        yield (
            "files in the state directory, before / after",
            f"{self.files_before.files} / {self.files_after.files} "
            f"({self.files_before.kibibytes} / {self.files_after.kibibytes} KiB)",
        )
        entries: Counter[str] = Counter()
        for _, _, log in self.logs:
            entries.update(levels(log))
        shown = (f"{level} {per_hour(number, self.seconds):.0f}" for level, number in sorted(entries.items()))
        yield "log entries an hour", ", ".join(shown)

    def _fault_rows(self) -> Iterator[tuple[str, ...]]:
        for kind, number in sorted(self.faults.number.items()):
            late = self.ears.kept.get(kind, [])
            yield (
                kind,
                str(number),
                spread(self.faults.recovered.get(kind, []), digits=1),
                str(self.by_cause[kind]),
                f"{max(late):.1f}" if late else "",
            )
        for kind in sorted(set(self.by_cause) - set(self.faults.number)):
            yield kind, "", "", str(self.by_cause[kind]), ""

    def _call_rows(self) -> Iterator[tuple[str, ...]]:
        kinds = {*self.calls.seconds, *(kind for kind, _ in self.calls.excused)}
        for kind in sorted(kinds):
            seconds = self.calls.seconds.get(kind, [])
            excused = Counter({why: number for (each, why), number in self.calls.excused.items() if each == kind})
            yield kind, str(len(seconds)), spread(seconds, digits=3), _counted(excused)


def _most(targets: Sequence[Target], listener_id: str) -> dict[str, int]:
    those = [target for target in targets if target.listener_id == listener_id]
    return {
        "tx": sum(target.most_received for target in those),
        "rx": sum(target.sent for target in those),
        "totconns": sum(target.connections for target in those),
    }


def _counted(number: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(number.items()) if count)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _mib(kibibytes: int) -> str:
    return f"{kibibytes / 1024:.1f}"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
