"""Tests for L{amphora.health.message}."""

from __future__ import annotations

import uuid

from twisted.trial.unittest import SynchronousTestCase

from amphora.health.envelope import MAX_DATAGRAM, seal, unseal
from amphora.health.message import Message, Pool, TooLarge, build, fit
from amphora.loadbalancer.sample import InstanceSample, traffic_by_listener
from amphora.loadbalancer.stats import Backend, Frontend, Stats
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Traffic

AMPHORA = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"
INSTANCE = "11111111-0000-4000-8000-000000000001"
LISTENER = "22222222-0000-4000-8000-000000000002"
OTHER = "44444444-0000-4000-8000-000000000004"
POOL = "33333333-0000-4000-8000-000000000003"
KEY = "key"


def frontend(name: str, status: str = "OPEN", current: int = 0, total: int = 0, size: int = 0) -> Frontend:
    """A frontend that sent C{size} bytes, received half of that, and refused as many requests as it had sessions."""
    return Frontend(
        name=name,
        status=status,
        current=current,
        total=total,
        bytes_in=size // 2,
        bytes_out=size,
        request_errors=total,
    )


def said(*frontends: Frontend, backends: tuple[Backend, ...] = (), instance_id: str = INSTANCE) -> Answer:
    """What an instance says whose haproxy has these."""
    answer = InstanceSample(instance_id, Stats(1, "2.6.12", frontends, backends), ProcessIdentity(1, 1)).answer
    assert answer is not None
    return answer


class BuildTests(SynchronousTestCase):
    """What a message says."""

    def test_whole(self) -> None:
        """All keys of the controller's version 3, in its words: frontends are listeners, backends pools."""
        message = build(
            AMPHORA,
            17,
            [
                said(
                    frontend(LISTENER, current=4, total=90, size=5000),
                    backends=(Backend(f"{POOL}:{LISTENER}", "UP", {"a": "UP 1/3", "b": "no check"}),),
                )
            ],
            {LISTENER: Traffic(tx=30, rx=20, totconns=5, ereq=1)},
        )
        self.assertEqual(
            message,
            {
                "id": AMPHORA,
                "ver": 3,
                "seq": 17,
                "listeners": {
                    LISTENER: {"status": "OPEN", "stats": {"tx": 30, "rx": 20, "conns": 4, "totconns": 5, "ereq": 1}}
                },
                "pools": {f"{POOL}:{LISTENER}": {"status": "UP", "members": {"a": "UP 1/3", "b": "no check"}}},
                "topology": "SINGLE",
                "topology_status": "OK",
                "role": "ACTIVE",
            },
        )

    def test_nothing(self) -> None:
        """Without listeners, `listeners` and `pools` are there and empty."""
        message = build(AMPHORA, 0, [], {})
        self.assertEqual((message["listeners"], message["pools"]), ({}, {}))

    def test_udp(self) -> None:
        """A UDP listener stands beside those of haproxy; its pool is told by its own id alone."""
        udp = Answer({OTHER: ListenerState("OPEN", 3)}, {POOL: PoolState("UP", {"a": "RESTARTING"})})
        message = build(AMPHORA, 0, [said(frontend(LISTENER)), udp], {OTHER: Traffic(tx=1, rx=2, totconns=3)})
        self.assertEqual(set(message["listeners"]), {LISTENER, OTHER})
        self.assertEqual(
            message["listeners"][OTHER],
            {"status": "OPEN", "stats": {"tx": 1, "rx": 2, "conns": 3, "totconns": 3, "ereq": 0}},
        )
        self.assertEqual(message["pools"], {POOL: {"status": "UP", "members": {"a": "RESTARTING"}}})

    def test_unnamed_frontends(self) -> None:
        """Frontends without a UUID for a name count together under the instance's id, beside those that have one."""
        answers = [said(frontend("web", current=1), frontend(LISTENER, current=2), frontend("api", current=4))]
        listeners = build(AMPHORA, 0, answers, {INSTANCE: Traffic(tx=7)})["listeners"]
        self.assertEqual(set(listeners), {INSTANCE, LISTENER})
        self.assertEqual((listeners[INSTANCE]["stats"]["conns"], listeners[INSTANCE]["stats"]["tx"]), (5, 7))
        self.assertEqual((listeners[LISTENER]["stats"]["conns"], listeners[LISTENER]["stats"]["tx"]), (2, 0))

    def test_almost_uuids(self) -> None:
        """A UUID is one in either case and with its dashes, and nothing around it."""
        for name in (LISTENER.replace("-", ""), f"{{{LISTENER}}}", LISTENER + "0", "g" + LISTENER[1:], ""):
            self.assertEqual(list(build(AMPHORA, 0, [said(frontend(name))], {})["listeners"]), [INSTANCE])
        name = "ABCDEF00" + LISTENER[8:]
        self.assertEqual(list(build(AMPHORA, 0, [said(frontend(name))], {})["listeners"]), [name])

    def test_combined_status(self) -> None:
        """Frontends that count together are OPEN if all are, else what the first says that is not."""
        for states, combined in (
            (("OPEN", "OPEN"), "OPEN"),
            (("OPEN", "FULL"), "FULL"),
            (("STOP", "FULL", "OPEN"), "STOP"),
        ):
            answers = [said(*(frontend(f"f{number}", status) for number, status in enumerate(states)))]
            self.assertEqual(build(AMPHORA, 0, answers, {})["listeners"][INSTANCE]["status"], combined)

    def test_pool_names(self) -> None:
        """A backend with a colon in its name keeps it; another gets the instance's id behind it."""
        backends = tuple(Backend(name, "UP", {}) for name in (POOL, f"{POOL}:{LISTENER}", "a:b:c"))
        pools = build(AMPHORA, 0, [said(backends=backends)], {})["pools"]
        self.assertEqual(list(pools), [f"{POOL}:{INSTANCE}", f"{POOL}:{LISTENER}", "a:b:c"])

    def test_prometheus(self) -> None:
        """The controller's own metrics proxies are left out by their exact names; what only resembles them is not."""
        names = ("prometheus-exporter-internal-endpoint", "prometheus-exporter-internal")
        own = said(*map(frontend, names), backends=tuple(Backend(name, "UP", {}) for name in names))
        message = build(AMPHORA, 0, [own], {})
        self.assertEqual((message["listeners"], message["pools"]), ({}, {}))
        other = said(frontend("my-prometheus", current=3), backends=(Backend("prometheus", "UP", {}),))
        message = build(AMPHORA, 0, [other], {})
        self.assertEqual(message["listeners"][INSTANCE]["stats"]["conns"], 3)
        self.assertEqual(list(message["pools"]), [f"prometheus:{INSTANCE}"])

    def test_instances(self) -> None:
        """Several instances are told in one message; a listener that two of them have is told once, as a sum."""
        answers = [
            said(frontend("web"), frontend(LISTENER, current=1)),
            said(frontend("web"), frontend(LISTENER, "FULL", current=2), instance_id=OTHER),
        ]
        listeners = build(AMPHORA, 0, answers, {})["listeners"]
        self.assertEqual(set(listeners), {INSTANCE, OTHER, LISTENER})
        self.assertEqual(listeners[LISTENER]["status"], "FULL")
        self.assertEqual(listeners[LISTENER]["stats"]["conns"], 3)


