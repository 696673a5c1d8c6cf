"""Namespaces and cables between them, for tests: made with names of their own, and taken away again."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.trial.unittest import SynchronousTestCase

from amphora.network.inside import inside

PATIENCE = 60.0


def ip(*arguments: str) -> str:
    """
    Run `ip`; blocks, for milliseconds.

    @raise AssertionError: if it fails.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def ip_json(namespace: str, *arguments: str) -> list[dict[str, Any]]:
    """What `ip` tells of a namespace, as data."""
    found: list[dict[str, Any]] = json.loads(ip("-n", namespace, "-json", *arguments))
    return found


def new_suffix() -> str:
    return uuid.uuid4().hex[:8]


def new_namespace(test: SynchronousTestCase, name: str = "") -> str:
    """A namespace with its loopback up, for one test."""
    name = name or f"amphora-{new_suffix()}"
    ip("netns", "add", name)
    test.addCleanup(delete_namespace, name)
    ip("-n", name, "link", "set", "lo", "up")
    hurry_detection(name)
    return name


def hurry_detection(namespace: str) -> None:
    """Have duplicate address detection begin at once on all links that come in from now on, not within a second."""
    path = Path("/proc/sys/net/ipv6/conf/default/router_solicitation_delay")
    inside(namespace, partial(path.write_text, "0"))


def delete_namespace(name: str) -> None:
    """Take a namespace away, if it is there."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=PATIENCE)


@frozen
class Cable:
    """A link that appeared in the test's own namespace, and what it leads to: the other end in another namespace."""

    name: str
    mac: str
    far_namespace: str
    far_name: str

    @property
    def outside(self) -> bool:
        """Is this end where it appeared?"""
        return Path(f"/sys/class/net/{self.name}").exists()

    def give_far_end(self, *addresses: str) -> None:
        """Give the other end addresses, without asking whether somebody has them."""
        for address in addresses:
            ip("-n", self.far_namespace, "address", "add", address, "dev", self.far_name, "nodad")


def new_cable(test: SynchronousTestCase, far_namespace: str, *, mac: str = "", name: str = "") -> Cable:
    """Plug a cable in: its other end is up, this one is down, as a new device is."""
    near, far = name or f"am{new_suffix()}", f"af{new_suffix()}"
    address = ["address", mac] if mac else []
    ip("link", "add", near, *address, "type", "veth", "peer", "name", far, "netns", far_namespace)
    test.addCleanup(unplug, far_namespace, far)
    ip("-n", far_namespace, "link", "set", far, "up")
    return Cable(near, Path(f"/sys/class/net/{near}/address").read_text().strip(), far_namespace, far)


def unplug(namespace: str, name: str) -> None:
    """Take a cable away by its far end, wherever its near end is."""
    command = ["ip", "-n", namespace, "link", "delete", name]
    subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)


@define(eq=False)
class DhcpServer:
    """dnsmasq at the far end of a cable; it offers a default route, name servers and an MTU as well."""

    cable: Cable
    directory: Path
    gateway: str
    """An address that the far end has."""
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def start(self, address: str) -> None:
        """Give this one address, to whoever asks first."""
        options = (
            *(f"3,{self.gateway}", f"121,0.0.0.0/0,{self.gateway},198.51.100.0/24,{self.gateway}"),
            *(f"6,{self.gateway}", "26,1400"),
        )
        command = [
            *("ip", "netns", "exec", self.cable.far_namespace, "dnsmasq", "--no-daemon", "--conf-file=/dev/null"),
            *("--port=0", "--user=root", "--no-ping", "--dhcp-authoritative", "--bind-interfaces"),
            *(f"--interface={self.cable.far_name}", f"--dhcp-range={address},{address},255.255.255.0,1h"),
            *(f"--dhcp-option={option}" for option in options),
            *(f"--dhcp-leasefile={self.directory / 'leases'}", f"--pid-file={self.directory / 'dnsmasq.pid'}"),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """End."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(PATIENCE)


@define(eq=False)
class Sniffer:
    """Sees all frames that come to the far end of a cable."""

    socket: socket.socket
    frames: list[bytes] = field(init=False, factory=list)

    @classmethod
    def at(cls, test: SynchronousTestCase, cable: Cable) -> Sniffer:
        """Begin to listen."""

        def listen() -> socket.socket:
            every_protocol = 0x0003
            found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every_protocol))
            found.bind((cable.far_name, 0))
            return found

        sniffer = cls(inside(cable.far_namespace, listen))
        test.addCleanup(sniffer.socket.close)
        return sniffer

    def seen(self, part: bytes) -> int:
        """How many frames that came so far have these bytes in them."""
        while select.select([self.socket], [], [], 0)[0]:
            self.frames.append(self.socket.recv(65536))
        return sum(part in frame for frame in self.frames)

    def wait_for(self, part: bytes, times: int = 1) -> None:
        """Blocks: for use in a thread.  @raise AssertionError: if so many do not come."""
        deadline = time.monotonic() + PATIENCE
        while self.seen(part) < times:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise AssertionError(f"saw {self.seen(part)} of {times} frames with {part.hex()}")
