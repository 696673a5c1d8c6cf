"""
Tests for L{amphora.health.sender}.

Time is a L{Clock}; the controllers are real UDP sockets on the loopback, where a datagram, and the refusal of one, has
arrived when the call that sent it returns.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.config import Controller
from amphora.health.counters import Counters
from amphora.health.envelope import BadEnvelope, unseal
from amphora.health.sender import SHORTEST_GAP, HeartbeatSender, HeartbeatSettings, LastAnswers, look_up
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.stats import Backend, Frontend, Stats
from amphora.lvs.sample import LvsSample
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Sample, Traffic
from amphora.vrrp.standing import ALONE, Standing

P = ParamSpec("P")
T = TypeVar("T")

AMPHORA = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"
INSTANCE = "11111111-0000-4000-8000-000000000001"
UDP = "bbbbbbbb-0000-4000-8000-000000000001"
OTHER = "11111111-0000-4000-8000-000000000002"
KEY = "a-key-that-no-log-may-show"
INTERVAL = 10.0
STEP = 0.125
"""Time goes on in steps that binary numbers hold exactly, short enough for each pause inside a round."""

_SILENT, _WELL = "does not answer: no heartbeat tells of it", "answers: heartbeats tell of it"

UNSENDABLE = Controller("255.255.255.255", 9)
"""The kernel lets nobody send here who has not asked for broadcasts: an error at once, and nothing on any wire."""


def answer(
    sent: int = 0,
    members: int = 0,
    instance_id: str = INSTANCE,
    frontends: Sequence[str] = ("web",),
    status: str = "no check",
) -> InstanceSample:
    """An instance whose worker has sent so many bytes since its start."""
    listeners = tuple(
        Frontend(name, "OPEN", current=2, total=0, bytes_in=0, bytes_out=sent, request_errors=0) for name in frontends
    )
    pool = Backend("pool", "UP", {f"{number:08x}-{number * 2654435761:016x}": status for number in range(members)})
    return InstanceSample(instance_id, Stats(80, "2.6.12", listeners, (pool,)), ProcessIdentity(80, 1500))


def silence(instance_id: str = INSTANCE) -> InstanceSample:
    """An instance that did not answer."""
    return InstanceSample(instance_id, None, None)


class Receiver:
    """A controller's socket."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        while self._socket.getsockname()[1] == 0:
            # None of those that the kernel gives to senders: one that was closed has to get it back.
            with contextlib.suppress(OSError):
                self._socket.bind((host, port or random.randrange(10_000, 32_000)))
        self._socket.setblocking(False)
        self.controller = Controller(host, self._socket.getsockname()[1])

    def hear(self) -> list[dict[str, Any]]:
        """All messages that came since the last look."""
        messages = []
        while True:
            try:
                messages.append(unseal(KEY, self._socket.recv(65536)))
            except BlockingIOError:
                return messages

    def close(self) -> None:
        """Refuse what comes from now on."""
        self._socket.close()

    def again(self) -> Receiver:
        """Listen once more where this one did."""
        return Receiver(self.controller.host, self.controller.port)


