"""
The controller's side of the v0.1 REST API: one L{AmphoraClient} speaks to one amphora, over mutual TLS.

Who answers is decided by the certificate: it has to come from the authority that we trust, and to name the amphora's
UUID.  The address is only where to look, so an amphora may move, and another one in its place is not spoken to::

    credentials = Credentials.read(Path("ca.pem"), Path("client.pem"), Path("client.key"))
    client = AmphoraClient(reactor, amphora_id, "192.0.2.7", 9443, credentials)
    try:
        await client.upload_haproxy(listener_id, configuration)
        await client.start(listener_id)
        print((await client.listener(listener_id)).pools)
    except Refused as error:
        print(error.details)
    finally:
        await client.close()

Each call ends within its timeout, with an answer or with a L{ClientError}: L{AmphoraError}, by its status, where the
amphora answered with an error; L{UnexpectedAnswer} where the specification does not know the answer; L{Unreachable}
where there was none.  All calls may be repeated.  What is sent and received is never logged: it may hold keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from attrs import AttrsInstance, field, fields_dict, frozen
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import (
    IConsumer,
    IOpenSSLClientConnectionCreator,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

T = TypeVar("T")
R = TypeVar("R", bound=AttrsInstance)

CONNECT_SECONDS = 10.0
"""How long a TCP connection may take, as Octavia's controller waits."""

IDLE_SECONDS = 5
"""How long a connection is kept for the next call: less than an agent waits for one."""


class IClientReactor(IReactorTCP, IReactorTime, IReactorPluggableNameResolver):
    """What a client needs of a reactor."""


class ClientError(Exception):
    """A call that was not carried out, or whose answer never came."""


class AmphoraError(ClientError):
    """The amphora answered with an error: its HTTP status, its message, and its details, which may be empty."""

    def __init__(self, status: int, message: str, details: str = "") -> None:
        super().__init__(f"{status} {message}: {details}" if details else f"{status} {message}")
        self.status = status
        self.message = message
        self.details = details


class Refused(AmphoraError):
    """400, or 413: what was sent is not acceptable, and changed nothing; the details say why, in haproxy's words."""


class Unauthorized(AmphoraError):
    """401: the amphora does not know our certificate."""


class NotFound(AmphoraError):
    """404: no such listener, certificate or configuration."""


class AmphoraFailed(AmphoraError):
    """500: the amphora tried, and could not; the details are the system's or haproxy's words."""


class InTransition(AmphoraError):
    """503: the topology is changing; ask again once it has."""


_ERRORS: dict[int, type[AmphoraError]] = {
    400: Refused,
    401: Unauthorized,
    404: NotFound,
    413: Refused,
    500: AmphoraFailed,
    503: InTransition,
}


class UnexpectedAnswer(ClientError):
    """An answer that is not what the specification says: its HTTP status, and what is wrong with it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"answered {status}, but {reason}")
        self.status = status
        self.reason = reason


class Unreachable(ClientError):
    """No answer: where we looked, what happened, and what to look at."""

    def __init__(self, address: str, reason: str, advice: str) -> None:
        super().__init__(f"no answer from {address}: {reason} ({advice})")
        self.address = address
        self.reason = reason
        self.advice = advice


@frozen
class Credentials:
    """
    Whom a client trusts and who it is, as PEM: one or more authorities; a certificate, its chain after it; its key.

    Without certificate and key the client is a stranger, and each call ends in L{Unauthorized}.
    """

    authorities: bytes
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def read(cls, authorities: Path, certificate: Path, key: Path | None = None) -> Credentials:
        """
        Read them from files.  Blocks: call it before the reactor runs, or in a thread.

        @param key: the key's file, where the certificate's does not hold both, as Octavia's does.
        @raise OSError: for a file that cannot be read.
        """
        return cls(authorities.read_bytes(), certificate.read_bytes(), (key or certificate).read_bytes())

    def for_amphora(self, amphora_id: str) -> IOpenSSLClientConnectionCreator:
        """
        Make the TLS side of connections to one amphora: TLS 1.2 or newer, with the peer held to its UUID.

        @raise ValueError: where the PEM holds no certificate, or no key.
        """
        options: dict[str, Any] = {"raiseMinimumTo": ssl.TLSVersion.TLSv1_2}
        own = None
        if self.certificate:
            first, *chain = _certificates(self.certificate)
            own = ssl.PrivateCertificate.fromCertificateAndKeyPair(ssl.Certificate(first), _key_pair(self.key))
            if chain:
                options["extraCertChain"] = chain
        return ssl.optionsForClientTLS(
            amphora_id,
            trustRoot=ssl.trustRootFromCertificates(
                [ssl.Certificate(each) for each in _certificates(self.authorities)]
            ),
            clientCertificate=own,
            extraCertificateOptions=options,
        )


def _certificates(pem: bytes) -> list[crypto.X509]:
    return [crypto.X509.from_cryptography(each) for each in x509.load_pem_x509_certificates(pem)]


def _key_pair(pem: bytes) -> ssl.KeyPair:
    try:
        return ssl.KeyPair.load(pem, crypto.FILETYPE_PEM)
    except crypto.Error:
        raise ValueError("the PEM holds no private key") from None


@frozen
class Exchange:
    """One request and its answer, as an observer is told: the answer's body is as it came, `seconds` is how long."""

    method: str
    path: str
    status: int
    answer: bytes = field(repr=False)
    seconds: float


