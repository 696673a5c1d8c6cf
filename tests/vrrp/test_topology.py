"""Tests for L{amphora.vrrp.topology}."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import cast

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from amphora.blocking import AtOnce
from amphora.loadbalancer.errors import StorageFailed
from amphora.process import ProcessIdentity
from amphora.testing.fakes import CallsLater
from amphora.vrrp.keepalived import Action
from amphora.vrrp.keepalived_config import KeepalivedConfig, VrrpInstance
from amphora.vrrp.standing import Role, Standing, Topology
from amphora.vrrp.topology import PATIENCE, AmphoraTopology, TransitionInProgress
from amphora.vrrp.topology_request import InvalidTopology, TopologyRequest

SECRET = "b20e06cf1abcf29c"
ACTIVE = TopologyRequest("ACTIVE-STANDBY", "ACTIVE", "203.0.113.2", SECRET)
STANDBY = evolve(ACTIVE, role="STANDBY")
SINGLE = TopologyRequest("SINGLE")


PROCESS = ProcessIdentity(100, 1000)


def config(address: str = "203.0.113.2", password: str = "b20e06cf") -> KeepalivedConfig:
    return KeepalivedConfig((VrrpInstance("pair", (address,), password),))


@define(eq=False)
class FakeKeepalived:
    """A keepalived that takes a role when the test says so."""

    configured: bool = True
    present: bool = False
    hung: bool = False
    role: Role | None = None
    config: KeepalivedConfig | None = field(factory=config)
    told: list[str] = field(factory=list)
    problem: Exception | None = None
    ending: Deferred[None] | None = None

    @property
    def process(self) -> ProcessIdentity | None:
        return PROCESS if self.present else None

    @property
    def runs(self) -> bool:
        return self.present and not self.hung

    def act(self, action: Action) -> Deferred[str]:
        self.told.append(action)
        if self.problem is not None:
            return fail(self.problem)
        self.present, self.role = action != "stop", None
        return succeed("done")

    def step_down(self) -> Deferred[None]:
        self.told.append("step down")
        self.hung, self.role = False, None
        return succeed(None)

    def retire(self) -> Deferred[None]:
        self.told.append("retire")
        if self.problem is not None:
            self.present = False
            return fail(self.problem)
        self.ending = Deferred()
        if not self.present:
            self.end()
            return succeed(None)
        return self.ending

    def end(self) -> None:
        """Its retirement comes to its end."""
        self.present, self.role, self.configured = False, None, False
        assert self.ending is not None
        self.ending.callback(None)


class TopologyTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "vrrp" / "topology.json"
        self.keepalived = FakeKeepalived()
        self.handed_over: list[bool] = []
        self.changes = 0
        self.blocking: AtOnce | CallsLater = AtOnce()
        self.topology = self.agent()

    def agent(self, default: Topology = "SINGLE") -> AmphoraTopology:
        """Another agent on the same files, which remembers what was asked for before."""

        async def hand_over() -> None:
            self.handed_over.append(self.topology.keepalived_owns_vips)

        def changed() -> None:
            self.changes += 1

        self.topology = AmphoraTopology.create(
            self.clock,
            self.blocking,
            path=self.path,
            keepalived=self.keepalived,
            hand_over_vips=hand_over,
            changed=changed,
            default=default,
        )
        loading = Deferred.fromCoroutine(self.topology.load())
        if isinstance(self.blocking, CallsLater):
            self.blocking.make_all()
        self.successResultOf(loading)
        self.topology.resume()
        return self.topology

    def takes(self, role: Role | None) -> None:
        """keepalived takes a role."""
        self.keepalived.role = role
        self.topology.keepalived_changed()

    def assert_standing(self, topology: str, status: str, role: str) -> None:
        standing = self.topology.standing
        self.assertEqual((topology, status, role), (standing.topology, standing.status, standing.role))


class ByConfigurationTests(TopologyTestCase):
    """The topology that the agent's configuration names, while the agent runs."""

    def setUp(self) -> None:
        super().setUp()
        self.keepalived.configured = False
        self.keepalived.config = None

    def renew(self, default: Topology, *, in_use: bool) -> str | None:
        """Another configuration is taken."""
        remark = self.successResultOf(self.topology.stay(default, in_use=in_use))
        self.topology.take_default(default, in_use=in_use)
        return remark

    def test_idle(self) -> None:
        """It counts at once for an amphora that serves nothing, and is told."""
        self.assertIsNone(self.renew("ACTIVE-STANDBY", in_use=False))
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertTrue(self.topology.keepalived_owns_vips)
        self.assertEqual(1, self.changes)
        self.assertIsNone(self.renew("ACTIVE-STANDBY", in_use=False))
        self.assertIsNone(self.renew("SINGLE", in_use=False))
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertEqual(2, self.changes)
        self.assertFalse(self.path.exists())

    def test_in_use(self) -> None:
        """An amphora that serves stays what it is, under the next agent too; nothing is touched."""
        for before, other in (("SINGLE", "ACTIVE-STANDBY"), ("ACTIVE-STANDBY", "SINGLE")):
            self.path.unlink(missing_ok=True)
            self.agent(cast(Topology, before))
            self.assertIsNone(self.renew(cast(Topology, before), in_use=True))
            self.assertFalse(self.path.exists())
            self.assertEqual(f"The topology stays {before}", self.renew(cast(Topology, other), in_use=True))
            self.assertEqual(before, self.topology.standing.topology)
            self.agent(cast(Topology, other))
            self.assertEqual(before, self.topology.standing.topology)
        self.assertEqual(([], [], 0), (self.handed_over, self.keepalived.told, self.changes))

    def test_in_use_meanwhile(self) -> None:
        """One that has begun to serve while the configuration was taken stays what it is, under the next agent too."""
        self.assertIsNone(self.successResultOf(self.topology.stay("ACTIVE-STANDBY", in_use=False)))
        self.topology.take_default("ACTIVE-STANDBY", in_use=True)
        self.assertEqual("SINGLE", self.topology.standing.topology)
        self.agent("ACTIVE-STANDBY")
        self.assertEqual("SINGLE", self.topology.standing.topology)

    def test_asked_for(self) -> None:
        """What was asked for by the API stays, whether or not it is in use."""
        self.successResultOf(self.topology.change(STANDBY))
        self.assertEqual("The topology stays ACTIVE-STANDBY", self.renew("SINGLE", in_use=False))
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertEqual("203.0.113.2", self.topology.ha_ip)

    def test_not_stored(self) -> None:
        """Where it cannot be remembered the configuration must not be taken: the next agent would turn it over."""
        self.path.parent.write_bytes(b"")
        self.failureResultOf(self.topology.stay("ACTIVE-STANDBY", in_use=True), StorageFailed)
        self.assertEqual("SINGLE", self.topology.standing.topology)


