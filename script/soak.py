"""
Soak an amphora: what `script/soak` runs inside its environment.

It starts itself again as the first child in namespaces of its own, whose end takes everything away, and waits for that.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.integration.support import missing
from tests.soak.report import Report
from tests.soak.run import soak

NEEDS = ("root", "haproxy", "keepalived", "ip", "nft", "unshare", "mount")

_INSIDE = "SOAK_DIRECTORY"
"""The environment variable that names the directory to those inside."""

_SHELL = """
set -e
mount -t tmpfs -o mode=700 tmpfs "$SOAK_DIRECTORY"
mount -t tmpfs tmpfs /run/netns
mount -t sysfs sysfs /sys
ip link set lo up
trap : INT
status=0
"$@" || status=$?
exit "$status"
"""
"""The first process of the new namespace: it waits for all who lose their parents."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/soak", description="Soak a real agent under load and faults.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the load goes on (default: 60)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what all chance comes from")
    parser.add_argument("--report", type=Path, help="a file for the figures, in Markdown")
    return parser.parse_args(arguments)


def _outside(arguments: Sequence[str]) -> int:
    """Run the rest inside.  @return: its exit status"""
    if reason := missing(NEEDS):
        print(reason, file=sys.stderr)
        return 1
    Path("/run/netns").mkdir(exist_ok=True)
    directory = tempfile.mkdtemp(prefix="soak-")
    command = [
        *("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child"),
        *("--mount-proc", "sh", "-c", _SHELL, "sh", sys.executable, __file__, *arguments),
    ]
    try:
        child = subprocess.Popen(command, env={**os.environ, _INSIDE: directory})
        # Ctrl-C comes to those inside as well: they end in order.  Whoever ends us in another way ends them at once.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: child.kill())
        status = child.wait()
    finally:
        os.rmdir(directory)
    return status if status >= 0 else 1


def _inside(options: argparse.Namespace, directory: Path) -> int:
    from twisted.internet import reactor

    running = cast(Any, reactor)
    status = 1

    def say(text: str) -> None:
        print(text, flush=True)

    def told(report: Report) -> None:
        nonlocal status
        text = report.text()
        say(f"\n{text}")
        if options.report is not None:
            options.report.write_text(text)
        status = 1 if report.complaints() else 0

    def failed(reason: Failure) -> None:
        say("the soak came to nothing:")
        traceback.print_exception(reason.value)

    def ended(_: object) -> None:
        running.stop()

    def stoppable(stop: Callable[[], None]) -> None:
        signal.signal(signal.SIGINT, lambda *_: running.callFromThread(stop))

    def begin() -> None:
        say(f"seed {options.seed}")
        playing = soak(directory, options.seed, options.minutes * 60, say, stoppable)
        Deferred.fromCoroutine(playing).addCallbacks(told, failed).addBoth(ended)

    running.suggestThreadPoolSize(60)
    running.callWhenRunning(begin)
    running.run()
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.  @return: the exit status"""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _arguments(given)
    directory = os.environ.get(_INSIDE)
    if directory is not None:
        return _inside(options, Path(directory))
    # Both have the same seed to tell, and a file's name means the same to both.
    return _outside([*given, "--seed", options.seed])


if __name__ == "__main__":
    sys.exit(main())
