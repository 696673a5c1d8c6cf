"""What is held against a heartbeat."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.listener import Heartbeat
from tests.integration.harness import AMPHORA_ID, LoadBalancer, Member
from tests.soak.truth import Ears
from tests.soak.windows import AGENT, GRACE, Windows
from tests.soak.world import Balancer, Flapping


class EarsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.windows = Windows(self.clock.seconds)
        self.members = [Member("steady", port=1), Member("flapping", port=2)]
        self.part = LoadBalancer("listener", "pool", port=3, members=tuple(self.members))
        self.flapping = Flapping(self.members[1], self.clock.seconds)
        balancer = Balancer("web", "v0.1", "listener", [self.part], [self.flapping])
        balancer.lives = True
        self.ears = Ears(self.windows, 1, [balancer], True)

    def hear(self, sequence: int, after: float = 1, **changes: Any) -> None:
        """One more, in which all is well but for the changes."""
        self.clock.advance(after)
        members = {"steady": "UP", "flapping": "UP", **changes.pop("members", {})}
        stats = {"tx": 10, "rx": 2, "totconns": 1, "conns": 0, "ereq": 0}
        message = {
            "listeners": {"listener": {"status": "OPEN", "stats": stats}},
            "pools": {"pool:listener": {"status": "UP", "members": members}},
            "role": "ACTIVE",
            **changes,
        }
        self.ears.heard(Heartbeat(AMPHORA_ID, sequence, message, ("127.0.0.1", 1), self.clock.seconds()))

    def test_well(self) -> None:
        """What is on time and true is counted, and its traffic is summed up."""
        for sequence in range(4):
            self.hear(sequence)
        self.assertEqual((3, [0.0] * 3, {}), (self.ears.number, self.ears.late, dict(self.ears.wrong)))
        self.assertEqual({"tx": 40, "rx": 8, "totconns": 4}, dict(self.ears.told["listener"]))

    def test_late(self) -> None:
        """Lateness is what is beyond the interval, and told apart where something was done."""
        self.hear(0)
        self.hear(1, after=3)
        with self.windows.during("agent killed", AGENT):
            self.hear(2, after=5)
        self.assertEqual(([2.0], [4.0]), (self.ears.late, self.ears.kept["agent killed"]))

    def test_untrue(self) -> None:
        """Each thing that is not as it is counts as wrong, but where something was done to that load balancer."""
        untrue: list[dict[str, Any]] = [
            {"listeners": {}},
            {"pools": {}},
            {"members": {"steady": "DOWN"}},
            {"members": {"flapping": "DOWN 1/2"}},
            {"role": "STANDBY"},
        ]
        self.hear(0)
        for sequence, each in enumerate(untrue):
            self.hear(sequence + 1, **each)
        self.assertEqual(
            {"status of a listener": 1, "status of a pool": 1, "status of a member": 2, "role": 1},
            dict(self.ears.wrong),
        )
        with self.windows.during("haproxy hung", "listener"):
            self.hear(6, listeners={})
        self.assertEqual(5, self.ears.wrong.total())

    def test_flapping(self) -> None:
        """A member that has just changed may be told either way; afterwards it has to be told as it is."""
        self.hear(0)
        self.flapping.is_up, self.flapping.since = False, self.clock.seconds()
        self.hear(1)
        self.hear(2, members={"flapping": "DOWN"})
        self.assertEqual({}, dict(self.ears.wrong))
        self.hear(3, after=GRACE + 1)
        self.hear(4, members={"flapping": "DOWN"})
        self.assertEqual({"status of a member": 1}, dict(self.ears.wrong))

    def test_sequence(self) -> None:
        """A number that is left out, or comes twice, is wrong; a next agent begins anew."""
        for sequence in (0, 2, 2):
            self.hear(sequence)
        self.assertEqual({"sequence": 2}, dict(self.ears.wrong))
        with self.windows.during("agent killed", AGENT):
            self.hear(0)
        self.assertEqual({"sequence": 2}, dict(self.ears.wrong))
