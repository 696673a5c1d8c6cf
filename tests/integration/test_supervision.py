"""haproxy under supervision: what it is not told, what it survives, and what is told of it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from amphora.client import AmphoraFailed
from amphora.loadbalancer.instance import peer_name
from amphora.process import ProcessIdentity
from tests.integration.harness import (
    AMPHORA_ID,
    PATIENCE,
    AgentTestCase,
    LoadBalancer,
    Member,
    free_port,
    get,
    new_id,
    wait_until,
)
from tests.integration.networks import new_namespace
from tests.integration.support import count, requires


class Load:
    """Clients that ask as fast as they are answered, each time on a new connection."""

    def __init__(self, port: int, clients: int = 4, host: str = "127.0.0.1", namespace: str = "") -> None:
        self.answers: list[bytes] = []
        self.refused = 0
        self._going = True
        self._ended = [Deferred.fromCoroutine(self._client(port, host, namespace)) for _ in range(clients)]

    async def _client(self, port: int, host: str, namespace: str) -> None:
        while self._going:
            try:
                self.answers.append(await get(port, host=host, namespace=namespace))
            except OSError:
                self.refused += 1

    async def end(self) -> int:
        """Stop, and tell how many requests failed."""
        self._going = False
        await gatherResults(self._ended)
        return self.refused + sum(b"200 OK" not in answer for answer in self.answers)


class SupervisionTestCase(AgentTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    async def status(self, balancer: LoadBalancer) -> str:
        return (await self.client.listener(balancer.listener_id)).status

    async def until_active(self, balancer: LoadBalancer) -> None:
        async def active() -> bool:
            return await self.status(balancer) == "ACTIVE"

        await wait_until(active, "the listener to be ACTIVE")

    def master(self, balancer: LoadBalancer) -> ProcessIdentity:
        master = self.agent.haproxy(balancer.listener_id)
        assert master is not None
        return master

    async def ended(self, process: ProcessIdentity) -> None:
        await wait_until(lambda: not process.alive, "haproxy to end")

    def listen(self) -> socket.socket:
        """A listening socket of somebody else's."""
        foreign = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(foreign.close)
        return foreign


