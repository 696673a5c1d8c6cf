"""What is to be made of a `keepalived -t`."""

from __future__ import annotations

import re

from amphora.files import beside
from amphora.keepalived.files import KeepalivedFiles
from amphora.process import CommandResult

_WITH_COMPLAINTS = (4, 5)
_HARMLESS = re.compile(
    r"Truncating auth_pass to [0-9]+ characters$|^Virtual server \S+ has no real servers - ignoring$"
    r"|A unicast keyword has been specified without any unicast peers\. Defaulting to multicast\."
)
"""
keepalived runs with it as with any other; a pool may have no members yet, and Octavia names no peers where it has none:
of a pair whose two amphorae are gone, the first new one is configured while it is alone.
"""
_PASSED_OVER = re.compile(r"unknown route keyword gateway$|VRRP parsed invalid IP gateway\. skipping IP\.\.\.$")
"""
Octavia's template writes a subnet's host routes with this word, for which keepalived has C{via} (seen with Octavia 19
and keepalived 2.2.7): such a route is left out, and all else runs.  What the controller takes for good is not refused.
"""
_MISSING = "Config files missing"
"""Told of an C{include} that finds nothing, which is no error."""


def objection(result: CommandResult, files: KeepalivedFiles) -> str | None:
    """
    Why a configuration is not taken, in keepalived's words; None where it is.

    keepalived -t exits with 0 where it finds nothing wrong, and with 5 (4 by its manual) after any complaint, also
    after one that changes nothing.  Some complaints it makes several times over.
    """
    said = _said(result, files)
    serious = [line for line in said if not (_HARMLESS.search(line) or _PASSED_OVER.search(line))]
    missing = any(_MISSING in line for line in serious)
    if result.exit_code == 0 and not missing:
        return None
    if result.exit_code in _WITH_COMPLAINTS and said and not serious:
        return None
    if result.exit_code < 0:
        serious.append(f"keepalived -t was ended by signal {-result.exit_code}")
    return "\n".join(serious) or f"keepalived -t ended with {result.exit_code}"


def passed_over(result: CommandResult, files: KeepalivedFiles) -> list[str]:
    """What keepalived will leave out of a configuration that is taken, in its words."""
    return [line for line in _said(result, files) if _PASSED_OVER.search(line)]


def _said(result: CommandResult, files: KeepalivedFiles) -> list[str]:
    """Each line once, with the name that the controller knows."""
    words = result.output
    for name in (beside(files.given).name, files.given.name):
        words = words.replace(name, files.config.name)
    return list(dict.fromkeys(line.strip() for line in words.splitlines() if line.strip()))
