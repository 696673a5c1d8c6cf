"""The real nft and the real kernel: what the packet filter lets in, and what becomes of connections."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from amphora.blocking import InThreads
from amphora.network.dhcp_client import opener
from amphora.network.errors import RulesNotReplaced
from amphora.network.filter_rules import FilterRule
from amphora.network.inside import inside
from amphora.network.kernel import LinuxKernel
from amphora.network.nft import NftFailed, NftProgram
from amphora.network.nftables import FILTER_TABLE, RuleSet, filter_script, read_stored_rules
from amphora.network.packet_filter import PacketFilter
from amphora.network.plugging import Network
from amphora.network.records import Records
from amphora.network.requests import read_vip_request
from tests.integration.networks import PATIENCE, ip, ip_json, new_cable, new_namespace, unplug
from tests.integration.support import requires, short_directory
from tests.integration.test_plug_1_0 import OWN, VIP, VIP6, Of10TestCase
from tests.network.nft_contract import NftContract
from tests.network.ports import EVERY_RULE, SRIOV

PEER, STRANGER, PEER6, STRANGER6 = "203.0.113.9", "203.0.113.66", "2001:db8::9", "2001:db8::66"
SUBNETS = {4: ("203.0.113.0/24", "203.0.113.1"), 6: ("2001:db8::/64", "2001:db8::1")}
OPEN, CLOSED = 8080, 8081
VRRP = 112

TCP = FilterRule("TCP", None, OPEN)


def nft(namespace: str, *arguments: str) -> str:
    """What `nft` says in a namespace; blocks."""
    command = ["ip", "netns", "exec", namespace, "nft", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def tables(namespace: str) -> set[str]:
    return {line.removeprefix("table ") for line in nft(namespace, "list", "tables").splitlines()}


def running_reactor() -> Any:
    from twisted.internet import reactor

    return cast(Any, reactor)


@requires("root", "ip", "nft")
class NftProgramTests(NftContract):
    """The contract that the stand-in of the unit tests fulfils as well."""

    def setUp(self) -> None:
        self.namespace = new_namespace(self)
        self.nft = NftProgram(running_reactor(), InThreads(running_reactor()), self.namespace)

    def tables(self) -> set[str]:
        return tables(self.namespace)

    async def test_understood(self) -> None:
        """What nft lists is what was meant, VRRP of both IP versions included."""
        script = filter_script([SRIOV], RuleSet(SRIOV.mac, EVERY_RULE))
        assert script is not None
        await self.nft.load(script)
        listed = nft(self.namespace, "list", "chain", *FILTER_TABLE.split(), "amphora_vip_chain")
        for meant, told in (("l4proto 112", "l4proto vrrp"), ("/32", ""), ("/128", "")):
            script = script.replace(meant, told)
        lines = re.findall("^ *(.*accept)", script.partition("amphora_vip_chain {\n")[2], re.M)
        self.assertEqual(lines, re.findall("^\\s*(.*accept)", listed, re.M))

    async def test_many(self) -> None:
        """Thousands of rules are taken, and a file of them as well."""
        rules = tuple(FilterRule("TCP", ip_network((f"10.{i // 256}.{i % 256}.0", 24)), 80) for i in range(5000))
        rule_set = RuleSet(SRIOV.mac, rules)
        path = short_directory(self) / "rules"
        filtering = PacketFilter(self.nft, InThreads(running_reactor()), path)
        await filtering.replace([SRIOV], [SRIOV], rule_set)
        nft(self.namespace, "--file", str(path))
        self.assertEqual(5000, nft(self.namespace, "list", "ruleset").count("tcp dport 80 accept"))

    async def test_no_namespace(self) -> None:
        """A namespace that is not there is told in ip's words."""
        with self.assertRaises(NftFailed) as caught:
            await NftProgram(running_reactor(), InThreads(running_reactor()), "nowhere").load("")
        self.assertIn("nowhere", str(caught.exception))


del NftContract


