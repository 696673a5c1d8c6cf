"""Tests for L{amphora.loadbalancer.haproxy_config}; real haproxy's view is in `tests.integration.test_readings`."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.haproxy_config import FrontendConfig, HaproxyConfig, parse_config
from amphora.loadbalancer.listeners import listener_type
from amphora.network.bind import Bind

BALANCER = "7a1b2c3d-0000-4000-8000-000000000001"
LISTENER = "7a1b2c3d-0000-4000-8000-00000000000a"
POOL = "7a1b2c3d-0000-4000-8000-0000000000b0"

# As the controller's template writes it.
OCTAVIA = f"""\
# Configuration for loadbalancer {BALANCER}
global
    daemon
    user nobody
    log /run/rsyslog/octavia/log local0
    log /run/rsyslog/octavia/log local1 notice
    stats socket /var/lib/octavia/{BALANCER}.sock mode 0666 level user
    server-state-file /var/lib/octavia/{BALANCER}/servers-state
    maxconn 50000

defaults
    log global
    retries 3
    option redispatch
    option splice-request

frontend {LISTENER}
    maxconn 50000
    redirect scheme https if !{{ ssl_fc }}
    bind 10.0.0.5:443 ssl crt-list /var/lib/octavia/certs/{LISTENER}/{LISTENER}.pem ciphers ECDHE alpn h2,http/1.1
    mode http
    default_backend {POOL}:{LISTENER}
    timeout client 50000

frontend 7a1b2c3d-0000-4000-8000-00000000000b
    bind 10.0.0.5:8080
    mode tcp
    default_backend {POOL}:7a1b2c3d-0000-4000-8000-00000000000b

backend {POOL}:{LISTENER}
    mode http
    balance roundrobin
    cookie SRV insert indirect nocache
    option httpchk GET / HTTP/1.0\\r\\n
    fullconn 50000
    option allbackups
    server 82825a1a-1111-4000-8000-000000000001 10.0.1.11:80 weight 1 check inter 5s cookie 82825a1a
    server 82825a1a-1111-4000-8000-000000000002 10.0.1.12:80 weight 0 check inter 5s backup