class TrafficTests(SynchronousTestCase):
    """Totals and differences."""

    def test_directions(self) -> None:
        """What haproxy sent to clients is tx, what it received from them rx."""
        stats = Stats(1, "2.6.12", (frontend(LISTENER, total=3, size=100),), ())
        self.assertEqual(traffic_by_listener(INSTANCE, stats), {LISTENER: Traffic(tx=100, rx=50, totconns=3, ereq=3)})

    def test_sum(self) -> None:
        """Frontends that count together are added up; the metrics proxies are not among them."""
        sizes = {"a": 100, "b": 10, "prometheus-exporter-internal-endpoint": 1}
        stats = Stats(1, "2.6.12", tuple(frontend(name, size=size) for name, size in sizes.items()), ())
        self.assertEqual(traffic_by_listener(INSTANCE, stats)[INSTANCE].tx, 110)

    def test_cleared(self) -> None:
        """A counter that fell was cleared: it counts as nothing, while the others count on."""
        self.assertEqual(
            Traffic(tx=5, rx=20, totconns=1, ereq=9).since(Traffic(tx=50, rx=15, totconns=1, ereq=2)),
            Traffic(tx=0, rx=5, totconns=0, ereq=7),
        )


def message_of(pools: dict[str, Pool]) -> Message:
    """A message with these pools and one listener."""
    message = build(AMPHORA, 0, [said(frontend(LISTENER))], {})
    message["pools"] = pools
    return message


def pool(members: int, status: str = "UP", pool_status: str = "UP") -> Pool:
    """A pool with so many members in one state."""
    return Pool(status=pool_status, members={str(uuid.uuid4()): status for _ in range(members)})


