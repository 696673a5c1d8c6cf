"""Disks that are full, have no inodes, are read-only, or fail, each a small one of the test's own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, evolve, field, frozen
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part
from tests.faults.deeds import SEED, Deed, HaproxyTestCase, Request, Requests, post_topology
from tests.integration.harness import AMPHORA_ID, LoadBalancer, new_id
from tests.integration.lvs import LvsText
from tests.integration.networks import new_cable, new_namespace
from tests.integration.pair import run
from tests.integration.support import count, requires
from tests.integration.test_network import OF_VIP, VIP
from tests.integration.test_nftables import nft

FULL, READ_ONLY, FAILING = (os.strerror(each) for each in (errno.ENOSPC, errno.EROFS, errno.EIO))

_LEFT = (".new", "previous.cfg", "previous-agent.cfg", "instance.json", ".pid", "agent.sock", "master.sock")
"""Files that the next agent, or the next upload, start or reload, takes away or puts in place."""


@define(eq=False)
class Disk:
    """A file system of memory, with room for little; what has its files open goes on with them, whatever befalls it."""

    path: Path
    _filling: list[Path] = field(init=False, factory=list)

    def mount(self) -> None:
        self.path.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=120", "tmpfs", str(self.path))

    def unmount(self) -> None:
        run("umount", "--lazy", str(self.path))

    def fill(self) -> None:
        """Leave no room."""
        # The last page, too: the file system's count of them is not exact.
        for size in (100_000, 1, 1):
            with contextlib.suppress(OSError):
                while True:
                    self._next().write_bytes(b"Error storing keepalivedlvs configuration" * size)

    def take_all_names(self) -> None:
        """Leave no place for a file, but room."""
        with contextlib.suppress(OSError):
            while True:
                self._next().touch()

    def _next(self) -> Path:
        path = self.path / f"filling-{len(self._filling)}"
        self._filling.append(path)
        return path

    def clear(self) -> None:
        for path in self._filling:
            path.unlink(missing_ok=True)
        self._filling.clear()

    def bar(self) -> None:
        """
        Let nobody write.  What is mounted over it is read-only, as it cannot be itself while it has files that are
        written to.
        """
        run("mount", "--bind", str(self.path), str(self.path))
        run("mount", "-o", "remount,bind,ro", str(self.path))

    def unbar(self) -> None:
        self.unmount()

    def content(self) -> dict[str, bytes]:
        """Every file but the filling, the logs and what is written all the time."""
        passed_over = {f"filling-{number}" for number in range(len(self._filling))} | {"stats_counters.json"}
        return {
            str(path): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and path.name not in passed_over and path.suffix != ".log"
        }


@frozen
class Fault:
    """What befalls a disk, the system's words for it, and what ends it."""

    words: str
    begin: Callable[[Disk], None]
    end: Callable[[Disk], None]


class DiskTestCase(HaproxyTestCase):
    """All that the agent writes is on disks of the test's own."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.disks = {name: Disk(self.directory / name) for name in ("b", "certificates", "interfaces", "conf")}
        return {
            "haproxy_amphora": {"base_cert_dir": self.disks["certificates"].path},
            "amphora_agent": {"agent_server_cert": self.disks["conf"].path / "server.pem", **self.network_options()},
        }

    def network_options(self) -> dict[str, object]:
        return {}

    async def start(self, *controllers: str) -> None:
        await deferToThread(self.mount)
        await super().start(*controllers)
        self.changed = LoadBalancer()

    def mount(self) -> None:
        for disk in self.disks.values():
            disk.mount()
            self.addCleanup(disk.unmount)
        (self.disks["conf"].path / "server.pem").write_bytes(self.pki.server.read_bytes())

    def faults(self) -> Iterator[Fault]:
        yield Fault(FULL, Disk.fill, Disk.clear)
        yield Fault(FULL, Disk.take_all_names, Disk.clear)
        yield Fault(READ_ONLY, Disk.bar, Disk.unbar)
        yield Fault(FAILING, lambda disk: self.steps.fail_at(1, disk.path), lambda _: self.steps.leave())

    @contextlib.contextmanager
    def befallen(self, fault: Fault, *disks: Disk) -> Iterator[None]:
        for disk in disks:
            fault.begin(disk)
        try:
            yield
        finally:
            for disk in disks:
                fault.end(disk)

    async def refused_now(self, fault: Fault, *requests: tuple[Request, str]) -> None:
        """Each of these is told to be impossible, in the system's words too."""
        for request, message in requests:
            answer = await self.call(request.method, request.path, request.body, version=request.version)
            self.assertEqual((500, message), (answer.status, answer.json["message"]), (request, answer.body))
            self.assertIn(fault.words, answer.json["details"], request)

    async def refused(self, fault: Fault, disk: Disk, *requests: tuple[Request, str]) -> None:
        """The same, and what was there stays as it was."""
        before = disk.content()
        with self.befallen(fault, disk):
            await self.refused_now(fault, *requests)
            self.assertEqual(before, disk.content())


