"""
What things may cost, by counting: calls and modules, which are the same on every machine, and never seconds.

How many seconds they take, and what the reference agent takes, is `script/bench`'s to measure.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.server import Site

from amphora.api.answers import answer_json
from amphora.api.routing import new_app
from amphora.health.changes import picture
from amphora.health.envelope import MAX_DATAGRAM
from amphora.health.message import build, fit
from amphora.health.sender import LastAnswers
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.stats import parse_stats
from amphora.process import ProcessIdentity
from benchmarks.balancers import identifier
from tests.api.test_channel import ChannelTestCase

KEY = "a key of the tests"


def calls(function: Callable[[], object]) -> int:
    """How many calls, of Python functions and of C's, a function makes."""
    count = 0

    def hook(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def stats_answer(members: int, listeners: int = 10) -> bytes:
    """What a haproxy of that size answers."""
    rows = []
    for number in range(listeners):
        listener = identifier("listener", number)
        pool = f"{identifier('pool', number)}:{listener}"
        rows.append(f"{listener},FRONTEND,,,0,1,1000,{number},99,147,0,0,0,,,,,OPEN,,,,,,,,,1,2,0" + "," * 60)
        rows += [
            f"{pool},{identifier('member', member)},0,0,0,1,,3,99,147,,0,,0,0,0,0,UP,1,1,0,0,0,25,0,,1,4,1" + "," * 60
            for member in range(number, members, listeners)
        ]
        rows.append(f"{pool},BACKEND,0,0,0,1,998,3,99,147,0,0,,0,0,0,0,UP,2,2,0,,0,3,0,,1,4,0" + "," * 60)
    head = "# pxname,svname," + ",".join(f"column{number}" for number in range(2, 89))
    return "\n".join(["Name: HAProxy", "Version: 2.6.12", "Pid: 7", "", head, *rows, "", ""]).encode()


def sample(members: int) -> InstanceSample:
    return InstanceSample(identifier("load balancer", 0), parse_stats(stats_answer(members)), ProcessIdentity(7, 7))


class HeartbeatCostTests(SynchronousTestCase):
    """A heartbeat, from haproxy's answer to the datagram."""

    def calls_of_a_heartbeat(self, members: int) -> int:
        stats = stats_answer(members)
        known = LastAnswers(20.0)
        left_out = 0
        counted = 0

        def beat() -> None:
            nonlocal left_out
            found = InstanceSample("x", parse_stats(stats), ProcessIdentity(7, 7))
            answers = known.complete([found], 0.0)
            datagram, left_out = fit(build("amphora", 1, answers, {}), KEY, left_out)
            self.assertLessEqual(len(datagram), MAX_DATAGRAM)

        # The first finds out how many do not fit; the others know.
        for _ in range(2):
            counted = calls(beat)
        return counted

    def test_straight_line(self) -> None:
        """Twice as many members are about twice the calls, also where they do not fit into a datagram."""
        for members in (500, 5_000):
            once, twice = self.calls_of_a_heartbeat(members), self.calls_of_a_heartbeat(2 * members)
            self.assertLessEqual(twice, 2.15 * once, f"{members} members")

    def test_per_member(self) -> None:
        """A member more is a handful of calls."""
        more = self.calls_of_a_heartbeat(2_000) - self.calls_of_a_heartbeat(1_000)
        self.assertLessEqual(more / 1_000, 10)

    def test_reader(self) -> None:
        """Reading haproxy's answer takes about as many calls as Python's own csv module does, which is mostly C."""
        answer = stats_answer(1_000)

        def naive() -> list[dict[str, Any]]:
            return list(csv.DictReader(io.StringIO(answer.decode().partition("# ")[2])))

        self.assertLessEqual(calls(lambda: parse_stats(answer)), 1.1 * calls(naive))

    def test_look(self) -> None:
        """To compare two looks costs less than to read one."""
        found = sample(1_000)
        answer = stats_answer(1_000)
        compared = calls(lambda: found.answer and picture(found.answer, found.worker))
        self.assertLess(compared, calls(lambda: parse_stats(answer)))


class RequestCostTests(ChannelTestCase):
    """A request over a connection that is kept."""

    QUESTION = b"GET / HTTP/1.1\r\nHost: amphora\r\nUser-Agent: a test\r\nAccept: */*\r\n\r\n"

    def test_request(self) -> None:
        """What we see to in each request, deadlines, its path, its client, is a part of what HTTP and Klein take."""
        bare, ours = Klein(), new_app()

        @bare.route("/")
        def root(_request: IRequest) -> bytes:
            return b"{}"

        @ours.route("/", methods=["GET"])
        async def ours_root(request: IRequest) -> bytes:
            return answer_json(request, 200, {"api_version": "1.0"})

        protocol = Site(bare.resource(), reactor=self.clock).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.resource = ours.resource()  # type: ignore[assignment]
        self.make_site(self.limits)
        channel, ours_transport = self.connect()
        for each in (protocol, channel):
            each.dataReceived(self.QUESTION)
        theirs = calls(lambda: protocol.dataReceived(self.QUESTION))
        cost = calls(lambda: channel.dataReceived(self.QUESTION))
        for written in (transport.value(), ours_transport.value()):
            self.assertEqual(2, written.count(b"HTTP/1.1 200 OK\r\n"))
        self.assertLessEqual(cost, 1.4 * theirs)


class StartCostTests(SynchronousTestCase):
    """What is loaded before the agent can say a word."""

    def test_modules(self) -> None:
        """What only some agents need, and what only tests and clients do, is not loaded at the start."""
        program = "import amphora.tap, json, sys; print(json.dumps(sorted(sys.modules)))"
        printed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout
        loaded = set(json.loads(printed))
        unwanted = {"pyroute2", "treq", "amphora.client", "amphora.testing", "twisted.trial", "unittest", "hypothesis"}
        self.assertEqual(set(), unwanted & loaded)
        ours = {name for name in loaded if name.partition(".")[0] == "amphora"}
        self.assertLessEqual(len(loaded - ours), 600)
