"""What heartbeats tell of connections that outlast a reload and then the agent."""

from __future__ import annotations

import signal
import socket
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from amphora.loadbalancer.sockets import ask
from amphora.process import ProcessIdentity
from tests.integration.harness import PATIENCE, LoadBalancer, read_all, wait_until
from tests.integration.support import count, requires
from tests.integration.test_traffic import TrafficTestCase


@define
class LongConnection:
    """A client that has sent half of a request, which the member waits on with."""

    _connection: socket.socket
    received: int = field(init=False, default=0)

    async def finish(self) -> None:
        """Send the rest, and read the answer: haproxy counts the session now."""
        await deferToThread(self._connection.sendall, b"\r\n")
        self.received = len(await deferToThread(read_all, self._connection))
        self._connection.close()


class LongTrafficTestCase(TrafficTestCase):
    async def connect(self, balancer: LoadBalancer) -> LongConnection:
        """Open one, and wait until haproxy has it."""
        before = await self.sessions(balancer)
        long = socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE)
        self.addCleanup(long.close)
        await deferToThread(long.sendall, b"GET / HTTP/1.0\r\n")

        async def there() -> bool:
            return await self.sessions(balancer) > before

        await wait_until(there, "haproxy to have the connection")
        return LongConnection(long)

    async def sessions(self, balancer: LoadBalancer) -> int:
        """How many connections from clients the worker has that accepts them."""
        from twisted.internet import reactor

        path = self.agent.base_path / balancer.listener_id / "agent.sock"
        return (await ask(cast(Any, reactor), path, b"show sess\n", timeout=PATIENCE)).count(b"proto=tcpv4")

    async def told_exactly(self, balancer: LoadBalancer, sent: int, connections: int) -> None:
        """Wait until all was told, and see that no more is."""
        await wait_until(
            lambda: (
                self.told(balancer.listener_id, "tx") >= sent
                and self.told(balancer.listener_id, "totconns") >= connections
            ),
            f"{sent} bytes and {connections} connections to be told",
        )
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already + 1, "two more heartbeats")
        self.assertEqual(
            (sent, connections), (self.told(balancer.listener_id, "tx"), self.told(balancer.listener_id, "totconns"))
        )

    async def nothing_left(self) -> None:
        """Wait until no old worker is left, and nothing that was there for their sake."""
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "all old workers to end")
        await wait_until(lambda: not self.agent.keepers(), "the keeper to end")
        self.assertFalse(self.agent.sessions_socket.exists())

    async def keeper(self) -> ProcessIdentity:
        (keeper,) = await wait_until(self.agent.keepers, "a keeper")
        return cast(ProcessIdentity, keeper)


