"""
What a heartbeat says: version 3 of the controller's message, built from what all sources answered.

    {"id": AMPHORA, "ver": 3, "seq": 17,
     "listeners": {LISTENER: {"status": "OPEN", "stats": {"tx": bytes sent to clients since the last heartbeat,
                                                          "rx": bytes received from clients since then,
                                                          "conns": connections open now,
                                                          "totconns": connections taken since then,
                                                          "ereq": invalid requests since then}}},
     "pools": {"POOL:LISTENER" | "POOL": {"status": "UP", "members": {MEMBER: "UP" | "DOWN 1/2" | "no check" | ...}}},
     "topology": "SINGLE", "topology_status": "OK" | "TOPOLOGY-CHANGE", "role": "ACTIVE" | "STANDBY"}

The states are haproxy's own words, and RESTARTING for a member of a UDP or SCTP listener; only such a listener's pool
is told without the listener.  The last three keys are ours: Octavia passes them over.

Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypedDict

from amphora.health.envelope import MAX_DATAGRAM, seal
from amphora.sample import Answer, ListenerState, Traffic
from amphora.vrrp.standing import ALONE, Standing

VERSION: Final = 3
"""Since version 3 of the message, its figures (all but `conns`) are what came since the last one."""


class ListenerStats(TypedDict):
    """The figures of one listener."""

    tx: int
    rx: int
    conns: int
    totconns: int
    ereq: int


class Listener(TypedDict):
    """One listener as a heartbeat tells it."""

    status: str
    stats: ListenerStats


class Pool(TypedDict):
    """One pool as a heartbeat tells it: its members' states by their names."""

    status: str
    members: dict[str, str]


class Message(TypedDict):
    """One heartbeat's message."""

    id: str
    ver: int
    seq: int
    listeners: dict[str, Listener]
    pools: dict[str, Pool]
    topology: str
    topology_status: str
    role: str


class TooLarge(Exception):
    """The listeners and pools alone, without any member, are more than a datagram holds."""


def build(
    amphora_id: str,
    sequence: int,
    answers: Iterable[Answer],
    traffic: Mapping[str, Traffic],
    standing: Standing = ALONE,
) -> Message:
    """
    Make the message of one heartbeat.

    @param answers: What all sources say that are to be told of.
    @param traffic: By listener id, what came since the last heartbeat; nothing for a listener that is not there.
    @param standing: The amphora's place among its peers.
    """
    listeners: dict[str, ListenerState] = {}
    pools: dict[str, Pool] = {}
    for answer in answers:
        for listener_id, state in answer.listeners.items():
            listeners[listener_id] = listeners[listener_id] + state if listener_id in listeners else state
        for key, pool in answer.pools.items():
            pools[key] = Pool(status=pool.status, members=dict(pool.members))
    return Message(
        id=amphora_id,
        ver=VERSION,
        seq=sequence,
        listeners={each: _listener(state, traffic.get(each, Traffic())) for each, state in listeners.items()},
        pools=pools,
        topology=standing.topology,
        topology_status=standing.status,
        role=standing.role,
    )


def fit(message: Message, key: str, left_out: int = 0) -> tuple[bytes, int]:
    """
    Seal a message into a datagram that UDP can carry, without as many members as it must leave out.

    Left out are first members that are not checked (the controller never misses those), then members of pools that
    are up and have none down, then any.  Listeners always stay, and so do pools as long as there is room for them
    without any member: some 800 listeners with a pool each.

    @param left_out: How many the last heartbeat left out.  As long as that number still serves it is kept: a number
        that moved with every digit would have members come and go at the controller.
    @return: The datagram and how many members it leaves out.
    @raise TooLarge: if there is not even room for the listeners.
    """
    expendable = _expendable(message["pools"])
    as_before = seal(key, _without(message, expendable[:left_out])) if left_out else b""
    serves = _WELL_FILLED <= len(as_before) <= MAX_DATAGRAM and left_out <= len(expendable)
    if serves and left_out * _BYTES_OF_A_UUID > MAX_DATAGRAM:
        return as_before, left_out
    whole = seal(key, message)
    if len(whole) <= (_AIM if left_out else MAX_DATAGRAM):
        return whole, 0
    if serves:
        return as_before, left_out
    return _search(message, key, expendable, len(whole))


_WELL_FILLED: Final = MAX_DATAGRAM * 92 // 100
_AIM: Final = MAX_DATAGRAM * 97 // 100
"""Where the search aims at: with some room above, for figures with more digits and for members whose state changes."""
_BYTES_OF_A_UUID: Final = 16
"""What a member's name costs at least: where more are left out than a datagram has room for, trying all is in vain."""


def _search(message: Message, key: str, expendable: Sequence[tuple[str, str]], longest: int) -> tuple[bytes, int]:
    """
    Find how many must go, with few compressions.

    Members cost about the same each, so a straight line between a number that is too small and one that is large
    enough nearly always hits at once; every second guess halves instead, so that a strange message cannot make it long.

    @param longest: The length of the datagram that leaves out none.
    """
    too_few, enough, halve = 0, len(expendable), False
    best = seal(key, _without(message, expendable))
    if len(best) > MAX_DATAGRAM:
        # A controller that misses a pool shows it as OFFLINE; one that misses a listener, or hears nothing, replaces
        # the whole amphora.
        best = seal(key, Message({**message, "pools": {}}))
        if len(best) > MAX_DATAGRAM:
            raise TooLarge(f"{len(best)} bytes for the listeners alone, and a datagram holds {MAX_DATAGRAM}")
        return best, enough
    while enough - too_few > 1 and len(best) < _WELL_FILLED:
        share = 0.5 if halve else (longest - _AIM) / (longest - len(best))
        guess = min(max(too_few + round(share * (enough - too_few)), too_few + 1), enough - 1)
        datagram = seal(key, _without(message, expendable[:guess]))
        if len(datagram) <= MAX_DATAGRAM:
            enough, best = guess, datagram
        else:
            too_few, longest = guess, len(datagram)
        halve = not halve
    return best, enough


def _expendable(pools: Mapping[str, Pool]) -> list[tuple[str, str]]:
    """All members, as pairs of pool and member, in the order in which they may be left out."""
    unchecked: list[tuple[str, str]] = []
    healthy: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for key, pool in pools.items():
        states = (pool["status"], *pool["members"].values())
        checked = others if any(status.startswith("DOWN") for status in states) else healthy
        for member, status in pool["members"].items():
            (unchecked if status == "no check" else checked).append((key, member))
    return unchecked + healthy + others


def _without(message: Message, members: Iterable[tuple[str, str]]) -> Message:
    gone: dict[str, set[str]] = {}
    for key, member in members:
        gone.setdefault(key, set()).add(member)
    pools = dict(message["pools"])
    for key, names in gone.items():
        pool = pools[key]
        kept = {member: status for member, status in pool["members"].items() if member not in names}
        pools[key] = Pool(status=pool["status"], members=kept)
    return Message({**message, "pools": pools})


def _listener(state: ListenerState, traffic: Traffic) -> Listener:
    return Listener(
        status=state.status,
        stats=ListenerStats(
            tx=traffic.tx,
            rx=traffic.rx,
            conns=state.current,
            totconns=traffic.totconns,
            ereq=traffic.ereq,
        ),
    )
