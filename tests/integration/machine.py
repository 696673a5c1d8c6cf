"""
A machine that systemd has booted: this very system's programs and files, with the units of `conf/` and none of its own.

It is a container: what it writes goes to memory, over the files of this system; its processes, mounts and control
groups are its own, its network is ours.  Its systemd is the real one, as is what that does to a unit.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from amphora.process import ProcessIdentity
from tests.integration.harness import AMPHORA_ID, AgentProcess
from tests.integration.networks import new_suffix

CONF = Path(__file__).parent.parent.parent / "conf"
SYSTEMD = Path("/usr/lib/systemd/systemd")
_PATIENCE = 60.0

_PRIVATE = ("unshare", "--mount", "--uts", "--ipc", "--cgroup")

_BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work machine root
cd root
mount -t proc proc proc
# The kernel is not the machine's: none of its settings are, but those of network namespaces that it makes.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
# Of this system's units only the targets are there, with nothing that they want.
mkdir "$1/units"
cp usr/lib/systemd/system/*.target "$1/units"
for folder in etc/systemd usr/lib/systemd/system usr/lib/systemd/system-generators; do
    mount -t tmpfs -o mode=755 tmpfs $folder
done
cp "$1"/units/* "$2"/*.service "$2"/*.mount usr/lib/systemd/system
mkdir -p etc/systemd/system usr/local/bin
rm -rf var/lib/octavia etc/octavia usr/local/bin/amphora-agent
: >etc/fstab
ln -s "$3" usr/local/bin/amphora-agent
mkdir "$1/root/run/old"
pivot_root . run/old
exec chroot . sh -c 'umount -l /run/old && exec env -i container=test "$0" --unit=basic.target --log-target=null' "$4" \
    </dev/null >/dev/null 2>&1
"""


@functools.cache
def can_boot() -> bool:
    """May we make what a machine is made of, and would it have our files?"""
    probe = "mount -t tmpfs t /mnt && cd /mnt && mkdir u w r && mount -t overlay -o lowerdir=/,upperdir=u,workdir=w o r"
    command = [*_PRIVATE, "sh", "-c", f"{probe} && mount -t cgroup2 c /mnt/r/mnt"]
    cgroups = _cgroups()
    return (
        os.geteuid() == 0
        and SYSTEMD.exists()
        and cgroups is not None
        and os.access(cgroups, os.W_OK)
        # What is mounted below the root is not in the machine.
        and {os.stat(folder).st_dev for folder in (CONF, Path(sys.executable).parent)} == {os.stat("/").st_dev}
        and subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE).returncode == 0
    )


