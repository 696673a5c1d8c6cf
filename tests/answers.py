"""What is an answer of the API, whatever was asked."""

from __future__ import annotations

import email
import json
import re
from typing import Any, Final

from attrs import field, frozen

_IN_1_0: Final = frozenset({200, 202, 400, 401, 403, 404, 405, 409, 500, 503})
"""Others are taken for success by its client, or for none."""
_OTHERWISE: Final = frozenset({200, 201, 202, 400, 401, 404, 405, 408, 413, 500, 503})
_NAMED_FAILURES: Final = re.compile(
    "Error (start|stopp|reload|check|stor|plugg|replac|read)ing "
    "|Failed to (upload|start|stop|reload) |Unable to update "
)
"""What the specification or the contract has a 500 for; there is none for what nobody foresaw."""
_UNAVAILABLE: Final = ("Topology transition in progress", "Request Timeout", "Service Unavailable")


@frozen
class Answer:
    """Status, headers by their names in small letters, body."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=lambda body: repr(body[:300]))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answers(data: bytes, method: str) -> list[Answer]:
    """
    Cut what came over a connection into its answers.

    @param method: What was asked: the answer to a C{HEAD} has no body.
    @raise AssertionError: if it is not made of answers whose length is known.
    """
    answers = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        status, _, lines = head.decode("latin-1").partition("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] ([1-5]\d\d) [ -~]+", status)
        assert found is not None and end, f"no answer: {head[:200]!r}"
        if found[1] == "100":
            continue
        headers = {name.lower(): value for name, value in email.message_from_string(lines).items()}
        length = int(headers["content-length"])
        if method == "HEAD":
            length = 0
        answers.append(Answer(int(found[1]), headers, data[:length]))
        assert len(data) >= length, "the answer is cut off"
        data = data[length:]
    return answers


def problem(version: str, method: str, answer: Answer) -> str | None:
    """
    What is wrong with an answer; None if nothing is.

    @param version: C{1.0}, or anything else.
    """
    if answer.status not in (_IN_1_0 if version == "1.0" else _OTHERWISE):
        return f"the status {answer.status}"
    content_type = answer.headers.get("content-type")
    if content_type == "text/plain" and answer.status == 200:
        return None
    if content_type != "application/json":
        return f"the type {content_type}"
    if method == "HEAD":
        return None
    try:
        told = json.loads(answer.body)
    except ValueError as error:
        return f"no JSON: {error}"
    if answer.status < 400:
        return None
    message = told.get("message") if isinstance(told, dict) else None
    if not isinstance(message, str) or not message:
        return "an error without a message"
    if answer.status == 500 and not _NAMED_FAILURES.match(message):
        return f"an error that nobody foresaw: {message}"
    if answer.status == 503 and message not in _UNAVAILABLE:
        return f"unavailable for no reason: {message}"
    if version == "1.0" and told.get("http_code", answer.status) != answer.status:
        return "two statuses"
    return None
