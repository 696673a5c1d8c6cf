"""Tests for L{amphora.api.tls}: handshakes in memory; those on real sockets are in `tests.integration.test_edge`."""

from __future__ import annotations

import base64
import gc

from attrs import evolve, frozen
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.trial.unittest import SynchronousTestCase

from amphora.api.tls import BadTLSFiles, ClientAuth, MutualTLS, TLSFiles
from amphora.pem import BadPEM
from amphora.testing.pki import CLIENT, SERVER, Authority, Issued, Part, Validity, new_key

KEY, CERTIFICATE, CHAIN = Part.KEY, Part.CERTIFICATE, Part.CHAIN

AUTHORITY = Authority.create()
BELOW = AUTHORITY.subordinate()
SERVER_CERTIFICATE = BELOW.issue("amphora", usages=(SERVER,))
CONTROLLER = AUTHORITY.issue("controller", usages=(CLIENT,))
FILES = TLSFiles("server.pem", SERVER_CERTIFICATE.pem(CERTIFICATE, KEY, CHAIN), "ca.pem", AUTHORITY.certificate_pem)

VERSIONS = {"TLS 1.2": SSL.TLS1_2_VERSION, "TLS 1.3": SSL.TLS1_3_VERSION}


@frozen
class Outcome:
    """What came of a handshake, as the server sees it, and the certificates that the client was shown."""

    verified: bool
    problem: str
    shown: tuple[str, ...]
    completed: bool


def shake_hands(tls: MutualTLS, client: Issued | None, version: int = SSL.TLS1_3_VERSION) -> Outcome:
    """Let a client and a server meet in memory."""
    clock = Clock()
    factory = TLSMemoryBIOFactory(tls, False, Factory.forProtocol(Protocol), clock=clock)
    server = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert isinstance(server, TLSMemoryBIOProtocol)
    transport = StringTransport()
    server.makeConnection(transport)

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if client is not None:
        context.use_certificate(client.certificate)
        context.use_privatekey(client.key)
        for link in client.chain:
            context.add_extra_chain_cert(link)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    completed = False
    for _ in range(10):
        try:
            connection.do_handshake()
            completed = True
        except SSL.WantReadError:
            pass
        except SSL.Error:
            break
        try:
            server.dataReceived(connection.bio_read(100_000))
        except SSL.WantReadError:
            if completed:
                break
        clock.advance(0)
        connection.bio_write(transport.value() or b"")
        transport.clear()
    try:
        connection.recv(1)
    except SSL.WantReadError:
        pass
    except SSL.Error:
        completed = False
    chain = connection.get_peer_cert_chain() or []
    shown = tuple(str(one.get_subject().CN) for one in chain)
    return Outcome(tls.verified(server), tls.problem(server), shown, completed)


class MutualTLSTestCase(SynchronousTestCase):
    def make(self, client_auth: ClientAuth = "answer", protocol: str = "TLSv1.2", files: TLSFiles = FILES) -> MutualTLS:
        tls = MutualTLS(client_auth, protocol)
        tls.replace(files)
        return tls


