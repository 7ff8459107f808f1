"""Pytest fixtures for plugin authors: a real gateway with their plugin in it, and clients to speak to it.

Name the module in ``conftest.py`` (or in a test module), with pytest and pytest-asyncio installed::

    pytest_plugins = ["roomcast.testing"]

A test then connects users and lets them speak::

    async def test_everyone_sees_a_rollback(connect):
        alice = await connect("alice", rooms=["environment:*"])
        await alice.join("environment:prod")
        assert await alice.command("deploy.rollback", {"version": "1"}, room="environment:prod") == {"version": "1"}
        assert (await alice.next("deploy.finished"))["data"] == {"version": "1"}
        await alice.nothing("deploy.finished")

With ``asyncio_mode = auto`` that is all; in strict mode the test is marked with ``@pytest.mark.asyncio``.

Every installed plugin is loaded, from its entry point. Two fixtures are there to be overridden: ``roomcast_plugins``
returns plugins that are not installed, ``roomcast_settings`` fields of ``Settings`` (``{"handler_timeout": 0.2}``). The
server listens on a free port of 127.0.0.1 and ends with the test; so does every client.

What is asserted here has words of its own. PYTEST_DONT_REWRITE, so that a test may import this module at any time.
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
from .web.server import Address, Server
from .web.upgrade.handshake import PATH

#: How long an event may take to come, in seconds.
PATIENCE: Final = 5.0
#: How long an answer may take, in seconds: more than the 10 after which a server cuts a handler off by default.
ANSWER_PATIENCE: Final = 15.0


class Disconnected(RoomcastError):
    """The connection is over; ``code`` and ``reason`` are those of its close, 1006 and nothing if there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Client:
    """A connected user. ``welcome`` is the data of the ``connected`` that came first.

    What comes and is no answer is kept in order, in ``events``, until ``next`` takes it. Every method that has to wait
    raises ``Disconnected`` if the connection ends before.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.welcome: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._answers: dict[object, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._changed = asyncio.Event()
        self._end: tuple[int, str] | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, session: ClientSession, url: str, token: str) -> Self:
        """Connect to the server at ``url`` (``http://host:port``) and wait for its welcome."""
        socket = await session.ws_connect(f"{url}{PATH}", headers={"Authorization": f"Bearer {token}"})
        client = cls(socket)
        try:
            client.welcome = (await client.next("connected"))["data"]
        except BaseException:
            await client.close()
            raise
        return client

    # What a user does.

    async def join(self, room: str, since: str | None = None) -> dict[str, Any]:
        """Join ``room``, resuming after the event ``since``; return the answer's data. Raises ``Refused``."""
        return await self._ask("join_room", room, {} if since is None else {"since": since})

    async def leave(self, room: str) -> dict[str, Any]:
        """Leave ``room``; return the answer's data. Raises ``Refused``."""
        return await self._ask("leave_room", room)

    async def command(
        self, type: str, data: Mapping[str, Any] | None = None, *, room: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Send a command and return the data of its reply; raise ``Refused`` with the code that it was refused with."""
        return await self._ask(type, room, data, key)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send ``message`` as it is, and wait for nothing; what comes of it is among the events."""
        if self._end is not None:
            raise Disconnected(*self._end)
        try:
            await self._socket.send_str(orjson.dumps(message).decode())
        except ConnectionError:
            raise Disconnected(*await self.closed()) from None

    async def close(self) -> None:
        """Close the connection, as a user who leaves the page."""
        await self._socket.close()
        await self._reading

    # What a user sees.

    async def next(self, type: str | None = None, *, room: str | None = None) -> dict[str, Any]:
        """Take the first event of ``type`` in ``room`` (None: of any) that was not taken yet, and wait for it.

        Raises ``AssertionError`` if none comes within ``PATIENCE``.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := self._matching(type, room)):
                    await self._wait()
        except TimeoutError:
            came = f"what came and was not taken: {_types(self.events)}"
            raise AssertionError(f"no {_wanted(type, room)} came within {PATIENCE:g} s; {came}") from None
        self.events.remove(found[0])
        return found[0]

    async def nothing(self, type: str | None = None, *, room: str | None = None) -> None:
        """Raise ``AssertionError`` if an event of ``type`` in ``room`` (None: of any) has come and was not taken.

        No time is waited: a ping goes there and back, and whatever the server sent before its answer is here then.
        """
        await self._ask("ping")
        if found := self._matching(type, room):
            raise AssertionError(f"no {_wanted(type, room)} was to come, and there is {found}")

    async def closed(self) -> tuple[int, str]:
        """Wait until the connection is over; return the code and the reason of its close."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self._end is None:
                    await self._wait()
        except TimeoutError:
            raise AssertionError(f"the connection was not closed within {PATIENCE:g} s") from None
        return self._end

    # How.

    def _matching(self, type: str | None, room: str | None) -> list[dict[str, Any]]:
        return [
            event
            for event in self.events
            if (type is None or event["type"] == type) and (room is None or event.get("room") == room)
        ]

    async def _wait(self) -> None:
        """Wait until something comes, or raise ``Disconnected`` if nothing can."""
        if self._end is not None:
            raise Disconnected(*self._end)
        self._changed.clear()
        await self._changed.wait()

    async def _ask(
        self, type: str, room: str | None = None, data: Mapping[str, Any] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        self._last_id += 1
        id = self._last_id
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        message = {"type": type, "id": id, "room": room, "data": data, "key": key}
        try:
            await self.send({name: value for name, value in message.items() if value is not None})
            async with asyncio.timeout(ANSWER_PATIENCE):
                frame = await answer
        except TimeoutError:
            raise AssertionError(f"no answer to {type} came within {ANSWER_PATIENCE:g} s") from None
        finally:
            del self._answers[id]
        result: dict[str, Any] = frame["data"]
        if frame["type"] == "error":
            raise Refused(result["code"], result["error"], result.get("fields"))
        return result

    async def _read(self) -> None:
        """Give each frame to who waits for it, until the connection ends."""
        while (message := await self._socket.receive()).type is WSMsgType.TEXT:
            frame = message.json()
            answer = self._answers.get(frame.get("id"))
            if answer is None:
                self.events.append(frame)
                self._changed.set()
            elif not answer.done():
                answer.set_result(frame)
        self._end = self._how_it_ended(message)
        self._changed.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Disconnected(*self._end))

    def _how_it_ended(self, message: WSMessage) -> tuple[int, str]:
        if message.type is WSMsgType.CLOSE:
            return message.data or 1005, message.extra or ""
        return self._socket.close_code or 1006, ""


#: The fixture ``connect``: as ``LiveGateway.connect``.
Connect = Callable[..., Awaitable[Client]]


class LiveGateway:
    """A gateway under test, behind a server of its own.

    ``url`` is where it listens, ``settings`` what it was started with (``settings.api_key`` opens its HTTP API).
    ``service`` is the gateway as lifespans and routes see it, to publish and to look at rooms. ``session`` is an
    aiohttp client whose URLs begin at the server: ``session.get("/plugins/deploy/live")``.
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
        """Connect a user whose token opens ``rooms``, such as ``environment:*``; without any, no room opens.

        ``user_id`` is ``username`` if not given; ``claims`` go into the token as they are.
        """
        token = self.token(username, rooms=rooms, user_id=user_id, **claims)
        client = await Client.open(self.session, self.url, token)
        self._clients.append(client)
        return client

    def token(
        self, username: str, *, rooms: Iterable[str] = (), user_id: int | str | None = None, **claims: Any
    ) -> str:
        """Return the token that ``connect`` would bring."""
        assert self.settings.jwt_secret is not None
        id = username if user_id is None else user_id
        return make_token(self.settings.jwt_secret, user_id=id, username=username, rooms=rooms, **claims)

    async def close(self) -> None:
        """Close every client that is still connected."""
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def running(plugins: Iterable[Plugin] = (), **settings: Any) -> AsyncIterator[LiveGateway]:
    """Run a gateway on the embedded broker; ``plugins`` come beside the installed ones.

    ``settings`` are fields of ``Settings``. The secret and the API key are made up, and nobody waits at the end.
    Raises ``SettingsError`` and ``PluginError``, as a start does.
    """
    made_up: dict[str, Any] = {
        "jwt_secret": secrets.token_urlsafe(48),
        "api_key": secrets.token_urlsafe(),
        "drain_seconds": 0,
    }
    chosen = Settings(**(made_up | settings))
    broker = MemoryBroker(chosen.history_size, chosen.history_ttl)
    server = Server(Gateway(chosen, _registry(plugins), broker), Address(port=0))
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
    """Load what is installed, and ``plugins`` besides; one that is among the installed ones is there once."""
    installed = registry.installed()
    there = {loaded.plugin for loaded in installed}
    given = [LoadedPlugin(plugin, "given by a test", plugin.name) for plugin in plugins if plugin not in there]
    return Registry([*installed, *given])


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def _wanted(type: str | None, room: str | None) -> str:
    return f"{type or 'event'}{f' in {room}' if room else ''}"


def _types(events: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(event["type"] for event in events) or "nothing"


@pytest.fixture
def roomcast_plugins() -> Iterable[Plugin]:
    """Override this to bring plugins that no installed package offers."""
    return ()


@pytest.fixture
def roomcast_settings() -> Mapping[str, Any]:
    """Override this to set fields of ``Settings``."""
    return {}


@pytest_asyncio.fixture
async def gateway(
    roomcast_plugins: Iterable[Plugin], roomcast_settings: Mapping[str, Any]
) -> AsyncIterator[LiveGateway]:
    """Run a gateway for one test."""
    async with running(roomcast_plugins, **roomcast_settings) as live:
        yield live


@pytest.fixture
def connect(gateway: LiveGateway) -> Connect:
    """Connect users: ``alice = await connect("alice", rooms=["environment:*"])``."""
    return gateway.connect
