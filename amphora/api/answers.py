"""Writing answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.web.iweb import IRequest

OK = {"message": "OK"}
CONFIGURATION_VALID = "Configuration file is valid"
"""What a start tells first."""
SERVER = b"amphora-agent"


def encode_json(body: Any) -> bytes:
    """JSON as this API sends it, with a line's end for those who read it in a terminal."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def answer_json(request: IRequest, status: int, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Make a route's result of a JSON value."""
    return answer_bytes(request, status, encode_json(body), "application/json", headers)


def etag(md5: str) -> dict[str, str]:
    """The header that tells the sum of what was uploaded.  RFC 9110, 8.8.3, wants quotes."""
    return {"ETag": f'"{md5}"'}


def answer_bytes(
    request: IRequest, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> bytes:
    """Make a route's result of bytes.  A length that is known spares the client the chunked encoding."""
    request.setResponseCode(status)
    request.setHeader(b"Server", SERVER)
    request.setHeader(b"Content-Type", content_type.encode("ascii"))
    request.setHeader(b"Content-Length", b"%d" % len(body))
    for name, value in (headers or {}).items():
        request.setHeader(name.encode("ascii"), value.encode("ascii"))
    return body
