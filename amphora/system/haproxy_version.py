"""Which haproxy is installed."""

from __future__ import annotations

import re

from attrs import define, field
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.files import FileMark, file_mark
from amphora.process import CommandFailed, IProcessReactor, run_command
from amphora.waiting import within

_VERSION = re.compile(r"HA-?Proxy version (\S+)")
_TIMEOUT = 10.0
_DISK_PATIENCE = 1.0
"""Seconds after which the version that is known is told, where a disk hangs or all threads wait for one."""


@define(eq=False)
class HaproxyVersion:
    """Asks haproxy once, and again when its file has been replaced."""

    _log = Logger()

    _reactor: IProcessReactor
    _blocking: BlockingCalls
    _path: str
    _known: tuple[FileMark, str] | None = field(init=False, default=None)

    async def read(self) -> str:
        """The version as haproxy words it, `2.6.12-1+deb12u4`; empty where it cannot be told, which is logged."""
        looking = self._blocking.run(file_mark, self._path)
        try:
            mark = await (looking if self._known is None else within(self._reactor, _DISK_PATIENCE, looking))
        except TimeoutError:
            assert self._known is not None
            return self._known[1]
        except OSError as error:
            self._log.error("No haproxy at {path}: {error}", path=self._path, error=error.strerror)
            return ""
        if self._known is None or self._known[0] != mark:
            try:
                result = await run_command(self._reactor, [self._path, "-v"], timeout=_TIMEOUT)
            except CommandFailed as error:
                self._log.error("The version of haproxy cannot be told: {error}", error=error)
                return ""
            found = _VERSION.search(result.output)
            if found is None:
                self._log.error("{path} does not tell its version: {output}", path=self._path, output=result.output)
                return ""
            self._known = (mark, found[1])
        return self._known[1]
