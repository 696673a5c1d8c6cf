"""
Where one agent runs: a process namespace, so that it ends with all that it started, and a mount namespace, so that
neither agent touches this machine nor finds what the other has left.

The network is that of the benchmark itself, which has one of its own: `script/bench` sees to that.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import define, field, frozen

_KEEPER = Path(__file__).with_name("keeper.py")
_STAND_INS = Path(__file__).with_name("stand_ins")
_PATH = f"{_STAND_INS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_THE_AGENT = frozenset({"haproxy", "keepalived", "systemctl", "ip", "sh", "perl"})
_DPKG = Path("/var/lib/dpkg/status")
_IPVSADM = """
Package: ipvsadm
Status: install ok installed
Maintainer: nobody
Architecture: all
Version: 1:1.31-1
Description: stands in for the real one, without which the reference answers no details
"""

_MEMBERS = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend members
    bind 0.0.0.0:80
    http-request return status 200
"""


@frozen
class Ran:
    """What several runs of a program took, each on the average: seconds of the clock, and of CPU."""

    status: int
    wall: float
    cpu: float


def cpu_of(pids: Iterable[int]) -> float:
    """
    Seconds of CPU that these processes have used, with all of their threads, those that ended too.

    Their children are not in it.  The kernel's clock of another process (clock_getcpuclockid(3)) counts nanoseconds,
    where C{/proc/PID/stat} counts hundredths of a second.
    """
    used = 0.0
    for pid in pids:
        with suppress(OSError):
            used += time.clock_gettime((~pid << 3) | 2)
    return used


def pss_of(pids: Iterable[int]) -> float:
    """Their proportional set size, in bytes: what they share counts in parts that add up."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


@define(eq=False)
class Cage:
    """
    One cage; used with C{with}, which ends all that runs in it.

    C{directory} holds what the agent sees as C{/var/lib/octavia} (C{lib}), C{/var/log} (C{log}), C{/run} (C{run}) and
    as the folder of systemd's units (C{units}).
    """

    directory: Path
    programs: Path
    """A folder with programs that are found here by their names, beside the system's."""
    _process: subprocess.Popen[str] | None = field(init=False, default=None)

    def __enter__(self) -> Cage:
        for name in ("lib", "log", "run/netns", "run/rsyslog/octavia", "units", "etc"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "members.cfg").write_text(_MEMBERS)
        if _DPKG.exists() and "\nPackage: ipvsadm\n" not in (status := _DPKG.read_text("utf-8", "replace")):
            (self.directory / "dpkg-status").write_text(f"{status.rstrip()}\n{_IPVSADM}")
        self._process = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount"),
                *("/usr/bin/env", "python3", "-I", "-S", str(_KEEPER), str(self.directory)),
            ],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()

    def launch(self, command: Sequence[str], log: Path) -> float:
        """Start the agent.  @return: When that was, by the monotonic clock."""
        order = {"launch": list(command), "env": self._environment, "log": str(log)}
        return float(self._ask(order)["at"])

    def run(self, command: Sequence[str], times: int = 1) -> Ran:
        """Run a program in here, several times, one after the other."""
        said = self._ask({"run": list(command), "times": times})
        return Ran(said["status"], said["wall"] / times, said["cpu"] / times)

    def agent_processes(self) -> list[int]:
        """
        All processes in here that are the agent's, as seen from outside.

        Not its own are the keeper, haproxy and keepalived, and programs that it runs and waits for.
        """
        keeper = self._keeper()
        space = os.readlink(f"/proc/{keeper}/ns/pid")
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            pid = int(name)
            with suppress(OSError):
                inside = pid != keeper and os.readlink(f"/proc/{pid}/ns/pid") == space
                if inside and Path(f"/proc/{pid}/comm").read_text().strip() not in _NOT_THE_AGENT:
                    found.append(pid)
        return found

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{_PATH}:{self.programs}", "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}

    def _keeper(self) -> int:
        assert self._process is not None
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def _ask(self, order: Mapping[str, Any]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        process = self._process
        assert process is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the cage has broken: see above")
        return json.loads(line)
