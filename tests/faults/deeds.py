"""What an agent can be asked to change, and whether the world is the old one or the new one afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from twisted.internet.threads import deferToThread

from amphora.files import beside
from amphora.process import ProcessIdentity
from amphora.testing.pki import Part, listener_pem
from tests.faults.steps import Steps
from tests.faults.watched import FaultTestCase
from tests.integration.harness import AMPHORA_ID, LoadBalancer, get, wait_until
from tests.integration.pair import PASSWORD, VIRTUAL_ADDRESS
from tests.integration.support import count
from tests.integration.test_listeners import CallingTestCase

SEED = int(os.environ.get("AMPHORA_SEED") or count(6, random.randrange(2**32)))
"""Chooses moments: the same each time, but in C{--full}.  A failure tells it, and AMPHORA_SEED repeats it."""

Undo = Callable[[], Awaitable[None]]
Picture = dict[str, Any]
"""All that can be seen of an amphora from outside, by what it is seen of."""

_STILL = 5
"""How often the same has to be seen for it to be at rest."""

_LASTING = {"haproxy", "keepalived"}
"""Programs that are to stay."""

_CHANGING = ("agent.cfg", "lvs_processes", "stats_counters.json")
"""Files that are another at each start, of which only the presence counts; so it does of logs and pid files."""


@frozen
class Request:
    """One request: the API's version, the method, the path below it."""

    version: str
    method: str
    path: str
    body: bytes = field(default=b"", repr=False)


@frozen
class Deed:
    """What the agent is killed in, what comes before it, and how the world is as before again."""

    request: Request
    ground: tuple[Request, ...] = ()
    undo: tuple[Request, ...] | Undo = ()


class DeedTestCase(FaultTestCase, CallingTestCase):
    """Asks for what changes something, and sees what has become of it."""

    timeout = 1200

    async def start(self, *controllers: str) -> None:
        self.steps = await deferToThread(Steps.in_directory, self.directory)
        self.agent.wrapper = (*self.agent.wrapper, *self.steps.wrapper)
        self.chance = random.Random(SEED)
        await super().start(*controllers)
        self.agent.keeps_config = True

    # What is seen

    async def picture(self) -> Picture:
        seen: Picture = {"processes": sorted(self.processes())}
        for directory in ("b", "interfaces", "conf"):
            for path in sorted((self.directory / directory).rglob("*")):
                if path != self.agent.sessions_socket:
                    seen[str(path.relative_to(self.directory))] = self.content(path)
        seen["server certificate"] = (self.pki.server.read_bytes(), beside(self.pki.server).exists())
        seen.update(await self.more_of_the_picture())
        return seen

    async def more_of_the_picture(self) -> Picture:
        """What a case has beside files and processes."""
        return {}

    def content(self, path: Path) -> object:
        try:
            if not path.is_file() or path.name in _CHANGING or path.suffix in (".log", ".pid"):
                return path.exists()
            return path.read_bytes()
        except FileNotFoundError:
            return False

    def processes(self) -> Iterable[str]:
        """The programs that run for this agent, or were started by it."""
        for entry in os.listdir("/proc"):
            process = ProcessIdentity.of(int(entry)) if entry.isdigit() else None
            if process is None or process.pid in (self.agent.pid, os.getpid()):
                continue
            try:
                here = os.readlink(f"/proc/{process.pid}/cwd") == str(self.directory)
            except OSError:
                continue
            if here or any(str(self.directory) in word for word in process.command_line()):
                yield os.path.basename(process.executable() or "")

    async def settled(self) -> Picture:
        """What is seen when it does not change any more, and no worker of before a reload is left."""
        seen: list[Picture] = []

        async def same() -> bool:
            seen.append(await self.picture())
            return seen[-_STILL:] == [seen[-1]] * _STILL and not set(seen[-1]["processes"]) - _LASTING

        await wait_until(same, "all to be at rest")
        return seen[-1]

    async def until_seen(self, what: str, *expected: Picture, but: Callable[[str], bool] = lambda _: False) -> Picture:
        """Wait until one of these is seen, and answer with it.  @param but: Tells by its name what does not count."""
        seen: Picture = {}

        async def found() -> bool:
            nonlocal seen
            seen = await self.picture()
            return _without(seen, but) in [_without(each, but) for each in expected]

        try:
            await wait_until(found, what)
        except AssertionError as error:
            differences = "\n".join(f"not as expected:\n{_difference(each, seen)}" for each in expected)
            raise AssertionError(f"{error}\n{differences}\n{self.agent.log}") from None
        return seen

    # What is done

    async def do(self, *requests: Request) -> None:
        """@raise AssertionError: for an answer that is no success."""
        for request in requests:
            answer = await self.call(request.method, request.path, request.body, version=request.version)
            self.assertLess(answer.status, 300, (request, answer.body))

    async def undo(self, deed: Deed) -> None:
        if isinstance(deed.undo, tuple):
            await self.do(*deed.undo)
        else:
            await deed.undo()

    async def attempt(self, request: Request) -> None:
        """Ask an agent that may be killed meanwhile."""
        # Hung up, after nothing or a part of the answer's head.
        with contextlib.suppress(OSError, IndexError):
            await self.call(request.method, request.path, request.body, version=request.version)


