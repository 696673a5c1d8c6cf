"""Tests for the units in `conf/`, as texts; L{tests.faults.test_units} has systemd run them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import requires, short_directory

CONF = Path(__file__).parent.parent / "conf"
SERVICES = ("amphora-agent.service", "amphora-netns.service")
UNITS = (*SERVICES, "var-lib-octavia-certs.mount")

HIDING: dict[str, str] = {
    **dict.fromkeys(
        (
            *("PrivateTmp", "PrivateMounts", "PrivateIPC", "ProtectHome", "ProtectSystem", "DynamicUser"),
            *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
        ),
        "yes",
    ),
    **dict.fromkeys(
        (
            *("ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths"),
            *("BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem"),
        ),
        "/boot",
    ),
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "MountFlags": "slave",
    "IPCNamespacePath": "/proc/1/ns/ipc",
}
"""Options that give a service a mount namespace of its own, each with a value that does; see L{MountNamespaceFacts}."""

HIDING_ELSEWHERE = (
    *("PrivateDevices", "RootDirectory", "RootImage", "MountImages", "ExtensionImages", "ExtensionDirectories"),
    *("LogNamespace", "PrivateNetwork", "PrivateUsers", "PrivatePIDs", "ProtectHostname", "PrivateBPF"),
    *("BindLogSockets", "LoadCredential", "SetCredential", "ImportCredential"),
)
"""Others that do so too, or do in other releases of systemd than the tests' one, or need what no container has."""

WORST_EXPOSURE = 6.0
"""What `systemd-analyze security` may find; without the unit's limits it is 9.6, and 10 is the worst there is."""


def options(unit: str) -> Iterator[tuple[str, str]]:
    """The names and values in a unit's sections, in their order."""
    for line in (CONF / unit).read_text("utf-8").splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            yield name, value


def limits() -> list[str]:
    """The lines of the agent's unit that say what it and its children may do."""
    lines = [f"{name}={value}" for name, value in options("amphora-agent.service")]
    return [line for line in lines[lines.index("KillMode=process") :] if not line.startswith("WantedBy=")]


class UnitTests(SynchronousTestCase):
    def test_mount_namespaces(self) -> None:
        """No service has mounts of its own: network namespaces that are made there would be there for nobody else."""
        for unit in SERVICES:
            names = {name for name, _ in options(unit)}
            self.assertEqual(set(), names & {*HIDING, *HIDING_ELSEWHERE}, unit)

    def test_survivors(self) -> None:
        """What ends the agent spares its children, and nothing keeps the next agent from its start."""
        agent = dict(options("amphora-agent.service"))
        for name, value in {
            "KillMode": "process",
            "OOMPolicy": "continue",
            "Restart": "always",
            "StartLimitIntervalSec": "0",
        }.items():
            self.assertEqual(value, agent[name], name)
        self.assertEqual([], [name for name in agent if name in ("Requires", "Requisite", "BindsTo", "PartOf")])
        # haproxy compiles regular expressions to code as it reads them.
        self.assertNotIn("MemoryDenyWriteExecute", agent)

    @requires("systemd-analyze")
    def test_understood(self) -> None:
        """systemd understands each line."""
        folder = short_directory(self)
        for unit in UNITS:
            shutil.copy(CONF / unit, folder)
        # Where the agent is installed is the image's business.
        command = [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=no",
            *(str(folder / unit) for unit in UNITS),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if not line.endswith("No such file or directory")
        ]
        self.assertEqual([], said)

    @requires("systemd-analyze")
    def test_exposure(self) -> None:
        """The agent's unit leaves it little more than what it needs, by systemd's own measure."""
        command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(CONF / "amphora-agent.service")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"Overall exposure level for amphora-agent.service: ([\d.]+)", done.stdout)
        assert found is not None, done.stdout + done.stderr
        self.assertLessEqual(float(found[1]), WORST_EXPOSURE)
