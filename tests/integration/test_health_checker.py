"""The program that checks SCTP members, and the one for UDP, on the wire."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from importlib.resources import files
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.health_checker import packet
from amphora.network.inside import inside
from tests.integration.networks import PATIENCE, ip, new_namespace
from tests.integration.support import requires

SCTP = 132
INIT, INIT_ACK, ABORT, HEARTBEAT = 1, 2, 6, 4
PORT = 3868


class SctpPeer:
    """
    Answers each INIT with one chunk, from a raw socket in a namespace, and notes what else comes.

    It stands in for a kernel's SCTP, which not every kernel has.
    """

    def __init__(self, namespace: str, family: socket.AddressFamily, kind: int | None) -> None:
        self._kind = kind
        self._family = family
        self.heard: list[tuple[int, int]] = []
        """The type and the tag of each packet that came from a client."""
        self._wire = inside(namespace, lambda: socket.socket(family, socket.SOCK_RAW, SCTP))
        self._wire.settimeout(0.1)
        self._going = True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while self._going:
            try:
                data, sender = self._wire.recvfrom(65535)
            except TimeoutError:
                continue
            if self._family == socket.AF_INET:
                data = data[(data[0] & 15) * 4 :]
            source, destination, tag = struct.unpack_from("!HHI", data)
            if destination != PORT:
                continue
            self.heard.append((data[12], tag))
            if data[12] == INIT and self._kind is not None:
                wanted = struct.unpack_from("!I", data, 16)[0]
                value = struct.pack("!IIHHI", 4711, 65535, 1, 1, 1) if self._kind == INIT_ACK else b""
                self._wire.sendto(packet(PORT, source, wanted, self._kind, value), (sender[0], 0))

    def close(self) -> None:
        self._going = False
        self._thread.join()
        self._wire.close()


@requires("root", "ip")
class SctpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.namespace = new_namespace(self)
        ip("-n", self.namespace, "address", "add", "fd00::1/128", "dev", "lo", "nodad")

    def check(self, address: str, timeout: str = "30") -> int:
        """Its exit code, run as keepalived runs it.  Blocks."""
        program = Path(sys.executable).with_name("amphora-health-checker")
        command = ["ip", "netns", "exec", self.namespace, str(program), "sctp", "-t", timeout, address, str(PORT)]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, env=os.environ).returncode

    def peer(self, family: socket.AddressFamily, kind: int | None) -> SctpPeer:
        peer = SctpPeer(self.namespace, family, kind)
        self.addCleanup(peer.close)
        return peer

    def test_verdicts(self) -> None:
        """Its exit code is what the member answered, in both families."""
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "fd00::1")):
            for kind, code in ((INIT_ACK, 0), (ABORT, 1), (HEARTBEAT, 3)):
                peer = SctpPeer(self.namespace, family, kind)
                verdict = self.check(address)
                peer.close()
                self.assertEqual(code, verdict, (address, kind))

    def test_silence(self) -> None:
        """Who does not answer is silent."""
        self.peer(socket.AF_INET, None)
        self.assertEqual(2, self.check("127.0.0.1", "0.2"))

    def test_leaves_nothing_open(self) -> None:
        """An association that was begun is aborted, with the tag that the other side asked for."""
        peer = SctpPeer(self.namespace, socket.AF_INET, INIT_ACK)
        self.assertEqual(0, self.check("127.0.0.1"))
        peer.close()
        self.assertIn((ABORT, 4711), peer.heard)

    def test_no_route(self) -> None:
        """Where nothing can be sent there is no verdict on the member."""
        self.assertEqual(3, self.check("192.0.2.77"))

    def test_light(self) -> None:
        """It loads nothing of the agent but itself: it is run every few seconds for each member."""
        code = "import sys, amphora.health_checker; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual(["amphora.health_checker"], [name for name in loaded if name.startswith("amphora.")])
        for heavy in ("attr", "attrs", "twisted.internet"):
            self.assertNotIn(heavy, loaded)


@requires("root", "ip", "nc")
class UdpTests(SynchronousTestCase):
    def test_udp(self) -> None:
        """A port where somebody listens passes, silent or not; one where nobody does fails."""
        namespace = new_namespace(self)
        script = files("amphora.lvs").joinpath("scripts", "udp_check.sh")
        with inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as member:
            member.bind(("127.0.0.1", 5353))
            for port, passes in ((5353, True), (5354, False)):
                command = ["ip", "netns", "exec", namespace, "sh", str(script), "127.0.0.1", str(port)]
                done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
                self.assertEqual(passes, done.returncode == 0, done)
                self.assertEqual(b"", done.stdout + done.stderr)
