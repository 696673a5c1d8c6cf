"""Tests for L{amphora.system.machine}; the machine itself is in `tests.integration.test_figures`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.system.machine import Haproxies, Memory, parse_memory, read_haproxies, read_tuned_profiles

MEMINFO = """\
MemTotal:        4087402 kB
MemFree:          760656 kB
MemAvailable:    2655901 kB
Buffers:           90980 kB
Cached:          1830143 kB
SwapCached:           12 kB
Active(anon):     123456 kB
SwapTotal:       1048572 kB
SwapFree:        1047629 kB
Shmem:            105792 kB
KReclaimable:     107848 kB
Slab:             158819 kB
SReclaimable:     107848 kB
CommitLimit:     3092273 kB
Committed_AS:    2643480 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""


class MemoryTests(SynchronousTestCase):
    def test_specification(self) -> None:
        """The figures of the specification's example are read from what the kernel of that amphora must have told."""
        self.assertEqual(
            Memory(
                total=4087402,
                free=760656,
                available=2655901,
                buffers=90980,
                cached=1830143,
                swap_used=943,
                shared=105792,
                slab=158819,
                committed_as=2643480,
            ),
            parse_memory(MEMINFO),
        )


class HaproxiesTests(SynchronousTestCase):
    def test_none(self) -> None:
        """Where no haproxy runs, none takes memory."""
        self.assertEqual(Haproxies(0, 0, 0), read_haproxies([]))


class TunedTests(SynchronousTestCase):
    def test_profiles(self) -> None:
        """The profiles are those of TuneD's file, whatever is in it; without one there are none."""
        path = Path(self.mktemp())
        self.assertEqual("", read_tuned_profiles(path))
        for content, profiles in (
            (b"virtual-guest amphora\n", "virtual-guest amphora"),
            (b"", ""),
            (b"\xff\n", "\ufffd"),
        ):
            path.write_bytes(content)
            self.assertEqual(profiles, read_tuned_profiles(path))
        path.unlink()
        path.mkdir()
        self.assertEqual("", read_tuned_profiles(path))
