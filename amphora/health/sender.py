"""
Sending heartbeats: on time, to one controller after the other, whatever else happens.

Each round reads what all sources say, makes one datagram of it and sends that to the controller whose turn it is;
where that one cannot be reached, to the next at once.  Nothing in a round can hold up the next: reading, the disk and
names that are looked up have deadlines, and what failed is logged while the rounds go on.

The sockets are plain non-blocking ones, one for each controller and connected to it, so that the kernel hands us the
ICMP errors that our datagrams cause: with IP_RECVERR (ip(7)) also that a host or a network cannot be reached, which it
keeps to itself otherwise, and that a packet filter or a full queue of our own has dropped one.  Twisted's UDP port does
not serve here: the epoll reactor takes such an error for a lost connection and closes the port, without a call to
C{connectionRefused} (seen with Twisted 26.10).
"""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from attrs import define, field, frozen
from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from amphora.blocking import BlockingCalls
from amphora.config import Controller
from amphora.health.counters import Counters
from amphora.health.message import TooLarge, build, fit
from amphora.sample import Answer, Sample, Traffic
from amphora.vrrp.standing import ALONE, Standing
from amphora.waiting import within

REMEMBERED_INTERVALS: Final = 2
"""For how many intervals the last answer of a source is told that does not answer any more."""

LOOKUP_AGE: Final = 60.0
"""Seconds after which a controller's name is looked up again, though its address works: controllers move."""

SHORTEST_GAP: Final = 1.0
"""Seconds at least from one heartbeat to one that is asked for in between."""

_READ_SHARE: Final = 0.5
"""Which part of an interval the sources have for their answers."""

