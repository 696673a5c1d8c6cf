"""A system that serves, and who watches it: a client, controllers' ears, their questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from amphora.client import AmphoraClient, Unreachable
from amphora.listener import Heartbeat
from tests.integration.harness import LoadBalancer, get, wait_until
from tests.integration.test_heartbeats import HeartbeatTestCase

ENOUGH = 10
"""Requests to the load balancer, at least, between a fault and the end of the watch."""

LONGEST_SILENCE = 20.0
"""Seconds without a heartbeat that nothing may cause here: regular ones are a second apart.  Controllers allow 60."""

LONGEST_ANSWER = 20.0
"""Seconds in which the simplest question to the API has to be answered, whatever goes on.  Controllers wait for 60."""


@define(eq=False)
class Traffic:
    """One client that asks the load balancer again and again, each time on a new connection."""

    port: int
    namespace: str = ""
    host: str = "127.0.0.1"
    served: int = field(init=False, default=0)
    received: int = field(init=False, default=0)
    """Bytes that came back."""
    failures: list[str] = field(init=False, factory=list)
    _going: bool = field(init=False, default=True)

    async def run(self) -> None:
        from twisted.internet import reactor

        while self._going:
            try:
                answer = await get(self.port, host=self.host, namespace=self.namespace)
            except OSError as error:
                self.failures.append(repr(error))
            else:
                self.received += len(answer)
                if b" 200 OK\r\n" in answer:
                    self.served += 1
                else:
                    self.failures.append(repr(answer[:80]))
            await deferLater(cast(Any, reactor), 0.02)

    def stop(self) -> None:
        self._going = False


@define(eq=False)
class Questions:
    """A controller that asks the simplest of questions again and again."""

    client: AmphoraClient
    answered: int = field(init=False, default=0)
    unreachable: int = field(init=False, default=0)
    longest: float = field(init=False, default=0.0)
    """Seconds that the slowest answer took."""
    failures: list[str] = field(init=False, factory=list)
    _going: bool = field(init=False, default=True)

    async def run(self) -> None:
        from twisted.internet import reactor

        clock = cast(Any, reactor)
        while self._going:
            begun = clock.seconds()
            try:
                await self.client.info()
            except Unreachable:
                self.unreachable += 1
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.answered += 1
                self.longest = max(self.longest, clock.seconds() - begun)
            await deferLater(clock, 0.1)

    def stop(self) -> None:
        self._going = False


@define(eq=False)
class Watch:
    """What was seen since the watch began."""

    traffic: Traffic
    questions: Questions
    heard: list[Heartbeat]
    _began_at: int

    @property
    def heartbeats(self) -> list[Heartbeat]:
        return self.heard[self._began_at :]

    def silence(self) -> float:
        """Seconds of the longest time without a heartbeat."""
        moments = [heartbeat.received for heartbeat in self.heard[max(self._began_at - 1, 0) :]]
        return max((after - before for before, after in pairwise(moments)), default=0.0)

    async def goes_on(self, *, answers: bool = True) -> None:
        """Wait until requests were served, heartbeats came and, but with C{answers} false, the API answered: anew."""
        served, heard, answered = self.traffic.served, len(self.heard), self.questions.answered
        # The first of the two heartbeats may have been under way before.
        await wait_until(lambda: len(self.heard) >= heard + 2, "two more heartbeats")
        await wait_until(lambda: self.traffic.served >= served + ENOUGH, "requests to be served")
        if answers:
            await wait_until(lambda: self.questions.answered >= answered + 2, "the API to answer")


class FaultTestCase(HeartbeatTestCase):
    """
    An agent, a load balancer with two members, two controllers who hear a heartbeat each second.

    What a test does to them it does in a L{watch}.
    """

    namespace = ""
    """Where the load balancer and its members are; empty for our own."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.members = (self.new_member(self.namespace), self.new_member(self.namespace))
        self.balancer = await self.running(LoadBalancer(members=self.members))

        def told_well() -> bool:
            return bool(self.heard) and self.is_well(self.heard[-1].message)

        await wait_until(told_well, "heartbeats to tell that all is well")

    def new_traffic(self) -> Traffic:
        """The client that a watch has."""
        return Traffic(self.balancer.port, self.namespace)

    def is_well(self, message: Mapping[str, Any]) -> bool:
        """Does a heartbeat tell what is true while nothing happens to haproxy and the members?"""
        pool = message["pools"].get(f"{self.balancer.pool_id}:{self.balancer.listener_id}")
        listener = message["listeners"].get(self.balancer.listener_id)
        return (
            listener is not None
            and listener["status"] == "OPEN"
            and pool is not None
            and pool["status"] == "UP"
            and pool["members"] == {member.name: "UP" for member in self.members}
        )

    @asynccontextmanager
    async def watch(
        self,
        *,
        true: Callable[[Mapping[str, Any]], bool] | None = None,
        spares_traffic: bool = True,
        spares_agent: bool = True,
        speaks: bool = True,
    ) -> AsyncIterator[Watch]:
        """
        Watch what goes on inside, and at its end see that all of it still does.

        Then no request has failed, no heartbeat was late or got lost, each told the truth, and each question was
        answered.

        @param true: What every heartbeat has to fulfil; that all is well, where none is given.
        @param spares_traffic: False where haproxy itself is what fails: requests may fail meanwhile, not afterwards.
        @param spares_agent: False where an agent ends: it cannot be reached meanwhile, but afterwards.
        @param speaks: False where the amphora is to be silent, for however long.
        """
        watch = Watch(self.new_traffic(), Questions(self.new_client()), self.heard, len(self.heard))
        running = [Deferred.fromCoroutine(each.run()) for each in (watch.traffic, watch.questions)]
        try:
            await watch.goes_on()
            yield watch
            await watch.goes_on()
        finally:
            watch.traffic.stop()
            watch.questions.stop()
            await gatherResults(running)
        if spares_traffic:
            self.assertEqual([], watch.traffic.failures)
        if speaks:
            self.assertLess(watch.silence(), LONGEST_SILENCE)
        wrong = [heartbeat.message for heartbeat in watch.heartbeats if not (true or self.is_well)(heartbeat.message)]
        self.assertEqual([], wrong)
        self.assertEqual([], watch.questions.failures)
        self.assertLess(watch.questions.longest, LONGEST_ANSWER)
        if spares_agent:
            self.assertEqual(0, watch.questions.unreachable)
            numbers = sorted(heartbeat.sequence for heartbeat in watch.heartbeats)
            self.assertEqual([*range(numbers[0], numbers[-1] + 1)], numbers)
