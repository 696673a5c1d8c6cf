"""The HTTP edge, in memory: refusals, deadlines, pools, bodies."""

from __future__ import annotations

import json
import os
import tempfile
from io import BytesIO
from pathlib import Path

from attrs import define, evolve
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from amphora.api.bodies import SpooledBody, body_bytes, body_file
from amphora.api.channel import AmphoraChannel, AmphoraRequest, AmphoraSite, Limits, path_problem
from amphora.blocking import AtOnce

PEM_PATH = b"/v0.1/listeners/x/certificates/a.pem"
CONFIG_PATH = b"/v0.1/listeners/x/y/haproxy"


@define(eq=False)
class FakeVerdicts:
    """What the handshake found is what the test says."""

    known: bool = True

    def verified(self, transport: ITransport) -> bool:
        return self.known

    def problem(self, transport: ITransport) -> str:
        return "it is a test"


class Transport(StringTransport):
    """A connection that remembers how it was ended, and how often its reading was held back."""

    aborted = False
    pauses = 0

    def abortConnection(self) -> None:
        self.aborted = True

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.pauses += 1


class Recorder(Resource):
    """Answers with how much it was sent, and remembers what."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes, type]] = []
        self.held: list[IRequest] = []
        self.hold = False

    def render(self, request: IRequest) -> bytes | int:
        body = request.content
        content = body.getvalue() if isinstance(body, BytesIO) else b""
        self.seen.append((request.path, content, type(body)))
        if self.hold:
            self.held.append(request)
            return NOT_DONE_YET
        return b"%d" % len(content)


class TemporarySpool:
    """Makes files in a directory of the test's."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def new_spool_file(self) -> tuple[int, Path]:
        handle, name = tempfile.mkstemp(dir=self.directory)
        return handle, Path(name)


class ChannelTestCase(SynchronousTestCase):
    limits = Limits(body_size=1000)

    def setUp(self) -> None:
        self.clock = Clock()
        self.resource = Recorder()
        self.verdicts = FakeVerdicts()
        self.spool = TemporarySpool(self.mktemp())
        os.mkdir(self.spool.directory)
        self.make_site(self.limits)

    def make_site(self, limits: Limits) -> None:
        self.site = AmphoraSite(
            self.resource,
            reactor=self.clock,
            verdicts=self.verdicts,
            blocking=AtOnce(),
            spool=self.spool,
            limits=limits,
        )

    def connect(
        self, *, verified: bool = True, handshake: bool = True, host: str = "127.0.0.1"
    ) -> tuple[AmphoraChannel, Transport]:
        peer = IPv4Address("TCP", host, 1)
        channel = self.site.buildProtocol(peer)
        assert isinstance(channel, AmphoraChannel)
        transport = Transport(peerAddress=peer)
        channel.makeConnection(transport)
        if handshake:
            self.verdicts.known = verified
            channel.handshakeCompleted()
        return channel, transport

    def exchange(self, *segments: bytes, verified: bool = True) -> bytes:
        channel, transport = self.connect(verified=verified)
        for segment in segments:
            channel.dataReceived(segment)
        return bytes(transport.value())

    def assert_only_answer(self, answer: bytes, status: int, message: str) -> None:
        """There is one answer, in JSON, that announces the end of the connection."""
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertEqual(1, answer.count(b"HTTP/1.1 "))
        self.assertTrue(head.startswith(b"HTTP/1.1 %d " % status), head)
        self.assertIn(b"Connection: close", head)
        self.assertIn(b"Content-Type: application/json", head)
        self.assertIn(b"Content-Length: %d" % len(body), head)
        self.assertEqual(message, json.loads(body)["message"])