class FilteredTestCase(TestCase):
    """A VIP's interface, and a peer and strangers at the other end of its cable."""

    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]
        self.directory = short_directory(self)
        self.namespace, self.far = new_namespace(self), new_namespace(self)
        self.cable = new_cable(self, self.far)
        self.cable.give_far_end(*(f"{SUBNETS[4][1]}/24", f"{PEER}/24", f"{STRANGER}/24"))
        self.cable.give_far_end(*(f"{SUBNETS[6][1]}/64", f"{PEER6}/64", f"{STRANGER6}/64"))
        self.network = self.new_network()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.network.release()))

    def new_network(self, filtered: str = "") -> Network:
        """The next agent's.  @param filtered: The namespace that its nft works in, if not the amphora's."""
        clock = running_reactor()
        blocking = InThreads(clock)
        return Network(
            clock,
            blocking,
            LinuxKernel(self.namespace),
            Records(self.directory / "interfaces"),
            PacketFilter(NftProgram(clock, blocking, filtered or self.namespace), blocking, self.rules_path),
            keepalived_owns_vips=lambda: False,
            still_bound=lambda: [],
            open_wire=opener(clock, blocking, self.namespace),
        )

    @property
    def rules_path(self) -> Path:
        return self.directory / "nftables-vip.rules"

    async def plug(self, *vips: str, mac: str = "") -> None:
        for vip in vips:
            subnet, gateway = SUBNETS[6 if ":" in vip else 4]
            body = {"subnet_cidr": subnet, "gateway": gateway, "mac_address": mac or self.cable.mac}
            await self.network.plug_vip(read_vip_request(vip, body))

    async def let_in(self, *rules: FilterRule) -> None:
        await self.network.replace_rules("eth1", rules)

    async def reboot(self) -> None:
        """The kernel forgets all; the device is new; another agent begins."""
        await self.network.release()
        ip("-n", self.namespace, "link", "set", "eth1", "down")
        nft(self.namespace, "flush", "ruleset")
        unplug(self.far, self.cable.far_name)
        self.cable = new_cable(self, self.far, mac=self.cable.mac)
        self.cable.give_far_end(f"{SUBNETS[4][1]}/24", f"{PEER}/24", f"{STRANGER}/24")
        self.network = self.new_network()
        await self.network.put_back()

    def socket_in(self, namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
        made = inside(namespace, make, patience=None)
        made.settimeout(PATIENCE)
        self.addCleanup(made.close)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        """A server in the amphora."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return self.socket_in(self.namespace, partial(socket.create_server, (address, port), family=family))

    def connect(self, address: str, port: int, source: str = "") -> socket.socket:
        """A client that gets through.  Blocks."""
        bound = (source, 0) if source else None
        return self.socket_in(self.far, partial(socket.create_connection, (address, port), PATIENCE, bound))

    def knock(self, address: str, port: int, source: str = "") -> socket.socket:
        """A client that does not wait whether it gets through."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        client = self.socket_in(self.far, partial(socket.socket, family, socket.SOCK_STREAM))
        client.setblocking(False)
        if source:
            client.bind((source, 0))
        client.connect_ex((address, port))
        return client

    def assert_closed(self, address: str, port: int, opened: int = OPEN, source: str = "") -> None:
        """
        Nobody comes in there.  Blocks.

        @param opened: A port where somebody does, so that what knocked before has had its time.
        """
        with self.listen(address, port) as server, self.listen(address, opened):
            client = self.knock(address, port, source)
            self.connect(address, opened).close()
            self.assertEqual(([], []), (select.select([server], [], [], 0)[0], select.select([], [client], [], 0)[1]))

    def assert_open(self, address: str, port: int, source: str = "") -> None:
        with self.listen(address, port) as server:
            client = self.connect(address, port, source)
            server.accept()[0].close()
            client.close()


@requires("root", "ip", "nft", "ipv6")
class FilterTests(FilteredTestCase):
    def assert_all_closed(self) -> None:
        """Nobody comes in at all.  Blocks."""
        with self.listen(VIP, OPEN) as server:
            client = self.knock(VIP, OPEN)
            # The amphora itself reaches others, and hears their answers.
            with self.far_server() as far:
                self.connect_out(far).close()
            self.assertEqual(([], []), (select.select([server], [], [], 0)[0], select.select([], [client], [], 0)[1]))

    def far_server(self) -> socket.socket:
        return self.socket_in(self.far, partial(socket.create_server, (PEER, 0)))

    def connect_out(self, server: socket.socket) -> socket.socket:
        return self.socket_in(self.namespace, partial(socket.create_connection, server.getsockname(), PATIENCE))

    async def test_ports(self) -> None:
        """A port is open to whom a rule names, by both IP versions, and no other port is."""
        await self.plug(VIP, VIP6)
        await self.let_in(TCP)
        for vip in (VIP, VIP6):
            await deferToThread(self.assert_open, vip, OPEN)
            await deferToThread(self.assert_closed, vip, CLOSED)

    async def test_version(self) -> None:
        """What is open to all of IPv4 is closed to IPv6, and the other way round."""
        await self.plug(VIP, VIP6)
        await self.let_in(
            TCP,
            FilterRule("TCP", ip_network("0.0.0.0/0"), 8084),
            FilterRule("TCP", ip_network("::/0"), 8086),
        )
        await deferToThread(self.assert_open, VIP, 8084)
        await deferToThread(self.assert_closed, VIP, 8086)
        await deferToThread(self.assert_open, VIP6, 8086)
        await deferToThread(self.assert_closed, VIP6, 8084)

    async def test_source(self) -> None:
        """Who is not among the allowed does not come in."""
        await self.plug(VIP, VIP6)
        allowed = (ip_network(PEER), ip_network(PEER6))
        await self.let_in(TCP, *(FilterRule("TCP", cidr, CLOSED) for cidr in allowed))
        for vip, peer, stranger in ((VIP, PEER, STRANGER), (VIP6, PEER6, STRANGER6)):
            await deferToThread(self.assert_open, vip, CLOSED, peer)
            await deferToThread(self.assert_closed, vip, CLOSED, OPEN, stranger)

    async def test_A19_removed(self) -> None:
        """A rule that goes closes its port, and the last one all of them (A19)."""
        await self.plug(VIP)
        await self.let_in(TCP, FilterRule("TCP", None, CLOSED))
        await deferToThread(self.assert_open, VIP, CLOSED)
        await self.let_in(TCP)
        await deferToThread(self.assert_closed, VIP, CLOSED)
        await self.let_in()
        await deferToThread(self.assert_all_closed)

    async def test_established(self) -> None:
        """A connection goes on while rules are replaced, even where nobody could begin it any more."""
        await self.plug(VIP)
        await self.let_in(TCP)
        server = self.listen(VIP, OPEN)
        client = await deferToThread(self.connect, VIP, OPEN)
        served, _ = await deferToThread(server.accept)
        self.addCleanup(served.close)
        for rules in ((TCP,), (), (FilterRule("UDP", None, 53),)):
            await self.let_in(*rules)
            client.sendall(b"x")
            self.assertEqual(b"x", await deferToThread(served.recv, 1))
            served.sendall(b"y")
            self.assertEqual(b"y", await deferToThread(client.recv, 1))

    async def test_vrrp(self) -> None:
        """VRRP is heard from the peer alone, by both IP versions."""
        await self.plug(VIP, VIP6)
        await self.let_in(*(FilterRule("vrrp", ip_network(peer), 112) for peer in (PEER, PEER6)))
        for family, vip, peer, stranger in (
            (socket.AF_INET, VIP, PEER, STRANGER),
            (socket.AF_INET6, VIP6, PEER6, STRANGER6),
        ):
            make = partial(socket.socket, family, socket.SOCK_RAW, VRRP)
            hearing = self.socket_in(self.namespace, make)
            for source in (stranger, peer):
                sender = self.socket_in(self.far, make)
                sender.bind((source, 0))
                sender.sendto(source.encode(), (vip, 0))
            heard, sender_address = await deferToThread(hearing.recvfrom, 2048)
            self.assertEqual(peer, sender_address[0])
            self.assertTrue(heard.endswith(peer.encode()))

    async def test_A19_other_interface(self) -> None:
        """What comes in by another interface, as members' traffic does, is not filtered (A19)."""
        await self.plug(VIP)
        await self.let_in()
        members = new_cable(self, self.far)
        members.give_far_end("198.51.100.1/24")
        await self.network.plug_network(members.mac)
        ip("-n", self.namespace, "address", "add", "198.51.100.2/24", "dev", "eth2")
        await deferToThread(self.assert_open, "198.51.100.2", CLOSED)
        await deferToThread(self.assert_all_closed)

    async def test_itself(self) -> None:
        """The amphora reaches itself by its VIP."""
        await self.plug(VIP)
        await self.let_in()
        server = self.listen(VIP, OPEN)
        await deferToThread(self.connect_out, server)

    async def test_put_back(self) -> None:
        """After a reboot the rules are in force."""
        await self.plug(VIP)
        await self.let_in(TCP)
        await self.reboot()
        await deferToThread(self.assert_open, VIP, OPEN)
        await deferToThread(self.assert_closed, VIP, CLOSED)

    async def test_A19_lost(self) -> None:
        """After a reboot without the rules, or with a part of them, all is closed until there are rules (A19)."""
        await self.plug(VIP)
        await self.let_in(TCP)
        whole = self.rules_path.read_bytes()
        for left in (None, b"", whole[: whole.index(b'"port"')], whole[: whole.index(b'"rules"')], b"\0" * len(whole)):
            if left is None:
                self.rules_path.unlink()
            else:
                self.rules_path.write_bytes(left)
            await self.reboot()
            await deferToThread(self.assert_all_closed)
        await self.let_in(TCP)
        await deferToThread(self.assert_open, VIP, OPEN)

    async def test_never_open(self) -> None:
        """A port that cannot be filtered stays down."""
        await self.plug(VIP)
        await self.let_in(TCP)
        await self.network.release()
        ip("-n", self.namespace, "link", "set", "eth1", "down")
        self.network = self.new_network(filtered="nowhere")
        await self.network.put_back()
        (link,) = ip_json(self.namespace, "link", "show", "eth1")
        self.assertNotIn("UP", link["flags"])

    async def test_full_disk(self) -> None:
        """Rules for which there is no room are refused; the old ones are in force, and kept."""
        await self.plug(VIP)
        await self.let_in(TCP)
        rules = self.rules_path.read_bytes()
        small = self.directory / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(small)], check=True)
        path = small / "rules"
        clock = running_reactor()
        filtering = PacketFilter(NftProgram(clock, InThreads(clock), self.namespace), InThreads(clock), path)
        port = next(port for port in Records(self.directory / "interfaces").load()[0])
        await filtering.replace([port], [port], RuleSet(port.mac, (TCP,)))
        self.assertEqual(rules, path.read_bytes())
        with (small / "filler").open("wb") as filler, self.assertRaises(OSError):
            while True:
                os.write(filler.fileno(), b"x" * 4096)
        with self.assertRaises(RulesNotReplaced) as caught:
            await filtering.replace([port], [port], RuleSet(port.mac, ()))
        self.assertEqual(f"{path}: No space left on device", caught.exception.details)
        self.assertEqual((rules, ["filler", "rules"]), (path.read_bytes(), sorted(os.listdir(small))))
        await deferToThread(self.assert_open, VIP, OPEN)