class VerdictTests(MutualTLSTestCase):
    """Who was verified."""

    def test_no_handshake(self) -> None:
        """The verdict on a connection that has not shaken hands, or is none of ours, is no."""
        tls = self.make()
        self.assertFalse(tls.verified(StringTransport()))
        factory = TLSMemoryBIOFactory(tls, False, Factory.forProtocol(Protocol), clock=Clock())
        server = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert isinstance(server, TLSMemoryBIOProtocol)
        server.makeConnection(StringTransport())
        self.assertFalse(tls.verified(server))
        self.assertFalse(self.make().verified(server))
        self.assertEqual("no client certificate", tls.problem(server))

    def test_known(self) -> None:
        """A client with a certificate of the CA's, also below it, is verified, in either way to treat strangers."""
        modes: tuple[ClientAuth, ...] = ("answer", "handshake")
        for mode in modes:
            for client in (CONTROLLER, BELOW.issue("controller", usages=(CLIENT,))):
                for name, version in VERSIONS.items():
                    outcome = shake_hands(self.make(mode), client, version)
                    self.assertEqual((True, True), (outcome.verified, outcome.completed), f"{name} {mode}")

    def test_strangers(self) -> None:
        """A stranger's handshake is let through with the verdict no, and why, or it fails: as configured."""
        lone = Authority.create("lone")
        for client, problem in (
            (None, "no client certificate"),
            (Authority.create("other").issue("controller", usages=(CLIENT,)), "its issuer is not known"),
            (AUTHORITY.issue("controller", usages=(CLIENT,), validity=Validity.EXPIRED), "it has expired"),
            (AUTHORITY.issue("controller", usages=(CLIENT,), validity=Validity.NOT_YET), "it is not yet valid"),
            (AUTHORITY.issue("controller", usages=(SERVER,)), "it is not meant for clients"),
            (lone.identity, "it is self-signed"),
        ):
            for name, version in VERSIONS.items():
                let_in = shake_hands(self.make(), client, version)
                self.assertEqual((False, True), (let_in.verified, let_in.completed), f"{problem}, {name}")
                self.assertIn(problem, let_in.problem)
                kept_out = shake_hands(self.make("handshake"), client, version)
                self.assertEqual((False, False), (kept_out.verified, kept_out.completed), f"{problem}, {name}")

    def test_versions(self) -> None:
        """The configured version is a minimum, and 1.2 the lowest of all."""
        for protocol, completed in (
            ("TLSv1.2", [False, True, True]),
            ("TLSv1.3", [False, False, True]),
            ("TLSv1", [False, True, True]),
            ("SSLv3", [False, True, True]),
        ):
            tls = self.make(protocol=protocol)
            versions = (SSL.TLS1_1_VERSION, *VERSIONS.values())
            self.assertEqual(completed, [shake_hands(tls, CONTROLLER, one).completed for one in versions], protocol)

    def test_connections_are_forgotten(self) -> None:
        """What a handshake found is kept no longer than its connection."""
        tls = self.make()
        for _ in range(3):
            shake_hands(tls, CONTROLLER)
        gc.collect()
        self.assertEqual(0, len(tls._findings))


