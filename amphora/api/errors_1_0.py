"""
What a client of the API 1.0 is told when something did not work.

Its client knows 400, 401, 403, 404, 405, 409, 500 and 503, and takes any other code for success where it changes
something; a 404 that is not JSON it takes for an agent that is not ready.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from amphora.api.errors import ErrorAnswer, answer_for
from amphora.loadbalancer import errors as domain
from amphora.network import errors as network

_KNOWN_CODES: Final = frozenset({400, 401, 403, 404, 405, 409, 500, 503})


def answer_for_1_0(error: Exception) -> ErrorAnswer | None:
    """The contract's answer for an error, v0.1's where both agree; None for one that nobody foresaw."""
    match error:
        case domain.InstanceNotFound():
            return ErrorAnswer(404, "Loadbalancer Not Found", f"No loadbalancer with UUID: {error.instance_id}")
        case domain.CertificateNotFound():
            return ErrorAnswer(404, "Certificate Not Found", f"No certificate with filename: {error.filename}")
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
    answer = answer_for(error)
    if answer is None or answer.status in _KNOWN_CODES:
        return answer
    return evolve(answer, status=400 if answer.status < 500 else 500)
