"""
Let one of a pair of amphorae fail in every way: what `script/demo --pair` runs inside its environment.

Two agents, each with a namespace of its own, a bridge between them, and a client that never stops asking the address
that they share.  It is the pair that the tests use; all of it is gone at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.integration.amphora_pair import VIP, Fault, Pair

_COLUMNS = ("what befell the active amphora", "requests", "failed", "longest outage", "told after the move")


def _row(fault: Fault) -> tuple[str, ...]:
    told = "nothing moved" if fault.told is None else "at once" if fault.told < 0.1 else f"{fault.told:.1f} s"
    outage = "none" if not fault.failed else f"{fault.outage:.1f} s"
    return (fault.name, str(fault.requests), str(fault.failed), outage, told)


async def play(pair: Pair, console: Console) -> None:
    """Bring the pair up, let everything befall it, and print what came of it."""
    console.print(
        f"\nTwo amphorae share {VIP}: each an agent, a haproxy and a keepalived, set up through the API alone"
    )
    await pair.set_up()
    console.print(f"  [green]✓[/] {(await pair.active()).name} is ACTIVE, the other stands by, the client is served")
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right")
    for befall in (pair.kill_agent, pair.stop_haproxy, pair.kill_haproxy, pair.kill_keepalived, pair.cut_link):
        fault = await befall()
        console.print(f"  [green]✓[/] {fault.name}: {(await pair.active()).name} is ACTIVE")
        table.add_row(*_row(fault))
    if pair.client.served_by() != {"member-2"}:
        raise AssertionError(f"member-2 was to serve the client throughout: {sorted(pair.client.served_by())} did")
    console.print("  [green]✓[/] one member served the client throughout: its stick-table entry survived\n")
    console.print(table)
    console.print(
        "\n  An outage has VRRP's own time in it: three advertisements missed and a little more, or the check failing\n"
        "  twice.  The client has a pace of 20 requests a second and a time-out of 1 s."
    )


async def run(console: Console, steps: list[Deferred[None]]) -> int:
    """Play, clean up, and return the exit status."""
    directory = Path(tempfile.mkdtemp(prefix="amphora-", dir="/tmp"))
    pair = Pair(directory)
    try:
        steps.append(Deferred.fromCoroutine(play(pair, console)))
        await steps[0]
        status = 0
    except CancelledError:
        console.print("\nBroken off.")
        status = 130
    except Exception:
        console.print("\n  [bold red]✗ This did not happen:[/]")
        console.print(traceback.format_exc(), markup=False)
        status = 1
    try:
        await pair.clean_up()
    finally:
        shutil.rmtree(directory)
    return status


def main() -> int:
    """Run the reactor until it is over."""
    from twisted.internet import reactor as installed

    reactor = cast(Any, installed)
    if os.geteuid() != 0:
        print("script/demo --pair makes network namespaces: it has to be run as root.", file=sys.stderr)
        return 1
    status = 1
    steps: list[Deferred[None]] = []

    def ended(result: int | Failure) -> None:
        nonlocal status
        if isinstance(result, Failure):
            result.printTraceback()
        else:
            status = result
        reactor.stop()

    def cancel() -> None:
        for step in steps:
            step.cancel()

    def break_off(*_: object) -> None:
        reactor.callFromThread(cancel)

    def begin() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, break_off)
        # A file has no width of its own.
        console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
        Deferred.fromCoroutine(run(console, steps)).addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run()
    return status


if __name__ == "__main__":
    sys.exit(main())
