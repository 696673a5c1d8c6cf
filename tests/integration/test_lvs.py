"""UDP and SCTP listeners under the agent: what they are told, what they survive, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from amphora.blocking import InThreads
from amphora.keepalived import process as keepalived_process
from amphora.keepalived.files import begin_run
from amphora.lvs import listener as lvs_listener
from amphora.lvs.config import parse_config
from amphora.lvs.errors import LvsActionFailed, LvsConfigurationNotStored, LvsConfigurationRefused, LvsListenerNotFound
from amphora.lvs.listener import Surroundings
from amphora.lvs.listeners import LvsListeners
from amphora.lvs.store import LvsFiles, LvsProgram
from amphora.network.bind import Bind
from amphora.process import ProcessIdentity, spawn_daemon
from amphora.vrrp.check_scripts import CheckScripts
from tests.integration.harness import AgentTestCase, new_id, wait_until
from tests.integration.lvs import EVERYTHING_FOR_LVS, KEEPALIVED, MEMBER, VIP, LvsText, with_fake_ipvs
from tests.integration.networks import new_namespace
from tests.integration.pair import end_keepaliveds, keepalives_of
from tests.integration.support import requires, short_directory
from tests.integration.test_check_scripts import passes


class Addresses:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.provided: list[list[Bind]] = []
        self.told: list[list[Bind]] = []

    async def provide(self, binds: Any) -> None:
        self.provided.append(list(binds))

    def bound(self, binds: Any) -> None:
        self.told.append(list(binds))


class LvsTestCase(TestCase):
    """The real keepalived, to which only the kernel's table of virtual servers is a fake."""

    timeout = 180

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.directory = short_directory(self)
        self.base = self.directory / "base"
        self.lvs = self.base / "lvs"
        self.namespace = new_namespace(self)
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))
        self.program: LvsProgram = await deferToThread(with_fake_ipvs, self.directory, self.namespace)
        self.addresses = Addresses()
        self.check_scripts = CheckScripts(self.reactor, InThreads(self.reactor), self.base / "vrrp")
        self.addCleanup(self.check_scripts.close)
        self.changes = self.prepared = 0
        self.running_when_prepared: list[ProcessIdentity] | None = None
        await self.check_scripts.install()
        self.listeners = self.new_listeners()
        await self.listeners.adopt()

    def new_listeners(self) -> LvsListeners:
        around = Surroundings(
            self.reactor, InThreads(self.reactor), self.program, self.addresses, self.prepare_kernel, self.changed
        )
        listeners = LvsListeners(self.lvs, around, self.check_scripts.expect_processes)

        async def end() -> None:
            await listeners.finish()
            listeners.release()

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return listeners

    async def prepare_kernel(self, early: bool) -> None:
        if early:
            self.running_when_prepared = self.listeners.processes()
        else:
            self.prepared += 1

    def changed(self) -> None:
        self.changes += 1

    async def next_agent(self) -> None:
        """The agent ends, and another one comes."""
        await self.listeners.finish()
        self.listeners.release()
        self.listeners = self.new_listeners()
        await self.listeners.adopt()

    async def act(self, listener_id: str, action: Any) -> str:
        return await self.listeners.get(listener_id).act(action)

    async def running(self, listener: LvsText) -> ProcessIdentity:
        await self.listeners.upload(listener.listener_id, listener.text())
        await self.act(listener.listener_id, "start")
        return self.process(listener)

    def process(self, listener: LvsText) -> ProcessIdentity:
        process = self.listeners.get(listener.listener_id).process
        assert process is not None
        return process

    def log(self, listener: LvsText) -> str:
        return (self.lvs / listener.listener_id / "keepalived.log").read_text()

    def status(self, listener: LvsText) -> str:
        return next(each.status for each in self.listeners.statuses() if each.listener_id == listener.listener_id)

    def files_of(self, listener: LvsText) -> list[str]:
        return sorted(path.name for path in self.lvs.rglob("*") if listener.listener_id in str(path))

    async def passes(self) -> bool:
        return await deferToThread(passes, self.base / "vrrp" / "check_script.sh")