@requires("haproxy")
class LongTrafficTests(LongTrafficTestCase):
    async def test_orderly_restart(self) -> None:
        """A connection that outlasts a reload and then an orderly restart of the agent is told to the last byte."""
        await self.over_an_agents_end(signal.SIGTERM)

    async def test_death(self) -> None:
        """So is one that outlasts the death of the agent."""
        await self.over_an_agents_end(signal.SIGKILL)

    async def over_an_agents_end(self, end: signal.Signals) -> None:
        balancer = await self.counted()
        long = await self.connect(balancer)
        sent = await self.requests(balancer, 3)
        await self.client.reload(balancer.listener_id)
        await self.told_some(balancer, 4)
        await self.agent.end(end)
        await self.started()
        await long.finish()
        await self.told_exactly(balancer, sent + long.received, 4)
        await self.nothing_left()

    async def test_end_without_an_agent(self) -> None:
        """What ends while no agent runs is told by the next one, however the last one ended."""
        balancer = await self.counted()
        sent = 0
        for connections, end in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
            long = await self.connect(balancer)
            await self.client.reload(balancer.listener_id)
            await self.told_some(balancer, connections)
            await self.agent.end(end)
            await long.finish()
            sent += long.received
            await self.started()
            await self.told_exactly(balancer, sent, connections)
        await self.nothing_left()

    async def test_many_workers_and_deaths(self) -> None:
        """Connections of two old workers are told exactly, whichever of three agents they outlast."""
        balancer = await self.counted()
        first = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        second, third = await self.connect(balancer), await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        await self.told_some(balancer, 3)
        await self.killed()
        await self.started()
        await second.finish()
        await self.told_exactly(balancer, second.received, 3)
        await self.killed()
        await first.finish()
        await self.started()
        await third.finish()
        await self.told_exactly(balancer, first.received + second.received + third.received, 3)
        await self.nothing_left()

    async def test_death_before_it_is_told(self) -> None:
        """Killed right after such a connection has ended, an agent loses that at the most, and none is told twice."""
        balancer = await self.counted()
        sent = told = 0
        for connections in range(1, count(3, 20)):
            long = await self.connect(balancer)
            await self.client.reload(balancer.listener_id)
            await self.told_some(balancer, connections)
            await long.finish()
            await self.killed()
            await self.started()
            await self.next_heartbeat()
            sent += long.received
            lost = long.received - self.told(balancer.listener_id, "tx") + told
            self.assertIn(lost, (0, long.received))
            told = self.told(balancer.listener_id, "tx")
        await self.nothing_left()
        self.assertLessEqual(self.told(balancer.listener_id, "tx"), sent)
        self.assertEqual(connections, self.told(balancer.listener_id, "totconns"))

    async def test_killed_in_the_middle_of_answers(self) -> None:
        """An agent that dies while an old worker hangs leaves questions unanswered; the next one finds its way."""
        balancer = await self.counted()
        (worker,) = cast(ProcessIdentity, self.agent.haproxy(balancer.listener_id)).children()
        long = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        await self.told_some(balancer, 1)
        worker.send_signal(signal.SIGSTOP)
        await self.next_heartbeat()
        await self.killed()
        await self.started()
        await self.next_heartbeat()
        worker.send_signal(signal.SIGCONT)
        await long.finish()
        await self.told_exactly(balancer, long.received, 1)
        await self.nothing_left()

    async def test_keeper_is_killed(self) -> None:
        """A keeper that dies is told once, and replaced: what it kept is kept on."""
        balancer = await self.counted()
        long = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        await self.told_some(balancer, 1)
        before = await self.keeper()
        before.send_signal(signal.SIGKILL)
        await wait_until(lambda: not before.alive, "the keeper to end")
        await self.keeper()
        await self.next_heartbeat()
        self.assertEqual(1, self.agent.log.count("another one takes its place"))
        await self.killed()
        await self.started()
        await long.finish()
        await self.told_exactly(balancer, long.received, 1)
        await self.nothing_left()

    async def test_keeper_hangs(self) -> None:
        """A keeper that hangs fails no reload and is told; what is held then is kept by another one."""
        balancer = await self.counted()
        first = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        hung = await self.keeper()
        hung.send_signal(signal.SIGSTOP)
        second = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        await wait_until(lambda: len(self.agent.keepers()) == 2, "another keeper")
        await self.told_some(balancer, 2)
        await self.killed()
        await self.started()
        await first.finish()
        await second.finish()
        await self.told_exactly(balancer, first.received + second.received, 2)
        hung.send_signal(signal.SIGCONT)
        await self.nothing_left()

    async def test_agent_and_keeper_are_killed(self) -> None:
        """Where both die, what old workers count after that is lost, and nothing else: all goes on as ever."""
        balancer = await self.counted()
        long = await self.connect(balancer)
        sent = await self.requests(balancer, 3)
        await self.client.reload(balancer.listener_id)
        await self.told_some(balancer, 4)
        keeper = await self.keeper()
        await self.killed()
        keeper.send_signal(signal.SIGKILL)
        await wait_until(lambda: not keeper.alive, "the keeper to end")
        await self.started()
        await long.finish()
        sent += await self.requests(balancer, 3)
        await self.told_some(balancer, 7)
        await self.next_heartbeat()
        self.assertIn(self.told(balancer.listener_id, "tx"), (sent, sent + long.received))
        await self.client.reload(balancer.listener_id)
        await self.nothing_left()

    async def test_foreign_socket(self) -> None:
        """Whoever else listens in the keeper's place, and whatever it says, is told of and replaced."""
        balancer = await self.counted()
        await self.killed()
        foreign = socket.socket(socket.AF_UNIX)
        self.addCleanup(foreign.close)
        foreign.bind(str(self.agent.sessions_socket))
        foreign.listen()

        def babble() -> None:
            try:
                while True:
                    foreign.accept()[0].sendall(b"220 welcome\n")
            except OSError:
                pass

        babbling = deferToThread(babble)
        await self.started()
        self.assertIn("that an earlier agent left cannot be taken over", self.agent.log)
        long = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        foreign.shutdown(socket.SHUT_RDWR)
        await babbling
        await self.told_some(balancer, 1)
        await self.killed()
        await self.started()
        await long.finish()
        await self.told_exactly(balancer, long.received, 1)
        await self.nothing_left()

    async def test_reload_that_was_never_begun(self) -> None:
        """A session that was kept for a reload of which haproxy never heard is ended by the next agent."""
        balancer = await self.counted()
        master = cast(ProcessIdentity, self.agent.haproxy(balancer.listener_id))
        (worker,) = master.children()
        master.send_signal(signal.SIGSTOP)
        reloading = Deferred.fromCoroutine(self.client.reload(balancer.listener_id)).addErrback(lambda _: None)
        await wait_until(self.agent.keepers, "the session to be kept")
        await self.killed()
        await reloading
        master.send_signal(signal.SIGCONT)
        await self.started()
        await self.nothing_left()
        self.assertEqual([worker], master.children())
        sent = await self.requests(balancer, 3)
        await self.told_exactly(balancer, sent, 3)

    async def test_keeper_cannot_be_started(self) -> None:
        """
        Where a keeper's socket cannot be made, that is told once; this agent counts old workers' traffic all the same.
        The first reload after that has everything kept.
        """
        balancer = await self.counted()
        self.agent.sessions_socket.mkdir()
        first = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        second = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        self.assertEqual(1, self.agent.log.count("are not kept beyond the end of this agent"))
        await first.finish()
        await self.told_exactly(balancer, first.received, 2)
        self.agent.sessions_socket.rmdir()
        third = await self.connect(balancer)
        await self.client.reload(balancer.listener_id)
        self.assertIn("are kept again", self.agent.log)
        await self.told_some(balancer, 3)
        await self.killed()
        await self.started()
        await second.finish()
        await third.finish()
        await self.told_exactly(balancer, first.received + second.received + third.received, 3)
        await self.nothing_left()
