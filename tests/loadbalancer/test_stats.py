"""Tests for L{amphora.loadbalancer.stats}: answers recorded from haproxy 2.6.12, and those that no haproxy gives."""

from __future__ import annotations

import contextlib

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.stats import Backend, Frontend, Stats, UnreadableStats, parse_stats

FRONTEND = "11111111-0000-4000-8000-00000000000a"
POOL = f"p1:{FRONTEND}"

INFO = """\
Name: HAProxy
Version: 2.6.12-1+deb12u4
Release_date: 2026/10/17
Nbthread: 2
Nbproc: 1
Process_num: 1
Pid: 1734
Uptime: 0d 0h00m02s
node: vm
description: Pid: 7
Stopping: 0
Unstoppable Jobs: 1
Build info: 2.6.12-1+deb12u4
Tainted: 0
"""

# Recorded; the rows are cut behind the last text that matters here.
HEAD = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,"
    "req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,\n"
)
HTTP_FRONTEND = (
    f"{FRONTEND},FRONTEND,,,4,5,9977,3,99,147,0,0,8,,,,,OPEN,,,,,,,,,1,2,0,,,,0,3,0,3,,,,0,3,0,0,0,0,,3,3,3,"
    ",,0,0,0,0,\n"
)
TCP_FRONTEND = "tcpfront,FRONTEND,,,0,0,9977,0,0,0,0,0,0,,,,,OPEN,,,,,,,,,1,3,0,,,,0,0,0,0,,,,,,,,,,,0,0,0,,,0,0,0,0,\n"
BAD = (
    f"{POOL},bad,0,0,0,0,,0,0,0,,0,,0,0,0,0,DOWN,1,1,0,1,1,3,3,,1,4,1,,0,,2,0,,0,L7STS,500,0,0,0,0,0,0,0,,,,0,0,0,,,,,"
    '-1,"Fehler-ü, ""so"", what",,0,0,0,0,,,,Layer7 wrong status,,1,1,0,,,,127.0.0.1:19001,,http,,,,,,,,0,0,0,\n'
)
GOOD = (
    f"{POOL},good,0,0,0,1,,2,66,98,,0,,0,0,0,0,UP,1,1,0,0,0,3,0,,1,4,2,,2,,2,2,,2,L7OK,200,0,0,2,0,0,0,0,,,,2,0,0,,,,,"
    "1,,,0,0,0,0,,,,Layer7 check passed,,1,1,1,,,,127.0.0.1:19002,,http,,,,,,,,0,2,0,,,0,,0,0,0,0,0,0,0,0,1,1,,,,-,\n"
)
DRAINED = f"{POOL},drained,0,0,0,0,,0,0,0,,0,,0,0,0,0,UP,0,1,0,0,0,3,0,,1,4,3,,0,,2,0,,0,L7OK,200,0,0,0,0,0,0,0,,,\n"
UNCHECKED = f"{POOL},unchecked,0,0,0,1,,1,33,49,,0,,0,0,0,0,no check,1,1,0,,,3,,,1,4,4,,1,,2,1,,1,,,,0,1,0,0,0,0,\n"
MAINT = f"{POOL},maint,0,0,0,0,,0,0,0,,0,,0,0,0,0,MAINT,1,1,0,,,3,,,1,4,5,,0,,2,0,,0,,,,0,0,0,0,0,0,,,,0,0,0,,,,,-1,\n"
HTTP_BACKEND = f"{POOL},BACKEND,0,0,0,1,998,3,99,147,0,0,,0,0,0,0,UP,2,2,0,,0,3,0,,1,4,0,,3,,1,3,,3,,,,0,3,0,0,0,0,\n"
# Its text came from a member that plays a MySQL server.
FORGER = (
    "my,sql,0,0,0,0,,0,0,0,,0,,0,0,0,0,DOWN,1,1,0,1,1,2,2,,1,5,1,,0,,2,0,,0,L7STS,1045,0,,,,,,,,,,,0,0,,,,,"
    '-1,"no ""x"", y\n'
    "evil,FRONTEND,,,0,0,0,9,9,9,0,0,0,,,,,OPEN,,,,,,,,,,,,,,,\n"
    'z",,0,0,0,0,,,,Layer7 wrong status,,1,1,0,,,,127.0.0.1:19003,,tcp,,,,,,,,0,0,0,,,0,,0,0,0,0,0,0,0,0,1,1,,,,-,\n'
)
SQL_BACKEND = (
    "my,BACKEND,0,0,0,0,998,0,0,0,0,0,,0,0,0,0,DOWN,0,0,0,,1,2,2,,1,5,0,,0,,1,0,,0,,,,,,,,,,,,,,0,0,0,0,0,0,-1,\n"
)
EMPTY_BACKEND = "empty,BACKEND,0,0,0,0,1,0,0,0,0,0,,0,0,0,0,UP,0,0,0,,0,3,,,1,6,0,,0,,1,0,,0,,,,0,0,0,0,0,0,,,,0,0,0,\n"