@requires(*EVERYTHING_FOR_LVS)
class LifeTests(LvsTestCase):
    async def test_life(self) -> None:
        """A listener is uploaded, started, reloaded, stopped and deleted; its text stays as it came."""
        listener = LvsText()
        content = listener.text()
        md5 = await self.listeners.upload(listener.listener_id, content)
        self.assertEqual(hashlib.md5(content).hexdigest(), md5)
        path = self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.conf"
        self.assertEqual((content, 0o644), (path.read_bytes(), path.stat().st_mode & 0o777))
        self.assertEqual(
            ([listener.listener_id], "OFFLINE", []), (self.listeners.ids(), self.status(listener), self.runs())
        )
        for action, done in (("start", "started"), ("start", "started"), ("reload", "restarted"), ("stop", "stoped")):
            self.assertEqual(done, await self.act(listener.listener_id, action))
            running = action != "stop"
            self.assertEqual("ACTIVE" if running else "OFFLINE", self.status(listener))
            self.assertEqual(running, bool(self.runs()))
        self.assertEqual("stoped", await self.act(listener.listener_id, "stop"))
        self.assertEqual("started", await self.act(listener.listener_id, "reload"))
        self.assertEqual(content, await self.listeners.get(listener.listener_id).configuration())
        self.assertEqual(2, len(keepalives_of(self.directory)))
        for known in (True, False):
            self.assertEqual(known, await self.listeners.discard(listener.listener_id))
        self.assertEqual([], self.files_of(listener))
        self.assertEqual([], keepalives_of(self.directory))
        self.assertEqual([], self.listeners.ids())
        with self.assertRaises(LvsListenerNotFound):
            self.listeners.get(listener.listener_id)

    def runs(self) -> list[str]:
        return [run.listener_id for run in self.listeners.runs()]

    async def test_A15_reload_is_no_restart(self) -> None:
        """A reload is one SIGHUP to the process that is there: it loads the upload, and its child goes on."""
        listener = LvsText()
        process = await self.running(listener)
        (child,) = process.children()
        for number in range(3):
            before = self.log(listener).count("Reloading ...")
            changed = evolve(listener, members=(MEMBER, f"192.0.2.{20 + number}"))
            await self.listeners.upload(listener.listener_id, changed.text())
            (run,) = self.listeners.runs()
            self.assertNotEqual(parse_config(changed.text()), run.config)
            await self.act(listener.listener_id, "reload")
            (run,) = self.listeners.runs()
            self.assertEqual((parse_config(changed.text()), process, True), (run.config, run.process, run.settled))
            self.assertEqual(before + 1, self.log(listener).count("Reloading ..."))
            self.assertIn(
                f"Activating healthchecker for service [{MEMBER}]" if changed.check else "", self.log(listener)
            )
        self.assertEqual([child], process.children())
        self.assertEqual(1, self.log(listener).count("Starting Keepalived"))

    async def test_D7_settled(self) -> None:
        """Until keepalived says that it has loaded a configuration, what is told of its members is not settled."""
        listener = LvsText()
        process = await self.running(listener)
        process.send_signal(signal.SIGSTOP)
        reloading = self.act_later(listener, "reload")
        await wait_until(lambda: not self.listeners.runs()[0].settled, "the reload to begin")
        process.send_signal(signal.SIGCONT)
        await reloading
        self.assertTrue(self.listeners.runs()[0].settled)

    async def test_undecided_reload(self) -> None:
        """A keepalived that hangs is told to reload, which is an error until it says that it has; it is left alone."""
        listener = LvsText()
        process = await self.running(listener)
        process.send_signal(signal.SIGSTOP)
        with self.assertRaises(LvsActionFailed) as raised:
            await self.act(listener.listener_id, "reload")
        self.assertIn("did not say within 5 s that it has reloaded", raised.exception.details)
        self.assertFalse(self.listeners.runs()[0].settled)
        process.send_signal(signal.SIGCONT)
        await wait_until(lambda: "Reload complete" in self.log(listener), "it to load what it was told to")
        await self.act(listener.listener_id, "reload")
        self.assertEqual((process, True), (self.process(listener), self.listeners.runs()[0].settled))

    def act_later(self, listener: LvsText, action: Any) -> Deferred[str]:
        return self.listeners.get(listener.listener_id).act(action)

    async def test_disabled(self) -> None:
        """A disabled listener has a keepalived with nothing to do, which a reload gives work, and takes it from."""
        listener = LvsText(disabled=True)
        process = await self.running(listener)
        self.assertEqual("OFFLINE", self.status(listener))
        self.assertEqual([], process.children())
        for disabled in (True, False, True, False):
            await self.listeners.upload(listener.listener_id, evolve(listener, disabled=disabled).text())
            self.assertEqual("restarted", await self.act(listener.listener_id, "reload"))
            self.assertEqual("OFFLINE" if disabled else "ACTIVE", self.status(listener))
            self.assertEqual(process, self.process(listener))

    async def test_addresses(self) -> None:
        """Its addresses are seen to before it starts, and told to neighbours after each start and reload."""
        listener = LvsText(vips=(VIP, "192.0.2.101"))
        await self.running(listener)
        binds = [Bind(VIP, listener.port), Bind("192.0.2.101", listener.port)]
        self.assertEqual(([binds], [binds]), (self.addresses.provided, self.addresses.told))
        await self.act(listener.listener_id, "reload")
        self.assertEqual([binds] * 2, self.addresses.told)
        self.assertEqual(set(binds), self.listeners.binds)

    async def test_A16_kernel_settings(self) -> None:
        """What the kernel has to be told is seen to when a keepalived balances, not where one has nothing to do."""
        idle = LvsText(disabled=True)
        process = await self.running(idle)
        self.assertEqual((None, 0), (self.running_when_prepared, self.prepared))
        listener = LvsText()
        await self.running(listener)
        # Once before it started, so that no flow begins without, and once when the kernel had all that can be set.
        self.assertEqual(([process], 1), (self.running_when_prepared, self.prepared))
        await self.act(listener.listener_id, "reload")
        self.assertEqual(2, self.prepared)
        await self.next_agent()
        self.assertEqual(3, self.prepared)

    async def test_many(self) -> None:
        """Listeners do not know of each other."""
        listeners = [LvsText(port=5000 + number) for number in range(4)]
        processes = await gatherResults([Deferred.fromCoroutine(self.running(each)) for each in listeners])
        self.assertEqual(4, len(set(processes)))
        await self.listeners.discard(listeners[0].listener_id)
        self.assertEqual(sorted(each.listener_id for each in listeners[1:]), self.listeners.ids())
        self.assertEqual(set(processes[1:]), set(self.listeners.processes()))

    async def test_members_are_checked(self) -> None:
        """keepalived runs the program that was installed for it, with each member's address and port."""
        mark = self.directory / "mark"
        programs = self.directory / "programs"
        programs.mkdir()
        (programs / "nc").write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$@" >{mark}\n')
        (programs / "nc").chmod(0o755)
        check = self.lvs / "check" / "udp_check.sh"
        self.assertEqual(0o755, check.stat().st_mode & 0o777)
        self.program = with_fake_ipvs(self.directory, self.namespace, str(programs))
        await self.next_agent()
        # Whatever nc the machine has comes first.
        listener = LvsText(check=str(check), members=("127.0.0.1",))
        await self.running(listener)
        if shutil.which("nc", path=str(self.program.environment["PATH"].rpartition(":")[0])) is None:
            await wait_until(
                lambda: mark.exists() and mark.read_text() == f"-uzv -w1 127.0.0.1 {listener.port}\n", "nc"
            )
        else:
            await wait_until(lambda: "udp_check.sh] failed" in self.log(listener), "the check to fail")


