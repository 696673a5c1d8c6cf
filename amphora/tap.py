"""`twistd amphora`: its options, and the one place where the agent's parts meet."""

from __future__ import annotations

import atexit
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any, ClassVar, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger, globalLogPublisher
from twisted.python.usage import Options as UsageOptions

from amphora.agent import Agent, IAgentReactor
from amphora.api.channel import AmphoraSite, Limits
from amphora.api.details import Details
from amphora.api.details_1_0 import Details10
from amphora.api.info import AmphoraInfo
from amphora.api.root import AmphoraAPI
from amphora.api.self_test import VerificationNotInForce
from amphora.api.server import ApiService, IApiReactor
from amphora.api.tls import BadTLSFiles, MutualTLS, TLSFiles
from amphora.api.v0_1 import V01
from amphora.api.v1_0 import V10
from amphora.blocking import InSpareThreads, InThreads, IThreadedReactor
from amphora.config import ConfigError, Settings
from amphora.health.changes import ChangeWatcher
from amphora.health.counters import Counters
from amphora.health.sender import HeartbeatSender, HeartbeatSettings
from amphora.live_settings import FollowsItsFile, LiveSettings, last_good, load_usable_settings
from amphora.loadbalancer.final_logs import LogDestination, Nowhere, Syslog
from amphora.loadbalancer.haproxy import Haproxy, HaproxyProgram
from amphora.loadbalancer.housekeeping import Housekeeping
from amphora.loadbalancer.instance import STATS_TIMEOUT, Surroundings
from amphora.loadbalancer.instances import Instances
from amphora.loadbalancer.kept_sessions import KeptSessions
from amphora.loadbalancer.notify import NotifySocket
from amphora.loadbalancer.sample import InstanceSample
from amphora.loadbalancer.store import InstanceFiles, Store
from amphora.logs import Logs
from amphora.lvs.listener import Surroundings as LvsSurroundings
from amphora.lvs.listeners import LvsListeners
from amphora.lvs.samples import LvsSamples
from amphora.lvs.store import LvsProgram
from amphora.metrics.exporter import IExporterReactor, Metrics, MetricsExporter, open_port
from amphora.metrics.source import HAPROXY_PORT, LOOPBACK, HaproxySource, ISourceReactor, connect_to_haproxy
from amphora.metrics.usage import read_usage
from amphora.network.bind import Bind
from amphora.network.dhcp_client import opener
from amphora.network.inside import inside
from amphora.network.kernel import LinuxKernel
from amphora.network.lvs_settings import LvsSettings
from amphora.network.nft import NftProgram
from amphora.network.packet_filter import PacketFilter
from amphora.network.plugging import Network
from amphora.network.records import Records
from amphora.process import ProcessIdentity, boot_id
from amphora.sample import Sample
from amphora.service_manager import ServiceManager, status_line
from amphora.startable import require_places
from amphora.system.figures import Meter
from amphora.system.haproxy_version import HaproxyVersion
from amphora.system.links import read_links
from amphora.system.machine import read_cpu_times, read_machine
from amphora.system.packages import Packages
from amphora.system.server_certificate import ServerCertificate
from amphora.vrrp.check_scripts import CheckScripts
from amphora.vrrp.daemon import KeepalivedProgram
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.standing import Topology
from amphora.vrrp.store import VrrpFiles
from amphora.vrrp.topology import AmphoraTopology

DEFAULT_CONFIG = "/etc/octavia/amphora-agent.conf"

_KEEPALIVED = "/usr/sbin/keepalived"
_STARTS_AT_ONCE = 4
"""How many haproxies an agent starts at a time after a reboot."""
_LOOK_UPS_AT_ONCE = 16
"""How many names of controllers may be looked up at a time."""

_log = Logger()


class IReactor(IAgentReactor, IApiReactor, IThreadedReactor, IExporterReactor, ISourceReactor, IReactorCore):
    """What the agent needs of a reactor, all told."""


class Options(UsageOptions):
    """The command line after `twistd amphora`."""

    optParameters: ClassVar = [
        ["config-file", "c", DEFAULT_CONFIG, "The agent's configuration, as the Octavia controller writes it."]
    ]