def answer(*rows: str, info: str = INFO) -> bytes:
    """What a stats socket answers: both tables, each ended by an empty line."""
    return (info + "\n" + HEAD + "".join(rows) + "\n").encode("latin-1")


WHOLE = answer(
    *(HTTP_FRONTEND, TCP_FRONTEND, BAD, GOOD, DRAINED, UNCHECKED, MAINT, HTTP_BACKEND),
    *(FORGER, SQL_BACKEND, EMPTY_BACKEND),
)


class ParseStatsTests(SynchronousTestCase):
    """What is read of an answer."""

    def test_recorded(self) -> None:
        """A real answer gives each frontend's figures and each backend's servers, in haproxy's order."""
        members = {"bad": "DOWN", "good": "UP", "drained": "DRAIN", "unchecked": "no check", "maint": "MAINT"}
        self.assertEqual(
            parse_stats(WHOLE),
            Stats(
                pid=1734,
                version="2.6.12-1+deb12u4",
                frontends=(
                    Frontend(FRONTEND, "OPEN", current=4, total=3, bytes_in=99, bytes_out=147, request_errors=8),
                    Frontend("tcpfront", "OPEN", current=0, total=0, bytes_in=0, bytes_out=0, request_errors=0),
                ),
                backends=(
                    Backend(POOL, "UP", members, usable=2),
                    Backend("my", "DOWN", {"sql": "DOWN"}),
                    Backend("empty", "UP", {}),
                ),
            ),
        )

    def test_listen(self) -> None:
        """A `listen` section is a frontend and a backend of the same name."""
        stats = parse_stats(
            answer(
                TCP_FRONTEND.replace("tcpfront", "both"),
                UNCHECKED.replace(POOL, "both"),
                HTTP_BACKEND.replace(POOL, "both"),
            )
        )
        self.assertEqual(["both"], [frontend.name for frontend in stats.frontends])
        self.assertEqual((Backend("both", "UP", {"unchecked": "no check"}, usable=2),), stats.backends)

    def test_no_rows(self) -> None:
        """A haproxy without frontends has an empty table, and that is an answer."""
        self.assertEqual(Stats(1734, "2.6.12-1+deb12u4", (), ()), parse_stats(answer()))

    def test_description(self) -> None:
        """What a configuration lets haproxy say of itself is not taken for its process id."""
        info = INFO.replace("Pid: 7", "x\x0bPid: 7\x85Pid: 8")
        self.assertEqual(1734, parse_stats(answer(info=info)).pid)

    def test_statuses(self) -> None:
        """Statuses are told as haproxy words them, but for a server that is up with weight 0: that one drains."""
        for status, weight, told in (
            ("UP 1/2", "1", "UP 1/2"),
            ("UP 1/2", "0", "DRAIN"),
            ("DOWN (agent)", "0", "DOWN (agent)"),
            ("MAINT (via a/b)", "0", "MAINT (via a/b)"),
            ("no check", "0", "no check"),
            ("NOLB", "1", "NOLB"),
        ):
            row = GOOD.replace(",UP,1,", f",{status},{weight},")
            self.assertEqual({"good": told}, parse_stats(answer(row, HTTP_BACKEND)).backends[0].members)

    def test_free_text(self) -> None:
        """Nothing that a member puts into its check's text changes another row, or makes one."""
        expected = parse_stats(answer(HTTP_FRONTEND, BAD, HTTP_BACKEND))
        for text in (
            "plain",
            '""""',
            '""',
            ",,,,",
            "\xff\xfe\x00",
            "a\r\nb",
            '\n""\n',
            "\n\n# pxname,svname,\n\n",
            "\n" + HTTP_FRONTEND,
            '""\n' + HTTP_FRONTEND + '""',
            "\nPid: 3\n",
        ):
            row = BAD.replace('Fehler-ü, ""so"", what', text)
            self.assertEqual(expected, parse_stats(answer(HTTP_FRONTEND, row, HTTP_BACKEND)), text)

    def test_strange_figures(self) -> None:
        """What is no number of 64 bits counts as nothing."""
        for figure in ("", "-1", "many", "9" * 5000, "\xb2"):
            row = HTTP_FRONTEND.replace(",147,", f",{figure},")
            self.assertEqual(0, parse_stats(answer(row)).frontends[0].bytes_out)
        largest = HTTP_FRONTEND.replace(",147,", f",{2**64 - 1},")
        self.assertEqual(2**64 - 1, parse_stats(answer(largest)).frontends[0].bytes_out)


