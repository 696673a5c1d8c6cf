"""What a PEM file with a certificate and its key must hold, for listeners and for the agent itself."""

from __future__ import annotations

import re

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

NO_CERTIFICATE = "No certificate found"
NO_KEY = "No RSA key found"
MISMATCH = "Certificate and key do not match"

# Whole lines, as OpenSSL reads them.
_MARK = re.compile(rb"^-----(BEGIN|END) ([A-Z0-9 ]+)-----[ \t\r]*$", re.MULTILINE)


@frozen
class BadPEM(Exception):
    """
    A PEM body cannot serve.

    `problem` is one of the specification's three sentences, `reason` says more.
    """

    problem: str
    reason: str


def check_pem(content: bytes) -> None:
    """
    A private key and the certificates of its chain, in any order; the first certificate is the key's own.

    The key may be of any kind that is not encrypted, though the specification's sentences speak of RSA.

    @raise BadPEM: with the sentence that the specification has for it.
    """
    blocks = _blocks(content)
    certificates = [block for label, block in blocks if label == b"CERTIFICATE"]
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    if not certificates:
        raise BadPEM(NO_CERTIFICATE, "the file holds no CERTIFICATE block")
    if not keys:
        raise BadPEM(NO_KEY, "the file holds no PRIVATE KEY block")
    own, *_chain = [_load_certificate(number, block) for number, block in enumerate(certificates, 1)]
    key = _load_key(keys[0])
    if _public_bytes(own.public_key()) != _public_bytes(key.public_key()):
        raise BadPEM(MISMATCH, "the first certificate's public key is not the private key's")


def _blocks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Each block's label and text, in the time that it takes to read them once, whatever a client sent."""
    blocks = []
    begin: re.Match[bytes] | None = None
    for mark in _MARK.finditer(content):
        if mark[1] == b"BEGIN":
            begin = mark
        elif begin is not None and begin[2] == mark[2]:
            blocks.append((mark[2], content[begin.start() : mark.end()]))
            begin = None
    return blocks


def _load_certificate(number: int, block: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        certificate.public_key()
    except Exception:
        # Which exceptions a damaged certificate raises is not documented; all mean the same here.  The library's text
        # may quote what it read, and where a file is damaged, that may be a key.
        raise BadPEM(NO_CERTIFICATE, f"certificate {number} cannot be read") from None
    return certificate


def _load_key(block: bytes) -> PrivateKeyTypes:
    try:
        # That its numbers are sound primes takes seconds for a large key; that it is the certificate's is compared.
        return load_pem_private_key(block, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise BadPEM(NO_KEY, "the private key is encrypted") from None
    except Exception:
        # Nor is its text for readers here.
        raise BadPEM(NO_KEY, "the private key cannot be read") from None


def _public_bytes(key: object) -> bytes:
    public_bytes = getattr(key, "public_bytes", None)
    assert public_bytes is not None
    content: bytes = public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return content
