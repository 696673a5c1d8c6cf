"""
haproxy's metrics in Octavia's words: a process is a load balancer, a frontend a listener, a backend a pool, a server a
member.

Which metrics there are, and their names, are Octavia's (its user guide on monitoring load balancers): dashboards ask
for them.  All others are left out, as are those of the proxies that carry the metrics themselves.  The text is
Prometheus' exposition format 0.0.4; a line of it is changed as it stands, and the order of lines is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from amphora.loadbalancer.sample import PROMETHEUS_PROXIES

_TRAFFIC: Final = """
    status current_sessions max_sessions limit_sessions sessions_total max_session_rate bytes_in_total bytes_out_total
    responses_denied_total failed_header_rewriting_total http_responses_total
"""
_HTTP: Final = """
    requests_denied_total http_requests_total http_cache_lookups_total http_cache_hits_total http_comp_bytes_in_total
    http_comp_bytes_out_total http_comp_bytes_bypassed_total http_comp_responses_total
"""
_SERVING: Final = """
    last_session_seconds current_queue max_queue connection_attempts_total connection_reuses_total
    queue_time_average_seconds connect_time_average_seconds response_time_average_seconds total_time_average_seconds
    max_queue_time_seconds max_connect_time_seconds max_response_time_seconds max_total_time_seconds
    connection_errors_total response_errors_total retry_warnings_total redispatch_warnings_total client_aborts_total
    server_aborts_total check_up_down_total check_last_change_seconds downtime_seconds_total loadbalanced_total
"""
_PROCESS: Final = """
    pool_allocated_bytes pool_used_bytes pool_failures_total max_connections current_connections connections_total
    requests_total max_ssl_connections current_ssl_connections ssl_connections_total current_connection_rate
    limit_connection_rate max_connection_rate current_session_rate limit_session_rate max_session_rate current_ssl_rate
    limit_ssl_rate max_ssl_rate current_frontend_ssl_key_rate max_frontend_ssl_key_rate frontend_ssl_reuse
    current_backend_ssl_key_rate max_backend_ssl_key_rate ssl_cache_lookups_total ssl_cache_misses_total
    http_comp_bytes_in_total http_comp_bytes_out_total limit_http_comp listeners dropped_logs_total
"""
_FRONTEND: Final = f"""
    {_TRAFFIC} {_HTTP}
    limit_session_rate connections_rate_max connections_total request_errors_total denied_connections_total
    denied_sessions_total http_requests_rate_max intercepted_requests_total
"""
_BACKEND: Final = f"{_TRAFFIC} {_HTTP} {_SERVING} active_servers backup_servers"
_SERVER: Final = f"""
    {_TRAFFIC} {_SERVING}
    queue_limit weight check_failures_total current_throttle idle_connections_current idle_connections_limit
"""
_RENAMED: Final = {
    "haproxy_process_pool_allocated_bytes": "octavia_memory_pool_allocated_bytes",
    "haproxy_process_pool_used_bytes": "octavia_memory_pool_used_bytes",
    "haproxy_process_pool_failures_total": "octavia_memory_pool_failures_total",
    "haproxy_backend_active_servers": "octavia_pool_active_members",
    "haproxy_backend_backup_servers": "octavia_pool_backup_members",
    "haproxy_backend_server_aborts_total": "octavia_pool_member_aborts_total",
}


@frozen
class _Metric:
    name: bytes
    proxy: bytes
    """What the label C{proxy} is called."""


def _metrics(source: str, target: str, names: str, proxy: bytes = b"") -> dict[bytes, _Metric]:
    made = {}
    for name in names.split():
        theirs = f"haproxy_{source}_{name}"
        ours = _RENAMED.get(theirs, f"octavia_{target}_{name}")
        made[theirs.encode()] = _Metric(ours.encode(), proxy)
    return made


_METRICS: Final[Mapping[bytes, _Metric]] = {
    **_metrics("process", "loadbalancer", _PROCESS),
    **_metrics("frontend", "listener", _FRONTEND, b"listener"),
    **_metrics("backend", "pool", _BACKEND, b"pool"),
    **_metrics("server", "member", _SERVER, b"pool"),
}
_LINE: Final = re.compile(rb"(# (?:HELP|TYPE) )?(haproxy_[a-z0-9_]+)([ {].*)", re.DOTALL)
_LABELS: Final = re.compile(rb'\{proxy="([^"]*)"(?:,server="([^"]*)")?')
"""How haproxy begins them; a proxy's name has no quotation mark."""
_WORDS: Final = {
    **{b"frontend": b"listener", b"backend": b"pool", b"server": b"member"},
    **{b"Frontend": b"Listener", b"Backend": b"Pool", b"Server": b"Member"},
}
_WORD: Final = re.compile(rb"\b([Ff]rontend|[Bb]ackend|[Ss]erver)(s?)\b")
_PROXIES: Final = frozenset(name.encode() for name in PROMETHEUS_PROXIES)


class Translator:
    """Takes haproxy's metrics as they come, and gives each part of them back in Octavia's words."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Translate what has arrived, up to its last line that is whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(translated + b"\n" for line in lines if (translated := translate(line)) is not None)

    @property
    def complete(self) -> bool:
        """Did the text end with a line?"""
        return not self._rest


def translate(line: bytes) -> bytes | None:
    """One line in Octavia's words; None for one that Octavia does not tell."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    comment, name, rest = match.groups()
    metric = _METRICS.get(name)
    if metric is None:
        return None
    if comment is not None:
        return comment + metric.name + _WORD.sub(lambda word: _WORDS[word[1]] + word[2], rest)
    labels = _LABELS.match(rest)
    if labels is None:
        return metric.name + rest
    proxy, server = labels.groups()
    if proxy in _PROXIES:
        return None
    member = b"" if server is None else b',member="%b"' % server
    return b'%b{%b="%b"%b%b' % (metric.name, metric.proxy, proxy, member, rest[labels.end() :])
