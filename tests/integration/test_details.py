"""`GET details` of a real agent: its shape whatever state the listeners are in, and figures that move."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from typing import Any

from amphora.files import on_memory_file_system
from amphora.process import ProcessIdentity
from tests.integration.harness import AMPHORA_ID, LoadBalancer, free_port, new_id, wait_until
from tests.integration.support import requires
from tests.integration.test_figures import Cable
from tests.integration.test_listeners import RouteTestCase

KILOBYTES = int
PERCENT = float
BANDWIDTH = {"network_tx": int, "network_rx": int}

SCHEMA: dict[str, Any] = {
    "hostname": str,
    "uuid": str,
    "haproxy_version": str,
    "api_version": str,
    "networks": dict,
    **BANDWIDTH,
    "active": bool,
    "haproxy_count": int,
    "cpu": dict.fromkeys(("total", "user", "system", "soft_irq"), PERCENT),
    "memory": dict.fromkeys(
        ("total", "free", "available", "buffers", "cached", "swap_used", "shared", "slab", "committed_as"), KILOBYTES
    ),
    "disk": {"used": KILOBYTES, "available": KILOBYTES},
    "load": list,
    "topology": str,
    "topology_status": str,
    "listeners": list,
    "packages": list,
    "agent_version": str,
    "agent_memory": KILOBYTES,
    "certificates_in_memory": bool,
    "cpu_count": int,
    "haproxy_memory": KILOBYTES,
    "haproxy_workers": {"running": int, "old": int},
    "heartbeat": {"sent": int, "bytes": int, "members_left_out": int, "controllers": list},
}


class DetailsTestCase(RouteTestCase):
    async def details(self) -> Any:
        """The answer, which is of the shape that it always has."""
        answer = await self.call("GET", "/details")
        self.assertEqual(200, answer.status, answer.body)
        told = answer.json
        self.assert_shape(SCHEMA, told, "details")
        for name, network in told["networks"].items():
            self.assert_shape(BANDWIDTH, network, name)
        self.assertEqual([float] * 3, [type(load) for load in told["load"]])
        self.assertTrue(all(0.0 <= percent <= 100.0 for percent in told["cpu"].values()), told["cpu"])
        for package in told["packages"]:
            self.assertEqual([str], [type(version) for version in package.values()])
        return told

    def assert_shape(self, schema: Mapping[str, Any], value: Any, name: str) -> None:
        """Are the members those of the schema, and of its types?"""
        self.assertEqual(set(schema), set(value), name)
        for key, kind in schema.items():
            if isinstance(kind, dict):
                self.assert_shape(kind, value[key], key)
            else:
                self.assertIs(kind, type(value[key]), key)
                self.assertFalse(kind in (int, float) and value[key] < 0, key)


@requires("haproxy")
class MixTests(DetailsTestCase):
    async def assert_told(self, listeners: list[str], running: int, workers: int, old: int = 0) -> None:
        """Wait until these listeners are told, and so many haproxies."""

        async def told() -> bool:
            details = await self.details()
            return bool(
                (details["listeners"], details["haproxy_count"]) == (sorted(listeners), running)
                and details["haproxy_workers"] == {"running": workers, "old": old}
                and (details["haproxy_memory"] > 0) == (running > 0)
            )

        await wait_until(told, f"{running} haproxies with {workers} workers, {old} of them old")

    def processes(self, listener_id: str) -> list[ProcessIdentity]:
        master = self.agent.haproxy(listener_id)
        assert master is not None
        return [master, *master.children()]

    async def test_D8_mixes(self) -> None:
        """The shape is the same with no listener, and with refused, stopped, running and hung ones."""
        first = await self.details()
        self.assertEqual((AMPHORA_ID, "0.1"), (first["uuid"], first["api_version"]))
        self.assertEqual(("SINGLE", "OK", True), (first["topology"], first["topology_status"], first["active"]))
        await self.assert_told([], running=0, workers=0)
        refused, stopped, running, hung = new_id(), LoadBalancer(), LoadBalancer(), LoadBalancer()
        self.assertEqual(400, (await self.call("PUT", self.upload_path(refused), b"nonsense\n")).status)
        await self.client.upload_haproxy(stopped.listener_id, stopped.config())
        present = [refused, stopped.listener_id]
        await self.assert_told(present, running=0, workers=0)
        for balancer in (running, hung):
            await self.running(balancer)
            present.append(balancer.listener_id)
        await self.assert_told(present, running=2, workers=2)
        for process in self.processes(hung.listener_id):
            process.send_signal(signal.SIGSTOP)
        await self.assert_told(present, running=2, workers=2)
        typed = await self.client.details()
        self.assertEqual((tuple(sorted(present)), 2), (typed.listeners, typed.haproxy_count))
        for process in self.processes(hung.listener_id):
            process.send_signal(signal.SIGCONT)
        await self.client.stop(running.listener_id)
        await self.client.delete(hung.listener_id)
        await self.assert_told(present[:-1], running=0, workers=0)

    async def test_A4_old_workers(self) -> None:
        """A worker that finishes a connection after a reload is told as old, for as long as it does (A4)."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        await self.assert_told([balancer.listener_id], running=1, workers=1)
        with socket.create_connection(("127.0.0.1", balancer.port)) as held:
            held.sendall(b"GET / HTTP/1.1\r\nHost: ")
            before = (await self.details())["haproxy_memory"]
            await self.client.reload(balancer.listener_id)
            await self.assert_told([balancer.listener_id], running=1, workers=2, old=1)
            self.assertGreater((await self.details())["haproxy_memory"], before)
        await self.assert_told([balancer.listener_id], running=1, workers=1)

    async def test_methods(self) -> None:
        """Details can be asked for, and nothing else."""
        for method in ("POST", "PUT", "DELETE"):
            self.assertEqual(405, (await self.call(method, "/details", b"")).status)


