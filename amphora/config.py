"""
The agent's configuration: the `amphora-agent.conf` that an Octavia controller writes, read into `Settings`.

The format is oslo.config's INI, without its interpolation.  `OPTIONS` is the one table of what the file may say: where
each option stands, how it is read, its default and what an operator should know.
`python -m amphora.config` prints `conf/amphora-agent.conf.sample` from these declarations.
"""

from __future__ import annotations

import io
import ipaddress
import os
import posixpath
import re
import textwrap
import uuid
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from attrs import define, field, frozen

ClientAuth = Literal["answer", "handshake"]
TLSProtocol = Literal["SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
LoadBalancerTopology = Literal["SINGLE", "ACTIVE_STANDBY"]

_LONGEST_BASE_PATH = 107 - len(f"/{uuid.UUID(int=0)}/master.sock") - len(".1234567.tmp")
"""
In bytes.  A UNIX socket's path has at most 107; the longest of ours is an instance's master socket, which haproxy
binds under a temporary name that adds its process id (up to seven digits).
"""


class ConfigError(Exception):
    """The configuration cannot be used; the text is one line: file, section, option, what is wrong, what is allowed."""


@frozen
class Controller:
    """Where heartbeats go: an address or a host name, an IPv6 address without brackets, and a UDP port."""

    host: str
    port: int


@frozen
class Kind:
    """
    One type of value: how its text is read, and what is allowed, in words that follow "allowed:".

    `read` takes the text and a callback for remarks on what it left out; it raises `ValueError` with the problem, in
    words that follow the value.
    """

    read: Callable[[str, Callable[[str], None]], object]
    allowed: str


@frozen
class Option:
    """One option of the file.  A second section is where the option is looked for when the first has none."""

    name: str
    sections: tuple[str, ...]
    kind: Kind
    default: str | None
    """As it would be written in the file; None where the file must say it."""
    description: str
    secret: bool = False
    live: bool = False
    """Whether another value is in force at once; of all others, it is at the agent's next start."""

    @property
    def title(self) -> str:
        """The option as errors and logs name it."""
        return f"[{self.sections[0]}] {self.name}"


def _kind(allowed: str) -> Callable[[Callable[[str], object]], Kind]:
    """Make a `Kind` of a function that reads a text and has no remarks."""
    return lambda read: Kind(lambda text, _remark: read(text), allowed)


@_kind("true or false")
def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    if (value := words.get(text.lower())) is None:
        raise ValueError("is neither true nor false")
    return value


def _whole_number(lowest: int, highest: int) -> Kind:
    @_kind(f"a whole number from {lowest} to {highest}")
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError("is not a whole number")
        if not lowest <= (value := int(text)) <= highest:
            raise ValueError("is out of range")
        return value

    return read


def _seconds(lowest: float, highest: float) -> Kind:
    @_kind(f"a number of seconds from {lowest:g} to {highest:g}")
    def read(text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text):
            raise ValueError("is not a number")
        if not lowest <= (value := float(text)) <= highest:
            raise ValueError("is out of range")
        return value

    return read


def _one_of(*names: str) -> Kind:
    @_kind(", ".join(names[:-1]) + " or " + names[-1])
    def read(text: str) -> str:
        if text not in names:
            raise ValueError("is not known")
        return text

    return read


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("is not an absolute path")
    if not text.isprintable():
        raise ValueError("contains a character that cannot be printed")
    return posixpath.normpath("/" + text.lstrip("/"))


_absolute_path = _kind("an absolute path")(_path)


@_kind(f"an absolute path of at most {_LONGEST_BASE_PATH} bytes")
def _base_path(text: str) -> str:
    path = _path(text)
    if (length := len(os.fsencode(path))) > _LONGEST_BASE_PATH:
        raise ValueError(f"is {length} bytes long, too long for the UNIX sockets below it")
    return path


def _ip_address(text: str) -> str:
    try:
        if re.fullmatch(r"[0-9A-Fa-f.:]+(%[0-9A-Za-z._-]+)?", text):
            return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    raise ValueError("is not an IP address")


_address = _kind("an IPv4 or IPv6 address, without brackets")(_ip_address)


@_kind("a UUID, as in 6b1f0c5e-8f5b-4d0e-9a53-0c9a3d1f2b7e")
def _uuid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError("is not a UUID")
    return text.lower()


@_kind("text on one line; nothing or None for no key")
def _key(text: str) -> str | None:
    if "\n" in text:
        raise ValueError("spans several lines")
    return None if text in {"", "None"} else text


@_kind("up to 255 letters, digits, '.', '_' and '-', the first no '.' or '-'; nothing for the agent's own namespace")
def _namespace(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,254})?", text):
        raise ValueError("cannot be the name of a network namespace")
    return text


