"""Tests for what the integration tests and the test command share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import count, missing, requires, short_directory

RUN_TESTS = Path(__file__).parent.parent.parent / "script" / "run_tests.py"

ONE_OF_EACH = """
from twisted.trial.unittest import SynchronousTestCase

class Tests(SynchronousTestCase):
    def test_1(self): pass
    def test_2(self): pass
    def test_3(self): self.fail("as meant")
    def test_4(self): raise ValueError("as meant")
    def test_5(self): pass
    test_5.skip = "as meant"
    def test_6(self): self.fail("as expected")
    test_6.todo = "as meant"
    def test_7(self): pass
    test_7.todo = "as meant"
"""


class RequiresTests(SynchronousTestCase):
    """`requires`: skipped or failed for want of a program."""

    def result(self, demand: str, *needs: str) -> TestResult:
        """Run two tests, one in a class that needs something and one that needs it itself."""
        self.patch(os, "environ", {**os.environ, "AMPHORA_REQUIRE_INTEGRATION": demand})

        @requires(*needs)
        class Class(SynchronousTestCase):
            def test_it(self) -> None:
                """Pass."""

        class Method(SynchronousTestCase):
            @requires(*needs)
            def test_it(self) -> None:
                """Pass."""

        result = TestResult()
        Class("test_it").run(result)
        Method("test_it").run(result)
        return result

    def test_met(self) -> None:
        """Tests whose needs are met run, whatever is demanded."""
        for demand in ("", "1"):
            self.assertEqual(self.result(demand, "sh").successes, 2)

    def test_skipped(self) -> None:
        """Tests that lack a program are skipped, and the reason names it."""
        result = self.result("", "sh", "no-such-program", "nor-this")
        self.assertEqual([reason for _, reason in result.skips], 2 * ["needs no-such-program, nor-this"])

    def test_demanded(self) -> None:
        """Where integration is demanded, tests that lack a program fail, and the failure names it."""
        result = self.result("1", "no-such-program")
        self.assertEqual((len(result.failures), result.successes), (2, 0))
        for _, failure in result.failures:
            self.assertIn("needs no-such-program", str(failure))

    def test_root(self) -> None:
        """Root's rights can be a need."""
        self.patch(os, "geteuid", lambda: 1000)
        self.assertEqual(missing(["root", "sh"]), "needs root")
        self.patch(os, "geteuid", lambda: 0)
        self.assertEqual(missing(["root", "sh"]), None)

    def test_count(self) -> None:
        """Long counts are for full runs only."""
        for value, expected in {"": 3, "0": 3, "1": 1000}.items():
            self.patch(os, "environ", {"AMPHORA_FULL_TESTS": value})
            self.assertEqual(count(3, 1000), expected)

    def test_short_directory(self) -> None:
        """The directory of a test leaves room for long names of sockets, and is gone afterwards."""
        inner = SynchronousTestCase()
        path = short_directory(inner)
        (path / "file").touch()
        self.assertLess(len(bytes(path)), 47)
        inner.doCleanups()
        self.assertFalse(path.exists())


class RunTestsTests(SynchronousTestCase):
    """`script/run_tests.py`: the count at the end."""

    def run_tests(self, source: str) -> tuple[int, str]:
        """Run a test module; the exit status and the last line that was printed."""
        folder = short_directory(self)
        module = folder / "test_sample.py"
        module.write_text(source, "utf-8")
        command = [sys.executable, str(RUN_TESTS), f"--temp-directory={folder / 'trial'}", str(module)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()[-1]

    def test_counts(self) -> None:
        """Failures, errors and unexpected successes count as failed, expected failures as skipped."""
        self.assertEqual(self.run_tests(ONE_OF_EACH), (1, "2 passed, 3 failed, 2 skipped"))

    def test_passed(self) -> None:
        """If nothing failed the exit status is 0, and nothing is said of skips where there are none."""
        self.assertEqual(self.run_tests(ONE_OF_EACH.partition("    def test_3")[0]), (0, "2 passed, 0 failed"))

    def test_ended_early(self) -> None:
        """A test that ends the whole run is a failure, and the last line is still the count."""
        source = ONE_OF_EACH.replace('self.fail("as meant")', "__import__('os')._exit(0)")
        self.assertEqual(self.run_tests(source), (1, "0 passed, 1 failed"))

    def test_not_to_be_imported(self) -> None:
        """A module that cannot be imported is a failure."""
        self.assertEqual(self.run_tests("import no_such_module\n"), (1, "0 passed, 1 failed"))

    def test_nothing(self) -> None:
        """A run without any test is a failure."""
        self.assertEqual(self.run_tests(""), (1, "0 passed, 1 failed"))
