"""
An amphora that routes can do anything to: its own directory, a network and programs that are played, a clock.

Configurations are accepted unless they say that they are to be refused; nothing that should go on running can be
started, so that no process is ever looked for that is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IProcessTransport, ITransport
from twisted.internet.testing import StringTransport

from amphora.api.channel import AmphoraChannel, AmphoraSite, Limits
from amphora.api.details import Details
from amphora.api.details_1_0 import Details10
from amphora.api.info import AmphoraInfo
from amphora.api.root import AmphoraAPI
from amphora.api.tls import MutualTLS, TLSFiles
from amphora.api.v0_1 import V01
from amphora.api.v1_0 import V10
from amphora.blocking import AtOnce
from amphora.config import Settings
from amphora.health.counters import Counters
from amphora.health.sender import HeartbeatReport
from amphora.keepalived import files
from amphora.live_settings import LiveSettings, load_usable_settings
from amphora.loadbalancer.final_logs import Nowhere
from amphora.loadbalancer.haproxy import Haproxy, HaproxyProgram
from amphora.loadbalancer.instance import Surroundings
from amphora.loadbalancer.instances import Instances
from amphora.loadbalancer.kept_sessions import KeptSessions
from amphora.loadbalancer.notify import NotifySocket
from amphora.loadbalancer.store import InstanceFiles, Store
from amphora.lvs.listener import Surroundings as LvsSurroundings
from amphora.lvs.listeners import LvsListeners
from amphora.lvs.store import LvsProgram
from amphora.network.packet_filter import PacketFilter
from amphora.network.plugging import Network
from amphora.network.records import Records
from amphora.system.figures import Meter
from amphora.system.links import LinkCounters
from amphora.system.machine import Disk, Haproxies, Machine, Memory
from amphora.system.packages import Packages
from amphora.system.server_certificate import ServerCertificate
from amphora.system.window import CpuTimes
from amphora.testing.fake_dhcp import FakeDhcpServer
from amphora.testing.fake_kernel import FakeKernel
from amphora.testing.fake_nft import FakeNft
from amphora.testing.fakes import FakeProcess, FakeProcessReactor
from amphora.testing.pki import Authority, Part
from amphora.vrrp.daemon import KeepalivedProgram
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.store import VrrpFiles
from amphora.vrrp.topology import AmphoraTopology
from tests.odd_requests import AMPHORA_ID, CONFIG, MAC, OTHER_MAC, REFUSED

_AUTHORITY = Authority.create()
_SERVER = _AUTHORITY.issue(AMPHORA_ID).pem(Part.KEY, Part.CERTIFICATE)
_BOOT = "a boot"
_SETSID = "setsid"
"""What starts all that is to go on running; here it is missing."""
_STEPS = (0.1,) * 20 + (1.0,) * 60 + (10.0,) * 20
"""How time passes while an answer is waited for: longer than any limit of the agent's."""


class PlayedPrograms(FakeProcessReactor):
    """Programs that check a configuration, and end at once."""

    def __init__(self) -> None:
        super().__init__(missing=(_SETSID,))

    def spawnProcess(self, *args: Any, **kwargs: Any) -> IProcessTransport:
        process = super().spawnProcess(*args, **kwargs)
        assert isinstance(process, FakeProcess)
        self.callLater(0, self._end, process)
        return process

    def _end(self, process: FakeProcess) -> None:
        places = [Path(word).parent for word in process.command if word.startswith("/")]
        given = [path.read_bytes() for place in places if place.is_dir() for path in place.glob("*.new*")]
        refused = any(REFUSED.strip() in content for content in given)
        if refused:
            process.says(b"[ALERT] this is one to refuse\n")
        process.exits(1 if refused else 0)

    def addReader(self, reader: object) -> None:
        """Nothing is ever to be read."""

    removeReader = addReader


class KnownClient:
    """A controller's certificate was verified."""

    def verified(self, transport: ITransport) -> bool:
        return True

    def problem(self, transport: ITransport) -> str:
        return ""


class Connection(StringTransport):
    """What was written to it, and whether it was ended."""

    def abortConnection(self) -> None:
        self.disconnecting = True


