"""The machine's figures beside what others say of the same machine: psutil, pyroute2, procfs, dpkg."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
from attrs import frozen
from pyroute2 import IPRoute  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase, TestCase

from amphora.blocking import InThreads
from amphora.network.inside import inside
from amphora.process import ProcessIdentity
from amphora.system.links import LinkCounters, read_links
from amphora.system.machine import read_cpu_times, read_machine
from amphora.system.packages import DPKG, WANTED, Package, Packages, parse_dpkg
from amphora.system.window import Sample, Window
from tests.integration.harness import wait_until
from tests.integration.support import requires, short_directory

T = TypeVar("T")


@frozen
class Cable:
    """Two namespaces with a cable between them; both, and their ends of it, have names that nobody else has."""

    namespaces: tuple[str, str]
    links: tuple[str, str]
    addresses: tuple[str, str] = ("192.0.2.1", "192.0.2.2")

    @classmethod
    def lay(cls, test: SynchronousTestCase) -> Cable:
        """Make the namespaces and the cable, for one test."""
        tag = secrets.token_hex(4)
        cable = cls((f"amphora-a{tag}", f"amphora-b{tag}"), (f"a{tag}", f"b{tag}"))
        for number in range(2):
            test.addCleanup(cable.remove, number)
            cable.add(number)
        cable.connect()
        return cable

    def add(self, number: int) -> None:
        """Make one of the namespaces."""
        _ip("netns", "add", self.namespaces[number])

    def connect(self) -> None:
        """Lay the cable, and bring both ends up, with addresses; IPv6 keeps silent."""
        (here, there), (link, peer) = self.namespaces, self.links
        _ip("link", "add", link, "netns", here, "type", "veth", "peer", "name", peer, "netns", there)
        for namespace, name, address in zip(self.namespaces, self.links, self.addresses, strict=True):
            _ip("-n", namespace, "link", "set", name, "addrgenmode", "none")
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
            _ip("-n", namespace, "link", "set", name, "up")

    def remove(self, number: int) -> None:
        """Take a namespace away, if it is there, and the cable with it."""
        subprocess.run(["ip", "netns", "delete", self.namespaces[number]], check=False, capture_output=True)

    def send(self, datagrams: int, size: int = 1000) -> None:
        """Let the second namespace send something to the first."""

        def work() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(datagrams):
                    sender.sendto(bytes(size), (self.addresses[0], 9))

        inside(self.namespaces[1], work, patience=None)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@requires("root", "ip")
class LinkTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.cable = Cable.lay(self)
        self.namespace, self.link = self.cable.namespaces[0], self.cable.links[0]

    def settled(self, read: Callable[[], T]) -> tuple[T, dict[str, LinkCounters]]:
        """What somebody else reads, and what we do, at a moment in which nothing passes."""
        for _ in range(100):
            before = read_links(self.namespace)
            theirs = read()
            if read_links(self.namespace) == before:
                return theirs, before
        raise AssertionError("the links never rest")

    def test_traffic(self) -> None:
        """What passes is counted, in its direction, with the headers that Ethernet, IP and UDP add."""
        self.cable.send(1)
        before = read_links(self.namespace)[self.link]
        self.cable.send(100)
        after = read_links(self.namespace)[self.link]
        # Neighbours that look for each other add a little.
        self.assertTrue(0 <= after.received - before.received - 100 * (1000 + 14 + 20 + 8) < 10_000)
        # Somebody is told that nobody listens there, not too often.
        self.assertTrue(after.sent - before.sent < 100 * 1000)

    def test_beside_pyroute2(self) -> None:
        """Names, indices and counters are those that pyroute2 finds in the namespace; the loopback is left out."""

        def read() -> dict[str, LinkCounters]:
            with IPRoute() as route:
                return {
                    cast(str, link.get("ifname")): LinkCounters(
                        link["index"], link.get("stats64")["rx_bytes"], link.get("stats64")["tx_bytes"]
                    )
                    for link in route.get_links()
                }

        self.cable.send(10)
        theirs, ours = self.settled(lambda: inside(self.namespace, read))
        del theirs["lo"]
        self.assertEqual(theirs, ours)
        self.assertIn(self.link, ours)

    def test_beside_procfs(self) -> None:
        """The counters are those of C{/proc/net/dev} inside."""

        def read() -> dict[str, tuple[int, int]]:
            rows = (line.split(":") for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:])
            return {name.strip(): (int(row.split()[0]), int(row.split()[8])) for name, row in rows}

        self.cable.send(10)
        theirs, ours = self.settled(lambda: inside(self.namespace, read))
        del theirs["lo"]
        self.assertEqual(theirs, {name: (link.received, link.sent) for name, link in ours.items()})

    def test_psutil_stays_outside(self) -> None:
        """A fact: psutil tells of the namespace of the main thread, wherever its own thread is."""
        self.assertNotIn(self.link, inside(self.namespace, lambda: psutil.net_io_counters(pernic=True)))

    async def test_not_kept_alive(self) -> None:
        """Reading keeps no namespace alive that is taken away: the other end of the cable goes with it."""
        read_links(self.namespace)
        self.cable.remove(0)
        (_, there), (_, peer) = self.cable.namespaces, self.cable.links
        await wait_until(lambda: peer not in read_links(there), "the cable to be gone")
        self.assertRaises(OSError, read_links, self.namespace)

    def test_many(self) -> None:
        """More links than one datagram holds are all told."""
        for number in range(40):
            _ip("-n", self.namespace, "link", "add", f"br{number}", "type", "bridge")
        self.assertEqual({self.link, *(f"br{number}" for number in range(40))}, set(read_links(self.namespace)))


class MachineTests(SynchronousTestCase):
    def test_busy_cpu(self) -> None:
        """Work raises the CPUs' usage by its share of the time that they had."""
        window = Window()
        before = read_cpu_times()
        window.add(Sample(0.0, before, {}))
        begun = time.process_time()
        while time.process_time() - begun < 0.5:
            sum(range(1000))
        after = read_cpu_times()
        window.add(Sample(1.0, after, {}))
        usage = window.cpu()
        # Half a second of work, less what the kernel's ticks of ten milliseconds may miss.
        share = 100 * 0.4 / (after.total - before.total)
        # The whole is reckoned from what was idle: where nothing else ran, rounding decides which is the greater.
        self.assertTrue(share <= usage.user <= usage.total + 1e-6 <= 100.1, (usage, share))

    def test_beside_psutil(self) -> None:
        """Memory and disk are what psutil tells, in kilobytes; what changes meanwhile, does so a little."""
        machine = read_machine([], Path("/"))
        memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage("/")
        self.assertEqual(memory.total // 1024, machine.memory.total)
        for theirs, ours, whole in (
            (memory.free, machine.memory.free, memory.total),
            (memory.available, machine.memory.available, memory.total),
            (memory.buffers, machine.memory.buffers, memory.total),
            # psutil adds what the kernel's own caches could give back, which is the most of them.
            (memory.cached, machine.memory.cached + machine.memory.slab, memory.total),
            (memory.shared, machine.memory.shared, memory.total),
            (memory.slab, machine.memory.slab, memory.total),
            (swap.used, machine.memory.swap_used, memory.total),
            (disk.used, machine.disk.used, disk.total),
            (disk.free, machine.disk.available, disk.total),
        ):
            self.assertTrue(abs(theirs / 1024 - ours) < whole / 1024 / 20, (theirs, ours))
        self.assertGreater(machine.memory.committed_as, 0)
        self.assertEqual(os.cpu_count(), machine.cpu_count)
        self.assertEqual(3, len(machine.load))

    def test_own_memory(self) -> None:
        """Our own memory is told, of which some is shared with others."""
        resident = psutil.Process().memory_info().rss / 1024
        self.assertTrue(0.3 * resident < ProcessIdentity.current().memory() <= 1.1 * resident)


class PackageTests(TestCase):
    timeout = 120

    @requires("dpkg-query")
    def test_beside_dpkg(self) -> None:
        """The packages are those that dpkg itself finds."""
        command = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n", *WANTED]
        output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        installed = {tuple(line.split()[1:]) for line in output.splitlines() if line[1] == "i"}
        ours = parse_dpkg(DPKG.read_text("utf-8"))
        self.assertEqual(sorted(installed), [(package.name, package.version) for package in ours])
        self.assertIn("bash", [package.name for package in ours])

    async def test_refreshed(self) -> None:
        """A database that is replaced is noticed."""
        from twisted.internet import reactor

        status = short_directory(self) / "status"
        packages = Packages(cast(Any, reactor), InThreads(cast(Any, reactor)), status)

        def install(version: str) -> None:
            new = status.with_name("status-new")
            new.write_text(f"Package: haproxy\nStatus: install ok installed\nVersion: {version}\n")
            os.replace(new, status)

        for version in ("2.6.12-1", "2.6.12-1+deb12u4"):
            install(version)
            expected = (Package("haproxy", version),)

            async def told(expected: tuple[Package, ...] = expected) -> bool:
                return await packages.read() == expected

            await wait_until(told, f"version {version}")
