"""Tests for L{amphora.health.counters}."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.health.counters import Counters
from amphora.loadbalancer.sample import InstanceSample, OldFigures
from amphora.loadbalancer.stats import Frontend, Stats
from amphora.lvs.sample import LvsSample
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, Sample, Traffic

INSTANCE = "11111111-0000-4000-8000-000000000001"
OTHER = "11111111-0000-4000-8000-000000000002"
LISTENER = "22222222-0000-4000-8000-000000000003"
BOOT = "99999999-0000-4000-8000-000000000009"
AGENT_STARTED = 1000

OLD = ProcessIdentity(pid=70, started=500)
"""Started before the agent did."""
NEW = ProcessIdentity(pid=80, started=1500)
NEWER = ProcessIdentity(pid=90, started=2500)


def reading(
    worker: ProcessIdentity, sent: int, instance_id: str = INSTANCE, listeners: Sequence[str] = (LISTENER,)
) -> InstanceSample:
    """Each listener of the instance has sent so many bytes since this worker's start."""
    frontends = tuple(
        Frontend(name, "OPEN", current=1, total=0, bytes_in=0, bytes_out=sent, request_errors=0) for name in listeners
    )
    return InstanceSample(instance_id, Stats(worker.pid, "2.6.12", frontends, ()), worker)