class Held:
    """Calls that a test can hold back, all of them or those of one function."""

    def __init__(self) -> None:
        self._holds: Callable[[object], bool] = lambda function: False
        self._calls: list[Callable[[], object]] = []
        self.made: list[str] = []
        """The names of all functions that were called."""

    def hold(self, only: Callable[..., object] | None = None) -> None:
        """Hold back the calls that are made from now on."""
        self._holds = lambda function: only is None or function == only

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make the call now, or keep it."""
        self.made.append(function.__name__)
        if not self._holds(function):
            return maybeDeferred(function, *args, **kwargs)
        waiting: Deferred[T] = Deferred()
        self._calls.append(lambda: maybeDeferred(function, *args, **kwargs).chainDeferred(waiting))
        return waiting

    def release(self) -> None:
        """Make the calls that were kept, and from now on each at once."""
        self._holds = lambda function: False
        while self._calls:
            self._calls.pop(0)()


class SenderTestCase(SynchronousTestCase):
    """A sender, its clock and its controllers."""

    def setUp(self) -> None:
        """Begin at a time that is no multiple of anything."""
        self.clock = Clock()
        self.clock.advance(1_000_003.5)
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.blocking = Held()
        self.samples: Sequence[Sample] = []
        self.asked: list[float] = []
        self.question: Callable[[], Awaitable[Sequence[Sample]]] = lambda: succeed(self.samples)
        self.looked_up: list[str] = []
        self.rounds: list[float] = []
        """When each round came to its end."""
        self.senders: list[HeartbeatSender] = []

    standing = ALONE
    silent_for: str | None = None
    """Why heartbeats have to fall silent."""

    localhost: Sequence[str] = ("127.0.0.1",)
    """Where `localhost` is; nowhere while its name cannot be found."""

    def receiver(self, host: str = "127.0.0.1") -> Receiver:
        """A controller that is closed after the test."""
        receiver = Receiver(host)
        self.addCleanup(receiver.close)
        return receiver

    def ask(self) -> Awaitable[Sequence[Sample]]:
        """What the sender calls to learn how the instances are."""
        self.asked.append(self.clock.seconds())
        return self.question()

    def find(self, host: str, port: int) -> Sequence[str]:
        """What the sender calls to look a name up; `localhost` is the only one that there is."""
        self.looked_up.append(host)
        if host != "localhost" or not self.localhost:
            raise OSError("there is no such name")
        return self.localhost

    def sender(
        self, *controllers: Controller, key: str | None = KEY, phase: float = 0.0, amphora_id: str = AMPHORA
    ) -> HeartbeatSender:
        """Make a sender, which is stopped after the test."""
        sender = HeartbeatSender(
            reactor=self.clock,
            blocking=self.blocking,
            look_ups=self.blocking,
            amphora_id=amphora_id,
            settings=HeartbeatSettings(key, controllers, INTERVAL),
            samples=self.ask,
            counters=Counters(self.directory, boot_id="boot", agent_started=1000),
            standing=lambda: self.standing,
            silence=lambda: self.silent_for,
            round_done=lambda: self.rounds.append(self.clock.seconds()),
            phase=lambda: phase,
            look_up=self.find,
        )
        self.senders.append(sender)
        self.addCleanup(self.stop, sender)
        return sender

    def started(self, *controllers: Controller, phase: float = 0.0, amphora_id: str = AMPHORA) -> HeartbeatSender:
        """Make a sender and start it."""
        sender = self.sender(*controllers, phase=phase, amphora_id=amphora_id)
        sender.startService()
        return sender

    def stop(self, sender: HeartbeatSender) -> None:
        """Stop it as an application does, and see that nothing is left behind."""
        if sender.running:
            self.successResultOf(sender.stopService())
        if not any(sender.running for sender in self.senders):
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def pass_time(self, seconds: float) -> None:
        """Let time go by in small steps."""
        self.clock.pump([0.0] + [STEP] * round(seconds / STEP))

    def untold(self) -> int:
        """The bytes that the counters' file says wait to be told."""
        waiting = json.loads((self.directory / "stats_counters.json").read_text())["untold"]
        return sum(each["tx"] for each in waiting.values())

    def tx(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The bytes that each message tells of the instance's frontends."""
        return [message["listeners"][INSTANCE]["stats"]["tx"] for message in messages]


class PairTests(SenderTestCase):
    """An amphora that is one of a pair."""

    def test_standing(self) -> None:
        """Each heartbeat tells the topology and the role of its own moment."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.pass_time(0)
        self.standing = Standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")
        self.pass_time(SHORTEST_GAP)
        sender.beat_now()
        self.pass_time(0)
        first, second = receiver.hear()
        told = [(each["topology"], each["topology_status"], each["role"]) for each in (first, second)]
        self.assertEqual([("SINGLE", "OK", "ACTIVE"), ("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")], told)


class CadenceTests(SenderTestCase):
    """When heartbeats leave."""

    def test_phase(self) -> None:
        """The first one leaves at once, the second after a part of an interval, the others an interval after that."""
        receiver = self.receiver()
        self.started(receiver.controller, phase=0.75)
        self.pass_time(0)
        self.assertEqual(len(receiver.hear()), 1)
        self.pass_time(7.375)
        self.assertEqual(receiver.hear(), [])
        self.pass_time(0.125)
        self.assertEqual(len(receiver.hear()), 1)
        self.pass_time(9.875)
        self.assertEqual(receiver.hear(), [])
        self.pass_time(0.125)
        self.assertEqual(len(receiver.hear()), 1)

    def test_no_drift(self) -> None:
        """However long a round takes, the next one begins a whole number of intervals after the second."""
        receiver = self.receiver()
        begun = self.clock.seconds()

        def slow() -> Deferred[Sequence[Sample]]:
            waiting: Deferred[Sequence[Sample]] = Deferred()
            self.clock.callLater(len(self.asked) % 5, waiting.callback, [])
            return waiting

        self.question = slow
        self.started(receiver.controller, phase=0.5)
        self.pass_time(100)
        self.assertEqual(self.asked, [begun, *(begun + 5.0 + INTERVAL * number for number in range(10))])
        self.assertEqual(len(receiver.hear()), 11)

    def test_silence(self) -> None:
        """While there is a reason none leaves, not even one that is asked for; it is told once, and so is the end."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.samples = [answer(sent=100)]
        self.pass_time(INTERVAL)
        self.assertEqual([0, 1], [message["seq"] for message in receiver.hear()])
        self.silent_for = "keepalived hangs"
        with capturedLogs() as events:
            self.samples = [answer(sent=300)]
            self.pass_time(INTERVAL)
            sender.beat_now()
            self.pass_time(INTERVAL)
            self.assertEqual([], receiver.hear())
            self.silent_for = None
            self.pass_time(INTERVAL)
        [message] = receiver.hear()
        self.assertEqual((2, [200]), (message["seq"], self.tx([message])))
        texts = [formatEvent(event) for event in events]
        self.assertEqual(["no heartbeats are sent: keepalived hangs", "heartbeats are sent again"], texts)

    def test_old_worker(self) -> None:
        """Where a worker answers that a reload replaces, its figures are told, and not that it has closed."""
        receiver = self.receiver()
        self.samples = [answer(sent=100)]
        self.started(receiver.controller, phase=0)
        self.pass_time(0)
        old = answer(sent=300)
        assert old.stats is not None
        closed = tuple(evolve(frontend, status="STOP") for frontend in old.stats.frontends)
        self.samples = [evolve(old, stats=evolve(old.stats, frontends=closed, stopping=True))]
        self.pass_time(INTERVAL)
        first, second = receiver.hear()[-2:]
        self.assertEqual(first["listeners"].keys(), second["listeners"].keys())
        self.assertEqual(["OPEN"], [listener["status"] for listener in second["listeners"].values()])
        self.assertEqual([200], self.tx([second]))

    def test_sequence(self) -> None:
        """Heartbeats are numbered from 0, and one that did not leave takes no number."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.pass_time(15)
        receiver.close()
        self.pass_time(20)
        receiver = receiver.again()
        self.addCleanup(receiver.close)
        self.pass_time(10)
        self.assertEqual([message["seq"] for message in receiver.hear()], [2])
        self.assertEqual(sender.sent, 3)

    def test_no_load_balancer(self) -> None:
        """An amphora without any instance sends heartbeats that say so."""
        receiver = self.receiver()
        self.started(receiver.controller)
        self.pass_time(95)
        messages = receiver.hear()
        self.assertEqual(len(messages), 10)
        for message in messages:
            self.assertEqual((message["id"], message["listeners"], message["pools"]), (AMPHORA, {}, {}))

    def test_nothing_to_send_with(self) -> None:
        """Without a key or without controllers the service lives, asks nobody, and says why, once."""
        receiver = self.receiver()
        for key, controllers, missing in (
            (None, (receiver.controller,), "heartbeat_key"),
            (KEY, (), "controller_ip_port_list"),
        ):
            sender = self.sender(*controllers, key=key)
            with capturedLogs() as logs:
                sender.startService()
                sender.beat_now()
                self.pass_time(50)
            self.assertEqual([(event["log_level"], event["option"]) for event in logs], [(LogLevel.warn, missing)])
            self.assertEqual((self.asked, receiver.hear()), ([], []))
            self.assertTrue(sender.running)

    def test_failing_round(self) -> None:
        """A round that fails for a reason that nobody thought of is logged, and the next one runs in its time."""
        receiver = self.receiver()
        self.started(receiver.controller)
        self.samples = [None]  # type: ignore[list-item]
        self.pass_time(15)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 2)
        self.samples = [answer()]
        receiver.hear()
        self.pass_time(10)
        self.assertEqual(len(receiver.hear()), 1)


class ProgressTests(SenderTestCase):
    """What tells a watchdog that the sender goes on."""

    def test_each_round(self) -> None:
        """A round that came to its end counts, whether a heartbeat left, nobody could be reached or none may leave."""
        receiver = self.receiver()
        self.started(receiver.controller)
        self.pass_time(5)
        self.assertEqual(1, len(self.rounds))
        receiver.close()
        self.pass_time(INTERVAL)
        self.assertEqual(2, len(self.rounds))
        self.silent_for = "keepalived hangs"
        self.pass_time(INTERVAL)
        self.assertEqual(3, len(self.rounds))

    def test_failing_rounds(self) -> None:
        """Rounds that fail for a reason that nobody thought of do not count: no heartbeat leaves."""
        self.started(self.receiver().controller)
        self.samples = [None]  # type: ignore[list-item]
        self.pass_time(INTERVAL * 3)
        self.assertEqual([], self.rounds)
        self.flushLoggedErrors(AttributeError)

    def test_stuck(self) -> None:
        """A round that does not end does not count, and no other runs meanwhile."""
        sender = self.started(self.receiver().controller)
        self.pass_time(5)

        async def never(datagram: bytes) -> bool:
            await stuck
            return False

        stuck: Deferred[None] = Deferred()
        self.patch(sender, "_deliver", never)
        self.pass_time(INTERVAL * 5)
        sender.beat_now()
        self.pass_time(INTERVAL)
        self.assertEqual(1, len(self.rounds))
        stuck.callback(None)

    def test_patience(self) -> None:
        """Where nothing answers at all, no round takes longer than a sender may before it counts as stuck."""
        controllers = [self.receiver().controller, *(Controller(f"name-{number}", 5555) for number in range(6))]
        for interval in (1.0, 10.0, 60.0):
            settings = HeartbeatSettings(KEY, tuple(controllers), interval)
            sender = self.sender(*controllers)
            sender.renew(settings)
            self.rounds.clear()
            self.question = Deferred
            self.blocking.hold()
            sender.startService()
            self.pass_time(interval * 10 + 100)
            patience = settings.patience
            assert patience is not None
            self.assertLess(max(after - before for before, after in pairwise(self.rounds)), patience)
            self.blocking.release()
            self.stop(sender)
            self.flushLoggedErrors()

    def test_nothing_to_wait_for(self) -> None:
        """Where no heartbeats can be sent none can be overdue."""
        self.assertEqual(None, HeartbeatSettings(None, (UNSENDABLE,), INTERVAL).patience)
        self.assertEqual(None, HeartbeatSettings(KEY, (), INTERVAL).patience)


class RenewalTests(SenderTestCase):
    """Other settings while it speaks."""

    def renew(self, sender: HeartbeatSender, *controllers: Controller, key: str = KEY, interval: float = 10.0) -> None:
        sender.renew(HeartbeatSettings(key, controllers, interval))

    def test_B5_controllers(self) -> None:
        """One leaves at once to a controller that is new; those that are gone hear no more, and no traffic is lost."""
        old, kept, new = self.receiver(), self.receiver(), self.receiver()
        sender = self.started(old.controller, kept.controller)
        self.samples = [answer(sent=100)]
        self.pass_time(2 * INTERVAL)
        first = [*old.hear(), *kept.hear()]
        self.samples = [answer(sent=250)]
        self.pass_time(5)
        self.renew(sender, kept.controller, new.controller)
        self.pass_time(0)
        moved = new.hear()
        self.assertEqual((3, [150]), (moved[0]["seq"], self.tx(moved)))
        self.assertEqual([], kept.hear())
        self.samples = [answer(sent=300)]
        self.pass_time(3 * INTERVAL)
        later = [*kept.hear(), *new.hear()]
        self.assertEqual([], old.hear())
        self.assertEqual(300, sum(self.tx([*first, *moved, *later])))
        self.assertEqual([kept.controller, new.controller], [each.controller for each in sender.report().controllers])

    def test_regular(self) -> None:
        """Neither other controllers nor another key move the regular heartbeats in time."""
        receiver, new = self.receiver(), self.receiver()
        begun = self.clock.seconds()
        sender = self.started(receiver.controller)
        self.pass_time(INTERVAL + 3)
        self.renew(sender, new.controller)
        self.pass_time(2 * INTERVAL)
        times = [0, INTERVAL, INTERVAL + 3, 2 * INTERVAL, 3 * INTERVAL]
        self.assertEqual([begun + time for time in times], self.asked)

    def test_interval(self) -> None:
        """Another interval counts from now on: after one at once, the next come after a part of it, and steadily."""
        receiver = self.receiver()
        sender = self.started(receiver.controller, phase=0.5)
        self.pass_time(INTERVAL)
        begun = self.clock.seconds()
        self.asked.clear()
        self.renew(sender, receiver.controller, interval=4.0)
        self.pass_time(10)
        self.assertEqual([begun + time for time in (0, 2, 6, 10)], self.asked)

    def test_key(self) -> None:
        """From the next heartbeat on another key signs, which the old one does not open."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.pass_time(INTERVAL)
        receiver.hear()
        self.renew(sender, receiver.controller, key="another")
        self.pass_time(SHORTEST_GAP)
        self.assertRaises(BadEnvelope, receiver.hear)

    def test_running_round(self) -> None:
        """A round that is running ends as it began; it does not wait for an interval that is no more."""
        old, new = self.receiver(), self.receiver()
        waiting: Deferred[Sequence[InstanceSample]] = Deferred()
        self.question = lambda: waiting
        sender = self.started(old.controller)
        self.pass_time(0)
        self.question = lambda: succeed([])
        self.renew(sender, new.controller, interval=20.0)
        self.renew(sender, new.controller, interval=3.0)
        self.assertEqual([], new.hear())
        waiting.callback([])
        # It waits up to a second for a refusal before it ends.
        self.pass_time(1.0 + 3.0)
        self.assertEqual(([0], [1, 2]), tuple([message["seq"] for message in each.hear()] for each in (old, new)))

    def test_none(self) -> None:
        """Without controllers it falls silent, and says so; with some, it speaks again."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.pass_time(INTERVAL)
        with capturedLogs() as events:
            self.renew(sender)
            sender.beat_now()
            self.pass_time(3 * INTERVAL)
        self.assertEqual(
            ["no heartbeats are sent: controller_ip_port_list is not set"], [formatEvent(event) for event in events]
        )
        self.assertEqual(2, len(receiver.hear()))
        self.renew(sender, receiver.controller)
        self.pass_time(2 * INTERVAL)
        self.assertEqual(3, len(receiver.hear()))

    def test_late(self) -> None:
        """One that had nobody to speak to begins when it has; and what came before its start counts from its start."""
        receiver = self.receiver()
        sender = self.started()
        self.renew(sender, receiver.controller)
        self.pass_time(0)
        self.assertEqual(1, len(receiver.hear()))
        unstarted = self.sender()
        self.renew(unstarted, receiver.controller)
        self.pass_time(0)
        self.assertEqual([], receiver.hear())
        unstarted.startService()
        self.pass_time(0)
        self.assertEqual(1, len(receiver.hear()))

    def test_same(self) -> None:
        """What is as it was sends nothing."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.pass_time(2)
        receiver.hear()
        self.renew(sender, receiver.controller)
        self.pass_time(2)
        self.assertEqual([], receiver.hear())


class ManyTests(SenderTestCase):
    """Many amphorae, and one controller."""

    def test_B13_two_hundred(self) -> None:
        """
        Two hundred that were started together speak evenly spread over an interval, each in a rhythm that nothing
        moves, and all of them no more often when a controller comes back.
        """
        receiver = self.receiver()
        chance = random.Random(13)
        phases = {f"amphora {number}": chance.random() for number in range(200)}
        times: dict[str, list[float]] = {}

        def hear() -> None:
            for message in receiver.hear():
                times.setdefault(message["id"], []).append(self.clock.seconds())

        def pass_time(intervals: int) -> None:
            for _ in range(round(intervals * INTERVAL / STEP)):
                self.clock.advance(STEP)
                hear()

        for amphora_id, phase in phases.items():
            self.directory = Path(self.mktemp())
            self.directory.mkdir()
            self.started(receiver.controller, phase=phase, amphora_id=amphora_id)
            self.pass_time(0)
            hear()
        # One whose regular heartbeat comes within a second does not send one before.
        at_once = {amphora_id for amphora_id, phase in phases.items() if phase * INTERVAL > 1}
        self.assertEqual((at_once, {1}), (set(times), {len(heard) for heard in times.values()}))
        begun = self.clock.seconds()
        times.clear()
        pass_time(5)
        self.assertEqual([5] * 200, [len(heard) for heard in times.values()])
        for amphora_id, heard in times.items():
            self.assertApproximates(begun + phases[amphora_id] * INTERVAL, heard[0], STEP)
            self.assertEqual([INTERVAL] * 4, [later - earlier for earlier, later in pairwise(heard)])
        tenths = Counter(int((heard[0] - begun) / INTERVAL * 10) for heard in times.values())
        self.assertTrue(all(5 < tenths[tenth] < 40 for tenth in range(10)), tenths)
        receiver.close()
        self.pass_time(INTERVAL * 3)
        receiver = receiver.again()
        self.addCleanup(receiver.close)
        before = {amphora_id: heard[-1] for amphora_id, heard in times.items()}
        times.clear()
        pass_time(3)
        self.assertEqual([3] * 200, [len(heard) for heard in times.values()])
        for amphora_id, heard in times.items():
            rhythm = [before[amphora_id] + INTERVAL * (4 + number) for number in range(3)]
            self.assertEqual(rhythm, heard)


class ExtraTests(SenderTestCase):
    """Heartbeats between the regular ones."""

    def setUp(self) -> None:
        """Begin two seconds after a regular one."""
        super().setUp()
        self.heard = self.receiver()
        self.one = self.started(self.heard.controller)
        self.pass_time(2)
        self.heard.hear()

    def test_at_once(self) -> None:
        """One that is asked for leaves at once, and changes nothing about the regular ones."""
        self.one.beat_now()
        self.pass_time(0)
        self.assertEqual(len(self.heard.hear()), 1)
        self.pass_time(7.875)
        self.assertEqual(self.heard.hear(), [])
        self.pass_time(0.125)
        self.assertEqual(len(self.heard.hear()), 1)

    def test_one_a_second(self) -> None:
        """However often they are asked for, one leaves each second, and the last request is answered too."""
        begun, times = self.clock.seconds(), []
        for _ in range(20):
            self.one.beat_now()
            self.pass_time(STEP)
            times += [self.clock.seconds() - begun] * len(self.heard.hear())
        self.assertEqual(times, [STEP, 1.0, 2.0])
        self.pass_time(1)
        self.assertEqual(len(self.heard.hear()), 1)
        self.pass_time(3)
        self.assertEqual(self.heard.hear(), [])

    def test_during_a_round(self) -> None:
        """One that is asked for while a round is running, which may have asked haproxy before, leaves after it."""
        waiting: Deferred[Sequence[Sample]] = Deferred()
        self.question = lambda: waiting
        self.one.beat_now()
        self.pass_time(1)
        self.one.beat_now()
        self.pass_time(1)
        self.question = lambda: succeed([])
        waiting.callback([])
        self.pass_time(2)
        self.assertEqual(len(self.heard.hear()), 2)

    def test_stopped(self) -> None:
        """After the stop none leaves, whether it was asked for before or after."""
        self.one.beat_now()
        self.pass_time(0.5)
        self.heard.hear()
        self.one.beat_now()
        self.stop(self.one)
        self.one.beat_now()
        self.pass_time(20)
        self.assertEqual(self.heard.hear(), [])


class ControllersTests(SenderTestCase):
    """Where heartbeats go."""

    def test_round_robin(self) -> None:
        """Each heartbeat goes to one controller, one after the other."""
        receivers = [self.receiver(), self.receiver(), self.receiver()]
        self.started(*(receiver.controller for receiver in receivers))
        self.pass_time(55)
        self.assertEqual(
            [[message["seq"] for message in receiver.hear()] for receiver in receivers], [[0, 3], [1, 4], [2, 5]]
        )

    def test_refused(self) -> None:
        """
        One live controller among dead ones hears each heartbeat, with all traffic; each dead one is logged once, and
        once more when it is back.
        """
        live, dead, unsendable = self.receiver(), self.receiver(), UNSENDABLE
        dead.close()
        self.started(dead.controller, unsendable, live.controller)
        with capturedLogs() as logs:
            for sent in range(100, 1000, 100):
                self.samples = [answer(sent)]
                self.pass_time(INTERVAL if sent > 100 else 5)
        self.assertEqual(self.tx(live.hear()), [100] * 9)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.warn] * 2)
        self.assertEqual(
            sorted((event["controller"], event["problem"]) for event in logs),
            sorted(
                [
                    (f"127.0.0.1 port {dead.controller.port}", "Connection refused"),
                    ("255.255.255.255 port 9", "Permission denied"),
                ]
            ),
        )
        back = dead.again()
        self.addCleanup(back.close)
        with capturedLogs() as logs:
            self.pass_time(3 * INTERVAL)
        self.assertEqual((len(back.hear()), len(live.hear())), (1, 2))
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.info])

    def test_report(self) -> None:
        """What was sent is told, and of each controller whether it could be reached when it was its turn."""
        live, dead = self.receiver(), self.receiver()
        dead.close()
        controllers = (live.controller, dead.controller)
        sender = self.sender(*controllers)
        self.assertEqual((0, 0, 0), (sender.report().sent, sender.report().size, sender.report().left_out))
        self.assertEqual(self.reached(sender), dict.fromkeys(controllers))
        sender.startService()
        self.pass_time(INTERVAL / 2)
        self.assertEqual(self.reached(sender), {live.controller: True, dead.controller: None})
        self.pass_time(INTERVAL)
        self.assertEqual(self.reached(sender), {live.controller: True, dead.controller: False})
        self.samples = [answer(members=10_000)]
        self.pass_time(INTERVAL)
        report = sender.report()
        self.assertEqual(report.sent, 3)
        self.assertTrue(0 < report.left_out < 10_000, report.left_out)
        self.assertTrue(60_000 < report.size <= 65_507, report.size)
        back = dead.again()
        self.addCleanup(back.close)
        self.pass_time(INTERVAL)
        self.assertEqual(self.reached(sender), {live.controller: True, dead.controller: True})
        self.assertEqual([each.controller for each in sender.report().controllers], list(controllers))

    def reached(self, sender: HeartbeatSender) -> dict[Controller, bool | None]:
        """Whether each controller was reached."""
        return {each.controller: each.reachable for each in sender.report().controllers}

    def test_refused_later(self) -> None:
        """A refusal that comes when nobody waits for it any more sends the controller's next turn to another one."""
        late, other = self.receiver(), self.receiver()
        sender = self.started(late.controller, other.controller)
        self.pass_time(INTERVAL * 1.5)
        self.assertEqual((len(late.hear()), len(other.hear())), (1, 1))
        late.close()
        sender._destinations[0].send(b"answered late")
        with capturedLogs() as logs:
            self.pass_time(INTERVAL)
        self.assertEqual(len(other.hear()), 1)
        self.assertEqual([event["problem"] for event in logs], ["Connection refused"])
        back = late.again()
        self.addCleanup(back.close)
        self.pass_time(INTERVAL * 2)
        self.assertEqual((len(back.hear()), len(other.hear())), (1, 1))

    def test_all_gone(self) -> None:
        """
        With all controllers gone for ten minutes the traffic waits, on disk too, and each is logged once.  The first
        heartbeat that gets through finds that somebody listens again, the next one tells it.
        """
        receivers = [self.receiver(), self.receiver()]
        self.samples = [answer(100)]
        self.started(*(receiver.controller for receiver in receivers))
        self.pass_time(5)
        self.assertEqual(self.tx(receivers[0].hear()), [100])
        for receiver in receivers:
            receiver.close()
        with capturedLogs() as logs:
            for sent in range(110, 710, 10):
                self.samples = [answer(sent)]
                self.pass_time(INTERVAL)
                self.assertEqual(self.untold(), sent - 100)
        self.assertEqual([event["problem"] for event in logs], ["Connection refused"] * 2)
        back = receivers[1].again()
        self.addCleanup(back.close)
        self.samples = [answer(710)]
        self.pass_time(INTERVAL * 3)
        self.assertEqual(self.tx(back.hear()), [0, 610, 0])
        self.assertEqual(self.untold(), 0)

    def test_all_gone_and_the_agent_killed(self) -> None:
        """While nobody listens no traffic counts as told, not even for a moment: the next agent finds all of it."""
        receiver = self.receiver()
        receiver.close()
        self.samples = [answer(100)]
        killed = self.started(receiver.controller)
        self.pass_time(5)
        self.blocking.made.clear()
        for sent in (110, 120, 130):
            self.samples = [answer(sent)]
            self.pass_time(INTERVAL)
            self.assertEqual(self.untold(), sent)
        self.assertEqual(self.blocking.made, ["keep"] * 3)
        self.stop(killed)

    def test_leaving(self) -> None:
        """What was not told when the agent ends is written down for the next one, who tells it."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        sender = self.started(receiver.controller)
        self.pass_time(5)
        self.stop(sender)
        self.samples = [answer(130)]
        self.successResultOf(Deferred.fromCoroutine(sender.leave()))
        self.assertEqual(self.untold(), 30)
        self.assertEqual(self.tx(receiver.hear()), [100])
        self.started(receiver.controller)
        self.pass_time(5)
        self.assertEqual(self.tx(receiver.hear()), [30])

    def test_leaving_in_trouble(self) -> None:
        """An agent that cannot learn any more what was not told says so and ends, in bounded time."""
        receiver, real = self.receiver(), self.question
        for question, error in ((Stubborn, TimeoutError), (lambda: fail(ZeroDivisionError()), ZeroDivisionError)):
            sender = self.started(receiver.controller)
            self.pass_time(5)
            self.stop(sender)
            self.question = cast(Any, question)
            left = Deferred.fromCoroutine(sender.leave())
            self.pass_time(INTERVAL / 2)
            self.successResultOf(left)
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)
            self.question = real
        self.successResultOf(Deferred.fromCoroutine(self.sender(receiver.controller).leave()))

    def test_ipv6(self) -> None:
        """IPv6 controllers stand beside IPv4 ones."""
        try:
            receivers = [self.receiver("::1"), self.receiver()]
        except OSError as problem:
            self.skipTest(f"no IPv6 here: {problem}")
        self.started(*(receiver.controller for receiver in receivers))
        self.pass_time(35)
        self.assertEqual([len(receiver.hear()) for receiver in receivers], [2, 2])

    def test_names(self) -> None:
        """A name is looked up when it is needed first; one that has no address is skipped, and logged once."""
        receiver = self.receiver()
        port = receiver.controller.port
        self.started(Controller("nowhere.invalid", port), Controller("localhost", port))
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 4 - 1)
        self.assertEqual(len(receiver.hear()), 4)
        self.assertEqual(self.looked_up, ["nowhere.invalid", "localhost", "nowhere.invalid"])
        self.assertEqual([event["problem"] for event in logs], ["there is no such name"])

    def test_name_again(self) -> None:
        """A name whose address refuses is looked up again: the controller may have moved."""
        receiver = self.receiver()
        self.started(Controller("localhost", receiver.controller.port))
        self.pass_time(INTERVAL * 1.5)
        self.assertEqual(self.looked_up, ["localhost"])
        receiver.close()
        self.pass_time(INTERVAL * 2)
        self.assertEqual(self.looked_up, ["localhost"] * 2)

    def test_moved_name(self) -> None:
        """A name that works is looked up again each minute; where it has moved, heartbeats follow."""
        receiver = self.receiver()
        moved = Receiver("127.0.0.2", receiver.controller.port)
        self.addCleanup(moved.close)
        self.started(Controller("localhost", receiver.controller.port))
        self.pass_time(INTERVAL * 6)
        self.assertEqual(self.looked_up, ["localhost"])
        self.localhost = ()
        self.pass_time(INTERVAL * 2)
        self.assertEqual(self.looked_up, ["localhost"] * 2)
        receiver.hear()
        self.localhost = ("127.0.0.2",)
        self.pass_time(INTERVAL * 7)
        self.assertEqual(self.looked_up, ["localhost"] * 3)
        receiver.hear()
        moved.hear()
        self.pass_time(INTERVAL * 3)
        self.assertEqual((len(receiver.hear()), len(moved.hear())), (0, 3))

    def test_several_addresses(self) -> None:
        """Of a name's addresses the first that takes a heartbeat is kept; if it ceases to, the others are tried."""
        receiver = self.receiver()
        port = receiver.controller.port
        second = Receiver("127.0.0.3", port)
        self.addCleanup(second.close)
        self.localhost = ("255.255.255.255", "127.0.0.2", "127.0.0.3", "127.0.0.1")
        self.started(Controller("localhost", port))
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 8 - 1)
        self.assertEqual((len(second.hear()), len(receiver.hear())), (8, 0))
        self.assertEqual(logs, [])
        self.assertEqual(self.looked_up, ["localhost"] * 2)
        second.close()
        self.pass_time(INTERVAL * 2)
        self.assertEqual(len(receiver.hear()), 1)
        receiver.close()
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 2)
        self.assertEqual([event["problem"] for event in logs], ["Connection refused"])

    def test_slow_name(self) -> None:
        """A name server that does not answer holds up a heartbeat for a second, once; a late answer serves later."""
        receiver = self.receiver()
        port = receiver.controller.port
        self.samples = [answer()]
        self.started(Controller("localhost", port), Controller("127.0.0.1", port))
        self.blocking.hold(self.find)
        self.pass_time(0.875)
        self.assertEqual(receiver.hear(), [])
        self.pass_time(0.25)
        self.assertEqual(len(receiver.hear()), 1)
        self.pass_time(INTERVAL * 2 - 1.125)
        self.assertEqual(len(receiver.hear()), 2)
        self.blocking.release()
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 2 + 1)
        self.assertEqual(len(receiver.hear()), 2)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.info])
        self.assertEqual(self.looked_up, ["localhost"])

    def test_slow_names(self) -> None:
        """However many names are not answered for, a heartbeat waits for a second."""
        receiver = self.receiver()
        port = receiver.controller.port
        names = [Controller(f"{number}.test", port) for number in range(20)]
        self.started(*names, Controller("127.0.0.1", port))
        self.blocking.hold(self.find)
        with capturedLogs() as logs:
            self.pass_time(1.125)
        self.assertEqual(len(receiver.hear()), 1)
        problems = [event["problem"] for event in logs]
        self.assertEqual(problems, ["its name is still being looked up"] * 20)
        self.blocking.release()
        self.flushLoggedErrors(OSError)

    def test_look_up(self) -> None:
        """The real look-up knows `localhost`, and has no other error than C{OSError}."""
        found = look_up("localhost", 5555)
        self.assertTrue(found)
        self.assertEqual([], [address for address in found if address not in ("127.0.0.1", "::1")])
        self.assertEqual(len(found), len(set(found)))
        self.assertRaises(OSError, look_up, "a..b", 5555)


