"""What a controller changes of a real agent while it runs: its configuration and its certificate, by the API 1.0."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
from typing import Any, cast

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from amphora.listener import Heartbeat, HeartbeatListener
from amphora.live_settings import last_good
from amphora.testing.pki import Part
from tests.integration import api_1_0
from tests.integration.harness import AMPHORA_ID, AgentTestCase, LoadBalancer, free_port, get, wait_until
from tests.integration.support import count, requires

OLD_KEY, NEW_KEY = "a key of the tests", "another key"
NOT_UPDATED = "Unable to update amphora-agent configuration."
WRONG_KEY = "the HMAC does not match"


class Sink:
    """A controller's UDP port: what it heard, and how often it heard what its key does not open."""

    def __init__(self, key: str = OLD_KEY) -> None:
        from twisted.internet import reactor

        self.heard: list[Heartbeat] = []
        self.listener = HeartbeatListener(reactor=cast(Any, reactor), key=key, received=self.heard.append)
        self.listener.startService()

    @property
    def entry(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    @property
    def strange(self) -> int:
        return self.listener.bad[WRONG_KEY]

    async def hears(self, number: int = 1) -> None:
        """Wait until it has heard so many more."""
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) >= already + number, f"{self.entry} to hear a heartbeat")


class ConfigTestCase(AgentTestCase):
    """An agent that speaks to one controller each second."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.sink = self.new_sink()
        self.tell(controller_ip_port_list=self.sink.entry, heartbeat_interval=1)

    def new_sink(self, key: str = OLD_KEY) -> Sink:
        sink = Sink(key)
        self.addCleanup(sink.listener.stopService)
        return sink

    def tell(self, section: str = "health_manager", **options: object) -> bytes:
        """Change the configuration that a controller would render, and answer with it."""
        self.agent.options.setdefault(section, {}).update(options)
        return self.agent.config().encode()

    async def call(self, method: str, path: str, body: bytes | None = None) -> api_1_0.Answer:
        return await api_1_0.call(self.raw_client(), method, path, body)

    async def put(self, content: bytes) -> api_1_0.Answer:
        answer = await self.call("PUT", "/config", content)
        self.assertEqual((202, "OK"), (answer.status, answer.json["message"]), answer)
        return answer

    async def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """The next agent finds the file as it is."""
        await self.agent.end(with_signal)
        self.agent.keeps_config = True
        await self.agent.start()


@requires("haproxy")
class ConfigTests(ConfigTestCase):
    """PUT of a whole new file."""

    async def test_B5_controllers(self) -> None:
        """
        Heartbeats move to the new controllers at once, ten minutes before the next would leave; the old ones hear no
        more, and no traffic goes untold or is told twice.
        """
        self.tell(heartbeat_interval=600)
        await self.agent.start()
        await wait_until(lambda: self.sink.heard, "the first heartbeat")
        balancer = await self.running(LoadBalancer(members=(self.new_member(),)))
        for _ in range(7):
            self.assertIn(b"200 OK", await get(balancer.port))
        new = self.new_sink()
        answer = await self.put(content := self.tell(controller_ip_port_list=new.entry))
        self.assertEqual({"message": "OK"}, answer.json)
        await wait_until(lambda: new.heard, "the new controller to hear a heartbeat")
        before = len(self.sink.heard)
        await self.put(self.tell(heartbeat_interval=1))
        await new.hears(3)
        self.assertEqual(before, len(self.sink.heard))
        told = [
            each.message["listeners"][balancer.listener_id]["stats"]["totconns"]
            for each in (*self.sink.heard, *new.heard)
            if balancer.listener_id in each.message["listeners"]
        ]
        self.assertEqual(7, sum(told))
        self.assertIn(
            f"[health_manager] controller_ip_port_list is 127.0.0.1 port {new.listener.port} from now on; "
            f"it was 127.0.0.1 port {self.sink.listener.port}",
            self.agent.log,
        )
        self.assertNotEqual(content, self.agent.config_file.read_bytes())
        await self.restart()
        await new.hears()

    async def test_key(self) -> None:
        """With another key, the controller that has the old one can open nothing more, and the one with the new can."""
        new = self.new_sink(NEW_KEY)
        self.tell(controller_ip_port_list=f"{self.sink.entry}, {new.entry}")
        await self.agent.start()
        await self.sink.hears()
        await wait_until(lambda: new.strange, "the second controller to hear what it cannot open")
        await self.put(self.tell(heartbeat_key=NEW_KEY))
        await new.hears(2)
        heard, strange = len(self.sink.heard), self.sink.strange
        await new.hears(2)
        self.assertEqual(heard, len(self.sink.heard))
        self.assertGreater(self.sink.strange, strange)
        for key in (OLD_KEY, NEW_KEY):
            self.assertNotIn(key, self.agent.log)

    async def test_refused(self) -> None:
        """What cannot be used is a 400 that names section and option; file and heartbeats are as they were."""
        await self.agent.start()
        await self.sink.hears()
        before = self.agent.config_file.read_bytes()
        good = before.decode()
        for content, words in (
            ("", "[amphora_agent] amphora_id: is missing"),
            (good[:100], "[amphora_agent] amphora_id: is missing"),
            (
                good.replace("heartbeat_interval = 1", "heartbeat_interval = soon"),
                "[health_manager] heartbeat_interval",
            ),
            (good.replace(str(self.pki.ca), "/nowhere/ca.pem"), "agent_server_ca: /nowhere/ca.pem: No such file"),
            (good.replace(AMPHORA_ID, "11111111-0000-4000-8000-000000000001"), f"this amphora is {AMPHORA_ID}"),
        ):
            answer = await self.call("PUT", "/config", content.encode())
            self.assertEqual((400, NOT_UPDATED), (answer.status, answer.json["message"]))
            self.assertIn(words, answer.json["details"])
        self.assertEqual(before, self.agent.config_file.read_bytes())
        await self.sink.hears(2)

    async def test_next_start(self) -> None:
        """What cannot change at once is told, and in force at the next start; rights are as they were."""
        self.agent.write_config()
        self.agent.config_file.chmod(0o640)
        self.agent.keeps_config = True
        await self.agent.start()
        port = free_port()
        content = self.tell("haproxy_amphora", bind_port=port)
        answer = await self.put(content)
        waits = "In force when the agent starts next: [haproxy_amphora] bind_port"
        self.assertEqual(waits, answer.json["details"])
        self.assertEqual(1, self.agent.log.count(waits))
        self.assertEqual(content, self.agent.config_file.read_bytes())
        self.assertEqual(0o640, stat.S_IMODE(self.agent.config_file.stat().st_mode))
        self.assertEqual(0o600, stat.S_IMODE(last_good(self.agent.config_file).stat().st_mode))
        await self.restart()
        self.agent.port = port
        self.assertEqual(200, (await self.call("GET", "/info")).status)

    async def test_debug(self) -> None:
        """What helps to find a fault is logged from when that is asked for, and until it no longer is."""
        mark = "This line is only logged where debug is true"
        await self.agent.start()
        await self.put(self.tell(heartbeat_interval=2))
        self.assertNotIn(mark, self.agent.log)
        await self.put(self.tell("DEFAULT", debug=True))
        await wait_until(lambda: mark in self.agent.log, "a line of that level")
        await self.put(self.tell("DEFAULT", debug=False))
        await self.put(self.tell(heartbeat_interval=3))
        await wait_until(lambda: "heartbeat_interval is 3" in self.agent.log, "the change to be logged")
        self.assertEqual(1, self.agent.log.count(mark))

    async def test_topology(self) -> None:
        """An amphora that serves nothing yet is one of a pair when the configuration says so, and alone again."""
        await self.agent.start()
        await self.sink.hears()
        for value, told in (("ACTIVE_STANDBY", "ACTIVE-STANDBY"), ("SINGLE", "SINGLE")):
            self.assertEqual(
                {"message": "OK"}, (await self.put(self.tell("controller_worker", loadbalancer_topology=value))).json
            )
            await wait_until(lambda told=told: self.sink.heard[-1].message["topology"] == told, told)  # type: ignore[misc]

    async def test_C8_killed(self) -> None:
        """Killed while it takes a file, an agent leaves the old one or the new one, whole, and the next one starts."""
        await self.agent.start()
        contents = [self.tell(heartbeat_interval=number) for number in (2, 1)]
        self.agent.keeps_config = True
        self.agent.config_file.write_bytes(contents[1])
        for number in range(count(ci=4, full=40)):
            putting = Deferred.fromCoroutine(self.call("PUT", "/config", contents[number % 2]))
            putting.addErrback(lambda _: None)
            await self.pause(random.random() * 0.08)
            await self.agent.end(signal.SIGKILL)
            await putting
            self.assertIn(self.agent.config_file.read_bytes(), contents)
            await self.agent.start()
        await self.sink.hears()
        self.assertNotIn("put the file right", self.agent.log)

    async def pause(self, seconds: float) -> None:
        from twisted.internet import reactor

        await deferLater(cast(Any, reactor), seconds)


@requires("haproxy")
class FileTests(ConfigTestCase):
    """A file that others have written."""

    async def test_C8_torn(self) -> None:
        """
        An agent that finds its file torn starts with what the last one used, and says what is wrong; a new file from
        the controller puts that right.
        """
        await self.agent.start()
        good = self.tell(heartbeat_interval=2)
        await self.put(good)
        for torn in (b"", good[:150], os.urandom(64)):
            self.agent.config_file.write_bytes(torn)
            await self.restart(signal.SIGKILL)
            self.assertEqual(1, self.agent.log.count("put the file right"), self.agent.log)
            self.assertIn(str(self.agent.config_file), self.agent.log)
            await self.sink.hears()
            self.assertEqual(torn, self.agent.config_file.read_bytes())
        await self.put(good)
        await self.restart()
        self.assertNotIn("put the file right", self.agent.log)
        self.assertNotIn(OLD_KEY, self.agent.log)

    async def test_hang_up(self) -> None:
        """SIGHUP lets the agent read its file again; one that cannot be used is told, and changes nothing."""
        await self.agent.start()
        await self.sink.hears()
        new = self.new_sink()
        self.agent.config_file.write_bytes(self.tell(controller_ip_port_list=new.entry))
        os.kill(self.agent.pid, signal.SIGHUP)
        await new.hears()
        self.agent.config_file.write_bytes(self.tell(heartbeat_interval="often"))
        os.kill(self.agent.pid, signal.SIGHUP)
        await wait_until(lambda: "[health_manager] heartbeat_interval: 'often'" in self.agent.log, "it to be told")
        await new.hears(2)


@requires("root", "haproxy", "mount")
class FullDiskTests(ConfigTestCase):
    """The file is on a tmpfs of a few pages."""

    async def test_full(self) -> None:
        """A file that finds no room is a 500 in the system's words and changes nothing; with room it is taken."""
        directory = self.agent.config_file.parent
        directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(directory)], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(directory)], check=True)
        await self.agent.start()
        await self.sink.hears()
        before = self.agent.config_file.read_bytes()
        filler = directory / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        new = self.new_sink()
        content = self.tell(controller_ip_port_list=new.entry)
        answer = await self.call("PUT", "/config", content)
        expected = {"message": NOT_UPDATED, "details": "No space left on device"}
        self.assertEqual((500, expected), (answer.status, answer.json))
        self.assertEqual(before, self.agent.config_file.read_bytes())
        self.assertEqual({"amphora-agent.conf", "amphora-agent.conf.last-good", "filler"}, set(os.listdir(directory)))
        await self.sink.hears(2)
        self.assertEqual([], new.heard)
        filler.unlink()
        await self.put(content)
        await new.hears()


