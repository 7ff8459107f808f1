"""python-socketio on aiohttp and uvloop, with its AsyncRedisManager, which sends events to the other nodes."""

from typing import Any
from urllib.parse import parse_qs

import socketio
import uvloop
from aiohttp import web
from common import PORT, REDIS_URL, joined, message, user_of

# Each publish in flight uses a connection of redis-py's pool, which by default refuses more than 100.
manager = socketio.AsyncRedisManager(REDIS_URL, redis_options={"max_connections": 10_000})
sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager, cors_allowed_origins="*")
users: dict[str, dict[str, Any]] = {}


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    """Accept the connection if its token is valid."""
    users[sid] = user_of(parse_qs(environ["QUERY_STRING"])["token"][0])


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    """Remove the user."""
    users.pop(sid, None)


@sio.event
async def join_room(sid: str, request: dict[str, Any]) -> None:
    """Join the room, and reply."""
    await sio.enter_room(sid, request["room"])
    await sio.emit("joined_room", joined(request["room"]), to=sid)


@sio.event
async def send_message(sid: str, request: dict[str, Any]) -> None:
    """Send to everyone in the room, on all nodes."""
    await sio.emit("message", message(users[sid], request), room=request["room"])


if __name__ == "__main__":
    uvloop.install()
    app = web.Application()
    sio.attach(app)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None, access_log=None)
