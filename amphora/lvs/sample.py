"""
What is told of a UDP or SCTP listener, worked out from its configuration and from what the kernel balances.

Its keepalived takes a member that fails its check out of the kernel's services and puts it back when it is well again;
so a member is up if the kernel lists it.  Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from amphora.lvs.config import Member, VirtualServer
from amphora.lvs.kernel import Ipvs, RealServer, Service, Table
from amphora.lvs.run import LvsRun
from amphora.process import ProcessIdentity
from amphora.sample import Answer, ListenerState, PoolState, Reading, Traffic


@frozen
class LvsSample:
    """
    One listener that should be told of.

    `answer` and `worker` are None where its keepalived does not run or the kernel could not be asked, `traffic` also
    where its counters could not be read.  It is an L{amphora.sample.Sample}.
    """

    listener_id: str
    answer: Answer | None = None
    worker: ProcessIdentity | None = None
    traffic: Traffic | None = None
    """What the listener's services carried since they were set up."""

    @property
    def source_id(self) -> str:
        return self.listener_id

    @property
    def name(self) -> str:
        return f"keepalived of {self.listener_id}"

    @property
    def readings(self) -> tuple[Reading, ...]:
        if self.worker is None or self.traffic is None:
            return ()
        return (Reading(self.worker, {self.listener_id: self.traffic}, outlasting=True),)


def sample_of(run: LvsRun, ipvs: Ipvs | None) -> LvsSample:
    """
    Tell what a heartbeat says of one listener.  One that is disabled is not spoken of.

    @param ipvs: What the kernel says; None where it could not be asked.
    """
    if run.process is None or ipvs is None:
        return LvsSample(run.listener_id)
    if run.config.disabled:
        return LvsSample(run.listener_id, Answer({}, {}), run.process)
    services = [service for server in run.config.virtual_servers for service in _services(server)]
    current = sum(server.active for service in services for server in ipvs.table.get(service, {}).values())
    return LvsSample(
        run.listener_id,
        Answer({run.listener_id: ListenerState("OPEN", current)}, _pools(run, ipvs.table)),
        run.process,
        _traffic(services, ipvs),
    )


def _services(server: VirtualServer) -> Iterator[Service]:
    """What the kernel knows a virtual server as: each of its addresses by itself."""
    for vip in server.vips:
        yield Service(server.protocol, vip.ip, vip.port)


def _traffic(services: Sequence[Service], ipvs: Ipvs) -> Traffic | None:
    """The sum over all services; None where one is missing that is there, as it would seem to have begun anew later."""
    if ipvs.counters is None or any(service in ipvs.table and service not in ipvs.counters for service in services):
        return None
    return sum((ipvs.counters.get(service, Traffic()) for service in services), Traffic())


def _pools(run: LvsRun, table: Table) -> dict[str, PoolState]:
    """The listener's pool, its families as one; none where it has none or it is disabled."""
    servers = [server for server in run.config.virtual_servers if server.pool_id and not server.pool_disabled]
    if not servers or servers[0].pool_id is None:
        return {}
    listed = [_listed(server, table) for server in servers]
    none_listed = not any(listed)
    members = {
        member.member_id: _member_status(member, its_listed, none_listed=none_listed, settled=run.settled)
        for server, its_listed in zip(servers, listed, strict=True)
        for member in server.members
    }
    checked = any(member.checked for server in servers for member in server.members)
    status = "DOWN" if checked and none_listed and run.settled else "UP"
    return {servers[0].pool_id: PoolState(status, members)}


def _listed(server: VirtualServer, table: Table) -> dict[tuple[str, int], RealServer]:
    """What the kernel lists below any of its addresses."""
    listed: dict[tuple[str, int], RealServer] = {}
    for service in _services(server):
        listed.update(table.get(service, {}))
    return listed


def _member_status(
    member: Member, listed: Mapping[tuple[str, int], RealServer], *, none_listed: bool, settled: bool
) -> str:
    if member.disabled:
        return "MAINT"
    found = listed.get((member.ip, member.port))
    if found is None and (member.checked or not none_listed):
        return "DOWN" if settled else "RESTARTING"
    if found is not None and found.weight == 0:
        return "DRAIN"
    return "UP" if member.checked else "no check"
