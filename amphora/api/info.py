"""Who this amphora is: what `GET info` answers, and `GET details` begins with."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred


@frozen
class AmphoraInfo:
    """The specification's four attributes."""

    _amphora_id: str
    _haproxy_version: Callable[[], Coroutine[Deferred[Any], Any, str]]

    async def tell(self, api_version: str) -> dict[str, Any]:
        return {
            "hostname": socket.gethostname(),
            "uuid": self._amphora_id,
            "haproxy_version": await self._haproxy_version(),
            "api_version": api_version,
        }