def _cgroups() -> Path | None:
    """Where this system has its control groups, version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


@define(eq=False)
class Machine:
    """One such machine.  All of it that waits does so in a thread."""

    directory: Path
    """An empty one for its use."""
    _cgroup: Path | None = field(init=False, default=None)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    init: int = field(init=False, default=0)
    """Its first process, as its id is here."""

    @property
    def is_up(self) -> bool:
        return bool(self.init)

    @property
    def root(self) -> Path:
        """Its files, as they are seen from here."""
        return Path(f"/proc/{self.init}/root")

    def boot(self) -> Deferred[None]:
        return deferToThread(self._boot)

    def _boot(self) -> None:
        cgroups = _cgroups()
        assert cgroups is not None
        self._cgroup = cgroup = cgroups / f"amphora-{new_suffix()}"
        cgroup.mkdir()
        place = self.directory / "machine"
        place.mkdir()
        agent = Path(sys.executable).parent / "amphora-agent"
        boot = ["sh", "-c", _BOOT, "boot", *map(str, (place, CONF, agent, SYSTEMD))]
        enter = f"echo $$ >{shlex.quote(str(cgroup / 'cgroup.procs'))} && exec "
        private = [*_PRIVATE, "--pid", "--fork", "--kill-child=KILL"]
        with open(self.directory / "boot.log", "wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", enter + shlex.join([*private, *boot])], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait(self._is_up, "systemd to come up")

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the machine does not boot: {(self.directory / 'boot.log').read_text()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children or ProcessIdentity(int(children[0]), 0).executable() != str(SYSTEMD):
            return False
        self.init = int(children[0])
        return self._run("systemctl", "is-active", "basic.target").stdout == "active\n"

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = monotonic() + _PATIENCE
        while not condition():
            if monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}")
            sleep(0.05)

    def run(self, *command: str, patience: float = _PATIENCE) -> Deferred[subprocess.CompletedProcess[str]]:
        """Run a command inside."""
        return deferToThread(self._run, *command, patience=patience)

    def _run(self, *command: str, patience: float = _PATIENCE) -> subprocess.CompletedProcess[str]:
        parts = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--root", "--wd")
        return subprocess.run(
            ["nsenter", "--target", str(self.init), *parts, *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
        )

    async def systemctl(self, *arguments: str) -> str:
        """@raise AssertionError: with what it says, if it fails."""
        done = await self.run("systemctl", *arguments)
        if done.returncode != 0:
            raise AssertionError(f"systemctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    async def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return (await self.systemctl("show", "--value", "--property", name, unit)).strip()

    def process(self, pid: int) -> ProcessIdentity | None:
        """The process that has this id inside."""
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if not entry.isdigit() or os.stat(f"/proc/{entry}/ns/pid").st_ino != self._namespace:
                    continue
                status = Path(f"/proc/{entry}/status").read_text()
                [line] = [line for line in status.splitlines() if line.startswith("NSpid:")]
                if int(line.split()[-1]) == pid:
                    return ProcessIdentity.of(int(entry))
        return None

    @property
    def _namespace(self) -> int:
        return os.stat(f"/proc/{self.init}/ns/pid").st_ino

    def end(self) -> Deferred[None]:
        """Let all of it be gone."""
        return deferToThread(self._end)

    def _end(self) -> None:
        if self._process is not None:
            if self.init:
                with suppress(ProcessLookupError):
                    os.kill(self.init, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()
        self._wait(self._cgroup_is_gone, "the machine's processes to end")

    def _cgroup_is_gone(self) -> bool:
        if self._cgroup is None:
            return True
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        return not self._cgroup.exists()


@define(eq=False)
class UnitAgent(AgentProcess):
    """The agent that a machine's systemd runs, from the unit as it is in `conf/` and with the paths of an amphora."""

    machine: Machine = field(kw_only=True)
    drop_in: str = field(kw_only=True, default="")
    """What the unit says besides."""

    @property
    def base_path(self) -> Path:
        return self.machine.root / "var/lib/octavia"

    @property
    def config_file(self) -> Path:
        return self.machine.root / "etc/octavia/amphora-agent.conf"

    @property
    def log(self) -> str:
        try:
            return (self.machine.root / "run/agent.log").read_text("utf-8", "replace")
        except OSError:
            return ""

    @property
    def namespace(self) -> str:
        """The one that haproxy runs in, as C{inside} takes it."""
        return str(self.machine.root / "run/netns/amphora-haproxy")

    def config(self) -> str:
        lines = [
            "[DEFAULT]",
            "use_syslog = False",
            "[haproxy_amphora]",
            f"bind_host = {self.host}",
            f"bind_port = {self.port}",
            "[amphora_agent]",
            f"amphora_id = {AMPHORA_ID}",
            "[health_manager]",
            "heartbeat_key = a key of the tests",
            *(f"{name} = {value}" for name, value in self.options.get("health_manager", {}).items()),
        ]
        return "\n".join([*lines, ""])

    async def start(self) -> None:
        """Boot the machine, where it is not up, and have systemd start the agent: then it serves."""
        if not self.machine.is_up:
            await self.machine.boot()
            certificates = self.machine.root / "etc/octavia/certs"
            certificates.mkdir(parents=True)
            (certificates / "client_ca.pem").write_bytes(self.pki.ca.read_bytes())
            (certificates / "server.pem").write_bytes(self.pki.server.read_bytes())
            self.write_config()
            drop_in = self.machine.root / "run/systemd/system/amphora-agent.service.d/test.conf"
            drop_in.parent.mkdir(parents=True)
            source = CONF.parent
            drop_in.write_text(
                "[Service]\nStandardOutput=append:/run/agent.log\n"
                f"Environment=PYTHONPATH={source} PYTHONDONTWRITEBYTECODE=1\n{self.drop_in}\n"
            )
            await self.machine.systemctl("daemon-reload")
        await self.machine.systemctl("start", "amphora-agent.service")

    async def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        if self.machine.is_up:
            await self.machine.systemctl("stop", "amphora-agent.service")

    def haproxy(self, instance_id: str) -> ProcessIdentity | None:
        pid = (self.base_path / instance_id / f"{instance_id}.pid").read_text()
        return self.machine.process(int(pid))

    def _started(self) -> list[ProcessIdentity]:
        """Nobody: what is left ends with the machine."""
        return []
