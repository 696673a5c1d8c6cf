"""
Is client verification in force?  Strangers try to get in before anybody else can.

They are played in memory, against the very context that is to be used (L{require_verification}: at the start and at
each change of certificates) and against the channel that serves (L{require_refusal}: at the start).  Not what
a setting says counts, but what becomes of a stranger.  It costs some milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IPushProducer, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

Mode = Literal["answer", "handshake"]
"""What has to become of strangers: their handshakes succeed and they hear 401, or their handshakes fail."""

_VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)
_TURNS = 8
"""More than any handshake and one answer take."""
_MUCH = 1024 * 1024
_QUESTION = b"GET /info HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n\r\n"


class VerificationNotInForce(Exception):
    """A stranger was not recognised as one: nothing must be served.  The text says what was seen."""

    def __init__(self, seen: str) -> None:
        super().__init__(f"client verification is not in force ({seen}): nothing is served, or anybody could rule here")


class Finding(Protocol):
    """What the server knows of one client."""

    @property
    def verified(self) -> bool: ...
    @property
    def problem(self) -> str | None:
        """What was wrong with the certificate that it showed; None if nothing was, or if it showed none."""


@frozen
class Stranger:
    """Who shows a certificate of his own making, or none."""

    name: str
    certificate: x509.Certificate | None = None
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)

    @classmethod
    def impostor(cls, issuer: x509.Name) -> Stranger:
        """Make one whose certificate names one of our authorities as its issuer."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "impostor")]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls("a stranger with a certificate of his own making", certificate, key)


NOBODY = Stranger("a stranger without a certificate")


@define(eq=False)
class _Client:
    """The stranger's side of a connection that leads into memory."""

    _context: SSL.Context
    connection: SSL.Connection = field(init=False)
    saw_a_certificate: bool = field(init=False, default=False)
    """Whether the server showed one in the handshake.  In one that resumes a session there are none, on either side."""

    @classmethod
    def create(cls, stranger: Stranger, *versions: int) -> _Client:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(versions[0])
        context.set_max_proto_version(versions[-1])
        if stranger.certificate is not None and stranger.key is not None:
            context.use_certificate(stranger.certificate)
            context.use_privatekey(stranger.key)
        client = cls(context)
        context.set_verify(SSL.VERIFY_PEER, client._shown)
        client.connection = SSL.Connection(context, None)
        return client

    def come_back(self) -> None:
        """Make a new connection, which asks to resume the session of the last."""
        session = self.connection.get_session()
        self.connection = SSL.Connection(self._context, None)
        self.saw_a_certificate = False
        if session is not None:
            self.connection.set_session(session)

    def _shown(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int) -> bool:
        self.saw_a_certificate = True
        return True

    def shake_hands(self, server: SSL.Connection) -> bool:
        """Meet a server.  @return: Did it take the handshake to its end?"""
        self.connection.set_connect_state()
        server.set_accept_state()
        completed = False
        for _ in range(_TURNS):
            with suppress(SSL.Error):
                # In TLS 1.3, what makes a session comes after the handshake.
                self.connection.do_handshake()
                self.connection.recv(1)
            _carry(_sent_by(self.connection), server)
            try:
                server.do_handshake()
                completed = True
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return False
            _carry(_sent_by(server), self.connection)
        if completed:
            # The session of a connection that just breaks off cannot be resumed.
            for side in (self.connection, server):
                side.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return completed


def _sent_by(connection: SSL.Connection) -> bytes:
    try:
        return connection.bio_read(_MUCH)
    except SSL.WantReadError:
        return b""


def _carry(data: bytes, to: SSL.Connection) -> None:
    # OpenSSL takes an empty write for a failed one.
    if data:
        to.bio_write(data)


def require_verification(
    issuer: x509.Name, mode: Mode, connect: Callable[[], SSL.Connection], found: Callable[[SSL.Connection], Finding]
) -> bool:
    """
    Shake hands as strangers of either kind do, and as one that comes back.

    @param issuer: An authority of ours, which the impostor names.
    @param connect: Makes the server's side of a connection that leads into memory.
    @return: False where no handshake got as far as the client's certificate: nobody at all can be served then.
    @raise VerificationNotInForce: if one of them was verified, or not looked at.
    """
    looked = False
    for stranger in (NOBODY, Stranger.impostor(issuer)):
        for version in _VERSIONS:
            client = _Client.create(stranger, version)
            for _ in range(2):
                server = connect()
                completed = client.shake_hands(server)
                finding = found(server)
                if finding.verified:
                    raise VerificationNotInForce(f"{stranger.name} was taken for verified")
                if completed and mode == "handshake":
                    raise VerificationNotInForce(f"{stranger.name} got through the handshake")
                if completed and not client.saw_a_certificate:
                    raise VerificationNotInForce("a session was resumed, in which no certificate is looked at")
                if completed and stranger.certificate is not None and finding.problem is None:
                    raise VerificationNotInForce("clients' certificates are not looked at")
                looked = looked or finding.problem is not None
                client.come_back()
    return looked


def require_refusal(tls: IOpenSSLServerConnectionCreator, mode: Mode, factory: ServerFactory[Any]) -> None:
    """
    Ask a question as a stranger without a certificate does.

    @param factory: Makes the protocols that serve, on a clock that stands still.
    @raise VerificationNotInForce: if the answer is anything but 401, or there is one where handshakes have to fail.
    """
    clock = Clock()
    wire = _Wire()
    server = TLSMemoryBIOFactory(tls, False, factory, clock=clock).buildProtocol(wire.getPeer())
    assert server is not None
    server.makeConnection(wire)
    client = _Client.create(NOBODY, *_VERSIONS).connection
    client.set_connect_state()
    asked, answer = False, b""
    for _ in range(_TURNS):
        with suppress(SSL.Error):
            client.do_handshake()
            if not asked:
                asked = client.send(_QUESTION) > 0
            answer += client.recv(_MUCH)
        if sent := _sent_by(client):
            server.dataReceived(sent)
        clock.advance(0)
        _carry(wire.taken(), client)
    server.connectionLost(connectionDone)
    if mode == "answer" and not answer.startswith(b"HTTP/1.1 401 "):
        heard = answer[:12].decode("latin-1") or "nothing"
        raise VerificationNotInForce(f"{NOBODY.name} did not hear 401, but {heard}")
    if mode == "handshake" and answer:
        raise VerificationNotInForce(f"{NOBODY.name} was answered")


@implementer(ITransport)
@define(eq=False)
class _Wire:
    """A connection whose other end is us."""

    _written: bytearray = field(init=False, factory=bytearray)

    def taken(self) -> bytes:
        data, self._written = bytes(self._written), bytearray()
        return data

    def write(self, data: bytes) -> None:
        self._written += data

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """There is none."""

    abortConnection = loseConnection
    unregisterProducer = loseConnection
    pauseProducing = loseConnection
    resumeProducing = loseConnection

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Nothing has to wait here."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """It has no delay."""

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 0)

    getHost = getPeer