@requires("root", "haproxy", "mount", "gcc")
class DiskTests(DiskTestCase):
    async def test_E2_state(self) -> None:
        """Nothing is accepted, nothing is lost, and what serves goes on; room brings all of it back."""
        it = Requests("v0.1", self.balancer.listener_id)
        old, new = self.balancer.config(), evolve(self.balancer, extra_frontend=("http-request allow",)).config()
        fresh = Requests("1.0", new_id()).upload(LoadBalancer().config())
        upload, reload = it.upload(new), it.act("reload")
        async with self.watch():
            for fault in self.faults():
                await self.refused(
                    fault,
                    self.disks["b"],
                    (upload, "Error storing configuration"),
                    (fresh, "Error storing configuration"),
                    (reload, "Error storing configuration"),
                )
                self.assertEqual(old, await self.client.haproxy(self.balancer.listener_id))
                await self.do(upload, reload, it.upload(old), reload)
                await self.do(fresh, Request("1.0", "DELETE", f"/listeners/{fresh.path.split('/')[3]}"))

    async def test_A23_certificates(self) -> None:
        """A certificate that cannot be kept is not taken, and the one before is served."""
        first, second = (deed.request for deed in [*self.deeds("1.0")][1:3])
        await self.do(first)
        async with self.watch():
            for fault in self.faults():
                await self.refused(fault, self.disks["certificates"], (second, "Error storing certificate"))
                await self.do(second, first)

    async def test_configuration(self) -> None:
        """A configuration, and a certificate of the agent's own, that cannot be kept are not in force."""
        pem = self.pki.authority.issue(AMPHORA_ID).pem(Part.KEY, Part.CERTIFICATE)
        put = Request("1.0", "PUT", "/config", self.agent.config().replace("interval = 1\n", "interval = 2\n").encode())
        certificate = Request("v0.1", "PUT", "/certificate", pem)
        async with self.watch():
            for fault in self.faults():
                await self.refused(
                    fault,
                    self.disks["conf"],
                    (put, "Unable to update amphora-agent configuration."),
                    (certificate, "Error storing certificate"),
                )
            await self.do(put, certificate)

    async def test_E2_start(self) -> None:
        """An agent that starts on such a disk finds what runs, answers and tells of it; nobody has to start it anew."""
        reload = Requests("v0.1", self.balancer.listener_id).act("reload")
        for fault in self.chance.sample([*self.faults()], count(1, 4)):
            async with self.watch(spares_agent=False):
                await self.agent.end(signal.SIGKILL)
                with self.befallen(fault, self.disks["b"]):
                    await self.agent.start()
                    if fault.words != FULL:
                        self.assertIn(fault.words, self.agent.log)
                    self.assertEqual(self.balancer.config(), await self.client.haproxy(self.balancer.listener_id))
                    await self.next_heartbeat()
                    await self.refused_now(fault, (reload, "Error storing configuration"))
                await self.do(reload)

    async def test_E2_stop(self) -> None:
        """No such disk keeps a haproxy running that was told to stop."""
        it = Requests("v0.1", self.changed.listener_id)
        await self.do(it.upload(self.changed.config()), it.act("start"))
        async with self.watch():
            for fault in self.faults():
                with self.befallen(fault, self.disks["b"]):
                    answer = await self.call("PUT", it.act("stop").path)
                    self.assertIn(answer.status, (202, 500), answer.body)
                    self.assertEqual(["haproxy"] * 2, [*self.processes()])
                    self.assertEqual("STOPPED", (await self.client.listener(it.object_id)).status)
                await self.do(it.act("start"))

    async def test_any_step(self) -> None:
        """
        A disk that fails from any step on leaves what was, or what is to be; once it works again, who was told that
        it did not gets what he asks for.
        """
        async with self.watch():
            deeds = [*self.deeds("1.0")]
            chosen = self.chance.sample(deeds, count(4, len(deeds)))
            for deed in deeds:
                await self.do(*deed.ground)
                if deed in chosen:
                    await self.fail_in(deed)

    def left(self, name: str) -> bool:
        """Is this what a disk that fails does not let go of, though it is not needed any more?"""
        return name.endswith((*_LEFT, f"/{self.changed.listener_id}")) or "/spool/" in name

    async def fail_in(self, deed: Deed) -> None:
        await self.do(deed.request)
        await self.undo(deed)
        before = await self.settled()
        self.steps.fail_at(0, self.disks["b"].path)
        await self.do(deed.request)
        steps = self.steps.taken
        self.steps.leave()
        after = await self.settled()
        await self.undo(deed)
        for step in self.chance.sample(range(1, steps + 1), count(min(1, steps), steps)):
            what = f"{deed.request}, failing from step {step} of {steps} on, AMPHORA_SEED={SEED}"
            self.steps.fail_at(step, self.disks["b"].path)
            answer = await self.call(deed.request.method, deed.request.path, deed.request.body, version="1.0")
            what += f", {self.steps.last!r}"
            self.steps.leave()
            if answer.status >= 300:
                self.assertEqual(500, answer.status, what)
                self.assertIn(FAILING, answer.json["details"], what)
            # A load balancer whose deletion has begun is stopped already; the repeat, or the next agent, finishes that.
            if not deed.request.path.startswith("/listeners/"):
                await self.until_seen(f"{what}: the old world or the new one", before, after, but=self.left)
            await self.do(deed.request)
            await self.until_seen(f"{what}: the new world", after, but=self.left)
            await self.undo(deed)
            await self.until_seen(f"{what}: the old world", before, but=self.left)