@requires("haproxy")
class OperatorTests(DetailsTestCase):
    """What an operator wants to know beyond the specification."""

    key = "a-key-that-no-answer-may-show"

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.receiver.close)
        self.receiver.bind(("127.0.0.1", 0))
        self.ports = [self.receiver.getsockname()[1], free_port()]
        return {
            "health_manager": {
                "heartbeat_key": self.key,
                "heartbeat_interval": 1,
                "controller_ip_port_list": ", ".join(f"127.0.0.1:{port}" for port in self.ports),
            }
        }

    async def test_operator(self) -> None:
        """Heartbeats, controllers, the keys' place and the agent's memory are told, and no secret."""

        async def both_tried() -> bool:
            heartbeat = (await self.details())["heartbeat"]
            return {each["port"]: each["reachable"] for each in heartbeat["controllers"]} == {
                self.ports[0]: True,
                self.ports[1]: False,
            }

        await wait_until(both_tried, "both controllers to be tried")
        told = await self.details()
        size = len(self.receiver.recv(65536))
        self.assertEqual(size, told["heartbeat"]["bytes"])
        self.assertGreater(told["heartbeat"]["sent"], 0)
        self.assertEqual(0, told["heartbeat"]["members_left_out"])
        self.assertEqual(on_memory_file_system(self.agent.cert_dir), told["certificates_in_memory"])
        self.assertTrue(10_000 < told["agent_memory"] < 500_000, told["agent_memory"])
        self.assertNotIn(self.key.encode(), (await self.call("GET", "/details")).body)


@requires("haproxy", "root", "ip")
class NamespaceTests(DetailsTestCase):
    """An agent whose networks are in a namespace of their own."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.cable = Cable.lay(self)
        return {"amphora_agent": {"network_namespace": self.cable.namespaces[0]}}

    async def assert_received(self) -> None:
        """Wait until the link's traffic is told, which grows meanwhile."""
        sent = 0

        async def told() -> bool:
            nonlocal sent
            self.cable.send(100)
            sent += 100 * 1042
            details = await self.details()
            self.assertEqual({self.cable.links[0]}, set(details["networks"]))
            rate = details["networks"][self.cable.links[0]]["network_rx"]
            self.assertEqual(rate, details["network_rx"])
            # No rate is told of less than half a second.
            self.assertLess(rate, (sent + 10_000) / 0.5)
            return bool(rate > 1000)

        await wait_until(told, "traffic to be told")

    async def test_namespace(self) -> None:
        """The networks are the namespace's, in bytes per second; when it goes they go, and come back when it does."""
        await self.assert_received()
        self.cable.remove(0)

        async def gone() -> bool:
            details = await self.details()
            return (details["networks"], details["network_rx"]) == ({}, 0)

        await wait_until(gone, "the networks to be gone")
        self.cable.add(0)
        self.cable.connect()
        await wait_until(lambda: "tell of the networks again" in self.agent.log, "the networks to be back")
        await self.assert_received()
        self.assertEqual(1, self.agent.log.count("details tell of no networks"))
