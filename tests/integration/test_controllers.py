"""Where the heartbeats of a real agent go: controllers that are wrong, closed, moved, of both families, or all gone."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults

from amphora.listener import Heartbeat, HeartbeatListener
from amphora.loadbalancer.sockets import ask
from amphora.loadbalancer.stats import QUESTION, parse_stats
from tests.integration.harness import AgentTestCase, LoadBalancer, free_port, get, wait_until
from tests.integration.support import requires
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


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)


@requires("root", "haproxy", "ip")
class RouteTests(ControllersTestCase):
    """The agent lives in a network namespace that the test has made; its controller is behind a route."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        mark = secrets.token_hex(4)
        self.namespace = f"amphora-{mark}"
        # Addresses for tests of networks, RFC 2544: nobody else's.
        network = f"198.18.{secrets.randbelow(256)}"
        self.test_end, self.agent_end, self.far = f"{network}.1", f"{network}.2", f"{network}.129"
        _ip("netns", "add", self.namespace)
        self.addCleanup(_ip, "netns", "delete", self.namespace)
        _ip("link", "add", f"amp{mark}t", "type", "veth", "peer", "name", f"amp{mark}a", "netns", self.namespace)
        _ip("address", "add", f"{self.test_end}/30", "dev", f"amp{mark}t")
        _ip("address", "add", f"{self.far}/32", "dev", f"amp{mark}t")
        _ip("link", "set", f"amp{mark}t", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.agent_end}/30", "dev", f"amp{mark}a")
        _ip("-n", self.namespace, "link", "set", f"amp{mark}a", "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        self.route("add")
        self.agent.wrapper = ("ip", "netns", "exec", self.namespace)
        self.agent.host = self.agent_end
        self.client = self.new_client()

    def route(self, change: str) -> None:
        _ip("-n", self.namespace, "route", change, f"{self.far}/32", "via", self.test_end)

    async def test_D3_no_route(self) -> None:
        """Over intervals in which there is no route to the controller, the sum of what is told is what haproxy says."""
        controller = self.controller(self.far)
        self.heard = controller.heard
        await self.start(controller.entry)
        port = free_port()
        balancer = LoadBalancer(
            extra_binds=(f"{self.agent_end}:{port}",),
            extra_frontend=("http-request return status 200 content-type text/plain string hello",),
        )
        await self.running(balancer)

        async def requests(number: int) -> None:
            answers = await gatherResults([get(port, host=self.agent_end) for _ in range(number)])
            self.assertEqual([], [answer for answer in answers if b"200 OK" not in answer])

        await requests(10)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 10, "the first traffic to be told")
        self.route("del")
        for number in range(1, 4):
            await requests(5)
            await wait_until(lambda number=number: self.untold("totconns") == number * 5, "it to wait")  # type: ignore[misc]
        self.assertIn(f"no heartbeats reach {self.far} port {controller.port}: Network is unreachable", self.agent.log)
        self.assertEqual(10, self.told(balancer.listener_id, "totconns"))
        self.route("add")
        await requests(2)
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
