"""The online status of users, read from nodes and workers that are processes of their own."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from redis_servers import RedisServer
from shell import API_KEY, PATIENCE, SECRET, Running
from websockets.sync.client import connect

from roomcast.auth.identity import make_token

#: REDIS_LEASE of nodes that are killed, in seconds.
LEASE = 3.0


def join(stack: ExitStack, server: Running, user: int, room: str) -> None:
    """Connect a client of ``user`` that is in ``room``."""
    token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
    client = stack.enter_context(connect(f"{server.ws}/api/v1/ws/connect?token={token}", max_queue=None))
    client.send(json.dumps({"type": "join_room", "room": room}))
    while json.loads(client.recv(PATIENCE))["type"] != "joined_room":
        pass


def get(server: Running, path: str, body: object = None) -> Any:
    """Call the HTTP API on a new connection."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=PATIENCE) as response:
        return json.load(response)


@pytest.mark.redis
def test_workers(redis_server: RedisServer, redis_prefix: str) -> None:
    """Each worker returns the rooms of all workers. The kernel distributes the connections over the two."""
    rooms = [f"channel:{number}" for number in range(5)]
    with Running(
        *("serve", "--port", "0", "--workers", "2"), REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix
    ) as server:
        server.wait_for(r"\[worker \d\] process \d+ serves", server.err, times=2)
        with ExitStack() as stack:
            for user in (1, 2, 3):
                for room in rooms:
                    join(stack, server, user, room)
            for _ in range(10):
                status = get(server, "/api/v1/users/1")
                assert (status["connections"], status["rooms"], status["rooms_complete"]) == (5, rooms, True)
            users = get(server, "/api/v1/users/status", {"user_ids": [1, 2, 3, 4]})["users"]
            assert [(one["online"], len(one["rooms"])) for one in users] == [(True, 5)] * 3 + [(False, 0)]


@pytest.mark.redis
def test_a_node_that_is_killed(redis_server: RedisServer, redis_prefix: str) -> None:
    """Its users are online until the lease ends, without the names of rooms, and were last seen at about its end."""
    settings = {
        "REDIS_URL": redis_server.url,
        "REDIS_PREFIX": redis_prefix,
        "REDIS_LEASE": str(LEASE),
        "REDIS_TIMEOUT": "1",
    }
    with Running(**settings) as alive, Running(**settings) as dying, ExitStack() as stack:
        join(stack, dying, 1, "channel:1")
        join(stack, dying, 2, "channel:2")
        join(stack, alive, 2, "channel:3")
        before = get(alive, "/api/v1/users/1")
        assert (before["online"], before["rooms"], before["rooms_complete"]) == (True, ["channel:1"], True)
        time.sleep(LEASE)  # the leases are renewed three times
        killed = time.time()
        dying.signal(signal.SIGKILL)
        dying.ended()
        status = get(alive, "/api/v1/users/1")
        assert (status["online"], status["rooms"], status["rooms_complete"]) == (True, [], False)
        both = get(alive, "/api/v1/users/2")
        assert (both["connections"], both["rooms"], both["rooms_complete"]) == (2, ["channel:3"], False)
        while (status := get(alive, "/api/v1/users/1"))["online"]:
            assert time.time() < killed + PATIENCE
            time.sleep(0.05)
        assert time.time() > killed + LEASE / 2
        last_seen = datetime.fromisoformat(status["last_seen"]).timestamp()
        # The last renewal is up to a third of a lease before the end. The time is in whole seconds.
        assert killed - LEASE / 3 - 2 < last_seen <= killed
        both = get(alive, "/api/v1/users/2")
        assert (both["connections"], both["rooms"], both["rooms_complete"]) == (1, ["channel:3"], True)
