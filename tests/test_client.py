"""Tests for L{amphora.client}: against a server in memory, and over TLS on loopback for who is spoken to."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Literal, cast

from attrs import define, field
from OpenSSL.crypto import X509
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor as installed_reactor
from twisted.internet import ssl
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import Request
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from amphora.client import (
    AmphoraClient,
    AmphoraEndpoint,
    AmphoraError,
    AmphoraFailed,
    Bandwidth,
    ClientError,
    CpuUsage,
    Credentials,
    Details,
    Disk,
    Exchange,
    Info,
    InTransition,
    Listener,
    ListenerDetails,
    Memory,
    NotFound,
    Outcome,
    Pool,
    Refused,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
)
from amphora.testing.pki import CLIENT, Authority, Part, ThrowAwayPKI

reactor: Any = installed_reactor

AMPHORA = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"
ANOTHER = "02d0da8d-fc65-4bc4-bc46-95cadb2315d2"
LISTENER = "04bff5c3-5862-4a13-b9e3-9b440d0ed50a"
POOL = "399bbf4b-5f6c-4370-a61e-ed2ff2fc9387"
MEMBERS = ("73f6d278-ae1c-4248-ad02-0bfd50d69aab", "2edca57c-5890-4bcb-ae67-4ef75776cc67")


DETAILS = {
    "hostname": "h",
    "uuid": AMPHORA,
    "haproxy_version": "2.6.12",
    "api_version": "0.1",
    "networks": {"eth0": {"network_tx": 3300138, "network_rx": 982001}},
    "network_tx": 3300138,
    "network_rx": 982001,
    "active": True,
    "haproxy_count": 3,
    "cpu": {"total": 0.43, "user": 0.30, "system": 0.05, "soft_irq": 0},
    "memory": {
        "total": 4087402,
        "free": 760656,
        "available": 2655901,
        "buffers": 90980,
        "cached": 1830143,
        "swap_used": 943,
        "shared": 105792,
        "slab": 158819,
        "committed_as": 2643480,
    },
    "disk": {"used": 1234567, "available": 5242880},
    "load": [0.50, 0.45, 0.47],
    "topology": "SINGLE",
    "topology_status": "OK",
    "listeners": [LISTENER],
    "packages": [{"haproxy": "1.5.1"}, {"bash": "4.3.23"}],
    "cpu_count": 2,
    "heartbeat": {"sent": 1},
}
"""The specification's example in real JSON, and more than it names."""


@define
class FakeAmphora(Resource):
    """Answers every request with what it was told to, and remembers what it was asked."""

    status: int = 200
    body: bytes = b""
    silent_after: bytes | None = None
    """Where set: this much of the body is sent, and never the rest."""
    requests: list[tuple[str, str, bytes]] = field(factory=list)
    headers: list[dict[bytes, bytes]] = field(factory=list)
    peers: list[X509 | None] = field(factory=list)
    isLeaf = True

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def answer(self, status: int, value: object) -> None:
        """Say what is answered from now on."""
        self.status, self.body = status, json.dumps(value).encode()

    def render(self, request: Request) -> bytes | int:
        content = request.content
        assert content is not None
        self.requests.append((request.method.decode(), request.uri.decode(), content.read()))
        self.headers.append(request.getAllHeaders())
        transport: Any = request.transport
        if hasattr(transport, "getPeerCertificate"):
            self.peers.append(transport.getPeerCertificate())
        request.setResponseCode(self.status)
        if self.silent_after is None:
            return self.body
        request.setHeader(b"content-length", b"100")
        request.write(self.silent_after)
        return NOT_DONE_YET


@implementer(IAgent)
@define
class FailingAgent:
    """An agent whose requests all fail the same way, or never end where there is no error."""

    error: Exception | None = None
    cancelled: int = 0

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[IResponse]:
        request: Deferred[IResponse] = Deferred(self._cancel)
        if self.error is not None:
            request.errback(self.error)
        return request

    def _cancel(self, request: Deferred[IResponse]) -> None:
        self.cancelled += 1


