"""
What a client of the API 1.0 is told when something did not work.

Its client knows 400, 401, 403, 404, 405, 409, 500 and 503, and takes any other code for success where it changes
something; a 404 that is not JSON it takes for an agent that is not ready.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from amphora.api.errors import ErrorAnswer, answer_for
from amphora.live_settings import SettingsNotStored, SettingsRefused
from amphora.loadbalancer import errors as domain
from amphora.network import errors as network
from amphora.vrrp import errors as vrrp

_KNOWN_CODES: Final = frozenset({400, 401, 403, 404, 405, 409, 500, 503})
_CONFIG_NOT_UPDATED: Final = "Unable to update amphora-agent configuration."


def answer_for_1_0(error: Exception) -> ErrorAnswer | None:
    """The contract's answer for an error, v0.1's where both agree; None for one that nobody foresaw."""
    match error:
        case domain.InstanceNotFound():
            return ErrorAnswer(404, "Loadbalancer Not Found", f"No loadbalancer with UUID: {error.instance_id}")
        case domain.CertificateNotFound():
            return ErrorAnswer(404, "Certificate Not Found", f"No certificate with filename: {error.filename}")
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
    if answer is None or answer.status in _KNOWN_CODES:
        return answer
    return evolve(answer, status=400 if answer.status < 500 else 500)