class InstancesTests(SenderTestCase):
    """What is told of haproxies that do not answer."""

    def test_silent(self) -> None:
        """
        An instance that does not answer is told as it was last for two intervals, without traffic; then it is absent.
        What it carried meanwhile is told when it answers again, once.
        """
        receiver = self.receiver()
        self.samples = [answer(100, members=1), answer(instance_id=OTHER)]
        self.started(receiver.controller)
        self.pass_time(5)
        self.samples = [silence(), answer(instance_id=OTHER)]
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 4)
        first, *remembered, gone, still_gone = receiver.hear()
        self.assertEqual(self.tx([first]), [100])
        self.assertEqual(len(remembered), 2)
        for message in remembered:
            self.assertEqual(
                message["listeners"][INSTANCE],
                {"status": "OPEN", "stats": {"tx": 0, "rx": 0, "conns": 2, "totconns": 0, "ereq": 0}},
            )
            self.assertEqual(message["pools"], first["pools"])
        for message in (gone, still_gone):
            self.assertEqual(list(message["listeners"]), [OTHER])
            self.assertEqual(list(message["pools"]), [f"pool:{OTHER}"])
        self.assertEqual(
            [(event["log_level"], event["source"]) for event in logs], [(LogLevel.error, f"haproxy of {INSTANCE}")]
        )
        self.samples = [answer(160), answer(instance_id=OTHER)]
        self.pass_time(INTERVAL * 2)
        self.assertEqual(self.tx(receiver.hear()), [60, 0])

    def test_B2_udp(self) -> None:
        """
        A UDP listener that the kernel does not tell of for a moment is told as it was last for two intervals, without
        traffic, then not at all; haproxy's stays.  What it carried meanwhile is told when it is told of again, once.
        """
        receiver = self.receiver()

        def udp(sent: int) -> LvsSample:
            answer = Answer({UDP: ListenerState("OPEN", 3)}, {"udp-pool": PoolState("UP", {"m": "UP"})})
            return LvsSample(UDP, answer, ProcessIdentity(90, 1600), Traffic(tx=sent, rx=1, totconns=1))

        self.samples = [answer(100), udp(50)]
        self.started(receiver.controller)
        self.pass_time(5)
        self.samples = [answer(110), LvsSample(UDP)]
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 3)
        first, second, third, gone = receiver.hear()
        stats = {"tx": 50, "rx": 1, "conns": 3, "totconns": 1, "ereq": 0}
        self.assertEqual(first["listeners"][UDP], {"status": "OPEN", "stats": stats})
        self.assertEqual(first["pools"]["udp-pool"], {"status": "UP", "members": {"m": "UP"}})
        for message in (second, third):
            self.assertEqual(message["listeners"][UDP]["stats"], {**stats, "tx": 0, "rx": 0, "totconns": 0})
            self.assertEqual(message["pools"], first["pools"])
        self.assertEqual(list(gone["listeners"]), [INSTANCE])
        self.assertEqual(self.tx([first, second, third, gone]), [100, 10, 0, 0])
        self.assertEqual([event["source"] for event in logs], [f"keepalived of {UDP}"])
        self.samples = [answer(110), udp(75)]
        self.pass_time(INTERVAL * 2)
        self.assertEqual([message["listeners"][UDP]["stats"]["tx"] for message in receiver.hear()], [25, 0])

    def test_deleted(self) -> None:
        """An instance that is not among the samples is gone at once."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.started(receiver.controller)
        self.pass_time(5)
        self.samples = []
        self.pass_time(INTERVAL)
        self.assertEqual([list(message["listeners"]) for message in receiver.hear()], [[INSTANCE], []])

    def test_nobody_can_be_asked(self) -> None:
        """If asking fails as a whole, what is known is told for two intervals, on time; no traffic is lost."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.started(receiver.controller)
        self.pass_time(5)
        receiver.hear()
        real = self.question

        def broken_at_once() -> Deferred[Sequence[Sample]]:
            raise ZeroDivisionError

        for broken in (broken_at_once, Deferred[Sequence[Sample]], Stubborn):
            self.question = broken
            with capturedLogs() as logs:
                self.pass_time(INTERVAL * 3)
            self.assertEqual([list(message["listeners"]) for message in receiver.hear()], [[INSTANCE]] * 2 + [[]])
            self.assertEqual([event["log_level"] for event in logs], [LogLevel.critical, LogLevel.error])
            self.flushLoggedErrors(ZeroDivisionError, TimeoutError)
            self.question = real
            self.samples = [answer(150)]
            self.pass_time(INTERVAL * 2)
            self.assertEqual(sum(self.tx(receiver.hear())), 50)
            self.samples = [answer(100)]
            self.pass_time(INTERVAL)
            receiver.hear()

    def test_never_answered(self) -> None:
        """An instance that never answered is not told, and its old baseline is kept."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.stop(self.started(receiver.controller))
        self.pass_time(0)
        sender = self.started(receiver.controller)
        self.pass_time(5)
        self.stop(sender)
        receiver.hear()
        self.samples = [silence()]
        self.started(receiver.controller)
        self.pass_time(INTERVAL * 1.5)
        self.assertEqual([message["listeners"] for message in receiver.hear()], [{}, {}])
        self.samples = [answer(120)]
        self.pass_time(INTERVAL)
        self.assertEqual(self.tx(receiver.hear()), [20])


class Stubborn(Deferred[Sequence[Sample]]):
    """A question that never ends, not even when it is cancelled."""

    def cancel(self) -> None:
        """Go on."""


class DiskTests(SenderTestCase):
    """The counters' file, and disks that hang."""

    def test_saved_before_sent(self) -> None:
        """When a heartbeat arrives, the file says already that its traffic was told."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.started(receiver.controller)
        self.pass_time(0)
        self.assertEqual(self.tx(receiver.hear()), [100])
        self.assertIn('"tx":100', (self.directory / "stats_counters.json").read_text())

    def test_restart(self) -> None:
        """Over an orderly restart of the agent each byte is told once."""
        receiver = self.receiver()
        told = []
        for sent in (100, 110, 150):
            self.samples = [answer(sent)]
            sender = self.started(receiver.controller)
            self.pass_time(INTERVAL * 1.5)
            self.stop(sender)
            told += self.tx(receiver.hear())
        self.assertEqual(told, [100, 0, 10, 0, 40, 0])

    def test_hanging_disk(self) -> None:
        """While the disk does not answer heartbeats leave in time, without figures; all of them follow later."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.started(receiver.controller)
        self.pass_time(5)
        receiver.hear()
        self.blocking.hold()
        with capturedLogs() as logs:
            for sent in (110, 120, 130):
                self.samples = [answer(sent)]
                self.pass_time(INTERVAL)
        self.assertEqual(self.tx(receiver.hear()), [0, 0, 0])
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
        self.blocking.release()
        self.samples = [answer(140)]
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 2)
        self.assertEqual(self.tx(receiver.hear()), [40, 0])
        self.assertEqual(logs, [])

    def test_counters_fail(self) -> None:
        """Counters that fail for a reason that nobody thought of cost the figures, not the heartbeat."""
        receiver = self.receiver()
        self.samples = [InstanceSample(INSTANCE, answer(100).stats, 5)]  # type: ignore[arg-type]
        self.started(receiver.controller)
        self.pass_time(5)
        self.assertEqual(self.tx(receiver.hear()), [0])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)