class FitTests(SynchronousTestCase):
    """What is left out where not all fits."""

    def fitted(self, message: Message, left_out: int = 0) -> tuple[Message, int]:
        """What the datagram says that L{fit} makes, and how many it says that it left out."""
        datagram, count = fit(message, KEY, left_out)
        self.assertLessEqual(len(datagram), MAX_DATAGRAM)
        told = unseal(KEY, datagram)
        self.assertEqual(told["listeners"], message["listeners"])
        self.assertEqual(list(told["pools"]), list(message["pools"]))
        missing = 0
        for key, pool in message["pools"].items():
            self.assertEqual(told["pools"][key]["status"], pool["status"])
            self.assertLessEqual(told["pools"][key]["members"].items(), pool["members"].items())
            missing += len(pool["members"]) - len(told["pools"][key]["members"])
        self.assertEqual(missing, count)
        return told, count  # type: ignore[return-value]

    def test_small(self) -> None:
        """What fits is told whole, even if something had to be left out before."""
        message = message_of({"a": pool(1500, "no check")})
        self.assertEqual(self.fitted(message), (message, 0))
        self.assertEqual(self.fitted(message, left_out=700), (message, 0))

    def test_well_filled(self) -> None:
        """With 10,000 and 20,000 members nine tenths of the datagram are used, whatever the pools are like."""
        for message in (
            message_of({"a": pool(10_000)}),
            message_of({f"{number}:{LISTENER}": pool(50) for number in range(200)}),
            message_of({"a": pool(10_000, "no check"), "b": pool(10_000, "DOWN 1/2", "DOWN")}),
        ):
            self.assertGreater(len(fit(message, KEY)[0]), MAX_DATAGRAM * 9 // 10)
            self.fitted(message)

    def test_order(self) -> None:
        """Unchecked members go first, then those of pools that are up with none down, then the others."""
        mixed = pool(500)
        mixed["members"].update(pool(500, "no check")["members"], down="DOWN")
        pools = {
            "mixed": mixed,
            "healthy": pool(1000),
            "unchecked": pool(1000, "no check"),
            "empty": pool(0),
            "resting": pool(500, "MAINT", "DOWN"),
        }
        told, _ = self.fitted(message_of(pools))
        self.assertIn("no check", told["pools"]["unchecked"]["members"].values())
        for key in ("healthy", "resting"):
            self.assertEqual(told["pools"][key], pools[key])
        self.assertEqual(
            [status for status in told["pools"]["mixed"]["members"].values() if status != "no check"],
            ["UP"] * 500 + ["DOWN"],
        )
        pools["resting"] = pool(1000, "MAINT", "DOWN")
        pools["healthy"] = pool(2500)
        told, _ = self.fitted(message_of(pools))
        self.assertEqual(told["pools"]["unchecked"]["members"], {})
        self.assertLess(len(told["pools"]["healthy"]["members"]), 2500)
        self.assertEqual(told["pools"]["resting"], pools["resting"])
        self.assertEqual(len(told["pools"]["mixed"]["members"]), 501)
        pools["resting"] = pool(4000, "MAINT", "DOWN")
        told, _ = self.fitted(message_of(pools))
        self.assertEqual(told["pools"]["healthy"]["members"], {})
        self.assertGreater(len(told["pools"]["resting"]["members"]), 2000)

    def test_steady(self) -> None:
        """The number left out stays the same while the figures move, and so do the members."""
        message = message_of({"a": pool(5000)})
        first, count = self.fitted(message)
        for tx in (1, 10**6, 10**12):
            message["listeners"][LISTENER]["stats"]["tx"] = tx
            told, again = self.fitted(message, count)
            self.assertEqual((again, told["pools"]), (count, first["pools"]))

    def test_steady_at_the_limit(self) -> None:
        """Once members were left out, all are told again only where there is some room to spare."""
        members = 3200
        while len(seal(KEY, message := message_of({"a": pool(members)}))) > MAX_DATAGRAM:
            members -= 10
        self.assertEqual(self.fitted(message)[1], 0)
        self.assertGreater(self.fitted(message, left_out=50)[1], 0)

    def test_other_number_needed(self) -> None:
        """A number that leaves out too few, too many, or more than there are is replaced."""
        message = message_of({"a": pool(5000)})
        _, count = self.fitted(message)
        for wrong in (1, 4900, 6000):
            self.assertEqual(self.fitted(message, left_out=wrong)[1], count)

    def test_too_large(self) -> None:
        """If listeners and pools alone are too many, pools are left out; listeners never are: too many are an error."""
        message = message_of({f"{uuid.uuid4()}:{uuid.uuid4()}": pool(1) for _ in range(2500)})
        datagram, left_out = fit(message, KEY)
        told = unseal(KEY, datagram)
        self.assertEqual((told["listeners"], told["pools"], left_out), (message["listeners"], {}, 2500))
        (listener,) = message["listeners"].values()
        message["listeners"].update({str(uuid.uuid4()): listener for _ in range(5000)})
        self.assertIn("listeners alone", str(self.assertRaises(TooLarge, fit, message, KEY)))