class FilesTests(MutualTLSTestCase):
    """Which files serve."""

    def test_orders(self) -> None:
        """The key stands before or after the certificate; the chain is shown to clients."""
        for order in ((CERTIFICATE, KEY, CHAIN), (KEY, CERTIFICATE, CHAIN), (CERTIFICATE, CHAIN, KEY)):
            files = evolve(FILES, certificate=SERVER_CERTIFICATE.pem(*order))
            outcome = shake_hands(self.make(files=files), CONTROLLER)
            self.assertEqual(("amphora", "throw-away intermediate"), outcome.shown)

    def test_forms(self) -> None:
        """Line ends of either kind, no last one, parameters before the key, RSA, PKCS#8, Ed25519."""
        text = SERVER_CERTIFICATE.pem(CERTIFICATE, KEY)
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        pkcs8 = SERVER_CERTIFICATE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for content in (
            text.replace(b"\n", b"\r\n"),
            text.removesuffix(b"\n"),
            SERVER_CERTIFICATE.certificate_pem + parameters + SERVER_CERTIFICATE.key_pem,
            SERVER_CERTIFICATE.certificate_pem + pkcs8,
            AUTHORITY.issue("amphora", use_rsa=True).pem(KEY, CERTIFICATE),
            b"text\n" + text + b"text",
        ):
            outcome = shake_hands(self.make(files=evolve(FILES, certificate=content)), CONTROLLER)
            self.assertEqual(("amphora",), outcome.shown[:1])

    def test_several_authorities(self) -> None:
        """A client of any of the authorities is verified; one authority twice is no error."""
        other = Authority.create("other")
        ca = AUTHORITY.certificate_pem + other.certificate_pem + AUTHORITY.certificate_pem
        tls = self.make(files=evolve(FILES, ca=ca))
        for authority in (AUTHORITY, other):
            self.assertTrue(shake_hands(tls, authority.issue("controller", usages=(CLIENT,))).verified)

    def test_bad_files(self) -> None:
        """Each file that cannot serve is named, with what is wrong, and nothing of what is in it."""
        key = SERVER_CERTIFICATE.key
        encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
        unknown = b"-----BEGIN PRIVATE KEY-----\nMAwCAQAwBQYDKgMEBAEC\n-----END PRIVATE KEY-----\n"
        garbled = b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n"
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        certificate = SERVER_CERTIFICATE.certificate_pem
        key_lines = b"".join(SERVER_CERTIFICATE.key_pem.splitlines(keepends=True)[1:-1])
        wrong = "the key cannot be read or is not the certificate's"
        for content, problem in (
            (b"", "holds no certificate"),
            (SERVER_CERTIFICATE.key_pem, "holds no certificate"),
            (certificate, "holds no private key"),
            (certificate + public, "holds no private key"),
            (garbled + SERVER_CERTIFICATE.key_pem, "a certificate cannot be read"),
            (certificate + garbled + SERVER_CERTIFICATE.key_pem, "a certificate cannot be read"),
            (_of_no_version() + SERVER_CERTIFICATE.key_pem, "a certificate cannot be read"),
            # A label that is a key: the library quotes labels that do not match.
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END \n" + key_lines + certificate,
                "a certificate cannot be read",
            ),
            (certificate + encrypted, wrong),
            (certificate + unknown, wrong),
            (certificate + SERVER_CERTIFICATE.key_pem[:100], wrong),
            (certificate + b"PRIVATE KEY-----", wrong),
            (certificate + Issued(SERVER_CERTIFICATE.certificate, new_key()).key_pem, wrong),
            (certificate + AUTHORITY.issue("x", use_rsa=True).key_pem, wrong),
            (SERVER_CERTIFICATE.pem(CHAIN, CERTIFICATE, KEY), wrong),
            (certificate + _ed25519_key(), wrong),
        ):
            self.assertEqual(f"server.pem: {problem}", self.assert_bad(evolve(FILES, certificate=content)))

    def test_bad_ca(self) -> None:
        """So is the clients' CA."""
        for content, problem in (
            (b"", "ca.pem: holds no certificate"),
            (b"-----BEGIN CERTIFICATE-----\n", "ca.pem: a certificate cannot be read"),
            (_of_no_version(), "ca.pem: a certificate cannot be read"),
        ):
            self.assertIn(problem, self.assert_bad(evolve(FILES, ca=content)))

    def assert_bad(self, files: TLSFiles) -> str:
        return str(self.assertRaises(BadTLSFiles, self.make, files=files))

    def test_replace(self) -> None:
        """After a change new handshakes are shown the new certificate, and the new CA counts."""
        tls = self.make()
        other = Authority.create("other")
        tls.replace(TLSFiles("s", other.issue("renewed").pem(KEY, CERTIFICATE), "c", other.certificate_pem))
        self.assertEqual("renewed", shake_hands(tls, None).shown[0])
        self.assertFalse(shake_hands(tls, CONTROLLER).verified)
        self.assertTrue(shake_hands(tls, other.issue("controller", usages=(CLIENT,))).verified)

    def test_replace_fails(self) -> None:
        """Files that do not serve change nothing."""
        tls = self.make()
        self.assertRaises(BadTLSFiles, tls.replace, evolve(FILES, certificate=CONTROLLER.certificate_pem))
        self.assertRaises(BadTLSFiles, tls.replace, evolve(FILES, ca=b""))
        outcome = shake_hands(tls, CONTROLLER)
        self.assertEqual((True, "amphora"), (outcome.verified, outcome.shown[0]))

    def test_renewal(self) -> None:
        """A renewal is shown once it is put in use; who may speak stays as it was."""
        tls = self.make()
        put_in_use = tls.renewal(AUTHORITY.issue("renewed").pem(KEY, CERTIFICATE, CHAIN))
        self.assertEqual("amphora", shake_hands(tls, None).shown[0])
        put_in_use()
        outcome = shake_hands(tls, CONTROLLER)
        self.assertEqual((True, "renewed"), (outcome.verified, outcome.shown[0]))
        tls.renewal(SERVER_CERTIFICATE.pem(CERTIFICATE, KEY, CHAIN))()
        self.assertEqual("amphora", shake_hands(tls, CONTROLLER).shown[0])

    def test_renewal_fails(self) -> None:
        """A certificate that cannot serve is refused, one with a key that TLS has no use for too; nothing changes."""
        tls = self.make()
        for content in (b"", CONTROLLER.certificate_pem, CONTROLLER.key_pem + AUTHORITY.certificate_pem, x25519_pem()):
            error = self.assertRaises(BadPEM, tls.renewal, content)
            self.assertNotIn("server.pem", error.reason)
        self.assertEqual("amphora", shake_hands(tls, CONTROLLER).shown[0])


def x25519_pem() -> bytes:
    """A sound certificate over a key that agrees on secrets, but signs nothing."""
    key = x25519.X25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text + AUTHORITY.certify(key.public_key()).public_bytes(Encoding.PEM)


def _of_no_version() -> bytes:
    """A certificate whose version does not exist."""
    content = SERVER_CERTIFICATE.certificate.public_bytes(Encoding.DER)
    version = content.index(bytes.fromhex("a003020102")) + 4
    damaged = content[:version] + b"\x09" + content[version + 1 :]
    text = base64.encodebytes(damaged)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def _ed25519_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
