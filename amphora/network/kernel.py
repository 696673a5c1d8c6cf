"""The kernel, as plugging needs it: one object that knows the two namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from attrs import frozen

from amphora.network import netlink
from amphora.network.advertise import Advertisement, advertise
from amphora.network.plan import Sight
from amphora.network.state import Snapshot
from amphora.network.steps import Change, Undoing
from amphora.network.sysctl import apply_sysctls, raise_limits

PCI_RESCAN = Path("/sys/bus/pci/rescan")


class Kernel(Protocol):
    """
    What is asked of the kernel.  All of it blocks.

    A method that returns texts tells what did not work, which nothing depends on.
    """

    def look(self) -> Snapshot:
        """Read the amphora's namespace.  @raise OSError: with the system's words."""

    def look_around(self) -> Sight:
        """Read both namespaces.  @raise OSError: with the system's words."""

    def carry_out(self, changes: Sequence[Change | Undoing]) -> None:
        """Make changes, one after the other.  @raise StepFailed: at the first that is refused."""

    def apply_sysctls(self, settings: Mapping[str, str]) -> list[str]:
        """Make settings of the amphora's namespace."""

    def raise_limits(self, limits: Mapping[str, int]) -> list[str]:
        """Raise limits of the machine that are lower."""

    def advertise(self, advertisements: Iterable[Advertisement]) -> list[str]: ...

    def find_devices(self) -> None:
        """Have the machine look for devices that were plugged in without a word."""


@frozen
class LinuxKernel:
    """The real one.  `namespace` is the amphora's; empty, it is the agent's own."""

    namespace: str
    pci_rescan: Path = PCI_RESCAN

    def look(self) -> Snapshot:
        return netlink.look(self.namespace)

    def look_around(self) -> Sight:
        return Sight(self.look(), netlink.look("") if self.namespace else None)

    def carry_out(self, changes: Sequence[Change | Undoing]) -> None:
        netlink.carry_out(self.namespace, changes)

    def apply_sysctls(self, settings: Mapping[str, str]) -> list[str]:
        return apply_sysctls(self.namespace, settings)

    def raise_limits(self, limits: Mapping[str, int]) -> list[str]:
        return raise_limits(limits)

    def advertise(self, advertisements: Iterable[Advertisement]) -> list[str]:
        return advertise(self.namespace, advertisements)

    def find_devices(self) -> None:
        # A machine without PCI has no such file; who is not root may not write it.
        if self.pci_rescan.exists():
            with suppress(OSError):
                self.pci_rescan.write_text("1")