""".encode()


def frontends(text: str) -> list[tuple[str, str, bool]]:
    return [(one.name, one.mode, one.tls) for one in parse_config(text.encode()).frontends]


class ParseConfigTests(SynchronousTestCase):
    """What is read of a configuration."""

    def test_as_the_controller_writes_it(self) -> None:
        """Frontends with their modes and TLS, the stats socket, how many members; no group of its own."""
        config = parse_config(OCTAVIA)
        self.assertEqual(
            config,
            HaproxyConfig(
                frontends=(
                    FrontendConfig(LISTENER, "http", tls=True, binds=(Bind("10.0.0.5", 443),)),
                    FrontendConfig(
                        "7a1b2c3d-0000-4000-8000-00000000000b", "tcp", tls=False, binds=(Bind("10.0.0.5", 8080),)
                    ),
                ),
                stats_sockets=(Path(f"/var/lib/octavia/{BALANCER}.sock"),),
                members=2,
                own_group=False,
                state_file=Path(f"/var/lib/octavia/{BALANCER}/servers-state"),
            ),
        )
        self.assertEqual("TERMINATED_HTTPS", listener_type(config.frontends))

    def test_binds(self) -> None:
        """Addresses are read in all the forms that name one literally; others are left out."""
        for line, expected in {
            "10.0.0.5:80": [Bind("10.0.0.5", 80)],
            ":80": [Bind("0.0.0.0", 80)],
            "*:80,10.0.0.5:81": [Bind("0.0.0.0", 80), Bind("10.0.0.5", 81)],
            "ipv4@:80": [Bind("0.0.0.0", 80)],
            "ipv6@:80": [Bind("::", 80)],
            "2001:DB8:0:0::1:443": [Bind("2001:db8::1", 443)],
            "[2001:db8::1]:443": [Bind("2001:db8::1", 443)],
            ":::80 v6only": [Bind("::", 80, v6only=True)],
            "10.0.0.5:80-82": [Bind("10.0.0.5", port) for port in (80, 81, 82)],
            "10.0.0.5:80 interface eth1": [Bind("10.0.0.5", 80, "eth1")],
            "10.0.0.5:80 transparent": [],
            "10.0.0.5:80 namespace other": [],
            "/run/socket": [],
            "unix@/run/socket": [],
            "abns@name": [],
            "fd@3": [],
            "host.example.com:80": [],
            '"${VIP}":80': [],
            "10.0.0.5": [],
        }.items():
            (frontend,) = parse_config(f"frontend f\n bind {line}\n".encode()).frontends
            self.assertEqual(expected, list(frontend.binds), line)

    def test_addresses(self) -> None:
        """What it listens on are its frontends' addresses, and its own among the peers': of each name another's."""
        config = parse_config(
            b"""
            peers one
                peer me 10.0.0.2:1025
                peer you 10.0.0.3:1025 ssl
                peer lost
                server me 10.0.0.2:1026
            peers two
                bind 10.0.0.2:1027 ssl crt x
                server me
                server you 10.0.0.3:1027
                bind
            log-forward logs
                bind 10.0.0.2:514
                dgram-bind 10.0.0.2:514
            frontend web
                bind 10.0.0.2:80
            """
        )
        always = {Bind("10.0.0.2", 1027), Bind("10.0.0.2", 514), Bind("10.0.0.2", 80)}
        self.assertEqual(always | {Bind("10.0.0.2", 1025), Bind("10.0.0.2", 1026)}, config.addresses("me"))
        self.assertEqual(always | {Bind("10.0.0.3", 1025), Bind("10.0.0.3", 1027)}, config.addresses("you"))
        self.assertEqual(always, config.addresses("nobody"))

    def test_nothing(self) -> None:
        """An empty configuration describes nothing."""
        for content in (b"", b"\n\n", b"# only a comment\n", b"\xff\xfe\x00"):
            self.assertEqual(HaproxyConfig(), parse_config(content))
        self.assertEqual("TCP", listener_type(HaproxyConfig().frontends))

    def test_listener_type(self) -> None:
        """Of several frontends the most special one gives the type."""
        for text, kind in (
            ("frontend a\n mode tcp\n", "TCP"),
            ("frontend a\n", "TCP"),
            ("frontend a\n mode tcp\nfrontend b\n mode http\n", "HTTP"),
            ("frontend a\n mode http\nfrontend b\n bind :1 ssl crt x\n", "TERMINATED_HTTPS"),
            ("backend a\n mode http\n", "TCP"),
        ):
            self.assertEqual(kind, listener_type(parse_config(text.encode()).frontends), text)

    def test_modes(self) -> None:
        """A section's own mode counts, the last it names; else that of the defaults above it, which begin anew each."""
        text = """
            frontend first
            defaults
                mode http
            frontend second
            frontend third
                mode http
                mode tcp
            defaults
                retries 3
            listen fourth
        """
        self.assertEqual(
            [("first", "tcp"), ("second", "http"), ("third", "tcp"), ("fourth", "tcp")],
            [one[:2] for one in frontends(text)],
        )

    def test_named_defaults(self) -> None:
        """`from` names the defaults that count; without it the last count, named or not."""
        text = """
            defaults web
                mode http
            defaults plain
                mode tcp
            defaults also-web from web
            defaults from plain
            frontend a
            frontend b from web
            frontend c from also-web
            listen d from web
                mode tcp
            defaults web-again from web
            frontend e
            frontend f from plain
        """
        self.assertEqual(
            [("a", "tcp"), ("b", "http"), ("c", "http"), ("d", "tcp"), ("e", "http"), ("f", "tcp")],
            [one[:2] for one in frontends(text)],
        )

    def test_tls(self) -> None:
        """A frontend speaks TLS where one of its binds has the word `ssl` among its options."""
        for bind, tls in (
            ("bind :443 ssl crt /a", True),
            ("bind :80\n bind :443 name x ssl crt /a", True),
            ("bind :443", False),
            ("bind ssl", False),
            ("bind :443 # ssl", False),
            ("bind :443 ssl-min-ver TLSv1.2", False),
            ("bind", False),
            ("http-request redirect if ssl", False),
            ("bind '127.0.0.1:443' \"ssl\" crt /a", True),
        ):
            self.assertEqual([("a", "tcp", tls)], frontends(f"frontend a\n {bind}\n"), bind)

    def test_members(self) -> None:
        """Servers are counted in backends and `listen` sections; what other sections call so is something else."""
        text = """
            ring logs
                server log 127.0.0.1:514
            peers together
                server local
            backend a
                server one 127.0.0.1:1
                default-server check
            listen b
                server two 127.0.0.1:1
                # server three 127.0.0.1:1
            log-forward c
                server four 127.0.0.1:1
        """
        self.assertEqual(2, parse_config(text.encode()).members)

    def test_stats_sockets(self) -> None:
        """Only paths are sockets, and only in the global section."""
        text = """
            global
                stats socket /run/a.sock mode 600
                stats socket '/run/with blank'
                stats socket "/run/with \\"quotes\\"" level admin
                stats socket /run/with\\ escape
                stats socket 127.0.0.1:9000
                stats socket
                stats timeout 2m
            frontend a
                stats socket /run/b.sock
            global
                stats socket /run/c.sock
        """
        expected = ("/run/a.sock", "/run/with blank", '/run/with "quotes"', "/run/with escape", "/run/c.sock")
        self.assertEqual(tuple(map(Path, expected)), parse_config(text.encode()).stats_sockets)

    def test_own_group(self) -> None:
        """The group is looked for in the global section alone."""
        for text, own in (
            ("global\n group haproxy\n", True),
            ("global\n gid 99\n", True),
            ("global\n # group haproxy\n", False),
            ("userlist a\n group haproxy\n", False),
            ("frontend a\n acl x path_beg /my group of things\n", False),
        ):
            self.assertEqual(own, parse_config(text.encode()).own_group, text)

    def test_weight(self) -> None:
        """Members and TLS sessions to be remembered make a configuration heavy; what is no number does not."""
        for text, weight in (
            ("frontend a\n", 0),
            ("backend a\n" + 500 * " server a 10.0.0.1:80\n", 0.5),
            ("global\n tune.ssl.cachesize 20000000\n", 20),
            ("global\n tune.ssl.cachesize many\n", 0),
            ("frontend a\n tune.ssl.cachesize 20000000\n", 0),
        ):
            self.assertEqual(weight, parse_config(text.encode()).weight, text)

    def test_words(self) -> None:
        """Quotes, escapes and comments are haproxy's."""
        for line, name in (
            ("frontend plain", "plain"),
            ("\tfrontend\ttabs\t", "tabs"),
            ("frontend end\r", "end"),
            ("frontend cut#off", "cut"),
            ("frontend 'single # quoted'", "single # quoted"),
            ('frontend "double # quoted"', "double # quoted"),
            ("frontend 'a'\"b\"c\\ d", "ab" + "c d"),
            ("frontend esc\\#aped", "esc#aped"),
            ('"frontend" quoted', "quoted"),
            ("frontend 'back\\slash'", "back\\slash"),
            ("frontend", ""),
            ("frontend ''", ""),
            ("frontend \xa0", "\xa0"),
            ("frontend 'unfinished", ""),
            ("frontend end\\", "end"),
        ):
            self.assertEqual([(name, "tcp", False)], frontends(line), line)

    def test_line_ends(self) -> None:
        """Only a line feed ends a line: a comment that holds another of Unicode's line ends goes on."""
        for end in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
            self.assertEqual([("a", "tcp", False)], frontends(f"frontend a # {end}frontend b\n"), repr(end))

    def test_unknown_sections(self) -> None:
        """The lines before any section, and of sections that have none of what is read, are passed over."""
        text = (
            "mode http\nserver x y\ncache c\n total-max-size 4\nresolvers r\n nameserver a 127.0.0.1:53\nfrontend f\n"
        )
        self.assertEqual(HaproxyConfig((FrontendConfig("f", "tcp", tls=False),)), parse_config(text.encode()))

    @given(st.binary() | st.text(alphabet=" \t\n\r\"'\\#abf/\u2028\x85").map(str.encode))
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes can be read."""
        self.assertIsInstance(parse_config(b"global\n stats socket " + content), HaproxyConfig)
        self.assertIsInstance(parse_config(content), HaproxyConfig)

    def test_large(self) -> None:
        """Lines without an end, or of quotes alone, are read in one pass."""
        for text in ("'" * 1_000_001, '"' + "\\" * 1_000_000, "a " * 500_000, " " * 1_000_000):
            parse_config(b"frontend " + text.encode())
