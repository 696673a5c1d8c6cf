"""What is relied on of keepalived where it balances UDP, tried on the installed one."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from amphora.keepalived.verdict import objection
from amphora.lvs.store import LvsFiles, LvsProgram
from amphora.process import CommandResult, ProcessIdentity
from tests.integration.harness import wait_until
from tests.integration.lvs import EVERYTHING_FOR_LVS, KEEPALIVED, LvsText, start_plainly, with_fake_ipvs
from tests.integration.networks import new_namespace
from tests.integration.pair import end_keepaliveds
from tests.integration.support import requires, short_directory

SETTINGS = b"global_defs {\n    script_user root\n    enable_script_security\n}\n"


@requires(*EVERYTHING_FOR_LVS)
class LvsFactTests(TestCase):
    timeout = 180

    def setUp(self) -> None:
        self.directory = short_directory(self)
        self.namespace = new_namespace(self)
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))
        self.main = self.directory / "main.conf"
        self.log_file = self.directory / "log"
        self.listener = LvsText(namespace=self.namespace)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def start(self, text: bytes, program: LvsProgram | None = None) -> ProcessIdentity:
        self.main.write_bytes(SETTINGS + text)
        program = program or with_fake_ipvs(self.directory, self.namespace)
        started = start_plainly(program, self.main, self.log_file)
        self.addCleanup(started.wait, 60)
        self.addCleanup(started.kill)
        process = ProcessIdentity.of(started.pid)
        assert process is not None
        return process

    async def said(self, *words: str, since: int = 0) -> None:
        await wait_until(lambda: any(word in self.log[since:] for word in words), f"keepalived to say {words}")

    async def reloaded(self, process: ProcessIdentity, text: bytes, *words: str) -> str:
        """Let it load this, and wait until it says one of these words.  @return: What it said."""
        since = len(self.log)
        self.main.write_bytes(SETTINGS + text)
        process.send_signal(signal.SIGHUP)
        await self.said(*words, since=since)
        return self.log[since:]

    async def test_start_and_reload(self) -> None:
        """A start and a reload end with a line each; the reload keeps the process, and the child that balances."""
        process = self.start(self.listener.text())
        await self.said("Startup complete")
        (child,) = process.children()
        said = await self.reloaded(process, self.listener.text(), "Reload complete")
        self.assertNotIn("Startup complete", said)
        self.assertEqual([child], process.children())

    async def test_nothing_to_balance(self) -> None:
        """With nothing to balance there is no child, and a reload is only told to begin."""
        nothing = LvsText(namespace=self.namespace, disabled=True).text()
        process = self.start(nothing)
        await self.said("has no configuration to run")
        await self.reloaded(process, nothing, "Configuration file ")
        self.assertEqual([], process.children())
        await self.reloaded(process, self.listener.text(), "Startup complete")
        (child,) = process.children()
        await self.reloaded(process, nothing, "Reload complete")
        self.assertEqual([child], process.children())

    async def test_no_members(self) -> None:
        """A pool without members is a complaint of the check, and yet keepalived runs with it."""
        text = LvsText(namespace=self.namespace, members=()).text()
        code, output = self.judge(text)
        self.assertEqual(5, code)
        self.assertEqual(["Virtual server [ipv4-group]:0 has no real servers - ignoring"], output.splitlines())
        self.start(text)
        await self.said("Startup complete")

    def judge(self, text: bytes, settings: bytes = SETTINGS) -> tuple[int, str]:
        candidate = self.directory / "candidate.conf"
        candidate.write_bytes(settings + text)
        command = ["ip", "netns", "exec", self.namespace, KEEPALIVED, "--check", "--config-test", "-f", str(candidate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def test_check(self) -> None:
        """The check needs no IPVS, and finds what is wrong with what is balanced."""
        good = self.listener.text()
        self.assertEqual((0, ""), self.judge(good))
        for old, new, words in (
            (b"protocol UDP", b"protocol XYZ", "Unknown protocol XYZ"),
            (b"lb_algo wrr", b"lb_algo zzz", "Invalid lvs_scheduler 'zzz'"),
            (b"192.0.2.10 ", b"192.0.2.1000 ", "Invalid real server ip address/port"),
            (b"weight 1", b"weight -1", "outside range"),
            (b"lb_kind NAT", b"lb_kind NAT\n    surprise", "Unknown keyword 'surprise'"),
        ):
            code, output = self.judge(good.replace(old, new))
            self.assertEqual(5, code, output)
            self.assertIn(words, output)

    def test_octavias_configurations(self) -> None:
        """Everything that Octavia's own templates make is good: UDP and SCTP, both families, checked or not."""
        configurations = sorted((Path(__file__).parent.parent / "lvs" / "configurations").glob("*.conf"))
        files = LvsFiles.of(self.directory, self.listener.listener_id)
        for path in configurations:
            result = CommandResult(*self.judge(files.as_given(path.read_bytes())))
            self.assertIsNone(objection(result, files), path.name)
        self.assertGreater(len(configurations), 10)

    async def test_namespace_in_the_file(self) -> None:
        """A `net_namespace` that is not there ends keepalived, wherever it was started; the check does not mind."""
        text = LvsText(namespace="amphora-none-such").text()
        self.assertEqual(0, self.judge(text)[0])
        process = self.start(text)
        await wait_until(lambda: not process.alive, "keepalived to end")
        self.assertIn("Unable to set network namespace", self.log)

    async def test_without_ipvs(self) -> None:
        """Without IPVS in the kernel keepalived says so and ends: at a start, and in a reload with a first server."""
        if Path("/proc/net/ip_vs").exists():
            return
        program = LvsProgram(KEEPALIVED, self.namespace, facility=None)
        nothing = LvsText(namespace=self.namespace, disabled=True).text()
        process = self.start(self.listener.text(), program)
        await self.ended(process)
        process = self.start(nothing, program)
        await self.said("has no configuration to run")
        self.main.write_bytes(SETTINGS + self.listener.text())
        process.send_signal(signal.SIGHUP)
        await self.ended(process)

    async def ended(self, process: ProcessIdentity) -> None:
        await wait_until(lambda: not process.alive, "keepalived to end")
        self.assertIn("Can't initialize ipvs", self.log)
        self.assertNotIn("Startup complete", self.log)

    async def test_programs_that_check(self) -> None:
        """A program that checks is looked for on PATH; one that is not found is left out, and `-t` does not mind."""
        mark = self.directory / "mark"
        checker = self.directory / "amphora-test-checker"
        checker.write_text(f"#!/bin/sh\necho $(id -u) $1 >{mark}\n")
        checker.chmod(0o755)
        text = LvsText(namespace=self.namespace, check=checker.name).text()
        self.assertEqual((0, ""), self.judge(text))
        self.start(text)
        await self.said("Startup complete")
        self.assertIn("Cannot find script amphora-test-checker in path - disabling", self.log)
        await end_keepaliveds(self.directory)
        for leftover in self.directory.glob("plain.*"):
            leftover.unlink()
        self.start(text, with_fake_ipvs(self.directory, self.namespace, str(self.directory)))
        await wait_until(lambda: mark.exists() and mark.read_text() == "0 192.0.2.10\n", "the check to be run as root")
