"""Tests for L{amphora.api.errors} and L{amphora.api.answers}: what a client is told, and what the log."""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

from klein import Klein
from treq.testing import StubTreq
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from amphora.api.answers import OK, answer_bytes, answer_json, encode_json
from amphora.api.errors import ErrorAnswer, RequestRefused, answer_for, install_error_pages
from amphora.loadbalancer import errors as domain
from amphora.network import errors as network
from amphora.pem import BadPEM
from amphora.vrrp import errors as vrrp

ID = "11111111-0000-4000-8000-000000000001"

ANSWERS: tuple[tuple[Exception, int, dict[str, str]], ...] = (
    (
        domain.InstanceNotFound(ID),
        404,
        {"message": "Listener Not Found", "details": f"No listener with UUID: {ID}"},
    ),
    (
        domain.CertificateNotFound("a.pem"),
        404,
        {"message": "Certificate Not Found", "details": "No certificate with file name: a.pem"},
    ),
    (domain.BadFilename("a"), 400, {"message": "Filename has wrong format"}),
    (
        BadPEM("No RSA key found", "it is encrypted"),
        400,
        {"message": "No RSA key found", "details": "it is encrypted"},
    ),
    (domain.InvalidConfiguration("line 3"), 400, {"message": "Invalid request", "details": "line 3"}),
    (
        domain.NoConfiguration("start", ID),
        500,
        {"message": "Error starting haproxy", "details": f"No valid configuration was uploaded for {ID}"},
    ),
    (domain.NotRunning("why"), 500, {"message": "Error stopping haproxy", "details": "why"}),
    (domain.ActionFailed("start", "why"), 500, {"message": "Error starting haproxy", "details": "why"}),
    (domain.ActionFailed("stop", "why"), 500, {"message": "Error stopping haproxy", "details": "why"}),
    (domain.ActionFailed("reload", "why"), 500, {"message": "Error reloading haproxy", "details": "why"}),
    (domain.ActionFailed("check", "why"), 500, {"message": "Error checking haproxy", "details": "why"}),
    (
        domain.StorageFailed("certificate", "No space left on device"),
        500,
        {"message": "Error storing certificate", "details": "No space left on device"},
    ),
    (network.BadAddress("10.6.0.1.1"), 400, {"message": "Bad IP address version"}),
    (network.AddressNotFound("10.5.0.1"), 404, {"message": "Error interface not found for IP address"}),
    (network.InvalidVip("why"), 400, {"message": "Invalid VIP", "details": "why"}),
    (network.InvalidSubnet("why"), 400, {"message": "Invalid subnet information", "details": "why"}),
    (network.InvalidPort("why"), 400, {"message": "Invalid port information", "details": "why"}),
    (network.InterfaceNotFound("00"), 404, {"message": "No suitable network interface found"}),
    (network.PlugFailed("VIP", "why"), 500, {"message": "Error plugging VIP", "details": "why"}),
    (network.PlugFailed("Port", "why"), 500, {"message": "Error plugging Port", "details": "why"}),
    (network.InvalidRules("why"), 400, {"message": "Invalid rules information", "details": "why"}),
    (network.RulesNotReplaced("why"), 500, {"message": "Error replacing interface rules", "details": "why"}),
    (network.NetworkUnreadable("why"), 500, {"message": "Error reading network interfaces", "details": "why"}),
    (
        vrrp.ConfigurationRefused("Unknown keyword 'authe'"),
        500,
        {"message": "Failed to upload keepalived configuration.", "details": "Unknown keyword 'authe'"},
    ),
    (
        vrrp.ConfigurationNotStored("No space left on device"),
        500,
        {"message": "Failed to upload keepalived configuration.", "details": "No space left on device"},
    ),
    (
        vrrp.NotRunning("stop", "keepalived process with PID 3352 not found"),
        500,
        {
            "message": "Failed to stop keepalived service: keepalived process with PID 3352 not found",
            "details": "keepalived process with PID 3352 not found",
        },
    ),
    (
        vrrp.ActionFailed("start", "keepalived ended\nwhy"),
        500,
        {"message": "Failed to start keepalived service: keepalived ended", "details": "keepalived ended\nwhy"},
    ),
    (RequestRefused(ErrorAnswer(400, "Invalid Request")), 400, {"message": "Invalid Request"}),
    (NotFound(), 404, {"message": "Not Found"}),
    (
        MethodNotAllowed(["PUT", "GET"]),
        405,
        {"message": "Method Not Allowed", "details": "Allowed: GET, PUT"},
    ),
)


