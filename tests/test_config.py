"""Tests for `amphora.config`: what is read, what is refused, and in which words."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from attrs import fields_dict
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.config import OPTIONS, ConfigError, Controller, Option, Settings, load_settings, read_settings, sample

AMPHORA_ID = "11111111-2222-3333-4444-abcdefabcdef"
SAMPLE = Path(__file__).parent.parent / "conf" / "amphora-agent.conf.sample"
OCTAVIA_FILES = Path(__file__).parent / "octavia"

# What a controller of today writes into a new amphora.
OCTAVIA = f"""
[DEFAULT]
debug = False
use_syslog = True
syslog_log_facility = LOG_LOCAL3

[haproxy_amphora]
base_cert_dir = /var/lib/octavia/certs
base_path = /var/lib/octavia
bind_host = ::
bind_port = 9443
haproxy_cmd = /usr/sbin/haproxy
user_log_facility = 2
administrative_log_facility = 3

[health_manager]
controller_ip_port_list = 192.0.2.1:5555, 192.0.2.2:5555
heartbeat_interval = 10
heartbeat_key = not-a-secret

[amphora_agent]
agent_server_ca = /etc/octavia/certs/client_ca.pem
agent_server_cert = /etc/octavia/certs/server.pem
agent_request_read_timeout = 180
amphora_id = {AMPHORA_ID}
amphora_udp_driver = keepalived_lvs
agent_tls_protocol = TLSv1.2

