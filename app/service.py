"""The API that plugins call: ``Service``. ``context`` has the variant for the requests of clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, overload

from marshmallow import Schema

from .broker.base import Member, UserId
from .broker.queue import Queue
from .connection_id import ConnectionId, parse_connection_id
from .errors import Refused
from .plugin_host import MetricSource, NewEvent, PluginHost
from .plugin_state import State
from .protocol import messages
from .protocol.user_id import FORM, parse_user_id, personal_room
from .stored_events import ReadHistory, read_after, read_before

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    SettingsType = TypeVarWithDefault("SettingsType", default=Any)
else:  # a default of a TypeVar needs Python 3.13
    SettingsType = TypeVar("SettingsType")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Service(Generic[SettingsType]):
    """What a plugin can do on its node. Lifespans and routes receive one; it is valid until the gateway stops.

    Each plugin has a service of its own. ``Service[PollsSettings]`` as an annotation gives ``settings`` its type.
    All methods that wait may raise ``RoomcastError`` if the broker cannot be reached.
    """

    __slots__ = ("_host",)

    def __init__(self, host: PluginHost) -> None:
        self._host: Final = host

    @property
    def settings(self) -> SettingsType:
        """The settings of this plugin: an instance of the class that it declares with ``Plugin(settings=…)``."""
        settings: SettingsType | None = self._host.settings
        if settings is None:
            raise RuntimeError(f"plugin {self._host.name!r} declares no settings; see Plugin(settings=…)")
        return settings

    @property
    def state(self) -> State:
        """The objects of this plugin on this node: ``service.state.pool = pool``. Usually a lifespan sets them.

        Other plugins, other nodes and other workers do not see them.
        """
        return self._host.state

    def publish(
        self,
        event: str | type[Schema],
        room: str,
        data: Mapping[str, Any],
        *,
        sender: str | None = None,
        key: str | None = None,
    ) -> Awaitable[str]:
        """Publish an event to the members of a room on all nodes, and store it in the room's history.

        The data is validated when this method is called; the returned awaitable waits for the broker.

        Args:
            event: The schema with which the event was declared, or its type.
            room: The room, such as ``environment:prod``. ``user:ID`` is the personal room of a user; see ``notify``.
            data: JSON values, as clients receive them.
            sender: The name of the user who caused the event, if there is one.
            key: An idempotency key. Repeating it in the same room within ``IDEMPOTENCY_TTL`` publishes nothing, and
                returns the id of the first event. The members of the room receive it as ``key`` of the event, so it
                must not be a secret.

        Returns:
            The id of the event, ``<epoch>-<offset>``.

        Raises:
            Refused: The data is invalid (``fields`` has the reasons), no plugin declares the event or the type of the
                room, or the event may not be published in this room.
            RoomcastError: The broker cannot be reached.
        """
        return self._host.publishing.publish(event, room, data, sender, key)

    def publish_many(
        self, events: Iterable[NewEvent], *, sender: str | None = None, key: str | None = None
    ) -> Awaitable[list[str]]:
        """Publish several events in their order, all or none of them, in one round trip to the broker.

        Each of ``events`` is a tuple: the event, its room and its data, as for ``publish``. There may be up to 1,000.
        ``sender`` and ``key`` are those of all events. Repeating the ``key`` with the same events publishes nothing.

        Returns:
            The ids of the events, in their order.

        Raises:
            Refused: As ``publish``; the sentence begins with the position of the event, and none was published.
            RoomcastError: The broker cannot be reached.
        """
        publishing = self._host.publishing
        return publishing.publish_many(publishing.prepare_many(events, sender, key, key), "plugin")

    def broadcast(
        self,
        event: str | type[Schema],
        room: str,
        data: Mapping[str, Any],
        *,
        sender: str | None = None,
        user_id: int | str | None = None,
    ) -> None:
        """Send an event that is declared with ``stored=False`` to the members of a room on all nodes.

        Does not wait, and returns nothing, because the event has no id. It may get lost, and members whose connection
        is slow do not receive it.

        Args:
            event: The schema with which the event was declared, or its type.
            room: The room, such as ``environment:prod``, or ``user:ID`` for the connections of a user.
            data: JSON values, as clients receive them.
            sender: The name of the user who caused the event, if there is one.
            user_id: The id of this user. The options ``conflate``, ``throttle`` and ``others_only`` of the event are
                about this user; without an id, the first two are about the sender.

        Raises:
            Refused: As ``publish``, or because the event is stored.
            RoomcastError: The broker cannot be reached now.
        """
        host = self._host
        host.live_events.send(host.publishing.prepare_live(event, room, data, sender, user_id))

    async def notify(self, user_id: int | str, event: str | type[Schema], data: Mapping[str, Any]) -> str:
        """Publish an event to all connections of the user ``user_id``, without a sender; return its id.

        Raises:
            Refused: As ``publish``.
            RoomcastError: The broker cannot be reached.
        """
        return await self._host.publishing.publish(event, personal_room(user_id), data, None, None)

    async def members(self, room: str) -> Sequence[Member]:
        """Return the users in ``room`` on all nodes, in the order in which they joined.

        Each has a ``user_id``, a ``username`` and a number of ``connections``. It is 0 for a user whose connection was
        lost less than ``PRESENCE_GRACE`` ago and who may return: no ``user_left`` was sent.

        Raises:
            Refused: ``room`` is not the name of a room, or no plugin declares its type.
        """
        return await self._host.broker.members(self._host.publishing.check_room(room))

    async def is_online(self, user_id: int | str) -> bool:
        """Return True if the user has a connection to any node.

        If a node died, its connections count until their leases expire.
        """
        return await self._host.broker.connections(_user(user_id)) > 0

    async def is_occupied(self, room: str) -> bool:
        """Return True if ``room`` has members on any node, those within ``PRESENCE_GRACE`` included.

        The members of the personal room of a user show if the user is online, if a plugin has ``on_online`` hooks.
        A type of rooms that only the plugins of other nodes declare, such as during an update, is no error.

        Raises:
            Refused: ``room`` is not the name of a room.
        """
        room, broker = messages.normalize_room(room), self._host.broker
        return (await broker.list_members(room, limit=1)).total > 0 or bool(await broker.members(room))

    async def occupied_rooms(self) -> set[str]:
        """Return the rooms for which ``is_occupied`` is True.

        On Redis this takes one command for each room. Do not call it more often than every few seconds.
        """
        return set(await self._host.broker.rooms())

    def report_metrics(self, source: MetricSource) -> None:
        """Let ``/metrics`` call ``source``, which returns ``Metric`` objects, for each scrape. It must not block.

        ``roomcast_`` and the name of the plugin precede the name of each metric.
        """
        self._host.metric_sources.append((self._host.name, source))

    def queue(self, name: str) -> Queue:
        """Return a queue, whose entries outlive their node: one node at a time processes them.

        All plugins share the names, so begin it with the name of the plugin.
        """
        return self._host.broker.queue(name)

    async def history(
        self, room: str, since: str | None = None, *, before: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return stored events of ``room``, oldest first: at most ``limit``, and by default all.

        These are the oldest events after the id ``since``, or the newest ones before the id ``before``, or the newest
        of all. The result is empty if there are no such events.

        Each is a dict like the frame that clients receive: ``type``, ``room``, ``data``, ``timestamp``, ``id``, and
        ``sender`` and ``key`` if it has them. ``HISTORY_SIZE`` and ``HISTORY_TTL`` limit how many events are stored,
        and how long.

        Raises:
            Refused: ``not_found`` if the history does not reach back to ``since``, or that is no id of the room: events
                may be missing. ``bad_room`` or ``unknown_room_type`` if no plugin declares such a room.
        """
        if since is not None and before is not None:
            raise ValueError("history takes since or before, not both")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        room = self._host.publishing.check_room(room)
        if since is None:
            return await read_before(self._read, room, before, limit)
        return await read_after(self._read, room, since, limit)

    @property
    def _read(self) -> ReadHistory:
        """Reads history."""
        return self._host.broker.history

    # Connections.

    async def kick(self, user_id: int | str, room: str) -> None:
        """Remove all connections of a user from ``room``, on all nodes.

        They receive ``left_room``. The user may join again; the rule of the room decides. Returns when the nodes are
        told, which is before the user has left.

        Raises:
            Refused: ``room`` is not a room that can be joined.
        """
        await self._host.control.kick(self._room(room), _user(user_id))

    async def disconnect(self, user_id: int | str, *, connection_id: str | None = None) -> None:
        """Close all connections of a user with 4410, on all nodes, or only the one with ``connection_id``.

        The user may connect again, although ``roomcast.js`` does not. To keep the user out, revoke the tokens.
        """
        await self._host.control.disconnect(_user(user_id), _connection(user_id, connection_id))

    async def join(self, user_id: int | str, room: str, *, connection_id: str | None = None) -> None:
        """Let all connections of a user join ``room``, on all nodes, or only the one with ``connection_id``.

        The rule of the room is not asked. Each connection that is not in the room receives ``joined_room``, and is a
        member like others. A connection that is in ``MAX_ROOMS_PER_CONNECTION`` rooms does not join. Later connections
        of the user do not join by themselves. Returns when the nodes are told, which is before the user has joined.

        Raises:
            Refused: ``room`` is not a room that can be joined.
        """
        await self._host.control.join(self._room(room), _user(user_id), _connection(user_id, connection_id))

    async def leave(self, user_id: int | str, room: str, *, connection_id: str | None = None) -> None:
        """Let all connections of a user leave ``room``, on all nodes, or only the one with ``connection_id``.

        Like ``kick``, but ``left_room`` has the message of a client's own ``leave_room``.
        """
        await self._host.control.leave(self._room(room), _user(user_id), _connection(user_id, connection_id))

    def send(
        self,
        connection_id: str,
        event: str | type[Schema],
        data: Mapping[str, Any],
        *,
        room: str | None = None,
        sender: str | None = None,
    ) -> None:
        """Send an event that is declared with ``stored=False`` to one connection, on any node.

        Does not wait. The event may get lost, as with ``broadcast``, and nothing happens if the connection has ended.
        The options ``conflate``, ``throttle`` and ``others_only`` have no effect.

        Args:
            connection_id: The ``ctx.connection_id`` of an earlier request.
            event: The schema with which the event was declared, or its type.
            data: JSON values, as the client receives them.
            room: The room that the event shows. The connection need not be in it.
            sender: The name of the user who caused the event, if there is one.

        Raises:
            Refused: As ``broadcast``.
            RoomcastError: The broker cannot be reached now.
        """
        host = self._host
        connection = parse_connection_id(connection_id)
        shown = personal_room(connection.user_id) if room is None else room
        host.direct_events.send(connection, host.publishing.prepare_live(event, shown, data, sender, None).payload)

    def _room(self, room: str) -> str:
        """Return the normal name of a room that can be joined; raise ``Refused``."""
        name = self._host.publishing.check_room(room)
        if name.startswith("user:"):
            raise Refused("bad_room", f"{name} is a personal room, which cannot be joined or left.")
        return name

    # Tasks and threads.

    def spawn(self, work: Coroutine[Any, Any, _T], *, name: str | None = None) -> asyncio.Task[_T]:
        """Run a coroutine in a task of this plugin; return the task.

        A failure is logged with the names of the plugin and the task. When the server stops, the task is cancelled and
        may clean up for half of ``LIFESPAN_TIMEOUT``, while the lifespans still run.

        Args:
            work: The coroutine, such as ``watch(service)``.
            name: The name of the task in the log, by default that of the coroutine.

        Raises:
            Unavailable: The server stops.
        """
        return self._host.tasks.spawn(self._host.name, work, name)

    async def in_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function that blocks in a thread, and return its result. Its exceptions propagate.

        The thread has a copy of the context variables. At most 40 functions run at once on a node; further calls wait
        for up to ``HANDLER_TIMEOUT``. If the caller is cancelled, for example after ``HANDLER_TIMEOUT``, the function
        goes on in its thread until its next ``from_thread``.

        Raises:
            Unavailable: All threads are busy.
        """
        result: _T = await self._host.threads.run(partial(function, *args, **kwargs))
        return result

    @overload
    def from_thread(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    @overload
    def from_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    def from_thread(self, function: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """Call a function of roomcast, or of the plugin, on the event loop; return its result.

        For threads: those of plain ``def`` handlers and of ``in_thread``, and the plugin's own. A coroutine function is
        awaited: ``ctx.from_thread(ctx.publish, Finished, data)``. Its exceptions propagate.

        Raises:
            RuntimeError: This is the event loop and not a thread.
            CancelledError: The caller of ``in_thread`` was cancelled, or the command took longer than
                ``HANDLER_TIMEOUT``: the client got an error, so nothing more may be published for it.
        """
        return self._host.threads.call(partial(function, *args, **kwargs))


def _user(user_id: int | str) -> UserId:
    """Return the normal form of ``user_id``; raise ``ValueError``."""
    try:
        return parse_user_id(user_id)
    except ValueError:
        raise ValueError(f"{user_id!r:.100} is not a user id, which is {FORM}.") from None


def _connection(user_id: int | str, connection_id: str | None) -> ConnectionId | None:
    """Return the parts of ``connection_id``; raise ``ValueError`` if it is none of this user."""
    if connection_id is None:
        return None
    found = parse_connection_id(connection_id)
    if found.user_id != _user(user_id):
        raise ValueError(f"The connection belongs to user {found.user_id!r}, not to {user_id!r}.")
    return found
