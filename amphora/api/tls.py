"""
Mutual TLS: who may speak, decided in the handshake, told in HTTP.

With `client_auth = answer` a handshake with a missing or bad client certificate is let through and its failure
noted, so that the client hears a 401 and not a broken pipe; with `handshake` TLS itself refuses.  Either way
the verdict on a connection is "not verified" until its certificate was.

Sessions are never resumed: a resumed handshake shows no certificate, so no verdict could be reached on it.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from attrs import define, evolve, field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, ITransport
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from amphora.api.self_test import Mode, require_verification
from amphora.pem import MISMATCH, BadPEM, check_pem

ClientAuth = Mode

_CERTIFICATE_BLOCK = b"-----BEGIN CERTIFICATE-----"
_MINIMUM = {"TLSv1.3": SSL.TLS1_3_VERSION}
"""Below TLS 1.2 nothing is spoken, whatever the configuration names."""


_PROBLEMS = {
    7: "its signature is not its issuer's",
    9: "it is not yet valid",
    10: "it has expired",
    18: "it is self-signed",
    19: "its chain ends in a CA that is not ours",
    20: "its issuer is not known",
    21: "its issuer is not known",
    24: "a CA in its chain may not sign",
    26: "it is not meant for clients",
}
"""The usual codes of X509_STORE_CTX_get_error(3), of the client's certificate."""


class BadTLSFiles(Exception):
    """The server's certificate, its key or the clients' CA cannot serve; the text names the file and why."""


@frozen
class TLSFiles:
    """The PEM files' contents, and their names for error messages."""

    certificate_path: str
    certificate: bytes = field(repr=False)
    ca_path: str
    ca: bytes


@define
class _Finding:
    """Only a leaf that verified under a chain that verified counts; whatever else happened does not."""

    leaf_verified: bool = False
    problem: str | None = None

    @property
    def verified(self) -> bool:
        return self.leaf_verified and self.problem is None


