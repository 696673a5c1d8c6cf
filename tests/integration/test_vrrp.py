"""keepalived under the agent: what it is told, what it survives, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.pair import EVERYTHING_FOR_PAIRS, PairTestCase
from tests.integration.support import requires


class VrrpTestCase(PairTestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        await self.agent.start()

    async def answer(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One request as the specification writes it, below the version."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        head = f"{method} /v0.1{path} HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n".encode()
        raw = await self.raw_client().exchange(head + length + b"\r\n" + (body or b""))
        head, _, content = raw.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(content)


@requires(*EVERYTHING_FOR_PAIRS)
class RouteTests(VrrpTestCase):
    """Each code and each body of the specification."""

    async def test_life(self) -> None:
        """A configuration is uploaded, started, reloaded and stopped, with the specification's words."""
        config = self.config(script=self.vrrp / "check_script.sh")
        self.assertEqual((200, {"message": "OK"}), await self.answer("PUT", "/vrrp/upload", config.text()))
        self.assertEqual(config.text(), self.uploaded.read_bytes())
        self.assertIsNone(self.keepalived())
        for action, details in (
            ("start", "keepalived started"),
            ("start", "keepalived started"),
            ("reload", "keepalived reloaded"),
            ("stop", "keepalived stopped"),
            ("reload", "keepalived started"),
        ):
            self.assertEqual(
                (202, {"message": "OK", "details": details}), await self.answer("PUT", f"/vrrp/{action}"), action
            )
