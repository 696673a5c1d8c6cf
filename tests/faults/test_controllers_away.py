"""Where the heartbeats of a real agent go: controllers that are wrong, closed, moved, out of reach, or all gone."""

from __future__ import annotations

import json
import os
import secrets
import signal
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults

from amphora.listener import Heartbeat, HeartbeatListener
from amphora.loadbalancer.sockets import ask
from amphora.loadbalancer.stats import QUESTION, parse_stats
from amphora.network.inside import inside
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AgentTestCase, LoadBalancer, free_port, get, wait_until
from tests.integration.networks import ip, new_cable, new_namespace
from tests.integration.pair import run
from tests.integration.support import count, requires
from tests.integration.test_heartbeats import KEY, HeartbeatTestCase


class Controller:
    """One controller that can be closed and opened again, and what it heard."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.heard: list[Heartbeat] = []
        self._listener: HeartbeatListener | None = None

    @property
    def entry(self) -> str:
        """As in the agent's configuration."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def open(self) -> None:
        from twisted.internet import reactor

        def received(heartbeat: Heartbeat) -> None:
            self.heard.append(heartbeat)

        self._listener = HeartbeatListener(
            reactor=cast(Any, reactor), key=KEY, received=received, interface=self.host, port=self.port
        )
        self._listener.startService()
        self.port = self._listener.port

    async def close(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.stopService()

    async def hears(self, number: int = 1) -> None:
        """Wait until it has heard so many more."""
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) >= already + number, f"{self.entry} to hear a heartbeat")


class ControllersTestCase(HeartbeatTestCase):
    """The test starts the agent, when it knows where the controllers are."""

    async def setUp(self) -> None:  # type: ignore[override]
        AgentTestCase.setUp(self)
        self.heard = []

    def controller(self, host: str = "127.0.0.1", port: int = 0) -> Controller:
        """An open one, which is closed after the test."""
        controller = Controller(host, port)
        controller.open()
        self.addCleanup(lambda: Deferred.fromCoroutine(controller.close()))
        return controller

    def untold(self, name: str) -> int:
        """How much the counters' file says waits to be told of all listeners."""
        try:
            waiting = json.loads((self.agent.base_path / "stats_counters.json").read_bytes())["untold"]
        except FileNotFoundError:
            return 0
        return sum(traffic[name] for traffic in waiting.values())


@requires("haproxy", "ipv6")
class ListTests(ControllersTestCase):
    async def test_B6_wrong_and_closed(self) -> None:
        """
        Entries that are garbage are named in the log, once, and skipped; closed ports of both families are noticed, and
        the next one is tried at once: between them, the live ones hear each heartbeat.
        """
        four, six = self.controller(), self.controller("::1")
        closed = [self.controller(), self.controller("::1")]
        for each in closed:
            await each.close()
        garbage = ("garbage", "127.0.0.1:99999", ":5555", "[::1:5555", "127.0.0.256:5555", "a b:5555")
        entries = [each.entry for pair in zip(closed, (four, six), strict=True) for each in pair]
        await self.start(*garbage, *entries)
        await gatherResults([Deferred.fromCoroutine(each.hears(2)) for each in (four, six)])
        sequences = sorted(heartbeat.sequence for heartbeat in (*four.heard, *six.heard))
        self.assertEqual(list(range(len(sequences))), sequences)
        for entry in garbage:
            self.assertEqual(1, self.agent.log.count(f"the entry '{entry}' "), self.agent.log)
        for each in closed:
            said = f"no heartbeats reach {each.host} port {each.port}: Connection refused"
            self.assertEqual(1, self.agent.log.count(said), self.agent.log)

    async def test_B6_all_gone_and_back(self) -> None:
        """
        While all controllers are gone traffic waits on the disk, also that of a worker that a reload ended meanwhile:
        not even an agent that is killed then loses any.  When they are back, each hears its turns, and all is told.
        """
        controllers = [self.controller(), self.controller("::1")]
        for each in controllers:
            each.heard = self.heard
        await self.start(*(each.entry for each in controllers))
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        sent = await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 10, "the first traffic to be told")
        for each in controllers:
            await each.close()
        sent += await self.requests(balancer, 7)
        await self.client.reload(balancer.listener_id)
        sent += await self.requests(balancer, 5)
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "the old worker to end")
        await wait_until(lambda: self.untold("totconns") == 12, "all traffic to be written down")
        await self.agent.end(signal.SIGKILL)
        sent += await self.requests(balancer, 3)
        await self.agent.start()
        sent += await self.requests(balancer, 2)
        await wait_until(lambda: self.untold("totconns") == 17, "all traffic to be written down")
        self.assertEqual(10, self.told(balancer.listener_id, "totconns"))
        for each in controllers:
            each.open()
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") >= 27, "all traffic to be told")
        await gatherResults([Deferred.fromCoroutine(each.hears()) for each in controllers])
        self.assertEqual(27, self.told(balancer.listener_id, "totconns"))
        self.assertEqual(sent, self.told(balancer.listener_id, "tx"))
        self.assertEqual(0, self.untold("totconns"))
        self.assertEqual(2, self.agent.log.count("heartbeats reach ") - self.agent.log.count("no heartbeats reach "))


