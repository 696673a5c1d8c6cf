"""What the versions' routes have in common."""

from __future__ import annotations

from klein import Klein

from amphora.api.errors import ErrorAnswer, RequestRefused
from amphora.loadbalancer.store import UUID


def new_app() -> Klein:
    """
    An application that never redirects: a controller that is sent elsewhere might repeat a request there
    without its body.
    """
    app = Klein()
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    return app


def uuid_in(text: str, what: str) -> str:
    """
    An id out of a path, in lower case.

    @raise RequestRefused: 400 for all that is not a UUID.
    """
    if not UUID.fullmatch(text.lower()):
        raise RequestRefused(ErrorAnswer(400, "Invalid request", f"{what} is not a UUID: {text}"))
    return text.lower()