_OTHER_FACILITIES = (
    "AUTH",
    "AUTHPRIV",
    "CRON",
    "DAEMON",
    "FTP",
    "KERN",
    "LPR",
    "MAIL",
    "NEWS",
    "SYSLOG",
    "USER",
    "UUCP",
)


@_kind(", ".join(("LOG_LOCAL0 to LOG_LOCAL7", *(f"LOG_{name}" for name in _OTHER_FACILITIES))))
def _facility(text: str) -> str:
    name = text.upper().removeprefix("LOG_")
    if name not in _OTHER_FACILITIES and not re.fullmatch("LOCAL[0-7]", name):
        raise ValueError("is not known")
    return f"LOG_{name}"


_CONTROLLERS = "address:port, [IPv6 address]:port or host name:port, separated by commas"


def _read_controllers(text: str, remark: Callable[[str], None]) -> tuple[Controller, ...]:
    """An entry that cannot be used is told and left out: the other controllers must still hear us."""
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(_controller(entry))
        except ValueError as problem:
            remark(f"the entry {_shown(entry)} {problem} and is skipped; allowed: {_CONTROLLERS}")
    return tuple(found)


def _controller(entry: str) -> Controller:
    host, colon, port = entry.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("does not end in a port from 1 to 65535")
    if bracketed := host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if bracketed or ":" in host or re.fullmatch(r"[0-9.]*", host):
        return Controller(_ip_address(host), int(port))
    if len(host) > 253 or not all(map(_is_label, host.removesuffix(".").split("."))):
        raise ValueError("has no valid host name")
    return Controller(host, int(port))