def build_context(files: TLSFiles, client_auth: ClientAuth, protocol: str, callback: object) -> SSL.Context:
    """
    A server context of these files.

    @param protocol: the configuration's `agent_tls_protocol`; it is a minimum.
    @param callback: pyOpenSSL's verify callback.
    @raise BadTLSFiles: if they do not make one.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_MINIMUM.get(protocol, SSL.TLS1_2_VERSION))
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    own, *chain = _certificates(files.certificate_path, files.certificate)
    try:
        context.use_certificate(own)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        key = load_pem_private_key(_key_block(files), password=None, unsafe_skip_rsa_key_validation=True)
        context.use_privatekey(key)  # type: ignore[arg-type]
        context.check_privatekey()
    except (SSL.Error, crypto.Error, ValueError, TypeError, UnsupportedAlgorithm):
        # OpenSSL's texts are not for readers, and may quote what was read.
        raise BadTLSFiles(f"{files.certificate_path}: the key cannot be read or is not the certificate's") from None
    authorities = context.get_cert_store()
    assert authorities is not None
    trusted = [crypto.X509.from_cryptography(ca) for ca in _certificates(files.ca_path, files.ca)]
    for authority in trusted:
        authorities.add_cert(authority)
    context.set_client_ca_list([authority.get_subject() for authority in trusted])
    mode = SSL.VERIFY_PEER
    if client_auth == "handshake":
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(mode, callback)  # type: ignore[arg-type]
    # OpenSSL refuses to verify clients without a name for its sessions, even where none is kept.
    context.set_session_id(b"amphora-agent")
    return context


def _certificates(path: str, content: bytes) -> list[x509.Certificate]:
    if _CERTIFICATE_BLOCK not in content:
        raise BadTLSFiles(f"{path}: holds no certificate")
    try:
        return x509.load_pem_x509_certificates(content)
    except Exception:
        # Which exceptions a damaged certificate raises is not documented; all mean the same here.  Their texts may
        # quote what was read, and where a file is damaged, that may be a key.
        raise BadTLSFiles(f"{path}: a certificate cannot be read") from None


def _key_block(files: TLSFiles) -> bytes:
    start = files.certificate.find(b"PRIVATE KEY-----")
    if start == -1:
        raise BadTLSFiles(f"{files.certificate_path}: holds no private key")
    begin = files.certificate.rfind(b"-----BEGIN ", 0, start)
    end = files.certificate.find(b"-----END ", start)
    return files.certificate[begin : files.certificate.find(b"\n", end) + 1 or None]


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False)
class MutualTLS:
    """
    Makes the server side of each TLS connection, and remembers what its handshake said of the client.

    L{replace} and L{renewal} change the certificates for handshakes to come; open connections go on.
    """

    client_auth: ClientAuth
    _protocol: str
    _files: TLSFiles = field(init=False, repr=False)
    _context: SSL.Context = field(init=False)
    _findings: WeakKeyDictionary[SSL.Connection, _Finding] = field(init=False, factory=WeakKeyDictionary)

    def replace(self, files: TLSFiles) -> None:
        """
        @raise BadTLSFiles: and what was in use stays in use.
        @raise VerificationNotInForce: likewise.
        """
        self._use(files, self._prepare(files))

    def renewal(self, content: bytes) -> Callable[[], None]:
        """
        Get ready to show another certificate; the clients' CA stays.  Large files take seconds: done in a thread.

        @return: What puts it in use; that is for the reactor's thread.
        @raise BadPEM: if it cannot serve.
        @raise VerificationNotInForce: if strangers were not recognised with it.
        """
        check_pem(content)
        files = evolve(self._files, certificate=content)
        try:
            context = self._prepare(files)
        except BadTLSFiles as error:
            # Sound in itself, but OpenSSL does not serve with it: a key of a kind that TLS does not know.
            raise BadPEM(MISMATCH, str(error).removeprefix(f"{files.certificate_path}: ")) from None
        return lambda: self._use(files, context)

    def _prepare(self, files: TLSFiles) -> SSL.Context:
        context = build_context(files, self.client_auth, self._protocol, self._note)
        issuer = _certificates(files.ca_path, files.ca)[0].subject
        if not require_verification(issuer, self.client_auth, lambda: self._connection(context), self._finding_of):
            raise BadTLSFiles(f"{files.certificate_path}: no TLS handshake comes about with it")
        return context

    def _use(self, files: TLSFiles, context: SSL.Context) -> None:
        self._files, self._context = files, context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._connection(self._context)

    def _connection(self, context: SSL.Context) -> SSL.Connection:
        connection = SSL.Connection(context, None)
        self._findings[connection] = _Finding()
        return connection

    def verified(self, transport: ITransport) -> bool:
        """Was the client's certificate verified?"""
        return self._finding(transport).verified

    def problem(self, transport: ITransport) -> str:
        """Why a client was not verified, for the log."""
        problem = self._finding(transport).problem
        return "no client certificate" if problem is None else f"client certificate refused: {problem}"

    def _finding(self, transport: ITransport) -> _Finding:
        if not isinstance(transport, TLSMemoryBIOProtocol):
            return _Finding()
        return self._finding_of(transport.getHandle())

    def _finding_of(self, connection: SSL.Connection) -> _Finding:
        return self._findings.get(connection, _Finding())

    def _note(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int) -> bool:
        # Called once or more for each certificate of the chain, the root first, the client's own (depth 0) last.
        finding = self._findings.setdefault(connection, _Finding())
        if not good:
            finding.problem = _PROBLEMS.get(error, f"X.509 verification error {error}")
            # A bad signature also leaves its mark in OpenSSL's error queue.  Before OpenSSL 4 the next read of the
            # connection would find it there and take it for its own failure.
            Binding.lib.ERR_clear_error()
        elif depth == 0:
            finding.leaf_verified = True
        return bool(good) or self.client_auth == "answer"
