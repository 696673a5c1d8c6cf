"""What Octavia's metrics tell of the machine itself."""

from __future__ import annotations

import os

import psutil
from attrs import frozen


@frozen
class Usage:
    """How much of the machine is in use, in percent; the CPU's is the load of the last minute for each CPU."""

    cpu: float
    memory: float

    @property
    def text(self) -> bytes:
        """In Prometheus' exposition format."""
        return (
            "# HELP octavia_loadbalancer_cpu Load of the last minute for each CPU (percent)\n"
            "# TYPE octavia_loadbalancer_cpu gauge\n"
            f"octavia_loadbalancer_cpu {self.cpu:.1f}\n"
            "# HELP octavia_loadbalancer_memory Memory in use (percent)\n"
            "# TYPE octavia_loadbalancer_memory gauge\n"
            f"octavia_loadbalancer_memory {self.memory:.1f}\n"
        ).encode()


def read_usage() -> Usage:
    """Look at the machine.  Read from files of the kernel: call it in a thread."""
    return Usage(100 * os.getloadavg()[0] / (os.cpu_count() or 1), psutil.virtual_memory().percent)
