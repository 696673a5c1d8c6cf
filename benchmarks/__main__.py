"""`script/bench`, inside its environment and a network of its own."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from amphora.testing.pki import ThrowAwayPKI
from benchmarks import fleet, growth, table
from benchmarks.agents import AMPHORA_ID, BOTH, OURS, REFERENCE
from benchmarks.figures import FIGURES, FULL, QUICK, Measured, Notes, measure


def machine() -> list[str]:
    """What it was measured on and with, one fact a line."""
    [model, *_] = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ] or [platform.machine()]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    haproxy = subprocess.run(["haproxy", "-v"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[2]
    listing = "import importlib.metadata as m; print(*(m.version(n) for n in ('octavia', 'gunicorn', 'flask')))"
    octavia, gunicorn, flask = subprocess.run(
        [str(REFERENCE.python), "-c", listing], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    return [
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB of memory, Linux {platform.release()}",
        f"Python {platform.python_version()} for both, haproxy {haproxy}",
        f"ours: Twisted {version('twisted')}, pyOpenSSL {version('pyopenssl')}, cryptography {version('cryptography')}",
        f"reference: Octavia {octavia}, gunicorn {gunicorn}, Flask {flask}",
    ]


def client_costs(notes: Notes) -> list[str]:
    """What the load's own clients used, by figure and agent."""
    lines = []
    for name, outcomes in notes.items():
        requests = sum(each["requests"] for each in outcomes)
        if requests:
            cost = sum(each["cpu"] for each in outcomes) / requests * 1000
            errors = sum(sum(each["errors"].values()) for each in outcomes)
            unanswered = f", {errors} without an answer" if errors else ""
            lines.append(
                f"{name}: {cost:.2f} ms of the clients' CPU for each request, {outcomes[0]['tls']}{unanswered}"
            )
    return lines


def compare(arguments: argparse.Namespace) -> int:
    """Run all rounds, print the table, and tell whether all goals were met."""
    scale = QUICK if arguments.quick else FULL
    wanted = arguments.only or [figure.name for figure in FIGURES]
    rounds = []
    notes: dict[str, Notes] = {agent.name: {} for agent in BOTH}
    with TemporaryDirectory() as folder:
        pki = ThrowAwayPKI.create(Path(folder), AMPHORA_ID, use_rsa=not arguments.ecdsa)
        for number in range(arguments.rounds):
            measured: dict[str, dict[str, Measured]] = {}
            # Neither is always the first.
            for agent in BOTH if number % 2 == 0 else BOTH[::-1]:
                print(f"round {number + 1} of {arguments.rounds}: {agent.name} …", file=sys.stderr, flush=True)
                measured[agent.name] = dict(measure(agent, pki, scale, wanted, notes[agent.name]))
            rounds.append((measured[OURS.name], measured[REFERENCE.name]))
    rows = table.rows(FIGURES, rounds)
    body = [row.cells() for row in rows]
    print(table.as_text(table.HEAD, body))
    short = [row.figure.title for row in rows if row.verdict == "FALLS SHORT"]
    print("\n" + (f"Short of the goal: {'; '.join(short)}." if short else "All goals are met."))
    facts = [*machine(), *(f"{name}, {line}" for name, told in notes.items() for line in client_costs(told))]
    rounds_were = f"{arguments.rounds} {'quick ' if arguments.quick else ''}rounds"
    facts.append(f"{rounds_were}; memory was read again after {scale.requests:,} requests")
    print(*(f"  {fact}" for fact in facts), sep="\n")
    if arguments.report:
        report = [table.as_markdown(table.HEAD, body), "", *(f"- {fact}" for fact in facts), ""]
        Path(arguments.report).write_text("\n".join(report), "utf-8")
    return 1 if short else 0


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="script/bench", description="This agent and the reference, side by side.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured (5)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[figure.name for figure in FIGURES],
        help="only these figures: " + ", ".join(figure.name for figure in FIGURES),
    )
    parser.add_argument("--quick", action="store_true", help="short rounds: to find one's way, not for a report")
    parser.add_argument(
        "--ecdsa", action="store_true", help="certificates with keys on P-256, for both, in place of RSA"
    )
    parser.add_argument("--report", metavar="FILE", help="write the table there too, as markdown")
    parser.add_argument("--growth", action="store_true", help="how ours grows with members and listeners instead")
    parser.add_argument("--fleet", type=int, metavar="N", help="when the heartbeats of N agents arrive instead")
    arguments = parser.parse_args(words)
    if arguments.fleet:
        return fleet.run(arguments.fleet, quick=arguments.quick, report=arguments.report)
    if arguments.growth:
        return growth.run(quick=arguments.quick, report=arguments.report, facts=machine())
    return compare(arguments)


if __name__ == "__main__":
    sys.exit(main())