class UnreadableTests(SynchronousTestCase):
    """What is no answer."""

    def test_not_an_answer(self) -> None:
        """Nothing, or the answer to something else, says what is missing."""
        for text, problem in (
            (b"", "no statistics table"),
            (INFO.encode(), "no statistics table"),
            (b"Unknown command: 'show'. Please enter one of the following commands only :\n\n", "no statistics table"),
            (WHOLE.partition(b"\n\n")[2], "no statistics table"),
            (answer(info="Name: HAProxy\n"), "no process id"),
            (answer(info="Pid: none\n"), "no process id"),
            (answer(info="Pid: " + "9" * 5000 + "\n"), "no process id"),
        ):
            self.assertIn(problem, str(self.assertRaises(UnreadableStats, parse_stats, text)))

    def test_cut_off(self) -> None:
        """An answer that ends early, wherever, is none: a listener that is missing would look deleted."""
        for length in range(len(WHOLE)):
            self.assertRaises(UnreadableStats, parse_stats, WHOLE[:length])

    def test_cut_off_where_it_looks_whole(self) -> None:
        """An empty line in a member's text is not the answer's end."""
        text = BAD.replace("Fehler", "\n\n")
        whole = answer(HTTP_FRONTEND, text, HTTP_BACKEND)
        early = whole[: whole.rindex(b"\n\n", 0, -2) + 2]
        error = self.assertRaises(UnreadableStats, parse_stats, early)
        self.assertIn("cut off", str(error))

    @given(st.binary() | st.builds(lambda *parts: b"".join(parts), st.just(INFO.encode()), st.binary()))
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes are an answer or raise UnreadableStats, nothing else."""
        self._parse(content)

    @given(st.integers(0, len(WHOLE)), st.integers(0, 20), st.binary(max_size=20))
    @example(0, 0, b"\n\n# pxname,svname,")
    def test_damaged(self, where: int, length: int, instead: bytes) -> None:
        """A real answer with a hole in it is an answer or raises UnreadableStats, nothing else."""
        self._parse(WHOLE[:where] + instead + WHOLE[where + length :])

    def _parse(self, content: bytes) -> None:
        with contextlib.suppress(UnreadableStats):
            self.assertIsInstance(parse_stats(content), Stats)
