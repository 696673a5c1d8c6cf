"""
The first process of a cage: hides what an agent would change of this machine, and starts what it is told.

Run as a program, in process and mount namespaces of its own, with the cage's directory as argument.  It is told in
lines of JSON, and answers each with one:

    {"launch": COMMAND, "env": {…}, "log": PATH}   -> {"at": seconds of the monotonic clock, "pid": …}
    {"run": COMMAND, "times": N}                   -> {"status": …, "wall": seconds, "cpu": seconds}, of all N together
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

_MS_BIND = 4096
_NAMESPACE = "amphora-haproxy"
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, kind: str | None = None, flags: int = 0) -> None:
    """mount(2).  @raise OSError: as the system says."""
    arguments = (os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags, None)
    if _libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def shadow(folder: Path) -> None:
    """Have a folder show what it shows, but take new entries that nobody outside the cage sees."""
    real = os.open(folder, os.O_RDONLY)
    mount("none", folder, "tmpfs")
    for name in os.listdir(real):
        behind, here = Path(f"/proc/self/fd/{real}/{name}"), folder / name
        if behind.is_symlink():
            here.symlink_to(os.readlink(behind))
            continue
        if behind.is_dir():
            here.mkdir()
        else:
            here.touch()
        mount(behind, here, flags=_MS_BIND)
    os.close(real)


def hide(directory: Path) -> None:
    """
    Put the cage's own in the place of what an agent writes to.

    The reference names most of these paths itself: no configuration would move them.
    """
    shadow(Path("/var/lib"))
    for own, target in (
        ("lib", "/var/lib/octavia"),
        ("log", "/var/log"),
        ("run", "/run"),
        ("units", "/usr/lib/systemd/system"),
    ):
        os.makedirs(target, exist_ok=True)
        mount(directory / own, target, flags=_MS_BIND)
    status = directory / "dpkg-status"
    if status.exists():
        mount(status, "/var/lib/dpkg/status", flags=_MS_BIND)
    for command in (
        f"netns add {_NAMESPACE}",
        f"-n {_NAMESPACE} link set lo up",
        # For keepalived, which takes no loopback interface.
        f"-n {_NAMESPACE} link add eth1 type veth peer name eth2",
        # All members are one haproxy.
        f"-n {_NAMESPACE} route add local 198.18.0.0/15 dev lo",
        f"netns exec {_NAMESPACE} haproxy -D -f {directory}/members.cfg",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def launch(command: list[str], environment: dict[str, str], log: str) -> dict[str, float]:
    """
    Start a program in a session of its own, and in C{/} as systemd does: from there the reference looks for syslog.
    """
    with open(log, "ab") as output, open(os.devnull, "rb") as nothing:
        at = time.monotonic()
        process = subprocess.Popen(
            command, cwd="/", env=environment, stdin=nothing, stdout=output, stderr=output, start_new_session=True
        )
    return {"at": at, "pid": process.pid}


def run(command: list[str], times: int) -> dict[str, float]:
    """Run a program to its end, one time after the other, and tell what it took with all that it started."""
    status, nothing = 0, subprocess.DEVNULL
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    for _ in range(times):
        status = status or subprocess.run(command, stdin=nothing, stdout=nothing, check=False).returncode
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"status": status, "wall": wall, "cpu": cpu}


def main() -> None:
    """Serve until nobody tells anything any more."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), sys.stderr
    hide(Path(sys.argv[1]))
    answers.write("{}\n")
    for line in sys.stdin:
        order = json.loads(line)
        if "launch" in order:
            answer = launch(order["launch"], order["env"], order["log"])
        else:
            answer = run(order["run"], order["times"])
        answers.write(json.dumps(answer) + "\n")
    os.kill(-1, signal.SIGKILL)


if __name__ == "__main__":
    main()
