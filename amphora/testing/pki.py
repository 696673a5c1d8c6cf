"""
A throw-away public key infrastructure, for tests and the demo.

An L{Authority} issues certificates, sound ones and the odd ones that a test asks for: expired, not valid yet, for
other uses, by a foreign authority, by one of the same name.  L{ThrowAwayPKI} is the set of files that one amphora
and its controller need.  Keys are P-256 (quick to make) unless RSA is asked for.  Nothing here is fit for a cloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from amphora.files import write_synced

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


class Validity(Enum):
    """When a certificate is valid: first and last moment, as seen from now."""

    NOW = (timedelta(hours=-1), timedelta(days=30))
    EXPIRED = (timedelta(days=-30), timedelta(hours=-1))
    NOT_YET = (timedelta(hours=1), timedelta(days=30))


class Part(Enum):
    """What a PEM file may hold; files differ in the order."""

    KEY = "key"
    CERTIFICATE = "certificate"
    CHAIN = "chain"


def new_key(*, use_rsa: bool = False) -> PrivateKey:
    """Make a P-256 key, or one of RSA with 2048 bits."""
    return (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if use_rsa
        else ec.generate_private_key(ec.SECP256R1())
    )


@frozen
class Issued:
    """A certificate with its key, and the certificates between it and the root (none where the root issued it)."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key alone, unencrypted, in the form that OpenSSL has always read (`EC` or `RSA PRIVATE KEY`)."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )

    @property
    def chain_pem(self) -> bytes:
        """The certificates of the chain, the issuer's first."""
        return b"".join(link.public_bytes(serialization.Encoding.PEM) for link in self.chain)

    def pem(self, *order: Part) -> bytes:
        """Join the named parts in the order given."""
        text = {Part.KEY: self.key_pem, Part.CERTIFICATE: self.certificate_pem, Part.CHAIN: self.chain_pem}
        return b"".join(text[part] for part in order)


@frozen
class Authority:
    """A certificate authority: a root (`Authority.create()`) or one below another (`subordinate`)."""

    identity: Issued

    @classmethod
    def create(cls, name: str = "throw-away authority", *, use_rsa: bool = False) -> Authority:
        """
        Make a root.

        Two of one name are what a renewed authority, or an impostor, looks like: they differ in their keys only.
        """
        key = new_key(use_rsa=use_rsa)
        return cls(Issued(_certificate(name, key.public_key(), _name(name), key, authority=True), key))

    @property
    def certificate_pem(self) -> bytes:
        """What those who should trust this authority are given."""
        return self.identity.certificate_pem

    @property
    def name(self) -> str:
        """The common name that stands as issuer in what this authority issues."""
        return str(self.identity.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def subordinate(self, name: str = "throw-away intermediate") -> Authority:
        """Make an authority that this one vouches for; what it issues has a chain."""
        key = new_key()
        certificate = self._sign(name, key, authority=True)
        return Authority(Issued(certificate, key, (certificate, *self.identity.chain)))

    def issue(
        self,
        common_name: str,
        *,
        usages: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
        names: Sequence[str] | None = None,
        validity: Validity = Validity.NOW,
        use_rsa: bool = False,
        key: PrivateKey | None = None,
        key_identifiers: bool = True,
    ) -> Issued:
        """
        Issue a certificate.

        @param usages: the extended key usages, in a critical extension; empty leaves the extension out.
        @param names: the dNSName alternatives; by default the common name, empty for none.
        @param key: the key to certify, where it should not be a new one.
        @param key_identifiers: false leaves out the subject's and the issuer's key identifier, so that an issuer is
            found by its name alone.
        """
        subject_key = key or new_key(use_rsa=use_rsa)
        certificate = self._sign(
            common_name,
            subject_key,
            usages=usages,
            names=(common_name,) if names is None else names,
            validity=validity,
            key_identifiers=key_identifiers,
        )
        return Issued(certificate, subject_key, self.identity.chain)

    def certify(self, public_key: CertificatePublicKeyTypes) -> x509.Certificate:
        """Issue a certificate over a key of any kind, also of one that TLS has no use for."""
        return _certificate("any kind", public_key, self.identity.certificate.subject, self.identity.key)

    def _sign(
        self,
        common_name: str,
        key: PrivateKey,
        *,
        authority: bool = False,
        usages: Sequence[x509.ObjectIdentifier] = (),
        names: Sequence[str] = (),
        validity: Validity = Validity.NOW,
        key_identifiers: bool = True,
    ) -> x509.Certificate:
        return _certificate(
            common_name,
            key.public_key(),
            self.identity.certificate.subject,
            self.identity.key,
            authority=authority,
            usages=usages,
            names=names,
            validity=validity,
            key_identifiers=key_identifiers,
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    common_name: str,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    *,
    authority: bool = False,
    usages: Sequence[x509.ObjectIdentifier] = (),
    names: Sequence[str] = (),
    validity: Validity = Validity.NOW,
    key_identifiers: bool = True,
) -> x509.Certificate:
    now = datetime.now(UTC)
    first, last = validity.value
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + first)
        .not_valid_after(now + last)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=not authority,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if key_identifiers:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def listener_pem(
    common_name: str,
    *order: Part,
    authority: Authority | None = None,
    use_rsa: bool = True,
    key: PrivateKey | None = None,
) -> bytes:
    """
    Make the PEM of a TLS listener: by default RSA, and key, certificate, chain as the v0.1 specification orders them.

    @param authority: who issues it; by default an intermediate one made for this, so that there is a chain.
    @param key: the key to put in, in place of the one that was certified: such a pair does not match.
    """
    issuer = authority or Authority.create().subordinate()
    issued = issuer.issue(common_name, usages=(SERVER,), use_rsa=use_rsa)
    told = issued if key is None else Issued(issued.certificate, key, issued.chain)
    return told.pem(*(order or (Part.KEY, Part.CERTIFICATE, Part.CHAIN)))


@frozen
class ThrowAwayPKI:
    """
    One amphora's and its controller's files, each with mode 0600.

    `server` is what Octavia gives an amphora: its certificate (common name and dNSName are the amphora's id), then
    its key.
    """

    directory: Path
    amphora_id: str
    authority: Authority
    ca: Path
    """The authority's certificate: `agent_server_ca` of the agent, and what the controller trusts."""
    server: Path
    """Certificate and key in one file: `agent_server_cert`."""
    client: Path
    """The controller's certificate."""
    client_key: Path
    """The controller's key."""

    @classmethod
    def create(cls, directory: Path, amphora_id: str, *, use_rsa: bool = False) -> ThrowAwayPKI:
        """Make the authority and both certificates, and write them into an existing directory.  Blocks."""
        authority = Authority.create(use_rsa=use_rsa)
        server = authority.issue(amphora_id, use_rsa=use_rsa)
        client = authority.issue("controller", usages=(CLIENT,), names=(), use_rsa=use_rsa)
        made = cls(
            directory=directory,
            amphora_id=amphora_id,
            authority=authority,
            ca=directory / "ca.pem",
            server=directory / "server.pem",
            client=directory / "client.pem",
            client_key=directory / "client.key",
        )
        write_synced(made.ca, authority.certificate_pem)
        write_synced(made.server, server.pem(Part.CERTIFICATE, Part.KEY))
        write_synced(made.client, client.certificate_pem)
        write_synced(made.client_key, client.key_pem)
        return made
