"""Contexts and services without a server, for tests of single functions of plugins."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

import orjson

from ..auth.identity import make_token
from ..broker.memory import MemoryBroker
from ..context import Context
from ..gateway.client import Client as GatewayClient
from ..gateway.gateway import Gateway
from ..member_context import MemberContext
from ..plugin import Plugin
from ..plugin_host import PluginHost
from ..plugin_state import State
from ..service import Service
from ..settings import Settings
from .plugins import registry_with

_T = TypeVar("_T")


class RecordingBroker(MemoryBroker):
    """An embedded broker that records what is published. It has no tasks, so it works on any event loop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.history_size, settings.history_ttl, history_bytes=settings.history_bytes)
        self.published: Final[list[dict[str, Any]]] = []

    def use(self, gateway: Gateway) -> None:
        """Deliver events to ``gateway`` from now on."""
        self._listener = gateway.listener

    async def publish(self, room: str, payload: bytes, *args: Any, **options: Any) -> str:
        """See ``Broker``."""
        id = await super().publish(room, payload, *args, **options)
        if all(event["id"] != id for event in self.published):  # a repeat with the same key publishes nothing
            self.published.append({**orjson.loads(payload), "room": room, "id": id})
        return id

    def broadcast(self, room: str, payload: bytes) -> None:
        """See ``Broker``."""
        super().broadcast(room, payload)
        _, _, event = payload.partition(b"\n")
        self.published.append({**orjson.loads(event), "room": room})


class _Recording:
    """The broker, the state of the plugin and the gateway behind a context or a service that a test calls.

    ``like`` is one whose broker and state this one shares.
    """

    def __init__(self, plugin: Plugin, settings: dict[str, Any], like: _Recorder | None) -> None:
        self._plugin: Final = plugin
        self.settings: Final = Settings(**({"jwt_secret": secrets.token_urlsafe(48)} | settings))
        self.broker: Final[RecordingBroker] = RecordingBroker(self.settings) if like is None else like._recording.broker
        self.state: Final[State] = State(plugin.name) if like is None else like._recording.state
        self._loop: asyncio.AbstractEventLoop | None = None  # it need not run yet
        self._gateway: Gateway | None = None

    def host(self, enter: Callable[[Gateway], None]) -> PluginHost:
        """Return the plugin on a gateway that is not started, on the running event loop. ``enter`` gets new ones."""
        loop = _running_loop() or self._loop  # there is none in a thread
        if self._gateway is None or self._loop is not loop:
            self._loop = loop
            states = {self._plugin.name: self.state}  # for hooks that the gateway calls
            self._gateway = gateway = Gateway(self.settings, registry_with([self._plugin]), self.broker, states)
            self.broker.use(gateway)
            enter(gateway)
        return self._gateway.services[self._plugin.name]._host


class _Recorder:
    """What the classes below have in common.

    ``published`` has the events that were published, broadcast or sent with ``notify``, oldest first: dicts as clients
    receive them, always with their room. Events that are not stored have no ``id``.
    """

    __slots__ = ()

    _recording: _Recording

    @property
    def published(self) -> list[dict[str, Any]]:
        """The recorded events."""
        return self._recording.broker.published

    @property
    def state(self) -> State:
        """The objects of the plugin: a test sets those that a lifespan would set."""
        return self._recording.state

    @property
    def _host(self) -> PluginHost:
        return self._recording.host(self._enter)

    def _enter(self, gateway: Gateway) -> None:
        """Let the user enter the room of the context."""


class RecordedService(_Recorder, Service):  # type: ignore[misc, override]  # Service keeps _host in an attribute
    """A service that ``make_service`` has made. ``published`` is that of ``RecordedContext``."""

    __slots__ = ("_recording",)

    def __init__(self, recording: _Recording) -> None:
        self._recording = recording


