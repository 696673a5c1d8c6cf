"""The process that keeps sessions, on real sockets and a clock of the test's."""

from __future__ import annotations

import os
import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from amphora.loadbalancer.session_keeper import ALONE, GRACE, Keeper, has_successor

TIMEOUT = 30.0


class SessionKeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.addCleanup(self.listening.close)
        # An abstract name: trial's directories are too long for a path.
        self.name = b"\0amphora-" + os.urandom(8).hex().encode()
        self.listening.bind(self.name)
        self.listening.listen()
        self.keeper = Keeper(self.listening, self.clock.seconds)

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(TIMEOUT)
        client.connect(self.name)
        self.keeper.turn(0)
        return client

    def session(self) -> tuple[socket.socket, socket.socket]:
        """The agent's end and the worker's."""
        ours, workers = socket.socketpair()
        for each in (ours, workers):
            self.addCleanup(each.close)
            each.settimeout(TIMEOUT)
        return ours, workers

    def say(self, client: socket.socket, text: bytes, *sessions: socket.socket) -> None:
        if sessions:
            socket.send_fds(client, [text], [session.fileno() for session in sessions])
        else:
            client.sendall(text)
        self.keeper.turn(0)

    def kept(self, label: bytes) -> tuple[socket.socket, socket.socket]:
        """A client that has given a session and closed its own, and the worker's end of that."""
        client = self.client()
        ours, workers = self.session()
        self.say(client, b"keep %s\n" % label, ours)
        self.assertEqual(b"kept %s\n" % label, client.recv(100))
        ours.close()
        return client, workers

    def given(self, client: socket.socket) -> dict[bytes, socket.socket]:
        """All that it gives, by its label."""
        self.say(client, b"give\n")
        given: dict[bytes, socket.socket] = {}
        while True:
            line, descriptors, _, _ = socket.recv_fds(client, 1000, 8)
            if line == b"end\n":
                return given
            (descriptor,) = descriptors
            session = socket.socket(fileno=descriptor)
            self.addCleanup(session.close)
            given[line.removeprefix(b"session ").removesuffix(b"\n")] = session

    def test_life_of_a_session(self) -> None:
        """
        What it was given goes on when the giver has gone, is given to whoever asks, as often as they do, and is
        forgotten when whoever has it ends it.
        """
        first, workers = self.kept(b"one")
        first.close()
        self.keeper.turn(0)
        for _ in range(2):
            second = self.client()
            session = self.given(second)[b"one"]
            session.sendall(b"question")
            self.assertEqual(b"question", workers.recv(100))
            session.close()
            second.close()
            self.keeper.turn(0)
        third = self.client()
        self.given(third)[b"one"].shutdown(socket.SHUT_RDWR)
        self.keeper.turn(0)
        self.assertEqual(b"", workers.recv(100))
        self.assertEqual({}, self.given(third))

    def test_worker_ends(self) -> None:
        """A session whose worker has ended is forgotten, though nobody has read what it said last."""
        client, workers = self.kept(b"one")
        workers.sendall(b"answer")
        workers.close()
        self.keeper.turn(0)
        self.assertEqual({}, self.given(client))

    def test_same_label(self) -> None:
        """A session takes the place of the one that was called the same."""
        client, before = self.kept(b"one")
        ours, now = self.session()
        self.say(client, b"keep one\n", ours)
        self.assertEqual(b"kept one\n", client.recv(100))
        self.assertEqual(b"", before.recv(100))
        self.given(client)[b"one"].sendall(b"question")
        self.assertEqual(b"question", now.recv(100))

    def test_pieces(self) -> None:
        """A line may come in pieces, with the descriptor at its first, and several at once."""
        client = self.client()
        first, _ = self.session()
        second, _ = self.session()
        self.say(client, b"k", first)
        self.say(client, b"eep one\nkeep")
        self.say(client, b" two\n", second)
        self.assertEqual(b"kept one\nkept two\n", client.recv(100))
        self.assertEqual({b"one", b"two"}, set(self.given(client)))

    def test_nonsense(self) -> None:
        """Whoever does not speak its language is sent away; what it keeps, it keeps."""
        first, _ = self.kept(b"one")
        stray, strays = self.session()
        for text in (b"GET / HTTP/1.0\n", b"keep\n", b"\n", b"\xff" * 2000, b"gi\0ve\n"):
            client = self.client()
            self.say(client, text, stray)
            self.assertEqual(b"", client.recv(100), text)
        client = self.client()
        self.say(client, b"keep two\n")
        self.assertEqual(b"refused two\n", client.recv(100))
        self.assertEqual(b"", client.recv(100))
        self.assertEqual({b"one"}, set(self.given(first)))
        stray.close()
        # No copy of what came with nonsense is left.
        self.assertEqual(b"", strays.recv(100))

    def test_many_clients(self) -> None:
        """Of many clients the last are sent away, and the first still served."""
        first, _ = self.kept(b"one")
        clients = [self.client() for _ in range(20)]
        self.assertEqual(b"", clients[-1].recv(100))
        self.assertEqual({b"one"}, set(self.given(first)))

    def test_nothing_to_keep(self) -> None:
        """It ends some time after it has kept its last session, whoever is connected."""
        self.clock.advance(GRACE - 1)
        self.assertEqual(1, self.keeper.left())
        _, workers = self.kept(b"one")
        self.assertIsNone(self.keeper.left())
        self.clock.advance(2 * ALONE)
        workers.close()
        self.keeper.turn(0)
        self.assertEqual(GRACE, self.keeper.left())
        self.clock.advance(GRACE)
        self.keeper.serve()

    def test_alone(self) -> None:
        """Without an agent it keeps sessions for an hour, then ends them, whoever else has them."""
        client, first = self.kept(b"one")
        ours, second = self.session()
        self.say(client, b"keep two\n", ours)
        client.close()
        self.keeper.turn(0)
        self.assertEqual(ALONE, self.keeper.left())
        self.clock.advance(ALONE - 1)
        first.close()
        self.keeper.turn(0)
        self.assertEqual(1, self.keeper.left())
        self.clock.advance(1)
        self.keeper.serve()
        self.keeper.end_sessions()
        self.assertEqual(b"", second.recv(100))

    def test_next_agent(self) -> None:
        """An agent that comes in time is not alone."""
        client, _ = self.kept(b"one")
        client.close()
        self.keeper.turn(0)
        self.clock.advance(ALONE - 1)
        self.client()
        self.assertIsNone(self.keeper.left())

    def test_successor(self) -> None:
        """Another keeper's socket in its place is told from its own, and from none."""
        path, other = self.mktemp(), self.mktemp()
        for each in (path, other):
            with open(each, "x"):
                pass
        own = os.lstat(path)
        self.assertFalse(has_successor(path, own))
        os.rename(other, path)
        self.assertTrue(has_successor(path, own))
        os.unlink(path)
        self.assertFalse(has_successor(path, own))
