"""Tests for L{amphora.testing.pki}: each certificate is judged by OpenSSL's own verification."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError
from twisted.trial.unittest import SynchronousTestCase

from amphora.testing.pki import CLIENT, SERVER, Authority, Issued, Part, ThrowAwayPKI, Validity, listener_pem, new_key

AMPHORA_ID = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"


def verify(issued: Issued, trusted: Authority) -> None:
    """Check the certificate, with its chain, against an authority; raise L{X509StoreContextError}."""
    store = X509Store()
    store.add_cert(X509.from_cryptography(trusted.identity.certificate))
    chain = [X509.from_cryptography(link) for link in issued.chain]
    X509StoreContext(store, X509.from_cryptography(issued.certificate), chain).verify_certificate()


class AuthorityTests(SynchronousTestCase):
    """What an authority issues."""

    def setUp(self) -> None:
        """Make one root for all."""
        self.authority = Authority.create()

    def test_sound(self) -> None:
        """A certificate of the root itself, and one with a chain, are both verified."""
        verify(self.authority.issue("a"), self.authority)
        below = self.authority.subordinate().issue("b")
        self.assertEqual(len(below.chain), 1)
        verify(below, self.authority)

    def test_refused(self) -> None:
        """Expired, not yet valid, foreign, and a namesake's: each fails for the reason that its name says."""
        namesake = Authority.create(self.authority.name)
        for issued, reason in (
            (self.authority.issue("a", validity=Validity.EXPIRED), "certificate has expired"),
            (self.authority.issue("a", validity=Validity.NOT_YET), "certificate is not yet valid"),
            (Authority.create("foreign").issue("a"), "unable to get local issuer certificate"),
            (namesake.issue("a"), "unable to get local issuer certificate"),
            (namesake.issue("a", key_identifiers=False), "certificate signature failure"),
        ):
            error = self.assertRaises(X509StoreContextError, verify, issued, self.authority)
            self.assertIn(reason, str(error))

    def test_usages(self) -> None:
        """The uses asked for stand in a critical extension; none asked for leaves it out."""
        extension = self.authority.issue("a", usages=(SERVER,)).certificate.extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        )
        self.assertTrue(extension.critical)
        self.assertEqual(list(extension.value), [SERVER])
        without = self.authority.issue("a", usages=()).certificate.extensions
        self.assertRaises(x509.ExtensionNotFound, without.get_extension_for_class, x509.ExtendedKeyUsage)


class ListenerPEMTests(SynchronousTestCase):
    """The PEM of a TLS listener."""

    def test_order(self) -> None:
        """The default is the specification's: an RSA key, its certificate, the chain."""
        pem = listener_pem("www.example.com")
        labels = [line.strip("-") for line in pem.decode().splitlines() if line.startswith("-----BEGIN")]
        self.assertEqual(labels, ["BEGIN RSA PRIVATE KEY", "BEGIN CERTIFICATE", "BEGIN CERTIFICATE"])
        key = load_pem_private_key(pem, None)
        first, issuer = x509.load_pem_x509_certificates(pem)
        self.assertIsInstance(key, rsa.RSAPrivateKey)
        self.assertEqual(key.public_key(), first.public_key())
        first.verify_directly_issued_by(issuer)

    def test_another_order(self) -> None:
        """Parts come as they are named, and only those; the key may be an elliptic one."""
        pem = listener_pem("www.example.com", Part.CERTIFICATE, Part.KEY, use_rsa=False)
        labels = [line.strip("-") for line in pem.decode().splitlines() if line.startswith("-----BEGIN")]
        self.assertEqual(labels, ["BEGIN CERTIFICATE", "BEGIN EC PRIVATE KEY"])

    def test_mismatch(self) -> None:
        """With a key of its own the pair does not match."""
        key = new_key()
        pem = listener_pem("www.example.com", use_rsa=False, key=key)
        self.assertEqual(load_pem_private_key(pem, None).public_key(), key.public_key())
        self.assertNotEqual(x509.load_pem_x509_certificates(pem)[0].public_key(), key.public_key())


class ThrowAwayPKITests(SynchronousTestCase):
    """The files of one amphora and its controller."""

    def test_files(self) -> None:
        """All are private; the server's begins with the certificate, which names the amphora, and ends with its key."""
        directory = Path(self.mktemp())
        directory.mkdir()
        pki = ThrowAwayPKI.create(directory, AMPHORA_ID)
        for path in (pki.ca, pki.server, pki.client, pki.client_key):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        server = pki.server.read_bytes()
        self.assertTrue(server.startswith(b"-----BEGIN CERTIFICATE"))
        certificate = x509.load_pem_x509_certificate(server)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), [AMPHORA_ID])
        self.assertEqual(load_pem_private_key(server, None).public_key(), certificate.public_key())
        client = x509.load_pem_x509_certificate(pki.client.read_bytes())
        usages = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usages), [CLIENT])
        verify(Issued(certificate, new_key()), pki.authority)