class WithoutKeepalivedTests(TopologyTestCase):
    """No keepalived configuration was uploaded: what is asked for is what is told."""

    def setUp(self) -> None:
        super().setUp()
        self.keepalived.configured = False
        self.keepalived.config = None

    def test_at_first(self) -> None:
        """An amphora is alone, and active, until it is told otherwise."""
        self.assertEqual(Standing("SINGLE", "OK", "ACTIVE"), self.topology.standing)
        self.assertEqual("", self.topology.ha_ip)
        self.assertFalse(self.topology.keepalived_owns_vips)

    def test_configured_pair(self) -> None:
        """Where the agent's configuration says that it is one of a pair, it does not claim to be the active one."""
        self.agent("ACTIVE-STANDBY")
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertTrue(self.topology.keepalived_owns_vips)

    def test_recorded(self) -> None:
        """A pair's role is recorded at once, and the VIPs are keepalived's from then on."""
        for request in (STANDBY, ACTIVE):
            self.assertTrue(self.successResultOf(self.topology.change(request)))
            self.assert_standing("ACTIVE-STANDBY", "OK", request.role)
            self.assertEqual("203.0.113.2", self.topology.ha_ip)
        self.assertEqual([True, True], self.handed_over)
        self.assertTrue(self.successResultOf(self.topology.change(SINGLE)))
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertEqual(("", False), (self.topology.ha_ip, self.handed_over[-1]))
        self.assertEqual([], self.keepalived.told)

    def test_remembered(self) -> None:
        """The next agent remembers it, from a file that is for root alone: it holds the secret."""
        self.successResultOf(self.topology.change(STANDBY))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.agent()
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertNotIn(SECRET, repr(self.topology))

    def test_damaged_memory(self) -> None:
        """A memory that cannot be read gives way to the agent's configuration; the log says so without its text."""
        self.path.parent.mkdir()
        for content in (b"", b"[]", b'{"topology": 1}', b"\xff", self.of("KING"), SECRET.encode(), b"[" * 100_000):
            self.path.write_bytes(content)
            with capturedLogs() as logged:
                self.agent("ACTIVE-STANDBY")
            self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
            self.assertEqual([LogLevel.error], [event["log_level"] for event in logged])
            self.assertNotIn(SECRET, str(logged))

    def of(self, role: str) -> bytes:
        text = f'{{"topology": "SINGLE", "role": "{role}", "ha_ip": "", "secret": "", "moving": false}}'
        return text.encode()

    def test_not_stored(self) -> None:
        """What the disk does not take is not taken."""
        self.path.mkdir(parents=True)
        with capturedLogs():
            error: StorageFailed = self.failureResultOf(self.topology.change(ACTIVE), StorageFailed).value
        self.assertEqual("topology", error.what)
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.topology.require_rest()
        self.assertEqual([], self.handed_over)


