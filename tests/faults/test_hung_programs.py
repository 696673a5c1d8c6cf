"""Programs, and a kernel, that hang or are taken away: nobody waits for them long, and nothing else suffers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from amphora.client import AmphoraFailed
from tests.faults.hasty import StuckProgram, hurry
from tests.faults.inside import InsideTestCase
from tests.faults.watched import FaultTestCase
from tests.integration.api_1_0 import call
from tests.integration.harness import Gate, LoadBalancer, new_id, wait_until
from tests.integration.lvs import LvsText
from tests.integration.networks import delete_namespace, new_suffix
from tests.integration.pair import run
from tests.integration.support import requires
from tests.integration.test_nftables import tables


def bind(there: Path, to: Path) -> None:
    """Give what is there another name."""
    to.touch()
    run("mount", "--bind", str(there), str(to))


@requires("haproxy")
class CheckTests(FaultTestCase):
    """`haproxy -c` and `keepalived -t` never come to an end."""

    async def start(self, *controllers: str) -> None:
        programs = self.directory / "programs"
        self.keepalived = StuckProgram.create(programs, "keepalived")
        self.addCleanup(self.keepalived.end)
        hurry(
            self.agent,
            self.directory / "hurry",
            {
                "amphora.loadbalancer.haproxy:CHECK_TIMEOUT": 2.0,
                "amphora.keepalived.process:CHECK_TIMEOUT": 2.0,
                "amphora.tap:_KEEPALIVED": str(self.keepalived.path),
            },
        )
        await super().start(*controllers)

    async def test_checks(self) -> None:
        """
        Uploads of haproxy's, VRRP's and UDP's configurations, and a reload, that cannot be judged are refused in time:
        nothing is changed, no process is left, and no heartbeat is withheld.
        """
        path = self.directory / "words"
        path.write_bytes(b"/never\n")
        listener_id = self.balancer.listener_id
        slow = evolve(self.balancer, extra_frontend=(f"http-request deny if {{ path -f {path} }}",))
        await self.client.upload_haproxy(listener_id, slow.config())
        await self.client.reload(listener_id)
        await wait_until(lambda: len(self.agent.all_haproxies()) == 2, "the old worker to end")
        processes = self.agent.all_haproxies()
        path.unlink()
        Gate(path)
        self.keepalived.hang()
        udp = LvsText()
        async with self.watch():
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.upload_haproxy(listener_id, evolve(slow, extra_binds=("127.0.0.1:1",)).config())
            self.assertIn("s and was killed", raised.exception.details)
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.reload(listener_id)
            self.assertIn("s and was killed", raised.exception.details)
            # It is no other listener's business.
            await self.running(LoadBalancer())
            with self.assertRaises(AmphoraFailed) as raised:
                await self.client.upload_vrrp(b"vrrp_instance one {\n}\n")
            self.assertIn("s and was killed", raised.exception.details)
            path_of_udp = f"/listeners/{new_id()}/{udp.listener_id}/udp_listener"
            answer = await call(self.raw_client(), "PUT", path_of_udp, udp.text())
            self.assertEqual(500, answer.status)
            self.assertIn("s and was killed", str(answer.json))
        self.assertEqual(slow.config(), await self.client.haproxy(listener_id))
        self.assertEqual(processes, [one for one in self.agent.all_haproxies() if one in processes])
        self.assertEqual(len(processes) + 2, len(self.agent.all_haproxies()))
        self.assertEqual([], self.keepalived.left())


@requires("root", "haproxy", "ip", "nft", "mount")
class NetworkTests(InsideTestCase):
    async def start(self, *controllers: str) -> None:
        programs = self.directory / "programs"
        self.nft = StuckProgram.create(programs, "nft")
        self.addCleanup(self.nft.end)
        hurry(
            self.agent,
            self.directory / "hurry",
            {
                "amphora.network.nft:_TIMEOUT": 1.0,
                "amphora.loadbalancer.haproxy:CHECK_TIMEOUT": 2.0,
                "amphora.network.inside:inside.__kwdefaults__['patience']": 2.0,
            },
            programs=programs,
        )
        await super().start(*controllers)

    async def test_nft(self) -> None:
        """Plugs, and the next agent, do without an nft that never ends; what it was to do comes later."""
        self.nft.hang()
        async with self.watch(spares_agent=False):
            for _ in range(2):
                await self.client.plug_network(self.cable().mac)
            self.assertIn("cannot reach their members, which is tried again: ip did not end within 1 s", self.agent.log)
            await self.agent.end(signal.SIGKILL)
            await self.agent.start()
            self.nft.go_on()
            await wait_until(lambda: tables(self.namespace), "the translation to be made")
        self.assertEqual([], self.nft.left())

    async def test_namespace(self) -> None:
        """
        A namespace that is taken away, and one that whoever enters hangs in, are told in time, to whoever asks for
        something in there.  Nobody else is held up, and all is as before when it is back.
        """
        cable = self.cable()
        handle, other = (Path("/run/netns") / name for name in (self.namespace, f"other-{new_suffix()}"))
        bind(handle, other)
        self.addCleanup(delete_namespace, other.name)
        async with self.watch():
            for hangs in (False, True):
                run("umount", str(handle))
                handle.unlink()
                if hangs:
                    # Opening it to read takes until somebody writes.
                    os.mkfifo(handle)
                refusals = [self.refused(self.client.plug_network(cable.mac)) for _ in range(2)]
                refusals += [self.refused(self.client.interface("192.0.2.1")) for _ in range(12)]
                refusals.append(self.refused(self.client.reload(self.balancer.listener_id)))
                self.assertNotIn("", await gatherResults(refusals))
                await wait_until(self.blind, "details to tell of no networks")
                self.assertEqual("ACTIVE", (await self.client.listener(self.balancer.listener_id)).status)
                if hangs:
                    os.close(os.open(handle, os.O_RDWR))
                    handle.unlink()
                bind(other, handle)
                await self.client.reload(self.balancer.listener_id)
            await self.client.plug_network(cable.mac)

    async def blind(self) -> bool:
        return not (await self.client.details()).networks

    def refused(self, asking: Any) -> Deferred[str]:
        """What a question that cannot be answered is answered with."""

        async def ask() -> str:
            with self.assertRaises(AmphoraFailed) as raised:
                await asking
            return str(raised.exception)

        return Deferred.fromCoroutine(ask())
