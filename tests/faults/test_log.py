"""Whoever writes the agent's log down hangs."""

from __future__ import annotations

from twisted.internet.threads import deferToThread

from tests.faults.watched import FaultTestCase
from tests.integration.harness import RawClient, wait_until
from tests.integration.support import requires

LINES = 3000
"""More than a pipe and the agent's own memory hold."""


@requires("haproxy")
class LogTests(FaultTestCase):
    async def test_nobody_reads(self) -> None:
        """
        A reader that hangs, as journald may, holds nothing up.  When it reads on it hears how much was lost, and then
        what is new.
        """
        async with self.watch() as watch:
            self.agent.pause_reading()
            await deferToThread(_ask, self.raw_client(), LINES)
            await watch.goes_on()
            self.agent.resume_reading()
            await wait_until(lambda: "lines of the log were lost" in self.agent.log, "the loss to be told")
            await self.client.reload(self.balancer.listener_id)
            await wait_until(lambda: f"{self.balancer.listener_id}/reload" in self.agent.log, "what is new")


def _ask(client: RawClient, number: int) -> None:
    """Have the agent log so many lines.  Blocks."""
    with client.connect() as connection:
        answers = connection.makefile("rb")
        for _ in range(number):
            connection.sendall(b"PUT /no/such/path HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            while line := answers.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
