"""The API that plugins call: ``Service`` in lifespans and routes, ``Context`` in handlers of commands and in rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from marshmallow import Schema

from .auth.identity import Identity
from .auth.room_access import RoomAccess
from .broker.base import Broker, History, Member, UserId
from .fastpath import WriteQueue
from .protocol import messages
from .protocol.user_id import personal_room
from .stored_events import EventsAbout, ReadHistory, read_after, read_all

_P = ParamSpec("_P")
_T = TypeVar("_T")


class EventPublisher(Protocol):
    """Validates and publishes events: ``gateway.publishing.Publishing``."""

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` and publish it; the result is the event's id. See ``Service.publish``."""

    def payload(self, event: str | type[Schema], room: str, data: Any, sender: str | None) -> tuple[str, bytes]:
        """Validate ``data``; return the room's normal name and the event as JSON, without an id. Raises ``Refused``."""


class LocalMembers(Protocol):
    """The connections of this node in each room: ``gateway.delivery.Delivery``."""

    def has(self, room: str, connection: WriteQueue, /) -> bool:
        """Return True if ``connection`` is a member of ``room``."""


class LimitedReads(Protocol):
    """Reads history for users: ``gateway.history_limit.LimitedHistory``."""

    async def read(self, user_id: UserId, /, *args: Any, **options: Any) -> History:
        """Read a page for a user, later if the user has read too much. See ``Broker.history``."""


class ThreadRunner(Protocol):
    """Runs plain functions in threads: ``gateway.threads.Threads``."""

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in a thread; return its result."""

    def call(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` on the event loop, from a thread; await its result if it can be awaited, and return it."""


class PluginHost(Protocol):
    """The part of the gateway that plugins reach through ``Service`` and ``Context``."""

    @property
    def broker(self) -> Broker:
        """The broker."""

    @property
    def history(self) -> LimitedReads:
        """Reads history for clients."""

    @property
    def publishing(self) -> EventPublisher:
        """Publishes events."""

    @property
    def delivery(self) -> LocalMembers:
        """The members on this node."""

    @property
    def room_access(self) -> RoomAccess:
        """The built-in access rule."""

    @property
    def threads(self) -> ThreadRunner:
        """The threads for plain functions."""


class RequestingClient(Protocol):
    """The client behind a ``Context``: ``gateway.client.Client``."""

    identity: Identity

    def count_event(self, size: int, *, is_first: bool) -> None:
        """Count an event of ``size`` bytes; raise ``Refused`` if the user publishes too much."""


