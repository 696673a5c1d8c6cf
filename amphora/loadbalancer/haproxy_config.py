"""
The little that we read from an uploaded haproxy configuration.

haproxy alone judges whether a configuration is good (`haproxy -c`); what is read here serves to describe it.
The text is never edited.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from attrs import field, frozen

from amphora.network.bind import Bind

_SECTIONS = frozenset(
    (
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "resolvers",
        "userlist",
        "mailers",
        "cache",
        "program",
        "http-errors",
        "ring",
        "log-forward",
        "fcgi-app",
    )
)

_LONGEST_LINE = 64 * 1024
"""Characters: haproxy itself reads lines of 2 kB, and a word of megabytes would hold everything else up."""

# haproxy configuration manual, 2.2: words are parted by blanks; quotes and a backslash take a blank's meaning
# away; a hash begins a comment.  Blanks are those of ASCII, and only a line feed ends a line.
_BLANKS = re.compile(r"\s*", re.ASCII)
_WORD = re.compile(r"""(?:[^\s"'\\#]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.ASCII)
_QUOTED = re.compile(r"""\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'""")
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


@frozen
class FrontendConfig:
    """A `frontend` or `listen` section: its name, its mode, its addresses, and whether any of them speaks TLS."""

    name: str
    mode: str
    tls: bool
    binds: tuple[Bind, ...] = ()


@frozen
class HaproxyConfig:
    """
    What a configuration says of itself.

    `members` is the number of servers; `own_group` tells that its global section names the group to run as;
    `state_file` is where it looks for its servers' state when it starts; `peers` are all that exchange tables, by name,
    with their addresses; `other_binds` are what it listens on for others than clients; `tls_cache` is for how many
    TLS sessions there is to be room, as far as it is said.
    """

    frontends: tuple[FrontendConfig, ...] = ()
    stats_sockets: tuple[Path, ...] = ()
    members: int = 0
    own_group: bool = False
    state_file: Path | None = None
    peers: tuple[tuple[str, Bind], ...] = ()
    other_binds: tuple[Bind, ...] = ()
    tls_cache: int = 0

    @property
    def weight(self) -> float:
        """
        How many seconds more than another it may take haproxy to judge it, or to load it.

        Octavia makes the TLS cache of half of the memory that is free, and haproxy fills it before anything else: 40
        million entries took it 17 s (2.6 on two cores).
        """
        return self.members / 1000 + self.tls_cache / 1_000_000

    @property
    def binds(self) -> frozenset[Bind]:
        """The addresses of its frontends: those that clients use."""
        return frozenset(bind for frontend in self.frontends for bind in frontend.binds)

    def addresses(self, peer: str) -> frozenset[Bind]:
        """All that a haproxy listens on which is this peer."""
        return self.binds | frozenset((*(bind for name, bind in self.peers if name == peer), *self.other_binds))


@frozen
class _Section:
    """`base` is the defaults section that it names as its own, as in `frontend NAME from BASE`."""

    kind: str
    name: str
    base: str | None = None
    lines: list[list[str]] = field(factory=list)


def parse_config(content: bytes) -> HaproxyConfig:
    """Read a configuration that haproxy has accepted; of any other text, what can be made out."""
    frontends: list[FrontendConfig] = []
    sockets: list[Path] = []
    members = 0
    own_group = False
    state_file: Path | None = None
    peers: list[tuple[str, Bind]] = []
    other_binds: list[Bind] = []
    tls_cache = 0
    default_mode = "tcp"
    named_modes: dict[str | None, str] = {}
    for section in _sections(content.decode("utf-8", "replace")):
        if section.kind == "global":
            for words in section.lines:
                if words[:2] == ["stats", "socket"] and len(words) > 2 and words[2].startswith("/"):
                    sockets.append(Path(words[2]))
                own_group = own_group or words[0] in ("group", "gid")
                if words[0] == "server-state-file" and len(words) > 1 and words[1].startswith("/"):
                    state_file = Path(words[1])
                if words[0] == "tune.ssl.cachesize" and len(words) > 1 and _NUMBER.fullmatch(words[1]):
                    tls_cache = int(words[1])
        elif section.kind == "defaults":
            # Every defaults section begins anew: what it does not say is haproxy's own default again.
            default_mode = named_modes[section.name] = _mode(section, named_modes.get(section.base, "tcp"))
        elif section.kind in ("frontend", "listen"):
            binds = [words for words in section.lines if words[0] == "bind"]
            frontends.append(
                FrontendConfig(
                    name=section.name,
                    mode=_mode(section, named_modes.get(section.base, default_mode)),
                    tls=any("ssl" in words[2:] for words in binds),
                    binds=tuple(bind for words in binds for bind in _binds(words[1:])),
                )
            )
        elif section.kind in ("peers", "log-forward"):
            other_binds += (bind for words in section.lines if words[0] == "bind" for bind in _binds(words[1:]))
            peers += (
                (words[1], bind)
                for words in section.lines
                if words[0] in ("peer", "server")
                for bind in _binds(words[2:])
            )
        if section.kind in ("backend", "listen"):
            members += sum(words[0] == "server" for words in section.lines)
    return HaproxyConfig(
        tuple(frontends), tuple(sockets), members, own_group, state_file, tuple(peers), tuple(other_binds), tls_cache
    )


def _binds(words: list[str]) -> list[Bind]:
    """
    The addresses of a `bind` line (configuration manual, 4.2 and 11), which are the first of these words; none, if
    there are no words.

    Left out is what cannot be told from the text alone: names, variables, sockets of other kinds, addresses of
    another namespace, and transparent ones, which may be anybody's.
    """
    options = words[1:]
    if "transparent" in options or "namespace" in options:
        return []
    interface = options[options.index("interface") + 1] if "interface" in options[:-1] else ""
    found: list[Bind] = []
    for text in words[0].split(",") if words else ():
        host, separator, ports = text.rpartition(":")
        kind, at, rest = host.partition("@")
        if at:
            if kind not in ("ipv4", "ipv6"):
                continue
            host = rest
        host = host.removeprefix("[").removesuffix("]")
        if host in ("", "*"):
            host = "::" if at and kind == "ipv6" else "0.0.0.0"
        first, _, last = ports.partition("-")
        if not separator or not first.isdecimal() or not (last or first).isdecimal():
            continue
        try:
            host = str(ip_address(host))
        except ValueError:
            continue
        found.extend(
            Bind(host, port, interface, "v6only" in options) for port in range(int(first), int(last or first) + 1)
        )
    return found


def _mode(section: _Section, default: str) -> str:
    modes = [words[1] for words in section.lines if words[0] == "mode" and len(words) > 1]
    return modes[-1] if modes else default


def _sections(text: str) -> list[_Section]:
    sections = [_Section("", "")]
    for line in text.split("\n"):
        words = _words(line[:_LONGEST_LINE])
        if not words:
            continue
        if words[0] in _SECTIONS:
            if words[:2] == ["defaults", "from"]:
                words.insert(1, "")
            base = words[3] if words[2:3] == ["from"] and len(words) > 3 else None
            sections.append(_Section(words[0], words[1] if len(words) > 1 else "", base))
        else:
            sections[-1].lines.append(words)
    return sections


def _words(line: str) -> list[str]:
    words = []
    position = 0
    while (blanks := _BLANKS.match(line, position)) and (found := _WORD.match(line, blanks.end())):
        words.append(_QUOTED.sub(_unquoted, found[0]))
        position = found.end()
    return words


def _unquoted(match: re.Match[str]) -> str:
    escaped, double, single = match.groups()
    if double is not None:
        return _ESCAPED.sub(r"\1", double)
    return escaped or single or ""
