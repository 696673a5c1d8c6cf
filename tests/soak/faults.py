"""What befalls the amphora, one thing after another, in rounds of everything: the agent first, the rest by chance."""

from __future__ import annotations

import os
import random
import signal
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from amphora.process import ProcessIdentity
from tests.integration.harness import AMPHORA_ID, Gate, new_id, wait_until
from tests.soak.calls import Calls, Modern
from tests.soak.truth import Ears
from tests.soak.windows import AGENT, CONTROLLERS, DISK, KEEPALIVED, Windows
from tests.soak.world import Balancer, World

NOWHERE: Final = "203.0.113.77:5555"
"""A controller that there is no route to."""

ENDS_AGENT: Final = frozenset(("agent killed", "agent restarted"))


@define(eq=False)
class Faults:
    """Each ends only when all is well again."""

    world: World
    windows: Windows
    calls: Calls
    ears: Ears
    chance: random.Random
    clock: Any
    number: Counter[str] = field(init=False, factory=Counter)
    recovered: dict[str, list[float]] = field(init=False, factory=dict)
    """Seconds from a fault's end until everything was served, heard and answered, by kind."""
    broken: list[str] = field(init=False, factory=list)
    spares_agent: bool = field(init=False, default=False)
    """Whether no agent is ended any more, so that one can be seen for long."""
    going: bool = field(init=False, default=True)
    _plan: list[str] = field(init=False, factory=list)
    """What is left of this round, the next one last."""

    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "agent killed": self.kill_agent,
            "agent restarted": self.restart_agent,
            "haproxy killed": self.kill_haproxy,
            "haproxy's worker crashed": self.crash_worker,
            "haproxy hung": self.hang_haproxy,
            "keepalived killed": self.kill_keepalived,
            "keepalived hung": self.hang_keepalived,
            "disk full": self.fill_disk,
            "controllers closed": self.close_controllers,
            "controllers moved": self.move_controllers,
            "no route to a controller": self.lose_route,
            "session keeper killed": self.kill_keeper,
            "slow check of a configuration": self.slow_checks,
            "clients leave in the middle": self.leave_in_the_middle,
        }

    async def run(self, pause: float) -> None:
        """Until it is told to stop."""
        while self.going:
            await deferLater(self.clock, pause * self.chance.uniform(0.7, 1.3))
            if self.going:
                await self.befall(self._next())

    def _next(self) -> str:
        if not self._plan:
            self._plan = list(self.kinds())
            self.chance.shuffle(self._plan)
            # A short run, which soon spares the agent, has to end it once as well.
            self._plan.sort(key=ENDS_AGENT.__contains__)
        kind = self._plan.pop()
        return self._next() if self.spares_agent and kind in ENDS_AGENT else kind

    async def befall(self, kind: str) -> None:
        """One fault, and the time until all is well again."""
        self.number[kind] += 1
        try:
            await self.kinds()[kind]()
            ended = self.clock.seconds()
            await self._well()
            self.recovered.setdefault(kind, []).append(self.clock.seconds() - ended)
        except Exception as error:
            self.broken.append(f"{self.clock.seconds():.1f} after {kind}: {error!r}")

    async def _well(self) -> None:
        """Wait until each target has served, heartbeats came and the API answered, anew."""
        served = {target.name: target.served for target in self.world.targets()}
        heard = self.ears.number

        def not_yet() -> list[str]:
            return [target.name for target in self.world.targets() if target.served <= served[target.name]]

        try:
            await wait_until(lambda: not not_yet(), "everybody to be served")
        except AssertionError as error:
            raise AssertionError(f"{error}: {not_yet()}") from None
        await wait_until(lambda: self.ears.number >= heard + 2, "heartbeats")
        await self.calls.done("info", self.world.asker.info)

    def _victim(self) -> Balancer:
        return self.chance.choice(self.world.balancers)

    async def _rest(self, least: float, most: float) -> None:
        await deferLater(self.clock, self.chance.uniform(least, most))

    async def kill_agent(self) -> None:
        with self.windows.during("agent killed", AGENT):
            await self.world.end_agent(signal.SIGKILL)
            await self.world.start_agent()

    async def restart_agent(self) -> None:
        with self.windows.during("agent restarted", AGENT):
            await self.world.end_agent()
            await self.world.start_agent()

    async def kill_haproxy(self) -> None:
        balancer = self._victim()
        master = self.world.agent.haproxy(balancer.instance_id)
        await self._strike("haproxy killed", balancer, [master] if master else [], signal.SIGKILL)

    async def crash_worker(self) -> None:
        balancer = self._victim()
        await self._strike("haproxy's worker crashed", balancer, self.world.workers(balancer)[-1:], signal.SIGSEGV)

    async def _strike(
        self, kind: str, balancer: Balancer, processes: Sequence[ProcessIdentity], number: signal.Signals
    ) -> None:
        with self.windows.during(kind, balancer.instance_id):
            for process in processes:
                process.send_signal(number)
            await self._served_again(balancer)

    async def _served_again(self, balancer: Balancer) -> None:
        """Some served one may have been under way before: so wait for a third."""
        served = {target.name: target.served for target in balancer.targets}

        def again() -> bool:
            return all(target.served >= served[target.name] + 3 or target.paused for target in balancer.targets)

        await wait_until(again, f"{balancer.name} to serve again")

    async def hang_haproxy(self) -> None:
        balancer = self._victim()
        with self.windows.during("haproxy hung", balancer.instance_id):
            processes = self.world.haproxies(balancer)
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            await self._rest(3, 8)
            for process in processes:
                process.send_signal(signal.SIGCONT)
            await self._served_again(balancer)

    async def kill_keepalived(self) -> None:
        with self.windows.during("keepalived killed", KEEPALIVED, grace=10):
            for process in self.world.vrrp_keepaliveds()[:1]:
                process.send_signal(signal.SIGKILL)
            await wait_until(lambda: len(self.world.vrrp_keepaliveds()) >= 2, "another keepalived")
            await wait_until(self.world.vrrp.side.holds, "the VIP")

    async def hang_keepalived(self) -> None:
        with self.windows.during("keepalived hung", KEEPALIVED, grace=10):
            processes = self.world.vrrp_keepaliveds()
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            await self._rest(4, 12)
            for process in processes:
                process.send_signal(signal.SIGCONT)
            await wait_until(self.world.vrrp.side.holds, "the VIP")

    async def fill_disk(self) -> None:
        with self.windows.during("disk full", DISK):
            filler = self.world.base_path / "filler"
            await deferToThread(_fill, filler)
            try:
                await self._rest(3, 8)
            finally:
                filler.unlink()

    async def close_controllers(self) -> None:
        with self.windows.during("controllers closed", CONTROLLERS):
            ports = [controller.port for controller in self.world.controllers]
            for controller in self.world.controllers:
                await maybeDeferred(controller.stopService)
            await self._rest(3, 8)
            self.world.controllers[:] = [self.world.new_controller(port) for port in ports]

    async def move_controllers(self) -> None:
        old = list(self.world.controllers)
        with self.windows.during("controllers moved", CONTROLLERS):
            self.world.controllers[:] = [self.world.new_controller(), self.world.new_controller()]
            await self._tell(self.world.entries())
            heard = self.ears.number
            await wait_until(lambda: self.ears.number >= heard + 2, "the new controllers to hear")
        for controller in old:
            await maybeDeferred(controller.stopService)

    async def lose_route(self) -> None:
        with self.windows.during("no route to a controller", CONTROLLERS):
            await self._tell(f"{NOWHERE}, {self.world.entries()}")
            await self._rest(4, 8)
            await self._tell(self.world.entries())

    async def _tell(self, controllers: str) -> None:
        self.world.agent.options["health_manager"]["controller_ip_port_list"] = controllers
        put = Modern(self.world.raw)
        content = self.world.agent.config().encode()
        await self.calls.done("1.0 PUT config", lambda: put("PUT", "/config", content))

    async def kill_keeper(self) -> None:
        with self.windows.during("session keeper killed"):
            for process in self.world.agent.keepers():
                process.send_signal(signal.SIGKILL)

    async def slow_checks(self) -> None:
        """haproxy has to wait for a file that a new load balancer's configuration names."""
        identity, gate = new_id(), Gate(self.world.directory / f"gate-{self.number['slow check of a configuration']}")
        slow = self.world.new_part(listener_id=identity, extra_frontend=(gate.rule,))
        client = self.world.new_client()
        checking = Deferred.fromCoroutine(
            self.calls.done("upload that waits", lambda: client.upload_haproxy(identity, slow.config()))
        )
        await self._rest(4, 8)
        await gate.open(for_good=True)
        await checking
        await self.calls.done("delete", lambda: client.delete(identity))
        await client.close()

    async def leave_in_the_middle(self) -> None:
        """Some begin to upload what would replace what runs, and are gone."""
        for _ in range(5):
            await deferToThread(self._leave, self._victim(), self.chance.random())

    def _leave(self, balancer: Balancer, share: float) -> None:
        content = balancer.config()
        path = f"/v0.1/listeners/{AMPHORA_ID}/{balancer.instance_id}/haproxy"
        if balancer.version == "1.0":
            path = f"/1.0/loadbalancer/{AMPHORA_ID}/{balancer.instance_id}/haproxy"
        head = f"PUT {path} HTTP/1.1\r\nHost: amphora\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        part = content[: int(share * len(content) * 0.9)]
        try:
            connection: ssl.SSLSocket = self.world.raw.connect()
        except OSError:
            return
        with connection:
            connection.sendall(head + part)


def _fill(filler: os.PathLike[str]) -> None:
    """Take all that is left.  Blocks."""
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass
