"""
Requests that no controller would send, and those that one would, of every route that there is.

The routes are those of the applications: a new one is among them by itself.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Final
from urllib.parse import quote

from attrs import frozen
from hypothesis import strategies as st

from amphora.api.root import AmphoraAPI
from amphora.api.v0_1 import V01
from amphora.api.v1_0 import V10
from amphora.testing.pki import Authority, Part
from tests.damage import damaged
from tests.lvs.samples import LISTENER, configuration
from tests.vrrp.test_keepalived_config import OCTAVIA as KEEPALIVED

IDS: Final = tuple(f"11111111-0000-4000-8000-00000000000{number}" for number in (1, 2))
MAC, OTHER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
REFUSED: Final = b"# This is one to refuse\n"
"""In a configuration, what the program that checks it stumbles over."""

_ISSUED = Authority.create().issue("amphora")
_ODD_SEGMENTS = (
    "..",
    ".",
    "%2e%2e",
    "%2E%2E%2F",
    "..%5c",
    "%00",
    "%ff",
    "%",
    "%zz",
    "a%0d%0ab",
    "*",
    "~",
    "a;b",
    "%C0%AE",
)

_ids = st.sampled_from(IDS)
_ips = st.ip_addresses().map(str) | st.sampled_from(("203.0.113.2", "2001:db8::2", "fe80::1%25new2", "203.0.113.2/24"))
_filenames = st.sampled_from(("a.pem", f"{IDS[0]}.pem", ".pem", "a.pem.txt", "instance.json"))
_actions = st.sampled_from(("start", "stop", "reload", "STOP", "upload", "haproxy", "udp_listener", "certificates"))
_texts = st.text(max_size=8).map(partial(quote, safe=""))
_any_segment = st.one_of(
    _ids,
    _ids.map(str.upper),
    _ips,
    _filenames,
    _actions,
    _texts,
    st.sampled_from(_ODD_SEGMENTS),
    st.just("x" * 3000),
    st.just(""),
)
_FITTING: Final = {
    **dict.fromkeys(("listener", "load_balancer", "amphora", "amphora_id"), _ids),
    "action": st.sampled_from(("start", "stop", "reload")),
    "filename": st.just("a.pem"),
    **dict.fromkeys(("ip", "vip"), st.sampled_from(("203.0.113.2", "2001:db8::2"))),
}
"""What a part of a path is as a rule, by its name; one that is not known here is anything."""


def routes() -> list[tuple[str, str]]:
    """Every method and rule of every version."""
    found = []
    for prefix, app in (("", AmphoraAPI.app), ("/v0.1", V01.app), ("/1.0", V10.app)):
        for rule in app.url_map.iter_rules():
            # Those without methods hand on to the versions.
            found += [(method, prefix + rule.rule) for method in sorted(rule.methods or ())]
    return found


@st.composite
def paths(draw: st.DrawFn, rule: str) -> str:
    """A path of a rule: mostly with what belongs there, otherwise with anything; at times with a question."""

    def part(found: re.Match[str]) -> str:
        fitting = _FITTING.get(found[1], _any_segment)
        segment: str = draw(fitting if draw(st.integers(0, 4)) < 4 else _any_segment)
        return segment

    path = re.sub(r"<(?:\w+:)?(\w+)>", part, rule)
    end: str = draw(st.sampled_from(("",) * 40 + ("/", "//", "?a=b", "?", "#x", "/..", "/%2e%2e/x", ";a")))
    return path + end


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((80, 1500, 0, -1, 2**63, 1e308, float("inf"), float("nan"))),
    st.text(max_size=10),
    st.sampled_from(("TCP", "vrrp", "SINGLE", "ACTIVE-STANDBY", "ACTIVE", "STANDBY", "\ud800", "\0")),
    st.sampled_from((MAC, OTHER_MAC, MAC.upper(), "00:00:00:00:00:00")),
    _ips,
    st.sampled_from(("203.0.113.0/24", "2001:db8::/64", "0.0.0.0/0", "198.51.100.0/24", "203.0.113.2/24")),
)
_KEYS: Final = (
    *("topology", "role", "ha_ip", "secret"),
    *("subnet_cidr", "gateway", "mac_address", "vrrp_ip", "mtu", "host_routes", "additional_vips", "is_sriov"),
    *("fixed_ips", "vip_net_info", "vip", "ip_address", "destination", "nexthop", "protocol", "cidr", "port"),
)
_json = st.recursive(
    _values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS) | st.text(), inner, max_size=5),
    max_leaves=8,
)
_addresses = st.sampled_from(
    (
        {"ip_address": "203.0.113.20", "subnet_cidr": "203.0.113.0/24", "gateway": None, "host_routes": []},
        {"ip_address": "2001:db8::20", "subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1", "host_routes": []},
    )
)
_subnets = st.sampled_from(
    (
        {"subnet_cidr": "203.0.113.0/24", "gateway": "203.0.113.1"},
        {"subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1"},
        {"subnet_cidr": "203.0.113.0/24", "gateway": None, "vrrp_ip": "203.0.113.9", "mtu": 1450},
    )
)
_macs = st.sampled_from((MAC, OTHER_MAC, "02:00:00:00:00:ff"))
_rules = st.sampled_from(
    (
        {"protocol": "TCP", "cidr": None, "port": 80},
        {"protocol": "vrrp", "cidr": "203.0.113.9/32", "port": 112},
        {"protocol": "UDP", "cidr": "2001:db8::/64", "port": 53},
    )
)
_fitting_json = st.one_of(
    st.builds(lambda subnet, mac: {**subnet, "mac_address": mac}, _subnets, _macs),
    st.builds(lambda mac, ips: {"mac_address": mac, "fixed_ips": ips}, _macs, st.lists(_addresses, max_size=3)),
    st.builds(
        lambda mac, subnet: {
            "mac_address": mac,
            "vip_net_info": {**subnet, "mac_address": mac, "vip": "203.0.113.2", "additional_vips": []},
        },
        _macs,
        _subnets,
    ),
    st.lists(_rules, max_size=3),
    st.sampled_from(
        (
            {"topology": "SINGLE", "role": "ACTIVE"},
            {"topology": "ACTIVE-STANDBY", "role": "STANDBY", "ha_ip": "10.0.0.10", "secret": "42c1a9f"},
        )
    ),
)


@st.composite
def _damaged_json(draw: st.DrawFn) -> object:
    """JSON that would fit, but for one value in it."""
    value = draw(_fitting_json)
    if isinstance(value, dict) and value:
        return {**value, draw(st.sampled_from(sorted(value)) | st.sampled_from(_KEYS)): draw(_json)}
    return [*value, draw(_json)] if isinstance(value, list) else value


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


AMPHORA_ID: Final = "22222222-0000-4000-8000-000000000001"
CONFIG: Final = f"""\
[amphora_agent]
amphora_id = {AMPHORA_ID}
[health_manager]
heartbeat_key = key
heartbeat_interval = 5
""".encode()
"""The agent's own configuration."""
LVS: Final = configuration("udp").replace(LISTENER.encode(), IDS[0].encode())
HAPROXY: Final = (
    b"frontend f\n mode http\n bind 127.0.0.1:20080\n default_backend b\nbackend b\n server s 127.0.0.1:9\n"
)
"""A configuration that can be started wherever the port is free."""


def _any_of(*fitting: bytes) -> st.SearchStrategy[bytes]:
    contents = st.sampled_from(fitting)
    return st.one_of(contents, contents, contents.flatmap(damaged))


_pems = _any_of(
    _ISSUED.pem(Part.KEY, Part.CERTIFICATE), _ISSUED.pem(Part.CERTIFICATE, Part.KEY), _ISSUED.pem(Part.CERTIFICATE)
)
_objects = st.one_of(
    _fitting_json.map(_encoded),
    _fitting_json.map(_encoded),
    _damaged_json().map(_encoded),
    _json.map(_encoded),
    _fitting_json.map(_encoded).flatmap(damaged),
)
_FITTING_BODIES: Final = {
    "haproxy": _any_of(HAPROXY, HAPROXY, HAPROXY + REFUSED),
    "udp_listener": _any_of(LVS, LVS, LVS + REFUSED),
    "upload": _any_of(KEEPALIVED, KEEPALIVED, KEEPALIVED + REFUSED),
    "config": _any_of(CONFIG),
    **dict.fromkeys(("certificate", "<filename>"), _pems),
}
"""What is uploaded as a rule, by how the route ends; to all others, JSON is."""
_odd_bodies = st.one_of(
    st.binary(max_size=64),
    _objects,
    *_FITTING_BODIES.values(),
    st.sampled_from((b"", b"[" * 100_000, b'{"a":' * 20_000, b"9" * 5000, b"null", b"\xef\xbb\xbf{}")),
)


@st.composite
def bodies(draw: st.DrawFn, rule: str) -> bytes:
    """Mostly what belongs to a rule, otherwise anything."""
    fitting = _FITTING_BODIES.get(rule.rpartition("/")[2], _objects)
    body: bytes = draw(fitting if draw(st.integers(0, 4)) < 4 else _odd_bodies)
    return body


_header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=12)
_headers = st.one_of(
    st.tuples(
        st.sampled_from(("Content-Type", "Accept", "Host", "Range", "If-None-Match", "Cookie", "Authorization", "Te")),
        _header_texts,
    ),
    st.sampled_from(
        (
            ("Content-Type", "multipart/form-data; boundary=x"),
            ("Content-Type", "multipart/form-data"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Encoding", "gzip"),
            ("Expect", "100-continue"),
            ("Expect", "nonsense"),
            ("Host", "\xff[::1"),
            ("Host", "xn--a.xn--\xe4:99999999"),
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", "h2c"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Host", "../../etc"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Accept-Encoding", "identity;q=0"),
            ("Range", "bytes=0-0,-1"),
        )
    ),
)


@frozen
class OddRequest:
    """A request that is whole, whatever it asks for."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    chunked: bool

    @property
    def version(self) -> str:
        """Whose words an error has: C{1.0}, C{v0.1}, or anything else."""
        return self.path.split("/")[1].partition("?")[0] if "/" in self.path else ""

    def encode(self) -> bytes:
        """As it goes over the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        body = b""
        if self.body is not None and self.chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = (self.body[:7], self.body[7:])
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
            body = self.body
        return "\r\n".join((*lines, "", "")).encode("latin-1") + body


@st.composite
def requests(draw: st.DrawFn) -> OddRequest:
    """Requests, mostly of a route's own method, some of which do what they ask for."""
    method, rule = draw(st.sampled_from(routes()))
    if draw(st.integers(0, 9)) == 9:
        method = draw(
            st.sampled_from(("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "put", "M-X"))
        )
    path = draw(paths(rule))
    if draw(st.integers(0, 19)) == 19:
        path = draw(
            st.sampled_from(("/v0.2/info", "/1.0", "/1.0/", "/v0.1", "//1.0/info", "/1.0//info", "/favicon.ico"))
        )
    headers = draw(st.lists(_headers, max_size=2))
    body = draw(bodies(rule)) if method in ("PUT", "POST") or draw(st.integers(0, 9)) == 9 else None
    return OddRequest(method, path, tuple(headers), body, draw(st.integers(0, 4)) == 4)
