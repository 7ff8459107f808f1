"""Options of room types, set by variables, on a server with two workers and Redis."""

import json
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack

from prometheus_client.parser import text_string_to_metric_families
from shell import PATIENCE, SECRET, Running
from websockets.sync.client import connect

from roomcast.auth.identity import make_token

ROOM = "channel:1"
USERS = 8
OPTIONS = {"ROOM_CHANNEL_COMMANDS": "send_message", "ROOM_CHANNEL_PRESENCE": "false", "ROOM_TASK_HISTORY_SIZE": "0"}


def join(stack: ExitStack, server: Running, user: int):
    """Connect a client of ``user``, and let it join the room."""
    token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
    client = stack.enter_context(connect(f"{server.ws}/api/v1/ws/connect?token={token}", max_queue=None))
    assert json.loads(client.recv(PATIENCE))["type"] == "connected"
    client.send(json.dumps({"type": "join_room", "room": ROOM}))
    assert json.loads(client.recv(PATIENCE))["type"] == "joined_room"
    return client


def counted(server: Running) -> Counter:
    """Return the metrics of channels, summed over all workers."""
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
    found: Counter = Counter()
    for family in families:
        for sample in family.samples:
            if sample.labels.get("room_type") == "channel":
                assert "worker" in sample.labels
                found[family.name.removeprefix("roomcast_")] += int(sample.value)
    return +found


def test_workers_apply_the_options_of_room_types(redis_server, redis_prefix):
    """All workers refuse the same commands, announce no user, and count by room type. The log lists the options."""
    redis = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix}
    with ExitStack() as stack:
        server = stack.enter_context(Running("serve", "--workers", "2", "--port", "0", **redis, **OPTIONS))
        server.wait_for("process [0-9]+ serves", server.err, times=2)
        server.wait_for(
            "options of room types: ROOM_CHANNEL_PRESENCE=false, ROOM_CHANNEL_COMMANDS=send_message, "
            "ROOM_TASK_HISTORY_SIZE=0$",
            server.err,
        )
        clients = [join(stack, server, user) for user in range(USERS)]
        for client in clients:
            client.send(json.dumps({"type": "delete_message", "room": ROOM, "data": {"message_id": "1-1"}}))
            error = json.loads(client.recv(PATIENCE))  # the first frame after joined_room: no user was announced
            assert error["data"]["code"] == "bad_room"
        for client in clients:
            client.send(json.dumps({"type": "send_message", "room": ROOM, "data": {"content": "x"}}))
        for client in clients:
            assert {json.loads(client.recv(PATIENCE))["type"] for _ in clients} == {"message"}
        expected = {"messages": USERS, "room_deliveries": USERS**2, "room_members": USERS}
        deadline = time.monotonic() + PATIENCE
        while (found := counted(server)) != expected:  # the metrics may be two seconds old
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
