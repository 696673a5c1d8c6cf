"""Tests for L{amphora.live_settings}."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.config import ConfigError, Controller, Settings, load_settings, read_settings
from amphora.live_settings import (
    LiveSettings,
    SettingsNotStored,
    SettingsRefused,
    last_good,
    load_usable_settings,
)
from amphora.loadbalancer.errors import StorageFailed
from amphora.testing.fakes import CallsLater

OLD_KEY, NEW_KEY = "the-old-secret", "the-new-secret"


def written(**options: object) -> bytes:
    """A file that says this beside what every one does."""
    values = {"heartbeat_key": OLD_KEY, "controller_ip_port_list": "192.0.2.1:5555", **options}
    sections = {
        "DEFAULT": ("debug",),
        "haproxy_amphora": ("bind_port", "base_path"),
        "health_manager": ("heartbeat_key", "controller_ip_port_list", "heartbeat_interval"),
        "amphora_agent": ("strange",),
        "controller_worker": ("loadbalancer_topology",),
    }
    lines = ["[amphora_agent]", "amphora_id = 11111111-0000-4000-8000-000000000001"]
    for section, names in sections.items():
        lines += [f"[{section}]", *(f"{name} = {values[name]}" for name in names if name in values)]
    return "\n".join(lines).encode() + b"\n"


class LiveSettingsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "agent.conf"
        self.path.parent.mkdir()
        self.path.write_bytes(written())
        self.path.chmod(0o600)
        self.applied: list[Settings] = []
        self.prepared: list[Settings] = []
        self.problem: ConfigError | None = None
        self.full = False
        self.remarks: Sequence[str] = ()
        self.live = self.made(load_settings(str(self.path)))

    def made(self, settings: Settings) -> LiveSettings:
        """Those of an agent that was started with these."""
        return LiveSettings(self.path, settings, AtOnce(), self.check, self.prepare, self.applied.append)

    def check(self, settings: Settings) -> None:
        if self.problem is not None:
            raise self.problem

    async def prepare(self, settings: Settings) -> Sequence[str]:
        self.prepared.append(settings)
        if self.full:
            raise StorageFailed("topology", "No space left on device")
        return self.remarks

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())

    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)


class ReplaceTests(LiveSettingsTestCase):
    """A new file."""

    def test_in_force(self) -> None:
        """What may change at once is in force at once; all else waits for the next start, which is told."""
        content = written(
            debug=True,
            heartbeat_interval=3,
            heartbeat_key=NEW_KEY,
            controller_ip_port_list="[2001:db8::1]:1",
            loadbalancer_topology="ACTIVE_STANDBY",
            bind_port=9999,
            base_path="/srv",
        )
        said = self.successResultOf(self.live.replace(content))
        waits = "In force when the agent starts next: [haproxy_amphora] base_path, [haproxy_amphora] bind_port"
        self.assertEqual([waits], said)
        now = self.live.now
        self.assertEqual([now], self.applied)
        self.assertEqual((True, 3, NEW_KEY), (now.debug, now.heartbeat_interval, now.heartbeat_key))
        self.assertEqual((Controller("2001:db8::1", 1),), now.controller_ip_port_list)
        self.assertEqual(
            ("ACTIVE_STANDBY", 9443, "/var/lib/octavia"), (now.loadbalancer_topology, now.bind_port, now.base_path)
        )
        self.assertEqual(content, self.path.read_bytes())
        self.assertEqual([waits], self.successResultOf(self.live.replace(content)))

    def test_kept(self) -> None:
        """Of a file that the next start has yet to prove nothing is kept; one that is all in force is."""
        self.successResultOf(self.live.replace(written(heartbeat_interval=3)))
        for content in (written(bind_port=9999), written(base_path="/srv", heartbeat_interval=4)):
            self.successResultOf(self.live.replace(content))
            self.successResultOf(self.live.reread())
            self.successResultOf(self.live.keep())
            self.assertEqual(content, self.path.read_bytes())
            self.assertEqual(written(heartbeat_interval=3), last_good(self.path).read_bytes())

    def test_B5_log(self) -> None:
        """Old and new controllers are logged, keys are not."""
        with capturedLogs() as events:
            self.successResultOf(
                self.live.replace(written(heartbeat_key=NEW_KEY, controller_ip_port_list="192.0.2.2:1, hm:5555"))
            )
        texts = [formatEvent(event) for event in events if event["log_level"] is not LogLevel.debug]
        self.assertEqual(
            [
                "[health_manager] controller_ip_port_list is 192.0.2.2 port 1, hm port 5555 from now on; "
                "it was 192.0.2.1 port 5555",
                "[health_manager] heartbeat_key is another from now on",
            ],
            texts,
        )

    def test_said(self) -> None:
        """What is not known, and what will have no effect, is told to who brings it."""
        self.remarks = ["The topology stays SINGLE"]
        said = self.successResultOf(self.live.replace(written(strange=1)))
        self.assertEqual(["agent.conf:9: [amphora_agent] strange is not known, ignored", *self.remarks], said)

    def test_rights(self) -> None:
        """A file keeps its rights and its link, a new one is for us alone, and so is what is kept."""
        for mode in (0o640, 0o600):
            self.path.chmod(mode)
            self.successResultOf(self.live.replace(written(debug=True)))
            self.assertEqual(mode, self.mode(self.path))
        self.path.unlink()
        self.successResultOf(self.live.replace(written()))
        self.assertEqual((0o600, 0o600), (self.mode(self.path), self.mode(last_good(self.path))))
        elsewhere = self.path.with_name("elsewhere")
        self.path.rename(elsewhere)
        self.path.symlink_to(elsewhere)
        self.successResultOf(self.live.replace(written(debug=True)))
        self.assertEqual((True, written(debug=True)), (self.path.is_symlink(), elsewhere.read_bytes()))

    def test_refused(self) -> None:
        """What cannot be used, or could not be started with, is refused in words that name it; nothing is changed."""
        for content, words in (
            (b"", "agent.conf: [amphora_agent] amphora_id: is missing"),
            (written(heartbeat_interval=0), "agent.conf:8: [health_manager] heartbeat_interval: '0' is out of range"),
            (b"\xff\xfe", "agent.conf:1: the line is not text"),
            (written()[:60] + b"\nhalf a li", "agent.conf:3: the line makes no sense"),
        ):
            error: SettingsRefused = self.failureResultOf(self.live.replace(content), SettingsRefused).value
            self.assertIn(words, error.reason)
        self.problem = ConfigError("[amphora_agent] agent_server_cert: no such file")
        error = self.failureResultOf(self.live.replace(written(debug=True)), SettingsRefused).value
        self.assertEqual("[amphora_agent] agent_server_cert: no such file", error.reason)
        self.assert_unchanged()

    def test_silenced(self) -> None:
        """An amphora that sends heartbeats takes nothing that would end that; one that sends none does."""
        for changed, words in (
            ({"heartbeat_key": ""}, "[health_manager] heartbeat_key: no key is given"),
            ({"controller_ip_port_list": ""}, "[health_manager] controller_ip_port_list: no controller"),
            ({"controller_ip_port_list": "nonsense"}, "the entry 'nonsense' does not end in a port"),
        ):
            for take in (self.live.replace, self.reread):
                error: SettingsRefused = self.failureResultOf(take(written(**changed)), SettingsRefused).value
                self.assertIn(words, error.reason)
            self.path.write_bytes(written())
            self.assert_unchanged()
        self.path.write_bytes(silent := written(controller_ip_port_list=""))
        self.live = self.made(load_settings(str(self.path)))
        self.successResultOf(self.live.replace(silent))

    def reread(self, content: bytes) -> Deferred[Sequence[str]]:
        self.path.write_bytes(content)
        return self.live.reread()

    def test_full_disk(self) -> None:
        """What the disk does not take is not in force: not the file, nor what has to be remembered before."""
        self.full = True
        error: SettingsNotStored = self.failureResultOf(self.live.replace(written(debug=True)), SettingsNotStored).value
        self.assertEqual("No space left on device", error.reason)
        self.full = False
        self.assert_unchanged()
        self.prepared.clear()
        self.path.with_name(".agent.conf.new").mkdir()
        with capturedLogs() as events:
            error = self.failureResultOf(self.live.replace(written(debug=True)), SettingsNotStored).value
        self.assertEqual((1, []), (len(events), self.prepared))
        self.path.with_name(".agent.conf.new").rmdir()
        self.assert_unchanged()

    def test_not_kept(self) -> None:
        """A file that is stored is taken, though there is no place to keep it for a bad day."""
        last_good(self.path).mkdir()
        with capturedLogs() as events:
            self.successResultOf(self.live.replace(written(heartbeat_interval=3)))
        self.assertEqual(1, sum(event["log_level"] is LogLevel.warn for event in events))
        self.assertEqual(3, self.live.now.heartbeat_interval)

    def test_one_at_a_time(self) -> None:
        """Of two that come together the later is what stays, on the disk as in force."""
        calls = CallsLater()
        self.live = LiveSettings(self.path, self.live.now, calls, self.check, self.prepare, self.applied.append)
        both = [self.live.replace(written(heartbeat_interval=number)) for number in (3, 4)]
        calls.make_all()
        for each in both:
            self.successResultOf(each)
        self.assertEqual([3, 4], [settings.heartbeat_interval for settings in self.applied])
        self.assertEqual(written(heartbeat_interval=4), self.path.read_bytes())

    def assert_unchanged(self) -> None:
        self.assertEqual([], self.applied)
        self.assertEqual(written(), self.path.read_bytes())
        self.assertEqual(["agent.conf"], self.names())


class RereadTests(LiveSettingsTestCase):
    """A file that somebody else has written."""

    def test_in_force(self) -> None:
        """It is taken as one that a controller brings."""
        self.path.write_bytes(written(heartbeat_interval=3, bind_port=1))
        said = self.successResultOf(self.live.reread())
        self.assertEqual(["In force when the agent starts next: [haproxy_amphora] bind_port"], said)
        self.assertEqual(3, self.live.now.heartbeat_interval)
        self.path.write_bytes(written(heartbeat_interval=4))
        self.assertEqual([], self.successResultOf(self.live.reread()))
        self.assertEqual(self.path.read_bytes(), last_good(self.path).read_bytes())

    def test_unusable(self) -> None:
        """One that cannot be used, or is gone, changes nothing."""
        self.path.write_bytes(b"[")
        self.failureResultOf(self.live.reread(), SettingsRefused)
        self.path.unlink()
        self.failureResultOf(self.live.reread(), SettingsNotStored)
        self.assertEqual(([], []), (self.applied, self.names()))


class LastGoodTests(LiveSettingsTestCase):
    """What an agent starts with when the file was torn."""

    def keep(self) -> None:
        """An agent has come up."""
        self.live = self.made(load_usable_settings(str(self.path)))
        self.successResultOf(self.live.keep())

    def test_C8_torn(self) -> None:
        """An agent starts with what one has used last, and says what is wrong with the file, but never its secrets."""
        self.keep()
        for torn in (b"", written()[:90], b"\x00" * 512, None):
            if torn is None:
                self.path.unlink()
            else:
                self.path.write_bytes(torn)
            with capturedLogs() as events:
                self.assertEqual(OLD_KEY, load_usable_settings(str(self.path)).heartbeat_key)
            [event] = events
            self.assertIs(LogLevel.error, event["log_level"])
            self.assertIn(str(last_good(self.path)), formatEvent(event))
            self.assertNotIn("secret", formatEvent(event))
            # What it came up with was not the file.
            self.keep()
            self.assertEqual(written(), last_good(self.path).read_bytes())

    def test_good(self) -> None:
        """A file that can be used is what counts, and what is kept from then on, for us alone."""
        self.keep()
        self.path.write_bytes(written(debug=True))
        self.assertTrue(load_usable_settings(str(self.path)).debug)
        last_good(self.path).chmod(0o644)
        self.keep()
        self.assertEqual(written(debug=True), last_good(self.path).read_bytes())
        self.assertEqual(0o600, self.mode(last_good(self.path)))

    def test_nothing_kept(self) -> None:
        """Without anything sound to take its place, what is wrong with the file ends the start."""
        self.path.write_bytes(b"[")
        for kept in (None, b"]"):
            if kept is not None:
                last_good(self.path).write_bytes(kept)
            error = self.assertRaises(ConfigError, load_usable_settings, str(self.path))
            self.assertIn(f"{self.path}:1:", str(error))

    def test_secrets(self) -> None:
        """Nobody sees the key by looking at an object."""
        self.assertNotIn(OLD_KEY, repr(self.live) + repr(read_settings(written(), "f")))
