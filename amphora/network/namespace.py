"""The network namespace that haproxy runs in."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import Logger

from amphora.network.inside import HANDLES
from amphora.process import CommandFailed, CommandResult, IProcessReactor, run_command

_TIMEOUT = 10.0
_UNIT = "amphora-netns.service"

_log = Logger()


class NamespaceUnusable(Exception):
    """The configured namespace is not there and cannot be made; the text says what to do."""


def may_make_namespaces() -> bool:
    """
    Would a namespace made here be there for everyone?

    C{ip netns add} mounts it.  A service with a mount namespace of its own (ProtectSystem, PrivateTmp) would
    mount it where nobody else, and no later agent, could enter it.  Two mount namespaces have no mount's number in
    common; these may be read where the kernel hides C{/proc/1/ns}.
    """
    try:
        return os.geteuid() == 0 and not _mounts("self").isdisjoint(_mounts("1"))
    except OSError:
        return False


def _mounts(pid: str) -> set[str]:
    """The numbers of a process's mounts, the first field of its C{mountinfo}; see proc(5)."""
    return {line.split()[0] for line in Path(f"/proc/{pid}/mountinfo").read_text("utf-8", "replace").splitlines()}


async def ensure_namespace(reactor: IProcessReactor, name: str) -> None:
    """
    See to it that the namespace is there, with its loopback up: old haproxy workers hand their tables over
    through it, and never end where they cannot.

    @raise NamespaceUnusable: if it is not and cannot be made.
    """
    if not (await _ip(reactor, name, "netns", "exec", name, "true")).succeeded:
        if not may_make_namespaces():
            raise NamespaceUnusable(
                f"network namespace {name} is not there and cannot be made from here: start {_UNIT} first, "
                f"or set network_namespace in [amphora_agent] to nothing"
            )
        if (HANDLES / name).exists():
            _log.warn("Network namespace {name} was stale: making it anew", name=name)
            await _ip(reactor, name, "netns", "delete", name)
        made = await _ip(reactor, name, "netns", "add", name)
        if not made.succeeded:
            raise NamespaceUnusable(f"network namespace {name} cannot be made: {made.output.strip()}")
        _log.info("Made network namespace {name}", name=name)
    loopback = await _ip(reactor, name, "-n", name, "link", "set", "lo", "up")
    if not loopback.succeeded:
        raise NamespaceUnusable(f"the loopback of network namespace {name} stays down: {loopback.output.strip()}")


async def _ip(reactor: IProcessReactor, name: str, *arguments: str) -> CommandResult:
    try:
        return await run_command(reactor, ["ip", *arguments], timeout=_TIMEOUT)
    except CommandFailed as error:
        raise NamespaceUnusable(f"network namespace {name} cannot be looked at: {error}") from error
