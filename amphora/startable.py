"""Whether the next agent could start with what it is to be given: tried, and nothing is left of the trial."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from amphora.config import ConfigError, Settings

_DIRECTORIES = ("base_path", "base_cert_dir", "agent_server_network_dir")


def require_places(now: Settings, new: Settings) -> None:
    """
    Could an agent listen where the new settings say, write where they say, and run their haproxy?  Only what is
    another than now is tried.  May wait for a disk.

    @raise ConfigError: if not, with the system's words.
    """
    for name in _DIRECTORIES:
        path = getattr(new, name)
        if path != getattr(now, name):
            _require(name, path, lambda path=path: try_directory(Path(path)))  # type: ignore[misc]
    if new.haproxy_cmd != now.haproxy_cmd:
        _require("haproxy_cmd", new.haproxy_cmd, lambda: try_program(new.haproxy_cmd))
    if new.bind_port != now.bind_port:
        _require("bind_port", f"{new.bind_host} port {new.bind_port}", lambda: try_port(new.bind_host, new.bind_port))
    elif new.bind_host != now.bind_host:
        # The port itself is ours.
        _require("bind_host", new.bind_host, lambda: try_port(new.bind_host, 0))


def _require(name: str, shown: str, attempt: Callable[[], None]) -> None:
    try:
        attempt()
    except OSError as error:
        section = "amphora_agent" if name == "agent_server_network_dir" else "haproxy_amphora"
        raise ConfigError(
            f"[{section}] {name}: an agent could not start with {shown}: {error.strerror or error}"
        ) from None


def try_directory(path: Path) -> None:
    """@raise OSError: if there is no such directory that can be written to, and none could be made."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(mode=0o700)
            made.append(each)
        with tempfile.TemporaryFile(dir=path):
            pass
    finally:
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()


def try_program(path: str) -> None:
    """@raise OSError: if there is no program that can be run."""
    os.stat(path)
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise PermissionError(None, "it is no program that can be run")


def try_port(host: str, port: int) -> None:
    """
    @param host: An address.
    @param port: 0 for whether the address is there at all.
    @raise OSError: if nobody can listen there.
    """
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    with socket.socket(family, kind, protocol) as trial:
        # As who listens in earnest does: connections that have ended are no hindrance.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
