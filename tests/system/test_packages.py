"""Tests for L{amphora.system.packages}; the machine's own database is in `tests.integration.test_figures`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.system.packages import LOOK_EVERY, RPM_TIMEOUT, TRY_AGAIN, Package, Packages, parse_dpkg, parse_rpm
from amphora.testing.fakes import FakeProcess, FakeProcessReactor


def paragraph(name: str, version: str, status: str = "install ok installed") -> str:
    """A package in dpkg's database."""
    return f"""\
Package: {name}
Status: {status}
Priority: optional
Maintainer: Package: openssl
Version: {version}
Description: something
 Status: of no interest
 .
 Version: 0
"""


HAPROXY = Package("haproxy", "2.6.12-1+deb12u4")
OUTPUT = """\
warning: Generating 12 missing index(es), please wait...
openssl-libs 3.2.2-6.el9
haproxy 2.4.22-3.el9
kernel-core 5.14.0-503.el9
kernel-core 5.14.0-427.el9
"""


class DpkgTests(SynchronousTestCase):
    def test_wanted(self) -> None:
        """Packages that matter to a load balancer are told, in the order of their names, others are not."""
        names = ("zlib1g", "python3-minimal", "libssl3t64", "libssl-dev", "haproxy", "linux-image-6.1.0-44-amd64")
        self.assertEqual(
            tuple(Package(name, "1.0-1") for name in ("haproxy", "libssl3t64", "linux-image-6.1.0-44-amd64")),
            parse_dpkg("\n".join(paragraph(name, "1.0-1") for name in names)),
        )

    def test_states(self) -> None:
        """A package that was removed, or is not wholly installed, is not told; one that is held is."""
        states = {
            "bash": "hold ok installed",
            "haproxy": "deinstall ok config-files",
            "keepalived": "install ok half-installed",
            "openssl": "install reinstreq not-installed",
        }
        database = "\n".join(paragraph(name, "1", state) for name, state in states.items())
        self.assertEqual((Package("bash", "1"),), parse_dpkg(database))

    def test_architectures(self) -> None:
        """A library that is installed for two architectures is told once."""
        self.assertEqual((Package("libssl3", "3.0-1"),), parse_dpkg("\n".join([paragraph("libssl3", "3.0-1")] * 2)))

    def test_damaged(self) -> None:
        """What is no database, or one that is cut off, has the packages that can be read."""
        self.assertEqual((), parse_dpkg(""))
        self.assertEqual((), parse_dpkg("\n\n\0\n"))
        whole = paragraph("bash", "1") + "\n" + paragraph("haproxy", "2")
        self.assertEqual((Package("bash", "1"),), parse_dpkg(whole[: whole.index("haproxy") + 20]))


class RpmTests(SynchronousTestCase):
    def test_output(self) -> None:
        """Each version of a package is told, and rpm's warnings are not taken for one."""
        self.assertEqual(
            (
                Package("haproxy", "2.4.22-3.el9"),
                Package("kernel-core", "5.14.0-427.el9"),
                Package("kernel-core", "5.14.0-503.el9"),
                Package("openssl-libs", "3.2.2-6.el9"),
            ),
            parse_rpm(OUTPUT),
        )


