"""How long a base path may be: what `amphora.config` says of it holds for the real haproxy."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from amphora.config import read_settings
from tests.integration.harness import wait_until
from tests.integration.support import program, requires, short_directory


class _Haproxy(ProcessProtocol):
    """A haproxy in the foreground: what it printed, and its end."""

    def __init__(self) -> None:
        self.output = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


@requires("haproxy")
class BasePathTests(TestCase):
    """A haproxy whose master socket has a long path."""

    def start(self, socket: Path) -> _Haproxy:
        """Start a haproxy that serves nothing, with a master socket, and end it with the test."""
        configuration = short_directory(self) / "haproxy.cfg"
        configuration.write_text("global\n    maxconn 10\ndefaults\n    timeout connect 1s\n", "utf-8")
        haproxy = _Haproxy()
        command = [str(program("haproxy")), "-W", "-S", str(socket), "-f", str(configuration)]
        process = reactor.spawnProcess(haproxy, command[0], command)

        async def end() -> None:
            if process.pid is not None:
                process.signalProcess("TERM")
            await haproxy.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return haproxy

    async def test_longest(self) -> None:
        """Below the longest base path that the configuration allows, haproxy binds an instance's master socket."""
        folder = short_directory(self)
        base_path = folder / ("x" * (46 - len(bytes(folder)) - 1))
        text = f"[amphora_agent]\namphora_id = {uuid4()}\n[haproxy_amphora]\nbase_path = {base_path}"
        self.assertEqual(read_settings(text.encode(), "agent.conf").base_path, str(base_path))
        socket = base_path / str(uuid4()) / "master.sock"
        socket.parent.mkdir(parents=True)
        haproxy = self.start(socket)
        await wait_until(lambda: socket.is_socket() or haproxy.ended.called, "the master socket is there")
        self.assertTrue(socket.is_socket(), haproxy.output)

    async def test_temporary_name(self) -> None:
        """A path that fits into a socket's address by itself is refused: the temporary name has to fit as well."""
        folder = short_directory(self)
        haproxy = self.start(folder / ("x" * (102 - len(bytes(folder)) - 1)))
        await haproxy.ended
        self.assertIn(b"too long", haproxy.output)