@requires("root", "haproxy", "mount", "unshare")
class NameTests(ControllersTestCase):
    """The agent has a hosts file of its own, which is bound over the machine's where it alone can see that."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.hosts = self.directory / "hosts"
        self.hosts.touch()
        switch = self.directory / "nsswitch.conf"
        # No question leaves the machine.
        switch.write_text("hosts: files\n")
        script = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/nsswitch.conf && shift 2 && exec "$@"'
        self.agent.wrapper = ("unshare", "--mount", "sh", "-c", script, "sh", str(self.hosts), str(switch))

    def names(self, *addresses: str) -> None:
        """From now on, `controller.test` has these addresses."""
        self.hosts.write_text("".join(f"{address} controller.test\n" for address in addresses))

    async def test_B4_name(self) -> None:
        """
        A name that cannot be resolved ends nothing: when it can, heartbeats begin.  Where its address refuses it is
        looked up again: heartbeats follow it, and of several addresses they find the one that serves.
        """
        first = self.controller("127.0.0.2")
        await self.start(f"controller.test:{first.port}")
        agent = self.agent.pid
        await wait_until(lambda: f"no heartbeats reach controller.test port {first.port}" in self.agent.log, "a try")
        self.names("127.0.0.2")
        await first.hears()
        second = self.controller("127.0.0.3", first.port)
        self.names("127.0.0.3")
        await first.close()
        await second.hears()
        third = self.controller("127.0.0.4", first.port)
        self.names("::1", "127.0.0.5", "127.0.0.4")
        await second.close()
        await third.hears()
        self.assertEqual(agent, self.agent.pid)
        sequences = [heartbeat.sequence for each in (first, second, third) for heartbeat in each.heard]
        self.assertEqual(list(range(len(sequences))), sequences)


@requires("root", "haproxy", "mount", "unshare", "nsenter")
class HungResolverTests(FaultTestCase):
    """Over the agent's hosts file, which it alone sees, lies a pipe that nobody writes into: each look-up hangs."""

    async def start(self, *controllers: str) -> None:
        self.hosts, self.pipe, switch = (self.directory / name for name in ("hosts", "pipe", "nsswitch.conf"))
        self.hosts.touch()
        os.mkfifo(self.pipe)
        switch.write_text("hosts: files\n")
        script = (
            'mount --bind "$1" /etc/nsswitch.conf && mount --bind "$2" /etc/hosts && mount --bind "$3" /etc/hosts &&'
            'shift 3 && exec "$@"'
        )
        self.agent.wrapper = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(switch),
            str(self.hosts),
            str(self.pipe),
        )
        self.named = Controller(port=free_port())
        # More than the reactor has threads.
        self.names = [f"{number}.controller.test" for number in range(12)]
        await super().start(*controllers, *(f"{name}:{self.named.port}" for name in self.names))

    async def test_hung_look_ups(self) -> None:
        """
        While look-ups hang, of more controllers than there are threads, heartbeats go to the others, the API does its
        work, and an agent that is told to end does so.  When names can be looked up, heartbeats go there as well.
        """
        self.named.open()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.named.close()))
        async with self.watch():
            await self.client.reload(self.balancer.listener_id)
            self.assertEqual(self.balancer.config(), await self.client.haproxy(self.balancer.listener_id))
        self.assertNotIn("the disk does not answer", self.agent.log)
        for name in self.names:
            self.assertIn(f"no heartbeats reach {name}", self.agent.log)
        await self.agent.end()
        await self.agent.start()
        await wait_until(lambda: "no heartbeats reach 0.controller.test" in self.agent.log, "a look-up that hangs")
        self.hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in self.names))
        run("nsenter", "--mount", "--target", str(self.agent.pid), "umount", "--lazy", "/etc/hosts")

        def let_go() -> bool:
            """Whoever waits for the pipe finds nothing in it."""
            os.close(os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK))
            return bool(self.named.heard)

        await wait_until(let_go, "the controller whose names are known now to hear")


