"""What must not make a healthy amphora look ill, nor an ill one healthy."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from amphora.loadbalancer.sockets import ANSWER_LIMIT
from amphora.process import ProcessIdentity
from tests.faults.watched import FaultTestCase
from tests.integration.harness import LoadBalancer, wait_until
from tests.integration.support import count, requires

ROW = ",".join(["x", "FRONTEND", *["1"] * 15, "OPEN"])
"""The beginning of a row that would be one more listener's."""

REASONS = (
    b'500 Fehler-\xfc, "a,b" ' + b"\xe4" * 4000,
    "500 \N{SNOWMAN}\N{COMBINING ACUTE ACCENT} \u202e".encode(),
    b'500 odd " quote,,,,"',
    b"500 # pxname,svname, " + ROW.encode(),
    b"500 \x1b[2J\x07\x7f%s{0}${IFS}" + b"," * 200,
)
"""Statuses that members answer a check with."""


@requires("haproxy")
class MemberTests(FaultTestCase):
    async def test_B1_reason_phrases(self) -> None:
        """What members say of themselves, in whatever alphabet, with commas, quotes and all, hides no listener."""
        ugly = []
        for reason in REASONS:
            member = self.new_member()
            member.status = reason
            ugly.append(member)
        async with self.watch():
            balancer = await self.running(
                LoadBalancer(members=(*ugly, self.new_member()), extra_defaults=("option httpchk GET /",))
            )
            key = f"{balancer.pool_id}:{balancer.listener_id}"

            def told() -> bool:
                """All ugly members down, and the other one up, in a pool that is up."""
                message = self.heard[-1].message
                pool = message["pools"].get(key, {"status": "", "members": {}})
                down = {name for name, status in pool["members"].items() if status == "DOWN"}
                listener = message["listeners"].get(balancer.listener_id, {})
                return (
                    (pool["status"], len(pool["members"])) == ("UP", len(ugly) + 1)
                    and down == {member.name for member in ugly}
                    and listener.get("status") == "OPEN"
                    and len(message["listeners"]) == 2
                )

            await wait_until(told, "all members to be told as they are")

    async def test_B11_last_listener(self) -> None:
        """An amphora whose last listener was deleted goes on to send heartbeats, which tell of none."""
        await self.client.delete(self.balancer.listener_id)
        already = len(self.heard) + 1
        number = count(3, 10)
        await wait_until(lambda: len(self.heard) >= already + number, "heartbeats")
        told = [(beat.message["listeners"], beat.message["pools"]) for beat in self.heard[already:]]
        self.assertEqual([({}, {})] * len(told), told)
        self.assertEqual((), await self.client.listeners())