_DISK_PATIENCE: Final = 1.0
_LOOKUP_PATIENCE: Final = 1.0
"""Seconds that one heartbeat waits for names to be looked up, however many there are."""
_REFUSAL_PAUSES: Final = (0.02, 0.08, 0.4)
"""
Seconds between the looks for a refusal after a datagram was sent.  It is there at once from this machine, and after one
round trip from another; no news after half a second counts as good news.
"""
_LATE_REFUSAL_PAUSES: Final = (0.5, 1.0, 1.0, 1.0)
"""
Those that follow where a controller's last refusal came later than that: the kernel asks three times, a second apart,
for a machine of our own network that is gone.
"""
_RECVERR: Final = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR, of linux/in.h and linux/in6.h."""

T = TypeVar("T")


def look_up(host: str, port: int) -> Sequence[str]:
    """
    Find the addresses of a name, of both families, the best first.  Waits for DNS: called in a thread.

    @raise OSError: if there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except UnicodeError:
        raise OSError(f"{host!r} is no host name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@frozen
class _Remembered:
    """A source's name, and when it answered what."""

    name: str
    heard: float
    answer: Answer


class LastAnswers:
    """
    What each source answered last, for those that do not answer now.

    A query that fails is not "no listeners": a controller takes an amphora for dead that misses one.
    """

    _log = Logger()

    def __init__(self, keep: float) -> None:
        """
        @param keep: Seconds for which an answer may stand in for one that did not come.
        """
        self.keep = keep
        self._answers: dict[str, _Remembered] = {}
        self._asked: dict[str, float] = {}
        """Since when those are asked that have not answered yet: what has just been started is no fault."""
        self._untold: dict[str, str] = {}

    def complete(self, samples: Iterable[Sample] | None, now: float) -> list[Answer]:
        """
        Tell what a heartbeat should speak of.

        @param samples: What all sources said just now; None if that could not be learnt of any.
        @param now: The clock's seconds.
        """
        earlier, self._answers = self._answers, {}
        heard: dict[str, tuple[str, Answer | None]]
        if samples is None:
            heard = {source_id: (last.name, None) for source_id, last in earlier.items()}
        else:
            heard = {sample.source_id: (sample.name, sample.answer) for sample in samples}
        untold: dict[str, str] = {}
        asked, self._asked = self._asked, {}
        complete = []
        for source_id, (name, answer) in heard.items():
            known = earlier.get(source_id) if answer is None else _Remembered(name, now, answer)
            if known is None:
                since = self._asked[source_id] = asked.get(source_id, now)
            else:
                since = known.heard
                self._answers[source_id] = known
            if now - since > self.keep:
                untold[source_id] = name
            elif known is not None:
                complete.append(known.answer)
        self._tell_changes(untold)
        return complete

    def _tell_changes(self, untold: dict[str, str]) -> None:
        for source_id in untold.keys() - self._untold.keys():
            self._log.error("{source} does not answer: no heartbeat tells of it", source=untold[source_id])
        for source_id in (self._untold.keys() - untold.keys()) & self._answers.keys():
            self._log.info("{source} answers: heartbeats tell of it", source=self._untold[source_id])
        self._untold = untold


class _Ledger:
    """The counters, in a thread and under a deadline: a disk that hangs holds up the figures, not the heartbeat."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, blocking: BlockingCalls, counters: Counters) -> None:
        self._reactor = reactor
        self._blocking = blocking
        self._counters = counters
        self._loaded = False
        self._busy = False
        self._late = False

    async def take(self, samples: Iterable[Sample]) -> Mapping[str, Traffic] | None:
        """Answer the traffic that counts as told from now on; None if it has to wait."""
        return None if self._busy else await self._in_time(self._take(samples))

    async def keep(self, samples: Iterable[Sample]) -> bool:
        """Write down the traffic that nobody is told of now; answer whether that was done."""
        return not self._busy and bool(await self._in_time(self._keep(samples)))

    async def put_back(self) -> None:
        """What the last L{take} answered was not told after all."""
        await self._in_time(self._put_back())

    async def _take(self, samples: Iterable[Sample]) -> Mapping[str, Traffic] | None:
        await self._load()
        deltas = self._counters.deltas(samples)
        if not await self._blocking.run(self._counters.advance, deltas):
            return None
        if self._late:
            await self._put_back()
        return deltas.traffic

    async def _keep(self, samples: Iterable[Sample]) -> bool:
        await self._load()
        return await self._blocking.run(self._counters.keep, self._counters.deltas(samples))

    async def _load(self) -> None:
        if not self._loaded:
            await self._blocking.run(self._counters.load)
            self._loaded = True

    async def _put_back(self) -> None:
        await self._blocking.run(self._counters.put_back)

    async def _in_time(self, work: Coroutine[Deferred[Any], Any, T]) -> T | None:
        try:
            return await within(self._reactor, _DISK_PATIENCE, Deferred.fromCoroutine(self._alone(work)))
        except TimeoutError:
            self._late = True
            self._log.error("the disk does not answer: heartbeats go on without traffic figures")
        except Exception:
            self._log.failure("the traffic figures failed: this heartbeat goes without them")
        return None

    async def _alone(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        self._busy = True
        try:
            return await work
        finally:
            self._busy = False
            if self._late:
                self._late = False
                self._log.info("the disk answers again: heartbeats tell traffic figures")


@frozen
class ControllerReport:
    """Whether a controller could be reached the last time that it was its turn; None before its first."""

    controller: Controller
    reachable: bool | None


@frozen
class HeartbeatReport:
    """
    What became of the heartbeats: how many left, how many bytes the last of these had, how many members the last one
    left out because they did not fit into a datagram, and the controllers.
    """

    sent: int
    size: int
    left_out: int
    controllers: tuple[ControllerReport, ...]


@frozen
class HeartbeatSettings:
    """What heartbeats are signed with, where they go, and how many seconds lie between them."""

    key: str | None = field(repr=False)
    controllers: tuple[Controller, ...]
    interval: float

    @property
    def missing(self) -> str | None:
        """The option without which no heartbeats can be sent; None where all is there."""
        if self.key is None:
            return "heartbeat_key"
        return None if self.controllers else "controller_ip_port_list"

    @property
    def remembered(self) -> float:
        """Seconds for which a haproxy's last answer is told."""
        return (REMEMBERED_INTERVALS + 0.5) * self.interval

    @property
    def patience(self) -> float | None:
        """
        Seconds without the end of a round after which a sender hangs; None where it has no rounds.

        From one end to the next are an interval and a round at most.  The longest round is one in which nothing
        answers: no haproxy, no disk, and no name of a controller.  One interval more is for a machine that is busy.
        """
        if self.missing is not None:
            return None
        deliveries = len(self.controllers) * (_LOOKUP_PATIENCE + 2 * sum(_REFUSAL_PAUSES))
        return 2 * self.interval + self.interval * _READ_SHARE + 2 * _DISK_PATIENCE + deliveries


@define(eq=False)
class _Destination:
    """One controller, and the socket that is connected to it while it can be reached."""

    controller: Controller
    reachable: bool | None = None
    """None until the first heartbeat was sent there."""
    looking_up: bool = False
    addresses: Sequence[str] = ()
    """Those of its name, as found last; none where they have to be found anew."""
    looked_up: float = 0.0
    """When its name was last asked for, in the clock's seconds."""
    address: str | None = None
    """The one that the socket is connected to."""
    refuses_late: bool = False
    """Did its last refusal come when nobody waited for it any more?"""
    _socket: socket.socket | None = None

    @property
    def name(self) -> str:
        return f"{self.controller.host} port {self.controller.port}"

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def connect(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(*_RECVERR[family], 1)
        self._socket.connect((address, self.controller.port))
        self.address = address

    def send(self, datagram: bytes) -> None:
        assert self._socket is not None
        self._socket.send(datagram)

    def check(self) -> None:
        """
        Ask the kernel what it heard of the datagrams sent.

        @raise OSError: what an ICMP error said, once.
        """
        code = 0 if self._socket is None else self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def disconnect(self) -> None:
        self.address = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Forget the socket and the addresses: at the next turn all is made anew, as all may have changed."""
        self.addresses = ()
        self.disconnect()


class HeartbeatSender(Service):
    """
    The heartbeats of one amphora.

    @ivar sent: How many heartbeats left.
    @ivar left_out: How many members the last one left out, because they did not fit into a datagram.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        blocking: BlockingCalls,
        look_ups: BlockingCalls,
        amphora_id: str,
        settings: HeartbeatSettings,
        samples: Callable[[], Awaitable[Sequence[Sample]]],
        counters: Counters,
        standing: Callable[[], Standing] = lambda: ALONE,
        taken: Callable[[Sequence[Sample]], None] = lambda _: None,
        silence: Callable[[], str | None] = lambda: None,
        round_done: Callable[[], None] = lambda: None,
        phase: Callable[[], float] = random.random,
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        """
        @param look_ups: Makes the calls of C{look_up}, each of which may hang for half a minute: nothing else may have
            to wait for its threads.
        @param settings: As it begins; see L{renew}.
        @param samples: Asks all sources that should be told of.  What takes longer than half an interval is not
            waited for.
        @param standing: The amphora's place among its peers.
        @param taken: Called with what C{samples} answered, when its traffic was told, or written down to be told.
        @param silence: Asked before each heartbeat why none may leave; None where one may.  An amphora that cannot do
            its work falls silent, so that its controller replaces it.
        @param round_done: Called whenever a round has come to its end, one in which nothing was to be sent, or nobody
            could be reached, as well; not after one that failed by a mistake of ours.
        @param phase: Which part of an interval, from 0 to 1, to wait between the first heartbeat and the second, so
            that amphorae that were started together do not all speak at once for good.
        @param look_up: Finds the addresses of a name and port.
        """
        self._reactor = reactor
        self._look_ups = look_ups
        self._amphora_id = amphora_id
        self._settings = settings
        self._renewed: HeartbeatSettings | None = None
        self._in_order = tuple(_Destination(controller) for controller in settings.controllers)
        self._destinations = deque(self._in_order)
        self._samples = samples
        self._standing = standing
        self._taken = taken
        self._silence = silence
        self._round_done = round_done
        self._silent = False
        self._ledger = _Ledger(reactor, blocking, counters)
        self._phase = phase
        self._look_up = look_up
        self._answers = LastAnswers(settings.remembered)
        self._loop = self._new_loop()
        self._first: IDelayedCall | None = None
        self._extra: IDelayedCall | None = None
        self._began = 0.0
        self._beating = False
        self._ended: list[Deferred[None]] = []
        self._interruptible: Deferred[Any] | None = None
        self._looking_until = 0.0
        self._unread = False
        self._unheard = False
        self._too_large = False
        self._size = 0
        self.sent = 0
        self.left_out = 0

    def report(self) -> HeartbeatReport:
        """What became of the heartbeats until now."""
        controllers = (ControllerReport(each.controller, each.reachable) for each in self._in_order)
        return HeartbeatReport(self.sent, self._size, self.left_out, tuple(controllers))

    def startService(self) -> None:
        super().startService()
        self._begin()

    def _new_loop(self) -> LoopingCall:
        loop = LoopingCall(self._beat)
        loop.clock = self._reactor
        return loop

    def _begin(self) -> None:
        """Begin the regular heartbeats, if there can be any."""
        missing = self._settings.missing
        if missing is not None:
            self._log.warn("no heartbeats are sent: {option} is not set", option=missing)
            return
        interval = self._settings.interval
        wait = self._phase() * interval
        self._first = self._reactor.callLater(wait, self._loop.start, interval)
        if wait > SHORTEST_GAP:
            # A controller waits for a new amphora's first one.
            self.beat_now()

    def renew(self, settings: HeartbeatSettings) -> None:
        """
        Send heartbeats by other settings: a round that is running ends as it began, then one leaves at once, to the
        first of the controllers that are new.
        """
        self._renewed = settings
        if not self._beating:
            self._renew()

    def _renew(self) -> None:
        settings, self._renewed = self._renewed, None
        before = self._settings
        if settings is None or settings == before:
            return
        self._settings = settings
        self._answers.keep = settings.remembered
        known = {each.controller: each for each in self._in_order}
        self._in_order = tuple(known.pop(each, _Destination(each)) for each in settings.controllers)
        for gone in known.values():
            gone.close()
        kept = [each for each in self._destinations if each in self._in_order]
        self._destinations = deque([*(each for each in self._in_order if each not in kept), *kept])
        if not self.running:
            return
        if settings.interval == before.interval and settings.missing is before.missing is None:
            self.beat_now()
        else:
            self._end()
            self._loop = self._new_loop()
            self._begin()

    def _end(self) -> None:
        """End the regular heartbeats, and one that was asked for."""
        for call in (self._first, self._extra):
            if call is not None and call.active():
                call.cancel()
        if self._loop.running:
            self._loop.stop()

    def stopService(self) -> Deferred[None]:
        """
        Stop.  What the running round waits for is cut short.

        @return: Fires when that round has ended and all sockets are closed.
        """
        super().stopService()
        self._end()
        if self._interruptible is not None:
            self._interruptible.cancel()
        return Deferred.fromCoroutine(self._finish())

    def beat_now(self) -> None:
        """Send a heartbeat between the regular ones, at most one a second: what is asked for meanwhile shares it."""
        speaks = self.running and self._first is not None and self._settings.missing is None
        if speaks and not (self._extra is not None and self._extra.active()):
            wait = max(0.0, self._began + SHORTEST_GAP - self._reactor.seconds())
            self._extra = self._reactor.callLater(wait, self._beat_between)

    def _beat_between(self) -> None:
        if self._beating:
            self._beat().addCallback(lambda _: self.beat_now())
        else:
            self._beat()

    def _beat(self) -> Deferred[None]:
        """Run a round, or join the one that is running; the answer fires at its end, and never fails."""
        ended: Deferred[None] = Deferred()
        self._ended.append(ended)
        if not self._beating:
            self._beating = True
            self._began = self._reactor.seconds()
            Deferred.fromCoroutine(self._guarded_round())
        return ended

    async def _guarded_round(self) -> None:
        try:
            await self._round()
            self._round_done()
        except Exception:
            if self.running:
                self._log.failure("a heartbeat failed; the next one is tried in its time")
        self._beating = False
        self._renew()
        ended, self._ended = self._ended, []
        for each in ended:
            each.callback(None)

    async def _finish(self) -> None:
        if self._beating:
            await self._beat()
        for destination in self._destinations:
            destination.close()

    async def leave(self) -> None:
        """
        Write down what was not told, for the next agent: called when the service has stopped, before what old workers
        of haproxy carried is forgotten.
        """
        if self._first is None:
            return
        reading = Deferred.fromCoroutine(self._ask())
        try:
            samples = await within(self._reactor, self._settings.interval * _READ_SHARE, reading)
            await self._ledger.keep(samples)
        except Exception:
            reading.cancel()
            self._log.failure("the last traffic figures are lost")

    async def _round(self) -> None:
        silent = self._falls_silent()
        samples = await self._read()
        told = self._answers.complete(samples, self._began)
        traffic = None if samples is None else await self._collect(samples, untold=silent or self._unheard)
        if silent:
            return
        delivered = False
        try:
            datagram = self._make(told, traffic or {})
            if datagram is not None:
                delivered = await self._deliver(datagram)
                self._unheard = not delivered
                if delivered:
                    self._size = len(datagram)
        finally:
            if traffic and not delivered:
                await self._ledger.put_back()
        self.sent += delivered

    def _falls_silent(self) -> bool:
        reason = self._silence()
        if reason is not None and not self._silent:
            self._log.error("no heartbeats are sent: {reason}", reason=reason)
        elif reason is None and self._silent:
            self._log.info("heartbeats are sent again")
        self._silent = reason is not None
        return self._silent

    async def _collect(self, samples: Sequence[Sample], *, untold: bool) -> Mapping[str, Traffic] | None:
        """Take the traffic to tell; None where it has to wait, as it does as long as no heartbeat gets through."""
        if untold:
            traffic, taken = None, await self._ledger.keep(samples)
        else:
            traffic = await self._ledger.take(samples)
            taken = traffic is not None
        if taken:
            self._taken(samples)
        return traffic

    async def _read(self) -> Sequence[Sample] | None:
        """Ask all sources; None if that failed as a whole or took too long."""
        reading = Deferred.fromCoroutine(self._ask())
        try:
            samples = await self._unless_stopped(within(self._reactor, self._settings.interval * _READ_SHARE, reading))
        except Exception as error:
            reading.cancel()
            if not self.running:
                raise
            if not self._unread:
                self._unread = True
                text = "the listeners could not be asked: heartbeats tell what was known last"
                if isinstance(error, TimeoutError):
                    # Nothing is wrong with the program: it, or whom it asks, had too much to do.
                    self._log.critical(text + " ({error})", error=error)
                else:
                    self._log.failure(text)
            return None
        if self._unread:
            self._unread = False
            self._log.info("the listeners could be asked again")
        return samples

    async def _ask(self) -> Sequence[Sample]:
        return await self._samples()

    def _make(self, answers: Sequence[Answer], traffic: Mapping[str, Traffic]) -> bytes | None:
        """Make the datagram; None, which is logged once, if there is no way to make it small enough."""
        key = self._settings.key
        assert key is not None
        try:
            message = build(self._amphora_id, self.sent, answers, traffic, self._standing())
            datagram, left_out = fit(message, key, self.left_out)
        except TooLarge as problem:
            if not self._too_large:
                self._too_large = True
                self._log.critical("no heartbeats are sent: {problem}", problem=problem)
            return None
        self._too_large = False
        if left_out and not self.left_out:
            self._log.warn(
                "a heartbeat does not hold all members: {left_out} are left out, which their controller may show as "
                "OFFLINE",
                left_out=left_out,
            )
        elif self.left_out and not left_out:
            self._log.info("a heartbeat holds all members again")
        self.left_out = left_out
        return datagram

    async def _deliver(self, datagram: bytes) -> bool:
        """Send to the first controller that can be reached, starting with the one whose turn it is."""
        in_turn: list[_Destination] = []
        last: list[_Destination] = []
        for destination in self._destinations:
            # To hear whether one of those refuses takes long: while others are there, no more than one is tried.
            waited_for = destination.refuses_late and any(each.refuses_late for each in in_turn)
            (last if self._was_refused(destination) or waited_for else in_turn).append(destination)
        self._destinations.rotate(-1)
        self._looking_until = self._reactor.seconds() + _LOOKUP_PATIENCE
        for destination in (*in_turn, *last):
            if await self._send(destination, datagram):
                return True
        return False

    def _was_refused(self, destination: _Destination) -> bool:
        """Did an answer to its last datagram come after we stopped waiting for one?"""
        try:
            destination.check()
        except OSError as problem:
            destination.refuses_late = True
            self._tell_unreachable(destination, problem)
            return True
        return False

    async def _send(self, destination: _Destination, datagram: bytes) -> bool:
        try:
            if destination.connected:
                destination.send(datagram)
                await self._hear_refusal(destination)
            else:
                await self._send_to_first(destination, await self._addresses(destination), datagram)
        except OSError as problem:
            self._tell_unreachable(destination, problem)
            return False
        if destination.reachable is False:
            self._log.info("heartbeats reach {controller} again", controller=destination.name)
        destination.reachable = True
        age = self._reactor.seconds() - destination.looked_up
        if destination.addresses and age > LOOKUP_AGE and not destination.looking_up:
            Deferred.fromCoroutine(self._look_again(destination, destination.address))
        return True

    async def _send_to_first(self, destination: _Destination, addresses: Sequence[str], datagram: bytes) -> None:
        """Connect to the first of the addresses that takes the datagram.  @raise OSError: what the last one says."""
        for address in addresses:
            try:
                destination.connect(address)
                destination.send(datagram)
                await self._hear_refusal(destination)
            except OSError:
                destination.disconnect()
                if address == addresses[-1]:
                    raise
            else:
                break

    async def _hear_refusal(self, destination: _Destination) -> None:
        for pause in (*_REFUSAL_PAUSES, *(_LATE_REFUSAL_PAUSES if destination.refuses_late else ())):
            destination.check()
            try:
                await self._unless_stopped(deferLater(self._reactor, pause))
            except CancelledError:
                return
        destination.check()
        destination.refuses_late = False

    async def _addresses(self, destination: _Destination) -> Sequence[str]:
        """
        Find a controller's addresses, in what is left of this heartbeat's patience.

        @raise OSError: if its name has none, or was not answered for yet.
        """
        host = destination.controller.host
        if isIPAddress(host) or isIPv6Address(host):
            return (host,)
        if destination.addresses:
            return destination.addresses
        if not destination.looking_up:
            looking_up = Deferred.fromCoroutine(self._find(destination))
            left = max(0.0, self._looking_until - self._reactor.seconds())
            with suppress(TimeoutError):
                return await self._unless_stopped(within(self._reactor, left, looking_up))
        raise TimeoutError("its name is still being looked up")

    async def _find(self, destination: _Destination) -> Sequence[str]:
        destination.looking_up = True
        destination.looked_up = self._reactor.seconds()
        try:
            controller = destination.controller
            destination.addresses = await self._look_ups.run(self._look_up, controller.host, controller.port)
            return destination.addresses
        finally:
            destination.looking_up = False

    async def _look_again(self, destination: _Destination, before: str | None) -> None:
        """See whether a name that works has moved.  While that cannot be learnt, its address stands."""
        try:
            addresses = await self._find(destination)
        except OSError:
            return
        if before not in addresses:
            self._log.info(
                "{controller} is at {addresses} now", controller=destination.name, addresses=", ".join(addresses)
            )
            destination.disconnect()

    def _tell_unreachable(self, destination: _Destination, problem: OSError) -> None:
        destination.close()
        if destination.reachable is not False:
            destination.reachable = False
            self._log.warn(
                "no heartbeats reach {controller}: {problem}",
                controller=destination.name,
                problem=problem.strerror or str(problem),
            )

    async def _unless_stopped(self, waiting: Deferred[T]) -> T:
        """Wait, until the service stops at the latest: then this raises L{CancelledError}."""
        self._interruptible = waiting
        if not self.running:
            waiting.cancel()
        try:
            return await waiting
        finally:
            self._interruptible = None