@requires("root", "ip", "nft", "ipv6")
class TranslationTests(FilteredTestCase):
    def tracked(self) -> int:
        """How many connections the kernel knows in the amphora's namespace."""
        path = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        return int(inside(self.namespace, path.read_text))

    async def test_A18_second_version(self) -> None:
        """With a VIP of the other IP version comes its table (A18)."""
        await self.plug(VIP)
        self.assertEqual({"ip octavia-ipv4"}, tables(self.namespace))
        await self.plug(VIP6)
        self.assertEqual({"ip octavia-ipv4", "ip6 octavia-ipv6"}, tables(self.namespace))
        self.assertEqual(2, nft(self.namespace, "list", "ruleset").count('oifname "eth1" meta l4proto { '))

    async def test_put_back(self) -> None:
        """It is there after a reboot."""
        await self.plug(VIP)
        before = nft(self.namespace, "list", "ruleset")
        await self.reboot()
        self.assertEqual(before, nft(self.namespace, "list", "ruleset"))

    async def test_A17_untracked(self) -> None:
        """TCP leaves no trace in the table of connections, in or out; UDP does (A17)."""
        await self.plug(VIP, VIP6)
        before = self.tracked()
        for vip in (VIP, VIP6):
            for _ in range(20):
                await deferToThread(self.assert_open, vip, OPEN)
        self.assertEqual(before, self.tracked())
        sender = self.socket_in(self.namespace, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        sender.sendto(b"x", (PEER, 9))
        self.assertEqual(before + 1, self.tracked())

    async def test_masquerade(self) -> None:
        """UDP that is passed on, as LVS passes it on, has the amphora's address; so its answer comes back."""
        await self.plug(VIP)
        beyond = new_namespace(self)
        cable = new_cable(self, beyond)
        cable.give_far_end("198.51.100.1/24")
        ip("link", "set", cable.name, "netns", self.namespace)
        ip("-n", self.namespace, "link", "set", cable.name, "up")
        ip("-n", self.namespace, "address", "add", "198.51.100.2/24", "dev", cable.name)
        ip("-n", beyond, "route", "add", "default", "via", "198.51.100.2")
        inside(self.namespace, partial(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1"))
        member = self.socket_in(self.far, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        member.bind((PEER, 5353))
        client = self.socket_in(beyond, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(b"question", (PEER, 5353))
        question, sender = await deferToThread(member.recvfrom, 100)
        self.assertEqual((b"question", VIP), (question, sender[0]))
        member.sendto(b"answer", sender)
        self.assertEqual((b"answer", (PEER, 5353)), await deferToThread(client.recvfrom, 100))


@requires("root", "haproxy", "ip", "nft", "ipv6")
class RouteTests(Of10TestCase):
    """The route, as a controller calls it."""

    async def put(self, address: str, body: object) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"PUT /1.0/interface/{address}/rules HTTP/1.1\r\nHost: amphora\r\nConnection: close\r\n"
        raw = await self.raw_client().exchange(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        first, _, content = raw.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Type: application/json", first)
        return int(first.split(b" ")[1]), json.loads(content)

    def filter(self) -> str:
        return nft(self.namespace, "list", "table", *FILTER_TABLE.split())

    async def test_route(self) -> None:
        """
        An SR-IOV port is closed once it is plugged, and opened by its own address.

        The interface is looked for before the rules are looked at, and they outlive the agent.
        """
        sent = [rule.encode() for rule in EVERY_RULE]
        self.assertEqual(404, (await self.put(OWN, b"nonsense"))[0])
        self.assertEqual(400, (await self.put("10.6.0.1.1", sent))[0])
        self.assertEqual(202, (await self.vips(self.cable().mac, is_sriov=True))[0])
        self.assertIn("policy drop", self.filter())
        self.assertNotIn("amphora_vip_chain", self.filter())
        self.assertEqual((200, {"message": "OK"}), await self.put(OWN, sent))
        path = self.agent.base_path / "nftables-vip.rules"
        self.assertEqual(0o600, path.stat().st_mode & 0o777)
        before = self.filter()
        self.assertEqual(len(EVERY_RULE), before.partition("amphora_vip_chain {")[2].count("accept"))
        for body, part in (
            (b"nonsense", "The body is not JSON"),
            ({}, "The body is not a JSON array"),
            ([*sent, {**sent[0], "port": 0}], f"rule {len(sent) + 1}: port is not a number"),
        ):
            status, answer = await self.put(OWN, body)
            self.assertEqual((400, "Invalid rules information"), (status, answer["message"]))
            self.assertIn(part, answer["details"])
        status, answer = await self.put("127.0.0.1", sent)
        self.assertEqual((400, "lo is not the interface of a VIP that was plugged"), (status, answer["details"]))
        self.assertEqual(before, self.filter())
        await self.agent.end()
        nft(self.namespace, "flush", "ruleset")
        await self.agent.start()
        self.assertEqual(before, self.filter())
        self.assertEqual((200, {"message": "OK"}), await self.put(OWN, []))
        self.assertEqual((), read_stored_rules(path.read_bytes()).rules)

    async def test_no_longer(self) -> None:
        """A port that is told to be no SR-IOV port any more is filtered no more."""
        mac = self.cable().mac
        await self.vips(mac, is_sriov=True)
        self.assertEqual({FILTER_TABLE, "ip octavia-ipv4"}, tables(self.namespace))
        self.assertEqual(202, (await self.vip_port(mac))[0])
        self.assertEqual({"ip octavia-ipv4"}, tables(self.namespace))