class CallTests(SynchronousTestCase):
    """Each call: what is asked, and what is made of the answer."""

    def setUp(self) -> None:
        """Connect a client and an amphora in memory."""
        self.amphora = FakeAmphora()
        self.exchanges: list[Exchange] = []
        self.client = self.client_over(RequestTraversalAgent(self.amphora))

    def client_over(self, agent: IAgent) -> AmphoraClient:
        """Make a client that speaks through an agent."""
        self.clock = cast(Any, MemoryReactorClock())
        return AmphoraClient(
            self.clock,
            AMPHORA,
            "192.0.2.7",
            9443,
            Credentials(b""),
            agent=agent,
            observe=self.exchanges.append,
            timeout=60,
        )

    def result(self, call: Awaitable[object]) -> object:
        """Take the result of a call that has ended."""
        return self.successResultOf(ensureDeferred(call))  # type: ignore[arg-type]

    def error(self, call: Awaitable[object], kind: type[ClientError]) -> Any:
        """Take the error of a call that has failed."""
        return self.failureResultOf(ensureDeferred(call), kind).value  # type: ignore[arg-type]

    def test_info(self) -> None:
        """The amphora's info is asked for without a version in the path."""
        told = {"hostname": "h", "uuid": AMPHORA, "haproxy_version": "2.6.12", "api_version": "0.1"}
        self.amphora.answer(200, told)
        self.assertEqual(self.result(self.client.info()), Info("h", AMPHORA, "2.6.12", "0.1"))
        self.assertEqual(self.amphora.requests, [("GET", "/info", b"")])

    def test_details(self) -> None:
        """Details are typed as the specification has them; what it does not name is handed on as it came."""
        self.amphora.answer(200, DETAILS)
        self.assertEqual(
            self.result(self.client.details()),
            Details(
                hostname="h",
                uuid=AMPHORA,
                haproxy_version="2.6.12",
                api_version="0.1",
                network_tx=3300138,
                network_rx=982001,
                networks={"eth0": Bandwidth(3300138, 982001)},
                active=True,
                haproxy_count=3,
                cpu=CpuUsage(0.43, 0.3, 0.05, 0),
                memory=Memory(4087402, 760656, 2655901, 90980, 1830143, 943, 105792, 158819, 2643480),
                disk=Disk(1234567, 5242880),
                load=(0.5, 0.45, 0.47),
                topology="SINGLE",
                topology_status="OK",
                listeners=(LISTENER,),
                packages={"haproxy": "1.5.1", "bash": "4.3.23"},
                more={"cpu_count": 2, "heartbeat": {"sent": 1}},
            ),
        )
        self.assertEqual(self.amphora.requests, [("GET", "/v0.1/details", b"")])

    def test_unexpected_details(self) -> None:
        """Details that are not as specified are told, with what is wrong with them."""
        for name, value, reason in (
            ("active", "TRUE", "'active' of its body is neither true nor false"),
            ("haproxy_count", "3", "'haproxy_count' of its body is not a number"),
            ("haproxy_count", True, "'haproxy_count' of its body is not a number"),
            ("haproxy_count", 3.5, "'haproxy_count' of its body is not a whole number"),
            ("cpu", None, "'cpu' of its body is not an object"),
            ("disk", {"used": 1}, "'available' of 'disk' of its body is not a number"),
            ("networks", {"eth0": 1}, "'eth0' of 'networks' of its body is not an object"),
            ("load", ["0.5"], "an item of 'load' is not a number"),
            ("listeners", [1], "an item of 'listeners' is not a text"),
            ("packages", [{"haproxy": 1}], "an item of 'packages' has no text 'haproxy'"),
        ):
            self.amphora.answer(200, {**DETAILS, name: value})
            self.assertEqual(self.error(self.client.details(), UnexpectedAnswer).reason, reason)

    def test_listeners(self) -> None:
        """The list of listeners has an item for each."""
        told = [{"uuid": LISTENER, "status": "ACTIVE", "type": "HTTP"}]
        self.amphora.answer(200, told)
        self.assertEqual(self.result(self.client.listeners()), (Listener(LISTENER, "ACTIVE", "HTTP"),))
        self.assertEqual(self.amphora.requests, [("GET", "/v0.1/listeners", b"")])

    def test_listener(self) -> None:
        """One listener comes with its pools, and their members as one mapping."""
        members = [{MEMBERS[0]: "UP"}, {MEMBERS[1]: "DOWN"}]
        pools = [{"uuid": POOL, "status": "DEGRADED", "members": members}]
        self.amphora.answer(200, {"uuid": LISTENER, "status": "ACTIVE", "type": "TCP", "pools": pools})
        pool = Pool(POOL, "DEGRADED", {MEMBERS[0]: "UP", MEMBERS[1]: "DOWN"})
        self.assertEqual(
            self.result(self.client.listener(LISTENER)), ListenerDetails(LISTENER, "ACTIVE", "TCP", (pool,))
        )
        self.assertEqual(self.amphora.requests, [("GET", f"/v0.1/listeners/{LISTENER}", b"")])

    def test_actions(self) -> None:
        """Start, stop, reload and delete have no body, and tell message and details."""
        base = f"/v0.1/listeners/{LISTENER}"
        for call, method, path in (
            (self.client.start, "PUT", f"{base}/start"),
            (self.client.stop, "PUT", f"{base}/stop"),
            (self.client.reload, "PUT", f"{base}/reload"),
            (self.client.delete, "DELETE", base),
        ):
            self.amphora.answer(202, {"message": "OK", "details": "done"})
            self.assertEqual(self.result(call(LISTENER)), Outcome(202, "OK", "done"))
            self.assertEqual(self.amphora.requests.pop(), (method, path, b""))

    def test_upload(self) -> None:
        """A configuration is sent byte for byte, its length told, under the amphora's and the listener's id."""
        self.amphora.answer(201, {"message": "OK"})
        configuration = b"global\r\n# \xff\xc3\xa9\n"
        self.assertEqual(self.result(self.client.upload_haproxy(LISTENER, configuration)), Outcome(201, "OK", ""))
        self.assertEqual(
            self.amphora.requests, [("PUT", f"/v0.1/listeners/{AMPHORA}/{LISTENER}/haproxy", configuration)]
        )
        self.assertEqual(self.amphora.headers[0][b"content-length"], str(len(configuration)).encode())

    def test_haproxy(self) -> None:
        """The stored configuration comes back byte for byte."""
        self.amphora.body = b"global\r\n# \xff\n"
        self.assertEqual(self.result(self.client.haproxy(LISTENER)), self.amphora.body)
        self.assertEqual(self.amphora.requests, [("GET", f"/v0.1/listeners/{LISTENER}/haproxy", b"")])

    def test_certificates(self) -> None:
        """A certificate is put, asked for by its sum, and deleted under its file name."""
        path = f"/v0.1/listeners/{LISTENER}/certificates/WILDCARD.example.com.pem"
        self.amphora.answer(201, {"message": "OK"})
        name = "WILDCARD.example.com.pem"
        self.result(self.client.put_certificate(LISTENER, name, b"key and certificate"))
        self.amphora.answer(200, {"md5sum": "d8f6629d5e3c6852fa764fb3f04f2ffd"})
        self.assertEqual(self.result(self.client.certificate_md5(LISTENER, name)), "d8f6629d5e3c6852fa764fb3f04f2ffd")
        self.amphora.answer(200, {"message": "OK"})
        self.result(self.client.delete_certificate(LISTENER, name))
        self.assertEqual(
            self.amphora.requests,
            [("PUT", path, b"key and certificate"), ("GET", path, b""), ("DELETE", path, b"")],
        )

    def test_network(self) -> None:
        """An interface is asked for by an address of either kind; a VIP and a network are plugged."""
        self.amphora.answer(200, {"message": "OK", "interface": "eth1"})
        self.assertEqual("eth1", self.result(self.client.interface("2001:db8::2")))
        self.amphora.answer(202, {"message": "OK", "details": "what was done"})
        done = Outcome(202, "OK", "what was done")
        mac = "78:31:c1:ce:0b:3c"
        wish = {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1", "mac_address": mac}
        self.assertEqual(done, self.result(self.client.plug_vip("203.0.113.2", **wish)))
        self.assertEqual(done, self.result(self.client.plug_network(mac)))
        self.assertEqual(
            [
                ("GET", "/v0.1/interface/2001%3Adb8%3A%3A2", None),
                ("POST", "/v0.1/plug/vip/203.0.113.2", wish),
                ("POST", "/v0.1/plug/network/", {"mac_address": mac}),
            ],
            [(method, path, json.loads(body) if body else None) for method, path, body in self.amphora.requests],
        )

    def test_vrrp(self) -> None:
        """keepalived's configuration goes as it is; each action has its own path."""
        self.amphora.answer(200, {"message": "OK"})
        self.assertEqual(Outcome(200, "OK", ""), self.result(self.client.upload_vrrp(b"\xff\x00")))
        self.amphora.answer(202, {"message": "OK", "details": "keepalived started"})
        actions: tuple[Literal["start", "stop", "reload"], ...] = ("start", "stop", "reload")
        for action in actions:
            self.assertEqual(Outcome(202, "OK", "keepalived started"), self.result(self.client.vrrp(action)))
        self.assertEqual(
            [("PUT", "/v0.1/vrrp/upload", b"\xff\x00"), *(("PUT", f"/v0.1/vrrp/{action}", b"") for action in actions)],
            self.amphora.requests,
        )

    def test_quoting(self) -> None:
        """What stands in a path is one segment of it, whatever it holds."""
        self.amphora.answer(200, {"message": "OK"})
        self.result(self.client.delete_certificate(LISTENER, "../a b?c.pem"))
        self.assertEqual(self.amphora.requests[0][1], f"/v0.1/listeners/{LISTENER}/certificates/..%2Fa%20b%3Fc.pem")

    def test_errors(self) -> None:
        """Each status that the specification names has an error of its own, with message and details."""
        for status, kind in (
            (400, Refused),
            (401, Unauthorized),
            (404, NotFound),
            (413, Refused),
            (500, AmphoraFailed),
            (503, InTransition),
            (405, AmphoraError),
        ):
            self.amphora.answer(status, {"message": "no", "details": "because"})
            error = self.error(self.client.start(LISTENER), kind)
            self.assertEqual((error.status, error.message, error.details), (status, "no", "because"))
            self.assertEqual(str(error), f"{status} no: because")
        self.amphora.answer(503, {"message": "Topology transition in progress"})
        self.assertEqual(str(self.error(self.client.info(), InTransition)), "503 Topology transition in progress")

    def test_unexpected(self) -> None:
        """An answer of another shape than specified is told, with what is wrong with it."""
        for status, body, reason in (
            (200, b"<html>", "its body is not JSON"),
            (500, b"\xff", "its body is not JSON"),
            (200, b"[" * 100_000, "its body is not JSON"),
            (200, b"[]", "its body is not an object"),
            (200, b'{"uuid": 1, "pools": []}', "its body has no text 'uuid'"),
            (200, b'{"uuid": "u", "status": "s", "type": "t", "pools": 1}', "'pools' is not a list"),
            (200, b'{"uuid": "u", "status": "s", "type": "t", "pools": [1]}', "an item of 'pools' is not an object"),
            (302, b"{}", "an amphora sends nobody elsewhere"),
        ):
            self.amphora.status, self.amphora.body = status, body
            error = self.error(self.client.listener(LISTENER), UnexpectedAnswer)
            self.assertEqual((error.status, error.reason), (status, reason))
            self.assertEqual(str(error), f"answered {status}, but {reason}")

    def test_observer(self) -> None:
        """An observer is told of each answer, an error's too; its repr does not hold the answer."""
        self.amphora.answer(200, [])
        self.result(self.client.listeners())
        self.amphora.answer(404, {"message": "Listener Not Found"})
        self.error(self.client.start(LISTENER), NotFound)
        self.assertEqual(
            [(each.method, each.path, each.status, json.loads(each.answer)) for each in self.exchanges],
            [
                ("GET", "/v0.1/listeners", 200, []),
                ("PUT", f"/v0.1/listeners/{LISTENER}/start", 404, {"message": "Listener Not Found"}),
            ],
        )
        self.assertNotIn("Not Found", repr(self.exchanges[1]))

    def test_unreachable(self) -> None:
        """Where no connection comes about, the error says where, why, and what to look at."""
        for cause, reason in (
            (ConnectionRefusedError(), "connection refused"),
            (DNSLookupError(), "the name is not known"),
        ):
            error = self.error(self.client_over(FailingAgent(cause)).info(), Unreachable)
            self.assertEqual((error.address, error.reason), ("192.0.2.7:9443", reason))
            self.assertIn(error.advice, str(error))

    def test_timeout(self) -> None:
        """A call without an answer ends after the timeout: the request is broken off, and nothing stays scheduled."""
        agent = FailingAgent()
        call = ensureDeferred(self.client_over(agent).info())
        self.clock.advance(59)
        self.assertNoResult(call)
        self.clock.advance(1)
        error = self.failureResultOf(call, Unreachable).value
        self.assertEqual(error.reason, "nothing complete within 60 seconds")
        self.assertEqual(agent.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_timeout_in_body(self) -> None:
        """An answer that stops in the middle counts as none, and its connection is ended."""
        self.amphora.silent_after = b'{"host'
        agent = RequestTraversalAgent(self.amphora)
        call = ensureDeferred(self.client_over(agent).info())
        self.clock.advance(60)
        self.failureResultOf(call, Unreachable)
        agent.flush()
        self.assertEqual(self.exchanges, [])

    def test_nothing_logged(self) -> None:
        """Neither what was sent nor what came back is in any log event, whether a call succeeds or fails."""
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for status in (201, 400):
            self.amphora.answer(status, {"message": "answer-text"})
            call = ensureDeferred(self.client.put_certificate(LISTENER, "a.pem", b"secret-text"))
            call.addErrback(lambda failure: failure.trap(Refused))
            self.successResultOf(call)
        self.assertNotIn("-text", repr(events))


class CredentialsTests(SynchronousTestCase):
    """Reading PEM."""

    def test_read(self) -> None:
        """Certificate and key may be in one file, as Octavia writes them, or in two."""
        directory = Path(self.mktemp())
        directory.mkdir()
        pki = ThrowAwayPKI.create(directory, AMPHORA)
        two = Credentials.read(pki.ca, pki.client, pki.client_key)
        self.assertEqual(two.key, pki.client_key.read_bytes())
        one = Credentials.read(pki.ca, pki.server)
        self.assertEqual(one.certificate, one.key)
        one.for_amphora(AMPHORA)
        self.assertNotIn("PRIVATE", repr(two))

    def test_not_pem(self) -> None:
        """What is no certificate, or no key, is a ValueError."""
        authority = Authority.create()
        issued = authority.issue("controller")
        for credentials in (
            Credentials(b"nothing"),
            Credentials(authority.certificate_pem, b"nothing", issued.key_pem),
            Credentials(authority.certificate_pem, issued.certificate_pem, b"nothing"),
        ):
            self.assertRaises(ValueError, credentials.for_amphora, AMPHORA)


class Deaf(Protocol):
    """Takes a connection and says nothing."""


class TLSTests(TestCase):
    """Who is spoken to, and as whom: over TLS on loopback."""

    timeout = 60

    def setUp(self) -> None:
        """Serve an amphora that asks for a client certificate of its authority."""
        directory = Path(self.mktemp())
        directory.mkdir()
        self.pki = ThrowAwayPKI.create(directory, AMPHORA)
        self.credentials = Credentials.read(self.pki.ca, self.pki.client, self.pki.client_key)
        self.amphora = FakeAmphora()
        self.amphora.answer(200, [])
        server = ssl.PrivateCertificate.loadPEM(self.pki.server.read_bytes())
        options = server.options(ssl.Certificate.loadPEM(self.pki.ca.read_bytes()))
        self.port = self.listening(reactor.listenSSL(0, Site(self.amphora), options, interface="127.0.0.1"))

    def listening(self, port: IListeningPort) -> int:
        """Have a port closed at the test's end; return its number."""
        self.addCleanup(port.stopListening)
        return cast(IPv4Address, port.getHost()).port

    def client(self, amphora_id: str, credentials: Credentials, port: int = 0, timeout: float = 30) -> AmphoraClient:
        """Make a client that is closed at the test's end."""
        client = AmphoraClient(reactor, amphora_id, "127.0.0.1", port or self.port, credentials, timeout=timeout)
        self.addCleanup(client.close)
        return client

    async def test_good(self) -> None:
        """The certificate's name is what counts, not the address; ours is sent, and the connection is used again."""
        client = self.client(AMPHORA, self.credentials)
        self.assertEqual(await client.listeners(), ())
        self.assertEqual(await client.listeners(), ())
        names = [peer.to_cryptography().subject.rfc4514_string() for peer in self.amphora.peers if peer]
        self.assertEqual(names, ["CN=controller"] * 2)

    async def test_chain(self) -> None:
        """A certificate of an intermediate authority is sent with its chain."""
        issued = self.pki.authority.subordinate().issue("controller", usages=(CLIENT,))
        own = Credentials(self.pki.authority.certificate_pem, issued.pem(Part.CERTIFICATE, Part.CHAIN), issued.key_pem)
        self.assertEqual(await self.client(AMPHORA, own).listeners(), ())

    async def test_another_amphora(self) -> None:
        """Another amphora at the address, though of the same authority, gets no request."""
        with self.assertRaises(Unreachable) as caught:
            await self.client(ANOTHER, self.credentials).listeners()
        self.assertEqual(caught.exception.reason, "its certificate does not name this amphora")
        self.assertEqual(self.amphora.requests, [])

    async def test_another_authority(self) -> None:
        """An amphora whose certificate is from an authority that we do not trust gets no request."""
        own = Credentials(Authority.create().certificate_pem, self.credentials.certificate, self.credentials.key)
        with self.assertRaises(Unreachable) as caught:
            await self.client(AMPHORA, own).listeners()
        self.assertEqual(caught.exception.reason, "TLS: certificate verify failed")
        self.assertEqual(self.amphora.requests, [])

    async def test_stranger(self) -> None:
        """A refusal in TLS already is told as one of TLS."""
        with self.assertRaises(Unreachable) as caught:
            await self.client(AMPHORA, Credentials(self.credentials.authorities)).listeners()
        self.assertIn("certificate required", caught.exception.reason)

    async def test_silence(self) -> None:
        """Against a peer that takes the connection and says nothing, the timeout ends the call."""
        port = self.listening(reactor.listenTCP(0, Factory.forProtocol(Deaf), interface="127.0.0.1"))
        with self.assertRaises(Unreachable):
            await self.client(AMPHORA, self.credentials, port, timeout=0.1).listeners()

    async def test_cancelled(self) -> None:
        """A call that is cancelled ends as that, however far it has come."""
        port = self.listening(reactor.listenTCP(0, Factory.forProtocol(Deaf), interface="127.0.0.1"))
        for wait in (0, 0.001, 0.05):
            call = ensureDeferred(self.client(AMPHORA, self.credentials, port).info())
            await deferLater(reactor, wait)
            call.cancel()
            await self.assertFailure(call, CancelledError)

    async def test_silence_in_answer(self) -> None:
        """A timeout in the middle of an answer ends the connection, too: the amphora sees it go."""
        self.amphora.silent_after = b"["
        gone: Deferred[None] = Deferred()
        render = self.amphora.render

        def watched(request: Request) -> bytes | int:
            request.notifyFinish().addErrback(lambda _: gone.callback(None))
            return render(request)

        self.patch(self.amphora, "render", watched)
        with self.assertRaises(Unreachable):
            await self.client(AMPHORA, self.credentials, timeout=1).listeners()
        await gone

    async def test_ipv6(self) -> None:
        """An IPv6 address is written without brackets, and told in them."""
        client = AmphoraClient(reactor, AMPHORA, "::1", 1, self.credentials)
        with self.assertRaises(Unreachable) as caught:
            await client.listeners()
        self.assertEqual(caught.exception.address, "[::1]:1")
        self.assertEqual(caught.exception.reason, "connection refused")

    def test_endpoint(self) -> None:
        """The endpoint's factory is what an agent asks for."""
        verifyObject(IAgentEndpointFactory, AmphoraEndpoint(reactor, "", 1, self.credentials.for_amphora(AMPHORA)))