@frozen
class Outcome:
    """The answer of a call that did something: `message` is OK; `details`, if any, has a line for each step."""

    status: int
    message: str
    details: str


@frozen
class Info:
    """What an amphora says of itself."""

    hostname: str
    uuid: str
    haproxy_version: str
    api_version: str


@frozen
class Topology:
    """An amphora's place among its peers; `role` is ACTIVE or STANDBY, `ha_ip` empty but for ACTIVE-STANDBY."""

    hostname: str
    uuid: str
    topology: str
    role: str
    ha_ip: str


@frozen
class Listener:
    """A listener: `status` is ACTIVE, STOPPED or ERROR; `type` is TCP, HTTP or TERMINATED_HTTPS."""

    uuid: str
    status: str
    type: str


@frozen
class Pool:
    """A pool: `status` is UP, DEGRADED or DOWN; `members` gives the status of each member by its UUID."""

    uuid: str
    status: str
    members: dict[str, str]


@frozen
class ListenerDetails(Listener):
    """A listener with its pools."""

    pools: tuple[Pool, ...]


@frozen
class Bandwidth:
    """What a network carries, in bytes per second over the last thirty seconds."""

    network_tx: int
    network_rx: int


@frozen
class CpuUsage:
    """Percent of all CPUs over the last thirty seconds."""

    total: float
    user: float
    system: float
    soft_irq: float


@frozen
class Memory:
    """Kilobytes."""

    total: int
    free: int
    available: int
    buffers: int
    cached: int
    swap_used: int
    shared: int
    slab: int
    committed_as: int


@frozen
class Disk:
    """The root file system, in kilobytes."""

    used: int
    available: int


@frozen
class Details(Info):
    """
    How an amphora fares.

    `network_tx` and `network_rx` are those of all networks together; `load` is of the last 1, 5 and 15 minutes;
    `topology` is SINGLE, ACTIVE-STANDBY or ACTIVE-ACTIVE, `topology_status` OK or TOPOLOGY-CHANGE; `packages` gives the
    version of each by its name; `more` is what the amphora tells beyond the specification, as it came.
    """

    network_tx: int
    network_rx: int
    networks: dict[str, Bandwidth]
    active: bool
    haproxy_count: int
    cpu: CpuUsage
    memory: Memory
    disk: Disk
    load: tuple[float, ...]
    topology: str
    topology_status: str
    listeners: tuple[str, ...]
    packages: dict[str, str]
    more: dict[str, object]


