"""An active amphora and one that stands by: whatever befalls the one, the other serves."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.integration.amphora_pair import Pair
from tests.integration.support import requires, short_directory


@requires("root", "haproxy", "keepalived", "ip", "dnsmasq")
class PairTests(TestCase):
    timeout = 600

    async def setUp(self) -> None:  # type: ignore[override]
        self.pair = Pair(Path(short_directory(self)))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.pair.clean_up()))
        await self.pair.set_up()

    async def test_failover(self) -> None:
        """
        Each time the other takes the VIP and says so at once; the client is served again, by the member it had.

        That an agent dies costs no request.
        """
        pair = self.pair
        faults = [await pair.kill_agent()]
        self.assertEqual(0, faults[0].failed)
        for befall in (pair.stop_haproxy, pair.kill_haproxy, pair.kill_keepalived, pair.cut_link):
            faults.append(await befall())
        for fault in faults:
            told = "" if fault.told is None else f", told {fault.told:+.2f} s after the VIP moved"
            print(f"  {fault.name}: {fault.requests} requests, {fault.failed} failed, out {fault.outage:.2f} s{told}")
        self.assertEqual({"member-2"}, pair.client.served_by())
        # What stood in haproxy's place said nothing; the log has a reason all the same.
        self.assertTrue(any("start failed: haproxy -c ended with 1" in each.agent.log for each in pair.amphorae))
        for amphora in pair.amphorae:
            self.assertNotIn("Traceback", amphora.agent.log)
            self.assertNotIn("b20e06cf", amphora.agent.log)