@requires("haproxy")
class CertificateTests(ConfigTestCase):
    """PUT of the agent's own certificate, which the controller sends before its key."""

    async def shown(self) -> int:
        """The serial number of what a new connection is shown."""

        def look() -> int:
            with self.raw_client().connect() as connection:
                certificate = connection.getpeercert(binary_form=True)
                assert certificate is not None
                return x509.load_der_x509_certificate(certificate).serial_number

        return await deferToThread(look)

    async def test_E7_rotation(self) -> None:
        """A new pair is shown to the next connection; one that does not fit is a 400, and the old one is shown on."""
        await self.agent.start()
        issued, other = (self.pki.authority.issue(AMPHORA_ID) for _ in range(2))
        process, before = self.agent.pid, await self.shown()
        for pem in (issued.certificate_pem + other.key_pem, issued.certificate_pem, issued.pem(Part.KEY), b""):
            answer = await self.call("PUT", "/certificate", pem)
            self.assertEqual(400, answer.status, answer)
            self.assertEqual(before, await self.shown())
        pem = issued.pem(Part.CERTIFICATE, Part.KEY)
        for _ in range(2):
            answer = await self.call("PUT", "/certificate", pem)
            self.assertEqual((202, {"message": "OK"}), (answer.status, answer.json))
        after = await self.shown()
        self.assertNotEqual(before, after)
        self.assertEqual((pem, 0o600), (self.pki.server.read_bytes(), stat.S_IMODE(self.pki.server.stat().st_mode)))
        self.assertEqual(process, self.agent.pid)
        await self.restart()
        self.assertEqual(after, await self.shown())
