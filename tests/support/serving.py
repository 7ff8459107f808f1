"""For tests of the whole: a real server on a port of its own, users with tokens, and clients that speak to it.

::

    async def test_hello(serve):
        server = await serve(ws_message_rate=0)
        async with connect(server, user_id=1, username="alice") as alice:
            await alice.join("channel:1")
            await alice.send("send_message", "channel:1", {"content": "Hello"})
            message = await alice.recv_type("message")
        status, body = await call(server, "GET", "/api/v1/rooms")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import websockets
from multidict import CIMultiDict
from websockets.asyncio.client import ClientConnection

from roomcast import Plugin, registry
from roomcast.auth.identity import make_token
from roomcast.broker.base import Broker
from roomcast.broker.memory import MemoryBroker
from roomcast.gateway.gateway import Gateway
from roomcast.registry import LoadedPlugin, Registry
from roomcast.settings import Settings
from roomcast.web.server import Address, Server

SECRET = "correct horse battery staple, twice over"
KEY = "s3cret-key-of-the-operator"
PATH = "/api/v1/ws/connect"
#: Nothing on loopback takes so long, in seconds, unless it never comes.
PATIENCE = 10.0

Serve = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running(
    *, dev: bool = False, plugins: Iterable[Plugin] = (), broker: Broker | None = None, **settings: Any
) -> AsyncIterator[Server]:
    """A server on a free port of 127.0.0.1, by default with ``SECRET``, ``KEY`` and the embedded broker.

    ``settings`` are fields of ``Settings``; ``plugins`` come besides the built-in ones.
    """
    chosen = Settings(**{"jwt_secret": SECRET, "api_key": KEY, "drain_seconds": 0.0, **settings})
    loaded = Registry(
        [*list(registry.load())[1:], *(LoadedPlugin(plugin, "test 0", plugin.name) for plugin in plugins)]
    )
    own = MemoryBroker(chosen.history_size, chosen.history_ttl) if broker is None else broker
    server = Server(Gateway(chosen, loaded, own), Address(port=0), dev=dev)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def token_for(
    user_id: int | str = 1, username: str | None = "alice", rooms: Iterable[str] = ("*",), **claims: Any
) -> str:
    """A token as the application would sign it, by default for all rooms; ``claims`` are added as they are.

    ``expires_in=-1`` makes one that has ended.
    """
    return make_token(SECRET, user_id=user_id, username=username, rooms=rooms, **claims)


def url(server: Server, path: str, scheme: str = "http") -> str:
    """The address of ``path`` on ``server``."""
    return f"{scheme}://127.0.0.1:{server.port}{path}"


class User:
    """A user's client: what ``connect`` gives. ``heard`` has every frame so far, ``welcome`` the first."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}

    async def send(self, type: str, room: str | None = None, data: Any = None, **more: Any) -> None:
        """Send a message; ``room`` and ``data`` are left out where they are None, ``more`` is put into the envelope."""
        given = {"type": type, "room": room, "data": data}
        await self.socket.send(
            orjson.dumps({name: value for name, value in given.items() if value is not None} | more).decode()
        )

    async def recv(self) -> dict[str, Any]:
        """Return the next frame; raise ``websockets.ConnectionClosed`` if there is none."""
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, Any] = orjson.loads(await self.socket.recv())
        self.heard.append(frame)
        return frame

    async def recv_type(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the next frame of ``type`` whose envelope has these ``fields``; others before it go to ``heard``."""
        while True:
            frame = await self.recv()
            if frame["type"] == type and all(frame.get(name) == value for name, value in fields.items()):
                return frame

    async def join(self, room: str, **data: Any) -> dict[str, Any]:
        """Join ``room`` and return the ``joined_room``."""
        await self.send("join_room", room, data or None)
        return await self.recv_type("joined_room", room=room)

    async def settled(self) -> list[dict[str, Any]]:
        """Everything that was sent to this client until now: a ping goes there and back. The pongs are left out.

        It goes twice, since replies overtake what rooms get in the same turn of the server's loop.
        """
        start = len(self.heard)
        marks = [f"settled-{start}-{n}" for n in range(2)]
        for mark in marks:
            await self.send("ping", id=mark)
            await self.recv_type("pong", id=mark)
        return [frame for frame in self.heard[start:] if frame.get("id") not in marks]

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes, and return the close code and reason; what comes before goes to ``heard``."""
        try:
            while True:
                await self.recv()
        except websockets.ConnectionClosed as end:
            assert end.rcvd is not None, "the connection was lost without a close frame"
            return end.rcvd.code, end.rcvd.reason


@asynccontextmanager
async def connect(
    server: Server,
    user_id: int | str = 1,
    username: str | None = "alice",
    rooms: Iterable[str] = ("*",),
    *,
    token: str | None = None,
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[User]:
    """A client of ``server`` that has been welcomed. ``token`` or a whole ``path`` may be given in place of a user."""
    where = path or f"{PATH}?token={token or token_for(user_id, username, rooms)}"
    async with websockets.connect(url(server, where, "ws"), additional_headers=headers, proxy=None) as socket:
        user = User(socket)
        user.welcome = await user.recv()
        yield user


async def refused(server: Server, path: str) -> tuple[int, str]:
    """Connect to a ``path`` that does not let in; return the close code and reason. No frame may come before them."""
    async with websockets.connect(url(server, path, "ws"), proxy=None) as socket:
        user = User(socket)
        end = await user.closed()
        assert not user.heard
        return end


async def call(
    server: Server, method: str, path: str, json: Any = None, *, key: str | None = KEY, **options: Any
) -> tuple[int, Any]:
    """Call the HTTP API with ``key``; return the status and the JSON of the body (None if there is no body)."""
    async with answer(server, method, path, json, key=key, **options) as response:
        body = await response.read()
        return response.status, orjson.loads(body) if body else None


@asynccontextmanager
async def answer(
    server: Server, method: str, path: str, json: Any = None, *, key: str | None = KEY, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """As ``call``, with the whole response. ``headers`` and ``data`` (bytes as they are) are aiohttp's."""
    headers = CIMultiDict(options.pop("headers", {}))
    if key is not None:
        headers.setdefault("Authorization", f"Bearer {key}")
    if json is not None:
        options["data"] = orjson.dumps(json)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url(server, path), headers=headers, **options) as response,
    ):
        yield response
