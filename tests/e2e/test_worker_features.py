"""Members, statuses, typing, history and marks on a server with two workers: all clients see the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from redis_servers import RedisServer
from shell import PATIENCE, SECRET, Running
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token

ROOM = "channel:1"
#: The kernel distributes the connections: of 12 clients, a worker has none once in 2,000 runs, which tests less.
USERS = range(1, 13)
#: A user with several connections.
TABS, ALICE = 5, 1
Frame = dict[str, Any]


class Client:
    """A client of ``user`` that is in the room."""

    def __init__(self, stack: ExitStack, server: Running, user: int) -> None:
        self.user = user
        token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
        url = f"{server.ws}/api/v1/ws/connect?token={token}"
        self._socket: ClientConnection = stack.enter_context(connect(url, max_queue=None))
        self._requests = 0
        self._received: list[Frame] = []
        self.joined = self.command("join_room", {"presence": True})
        self.command("members")  # is answered when the join is recorded

    def command(self, type: str, data: Frame | None = None) -> Frame:
        """Send a command in the room; return the data of the reply."""
        self._requests += 1
        id = f"{self._requests}"
        request = {"type": type, "room": ROOM, "id": id, **({} if data is None else {"data": data})}
        self._socket.send(json.dumps(request))
        reply = self._until(lambda frame: frame.get("id") == id)
        assert reply["type"] != "error", reply
        return reply["data"]  # type: ignore[no-any-return]

    def event(self, type: str) -> Frame:
        """Return the data of the next event of ``type``."""
        found = next((frame for frame in self._received if frame["type"] == type), None)
        if found is None:
            return self._until(lambda frame: frame["type"] == type)["data"]  # type: ignore[no-any-return]
        self._received.remove(found)
        return found["data"]  # type: ignore[no-any-return]

    def _until(self, fits: Callable[[Frame], bool]) -> Frame:
        while True:
            frame: Frame = json.loads(self._socket.recv(PATIENCE))
            if fits(frame):
                return frame
            self._received.append(frame)


@pytest.mark.redis
def test_all_clients_see_the_same(redis_server: RedisServer, redis_prefix: str) -> None:
    """The clients of both workers list the same members, and receive statuses, typing, messages, marks and leaves."""
    with (
        Running(
            *("serve", "--workers", "2", "--port", "0"),
            REDIS_URL=redis_server.url,
            REDIS_PREFIX=redis_prefix,
            PRESENCE_GRACE="60",  # a leave on request is announced earlier
        ) as server,
        ExitStack() as stack,
    ):
        server.wait_for(r"\[worker \d\] process \d+ serves", server.err, times=2)
        alice, *others = [Client(stack, server, user) for user in USERS]
        tabs = [Client(stack, server, ALICE) for _ in range(TABS - 1)]
        everyone = [alice, *others, *tabs]
        assert [one.joined["member_count"] for one in everyone] == [*USERS, *[len(USERS)] * len(tabs)]
        for one in everyone:
            assert [member["user_id"] for member in one.command("members")["members"]] == list(USERS)

        alice.command("set_presence", {"status": "away"})
        for one in everyone:
            assert one.event("user_updated")["status"] == "away"
            assert one.command("members")["members"][0]["status"] == "away"

        alice.command("typing")
        for one in others:
            assert one.event("typing") == {"user_id": ALICE, "username": "user1", "typing": True}

        sent = alice.command("send_message", {"content": "Hello"})["event_id"]
        for one in everyone:
            assert one.event("message")["content"] == "Hello"
            assert [event["id"] for event in one.command("history")["events"]] == [sent]

        reply = others[0].command("send_message", {"content": "Hi"})["event_id"]
        assert alice.command("mark_read", {"event_id": reply}) == {"event_id": reply, "unread": 0}
        for one in tabs:
            assert one.event("marked_read") == {"event_id": reply, "unread": 0}
            assert one.command("join_room")["unread"] == 0
        assert others[1].event("message")["content"] == "Hi"
        assert others[1].command("join_room")["unread"] == 2

        last = others.pop()
        last.command("leave_room")
        for one in [alice, *others, *tabs]:
            assert one.event("user_left")["user_id"] == last.user
            assert one.command("members")["member_count"] == len(USERS) - 1
