"""Addresses from a real DHCP server."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.harness import wait_until
from tests.integration.networks import DhcpServer, ip_json
from tests.integration.support import requires
from tests.integration.test_network import NetworkTestCase


@requires("root", "haproxy", "ip", "ipv6", "dnsmasq")
class DhcpTests(NetworkTestCase):
    async def test_lease(self) -> None:
        """A member network's interface gets its address and routes, but no default route and no name servers."""
        resolvers = Path("/etc/resolv.conf").read_bytes()
        cable = self.cable()
        cable.give_far_end("192.0.2.1/24")
        server = DhcpServer(cable, self.directory, "192.0.2.1")
        self.addCleanup(server.stop)
        server.start("192.0.2.10")
        await self.client.plug_network(cable.mac)
        await wait_until(lambda: self.addresses("eth2") == {"192.0.2.10": 24}, "an address")
        (route,) = ip_json(self.namespace, "route", "show", "198.51.100.0/24")
        self.assertEqual(("192.0.2.1", "eth2"), (route["gateway"], route["dev"]))
        self.assertEqual([], ip_json(self.namespace, "route", "show", "default"))
        (link,) = ip_json(self.namespace, "link", "show", "dev", "eth2")
        self.assertEqual(1500, link["mtu"])
        self.assertEqual(resolvers, Path("/etc/resolv.conf").read_bytes())
        before = self.shape()
        # Agents come and go, and the server with them: what was given stays.
        for number in (signal.SIGTERM, signal.SIGKILL):
            await self.agent.end(number)
            self.assertEqual(before, self.shape())
            await self.agent.start()
            self.assertEqual(before, self.shape())
            server.stop()
        await self.agent.end()
        (self.directory / "leases").unlink()
        server.start("192.0.2.20")
        await self.agent.start()
        await wait_until(lambda: self.addresses("eth2") == {"192.0.2.20": 24}, "another address")
