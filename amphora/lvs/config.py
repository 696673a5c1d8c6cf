"""
What a UDP or SCTP listener's configuration says of itself.

keepalived alone judges whether it is good; what is read here serves to tell of the listener.  Which addresses are whose
stands in comments that the controller writes for that purpose:

    # Configuration for Listener ID             or  # Listener ID is disabled
    virtual_server_group ipv4-group {
        10.0.0.2 53
    }
    virtual_server group ipv4-group {
        protocol UDP
        # Configuration for Pool ID             or  # Pool ID is disabled
        # Configuration for Member ID           or  # Member ID is disabled
        real_server 10.0.0.99 53 {
            weight 1
            MISC_CHECK {
            }
        }
    }

There is one `virtual_server` for each family that the load balancer has an address of, and none where the listener has
no pool, or where it or its load balancer is disabled.  A disabled pool tells no members; a disabled member has no
address, and is told in the family that it would have.  (octavia/common/jinja/lvs; keepalived.conf(5).)
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from attrs import define, field, frozen

PROTOCOLS: Final = ("UDP", "SCTP")

_COMMENT = re.compile(r"# (?:Configuration for (?P<kind>\w+) (?P<id>\S+)|(?P<off>\w+) (?P<off_id>\S+) is disabled)")
_COMMENT_SIGNS = ("#", "!")
_CHECKERS = ("_CHECK", "_GET")
"""How the names of all blocks end by which keepalived checks a member: `TCP_CHECK`, `HTTP_GET`."""


@frozen
class Vip:
    """An address, as L{ipaddress} writes it, and port that clients speak to."""

    ip: str
    port: int


@frozen
class Member:
    """
    A member of a pool.  One that is disabled has no address: its `ip` is empty then, its `port` and `weight` are 0.

    `checked` tells whether keepalived checks it.
    """

    member_id: str
    ip: str
    port: int
    weight: int
    disabled: bool
    checked: bool


@frozen
class VirtualServer:
    """What is balanced in one family: all addresses of the load balancer that are of it, to members that are too."""

    protocol: str
    """UDP or SCTP."""
    vips: tuple[Vip, ...]
    pool_id: str | None
    pool_disabled: bool
    members: tuple[Member, ...]


@frozen
class LvsConfig:
    """One listener."""

    listener_id: str
    disabled: bool
    virtual_servers: tuple[VirtualServer, ...]


@define
class _RealServer:
    member_id: str | None
    ip: str
    port: int
    weight: int = 1
    checked: bool = False

    def member(self, member_id: str) -> Member:
        return Member(member_id, self.ip, self.port, self.weight, disabled=False, checked=self.checked)


@define
class _Server:
    line: int
    group: str
    """The group that it serves; empty where it has an address of its own."""
    vips: list[Vip]
    protocol: str = ""
    pool_id: str | None = None
    pool_disabled: bool = False
    disabled_members: list[str] = field(factory=list)
    real_servers: list[_RealServer] = field(factory=list)

    def finished(self, groups: dict[str, list[Vip]]) -> VirtualServer:
        vips = groups.get(self.group, []) if self.group else self.vips
        families = {ip_address(vip.ip).version for vip in vips}
        if len(families) != 1:
            raise ValueError(f"line {self.line}: virtual_server {self.group} needs addresses, all of one family")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"line {self.line}: the protocol of this virtual_server is neither UDP nor SCTP")
        members = [each.member(each.member_id) for each in self.real_servers if each.member_id is not None]
        disabled = [Member(each, "", 0, 0, disabled=True, checked=False) for each in self.disabled_members]
        return VirtualServer(
            protocol=self.protocol,
            vips=tuple(vips),
            pool_id=self.pool_id,
            pool_disabled=self.pool_disabled,
            members=(*members, *disabled),
        )


@define
class _Parser:
    _line: int = 0
    _blocks: list[str] = field(factory=list)
    """The first words of the blocks that are open."""
    _listener_id: str | None = None
    _disabled: bool = False
    _groups: dict[str, list[Vip]] = field(factory=dict)
    _group: str = ""
    """The group that was opened last."""
    _servers: list[_Server] = field(factory=list)
    _member_id: str | None = None
    """Whose real server comes next."""

    def parse(self, text: str) -> LvsConfig:
        for self._line, line in enumerate(text.split("\n"), 1):
            self._comment(line.strip())
            self._words(line)
        if self._blocks:
            raise ValueError(f"line {self._line}: the text ends within {self._blocks[-1]}")
        if self._listener_id is None:
            raise ValueError(f"line {self._line}: the text ends without a comment that tells the listener's id")
        return LvsConfig(
            self._listener_id,
            self._disabled,
            tuple(server.finished(self._groups) for server in self._servers),
        )

    def _comment(self, line: str) -> None:
        found = _COMMENT.fullmatch(line)
        if found is None:
            return
        disabled = found["off"] is not None
        kind, name = (found["off"], found["off_id"]) if disabled else (found["kind"], found["id"])
        if kind == "Listener":
            self._listener_id, self._disabled = name, disabled
        elif self._blocks[:1] != ["virtual_server"]:
            return
        elif kind == "Pool":
            self._servers[-1].pool_id, self._servers[-1].pool_disabled = name, disabled
        elif kind == "Member" and disabled:
            self._servers[-1].disabled_members.append(name)
        elif kind == "Member":
            self._member_id = name

    def _words(self, line: str) -> None:
        words: list[str] = []
        for word in line.split():
            if word.startswith(_COMMENT_SIGNS):
                break
            if word == "{":
                self._open(words)
                words = []
            elif word == "}":
                self._take(words)
                if not self._blocks:
                    raise ValueError(f"line {self._line}: nothing is open that this brace could close")
                del self._blocks[-1]
                words = []
            else:
                words.append(word)
        self._take(words)

    def _open(self, words: list[str]) -> None:
        if not words:
            raise ValueError(f"line {self._line}: this brace opens nothing that has a name")
        keyword = words[0]
        if not self._blocks and keyword == "virtual_server_group":
            self._group = " ".join(words[1:2])
            self._groups[self._group] = []
        elif not self._blocks and keyword == "virtual_server":
            group = words[2] if words[1:2] == ["group"] and len(words) > 2 else ""
            vips = [] if group else [Vip(*self._address(words[1:]))]
            self._servers.append(_Server(self._line, group, vips))
        elif self._blocks == ["virtual_server"] and keyword == "real_server":
            member_id, self._member_id = self._member_id, None
            self._servers[-1].real_servers.append(_RealServer(member_id, *self._address(words[1:])))
        elif self._blocks == ["virtual_server", "real_server"] and keyword.endswith(_CHECKERS):
            self._servers[-1].real_servers[-1].checked = True
        self._blocks.append(keyword)

    def _take(self, words: list[str]) -> None:
        if not words:
            return
        if self._blocks == ["virtual_server_group"]:
            self._groups[self._group].append(Vip(*self._address(words)))
        elif self._blocks == ["virtual_server"] and words[0] == "protocol":
            self._servers[-1].protocol = " ".join(words[1:]).upper()
        elif self._blocks == ["virtual_server", "real_server"] and words[0] == "weight":
            self._servers[-1].real_servers[-1].weight = self._number(" ".join(words[1:]))

    def _address(self, words: list[str]) -> tuple[str, int]:
        if len(words) != 2:
            raise ValueError(f"line {self._line}: an address and a port are needed here")
        try:
            address = ip_address(words[0])
        except ValueError as problem:
            raise ValueError(f"line {self._line}: {problem}") from None
        return str(address), self._number(words[1])

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
            raise ValueError(f"line {self._line}: {text[:50]!r} is no number from 0 to 65535")
        return int(text)


def parse_config(content: bytes | str) -> LvsConfig:
    """
    Read a configuration as a controller writes it.

    @raise ValueError: naming the line and the problem, if it tells no listener, or braces, addresses or numbers in it
        are none.
    """
    return _Parser().parse(content if isinstance(content, str) else content.decode("utf-8", "replace"))