[controller_worker]
loadbalancer_topology = ACTIVE_STANDBY
"""

GOOD: dict[str, dict[str, object]] = {
    "debug": {"true": True, "1": True, "On": True, "YES": True, "false": False, "0": False, "off": False, "no": False},
    "use_syslog": {"true": True, "no": False},
    "syslog_log_facility": {"LOG_LOCAL7": "LOG_LOCAL7", "local0": "LOG_LOCAL0", "daemon": "LOG_DAEMON"},
    "base_path": {"/srv/lb": "/srv/lb", "/srv//lb/": "/srv/lb", "//srv": "/srv", "/" + 45 * "x": "/" + 45 * "x"},
    "base_cert_dir": {"/run/certs/": "/run/certs", "/with space": "/with space", "/" + 200 * "x": "/" + 200 * "x"},
    "bind_host": {"::": "::", "0.0.0.0": "0.0.0.0", "2001:DB8::1": "2001:db8::1", "fe80::1%eth0": "fe80::1%eth0"},
    "bind_port": {"0": 0, "1": 1, "09443": 9443, "65535": 65535},
    "haproxy_cmd": {"/opt/haproxy": "/opt/haproxy"},
    "user_log_facility": {"0": 0, "7": 7},
    "administrative_log_facility": {"0": 0, "7": 7},
    "controller_ip_port_list": {
        "": (),
        "192.0.2.1:5555": (Controller("192.0.2.1", 5555),),
        "[2001:db8::1]:1, 2001:db8::2:2": (Controller("2001:db8::1", 1), Controller("2001:db8::2", 2)),
        "hm.example.org.:65535,hm_1:5555,": (Controller("hm.example.org.", 65535), Controller("hm_1", 5555)),
        "[fe80::1%eth0]:5555": (Controller("fe80::1%eth0", 5555),),
        "\n  192.0.2.1:5555,\n  192.0.2.2:5555": (Controller("192.0.2.1", 5555), Controller("192.0.2.2", 5555)),
    },
    "heartbeat_interval": {"1": 1, "3600": 3600},
    "heartbeat_key": {"": None, "None": None, "none": "none", "a # b": "a # b", "a%(b)s$c": "a%(b)s$c", '" k "': " k "},
    "agent_server_ca": {"/ca.pem": "/ca.pem"},
    "agent_server_cert": {"/server.pem": "/server.pem"},
    "agent_server_network_dir": {"/etc/octavia/interfaces/": "/etc/octavia/interfaces"},
    "agent_request_read_timeout": {"1": 1, "86400": 86400},
    "amphora_id": {AMPHORA_ID: AMPHORA_ID, AMPHORA_ID.upper(): AMPHORA_ID},
    "agent_tls_protocol": {name: name for name in ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")},
    "network_namespace": {"": "", "lb-1.x_y": "lb-1.x_y", "'quoted'": "quoted", '"quoted"': "quoted"},
    "max_body_size": {"1024": 1024, "1073741824": 1024**3},
    "client_auth": {"answer": "answer", "handshake": "handshake"},
    "require_memory_fs": {"yes": True, "no": False},
    "heartbeat_on_change": {"yes": True, "no": False},
    "change_poll_interval": {"0.1": 0.1, "3600": 3600.0, "2.50": 2.5},
    "loadbalancer_topology": {"SINGLE": "SINGLE", "ACTIVE_STANDBY": "ACTIVE_STANDBY"},
}

BAD_NUMBERS = ("", "x", "1.5", "1e1", "0x10", "1_0", "\u0661", "9443 # no comment", "9" * 5000, "-1", "nan")
BAD_PATHS = ("", "relative/path", "~/x", "/a\n  /b", "/a\x07b")

BAD: dict[str, tuple[str, ...]] = {
    "debug": ("", "maybe", "2", "true # no comment"),
    "use_syslog": ("", "maybe"),
    "syslog_log_facility": ("", "LOG_LOCAL8", "LOG_", "LOG_LOG_USER", "1"),
    "base_path": (*BAD_PATHS, "/" + 46 * "x", "/" + 23 * "é"),
    "base_cert_dir": BAD_PATHS,
    "bind_host": ("", "localhost", "[::]", "1.2.3", "1.2.3.4.5", "01.2.3.4", "::1%", "::1%a b", "10.0.0.0/8"),
    "bind_port": (*BAD_NUMBERS, "65536"),
    "haproxy_cmd": (*BAD_PATHS, "haproxy"),
    "user_log_facility": (*BAD_NUMBERS, "8"),
    "administrative_log_facility": (*BAD_NUMBERS, "8"),
    "controller_ip_port_list": (),
    "heartbeat_interval": (*BAD_NUMBERS, "0", "3601"),
    "heartbeat_key": ("hush\n  bind_port = 1",),
    "agent_server_ca": BAD_PATHS,
    "agent_server_cert": BAD_PATHS,
    "agent_server_network_dir": BAD_PATHS,
    "agent_request_read_timeout": (*BAD_NUMBERS, "0", "86401"),
    "amphora_id": ("", "1", AMPHORA_ID[:-1], AMPHORA_ID + "0", AMPHORA_ID.replace("-", ""), f"{{{AMPHORA_ID}}}"),
    "agent_tls_protocol": ("", "tlsv1.2", "TLSv1.4", "TLSv1_2"),
    "network_namespace": (".", "..", "-x", "a/b", "a b", "é", "x" * 256),
    "max_body_size": (*BAD_NUMBERS, "1023", "1073741825", "16M"),
    "client_auth": ("", "Answer", "none"),
    "require_memory_fs": ("", "maybe"),
    "heartbeat_on_change": ("", "maybe"),
    "change_poll_interval": ("", "x", "0", "0.05", "3601", "-1", "nan", "inf", "1e1", "1_0", ".", "1."),
    "loadbalancer_topology": ("", "single", "ACTIVE_ACTIVE"),
}

SKIPPED_CONTROLLERS = (
    "192.0.2.9",
    "192.0.2.9:",
    "192.0.2.9:0",
    "192.0.2.9:65536",
    "192.0.2.9:port",
    "192.0.2:5555",
    "192.0.2.300:5555",
    "[192.0.2.9:5555",
    "[2001:db8::9]",
    "[hm.example.org]:5555",
    "2001:db8::x:5555",
    ":5555",
    "two words:5555",
    "-dash.example.org:5555",
    "a..b:5555",
    f"{'x' * 64}.org:5555",
    f"{'x.' * 130}org:5555",
)


def written(option: Option, value: str, section: str | None = None) -> bytes:
    """A configuration that is complete and says `value` for `option`."""
    lines = [f"[{section or option.sections[0]}]", f"{option.name} = {value}"]
    if option.name != "amphora_id":
        lines += ["[amphora_agent]", f"amphora_id = {AMPHORA_ID}"]
    return "\n".join(lines).encode()


def read(text: str) -> Settings:
    """Read a text and, before it, what every configuration has to say."""
    return read_settings(f"[amphora_agent]\namphora_id = {AMPHORA_ID}\n{text}".encode(), "/etc/agent.conf")


class ValueTests(SynchronousTestCase):
    """Each option, with good and bad values."""

    def test_every_option_is_tried(self) -> None:
        """The tables of good and bad values leave no option out."""
        names = [option.name for option in OPTIONS]
        self.assertEqual((list(GOOD), list(BAD)), (names, names))

    def test_good_values(self) -> None:
        """A good value is read as what it means, without a remark, from each section that may hold it."""
        for option in OPTIONS:
            for section in option.sections:
                for text, expected in GOOD[option.name].items():
                    settings = read_settings(written(option, text, section), "/etc/agent.conf")
                    self.assertEqual((option.name, getattr(settings, option.name)), (option.name, expected))
                    self.assertEqual(settings.notes, ())

    def test_bad_values(self) -> None:
        """A bad value is refused in one line: file and line, section, option, the value and what is allowed."""
        for option in OPTIONS:
            for section in option.sections:
                for text in BAD[option.name]:
                    with self.assertRaises(ConfigError, msg=f"{option.name} = {text!r}") as caught:
                        read_settings(written(option, text, section), "/etc/agent.conf")
                    error = str(caught.exception)
                    self.assertTrue(error.startswith(f"/etc/agent.conf:2: [{section}] {option.name}: "), error)
                    self.assertTrue(error.endswith(f"; allowed: {option.kind.allowed}"), error)
                    self.assertTrue(error.isprintable() and len(error) < 400, error)
                    if not option.secret and len(text) < 40:
                        self.assertIn(repr(re.sub("\n +", "\n", text)), error)

    def test_missing(self) -> None:
        """A configuration without the amphora's id is refused, and the error names it."""
        with self.assertRaises(ConfigError) as caught:
            read_settings(b"[amphora_agent]\n", "/etc/agent.conf")
        self.assertEqual(
            str(caught.exception),
            "/etc/agent.conf: [amphora_agent] amphora_id: is missing; "
            "allowed: a UUID, as in 6b1f0c5e-8f5b-4d0e-9a53-0c9a3d1f2b7e",
        )

    def test_error_text(self) -> None:
        """An error reads like this one."""
        with self.assertRaises(ConfigError) as caught:
            read("[haproxy_amphora]\nbind_port = 99999")
        self.assertEqual(
            str(caught.exception),
            "/etc/agent.conf:4: [haproxy_amphora] bind_port: '99999' is out of range; "
            "allowed: a whole number from 0 to 65535",
        )

    def test_base_path_length(self) -> None:
        """A base path whose sockets could not be bound is refused with its length in bytes."""
        with self.assertRaises(ConfigError) as caught:
            read(f"[haproxy_amphora]\nbase_path = /{'é' * 23}")
        self.assertIn(" is 47 bytes long, too long ", str(caught.exception))
        self.assertIn("at most 46 bytes", str(caught.exception))

    def test_skipped_controllers(self) -> None:
        """A controller that cannot be reached as written is left out with a note; those beside it are kept."""
        for entry in SKIPPED_CONTROLLERS:
            settings = read(f"[health_manager]\ncontroller_ip_port_list = 192.0.2.1:1, {entry}, 192.0.2.2:2\n")
            self.assertEqual(
                settings.controller_ip_port_list, (Controller("192.0.2.1", 1), Controller("192.0.2.2", 2)), entry
            )
            [note] = settings.notes
            self.assertTrue(note.startswith("/etc/agent.conf:4: [health_manager] controller_ip_port_list: "), note)
            self.assertIn(" and is skipped; allowed: ", note)
            self.assertTrue(note.isprintable(), note)

    def test_facility_follows(self) -> None:
        """Without a syslog facility of its own, the agent's log uses the administrative one."""
        settings = read("[haproxy_amphora]\nadministrative_log_facility = 5")
        self.assertEqual(settings.syslog_log_facility, "LOG_LOCAL5")

    def test_first_section_wins(self) -> None:
        """A log facility is taken from where the controller writes it, even if it also stands in the other section."""
        for text in (
            "[amphora_agent]\nuser_log_facility = 6\n[haproxy_amphora]\nuser_log_facility = 5",
            "[haproxy_amphora]\nuser_log_facility = 5\n[amphora_agent]\nuser_log_facility = 6",
        ):
            self.assertEqual(read(text).user_log_facility, 5)

    def test_template(self) -> None:
        """What Octavia's own template makes is read without a remark, and says what it should."""
        names = ("amphora-agent.conf", "amphora-agent-bare.conf")
        full, bare = (load_settings(str(OCTAVIA_FILES / name)) for name in names)
        self.assertEqual(((), ()), (full.notes, bare.notes))
        self.assertEqual((Controller("192.0.2.5", 5555), Controller("2001:db8::5", 5555)), full.controller_ip_port_list)
        self.assertEqual(("insecure", "ACTIVE_STANDBY"), (full.heartbeat_key, full.loadbalancer_topology))
        self.assertEqual(
            ((), None, "SINGLE"), (bare.controller_ip_port_list, bare.heartbeat_key, bare.loadbalancer_topology)
        )

    def test_live(self) -> None:
        """What may change at once is what the controller takes to be so."""
        self.assertEqual(
            [
                "[DEFAULT] debug",
                "[health_manager] controller_ip_port_list",
                "[health_manager] heartbeat_interval",
                "[health_manager] heartbeat_key",
                "[controller_worker] loadbalancer_topology",
            ],
            [option.title for option in OPTIONS if option.live],
        )

    def test_controllers_file(self) -> None:
        """The file that an Octavia controller writes is read without a remark."""
        settings = read_settings(OCTAVIA.encode(), "/etc/agent.conf")
        self.assertEqual(settings.notes, ())
        self.assertEqual(settings.heartbeat_key, "not-a-secret")
        self.assertEqual((settings.user_log_facility, settings.administrative_log_facility), (2, 3))
        self.assertEqual(settings.syslog_log_facility, "LOG_LOCAL3")
        self.assertEqual(settings.loadbalancer_topology, "ACTIVE_STANDBY")
        self.assertEqual(settings.agent_server_network_dir, "/etc/octavia/interfaces")


