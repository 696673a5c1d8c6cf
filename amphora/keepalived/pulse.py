"""
Noticing a keepalived that is there and does nothing: stopped, or stuck.

It may rightly sleep for hours, so each look calls it: SIGCHLD tells a process that one of its children has changed;
keepalived finds that none has, and sleeps again.  That neither shows in its log nor disturbs it.  The kernel counts
how often a process went to sleep (C{voluntary_ctxt_switches}, proc(5)); where the count stands still over several
looks, the process did not hear its calls.
"""

from __future__ import annotations

import signal
from pathlib import Path

from attrs import define, field

from amphora.process import ProcessIdentity

INTERVAL = 2.0
"""Seconds from one look to the next."""
MISSES = 3
"""So many looks in a row without a sign of life make a process a hung one: after four intervals at the latest."""


@define
class _Seen:
    sleeps: int
    misses: int = 0


@define(eq=False)
class Pulse:
    """The looks at one keepalived: the process that was started and its child."""

    _needs_child: bool
    """Is one that has no child a hung one?"""
    _seen: dict[ProcessIdentity, _Seen] = field(init=False, factory=dict)
    _childless: int = field(init=False, default=0)

    def feel(self, parent: ProcessIdentity) -> bool:
        """
        Take a look, and call.

        @return: False where one of the two has hung for several looks now, or a child that is needed was missing.
        """
        children = parent.children()
        self._childless = 0 if children or not self._needs_child else self._childless + 1
        before, self._seen = self._seen, {}
        for process in (parent, *children):
            sleeps = _sleeps(process)
            if sleeps is None:
                continue
            last = before.get(process)
            missed = last is not None and last.sleeps == sleeps
            self._seen[process] = _Seen(sleeps, last.misses + 1 if last is not None and missed else 0)
            process.send_signal(signal.SIGCHLD)
        return max(self._childless, *(seen.misses for seen in self._seen.values()), 0) < MISSES


def _sleeps(process: ProcessIdentity) -> int | None:
    """How often a process went to sleep; None where it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(value)
    return None