def _is_label(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", text) is not None


@frozen(kw_only=True)
class Settings:
    """
    All that the configuration file says, checked; made by `load_settings` or `read_settings`.

    Each field is the option of the same name in `OPTIONS`, which tells what it is for; times are in seconds, sizes in
    bytes, paths absolute.
    """

    debug: bool
    use_syslog: bool
    syslog_log_facility: str
    base_path: str
    base_cert_dir: str
    bind_host: str
    bind_port: int
    haproxy_cmd: str
    user_log_facility: int
    administrative_log_facility: int
    controller_ip_port_list: tuple[Controller, ...]
    heartbeat_interval: int
    heartbeat_key: str | None = field(repr=False)
    agent_server_ca: str
    agent_server_cert: str
    agent_server_network_dir: str
    agent_request_read_timeout: int
    amphora_id: str
    agent_tls_protocol: TLSProtocol
    network_namespace: str
    max_body_size: int
    client_auth: ClientAuth
    require_memory_fs: bool
    heartbeat_on_change: bool
    change_poll_interval: float
    loadbalancer_topology: LoadBalancerTopology
    notes: tuple[str, ...]
    """What an operator should know of a file that can be used: one line for each thing that was left aside."""


OPTIONS: Final = (
    Option(
        "debug",
        ("DEFAULT",),
        _switch,
        "False",
        "Log what helps to find a fault: each request and each command, never keys or bodies.",
        live=True,
    ),
    Option(
        "use_syslog",
        ("DEFAULT",),
        _switch,
        "True",
        "Send the agent's log to syslog as well.",
    ),
    Option(
        "syslog_log_facility",
        ("DEFAULT",),
        _facility,
        "LOG_LOCAL1",
        "The syslog facility of the agent's own log. Where it is not given, it follows "
        "administrative_log_facility: LOG_LOCAL and that number.",
    ),
    Option(
        "base_path",
        ("haproxy_amphora",),
        _base_path,
        "/var/lib/octavia",
        "Where load balancers are kept: one directory each, with its configuration, state and sockets. The "
        "length is limited because a UNIX socket's path is. The controller must be told the same path.",
    ),
    Option(
        "base_cert_dir",
        ("haproxy_amphora",),
        _absolute_path,
        "/var/lib/octavia/certs",
        "Where the certificates and private keys of load balancers are kept: one directory each. It belongs "
        "on a memory file system (tmpfs or ramfs); see require_memory_fs.",
    ),
    Option(
        "bind_host",
        ("haproxy_amphora",),
        _address,
        "::",
        "The address that the REST API listens on. '::' is every address, of IPv6 and of IPv4.",
    ),
    Option(
        "bind_port",
        ("haproxy_amphora",),
        _whole_number(0, 65535),
        "9443",
        "The TCP port that the REST API listens on. 0 takes any free one; the log tells which.",
    ),
    Option(
        "haproxy_cmd",
        ("haproxy_amphora",),
        _absolute_path,
        "/usr/sbin/haproxy",
        "The haproxy program itself: by a script that runs it no later agent would know it again.",
    ),
    Option(
        "user_log_facility",
        ("haproxy_amphora", "amphora_agent"),
        _whole_number(0, 7),
        "0",
        "The number of the LOG_LOCAL syslog facility for the users' traffic.",
    ),
    Option(
        "administrative_log_facility",
        ("haproxy_amphora", "amphora_agent"),
        _whole_number(0, 7),
        "1",
        "The number of the LOG_LOCAL syslog facility for what haproxy, keepalived and the agent say of themselves.",
    ),
    Option(
        "controller_ip_port_list",
        ("health_manager",),
        Kind(_read_controllers, _CONTROLLERS),
        "",
        "The controllers that heartbeats are sent to, in turn, by UDP. An entry that cannot be used is logged "
        "and skipped. Without any, no heartbeat is sent.",
        live=True,
    ),
    Option(
        "heartbeat_interval",
        ("health_manager",),
        _whole_number(1, 3600),
        "10",
        "Seconds from one heartbeat to the next. A controller replaces an amphora that it has not heard for a "
        "while (60 s by default).",
        live=True,
    ),
    Option(
        "heartbeat_key",
        ("health_manager",),
        _key,
        "",
        "The secret that heartbeats are signed with; the controller has the same.",
        secret=True,
        live=True,
    ),
    Option(
        "agent_server_ca",
        ("amphora_agent",),
        _absolute_path,
        "/etc/octavia/certs/client_ca.pem",
        "The certificates (PEM) of the authority that signs the controllers' certificates. Who shows no "
        "certificate of this authority is refused.",
    ),
    Option(
        "agent_server_cert",
        ("amphora_agent",),
        _absolute_path,
        "/etc/octavia/certs/server.pem",
        "The agent's own certificate and its private key, in one file (PEM).",
    ),
    Option(
        "agent_server_network_dir",
        ("amphora_agent",),
        _absolute_path,
        "/etc/octavia/interfaces",
        "Where the descriptions of plugged network interfaces are kept.",
    ),
    Option(
        "agent_request_read_timeout",
        ("amphora_agent",),
        _whole_number(1, 86400),
        "180",
        "Seconds that a client has for sending a whole request body.",
    ),
    Option(
        "amphora_id",
        ("amphora_agent",),
        _uuid,
        None,
        "This amphora's id, by which the controller knows it.",
    ),
    Option(
        "agent_tls_protocol",
        ("amphora_agent",),
        _one_of(*get_args(TLSProtocol)),
        "TLSv1.2",
        "The oldest TLS version that the REST API takes. What is older than TLSv1.2 means TLSv1.2.",
    ),
    Option(
        "network_namespace",
        ("amphora_agent",),
        _namespace,
        "amphora-haproxy",
        "The network namespace that haproxy and keepalived run in. Empty: the one that the agent runs in.",
    ),
    Option(
        "max_body_size",
        ("amphora_agent",),
        _whole_number(1024, 1024**3),
        str(16 * 1024**2),
        "The largest request body in bytes that the REST API takes.",
    ),
    Option(
        "client_auth",
        ("amphora_agent",),
        _one_of(*get_args(ClientAuth)),
        "answer",
        "How a client without a valid certificate is refused: 'answer' tells it HTTP status 401, 'handshake' "
        "ends the TLS handshake.",
    ),
    Option(
        "require_memory_fs",
        ("amphora_agent",),
        _switch,
        "False",
        "Refuse to store private keys while base_cert_dir is not on a memory file system. Otherwise there is "
        "a warning at start only.",
    ),
    Option(
        "heartbeat_on_change",
        ("amphora_agent",),
        _switch,
        "True",
        "Send a heartbeat at once when a listener, pool or member changes its status, or the amphora its "
        "role; at most one each second.",
    ),
    Option(
        "change_poll_interval",
        ("amphora_agent",),
        _seconds(0.1, 3600.0),
        "1.0",
        "Seconds from one look for such changes to the next.",
    ),
    Option(
        "loadbalancer_topology",
        ("controller_worker",),
        _one_of(*get_args(LoadBalancerTopology)),
        "SINGLE",
        "Whether this amphora serves alone or is one of a pair. It counts for an amphora that nobody has told by the "
        "API, and that has neither a VIP nor a keepalived yet: another value turns nothing over that serves.",
        live=True,
    ),
)


_LEFT_ASIDE: Final = {("amphora_agent", "amphora_udp_driver")}
"""Options that the controller still writes and nobody needs: not worth a note."""


def load_settings(path: str) -> Settings:
    """Read the file at `path`.  Raises `ConfigError`."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"{_named(path)}: cannot be read: {reason}") from None
    return read_settings(data, path)


def read_settings(data: bytes, source: str) -> Settings:
    """Read a configuration that came from the file `source`, which the errors name.  Raises `ConfigError`."""
    source = _named(source)
    given = _parse(data, source)
    notes = _unknown(given, source)
    values: dict[str, Any] = {option.name: _read(option, given, source, notes) for option in OPTIONS}
    if ("DEFAULT", "syslog_log_facility") not in given:
        values["syslog_log_facility"] = f"LOG_LOCAL{values['administrative_log_facility']}"
    return Settings(**values, notes=tuple(notes))


@define
class _Given:
    """What the file says for one option: the lines of its value, and the number of the first."""

    line: int
    parts: list[str]


def _parse(data: bytes, source: str) -> dict[tuple[str, str], _Given]:
    """
    Each value of the file by section and option; the last one counts.

    The rules are those of oslo.config's own parser, which differ from configparser's.  The text of a line is never
    told: it may hold the heartbeat key.
    """
    try:
        lines = io.StringIO(data.decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as problem:
        number = data.count(b"\n", 0, problem.start) + 1
        raise ConfigError(f"{source}:{number}: the line is not text; allowed: UTF-8") from None
    found: dict[tuple[str, str], _Given] = {}
    section: str | None = None
    current: _Given | None = None
    for number, line in enumerate(map(str.rstrip, lines), 1):
        if current is not None and line.startswith((" ", "\t")):
            current.parts.append(line.strip())
            continue
        current = None
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]") and len(line) > 2:
            # Only DEFAULT is written in capitals; oslo.config takes other sections in any.
            section = line[1:-1] if line == "[DEFAULT]" else line[1:-1].lower()
            continue
        name, separator, value = _divided(line)
        if not separator or not name or line.startswith(("[", " ", "\t")):
            raise ConfigError(f"{source}:{number}: the line makes no sense; allowed: [section] or option = value")
        if section is None:
            raise ConfigError(f"{source}:{number}: the line stands in no section; allowed: [section] before it")
        current = found[section, name] = _Given(number, [_unquoted(value)])
    return found


def _divided(line: str) -> tuple[str, str, str]:
    """A line's option, the separator ('=' or ':', whichever is first; empty without one), and the value."""
    place = min((place for place in (line.find("="), line.find(":")) if place >= 0), default=len(line))
    return line[:place].strip(), line[place : place + 1], line[place + 1 :].strip()


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _read(option: Option, given: dict[tuple[str, str], _Given], source: str, notes: list[str]) -> object:
    """The option's value, from the first of its sections that has it.  Adds remarks on it to `notes`."""
    section = next((name for name in option.sections if (name, option.name) in given), option.sections[0])
    said = given.get((section, option.name))
    where = f"{source}{f':{said.line}' if said else ''}: [{section}] {option.name}"
    text = "\n".join(said.parts) if said else option.default
    if text is None:
        raise ConfigError(f"{where}: is missing; allowed: {option.kind.allowed}")
    try:
        return option.kind.read(text, lambda remark: notes.append(f"{where}: {remark}"))
    except ValueError as problem:
        shown = "the value" if option.secret else _shown(text)
        raise ConfigError(f"{where}: {shown} {problem}; allowed: {option.kind.allowed}") from None


def _unknown(given: dict[tuple[str, str], _Given], source: str) -> list[str]:
    """One note for each section or option that means nothing to us, with the line of the first of them."""
    known = {(section, option.name) for option in OPTIONS for section in option.sections} | _LEFT_ASIDE
    sections = {section for section, _ in known}
    strange: dict[str, int] = {}
    for (section, name), said in given.items():
        if (section, name) not in known:
            what = f"[{section}] {_named(name)}" if section in sections else f"the section [{_named(section)}]"
            strange.setdefault(what, said.line)
    return [f"{source}:{line}: {what} is not known, ignored" for what, line in strange.items()]


def _shown(text: str) -> str:
    """A value as errors show it: quoted, on one line, not endless."""
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _named(text: str) -> str:
    """A file, section or option as errors name it: as it is, unless that would break the line."""
    return text if text.isprintable() and len(text) <= 200 else _shown(text)


def sample() -> str:
    """The sample configuration: each option explained, commented out at its default."""
    lines = [
        "# The configuration of the amphora agent: the file that an Octavia controller writes into a new amphora.",
        "# Everything is commented out at its default; only amphora_id has none and must be given.",
        "# A line that begins with '#' or ';' is a comment; a '#' further on is part of the value.",
        "# A new file, which PUT /1.0/config brings or SIGHUP lets the agent read, is taken whole or not at all. Of it",
        "# those options are in force at once that say so, all others when the agent starts next.",
    ]
    section = ""
    for option in OPTIONS:
        if option.sections[0] != section:
            section = option.sections[0]
            lines += ["", f"[{section}]"]
        elsewhere = "".join(f" Also read from [{name}]." for name in option.sections[1:])
        lines.append("")
        at_once = " In force at once." if option.live else ""
        for paragraph in (option.description + elsewhere + at_once, f"Allowed: {option.kind.allowed}."):
            lines += textwrap.wrap(paragraph, 110, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"#{option.name} = {option.default or ''}".rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(sample(), end="")