@implementer(IAgentEndpointFactory)
@frozen
class AmphoraEndpoint:
    """
    For an HTTPS agent: the URL names whom to speak to, by UUID, and this knows where to look.

    So addresses never stand in URLs, where treq takes no IPv6 ones, and never decide who is trusted.
    """

    reactor: IClientReactor
    host: str
    port: int
    tls: IOpenSSLClientConnectionCreator

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Look at the one address, whatever the URL, for the one amphora."""
        return wrapClientTLS(self.tls, HostnameEndpoint(self.reactor, self.host, self.port, CONNECT_SECONDS))


@implementer(IBodyProducer)
class _Body:
    """A body in memory, handed over at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to hold back."""

    def resumeProducing(self) -> None:
        """Nothing is left to send."""

    def stopProducing(self) -> None:
        """Nothing is left to break off."""


class _Collector(Protocol):
    """
    Gathers an answer's body, whole or not at all.  Cancelling `done` ends the connection at once.

    Twisted's own `readBody` cannot do that: the transport that it is given hands no abort on, and a close in TLS waits
    for the other side, which may be hung.
    """

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(self._abort)
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)

    def _abort(self, done: Deferred[bytes]) -> None:
        transport: Any = getattr(self.transport, "_producer", self.transport)
        done.errback(CancelledError())
        transport.abortConnection()


def _unobserved(exchange: Exchange) -> None:
    """The observer of those who have none."""


class AmphoraClient:
    """
    The REST calls to one amphora.  Connections are kept for a moment, for the next call; L{close} ends them.

    @param host: a name or an address; IPv6 without brackets.
    @param timeout: seconds that one call may take in all, connection and answer.
    @param agent: speaks in place of one of our own (in tests); the credentials are not looked at then.
    @param observe: is told of every answer, before it is looked at: for a log of one's own, or figures.
    @raise ValueError: for credentials that are not PEM.
    """

    def __init__(
        self,
        reactor: IClientReactor,
        amphora_id: str,
        host: str,
        port: int,
        credentials: Credentials,
        *,
        timeout: float = 60.0,
        agent: IAgent | None = None,
        observe: Callable[[Exchange], None] = _unobserved,
    ) -> None:
        self.amphora_id = amphora_id
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._reactor = reactor
        self._timeout = timeout
        self._observe = observe
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        if agent is None:
            endpoint = AmphoraEndpoint(reactor, host, port, credentials.for_amphora(amphora_id))
            agent = Agent.usingEndpointFactory(reactor, endpoint, self._pool)
        self._http = HTTPClient(agent)

    def close(self) -> Deferred[None]:
        """End the connections that are kept; the Deferred fires when they are gone."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def info(self) -> Info:
        """Ask who the amphora is, and for its versions."""
        return _info(await self._json("GET", "/info"))

    async def details(self) -> Details:
        """Ask how the amphora fares: what it does, and what it has left."""
        return _details(await self._json("GET", _path("details")))

    async def topology(self) -> Topology:
        """Ask for the amphora's topology and role."""
        answer = await self._json("GET", _path("topology"))
        return Topology(*(answer.text(name) for name in ("hostname", "uuid", "topology", "role", "ha_ip")))

    async def set_topology(
        self, topology: str, *, role: str | None = None, ha_ip: str | None = None, secret: str | None = None
    ) -> Outcome:
        """
        Set the amphora's topology; role, address and secret are for ACTIVE-STANDBY alone.

        @return: With status 200 when it holds, 202 when keepalived has begun to move: heartbeats tell the end.
        @raise Refused: with a line of details for each parameter that is not taken.
        """
        values = {"topology": topology, "role": role, "ha_ip": ha_ip, "secret": secret}
        body = {name: value for name, value in values.items() if value is not None}
        return await self._outcome("POST", _path("topology"), json.dumps(body).encode())

    async def listeners(self) -> tuple[Listener, ...]:
        """Ask for all listeners that the amphora knows."""
        answer = await self._json("GET", _path("listeners"))
        return tuple(Listener(each.text("uuid"), each.text("status"), each.text("type")) for each in answer.items())

    async def listener(self, listener_id: str) -> ListenerDetails:
        """
        Ask for one listener with its pools and members.

        @raise NotFound: where the amphora does not know it.
        """
        answer = await self._json("GET", _path("listeners", listener_id))
        pools = tuple(
            Pool(
                pool.text("uuid"),
                pool.text("status"),
                {uuid: member.text(uuid) for member in pool.items("members") for uuid in member.names()},
            )
            for pool in answer.items("pools")
        )
        return ListenerDetails(answer.text("uuid"), answer.text("status"), answer.text("type"), pools)

    async def start(self, listener_id: str) -> Outcome:
        """
        Start a listener's haproxy; one that runs is left alone.

        @raise NotFound: for an unknown listener.
        @raise AmphoraFailed: where it does not come up; the details are haproxy's words.
        """
        return await self._outcome("PUT", _path("listeners", listener_id, "start"))

    async def stop(self, listener_id: str) -> Outcome:
        """
        Stop a listener's haproxy.

        @raise NotFound: for an unknown listener.
        @raise AmphoraFailed: where none runs.
        """
        return await self._outcome("PUT", _path("listeners", listener_id, "stop"))

    async def reload(self, listener_id: str) -> Outcome:
        """
        Have haproxy take over the uploaded configuration, without losing a connection; start it if it does not run.

        @raise NotFound: for an unknown listener.
        @raise AmphoraFailed: where that fails; what ran before goes on.
        """
        return await self._outcome("PUT", _path("listeners", listener_id, "reload"))

    async def delete(self, listener_id: str) -> Outcome:
        """
        Stop a listener and remove all of it, its certificates too.

        @raise NotFound: for an unknown listener.
        """
        return await self._outcome("DELETE", _path("listeners", listener_id))

    async def upload_haproxy(self, listener_id: str, configuration: bytes) -> Outcome:
        """
        Upload a listener's haproxy configuration.  It is checked and stored; L{start} or L{reload} makes it run.

        @raise Refused: where haproxy does not accept it; the details are haproxy's words.
        """
        return await self._outcome("PUT", _path("listeners", self.amphora_id, listener_id, "haproxy"), configuration)

    async def haproxy(self, listener_id: str) -> bytes:
        """
        Fetch the configuration that was accepted last, byte for byte.

        @raise NotFound: where there is none.
        """
        _, content = await self._call("GET", _path("listeners", listener_id, "haproxy"))
        return content

    async def put_certificate(self, listener_id: str, filename: str, pem: bytes) -> Outcome:
        """
        Upload a certificate of a listener: key, certificate and chain.

        @param filename: the certificate's common name, C{WILDCARD} for an asterisk, and C{.pem}.
        @raise Refused: for a PEM that lacks something, or whose key and certificate do not match.
        @raise NotFound: for an unknown listener.
        """
        return await self._outcome("PUT", _path("listeners", listener_id, "certificates", filename), pem)

    async def certificate_md5(self, listener_id: str, filename: str) -> str:
        """
        Ask for the MD5 sum of a certificate's file, in hexadecimal digits.

        @raise NotFound: for an unknown listener or certificate.
        """
        answer = await self._json("GET", _path("listeners", listener_id, "certificates", filename))
        return answer.text("md5sum")

    async def delete_certificate(self, listener_id: str, filename: str) -> Outcome:
        """
        Remove a certificate of a listener.

        @raise NotFound: for an unknown listener or certificate.
        """
        return await self._outcome("DELETE", _path("listeners", listener_id, "certificates", filename))

    async def replace_server_certificate(self, pem: bytes) -> Outcome:
        """
        Give the amphora another certificate of its own: key, certificate and chain.  Connections from now on show it.

        @raise Refused: for a PEM that lacks something, or whose key and certificate do not match.
        """
        return await self._outcome("PUT", _path("certificate"), pem)

    async def upload_vrrp(self, configuration: bytes) -> Outcome:
        """
        Upload a keepalived configuration.  It is checked and stored; L{vrrp} makes it run.

        @raise AmphoraFailed: where keepalived does not accept it; the details are keepalived's words.
        """
        return await self._outcome("PUT", _path("vrrp", "upload"), configuration)

    async def vrrp(self, action: Literal["start", "stop", "reload"]) -> Outcome:
        """
        Start, stop or reload keepalived.  A start where it runs loads what was uploaded since.

        @raise AmphoraFailed: where that fails, nothing was uploaded, or there is nothing to stop; the details say why.
        """
        return await self._outcome("PUT", _path("vrrp", action))

    async def interface(self, ip: str) -> str:
        """
        Ask which interface has an address.

        @raise Refused: for what is no address.
        @raise NotFound: where none has it.
        """
        answer = await self._json("GET", _path("interface", ip))
        return answer.text("interface")

    async def plug_vip(self, vip: str, *, subnet_cidr: str, gateway: str, mac_address: str) -> Outcome:
        """
        Give a VIP to the interface with a MAC address.

        @raise Refused: for addresses that do not go together; the details name what is wrong.
        @raise NotFound: where there is no such interface, not yet perhaps.
        @raise AmphoraFailed: where the kernel refuses; the details are its words, and nothing is changed.
        """
        wish = {"subnet_cidr": subnet_cidr, "gateway": gateway, "mac_address": mac_address}
        return await self._outcome("POST", _path("plug", "vip", vip), json.dumps(wish).encode())

    async def plug_network(self, mac_address: str) -> Outcome:
        """
        Bring the interface with a MAC address up.

        @raise Refused: for what is no MAC address.
        @raise NotFound: where there is no such interface, not yet perhaps.
        @raise AmphoraFailed: where the kernel refuses; the details are its words, and nothing is changed.
        """
        return await self._outcome(
            "POST", _path("plug", "network", ""), json.dumps({"mac_address": mac_address}).encode()
        )

    async def _outcome(self, method: str, path: str, body: bytes | None = None) -> Outcome:
        answer = await self._json(method, path, body)
        return Outcome(answer.status, answer.text("message"), answer.text("details", ""))

    async def _json(self, method: str, path: str, body: bytes | None = None) -> _Answer:
        status, content = await self._call(method, path, body)
        return _read(status, content)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Make one call; a status that is not a success becomes the error that it stands for."""
        started = self._reactor.seconds()
        exchange = _cancellable(ensureDeferred(self._exchange(method, path, body)))
        status, content = await exchange.addTimeout(self._timeout, self._reactor, self._expired)
        self._observe(Exchange(method, path, status, content, self._reactor.seconds() - started))
        if status < 400:
            if status >= 300:
                raise UnexpectedAnswer(status, "an amphora sends nobody elsewhere")
            return status, content
        answer = _read(status, content)
        raise _ERRORS.get(status, AmphoraError)(status, answer.text("message"), answer.text("details", ""))

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            response = await self._http.request(
                method,
                f"https://{self.amphora_id}{path}",
                data=None if body is None else _Body(body),
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,  # type: ignore[arg-type]  # the same interfaces, under a private name
            )
            collector = _Collector()
            response.deliverBody(collector)
            return response.code, await collector.done
        except _NO_ANSWER as error:
            raise Unreachable(self._address, *_explain(list(_causes(error)))) from error

    def _expired(self, result: object, timeout: float) -> Failure:
        reason = f"nothing complete within {timeout:g} seconds"
        return Failure(Unreachable(self._address, reason, "is the agent overloaded, or a firewall silent?"))


def _cancellable(running: Deferred[T]) -> Deferred[T]:
    """Have a cancellation told as what it is: Twisted's endpoints tell it as a host that was not found, or the like."""

    def cancel(outer: Deferred[T]) -> None:
        outer.errback(CancelledError())
        running.cancel()

    def succeeded(result: T) -> None:
        if not outer.called:
            outer.callback(result)

    def failed(reason: Failure) -> None:
        if not outer.called:
            outer.errback(reason)

    outer: Deferred[T] = Deferred(cancel)
    running.addCallbacks(succeeded, failed)
    return outer


