"""Whatever is asked of whichever route: an answer that is one, and an amphora that is as well as before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.answers import problem, read_answers
from tests.api.amphora_in_memory import AmphoraInMemory
from tests.damage import damaged
from tests.odd_requests import HAPROXY, IDS, OddRequest, requests, routes

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where syncing costs nothing."""
QUESTIONS = tuple(
    f"GET {path} HTTP/1.1\r\n\r\n".encode()
    for path in ("/", "/info", "/v0.1/listeners", "/v0.1/topology", "/v0.1/details", "/1.0/details", "/1.0/listeners")
)


@contextmanager
def amphora() -> Iterator[AmphoraInMemory]:
    """One for a single example."""
    with tempfile.TemporaryDirectory(prefix="amphora-", dir=MEMORY) as directory:
        yield AmphoraInMemory(Path(directory))


def _tells(request: OddRequest) -> bool:
    """Does the answer to this one have a body?"""
    return request.method != "HEAD"


class OddRequestTests(SynchronousTestCase):
    def test_routes(self) -> None:
        """Routes of both versions are asked, and those of none."""
        self.assertLess(40, len(routes()))
        self.assertEqual({"", "v0.1", "1.0", "info"}, {rule.split("/")[1] for _, rule in routes()})

    @given(st.lists(requests(), min_size=1, max_size=5))
    @example([OddRequest("put", f"/1.0/loadbalancer/{IDS[0]}/{IDS[1]}/haproxy", (), HAPROXY, chunked=False)])
    def test_answered(self, asked: list[OddRequest]) -> None:
        """Each is answered as its version has it, none leaves anything where it does not belong."""
        with amphora() as one, capturedLogs() as log:
            for request in asked:
                (answer,) = read_answers(one.exchange(request.encode()), request.method)
                self.assertIsNone(problem(request.version, request.method, answer), (request, answer))
            self.assert_well(one, log)

    @given(requests().filter(_tells).map(OddRequest.encode).flatmap(damaged), st.lists(st.integers(0, 500), max_size=3))
    def test_damaged(self, sent: bytes, cuts: list[int]) -> None:
        """What is no request, in whatever pieces it comes, is answered in JSON or in time."""
        bounds = [0, *sorted(cuts), len(sent)]
        with amphora() as one, capturedLogs() as log:
            answers = read_answers(one.exchange(*(sent[start:end] for start, end in pairwise(bounds))), "")
            for answer in answers:
                self.assertIsNone(problem("", "", answer), answer)
            self.assert_well(one, log)

    def assert_well(self, one: AmphoraInMemory, log: Sequence[LogEvent]) -> None:
        """It answers what can be asked, it has written nothing where it should not, its log has no traceback."""
        for question in QUESTIONS:
            (answer,) = read_answers(one.exchange(question), "GET")
            self.assertEqual(200, answer.status, (question, answer))
        self.assertEqual(["agent"], [path.name for path in one.directory.iterdir()])
        self.assertEqual([], [formatEvent(event) for event in log if "log_failure" in event])
