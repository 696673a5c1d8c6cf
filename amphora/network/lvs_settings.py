"""
What the kernel has to be told before it balances UDP and SCTP (IPVS, `networking/ipvs-sysctl` of its documentation).

Nothing of this is done on an amphora without such listeners: one that forwards is a router between its networks.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.network.kernel import Kernel

SETTINGS: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # Without it, what is balanced passes the translation of addresses by.
    "net/ipv4/vs/conntrack": "1",
    # Without these, a member that is gone keeps its clients for up to five minutes.
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/ipv4/vs/expire_quiescent_template": "1",
}
"""Of the amphora's namespace, by path below `/proc/sys`; those of IPVS are there once its module is."""

LIMITS: Final = {
    "net/netfilter/nf_conntrack_buckets": 125_000,
    "net/netfilter/nf_conntrack_max": 125_000,
    "net/netfilter/nf_conntrack_expect_max": 488,
}
"""Of the machine: at least so many connections are remembered.  A full table drops what is new."""


@define(eq=False)
class LvsSettings:
    """Sees to it that the kernel is told."""

    _log = Logger()

    _blocking: BlockingCalls
    _kernel: Kernel
    _told: tuple[str, ...] = field(init=False, default=())

    async def apply(self, early: bool) -> None:
        """
        Set what is not so yet; what cannot be set is told in the log, once, and hinders nothing.

        Call it before a keepalived that balances is started, so that no flow begins without the settings, and again
        when it has come up, for that loads the module, or when one was found to run.

        @param early: Nothing is told yet: the settings of IPVS may only be there once keepalived has come up.
        """
        problems = (
            *await self._blocking.run(self._kernel.apply_sysctls, SETTINGS),
            *await self._blocking.run(self._kernel.raise_limits, LIMITS),
        )
        if early:
            return
        if problems and problems != self._told:
            self._log.warn(
                "UDP and SCTP listeners may lose or misdirect traffic, for kernel settings cannot be made: {problems}",
                problems="; ".join(problems),
            )
        self._told = problems