def kernel(keepalived: ProcessIdentity, sent: int | None) -> LvsSample:
    """The kernel has sent so many bytes for a UDP listener, of which this keepalived has told it; None: unknown."""
    answer = Answer({LISTENER: ListenerState("OPEN", 0)}, {})
    traffic = None if sent is None else Traffic(tx=sent, totconns=sent // 10)
    return LvsSample(LISTENER, answer, keepalived, traffic)


def silence(instance_id: str = INSTANCE) -> InstanceSample:
    """The instance did not answer."""
    return InstanceSample(instance_id, None, None)


class CountersTestCase(SynchronousTestCase):
    """A disk, and an agent's counters on it."""

    def setUp(self) -> None:
        """Begin with an agent that finds no file."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file = self.directory / "stats_counters.json"
        self.counters = self.agent()

    def agent(self, started: int = AGENT_STARTED, boot: str = BOOT) -> Counters:
        """The counters of another agent, which takes over what the one before left."""
        counters = Counters(self.directory, boot_id=boot, agent_started=started)
        counters.load()
        return counters

    def told(self, *samples: Sample) -> int:
        """Send a heartbeat, and answer how many bytes it tells of all listeners together."""
        deltas = self.counters.deltas(samples)
        if not self.counters.advance(deltas):
            return 0
        return sum(each.tx for each in deltas.traffic.values())

    def failed(self, *samples: Sample) -> None:
        """Fail to send a heartbeat."""
        self.assertTrue(self.counters.advance(self.counters.deltas(samples)))
        self.counters.put_back()

    def saved(self) -> dict[str, int]:
        """By instance, the bytes that the file says were read of its listeners."""
        instances = json.loads(self.file.read_text())["instances"]
        return {
            instance_id: sum(total["tx"] for worker in workers for total in worker["listeners"].values())
            for instance_id, workers in instances.items()
        }

    def untold(self) -> dict[str, int]:
        """By listener, the bytes that the file says wait to be told."""
        waiting = json.loads(self.file.read_text())["untold"]
        return {listener_id: total["tx"] for listener_id, total in waiting.items()}

    def kept(self, *samples: Sample) -> None:
        """Tell nobody, as long as nobody listens."""
        self.assertTrue(self.counters.keep(self.counters.deltas(samples)))


OLD_BUT_OURS = ProcessIdentity(pid=75, started=1200)


def with_old(sample: InstanceSample, worker: ProcessIdentity, sent: int) -> InstanceSample:
    """The sample with an old worker's figures beside."""
    stats = reading(worker, sent).stats
    assert stats is not None
    return evolve(sample, old=(*sample.old, OldFigures(worker, stats)))


class CountersTests(CountersTestCase):
    """What is told while one agent lives."""

    def test_differences(self) -> None:
        """While a worker lives, each heartbeat tells what came since the one before."""
        self.assertEqual([self.told(reading(NEW, sent)) for sent in (100, 130, 130, 200)], [100, 30, 0, 70])

    def test_all_counters(self) -> None:
        """All four counters are told, each under its own name."""
        frontend = Frontend(LISTENER, "OPEN", current=9, total=1, bytes_in=2, bytes_out=3, request_errors=4)
        deltas = self.counters.deltas([InstanceSample(INSTANCE, Stats(80, "2.6.12", (frontend,), ()), NEW)])
        self.assertEqual(deltas.traffic, {LISTENER: Traffic(tx=3, rx=2, totconns=1, ereq=4)})

    def test_reload(self) -> None:
        """Another worker counts from zero, even where it has passed the old one's figures already."""
        self.told(reading(NEW, 100))
        self.assertEqual(self.told(reading(NEWER, 150)), 150)
        self.assertEqual(self.told(reading(NEWER, 160)), 10)

    def test_same_pid(self) -> None:
        """A worker is another one if it started at another time, whatever its process id."""
        self.told(reading(NEW, 100))
        self.assertEqual(self.told(reading(ProcessIdentity(NEW.pid, 2500), 150)), 150)

    def test_older_worker_answers(self) -> None:
        """An old worker that answers once more after a reload is told nothing of, then or when the new one answers."""
        self.told(reading(NEW, 100))
        self.told(reading(NEWER, 50))
        self.assertEqual(self.told(reading(NEW, 110)), 0)
        self.assertEqual(self.told(reading(NEWER, 60)), 10)

    def test_old_workers(self) -> None:
        """What old workers still carry counts on from what was told of them, until they are gone."""
        self.told(reading(OLD_BUT_OURS, 100))
        both = with_old(reading(NEWER, 7), OLD_BUT_OURS, 130)
        self.assertEqual(self.told(both), 37)
        self.assertEqual(self.told(with_old(reading(NEWER, 9), OLD_BUT_OURS, 200)), 72)
        self.assertEqual(self.told(reading(NEWER, 9)), 0)

    def test_two_reloads_at_once(self) -> None:
        """Workers that came and were replaced since the last heartbeat count from zero, each by itself."""
        self.told(reading(OLD_BUT_OURS, 100))
        twice = with_old(with_old(reading(NEWER, 5), NEW, 20), OLD_BUT_OURS, 101)
        self.assertEqual(self.told(twice), 26)
        self.assertEqual(self.told(twice), 0)

    def test_old_worker_not_asked(self) -> None:
        """What was told of an old worker is known as long as it lives, also if it was not asked for once."""
        lives = ProcessIdentity.current()
        later = ProcessIdentity(90, lives.started + 100)
        self.told(reading(lives, 100))
        self.assertEqual(self.told(reading(later, 7)), 7)
        self.assertEqual(self.told(with_old(reading(later, 7), lives, 130)), 30)

    def test_old_workers_of_a_silent_one(self) -> None:
        """While the worker that accepts connections is silent, the old ones are told all the same."""
        self.told(with_old(reading(NEWER, 5), NEW, 20))
        self.assertEqual(self.told(with_old(silence(), NEW, 30)), 10)
        self.assertEqual(self.told(with_old(reading(NEWER, 6), NEW, 30)), 1)

    def test_failed_send_of_old_figures(self) -> None:
        """A heartbeat that did not leave told nothing of an old worker either."""
        self.told(reading(NEW, 100))
        both = with_old(reading(NEWER, 7), NEW, 130)
        self.failed(both)
        self.assertEqual(self.told(both), 37)

    def test_cleared(self) -> None:
        """After an operator cleared haproxy's counters nothing is told once, then what comes."""
        self.told(reading(NEW, 100))
        self.assertEqual([self.told(reading(NEW, sent)) for sent in (20, 50)], [0, 30])

    def test_new_listener(self) -> None:
        """A listener that a worker did not have before counts from zero."""
        self.told(reading(NEW, 100))
        self.assertEqual(self.told(reading(NEW, 100, listeners=(LISTENER, OTHER))), 100)

    def test_shared_listener(self) -> None:
        """What two instances carried for one listener is added up."""
        self.assertEqual(self.told(reading(NEW, 100), reading(NEWER, 10, OTHER)), 110)
        self.assertEqual(self.told(reading(NEW, 101), reading(NEWER, 12, OTHER)), 3)

    def test_silence(self) -> None:
        """An instance that does not answer keeps its baseline: afterwards all that it carried is told, once."""
        self.told(reading(NEW, 100))
        self.assertEqual([self.told(silence()) for _ in range(9)], [0] * 9)
        self.assertEqual(self.told(reading(NEW, 160)), 60)

    def test_failed_send(self) -> None:
        """What a heartbeat would have told that did not leave goes with the next one that does."""
        self.told(reading(NEW, 100))
        for sent in (110, 120, 130):
            self.failed(reading(NEW, sent))
            self.assertEqual(self.untold(), {LISTENER: sent - 100})
        self.assertEqual(self.told(reading(NEW, 140)), 40)
        self.assertEqual(self.untold(), {})

    def test_kept(self) -> None:
        """What nobody is told for a while goes with the first heartbeat that leaves, also of workers that are gone."""
        self.told(reading(NEW, 100))
        self.kept(reading(NEW, 110))
        self.kept(with_old(reading(NEWER, 5), NEW, 130))
        self.kept(reading(NEWER, 9))
        self.assertEqual(self.untold(), {LISTENER: 39})
        self.assertEqual([self.told(reading(NEWER, 10)) for _ in range(2)], [40, 0])

    def test_untold_of_a_silent_one(self) -> None:
        """A listener whose haproxy is silent just now keeps what was not told of it."""
        self.told(reading(NEW, 100))
        self.kept(reading(NEW, 110))
        self.kept(silence())
        self.assertEqual(self.untold(), {LISTENER: 10})
        self.assertEqual(self.told(reading(NEW, 115)), 15)

    def test_failed_first_send(self) -> None:
        """If the very first heartbeat does not leave, what came after the first look is told by the next one."""
        self.failed(reading(OLD, 1000), reading(NEW, 5, OTHER))
        self.assertEqual(self.told(reading(OLD, 1010), reading(NEW, 6, OTHER)), 16)

    def test_gone(self) -> None:
        """The counters of an instance that is gone are forgotten, in the file too; those of a silent one are not."""
        self.told(reading(NEW, 100), reading(NEW, 10, OTHER))
        self.told(silence())
        self.assertEqual(self.saved(), {INSTANCE: 100})
        self.told()
        self.assertEqual(self.saved(), {})

    def test_gone_listener(self) -> None:
        """A listener that a reload took away is forgotten."""
        self.told(reading(NEW, 100, listeners=(LISTENER, OTHER)))
        self.told(reading(NEWER, 7))
        self.assertEqual(self.saved(), {INSTANCE: 7})

    def test_gone_untold(self) -> None:
        """So is what was not told of it, and of one that is deleted."""
        self.kept(reading(NEW, 100, listeners=(LISTENER, OTHER)))
        self.kept(reading(NEWER, 7))
        self.assertEqual(self.untold(), {LISTENER: 107})
        self.kept()
        self.assertEqual(self.untold(), {})

    def test_flat(self) -> None:
        """A thousand instances that come and go leave a file no larger than it was."""
        self.told()
        size = self.file.stat().st_size
        for number in range(1000):
            self.told(reading(NEW, 100, f"{number:08}-0000-4000-8000-000000000001"))
        self.told()
        self.assertEqual(self.file.stat().st_size, size)


class RestartTests(CountersTestCase):
    """What the next agent tells."""

    def test_restart(self) -> None:
        """The next agent goes on where the last one stopped, whatever workers came or went in between."""
        self.told(reading(OLD, 100), reading(NEW, 100, OTHER))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(OLD, 120), reading(NEWER, 5, OTHER)), 25)

    def test_unknown_instance(self) -> None:
        """A worker that a good file does not name started after it was written: it counts from zero."""
        self.told(reading(NEW, 100))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(NEW, 100), reading(NEWER, 30, OTHER)), 30)

    def test_killed_before_sending(self) -> None:
        """An agent that is killed after it wrote its baselines has told nothing, and the next one does not either."""
        self.told(reading(NEW, 100))
        self.counters.advance(self.counters.deltas([reading(NEW, 150)]))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(NEW, 160)), 10)

    def test_killed_after_failing(self) -> None:
        """What could not be sent is told by the next agent, also of a worker that is gone by then."""
        self.told(reading(NEW, 100))
        self.failed(reading(NEW, 150))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(NEWER, 10)), 60)

    def test_killed_before_trying_again(self) -> None:
        """An agent that is killed while nobody listens has lost nothing of what it had written down."""
        self.told(reading(NEW, 100))
        self.failed(reading(NEW, 110))
        for sent in (120, 130):
            self.kept(reading(NEW, sent))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(NEW, 140)), 40)

    def test_no_file(self) -> None:
        """Without a file, a worker older than the agent is told of from the first look on, a younger one wholly."""
        self.assertEqual(self.told(reading(OLD, 100), reading(NEW, 7, OTHER)), 7)
        self.assertEqual(self.told(reading(OLD, 110), reading(NEW, 7, OTHER)), 10)

    def test_no_file_and_silence(self) -> None:
        """That holds if the first look comes late, and for the agents after it."""
        self.told(silence())
        self.assertEqual(self.told(reading(OLD, 100)), 0)
        self.told(silence(), silence(OTHER))
        self.counters = self.agent(3000)
        self.assertEqual(self.told(reading(OLD, 110), reading(OLD, 500, OTHER)), 10)
        self.assertEqual(self.told(reading(OLD, 110), reading(OLD, 501, OTHER)), 1)

    def test_other_boot(self) -> None:
        """After a reboot everything counts from zero, whatever process ids and start times come back."""
        self.told(reading(NEW, 100))
        self.counters = self.agent(3000, boot="88888888-0000-4000-8000-000000000008")
        self.assertEqual(self.told(reading(NEW, 150)), 150)

    def test_damaged_file(self) -> None:
        """A file that is empty, torn, or not ours is logged and counts as none; the next one written is whole."""
        self.told(reading(NEW, 100))
        whole = self.file.read_bytes()
        foreign = json.dumps({LISTENER: {"bin": 1, "bout": 2, "ereq": 0, "stot": 3}}).encode()
        damaged = [whole[:length] for length in range(len(whole))]
        damaged += [b"\0" * len(whole), b"[]", b"null", b"[" * 100_000, foreign]
        damaged += [whole.replace(b'"tx":100', other) for other in (b'"tx":-1', b'"tx":true', b'"tx":"100"', b'"x":1')]
        damaged += [whole.replace(b'"version":3', b'"version":2'), whole.replace(b'"pid":80', b'"pid":null')]
        damaged += [whole.replace(b'"untold":{}', other) for other in (b'"untold":1', b'"untold":{"a":1}', b'"a":{}')]
        for content in damaged:
            self.file.write_bytes(content)
            with capturedLogs() as logs:
                self.counters = self.agent(2000)
            self.assertEqual([event["log_level"] for event in logs], [LogLevel.warn], content)
            self.assertEqual(self.told(reading(NEW, 150), reading(NEWER, 5, OTHER)), 5, content)
            self.counters = self.agent(3000)
            self.assertEqual(self.told(reading(NEW, 160), reading(NEWER, 7, OTHER)), 12, content)

    def test_unreadable_file(self) -> None:
        """A file that cannot be read counts as none."""
        self.file.mkdir()
        with capturedLogs() as logs:
            self.counters = self.agent(2000)
        self.assertEqual(len(logs), 1)


