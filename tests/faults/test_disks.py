"""Disks that are full, have no inodes, are read-only, or fail, each a small one of the test's own."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, evolve, field, frozen
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part
from tests.faults.deeds import HaproxyTestCase, Request, Requests
from tests.integration.harness import AMPHORA_ID, LoadBalancer, new_id
from tests.integration.pair import run
from tests.integration.support import requires

FULL, READ_ONLY, FAILING = (os.strerror(each) for each in (errno.ENOSPC, errno.EROFS, errno.EIO))


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
                    self._next().write_bytes(b"x" * size)

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

    async def refused(self, fault: Fault, disk: Disk, *requests: tuple[Request, str]) -> None:
        """Each of these is told to be impossible, in the system's words too; what was there stays as it was."""
        before = disk.content()
        with self.befallen(fault, disk):
            for request, message in requests:
                answer = await self.call(request.method, request.path, request.body, version=request.version)
                self.assertEqual((500, message), (answer.status, answer.json["message"]), (request, answer.body))
                self.assertIn(fault.words, answer.json["details"], request)
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
        """An agent that starts on such a disk finds what runs, answers and tells of it, and says what is wrong."""
        for fault in self.faults():
            async with self.watch(spares_agent=False):
                await self.agent.end(signal.SIGKILL)
                with self.befallen(fault, self.disks["b"]):
                    await self.agent.start()
                    self.assertEqual(self.balancer.config(), await self.client.haproxy(self.balancer.listener_id))
                    await self.next_heartbeat()
                # Nobody has to start it anew.
                await self.do(Requests("v0.1", self.balancer.listener_id).act("reload"))
