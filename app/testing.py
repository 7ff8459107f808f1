"""Pytest fixtures for plugin authors: a real gateway with their plugin, and clients that connect to it.

Install pytest and pytest-asyncio, and name this module in ``conftest.py`` or in a test module::

    pytest_plugins = ["roomcast.testing"]

A test connects users, sends commands and waits for events::

    async def test_everyone_sees_a_rollback(connect):
        alice = await connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        assert await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod") == {"version": "1"}
        assert (await alice.next("deploy.finished"))["data"] == {"version": "1"}
        await alice.nothing("deploy.finished")

This works with ``asyncio_mode = auto``. In strict mode, mark the test with ``@pytest.mark.asyncio``.

All installed plugins are loaded. Override the fixture ``roomcast_plugins`` to add plugins that are not installed, and
``roomcast_settings`` to change settings: ``{"handler_timeout": 0.2}``. The server listens on a free port of 127.0.0.1.
It stops when the test ends, and all clients are closed. ``docs/testing.md`` is the guide.

PYTEST_DONT_REWRITE: the assertions here have their own messages, and tests may import this module at any time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import orjson
import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMessage, WSMsgType

from . import registry
from .auth.identity import make_token
from .broker.memory import MemoryBroker
from .context import Service
from .errors import Refused, RoomcastError
from .gateway.gateway import Gateway
from .plugin import Plugin
from .registry import LoadedPlugin, Registry
from .settings import Settings
from .web.port import Address
from .web.server import Server
from .web.upgrade.handshake import PATH

#: How long ``next`` waits for an event, in seconds.
EVENT_TIMEOUT: Final = 5.0
#: How long a command waits for its reply, in seconds. A server cancels a handler after 10 seconds by default.
REPLY_TIMEOUT: Final = 15.0


class Disconnected(RoomcastError):
    """The connection ended. ``code`` and ``reason`` are those of the close, 1006 and ``""`` if there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Client:
    """A connected user.

    ``welcome`` is the data of the ``connected`` frame. ``events`` are the frames that were received and are not replies
    to ``command``, ``join`` or ``leave``, oldest first; ``next`` removes them. Methods that wait raise ``Disconnected``
    if the connection ends.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.welcome: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        #: The replies that ``command`` waits for, by request id.
        self._replies: dict[object, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._changed = asyncio.Event()
        self._end: tuple[int, str] | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, session: ClientSession, url: str, token: str) -> Self:
        """Connect to the server at ``url`` (``http://host:port``) with ``token``, and wait for ``connected``."""
        socket = await session.ws_connect(f"{url}{PATH}", headers={"Authorization": f"Bearer {token}"})
        client = cls(socket)
        try:
            client.welcome = (await client.next("connected"))["data"]
        except BaseException:
            await client.close()
            raise
        return client

    # Sending.

    async def join(self, room: str, since: str | None = None) -> dict[str, Any]:
        """Join ``room`` and return the data of ``joined_room``.

        With the event id ``since``, the server sends all later events, and the data has ``recovered`` and ``last_id``.
        Raises ``Refused`` with the code of the ``error`` frame if the join is refused.
        """
        return await self._request("join_room", room, {} if since is None else {"since": since})

    async def leave(self, room: str) -> dict[str, Any]:
        """Leave ``room`` and return the data of ``left_room``. Raises ``Refused``."""
        return await self._request("leave_room", room)

    async def command(
        self, type: str, data: Mapping[str, Any] | None = None, *, room: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Send a command and return the data of its reply.

        ``key`` is an idempotency key. Raises ``Refused`` with the code, message and fields of the ``error`` frame if
        the command is refused or fails, ``AssertionError`` if there is no reply within ``REPLY_TIMEOUT``.
        """
        return await self._request(type, room, data, key)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send ``message`` without changes and without waiting. A reply to it is appended to ``events``."""
        if self._end is not None:
            raise Disconnected(*self._end)
        try:
            await self._socket.send_str(orjson.dumps(message).decode())
        except ConnectionError:
            raise Disconnected(*await self.closed()) from None

    async def close(self) -> None:
        """Close the connection, as a browser does when the user leaves the page."""
        await self._socket.close()
        await self._reading

    # Receiving.

    async def next(self, type: str | None = None, *, room: str | None = None) -> dict[str, Any]:
        """Remove and return the oldest event of ``type`` in ``room``, and wait for one if needed. None means any.

        Raises ``AssertionError``, which lists ``events``, if no such event arrives within ``EVENT_TIMEOUT``.
        """
        try:
            async with asyncio.timeout(EVENT_TIMEOUT):
                while not (matching := self._matching(type, room)):
                    await self._wait()
        except TimeoutError:
            others = f"events that were received: {_types(self.events)}"
            raise AssertionError(f"no {_describe(type, room)} came within {EVENT_TIMEOUT:g} s; {others}") from None
        self.events.remove(matching[0])
        return matching[0]

    async def nothing(self, type: str | None = None, *, room: str | None = None) -> None:
        """Raise ``AssertionError`` if ``events`` has an event of ``type`` in ``room``. None means any.

        This sends a ping and waits for the pong. Before the pong, all earlier frames of the server arrive.
        """
        await self._request("ping")
        if matching := self._matching(type, room):
            raise AssertionError(f"no {_describe(type, room)} was expected, but there is {matching}")

    async def closed(self) -> tuple[int, str]:
        """Wait until the connection ends, and return the code and the reason of the close.

        Raises ``AssertionError`` if it is still open after ``EVENT_TIMEOUT``.
        """
        try:
            async with asyncio.timeout(EVENT_TIMEOUT):
                while self._end is None:
                    await self._wait()
        except TimeoutError:
            raise AssertionError(f"the connection was not closed within {EVENT_TIMEOUT:g} s") from None
        return self._end

    # Implementation.

    def _matching(self, type: str | None, room: str | None) -> list[dict[str, Any]]:
        return [
            event
            for event in self.events
            if (type is None or event["type"] == type) and (room is None or event.get("room") == room)
        ]

    async def _wait(self) -> None:
        """Wait for the next event, or raise ``Disconnected`` if the connection has ended."""
        if self._end is not None:
            raise Disconnected(*self._end)
        self._changed.clear()
        await self._changed.wait()

    async def _request(
        self, type: str, room: str | None = None, data: Mapping[str, Any] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        self._last_id += 1
        id = self._last_id
        reply = self._replies[id] = asyncio.get_running_loop().create_future()
        message = {"type": type, "id": id, "room": room, "data": data, "key": key}
        try:
            await self.send({name: value for name, value in message.items() if value is not None})
            async with asyncio.timeout(REPLY_TIMEOUT):
                frame = await reply
        except TimeoutError:
            raise AssertionError(f"no reply to {type} came within {REPLY_TIMEOUT:g} s") from None
        finally:
            del self._replies[id]
        result: dict[str, Any] = frame["data"]
        if frame["type"] == "error":
            raise Refused(result["code"], result["error"], result.get("fields"))
        return result

    async def _read(self) -> None:
        """Receive frames until the connection ends. Replies go to their requests, all others to ``events``."""
        while (message := await self._socket.receive()).type is WSMsgType.TEXT:
            frame = message.json()
            reply = self._replies.get(frame.get("id"))
            if reply is None:
                self.events.append(frame)
                self._changed.set()
            elif not reply.done():
                reply.set_result(frame)
        self._end = self._close_of(message)
        self._changed.set()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(Disconnected(*self._end))

    def _close_of(self, message: WSMessage) -> tuple[int, str]:
        if message.type is WSMsgType.CLOSE:
            return message.data or 1005, message.extra or ""
        return self._socket.close_code or 1006, ""


#: The type of the fixture ``connect``, for annotations; see ``LiveGateway.connect``.
Connect = Callable[..., Awaitable[Client]]


class LiveGateway:
    """A running gateway and its server.

    ``url`` is the URL of the server. ``settings`` has the settings, such as the ``api_key`` for the HTTP API.
    ``service`` publishes events and reads rooms, as in lifespans and routes. ``session`` is an aiohttp client whose
    base URL is the server: ``session.get("/plugins/deploy/live")``.
    """

    def __init__(self, server: Server, session: ClientSession) -> None:
        self.url: Final = _url(server)
        self.settings: Final[Settings] = server.gateway.settings
        self.service: Final[Service] = server.gateway.service
        self.session: Final = session
        self._clients: list[Client] = []

    async def connect(
        self, username: str, *, rooms: Iterable[str] = (), user_id: int | str | None = None, **claims: Any
    ) -> Client:
        """Connect a user and return the client.

        Args:
            username: The name in the token.
            rooms: The ``rooms`` claim of the token, such as ``["environment:*"]``. By default no room is allowed.
            user_id: The id in the token, by default ``username``.
            claims: Further claims of the token.
        """
        token = self.token(username, rooms=rooms, user_id=user_id, **claims)
        client = await Client.open(self.session, self.url, token)
        self._clients.append(client)
        return client

    def token(
        self, username: str, *, rooms: Iterable[str] = (), user_id: int | str | None = None, **claims: Any
    ) -> str:
        """Return the token that ``connect`` uses with the same arguments."""
        assert self.settings.jwt_secret is not None
        id = username if user_id is None else user_id
        return make_token(self.settings.jwt_keys[0], user_id=id, username=username, rooms=rooms, **claims)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def running(plugins: Iterable[Plugin] = (), **settings: Any) -> AsyncIterator[LiveGateway]:
    """Run a gateway with the embedded broker, all installed plugins and ``plugins``.

    ``settings`` are fields of ``Settings``. By default, the secret and the API key are random, and connections are
    closed at once at the end. Raises ``SettingsError`` and ``PluginError`` if the server cannot start.
    """
    defaults: dict[str, Any] = {
        "jwt_secret": secrets.token_urlsafe(48),
        "api_key": secrets.token_urlsafe(),
        "drain_seconds": 0,
    }
    checked = Settings(**(defaults | settings))
    broker = MemoryBroker(checked.history_size, checked.history_ttl, history_bytes=checked.history_bytes)
    server = Server(Gateway(checked, _registry(plugins), broker), Address(port=0))
    await server.start()
    try:
        async with ClientSession(_url(server), connector=TCPConnector(limit=0)) as session:
            gateway = LiveGateway(server, session)
            try:
                yield gateway
            finally:
                await gateway.close()
    finally:
        await server.stop()


def _registry(plugins: Iterable[Plugin]) -> Registry:
    """Return a registry of the installed plugins and ``plugins``, which may be installed too."""
    installed = registry.installed()
    installed_plugins = {loaded.plugin for loaded in installed}
    added = [plugin for plugin in plugins if plugin not in installed_plugins]
    return Registry([*installed, *(LoadedPlugin(plugin, "given by a test", plugin.name) for plugin in added)])


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def _describe(type: str | None, room: str | None) -> str:
    return f"{type or 'event'}{f' in {room}' if room else ''}"


def _types(events: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(event["type"] for event in events) or "nothing"


@pytest.fixture
def roomcast_plugins() -> Iterable[Plugin]:
    """Return plugins to load besides the installed ones. Override this fixture."""
    return ()


@pytest.fixture
def roomcast_settings() -> Mapping[str, Any]:
    """Return fields of ``Settings`` with their values. Override this fixture."""
    return {}


@pytest_asyncio.fixture
async def gateway(
    roomcast_plugins: Iterable[Plugin], roomcast_settings: Mapping[str, Any]
) -> AsyncIterator[LiveGateway]:
    """Run a gateway for one test; see ``LiveGateway``."""
    async with running(roomcast_plugins, **roomcast_settings) as live:
        yield live


@pytest.fixture
def connect(gateway: LiveGateway) -> Connect:
    """Return the function that connects users: ``alice = await connect("alice", rooms=["environment:*"])``."""
    return gateway.connect
