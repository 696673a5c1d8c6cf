"""Two controllers that never rest: one speaks v0.1, the other 1.0.  Each looks after load balancers of its own."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from attrs import define, field
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from amphora.client import AmphoraError, AmphoraFailed, ClientError, NotFound, Refused
from amphora.network.inside import inside
from amphora.testing.pki import Part
from tests.integration.harness import AMPHORA_ID, LoadBalancer, get, new_id, wait_until
from tests.integration.lvs import LvsText
from tests.integration.pair import PASSWORD, VIRTUAL_ADDRESS
from tests.soak.calls import Calls, Modern
from tests.soak.traffic import Target
from tests.soak.windows import KEEPALIVED, Windows
from tests.soak.world import PEM, Balancer, World

Deed = Callable[[], Awaitable[object]]

_BAD: Final = b"\nthis is no line of a configuration\n"


@define(eq=False)
class Controller(ABC):
    """What both have in common: deeds in an order of chance, with a pause after each."""

    world: World
    windows: Windows
    calls: Calls
    chance: random.Random
    clock: Any
    reloads: Counter[str] = field(init=False, factory=Counter)
    broken: list[str] = field(init=False, factory=list)
    """What did not happen as it had to, beside calls that failed."""
    going: bool = field(init=False, default=True)

    @abstractmethod
    def deeds(self) -> dict[Deed, int]:
        """What it does, and how often in comparison."""

    async def run(self, pause: float) -> None:
        """Until it is told to stop."""
        while self.going:
            deeds = self.deeds()
            [deed] = self.chance.choices(list(deeds), list(deeds.values()))
            try:
                await deed()
            except Exception as error:
                self.broken.append(f"{self.clock.seconds():.1f} {getattr(deed, '__name__', deed)}: {error!r}")
            await deferLater(self.clock, pause * self.chance.uniform(0.5, 1.5))

    async def serves(self, balancer: Balancer) -> None:
        """Wait until each of its listeners answers somebody."""

        async def answers(part: LoadBalancer) -> bool:
            try:
                return b" 200 OK" in await get(part.port, namespace=self.world.amphora.name)
            except OSError:
                return False

        # Only what clients count may be held against what heartbeats tell.
        own = [each for each in balancer.targets if each.namespace == self.world.amphora.name]
        for target in own:
            probe = partial(deferToThread, inside, target.namespace, target.probe)
            await wait_until(probe, f"{target.name} to serve")
        if not own:
            for part in balancer.parts:
                await wait_until(partial(answers, part), f"{balancer.name} to serve")

    @contextmanager
    def nobody_asks(self, targets: list[Target]) -> Iterator[None]:
        """No new clients come while the block runs."""
        for target in targets:
            target.paused = True
        try:
            yield
        finally:
            for target in targets:
                target.paused = False

    async def pause(self, balancer: Balancer, stop: Deed, start: Deed) -> None:
        """Stop and start it, while no client is there."""
        with self.nobody_asks(balancer.targets):
            await wait_until(lambda: not any(each.in_flight for each in balancer.targets), "clients to have left")
            with self.windows.during("stopped by its controller", balancer.instance_id):
                await stop()
                await start()
                await self.serves(balancer)

    def mine(self, version: str) -> list[Balancer]:
        return [each for each in self.world.balancers if each.version == version]

    async def flip(self, balancers: list[Balancer]) -> None:
        flapping = [each for balancer in balancers for each in balancer.flapping]
        if flapping:
            await self.chance.choice(flapping).flip()


@define(eq=False)
class Old(Controller):
    """Speaks v0.1."""

    plugs: int = field(init=False, default=0)

    async def set_up(self) -> None:
        """Bring its load balancers and keepalived up."""
        for balancer in self.mine("v0.1"):
            await self._create(balancer)
            balancer.lives = True
        client, vrrp = self.world.client, self.world.vrrp
        await client.upload_vrrp(vrrp.text())
        await client.set_topology("ACTIVE-STANDBY", role="ACTIVE", ha_ip=VIRTUAL_ADDRESS, secret=PASSWORD)
        await wait_until(vrrp.side.holds, "the VIP")

    async def _create(self, balancer: Balancer) -> None:
        client, listener = self.world.client, balancer.instance_id
        upload = partial(client.upload_haproxy, listener, balancer.config())
        if balancer.pem:
            await self.calls.done("upload without its certificate", upload, listener, refused=Refused)
            put = partial(client.put_certificate, listener, PEM, balancer.pem)
            await self.calls.done("PUT certificate", put, listener)
        await self.calls.done("upload", upload, listener)
        await self.calls.done("start", partial(client.start, listener), listener)
        await self.serves(balancer)

    def deeds(self) -> dict[Deed, int]:
        return {
            self.ask: 6,
            self.read: 4,
            self.reload: 8,
            self.upload_bad: 3,
            self.rotate: 3,
            self.restart: 1,
            self.live_and_die: 2,
            self.flap: 3,
            self.rotate_server: 1,
            self.reload_vrrp: 1,
        }

    async def ask(self) -> None:
        client, vip = self.world.client, VIRTUAL_ADDRESS
        await self.calls.done("details", client.details)
        await self.calls.done("topology", client.topology)
        await self.calls.done("listeners", client.listeners)
        await self.calls.done("interface", partial(client.interface, self.world.vrrp.side.address))
        if self.windows.why([KEEPALIVED], self.clock.seconds() - 1, self.clock.seconds()) is None:
            await self.calls.done("interface", partial(client.interface, vip), KEEPALIVED)
        await self.calls.done(
            "interface that is not there", partial(client.interface, "198.51.100.77"), refused=NotFound
        )

    async def read(self) -> None:
        """What was uploaded is there, byte for byte, and its listener is known."""
        balancer = self.chance.choice(self.mine("v0.1"))
        listener = balancer.instance_id
        content = await self.calls.done("GET haproxy", partial(self.world.client.haproxy, listener), listener)
        if content is not None and content != balancer.config():
            self.broken.append(f"{self.clock.seconds():.1f} {balancer.name}: another configuration than was uploaded")
        began = self.clock.seconds()
        told = await self.calls.done("listener", partial(self.world.client.listener, listener), listener)
        unsettled = self.windows.why([listener], began, self.clock.seconds())
        if told is not None and told.status != "ACTIVE" and unsettled is None:
            self.broken.append(f"{self.clock.seconds():.1f} {balancer.name}: is told to be {told.status}")

    async def reload(self) -> None:
        await self._reload(self.chance.choice(self.mine("v0.1")))

    async def _reload(self, balancer: Balancer) -> None:
        client, listener = self.world.client, balancer.instance_id
        balancer.revision += 1
        await self.calls.done("upload", partial(client.upload_haproxy, listener, balancer.config()), listener)
        await self.calls.done("reload", partial(client.reload, listener), listener)
        self.reloads[balancer.name] += 1

    async def upload_bad(self) -> None:
        client, balancer = self.world.client, self.chance.choice(self.mine("v0.1"))
        bad = partial(client.upload_haproxy, balancer.instance_id, balancer.config() + _BAD)
        await self.calls.done("bad upload", bad, balancer.instance_id, refused=Refused)

    async def rotate(self) -> None:
        """Another certificate for a TLS listener, a broken one, and one that nobody uses, which goes again."""
        [balancer] = [each for each in self.mine("v0.1") if each.pem]
        client, listener = self.world.client, balancer.instance_id
        balancer.pem = await deferToThread(self.world.new_pem)
        await self.calls.done("PUT certificate", partial(client.put_certificate, listener, PEM, balancer.pem), listener)
        bad = partial(client.put_certificate, listener, PEM, balancer.pem[:200])
        await self.calls.done("bad certificate", bad, listener, refused=Refused)
        await self.calls.done("GET certificate", partial(client.certificate_md5, listener, PEM), listener)
        other = "other.example.com.pem"
        await self.calls.done(
            "PUT certificate", partial(client.put_certificate, listener, other, balancer.pem), listener
        )
        delete = partial(client.delete_certificate, listener, other)
        await self.calls.done("DELETE certificate", delete, listener, repeated=NotFound)
        await self._reload(balancer)

    async def restart(self) -> None:
        client = self.world.client
        balancer = self.chance.choice([each for each in self.mine("v0.1") if not any(t.stays for t in each.targets)])
        listener = balancer.instance_id
        stop = partial(self.calls.done, "stop", partial(client.stop, listener), listener, repeated=AmphoraFailed)
        start = partial(self.calls.done, "start", partial(client.start, listener), listener)
        await self.pause(balancer, stop, start)

    async def live_and_die(self) -> None:
        """A load balancer's whole life."""
        world, client, listener = self.world, self.world.client, new_id()
        part = world.new_part(world.balancers[0].parts[0].members[0], listener_id=listener)
        balancer = Balancer("short-lived", "v0.1", listener, [part])
        await self._create(balancer)
        await self._reload(balancer)
        await self.calls.done("stop", partial(client.stop, listener), listener, repeated=AmphoraFailed)
        await self.calls.done("start", partial(client.start, listener), listener)
        await self.calls.done("delete", partial(client.delete, listener), listener, repeated=NotFound)

    async def flap(self) -> None:
        await self.flip(self.mine("v0.1"))

    async def rotate_server(self) -> None:
        """A new certificate of the amphora's own."""
        issued = await deferToThread(self.world.pki.authority.issue, AMPHORA_ID)
        pem = issued.pem(Part.CERTIFICATE, Part.KEY)
        await self.calls.done("PUT server certificate", partial(self.world.client.replace_server_certificate, pem))

    async def reload_vrrp(self) -> None:
        """The same text again, which moves nothing."""
        client = self.world.client
        await self.calls.done("upload vrrp", partial(client.upload_vrrp, self.world.vrrp.text()), KEEPALIVED)
        await self.calls.done("reload vrrp", partial(client.vrrp, "reload"), KEEPALIVED)


