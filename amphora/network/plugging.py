"""
The network of this amphora: what is plugged, and what becomes of it.

All that changes it is a job of one queue.  What is asked for is written down first; then the kernel is brought there by
differences and read again, until none is left.  Where that fails, all that was changed is undone, and the record too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.blocking import BlockingCalls
from amphora.jobs import JobQueue
from amphora.network import plan
from amphora.network.announcer import Announcer
from amphora.network.bind import Bind
from amphora.network.dhcp import Lease
from amphora.network.dhcp_client import DhcpClient, Wire
from amphora.network.errors import (
    AddressNotFound,
    BadAddress,
    InterfaceExists,
    InterfaceNotFound,
    InvalidRules,
    NetworkError,
    NetworkUnreadable,
    PlugFailed,
    RulesNotReplaced,
    What,
)
from amphora.network.filter_rules import FilterRule
from amphora.network.kernel import Kernel
from amphora.network.nft import NftFailed
from amphora.network.nftables import RuleSet, is_filtered
from amphora.network.packet_filter import PacketFilter
from amphora.network.plan import FIRST_NETWORK_NAME, FIRST_VIP_NAME, Found, Port, Sight, Vip, Wanted
from amphora.network.reconcile import place, reconcile
from amphora.network.records import Records
from amphora.network.requests import PortRequest, VipRequest
from amphora.network.state import IP, Address, Route, plain_ip
from amphora.network.steps import Add, AwaitUsable, Change, Rename, Step, StepFailed, undoing
from amphora.waiting import within

PATIENCE = 45.0
"""Seconds that a caller waits for a job, those before it included: a controller waits for 60."""
APPEARANCE = 1.0
"""Seconds that a link is waited for which is just being plugged into the machine."""
PUT_BACK_PATIENCE = 15.0
"""Seconds that a starting agent waits for its interfaces: a controller waits for its heartbeats."""
DETECTION = 10.0
"""
Seconds for an interface's addresses of IPv6 to be usable: duplicate address detection takes two as a rule, and for ever
where there is no carrier.
"""
FIRST_RETRY = 2.0
LONGEST_RETRY = 60.0
_POLL = 0.1
_PASSES = 5

T = TypeVar("T")
Work = Callable[[], Coroutine[Deferred[Any], Any, T]]


class Unsettled(Exception):
    """The network does not become what it should be; the text says why."""


@frozen
class Plugged:
    """An interface that was plugged, as it had been asked for before, if it was, and as it is asked for now."""

    interface: str
    before: Port | None
    asked: Port


@define(eq=False)
class Network:
    """Plugs VIPs and networks, puts them back after a reboot, and tells which interface has an address."""

    _log = Logger()

    _reactor: IReactorTime
    _blocking: BlockingCalls
    _kernel: Kernel
    _records: Records
    _filter: PacketFilter
    _keepalived_owns_vips: Callable[[], bool]
    """Is this amphora one of a pair, whose VIPs keepalived gives to one of both?"""
    _still_bound: Callable[[], Iterable[Bind]]
    """The addresses of all listeners that there are."""
    _open_wire: Callable[[str], Deferred[Wire]]
    """Opens the way to the DHCP servers at an interface of the amphora's namespace."""

    _ports: dict[str, Port] = field(init=False, factory=dict)
    """What is plugged, by MAC address."""
    _amiss: dict[str, str] = field(init=False, factory=dict)
    """Why what was plugged is not as it should be, by MAC address; it is tried again and again."""
    _in_place: set[str] = field(init=False, factory=set)
    """
    Which interfaces are known to be there, by MAC address: a DHCP server is asked at no other, whose name may be
    somebody else's.
    """
    _refused_routes: dict[str, frozenset[str]] = field(init=False, factory=dict)
    """What the kernel says to users' routes, by MAC address."""
    _retry: IDelayedCall | None = field(init=False, default=None)
    _pause: float = field(init=False, default=FIRST_RETRY)
    _clients: dict[str, DhcpClient] = field(init=False, factory=dict)
    """Who asks for an interface's address, by MAC address."""
    _released: bool = field(init=False, default=False)
    _announcer: Announcer = field(init=False)
    _jobs: JobQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._announcer = Announcer(self._reactor, self._blocking, self._kernel)
        self._jobs = JobQueue("network", lambda: None, (NetworkError,))

    # What can be asked and done

    @property
    def has_vips(self) -> bool:
        """Was a VIP plugged, here and now or before a reboot?"""
        return any(port.vips for port in self._ports.values())

    async def interface_of(self, text: str) -> str:
        """
        The name of the interface that has an address.

        @raise BadAddress, AddressNotFound, NetworkUnreadable: as they say.
        """
        ip = plain_ip(text)
        if ip is None:
            raise BadAddress(text)
        try:
            snapshot = await self._blocking.run(self._kernel.look)
        except OSError as error:
            raise NetworkUnreadable(_words(error)) from error
        for found in snapshot.addresses:
            if found.address.ip == ip and not found.duplicate:
                return snapshot.link_name(found.index)
        raise AddressNotFound(text)

    def plug_vip(self, request: VipRequest) -> Deferred[str]:
        """
        Give a VIP to the interface with this MAC address.  A repeat completes what is missing.

        @return: The interface's name.
        @raise InterfaceNotFound, PlugFailed: and nothing is changed.
        """

        async def job() -> str:
            def change(port: Port) -> Port:
                return port.with_vip(plan.vip_for(request, self._ports.values()))

            plugged = await self._plug_vips("VIP", request.mac, [request.ip], change)
            return plugged.interface

        return self._run_job("VIP", job)

    def plug_vips(self, request: PortRequest) -> Deferred[str]:
        """
        Give an interface the VIPs of a request of the API 1.0, and addresses of its own.

        @return: The interface's name.
        @raise InterfaceExists: if it had all that before; what was missing of it all the same is there now.
        @raise InterfaceNotFound, PlugFailed: and nothing is changed.
        """

        async def job() -> str:
            plugged = await self._plug_as_asked("VIP", request)
            if plugged.before == plugged.asked:
                raise InterfaceExists(plugged.interface)
            return plugged.interface

        return self._run_job("VIP", job)

    def plug_port(self, request: PortRequest) -> Deferred[Plugged]:
        """
        Give an interface the addresses of a request of the API 1.0, which may be one that has VIPs.

        @raise InterfaceNotFound, PlugFailed: and nothing is changed.
        """
        what: What = "vip" if request.vips else "network"

        async def job() -> Plugged:
            return await self._plug_as_asked(what, request)

        return self._run_job(what, job)

    def plug_network(self, mac: str) -> Deferred[str]:
        """
        Bring the interface with this MAC address up in the amphora's namespace.  A repeat completes what is missing.

        @return: The interface's name.
        @raise InterfaceNotFound, PlugFailed: and nothing is changed.
        """

        async def job() -> str:
            found, sight = await self._find("Port", mac)
            return (await self._plug("Port", found, sight, FIRST_NETWORK_NAME, lambda port: port)).interface

        return self._run_job("Port", job)

    def topology_changed(self) -> Deferred[None]:
        """
        Hand the VIPs over: keepalived owns them from now on, or no longer.

        Call it before keepalived starts, and after it has ended: an address that both have is taken from both.
        What does not work is logged and tried again.
        """

        async def job() -> None:
            await self._see_to([port.mac for port in self._ports.values() if port.vips])

        return self._run_job("VIP", job)

    def replace_rules(self, interface: str, rules: tuple[FilterRule, ...]) -> Deferred[None]:
        """
        Let these in by the interface of a VIP, and nothing else.

        Octavia sends rules for the ports that no security group guards (SR-IOV); so one that has rules is such a port
        from then on, whatever was told of it before.  There is one rule set: another interface's takes its place, and
        the one that had it before lets nothing in.

        @raise InvalidRules: if no VIP was plugged on it.
        @raise RulesNotReplaced: and nothing is changed.
        """

        async def job() -> None:
            port = next((port for port in self._ports.values() if port.name == interface and port.vips), None)
            if port is None:
                raise InvalidRules(f"{interface} is not the interface of a VIP that was plugged")
            guarded = evolve(port, is_sriov=True)
            ports = {**self._ports, port.mac: guarded}
            if guarded != port:
                try:
                    await self._blocking.run(self._records.save, guarded, self._wanted(guarded))
                except OSError as error:
                    raise RulesNotReplaced(f"the record of {interface} cannot be written: {_words(error)}") from error
            try:
                await self._filter.replace(self._ports.values(), ports.values(), RuleSet(port.mac, rules))
            except RulesNotReplaced:
                if guarded != port:
                    await self._record(port)
                raise
            self._ports = ports
            if guarded != port:
                await self._translate()
            self._log.info("{interface} lets in what {count} rules say", interface=interface, count=len(rules))

        def late(_: object, timeout: float) -> Failure:
            return Failure(RulesNotReplaced(f"not done within {timeout:g} s; it is still being worked on"))

        return self._jobs.run(job).addTimeout(PATIENCE, self._reactor, late)

    # What listeners need (amphora.loadbalancer.instance.Addresses)

    async def provide(self, binds: Iterable[Bind]) -> None:
        """
        See to it that VIPs that were taken away with their last listener are there again, before haproxy binds these.

        One that only a wildcard is on hinders nobody: haproxy can bind without it, and it is tried again.

        @raise PlugFailed: if one that a bind names cannot be given back.
        """
        wanted = list(binds)
        named = {plain_ip(bind.host) for bind in wanted}
        if not any(_bound(port, wanted) for port in self._ports.values()):
            # Whatever holds the queue up is no business of theirs.
            return

        async def job() -> None:
            for port in list(self._ports.values()):
                missing = [vip for vip in _bound(port, wanted) if not vip.in_use]
                await self._use(port, [vip for vip in missing if vip.ip in named], True)
                await self._use_if_possible(port.mac, [vip for vip in missing if vip.ip not in named])

        # What a job is just taking away is still there to see: whether something is to be done is for a job to say.
        await self._run_job("VIP", job)

    def bound(self, binds: Iterable[Bind]) -> None:
        """haproxy listens on these now: neighbours are told where they are, unless keepalived does that."""
        wanted = list(binds)
        if not self._keepalived_owns_vips():
            self._announcer.announce(
                (port.mac, vip.ip) for port in self._ports.values() for vip in _bound(port, wanted)
            )

    async def give_up(self, binds: Iterable[Bind]) -> None:
        """
        A listener that was bound to these is being deleted: a VIP that no other is bound to is taken away.

        keepalived's are left to it, and so are those that the API 1.0 plugged.
        """
        gone = list(binds)

        async def job() -> None:
            if self._keepalived_owns_vips():
                return
            for mac in list(self._ports):
                for vip in _bound(self._ports[mac], gone):
                    # Another listener may have come while the one before was taken away.
                    port = self._ports[mac]
                    if vip.in_use and not vip.lasting and vip not in _bound(port, self._still_bound()):
                        await self._use(port, [vip], False)

        try:
            await self._run_job("VIP", job)
        except NetworkError as error:
            self._log.error("A VIP without listeners cannot be taken away: {reason}", reason=str(error))

    async def _use_if_possible(self, mac: str, vips: Sequence[Vip]) -> None:
        port = self._ports[mac]
        try:
            await self._use(port, vips, True)
        except PlugFailed as error:
            self._ports[mac] = port.using(vips, True)
            await self._record(port)
            self._is_amiss(port, _words(error))
            self._retry_later()

    async def _use(self, port: Port, vips: Sequence[Vip], in_use: bool) -> None:
        if vips:
            await self._change(port, port.using(vips, in_use), "VIP")
            self._log.info(
                "{vips} on {interface}: {what}",
                vips=", ".join(str(vip.ip) for vip in vips),
                interface=port.name,
                what="given back to a listener" if in_use else "taken away with its last listener",
            )

    # When the agent starts and ends

    async def put_back(self) -> None:
        """
        Bring about what was plugged before, as after a reboot; what is there is not touched.

        What does not work is logged and tried again.
        """
        try:
            ports, problems = await self._blocking.run(self._records.load)
        except OSError as error:
            self._log.error("The records of interfaces cannot be read: {reason}", reason=_words(error))
            return
        for problem in problems:
            self._log.error("{problem}: not put back; plug it again", problem=problem)
        self._ports = {port.mac: port for port in ports}
        await self._filter.load(ports)

        async def job() -> None:
            await self._make_way()
            await self._see_to(list(self._ports))

        if ports:
            try:
                await within(self._reactor, PUT_BACK_PATIENCE, self._jobs.run(job))
            except TimeoutError:
                self._log.error(
                    "Interfaces are still being put back after {seconds:g} s: the agent goes on meanwhile",
                    seconds=PUT_BACK_PATIENCE,
                )
            except Exception:
                self._log.failure("What was plugged cannot be put back")

    async def release(self) -> None:
        """The agent ends: jobs are finished, the network is left as it is."""
        self._released = True
        for client in self._clients.values():
            client.stop()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        await self._jobs.finished()
        self._announcer.stop()

    async def _make_way(self) -> None:
        try:
            sight = await self._blocking.run(self._kernel.look_around)
            renames = [Rename(*squatter) for squatter in plan.squatters(self._ports.values(), sight)]
            await self._blocking.run(self._kernel.carry_out, renames)
        except (OSError, StepFailed) as error:
            self._log.error("The names of plugged interfaces are taken: {reason}", reason=_words(error))

    async def _see_to(self, macs: Iterable[str]) -> None:
        """Have what was plugged be as it should, as far as that can be had."""
        for mac in macs:
            port = self._ports.get(mac)
            if port is None:
                continue
            try:
                sight = await self._blocking.run(self._kernel.look_around)
                found = plan.find(mac, sight, plugged=True)
                if found is None:
                    raise Unsettled(f"{port.name} ({mac}) is not there")
                lowest = FIRST_VIP_NAME if port.vips else FIRST_NETWORK_NAME
                name = plan.name_for(found, port, lowest, self._ports.values(), sight)
                await self._change(port, evolve(port, name=name), "VIP", tolerant=True)
            except (OSError, Unsettled, PlugFailed) as error:
                self._is_amiss(port, _words(error))
            except Exception:
                self._log.failure("{interface} cannot be put back", interface=port.name)
            else:
                self._is_well(port)
        # Once for all: where nft hangs, each try takes its time.
        await self._translate()
        self._retry_later()

    def _is_amiss(self, port: Port, reason: str) -> None:
        self._in_place.discard(port.mac)
        if self._amiss.get(port.mac) != reason:
            self._amiss[port.mac] = reason
            self._log.error(
                "{interface} ({mac}) is not as it was plugged, which is tried again: {reason}",
                interface=port.name,
                mac=port.mac,
                reason=reason,
            )

    def _is_well(self, port: Port) -> None:
        if self._amiss.pop(port.mac, None) is not None:
            self._log.info("{interface} ({mac}) is as it was plugged", interface=port.name, mac=port.mac)

    def _retry_later(self) -> None:
        self._amiss = {mac: reason for mac, reason in self._amiss.items() if mac in self._ports}
        if not self._amiss and not self._filter.lacking:
            self._pause = FIRST_RETRY
        elif not self._released and (self._retry is None or not self._retry.active()):
            self._retry = self._reactor.callLater(self._pause, self._retry_now)
            self._pause = min(2 * self._pause, LONGEST_RETRY)

    def _retry_now(self) -> None:
        async def job() -> None:
            await self._see_to(list(self._amiss))

        self._jobs.run(job).addErrback(lambda reason: self._log.failure("interfaces cannot be put back", reason))

    # The jobs

    def _run_job(self, what: What, work: Work[T]) -> Deferred[T]:
        def late(_: object, timeout: float) -> Failure:
            return Failure(PlugFailed(what, f"not done within {timeout:g} s; it is still being worked on"))

        waiter = self._jobs.run(work)
        return waiter.addTimeout(PATIENCE, self._reactor, late)

    async def _find(self, what: What, mac: str) -> tuple[Found, Sight]:
        """
        Find a link that is there, or about to be.

        @raise InterfaceNotFound: if none appears.
        @raise PlugFailed: if the kernel does not tell.
        """
        deadline = self._reactor.seconds() + APPEARANCE
        asked = False
        while True:
            try:
                sight = await self._blocking.run(self._kernel.look_around)
            except OSError as error:
                raise PlugFailed(what, _words(error)) from error
            found = plan.find(mac, sight, plugged=mac in self._ports)
            if found is not None:
                return found, sight
            if not asked:
                asked = True
                await self._blocking.run(self._kernel.find_devices)
            elif self._reactor.seconds() >= deadline:
                self._log.warn("There is no interface to plug with the MAC address {mac}", mac=mac)
                raise InterfaceNotFound(mac)
            else:
                await deferLater(self._reactor, _POLL)

    async def _plug_as_asked(self, what: What, request: PortRequest) -> Plugged:
        def change(port: Port) -> Port:
            others = (other for other in self._ports.values() if other.mac != port.mac)
            return plan.as_asked(port, request, others)

        if request.vips:
            return await self._plug_vips(what, request.mac, [vip.ip for vip in request.vips], change)
        return await self._plug(what, *await self._find(what, request.mac), FIRST_NETWORK_NAME, change)

    async def _plug_vips(self, what: What, mac: str, ips: Collection[IP], change: Callable[[Port], Port]) -> Plugged:
        """Plug an interface that is to have these VIPs; no other that is there may have one of them."""
        found, sight = await self._find(what, mac)
        known = self._ports
        others = {port.mac: port for port in known.values() if port.mac != mac and any(map(port.has, ips))}
        for port in others.values():
            if plan.find(port.mac, sight, plugged=True) is not None:
                taken = ", ".join(str(ip) for ip in ips if port.has(ip))
                raise PlugFailed(what, f"{taken} is plugged on {port.name} ({port.mac})")
        # The interface that had it is gone: what remains of it holds neither table nor name.
        rests = [port.without_vips(ips) for port in others.values()]
        self._ports = {
            **{other: port for other, port in known.items() if other not in others},
            **{port.mac: port for port in rests if port.vips},
        }
        try:
            plugged = await self._plug(what, found, sight, FIRST_VIP_NAME, change)
        except Exception:
            self._ports = known
            for port in others.values():
                await self._record(port)
            raise
        for rest in rests:
            await self._record(rest)
        return plugged

    async def _plug(
        self, what: What, found: Found, sight: Sight, lowest: int, change: Callable[[Port], Port]
    ) -> Plugged:
        mac = found.link.mac
        before = self._ports.get(mac)
        name = plan.name_for(found, before, lowest, self._ports.values(), sight)
        after = change(Port(name, mac) if before is None else evolve(before, name=name))
        await self._change(before, after, what)
        self._is_well(after)
        self._log.info(
            "Plugged {interface} ({mac}){vips}",
            interface=name,
            mac=mac,
            vips="".join(f", {vip.ip}" for vip in after.vips),
        )
        return Plugged(name, before, after)

    async def _change(self, before: Port | None, after: Port, what: What, *, tolerant: bool = False) -> None:
        """
        Have record and kernel follow: both, or neither.

        @param tolerant: Do as much as can be done, and undo nothing.
        @raise PlugFailed: with the system's words.
        """
        wanted = self._wanted(after)
        had: frozenset[Address] = frozenset() if before is None else before.ours
        # Whoever comes after an agent that was killed in between has to know all that may be there.
        meanwhile = evolve(after, ours=had | wanted.addresses)
        done: list[Change] = []
        problems: list[str] = []
        try:
            await self._blocking.run(self._records.save, meanwhile, wanted)
        except OSError as error:
            words = f"the record of {after.name} cannot be written: {_words(error)}"
            if not tolerant:
                raise PlugFailed(what, words) from error
            self._log.error("{reason}", reason=words)
        try:
            if is_filtered(after):
                await self._filter.guard(_with(self._ports, after.mac, after).values())
        except NftFailed as error:
            if not tolerant:
                await self._record(after)
            raise PlugFailed(what, f"{after.name} would be open: {error}") from error
        try:
            await self._settle(meanwhile, wanted, done, problems if tolerant else None)
        except Exception as error:
            if not tolerant:
                await self._undo(done)
                if before is not None and done:
                    await self._return_to(before, meanwhile)
                await self._filter.restore(self._ports.values())
                await self._record(after)
            if not isinstance(error, OSError | StepFailed | Unsettled):
                raise
            raise PlugFailed(what, _words(error)) from error
        final = evolve(after, ours=meanwhile.ours if problems else wanted.addresses)
        self._ports = _with(self._ports, after.mac, final)
        for port in {final.name: final, **({} if before is None else {before.name: before})}.values():
            await self._record(port)
        if tolerant:
            self._tell_changes(after, done)
        else:
            await self._translate()
        added = {change.what for change in done if isinstance(change, Add)}
        self._announcer.announce((after.mac, each.ip) for each in wanted.addresses if not tolerant or each in added)
        self._in_place.add(after.mac)
        self._tend()
        if problems:
            raise PlugFailed(what, "\n".join(problems))

    def _tell_changes(self, port: Port, done: Sequence[Change]) -> None:
        if done:
            self._log.info(
                "Brought {interface} ({mac}) to what it should be: {count} changes, from {first!r} to {last!r}",
                interface=port.name,
                mac=port.mac,
                count=len(done),
                first=str(done[0]),
                last=str(done[-1]),
            )

    async def _translate(self) -> None:
        await self._filter.translate(self._ports.values())
        if self._filter.lacking:
            self._retry_later()

    def _tend(self) -> None:
        """Have a DHCP server asked for the address of each interface that should have one of it, and of no other."""
        wanting = {mac: port for mac, port in self._ports.items() if self._wanted(port).dhcp and not self._released}
        for mac, client in list(self._clients.items()):
            if mac not in wanting or client.interface != wanting[mac].name:
                client.stop()
                del self._clients[mac]
        for mac, port in wanting.items():
            if mac not in self._clients and mac in self._in_place:
                leased = partial(self._leased, mac)
                self._clients[mac] = DhcpClient(self._reactor, self._open_wire, port.name, mac, port.lease, leased)
                self._clients[mac].start()

    def _leased(self, mac: str, lease: Lease) -> None:
        async def job() -> None:
            port = self._ports.get(mac)
            if port is None:
                return
            if any(other.has(lease.ip) for other in self._ports.values()):
                self._log.error(
                    "{interface}: a DHCP server gives it {ip}, which is a VIP", interface=port.name, ip=str(lease.ip)
                )
                return
            self._log.info("{interface} was given {address}", interface=port.name, address=str(lease.address))
            self._ports[mac] = evolve(port, lease=lease)
            await self._see_to([mac])

        self._jobs.run(job).addErrback(lambda reason: self._log.failure("a lease cannot be used", reason))

    def _wanted(self, port: Port) -> Wanted:
        return plan.wanted(port, keepalived_owns_vips=self._keepalived_owns_vips())

    async def _record(self, named: Port) -> None:
        """Have the file of this name be the record of what is plugged with it, if anything is."""
        port = next((port for port in self._ports.values() if port.name == named.name), None)
        try:
            if port is None:
                await self._blocking.run(self._records.remove, named.name)
            else:
                await self._blocking.run(self._records.save, port, self._wanted(port))
        except OSError as error:
            self._log.error("The record of {interface}: {reason}", interface=named.name, reason=_words(error))

    async def _settle(self, port: Port, wanted: Wanted, done: list[Change], problems: list[str] | None) -> None:
        """
        Change the kernel until nothing differs.

        @param done: Takes what was changed.
        @param problems: Takes what did not work, and the rest goes on; without it, that is raised.
        @raise Unsettled, StepFailed, OSError: with the system's words.
        """
        tuned = False
        refused: dict[Route, str] = {}
        deadline = self._reactor.seconds() + DETECTION
        for _ in range(_PASSES):
            sight = await self._blocking.run(self._kernel.look_around)
            found = plan.find(port.mac, sight, plugged=True)
            if found is None:
                raise Unsettled(f"{port.name} ({port.mac}) is not there")
            steps: Sequence[Step] = place(found, port.name)
            if not steps and not tuned:
                tuned = True
                for problem in await self._blocking.run(self._kernel.apply_sysctls, wanted.sysctls):
                    self._log.warn("{interface}: {problem}", interface=port.name, problem=problem)
            if not steps:
                possible = evolve(wanted, routes=wanted.routes - refused.keys())
                steps = reconcile(found.link, port, possible, sight.inside)
            if not steps:
                self._tell_refused(port, refused.values())
                return
            await self._carry_out(steps, done, problems, deadline, wanted.optional, refused)
            if problems:
                return
        raise Unsettled("the kernel takes it, and yet it does not last: " + "; ".join(str(step) for step in steps))

    def _tell_refused(self, port: Port, reasons: Iterable[str]) -> None:
        told, self._refused_routes[port.mac] = self._refused_routes.get(port.mac), frozenset(reasons)
        for reason in sorted(self._refused_routes[port.mac] - (told or frozenset())):
            self._log.warn("{interface}: a host route cannot be had: {reason}", interface=port.name, reason=reason)

    async def _carry_out(
        self,
        steps: Sequence[Step],
        done: list[Change],
        problems: list[str] | None,
        deadline: float,
        optional: Collection[Route],
        refused: dict[Route, str],
    ) -> None:
        """@param refused: Takes the `optional` routes that the kernel refuses, and its words."""
        left = list(steps)
        while left:
            changes: list[Change] = []
            for step in left:
                if isinstance(step, AwaitUsable):
                    break
                changes.append(step)
            try:
                if changes:
                    await self._blocking.run(self._kernel.carry_out, changes)
                    done += changes
                    del left[: len(changes)]
                else:
                    awaited = left.pop(0)
                    assert isinstance(awaited, AwaitUsable)
                    await self._await_usable(awaited, deadline)
            except StepFailed as error:
                done += changes[: error.done]
                del left[: error.done + 1]
                match error.change:
                    case Add(what=Route() as route) if route in optional:
                        refused[route] = str(error)
                        continue
                if problems is None:
                    raise
                problems.append(str(error))
            except Unsettled as error:
                if problems is None:
                    raise
                problems.append(str(error))

    async def _await_usable(self, step: AwaitUsable, deadline: float) -> None:
        """@raise Unsettled: if somebody else has the address, or it is not found out in time."""
        while True:
            snapshot = await self._blocking.run(self._kernel.look)
            states = [
                found for found in snapshot.addresses if found.index == step.link.index and found.address.ip == step.ip
            ]
            if not states:
                raise Unsettled(f"{step.ip} on {step.link.name} is gone")
            if states[0].duplicate:
                raise Unsettled(f"{step.ip} is a duplicate address: another station has it")
            if states[0].usable:
                return
            if self._reactor.seconds() >= deadline:
                raise Unsettled(
                    f"whether another station has {step.ip} was not found out within {DETECTION:g} s: "
                    f"has {step.link.name} a carrier?"
                )
            await deferLater(self._reactor, _POLL)

    async def _undo(self, done: Sequence[Change]) -> None:
        for change in reversed(done):
            try:
                await self._blocking.run(self._kernel.carry_out, [undoing(change)])
            except StepFailed as error:
                self._log.error("Undoing what failed: {reason}", reason=str(error))

    async def _return_to(self, before: Port, meanwhile: Port) -> None:
        """
        See to what undoing could not: with its last address of IPv4 a link loses routes of which nothing is told.

        @param meanwhile: The interface, with all addresses that were given to it.
        """
        problems: list[str] = []
        try:
            await self._settle(evolve(before, ours=meanwhile.ours), self._wanted(before), [], problems)
        except (OSError, StepFailed, Unsettled) as error:
            problems.append(_words(error))
        if problems:
            self._is_amiss(before, "\n".join(problems))
            self._retry_later()


def _words(error: Exception) -> str:
    """What the system says."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _with(ports: Mapping[str, Port], mac: str, port: Port) -> dict[str, Port]:
    """
    Ports by MAC address, with one put in its place.

    Two never have one name, which is their record's: the other one takes the name that became free, or is forgotten.
    """
    changed = {known.mac: known for known in ports.values() if known.name != port.name}
    before = ports.get(mac)
    if before is not None and before.name != port.name:
        changed |= {known.mac: evolve(known, name=before.name) for known in ports.values() if known.name == port.name}
    return {**changed, mac: port}


def _bound(port: Port, binds: Iterable[Bind]) -> list[Vip]:
    """Which of an interface's VIPs these binds are on; a wildcard is on each."""
    binds = list(binds)
    return [vip for vip in port.vips if any(bind.overlaps(Bind(str(vip.ip), bind.port, port.name)) for bind in binds)]