class FileTests(CountersTestCase):
    """The file itself, and disks that fail."""

    def disturb(self) -> None:
        """From now on the file cannot be written: what stands where it would be made cannot be taken away."""
        (self.directory / ".stats_counters.json.new").mkdir()

    def repair(self) -> None:
        """It can be written again."""
        (self.directory / ".stats_counters.json.new").rmdir()

    def levels(self, logs: Sequence[LogEvent]) -> list[LogLevel]:
        """How serious what was logged is."""
        return [event["log_level"] for event in logs]

    def test_private(self) -> None:
        """The file is its owner's alone, and nothing is left beside it."""
        self.told(reading(NEW, 100))
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.assertEqual(list(self.directory.iterdir()), [self.file])

    def test_left_over(self) -> None:
        """What an agent left beside the file when it was killed is no obstacle."""
        (self.directory / ".stats_counters.json.new").write_text("torn")
        self.assertEqual(self.told(reading(NEW, 100)), 100)
        self.assertEqual(list(self.directory.iterdir()), [self.file])

    def test_replaced(self) -> None:
        """The file is never written in place: whoever has it open goes on reading the old one."""
        self.told(reading(NEW, 100))
        with self.file.open() as opened:
            self.told(reading(NEW, 200))
            self.assertIn('"tx":100', opened.read())

    def test_idle(self) -> None:
        """Where no counter moved nothing is written."""
        self.told(reading(NEW, 100))
        before = self.file.stat()
        self.told(reading(NEW, 100))
        self.assertEqual(self.file.stat().st_ino, before.st_ino)

    def test_full_disk(self) -> None:
        """If the file cannot be written, heartbeats go on from memory; that is logged once, and so is its end."""
        self.told(reading(NEW, 100))
        self.disturb()
        with capturedLogs() as logs:
            self.assertEqual([self.told(reading(NEW, sent)) for sent in (110, 130)], [10, 20])
            self.failed(reading(NEW, 140))
            self.assertEqual(self.told(reading(NEW, 150)), 20)
        self.assertEqual(self.levels(logs), [LogLevel.error])
        self.repair()
        with capturedLogs() as logs:
            self.assertEqual([self.told(reading(NEW, sent)) for sent in (160, 165)], [10, 5])
        self.assertEqual(self.levels(logs), [LogLevel.info])
        self.assertEqual(self.saved(), {INSTANCE: 165})

    def test_full_disk_and_restart(self) -> None:
        """An agent that follows on one that could not write finds no stale baseline to tell traffic twice from."""
        self.told(reading(NEW, 100))
        self.disturb()
        self.told(reading(NEW, 150))
        self.assertFalse(self.file.exists())
        self.repair()
        self.counters = self.agent(3000)
        self.assertEqual([self.told(reading(NEW, sent)) for sent in (160, 170)], [0, 10])

    def test_stuck_file(self) -> None:
        """If the old file cannot even be removed nothing is told, until it can be written; then all of it is."""
        self.file.mkdir()
        with capturedLogs() as logs:
            self.assertEqual([self.told(reading(NEW, sent)) for sent in (10, 20)], [0, 0])
        self.assertEqual(self.levels(logs), [LogLevel.error])
        self.file.rmdir()
        self.assertEqual(self.told(reading(NEW, 30)), 30)

    def test_no_directory(self) -> None:
        """Without the directory there is no stale file either: heartbeats go on."""
        self.directory.rmdir()
        self.assertEqual([self.told(reading(NEW, sent)) for sent in (10, 30)], [10, 20])
        self.directory.mkdir()
        self.assertEqual(self.told(reading(NEW, 35)), 5)
        self.assertEqual(self.saved(), {INSTANCE: 35})


