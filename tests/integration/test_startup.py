"""How the agent starts, and how it says that it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from attrs import evolve
from twisted.internet.error import ProcessTerminated
from twisted.internet.threads import deferToThread

from amphora.client import AmphoraFailed
from amphora.testing.pki import Authority, Part
from tests.integration.harness import AgentTestCase, LoadBalancer, free_port, new_id, wait_until
from tests.integration.support import requires


@requires("haproxy")
class StartTests(AgentTestCase):
    async def assert_does_not_start(self) -> str:
        """The agent ends with exit status 1; what it said is the answer."""
        reason = await self.agent.spawn()
        assert isinstance(reason, ProcessTerminated), self.agent.log
        self.assertEqual(1, reason.exitCode, self.agent.log)
        self.assertNotIn("Traceback", self.agent.log)
        return self.agent.log

    async def assert_one_line(self, *parts: str) -> None:
        """The agent does not start, and the one line that it says has all of these in it."""
        said = await self.assert_does_not_start()
        self.assertEqual(1, len(said.splitlines()), said)
        for part in ("amphora-agent: ", *parts):
            self.assertIn(part, said)

    async def test_wrong_value(self) -> None:
        """A wrong value is told in one line: file, section, option, what is wrong, what is allowed."""
        self.agent.options = {"haproxy_amphora": {"bind_port": "many"}}
        await self.assert_one_line(str(self.agent.config_file), "[haproxy_amphora] bind_port", "'many'", "allowed: ")

    async def test_tls_files(self) -> None:
        """A certificate file that is missing, empty, or has another's key is named, and so is a CA without one."""
        ours = self.pki.authority.issue("x")
        empty = self.directory / "empty.pem"
        empty.write_bytes(b"")
        mismatch = self.directory / "mismatch.pem"
        mismatch.write_bytes(ours.certificate_pem + Authority.create().issue("y").key_pem)
        keyless = self.directory / "keyless.pem"
        keyless.write_bytes(ours.pem(Part.CERTIFICATE))
        for option, path, problem in (
            ("agent_server_cert", self.directory / "missing.pem", "No such file or directory"),
            ("agent_server_cert", empty, "no certificate"),
            ("agent_server_cert", keyless, "no private key"),
            ("agent_server_cert", mismatch, "not the certificate's"),
            ("agent_server_ca", empty, "no certificate"),
        ):
            self.agent.options = {"amphora_agent": {option: path}}
            await self.assert_one_line(str(path), problem)

    async def test_port_taken(self) -> None:
        """A port that somebody else has is told in one line of the log, and the exit status is not 0."""
        with socket.create_server(("127.0.0.1", self.agent.port)):
            said = await self.assert_does_not_start()
        self.assertIn("The amphora agent cannot start", said)
        self.assertIn(str(self.agent.port), said)
        self.assertIn("Address already in use", said)

    async def test_unknown_options_are_named(self) -> None:
        """What the file says and we do not know is ignored, with a line in the log."""
        self.agent.options = {"DEFAULT": {"no_such_option": "1"}, "no_such_section": {"a": "b"}}
        await self.agent.start()
        self.assertIn("no_such_option", self.agent.log)
        self.assertIn("no_such_section", self.agent.log)

    async def test_log_rotation(self) -> None:
        """SIGUSR1, which an amphora's logrotate sends, ends nothing."""
        await self.agent.start()
        os.kill(self.agent.pid, signal.SIGUSR1)
        await self.client.info()
        await self.agent.end()
        self.assertIn("Server Shut Down", self.agent.log)

    async def test_log_rotation_by_twistd(self) -> None:
        """An agent that twistd's own option gives a log file has that file opened anew."""
        log = self.directory / "agent.log"
        self.agent.twistd_options = (f"--logfile={log}",)
        self.agent.spawn()
        await wait_until(lambda: log.exists() and "agent is ready" in log.read_text(), "the agent to be ready")
        os.kill(self.agent.pid, signal.SIGUSR1)
        await wait_until(lambda: log.with_name("agent.log.1").exists(), "the log to be rotated")
        await self.client.info()

    async def test_hung_up(self) -> None:
        """SIGHUP, again and again, ends no agent: not one that starts, not one that stops."""
        ended = self.agent.spawn()
        pid = self.agent.pid

        def hung_up_until(text: str) -> bool:
            if not ended.called:
                os.kill(pid, signal.SIGHUP)
            return ended.called or text in self.agent.log

        # Before, it is Python that starts, and not yet the agent.
        await wait_until(lambda: "starting up" in self.agent.log, "the agent to start")
        await wait_until(lambda: hung_up_until("agent is ready"), "the agent to be ready")
        await wait_until(lambda: hung_up_until("reading it again"), "the file to be read again")
        os.kill(pid, signal.SIGTERM)
        await wait_until(lambda: hung_up_until("(never said)"), "the agent to end")
        reason = await ended
        assert isinstance(reason, ProcessTerminated), self.agent.log
        # twistd ends as what asked for it would have done.
        self.assertEqual(signal.SIGTERM, reason.signal, self.agent.log)

    async def test_leftovers(self) -> None:
        """What an agent left unfinished when it was killed is gone after the next start."""
        instance, certificates = (parent / new_id() for parent in (self.agent.base_path, self.agent.cert_dir))
        leftovers = [
            self.agent.base_path / "spool" / "half",
            instance / ".haproxy.cfg.new",
            certificates / ".www.example.com.pem.new",
        ]
        for path in leftovers:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")
        await self.agent.start()
        self.assertEqual([], [path for path in leftovers if path.exists()])

    @requires("ipv6")
    async def test_all_addresses(self) -> None:
        """The address `::` takes IPv4 clients too."""
        self.agent.options = {"haproxy_amphora": {"bind_host": "::"}}
        await self.agent.start()
        self.assertEqual("0.1", (await self.client.info()).api_version)


_ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as connection:
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(connection.recv(65536).decode())
"""


_LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("listening", flush=True)
    sys.stdin.read()
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


class NamespaceTestCase(AgentTestCase):
    """The agent is to run haproxy in a namespace that is not there yet."""

    def setUp(self) -> None:
        super().setUp()
        self.namespace = f"amphora-{new_id()[:8]}"
        self.agent.options = {"amphora_agent": {"network_namespace": self.namespace}}
        self.addCleanup(_run, "ip", "netns", "delete", self.namespace)

    async def in_namespace(self, *command: str) -> subprocess.CompletedProcess[str]:
        return await deferToThread(_run, "ip", "netns", "exec", self.namespace, *command)

    async def ask_inside(self, port: int) -> str:
        """The answer to a request to loopback in there."""
        return (await self.in_namespace(sys.executable, "-c", _ASK, str(port))).stdout


@requires("root", "haproxy", "ip")
class NamespaceTests(NamespaceTestCase):
    async def assert_serves_inside_only(self) -> None:
        balancer = await self.running(LoadBalancer())
        # There are no members: haproxy itself answers.
        self.assertIn("HTTP/1.1 503", await self.ask_inside(balancer.port))
        with self.assertRaises(ConnectionRefusedError):
            await deferToThread(socket.create_connection, ("127.0.0.1", balancer.port))

    async def test_made(self) -> None:
        """A namespace that is absent is made, with its loopback up, and haproxy runs in it."""
        await self.agent.start()
        loopback = await self.in_namespace("ip", "-o", "address", "show", "lo")
        self.assertIn("127.0.0.1/8", loopback.stdout)
        self.assertIn("::1/128", loopback.stdout)
        await self.assert_serves_inside_only()

    async def test_A7_there_already(self) -> None:
        """A namespace that is there is used, and its loopback is brought up (A5, A7)."""
        await deferToThread(_run, "ip", "netns", "add", self.namespace)
        await self.agent.start()
        await self.assert_serves_inside_only()

    async def test_A7_stale(self) -> None:
        """A file where the namespace should be, as a lost one leaves it, is repaired (A7)."""
        handle = Path("/run/netns") / self.namespace
        handle.parent.mkdir(exist_ok=True)
        handle.write_bytes(b"")
        await self.agent.start()
        self.assertIn("stale", self.agent.log)
        await self.assert_serves_inside_only()

    async def test_may_not(self) -> None:
        """Where a namespace made by the agent would be seen by nobody else, it says which unit makes it."""
        self.agent.wrapper = ("unshare", "--mount")
        reason = await self.agent.spawn()
        assert isinstance(reason, ProcessTerminated)
        self.assertEqual(1, reason.exitCode)
        self.assertIn("amphora-netns.service", self.agent.log)
        self.assertIn(self.namespace, self.agent.log)

    async def test_A2_conflict_inside(self) -> None:
        """A reload onto an address that somebody in the namespace has is refused; who has it outside is in no way."""
        await self.agent.start()
        balancer = await self.running(LoadBalancer())
        port = free_port()
        changed = evolve(balancer, extra_binds=(f"127.0.0.1:{port}",))
        await self.client.upload_haproxy(balancer.listener_id, changed.config())
        with await deferToThread(self.listen_inside, port), self.assertRaises(AmphoraFailed) as raised:
            await self.client.reload(balancer.listener_id)
        self.assertEqual(f"cannot bind 127.0.0.1:{port} (Address already in use)", raised.exception.details)
        with socket.create_server(("127.0.0.1", port)):
            await self.client.reload(balancer.listener_id)
        self.assertIn("HTTP/1.1 503", await self.ask_inside(port))

    def listen_inside(self, port: int) -> subprocess.Popen[str]:
        """A program in the namespace that has the port, until the end of its input."""
        program = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _LISTEN, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        self.assertEqual("listening\n", program.stdout.readline())
        return program

    async def test_adopted(self) -> None:
        """A haproxy in a namespace is found again like any other."""
        await self.agent.start()
        balancer = await self.running(LoadBalancer())
        before = self.agent.haproxy(balancer.listener_id)
        await self.agent.end()
        await self.agent.start()
        self.assertEqual("ACTIVE", (await self.client.listener(balancer.listener_id)).status)
        self.assertEqual(before, self.agent.haproxy(balancer.listener_id))
        await wait_until(lambda: "found its haproxy" in self.agent.log, "the log to tell")
