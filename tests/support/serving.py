"""For tests of a whole server: a real server on a free port, users with tokens, and their clients.

::

    async def test_hello(serve):
        server = await serve(ws_message_rate=0)
        async with connect(server, user_id=1, username="alice") as alice:
            await alice.join("channel:1")
            await alice.send("send_message", "channel:1", {"content": "Hello"})
            message = await alice.recv_type("message")
        status, body = await call(server, "GET", "/api/v1/rooms")

Tests of HTTP alone use the fixture ``gateway_client`` in ``tests/unit/web/conftest.py`` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Protocol

import aiohttp
import orjson
import websockets
from aiohttp.test_utils import TestClient
from multidict import CIMultiDict
from waiting import PATIENCE
from websockets.asyncio.client import ClientConnection

from roomcast import Plugin, registry
from roomcast.auth.identity import make_token
from roomcast.broker.base import Broker
from roomcast.gateway.broker_options import embedded_broker
from roomcast.gateway.gateway import Gateway
from roomcast.registry import LoadedPlugin, Registry
from roomcast.settings import Settings
from roomcast.web.port import Address
from roomcast.web.server import Server

SECRET = "correct horse battery staple, twice over"
KEY = "s3cret-key-of-the-operator"
PATH = "/api/v1/ws/connect"
#: A free port of 127.0.0.1.
ANY_PORT = Address(port=0)

#: What the fixture ``serve`` returns.
Serve = Callable[..., Awaitable[Server]]
#: What the fixture ``gateway_client`` returns.
GatewayClient = Callable[..., Awaitable[TestClient[Any, Any]]]


class Listening(Protocol):
    """A server on a port of 127.0.0.1: a ``Server``, or the test server of a client of pytest-aiohttp."""

    @property
    def port(self) -> Any:
        """The port."""


@cache
def _installed() -> list[LoadedPlugin]:
    """Return the installed plugins. Reading the metadata of all packages takes 14 ms."""
    return registry.installed()


def registry_with(*plugins: Plugin) -> Registry:
    """Return a registry of the installed plugins and ``plugins``."""
    return Registry([*_installed(), *(LoadedPlugin(plugin, "test 0", plugin.name) for plugin in plugins)])


def new_gateway(*, plugins: Iterable[Plugin] = (), broker: Broker | None = None, **settings: Any) -> Gateway:
    """Return a gateway that is not started, by default with ``SECRET``, ``KEY`` and the embedded broker.

    ``settings`` are fields of ``Settings``. ``plugins`` are loaded besides the built-in ones.
    """
    chosen = Settings(**{"jwt_secret": SECRET, "api_key": KEY, "drain_seconds": 0.0, **settings})
    loaded = registry_with(*plugins)
    if broker is None:
        broker = embedded_broker(chosen, loaded)
    return Gateway(chosen, loaded, broker)


@asynccontextmanager
async def running(
    *, dev: bool = False, address: Address = ANY_PORT, internal: Address | None = None, **options: Any
) -> AsyncIterator[Server]:
    """Run a server, by default on a free port of 127.0.0.1. ``options`` are those of ``new_gateway``."""
    server = Server(new_gateway(**options), address, internal=internal, dev=dev)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def no_tasks_left() -> AsyncIterator[None]:
    """Fail if the block leaves tasks behind."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # a cancelled task needs another loop iteration
        _, left = await asyncio.wait(left, timeout=PATIENCE)
    assert not left, f"the server left tasks behind: {left}"


def token_for(
    user_id: int | str = 1, username: str | None = "alice", rooms: Iterable[str] = ("*",), **claims: Any
) -> str:
    """Return a token as the application would sign it, by default for all rooms; ``claims`` are added unchanged.

    ``expires_in=-1`` makes an expired token.
    """
    return make_token(SECRET, user_id=user_id, username=username, rooms=rooms, **claims)


def bearer(credentials: str) -> dict[str, str]:
    """Return the header that sends a token or a key."""
    return {"Authorization": f"Bearer {credentials}"}


