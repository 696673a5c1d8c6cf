"""Heartbeats of a real agent, received as a controller receives them."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from amphora.client import AmphoraFailed
from amphora.listener import Heartbeat, HeartbeatListener
from amphora.loadbalancer.instance import MANY_MEMBERS
from amphora.loadbalancer.sockets import ask
from tests.integration.harness import (
    AMPHORA_ID,
    PATIENCE,
    AgentTestCase,
    LoadBalancer,
    free_port,
    get,
    new_id,
    read_all,
    wait_until,
)
from tests.integration.support import count, requires

KEY = "a key of the tests"


class HeartbeatTestCase(AgentTestCase):
    interval = 1
    """Seconds from one regular heartbeat to the next."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.heard: list[Heartbeat] = []
        self.controllers = [self.new_controller(), self.new_controller()]
        await self.start(*(f"127.0.0.1:{controller.port}" for controller in self.controllers))

    async def start(self, *controllers: str) -> None:
        """Start the agent, which tells these."""
        self.agent.options["health_manager"] = {
            "heartbeat_interval": self.interval,
            "controller_ip_port_list": ", ".join(controllers),
        }
        await self.agent.start()

    def new_controller(self, interface: str = "127.0.0.1", port: int = 0) -> HeartbeatListener:
        from twisted.internet import reactor

        controller = HeartbeatListener(
            reactor=cast(Any, reactor), key=KEY, received=self.heard.append, interface=interface, port=port
        )
        controller.startService()
        self.addCleanup(lambda: controller.stopService() if controller.running else None)
        return controller

    async def next_heartbeat(self) -> Heartbeat:
        """One that was begun after this call."""
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already + 1, "two more heartbeats")
        return self.heard[already + 1]

    def told(self, listener_id: str, name: str) -> int:
        """The sum of what all heartbeats have told of a listener so far."""
        return sum(
            cast(int, heartbeat.message["listeners"][listener_id]["stats"][name])
            for heartbeat in self.heard
            if listener_id in heartbeat.message["listeners"]
        )

    async def requests(self, balancer: LoadBalancer, number: int) -> int:
        """So many requests; the sum of the bytes that came back."""
        return sum(len(answer) for answer in await gatherResults([get(balancer.port) for _ in range(number)]))


