"""Tests for what of L{amphora.vrrp.daemon} needs no keepalived."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.vrrp.daemon import KeepalivedProgram, role_of
from amphora.vrrp.notify_fifo import State
from amphora.vrrp.store import VrrpFiles

FILES = VrrpFiles(Path("/base/vrrp"))
STATES: tuple[State, ...] = ("MASTER", "BACKUP", "FAULT")


class CommandTests(SynchronousTestCase):
    def test_start(self) -> None:
        """It stays in the foreground of its namespace, says on its output what it says, and all its paths are ours."""
        command = KeepalivedProgram("/usr/sbin/keepalived", "amphora-haproxy", facility=3).start_command(FILES)
        self.assertEqual(
            "ip netns exec amphora-haproxy /usr/sbin/keepalived --vrrp --dont-fork --log-console --log-facility 3 "
            "-f /base/vrrp/agent.conf -p /base/vrrp/octavia-keepalived.pid -r /base/vrrp/octavia-keepalived.vrrp.pid",
            " ".join(command),
        )

    def test_own_namespace_without_syslog(self) -> None:
        """Where there is no namespace and no syslog, it is started without."""
        command = KeepalivedProgram("/usr/sbin/keepalived", "", facility=None).start_command(FILES)
        self.assertEqual(["/usr/sbin/keepalived", "--vrrp"], command[:2])
        self.assertIn("--no-syslog", command)
        self.assertNotIn("--log-facility", command)

    def test_check(self) -> None:
        """What is staged is judged where it would run."""
        command = KeepalivedProgram("/usr/sbin/keepalived", "amphora-haproxy", facility=1).check_command(FILES)
        self.assertEqual(
            "ip netns exec amphora-haproxy /usr/sbin/keepalived --vrrp --config-test -f /base/vrrp/.agent.conf.new",
            " ".join(command),
        )


class RoleTests(SynchronousTestCase):
    @given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(STATES)), st.frozensets(st.sampled_from("abcd")))
    def test_role(self, states: dict[str, State], names: frozenset[str]) -> None:
        """ACTIVE is who is MASTER of all, whatever else was heard; who has not heard of all does not know."""
        of_ours = {states.get(name) for name in names}
        expected = None if not names or None in of_ours else "ACTIVE" if of_ours == {"MASTER"} else "STANDBY"
        self.assertEqual(expected, role_of(names, states))
