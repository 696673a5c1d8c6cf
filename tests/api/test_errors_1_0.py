"""Tests for L{amphora.api.errors_1_0}: what a client of the API 1.0 is told."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from klein import Klein
from treq.testing import StubTreq
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from amphora.api.errors import ErrorAnswer, RequestRefused, install_error_pages
from amphora.api.errors_1_0 import UNFORESEEN_1_0, answer_for_1_0, edge_answer
from amphora.loadbalancer import errors as domain
from amphora.lvs import errors as lvs
from amphora.vrrp.topology import TransitionInProgress
from tests.api.test_errors import ANSWERS

ID = "11111111-0000-4000-8000-000000000001"
KNOWN_CODES = {400, 401, 403, 404, 405, 409, 500, 503}
NO_LOAD_BALANCER = {"message": "Loadbalancer Not Found", "details": f"No loadbalancer with UUID: {ID}"}

DIFFERENT: tuple[tuple[Exception, int, dict[str, Any]], ...] = (
    (domain.InstanceNotFound(ID), 404, NO_LOAD_BALANCER),
    (domain.NoConfiguration("start", ID), 404, NO_LOAD_BALANCER),
    (
        domain.CertificateNotFound("a.pem"),
        404,
        {"message": "Certificate Not Found", "details": "No certificate with filename: a.pem"},
    ),
    (domain.BadFilename("a"), 400, {"message": "Filename has wrong format"}),
    (domain.InvalidConfiguration("line 3"), 400, {"message": "Invalid request", "details": "line 3"}),
    (domain.ActionFailed("stop", "why"), 500, {"message": "Error stopping haproxy", "details": "why"}),
    (TransitionInProgress(), 503, {"message": "Topology transition in progress"}),
    (
        lvs.LvsListenerNotFound(ID),
        404,
        {"message": "UDP Listener Not Found", "details": f"No UDP listener with UUID: {ID}"},
    ),
    (lvs.LvsConfigurationRefused("line 3"), 400, {"message": "Invalid request", "details": "line 3"}),
    (
        lvs.LvsConfigurationNotStored("full"),
        500,
        {"message": "Error storing keepalivedlvs configuration", "details": "full"},
    ),
    (
        lvs.LvsActionFailed("reload", ID, "why"),
        500,
        {"message": f"Failed to reload keepalivedlvs listener {ID}", "details": "why"},
    ),
    (
        lvs.LvsActionFailed("delete", ID, "why"),
        500,
        {"message": "Error stopping keepalivedlvs", "details": "why"},
    ),
    (
        NotFound(),
        404,
        {
            "message": "Not Found",
            "details": "The API 1.0 has nothing at this path",
            "error": "404 Not Found: The API 1.0 has nothing at this path",
            "http_code": 404,
        },
    ),
    (
        MethodNotAllowed(["PUT", "GET"]),
        405,
        {
            "message": "Method Not Allowed",
            "details": "Allowed: GET, PUT",
            "error": "405 Method Not Allowed: Allowed: GET, PUT",
            "http_code": 405,
        },
    ),
    (RequestRefused(ErrorAnswer(413, "Too large")), 400, {"message": "Too large"}),
    (RequestRefused(ErrorAnswer(507, "Full")), 500, {"message": "Full"}),
)


class AnswerTests(SynchronousTestCase):
    """The table of errors."""

    def test_table(self) -> None:
        """Each error has its status and its words; those of the framework are told in the words of both agents."""
        for error, status, body in DIFFERENT:
            answer = answer_for_1_0(error)
            assert answer is not None
            self.assertEqual((status, body), (answer.status, answer.body), repr(error))

    def test_known_codes(self) -> None:
        """Whatever v0.1 answers, here it has a code that the client takes for a failure."""
        teapot = HTTPException()
        teapot.code = 418
        for error in (teapot, *(error for error, *_ in ANSWERS)):
            answer = answer_for_1_0(error)
            assert answer is not None
            self.assertIn(answer.status, KNOWN_CODES, repr(error))

    def test_unforeseen(self) -> None:
        """What nobody foresaw has no answer here either."""
        self.assertIsNone(answer_for_1_0(ValueError("x")))

    def test_edge(self) -> None:
        """What the edge refuses is told as the version in the path has it, however that is written."""
        large, slow = ErrorAnswer(413, "Content Too Large", "so many"), ErrorAnswer(408, "Request Timeout")
        for path in (b"/1.0", b"/1.0/", b"/1.0/listeners/a/b/haproxy?x", b"/%31.0/info"):
            self.assertEqual(
                {
                    "message": "Content Too Large",
                    "details": "so many",
                    "error": "400 Content Too Large: so many",
                    "http_code": 400,
                },
                edge_answer(path, large).body,
            )
            self.assertEqual((400, 503), tuple(edge_answer(path, each).status for each in (large, slow)))
        for path in (b"", b"/", b"/info", b"/v0.1/1.0", b"/1.00/info", b"1.0"):
            self.assertIs(large, edge_answer(path, large))


class _Application:
    """Routes that fail."""

    app = Klein()
    install_error_pages(app, answer_for_1_0, UNFORESEEN_1_0)

    failures: ClassVar[dict[str, Exception]] = {"foreseen": NotFound(), "unforeseen": ZeroDivisionError("a secret")}

    @app.route("/<name>", methods=["GET"])
    async def fails(self, request: IRequest, name: str) -> bytes:
        raise self.failures[name]


class PageTests(SynchronousTestCase):
    """What comes over HTTP."""

    def setUp(self) -> None:
        self.client: Any = StubTreq(_Application().app.resource())

    def call(self, path: str) -> tuple[int, Any]:
        answer = self.successResultOf(self.client.get(f"http://a{path}"))
        self.assertEqual(["application/json"], answer.headers.getRawHeaders("Content-Type"))
        return answer.code, json.loads(self.successResultOf(answer.content()))

    def test_unknown(self) -> None:
        """A 404 is JSON: one that is not means "not ready yet" to the client."""
        for path in ("/foreseen", "/no/route"):
            code, body = self.call(path)
            self.assertEqual((404, 404), (code, body["http_code"]))

    def test_unforeseen(self) -> None:
        """An error that nobody foresaw is told without a word of its own, in the log with its traceback."""
        body = {"message": "Internal Server Error", "error": "500 Internal Server Error", "http_code": 500}
        self.assertEqual((500, body), self.call("/unforeseen"))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