class Service:
    """Publishes events and reads rooms. Lifespans and routes receive one; it is valid until the gateway stops.

    All methods may raise ``RoomcastError`` if the broker cannot be reached.
    """

    __slots__ = ("_host",)

    def __init__(self, host: PluginHost) -> None:
        self._host: Final = host

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
            key: An idempotency key. Repeating it in the same room within 5 minutes publishes nothing, and returns the
                id of the first event.

        Returns:
            The id of the event, ``<epoch>-<offset>``.

        Raises:
            Refused: The data is invalid (``fields`` has the reasons), no plugin declares the event or the type of the
                room, or the event may not be published in this room.
            RoomcastError: The broker cannot be reached.
        """
        return self._host.publishing.publish(event, room, data, sender, key)

    async def notify(self, user_id: int | str, event: str | type[Schema], data: Mapping[str, Any]) -> str:
        """Publish an event to all connections of the user ``user_id``, without a sender; return its id.

        Raises:
            Refused: As ``publish``.
            RoomcastError: The broker cannot be reached.
        """
        return await self._host.publishing.publish(event, personal_room(user_id), data, None, None)

    async def members(self, room: str) -> Sequence[Member]:
        """Return the users in ``room`` on all nodes, in the order in which they joined.

        Each has a ``user_id``, a ``username`` and a number of ``connections``.
        """
        return await self._host.broker.members(room)

    async def history(self, room: str, since: str | None = None) -> list[dict[str, Any]]:
        """Return the stored events of ``room``, oldest first: all, or those after the event with the id ``since``.

        Each is a dict like the frame that clients receive: ``type``, ``room``, ``data``, ``timestamp``, ``id``, and
        ``sender`` if it has one. ``HISTORY_SIZE`` and ``HISTORY_TTL`` limit how many events are stored, and how long.
        """
        room = messages.normalize_room(room)
        return await (read_all(self._read, room) if since is None else read_after(self._read, room, since))

    @property
    def _read(self) -> ReadHistory:
        """Reads history."""
        return self._host.broker.history

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


class Context(Service):
    """One request of a client. Handlers of commands and rules of rooms receive one, which is valid for this request.

    ``room`` is the room of the request, or None if it has none. In a rule, it is the room that the client wants to
    join.
    """

    __slots__ = ("_client", "_key", "_published", "room")

    def __init__(self, host: PluginHost, client: RequestingClient, room: str | None, key: str | None = None) -> None:
        self._host = host  # type: ignore[misc]  # not through super(), because every command creates a Context
        self._client = client
        self._key = key
        self._published = 0
        self.room = room

    @property
    def _read(self) -> ReadHistory:
        """Reads history within the limit of the user."""
        return partial(self._host.history.read, self.user_id)

    @property
    def user_id(self) -> int | str:
        """The user's id from the token: a number, or a string of at most 255 characters."""
        return self._client.identity.user_id

    @property
    def username(self) -> str:
        """The user's name, from the token."""
        return self._client.identity.username

    @property
    def claims(self) -> Mapping[str, Any]:
        """The other claims of the token, as a new dict: without id, name, rooms, times, audience and issuer."""
        return self._client.identity.claims

    @property
    def in_room(self) -> bool:
        """True if this connection is in the room of the request. Other connections of the user do not count."""
        return self.room is not None and self._host.delivery.has(self.room, self._client)  # type: ignore[arg-type]

    def joined(self) -> str:
        """Return the room of the request, in which this connection must be.

        It is in the room at the start of each command, unless the command has ``access="anyone"``. While the handler
        waits, the client may be removed from the room.

        Raises:
            Refused: ``bad_room`` if the request has no room, ``not_joined`` if this connection is not in it.
        """
        room = self.room
        if room is None or not self._host.delivery.has(room, self._client):  # type: ignore[arg-type]  # is a WriteQueue
            raise messages.not_joined(room)
        return room

    def claims_allow(self, room: str) -> bool:
        """Return True if the ``rooms`` claim of the token covers ``room``, or if ``ROOM_ACCESS`` is ``open``."""
        return self._host.room_access.claims_allow(self._client.identity, room)

    async def policy_allows(self, room: str) -> bool:
        """Return True if the built-in rule, which ``ROOM_ACCESS`` selects, allows the user to join ``room``.

        If ``ROOM_ACCESS`` is a URL, this may send a request to it.

        Raises:
            Unavailable: The URL did not decide. Do not take this for a no; a rule need not catch it.
        """
        return await self._host.room_access.allows(self._client.identity, room)

    def publish(  # type: ignore[override]  # the room and the sender are the request's
        self, event: str | type[Schema], data: Mapping[str, Any], *, room: str | None = None
    ) -> Awaitable[str]:
        """Publish an event with this user as sender, in the room of the request or in ``room``.

        If the request has a ``key``, the event is published only once, even if the request is repeated after a failure.
        Events are recognized by their position, so a repeated handler must publish the same events in the same order.

        Args:
            event: The schema with which the event was declared, or its type.
            data: JSON values, as clients receive them.
            room: Another room than that of the request.

        Returns:
            The id of the event, ``<epoch>-<offset>``.

        Raises:
            Refused: As ``Service.publish``, ``bad_room`` if neither the request nor the call names a room, or
                ``rate_limited`` for the first event of a command if the user has published more than ``WS_BYTE_RATE``.
            RoomcastError: The broker cannot be reached.
        """
        host = self._host
        target = room or self.room
        if target is None:
            raise messages.bad_room(None)
        self._published += 1
        key = self._key
        if key is not None:
            key = f"{key}/{self._published}"
        target, payload = host.publishing.payload(event, target, data, self._client.identity.username)
        self._client.count_event(len(payload), is_first=self._published == 1)
        return host.broker.publish(target, payload, key)

    def about(self, event_id: str) -> AsyncIterator[dict[str, Any]]:
        """Return an asynchronous iterator over a stored event of the request's room and the later events about it.

        The first item is the event itself; there is none if no event with the id ``event_id`` is stored. Then follow
        the later events that contain its id anywhere, such as the edits of a message, newest first. Events are dicts as
        in ``history``. They are read while the iterator is used, so stop at the event that decides.

        Raises:
            Refused: As ``joined``.
            RoomcastError: The broker cannot be reached; the iterator raises it.
        """
        return EventsAbout(self._read, self.joined(), event_id)

    async def since(self, event_id: str, *, about: bool = False) -> list[dict[str, Any]]:
        """Return a stored event of the request's room and all later events, oldest first.

        The result is empty if no event with the id ``event_id`` is stored. With ``about=True``, it has only the event
        itself and the later events that contain its id anywhere, such as the edits of a message. Events are dicts as in
        ``history``.

        Raises:
            Refused: As ``joined``.
            RoomcastError: The broker cannot be reached.
        """
        events = [event async for event in EventsAbout(self._read, self.joined(), event_id, None if about else "")]
        return [*events[:1], *reversed(events[1:])]
