"""What heartbeats hear of UDP and SCTP listeners that run."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from amphora.blocking import InThreads
from amphora.lvs.sample import LvsSample
from amphora.lvs.samples import LvsSamples
from amphora.sample import Answer, ListenerState
from tests.integration.harness import LoadBalancer, new_id, wait_until
from tests.integration.lvs import EVERYTHING_FOR_LVS, LvsText
from tests.integration.networks import new_namespace
from tests.integration.pair import end_keepaliveds
from tests.integration.support import requires
from tests.integration.test_heartbeats import HeartbeatTestCase
from tests.integration.test_lvs import LvsTestCase


@requires(*EVERYTHING_FOR_LVS)
class TellingTests(LvsTestCase):
    """The real keepalived, for which this kernel, with IPVS or without, balances nothing."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.samples = LvsSamples(self.reactor, InThreads(self.reactor), self.namespace, self.listeners.runs)

    async def test_told(self) -> None:
        """One that runs is told, with its pool, and so are two; one that is stopped is not."""
        listener, other = LvsText(), LvsText(port=5354, protocol="SCTP")
        process = await self.running(listener)
        with capturedLogs():
            (sample,) = await self.samples.samples(30)
            assert sample.answer is not None
            self.assertEqual({listener.listener_id: ListenerState("OPEN", 0)}, sample.answer.listeners)
            pool = sample.answer.pools[listener.pool_id]
            self.assertEqual(("UP", ["no check"]), (pool.status, list(pool.members.values())))
            self.assertEqual(process, sample.worker)
            await self.running(other)
            both = {listener.listener_id, other.listener_id}
            self.assertEqual(both, {sample.source_id for sample in await self.samples.samples(30)})
            await self.act(listener.listener_id, "stop")
            self.assertEqual([other.listener_id], [sample.source_id for sample in await self.samples.samples(30)])

    async def test_disabled(self) -> None:
        """One that is disabled is not spoken of, though its keepalived runs."""
        listener = LvsText(disabled=True)
        await self.running(listener)
        with capturedLogs():
            (sample,) = await self.samples.samples(30)
        self.assertEqual(Answer({}, {}), sample.answer)

    async def test_dead(self) -> None:
        """One whose keepalived has died is there without an answer, until another runs."""
        listener = LvsText()
        first = await self.running(listener)
        first.send_signal(signal.SIGKILL)
        heard: list[LvsSample] = []

        def another() -> bool:
            return any(run.process not in (None, first) for run in self.listeners.runs())

        with capturedLogs():
            heard += await self.samples.samples(30)
            await wait_until(another, "another keepalived")
            heard += await self.samples.samples(30)
        self.assertEqual([listener.listener_id] * 2, [sample.source_id for sample in heard])
        self.assertNotEqual(first, heard[1].worker)


@requires("haproxy", "root", "keepalived", "ip")
class AgentTests(HeartbeatTestCase):
    """The agent as an operator starts it, and what its controllers hear."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.namespace = new_namespace(self)
        await super().setUp()
        self.addCleanup(lambda: Deferred.fromCoroutine(end_keepaliveds(self.directory)))

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"network_namespace": self.namespace}}

    async def put(self, path: str, body: bytes = b"") -> None:
        head = f"PUT /1.0{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = await self.raw_client().exchange(head.encode() + body)
        self.assertIn(answer.split(b" ", 2)[1], (b"200", b"202"))

    async def test_beside_haproxy(self) -> None:
        """A UDP listener that runs, here without a pool, is heard of beside a haproxy's, with figures of its own."""
        balancer = await self.running(LoadBalancer())
        listener = LvsText()
        nothing_to_balance = listener.text().partition(b"virtual_server_group")[0]
        await self.put(f"/listeners/{new_id()}/{listener.listener_id}/udp_listener", nothing_to_balance)
        await self.put(f"/loadbalancer/{listener.listener_id}/start")
        both = {balancer.listener_id, listener.listener_id}
        await wait_until(lambda: self.heard[-1].message["listeners"].keys() == both, "both to be told")
        self.assertEqual(
            {"status": "OPEN", "stats": {"tx": 0, "rx": 0, "conns": 0, "totconns": 0, "ereq": 0}},
            self.heard[-1].message["listeners"][listener.listener_id],
        )
        await self.put(f"/loadbalancer/{listener.listener_id}/stop")
        await wait_until(lambda: self.heard[-1].message["listeners"].keys() == {balancer.listener_id}, "one to be told")