REQUESTS = {
    "no body": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",),
    "body in the same segment": (b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",),
    "body later": (b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", b"bo", b"dy"),
    "chunked": (b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", b"0\r\n\r\n"),
    "pipelined": (b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /3 HTTP/1.1\r\n\r\n"),
    "expecting": (b"PUT /b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",),
    "malformed": (b"NONSENSE\r\n\r\n",),
    "continued header": (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",),
    "bad header": (b"GET / HTTP/1.1\r\nno colon\r\n\r\n",),
}


class StrangerTests(ChannelTestCase):
    def test_unauthorized(self) -> None:
        """A client whose certificate was not verified hears 401, once, whatever it sends; no route hears of it."""
        for name, segments in REQUESTS.items():
            with self.subTest(name):
                self.assert_only_answer(self.exchange(*segments, verified=False), 401, "Unauthorized")
        self.assertEqual([], self.resource.seen)

    def test_before_the_body(self) -> None:
        """The answer is written as soon as the headers are there."""
        head = b"PUT /v0.1/listeners/x/certificates/a.pem HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n"
        self.assert_only_answer(self.exchange(head, verified=False), 401, "Unauthorized")

    def test_head_has_no_body(self) -> None:
        """The answer to a HEAD tells a body's length and has none."""
        answer = self.exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", verified=False)
        self.assertTrue(answer.startswith(b"HTTP/1.1 401 "))
        self.assertTrue(answer.endswith(b"\r\n\r\n"))

    def test_lingers_and_closes(self) -> None:
        """After the answer, input is thrown away for two seconds; then the connection is closed, at last by force."""
        channel, transport = self.connect(verified=False)
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        channel.dataReceived(b"x" * 100_000)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(self.limits.linger_time)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.clock.advance(self.limits.close)
        self.assertTrue(transport.aborted)

    def test_throws_away_so_much(self) -> None:
        """A sender of more than a mebibyte after its refusal is cut off."""
        channel, transport = self.connect(verified=False)
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        channel.dataReceived(b"x" * self.limits.linger_bytes)
        self.assertFalse(transport.aborted)
        channel.dataReceived(b"x")
        self.assertTrue(transport.aborted)

    def test_at_the_first_line(self) -> None:
        """A stranger is refused before its headers come: none of them is kept."""
        answer = self.exchange(b"GET /info HTTP/1.1\r\n", b"X-Header: " + b"x" * 10_000, verified=False)
        self.assert_only_answer(answer, 401, "Unauthorized")

    def test_never_verified_never_heard(self) -> None:
        """Without a handshake's end nobody is verified: the verdict begins at no."""
        channel, transport = self.connect(handshake=False)
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assert_only_answer(transport.value(), 401, "Unauthorized")


class SizeTests(ChannelTestCase):
    def assert_too_large(self, *segments: bytes) -> None:
        self.assert_only_answer(self.exchange(*segments), 413, "Content Too Large")
        self.assertEqual([], self.resource.seen)

    def test_announced(self) -> None:
        """A body that announces itself as too large is refused before it arrives, wherever its first bytes are."""
        head = b"PUT /b HTTP/1.1\r\nContent-Length: 1001\r\n\r\n"
        self.assert_too_large(head)
        self.assert_too_large(head + b"x" * 1001)
        self.assert_too_large(head, b"x" * 500, b"x" * 501)
        self.assert_too_large(head + b"x" * 1001 + b"GET / HTTP/1.1\r\n\r\n")
        self.assert_too_large(b"PUT /b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")

    def test_chunked(self) -> None:
        """A body without an announced length is refused once it is too large."""
        head = b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"1f4\r\n" + b"x" * 500 + b"\r\n"
        self.assert_too_large(head, chunk, chunk, chunk)
        self.assert_too_large(head + chunk * 3 + b"0\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n")

    def test_more_digits_than_python_reads(self) -> None:
        """A length of five thousand digits is too large, not a traceback."""
        self.assert_too_large(b"PUT /b HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")

    def test_just_fits(self) -> None:
        """A body of exactly the limit is taken."""
        answer = self.exchange(b"PUT /b HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK"))
        self.assertEqual([(b"/b", b"x" * 1000, BytesIO)], self.resource.seen)


class Version10Tests(ChannelTestCase):
    """Requests of the API 1.0: its client takes 408 and 413 for success."""

    def assert_refused(self, answer: bytes, status: int, error: str) -> None:
        body = json.loads(answer.partition(b"\r\n\r\n")[2])
        self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), answer)
        self.assertEqual((status, error), (body["http_code"], body["error"]))
        self.assertIn("message", body)

    def test_too_large(self) -> None:
        """A body that is too large is a 400."""
        error = "400 Content Too Large: A body may have at most 1000 bytes here"
        for path in (b"loadbalancer/x/certificates/a.pem", b"loadbalancer/x/y/haproxy"):
            answer = self.exchange(b"PUT /1.0/" + path + b" HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
            self.assert_refused(answer, 400, error)
            self.assert_only_answer(answer, 400, "Content Too Large")

    def test_too_slow(self) -> None:
        """A body that does not come in time is a 503: the client may well send it again."""
        channel, transport = self.connect()
        channel.dataReceived(b"PUT /1.0/config HTTP/1.1\r\nContent-Length: 100\r\n\r\nx")
        self.clock.advance(self.limits.body + 0.1)
        self.assert_refused(transport.value(), 503, "503 Request Timeout: The request did not arrive in time")

    def test_path(self) -> None:
        """A path that hides a slash is refused in the same words, and the connection goes on."""
        answer = self.exchange(b"GET /1.0/a%2fb HTTP/1.1\r\n\r\n")
        self.assert_refused(answer, 400, "400 Bad Request: The path holds an encoded slash or NUL")

    def test_malformed(self) -> None:
        """What is malformed beyond its first line, too."""
        answer = self.exchange(b"GET /1.0/info HTTP/1.1\r\nno colon\r\n\r\n")
        self.assert_refused(answer, 400, "400 Bad Request: The request is not well-formed HTTP/1.1")

    def test_stranger(self) -> None:
        """A stranger hears 401 of any path."""
        answer = self.exchange(b"GET /1.0/info HTTP/1.1\r\n\r\n", verified=False)
        self.assert_refused(answer, 401, "401 Unauthorized")


class MalformedTests(ChannelTestCase):
    def test_malformed(self) -> None:
        """What is not HTTP/1.1 is a 400 in JSON, and the end of the connection."""
        for name, request in {
            "request line": b"NONSENSE\r\n\r\n",
            "version": b"GET / HTTP/3.0\r\n\r\n",
            "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "header": b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "header name": b"GET / HTTP/1.1\r\nb\xe4d: 1\r\n\r\n",
            "last header": b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
            "line without end": b"a" * 100_000,
            "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
            "length": b"PUT / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            "negative length": b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "two lengths": b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "length and chunks": b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "encoding": b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "chunk": b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        }.items():
            with self.subTest(name):
                self.assert_only_answer(self.exchange(request), 400, "Bad Request")
                self.assert_only_answer(self.exchange(request + b"GET / HTTP/1.1\r\n\r\n"), 400, "Bad Request")
        self.assertEqual([], self.resource.seen)

    def test_path(self) -> None:
        """A path that is not UTF-8, or hides a slash or NUL, is a 400 in JSON; the connection goes on."""
        for path in (b"/%ff", b"/a%2fb", b"/a%2Fb", b"/%00", b"/..%2f..%2fetc", b"*", b"https://host/info"):
            answer = self.exchange(b"GET " + path + b" HTTP/1.1\r\n\r\n")
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), path)
            self.assertEqual("Bad Request", json.loads(answer.partition(b"\r\n\r\n")[2])["message"])
        self.assertEqual([], self.resource.seen)
        self.assertIsNone(path_problem(b"/v0.1/plug/vip/%c3%a4"))

    def test_two_answers_on_one_connection(self) -> None:
        """A refused path does not end the connection: it was well-formed HTTP."""
        answer = self.exchange(b"GET /%ff HTTP/1.1\r\n\r\nGET /ok HTTP/1.1\r\n\r\n")
        self.assertEqual(1, answer.count(b"HTTP/1.1 400 "))
        self.assertEqual(1, answer.count(b"HTTP/1.1 200 "))


class DeadlineTests(ChannelTestCase):
    def drip(self, channel: AmphoraChannel, data: bytes, seconds: float, steps: int = 20) -> None:
        for position in range(steps):
            channel.dataReceived(data[position : position + 1])
            self.clock.advance(seconds / steps)

    def test_handshake(self) -> None:
        """A connection that does not shake hands is aborted after ten seconds, though nothing can be answered."""
        _, transport = self.connect(handshake=False)
        self.clock.advance(9.9)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        self.assertEqual(b"", transport.value())

    def test_headers(self) -> None:
        """Headers that drip in are cut off ten seconds after the handshake: each byte gains nothing."""
        channel, transport = self.connect()
        self.drip(channel, b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaa", 9.9)
        self.assertEqual(b"", transport.value())
        self.clock.advance(0.2)
        self.assert_only_answer(transport.value(), 408, "Request Timeout")

    def test_stranger_that_says_nothing(self) -> None:
        """A stranger's time runs out in the same way, and it learns nothing but 401."""
        _, transport = self.connect(verified=False)
        self.clock.advance(10.1)
        self.assert_only_answer(transport.value(), 401, "Unauthorized")

    def test_body(self) -> None:
        """A body that drips in is cut off when its time is over."""
        channel, transport = self.connect()
        channel.dataReceived(b"PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
        self.drip(channel, b"x" * 20, self.limits.body - 0.1)
        self.assertEqual(b"", transport.value())
        self.clock.advance(0.2)
        self.assert_only_answer(transport.value(), 408, "Request Timeout")

    def test_work_takes_its_time(self) -> None:
        """While a request is worked on, no deadline runs."""
        self.resource.hold = True
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.clock.advance(1000)
        self.assertFalse(transport.disconnecting or transport.aborted)
        self.assertEqual(b"", transport.value())

    def test_idle(self) -> None:
        """Between two requests a connection may rest; then it is closed without a word."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        transport.clear()
        self.clock.advance(self.limits.idle - 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(2)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(b"", transport.value())

    def test_next_request(self) -> None:
        """A later request has ten seconds for its headers from its first byte on."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.clock.advance(60)
        transport.clear()
        channel.dataReceived(b"G")
        self.clock.advance(10.1)
        self.assert_only_answer(transport.value(), 408, "Request Timeout")

    def test_nothing_is_left_scheduled(self) -> None:
        """A connection that ends leaves no deadline behind."""
        for verified in (True, False):
            channel, _ = self.connect(verified=verified)
            channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
            channel.connectionLost()
        channel, _ = self.connect(handshake=False)
        channel.connectionLost()
        self.assertEqual([], self.clock.getDelayedCalls())


class PoolTests(ChannelTestCase):
    limits = evolve(ChannelTestCase.limits, strangers=3, verified=2)

    def test_oldest_stranger_goes(self) -> None:
        """When the strangers' pool is full, the one that came first is aborted."""
        connections = [self.connect(handshake=False) for _ in range(4)]
        self.assertEqual([True, False, False, False], [transport.aborted for _, transport in connections])
        self.assertEqual(3, len(self.site.pools.strangers))

    def test_a_flood_crowds_out_itself(self) -> None:
        """Of strangers from several addresses, the one goes that came first from where most come from."""
        controller = self.connect(handshake=False, host="192.0.2.1")[1]
        flood = [self.connect(handshake=False, host="192.0.2.2")[1] for _ in range(5)]
        self.assertFalse(controller.aborted)
        self.assertEqual([True, True, True, False, False], [transport.aborted for transport in flood])

    def test_known_clients_have_a_pool_of_their_own(self) -> None:
        """Strangers do not crowd out those whose certificate was verified."""
        channel, transport = self.connect()
        for number in range(10):
            self.connect(verified=False, handshake=number % 2 == 0)
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertFalse(transport.aborted)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 OK"))

    def test_idle_client_makes_room(self) -> None:
        """When the pool of the verified is full, the one that has rested longest is closed."""
        first, second = self.connect(), self.connect()
        for channel, _ in (second, first):
            channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        third, transport = self.connect()
        self.assertEqual([False, True], [first[1].disconnecting, second[1].disconnecting])
        third.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 OK"))

    def test_silent_client_makes_room(self) -> None:
        """So is one that was verified and has asked nothing yet."""
        first, _ = self.connect(), self.connect()
        third, transport = self.connect()
        self.assertTrue(first[1].disconnecting)
        third.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 OK"))

    def test_all_at_work(self) -> None:
        """When all of the verified are at work, one more hears that there is no room."""
        self.resource.hold = True
        for _ in range(2):
            self.connect()[0].dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assert_only_answer(self.exchange(b"GET / HTTP/1.1\r\n\r\n"), 503, "Service Unavailable")

    def test_leaving(self) -> None:
        """Who has left is not counted."""
        for verified in (True, False):
            channel, _ = self.connect(verified=verified)
            channel.connectionLost()
        self.assertEqual((0, 0), (len(self.site.pools.strangers), len(self.site.pools.verified)))


class BodyTests(ChannelTestCase):
    limits = evolve(ChannelTestCase.limits, body_size=10_000_000)

    def put(self, path: bytes, body: bytes) -> bytes:
        return b"PUT " + path + b" HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def test_keys_stay_in_memory(self) -> None:
        """A PEM body is never in a file while it arrives, however large: Twisted would make one from 100 kB on."""
        body = b"x" * 300_000
        self.exchange(self.put(PEM_PATH, body))
        self.assertEqual([(PEM_PATH, body, BytesIO)], self.resource.seen)
        self.assertEqual([], os.listdir(self.spool.directory))

    def held(self, *segments: bytes) -> tuple[AmphoraChannel, IRequest]:
        self.resource.hold = True
        channel, _ = self.connect()
        for segment in segments:
            channel.dataReceived(segment)
        return channel, self.resource.held[0]

    def test_configurations_are_spooled(self) -> None:
        """A haproxy configuration is collected in a file beside its place, which is whole when it is asked for."""
        body = os.urandom(300_000)
        whole = self.put(CONFIG_PATH, body)
        _, request = self.held(whole[:1000], whole[1000:200_000], whole[200_000:])
        path = self.successResultOf(body_file(request))
        self.assertEqual(body, path.read_bytes())
        self.assertEqual(self.spool.directory, os.path.relpath(path.parent))

    def test_empty_configuration(self) -> None:
        """A configuration of no bytes is a file of no bytes."""
        _, request = self.held(self.put(CONFIG_PATH, b""))
        self.assertEqual(b"", self.successResultOf(body_file(request)).read_bytes())

    def test_unfinished_configuration(self) -> None:
        """A client that leaves in the middle leaves no file."""
        channel, _ = self.connect()
        channel.dataReceived(self.put(CONFIG_PATH, b"x" * 2000)[:1000])
        self.assertEqual(1, len(os.listdir(self.spool.directory)))
        channel.connectionLost()
        self.assertEqual([], os.listdir(self.spool.directory))

    def test_configuration_that_nobody_asks_for(self) -> None:
        """The file of a request that is answered without it goes away."""
        self.exchange(self.put(CONFIG_PATH, b"x" * 2000))
        self.assertEqual([], os.listdir(self.spool.directory))

    def test_memory_body_where_a_file_is_asked_for(self) -> None:
        """A body in memory has no file, and a body in a file is not in memory."""
        _, request = self.held(self.put(PEM_PATH, b"abc"))
        self.assertEqual(b"abc", body_bytes(request))
        self.failureResultOf(body_file(request), TypeError)

    def test_body_class(self) -> None:
        """What is a configuration is told by its method and path alone."""
        for method, path, kind in (
            (b"PUT", CONFIG_PATH, SpooledBody),
            (b"PUT", CONFIG_PATH + b"?a=b", SpooledBody),
            (b"POST", CONFIG_PATH, BytesIO),
            (b"PUT", b"/v0.1/listeners/x/haproxy", BytesIO),
        ):
            self.resource.seen.clear()
            self.exchange(method + b" " + path + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            self.assertEqual([kind], [seen[2] for seen in self.resource.seen])

    def test_request_knows_its_channel(self) -> None:
        """A request is one of ours."""
        _, request = self.held(self.put(PEM_PATH, b""))
        self.assertIsInstance(request, AmphoraRequest)


class PipelineTests(ChannelTestCase):
    def test_thousands_of_requests_at_once(self) -> None:
        """Requests that arrive in one segment are answered in their order."""
        answer = self.exchange(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(3000)))
        self.assertEqual(3000, answer.count(b"HTTP/1.1 200 OK"))
        self.assertEqual([b"/%d" % number for number in range(3000)], [seen[0] for seen in self.resource.seen])