class SocketTestCase(FaultTestCase):
    """Stats sockets that are not there, hang, or speak nonsense: of one load balancer, while another one is watched."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.other = await self.running(LoadBalancer(members=(self.new_member(),)))
        await wait_until(self.is_told, "the other load balancer to be told")

    @property
    def socket(self) -> Path:
        return self.agent.base_path / self.other.listener_id / "agent.sock"

    def is_told(self) -> bool:
        return self.other.listener_id in self.heard[-1].message["listeners"]

    async def is_error(self) -> bool:
        return (await self.client.listener(self.other.listener_id)).status == "ERROR"

    def processes(self) -> list[ProcessIdentity]:
        master = self.agent.haproxy(self.other.listener_id)
        assert master is not None
        return [master, *master.children()]

    def most_memory(self) -> int:
        """The most bytes that the agent had so far."""
        status = Path(f"/proc/{self.agent.pid}/status").read_text()
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak) * 1024

    def log_counts(self) -> tuple[int, int]:
        """How often it was told in the log that the other one does not answer, and that it does again."""
        name = f"haproxy of {self.other.listener_id}"
        log = self.agent.log
        return log.count(f"{name} does not answer: no heartbeat"), log.count(f"{name} answers: heartbeats")


@requires("haproxy")
class AwayTests(SocketTestCase):
    interval = 2

    async def test_B2_socket_away(self) -> None:
        """
        A haproxy that cannot be asked for one interval is told all the same, without figures; for longer, it is left
        out, which is logged once; and told again when it can be asked, with all that it has carried meanwhile.
        """
        hidden = self.socket.with_name("hidden.sock")
        async with self.watch() as watch:
            self.socket.rename(hidden)
            await self.requests(self.other, 3)
            heard = len(self.heard)
            await wait_until(lambda: len(self.heard) > heard, "a heartbeat")
            hidden.rename(self.socket)
            await self.next_heartbeat()
            told = [self.other.listener_id in heartbeat.message["listeners"] for heartbeat in watch.heartbeats]
            self.assertEqual(([True] * len(told), (0, 0)), (told, self.log_counts()))
            self.socket.rename(hidden)
            await self.requests(self.other, 4)
            await wait_until(lambda: not self.is_told(), "it to be left out")
            await wait_until(self.is_error, "it to be told as ERROR")
            hidden.rename(self.socket)
            await wait_until(self.is_told, "it to be told again")
        await wait_until(lambda: self.told(self.other.listener_id, "totconns") >= 7, "its traffic to be told")
        self.assertEqual((7, (1, 1)), (self.told(self.other.listener_id, "totconns"), self.log_counts()))


@requires("haproxy")
class HungTests(SocketTestCase):
    async def test_B3_hung_haproxy(self) -> None:
        """
        While a haproxy hangs all else goes on; it is told for two more intervals, then no more, and again when it goes
        on, without a restart.
        """
        before = self.processes()
        async with self.watch():
            for process in before:
                process.send_signal(signal.SIGSTOP)
            await wait_until(self.is_error, "it to be told as ERROR")
            await wait_until(lambda: not self.is_told(), "it to be left out")
            for process in before:
                process.send_signal(signal.SIGCONT)
            await wait_until(self.is_told, "it to be told again")
        self.assertEqual((before, (1, 1)), (self.processes(), self.log_counts()))

    async def test_B3_nonsense(self) -> None:
        """
        A stats socket that answers a byte at a time, with garbage, or without an end costs its own load balancer its
        place in the heartbeats, and the agent a bounded amount of memory.
        """
        from twisted.internet import reactor

        before = self.most_memory()
        hidden = self.socket.with_name("hidden.sock")
        self.socket.rename(hidden)
        speaker = _Speaker()
        factory = Factory.forProtocol(cast(Any, speaker.conversation))
        factory.noisy = False
        port = cast(Any, reactor).listenUNIX(str(self.socket), factory)
        self.addCleanup(speaker.stop)
        self.addCleanup(port.stopListening)
        async with self.watch():
            for speech in (_drip, _garbage, _endless):
                speaker.speech = speech
                asked = speaker.asked
                await wait_until(lambda: speaker.asked > asked + 2 and not self.is_told(), "it to be left out")  # noqa: B023
            # Two questions at a time, a heartbeat's and a look for changes, each with an answer and what is made of it.
            self.assertLess(self.most_memory() - before, 4 * ANSWER_LIMIT)
        speaker.stop()
        await port.stopListening()
        hidden.rename(self.socket)
        await wait_until(self.is_told, "it to be told again")


Speech = Callable[[ITransport], Callable[[], None]]
"""What is said to one who asks: begins, and answers what ends it."""


def _looping(transport: ITransport, what: bytes, interval: float) -> Callable[[], None]:
    loop = LoopingCall(transport.write, what)
    loop.start(interval)
    return loop.stop


def _drip(transport: ITransport) -> Callable[[], None]:
    return _looping(transport, b"N", 1.0)


def _garbage(transport: ITransport) -> Callable[[], None]:
    transport.write(b"Pid: 1\n\n# pxname,svname,\n" + random.Random(3).randbytes(1 << 20) + b"\n" + b'"' * 99 + b"\n\n")
    transport.loseConnection()
    return lambda: None


def _endless(transport: ITransport) -> Callable[[], None]:
    return _looping(transport, b"Pid: 1\n\n# pxname,svname,\n" + (ROW.encode() + b"\n") * 100_000, 0.05)


class _Speaker:
    """Speaks to whoever asks, as the test has it just then."""

    def __init__(self) -> None:
        self.speech: Speech = _drip
        self.asked = 0
        self.conversations: set[_Conversation] = set()

    def conversation(self) -> _Conversation:
        self.asked += 1
        return _Conversation(self)

    def stop(self) -> None:
        for conversation in list(self.conversations):
            conversation.end()


class _Conversation(Protocol):
    def __init__(self, speaker: _Speaker) -> None:
        self._speaker = speaker
        self._stop: Callable[[], None] | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._speaker.conversations.add(self)
        self._stop = self._speaker.speech(self.transport)

    def connectionLost(self, reason: object = None) -> None:
        self._speaker.conversations.discard(self)
        if self._stop is not None:
            self._stop()

    def end(self) -> None:
        cast(Any, self.transport).abortConnection()