class PairTests(TopologyTestCase):
    """A keepalived configuration is there."""

    def test_logic(self) -> None:
        """What is at odds with that configuration is refused, all of it at once, and nothing is changed."""
        self.keepalived.config = config("203.0.113.9", "other")
        error: InvalidTopology = self.failureResultOf(self.topology.change(ACTIVE), InvalidTopology).value
        self.assertEqual(2, len(error.problems))
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertFalse(self.path.exists())
        self.topology.require_rest()

    def test_until_master(self) -> None:
        """keepalived is started; the change lasts until it has the role that was asked for."""
        self.assertFalse(self.successResultOf(self.topology.change(ACTIVE)))
        self.assertEqual((["start"], [True]), (self.keepalived.told, self.handed_over))
        self.assert_standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")
        self.assertRaises(TransitionInProgress, self.topology.require_rest)
        self.failureResultOf(self.topology.change(SINGLE), TransitionInProgress)
        self.takes("STANDBY")
        self.assert_standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")
        self.takes("ACTIVE")
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")
        self.topology.require_rest()
        self.assertEqual((1, []), (self.changes, self.clock.getDelayedCalls()))

    def test_already(self) -> None:
        """Where keepalived has the role already, there is nothing to wait for."""
        self.keepalived.present, self.keepalived.role = True, "ACTIVE"
        self.assertTrue(self.successResultOf(self.topology.change(ACTIVE)))
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")
        self.assertEqual([], self.keepalived.told)

    def test_role_that_is_true(self) -> None:
        """The role told is keepalived's, whatever it becomes."""
        self.test_already()
        self.takes("STANDBY")
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.takes(None)
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")

    def test_over(self) -> None:
        """An active one that is to stand by lets go by ending, which hands the address to its peer."""
        self.test_already()
        self.assertFalse(self.successResultOf(self.topology.change(STANDBY)))
        self.assertEqual(["step down"], self.keepalived.told)
        self.takes("STANDBY")
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")

    def test_patience(self) -> None:
        """A role that does not come is not waited for without end: what is true is told, and the log says why."""
        self.successResultOf(self.topology.change(ACTIVE))
        self.takes("STANDBY")
        self.clock.advance(PATIENCE - 1)
        self.assertRaises(TransitionInProgress, self.topology.require_rest)
        with capturedLogs() as logged:
            self.clock.advance(1)
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logged])
        self.assertEqual(1, self.changes)

    def test_cannot_start(self) -> None:
        """A keepalived that does not start ends the change; the log has its words."""
        self.keepalived.problem = RuntimeError("its own words")
        with capturedLogs() as logged:
            self.assertFalse(self.successResultOf(self.topology.change(ACTIVE)))
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertIn("its own words", str([event["error"] for event in logged if "error" in event]))

    def test_single(self) -> None:
        """A pair's end lasts until keepalived has ended; then the VIPs are ours."""
        self.test_already()
        self.assertFalse(self.successResultOf(self.topology.change(SINGLE)))
        self.assert_standing("SINGLE", "TOPOLOGY-CHANGE", "ACTIVE")
        self.assertEqual([True], self.handed_over)
        self.keepalived.end()
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertEqual([True, False], self.handed_over)

    def test_single_already(self) -> None:
        """Where keepalived does not run there is nothing to wait for, but it is not wanted any more."""
        self.assertTrue(self.successResultOf(self.topology.change(SINGLE)))
        self.assertEqual(["retire"], self.keepalived.told)
        self.assert_standing("SINGLE", "OK", "ACTIVE")

    def test_hung(self) -> None:
        """One that hangs is begun anew: as it is it could take no role."""
        self.test_already()
        self.keepalived.hung, self.keepalived.role = True, None
        self.assert_standing("ACTIVE-STANDBY", "OK", "STANDBY")
        self.assertFalse(self.successResultOf(self.topology.change(ACTIVE)))
        self.assertEqual(["step down"], self.keepalived.told)
        self.takes("ACTIVE")
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")

    def test_retired_half(self) -> None:
        """Where keepalived has ended, the VIPs are ours, whatever else went wrong on the way."""
        self.test_already()
        self.keepalived.problem = RuntimeError("the disk is full")
        with capturedLogs() as logged:
            self.successResultOf(self.topology.change(SINGLE))
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertEqual([True, False], self.handed_over)
        self.assertIn("the disk is full", str([event["error"] for event in logged if "error" in event]))

    def test_never_answers(self) -> None:
        """A keepalived that is never done ends the change as well, after as long."""
        self.test_already()
        self.successResultOf(self.topology.change(SINGLE))
        with capturedLogs() as logged:
            self.clock.advance(PATIENCE)
        self.assert_standing("SINGLE", "OK", "ACTIVE")
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logged])

    def test_agent_ends_at_the_end(self) -> None:
        """An agent that ends while the end of a change is being written down waits for that."""
        self.blocking = CallsLater()
        self.agent()
        changing = self.topology.change(ACTIVE)
        self.blocking.make_all()
        self.assertFalse(self.successResultOf(changing))
        self.takes("ACTIVE")
        ending = Deferred.fromCoroutine(self.topology.release())
        self.assertNoResult(ending)
        self.blocking.make_all()
        self.successResultOf(ending)
        self.agent()
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")

    def test_agent_ends(self) -> None:
        """A change that an agent does not see the end of is the next one's."""
        self.successResultOf(self.topology.change(ACTIVE))
        self.successResultOf(Deferred.fromCoroutine(self.topology.release()))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.agent()
        self.assert_standing("ACTIVE-STANDBY", "TOPOLOGY-CHANGE", "STANDBY")
        self.takes("ACTIVE")
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")
        self.agent()
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")
        self.assertEqual(["start"], self.keepalived.told)

    def test_full_disk_at_the_end(self) -> None:
        """A disk that does not take the end of a change holds nothing up."""
        self.successResultOf(self.topology.change(ACTIVE))
        self.path.unlink()
        self.path.mkdir()
        with capturedLogs():
            self.takes("ACTIVE")
        self.assert_standing("ACTIVE-STANDBY", "OK", "ACTIVE")
        self.topology.require_rest()
