"""Tests of the synchronous API, which run without an event loop."""

from __future__ import annotations

import threading
import unittest
from typing import Any

import pytest

from roomcast import Refused, testing
from roomcast.errors import SettingsError

ROOM = "channel:1"
MESSAGE = {"content": "Hi", "username": "x", "user_id": 1, "metadata": {}}


class ChatTest(unittest.TestCase):
    """A test case of ``unittest`` with one server for all tests."""

    server: testing.SyncServer

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server."""
        cls.server = cls.enterClassContext(testing.server(history_size=10, presence_grace=0))

    def member(self, name: str) -> testing.SyncClient:
        """Connect a user, who joins the room."""
        client = self.server.connect(name, rooms=["channel:*"])
        self.addCleanup(client.close)
        client.join(ROOM)
        client.next("user_joined")
        return client

    def test_a_message(self) -> None:
        """Commands and events work without ``async``."""
        alice, bob = self.member("alice"), self.member("bob")
        alice.next("user_joined")
        reply = alice.command("send_message", {"content": "Hello"}, room=ROOM)
        event = bob.next("message", room=ROOM)
        self.assertEqual((event["id"], event["sender"]), (reply["event_id"], "alice"))
        alice.next("message", data=event["data"])
        alice.nothing()
        self.assertEqual(alice.history(ROOM, limit=1)["events"], [event])
        self.assertEqual(alice.members(ROOM)["member_count"], 2)

    def test_what_a_backend_publishes(self) -> None:
        """The service is called on the event loop of the server."""
        alice = self.member("alice")
        id = self.server.call(self.server.service.publish, "message", ROOM, MESSAGE)
        self.assertEqual(alice.next("message")["id"], id)
        self.assertEqual(self.server.call(threading.current_thread).name, "roomcast test server")

    def test_a_lost_connection(self) -> None:
        """A client resumes."""
        alice = self.member("alice")
        alice.lose()
        with self.assertRaises(testing.Disconnected):
            alice.command("send_message", {"content": "x"}, room=ROOM)
        self.server.call(self.server.service.publish, "message", ROOM, MESSAGE)
        self.assertTrue(alice.reconnect()[ROOM]["recovered"])
        alice.next("message", data=MESSAGE)

    def test_refusals(self) -> None:
        """Errors are raised in the thread of the test."""
        alice = self.server.connect("alice")
        self.assertEqual(alice.welcome["user_id"], "alice")
        with self.assertRaises(Refused) as refused:
            alice.join(ROOM)
        self.assertEqual(refused.exception.code, "forbidden")
        self.assertEqual(alice.closed(), (4403, "Forbidden"))

    def test_failures_show_what_arrived(self) -> None:
        """The texts are those of the asynchronous client."""
        alice = self.member("alice")
        self.server.call(self.server.service.publish, "message", ROOM, MESSAGE)
        with self.assertRaisesRegex(AssertionError, r"no typing arrived within 0\.05 s\. These .*\n  message in"):
            alice.next("typing", timeout=0.05)
        with self.assertRaisesRegex(AssertionError, "no message was expected"):
            alice.nothing("message")
        self.assertEqual([event["type"] for event in alice.events], ["message"])

    def test_status_and_messages_without_changes(self) -> None:
        """The other methods of a client work too."""
        alice = self.member("alice")
        alice.set_presence("away", room=ROOM)
        self.assertEqual(alice.next("user_updated")["data"]["status"], "away")
        alice.send({"type": "no.such", "id": "mine"})
        self.assertEqual(alice.next("error")["id"], "mine")
        alice.leave(ROOM)

    def test_the_time_goes_on_by_itself(self) -> None:
        """Without a clock, the error names the option."""
        with self.assertRaisesRegex(RuntimeError, "clock=True"):
            self.server.advance(1)


def has_thread() -> bool:
    """Return True if the thread of a server runs."""
    return any(thread.name == "roomcast test server" for thread in threading.enumerate())


def test_a_clock() -> None:
    """With ``clock=True``, the test advances the time."""
    with testing.server(clock=True, presence_grace=300) as server:
        alice, bob = (server.connect(name, rooms=["*"]) for name in ("alice", "bob"))
        for user in (alice, bob):
            user.join(ROOM)
        bob.lose()
        server.advance(299)
        alice.nothing("user_left")
        server.advance(2)
        alice.next("user_left")


def test_two_nodes() -> None:
    """The server may have two nodes."""
    with testing.redis_server() as url, testing.server(broker="two_nodes", redis_url=url) as server:
        alice, bob = (server.connect(name, rooms=["*"], node=node) for node, name in enumerate(("alice", "bob")))
        for user in (alice, bob):
            user.join(ROOM)
        alice.command("send_message", {"content": "Hi"}, room=ROOM)
        bob.next("message")


def test_errors_of_the_start() -> None:
    """An error that stops the server is raised in the thread of the test, and the thread of the server ends."""
    with pytest.raises(SettingsError, match="HISTORY_SIZE"), testing.server(history_size=-1):
        raise AssertionError("it started")
    assert not has_thread()


def test_an_error_of_the_test_ends_the_server() -> None:
    """The server and its thread end with the block, and the error propagates."""
    opened: list[Any] = []
    with pytest.raises(ZeroDivisionError), testing.server() as server:
        opened.append(server.connect("alice"))
        raise ZeroDivisionError
    assert not has_thread()
    with pytest.raises(RuntimeError, match="the server has stopped"):
        opened[0].nothing()
