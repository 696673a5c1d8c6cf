"""The agent's own certificate, replaced while it serves: what the next start finds is what clients are shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import define, field
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import replace_file
from amphora.jobs import JobQueue
from amphora.loadbalancer.errors import StorageFailed
from amphora.pem import BadPEM


@define(eq=False)
class ServerCertificate:
    """The file, and what handshakes show of it."""

    _log = Logger()

    _path: Path
    _blocking: BlockingCalls
    _renewal: Callable[[bytes], Callable[[], None]]
    """Reads a PEM file, or raises L{BadPEM}; may block.  What it answers puts that in use."""
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._jobs = JobQueue("server certificate", lambda: None, (BadPEM, StorageFailed))

    def replace(self, content: bytes) -> Deferred[None]:
        """
        Take a new certificate with its key and chain, PEM blocks in any order.

        Handshakes to come show it; open connections go on, that of the client who brought it among them.

        @raise BadPEM: if it cannot serve.
        @raise StorageFailed: if the disk does not take it.  What was in use stays in use, either way.
        """
        return self._jobs.run(lambda: self._replace(content))

    async def _replace(self, content: bytes) -> None:
        def store() -> tuple[Callable[[], None], x509.Certificate]:
            put_in_use = self._renewal(content)
            replace_file(self._path, content)
            return put_in_use, x509.load_pem_x509_certificates(content)[0]

        try:
            put_in_use, certificate = await self._blocking.run(store)
        except OSError as error:
            self._log.error("{path}: the new certificate cannot be stored: {error}", path=self._path, error=error)
            raise StorageFailed("certificate", error.strerror or str(error)) from error
        put_in_use()
        self._log.info(
            "The agent's own certificate was replaced: serial number {serial:x}, valid until {until}",
            serial=certificate.serial_number,
            until=certificate.not_valid_after_utc,
        )
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            self._log.warn(
                "By this machine's clock the agent's own certificate is not valid: controllers may refuse it"
            )
