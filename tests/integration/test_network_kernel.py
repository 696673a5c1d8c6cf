"""The real kernel: what plugging relies on, and what we read, set and send through it."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.trial.unittest import SynchronousTestCase

from amphora.network import lvs_settings
from amphora.network.advertise import Advertisement, advertise, arp_frame, neighbour_advertisement
from amphora.network.inside import inside
from amphora.network.kernel import LinuxKernel
from amphora.network.netlink import carry_out, look
from amphora.network.plan import Port, wanted
from amphora.network.state import Address, Link
from amphora.network.steps import Add, MoveIn, Remove, SetUp, StepFailed, undoing
from amphora.network.sysctl import apply_sysctls
from tests.integration.networks import (
    PATIENCE,
    Cable,
    Sniffer,
    ip,
    ip_json,
    new_cable,
    new_namespace,
    new_suffix,
    unplug,
)
from tests.integration.support import count, requires, short_directory
from tests.network.kernel_contract import OF_VIP, VIP, VIP6, KernelContract


def await_usable(namespace: str) -> None:
    """Wait until it was found out whether anybody else has the addresses in a namespace.  Blocks."""
    deadline = time.monotonic() + PATIENCE
    while any(found.tentative for found in look(namespace).addresses):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


@requires("root", "ip", "ipv6")
class LinuxKernelTests(KernelContract):
    """The contract that the stand-in of the unit tests fulfils as well."""

    def setUp(self) -> None:
        self.namespace, self.far = new_namespace(self), new_namespace(self)
        self.kernel = LinuxKernel(self.namespace)

    def plug_in(self, name: str = "") -> str:
        cable = new_cable(self, self.far, name=name)
        # Addresses that come by themselves would blur what is compared.
        ip("link", "set", "dev", cable.name, "addrgenmode", "none")
        return cable.mac

    def end_detection(self) -> None:
        await_usable(self.namespace)


del KernelContract


@requires("root", "ip", "ipv6")
class MigrationTests(SynchronousTestCase):
    def test_waiting_connections(self) -> None:
        """A connection that waits to be accepted goes over to the next socket for its address, if it is so set."""
        namespace = new_namespace(self)
        ip("-n", namespace, "link", "set", "lo", "up")

        def listen(port: int) -> socket.socket:
            return socket.create_server(("::1", port), family=socket.AF_INET6, reuse_port=True)

        def answered() -> bool:
            old = listen(0)
            port = old.getsockname()[1]
            with old, socket.create_connection(("::1", port), timeout=PATIENCE) as client, listen(port) as new:
                old.close()
                new.settimeout(1)
                try:
                    with new.accept()[0] as server:
                        server.sendall(b"x")
                    return client.recv(1) == b"x"
                except OSError:
                    return False

        self.assertFalse(inside(namespace, answered))
        self.assertEqual([], apply_sysctls(namespace, {"net/ipv4/tcp_migrate_req": "1"}))
        self.assertTrue(inside(namespace, answered))


class KernelTestCase(SynchronousTestCase):
    """A namespace with one interface that is up."""

    def setUp(self) -> None:
        self.namespace, self.far = new_namespace(self), new_namespace(self)
        self.cable = new_cable(self, self.far)
        self.link = self.plugged(self.cable, "eth1")

    def plugged(self, cable: Cable, name: str) -> Link:
        (outside,) = [link for link in look("").links if link.mac == cable.mac]
        carry_out(self.namespace, [MoveIn(outside, name)])
        (inside,) = [link for link in look(self.namespace).links if link.mac == cable.mac]
        carry_out(self.namespace, [SetUp(inside)])
        return inside


@requires("root", "ip", "ipv6")
class NetlinkTests(KernelTestCase):
    def test_altnames(self) -> None:
        """Other names of a link are read, and go with it."""
        cable = new_cable(self, self.far)
        ip("link", "property", "add", "dev", cable.name, "altname", f"{cable.name}x", "altname", f"{cable.name}y")
        link = self.plugged(cable, "eth2")
        self.assertEqual((f"{cable.name}x", f"{cable.name}y"), link.altnames)

    def test_source(self) -> None:
        """What leaves has the interface's own address of IPv6, though a VIP is nearer to where it goes."""
        own, near = Address(ip_address("2001:db8::ffff:1"), 64), Address(ip_address("2001:db8::2"), 128)
        carry_out(self.namespace, [Add(self.link, own), Add(self.link, near)])
        await_usable(self.namespace)
        (route,) = ip_json(self.namespace, "-6", "route", "get", "2001:db8::3")
        self.assertEqual(str(own.ip), route["prefsrc"])
        (route,) = ip_json(self.namespace, "-6", "route", "get", "2001:db8::3", "from", str(near.ip))
        self.assertEqual(str(near.ip), route["from"])

    def test_index_taken(self) -> None:
        """A link whose index is another's in there gets a new one, and comes back all the same."""
        index = 100_000 + int.from_bytes(os.urandom(2), "big")
        numbered = ["index", str(index), "type", "veth", "peer", "name"]
        ip("-n", self.namespace, "link", "add", "other", *numbered, "others")
        name = f"am{new_suffix()}"
        ip("link", "add", name, *numbered, "far", "netns", self.far)
        self.addCleanup(unplug, self.far, "far")
        (link,) = [link for link in look("").links if link.name == name]
        kernel = LinuxKernel(self.namespace)
        move = MoveIn(link, "eth5")
        kernel.carry_out([move])
        (moved,) = [each for each in kernel.look().links if each.mac == link.mac]
        self.assertEqual(("eth5", False), (moved.name, moved.index == link.index))
        kernel.carry_out([undoing(move)])
        self.assertEqual([name], [each.name for each in look("").links if each.mac == link.mac])

    def test_descriptors(self) -> None:
        """No look and no change, refused or not, leaves a descriptor open."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            look(self.namespace)
            carry_out(self.namespace, [Add(self.link, OF_VIP), Remove(self.link, OF_VIP)])
            self.assertRaises(StepFailed, carry_out, self.namespace, [Remove(self.link, OF_VIP)])
            self.assertRaises(OSError, look, "no-such-namespace")
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertFalse([thread for thread in threading.enumerate() if thread.name.startswith("inside")])

    def test_no_namespace(self) -> None:
        """A namespace that is not there is an error with the system's words."""
        with self.assertRaises(StepFailed) as caught:
            carry_out("no-such-namespace", [SetUp(self.link)])
        self.assertEqual("bringing eth1 up: No such file or directory", str(caught.exception))

    def test_disturbed(self) -> None:
        """A look while others come and go misses nothing that is there the whole time, and sees nothing twice."""
        restless = [Address(ip_address(f"10.9.0.{number}"), 32) for number in range(1, 51)]
        steady = [Address(ip_address(f"10.0.{number // 250}.{number % 250 + 1}"), 32) for number in range(500)]
        carry_out(self.namespace, [Add(self.link, address) for address in (*restless, *steady)])
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                for address in restless:
                    # One that goes moves all behind it to the front; the kernel counts where it was.
                    carry_out(self.namespace, [Remove(self.link, address), Add(self.link, address)])

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            for _ in range(count(30, 300)):
                found = [each.address for each in look(self.namespace).addresses]
                self.assertEqual(set(), set(steady) - set(found))
                self.assertEqual(len(found), len(set(found)))
        finally:
            stop.set()
            disturbing.join()