class SecretTests(SynchronousTestCase):
    """The heartbeat key is told nowhere."""

    def test_repr(self) -> None:
        """Settings can be logged: their text has no key."""
        self.assertNotIn("hush", repr(read("[health_manager]\nheartbeat_key = hush")))

    def test_errors(self) -> None:
        """No error shows the key, whatever is wrong with its line or the lines around it."""
        for text in (
            "[health_manager]\nheartbeat_key hush",
            "[health_manager]\nheartbeat_key = hush\n  hush",
            "[health_manager\nheartbeat_key = hush",
            "[health_manager]\nheartbeat_key =\n hush\n",
            "[health_manager]\nheartbeat_key = hush\n[haproxy_amphora]\nbind_port = x",
        ):
            with self.assertRaises(ConfigError) as caught:
                read(text)
            self.assertNotIn("hush", str(caught.exception))

    def test_bytes(self) -> None:
        """No error shows the key when it is not text."""
        with self.assertRaises(ConfigError) as caught:
            read_settings(b"[health_manager]\nheartbeat_key = hush\xff\n", "/etc/agent.conf")
        self.assertEqual(str(caught.exception), "/etc/agent.conf:2: the line is not text; allowed: UTF-8")
        self.assertTrue(caught.exception.__suppress_context__)


