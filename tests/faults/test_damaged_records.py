"""An agent is killed, a disk damages what it had written, and the next one finds that, while haproxy serves."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from tests.damage import contents, damaged
from tests.faults.watched import FaultTestCase
from tests.integration.harness import wait_until
from tests.integration.support import count, requires

STARTS = count(2, 40)
Strike = tuple[Path, bytes | None]
"""A file, and what is found in its place: None where nothing is."""


@requires("haproxy")
class DamagedRecordTests(FaultTestCase):
    async def test_E8_damaged(self) -> None:
        """Whatever has become of some records, traffic flows, and the next agent tells what is true."""
        base, kept = self.agent.base_path, self.directory / "kept"
        await self.client.set_topology("SINGLE")
        await self.next_heartbeat()
        self.agent.keeps_config = True
        files = sorted(
            path.relative_to(base)
            for path in base.rglob("*")
            if path.is_file() and path.suffix not in (".lock", ".log") and self.agent.cert_dir not in path.parents
        )
        identity = self.balancer.listener_id
        memory, pid = Path(identity, "instance.json"), Path(identity, f"{identity}.pid")
        self.assertLessEqual({memory, pid}, set(files))
        for path in files:
            (kept / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base / path, kept / path)

        def strategy(path: Path) -> st.SearchStrategy[bytes | None]:
            content = (kept / path).read_bytes()
            found = damaged(content)
            if path.suffix == ".json":
                found = contents(json.loads(content)).filter(asks_for_nothing)
            return st.sampled_from((None, b"")) | found

        strikes = st.lists(
            st.sampled_from(files).flatmap(lambda path: st.tuples(st.just(path), strategy(path))),
            min_size=1,
            max_size=4,
            unique_by=lambda strike: strike[0],
        )

        @settings(
            database=None,
            deadline=None,
            derandomize=True,
            max_examples=STARTS,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(strikes)
        @example([(memory, None), (pid, None), (Path(identity, "haproxy.cfg"), None)])
        def strike(strikes: list[Strike]) -> None:
            haproxies = self.agent.all_haproxies()
            wait(self.agent.end(signal.SIGKILL))
            for path in files:
                shutil.copy2(kept / path, base / path)
            for path, content in strikes:
                if content is None:
                    (base / path).unlink()
                else:
                    (base / path).write_bytes(content)
            wait(self.agent.start())
            wait(self.next_one())
            assert "Traceback" not in self.agent.log, (strikes, self.agent.log)
            assert self.agent.all_haproxies() == haproxies, (strikes, self.agent.log)

        async with self.watch(spares_agent=False):
            await deferToThread(strike)

    async def next_one(self) -> None:
        """Wait for a heartbeat of the agent that has just started."""
        already = len(self.heard)
        await wait_until(lambda: len(self.heard) > already, "a heartbeat")


def asks_for_nothing(content: bytes) -> bool:
    """Is it not a whole record by which the load balancer is to be stopped or deleted?"""
    try:
        known = json.loads(content)
    except (ValueError, RecursionError):
        return True
    return not isinstance(known, dict) or (known.get("should_run") is not False and known.get("deleted") is not True)


def wait(work: Awaitable[None]) -> None:
    """Let the reactor do it, and wait for it in a thread of its own."""
    from twisted.internet import reactor

    blockingCallFromThread(cast(Any, reactor), lambda: Deferred.fromCoroutine(cast(Any, work)))