@define(eq=False)
class New(Controller):
    """Speaks 1.0."""

    modern: Modern = field(init=False)
    _networks: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.modern = Modern(self.world.raw)

    async def call(
        self,
        kind: str,
        method: str,
        path: str,
        *about: str,
        body: bytes | None = None,
        refused: type[ClientError] | None = None,
    ) -> Any:
        answer = await self.calls.done(f"1.0 {kind}", partial(self.modern, method, path, body), *about, refused=refused)
        return None if answer is None else answer.json

    async def set_up(self) -> None:
        for balancer in self.mine("1.0"):
            await self._create(balancer)
            balancer.lives = True
        await self.upload_udp(self.world.udp)
        await self.act(self.world.udp.listener_id, "start")

    async def _create(self, balancer: Balancer) -> None:
        path = f"/loadbalancer/{balancer.instance_id}"
        if balancer.pem:
            await self.call(
                "PUT certificate", "PUT", f"{path}/certificates/{PEM}", balancer.instance_id, body=balancer.pem
            )
        await self.upload(balancer)
        await self.act(balancer.instance_id, "start")
        await self.serves(balancer)

    async def upload(self, balancer: Balancer, more: bytes = b"", refused: type[ClientError] | None = None) -> None:
        path = f"/loadbalancer/{AMPHORA_ID}/{balancer.instance_id}/haproxy"
        kind = "upload" if refused is None else "bad upload"
        body = balancer.config() + more
        await self.call(kind, "PUT", path, balancer.instance_id, body=body, refused=refused)

    async def act(self, identity: str, action: str) -> None:
        await self.call(action, "PUT", f"/loadbalancer/{identity}/{action}", identity)

    async def upload_udp(self, listener: LvsText) -> None:
        path = f"/listeners/{AMPHORA_ID}/{listener.listener_id}/udp_listener"
        await self.call("upload UDP", "PUT", path, listener.listener_id, body=listener.text())

    def deeds(self) -> dict[Deed, int]:
        return {
            self.ask: 6,
            self.reload: 6,
            self.upload_bad: 3,
            self.rotate: 3,
            self.restart: 1,
            self.live_and_die: 2,
            self.flap: 3,
            self.plug: 2,
            self.configure: 1,
            self.reload_udp: 2,
            self.udp_lives_and_dies: 1,
        }

    async def ask(self) -> None:
        [balancer] = self.mine("1.0")
        for path in ("info", "details", "listeners"):
            await self.call(path, "GET", f"/{path}")
        await self.call("interface", "GET", f"/interface/{self.world.vrrp.side.address}")
        path = f"/loadbalancer/{balancer.instance_id}/certificates/{PEM}"
        await self.call("GET certificate", "GET", path, balancer.instance_id)
        await self.call("unknown", "GET", f"/loadbalancer/{new_id()}/haproxy", refused=AmphoraError)

    async def reload(self) -> None:
        [balancer] = self.mine("1.0")
        balancer.revision += 1
        await self.upload(balancer)
        await self.act(balancer.instance_id, "reload")
        self.reloads[balancer.name] += 1

    async def upload_bad(self) -> None:
        [balancer] = self.mine("1.0")
        await self.upload(balancer, _BAD, refused=AmphoraError)

    async def rotate(self) -> None:
        [balancer] = self.mine("1.0")
        balancer.pem = await deferToThread(self.world.new_pem)
        path = f"/loadbalancer/{balancer.instance_id}/certificates"
        for name in (PEM, "other.pem"):
            await self.call("PUT certificate", "PUT", f"{path}/{name}", balancer.instance_id, body=balancer.pem)
        await self.call("DELETE certificate", "DELETE", f"{path}/other.pem", balancer.instance_id)
        await self.reload()

    async def restart(self) -> None:
        [balancer] = self.mine("1.0")
        stop, start = (partial(self.act, balancer.instance_id, action) for action in ("stop", "start"))
        await self.pause(balancer, stop, start)

    async def live_and_die(self) -> None:
        world = self.world
        part = world.new_part(world.balancers[-1].parts[2].members[0])
        balancer = Balancer("short-lived", "1.0", new_id(), [part])
        await self._create(balancer)
        await self.act(balancer.instance_id, "reload")
        self.reloads[balancer.name] += 1
        await self.call("delete", "DELETE", f"/listeners/{balancer.instance_id}", balancer.instance_id)

    async def flap(self) -> None:
        await self.flip(self.mine("1.0"))

    async def plug(self) -> None:
        """A network for members comes, and its port is taken away again."""
        self._networks += 1
        third = 1 + self._networks % 250
        port = await deferToThread(self.world.lab.port)
        address = {"ip_address": f"198.18.{third}.5", "subnet_cidr": f"198.18.{third}.0/24", "gateway": None}
        body = {
            "mac_address": port.mac,
            "fixed_ips": [{**address, "host_routes": []}],
            "mtu": 1450,
            "is_sriov": False,
        }
        await self.call("plug network", "POST", "/plug/network", body=json.dumps(body).encode())
        await self.call("interface", "GET", f"/interface/{address['ip_address']}")
        await deferToThread(self.world.lab.switch.ip, "link", "delete", port.cable)

    async def configure(self) -> None:
        """The whole configuration again, with more or less to say."""
        debug = self.chance.random() < 0.3
        self.world.agent.options["DEFAULT"] = {"use_syslog": False, "debug": debug}
        await self.call("PUT config", "PUT", "/config", body=self.world.agent.config().encode())

    async def reload_udp(self) -> None:
        """The same text again."""
        await self.upload_udp(self.world.udp)
        await self.act(self.world.udp.listener_id, "reload")

    async def udp_lives_and_dies(self) -> None:
        listener = self.world.new_udp()
        await self.upload_udp(listener)
        await self.act(listener.listener_id, "start")
        await self.act(listener.listener_id, "stop")
        await self.call("delete", "DELETE", f"/listeners/{listener.listener_id}")
