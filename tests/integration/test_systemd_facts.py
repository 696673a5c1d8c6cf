"""What systemd does that the units in `conf/` build on."""

from __future__ import annotations

import os

from twisted.trial.unittest import TestCase

from tests.integration.machine import Machine
from tests.integration.support import requires, short_directory
from tests.test_units import HIDING, limits


@requires("machine")
class MountNamespaceFacts(TestCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.machine = Machine(short_directory(self))
        self.addCleanup(self.machine.end)
        await self.machine.boot()
        self.units = self.machine.root / "run/systemd/system"
        self.units.mkdir(parents=True, exist_ok=True)

    async def namespaces(self, lines: list[str]) -> list[str]:
        """The mount namespaces of services, one that has each of these lines."""
        for number, line in enumerate(lines):
            (self.units / f"fact-{number}.service").write_text(
                f"[Service]\nType=oneshot\nExecStart=readlink /proc/self/ns/mnt\n"
                f"StandardOutput=file:/run/fact-{number}\n{line}\n"
            )
        await self.machine.systemctl("daemon-reload")
        await self.machine.systemctl("start", *(f"fact-{number}.service" for number in range(len(lines))))
        return [(self.machine.root / f"run/fact-{number}").read_text().strip() for number in range(len(lines))]

    async def test_own(self) -> None:
        """These options give a service a mount namespace of its own, though the manual does not say it of all."""
        lines = [f"{name}={value}" for name, value in HIDING.items()]
        found = await self.namespaces(lines)
        everybodys = os.readlink(f"/proc/{self.machine.init}/ns/mnt")
        self.assertEqual([], [line for line, namespace in zip(lines, found, strict=True) if namespace == everybodys])

    async def test_everybodys(self) -> None:
        """The options of the agent's unit do not."""
        [found] = await self.namespaces(["\n".join(limits())])
        self.assertEqual(os.readlink(f"/proc/{self.machine.init}/ns/mnt"), found)