def _path(*segments: str) -> str:
    return "/v0.1/" + "/".join(quote(segment, safe="") for segment in segments)


@frozen
class _Answer:
    """A JSON value of an answer; reading what is not there is an L{UnexpectedAnswer} that names it."""

    status: int
    value: object
    where: str = "its body"

    def text(self, key: str, default: str | None = None) -> str:
        """Read a member that has to be a string."""
        found = self._mapping().get(key, default)
        if not isinstance(found, str):
            raise UnexpectedAnswer(self.status, f"{self.where} has no text {key!r}")
        return found

    def items(self, key: str | None = None) -> list[_Answer]:
        """Read a list, or the member that has to be one."""
        found = self.value if key is None else self._mapping().get(key)
        where = self.where if key is None else repr(key)
        if not isinstance(found, list):
            raise UnexpectedAnswer(self.status, f"{where} is not a list")
        return [_Answer(self.status, each, f"an item of {where}") for each in found]

    def number(self, key: str) -> float:
        """Read a member that has to be a number."""
        return self._of(key).as_number()

    def whole(self, key: str) -> int:
        """Read a member that has to be a whole number."""
        found = self._of(key)
        number = found.as_number()
        if not isinstance(number, int):
            raise UnexpectedAnswer(self.status, f"{found.where} is not a whole number")
        return number

    def flag(self, key: str) -> bool:
        """Read a member that has to be true or false."""
        found = self._of(key)
        if not isinstance(found.value, bool):
            raise UnexpectedAnswer(self.status, f"{found.where} is neither true nor false")
        return found.value

    def member(self, key: str) -> _Answer:
        """Read a member that has to be an object."""
        member = self._of(key)
        member._mapping()
        return member

    def as_text(self) -> str:
        """Be a string."""
        if not isinstance(self.value, str):
            raise UnexpectedAnswer(self.status, f"{self.where} is not a text")
        return self.value

    def as_number(self) -> float:
        """Be a number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise UnexpectedAnswer(self.status, f"{self.where} is not a number")
        return self.value

    def names(self) -> list[str]:
        """Name the members of an object."""
        return list(self._mapping())

    def without(self, names: Container[str]) -> dict[str, object]:
        """Read all members but those."""
        return {name: value for name, value in self._mapping().items() if name not in names}

    def _of(self, key: str) -> _Answer:
        return _Answer(self.status, self._mapping().get(key), f"{key!r} of {self.where}")

    def _mapping(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise UnexpectedAnswer(self.status, f"{self.where} is not an object")
        return self.value


def _read(status: int, content: bytes) -> _Answer:
    try:
        return _Answer(status, json.loads(content))
    except (ValueError, RecursionError):
        raise UnexpectedAnswer(status, "its body is not JSON") from None


def _info(answer: _Answer) -> Info:
    return Info(
        answer.text("hostname"), answer.text("uuid"), answer.text("haproxy_version"), answer.text("api_version")
    )


def _details(answer: _Answer) -> Details:
    info, networks, cpu = _info(answer), answer.member("networks"), answer.member("cpu")
    packages = answer.items("packages")
    return Details(
        hostname=info.hostname,
        uuid=info.uuid,
        haproxy_version=info.haproxy_version,
        api_version=info.api_version,
        network_tx=answer.whole("network_tx"),
        network_rx=answer.whole("network_rx"),
        networks={name: _wholes(Bandwidth, networks.member(name)) for name in networks.names()},
        active=answer.flag("active"),
        haproxy_count=answer.whole("haproxy_count"),
        cpu=CpuUsage(cpu.number("total"), cpu.number("user"), cpu.number("system"), cpu.number("soft_irq")),
        memory=_wholes(Memory, answer.member("memory")),
        disk=_wholes(Disk, answer.member("disk")),
        load=tuple(each.as_number() for each in answer.items("load")),
        topology=answer.text("topology"),
        topology_status=answer.text("topology_status"),
        listeners=tuple(each.as_text() for each in answer.items("listeners")),
        packages={name: package.text(name) for package in packages for name in package.names()},
        more=answer.without(fields_dict(Details)),
    )


def _wholes(kind: type[R], answer: _Answer) -> R:
    """Read an object all of whose members are whole numbers."""
    make: Callable[..., R] = kind
    return make(**{name: answer.whole(name) for name in fields_dict(kind)})


_NO_ANSWER = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    PotentialDataLoss,
    RequestTransmissionFailed,
    ResponseFailed,
    SSL.Error,
    VerificationError,
)
"""All that Twisted raises where an exchange with another machine comes to nothing."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and, where Twisted wrapped several into one, each of those."""
    yield error
    for reason in getattr(error, "reasons", ()):
        yield from _causes(reason.value)


def _explain(causes: Sequence[BaseException]) -> tuple[str, str]:
    """Say why there was no answer, and what to look at."""
    for cause in causes:
        match cause:
            case VerificationError():
                return "its certificate does not name this amphora", "is another one at this address?"
            case SSL.Error():
                words = "; ".join(part[-1] for part in cause.args[0]) if cause.args and cause.args[0] else "broken off"
                return f"TLS: {words}", "are its certificate and ours from the authorities that either side trusts?"
            case ConnectionRefusedError():
                return "connection refused", "does the agent run, with this bind_host and bind_port?"
            case ConnectTimeoutError():
                return "nobody took the connection", "is the machine up, and the way to it open?"
            case DNSLookupError():
                return "the name is not known", "is it spelled so, and in the DNS?"
            case ConnectError():
                return str(cause.osError or cause), "is there a way to this address?"
    return "the connection was closed before the answer was complete", "what does the agent's log say?"