class KernelTests(CountersTestCase):
    """The kernel's counters, which keepalived sets up and takes away, or leaves behind."""

    def test_differences(self) -> None:
        """While one keepalived lives, each heartbeat tells what came since the one before."""
        self.assertEqual([self.told(kernel(NEW, sent)) for sent in (100, 130, 130, 200)], [100, 30, 0, 70])

    def test_D2_restart(self) -> None:
        """What the next keepalived sets up anew counts from zero."""
        self.assertEqual(self.told(kernel(NEW, 100)), 100)
        self.assertEqual([self.told(kernel(NEWER, sent)) for sent in (30, 50)], [30, 20])

    def test_left_behind(self) -> None:
        """What a keepalived that was killed leaves behind, and the next takes up, is not told twice."""
        self.assertEqual(self.told(kernel(NEW, 100)), 100)
        self.assertEqual([self.told(kernel(NEWER, sent)) for sent in (130, 150)], [30, 20])

    def test_service_gone(self) -> None:
        """A sum that falls, as an address was taken away, counts as nothing; from there it goes on."""
        self.assertEqual([self.told(kernel(NEW, sent)) for sent in (100, 60, 70)], [100, 0, 10])

    def test_unread(self) -> None:
        """Counters that cannot be read for a while, and a keepalived that is replaced meanwhile, lose nothing."""
        self.assertEqual(self.told(kernel(NEW, 100)), 100)
        self.assertEqual([self.told(kernel(NEW, None)), self.told(kernel(NEWER, None))], [0, 0])
        self.assertEqual(self.told(LvsSample(LISTENER)), 0)
        self.assertEqual(self.told(kernel(NEWER, 130)), 30)

    def test_D4_next_agent(self) -> None:
        """The next agent goes on where this one was, whether keepalived was replaced in between or not."""
        self.assertEqual(self.told(kernel(NEW, 100)), 100)
        self.counters = self.agent(started=2000)
        self.assertEqual(self.told(kernel(NEW, 150)), 50)
        self.counters = self.agent(started=3000)
        self.assertEqual(self.told(kernel(NEWER, 170)), 20)
        self.counters = self.agent(started=4000)
        self.assertEqual(self.told(kernel(ProcessIdentity(99, 3500), 60)), 60)

    def test_D4_no_file(self) -> None:
        """Without a file, what was there before the agent is not told; what comes from then on is."""
        self.assertEqual([self.told(kernel(OLD, sent)) for sent in (500, 530)], [0, 30])

    def test_D10_deleted(self) -> None:
        """Of a listener that is gone nothing is kept."""
        self.told(kernel(NEW, 100))
        self.told()
        self.assertEqual(self.saved(), {})
        self.assertEqual(self.told(kernel(NEWER, 150)), 150)

    def test_beside(self) -> None:
        """A haproxy's listeners are counted beside it."""
        self.assertEqual(self.told(reading(NEW, 1000, listeners=[OTHER]), kernel(NEW, 100)), 1100)
        self.assertEqual(self.told(silence(), kernel(NEW, 130)), 30)
        self.assertEqual(self.told(reading(NEW, 1005, listeners=[OTHER]), kernel(NEW, None)), 5)