#: The header of requests that may use the HTTP API.
WITH_KEY = bearer(KEY)


def task_created(title: str = "A", room: str = "task:1") -> dict[str, Any]:
    """Return an event as a backend publishes it."""
    return {"type": "task.created", "room": room, "data": {"task_id": 1, "title": title}}


def url(server: Listening, path: str, scheme: str = "http") -> str:
    """Return the URL of ``path`` on ``server``."""
    return f"{scheme}://127.0.0.1:{server.port}{path}"


class User:
    """A client that ``connect`` returns. ``frames`` are all frames received so far, ``welcome`` is the first one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}

    async def send(self, type: str, room: str | None = None, data: Any = None, **more: Any) -> None:
        """Send a message without ``room`` or ``data`` if they are None; ``more`` are further fields of the envelope."""
        given = {"type": type, "room": room, "data": data}
        await self.socket.send(
            orjson.dumps({name: value for name, value in given.items() if value is not None} | more).decode()
        )

    async def recv(self) -> dict[str, Any]:
        """Return the next frame; raise ``websockets.ConnectionClosed`` if there is none."""
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, Any] = orjson.loads(await self.socket.recv())
        self.frames.append(frame)
        return frame

    async def recv_type(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the next frame of ``type`` whose envelope has these ``fields``. Others are only in ``frames``."""
        while True:
            frame = await self.recv()
            if frame["type"] == type and all(frame.get(name) == value for name, value in fields.items()):
                return frame

    async def join(self, room: str, **data: Any) -> dict[str, Any]:
        """Join ``room`` and return the ``joined_room``."""
        await self.send("join_room", room, data or None)
        return await self.recv_type("joined_room", room=room)

    async def settled(self) -> list[dict[str, Any]]:
        """Return all frames that were sent to this client until now, without the pongs that end the wait.

        It pings twice, because replies overtake the events of rooms within one iteration of the server's loop.
        """
        start = len(self.frames)
        marks = [f"settled-{start}-{n}" for n in range(2)]
        for mark in marks:
            await self.send("ping", id=mark)
            await self.recv_type("pong", id=mark)
        return [frame for frame in self.frames[start:] if frame.get("id") not in marks]

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes; return the close code and reason. Frames before that are only in ``frames``."""
        try:
            while True:
                await self.recv()
        except websockets.ConnectionClosed as end:
            assert end.rcvd is not None, "the connection was lost without a close frame"
            return end.rcvd.code, end.rcvd.reason


@asynccontextmanager
async def connect(
    server: Listening,
    user_id: int | str = 1,
    username: str | None = "alice",
    rooms: Iterable[str] = ("*",),
    *,
    token: str | None = None,
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[User]:
    """Connect a user to ``server``. ``token`` or a whole ``path`` may be given instead of the user."""
    where = path or f"{PATH}?token={token or token_for(user_id, username, rooms)}"
    async with websockets.connect(url(server, where, "ws"), additional_headers=headers, proxy=None) as socket:
        user = User(socket)
        user.welcome = await user.recv()
        yield user


async def refused(server: Listening, path: str) -> tuple[int, str]:
    """Connect to ``path``, which must refuse; return the close code and reason. No frame may precede the close."""
    async with websockets.connect(url(server, path, "ws"), proxy=None) as socket:
        user = User(socket)
        end = await user.closed()
        assert not user.frames
        return end


async def call(
    server: Listening, method: str, path: str, json: Any = None, *, key: str | None = KEY, **options: Any
) -> tuple[int, Any]:
    """Send a request with the API ``key``; return the status and the JSON of the body (None if it is empty)."""
    async with answer(server, method, path, json, key=key, **options) as response:
        body = await response.read()
        return response.status, orjson.loads(body) if body else None


@asynccontextmanager
async def answer(
    server: Listening, method: str, path: str, json: Any = None, *, key: str | None = KEY, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request as ``call`` does; return the response. ``headers`` and ``data`` are aiohttp's."""
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
