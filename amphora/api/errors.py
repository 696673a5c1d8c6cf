"""
What a client is told when something did not work: each domain error's status and JSON, in one place.

Every answer that is not a success is a JSON object with `message` and, where more can be said, `details`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from amphora.api.answers import answer_json
from amphora.loadbalancer import errors as domain
from amphora.network import errors as network
from amphora.pem import BadPEM
from amphora.vrrp import errors as vrrp
from amphora.vrrp.topology import TransitionInProgress
from amphora.vrrp.topology_request import InvalidTopology

_log = Logger()

_PARTICIPLES = {"start": "starting", "stop": "stopping", "reload": "reloading", "check": "checking"}


@frozen
class ErrorAnswer:
    """A status code and the JSON object that goes with it."""

    status: int
    message: str
    details: str | None = None
    headers: dict[str, str] = field(factory=dict)
    more: dict[str, Any] = field(factory=dict)
    """What an API's version tells beside."""

    @property
    def body(self) -> dict[str, Any]:
        details = {} if self.details is None else {"details": self.details}
        return {"message": self.message, **details, **self.more}


UNFORESEEN = ErrorAnswer(500, "Internal Server Error")


class RequestRefused(Exception):
    """A route finds the request itself wrong."""

    def __init__(self, answer: ErrorAnswer) -> None:
        super().__init__(answer.message, answer.details)
        self.answer = answer


def answer_for(error: Exception) -> ErrorAnswer | None:
    """The v0.1 specification's answer for an error; None for one that nobody foresaw."""
    match error:
        case RequestRefused():
            return error.answer
        case domain.InstanceNotFound():
            return ErrorAnswer(404, "Listener Not Found", f"No listener with UUID: {error.instance_id}")
        case domain.CertificateNotFound():
            return ErrorAnswer(404, "Certificate Not Found", f"No certificate with file name: {error.filename}")
        case domain.BadFilename():
            return ErrorAnswer(400, "Filename has wrong format")
        case BadPEM():
            return ErrorAnswer(400, error.problem, error.reason)
        case domain.InvalidConfiguration():
            return ErrorAnswer(400, "Invalid request", error.output)
        case InvalidTopology():
            return ErrorAnswer(400, "Invalid request", "\n".join(error.problems))
        case TransitionInProgress():
            return ErrorAnswer(503, "Topology transition in progress")
        case domain.NotRunning():
            return _failed("stop", error.details)
        case domain.NoConfiguration():
            return _failed(error.action, f"No valid configuration was uploaded for {error.instance_id}")
        case domain.ActionFailed():
            return _failed(error.action, error.details)
        case domain.StorageFailed():
            return ErrorAnswer(500, f"Error storing {error.what}", error.reason)
        case vrrp.ConfigurationRefused() | vrrp.ConfigurationNotStored():
            return ErrorAnswer(500, "Failed to upload keepalived configuration.", error.reason)
        case vrrp.ActionFailed():
            what, _, _ = error.details.partition("\n")
            return ErrorAnswer(500, f"Failed to {error.action} keepalived service: {what}", error.details)
        case network.BadAddress():
            return ErrorAnswer(400, "Bad IP address version")
        case network.AddressNotFound():
            return ErrorAnswer(404, "Error interface not found for IP address")
        case network.InvalidVip():
            return ErrorAnswer(400, "Invalid VIP", error.reason)
        case network.InvalidSubnet():
            return ErrorAnswer(400, "Invalid subnet information", error.reason)
        case network.InvalidPort():
            return ErrorAnswer(400, "Invalid port information", error.reason)
        case network.InterfaceNotFound():
            return ErrorAnswer(404, "No suitable network interface found")
        case network.PlugFailed():
            return ErrorAnswer(500, f"Error plugging {error.what}", error.details)
        case network.InvalidRules():
            return ErrorAnswer(400, "Invalid rules information", error.reason)
        case network.RulesNotReplaced():
            return ErrorAnswer(500, "Error replacing interface rules", error.details)
        case network.NetworkUnreadable():
            return ErrorAnswer(500, "Error reading network interfaces", error.reason)
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return ErrorAnswer(405, "Method Not Allowed", f"Allowed: {allowed}", {"Allow": allowed})
        case HTTPException():
            return ErrorAnswer(error.code or 500, error.name)
    return None


def _failed(action: str, details: str) -> ErrorAnswer:
    return ErrorAnswer(500, f"Error {_PARTICIPLES[action]} haproxy", details)


def install_error_pages(
    app: Klein,
    answer_for: Callable[[Exception], ErrorAnswer | None] = answer_for,
    unforeseen: ErrorAnswer = UNFORESEEN,
) -> None:
    """Let every route of an application answer its errors in this way."""
    handle: Callable[[Callable[..., Any]], Any] = app.handle_errors(Exception)

    @handle
    def answer_error(self: object, request: IRequest, failure: Failure) -> bytes:
        assert isinstance(failure.value, Exception)
        answer = answer_for(failure.value)
        if answer is None:
            _log.failure("An unforeseen error in {method} {path}", failure, method=request.method, path=request.path)
            answer = unforeseen
        return answer_json(request, answer.status, answer.body, answer.headers)