class AnswerTests(SynchronousTestCase):
    """The table of errors."""

    def test_table(self) -> None:
        """Each error has its status and its words."""
        for error, status, body in ANSWERS:
            answer = answer_for(error)
            assert answer is not None
            self.assertEqual((status, body), (answer.status, answer.body), repr(error))

    def test_complete(self) -> None:
        """No error of the domain is without an answer, and each is tried here."""
        known = {
            one
            for module in (domain, network, vrrp)
            for one in vars(module).values()
            if isinstance(one, type) and one.__module__ == module.__name__
        }
        tried = {type(error) for error, *_ in ANSWERS}
        bases = {domain.LoadBalancerError, network.NetworkError, vrrp.VrrpError}
        of_1_0 = {network.InvalidVrrpAddress, network.InvalidFixedIp, network.InterfaceExists}
        self.assertEqual(bases | of_1_0, known - tried)

    def test_allowed(self) -> None:
        """A 405 says what is allowed, in a header too; where nobody knows, it says nothing."""
        answer = answer_for(MethodNotAllowed(["PUT", "GET"]))
        assert answer is not None
        self.assertEqual({"Allow": "GET, PUT"}, answer.headers)
        nothing = answer_for(MethodNotAllowed())
        assert nothing is not None
        self.assertEqual({"Allow": ""}, nothing.headers)

    def test_unforeseen(self) -> None:
        """What nobody foresaw has no answer."""
        for error in (ValueError("x"), OSError(28, "x"), KeyError(), domain.LoadBalancerError("x")):
            self.assertIsNone(answer_for(error))

    def test_http_error_without_a_code(self) -> None:
        """An HTTP error that has no code is one of ours."""
        answer = answer_for(HTTPException())
        assert answer is not None
        self.assertEqual(500, answer.status)


class _Application:
    """Routes that fail in one way each."""

    app = Klein()
    install_error_pages(app)

    failures: ClassVar[dict[str, Exception]] = {str(number): error for number, (error, *_) in enumerate(ANSWERS)}

    @app.route("/fails/<name>", methods=["GET"])
    async def fails(self, request: IRequest, name: str) -> bytes:
        raise self.failures[name]

    @app.route("/breaks", methods=["GET"])
    async def breaks(self, request: IRequest) -> bytes:
        request.setHeader(b"Content-Length", b"100000")
        raise ZeroDivisionError("with a secret")

    @app.route("/json", methods=["PUT"])
    def json(self, request: IRequest) -> bytes:
        return answer_json(request, 201, OK, {"X-More": "more"})

    @app.route("/text", methods=["GET"])
    def text(self, request: IRequest) -> bytes:
        return answer_bytes(request, 200, b"\r\n\xff", "text/plain")


class PageTests(SynchronousTestCase):
    """What comes over HTTP."""

    def setUp(self) -> None:
        self.client: Any = StubTreq(_Application().app.resource())

    def call(self, method: str, path: str) -> tuple[Any, bytes]:
        answer = self.successResultOf(self.client.request(method, f"http://a{path}"))
        return answer, cast(bytes, self.successResultOf(answer.content()))

    def test_errors(self) -> None:
        """Each error comes as JSON with its status and length, and none is logged as a failure of ours."""
        with capturedLogs() as events:
            for number, (_, status, body) in enumerate(ANSWERS):
                answer, content = self.call("GET", f"/fails/{number}")
                self.assertEqual((status, body), (answer.code, json.loads(content)))
                self.assertEqual(["application/json"], answer.headers.getRawHeaders("Content-Type"))
                self.assertEqual(len(content), answer.length)
        self.assertEqual([], [event for event in events if event["log_level"] > LogLevel.info])

    def test_no_route(self) -> None:
        """What no route knows is JSON too."""
        answer, content = self.call("GET", "/nowhere")
        self.assertEqual((404, {"message": "Not Found"}), (answer.code, json.loads(content)))
        answer, content = self.call("POST", "/json")
        self.assertEqual((405, ["PUT"]), (answer.code, answer.headers.getRawHeaders("Allow")))
        self.assertEqual({"message": "Method Not Allowed", "details": "Allowed: PUT"}, json.loads(content))

    def test_unforeseen(self) -> None:
        """An error that nobody foresaw is a 500 without a word of its own, and in the log once with its traceback."""
        answer, content = self.call("GET", "/breaks")
        self.assertEqual((500, {"message": "Internal Server Error"}), (answer.code, json.loads(content)))
        self.assertEqual(len(content), answer.length)
        (failure,) = self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual("with a secret", failure.getErrorMessage())
        self.assertEqual([], self.flushLoggedErrors())

    def test_success(self) -> None:
        """A success has the status, type, length and headers that it was given."""
        answer, content = self.call("PUT", "/json")
        self.assertEqual((201, b'{"message": "OK"}\n'), (answer.code, content))
        self.assertEqual(["amphora-agent"], answer.headers.getRawHeaders("Server"))
        self.assertEqual(["more"], answer.headers.getRawHeaders("X-More"))
        answer, content = self.call("GET", "/text")
        self.assertEqual((200, b"\r\n\xff"), (answer.code, content))
        self.assertEqual(["text/plain"], answer.headers.getRawHeaders("Content-Type"))

    def test_encoding(self) -> None:
        """JSON is UTF-8, whatever a file name or a program's output held."""
        self.assertEqual('{"a": "ü€"}\n'.encode(), encode_json({"a": "ü€"}))
        self.assertEqual(b'{"a": "?"}\n', encode_json({"a": "\udcff"}))