def makeService(options: Options) -> IService:
    """
    What the plugin calls.

    A configuration that cannot serve, where none has worked before, ends the process with one line, as do certificate
    files that do not serve; nothing was started then.
    """
    from twisted.internet import reactor

    # A core would have keys in it, also haproxy's.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Who has the file read again while the agent starts or stops must not end it.
    pass_over(signal.SIGHUP)
    # The image's logrotate sends it to have a log opened anew.  Ours is no file, and the signal would end us; where it
    # is one, twistd takes the signal, if nobody else has by the time that it opens the log.
    cast(IReactor, reactor).callWhenRunning(pass_over, signal.SIGUSR1)
    try:
        # A timer that counts on the wall clock stands still for as long as the clock is set back.
        cast(Any, reactor).seconds = time.monotonic
        path = os.path.abspath(options["config-file"])
        agent = build_agent(cast(IReactor, reactor), Path(path), load_usable_settings(path))
    except (ConfigError, BadTLSFiles, VerificationNotInForce) as error:
        raise SystemExit(f"amphora-agent: {error}") from None
    # What is loaded by now stays: to look for garbage in it, again and again, stops the reactor for 30 ms and more.
    gc.freeze()
    return agent


def pass_over(number: signal.Signals) -> None:
    """
    Let a signal that would end this process do nothing, to its very end.

    Programs that we start do not inherit that: Twisted gives them the defaults.
    """
    if signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, signal.SIG_IGN)


