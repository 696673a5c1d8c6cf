"""
Which versions of the packages that matter to a load balancer are installed.

The answer is kept: it is read once, and again when the package manager's database has changed, which its file tells.
"""

from __future__ import annotations

import re
from fnmatch import translate
from pathlib import Path
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import FileMark, file_mark
from amphora.process import CommandFailed, IProcessReactor, run_command

WANTED: Final = (
    *("haproxy", "keepalived", "ipvsadm", "nginx", "lighttpd", "amphora-agent*"),
    *("openssl", "openssl-libs", "libssl[0-9]*"),
    *("nftables", "iptables", "iproute", "iproute2", "conntrack*"),
    *("linux-image-*", "kernel", "kernel-core", "libc6", "glibc", "systemd", "rsyslog", "bash", "python3"),
)
"""Names of packages, as Debian, Ubuntu, Fedora and Red Hat give them; `*` and `[…]` as in a shell."""

DPKG: Final = Path("/var/lib/dpkg/status")
RPM: Final = tuple(
    Path(folder, name)
    for folder in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
    for name in ("rpmdb.sqlite", "Packages.db", "Packages")
)
"""Where rpm keeps its database; which file it is has changed over the years.  A query leaves it as it is."""

RPM_TIMEOUT: Final = 5.0
LOOK_EVERY: Final = 1.0
"""Seconds at least between two looks whether a database has changed."""
TRY_AGAIN: Final = 60.0
"""Seconds after which one that could not be read is tried again."""

_IS_WANTED = re.compile("|".join(translate(name) for name in WANTED))
_PACKAGE, _STATUS, _VERSION = (
    re.compile(rf"^{name}: (.+)$", re.MULTILINE) for name in ("Package", "Status", "Version")
)
_RPM_LINE = re.compile(r"^([\w.+-]+) (\S+-\S+)$", re.MULTILINE)


@frozen
class Package:
    """An installed package; the version is the distribution's, `2.6.12-1+deb12u4`."""

    name: str
    version: str


def parse_dpkg(status: str) -> tuple[Package, ...]:
    """Those of dpkg's database that are wanted and wholly installed, each once, in the order of their names."""
    found = set()
    for paragraph in status.split("\n\n"):
        name, state, version = (fact.search(paragraph) for fact in (_PACKAGE, _STATUS, _VERSION))
        if name and state and version and state[1].endswith(" installed") and _IS_WANTED.match(name[1]):
            # A library may be installed for two architectures, in the same version then.
            found.add((name[1], version[1]))
    return tuple(Package(*each) for each in sorted(found))


def rpm_query() -> list[str]:
    """The command whose output L{parse_rpm} reads."""
    return ["rpm", "-qa", "--queryformat", r"%{NAME} %{VERSION}-%{RELEASE}\n", *WANTED]


def parse_rpm(output: str) -> tuple[Package, ...]:
    """Read one package a line; rpm's warnings, which come among them, are no such lines."""
    return tuple(Package(*row) for row in sorted(set(_RPM_LINE.findall(output))))


@define(eq=False)
class Packages:
    """The packages of this machine; none where it has neither dpkg's nor rpm's database."""

    _log = Logger()

    _reactor: IProcessReactor
    _blocking: BlockingCalls
    _dpkg: Path = DPKG
    _rpm: tuple[Path, ...] = RPM
    _known: tuple[Package, ...] = field(init=False, default=())
    _seen: tuple[Path, FileMark] | None = field(init=False, default=None)
    """The database that this is from, as it was then."""
    _next_look: float = field(init=False, default=0.0)
    _trouble: str = field(init=False, default="")
    """Why they cannot be told; empty where they can."""
    _lock: DeferredLock = field(init=False, factory=DeferredLock)

    def read(self) -> Deferred[tuple[Package, ...]]:
        """What is installed.  Where that cannot be read, which is logged, it is what was installed last we knew."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._up_to_date()))

    async def _up_to_date(self) -> tuple[Package, ...]:
        if self._reactor.seconds() >= self._next_look:
            self._next_look = self._reactor.seconds() + LOOK_EVERY
            try:
                await self._look()
            except (OSError, CommandFailed) as error:
                self._next_look = self._reactor.seconds() + TRY_AGAIN
                self._tell(f"the package database cannot be read: {error}")
            else:
                self._tell("" if self._seen else "there is no package database, of dpkg or rpm")
        return self._known

    async def _look(self) -> None:
        database = await self._blocking.run(self._find)
        if database is None:
            self._known = ()
        elif database != self._seen:
            self._known = await self._load(database[0])
        self._seen = database

    def _find(self) -> tuple[Path, FileMark] | None:
        for path in (self._dpkg, *self._rpm):
            try:
                return path, file_mark(path)
            except FileNotFoundError:
                continue
        return None

    async def _load(self, database: Path) -> tuple[Package, ...]:
        if database == self._dpkg:
            return await self._blocking.run(lambda: parse_dpkg(database.read_text("utf-8", "replace")))
        result = await run_command(self._reactor, rpm_query(), timeout=RPM_TIMEOUT)
        if not result.succeeded:
            raise CommandFailed(f"rpm ended with {result.exit_code}: {result.output.strip()}")
        return parse_rpm(result.output)

    def _tell(self, trouble: str) -> None:
        """Log a trouble once, and its end."""
        if trouble and trouble != self._trouble:
            self._log.warn("details do not tell which packages are installed: {trouble}", trouble=trouble)
        elif self._trouble and not trouble:
            self._log.info("details tell again which packages are installed")
        self._trouble = trouble