class SizeTests(SenderTestCase):
    """Load balancers that are too big for a datagram."""

    def test_left_out(self) -> None:
        """Where not all members fit, how many are left out is told, and logged when it begins and when it ends."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        self.samples = [answer(members=10_000)]
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 3)
        for message in receiver.hear():
            self.assertEqual(len(message["pools"][f"pool:{INSTANCE}"]["members"]), 10_000 - sender.left_out)
        self.assertGreater(sender.left_out, 1000)
        self.assertEqual(
            [(event["log_level"], event["left_out"]) for event in logs], [(LogLevel.warn, sender.left_out)]
        )
        self.samples = [answer(members=10)]
        with capturedLogs() as logs:
            self.pass_time(INTERVAL * 2)
        self.assertEqual(sender.left_out, 0)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.info])

    def test_too_large(self) -> None:
        """Where nothing that may be left out helps, that is logged once, and the traffic waits."""
        receiver = self.receiver()
        names = [f"{number:08x}-0000-4000-8000-{number * 65537 * 65537 % 2**48:012x}" for number in range(9000)]
        self.started(receiver.controller)
        with capturedLogs() as logs:
            for sent in (100, 200):
                self.samples = [answer(sent, frontends=["web", *names])]
                self.pass_time(INTERVAL)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.critical])
        self.assertEqual(receiver.hear(), [])
        self.samples = [answer(300)]
        self.pass_time(INTERVAL)
        self.assertEqual(self.tx(receiver.hear()), [300])


class StopTests(SenderTestCase):
    """Stopping, wherever a round stands; L{SenderTestCase.stop} sees that nothing is left behind."""

    def test_before_the_first(self) -> None:
        """A sender that never sent stops at once."""
        receiver = self.receiver()
        self.stop(self.started(receiver.controller, phase=0.5))
        self.pass_time(20)
        self.assertEqual(receiver.hear(), [])

    def test_while_asking(self) -> None:
        """What the instances say is not waited for, even if they cannot be stopped from saying it."""
        receiver = self.receiver()
        for question in (Deferred[Sequence[Sample]], Stubborn):
            self.question = question
            self.stop(self.started(receiver.controller))
            sender = self.started(receiver.controller)
            self.pass_time(1)
            self.stop(sender)
        self.assertEqual(receiver.hear(), [])

    def test_while_looking_up(self) -> None:
        """A name that is being looked up is not waited for; the traffic counts as not told."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        self.blocking.hold(self.find)
        sender = self.started(Controller("localhost", receiver.controller.port))
        self.pass_time(0.5)
        self.stop(sender)
        self.started(receiver.controller)
        self.pass_time(1)
        self.assertEqual(self.tx(receiver.hear()), [100])

    def test_while_waiting_for_a_refusal(self) -> None:
        """A heartbeat that has just left counts as told."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        sender = self.started(receiver.controller)
        self.pass_time(0)
        self.stop(sender)
        self.assertEqual(sender.sent, 1)
        self.started(receiver.controller)
        self.pass_time(1)
        self.assertEqual(self.tx(receiver.hear()), [100, 0])

    def test_while_writing(self) -> None:
        """The disk is waited for, but not for ever."""
        receiver = self.receiver()
        self.samples = [answer(100)]
        sender = self.started(receiver.controller)
        self.blocking.hold()
        self.pass_time(0)
        stopped = sender.stopService()
        self.assertNoResult(stopped)
        self.pass_time(1)
        self.successResultOf(stopped)

    def test_again(self) -> None:
        """A sender that was stopped can be started again."""
        receiver = self.receiver()
        sender = self.started(receiver.controller)
        for _ in range(3):
            self.pass_time(5)
            self.stop(sender)
            self.assertEqual(len(receiver.hear()), 1)
            self.pass_time(20)
            sender.startService()
        self.pass_time(5)

    def test_no_secret(self) -> None:
        """Nothing that is ever logged holds the key."""
        with capturedLogs() as logs:
            receiver = self.receiver()
            receiver.close()
            self.question = lambda: fail(ZeroDivisionError())
            self.stop(self.started(receiver.controller, UNSENDABLE))
            sender = self.started(receiver.controller, UNSENDABLE)
            self.pass_time(25)
            self.stop(sender)
        self.flushLoggedErrors()
        self.assertGreater(len(logs), 2)
        self.assertNotIn(KEY, json.dumps(logs, default=repr))


class LastAnswersTests(SynchronousTestCase):
    """How long an answer stands in for one that did not come."""

    def test_age(self) -> None:
        """It does so until it is too old, and a new one begins anew."""
        answers = LastAnswers(keep=25.0)
        answers.complete([answer()], 0.0)
        self.assertEqual(len(answers.complete([silence()], 25.0)), 1)
        self.assertEqual(len(answers.complete([silence()], 25.5)), 0)
        self.assertEqual(len(answers.complete([answer()], 30.0)), 1)
        self.assertEqual(len(answers.complete(None, 55.0)), 1)
        self.assertEqual(len(answers.complete(None, 60.0)), 0)

    def test_forgotten(self) -> None:
        """Of an instance that was gone nothing is remembered when it comes back."""
        answers = LastAnswers(keep=25.0)
        answers.complete([answer()], 0.0)
        self.assertEqual(answers.complete([], 10.0), [])
        self.assertEqual(answers.complete([silence()], 20.0), [])

    def test_told(self) -> None:
        """What does not answer is logged once its last answer is too old, what never did once it had as much time."""
        answers = LastAnswers(keep=25.0)
        with capturedLogs() as logs:
            answers.complete([silence()], 0.0)
            answers.complete([silence()], 25.0)
            self.assertEqual([], logs)
            answers.complete([silence()], 25.5)
            answers.complete([silence()], 60.0)
            answers.complete([answer()], 61.0)
            answers.complete([silence()], 86.0)
            answers.complete([silence()], 87.0)
        silent, well = (f"haproxy of {INSTANCE} {words}" for words in (_SILENT, _WELL))
        self.assertEqual([silent, well, silent], [formatEvent(event) for event in logs])


class AtOnceTests(SenderTestCase):
    """With the house's own stand-in for threads."""

    def test_at_once(self) -> None:
        """A sender works with L{AtOnce} as it does with threads."""
        receiver = self.receiver()
        self.blocking = AtOnce()  # type: ignore[assignment]
        self.samples = [answer(100)]
        self.started(receiver.controller)
        self.pass_time(5)
        self.assertEqual(self.tx(receiver.hear()), [100])
