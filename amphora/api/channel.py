"""
The HTTP edge: who may speak, for how long, and how much.

Every refusal (401, 400, 408, 413, 503) is made here, before a request reaches any route.  After one the channel takes
no more requests: the answer is written, what still arrives is thrown away for a little while, so that the
client gets to read the answer instead of a reset, and the connection is closed.

All limits of time are absolute: a client that drips a byte now and then gains nothing by it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Protocol
from urllib.parse import unquote_to_bytes

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime, ITCPTransport, ITransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from amphora.api.answers import answer_json, encode_json
from amphora.api.bodies import Body, SpoolDirectory, SpooledBody, is_configuration
from amphora.api.errors import ErrorAnswer
from amphora.api.errors_1_0 import edge_answer
from amphora.blocking import BlockingCalls
from amphora.repeats import RepeatGuard

UNAUTHORIZED = ErrorAnswer(401, "Unauthorized")
MALFORMED = ErrorAnswer(400, "Bad Request", "The request is not well-formed HTTP/1.1")
OVERDUE = ErrorAnswer(408, "Request Timeout", "The request did not arrive in time")
FULL = ErrorAnswer(503, "Service Unavailable", "Too many connections")

_REASONS = {400: b"Bad Request", 401: b"Unauthorized", 408: b"Request Timeout", 503: b"Service Unavailable"}
_REASONS[413] = b"Content Too Large"


@frozen
class Limits:
    """Seconds, bytes and connections."""

    handshake: float = 10.0
    handshake_size: int = 16 * 1024
    """
    Of what a client says in its handshake.  Certificates that were read take some twenty times their size, and
    OpenSSL's own limit (100 kB) would let each stranger take up 2 MB.
    """
    stranger_memory: int = 512 * 1024
    """What each stranger can make us hold at most: measured, with certificates as small and many as can be."""
    stranger_records: int = 256
    """
    TLS records from a client without a verified certificate, handshake and all.  One that asks for other keys
    (RFC 8446, 4.6.3) has 27 bytes and takes as long as a kilobyte of request.
    """
    headers: float = 10.0
    """From the end of the handshake, and again from a request's first byte."""
    body: float = 180.0
    idle: float = 75.0
    """Between two requests of a verified client."""
    body_size: int = 16 * 1024 * 1024
    memory_body_size: int = 1024 * 1024
    """Of bodies that are not haproxy configurations: they are kept, and read, in memory."""
    strangers: int = 256
    """Connections without a verified certificate, those in the handshake among them."""
    verified: int = 256
    linger_time: float = 2.0
    linger_bytes: int = 1024 * 1024
    close: float = 5.0
    """For the client to end its side of a connection that we have ended."""


class Verdicts(Protocol):
    """Knows what a connection's handshake said of the client; `amphora.api.tls.MutualTLS` is one."""

    def verified(self, transport: ITransport) -> bool:
        """Was a certificate of the client verified?"""

    def problem(self, transport: ITransport) -> str:
        """Why not, for the log."""


@define(eq=False)
class ConnectionPools:
    """
    Who is connected.

    Strangers are bounded by aborting the one that came first, of those at the address that most come from: whoever
    floods us crowds out himself.  Verified clients are by closing the one that has been idle longest.  Neither ever
    makes the other wait.
    """

    _limits: Limits
    strangers: OrderedDict[AmphoraChannel, None] = field(init=False, factory=OrderedDict)
    verified: OrderedDict[AmphoraChannel, None] = field(init=False, factory=OrderedDict)

    def connected(self, channel: AmphoraChannel) -> None:
        self.strangers[channel] = None
        if len(self.strangers) > self._limits.strangers:
            [(most_of_all, _)] = Counter(each.host for each in self.strangers).most_common(1)
            oldest = next(each for each in self.strangers if each.host == most_of_all)
            del self.strangers[oldest]
            oldest.abort()

    def admit(self, channel: AmphoraChannel) -> bool:
        """A client was verified; False where there is no room for it: it stays among the strangers then."""
        if len(self.verified) >= self._limits.verified:
            idle = next((other for other in self.verified if other.idle), None)
            if idle is None:
                return False
            del self.verified[idle]
            idle.loseConnection()
        self.strangers.pop(channel, None)
        self.verified[channel] = None
        return True

    def heard_from(self, channel: AmphoraChannel) -> None:
        if channel in self.verified:
            self.verified.move_to_end(channel)

    def disconnected(self, channel: AmphoraChannel) -> None:
        self.strangers.pop(channel, None)
        self.verified.pop(channel, None)


