"""
Run the checks and the tests and count them: the second half of `script/test`, inside its environment.

Each check counts as one.  A test run that ends before its report, or runs nothing, counts as failed too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import asdict, frozen

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(sys.prefix) / "cache"
"""What the tools leave behind goes into the environment, not into the checkout."""

CHECKS = (
    ("ruff check", ["ruff", "check", "--cache-dir", str(CACHE / "ruff"), "."]),
    ("ruff format --check", ["ruff", "format", "--check", "--cache-dir", str(CACHE / "ruff"), "."]),
    ("mypy", ["mypy", "--cache-dir", str(CACHE / "mypy")]),
)


@frozen
class Outcome:
    """How many tests or checks ended which way."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def check(name: str, command: list[str]) -> Outcome:
    """Run one tool over the checkout."""
    print(f"{name} …", flush=True)
    status = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
    return Outcome(failed=1) if status else Outcome(passed=1)


def test(arguments: list[str]) -> Outcome:
    """Run trial in a process of its own, so that nothing that a test does to it can lose the count."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        command = [sys.executable, __file__, "--report", str(report), f"--temp-directory={CACHE / 'trial'}", *arguments]
        environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(CACHE / "hypothesis")}
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        try:
            outcome = Outcome(**json.loads(report.read_text("utf-8")))
        except (OSError, ValueError):
            print(f"trial ended before its report, with status {status}")
            return Outcome(failed=1)
    if outcome == Outcome():
        print("no test ran")
        return Outcome(failed=1)
    return outcome


def run_trial(report: str, arguments: list[str]) -> None:
    """Be trial, of the whole suite unless the arguments name tests, and write the `Outcome` to `report`."""
    from twisted.scripts import trial
    from twisted.trial.reporter import TreeReporter

    class CountingReporter(TreeReporter):
        def done(self) -> None:
            super().done()
            outcome = Outcome(
                passed=self.successes,
                failed=len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses),
                skipped=len(self.skips) + len(self.expectedFailures),
            )
            Path(report).write_text(json.dumps(asdict(outcome)), "utf-8")

    class Options(trial.Options):
        def postOptions(self) -> None:
            super().postOptions()
            self["reporter"] = CountingReporter
            self["tests"] = self["tests"] or ["tests"]

    os.makedirs(CACHE, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    sys.argv = ["trial", *arguments]
    trial.Options = Options  # type: ignore[misc]
    trial.run()


def main() -> int:
    """Do what the command line says; the exit status is 0 only if nothing failed."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--report"]:
        run_trial(arguments[1], arguments[2:])
    outcome = Outcome()
    if arguments[:1] == ["--checks"]:
        arguments = arguments[1:]
        for name, command in CHECKS:
            outcome += check(name, command)
    # Integration tests wait for programs most of their time: two at a time keep a CPU half busy.
    outcome += test(arguments or [f"--jobs={2 * (os.cpu_count() or 1)}"])
    print(outcome, flush=True)
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
