"""The API that plugins call while they handle the request of a client: ``Context``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from functools import partial
from typing import Any

from marshmallow import Schema

from .broker.base import Publication
from .connection_id import ConnectionId
from .plugin_host import PluginHost, RequestingClient
from .protocol import messages
from .service import Service, SettingsType
from .stored_events import EventsAbout, ReadHistory


class Context(Service[SettingsType]):
    """One request of a client. Handlers of commands and rules of rooms receive one, which is valid for this request.

    ``room`` is the room of the request, or None if it has none. In a rule, it is the room that the client wants to
    join.
    """

    __slots__ = ("_client", "_key", "_published", "room")

    def __init__(
        self, host: PluginHost, client: RequestingClient, room: str | None, key: tuple[str, str] | None = None
    ) -> None:
        """``key`` has the key of the command at the broker, and the key in the client's request."""
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
    def connection_id(self) -> str:
        """The id of this connection, for ``send``. No other connection of any node has or had it."""
        client = self._client
        return str(ConnectionId(self._host.node_id, client.id, client.identity.user_id))

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that this connection is in now, in the order of its joins, without the personal room."""
        return self._client.rooms

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

        If the request has a ``key``, the event shows it, and is published only once, even if the request is repeated
        after a failure. Events are recognized by their position, so a repeated handler must publish the same events in
        the same order.

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
        key = shown_key = None
        if self._key is not None:
            key, shown_key = self._key
            key = f"{key}/{self._published}"
        identity = self._client.identity
        target, payload, kind = host.publishing.payload(event, target, data, identity.username, shown_key)
        client = self._client
        client.bytes_left -= len(payload)  # inlined from count_event, which nearly no event needs
        if client.bytes_left < 0:
            client.count_event(0, is_first=self._published == 1)
        if kind.has_hooks:
            publication = Publication(target, payload, key, kind.unread, identity.user_id)
            return host.publishing.publish_with_hooks(publication, "client")
        return host.broker.publish(target, payload, key, kind.unread, identity.user_id)

    def publish_many(  # type: ignore[override]  # the sender is the request's
        self,
        events: Iterable[tuple[str | type[Schema], Mapping[str, Any]]],
        *,
        room: str | None = None,
    ) -> Awaitable[list[str]]:
        """Publish several events with this user as sender, all or none, in the room of the request or in ``room``.

        Each of ``events`` is a tuple: the event and its data, as for ``publish``. There may be up to 1,000. If the
        request has a ``key``, they are published only once.

        Returns:
            The ids of the events, in their order.

        Raises:
            Refused: As ``publish``; the sentence begins with the position of the event, and none was published.
            RoomcastError: The broker cannot be reached.
        """
        host, client = self._host, self._client
        target = room or self.room
        if target is None:
            raise messages.bad_room(None)
        key, shown_key = self._key or (None, None)
        identity = client.identity
        publications = host.publishing.prepare_many(
            [(event, target, data) for event, data in events],
            *(identity.username, key, shown_key, identity.user_id, self._published + 1),
        )
        is_first = self._published == 0
        self._published += len(publications)
        client.count_event(sum(len(one.payload) for one in publications), is_first=is_first)
        return host.publishing.publish_many(publications, "client")

    def broadcast(  # type: ignore[override]  # the room and the user are the request's
        self, event: str | type[Schema], data: Mapping[str, Any], *, room: str | None = None
    ) -> None:
        """Send an event that is declared with ``stored=False``, from this user, in the room of the request or ``room``.

        Args:
            event: The schema with which the event was declared, or its type.
            data: JSON values, as clients receive them.
            room: Another room than that of the request.

        Raises:
            Refused: As ``Service.broadcast``, ``bad_room`` if neither the request nor the call names a room, or
                ``rate_limited`` as for ``publish``.
            RoomcastError: The broker cannot be reached now.
        """
        host = self._host
        target = room or self.room
        if target is None:
            raise messages.bad_room(None)
        self._published += 1
        identity = self._client.identity
        key = None if self._key is None else self._key[1]
        publication = host.publishing.prepare_live(event, target, data, identity.username, identity.user_id, key)
        self._client.count_event(len(publication.payload), is_first=self._published == 1)
        is_member = host.delivery.has(publication.room, self._client)  # type: ignore[arg-type]  # is a WriteQueue
        host.live_events.send(publication._replace(is_member=is_member))

    def withdraw(self, event: str | type[Schema], *, room: str | None = None) -> None:
        """Forget the last event of this type that this user sent with ``broadcast`` in the room.

        If it still waits for its ``throttle``, it is not sent. Its ``leave`` is not sent when the user leaves. For
        events that another event ends, such as ``typing`` by the message.
        """
        live_events = self._host.live_events
        if live_events.states:  # checked here, because each message of the chat passes here
            target = room or self.room
            if target is not None:
                live_events.withdraw(event, target, self._client.identity.user_id)

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


def for_hook(context: Context[Any], host: PluginHost, name: str) -> Context[Any]:
    """Return a context of the same request for a hook of another plugin. ``name`` identifies the hook.

    The events that the hook publishes have idempotency keys of their own.
    """
    key = None if context._key is None else (f"{context._key[0]}/{name}", context._key[1])
    return Context(host, context._client, context.room, key)