class AmphoraRequest(Request):
    """A request whose body is kept where L{amphora.api.bodies} says, and is bounded while it arrives."""

    channel: AmphoraChannel
    content: Body

    def gotLength(self, length: int | None) -> None:
        self.content = self.channel.open_body()

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.refused:
            return
        if self.content.tell() + len(data) > self.channel.body_limit:
            self.channel.refuse_size()
            return
        self.content.write(data)

    def getRequestHostname(self) -> bytes:
        """We have one host only, whatever the client calls it."""
        return b"amphora"

    def process(self) -> None:
        problem = method_problem(self.method) or path_problem(self.path)
        if problem is None:
            super().process()
        else:
            answer = edge_answer(self.path, ErrorAnswer(400, "Bad Request", problem))
            self.write(answer_json(self, answer.status, answer.body))
            self.finish()


def method_problem(method: bytes) -> str | None:
    """
    What is wrong with a method before any route is looked for; None where nothing is.

    `put` is not `PUT` (RFC 9110, 9.1).  Routes are found for both, but where a body is kept is told by one of them.
    """
    return None if method == method.upper() else "The method is not written in capital letters"


def path_problem(path: bytes) -> str | None:
    """
    What is wrong with a path before any route is looked for; None where nothing is.

    Twisted cuts a path at its slashes and decodes what is between them: a slash that comes out of the decoding
    would be taken for one of them by whoever joins the parts again.
    """
    if not path.startswith(b"/"):
        return "The path does not begin with a slash"
    for segment in path.split(b"/"):
        decoded = unquote_to_bytes(segment)
        if b"/" in decoded or b"\0" in decoded:
            return "The path holds an encoded slash or NUL"
        try:
            decoded.decode("utf-8")
        except UnicodeDecodeError:
            return "The path is not UTF-8"
    return None


@implementer(IHandshakeListener)
class AmphoraChannel(HTTPChannel):
    """
    One connection.

    HTTPChannel parses; this class decides.  Twisted's own idle timer stays off.
    """

    requestFactory = AmphoraRequest
    site: AmphoraSite
    transport: ITCPTransport
    refused = False
    idle = False
    """Verified, and before its first request or between two."""

    shakes_hands = True
    """Until its handshake is done."""
    verified = False
    """Whether its client is, as the handshake told."""

    _full = False
    _thrown_away = 0
    _deadline: IDelayedCall | None = None
    _closing: IDelayedCall | None = None

    @property
    def limits(self) -> Limits:
        return self.site.limits

    @property
    def host(self) -> str:
        """The address of the other side."""
        return getattr(self.getPeer(), "host", "?")

    # The connection's life

    def connectionMade(self) -> None:
        super().connectionMade()
        self._set_deadline(self.limits.handshake, self.abort)
        self.site.pools.connected(self)

    def handshakeCompleted(self) -> None:
        self.shakes_hands = False
        self.verified = self.site.verdicts.verified(self.transport)
        if self.verified:
            self._full = not self.site.pools.admit(self)
            self.idle = not self._full
        self._set_deadline(self.limits.headers, self._overdue)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._set_deadline(None)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self.site.pools.disconnected(self)
        super().connectionLost(reason)

    def end_flood(self, of_what: str) -> None:
        """End the connection of a stranger that says more than anybody has to."""
        self.site.ended_flood(self, of_what)
        self.abort()

    def abort(self) -> None:
        """End the connection without a word."""
        self.refused = True
        self.transport.abortConnection()

    def loseConnection(self) -> None:
        # A client that never ends its own side would otherwise keep the connection for good; one that reads a long
        # answer slowly is given the time that it would have had to send it.
        if self._closing is None:
            patience = self.limits.close if self.refused or self.idle else self.limits.body
            self._closing = self.callLater(patience, self.transport.abortConnection)
        super().loseConnection()

    def _set_deadline(self, seconds: float | None, overdue: Callable[[], None] | None = None) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.callLater(seconds, overdue)

    def _overdue(self) -> None:
        self.refuse(OVERDUE)

    # What arrives

    def dataReceived(self, data: bytes) -> None:
        if self.refused:
            self._throw_away(data)
            return
        if self.idle:
            self.idle = False
            self._set_deadline(self.limits.headers, self._overdue)
        self.site.pools.heard_from(self)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self.refused:
            return
        if line[:1] in (b" ", b"\t") and hasattr(self, "_command"):
            # A header that goes on in the next line: nobody writes that any more, and readers differ (RFC 9112, 5.2).
            self.refuse(MALFORMED)
            return
        super().lineReceived(line)
        if not self.verified and hasattr(self, "_command"):
            # The first line tells how to say it; nothing else that a stranger sends is kept.
            self.refuse(UNAUTHORIZED)

    def rawDataReceived(self, data: bytes) -> None:
        if not self.refused:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(MALFORMED)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # A number of more digits than Python converts is a length all the same.
        if header.lower() == b"content-length" and data.isdigit() and len(data) > 18:
            self.refuse_size()
            return False
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:
        if self.refused:
            return
        if not self.verified:
            self.refuse(UNAUTHORIZED)
        elif self._full:
            self.refuse(FULL)
        elif self.length is not None and self.length > self.body_limit:
            self.refuse_size()
        else:
            self._set_deadline(self.limits.body, self._overdue)
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if not self.refused:
            self._set_deadline(None)
            super().allContentReceived()

    def requestDone(self, request: IRequest) -> None:
        if self.site.closing:
            self.persistent = False
        if self.persistent:
            self.idle = True
            self._set_deadline(self.limits.idle, self.loseConnection)
        super().requestDone(request)

    @property
    def body_limit(self) -> int:
        """How large the body of the request may be whose headers have just arrived."""
        limits = self.limits
        if self._is_configuration():
            return limits.body_size
        return min(limits.body_size, limits.memory_body_size)

    def _is_configuration(self) -> bool:
        return is_configuration(self._command, self._path)

    def open_body(self) -> Body:
        """Where the body of the request whose headers have just arrived is kept."""
        if self._is_configuration():
            return SpooledBody(self.site.blocking, self.site.spool, _ChannelFlow(self))
        return BytesIO()

    # Refusals

    def refuse_size(self) -> None:
        self.refuse(ErrorAnswer(413, "Content Too Large", f"A body may have at most {self.body_limit} bytes here"))

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(MALFORMED)

    def refuse(self, answer: ErrorAnswer) -> None:
        """Answer what has arrived of a request with an error, take nothing more, and close."""
        if self.refused:
            return
        self.refused = True
        if not self.verified:
            # A stranger learns nothing else, whatever it did wrong beside.
            answer = UNAUTHORIZED
        self.site.refused(self, answer)
        answer = edge_answer(getattr(self, "_path", b""), answer)
        body = encode_json(answer.body)
        head = (
            b"HTTP/1.1 %d %s\r\nServer: amphora-agent\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (answer.status, _REASONS[answer.status], len(body))
        )
        self.transport.writeSequence([head, b"" if getattr(self, "_command", b"") == b"HEAD" else body])
        self._set_deadline(self.limits.linger_time, self.loseConnection)

    def _throw_away(self, data: bytes) -> None:
        self._thrown_away += len(data)
        if self._thrown_away > self.limits.linger_bytes:
            self.abort()


