"""What a client may say over TLS before it was verified."""

from __future__ import annotations

import contextlib
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from amphora.api.channel import AmphoraSite, Limits
from amphora.api.server import ApiFactory, Records
from amphora.api.tls import MutualTLS
from amphora.blocking import AtOnce
from amphora.testing.pki import Authority, Issued
from tests.api.test_channel import TemporarySpool, Transport
from tests.api.test_tls import CONTROLLER, FILES

QUESTION = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class TCPTransport(Transport):
    """What TLS is spoken over."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """It has no delay."""


class RecordsTests(SynchronousTestCase):
    def test_cut(self) -> None:
        """A stream is cut where its records end, however it arrives."""
        records = [b"\x16\x03\x01\x00\x03abc", b"\x17\x03\x03\x00\x00", b"\x17\x03\x03\x01\x00" + b"x" * 256]
        for step in (1, 2, 4, 5, 7, 1000):
            cutter, pieces, begun = Records(), [], []
            stream = b"".join(records)
            while stream:
                size = cutter.size_of_next(stream[:step])
                self.assertGreater(size, 0)
                pieces.append(stream[:size])
                begun.append(cutter.begun)
                stream = stream[size:]
            self.assertEqual(b"".join(records), b"".join(pieces))
            self.assertEqual(3, begun[-1])
            for number, record in enumerate(records, 1):
                self.assertEqual(
                    record, b"".join(piece for piece, of in zip(pieces, begun, strict=True) if of == number)
                )


class StrangerTests(SynchronousTestCase):
    def meet(self, client: Issued | None, limits: Limits) -> None:
        """Shake hands over TLS 1.2, with what the client says each time in one piece."""
        tls = MutualTLS("answer", "TLSv1.2")
        tls.replace(FILES)
        self.clock = Clock()
        self.site = AmphoraSite(
            Resource(),
            reactor=self.clock,
            verdicts=tls,
            blocking=AtOnce(),
            spool=TemporarySpool("."),
            limits=limits,
        )
        factory = ApiFactory(tls, False, cast(Any, self.site), clock=self.clock)
        self.transport = TCPTransport()
        server = factory.buildProtocol(self.transport.getPeer())
        assert server is not None
        self.server = server
        server.makeConnection(self.transport)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        if client is not None:
            context.use_certificate(client.certificate)
            context.use_privatekey(client.key)
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()
        for _ in range(3):
            self.exchange(self.client.do_handshake)

    def exchange(self, act: Any) -> None:
        with contextlib.suppress(SSL.WantReadError):
            act()
        try:
            self.server.dataReceived(self.client.bio_read(1_000_000))
        except SSL.WantReadError:
            return
        self.clock.advance(0)
        if self.transport.value():
            self.client.bio_write(self.transport.value())
        self.transport.clear()

    def say(self, *texts: bytes) -> None:
        """A record each, all in one piece."""

        def say() -> None:
            for text in texts:
                self.client.send(text)

        self.exchange(say)

    def test_long_handshake(self) -> None:
        """A handshake in which a client says more than it has to is ended; a client of ours says less."""
        self.meet(CONTROLLER, Limits(handshake_size=500))
        self.assertTrue(self.transport.aborted)
        self.meet(CONTROLLER, Limits(handshake_size=2000))
        self.assertFalse(self.transport.aborted)

    def test_many_records(self) -> None:
        """A stranger has so many records; whoever was verified has as many as he likes."""
        limits = Limits(stranger_records=20)
        foreign = Authority.create("other").issue("controller")
        for stranger in (None, foreign):
            self.meet(stranger, limits)
            self.say(*[b"G"] * 10)
            self.assertFalse(self.transport.aborted)
            self.say(*[b"G"] * 10)
            self.assertTrue(self.transport.aborted)
        self.meet(CONTROLLER, limits)
        self.say(*[b"\r\n"], *[bytes([byte]) for byte in QUESTION])
        self.assertFalse(self.transport.aborted)
        self.assertIn(b"404", self.client.recv(1000))