@requires("haproxy")
class ReloadTests(SupervisionTestCase):
    async def test_A2_conflict(self) -> None:
        """A reload onto an address that somebody else has is a 500 that names it, and no connection is refused."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(), self.new_member())))
        before = self.master(balancer).children()
        port = self.listen().getsockname()[1]
        taken = evolve(balancer, extra_binds=(f"127.0.0.1:{port}",))
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        load = Load(balancer.port)
        for _ in range(3):
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.reload(balancer.listener_id)
            self.assertEqual("Error reloading haproxy", raised.exception.message)
            self.assertEqual(f"cannot bind 127.0.0.1:{port} (Address already in use)", raised.exception.details)
        self.assertEqual(0, await load.end())
        self.assertEqual(before, self.master(balancer).children())
        self.assertEqual("ACTIVE", await self.status(balancer))

    async def test_A2_peers_conflict(self) -> None:
        """So is one whose own address among the peers somebody else has."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        port = self.listen().getsockname()[1]
        peers = ("peers all", f"    peer {peer_name(AMPHORA_ID)} 127.0.0.1:{port}", "    peer other 127.0.0.1:9")
        table = "    stick-table type ip size 10k peers all"
        taken = evolve(balancer, extra_sections=(*peers, "backend table", table))
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        load = Load(balancer.port)
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.reload(balancer.listener_id)
        self.assertEqual(f"cannot bind 127.0.0.1:{port} (Address already in use)", raised.exception.details)
        self.assertEqual(0, await load.end())

    async def test_holder_is_named(self) -> None:
        """Where another listener has the address, a reload names it, also when it has it by a wildcard."""
        holder = LoadBalancer()
        holder = evolve(holder, extra_binds=(f"*:{holder.port + 1}",))
        await self.running(holder)
        balancer = await self.running(LoadBalancer())
        taken = evolve(balancer, extra_binds=(f"127.0.0.1:{holder.port + 1}",))
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.reload(balancer.listener_id)
        self.assertIn(f"listener {holder.listener_id} has it", raised.exception.details)

    async def test_own_addresses_are_no_conflict(self) -> None:
        """What the running worker holds itself, exactly or by a wildcard, hinders no reload."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        for binds in ((f"127.0.0.2:{balancer.port}",), (f"*:{balancer.port + 1}",), ()):
            changed = evolve(balancer, extra_binds=binds)
            await self.client.upload_haproxy(balancer.listener_id, changed.config())
            await self.client.reload(balancer.listener_id)
            self.assertIn(b"200 OK", await get(balancer.port))

    @requires("ipv6")
    async def test_holder_of_an_ipv6_address(self) -> None:
        """An IPv6 address that another listener has is refused as any other is, at a start and at a reload."""
        port = free_port()
        holder = await self.running(LoadBalancer(extra_binds=(f"::1:{port}",)))
        late = LoadBalancer(extra_binds=(f"::1:{port}",))
        await self.client.upload_haproxy(late.listener_id, late.config())
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.start(late.listener_id)
        self.assertIn(f"listener {holder.listener_id} has it", raised.exception.details)
        await self.client.upload_haproxy(late.listener_id, evolve(late, extra_binds=()).config())
        await self.client.start(late.listener_id)
        await self.client.upload_haproxy(late.listener_id, late.config())
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.reload(late.listener_id)
        self.assertIn(f"listener {holder.listener_id} has it", raised.exception.details)

    async def test_worker_that_dies_in_a_reload(self) -> None:
        """A new worker that is killed as soon as it is there is told truthfully; the listener is back in service."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        # Each death that follows on another is answered after a longer pause.
        for _ in range(count(2, 5)):
            master = self.master(balancer)
            before = master.children()
            reloading = Deferred.fromCoroutine(self.client.reload(balancer.listener_id))
            reloading.addErrback(lambda reason: reason.trap(AmphoraFailed))

            def new(master: ProcessIdentity = master, before: list[ProcessIdentity] = before) -> list[ProcessIdentity]:
                return [worker for worker in master.children() if worker not in before]

            for worker in await wait_until(new, "a new worker"):
                worker.send_signal(signal.SIGKILL)
            await reloading
            await wait_until(lambda master=master: self.replaced(balancer, master), "another haproxy")  # type: ignore[misc]
            await self.until_active(balancer)
            self.assertIn(b"200 OK", await get(balancer.port))
            self.assertEqual(2, len(self.agent.all_haproxies()))

    def replaced(self, balancer: LoadBalancer, before: ProcessIdentity) -> bool:
        """Is another master there, and the one from before gone?"""
        return not before.alive and self.agent.haproxy(balancer.listener_id) not in (None, before)

    async def test_hung_worker(self) -> None:
        """A worker that hangs cannot be replaced, which a reload says; when it goes on, it is told as before."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        (worker,) = self.master(balancer).children()
        worker.send_signal(signal.SIGSTOP)
        with self.assertRaises(AmphoraFailed) as raised:
            await self.client.reload(balancer.listener_id)
        self.assertIn("haproxy's worker hangs and cannot be replaced", raised.exception.details)
        worker.send_signal(signal.SIGCONT)
        await self.until_active(balancer)
        self.assertEqual([worker], self.master(balancer).children())
        await self.client.reload(balancer.listener_id)
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_A4_twenty_reloads(self) -> None:
        """
        With one idle client held open over twenty reloads one old worker lingers, which the log tells with its memory;
        neither it nor the agent grows.
        """
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        idle = socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE)
        self.addCleanup(idle.close)
        memory = []
        before = self.haproxies_resident()
        for _ in range(20):
            await self.client.reload(balancer.listener_id)
            agent = ProcessIdentity.of(self.agent.pid)
            assert agent is not None
            memory.append(agent.resident)
        # Workers that have no connection left end by themselves, or are ended after a while.
        await wait_until(lambda: len(self.agent.all_haproxies()) == 3, "all but one old worker to end")
        told = r"1 old haproxy workers still finish connections .* they hold [1-9]\d* MB, .* started \d+ min ago"
        self.assertRegex(self.agent.log, told)
        # A master and a worker were there before: now there is one worker more.
        self.assertLess(self.haproxies_resident(), 2 * before)
        self.assertLess(memory[-1] - memory[4], 4 * 2**20, f"the agent's memory in bytes: {memory}")

    def haproxies_resident(self) -> int:
        return sum(process.resident for process in self.agent.all_haproxies())

    async def test_D5_server_state(self) -> None:
        """A member that is DOWN is never told UP over reloads and restarts, where the configuration asks for it."""
        up, down = self.new_member(), self.new_member()
        listener_id = new_id()
        state = self.agent.base_path / listener_id / "servers-state"
        balancer = LoadBalancer(
            listener_id=listener_id,
            members=(up, down),
            # Only two failed checks make a member DOWN: a worker that began anew would call it UP for a while.
            check="check inter 2s fall 2 rise 2",
            extra_global=(f"server-state-file {state}",),
            extra_defaults=("load-server-state-from-file global",),
        )
        await down.down()
        await self.running(balancer)
        seen: list[str] = []

        async def told() -> str:
            (pool,) = (await self.client.listener(listener_id)).pools
            seen.append(pool.members[down.name])
            return seen[-1]

        async def told_down() -> bool:
            return await told() == "DOWN"

        await wait_until(told_down, "the member to be told down")
        seen.clear()
        for number in range(10):
            if number % 3 == 2:
                await self.client.stop(listener_id)
                await self.client.start(listener_id)
            else:
                await self.client.reload(listener_id)
            await told()
        for _ in range(2):
            master = self.master(balancer)
            master.send_signal(signal.SIGKILL)
            await self.ended(master)
            await self.until_active(balancer)
            await told()
        self.assertEqual({"DOWN"}, set(seen))
        self.assertTrue(state.read_bytes().endswith(b"\n"))
        state.write_bytes(b"garbage")
        await self.client.reload(listener_id)
        self.assertIn(b"200 OK", await get(balancer.port))


@requires("root", "haproxy", "ip", "ipv6")
class FamiliesTests(SupervisionTestCase):
    """In a namespace, which the agent makes."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        self.namespace = new_namespace(self)
        return {"amphora_agent": {"network_namespace": self.namespace}}

    def member_inside(self) -> Member:
        member = Member(new_id(), namespace=self.namespace)
        self._members.append(member)
        member.up()
        return member

    async def test_addresses_of_both_families(self) -> None:
        """
        A load balancer's VIPs of IPv4 and IPv6 are both served over reloads, also those that add and remove one of
        them, and no request fails.
        """
        balancer = LoadBalancer(members=(self.member_inside(), self.member_inside()))
        both = evolve(balancer, extra_binds=(f"::1:{balancer.port}",))
        await self.running(both)
        loads = [Load(balancer.port, 2, host, self.namespace) for host in ("127.0.0.1", "::1")]
        for _ in range(count(4, 20)):
            await self.client.reload(balancer.listener_id)
        self.assertEqual([0, 0], [await load.end() for load in loads])
        load = Load(balancer.port, namespace=self.namespace)
        for changed in (balancer, both, balancer, both):
            await self.client.upload_haproxy(balancer.listener_id, changed.config())
            await self.client.reload(balancer.listener_id)
            if changed is both:
                self.assertIn(b"200 OK", await get(balancer.port, host="::1", namespace=self.namespace))
        self.assertEqual(0, await load.end())


