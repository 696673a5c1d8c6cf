"""The stand-in for the kernel does what the real one does; see `tests.integration.test_network_kernel`."""

from __future__ import annotations

from amphora.testing.fake_kernel import FakeKernel
from tests.network.kernel_contract import KernelContract


class FakeKernelTests(KernelContract):
    def setUp(self) -> None:
        self.fake = FakeKernel()
        self.kernel = self.fake
        self._number = 0

    def plug_in(self, name: str = "") -> str:
        self._number += 1
        return self.fake.new_link(f"02:00:00:00:00:{self._number:02x}", name).mac

    def end_detection(self) -> None:
        self.fake.end_detection()


del KernelContract
