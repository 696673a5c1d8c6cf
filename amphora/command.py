"""The command `amphora-agent`: what an amphora's image and its unit call the agent."""

from __future__ import annotations

import sys

from twisted.scripts.twistd import run


def main() -> None:
    """Be `twistd --nodaemon --pidfile= amphora`, with the arguments that were given."""
    sys.argv[1:1] = ["--nodaemon", "--pidfile=", "amphora"]
    run()