@requires(*EVERYTHING_FOR_LVS)
class RefusalTests(LvsTestCase):
    async def test_refused(self) -> None:
        """What keepalived would not take, or only in part, is refused in its words, and changes nothing."""
        listener = LvsText()
        process = await self.running(listener)
        good = listener.text()
        before = self.files_of(listener)
        for content, words in (
            (b"", "without a comment that tells the listener's id"),
            (good[: len(good) // 2], "line "),
            (good.rstrip()[:-1], "the text ends within"),
            (good.replace(listener.listener_id.encode(), new_id().encode()), "The configuration is one of listener"),
            (good + b"BAD_LINE\n", f"(octavia-keepalivedlvs-{listener.listener_id}.conf: Line 24) Unknown keyword"),
            (good.replace(b"wrr", b"zzz"), "Invalid lvs_scheduler 'zzz'"),
            (good.replace(b"weight 1", b"weight -1"), "line "),
            (good + b"include /no/such/file\n", "Config files missing '/no/such/file'"),
        ):
            with self.assertRaises(LvsConfigurationRefused) as raised:
                await self.listeners.upload(listener.listener_id, content)
            self.assertIn(words, raised.exception.reason)
        self.assertEqual(good, await self.listeners.get(listener.listener_id).configuration())
        self.assertEqual(before, self.files_of(listener))
        await self.act(listener.listener_id, "reload")
        self.assertEqual(process, self.process(listener))

    async def test_first_refused(self) -> None:
        """Of a listener of which nothing was ever accepted there is nothing left."""
        listener = LvsText()
        with self.assertRaises(LvsConfigurationRefused):
            await self.listeners.upload(listener.listener_id, listener.text() + b"BAD_LINE\n")
        self.assertEqual(([], []), (self.files_of(listener), self.listeners.ids()))

    async def test_disk_that_takes_nothing(self) -> None:
        """What cannot be written changes nothing; that it cannot be remembered keeps nothing from being deleted."""
        listener = LvsText()
        process = await self.running(listener)
        obstacle = self.lvs / f".octavia-keepalivedlvs-{listener.listener_id}.conf.new"
        obstacle.mkdir()
        with self.assertRaises(LvsConfigurationNotStored):
            await self.listeners.upload(listener.listener_id, evolve(listener, members=()).text())
        obstacle.rmdir()
        self.assertEqual(listener.text(), await self.listeners.get(listener.listener_id).configuration())
        await self.act(listener.listener_id, "reload")
        self.assertEqual(process, self.process(listener))
        (self.lvs / listener.listener_id / ".keepalived.json.new").mkdir()
        await self.listeners.discard(listener.listener_id)
        self.assertEqual(([], []), (self.files_of(listener), keepalives_of(self.directory)))

    async def test_no_members_yet(self) -> None:
        """A pool without members is as good as any, and gets them by a reload."""
        listener = LvsText(members=())
        process = await self.running(listener)
        self.assertEqual("ACTIVE", self.status(listener))
        await self.listeners.upload(listener.listener_id, evolve(listener, members=(MEMBER,)).text())
        await self.act(listener.listener_id, "reload")
        self.assertEqual(process, self.process(listener))

    async def test_without_ipvs(self) -> None:
        """On a kernel without IPVS a start fails, says what is missing, and is not tried again."""
        if Path("/proc/net/ip_vs").exists():
            return
        self.program = LvsProgram(KEEPALIVED, self.namespace, facility=None)
        await self.next_agent()
        listener = LvsText()
        await self.listeners.upload(listener.listener_id, listener.text())
        for action in ("start", "reload"):
            with self.assertRaises(LvsActionFailed) as raised:
                await self.act(listener.listener_id, action)
            self.assertIn("IPVS: Can't initialize ipvs", raised.exception.details)
            self.assertIn("modprobe ip_vs", raised.exception.details)
        self.assertEqual(("OFFLINE", []), (self.status(listener), list(self.listeners.runs())))
        await self.next_agent()
        self.assertEqual([], keepalives_of(self.directory))

    async def test_reload_that_fails(self) -> None:
        """Where what was uploaded ends keepalived, what ran before runs in its place."""
        if Path("/proc/net/ip_vs").exists():
            return
        self.program = LvsProgram(KEEPALIVED, self.namespace, facility=None)
        await self.next_agent()
        listener = LvsText(disabled=True)
        process = await self.running(listener)
        await self.listeners.upload(listener.listener_id, evolve(listener, disabled=False).text())
        with self.assertRaises(LvsActionFailed) as raised:
            await self.act(listener.listener_id, "reload")
        self.assertIn("The configuration that ran before runs in its place", raised.exception.details)
        self.assertNotEqual(process, self.process(listener))
        self.assertTrue(self.listeners.runs()[0].config.disabled)


@requires(*EVERYTHING_FOR_LVS)
class SurvivalTests(LvsTestCase):
    async def test_death_in_a_reload(self) -> None:
        """One that dies while it reloads leaves no child that goes on beside the one that takes its place."""
        listener = LvsText()
        process = await self.running(listener)
        (child,) = process.children()
        await self.listeners.upload(listener.listener_id, evolve(listener, members=("192.0.2.77",)).text())
        child.send_signal(signal.SIGSTOP)
        reloading = self.listeners.get(listener.listener_id).act("reload")
        await wait_until(lambda: not self.listeners.runs()[0].settled, "the reload to begin")
        process.send_signal(signal.SIGKILL)
        with self.assertRaises(LvsActionFailed) as raised:
            await reloading
        self.assertIn("The configuration that ran before runs in its place", raised.exception.details)
        self.assertFalse(child.alive)
        self.assertEqual(parse_config(listener.text()), self.listeners.runs()[0].config)
        self.assertNotEqual(process, self.process(listener))

    async def test_next_agent(self) -> None:
        """The next agent finds it, whatever became of the pid file (B8), and knows that it was stopped."""
        listener = LvsText()
        process = await self.running(listener)
        pid_file = self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.pid"
        for content in (str(process.pid), "", "garbage\n", str(os.getpid()), None):
            pid_file.unlink()
            if content is not None:
                pid_file.write_text(content)
            await self.next_agent()
            self.assertEqual((process, "ACTIVE"), (self.process(listener), self.status(listener)), content)
            self.assertTrue(self.listeners.runs()[0].settled)
            pid_file.touch()
        await self.act(listener.listener_id, "stop")
        await self.next_agent()
        self.assertEqual(("OFFLINE", []), (self.status(listener), keepalives_of(self.directory)))

    async def test_agent_killed_before_a_reload(self) -> None:
        """What an earlier agent was about to have loaded is loaded, and not settled until it is."""
        listener = LvsText()
        process = await self.running(listener)
        changed = evolve(listener, members=("192.0.2.77",))
        await self.listeners.upload(listener.listener_id, changed.text())
        begin_run(LvsFiles.of(self.lvs, listener.listener_id))
        before = self.log(listener).count("Reload complete")
        await self.next_agent()
        self.assertFalse(self.listeners.runs()[0].settled)
        await wait_until(lambda: self.listeners.runs()[0].settled, "it to be loaded")
        self.assertEqual(before + 1, self.log(listener).count("Reload complete"))
        self.assertEqual(
            (parse_config(changed.text()), process), (self.listeners.runs()[0].config, self.process(listener))
        )
        self.assertFalse(LvsFiles.of(self.lvs, listener.listener_id).previous.exists())

    async def test_silent_start(self) -> None:
        """One that does not say that it is up is not settled, and what ran before is kept."""
        listener = LvsText()
        await self.running(listener)
        await self.act(listener.listener_id, "stop")

        def spawn_stopped(*args: Any, **options: Any) -> int:
            pid = spawn_daemon(*args, **options)
            os.kill(pid, signal.SIGSTOP)
            return pid

        self.patch(keepalived_process, "spawn_daemon", spawn_stopped)
        self.patch(lvs_listener, "START_PATIENCE", 0.2)
        await self.act(listener.listener_id, "start")
        self.process(listener).send_signal(signal.SIGCONT)
        self.assertFalse(self.listeners.runs()[0].settled)
        self.assertTrue(LvsFiles.of(self.lvs, listener.listener_id).previous.exists())
        # Before it is up it would not hear that it is to end.
        await wait_until(lambda: self.log(listener).count("Startup complete") == 2, "it to come up after all")

    async def test_death(self) -> None:
        """One that died is started again, with what it ran last, whatever was uploaded meanwhile."""
        listener = LvsText()
        process = await self.running(listener)
        config = self.listeners.runs()[0].config
        await self.listeners.upload(listener.listener_id, evolve(listener, members=()).text())
        process.send_signal(signal.SIGKILL)
        await wait_until(lambda: self.listeners.processes() not in ([], [process]), "it to be started again")
        await wait_until(lambda: self.listeners.runs()[0].settled, "it to settle")
        self.assertEqual(config, self.listeners.runs()[0].config)

    async def test_reboot(self) -> None:
        """What should run is started by the next agent, what was stopped is not."""
        first, second = LvsText(), LvsText(port=5354)
        for listener in (first, second):
            await self.running(listener)
        await self.act(second.listener_id, "stop")
        await self.listeners.finish()
        self.listeners.release()
        await end_keepaliveds(self.directory)
        await self.next_agent()
        await wait_until(lambda: len(self.listeners.processes()) == 1, "the first to be started")
        await wait_until(lambda: self.status(first) == "ACTIVE", "it to be up")
        self.assertEqual("OFFLINE", self.status(second))

    async def test_deletion_with_gaps(self) -> None:
        """It can be deleted when files of it are gone, or it is dead, or its agent was killed half-way."""
        for number, lose in enumerate(("pid", "check.pid", "everything", "config")):
            listener = LvsText(port=5353 + number)
            await self.running(listener)
            if lose == "everything":
                shutil.rmtree(self.lvs / listener.listener_id)
            elif lose == "config":
                (self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.conf").unlink()
                await self.next_agent()
            else:
                (self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.{lose}").unlink()
            await self.listeners.discard(listener.listener_id)
            self.assertEqual([], self.files_of(listener), lose)
        self.assertEqual([], keepalives_of(self.directory))

    async def test_damaged_configuration(self) -> None:
        """One whose configuration was damaged goes on as it ran; it can be uploaded again, and deleted."""
        listener = LvsText()
        process = await self.running(listener)
        path = self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.conf"
        for repair in (True, False):
            path.write_bytes(b"}")
            await self.next_agent()
            self.assertEqual(([], [process]), (self.listeners.ids(), self.listeners.processes()))
            self.assertEqual(parse_config(listener.text()), self.listeners.runs()[0].config)
            with self.assertRaises(LvsConfigurationRefused):
                await self.listeners.upload(listener.listener_id, b"")
            self.assertEqual(b"}", path.read_bytes())
            if repair:
                await self.listeners.upload(listener.listener_id, listener.text())
                await self.act(listener.listener_id, "reload")
                self.assertEqual(process, self.process(listener))
        self.assertTrue(await self.listeners.discard(listener.listener_id))
        self.assertEqual(([], []), (self.files_of(listener), keepalives_of(self.directory)))

    async def test_other_agents_leftovers(self) -> None:
        """A configuration that today's agent left is a listener that is known, and can be started and deleted."""
        listener = LvsText()
        path = self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.conf"
        path.write_bytes(listener.text())
        for suffix in (".pid", ".vrrp.pid", ".check.pid"):
            path.with_suffix(suffix).write_text(f"{os.getpid()}\n")
        await self.next_agent()
        self.assertEqual([listener.listener_id], self.listeners.ids())
        self.assertEqual("started", await self.act(listener.listener_id, "start"))
        await self.listeners.discard(listener.listener_id)
        self.assertEqual([], self.files_of(listener))


@requires(*EVERYTHING_FOR_LVS)
class CheckTests(LvsTestCase):
    """What UDP listeners make of the check by which keepalived decides whether this amphora may have the address."""

    async def test_lives(self) -> None:
        """An amphora with nothing but UDP listeners passes while all run that should, and when all were stopped."""
        self.assertFalse(await self.passes())
        first, second = LvsText(), LvsText(port=5354)
        await self.listeners.upload(first.listener_id, first.text())
        self.assertFalse(await self.passes())
        for listener in (first, second):
            await self.running(listener)
            self.assertTrue(await self.passes())
        await self.act(first.listener_id, "stop")
        self.assertTrue(await self.passes())
        await self.next_agent()
        self.assertTrue(await self.passes())
        await self.listeners.discard(second.listener_id)
        self.assertTrue(await self.passes())

    async def test_dead(self) -> None:
        """It fails when one is dead, with its pid file or without, also while there is no agent."""
        listener = LvsText()
        process = await self.running(listener)
        await self.listeners.finish()
        self.listeners.release()
        self.assertTrue(await self.passes())
        process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not process.alive, "it to die")
        self.assertFalse(await self.passes())
        (self.lvs / f"octavia-keepalivedlvs-{listener.listener_id}.pid").unlink()
        self.assertFalse(await self.passes())
        await self.next_agent()
        expected = self.base / "vrrp" / "lvs_processes"
        await wait_until(lambda: bool(self.listeners.processes()), "it to be started again")
        await wait_until(lambda: f"{self.process(listener).pid} " in expected.read_text(), "that to be written down")
        self.assertTrue(await self.passes())


@requires("root", "keepalived", "ip")
class RouteTests(AgentTestCase):
    """The routes of the API 1.0, on the agent as an operator starts it."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.namespace = new_namespace(self)
        super().setUp()
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))
        await self.agent.start()

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"network_namespace": self.namespace}}

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers, body."""
        head = (
            f"{method} /1.0{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw = await self.raw_client().exchange(head.encode() + body)
        top, _, content = raw.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), headers, content

    async def answer(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        status, headers, content = await self.ask(method, path, body)
        self.assertEqual("application/json", headers["content-type"])
        return status, json.loads(content)

    async def upload(self, listener: LvsText) -> tuple[int, Any]:
        return await self.answer("PUT", f"/listeners/{new_id()}/{listener.listener_id}/udp_listener", listener.text())

    async def test_life(self) -> None:
        """What a controller does with a listener, in the words of the contract; the agent may be killed in between."""
        listener = LvsText(disabled=True)
        path = f"/listeners/{listener.listener_id}/udp_listener"
        status, headers, _ = await self.ask(
            "PUT", f"/listeners/{new_id()}/{listener.listener_id}/udp_listener", listener.text()
        )
        md5 = hashlib.md5(listener.text()).hexdigest()
        self.assertEqual((200, md5), (status, headers["etag"].strip('"')))
        status, headers, content = await self.ask("GET", path)
        self.assertEqual((200, "text/plain", listener.text()), (status, headers["content-type"], content))
        process = None
        for action, done in (("reload", "started"), ("RELOAD", "restarted"), ("start", "started")):
            details = f"keepalivedlvs listener {listener.listener_id} {done}"
            answer = await self.answer("PUT", f"/loadbalancer/{listener.listener_id}/{action}")
            self.assertEqual((202, {"message": "OK", "details": details}), answer)
            (found,) = keepalives_of(self.directory)
            self.assertIn(process, (None, found))
            process = found
            await self.agent.end(signal.SIGKILL)
            await self.agent.start()
        entry = {"status": "OFFLINE", "uuid": listener.listener_id, "type": "UDP"}
        self.assertEqual((200, [entry]), await self.answer("GET", "/listeners"))
        _, details_answer = await self.answer("GET", "/details")
        self.assertEqual(
            (1, [listener.listener_id]), (details_answer["lvs_listener_process_count"], details_answer["listeners"])
        )
        for _ in range(2):
            self.assertEqual(
                (200, {"message": "OK"}), await self.answer("DELETE", f"/listeners/{listener.listener_id}")
            )
        self.assertEqual([], keepalives_of(self.directory))
        self.assertEqual((200, []), await self.answer("GET", "/listeners"))
        details = f"No UDP listener with UUID: {listener.listener_id}"
        self.assertEqual(
            (404, {"message": "UDP Listener Not Found", "details": details}), await self.answer("GET", path)
        )

    async def test_refusals(self) -> None:
        """Errors have the contract's codes and words, and name what is wrong."""
        listener = LvsText()
        status, answer = await self.answer(
            "PUT", f"/listeners/{new_id()}/{listener.listener_id}/udp_listener", listener.text() + b"BAD_LINE\n"
        )
        self.assertEqual((400, "Invalid request"), (status, answer["message"]))
        self.assertIn("Unknown keyword 'BAD_LINE'", answer["details"])
        self.assertEqual(404, (await self.answer("PUT", f"/loadbalancer/{listener.listener_id}/start"))[0])
        await self.upload(listener)
        status, answer = await self.answer("PUT", f"/loadbalancer/{listener.listener_id}/jump")
        self.assertEqual((400, "Unknown action: jump"), (status, answer["details"]))
        if Path("/proc/net/ip_vs").exists():
            return
        status, answer = await self.answer("PUT", f"/loadbalancer/{listener.listener_id}/reload")
        self.assertEqual(
            (500, f"Failed to reload keepalivedlvs listener {listener.listener_id}"), (status, answer["message"])
        )
        self.assertIn("modprobe ip_vs", answer["details"])
