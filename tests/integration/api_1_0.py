"""Requests of the API 1.0 as today's controller writes them."""

from __future__ import annotations

import email
import json
from typing import Any

from attrs import field, frozen

from tests.integration.harness import RawClient


@frozen
class Answer:
    """The status, the headers by their names in small letters, and the JSON."""

    status: int
    json: Any
    headers: dict[str, str] = field(eq=False)


async def call(client: RawClient, method: str, path: str, body: bytes | None = None) -> Answer:
    """One request below the version, its body without a Content-Type."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    head = f"{method} /1.0{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n".encode()
    answer = await client.exchange(head + length + b"\r\n" + (body or b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    status, _, lines = head.decode().partition("\r\n")
    headers = {name.lower(): value for name, value in email.message_from_string(lines).items()}
    return Answer(int(status.split(" ")[1]), json.loads(content), headers)
