"""Kernel settings: files below C{/proc/sys}; of those in C{net}, a thread sees its network namespace's."""

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


def raise_limits(limits: Mapping[str, int], root: Path = _ROOT) -> list[str]:
    """
    Raise what is lower, in our own namespace, and read it back.  Blocks.

    @return: What stays lower, and why.
    """
    problems = []
    for path, limit in limits.items():
        file = root / path
        try:
            if int(_read(file)) < limit:
                file.write_text(str(limit))
                if (now := int(_read(file))) < limit:
                    problems.append(f"{path} stays {now}, and should be {limit} at least")
        except ValueError:
            problems.append(f"{path} is no number")
        except OSError as error:
            problems.append(f"{path} cannot be set to {limit}: {error.strerror}")
    return problems


def _read(file: Path) -> str:
    return file.read_text().strip()
