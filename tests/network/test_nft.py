"""Tests for L{amphora.network.nft}: how nft is asked, and what is said when it fails."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.network.nft import NftFailed, NftProgram
from amphora.testing.fakes import FakeProcess, FakeProcessReactor

# Any program that is there will do.
PROGRAM = sys.executable


class NftProgramTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeProcessReactor()

    def load(self, namespace: str = "") -> tuple[Deferred[None], FakeProcess]:
        loading = Deferred.fromCoroutine(NftProgram(self.reactor, AtOnce(), namespace, PROGRAM).load("a script"))
        return loading, self.reactor.processes[-1]

    def words(self, loading: Deferred[Any]) -> str:
        words: str = self.failureResultOf(loading, NftFailed).getErrorMessage()
        return words

    def test_load(self) -> None:
        """A script is read from standard input, in the namespace where there is one."""
        for namespace, inside in (("", []), ("lb", ["ip", "netns", "exec", "lb"])):
            loading, process = self.load(namespace)
            self.assertEqual([*inside, PROGRAM, "--file", "-"], process.command)
            self.assertEqual((b"a script", False), (process.stdin, process.stdin_open))
            process.exits()
            self.successResultOf(loading)

    def test_check(self) -> None:
        """A check says so."""
        checking = Deferred.fromCoroutine(NftProgram(self.reactor, AtOnce(), "", PROGRAM).check("a script"))
        self.assertEqual([PROGRAM, "--check", "--file", "-"], self.reactor.processes[-1].command)
        self.reactor.processes[-1].exits()
        self.successResultOf(checking)

    def test_refused(self) -> None:
        """What nft refuses it with is told, or how it ended where it says nothing."""
        loading, process = self.load()
        process.says(b"Error: No such file or directory\n", on_stderr=True)
        process.exits(1)
        self.assertEqual("nft: Error: No such file or directory", self.words(loading))
        loading, process = self.load()
        process.exits(3)
        self.assertEqual("nft: ended with 3", self.words(loading))

    def test_overdue(self) -> None:
        """One that does not end is killed."""
        loading, _ = self.load()
        self.reactor.pump([10, 0])
        self.assertIn("did not end within", self.words(loading))

    def test_missing(self) -> None:
        """Where there is no nft, what to do is told."""
        loading = Deferred.fromCoroutine(NftProgram(self.reactor, AtOnce(), "lb", "no-such-nft").load(""))
        self.assertEqual("there is no no-such-nft: install nftables", self.words(loading))
