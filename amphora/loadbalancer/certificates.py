"""Listeners' certificates: what is a good name for one, and keeping them."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from amphora.files import make_directory, replace_file, sync_directory
from amphora.loadbalancer.errors import BadFilename, CertificateNotFound

_LONGEST_NAME = 240
_FILENAME = re.compile(r"[A-Za-z0-9._-]+\.pem")


def check_filename(filename: str) -> None:
    """@raise BadFilename: for all that is not letters, digits, dots, underscores and hyphens, ending in `.pem`."""
    if not _FILENAME.fullmatch(filename) or len(filename) > _LONGEST_NAME:
        raise BadFilename(filename)


def store_certificate(directory: Path, filename: str, content: bytes) -> None:
    """Write or replace one file.  @raise OSError: as the system says; an old file is untouched then."""
    make_directory(directory)
    replace_file(directory / filename, content)


def certificate_md5(directory: Path, filename: str) -> str:
    """The sum over the stored bytes, in hexadecimal.  @raise CertificateNotFound: where there is no such file."""
    try:
        content = (directory / filename).read_bytes()
    except FileNotFoundError:
        raise CertificateNotFound(filename) from None
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def delete_certificate(directory: Path, filename: str) -> None:
    """Take one file away, and the directory with the last.  @raise CertificateNotFound: where there is no such file."""
    try:
        (directory / filename).unlink()
    except FileNotFoundError:
        raise CertificateNotFound(filename) from None
    sync_directory(directory)
    with suppress(OSError):
        directory.rmdir()
