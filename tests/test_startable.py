"""Tests for L{amphora.startable}."""

from __future__ import annotations

import socket
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from amphora.config import ConfigError, Settings, read_settings
from amphora.startable import require_places

FILE = b"[amphora_agent]\namphora_id = 11111111-0000-4000-8000-000000000001\n"


class RequirePlacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.now: Settings = read_settings(FILE, "f")

    def assert_refused(self, words: str, **changed: object) -> None:
        error = self.assertRaises(ConfigError, require_places, self.now, evolve(self.now, **changed))  # type: ignore[arg-type]
        self.assertIn(words, str(error))

    def test_as_it_is(self) -> None:
        """What is no other than now is not tried."""
        now = evolve(self.now, base_path="/proc/nowhere", bind_host="192.0.2.1", haproxy_cmd="/no/haproxy")
        require_places(now, now)

    def test_directories(self) -> None:
        """A directory that cannot be made, or is none, is told; of one that can be nothing is left."""
        (self.directory / "file").touch()
        for name in ("base_path", "base_cert_dir", "agent_server_network_dir"):
            self.assert_refused(
                f"{name}: an agent could not start with /proc/no/where: No such", **{name: "/proc/no/where"}
            )
            self.assert_refused("Not a directory", **{name: str(self.directory / "file")})
            self.assert_refused("Not a directory", **{name: str(self.directory / "file" / "below")})
            require_places(self.now, evolve(self.now, **{name: str(self.directory / "a" / "b")}))  # type: ignore[arg-type]
        self.assertEqual(["file"], [path.name for path in self.directory.iterdir()])

    def test_program(self) -> None:
        """A haproxy that is not there, or cannot be run, is told."""
        (self.directory / "file").write_text("text")
        self.assert_refused(
            "haproxy_cmd: an agent could not start with /no/haproxy: No such", haproxy_cmd="/no/haproxy"
        )
        for path in (self.directory, self.directory / "file"):
            self.assert_refused("no program that can be run", haproxy_cmd=str(path))
        require_places(self.now, evolve(self.now, haproxy_cmd="/bin/sh"))

    def test_port(self) -> None:
        """An address that is not there, and a port that somebody else has, are told; the port that is ours is not."""
        self.assert_refused("bind_host: an agent could not start with 192.0.2.1: Cannot assign", bind_host="192.0.2.1")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assert_refused("Address already in use", bind_host="127.0.0.1", bind_port=port)
            now = evolve(self.now, bind_host="127.0.0.1", bind_port=port)
            for host in ("0.0.0.0", "127.0.0.2"):
                require_places(now, evolve(now, bind_host=host))
        require_places(self.now, evolve(self.now, bind_host="127.0.0.1", bind_port=port))