@define(eq=False)
class AmphoraInMemory:
    """
    One amphora below a directory: all that it may write lies in C{agent}.

    Its network has two interfaces, of the MAC addresses that requests name.
    """

    directory: Path
    reactor: PlayedPrograms = field(init=False, factory=PlayedPrograms)
    kernel: FakeKernel = field(init=False, factory=FakeKernel)
    site: AmphoraSite = field(init=False)
    begin: Callable[[], Deferred[None]] = field(init=False)
    """Find what an earlier one left in the same directory, in the order in which an agent does."""

    def __attrs_post_init__(self) -> None:
        agent = self.directory / "agent"
        anew = not agent.exists()
        agent.mkdir(exist_ok=True)
        base = agent / "base"
        reactor = cast(Any, self.reactor)
        blocking = AtOnce()
        config_file, server, ca = agent / "agent.conf", agent / "server.pem", agent / "ca.pem"
        if anew:
            server.write_bytes(_SERVER)
            ca.write_bytes(_AUTHORITY.certificate_pem)
            config_file.write_bytes(CONFIG)
        settings = load_usable_settings(str(config_file))
        store = Store(base, base / "certs")
        store.prepare()
        files.prepare(VrrpFiles(store.vrrp))
        for mac in (MAC, OTHER_MAC):
            self.kernel.new_link(mac)
        network = Network(
            self.reactor,
            blocking,
            self.kernel,
            Records(agent / "interfaces"),
            PacketFilter(FakeNft(), blocking, agent / "nftables-vip.rules"),
            keepalived_owns_vips=lambda: topology.keepalived_owns_vips,
            still_bound=lambda: instances.binds | lvs_listeners.binds,
            open_wire=FakeDhcpServer(self.reactor).open,
        )
        notify, kept = NotifySocket(store.notify_socket), KeptSessions(reactor, blocking, store.sessions_socket)
        program = HaproxyProgram("/no/haproxy", "")

        def make_haproxy(places: InstanceFiles, died: Callable[[], None], spoke: Callable[[], None]) -> Haproxy:
            return Haproxy(reactor, blocking, program, notify, kept, places, died, spoke)

        def keepalived_changed() -> None:
            topology.keepalived_changed()

        async def expect(what: object) -> None: ...
        async def prepare_kernel(balances: bool) -> None: ...
        async def prepare(new: Settings) -> Sequence[str]:
            return ()

        instances = Instances(
            "/no/haproxy",
            store,
            Surroundings(
                reactor=reactor,
                blocking=blocking,
                make_haproxy=make_haproxy,
                logs=Nowhere(),
                amphora_id=AMPHORA_ID,
                namespace="",
                base_path=base,
                starts=DeferredSemaphore(1),
                as_root=False,
                require_memory_fs=False,
                changed=lambda: None,
                addresses=network,
            ),
            expect,
        )
        lvs_listeners = LvsListeners(
            base / "lvs",
            LvsSurroundings(
                reactor=reactor,
                blocking=blocking,
                program=LvsProgram("/no/keepalived", "", None),
                addresses=network,
                prepare_kernel=prepare_kernel,
                changed=lambda: None,
            ),
            expect,
        )
        keepalived = Keepalived(
            reactor,
            blocking,
            KeepalivedProgram("/no/keepalived", "", None),
            VrrpFiles(store.vrrp),
            changed=keepalived_changed,
        )
        topology = AmphoraTopology.create(
            self.reactor,
            blocking,
            path=store.vrrp / "topology.json",
            keepalived=keepalived,
            hand_over_vips=network.topology_changed,
            changed=lambda: None,
            default="SINGLE",
        )
        tls = MutualTLS(settings.client_auth, settings.agent_tls_protocol)
        tls.replace(TLSFiles(str(server), _SERVER, str(ca), _AUTHORITY.certificate_pem))
        meter = Meter(
            reactor=self.reactor,
            blocking=blocking,
            haproxies=instances.processes,
            read_cpu_times=self._cpu_times,
            read_links=lambda: {"eth1": LinkCounters(2, 3, 4)},
            read_machine=lambda haproxies: _MACHINE,
        )
        info = AmphoraInfo(AMPHORA_ID, _haproxy_version)
        common: Mapping[str, Any] = {
            "info": info,
            "meter": meter,
            "packages": Packages(self.reactor, blocking, agent / "no-status", ()),
            "haproxies": instances.processes,
            "heartbeat": lambda: HeartbeatReport(0, 0, 0, ()),
            "standing": lambda: topology.standing,
        }
        certificate = ServerCertificate(server, blocking, tls.renewal)
        details = Details(listeners=instances.ids, **common)
        details_1_0 = Details10(
            listeners=lambda: [listener.listener_id for listener in instances.listeners()],
            lvs_listeners=lvs_listeners.ids,
            lvs_processes=lambda: len(lvs_listeners.processes()),
            **common,
        )
        counters = Counters(base, boot_id=_BOOT, agent_started=1)
        live = LiveSettings(config_file, settings, blocking, lambda new: None, prepare, lambda now: None)
        api = AmphoraAPI(
            info,
            V01(AMPHORA_ID, instances, network, keepalived, topology, details, certificate),
            V10(details_1_0, instances, lvs_listeners, network, keepalived, topology, certificate, live),
        )
        self.site = AmphoraSite(
            api.resource(),
            reactor=self.reactor,
            verdicts=KnownClient(),
            blocking=blocking,
            spool=store,
            limits=Limits(),
        )

        async def begin() -> None:
            await topology.load()
            await network.put_back()
            await instances.adopt()
            await lvs_listeners.adopt()
            await keepalived.adopt()
            topology.resume()
            counters.load()
            await live.keep()

        self.begin = lambda: Deferred.fromCoroutine(begin())

    def exchange(self, *segments: bytes) -> bytes:
        """Send segments, and wait as long as it takes; all that was answered.  The client leaves then."""
        channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
        assert isinstance(channel, AmphoraChannel)
        connection = Connection()
        channel.makeConnection(connection)
        channel.handshakeCompleted()
        for segment in segments:
            if not connection.disconnecting:
                channel.dataReceived(segment)
        for step in _STEPS:
            if not channel.requests or connection.disconnecting:
                break
            # Nobody else has the addresses.
            self.kernel.end_detection()
            self.reactor.advance(step)
        answered = bytes(connection.value())
        channel.connectionLost()
        self.reactor.advance(0)
        return answered

    def _cpu_times(self) -> CpuTimes:
        now = self.reactor.seconds()
        return CpuTimes(total=3 * now, idle=2 * now, user=0.5 * now, system=0.25 * now, soft_irq=0.0)


async def _haproxy_version() -> str:
    return "2.6.12"


_MACHINE = Machine(
    cpu_count=2,
    load=(0.5, 0.45, 0.0),
    memory=Memory(4087402, 760656, 2655901, 90980, 1830143, 943, 105792, 158819, 2643480),
    disk=Disk(used=1234567, available=5242880),
    haproxies=Haproxies(workers=0, old=0, memory=0),
    agent_memory=43210,
    certificates_in_memory=True,
)
