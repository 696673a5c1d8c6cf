"""Kernel settings of a network namespace: files below C{/proc/sys/net}, as the thread that opens them sees them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amphora.network.inside import inside

_ROOT = Path("/proc/sys")


def apply_sysctls(namespace: str, settings: Mapping[str, str]) -> list[str]:
    """
    Set what is not so yet, in a namespace (empty: our own), and read it back.  Blocks.

    @param settings: By path, such as `net/ipv4/ip_nonlocal_bind`.
    @return: What could not be set, and why.
    """

    def apply() -> list[str]:
        problems = []
        for path, value in settings.items():
            file = _ROOT / path
            try:
                if _read(file) != value:
                    file.write_text(value)
                    if (now := _read(file)) != value:
                        problems.append(f"{path} stays {now}, and should be {value}")
            except OSError as error:
                problems.append(f"{path} cannot be set to {value}: {error.strerror}")
        return problems

    if not settings:
        return []
    try:
        return inside(namespace, apply)
    except OSError as error:
        return [f"the network namespace cannot be entered: {error.strerror}"]


def _read(file: Path) -> str:
    return file.read_text().strip()