@define(eq=False)
class _ChannelFlow:
    """Lets a body hold its sender back."""

    _channel: AmphoraChannel

    def pause(self) -> None:
        self._channel._networkProducer.pauseProducing()

    def resume(self) -> None:
        self._channel._networkProducer.resumeProducing()


class AmphoraSite(Site):
    """Makes the channels, and holds what they share."""

    protocol = AmphoraChannel  # type: ignore[assignment]
    _log = Logger()

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        verdicts: Verdicts,
        blocking: BlockingCalls,
        spool: SpoolDirectory,
        limits: Limits,
    ) -> None:
        super().__init__(resource, AmphoraRequest, timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        self.limits = limits
        self.pools = ConnectionPools(limits)
        self.blocking = blocking
        self.spool = spool
        self.verdicts = verdicts
        self._guard = RepeatGuard(reactor)
        self.closing = False
        """Set when the agent ends: each connection is closed once its request was answered."""

    def rehearsal(self) -> AmphoraSite:
        """A site with the same channels and verdicts, and nothing behind them; what it refuses is not logged."""
        return _Rehearsal(
            Resource(),
            reactor=Clock(),
            verdicts=self.verdicts,
            blocking=self.blocking,
            spool=self.spool,
            limits=self.limits,
        )

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def refused(self, channel: AmphoraChannel, answer: ErrorAnswer) -> None:
        """Tell the log, once a minute at most for each kind of refusal."""
        reason = answer.details or answer.message
        if answer is UNAUTHORIZED:
            reason = self.verdicts.problem(channel.transport)
        self._tell(channel, f"Refused a request from {{peer}}: {answer.status} {{reason}}", reason)

    def ended_flood(self, channel: AmphoraChannel, of_what: str) -> None:
        """Likewise."""
        self._tell(channel, "Ended a connection with {peer}: {reason}", of_what)

    def _tell(self, channel: AmphoraChannel, what: str, reason: str) -> None:
        suppressed = self._guard.pass_one((what, reason))
        if suppressed is not None:
            self._log.warn(
                what + " ({suppressed} like it since the last such line)",
                peer=channel.host,
                reason=reason,
                suppressed=suppressed,
            )

    noisy = False

    def startFactory(self) -> None:
        """Twisted's access log and its clock stay off; L{log} is ours."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: HTTPRequest) -> None:
        """A line for each request that changes something or that we failed."""
        changes = request.method not in (b"GET", b"HEAD")
        if changes or request.code >= 500:
            self._log.info(
                "{method} {path} from {peer}: {code}",
                method=request.method.decode("ascii", "replace"),
                path=request.path.decode("utf-8", "replace"),
                peer=getattr(request.getClientAddress(), "host", "?"),
                code=request.code,
            )


class _Rehearsal(AmphoraSite):
    """Refuses in silence."""

    def refused(self, channel: AmphoraChannel, answer: ErrorAnswer) -> None:
        """Who is refused here is us."""
