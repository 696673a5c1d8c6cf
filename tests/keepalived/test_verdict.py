"""Tests for L{amphora.keepalived.verdict}; what keepalived really says is tried in the integration tests."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.keepalived.verdict import objection, passed_over
from amphora.process import CommandResult
from amphora.vrrp.store import VrrpFiles

FILES = VrrpFiles(Path("/var/lib/octavia/vrrp"))
TRUNCATED = "(.octavia-keepalived.conf.new: Line 19) Truncating auth_pass to 8 characters\n"
MISSING = "(agent.conf: Line 6) Config files missing '/etc/more.conf'.\n"


class ObjectionTests(SynchronousTestCase):
    def judge(self, exit_code: int, output: str) -> str | None:
        return objection(CommandResult(exit_code, output), FILES)

    def test_good(self) -> None:
        """What exits with 0 is good, whatever was remarked."""
        self.assertIsNone(self.judge(0, ""))
        self.assertIsNone(self.judge(0, "NOTICE: setting config option max_auto_priority\n"))

    def test_harmless(self) -> None:
        """A complaint that changes nothing is none, unless there is another beside it."""
        for code in (4, 5):
            self.assertIsNone(self.judge(code, TRUNCATED))
            self.assertEqual("Unknown keyword 'x'", self.judge(code, TRUNCATED + "Unknown keyword 'x'\n"))
        self.assertEqual("keepalived -t ended with 2", self.judge(2, TRUNCATED))

    def test_without_peers(self) -> None:
        """Octavia names no peers where the other amphora is gone; keepalived runs without them."""
        line = (
            "(0b1c) A unicast keyword has been specified without any unicast peers. Defaulting to multicast. "
            "This usage is deprecated - please update your configuration.\n"
        )
        self.assertIsNone(self.judge(5, line))

    def test_host_routes(self) -> None:
        """Host routes as Octavia's template writes them are left out; any other unknown word is an objection."""
        lines = [
            "(octavia-keepalived.conf: Line 39) VRRP parsed invalid IP gateway. skipping IP...",
            "(octavia-keepalived.conf: Line 39) unknown route keyword gateway",
        ]
        output = "\n".join(lines).replace("octavia-", ".octavia-").replace(".conf", ".conf.new")
        self.assertIsNone(self.judge(5, output))
        self.assertEqual(lines, passed_over(CommandResult(5, output), FILES))
        other = "(octavia-keepalived.conf: Line 40) unknown route keyword gate"
        self.assertEqual(other, self.judge(5, f"{output}\n{other}"))

    def test_missing_include(self) -> None:
        """An include that finds nothing is an objection, though keepalived exits with 0."""
        self.assertEqual(MISSING.strip(), self.judge(0, MISSING))

    def test_words(self) -> None:
        """The words are keepalived's, each line once, with the name that the controller knows."""
        line = "(.octavia-keepalived.conf.new: Line 17) Unknown keyword 'authe'\n"
        self.assertEqual(
            "There are 1 missing '}'s\n(octavia-keepalived.conf: Line 17) Unknown keyword 'authe'",
            self.judge(5, "There are 1 missing '}'s\n\n" + line + line + "There are 1 missing '}'s\n"),
        )

    def test_without_words(self) -> None:
        """Where nothing was said, how it ended is told."""
        self.assertEqual("keepalived -t ended with 5", self.judge(5, ""))
        self.assertEqual("x\nkeepalived -t was ended by signal 15", self.judge(-15, "x\n"))