@frozen
class Requests:
    """What a controller asks for of one object, in one version of the API."""

    version: str
    object_id: str

    def _ask(self, method: str, path: str, body: bytes = b"") -> Request:
        return Request(self.version, method, path, body)

    def upload(self, configuration: bytes) -> Request:
        kind = "listeners" if self.version == "v0.1" else "loadbalancer"
        return self._ask("PUT", f"/{kind}/{AMPHORA_ID}/{self.object_id}/haproxy", configuration)

    def upload_lvs(self, configuration: bytes) -> Request:
        return self._ask("PUT", f"/listeners/{AMPHORA_ID}/{self.object_id}/udp_listener", configuration)

    def act(self, action: str) -> Request:
        kind = "listeners" if self.version == "v0.1" else "loadbalancer"
        return self._ask("PUT", f"/{kind}/{self.object_id}/{action}")

    def delete(self) -> Request:
        return self._ask("DELETE", f"/listeners/{self.object_id}")

    def put_certificate(self, pem: bytes) -> Request:
        return self._ask("PUT", self._certificate, pem)

    def delete_certificate(self) -> Request:
        return self._ask("DELETE", self._certificate)

    @property
    def _certificate(self) -> str:
        kind = "listeners" if self.version == "v0.1" else "loadbalancer"
        return f"/{kind}/{self.object_id}/certificates/www.example.com.pem"


class HaproxyTestCase(DeedTestCase):
    """A load balancer is changed, beside the one that is watched."""

    changed: LoadBalancer

    async def more_of_the_picture(self) -> Picture:
        try:
            served: object = (await get(self.changed.port)).rpartition(b"\r\n\r\n")[2]
        except OSError as error:
            served = type(error)
        listeners = (await self.call("GET", "/listeners")).json
        return {"served": served, "listeners": sorted(listeners, key=str)}

    def deeds(self, version: str) -> Iterable[Deed]:
        """Each has an object of its own to begin with, and leaves none."""
        old, new = (
            evolve(
                self.changed, extra_frontend=(f"http-request return status 200 content-type text/plain string {word}",)
            )
            for word in ("old", "new")
        )
        pems = [listener_pem("www.example.com", Part.KEY, Part.CERTIFICATE, *more) for more in ((), (Part.CHAIN,))]
        it, gone = Requests(version, self.changed.listener_id), Requests("1.0", self.changed.listener_id).delete()
        upload, start, stop, reload = it.upload(old.config()), it.act("start"), it.act("stop"), it.act("reload")
        update = it.upload(new.config())
        first_pem, second_pem = map(it.put_certificate, pems)
        forget_pem = it.delete_certificate()
        yield Deed(upload, undo=(gone,))
        yield Deed(first_pem, (upload,), (forget_pem,))
        yield Deed(second_pem, (first_pem,), (first_pem,))
        yield Deed(forget_pem, (), (first_pem,))
        yield Deed(start, (upload,), (stop,))
        yield Deed(update, (start,), (upload,))
        yield Deed(reload, (update,), (upload, reload, update))
        yield Deed(stop, (), (start,))
        yield Deed(it.delete(), (), (upload, first_pem, update, start))


def post_topology(topology: str = "ACTIVE-STANDBY") -> Request:
    body = {"topology": topology, "role": "ACTIVE", "ha_ip": VIRTUAL_ADDRESS, "secret": PASSWORD}
    return Request("v0.1", "POST", "/topology", json.dumps(body).encode())


def _without(picture: Picture, but: Callable[[str], bool]) -> Picture:
    return {name: there for name, there in picture.items() if not but(name)}


def _difference(expected: Picture, seen: Picture) -> str:
    return "\n".join(
        f"  {name}: {expected.get(name)!r}, but {seen.get(name)!r}"
        for name in sorted(expected.keys() | seen.keys())
        if expected.get(name) != seen.get(name)
    )