@requires("root", "haproxy", "ip", "nft")
class RouteTests(ControllersTestCase):
    """
    The agent lives in a network namespace that the test has made; its controller is behind a route.

    There is a router besides, which leads nowhere.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.namespace, self.router = new_namespace(self), new_namespace(self)
        # Addresses for tests of networks, RFC 2544: nobody else's, and hardly those of a test that runs meanwhile.
        network = ip_address("198.18.0.0") + 16 * secrets.randbelow(2**13)
        self.test_end, self.agent_end, self.router_end, wire_end, self.far = (
            str(network + host) for host in (1, 2, 5, 6, 9)
        )
        cable = new_cable(self, self.namespace)
        ip("address", "add", f"{self.test_end}/30", "dev", cable.name)
        ip("address", "add", f"{self.far}/32", "dev", cable.name)
        ip("link", "set", cable.name, "up")
        ip("-n", self.namespace, "address", "add", f"{self.agent_end}/30", "dev", cable.far_name)
        wire = new_cable(self, self.router)
        ip("link", "set", wire.name, "netns", self.namespace)
        self.wire, self.router_wire = wire.name, wire.far_name
        ip("-n", self.namespace, "address", "add", f"{wire_end}/30", "dev", self.wire)
        ip("-n", self.namespace, "link", "set", self.wire, "up")
        ip("-n", self.router, "address", "add", f"{self.router_end}/30", "dev", wire.far_name)
        ip("-n", self.router, "route", "add", self.agent_end, "via", wire_end)
        inside(self.router, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        self.route("add")
        self.agent.wrapper = ("ip", "netns", "exec", self.namespace)
        self.agent.host = self.agent_end
        self.client = self.new_client()
        # While there is a way to say so to the agent.
        self.addCleanup(self.client.close)

    def route(self, change: str, *way: str) -> None:
        """Change the way to the controller; none given: the one that leads there."""
        ip("-n", self.namespace, "route", change, f"{self.far}/32", *(way or ("via", self.test_end)))

    async def counted(self) -> tuple[LoadBalancer, int]:
        """A listener that runs, and its port on the agent's own address."""
        port = free_port()
        answer = "http-request return status 200 content-type text/plain string hello"
        balancer = LoadBalancer(extra_binds=(f"{self.agent_end}:{port}",), extra_frontend=(answer,))
        return await self.running(balancer), port

    async def told_all(self, balancer: LoadBalancer, connections: int) -> None:
        """Wait until so many connections were told."""
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == connections, "traffic to be told")

    async def asked(self, port: int, number: int) -> None:
        answers = await gatherResults([get(port, host=self.agent_end) for _ in range(number)])
        self.assertEqual([], [answer for answer in answers if b"200 OK" not in answer])

    async def test_D3_no_route(self) -> None:
        """Over intervals in which there is no route to the controller, the sum of what is told is what haproxy says."""
        controller = self.controller(self.far)
        self.heard = controller.heard
        await self.start(controller.entry)
        balancer, port = await self.counted()
        await self.asked(port, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 10, "the first traffic to be told")
        self.route("del")
        for number in range(1, 4):
            await self.asked(port, 5)
            await wait_until(lambda number=number: self.untold("totconns") == number * 5, "it to wait")  # type: ignore[misc]
        self.assertIn(f"no heartbeats reach {self.far} port {controller.port}: Network is unreachable", self.agent.log)
        self.assertEqual(10, self.told(balancer.listener_id, "totconns"))
        self.route("add")
        await self.asked(port, 2)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") >= 27, "all traffic to be told")
        await controller.hears()
        from twisted.internet import reactor

        socket = self.agent.base_path / balancer.listener_id / "agent.sock"
        (frontend,) = parse_stats(await ask(cast(Any, reactor), socket, QUESTION, timeout=60)).frontends
        self.assertEqual((27, frontend.bytes_out, frontend.bytes_in), self.totals(balancer))

    def totals(self, balancer: LoadBalancer) -> tuple[int, int, int]:
        return (
            self.told(balancer.listener_id, "totconns"),
            self.told(balancer.listener_id, "tx"),
            self.told(balancer.listener_id, "rx"),
        )

    async def test_D3_icmp_unreachable(self) -> None:
        """
        Where a router says that a controller cannot be reached, with whichever of its words, nothing is lost: the
        other one hears each heartbeat meanwhile, or all of it later, where there is none.
        """
        controller, other = self.controller(self.far), self.controller(self.test_end)
        other.heard = self.heard = controller.heard
        await self.start(controller.entry, other.entry)
        balancer, port = await self.counted()
        await self.asked(port, 10)
        await self.told_all(balancer, 10)
        total = 10
        unreachable = f"no heartbeats reach {self.far} port {controller.port}: No route to host"
        kinds = ("unreachable", "prohibit")[: count(1, 2)]
        for kind in kinds:
            ip("-n", self.router, "route", "add", kind, self.far)
            self.route("replace", "via", self.router_end)
            await self.asked(port, 5)
            total += 5
            await self.told_all(balancer, total)
            told = kinds.index(kind) + 1
            await wait_until(lambda told=told: self.agent.log.count(unreachable) == told, "it to be told")  # type: ignore[misc]
            self.route("replace")
            ip("-n", self.router, "route", "delete", kind, self.far)
            await other.hears(2)
        sequences = [heartbeat.sequence for heartbeat in self.heard]
        self.assertEqual(list(range(len(sequences))), sequences)
        self.assertEqual(len(kinds), self.agent.log.count(unreachable), self.agent.log)
        ip("-n", self.router, "route", "add", "unreachable", self.far)
        self.route("replace", "via", self.router_end)
        await other.close()
        await self.asked(port, 5)
        await wait_until(lambda: self.untold("totconns") == 5, "it to wait")
        self.route("replace")
        await self.asked(port, 2)
        await self.told_all(balancer, total + 7)
        await controller.hears()
        self.assertEqual(total + 7, self.told(balancer.listener_id, "totconns"))

    async def test_B6_machine_gone(self) -> None:
        """
        A controller whose machine is gone from our own network is found out, though the kernel takes three seconds to
        say so: it is told once, and from then on the other one hears each heartbeat, until it is back.
        """
        controller, other = self.controller(self.far), self.controller(self.test_end)
        await self.start(controller.entry, other.entry)
        await controller.hears()
        self.route("replace", "dev", self.wire)
        gone = f"no heartbeats reach {self.far} port {controller.port}: No route to host"
        await wait_until(lambda: gone in self.agent.log, "it to be told")
        await other.hears(2)
        sequences = [heartbeat.sequence for heartbeat in other.heard[-2:]]
        self.assertEqual({1}, {later - earlier for earlier, later in pairwise(sequences)})
        self.assertEqual(1, self.agent.log.count(gone), self.agent.log)
        self.assertNotIn(" again", self.agent.log)
        self.route("replace")
        await controller.hears()

    async def test_B7_fragments(self) -> None:
        """
        A heartbeat that is larger than a packet travels in fragments.  Where they are dropped on the way nobody can
        know it; where they are on this machine they are noticed: its traffic waits, and is told once they get through.
        """
        controller = Controller(self.router_end)
        inside(self.router, controller.open)
        self.addCleanup(lambda: Deferred.fromCoroutine(controller.close()))
        self.heard = controller.heard
        await self.start(controller.entry)
        balancer, port = await self.counted()
        await controller.hears()
        drop = "ip frag-off & 0x3fff != 0 counter drop"
        on_the_way = "add table ip t; add chain ip t c { type filter hook prerouting priority -450; }; add rule ip t c "
        self.nft(self.router, on_the_way + drop)
        many = LoadBalancer(extra_servers=1_500)
        await self.running(many)

        async def sent_large() -> bool:
            heartbeat = cast(Any, (await self.client.details()).more["heartbeat"])
            return cast(bool, heartbeat["bytes"] > 1_500 and heartbeat["controllers"][0]["reachable"])

        await wait_until(sent_large, "a large heartbeat to be sent")
        await wait_until(lambda: "packets 0 " not in self.nft(self.router, "list ruleset"), "fragments to be dropped")
        self.nft(self.router, "delete table ip t")
        await controller.hears()
        self.assertIn(many.listener_id, controller.heard[-1].message["listeners"])
        here = f"add table netdev t; add chain netdev t c {{ type filter hook egress device {self.wire} priority 0; }};"
        self.nft(self.namespace, f"{here} add rule netdev t c {drop}")
        lost = f"no heartbeats reach {self.router_end} port {controller.port}: No buffer space available"
        await wait_until(lambda: lost in self.agent.log, "it to be told")
        before = self.told(balancer.listener_id, "totconns")
        await self.asked(port, 5)
        await wait_until(lambda: self.untold("totconns") == 5, "it to wait")
        self.nft(self.namespace, "delete table netdev t")
        await self.told_all(balancer, before + 5)

    def nft(self, namespace: str, script: str) -> str:
        return run("ip", "netns", "exec", namespace, "nft", script)
