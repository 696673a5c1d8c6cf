"""What the integration tests share: what they need of the machine, how much they do, where they work."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from twisted.trial.unittest import FailTest, SynchronousTestCase

OCTAVIA = Path(__file__).parent.parent.parent / ".venv-octavia" / "bin" / "python"
"""The Python of the environment that an unmodified Octavia is installed in."""

_Test = TypeVar("_Test", bound=Callable[..., object])


def program(name: str) -> str | None:
    """Where a program is, or None.  An unprivileged user's PATH often lacks the folders of daemons."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@functools.cache
def _can_boot() -> bool:
    """May we boot a machine of L{tests.integration.machine}?"""
    from tests.integration.machine import can_boot

    return can_boot()


def missing(needs: Sequence[str]) -> str | None:
    """
    Say what is lacking of `needs`: names of programs, "root" for its rights, "ipv6", "octavia", "loop" for files that
    are mounted, "machine" for one that systemd boots.  None if nothing.
    """
    others: dict[str, Callable[[], bool]] = {
        "root": lambda: os.geteuid() == 0,
        "ipv6": _has_ipv6,
        "octavia": OCTAVIA.exists,
        "loop": Path("/dev/loop-control").exists,
        "machine": _can_boot,
    }
    lacking = [need for need in needs if not (others[need]() if need in others else program(need))]
    return f"needs {', '.join(lacking)}" if lacking else None


def requires(*needs: str) -> Callable[[_Test], _Test]:
    """
    Mark a test case or a test method that needs programs, or "root".

    Where something is missing it is skipped, and the reason names it; with AMPHORA_REQUIRE_INTEGRATION=1 it fails.
    """
    reason = missing(needs)

    def fail(_test: object) -> NoReturn:
        raise FailTest(f"{reason}, and AMPHORA_REQUIRE_INTEGRATION=1 allows no skip")

    def mark(test: _Test) -> _Test:
        marked: Any = test
        if reason is not None and os.environ.get("AMPHORA_REQUIRE_INTEGRATION") != "1":
            marked.skip = reason
        elif reason is not None and isinstance(test, type):
            marked.setUp = fail
        elif reason is not None:
            marked = functools.wraps(test)(fail)
        return cast(_Test, marked)

    return mark


def count(ci: int, full: int) -> int:
    """How often to repeat something: `ci` times, or `full` times in `script/test --full`."""
    return full if os.environ.get("AMPHORA_FULL_TESTS") == "1" else ci


def short_directory(test: SynchronousTestCase) -> Path:
    """Make a directory for one test, short enough for UNIX sockets below it (trial's own is not)."""
    path = Path(tempfile.mkdtemp(prefix="amphora-"))
    test.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path
