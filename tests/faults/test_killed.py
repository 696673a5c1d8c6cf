"""The agent is killed at any moment of whatever it is asked to change, and started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from amphora.testing.pki import Part
from tests.faults.deeds import SEED, Deed, DeedTestCase, HaproxyTestCase, Picture, Request, Requests, post_topology
from tests.integration.harness import AMPHORA_ID, LoadBalancer, wait_until
from tests.integration.lvs import LvsText, fake_ipvs
from tests.integration.networks import hurry_detection, ip, ip_json, new_cable
from tests.integration.pair import VIRTUAL_ADDRESS, Pair, VrrpConfig, end_keepaliveds
from tests.integration.support import count, requires
from tests.integration.test_nftables import nft


class KilledTestCase(DeedTestCase):
    most = 6
    """Before so many of a deed's steps the agent is killed, with `--full`."""

    async def kill_in(self, *deeds: Deed) -> None:
        """
        Kill the agent in each of these, before each of its steps, or some of them, and anywhere else; in CI before one,
        in every other.

        Each time the next agent finds the old world or the new one, or makes it; the deed can be done then, and undone.
        """
        chosen = self.chance.sample(deeds, count((len(deeds) + 1) // 2, len(deeds)))
        for deed in deeds:
            await self.do(*deed.ground)
            if deed not in chosen:
                continue
            await self.do(deed.request)
            await self.undo(deed)
            before = await self.settled()
            self.steps.count()
            began = _now()
            await self.do(deed.request)
            duration, steps = _now() - began, self.steps.taken
            self.steps.leave()
            after = await self.settled()
            await self.undo(deed)
            await self.until_seen(f"{deed.request} to be undone", before)
            self.assertGreater(steps, 0)
            # After the last there is the answer.
            moments: Sequence[int] = range(1, steps + 2)
            for step in self.chance.sample(moments, count(1, min(self.most, len(moments)))):
                await self.killed(deed, before, after, step=step)
            for _ in range(count(0, 2)):
                await self.killed(deed, before, after, delay=self.chance.random() * duration)

    async def killed(self, deed: Deed, before: Picture, after: Picture, *, step: int = 0, delay: float = 0) -> None:
        if step:
            self.steps.kill_at(step)
        asking = Deferred.fromCoroutine(self.attempt(deed.request))
        await (asking if step else deferLater(_clock(), delay))
        await self.agent.end(signal.SIGKILL)
        await asking
        moment = f"before {self.steps.last!r}, step {step}" if step else f"after {delay:.4f} s"
        self.steps.leave()
        what = f"{deed.request}, killed {moment}, AMPHORA_SEED={SEED}"
        self.assertNotIn("Traceback", self.agent.log, what)
        await self.agent.start()
        seen = await self.until_seen(f"{what}: the old world or the new one", before, after)
        if seen == before:
            # Who got no answer asks again.
            await self.do(deed.request)
            await self.until_seen(f"{what}: the new world", after)
        await self.undo(deed)
        await self.until_seen(f"{what}: the old world", before)

    @asynccontextmanager
    async def killing(self, *, speaks: bool = True) -> AsyncIterator[None]:
        """
        Kills inside change nothing for a load balancer that has no part in them; nothing is told twice of it.

        @param speaks: False where a keepalived is told to stop: its amphora is silent then.
        """
        async with self.watch(spares_agent=False, speaks=speaks) as watch:
            yield
        await self.next_heartbeat()
        for name, most in (("totconns", watch.traffic.served), ("tx", watch.traffic.received)):
            self.assertLessEqual(self.told(self.balancer.listener_id, name), most)


@requires("haproxy", "gcc")
class HaproxyTests(KilledTestCase, HaproxyTestCase):
    """Killed while a load balancer is changed."""

    async def kill_in_all(self, version: str) -> None:
        self.changed = LoadBalancer()
        async with self.killing():
            await self.kill_in(*self.deeds(version))

    async def test_v0_1(self) -> None:
        """A listener of v0.1, its certificate and its haproxy are as they were, or as they are to be, at each step."""
        self.most = sys.maxsize
        await self.kill_in_all("v0.1")

    async def test_1_0(self) -> None:
        """So are a load balancer of 1.0, its certificate and its haproxy."""
        await self.kill_in_all("1.0")


@requires("haproxy", "gcc")
class AgentTests(KilledTestCase):
    """Killed while the agent itself is changed."""

    async def more_of_the_picture(self) -> Picture:
        topology = (await self.call("GET", "/topology")).json
        return {"topology": topology}

    def certificates(self, version: str) -> Deed:
        """Its own certificate."""
        new = self.pki.authority.issue(AMPHORA_ID).pem(Part.KEY, Part.CERTIFICATE)
        put, put_back = (Request(version, "PUT", "/certificate", pem) for pem in (new, self.pki.server.read_bytes()))
        return Deed(put, (put_back,), (put_back,))

    def configurations(self) -> Deed:
        """Its configuration."""
        put_back = Request("1.0", "PUT", "/config", self.agent.config_file.read_bytes())
        self.agent.options["DEFAULT"] = {"use_syslog": False, "debug": True}
        return Deed(Request("1.0", "PUT", "/config", self.agent.config().encode()), (put_back,), (put_back,))

    async def test_agent(self) -> None:
        """Its certificate, its configuration and its topology are the old ones or the new ones."""
        topology = Deed(post_topology(), undo=(post_topology("SINGLE"),))
        async with self.killing():
            await self.kill_in(self.certificates("v0.1"), self.certificates("1.0"), self.configurations(), topology)


class NamespaceTestCase(KilledTestCase):
    """In a namespace of the amphora's, with a cable that leads to a peer."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.pair = Pair.create(self)
        self.namespace = self.pair.ours.namespace
        hurry_detection(self.namespace)
        await super().setUp()

    def agent_options(self) -> dict[str, dict[str, object]]:
        return {"amphora_agent": {"network_namespace": self.namespace}}

    async def _clean_up(self) -> None:
        try:
            await super()._clean_up()
        finally:
            await end_keepaliveds(self.directory)

    async def more_of_the_picture(self) -> Picture:
        return await deferToThread(self.network)

    def network(self) -> Picture:
        """All of the namespace's network but what the kernel makes of a link by itself."""
        # The elements of a set are listed in any order, and so are tables.
        rules = re.sub(
            "{ (.+) }", lambda found: str(sorted(found[1].split(", "))), nft(self.namespace, "list", "ruleset")
        )
        seen: Picture = {"tables": sorted(re.split("^(?=table )", rules, flags=re.M))}
        for link in ip_json(self.namespace, "address", "show"):
            addresses = sorted((each["local"], each["prefixlen"]) for each in link["addr_info"] if "scope" in each)
            seen[f"link {link['ifname']}"] = (link["mtu"], "UP" in link["flags"], addresses)
        for family in ("-4", "-6"):
            routes = ip("-n", self.namespace, family, "route", "show", "table", "all").splitlines()
            seen[f"routes {family}"] = sorted(line for line in routes if "fe80:" not in line and "ff00:" not in line)
            seen[f"rules {family}"] = ip("-n", self.namespace, family, "rule")
        return seen


@requires("root", "haproxy", "ip", "nft", "ipv6", "gcc")
class NetworkTests(NamespaceTestCase):
    """Killed while the network is changed."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.cable = new_cable(self, self.pair.theirs.namespace)

    def network(self) -> Picture:
        return {**super().network(), "outside": self.cable.outside}

    async def unplug(self) -> None:
        """As if there had never been anything."""
        await self.agent.end()
        await deferToThread(self._unplug)
        await self.agent.start()

    def _unplug(self) -> None:
        for path in (self.directory / "interfaces").glob("*"):
            path.unlink()
        (self.agent.base_path / "nftables-vip.rules").unlink(missing_ok=True)
        nft(self.namespace, "flush", "ruleset")
        for family in ("-4", "-6"):
            for line in ip("-n", self.namespace, family, "rule").splitlines():
                if " lookup 1" in line:
                    ip("-n", self.namespace, family, "rule", "delete", "priority", line.partition(":")[0])
        for link in ip_json(self.namespace, "link", "show"):
            if link.get("address") == self.cable.mac:
                ip("-n", self.namespace, "link", "set", link["ifname"], "down")
                out = ("netns", str(os.getpid()), "name", self.cable.name)
                ip("-n", self.namespace, "link", "set", link["ifname"], *out)

    def post(self, version: str, path: str, **body: object) -> Request:
        return Request(version, "POST", path, json.dumps({"mac_address": self.cable.mac, **body}).encode())

    def vips(self) -> Request:
        """VIPs of both IP versions, and a filter."""
        return self.post(
            "1.0",
            "/plug/vip/203.0.113.2",
            subnet_cidr="203.0.113.0/24",
            gateway="203.0.113.1",
            vrrp_ip="203.0.113.5",
            mtu=1450,
            host_routes=[{"destination": "198.51.100.0/24", "nexthop": "203.0.113.9"}],
            additional_vips=[
                {
                    "ip_address": "2001:db8::2",
                    "subnet_cidr": "2001:db8::/64",
                    "gateway": "2001:db8::1",
                    "host_routes": [],
                }
            ],
            is_sriov=True,
        )

    def rules(self, *ports: int) -> Request:
        rules = [{"protocol": "TCP", "cidr": None, "port": port} for port in ports]
        return Request("1.0", "PUT", "/interface/203.0.113.2/rules", json.dumps(rules).encode())

    async def test_v0_1(self) -> None:
        """A VIP, and an interface, are plugged, or are not."""
        vip = self.post("v0.1", "/plug/vip/203.0.113.2", subnet_cidr="203.0.113.0/24", gateway="203.0.113.1")
        async with self.killing():
            await self.kill_in(*(Deed(plug, undo=self.unplug) for plug in (vip, self.post("v0.1", "/plug/network"))))

    async def test_1_0(self) -> None:
        """VIPs, and members' networks, are plugged with all that belongs to them, or are not; the same with rules."""
        fixed: dict[str, object] = {
            "ip_address": "192.0.2.200",
            "subnet_cidr": "192.0.2.0/24",
            "gateway": None,
            "host_routes": [],
        }
        network = self.post("1.0", "/plug/network", fixed_ips=[fixed], mtu=1400)
        async with self.killing():
            await self.kill_in(*(Deed(plug, undo=self.unplug) for plug in (self.vips(), network)))
            await self.kill_in(Deed(self.rules(80, 443), (self.vips(), self.rules(80)), (self.rules(80),)))


@requires("root", "haproxy", "keepalived", "ip", "nft", "gcc")
class KeepalivedTests(NamespaceTestCase):
    """Killed while a keepalived is told what to do."""

    async def start(self, *controllers: str) -> None:
        # keepalived itself has to be where it always is, or the next agent does not know it for one.
        library = await deferToThread(fake_ipvs, self.directory)
        etc = self.directory / "etc"
        etc.mkdir()
        (etc / "ld.so.preload").write_text(f"{library}\n")
        put_in_place = 'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc && exec "$@"'
        self.agent.wrapper = ("unshare", "--mount", "sh", "-c", put_in_place, str(etc))
        await super().start(*controllers)

    async def more_of_the_picture(self) -> Picture:
        details = (await self.call("GET", "/details")).json
        topology = [details[name] for name in ("topology", "topology_status", "active")]
        return {**await super().more_of_the_picture(), "topology": topology}

    async def test_lvs(self) -> None:
        """A UDP listener's configuration and its keepalived are the old ones or the new ones."""
        old = LvsText()
        new = evolve(old, members=("192.0.2.10", "192.0.2.11"))
        it = Requests("1.0", old.listener_id)
        upload, update = it.upload_lvs(old.text()), it.upload_lvs(new.text())
        start, stop, reload = (it.act(action) for action in ("start", "stop", "reload"))
        async with self.killing():
            await self.kill_in(
                Deed(upload, undo=(it.delete(),)),
                Deed(start, (upload,), (stop,)),
                Deed(update, (start,), (upload,)),
                Deed(reload, (update,), (upload, reload, update)),
                Deed(stop, (), (start,)),
                Deed(it.delete(), (), (upload, update, start)),
            )

    def vrrp(self, *addresses: str) -> bytes:
        return VrrpConfig(self.pair.ours, self.pair.theirs, addresses=addresses, name="pair").text()

    async def forget_vrrp(self) -> None:
        """As if there had never been anything."""
        await self.agent.end()
        await deferToThread(shutil.rmtree, self.agent.base_path / "vrrp")
        await self.agent.start()

    async def test_vrrp(self) -> None:
        """So are those of the keepalived that has the VIP."""
        upload, update = (
            Request("v0.1", "PUT", "/vrrp/upload", self.vrrp(*addresses))
            for addresses in ((VIRTUAL_ADDRESS,), (VIRTUAL_ADDRESS, "192.0.2.101"))
        )
        start, stop, reload = (Request("v0.1", "PUT", f"/vrrp/{action}") for action in ("start", "stop", "reload"))
        async with self.killing(speaks=False):
            await self.kill_in(
                Deed(upload, undo=self.forget_vrrp),
                Deed(start, (upload,), (stop,)),
                Deed(update, (start,), (upload,)),
                Deed(reload, (update,), (upload, reload, update)),
                Deed(stop, (upload, reload), (start,)),
            )

    async def test_topology(self) -> None:
        """An amphora is one of a pair, or alone."""
        async with self.killing(speaks=False):
            await self.do(Request("v0.1", "PUT", "/vrrp/upload", self.vrrp(VIRTUAL_ADDRESS)))
            await self.kill_in(Deed(post_topology(), (), self.be_alone))

    async def be_alone(self) -> None:
        await self.at_rest()
        await self.do(post_topology("SINGLE"))
        await self.at_rest()

    async def at_rest(self) -> None:
        async def is_so() -> bool:
            return bool((await self.call("GET", "/details")).json["topology_status"] == "OK")

        await wait_until(is_so, "the topology to be at rest")


def _clock() -> Any:
    from twisted.internet import reactor

    return cast(Any, reactor)


def _now() -> float:
    return cast(float, _clock().seconds())
