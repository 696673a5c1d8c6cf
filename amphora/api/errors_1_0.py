"""
What a client of the API 1.0 is told when something did not work.

Its client knows 400, 401, 403, 404, 405, 409, 500 and 503, and takes any other code for success where it changes
something; a 404 that is not JSON it takes for an agent that is not ready.

What no route has to do with (an unknown path, a wrong method, a malformed or too large request, an error that nobody
foresaw) is told in the words of both: `error` and `http_code` are today's agent's, `message` and `details` ours.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import evolve
from werkzeug.exceptions import HTTPException, NotFound

from amphora.api.errors import UNFORESEEN, ErrorAnswer, answer_for
from amphora.live_settings import SettingsNotStored, SettingsRefused
from amphora.loadbalancer import errors as domain
from amphora.lvs import errors as lvs
from amphora.network import errors as network
from amphora.vrrp import errors as vrrp

_KNOWN_CODES: Final = frozenset({400, 401, 403, 404, 405, 409, 500, 503})
_OTHER_CODES: Final = {408: 503}
"""What was too slow may well be sent again."""
_CONFIG_NOT_UPDATED: Final = "Unable to update amphora-agent configuration."


def answer_for_1_0(error: Exception) -> ErrorAnswer | None:
    """The contract's answer for an error, v0.1's where both agree; None for one that nobody foresaw."""
    match error:
        case domain.InstanceNotFound():
            return _no_load_balancer(error.instance_id)
        case domain.NoConfiguration():
            # One of which every configuration was refused: to this API it is none.
            return _no_load_balancer(error.instance_id)
        case domain.CertificateNotFound():
            return ErrorAnswer(404, "Certificate Not Found", f"No certificate with filename: {error.filename}")
        case NotFound():
            return framework_answer(ErrorAnswer(404, "Not Found", "The API 1.0 has nothing at this path"))
        case network.InvalidVip():
            return ErrorAnswer(400, f"Invalid VIP: {error.reason}")
        case network.InvalidVrrpAddress():
            return ErrorAnswer(400, f"Invalid VRRP Address: {error.reason}")
        case network.InvalidFixedIp():
            return ErrorAnswer(400, "Invalid network port", error.reason)
        case network.InterfaceExists():
            return ErrorAnswer(409, "Interface already exists", f"{error.interface} has all that was asked for")
        case network.InterfaceNotFound():
            # The words in `details` have the client ask again.
            reason = f"No suitable network interface found: none has the MAC address {error.mac}"
            return ErrorAnswer(404, "Interface Not Found", reason)
        case lvs.LvsListenerNotFound():
            return ErrorAnswer(404, "UDP Listener Not Found", f"No UDP listener with UUID: {error.listener_id}")
        case lvs.LvsConfigurationRefused():
            return ErrorAnswer(400, "Invalid request", error.reason)
        case lvs.LvsConfigurationNotStored():
            return ErrorAnswer(500, "Error storing keepalivedlvs configuration", error.reason)
        case lvs.LvsActionFailed(action="delete"):
            return ErrorAnswer(500, "Error stopping keepalivedlvs", error.details)
        case lvs.LvsActionFailed():
            return ErrorAnswer(
                500, f"Failed to {error.action} keepalivedlvs listener {error.listener_id}", error.details
            )
        case network.BadAddress():
            return ErrorAnswer(400, "Invalid IP address")
        case vrrp.ConfigurationRefused():
            # v0.1 knows one answer for all that may be wrong; a client that can tell the two apart is told.
            return ErrorAnswer(400, "Invalid request", error.reason)
        case vrrp.ActionFailed():
            return ErrorAnswer(500, f"Failed to {error.action} octavia-keepalived service", error.details)
        case SettingsRefused():
            return ErrorAnswer(400, _CONFIG_NOT_UPDATED, error.reason)
        case SettingsNotStored():
            return ErrorAnswer(500, _CONFIG_NOT_UPDATED, error.reason)
    answer = answer_for(error)
    if answer is None:
        return None
    return framework_answer(answer) if isinstance(error, HTTPException) else _with_known_code(answer)


def framework_answer(answer: ErrorAnswer) -> ErrorAnswer:
    """An error that no route has to do with, in this API's codes and words."""
    known = _with_known_code(answer)
    error = f"{known.status} {known.message}" + ("" if known.details is None else f": {known.details}")
    return evolve(known, more={"error": error, "http_code": known.status})


def edge_answer(path: bytes, answer: ErrorAnswer) -> ErrorAnswer:
    """What a request is told that reaches no route, as the version in its path has it."""
    segments = unquote_to_bytes(path.partition(b"?")[0]).split(b"/")
    return framework_answer(answer) if segments[1:2] == [b"1.0"] else answer


def _no_load_balancer(instance_id: str) -> ErrorAnswer:
    return ErrorAnswer(404, "Loadbalancer Not Found", f"No loadbalancer with UUID: {instance_id}")


def _with_known_code(answer: ErrorAnswer) -> ErrorAnswer:
    if answer.status in _KNOWN_CODES:
        return answer
    return evolve(answer, status=_OTHER_CODES.get(answer.status, 400 if answer.status < 500 else 500))


UNFORESEEN_1_0: Final = framework_answer(UNFORESEEN)
