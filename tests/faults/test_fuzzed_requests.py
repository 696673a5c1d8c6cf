"""Requests that no controller would send, to a real agent, while it serves."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Authority, Part
from tests.answers import Answer, problem
from tests.faults.watched import FaultTestCase
from tests.integration.harness import LoadBalancer, RawClient, free_port, wait_until
from tests.integration.support import count, requires
from tests.odd_requests import HAPROXY, IDS, OddRequest, requests

REQUESTS = count(250, 4000)
SEQUENCES, STEPS = count(8, 60), count(12, 30)

_MAC = re.compile(rb"(?:[0-9a-f]{2}[:-]){5}", re.IGNORECASE)
_BIND = re.compile(rb"\s*bind 127\.0\.0\.1:20080")
_COMMON = settings(database=None, deadline=None, derandomize=count(1, 0) == 1, suppress_health_check=list(HealthCheck))

CERTIFICATES = tuple(
    Authority.create().issue(name, use_rsa=True).pem(Part.KEY, Part.CERTIFICATE) for name in ("a", "b")
)


def spares_the_machine(request: OddRequest) -> bool:
    """
    Does what it asks for touch this agent's files and processes alone, and nothing that the watch looks at?

    No address but one of loopback is bound, no interface is plugged, nothing is to balance in the kernel, no
    keepalived is configured (without one that runs there are no heartbeats), and the certificate stays.
    """
    body = request.body or b""
    return not (
        (b"bind" in body and not all(_BIND.fullmatch(line) for line in body.splitlines() if b"bind" in line))
        or _MAC.search(body)
        or b"virtual_server" in body
        or b"vrrp_instance" in body
        or (b"PRIVATE KEY" in body and "pem" not in request.path)
    )


@define(eq=False)
class KeptAlive:
    """A client that keeps its connection as long as the agent does.  Blocks."""

    _client: RawClient
    _connection: ssl.SSLSocket | None = field(init=False, default=None)

    def ask(self, method: str, sent: bytes) -> Answer:
        for fresh in (False, True):
            if self._connection is None:
                self._connection = self._client.connect()
            try:
                self._connection.sendall(sent)
                answer = HTTPResponse(self._connection, method=method)
                answer.begin()
                break
            except OSError:
                # It was closed meanwhile, as idle ones and those after a refusal are.
                self.close()
                if fresh:
                    raise
        body = answer.read()
        if answer.will_close:
            self.close()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def files_below(directory: Path, *without: Path) -> dict[str, tuple[int, int]]:
    """All that is there, with size and time of change."""
    found = {}
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if Path(folder, name) not in without]
        for name in names:
            status = Path(folder, name).lstat()
            found[str(Path(folder, name))] = (status.st_size, status.st_mtime_ns)
    return found


@requires("haproxy")
class FuzzedRequestTests(FaultTestCase):
    async def in_thread(self, work: Callable[[KeptAlive], None]) -> None:
        """Do it while all is watched; afterwards only the watched load balancer is left, and no file elsewhere."""
        outside = files_below(self.directory, self.agent.base_path)
        client = KeptAlive(self.raw_client())
        async with self.watch():
            masters = len(self.agent.all_haproxies())
            try:
                await deferToThread(work, client)
            finally:
                await deferToThread(client.close)
            await wait_until(lambda: len(self.agent.all_haproxies()) == masters, "haproxies to be gone")
        self.assertEqual(outside, files_below(self.directory, self.agent.base_path))
        self.assertEqual([self.balancer.listener_id], [each.uuid for each in await self.client.listeners()])
        self.assertEqual([], os.listdir(self.agent.base_path / "spool"))
        self.assertNotIn("Traceback", self.agent.log)

    async def test_requests(self) -> None:
        """Each is answered as it should be, whatever it is."""
        port = str(free_port()).encode()
        made = 0

        def work(client: KeptAlive) -> None:
            @settings(_COMMON, max_examples=REQUESTS)
            @given(requests().filter(spares_the_machine))
            def ask(request: OddRequest) -> None:
                nonlocal made
                made += 1
                sent = request.encode()
                if HAPROXY in sent:
                    assert len(port) == 5
                    sent = sent.replace(b":20080", b":" + port)
                answer = client.ask(request.method, sent)
                assert problem(request.version, request.method, answer) is None, (request, answer)

            ask()
            for instance_id in IDS:
                client.ask("DELETE", f"DELETE /1.0/listeners/{instance_id} HTTP/1.1\r\n\r\n".encode())

        await self.in_thread(work)
        self.assertGreaterEqual(made, REQUESTS)

    async def test_sequences(self) -> None:
        """Whatever is done in whichever order, what the API tells is what was done."""
        ports = [free_port() for _ in range(2)]

        def work(client: KeptAlive) -> None:
            class OnThisAgent(Operations):
                def __init__(self) -> None:
                    super().__init__(client, ports)

            run_state_machine_as_test(
                OnThisAgent,
                settings=settings(_COMMON, max_examples=SEQUENCES, stateful_step_count=STEPS),
            )

        await self.in_thread(work)


@define
class Expected:
    """What is known of a listener."""

    config: bytes | None = None
    """What was accepted last; None as long as all was refused."""
    runs: bool = False
    certificates: dict[str, bytes] = field(factory=dict)


_places = st.sampled_from((0, 1))
_names = st.sampled_from(("a.pem", "b.pem"))


class Operations(RuleBasedStateMachine):
    """A controller that does one thing after the other to two listeners, and knows what should come of each."""

    def __init__(self, client: KeptAlive, ports: list[int]) -> None:
        super().__init__()
        self._client = client
        self._balancers = [LoadBalancer(port=port) for port in ports]
        self._expected: dict[int, Expected] = {}

    def call(self, method: str, place: int, path: str = "", body: bytes | None = None) -> Answer:
        instance_id = self._balancers[place].listener_id
        path = f"/v0.1/listeners/{path.format(id=instance_id) or instance_id}"
        sent = OddRequest(method, path, (), body, chunked=False).encode()
        answer = self._client.ask(method, sent)
        assert problem("v0.1", method, answer) is None, answer
        return answer

    def status(self, answer: Answer, expected: int) -> None:
        assert answer.status == expected, (expected, answer)

    @rule(place=_places, renewed=st.booleans())
    def upload(self, place: int, renewed: bool) -> None:
        config = self._balancers[place].config() + (b"# renewed\n" if renewed else b"")
        self.status(self.call("PUT", place, "{id}/{id}/haproxy", config), 201)
        self._expected.setdefault(place, Expected()).config = config

    @initialize()
    def begin(self) -> None:
        """One listener serves to begin with: most of what can be done is done to such a one."""
        self.upload(0, False)
        self.start(0, "start")

    @rule(place=_places)
    def upload_refused(self, place: int) -> None:
        self.status(self.call("PUT", place, "{id}/{id}/haproxy", b"frontend f\n nonsense\n"), 400)
        self._expected.setdefault(place, Expected())

    @rule(place=_places, action=st.sampled_from(("start", "reload")))
    def start(self, place: int, action: str) -> None:
        expected = self._expected.get(place)
        answer = self.call("PUT", place, f"{{id}}/{action}")
        self.status(answer, 404 if expected is None else 500 if expected.config is None else 202)
        if expected is not None and expected.config is not None:
            expected.runs = True

    @rule(place=_places)
    def stop(self, place: int) -> None:
        expected = self._expected.get(place)
        self.status(self.call("PUT", place, "{id}/stop"), 404 if expected is None else 202 if expected.runs else 500)
        if expected is not None:
            expected.runs = False

    @rule(place=_places)
    def delete(self, place: int) -> None:
        expected = self._expected.pop(place, None)
        self.status(self.call("DELETE", place), 404 if expected is None else 200)

    @rule(place=_places, name=_names, certificate=st.sampled_from(CERTIFICATES))
    def put_certificate(self, place: int, name: str, certificate: bytes) -> None:
        expected = self._expected.get(place)
        answer = self.call("PUT", place, f"{{id}}/certificates/{name}", certificate)
        self.status(answer, 404 if expected is None else 201)
        if expected is not None:
            expected.certificates[name] = certificate

    @rule(place=_places, name=_names)
    def delete_certificate(self, place: int, name: str) -> None:
        known = self._expected.get(place, Expected()).certificates.pop(name, None)
        self.status(self.call("DELETE", place, f"{{id}}/certificates/{name}"), 404 if known is None else 200)

    @invariant()
    def told(self) -> None:
        for place in (0, 1):
            self._told(place, self._expected.get(place))

    def _told(self, place: int, expected: Expected | None) -> None:
        answer = self.call("GET", place)
        if expected is None:
            self.status(answer, 404)
            return
        self.status(answer, 200)
        status = "ERROR" if expected.config is None else "ACTIVE" if expected.runs else "STOPPED"
        assert answer.json["status"] == status, (status, answer)
        answer = self.call("GET", place, "{id}/haproxy")
        self.status(answer, 404 if expected.config is None else 200)
        assert expected.config is None or answer.body == expected.config
        for name in ("a.pem", "b.pem"):
            answer = self.call("GET", place, f"{{id}}/certificates/{name}")
            content = expected.certificates.get(name)
            self.status(answer, 404 if content is None else 200)
            assert content is None or answer.json["md5sum"] == hashlib.md5(content).hexdigest()

    def teardown(self) -> None:
        for place in (0, 1):
            self.call("DELETE", place)