@requires("root", "ip", "ipv6")
class AdvertiseTests(KernelTestCase):
    def test_seen(self) -> None:
        """The other end of the cable sees what was sent, with the address that it is about as sender."""
        ip("-n", self.namespace, "address", "add", "203.0.113.2/24", "dev", "eth1")
        ip("-n", self.namespace, "address", "add", "2001:db8::2/64", "dev", "eth1", "nodad")
        sniffer = Sniffer.at(self, self.cable)
        told = [Advertisement("eth1", self.link.index, self.cable.mac, each) for each in (VIP, VIP6)]
        self.assertEqual([], advertise(self.namespace, told))
        sniffer.wait_for(arp_frame(self.cable.mac, IPv4Address(VIP)))
        body = neighbour_advertisement(self.cable.mac, IPv6Address(VIP6))
        sniffer.wait_for(body[4:])
        (frame,) = [frame for frame in sniffer.frames if body[4:] in frame]
        header, message = frame[14:54], frame[54:]
        self.assertEqual((58, 255), (header[6], header[7]))
        self.assertEqual((VIP6.packed, ip_address("ff02::1").packed), (header[8:24], header[24:40]))
        self.assertEqual(0xFFFF, checksum(header[8:40] + struct.pack("!IxxxB", len(message), 58) + message))

    def test_not_there(self) -> None:
        """An address that is not there cannot be the sender, which is told."""
        (problem,) = advertise(self.namespace, [Advertisement("eth1", self.link.index, self.cable.mac, VIP6)])
        self.assertEqual("2001:db8::2 on eth1: Cannot assign requested address", problem)


