"""Users who are connected to a server in another process, for tests without an event loop."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from shell import SECRET, Running
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token


@contextmanager
def member(server: Running, user_id: int | str, name: str, *rooms: str, **claims: object) -> Iterator[ClientConnection]:
    """Connect a user who joins ``rooms``."""
    token = make_token(SECRET, user_id=user_id, username=name, rooms=["*"], **claims)
    with connect(f"{server.ws}/api/v1/ws/connect?token={token}") as client:
        receive(client, "connected")
        for room in rooms:
            client.send(json.dumps({"type": "join_room", "room": room}))
            receive(client, "joined_room")
        yield client


def receive(client: ClientConnection, type: str) -> dict:
    """Return the next frame of ``type``."""
    while (frame := json.loads(client.recv(20)))["type"] != type:
        pass
    return frame
