"""Tests for L{amphora.listener}."""

from __future__ import annotations

import socket
import zlib
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from amphora.health.envelope import seal
from amphora.health.message import build
from amphora.listener import LOG_INTERVAL, Heartbeat, HeartbeatListener, IListenerReactor

KEY = "key"
AMPHORA = "6e2bc8a0-2548-4fb7-a5f0-fb1ef4a696ce"
ADDRESS = ("192.0.2.1", 40000)


class ReadingTests(SynchronousTestCase):
    """What is made of datagrams, without a socket."""

    def setUp(self) -> None:
        """Make a listener that does not listen."""
        self.clock = Clock()
        self.clock.advance(5)
        self.heard: list[Heartbeat] = []
        self.listener = HeartbeatListener(
            reactor=cast(IListenerReactor, self.clock), key=KEY, received=self.heard.append
        )

    def receive(self, datagram: bytes) -> None:
        """A datagram arrives."""
        self.listener._datagram(datagram, ADDRESS)

    def test_good(self) -> None:
        """A heartbeat is handed on with all that it says, who sent it, and when it came."""
        message = build(AMPHORA, 17, [], {})
        self.receive(seal(KEY, message))
        self.assertEqual(self.heard, [Heartbeat(AMPHORA, 17, dict(message), ADDRESS, 5.0)])
        self.assertEqual(self.listener.bad, {})

    def test_bad(self) -> None:
        """What is no heartbeat is counted by its reason, and not handed on."""
        good = {"id": AMPHORA, "seq": 1, "listeners": {}, "pools": {}}
        incomplete = [{**good, "id": None}, {**good, "seq": "1"}, {key: good[key] for key in ("listeners", "pools")}]
        for message in incomplete:
            self.receive(seal(KEY, message))
        self.receive(seal(KEY, {**good, "pools": []}))
        self.receive(seal("another key", good))
        self.receive(b"")
        self.receive(zlib.compress(b"{}"))
        self.assertEqual(
            self.listener.bad,
            {
                "the message has no amphora id or no sequence number": 3,
                "the message has no listeners or no pools": 1,
                "the HMAC does not match": 3,
            },
        )
        self.assertEqual(self.heard, [])

    def test_quiet(self) -> None:
        """Each reason is logged once a minute at most, with how often it was met."""
        with capturedLogs() as logs:
            for _ in range(1000):
                self.receive(b"noise")
            self.receive(seal(KEY, {}))
            self.clock.advance(LOG_INTERVAL)
            self.receive(b"noise")
        self.assertEqual(
            [(event["log_level"], event["reason"], event["count"]) for event in logs],
            [
                (LogLevel.warn, "the HMAC does not match", 1),
                (LogLevel.warn, "the message has no amphora id or no sequence number", 1),
                (LogLevel.warn, "the HMAC does not match", 1001),
            ],
        )
        self.assertEqual({event["host"] for event in logs}, {"192.0.2.1"})

    def test_failing_receiver(self) -> None:
        """If the one who is told fails, that is logged, and the next heartbeat is handed on."""
        self.listener = HeartbeatListener(
            reactor=cast(IListenerReactor, self.clock), key=KEY, received=lambda heartbeat: 1 / heartbeat.sequence
        )
        for sequence in (0, 1, 0):
            self.receive(seal(KEY, build(AMPHORA, sequence, [], {})))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class ListeningTests(TestCase):
    """A real port on the loopback."""

    def listener(self, host: str = "127.0.0.1", port: int = 0) -> tuple[HeartbeatListener, Deferred[Heartbeat]]:
        """A listener that runs until the test's end, and the first heartbeat that it hears."""
        from twisted.internet import reactor

        first: Deferred[Heartbeat] = Deferred()
        listener = HeartbeatListener(
            reactor=cast(IListenerReactor, reactor), key=KEY, received=first.callback, interface=host, port=port
        )
        listener.startService()
        self.addCleanup(listener.stopService)
        return listener, first

    def send(self, datagram: bytes, host: str, port: int) -> int:
        """Send a datagram, and answer from which port it came."""
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(datagram, (host, port))
            return int(sender.getsockname()[1])

    async def test_hears(self) -> None:
        """A heartbeat as large as UDP allows arrives whole, and with its sender's address."""
        listener, first = self.listener()
        noise = "".join(f"{number * 2654435761 % 2**32:08x}" for number in range(20_000))
        length = 100_000
        while len(datagram := seal(KEY, {**build(AMPHORA, 3, [], {}), "noise": noise[:length]})) > 65_507:
            length -= 1000
        sent_from = self.send(datagram, "127.0.0.1", listener.port)
        heartbeat = await first
        self.assertEqual((heartbeat.amphora_id, heartbeat.sequence), (AMPHORA, 3))
        self.assertEqual(heartbeat.message["noise"], noise[:length])
        self.assertEqual(heartbeat.address, ("127.0.0.1", sent_from))

    async def test_ipv6(self) -> None:
        """IPv6 serves as well."""
        try:
            listener, first = self.listener("::1")
        except CannotListenError as problem:
            self.skipTest(f"no IPv6 here: {problem}")
        sent_from = self.send(seal(KEY, build(AMPHORA, 0, [], {})), "::1", listener.port)
        self.assertEqual((await first).address, ("::1", sent_from))

    async def test_taken(self) -> None:
        """A port that is taken is an error of starting; after a stop it is free again."""
        listener, _ = self.listener()
        port = listener.port
        self.assertRaises(CannotListenError, self.listener, port=port)
        await listener.stopService()
        again, _ = self.listener(port=port)
        self.assertEqual(again.port, port)

    async def test_stopped_twice(self) -> None:
        """Stopping what does not listen is done at once."""
        listener, _ = self.listener()
        await listener.stopService()
        await listener.stopService()
