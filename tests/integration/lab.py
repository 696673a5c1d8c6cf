"""A small network on one machine: namespaces for hosts, a bridge between them, and sockets inside."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from attrs import define, field, frozen

from amphora.network.inside import inside
from tests.integration.networks import PATIENCE, delete_namespace, ip


@frozen
class Host:
    """A namespace that stands for a host."""

    name: str

    def ip(self, *arguments: str) -> str:
        """Run C{ip} in it."""
        return ip("-n", self.name, *arguments)

    def addresses(self) -> str:
        """All addresses, as C{ip} tells them."""
        return self.ip("-oneline", "address", "show")

    def listen(self, host: str, port: int) -> socket.socket:
        """A listening socket in it."""

        def make() -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            made = socket.create_server((host, port), family=family)
            made.setblocking(False)
            return made

        return inside(self.name, make)

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection out of it.  Blocks.  @raise OSError: if there is none in time."""
        return inside(self.name, lambda: socket.create_connection((host, port), timeout=timeout), patience=None)


@frozen
class Port:
    """One end of a cable: a link's name as it is now, in our own namespace, and its hardware address."""

    link: str
    mac: str
    cable: str
    """The name of the other end, at the switch."""


@define
class Lab:
    """Hosts around one bridge; what it has made is gone after L{clean_up}."""

    _mark: str = field(init=False, factory=lambda: secrets.token_hex(3))
    _hosts: list[Host] = field(init=False, factory=list)
    _links: list[str] = field(init=False, factory=list)
    _servers: list[subprocess.Popen[bytes]] = field(init=False, factory=list)
    switch: Host = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.switch = self.host("switch")
        self.switch.ip("link", "add", "bridge", "type", "bridge")
        self.switch.ip("link", "set", "bridge", "up")

    def host(self, name: str) -> Host:
        """Make a host, with nothing but its loopback."""
        made = Host(f"lab-{self._mark}-{name}")
        ip("netns", "add", made.name)
        self._hosts.append(made)
        made.ip("link", "set", "lo", "up")
        return made

    def port(self) -> Port:
        """Plug a cable into the bridge; its free end lies in our own namespace, and is down."""
        number = len(self._links)
        link, cable = f"l{self._mark}{number}", f"cable{number}"
        ip("link", "add", link, "type", "veth", "peer", "name", cable, "netns", self.switch.name)
        self._links.append(link)
        self.switch.ip("link", "set", cable, "master", "bridge", "up")
        return Port(link, _mac(ip("-oneline", "link", "show", link)), cable)

    def plug(self, host: Host, address: str) -> Port:
        """Plug a host in, as its `eth0`, with an address and the length of its prefix."""
        port = self.port()
        ip("link", "set", port.link, "netns", host.name, "name", "eth0")
        host.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        host.ip("link", "set", "eth0", "up")
        return port

    def serve_dhcp(self, leases: Mapping[str, str]) -> None:
        """Run a DHCP server on the bridge, which has an address, that gives these, by the asker's hardware address."""
        [first, *_] = leases.values()
        command = [
            *("ip", "netns", "exec", self.switch.name, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0"),
            *("--user=root", "--dhcp-authoritative", "--bind-interfaces", "--interface=bridge", "--leasefile-ro"),
            *(f"--dhcp-range={first},static,255.255.255.0", "--pid-file=", "--no-ping"),
            *(f"--dhcp-host={mac},{address}" for mac, address in leases.items()),
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._servers.append(server)

    def cut(self, port: Port) -> None:
        """Take a cable out of the bridge: neither end has a carrier any more."""
        self.switch.ip("link", "set", port.cable, "down")

    def mend(self, port: Port) -> None:
        """Put it in again."""
        self.switch.ip("link", "set", port.cable, "up")

    def clean_up(self) -> None:
        """Take everything away.  A link inside a namespace goes with it."""
        for server in self._servers:
            server.terminate()
            server.wait(PATIENCE)
        for host in self._hosts:
            delete_namespace(host.name)
        for link in self._links:
            with suppress(AssertionError):
                ip("link", "delete", link)


def _mac(shown: str) -> str:
    words = shown.split()
    return words[words.index("link/ether") + 1]