class RecordedMemberContext(_Recorder, MemberContext):  # type: ignore[misc, override]  # as RecordedService
    """A context that ``make_member_context`` has made. ``published`` is that of ``RecordedContext``."""

    __slots__ = ("_is_member", "_recording")

    def __init__(self, recording: _Recording, room: str, user_id: int | str, username: str, *, is_member: bool) -> None:
        self._recording = recording
        self._is_member = is_member
        self.room = room
        self.user_id = user_id
        self.username = username

    def _enter(self, gateway: Gateway) -> None:
        if self._is_member:
            _finish(gateway.broker.enter(self.room, self.user_id, self.username, id(self)))


class RecordedContext(_Recorder, Context):  # type: ignore[misc, override]  # as RecordedService
    """A context that ``make_context`` has made.

    ``published`` has the events that were published, broadcast or sent with ``notify``, oldest first: dicts as clients
    receive them, always with their room. Events that are not stored have no ``id``.
    """

    __slots__ = ("_is_member", "_recording", "_requester", "_token")

    def __init__(  # does not call that of Context, because the event loop need not run yet
        self, recording: _Recording, token: str, room: str | None, *, is_member: bool
    ) -> None:
        self._recording = recording
        self._token = token
        self._is_member = is_member
        self._requester: GatewayClient | None = None
        self._key = None
        self._published = 0
        self.room = room

    @property
    def _client(self) -> GatewayClient:  # type: ignore[override]
        """A client of this gateway, without a connection."""
        self._host  # noqa: B018  # creates the client
        assert self._requester is not None
        return self._requester

    def _enter(self, gateway: Gateway) -> None:
        identity = gateway.authenticator.verify(self._token)
        client = GatewayClient(
            gateway.delivery, gateway.keepalive, gateway.commands, gateway.sessions, id=1, identity=identity, remote=""
        )
        if self.room is not None and self._is_member:
            gateway.delivery.join(self.room, client)
            client.rooms = (self.room,)
            _finish(gateway.broker.enter(self.room, identity.user_id, identity.username, id(self)))
        self._requester = client


def make_context(
    plugin: Plugin,
    *,
    user_id: int | str = "alice",
    username: str | None = None,
    room: str | None = None,
    in_room: bool = True,
    rooms: Iterable[str] = (),
    claims: Mapping[str, Any] | None = None,
    like: _Recorder | None = None,
    **settings: Any,
) -> RecordedContext:
    """Return a context for a handler or rule of ``plugin``, without a server.

    It works like the context of a request: it validates what is published, and reads what was published before.
    Lifespans do not run, and access is not checked: the test calls the handler itself.

    Args:
        plugin: The plugin of the handler. All installed plugins are loaded too.
        user_id: The user, ``username`` the name, by default the id.
        room: The room of the request. The user is in it unless ``in_room`` is False.
        rooms: The ``rooms`` claim of the token, for ``claims_allow``.
        claims: Further claims of the token.
        like: A context or service whose rooms, history, ``state`` and ``published`` this one shares, for several users.
        settings: Fields of ``Settings``.
    """
    name = str(user_id) if username is None else username
    recording = _Recording(plugin, settings, like)
    token = make_token(recording.settings.jwt_keys[0], user_id=user_id, username=name, rooms=rooms, **(claims or {}))
    return RecordedContext(recording, token, room, is_member=in_room)


def make_member_context(
    plugin: Plugin,
    room: str,
    *,
    user_id: int | str = "alice",
    username: str | None = None,
    in_room: bool = True,
    like: _Recorder | None = None,
    **settings: Any,
) -> RecordedMemberContext:
    """Return a context for an ``on_join`` or ``on_leave`` hook of ``plugin``, without a server.

    The arguments are those of ``make_context``. After a leave, the user is not in the room: give ``in_room=False``.
    """
    name = str(user_id) if username is None else username
    return RecordedMemberContext(_Recording(plugin, settings, like), room, user_id, name, is_member=in_room)


def make_service(plugin: Plugin, *, like: _Recorder | None = None, **settings: Any) -> RecordedService:
    """Return a service for another hook, a route, a lifespan or a periodic function of ``plugin``, without a server.

    The arguments are those of ``make_context``.
    """
    return RecordedService(_Recording(plugin, settings, like))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine of the embedded broker that does not wait."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise RuntimeError("the broker waited")
