"""Tests for L{amphora.pem}."""

from __future__ import annotations

import base64
import traceback

from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.pem import MISMATCH, NO_CERTIFICATE, NO_KEY, BadPEM, check_pem
from amphora.testing.pki import Authority, Part, PrivateKey, new_key

KEY, CERTIFICATE, CHAIN = Part.KEY, Part.CERTIFICATE, Part.CHAIN
AUTHORITY = Authority.create()
BELOW = AUTHORITY.subordinate()
LISTENER = BELOW.issue("www.example.com")
RSA_LISTENER = AUTHORITY.issue("rsa.example.com", use_rsa=True)

EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def pem_block(label: bytes, content: bytes) -> bytes:
    text = base64.encodebytes(content)
    return b"-----BEGIN " + label + b"-----\n" + text + b"-----END " + label + b"-----\n"


def encode(
    key: PrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey,
    form: PrivateFormat,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


class GoodPEMTests(SynchronousTestCase):
    """What is taken."""

    def test_orders(self) -> None:
        """Key, certificate and chain may come in any order, as long as the key's certificate is the first of all."""
        for order in (
            (KEY, CERTIFICATE, CHAIN),
            (CERTIFICATE, KEY, CHAIN),
            (CERTIFICATE, CHAIN, KEY),
            (CERTIFICATE, KEY),
        ):
            check_pem(LISTENER.pem(*order))

    def test_kinds_of_keys(self) -> None:
        """RSA and EC keys are taken in the old form and in PKCS#8, and Ed25519 keys too."""
        for issued in (RSA_LISTENER, LISTENER):
            for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
                check_pem(encode(issued.key, form) + issued.certificate_pem)
        key = ed25519.Ed25519PrivateKey.generate()
        certificate = AUTHORITY.certify(key.public_key()).public_bytes(Encoding.PEM)
        check_pem(encode(key, PrivateFormat.PKCS8) + certificate)

    def test_parameters_before_the_key(self) -> None:
        """What `openssl ecparam -genkey` writes in front of a key does no harm."""
        check_pem(EC_PARAMETERS + LISTENER.pem(KEY, CERTIFICATE))
        self.assertIn(b"BEGIN EC PRIVATE KEY", LISTENER.key_pem)

    def test_text_around(self) -> None:
        """Line ends of either kind, and text between the blocks, do no harm."""
        pem = LISTENER.pem(KEY, CERTIFICATE, CHAIN)
        check_pem(pem.replace(b"\n", b"\r\n"))
        check_pem(pem.replace(b"-----\n", b"-----  \n"))
        check_pem(pem.removesuffix(b"\n"))
        check_pem(b"subject=/CN=www\n\n" + pem.replace(b"-----BEGIN", b"\n# -----BEGIN it-----\n-----BEGIN"))

    def test_several_keys(self) -> None:
        """Of several keys the first counts, as for haproxy."""
        other = encode(new_key(), PrivateFormat.PKCS8)
        check_pem(LISTENER.pem(KEY, CERTIFICATE) + other)
        self.assertEqual(MISMATCH, self.assertRaises(BadPEM, check_pem, other + LISTENER.pem(KEY, CERTIFICATE)).problem)

    def test_large(self) -> None:
        """Ten thousand beginnings without an end are read in one pass."""
        beginnings = b"-----BEGIN CERTIFICATE-----\n" * 10_000
        self.assertEqual(NO_CERTIFICATE, self.assertRaises(BadPEM, check_pem, beginnings).problem)


class BadPEMTests(SynchronousTestCase):
    """What is refused, and in which of the specification's three sentences."""

    def assert_refused(self, content: bytes, problem: str, reason: str) -> None:
        error = self.assertRaises(BadPEM, check_pem, content)
        self.assertEqual(problem, error.problem)
        self.assertIn(reason, error.reason)

    def test_no_certificate(self) -> None:
        """A file without a certificate, whatever else is in it."""
        for content in (
            b"",
            b"garbage",
            LISTENER.key_pem,
            pem_block(b"CERTIFICATE REQUEST", b"x") + LISTENER.key_pem,
            LISTENER.certificate_pem.replace(b"-----END CERTIFICATE-----", b""),
            LISTENER.certificate_pem.replace(b"\n", b""),
            b"x" + LISTENER.certificate_pem,
        ):
            self.assert_refused(content, NO_CERTIFICATE, "no CERTIFICATE block")

    def test_no_key(self) -> None:
        """A file without a private key."""
        public = LISTENER.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for content in (LISTENER.certificate_pem, LISTENER.certificate_pem + pem_block(b"PUBLIC KEY", public)):
            self.assert_refused(content, NO_KEY, "no PRIVATE KEY block")

    def test_encrypted_keys(self) -> None:
        """A key that is encrypted, in either way, cannot be used by a haproxy that nobody types a password for."""
        secret = BestAvailableEncryption(b"password")
        for form, mark in (
            (PrivateFormat.TraditionalOpenSSL, b"Proc-Type: 4,ENCRYPTED"),
            (PrivateFormat.PKCS8, b"BEGIN ENCRYPTED PRIVATE KEY"),
        ):
            encrypted = encode(LISTENER.key, form, secret)
            self.assertIn(mark, encrypted)
            self.assert_refused(encrypted + LISTENER.certificate_pem, NO_KEY, "encrypted")

    def test_unreadable_keys(self) -> None:
        """A key that is damaged, of OpenSSH's form, or of a kind that nobody knows."""
        unknown = bytes.fromhex("300c020100300506032a0304040102")
        for key in (
            pem_block(b"PRIVATE KEY", b"not a key"),
            b"-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n",
            pem_block(b"PRIVATE KEY", unknown),
            pem_block(b"RSA PRIVATE KEY", b"\x30\x03\x02\x01\x00"),
            encode(new_key(), PrivateFormat.OpenSSH),
        ):
            self.assert_refused(key + LISTENER.certificate_pem, NO_KEY, "cannot be read")

    def test_mismatch(self) -> None:
        """A key that is not the first certificate's: another's, of another kind, or the issuer's place taken."""
        other_kinds = (x25519.X25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate())
        keys = (new_key(), RSA_LISTENER.key, *other_kinds)
        for content in (
            *(encode(key, PrivateFormat.PKCS8) + LISTENER.certificate_pem for key in keys),
            LISTENER.pem(CHAIN, CERTIFICATE, KEY),
            LISTENER.pem(KEY, CHAIN, CERTIFICATE),
        ):
            self.assert_refused(content, MISMATCH, "first certificate")

    def test_damaged_certificates(self) -> None:
        """A damaged certificate, of the chain too, is told by its number."""
        damaged = pem_block(b"CERTIFICATE", b"not a certificate")
        self.assert_refused(damaged + LISTENER.key_pem, NO_CERTIFICATE, "certificate 1 cannot be read")
        self.assert_refused(LISTENER.pem(KEY, CERTIFICATE) + damaged, NO_CERTIFICATE, "certificate 2 cannot be read")

    def test_certificate_of_no_version(self) -> None:
        """A certificate whose version does not exist is damaged as well."""
        content = LISTENER.certificate.public_bytes(Encoding.DER)
        version = content.index(bytes.fromhex("a003020102")) + 4
        damaged = pem_block(b"CERTIFICATE", content[:version] + b"\x09" + content[version + 1 :])
        self.assert_refused(damaged + LISTENER.key_pem, NO_CERTIFICATE, "certificate 1 cannot be read")

    @given(
        st.binary()
        | st.lists(st.sampled_from((b"-----BEGIN ", b"-----END ", b"CERTIFICATE", b"-----\n"))).map(b"".join)
    )
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes are taken or raise BadPEM, nothing else."""
        self._check(content)

    @given(
        st.sampled_from((RSA_LISTENER, LISTENER)).map(lambda issued: issued.pem(KEY, CERTIFICATE, CHAIN)),
        st.integers(0, 3000),
        st.integers(0, 70),
        st.binary(max_size=10),
    )
    def test_damaged(self, pem: bytes, where: int, length: int, instead: bytes) -> None:
        """A file with a hole in it is taken or raises BadPEM, and no part of its key is in the exception's text."""
        damaged = pem[:where] + instead + pem[where + length :]
        text = self._check(damaged)
        for line in damaged.split(b"\n"):
            if len(line) > 20 and not line.startswith(b"-----"):
                self.assertNotIn(line.decode("latin-1")[:20], text)

    def test_key_in_a_certificates_place(self) -> None:
        """A key that stands where a certificate should, also as a mark's label, does not come back in the error."""
        _, *lines, _ = LISTENER.key_pem.splitlines(keepends=True)
        text = b"".join(lines)
        for content in (
            pem_block(b"CERTIFICATE", base64.b64decode(text)),
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END \n" + text + b"-----END CERTIFICATE-----\n",
        ):
            said = self._check(content + LISTENER.key_pem)
            self.assertIn("certificate 1 cannot be read", said)
            for line in lines:
                self.assertNotIn(line.decode()[:12], said)

    def _check(self, content: bytes) -> str:
        """@return: All that an error would print, the errors that it came from included."""
        try:
            check_pem(content)
        except BadPEM as error:
            return "".join(traceback.format_exception(error)) + repr(error)
        return ""