def build_agent(reactor: IReactor, config_file: Path, settings: Settings) -> Agent:
    """
    Put the agent together.

    Most of it keeps to the settings that it was started with; C{live} tells those that may change.

    @raise BadTLSFiles: if the certificate files do not serve.
    @raise VerificationNotInForce: if strangers would not be recognised.
    """
    for note in settings.notes:
        _log.warn("{note}", note=note)
    blocking = InThreads(reactor)
    logs = Logs()
    logs.set(debug=settings.debug)
    reactor.callWhenRunning(logs.install, globalLogPublisher)
    reactor.addSystemEventTrigger("after", "shutdown", logs.finish)

    def check(new: Settings) -> None:
        require_startable(settings, new)

    def in_use() -> bool:
        return network.has_vips or keepalived.configured

    async def prepare(new: Settings) -> Sequence[str]:
        remark = await topology.stay(default_topology(new), in_use=in_use())
        return () if remark is None else (f"[controller_worker] loadbalancer_topology: {remark}",)

    def apply(now: Settings) -> None:
        logs.set(debug=now.debug)
        heartbeats.renew(heartbeat_settings(now))
        manager.watch(heartbeat_settings(now).patience)
        topology.take_default(default_topology(now), in_use=in_use())

    def round_done() -> None:
        listeners = len(instances.listeners()) + len(lvs_listeners.ids())
        manager.alive(status_line(topology.standing, listeners, heartbeats.report()))

    manager = ServiceManager.of(os.environ, os.getpid())
    live = LiveSettings(config_file, settings, blocking, check, prepare, apply)
    store = Store(Path(settings.base_path), Path(settings.base_cert_dir))
    notify = NotifySocket(store.notify_socket)
    kept = KeptSessions(reactor, blocking, store.sessions_socket)
    program = HaproxyProgram(settings.haproxy_cmd, settings.network_namespace)

    def make_haproxy(files: InstanceFiles, died: Callable[[], None], spoke: Callable[[], None]) -> Haproxy:
        return Haproxy(reactor, blocking, program, notify, kept, files, died, spoke)

    def beat_now() -> None:
        heartbeats.beat_now()

    def beat() -> None:
        if settings.heartbeat_on_change:
            beat_now()

    def keepalived_changed() -> None:
        topology.keepalived_changed()
        beat()

    check_scripts = CheckScripts(reactor, blocking, store.vrrp)
    kernel = LinuxKernel(settings.network_namespace)
    network = Network(
        reactor,
        blocking,
        kernel,
        Records(Path(settings.agent_server_network_dir)),
        PacketFilter(
            NftProgram(reactor, blocking, settings.network_namespace), blocking, store.base_path / "nftables-vip.rules"
        ),
        keepalived_owns_vips=lambda: topology.keepalived_owns_vips,
        still_bound=lambda: instances.binds | lvs_listeners.binds,
        open_wire=opener(reactor, blocking, settings.network_namespace),
    )
    instances = Instances(
        settings.haproxy_cmd,
        store,
        Surroundings(
            reactor=reactor,
            blocking=blocking,
            make_haproxy=make_haproxy,
            logs=_log_destination(settings),
            amphora_id=settings.amphora_id,
            namespace=settings.network_namespace,
            base_path=store.base_path,
            starts=DeferredSemaphore(_STARTS_AT_ONCE),
            as_root=os.geteuid() == 0,
            require_memory_fs=settings.require_memory_fs,
            changed=beat,
            addresses=network,
        ),
        check_scripts.expect,
    )
    facility = settings.administrative_log_facility if settings.use_syslog else None
    lvs_listeners = LvsListeners(
        store.base_path / "lvs",
        LvsSurroundings(
            reactor=reactor,
            blocking=blocking,
            program=LvsProgram(_KEEPALIVED, settings.network_namespace, facility),
            addresses=network,
            prepare_kernel=LvsSettings(blocking, kernel).apply,
            changed=beat,
        ),
        check_scripts.expect_processes,
    )
    keepalived = Keepalived(
        reactor,
        blocking,
        KeepalivedProgram(_KEEPALIVED, settings.network_namespace, facility),
        VrrpFiles(store.vrrp),
        changed=keepalived_changed,
    )
    topology = AmphoraTopology.create(
        reactor,
        blocking,
        path=store.vrrp / "topology.json",
        keepalived=keepalived,
        hand_over_vips=network.topology_changed,
        changed=beat_now,
        default=default_topology(settings),
    )
    lvs_samples = LvsSamples(reactor, blocking, settings.network_namespace, lvs_listeners.runs)

    async def with_lvs(
        ask: Callable[[float], Coroutine[Deferred[Any], Any, list[InstanceSample]]], timeout: float
    ) -> list[Sample]:
        of_lvs = Deferred.fromCoroutine(lvs_samples.samples(timeout))
        return [*await ask(timeout), *await of_lvs]

    tls = MutualTLS(settings.client_auth, settings.agent_tls_protocol)
    tls.replace(read_tls_files(settings))
    heartbeats = HeartbeatSender(
        reactor=reactor,
        blocking=blocking,
        look_ups=InSpareThreads(reactor, _LOOK_UPS_AT_ONCE),
        amphora_id=settings.amphora_id,
        settings=heartbeat_settings(settings),
        samples=lambda: with_lvs(instances.samples, min(STATS_TIMEOUT, live.now.heartbeat_interval / 4)),
        standing=lambda: topology.standing,
        taken=lambda taken: instances.taken(each for each in taken if isinstance(each, InstanceSample)),
        silence=lambda: keepalived.shortcoming,
        round_done=round_done,
        counters=Counters(store.base_path, boot_id=boot_id(), agent_started=ProcessIdentity.current().started),
    )
    meter = Meter(
        reactor=reactor,
        blocking=blocking,
        haproxies=instances.processes,
        read_cpu_times=read_cpu_times,
        read_links=lambda: read_links(settings.network_namespace),
        read_machine=lambda haproxies: read_machine(haproxies, store.base_cert_dir),
    )
    info = AmphoraInfo(settings.amphora_id, HaproxyVersion(reactor, blocking, settings.haproxy_cmd).read)
    packages = Packages(reactor, blocking)
    details = Details(
        info=info,
        meter=meter,
        packages=packages,
        listeners=instances.ids,
        haproxies=instances.processes,
        heartbeat=heartbeats.report,
        standing=lambda: topology.standing,
    )
    certificate = ServerCertificate(Path(settings.agent_server_cert), blocking, tls.renewal)
    v0_1 = V01(settings.amphora_id, instances, network, keepalived, topology, details, certificate)
    details_1_0 = Details10(
        info=info,
        meter=meter,
        packages=packages,
        listeners=lambda: [listener.listener_id for listener in instances.listeners()],
        haproxies=instances.processes,
        lvs_listeners=lvs_listeners.ids,
        lvs_processes=lambda: len(lvs_listeners.processes()),
        heartbeat=heartbeats.report,
        standing=lambda: topology.standing,
    )
    v1_0 = V10(
        details=details_1_0,
        instances=instances,
        lvs_listeners=lvs_listeners,
        network=network,
        keepalived=keepalived,
        topology=topology,
        server_certificate=certificate,
        settings=live,
    )
    api = AmphoraAPI(info, v0_1, v1_0)
    site = AmphoraSite(
        api.resource(),
        reactor=reactor,
        verdicts=tls,
        blocking=blocking,
        spool=store,
        limits=Limits(body=settings.agent_request_read_timeout, body_size=settings.max_body_size),
    )
    source = HaproxySource(reactor, blocking, lambda: inside(settings.network_namespace, connect_to_haproxy))
    metrics = MetricsExporter(
        reactor,
        blocking,
        Metrics(reactor, blocking, source, read_usage),
        open_port=lambda: inside(settings.network_namespace, open_port),
        wanted=lambda: Bind(LOOPBACK, HAPROXY_PORT) in instances.binds,
    )
    speakers: list[IService] = [
        meter,
        metrics,
        ApiService(reactor, site, tls, settings.bind_host, settings.bind_port),
        heartbeats,
        Housekeeping(
            reactor, (instances.trim_logs, lvs_listeners.trim_logs, instances.remove_orphans, keepalived.trim_log)
        ),
        FollowsItsFile(reactor, live),
    ]

    def changed() -> None:
        beat()
        Deferred.fromCoroutine(instances.save_server_states()).addErrback(
            lambda reason: _log.failure("servers' states cannot be saved", reason)
        )

    speakers.append(
        ChangeWatcher(
            reactor=reactor,
            interval=settings.change_poll_interval,
            samples=lambda: with_lvs(instances.glances, STATS_TIMEOUT),
            changed=changed,
        )
    )
    return Agent(
        reactor,
        blocking=blocking,
        store=store,
        replaced=(
            Path(os.path.realpath(config_file)),
            last_good(config_file),
            Path(settings.agent_server_cert),
        ),
        namespace=settings.network_namespace,
        network=network,
        notify=notify,
        kept=kept,
        instances=instances,
        lvs_listeners=lvs_listeners,
        check_scripts=check_scripts,
        keepalived=keepalived,
        topology=topology,
        speakers=speakers,
        manager=manager,
        patience=lambda: heartbeat_settings(live.now).patience,
        leave=heartbeats.leave,
        give_up=lambda: give_up(reactor),
    )