@requires("haproxy")
class HeartbeatTests(HeartbeatTestCase):
    async def test_nothing_to_tell(self) -> None:
        """An amphora without a load balancer sends heartbeats, too (B11)."""
        heartbeat = await self.next_heartbeat()
        self.assertEqual(AMPHORA_ID, heartbeat.amphora_id)
        self.assertEqual({}, heartbeat.message["listeners"])
        self.assertEqual({}, heartbeat.message["pools"])
        self.assertEqual(3, heartbeat.message["ver"])

    async def test_status_and_traffic(self) -> None:
        """A heartbeat tells a listener, its pool, its members and how much traffic came since the last, exactly."""
        first, second = self.new_member(), self.new_member()
        # In HTTP mode haproxy counts fewer bytes than go over the wire.
        balancer = await self.running(LoadBalancer(mode="tcp", members=(first, second)))
        key = f"{balancer.pool_id}:{balancer.listener_id}"
        received = await self.requests(balancer, 40)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 40, "all connections to be told")
        heartbeat = await self.next_heartbeat()
        self.assertEqual(
            {"status": "UP", "members": {first.name: "UP", second.name: "UP"}}, heartbeat.message["pools"][key]
        )
        self.assertEqual("OPEN", heartbeat.message["listeners"][balancer.listener_id]["status"])
        self.assertEqual(40, self.told(balancer.listener_id, "totconns"))
        self.assertEqual(received, self.told(balancer.listener_id, "tx"))
        self.assertGreater(self.told(balancer.listener_id, "rx"), 0)
        await second.down()
        await wait_until(
            lambda: self.heard[-1].message["pools"][key]["members"][second.name].startswith("DOWN"),
            "the member to be told down",
        )

    async def test_D6_states(self) -> None:
        """Each state that a member can be in is told as haproxy words it; one of weight 0 that is up is DRAIN."""
        live, falling, rising = self.new_member(), self.new_member(), self.new_member()
        await rising.down()
        listener_id = new_id()
        backend = f"states:{listener_id}"
        check = "check inter 200ms fall 1 rise 1"
        balancer = LoadBalancer(
            listener_id=listener_id,
            extra_sections=(
                f"backend {backend}",
                f"    server up 127.0.0.1:{live.port} {check}",
                f"    server falling 127.0.0.1:{falling.port} check inter 200ms fall 1000 rise 1",
                f"    server rising 127.0.0.1:{rising.port} check inter 200ms fall 1 rise 1000",
                f"    server down 127.0.0.1:{free_port()} {check}",
                f"    server unchecked 127.0.0.1:{live.port}",
                f"    server weightless 127.0.0.1:{live.port} weight 0 {check}",
                f"    server relieved 127.0.0.1:{live.port} weight 5 {check}",
                f"    server drained 127.0.0.1:{live.port} {check}",
                f"    server disabled 127.0.0.1:{live.port} disabled {check}",
                f"    server maintained 127.0.0.1:{live.port} {check}",
                f"    server follower 127.0.0.1:{live.port} track {backend}/maintained",
            ),
        )
        await self.running(balancer)
        self.assertEqual("UP", (await self.next_heartbeat()).message["pools"][backend]["members"]["drained"])
        from twisted.internet import reactor

        socket = self.agent.base_path / listener_id / "agent.sock"
        for command in ("weight {}/relieved 0", "server {}/drained state drain", "server {}/maintained state maint"):
            question = f"set {command.format(backend)}\n".encode()
            self.assertEqual(b"\n", await ask(cast(Any, reactor), socket, question, timeout=PATIENCE))
        await falling.down()
        rising.up()
        golden = {
            "up": "UP",
            "falling": "UP n/1000",
            "rising": "DOWN n/1000",
            "down": "DOWN",
            "unchecked": "no check",
            "weightless": "DRAIN",
            "relieved": "DRAIN",
            "drained": "DRAIN",
            "disabled": "MAINT",
            "maintained": "MAINT",
            "follower": f"MAINT (via {backend}/maintained)",
        }

        def told() -> dict[str, str]:
            members = self.heard[-1].message["pools"][backend]["members"]
            return {name: re.sub(r"\d+/1000", "n/1000", status) for name, status in members.items()}

        await wait_until(lambda: told() == golden, "all states to be told")
        self.assertEqual("UP", self.heard[-1].message["pools"][backend]["status"])
        (pool,) = (each for each in (await self.client.listener(listener_id)).pools if each.uuid == "states")
        words = {name: status if status == "no check" else status.split(" ")[0] for name, status in golden.items()}
        self.assertEqual(("DEGRADED", words), (pool.status, dict(pool.members)))

    async def test_only_what_should_run(self) -> None:
        """A listener that was stopped, deleted, or of which only a refused configuration is known, is not told."""
        stopped, deleted = await self.running(LoadBalancer()), await self.running(LoadBalancer())
        self.assertEqual(
            {stopped.listener_id, deleted.listener_id}, set((await self.next_heartbeat()).message["listeners"])
        )
        await self.client.stop(stopped.listener_id)
        await self.client.delete(deleted.listener_id)
        self.assertEqual({}, (await self.next_heartbeat()).message["listeners"])

    async def test_round_robin(self) -> None:
        """The controllers are told in turn; one that is gone is noticed, and the other hears every interval (B6)."""
        await wait_until(lambda: len({heartbeat.sequence for heartbeat in self.heard}) > 3, "four heartbeats")
        sequences = [heartbeat.sequence for heartbeat in self.heard]
        self.assertEqual(sorted(sequences), sequences)
        await self.controllers[0].stopService()
        self.heard.clear()
        await wait_until(lambda: len(self.heard) > 2, "the other controller to hear")
        numbers = [heartbeat.sequence for heartbeat in self.heard][1:]
        self.assertEqual(list(range(numbers[0], numbers[0] + len(numbers))), numbers)

    async def test_traffic_over_restarts_of_the_agent(self) -> None:
        """Traffic is told once, over orderly restarts of the agent to the byte."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        sent = await self.requests(balancer, 10)
        await self.next_heartbeat()
        for number in range(3):
            await self.agent.end()
            sent += await self.requests(balancer, 10 + number)
            await self.agent.start()
            sent += await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "tx") >= sent, "all traffic to be told")
        await self.next_heartbeat()
        self.assertEqual(
            (sent, 73), (self.told(balancer.listener_id, "tx"), self.told(balancer.listener_id, "totconns"))
        )

    async def test_D1_traffic_over_reloads(self) -> None:
        """Every byte and connection is told once over reloads: before, while they go on, and of sessions that last."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        long = socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE)
        self.addCleanup(long.close)
        request = b"GET / HTTP/1.0\r\n"
        # Half a request, which the member waits on with: this session outlasts all of the reloads.
        await deferToThread(long.sendall, request)
        sent = connections = 0
        for _ in range(5):
            load = [get(balancer.port) for _ in range(20)]
            await self.client.reload(balancer.listener_id)
            sent += sum(len(answer) for answer in await gatherResults(load))
            connections += 20
        await deferToThread(long.sendall, b"\r\n")
        sent += len(await deferToThread(read_all, long))
        connections += 1
        long.close()
        await wait_until(
            lambda: (
                self.told(balancer.listener_id, "totconns") >= connections
                and self.told(balancer.listener_id, "tx") >= sent
            ),
            "all traffic to be told",
        )
        await self.next_heartbeat()
        self.assertEqual(sent, self.told(balancer.listener_id, "tx"))
        self.assertEqual(connections, self.told(balancer.listener_id, "totconns"))
        # Nobody is kept waiting for the sake of figures.
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "all old workers to end")

    async def test_crash_of_haproxy(self) -> None:
        """A haproxy that crashes takes with it what it had not told yet; never is more told than was sent."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        sent = 0
        for _ in range(3):
            sent += await self.requests(balancer, 10)
            master = self.agent.haproxy(balancer.listener_id)
            assert master is not None
            master.send_signal(signal.SIGKILL)
            await wait_until(lambda master=master: not master.alive, "haproxy to end")  # type: ignore[misc]

            async def active() -> bool:
                return (await self.client.listener(balancer.listener_id)).status == "ACTIVE"

            await wait_until(active, "haproxy to be started again")
        sent += await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") >= 10, "the last traffic to be told")
        await self.next_heartbeat()
        self.assertLessEqual(self.told(balancer.listener_id, "tx"), sent)
        self.assertLessEqual(self.told(balancer.listener_id, "totconns"), 40)

    async def test_stop_with_an_old_worker(self) -> None:
        """A listener that is stopped and started while an old worker lingers tells no traffic twice."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        idle = socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE)
        self.addCleanup(idle.close)
        sent = await self.requests(balancer, 10)
        await self.client.reload(balancer.listener_id)
        sent += await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "tx") == sent, "all traffic to be told")
        await self.client.stop(balancer.listener_id)
        await self.next_heartbeat()
        await self.client.start(balancer.listener_id)
        sent += await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "tx") >= sent, "the new traffic to be told")
        await self.next_heartbeat()
        self.assertEqual(sent, self.told(balancer.listener_id, "tx"))
        self.assertLessEqual(self.told(balancer.listener_id, "totconns"), 31)

    async def test_D1_failed_reload(self) -> None:
        """A reload that fails costs no figure, and leaves no worker held."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        sent = await self.requests(balancer, 10)
        (worker,) = cast(Any, self.agent.haproxy(balancer.listener_id)).children()
        await self.client.upload_haproxy(
            balancer.listener_id, evolve(balancer, extra_binds=("127.0.0.1:1 interface no-such",)).config()
        )
        with self.assertRaises(AmphoraFailed):
            await self.client.reload(balancer.listener_id)
        sent += await self.requests(balancer, 10)
        await wait_until(lambda: self.told(balancer.listener_id, "tx") >= sent, "all traffic to be told")
        self.assertEqual(sent, self.told(balancer.listener_id, "tx"))
        self.assertTrue(worker.alive)

    async def test_hung_old_worker(self) -> None:
        """
        An old worker that hangs for a while holds up no heartbeat, no later agent and no reload, and what it carries is
        told when it goes on.
        """
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        long, idle = (socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE) for _ in range(2))
        for connection in (long, idle):
            self.addCleanup(connection.close)
        # Half a request, which the member waits on with.
        await deferToThread(long.sendall, b"GET / HTTP/1.0\r\n")
        (worker,) = cast(Any, self.agent.haproxy(balancer.listener_id)).children()
        await self.client.reload(balancer.listener_id)
        worker.send_signal(signal.SIGSTOP)
        sent = await self.requests(balancer, 5)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 7, "the new worker's traffic")
        await self.agent.end(signal.SIGKILL)
        await self.agent.start()
        sent += await self.requests(balancer, 5)
        await wait_until(lambda: self.told(balancer.listener_id, "totconns") == 12, "the new worker's traffic")
        await self.client.reload(balancer.listener_id)
        worker.send_signal(signal.SIGCONT)
        await deferToThread(long.sendall, b"\r\n")
        sent += len(await deferToThread(read_all, long))
        long.close()
        await wait_until(lambda: self.told(balancer.listener_id, "tx") >= sent, "all traffic to be told")
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already, "one more heartbeat")
        self.assertEqual(
            (sent, 12), (self.told(balancer.listener_id, "tx"), self.told(balancer.listener_id, "totconns"))
        )


@requires("haproxy")
class ChangeTests(HeartbeatTestCase):
    """Heartbeats between the regular ones, which are ten minutes apart here."""

    interval = 600

    async def told_soon(self, condition: Callable[[Heartbeat], bool], what: str) -> None:
        """Wait for a heartbeat that says so, and see that it was not a regular one that had to bring it."""
        await wait_until(lambda: any(condition(heartbeat) for heartbeat in self.heard), what)

    async def test_first_at_once(self) -> None:
        """An agent that has started says so without waiting for its interval."""
        await wait_until(lambda: self.heard, "the first heartbeat")

    async def test_changes(self) -> None:
        """A listener that comes, a member that goes and comes, a haproxy that dies: each is told by itself."""
        first, second = self.new_member(), self.new_member()
        balancer = await self.running(LoadBalancer(members=(first, second)))
        key = f"{balancer.pool_id}:{balancer.listener_id}"

        def told(status: str) -> Callable[[Heartbeat], bool]:
            def is_told(heartbeat: Heartbeat) -> bool:
                pool = heartbeat.message["pools"].get(key, {"members": {}})
                return bool(pool["members"].get(second.name, "").startswith(status))

            return is_told

        await self.told_soon(told("UP"), "the new listener to be told")
        self.heard.clear()
        await second.down()
        await self.told_soon(told("DOWN"), "the member to be told down")
        self.heard.clear()
        second.up()
        await self.told_soon(told("UP"), "the member to be told up")
        self.heard.clear()
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        master.send_signal(signal.SIGKILL)
        await wait_until(lambda: self.heard, "the death or the restart to be told")
        self.heard.clear()
        await self.client.delete(balancer.listener_id)
        await self.told_soon(lambda heartbeat: heartbeat.message["listeners"] == {}, "the deletion to be told")
        # Ten or so in all this time, though members were checked and requests answered: one for each change.
        self.assertLess(self.heard[-1].sequence, 20)

    async def test_many_members(self) -> None:
        """Among more members than are asked for one by one, each way to lose one and get it back is told by itself."""
        from twisted.internet import reactor

        member = self.new_member()
        balancer = await self.running(LoadBalancer(members=(member,), extra_servers=MANY_MEMBERS))
        key = f"{balancer.pool_id}:{balancer.listener_id}"
        stats_socket = self.agent.base_path / balancer.listener_id / "agent.sock"

        def told(status: str) -> Callable[[Heartbeat], bool]:
            def is_told(heartbeat: Heartbeat) -> bool:
                pool = heartbeat.message["pools"].get(key, {"members": {}})
                return bool(pool["members"].get(member.name, "").startswith(status))

            return is_told

        server = f"{key}/{member.name}"
        for command, status in (
            (f"set server {server} state maint", "MAINT"),
            (f"set server {server} state ready", "UP"),
            (f"set weight {server} 0", "DRAIN"),
            (f"set weight {server} 1", "UP"),
        ):
            self.heard.clear()
            await ask(cast(Any, reactor), stats_socket, f"{command}\n".encode(), timeout=PATIENCE)
            await self.told_soon(told(status), f"{status} to be told")
        self.heard.clear()
        await member.down()
        await self.told_soon(told("DOWN"), "DOWN to be told")


@requires("haproxy")
class SizeTests(HeartbeatTestCase):
    async def test_B7_sizes(self) -> None:
        """However many members there are, a heartbeat tells all listeners and pools; what it leaves out is logged."""
        for members in (100, 1_500, 4_000, count(4_000, 10_000)):
            balancer = await self.running(LoadBalancer(extra_servers=members))
            self.heard.clear()
            heartbeat = await self.next_heartbeat()
            message = heartbeat.message
            self.assertIn(balancer.listener_id, message["listeners"])
            pools = {key: pool for key, pool in message["pools"].items() if key.startswith("unused")}
            self.assertEqual(1, len(pools))
            (pool,) = pools.values()
            self.assertLessEqual(len(pool["members"]), members)
            left_out = members - len(pool["members"])
            self.assertEqual(left_out > 0, "are left out" in self.agent.log)
            self.assertEqual(members <= 1_500, left_out == 0)
            await self.client.delete(balancer.listener_id)