@requires("haproxy")
class RestartTests(SupervisionTestCase):
    async def test_started_again(self) -> None:
        """What should run and died is started again, again and again."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        for _ in range(2):
            before = self.master(balancer)
            before.send_signal(signal.SIGKILL)
            await self.ended(before)
            await self.until_active(balancer)
            self.assertNotEqual(before, self.master(balancer))
            self.assertIn(b"200 OK", await get(balancer.port))
        self.assertIn("haproxy died", self.agent.log)

    async def test_A20_worker_that_dies(self) -> None:
        """A worker that dies takes its master with it, and both are started again (A20)."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        (worker,) = self.master(balancer).children()
        worker.send_signal(signal.SIGKILL)
        await wait_until(lambda: "haproxy died" in self.agent.log, "the death to be noticed")
        await self.until_active(balancer)
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_worker_that_outlives_its_master(self) -> None:
        """A stopped worker, which would hold its addresses for ever, is ended before haproxy is started again."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        master = self.master(balancer)
        (worker,) = master.children()
        worker.send_signal(signal.SIGSTOP)
        master.send_signal(signal.SIGKILL)
        await self.ended(worker)
        await self.until_active(balancer)
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_back_off(self) -> None:
        """What cannot be started is tried again after pauses that grow, is ERROR meanwhile, and comes back then."""
        balancer = await self.running(LoadBalancer())
        master = self.master(balancer)
        for process in (master, *master.children()):
            process.send_signal(signal.SIGKILL)
        taken = ExitStack()

        def take() -> bool:
            try:
                taken.enter_context(socket.create_server(("127.0.0.1", balancer.port)))
            except OSError:
                return False
            return True

        for process in (master, *master.children()):
            await self.ended(process)
        if not await deferToThread(take):
            # It was started again already: then once more, until the port is ours.
            async def taken_in_time() -> bool:
                for process in self.agent.all_haproxies():
                    process.send_signal(signal.SIGKILL)
                return take()

            await wait_until(taken_in_time, "the port to be taken")
        with taken:
            await wait_until(lambda: "started again in 2 s" in self.agent.log, "pauses to grow")
            self.assertEqual("ERROR", await self.status(balancer))
            self.assertIn(f"cannot bind 127.0.0.1:{balancer.port}", self.agent.log)
        await self.until_active(balancer)

    async def test_worker_that_dies_while_starting(self) -> None:
        """A worker that is killed as soon as it is there is told truthfully: not started, or back in service."""
        balancer = LoadBalancer(members=(self.new_member(),))
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        starting = Deferred.fromCoroutine(self.client.start(balancer.listener_id))
        failed: list[Failure] = []
        starting.addErrback(failed.append)

        def workers() -> list[ProcessIdentity]:
            master = self.agent.haproxy(balancer.listener_id)
            return [] if master is None else master.children()

        (worker,) = await wait_until(workers, "a worker")
        worker.send_signal(signal.SIGKILL)
        await starting
        if failed:
            failed[0].trap(AmphoraFailed)
            self.assertEqual("STOPPED", await self.status(balancer))
            self.assertEqual([], self.agent.all_haproxies())
        else:
            await self.until_active(balancer)
            self.assertIn(b"200 OK", await get(balancer.port))

    async def test_trouble_of_the_system(self) -> None:
        """An error of the system in the way of a start, of whatever kind, ends no attempts."""
        balancer = await self.running(LoadBalancer())
        log = self.agent.base_path / balancer.listener_id / "haproxy.log"
        log.unlink()
        log.mkdir()
        self.master(balancer).send_signal(signal.SIGKILL)
        await wait_until(lambda: "started again in" in self.agent.log, "an attempt to have failed")
        log.rmdir()
        await self.until_active(balancer)

    async def test_stop_ends_the_attempts(self) -> None:
        """What is stopped while it is waited for its next start is not started."""
        balancer = await self.running(LoadBalancer())
        foreign = self.listen()
        taken = evolve(balancer, port=foreign.getsockname()[1])
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        (self.agent.base_path / balancer.listener_id / "running.cfg").unlink()
        await self.agent.start()
        await wait_until(lambda: "started again in" in self.agent.log, "an attempt to be waited for")
        with self.assertRaises(AmphoraFailed):
            await self.client.stop(balancer.listener_id)
        self.assertEqual("STOPPED", await self.status(balancer))
        self.assertEqual([], self.agent.all_haproxies())

    async def test_kept_configuration(self) -> None:
        """When an uploaded configuration does not start after a reboot, the one from before does; that is ERROR."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        taken = evolve(balancer, extra_binds=(f"127.0.0.1:{self.listen().getsockname()[1]}",))
        await self.client.upload_haproxy(balancer.listener_id, taken.config())
        await self.agent.end(signal.SIGKILL)
        for process in self.agent.all_haproxies():
            process.send_signal(signal.SIGKILL)
        await wait_until(lambda: not self.agent.all_haproxies(), "haproxies to end")
        await self.agent.start()
        await wait_until(lambda: "haproxy runs the one from before" in self.agent.log, "what ran before to run")
        self.assertIn(b"200 OK", await get(balancer.port))
        self.assertEqual("ERROR", await self.status(balancer))
        self.assertEqual(taken.config(), await self.client.haproxy(balancer.listener_id))
        # The next agent knows, too.
        await self.agent.end()
        await self.agent.start()
        self.assertEqual("ERROR", await self.status(balancer))
        await self.client.upload_haproxy(balancer.listener_id, balancer.config())
        await self.client.reload(balancer.listener_id)
        self.assertEqual("ACTIVE", await self.status(balancer))


