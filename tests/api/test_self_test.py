"""Whatever lets strangers in, it is found before anything is served (C1)."""

from __future__ import annotations

from typing import Any, cast

from attrs import define
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import ITransport
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource

from amphora.api.channel import AmphoraChannel, AmphoraSite, Limits
from amphora.api.self_test import VerificationNotInForce
from amphora.api.server import ApiService
from amphora.api.tls import BadTLSFiles, ClientAuth, MutualTLS
from amphora.blocking import AtOnce
from amphora.pem import BadPEM
from amphora.testing.pki import Part
from tests.api.test_channel import TemporarySpool
from tests.api.test_tls import AUTHORITY, CONTROLLER, FILES, shake_hands

MODES: tuple[ClientAuth, ...] = ("answer", "handshake")


class ContextTests(SynchronousTestCase):
    """No context gets into use that does not tell strangers from clients."""

    def assert_refused(self, mode: ClientAuth, seen: str) -> None:
        error = self.assertRaises(VerificationNotInForce, MutualTLS(mode, "TLSv1.2").replace, FILES)
        self.assertIn("client verification is not in force", str(error))
        self.assertIn(seen, str(error))

    def verify(self, *, without: int) -> None:
        """From now on servers' contexts verify so, whatever they are told."""
        set_verify = SSL.Context.set_verify

        def told_wrongly(context: SSL.Context, mode: int, callback: Any) -> None:
            of_a_server = isinstance(getattr(callback, "__self__", None), MutualTLS)
            set_verify(context, mode & ~without if of_a_server else mode, callback)

        self.patch(SSL.Context, "set_verify", told_wrongly)

    def test_nobody_is_asked(self) -> None:
        """No client is asked for a certificate."""
        self.verify(without=SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        self.assert_refused("answer", "clients' certificates are not looked at")
        self.assert_refused("handshake", "a stranger without a certificate got through the handshake")

    def test_whoever_has_none_gets_through(self) -> None:
        """Certificates are checked, but none is required."""
        self.verify(without=SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        self.assert_refused("handshake", "a stranger without a certificate got through the handshake")

    def test_all_are_right(self) -> None:
        """The callback notes that any certificate is right."""

        def note(tls: MutualTLS, connection: SSL.Connection, _: crypto.X509, error: int, depth: int, good: int) -> bool:
            tls._findings[connection].leaf_verified = True
            return True

        self.patch(MutualTLS, "_note", note)
        for mode in MODES:
            self.assert_refused(mode, "a stranger with a certificate of his own making was taken for verified")

    def test_nothing_is_noted(self) -> None:
        """The callback lets all through and notes nothing."""
        self.patch(MutualTLS, "_note", lambda *_: True)
        self.assert_refused("answer", "clients' certificates are not looked at")
        self.assert_refused("handshake", "a stranger with a certificate of his own making got through the handshake")

    def test_sessions_are_resumed(self) -> None:
        """Sessions are kept by the server, or by the client in tickets."""
        self.patch(SSL.Context, "set_session_cache_mode", lambda *_: SSL.SESS_CACHE_OFF)
        self.assert_refused("answer", "a session was resumed")
        set_options = SSL.Context.set_options
        self.patch(
            SSL.Context, "set_options", lambda context, options: set_options(context, options & ~SSL.OP_NO_TICKET)
        )
        self.assert_refused("answer", "a session was resumed")

    def test_renewal(self) -> None:
        """What breaks later is found by the next renewal; it is refused, and what was used before stays."""
        tls = MutualTLS("answer", "TLSv1.2")
        tls.replace(FILES)
        self.patch(MutualTLS, "_note", lambda *_: True)
        renewed = AUTHORITY.issue("renewed").pem(Part.CERTIFICATE, Part.KEY)
        self.assertRaises(VerificationNotInForce, tls.renewal, renewed)
        self.assertEqual(("amphora",), shake_hands(tls, CONTROLLER).shown[:1])

    def test_no_handshake(self) -> None:
        """A certificate with which no handshake comes about is refused as such: it would lock everybody out."""
        key = ec.generate_private_key(ec.SECP256K1())
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        content = text + AUTHORITY.certify(key.public_key()).public_bytes(Encoding.PEM)
        tls = MutualTLS("answer", "TLSv1.2")
        tls.replace(FILES)
        error = self.assertRaises(BadPEM, tls.renewal, content)
        self.assertIn("no TLS handshake comes about with it", error.reason)
        files = type(FILES)("server.pem", content, "ca.pem", FILES.ca)
        self.assertRaises(BadTLSFiles, tls.replace, files)

    def test_each_version_in_turn(self) -> None:
        """An agent that speaks TLS 1.3 only is tested on that."""
        for mode in MODES:
            MutualTLS(mode, "TLSv1.3").replace(FILES)


@define(eq=False)
class _Credulous(MutualTLS):
    def verified(self, transport: ITransport) -> bool:
        return True


class ServiceTests(SynchronousTestCase):
    """Nothing listens before a stranger has heard 401, or nothing."""

    def service(self, tls: MutualTLS) -> ApiService:
        tls.replace(FILES)
        self.reactor = MemoryReactorClock()
        self.site = AmphoraSite(
            Resource(),
            reactor=self.reactor,
            verdicts=tls,
            blocking=AtOnce(),
            spool=TemporarySpool("."),
            limits=Limits(),
        )
        return ApiService(cast(Any, self.reactor), self.site, tls, "127.0.0.1", 9443)

    def assert_refused(self, service: ApiService, seen: str) -> None:
        error = self.assertRaises(VerificationNotInForce, service.startService)
        self.assertIn(seen, str(error))
        self.assertEqual([], self.reactor.tcpServers)

    def test_in_force(self) -> None:
        """Where all is well the API listens, and nothing is left of the self-test."""
        for mode in MODES:
            self.service(MutualTLS(mode, "TLSv1.2")).startService()
            self.assertEqual(1, len(self.reactor.tcpServers))
            self.assertEqual([], self.reactor.getDelayedCalls())
            self.assertEqual({}, self.site.pools.strangers)

    def test_verdict_is_forgotten(self) -> None:
        """Whoever connects is taken for verified."""
        self.assert_refused(self.service(_Credulous("answer", "TLSv1.2")), "did not hear 401, but HTTP/1.1 404")

    def test_verdict_is_not_asked_for(self) -> None:
        """The channel passes requests on without a look at the verdict."""
        service = self.service(MutualTLS("answer", "TLSv1.2"))
        for name in ("lineReceived", "allHeadersReceived"):
            self.patch(AmphoraChannel, name, getattr(HTTPChannel, name))
        self.assert_refused(service, "did not hear 401, but HTTP/1.1 404")

    def test_handshakes_succeed(self) -> None:
        """A stranger is answered where the handshake should have failed."""
        tls = MutualTLS("answer", "TLSv1.2")
        service = self.service(tls)
        tls.client_auth = "handshake"
        self.assert_refused(service, "a stranger without a certificate was answered")
