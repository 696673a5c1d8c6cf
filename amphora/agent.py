"""The agent as a whole: what is brought up in which order, and down again."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from amphora.api.self_test import VerificationNotInForce
from amphora.blocking import BlockingCalls
from amphora.files import forget_unfinished, on_memory_file_system
from amphora.keepalived.process import IKeepalivedReactor
from amphora.loadbalancer.haproxy import IHaproxyReactor
from amphora.loadbalancer.instances import Instances
from amphora.loadbalancer.kept_sessions import KeptSessions
from amphora.loadbalancer.notify import INotifyReactor, NotifySocket
from amphora.loadbalancer.store import BasePathTaken, Store
from amphora.lvs.listeners import LvsListeners
from amphora.network.namespace import NamespaceUnusable, ensure_namespace
from amphora.network.plugging import Network
from amphora.network.sysctl import apply_sysctls
from amphora.service_manager import ServiceManager
from amphora.vrrp.check_scripts import CheckScripts
from amphora.vrrp.keepalived import Keepalived
from amphora.vrrp.topology import AmphoraTopology

_SETTINGS = {
    # A connection that waits to be accepted when an old worker closes its socket goes over to the new worker's, where
    # both have one for the address, as with IPv6 (L{overlay_for}).
    "net/ipv4/tcp_migrate_req": "1",
    # Health monitors of the type PING are run by haproxy, as nobody, who may gain no rights by running a program.
    "net/ipv4/ping_group_range": "0\t2147483647",
}
"""Of the namespace, where the kernel has it (the first since Linux 5.14)."""


class IAgentReactor(IHaproxyReactor, INotifyReactor, IKeepalivedReactor):
    """What bringing the agent up needs of a reactor."""


class Agent(MultiService):
    """
    Brings up the namespace and its network, finds what runs, and only then speaks.

    Its children, the API and the heartbeats, are started last: before, the agent would answer from ignorance.
    haproxy and keepalived are not its children; they are left as they are when it stops.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IAgentReactor,
        *,
        blocking: BlockingCalls,
        store: Store,
        replaced: Iterable[Path],
        namespace: str,
        network: Network,
        notify: NotifySocket,
        kept: KeptSessions,
        instances: Instances,
        lvs_listeners: LvsListeners,
        check_scripts: CheckScripts,
        keepalived: Keepalived,
        topology: AmphoraTopology,
        speakers: list[IService],
        manager: ServiceManager,
        patience: Callable[[], float | None],
        leave: Callable[[], Awaitable[None]],
        give_up: Callable[[], None],
    ) -> None:
        """
        @param manager: Told how the start goes, and of its end.
        @param patience: Seconds without a round of heartbeats after which the agent has to be started anew; None for
            never.
        @param replaced: Files elsewhere that the agent replaces.
        @param leave: Called when all has been said and done, before haproxy is let go.
        """
        super().__init__()
        self._reactor = reactor
        self._blocking = blocking
        self._store = store
        self._replaced = tuple(replaced)
        self._namespace = namespace
        self._network = network
        self._notify = notify
        self._kept = kept
        self._instances = instances
        self._lvs_listeners = lvs_listeners
        self._check_scripts = check_scripts
        self._keepalived = keepalived
        self._topology = topology
        self._speakers = speakers
        self._manager = manager
        self._patience = patience
        self._leave = leave
        self._give_up = give_up
        self._beginning: Deferred[None] | None = None
        self._lock: int | None = None

    def startService(self) -> None:
        super().startService()
        self._beginning = Deferred.fromCoroutine(self._begin()).addErrback(self._failed)

    async def _begin(self) -> None:
        self._lock = await self._blocking.run(self._store.lock)
        await self._blocking.run(self._store.prepare)
        for path in self._replaced:
            await self._blocking.run(forget_unfinished, path)
        if self._namespace:
            await ensure_namespace(self._reactor, self._namespace)
            await self._blocking.run(apply_sysctls, self._namespace, _SETTINGS)
        await self._topology.load()
        self._manager.starting("the network is put back")
        await self._network.put_back()
        self._listen()
        certificates = self._store.base_cert_dir
        if not await self._blocking.run(on_memory_file_system, certificates):
            self._log.warn(
                "{path} is not on a memory file system (tmpfs or ramfs): tenants' private keys will be on a disk",
                path=str(certificates),
            )
        await self._check_scripts.install()
        await self._kept.take()
        self._manager.starting("looking for haproxies")
        await self._instances.adopt()
        self._kept.drop_unclaimed()
        self._manager.starting("looking for keepaliveds")
        await self._lvs_listeners.adopt()
        await self._keepalived.adopt()
        self._topology.resume()
        if self.running:
            for speaker in self._speakers:
                speaker.setServiceParent(self)
            self._log.info("The amphora agent is ready")
            self._manager.ready(self._patience())

    def _listen(self) -> None:
        try:
            self._notify.listen(self._reactor)
        except (OSError, CannotListenError) as error:
            # What runs, runs, and is to be told of.
            self._log.error(
                "No haproxy can be started or reloaded as long as its word cannot be heard: {error}", error=error
            )

    def _failed(self, reason: Failure) -> None:
        if reason.check(BasePathTaken, NamespaceUnusable, CannotListenError, VerificationNotInForce, OSError):
            self._log.critical("The amphora agent cannot start: {reason}", reason=reason.getErrorMessage())
        else:
            self._log.failure("The amphora agent cannot start", reason)
        if self.running:
            self._give_up()

    def stopService(self) -> Deferred[None]:
        """Stop speaking, let the jobs at work end, and let go of haproxy and keepalived."""
        self._manager.stopping()
        return Deferred.fromCoroutine(self._stop(super().stopService()))

    async def _stop(self, speakers_stopped: Deferred[object]) -> None:
        if self._beginning is not None:
            await self._beginning
        await speakers_stopped
        await self._topology.release()
        await self._instances.finish()
        await self._lvs_listeners.finish()
        await self._leave()
        await self._kept.release()
        self._instances.release()
        self._lvs_listeners.release()
        await self._keepalived.release()
        self._check_scripts.close()
        await self._network.release()
        await self._notify.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
