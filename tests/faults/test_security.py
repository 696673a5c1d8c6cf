"""What must not get in, and what must not get out."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

from twisted.internet.error import ProcessTerminated

import amphora
from amphora.testing.pki import Part, listener_pem
from tests.faults.watched import FaultTestCase
from tests.integration import api_1_0
from tests.integration.harness import AMPHORA_ID, AgentTestCase, new_id
from tests.integration.support import requires
from tests.integration.test_heartbeats import KEY

_NOBODY_IS_ASKED = """
from OpenSSL import SSL
set_verify = SSL.Context.set_verify
def verify_nothing(context, mode, callback):
    set_verify(context, mode if type(callback.__self__).__name__ != "MutualTLS" else SSL.VERIFY_NONE, callback)
SSL.Context.set_verify = verify_nothing
"""


class SelfTestTests(AgentTestCase):
    async def test_C1_does_not_start(self) -> None:
        """An agent on a TLS library that verifies nothing ends, and one line says why."""
        broken = self.directory / "broken"
        broken.mkdir()
        (broken / "sitecustomize.py").write_text(_NOBODY_IS_ASKED)
        source = Path(amphora.__file__).parent.parent
        self.agent.wrapper = ("/usr/bin/env", f"PYTHONPATH={broken}:{source}")
        reason = await self.agent.spawn()
        assert isinstance(reason, ProcessTerminated), self.agent.log
        self.assertEqual(1, reason.exitCode, self.agent.log)
        self.assertEqual(1, len(self.agent.log.splitlines()), self.agent.log)
        self.assertIn("amphora-agent: client verification is not in force", self.agent.log)


@requires("haproxy")
class TextTests(FaultTestCase):
    """Configurations that are not what they seem, and those that are not whole."""

    async def test_C5_control_characters(self) -> None:
        """
        A NUL is refused in haproxy's own words.  A carriage return ends no line: what stands behind one in a comment
        stays a comment.
        """
        listener = self.balancer.listener_id
        config = self.balancer.config()
        async with self.watch():
            for odd in (b"frontend a\0b\n    mode http\n", b"# a\0comment\n"):
                answer = await api_1_0.call(
                    self.raw_client(), "PUT", f"/loadbalancer/{AMPHORA_ID}/{listener}/haproxy", config + odd
                )
                self.assertEqual(400, answer.status)
                self.assertRegex(answer.json["details"], "NUL character|truncated")
            hidden = new_id()
            await self.client.upload_haproxy(listener, config + b"# a comment\rfrontend %s\r\n" % hidden.encode())
            await self.client.reload(listener)
            told = await api_1_0.call(self.raw_client(), "GET", "/listeners")
            self.assertEqual([listener], [each["uuid"] for each in told.json])

    async def test_C8_not_whole(self) -> None:
        """
        A haproxy configuration or an agent's own that is empty, binary or cut off is refused and changes nothing; an
        agent that is killed after each comes up with what was before.
        """
        listener = self.balancer.listener_id
        upload = f"/loadbalancer/{AMPHORA_ID}/{listener}/haproxy"
        for path, whole in ((upload, self.balancer.config()), ("/config", self.agent.config().encode())):
            async with self.watch(spares_agent=False):
                for broken in (b"", bytes(range(256)) * 8, whole[: len(whole) // 2]):
                    answer = await api_1_0.call(self.raw_client(), "PUT", path, broken)
                    self.assertEqual(400, answer.status, answer)
                await self.agent.end(signal.SIGKILL)
                self.agent.keeps_config = True
                await self.agent.start()
        self.assertEqual(self.balancer.config(), await self.client.haproxy(listener))


@requires("haproxy", "keepalived")
class SecretTests(FaultTestCase):
    """Keys and passwords."""

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"DEFAULT": {"debug": True}}

    async def test_C7_kept(self) -> None:
        """
        Keys, the agent's own and tenants', come by every route, also in requests that fail; with `debug` on, none of
        them is in a log, an answer, a command line, an environment or a file that others may read, and no core is
        dumped.
        """
        listener = self.balancer.listener_id
        before = set(os.listdir("/tmp"))
        secrets = [KEY.encode()]
        answers = b""

        def pem(name: str) -> bytes:
            made = listener_pem(name, Part.KEY, Part.CERTIFICATE, use_rsa=False)
            secrets.append(made.splitlines()[1])
            return made

        def server() -> bytes:
            issued = self.pki.authority.issue(AMPHORA_ID)
            secrets.append(issued.key_pem.splitlines()[1])
            return issued.pem(Part.CERTIFICATE, Part.KEY)

        half = listener_pem("c.example.com", Part.KEY, use_rsa=False)
        secrets.append(half.splitlines()[1])
        config = self.agent.config().encode()
        wrong = config.replace(b"heartbeat_interval = 1", b"heartbeat_interval = often")
        async with self.watch():
            for method, path, body, statuses in (
                ("PUT", f"/v0.1/listeners/{listener}/certificates/a.pem", pem("a.example.com"), (201,)),
                ("GET", f"/v0.1/listeners/{listener}/certificates/a.pem", b"", (200,)),
                ("PUT", f"/v0.1/listeners/{listener}/certificates/c.pem", half, (400,)),
                ("PUT", f"/v0.1/listeners/{listener}/certificates/c", half, (400,)),
                ("PUT", f"/v0.1/listeners/{listener}/certificates/c.pem?{half.hex()}", half, (400,)),
                ("PUT", f"/1.0/loadbalancer/{listener}/certificates/b.pem", pem("b.example.com"), (200, 201)),
                ("GET", f"/1.0/loadbalancer/{listener}/certificates/b.pem", b"", (200,)),
                ("PUT", f"/1.0/loadbalancer/{listener}/certificates/c.pem", half, (200,)),
                ("PUT", "/v0.1/certificate", server(), (202,)),
                ("PUT", "/v0.1/certificate", half, (400,)),
                ("PUT", "/1.0/certificate", server(), (202,)),
                ("PUT", "/1.0/certificate", half, (400,)),
                ("PUT", "/1.0/config", config, (202,)),
                ("PUT", "/1.0/config", wrong, (400,)),
                ("PUT", "/v0.1/vrrp/upload", b"vrrp_instance x {\n auth_pass %s\n" % KEY.encode(), (500,)),
                ("PUT", "/1.0/vrrp/upload", b"vrrp_instance x {\n auth_pass %s\n" % KEY.encode(), (400, 500)),
                ("GET", "/v0.1/details", b"", (200,)),
                ("GET", "/1.0/details", b"", (200,)),
                ("GET", "/no/such/route", half, (404,)),
            ):
                head = (
                    f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                answer = await self.raw_client().exchange(head.encode() + body)
                self.assertIn(int(answer[9:12]), statuses, (method, path, answer))
                answers += answer
        await self.client.reload(listener)
        told = {"the answers": answers, "the log": self.agent.log.encode()}
        for process in (self.agent.pid, *(each.pid for each in (*self.agent.all_haproxies(), *self.agent.keepers()))):
            for name in ("cmdline", "environ"):
                told[f"/proc/{process}/{name}"] = Path(f"/proc/{process}/{name}").read_bytes()
        for stored in self.files():
            if stored.stat().st_mode & 0o077:
                told[str(stored)] = stored.read_bytes()
        for name in set(os.listdir("/tmp")) - before:
            # Those of other tests may go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if (found := Path("/tmp") / name).is_file():
                    told[str(found)] = found.read_bytes()
        for place, text in told.items():
            for secret in secrets:
                self.assertNotIn(secret, text, place)
        limits = Path(f"/proc/{self.agent.pid}/limits").read_text()
        self.assertEqual("0", re.findall(r"Max core file size +(\S+)", limits)[0])

    def files(self) -> list[Path]:
        """All that the agent has stored."""
        found = [path for path in self.agent.base_path.rglob("*") if path.is_file()]
        self.assertTrue(any(path.suffix == ".pem" for path in found))
        return found