def checksum(data: bytes) -> int:
    """The sum of RFC 1071: all ones where the checksum in it is right."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@requires("root", "ip", "ipv6")
class SysctlTests(KernelTestCase):
    def test_inside_only(self) -> None:
        """A setting is made in the namespace, and in no other."""
        path = "net/ipv4/ip_nonlocal_bind"
        outside = read_sysctl("", path)
        other = "0" if read_sysctl(self.namespace, path) == "1" else "1"
        self.assertEqual([], apply_sysctls(self.namespace, {path: other}))
        self.assertEqual((other, outside), (read_sysctl(self.namespace, path), read_sysctl("", path)))

    def test_problems(self) -> None:
        """What cannot be set is told, each by itself, and hinders nothing."""
        settings = {
            "net/no/such": "1",
            "net/ipv4/ip_nonlocal_bind": "much",
            "net/ipv4/conf/eth1/promote_secondaries": "1",
        }
        problems = apply_sysctls(self.namespace, settings)
        self.assertEqual(
            [
                "net/no/such cannot be set to 1: No such file or directory",
                "net/ipv4/ip_nonlocal_bind cannot be set to much: Invalid argument",
            ],
            problems,
        )
        self.assertEqual("1", read_sysctl(self.namespace, "net/ipv4/conf/eth1/promote_secondaries"))
        (problem,) = apply_sysctls("no-such-namespace", settings)
        self.assertIn("No such file or directory", problem)

    def test_lvs(self) -> None:
        """What IPVS needs is set in the namespace alone; what is lacking without its module is told, and no more."""
        outside = read_sysctl("", "net/ipv4/ip_forward")
        problems = apply_sysctls(self.namespace, lvs_settings.SETTINGS)
        self.assertEqual([], [problem for problem in problems if not problem.startswith("net/ipv4/vs/")])
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.assertEqual("1", read_sysctl(self.namespace, path))
        self.assertEqual(outside, read_sysctl("", "net/ipv4/ip_forward"))

    def test_secondary_addresses(self) -> None:
        """An address of a subnet does not go with the first one, as it would without our setting."""
        second = Address(ip_address("203.0.113.3"), 24)
        for value, left in (("0", []), ("1", [second])):
            apply_sysctls(self.namespace, {"net/ipv4/conf/eth1/promote_secondaries": value})
            carry_out(self.namespace, [Add(self.link, OF_VIP), Add(self.link, second), Remove(self.link, OF_VIP)])
            here = [found.address for found in look(self.namespace).addresses if found.index == self.link.index]
            self.assertEqual(left, [address for address in here if address.ip.version == 4])

    def test_router_advertisement(self) -> None:
        """A member network's router gives its interface an address, but never a default route."""
        self.assertEqual(
            [], apply_sysctls(self.namespace, wanted(Port("eth1", self.link.mac), keepalived_owns_vips=False).sysctls)
        )
        other = new_cable(self, self.far)
        self.plugged(other, "eth2")
        for cable in (other, self.cable):
            inside(self.far, partial(advertise_router, cable))
        deadline = time.monotonic() + PATIENCE
        while not self.prefixes("eth1") or not self.prefixes("eth2"):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        defaults = [route["dev"] for route in ip_json(self.namespace, "-6", "route", "show", "default")]
        # As it would be without our settings.
        self.assertEqual(["eth2"], defaults)

    def prefixes(self, name: str) -> list[str]:
        (link,) = ip_json(self.namespace, "address", "show", "dev", name)
        return [each["local"] for each in link["addr_info"] if each["local"].startswith("2001:db8:")]


def read_sysctl(namespace: str, path: str) -> str:
    def read() -> str:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()

    return inside(namespace, read)


def advertise_router(cable: Cable) -> None:
    """Send a router advertisement (RFC 4861, 4.2) with a prefix that addresses can be made of."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + ip_address("2001:db8:77::").packed
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    index = socket.if_nametoindex(cable.far_name)
    deadline = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as icmp:
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        while True:
            try:
                icmp.sendto(message, ("ff02::1", 0, 0, index))
                return
            except OSError:
                # The address of the link is not usable yet.
                assert time.monotonic() < deadline
                threading.Event().wait(0.05)


class PciTests(SynchronousTestCase):
    def test_rescan(self) -> None:
        """The bus is told to look for devices; where there is none, or it may not be told, nothing happens."""
        file = short_directory(self) / "rescan"
        LinuxKernel("", file).find_devices()
        self.assertFalse(file.exists())
        file.write_text("")
        LinuxKernel("", file).find_devices()
        self.assertEqual("1", file.read_text())
        LinuxKernel("", file.parent).find_devices()
