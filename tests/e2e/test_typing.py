"""The node of a user who types is killed: what the others in the room receive."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from typing import Any

import pytest
from redis_servers import RedisServer
from shell import PATIENCE, SECRET, Running
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token

ROOM = "channel:1"


class Client:
    """A client of ``user`` that is in ROOM."""

    def __init__(self, stack: ExitStack, server: Running, user: int) -> None:
        token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
        url = f"{server.ws}/api/v1/ws/connect?token={token}"
        self.socket: ClientConnection = stack.enter_context(connect(url, max_queue=None))
        self.send("join_room")
        self.until("joined_room")

    def send(self, type: str) -> None:
        """Send a command in ROOM."""
        self.socket.send(json.dumps({"type": type, "room": ROOM}))

    def event(self) -> dict[str, Any]:
        """Return the next frame."""
        event: dict[str, Any] = json.loads(self.socket.recv(PATIENCE))
        return event

    def until(self, type: str) -> list[dict[str, Any]]:
        """Return the frames up to the next one of ``type``."""
        events = [self.event()]
        while events[-1]["type"] != type:
            events.append(self.event())
        return events


def facts(events: list[dict[str, Any]]) -> list[tuple[str, int, bool | None]]:
    """Return the type, the user and ``typing`` of each event."""
    return [(event["type"], event["data"]["user_id"], event["data"].get("typing")) for event in events]


@pytest.mark.redis
def test_the_node_of_a_user_who_types_is_killed(redis_server: RedisServer, redis_prefix: str) -> None:
    """No end of typing follows, but ``user_left`` when the lease and the grace are over. A return begins again."""
    settings = {
        "REDIS_URL": redis_server.url,
        "REDIS_PREFIX": redis_prefix,
        "REDIS_LEASE": "10",  # the user returns within it, also on a busy machine
        "REDIS_TIMEOUT": "1",
        "PRESENCE_GRACE": "1",
    }
    with Running(**settings) as alive, Running(**settings) as dying, ExitStack() as stack:
        other = Client(stack, alive, 1)
        leaving, returning = (Client(stack, dying, user) for user in (2, 3))
        for client in (leaving, returning):
            client.send("typing")
        typing = [*other.until("typing"), *other.until("typing")]
        assert {("typing", 2, True), ("typing", 3, True)} <= set(facts(typing))
        dying.signal(signal.SIGKILL)
        dying.ended()
        returned = Client(stack, alive, 3)
        returned.send("typing")
        assert facts(other.until("typing")) == [("typing", 3, True)]
        returned.socket.close()
        assert facts(other.until("typing")) == [("typing", 3, False)]
        left = facts([*other.until("user_left"), *other.until("user_left")])
        assert sorted(left) == [("user_left", 2, None), ("user_left", 3, None)]