@requires("root", "haproxy", "keepalived", "ip", "nft", "mount", "gcc")
class NetworkDiskTests(DiskTestCase):
    """The same where the agent has a namespace to work in."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.namespace = new_namespace(self)
        await super().setUp()

    def network_options(self) -> dict[str, object]:
        return {"network_namespace": self.namespace}

    async def test_network(self) -> None:
        """What could not be put back after a reboot is not plugged, and what is plugged is filtered as before."""
        cable = new_cable(self, new_namespace(self))
        about = {**OF_VIP, "mac_address": cable.mac}
        vip = Request("v0.1", "POST", f"/plug/vip/{VIP}", json.dumps(about).encode())
        network = Request("v0.1", "POST", "/plug/network", json.dumps({"mac_address": cable.mac}).encode())
        async with self.watch():
            for fault in self.faults():
                plugs = ((vip, "Error plugging VIP"), (network, "Error plugging Port"))
                await self.refused(fault, self.disks["interfaces"], *plugs)
                self.assertTrue(cable.outside)
            filtered: dict[str, object] = {
                **about,
                "vrrp_ip": None,
                "is_sriov": True,
                "additional_vips": [],
                "host_routes": [],
            }
            await self.do(Request("1.0", "POST", f"/plug/vip/{VIP}", json.dumps(filtered).encode()))
            rules = Request("1.0", "PUT", f"/interface/{VIP}/rules", b'[{"protocol": "TCP", "cidr": null, "port": 80}]')
            before = await deferToThread(nft, self.namespace, "list", "ruleset")
            for fault in self.faults():
                await self.refused(fault, self.disks["b"], (rules, "Error replacing interface rules"))
                self.assertEqual(before, await deferToThread(nft, self.namespace, "list", "ruleset"))
            await self.do(rules)

    async def test_keepalived(self) -> None:
        """No configuration of a keepalived's is taken that could not be kept, and no topology."""
        listener = LvsText()
        text = b"vrrp_instance pair {\n    interface eth0\n    virtual_router_id 1\n}\n"
        upload = Request("v0.1", "PUT", "/vrrp/upload", text)
        upload_lvs = Requests("1.0", listener.listener_id).upload_lvs(listener.text())
        async with self.watch():
            for fault in self.faults():
                await self.refused(
                    fault,
                    self.disks["b"],
                    (upload, "Failed to upload keepalived configuration."),
                    (upload_lvs, "Error storing keepalivedlvs configuration"),
                    (post_topology(), "Error storing topology"),
                )
            await self.do(upload_lvs)