@requires("haproxy")
class StopTests(SupervisionTestCase):
    async def test_stopped_processes(self) -> None:
        """A haproxy that hears no signal is ended all the same, and so is one whose master waits for a deaf worker."""
        stop, delete = self.client.stop, self.client.delete
        for action, deaf in ((stop, "worker"), (delete, "both"), (stop, "both"), (delete, "master"))[: count(2, 4)]:
            balancer = await self.running(LoadBalancer())
            master = self.master(balancer)
            workers = master.children()
            for process in {"master": [master], "worker": workers, "both": [master, *workers]}[deaf]:
                process.send_signal(signal.SIGSTOP)
            await action(balancer.listener_id)
            self.assertEqual([], self.agent.all_haproxies())

    async def test_many_connections(self) -> None:
        """A thousand open connections do not keep it alive."""
        balancer = await self.running(LoadBalancer(mode="tcp", members=(self.new_member(),)))
        with ExitStack() as connections:
            for _ in range(1000):
                connections.enter_context(socket.create_connection(("127.0.0.1", balancer.port), timeout=PATIENCE))
            await self.client.delete(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())


class FullDiskTestCase(SupervisionTestCase):
    """The base path is on a small file system."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.prepare_disk()
        await self.agent.start()

    def prepare_disk(self) -> None:
        # First in, last out: the agent and its haproxies have ended by then.
        self.addCleanup(self.unmount)
        AgentTestCase.setUp(self)
        self.agent.base_path.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=60", "tmpfs", str(self.agent.base_path)], check=True
        )

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.agent.base_path)], check=True)
        shutil.rmtree(self.directory)

    def fill(self) -> list[Path]:
        """Leave no room, and no place for a file."""
        made = self.fill_blocks()
        with contextlib.suppress(OSError):
            for number in range(200):
                path = self.agent.base_path / f"place{number}"
                path.touch()
                made.append(path)
        return made

    def fill_blocks(self) -> list[Path]:
        """Leave no room."""
        made = []
        # The last page, too: the file system's count of them is not exact.
        for size in (100_000, 1, 1):
            with contextlib.suppress(OSError):
                while True:
                    path = self.agent.base_path / f"fill-{new_id()}"
                    made.append(path)
                    path.write_bytes(b"x" * size)
        return made


@requires("root", "haproxy")
class FullDiskTests(FullDiskTestCase):
    """The disk fills up (E2)."""

    async def test_full(self) -> None:
        """Nothing is accepted, nothing is lost, haproxy goes on; stop and delete work; room brings all of it back."""
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        doomed = await self.running(LoadBalancer())
        filling = self.fill()
        other = evolve(balancer, extra_binds=(f"127.0.0.2:{balancer.port}",))
        for attempt in (
            lambda: self.client.upload_haproxy(balancer.listener_id, other.config()),
            lambda: self.client.upload_haproxy(new_id(), LoadBalancer().config()),
            lambda: self.client.reload(balancer.listener_id),
        ):
            with self.assertRaises(AmphoraFailed) as raised:
                await attempt()
            self.assertIn("No space left on device", raised.exception.details)
        self.assertIn(b"200 OK", await get(balancer.port))
        self.assertEqual("ACTIVE", await self.status(balancer))
        self.assertEqual(balancer.config(), await self.client.haproxy(balancer.listener_id))
        await self.client.delete(doomed.listener_id)
        self.assertEqual(2, len(self.agent.all_haproxies()))
        for path in filling:
            path.unlink(missing_ok=True)
        await self.client.upload_haproxy(balancer.listener_id, other.config())
        await self.client.reload(balancer.listener_id)
        self.assertIn(b"200 OK", await get(balancer.port))

    async def test_stop(self) -> None:
        """A full disk keeps no haproxy running that was told to stop."""
        balancer = await self.running(LoadBalancer())
        self.fill()
        with contextlib.suppress(AmphoraFailed):
            await self.client.stop(balancer.listener_id)
        self.assertEqual([], self.agent.all_haproxies())
        self.assertEqual("STOPPED", await self.status(balancer))