class FormatTests(SynchronousTestCase):
    """The format: oslo.config's INI."""

    def test_separators(self) -> None:
        """An option and its value are separated by '=' or ':', whichever comes first, with or without blanks."""
        for line in ("base_path=/a:b=c", "base_path:/a:b=c", "base_path = /a:b=c", "base_path \t:  /a:b=c  "):
            self.assertEqual(read(f"[haproxy_amphora]\n{line}").base_path, "/a:b=c")

    def test_comments(self) -> None:
        """Lines that begin with '#' or ';' are comments; such characters further on are part of the value."""
        settings = read("# one\n; two\n[health_manager]\n#heartbeat_interval = 5\nheartbeat_key = a;b #c")
        self.assertEqual((settings.heartbeat_interval, settings.heartbeat_key), (10, "a;b #c"))

    def test_quotes(self) -> None:
        """One pair of quotes around a value is taken off, and only a pair."""
        for text, expected in {
            '"a"': "a",
            "'a'": "a",
            "\"'a'\"": "'a'",
            "\"a'": "\"a'",
            '"': '"',
            '""': None,
            '"a': '"a',
        }.items():
            self.assertEqual(read(f"[health_manager]\nheartbeat_key = {text}").heartbeat_key, expected)

    def test_continuation(self) -> None:
        """Indented lines continue a value, until an empty line, a comment or another option."""
        listing = "[health_manager]\ncontroller_ip_port_list = 192.0.2.1:1,\n\t192.0.2.2:2,\n  192.0.2.3:3\n"
        for ending in ("", "\n", "# comment\n", "heartbeat_interval = 7\n"):
            self.assertEqual(len(read(listing + ending).controller_ip_port_list), 3)
        with self.assertRaises(ConfigError) as caught:
            read(listing + "\n  192.0.2.4:4\n")
        self.assertEqual(
            str(caught.exception), "/etc/agent.conf:8: the line makes no sense; allowed: [section] or option = value"
        )

    def test_last_wins(self) -> None:
        """Of an option that stands in the file more than once, in one section or its repetition, the last counts."""
        for again in ("", "[health_manager]\n", "[Health_Manager]\n"):
            settings = read(f"[health_manager]\nheartbeat_interval = 5\n{again}heartbeat_interval = 6\n")
            self.assertEqual(settings.heartbeat_interval, 6)

    def test_option_case(self) -> None:
        """The names of options are taken as they are, upper case and lower case being different."""
        settings = read("[haproxy_amphora]\nBind_Port = 1")
        self.assertEqual(settings.bind_port, 9443)
        self.assertEqual(settings.notes, ("/etc/agent.conf:4: [haproxy_amphora] Bind_Port is not known, ignored",))

    def test_default_section(self) -> None:
        """What stands in [DEFAULT] does not reach into other sections."""
        settings = read("[DEFAULT]\nbind_port = 1\n")
        self.assertEqual(settings.bind_port, 9443)
        self.assertEqual(settings.notes, ("/etc/agent.conf:4: [DEFAULT] bind_port is not known, ignored",))

    def test_line_ends(self) -> None:
        """Files that were written on other systems, and a byte order mark, are read."""
        for end in ("\n", "\r\n", "\r"):
            text = OCTAVIA.replace("\n", end)
            self.assertEqual(
                read_settings(b"\xef\xbb\xbf" + text.encode(), "f"), read_settings(OCTAVIA.encode(), "f"), repr(end)
            )

    def test_nonsense(self) -> None:
        """A line that is no section, option or comment stops the reading; the error gives its number."""
        for line in ("nonsense", "= value", ": value", "[section", "section]", "[]", "[a] b", "[a = b", "  x = 1"):
            with self.assertRaises(ConfigError, msg=line) as caught:
                read_settings(f"[DEFAULT]\n\n{line}\n".encode(), "/etc/agent.conf")
            self.assertEqual(
                str(caught.exception),
                "/etc/agent.conf:3: the line makes no sense; allowed: [section] or option = value",
            )

    def test_no_section(self) -> None:
        """An option before the first section is an error that says so."""
        with self.assertRaises(ConfigError) as caught:
            read_settings(b"debug = true\n", "/etc/agent.conf")
        self.assertEqual(
            str(caught.exception), "/etc/agent.conf:1: the line stands in no section; allowed: [section] before it"
        )

    def test_unknown(self) -> None:
        """Options and sections that mean nothing to the agent are noted, once each, and ignored."""
        settings = read(
            "[haproxy_amphora]\nrespawn_count = 2\nrespawn_count = 3\n[nova]\nenable_anti_affinity = True\nx = 1\n"
        )
        self.assertEqual(
            settings.notes,
            (
                "/etc/agent.conf:5: [haproxy_amphora] respawn_count is not known, ignored",
                "/etc/agent.conf:7: the section [nova] is not known, ignored",
            ),
        )

    @given(st.text())
    def test_arbitrary_text(self, text: str) -> None:
        """Any text is either read or refused in one line, with notes of one line each."""
        self.assert_read_or_refused(text)

    @given(
        st.lists(
            st.one_of(
                st.sampled_from([f"[{section}]" for option in OPTIONS for section in option.sections]),
                st.builds("{} = {}".format, st.sampled_from([option.name for option in OPTIONS]), st.text()),
                st.text(),
            )
        )
    )
    def test_arbitrary_lines(self, lines: list[str]) -> None:
        """Any values for known options are either read or refused in one line, with notes of one line each."""
        self.assert_read_or_refused("\n".join(lines))

    @given(st.binary())
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Any bytes are either read or refused."""
        try:
            read_settings(data, "/etc/agent.conf")
        except ConfigError as error:
            self.assertTrue(str(error).isprintable())

    def assert_read_or_refused(self, text: str) -> None:
        """Read a text with an id before it."""
        try:
            notes = read(text).notes
        except ConfigError as error:
            notes = (str(error),)
        for note in notes:
            self.assertTrue(note.isprintable(), note)


class FileTests(SynchronousTestCase):
    """Reading from a path."""

    def test_loaded(self) -> None:
        """A file is read from its path."""
        path = self.mktemp()
        Path(path).write_text(OCTAVIA, "utf-8")
        self.assertEqual(load_settings(path), read_settings(OCTAVIA.encode(), path))

    def test_unreadable(self) -> None:
        """A file that is missing, a directory, or not to be named stops the start with a line that says so."""
        for path, reason in {
            "/nonexistent/agent.conf": "No such file or directory",
            tempfile.gettempdir(): "Is a directory",
            "/dev/null/agent.conf": "Not a directory",
            "/a\0b": "embedded null byte",
            "/nonexistent/a\nb": "No such file or directory",
        }.items():
            with self.assertRaises(ConfigError) as caught:
                load_settings(path)
            shown = path if path.isprintable() else repr(path)
            self.assertEqual(str(caught.exception), f"{shown}: cannot be read: {reason}")


class SampleTests(SynchronousTestCase):
    """The declared options, the settings and the sample configuration belong together."""

    def test_fields(self) -> None:
        """Each option is a field of the settings, and each field but the notes an option."""
        self.assertEqual([*(option.name for option in OPTIONS), "notes"], list(fields_dict(Settings)))

    def test_sample_is_current(self) -> None:
        """The sample is what `python -m amphora.config` prints."""
        self.assertEqual(SAMPLE.read_text("utf-8"), sample())

    def test_defaults(self) -> None:
        """The sample, with all comment marks before options taken off, says what holds without any configuration."""
        text, options = re.subn(r"^#(\w+ =)", r"\1", SAMPLE.read_text("utf-8"), flags=re.MULTILINE)
        self.assertEqual(options, len(OPTIONS))
        text = text.replace("amphora_id =", f"amphora_id = {AMPHORA_ID}")
        self.assertEqual(read_settings(text.encode(), "sample"), read(""))

    def test_sections(self) -> None:
        """The sample shows each option in its section, once, with an explanation that says what is allowed."""
        shown: dict[str, list[str]] = {}
        comment: list[str] = []
        section = ""
        for line in SAMPLE.read_text("utf-8").splitlines():
            if line.startswith("# "):
                comment.append(line.removeprefix("# "))
            elif line.startswith("#"):
                self.assertIn(" Allowed: ", " ".join(comment), line)
                shown.setdefault(section, []).append(line[1:].partition(" ")[0])
            else:
                comment.clear()
                section = line.strip("[]") or section
        expected: dict[str, list[str]] = {}
        for option in OPTIONS:
            expected.setdefault(option.sections[0], []).append(option.name)
        self.assertEqual(shown, expected)

    def test_defaults_of_the_contract(self) -> None:
        """The defaults are those of Octavia, and of the agent's own additions."""
        expected: dict[str, Any] = {
            "debug": False,
            "use_syslog": True,
            "syslog_log_facility": "LOG_LOCAL1",
            "base_path": "/var/lib/octavia",
            "base_cert_dir": "/var/lib/octavia/certs",
            "bind_host": "::",
            "bind_port": 9443,
            "haproxy_cmd": "/usr/sbin/haproxy",
            "user_log_facility": 0,
            "administrative_log_facility": 1,
            "controller_ip_port_list": (),
            "heartbeat_interval": 10,
            "heartbeat_key": None,
            "agent_server_ca": "/etc/octavia/certs/client_ca.pem",
            "agent_server_cert": "/etc/octavia/certs/server.pem",
            "agent_server_network_dir": "/etc/octavia/interfaces",
            "agent_request_read_timeout": 180,
            "amphora_id": AMPHORA_ID,
            "agent_tls_protocol": "TLSv1.2",
            "network_namespace": "amphora-haproxy",
            "max_body_size": 16 * 1024 * 1024,
            "client_auth": "answer",
            "require_memory_fs": False,
            "heartbeat_on_change": True,
            "change_poll_interval": 1.0,
            "loadbalancer_topology": "SINGLE",
            "notes": (),
        }
        self.assertEqual(read(""), Settings(**expected))
