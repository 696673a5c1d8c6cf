"""What a disk may do to what an agent has written: the next one starts all the same, says so, and can be told anew."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.health.counters import FILE_NAME
from tests.answers import problem, read_answers
from tests.api.amphora_in_memory import AmphoraInMemory
from tests.api.test_odd_requests import MEMORY, QUESTIONS
from tests.damage import contents, damaged
from tests.integration.support import count
from tests.odd_requests import CONFIG, HAPROXY, IDS, LVS, MAC, OTHER_MAC, OddRequest
from tests.vrrp.test_keepalived_config import OCTAVIA as KEEPALIVED

LISTENER, BALANCER = IDS
VIP = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": MAC, "vrrp_ip": "203.0.113.9"}
FIXED: dict[str, object] = {
    "ip_address": "198.51.100.7",
    "subnet_cidr": "198.51.100.0/24",
    "gateway": None,
    "host_routes": [],
}
RULE = {"protocol": "TCP", "cidr": None, "port": 80}
PAIR = {"topology": "ACTIVE-STANDBY", "role": "ACTIVE", "ha_ip": "10.0.0.10", "secret": "42c1a9f"}
TRAFFIC = dict.fromkeys(("tx", "rx", "totconns", "ereq"), 1)
COUNTERS = {
    "version": 3,
    "boot": "a boot",
    "since": 1,
    "instances": {BALANCER: [{"pid": 7, "started": 8, "listeners": {"f": TRAFFIC}}]},
    "untold": {},
}

UPLOADS = (
    ("PUT", f"/1.0/loadbalancer/{BALANCER}/{BALANCER}/haproxy", HAPROXY),
    ("PUT", f"/1.0/loadbalancer/{BALANCER}/certificates/a.pem", b"anything"),
    ("PUT", f"/1.0/listeners/{BALANCER}/{LISTENER}/udp_listener", LVS),
    ("PUT", "/1.0/config", CONFIG),
    ("PUT", "/1.0/vrrp/upload", KEEPALIVED),
    ("POST", "/1.0/plug/vip/203.0.113.2", json.dumps(VIP).encode()),
    ("POST", "/1.0/plug/network", json.dumps({"mac_address": OTHER_MAC, "fixed_ips": [FIXED]}).encode()),
    ("PUT", "/1.0/interface/203.0.113.9/rules", json.dumps([RULE]).encode()),
)
SPARED = ("server.pem", "ca.pem", "agent.conf.last-good")
"""Without these an agent does not serve: what it says then is another test's."""


class DamagedRecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="amphora-", dir=MEMORY))
        self.addCleanup(shutil.rmtree, self.directory)
        whole = self.directory / "whole"
        whole.mkdir()
        one = AmphoraInMemory(whole)
        self.successResultOf(one.begin())
        for upload in UPLOADS:
            self.upload(one, *upload, within=(200, 202))
        self.upload(one, "POST", "/v0.1/topology", json.dumps(PAIR).encode(), within=(200, 202))
        (whole / "agent" / "base" / FILE_NAME).write_text(json.dumps(COUNTERS))
        files = (path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and not path.is_fifo())
        self.files = sorted(path for path in files if path.name not in SPARED)

    def upload(self, one: AmphoraInMemory, method: str, path: str, body: bytes, within: Sequence[int]) -> None:
        (answer,) = read_answers(one.exchange(OddRequest(method, path, (), body, chunked=False).encode()), method)
        self.assertIsNone(problem("1.0", method, answer), answer)
        self.assertIn(answer.status, within, (path, answer))

    def test_records(self) -> None:
        """Each kind of record is among those that are damaged."""
        names = {path.name for path in self.files}
        expected = {"instance.json", "haproxy.cfg", "keepalived.json", "octavia-keepalived.conf", "topology.json"}
        expected |= {FILE_NAME, "eth1.json", "eth2.json", "nftables-vip.rules", "agent.conf", "a.pem", "given.conf"}
        self.assertEqual(set(), expected - names)

    @settings(max_examples=count(100, 2000))
    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """Whatever has become of some of them, the next agent is ready and well, and says what it cannot use."""
        with tempfile.TemporaryDirectory(prefix="amphora-", dir=MEMORY) as copy:
            shutil.copytree(
                self.directory / "whole" / "agent", Path(copy, "agent"), ignore=shutil.ignore_patterns("*.fifo")
            )
            chosen = data.draw(st.lists(st.sampled_from(self.files), min_size=1, max_size=3, unique=True))
            struck = [Path(copy, each) for each in chosen]
            for path in struck:
                self.strike(data, path)
            unusable = [path for path in struck if path.suffix == ".json" and not _is_json(path)]
            with capturedLogs() as log:
                one = AmphoraInMemory(Path(copy))
                beginning = one.begin()
                one.kernel.end_detection()
                for _ in range(100):
                    one.reactor.advance(0.5)
                self.successResultOf(beginning)
                for question in QUESTIONS:
                    (answer,) = read_answers(one.exchange(question), "GET")
                    self.assertEqual(200, answer.status, (question, answer))
                for upload in UPLOADS:
                    self.upload(one, *upload, within=(200, 202, 409, 503, 400, 404, 500))
            self.assertEqual([], [formatEvent(event) for event in log if "log_failure" in event])
            told = [formatEvent(event) for event in log]
            for path in unusable:
                # Where another file of the same object has come first, that one is told.
                self.assertTrue(any(str(path) in each or path.parent.name in each for each in told), (path, told))

    def strike(self, data: st.DataObject, path: Path) -> None:
        """Do to a file what a disk, or somebody, may do."""
        content = path.read_bytes()
        known = json.loads(content) if path.suffix == ".json" else None
        match data.draw(st.integers(0, 6)):
            case 0:
                path.unlink()
            case 1:
                path.unlink()
                path.mkdir()
            case 2:
                path.write_bytes(b"")
            case _:
                path.write_bytes(data.draw(damaged(content) if known is None else contents(known)))


def _is_json(path: Path) -> bool:
    if not path.is_file():
        # A directory in its place is told in the system's words; one that is gone may never have been there.
        return True
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True
