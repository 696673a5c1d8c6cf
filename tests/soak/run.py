"""The run: bring everything up, let it all go on at once for a while, let it come to rest, and look."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

from amphora.process import ProcessIdentity
from tests.soak.calls import Calls
from tests.soak.controllers import Controller, New, Old
from tests.soak.faults import Faults
from tests.soak.gauges import Files, Lives, Reading, read
from tests.soak.report import Report
from tests.soak.strangers import Strangers
from tests.soak.traffic import Crowd
from tests.soak.truth import Ears
from tests.soak.windows import Windows
from tests.soak.world import World

ASKERS = 6
PAUSE = 0.025
"""Seconds from an answer to the next request of each of these clients."""
INTERVAL, QUICK_INTERVAL = 3, 1
"""Seconds from one regular heartbeat to the next, in a long run and in a short one."""
LONG = 120.0
"""Seconds of a run that is not short."""
SETTLING = 8.0
"""Seconds in which what the load has left behind comes to rest."""


@define(eq=False)
class Soak:
    """One soak.  All that is left to chance comes from the seed, each part from a source of its own."""

    directory: Path
    seed: str
    seconds: float
    say: Callable[[str], None]
    clock: Any
    windows: Windows = field(init=False)
    ears: Ears = field(init=False)
    calls: Calls = field(init=False)
    world: World = field(init=False)
    lives: Lives = field(init=False, factory=Lives)
    _enough: Deferred[None] = field(init=False, factory=Deferred)

    def __attrs_post_init__(self) -> None:
        now = self.clock.seconds
        self.windows = Windows(now)
        interval = QUICK_INTERVAL if self.seconds < LONG else INTERVAL
        self.ears = Ears(self.windows, interval)
        self.calls = Calls(self.windows, self.clock)
        self.world = World(self.directory, self.windows, now, self.ears.heard, interval)

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {what}")

    def stop(self) -> None:
        """Come to an end before the time is over."""
        if not self._enough.called:
            self._enough.callback(None)

    async def run(self) -> Report:
        """
        The whole of it, and what came of it.

        Where it fails itself, all that it has made ends with this process.
        """
        controllers, faults, strangers = await self._set_up()
        await self._settle()
        rest_before, files_before = await self._at_rest()
        self.say(f"all is up, the agent has {rest_before.memory // 1024} MiB; now for {self.seconds / 60:g} minutes")
        began = self.clock.seconds()
        await self._under_load(controllers, faults, strangers, began)
        lasted = self.clock.seconds() - began
        self.say("the load is over; what is left comes to rest")
        await self._settle()
        rest_after, files_after = await self._at_rest()
        self.ears.listening = False
        left = await self.world.clean_up()
        reloads: Counter[str] = Counter()
        for each in controllers:
            reloads.update(each.reloads)
        return Report(
            self.seed,
            lasted,
            self.windows,
            self.world.targets(),
            reloads,
            faults,
            self.calls,
            self.ears,
            strangers,
            self.lives,
            self.world.logs,
            rest_before,
            rest_after,
            files_before,
            files_after,
            self.world.bad_datagrams(),
            left,
            [words for each in controllers for words in each.broken],
        )

    async def _set_up(self) -> tuple[list[Controller], Faults, Strangers]:
        await self.world.set_up()
        common = (self.world, self.windows, self.calls)
        old = Old(*common, self._chance("v0.1"), self.clock)
        new = New(*common, self._chance("1.0"), self.clock)
        for controller in (old, new):
            await controller.set_up()
        self.ears.balancers = self.world.balancers
        faults = Faults(*common, self.ears, self._chance("faults"), self.clock)
        return [old, new], faults, Strangers(self.world, self._chance("strangers"), self.clock)

    async def _under_load(
        self, controllers: list[Controller], faults: Faults, strangers: Strangers, began: float
    ) -> None:
        self.ears.listening = True
        targets = self.world.targets()
        crowd = Crowd(self.seed)
        own = [each for each in targets if each.namespace == self.world.amphora.name]
        for _ in range(ASKERS):
            crowd.ask(self.world.amphora.name, [each for each in own if not each.stays], PAUSE)
        crowd.ask(self.world.outside.name, [each for each in targets if each not in own], 0.2)
        for target in targets:
            if target.stays:
                for lines in (20, 60, 160):
                    crowd.stay(target.namespace, target, lines)

        def take_reading() -> Deferred[None]:
            return Deferred.fromCoroutine(self._reading())

        def progress() -> None:
            self._progress(faults, began)

        looping = [LoopingCall(take_reading), LoopingCall(progress)]
        looping[0].start(5)
        looping[1].start(60, now=False)
        pause = min(12.0, max(self.seconds / 8, 0.5))
        running = [
            Deferred.fromCoroutine(each)
            for each in (
                *(controller.run(0.7) for controller in controllers),
                faults.run(pause),
                strangers.run(2.0),
                self._ask_simply(controllers[0]),
            )
        ]
        spare = self.clock.callLater(self.seconds / 3, setattr, faults, "spares_agent", True)
        end = self.clock.callLater(self.seconds, self.stop)
        try:
            await self._enough
        finally:
            for call in (spare, end):
                if call.active():
                    call.cancel()
            strangers.stop()
            faults.going = False
            for controller in controllers:
                controller.going = False
            await gatherResults(running)
            await crowd.go_home()
            for loop in looping:
                loop.stop()

    async def _ask_simply(self, controller: Controller) -> None:
        """The simplest of questions, all the time, from somebody who does nothing else."""
        while controller.going:
            await self.calls.done("info", self.world.asker.info)
            await deferLater(self.clock, 0.5)

    async def _settle(self) -> None:
        await deferLater(self.clock, min(SETTLING, self.seconds / 2))

    async def _at_rest(self) -> tuple[Reading, Files]:
        return await self._read(), await deferToThread(Files.below, self.world.base_path)

    async def _read(self) -> Reading:
        agent = ProcessIdentity.of(self.world.agent.pid)
        assert agent is not None
        return await deferToThread(read, self.world, self.clock.seconds(), agent)

    async def _reading(self) -> None:
        try:
            self.lives.readings.append(await self._read())
        except (OSError, AssertionError):
            # The agent has just been ended.
            return

    def _progress(self, faults: Faults, began: float) -> None:
        targets = self.world.targets()
        failures = sum(len(target.failures) for target in targets)
        wrong, calls = sum(self.ears.wrong.values()), len(self.calls.failures)
        reading = self.lives.readings[-1]
        self.say(
            f"{(self.clock.seconds() - began) / 60:4.0f} min: {sum(target.served for target in targets):,} requests "
            f"({failures} failed), {self.ears.number} heartbeats ({wrong} wrong), "
            f"{sum(map(len, self.calls.seconds.values()))} calls ({calls} failed), "
            f"{sum(faults.number.values())} faults ({len(faults.broken)} not overcome), "
            f"agent {reading.memory / 1024:.1f} MiB, {reading.descriptors} descriptors, {reading.haproxies} haproxies"
        )


async def soak(
    directory: Path,
    seed: str,
    seconds: float,
    say: Callable[[str], None],
    stopped: Callable[[Callable[[], None]], None],
) -> Report:
    """
    One soak, on the reactor that runs.

    @param directory: An empty one, short enough for UNIX sockets below it.
    @param stopped: Called with what is to be called to end it early.
    """
    from twisted.internet import reactor

    running = Soak(directory, seed, seconds, say, reactor)
    stopped(running.stop)
    return await running.run()