class PackagesTests(SynchronousTestCase):
    """What is read when."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.dpkg = self.directory / "status"
        self.rpm = self.directory / "rpmdb.sqlite"
        self.reactor = FakeProcessReactor()
        self.packages = Packages(self.reactor, AtOnce(), self.dpkg, (self.directory / "Packages.db", self.rpm))

    def install(self, *packages: Package) -> None:
        """Replace dpkg's database as dpkg does."""
        new = self.directory / "status-new"
        new.write_text("\n".join(paragraph(each.name, each.version) for each in packages))
        os.replace(new, self.dpkg)

    def read(self) -> tuple[Package, ...]:
        """Ask, when it is time for another look."""
        self.reactor.advance(LOOK_EVERY)
        return self.successResultOf(self.packages.read())

    def test_refreshed(self) -> None:
        """The database is read once, and again when it has been replaced; no program is run for that."""
        self.install(HAPROXY)
        first = self.read()
        self.assertEqual((HAPROXY,), first)
        self.assertIs(first, self.read())
        newer = Package("haproxy", "2.6.12-1+deb12u5")
        self.install(newer)
        self.assertEqual((newer,), self.read())
        self.assertEqual([], self.reactor.processes)

    def test_looks(self) -> None:
        """However often it is asked for, one look a second is taken whether the database has changed."""
        self.install(HAPROXY)
        self.read()
        self.install()
        self.assertEqual((HAPROXY,), self.successResultOf(self.packages.read()))
        self.assertEqual((), self.read())

    def test_absent(self) -> None:
        """Without a database there are no packages, which is logged once, until there is one."""
        with capturedLogs() as events:
            self.assertEqual([(), ()], [self.read(), self.read()])
        self.assertEqual([LogLevel.warn], [event["log_level"] for event in events])
        self.assertIn("no package database", events[0]["trouble"])
        self.install(HAPROXY)
        with capturedLogs() as events:
            self.assertEqual((HAPROXY,), self.read())
        self.assertEqual([LogLevel.info], [event["log_level"] for event in events])
        self.dpkg.unlink()
        self.assertEqual((), self.read())

    def test_unreadable(self) -> None:
        """A database that cannot be read leaves what was known, is logged once, and tried again a minute later."""
        self.install(HAPROXY)
        self.read()
        self.dpkg.unlink()
        self.dpkg.mkdir()
        with capturedLogs() as events:
            self.assertEqual([(HAPROXY,)] * 3, [self.read() for _ in range(3)])
            self.reactor.advance(TRY_AGAIN)
            self.assertEqual((HAPROXY,), self.read())
        self.assertEqual([LogLevel.warn], [event["log_level"] for event in events])
        self.assertIn("Is a directory", events[0]["trouble"])
        self.dpkg.rmdir()
        self.install()
        self.reactor.advance(TRY_AGAIN)
        self.assertEqual((), self.read())

    def rpm_runs(self) -> FakeProcess:
        """The rpm that was started last."""
        process = self.reactor.processes[-1]
        self.assertEqual(["rpm", "-qa", "--queryformat"], process.command[:3])
        self.assertIn("haproxy", process.command)
        return process

    def test_rpm(self) -> None:
        """Where there is rpm's database, rpm is asked once, and again when that has changed."""
        self.rpm.write_bytes(b"one")
        asking = [self.packages.read() for _ in range(3)]
        self.rpm_runs().says(OUTPUT.encode())
        self.rpm_runs().exits()
        self.assertEqual([parse_rpm(OUTPUT)] * 3, [self.successResultOf(each) for each in asking])
        self.assertEqual(parse_rpm(OUTPUT), self.read())
        self.assertEqual(1, len(self.reactor.processes))
        self.rpm.write_bytes(b"more")
        self.reactor.advance(LOOK_EVERY)
        again = self.packages.read()
        self.rpm_runs().says(b"haproxy 2.8.0-1.el9\n")
        self.rpm_runs().exits()
        self.assertEqual((Package("haproxy", "2.8.0-1.el9"),), self.successResultOf(again))

    def test_rpm_fails(self) -> None:
        """An rpm that fails, or hangs, is logged once and not asked again for a minute."""
        self.rpm.write_bytes(b"one")
        with capturedLogs() as events:
            asking = self.packages.read()
            self.rpm_runs().says(b"error: db5 error(-30969) from dbenv->open\n")
            self.rpm_runs().exits(1)
            self.assertEqual((), self.successResultOf(asking))
            self.assertEqual((), self.read())
        self.assertEqual(1, len(self.reactor.processes))
        self.assertIn("db5 error", events[0]["trouble"])
        self.reactor.advance(TRY_AGAIN)
        with capturedLogs() as events:
            asking = self.packages.read()
            self.reactor.advance(RPM_TIMEOUT)
            self.reactor.advance(0)
            self.assertEqual((), self.successResultOf(asking))
        self.assertIn("did not end", events[0]["trouble"])