def heartbeat_settings(settings: Settings) -> HeartbeatSettings:
    """What heartbeats need of them."""
    return HeartbeatSettings(settings.heartbeat_key, settings.controller_ip_port_list, settings.heartbeat_interval)


def default_topology(settings: Settings) -> Topology:
    """The topology that the configuration names, as the specification writes it."""
    return "ACTIVE-STANDBY" if settings.loadbalancer_topology == "ACTIVE_STANDBY" else "SINGLE"


def require_startable(settings: Settings, new: Settings) -> None:
    """
    Would an agent start with the new settings, and be the same amphora?  What they change is tried; may block.

    @raise ConfigError: if not.
    """
    if new.amphora_id != settings.amphora_id:
        raise ConfigError(f"[amphora_agent] amphora_id: is {new.amphora_id}; this amphora is {settings.amphora_id}")
    names = ("agent_server_cert", "agent_server_ca")
    if any(getattr(new, name) != getattr(settings, name) for name in names):
        try:
            MutualTLS(new.client_auth, new.agent_tls_protocol).replace(read_tls_files(new))
        except (BadTLSFiles, VerificationNotInForce) as error:
            raise ConfigError(f"[amphora_agent] {' and '.join(names)}: {error}") from None
    require_places(settings, new)


def read_tls_files(settings: Settings) -> TLSFiles:
    """@raise BadTLSFiles: for a file that cannot be read."""

    def read(path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise BadTLSFiles(f"{path}: {error.strerror}") from None

    return TLSFiles(
        certificate_path=settings.agent_server_cert,
        certificate=read(settings.agent_server_cert),
        ca_path=settings.agent_server_ca,
        ca=read(settings.agent_server_ca),
    )


def _log_destination(settings: Settings) -> LogDestination:
    if not settings.use_syslog:
        return Nowhere()
    return Syslog(SysLogHandler.facility_names[settings.syslog_log_facility.removeprefix("LOG_").lower()])


def give_up(reactor: IReactorCore) -> None:
    """End the process, and let whoever started it see that it failed."""

    def fail() -> None:
        sys.stdout.flush()
        os._exit(1)

    # twistd ends with 0 whatever happened while the reactor ran.
    atexit.register(fail)
    reactor.stop()
