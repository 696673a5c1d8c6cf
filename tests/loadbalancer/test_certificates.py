"""Tests for L{amphora.loadbalancer.certificates}."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.certificates import (
    certificate_md5,
    check_filename,
    delete_certificate,
    store_certificate,
)
from amphora.loadbalancer.errors import BadFilename, CertificateNotFound


class FilenameTests(SynchronousTestCase):
    """Which names files may have."""

    def test_good(self) -> None:
        """Letters, digits, dots, underscores and hyphens, with `.pem` at the end."""
        for name in ("a.pem", "www.example.com.pem", "A_b-9.pem", "..pem", "-.pem", "a" * 236 + ".pem"):
            check_filename(name)

    def test_bad(self) -> None:
        """All else is refused: paths, other endings, other letters, names that no directory takes."""
        for name in (
            *("", ".pem", "a", "a.pem.", "a.PEM", "a.pem\n", "\na.pem", "a b.pem", "a/b.pem", "../a.pem"),
            *("a\0.pem", "ä.pem", "a.pem/", ".", "..", "a\\b.pem", "a" * 237 + ".pem", "\uff11.pem"),
        ):
            error = self.assertRaises(BadFilename, check_filename, name)
            self.assertEqual(name, error.filename)


class StorageTests(SynchronousTestCase):
    """Files, one directory for each instance."""

    def setUp(self) -> None:
        self.parent = Path(self.mktemp())
        self.parent.mkdir()
        self.directory = self.parent / "instance"

    def test_store(self) -> None:
        """A file is stored byte for byte, for us alone, in a directory for us alone."""
        store_certificate(self.directory, "a.pem", b"\r\nkey")
        self.assertEqual(b"\r\nkey", (self.directory / "a.pem").read_bytes())
        self.assertEqual(0o600, stat.S_IMODE(os.stat(self.directory / "a.pem").st_mode))
        self.assertEqual(0o700, stat.S_IMODE(os.stat(self.directory).st_mode))

    def test_replace(self) -> None:
        """A shorter file leaves nothing of the longer one (A23), and nothing lies beside it."""
        store_certificate(self.directory, "a.pem", b"a longer one")
        store_certificate(self.directory, "a.pem", b"short")
        self.assertEqual(b"short", (self.directory / "a.pem").read_bytes())
        self.assertEqual(["a.pem"], os.listdir(self.directory))

    def test_store_fails(self) -> None:
        """Where the name cannot be taken, the system's error is raised and nothing is left."""
        (self.directory / "a.pem").mkdir(parents=True)
        self.assertRaises(OSError, store_certificate, self.directory, "a.pem", b"key")
        self.assertEqual(["a.pem"], os.listdir(self.directory))

    def test_md5(self) -> None:
        """The sum is over what is stored; a file that is not there is not found."""
        store_certificate(self.directory, "a.pem", b"content")
        self.assertEqual(hashlib.md5(b"content").hexdigest(), certificate_md5(self.directory, "a.pem"))
        error = self.assertRaises(CertificateNotFound, certificate_md5, self.directory, "b.pem")
        self.assertEqual("b.pem", error.filename)
        self.assertRaises(CertificateNotFound, certificate_md5, self.parent / "nowhere", "a.pem")

    def test_delete(self) -> None:
        """A file goes away, the directory with the last one."""
        store_certificate(self.directory, "a.pem", b"1")
        store_certificate(self.directory, "b.pem", b"2")
        delete_certificate(self.directory, "a.pem")
        self.assertEqual(["b.pem"], os.listdir(self.directory))
        self.assertRaises(CertificateNotFound, delete_certificate, self.directory, "a.pem")
        delete_certificate(self.directory, "b.pem")
        self.assertFalse(self.directory.exists())
        self.assertRaises(CertificateNotFound, delete_certificate, self.directory, "b.pem")
