"""How much the agent says: the level of its log, which can be changed while it runs."""

from __future__ import annotations

from attrs import define, field
from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, LogPublisher


@define(eq=False)
class Verbosity:
    """Whether what helps to find a fault, the level C{debug}, is logged."""

    _level: LogLevelFilterPredicate = field(init=False, factory=LogLevelFilterPredicate)

    def set(self, *, debug: bool) -> None:
        """From now on."""
        self._level.setLogLevelForNamespace("", LogLevel.debug if debug else LogLevel.info)

    def install(self, publisher: LogPublisher) -> None:
        """
        Stand before those who write the log.

        twistd chooses them by its options once it has the service, and gives no place in between (seen with Twisted
        26.10: a log observer of one's own, the documented way, makes C{--logfile} and C{--syslog} void).
        """
        for observer in tuple(publisher._observers):
            publisher.removeObserver(observer)
            publisher.addObserver(FilteringLogObserver(observer, [self._level]))
