"""Tests for L{amphora.network.lvs_settings}, and for raising limits."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.network.lvs_settings import LIMITS, SETTINGS, LvsSettings
from amphora.network.sysctl import raise_limits
from amphora.testing.fake_kernel import FakeKernel
from tests.integration.support import short_directory


class LvsSettingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.kernel = FakeKernel()
        self.settings = LvsSettings(AtOnce(), self.kernel)

    def apply(self, *, early: bool = False) -> list[str]:
        """Apply them, and tell what the log was told."""
        with capturedLogs() as events:
            self.successResultOf(ensureDeferred(self.settings.apply(early)))
        return [event["problems"] for event in events]

    def test_applied(self) -> None:
        """All is set, a limit that is higher stays, and nothing is said."""
        self.kernel.limits["net/netfilter/nf_conntrack_max"] = 1_000_000
        self.assertEqual([], self.apply())
        self.assertEqual(SETTINGS, self.kernel.sysctls)
        self.assertEqual({**LIMITS, "net/netfilter/nf_conntrack_max": 1_000_000}, self.kernel.limits)

    def test_early(self) -> None:
        """Before keepalived has loaded the module, what can be set is, and nothing is said of the rest."""
        self.kernel.problems = ["net/ipv4/vs/conntrack cannot be set to 1: No such file or directory"]
        self.assertEqual([], self.apply(early=True))
        self.assertEqual(1, len(self.apply()))

    def test_told_once(self) -> None:
        """What cannot be set is told in one line, and again only when something else cannot (A16, A17)."""
        self.kernel.problems = ["net/ipv4/vs/conntrack cannot be set to 1: No such file or directory"]
        (line,) = self.apply()
        self.assertIn("net/ipv4/vs/conntrack cannot be set", line)
        self.assertEqual([], self.apply())
        self.kernel.problems = ["something else"]
        self.assertEqual(1, len(self.apply()))
        self.kernel.problems = []
        self.assertEqual([], self.apply())
        self.kernel.problems = ["something else"]
        self.assertEqual(1, len(self.apply()))


class LimitTests(SynchronousTestCase):
    def test_limits(self) -> None:
        """What is lower is raised, what is higher stays, what is missing or no number is told."""
        root = short_directory(self)
        for name, content in (("low", "10\n"), ("high", "1000\n"), ("odd", "x\n")):
            (root / name).write_text(content)
        problems = raise_limits({"low": 100, "high": 100, "odd": 100, "none": 100}, root)
        self.assertEqual(
            ["odd is no number", "none cannot be set to 100: No such file or directory"],
            problems,
        )
        self.assertEqual(("100", "1000"), tuple((root / name).read_text().strip() for name in ("low", "high")))
