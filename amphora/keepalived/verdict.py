"""What is to be made of a `keepalived -t`."""

from __future__ import annotations

import re

from amphora.files import beside
from amphora.keepalived.files import KeepalivedFiles
from amphora.process import CommandResult

_WITH_COMPLAINTS = (4, 5)
_HARMLESS = re.compile(
    r"Truncating auth_pass to [0-9]+ characters$|^Virtual server \S+ has no real servers - ignoring$"
)
"""keepalived runs with it as with any other; a pool may have no members yet."""
_MISSING = "Config files missing"
"""Told of an C{include} that finds nothing, which is no error."""


def objection(result: CommandResult, files: KeepalivedFiles) -> str | None:
    """
    Why a configuration is not taken, in keepalived's words; None where it is.

    keepalived -t exits with 0 where it finds nothing wrong, and with 5 (4 by its manual) after any complaint, also
    after one that changes nothing.  Some complaints it makes several times over.
    """
    words = result.output
    for name in (beside(files.given).name, files.given.name):
        words = words.replace(name, files.config.name)
    lines = words.splitlines()
    said = dict.fromkeys(line.strip() for line in lines if line.strip())
    serious = [line for line in said if not _HARMLESS.search(line)]
    missing = any(_MISSING in line for line in serious)
    if result.exit_code == 0 and not missing:
        return None
    if result.exit_code in _WITH_COMPLAINTS and said and not serious:
        return None
    if result.exit_code < 0:
        serious.append(f"keepalived -t was ended by signal {-result.exit_code}")
    return "\n".join(serious) or f"keepalived -t ended with {result.exit_code}"
