"""Tests for L{amphora.system.server_certificate}."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.loadbalancer.errors import StorageFailed
from amphora.pem import MISMATCH, BadPEM
from amphora.system.server_certificate import ServerCertificate
from amphora.testing.fakes import CallsLater
from amphora.testing.pki import Authority, Part, Validity

AUTHORITY = Authority.create()
OLD, NEW = (AUTHORITY.issue(name).pem(Part.KEY, Part.CERTIFICATE) for name in ("old", "new"))


class ServerCertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(OLD)
        self.in_use = OLD
        self.certificate = ServerCertificate(self.path, AtOnce(), self.renewal)

    def renewal(self, content: bytes) -> Callable[[], None]:
        if not content:
            raise BadPEM(MISMATCH, "a reason")

        def put_in_use() -> None:
            self.in_use = content

        return put_in_use

    def test_replaced(self) -> None:
        """A new certificate is stored for us alone, byte for byte, and is in use then."""
        self.successResultOf(self.certificate.replace(NEW))
        self.assertEqual((NEW, NEW), (self.path.read_bytes(), self.in_use))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def test_refused(self) -> None:
        """One that cannot serve changes nothing."""
        error: BadPEM = self.failureResultOf(self.certificate.replace(b""), BadPEM).value
        self.assertEqual((MISMATCH, "a reason"), (error.problem, error.reason))
        self.assertEqual((OLD, OLD), (self.path.read_bytes(), self.in_use))

    def test_not_stored(self) -> None:
        """One that the disk does not take is not used: the next start would show another."""
        self.path.unlink()
        self.path.mkdir()
        error: StorageFailed = self.failureResultOf(self.certificate.replace(NEW), StorageFailed).value
        self.assertEqual(("certificate", "Is a directory"), (error.what, error.reason))
        self.assertEqual(OLD, self.in_use)

    def test_one_at_a_time(self) -> None:
        """Of two that come together the later is the one that stays, on the disk as in use."""
        later = CallsLater()
        certificate = ServerCertificate(self.path, later, self.renewal)
        first, second = certificate.replace(OLD), certificate.replace(NEW)
        self.assertEqual(1, later.waiting)
        later.make_all()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual((NEW, NEW), (self.path.read_bytes(), self.in_use))

    def test_out_of_date(self) -> None:
        """One that has expired is taken, for clocks may be wrong, and the log tells."""
        expired = AUTHORITY.issue("expired", validity=Validity.EXPIRED).pem(Part.KEY, Part.CERTIFICATE)
        with capturedLogs() as logged:
            self.successResultOf(self.certificate.replace(expired))
        self.assertEqual(expired, self.in_use)
        self.assertEqual([LogLevel.info, LogLevel.warn], [event["log_level"] for event in logged])
