"""What plugins receive: ``Service`` everywhere, ``Context`` where a client is involved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson
from marshmallow import Schema

from .auth.identity import Identity
from .auth.room_access import RoomAccess
from .broker.base import Broker, Event, Member
from .errors import Refused
from .fastpath import WriteQueue
from .protocol import messages

#: Bytes of events to search before other coroutines may run; this takes about 1 ms. Parsing takes 16 times as long.
_SEARCH_SLICE: Final = 1024 * 1024
_PARSE_COST: Final = 16


class EventPublisher(Protocol):
    """Validates and publishes events: ``gateway.publishing.Publishing``."""

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` and publish it; the result is the event's id."""

    def payload(self, event: str | type[Schema], room: str, data: Any, sender: str | None) -> bytes:
        """Return the validated payload."""


class LocalMembers(Protocol):
    """Knows which connections of this node are in which room: ``gateway.delivery.Delivery``."""

    def has(self, room: str, connection: WriteQueue, /) -> bool:
        """Return True if ``connection`` is a member of ``room``."""


class PluginHost(Protocol):
    """The part of the gateway that plugins reach through ``Service`` and ``Context``."""

    @property
    def broker(self) -> Broker:
        """The broker."""

    @property
    def publishing(self) -> EventPublisher:
        """Publishes events."""

    @property
    def delivery(self) -> LocalMembers:
        """The members on this node."""

    @property
    def room_access(self) -> RoomAccess:
        """The built-in access rule."""


class RequestingClient(Protocol):
    """The client behind a ``Context``: ``gateway.client.Client``."""

    identity: Identity


class Service:
    """The gateway as plugins see it, in lifespans and routes: publish events and look at rooms."""

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
        """Publish ``data`` as ``event`` (its type or its Schema) in ``room``; the result is the event's id.

        ``data`` holds JSON values, as clients receive them. It is validated here, and ``Refused`` names each wrong
        field. A repeat of ``key`` in the same room within 5 minutes publishes nothing and returns the first id.
        """
        return self._host.publishing.publish(event, room, data, sender, key)

    async def members(self, room: str) -> Sequence[Member]:
        """Return the users in ``room``, on all nodes."""
        return await self._host.broker.members(room)

    async def history(self, room: str, since: str | None = None) -> list[dict[str, Any]]:
        """Return the stored events of ``room`` after the id ``since``, or all stored events; oldest first."""
        history = await self._host.broker.history(room, since)
        return [decode(event) for event in history.events]


class Context(Service):
    """One request of a client: a command, or a join that a room's rule decides about.

    ``room`` is the room that the request names, or None. ``in_room`` is True if the client is a member of it.
    """

    __slots__ = ("_client", "_key", "_published", "room")

    def __init__(self, host: PluginHost, client: RequestingClient, room: str | None, key: str | None = None) -> None:
        self._host = host  # type: ignore[misc]  # not through super(), because every command creates a Context
        self._client = client
        self._key = key
        self._published = 0
        self.room = room

    @property
    def user_id(self) -> int | str:
        """The user's id, from the token."""
        return self._client.identity.user_id

    @property
    def username(self) -> str:
        """The user's name, from the token."""
        return self._client.identity.username

    @property
    def claims(self) -> Mapping[str, Any]:
        """The token's further claims: without the id, the name, the rooms, the times and the parties."""
        return self._client.identity.claims

    @property
    def in_room(self) -> bool:
        """True if this client has joined the request's room."""
        return self.room is not None and self._host.delivery.has(self.room, self._client)  # type: ignore[arg-type]

    def joined(self) -> str:
        """Return the request's room; raise ``Refused`` if it names none, or one that this client has not joined."""
        room = self.room
        if room is None:
            raise messages.bad_room(None)
        if not self.in_room:
            raise Refused("not_joined", f"Join {room} first: send join_room, and wait for joined_room.")
        return room

    def claims_allow(self, room: str) -> bool:
        """Return True if the token's ``rooms`` claim covers ``room``, or with ``ROOM_ACCESS=open``."""
        return self._host.room_access.claims_allow(self._client.identity, room)

    async def policy_allows(self, room: str) -> bool:
        """Return True if the built-in rule, which ``ROOM_ACCESS`` selects, allows the user to join ``room``."""
        return await self._host.room_access.allows(self._client.identity, room)

    def publish(  # type: ignore[override]  # the room and the sender are the request's
        self, event: str | type[Schema], data: Mapping[str, Any], *, room: str | None = None
    ) -> Awaitable[str]:
        """Publish ``data`` as ``event`` in the request's room, or in ``room``, with this user as sender; return its id.

        If the request has a ``key``, a repeat of the request publishes nothing.
        """
        host = self._host
        where = room or self.room
        if where is None:
            raise messages.bad_room(None)
        key = self._key
        if key is not None:
            self._published += 1
            key = f"{key}/{self._published}"
        payload = host.publishing.payload(event, where, data, self._client.identity.username)
        return host.broker.publish(where, payload, key)

    async def notify(self, user_id: int | str, event: str | type[Schema], data: Mapping[str, Any]) -> str:
        """Publish ``data`` as ``event`` to every connection of the user ``user_id``, without a sender."""
        return await self._host.publishing.publish(event, f"user:{user_id}", data, None, None)

    async def since(self, event_id: str, *, about: bool = False) -> list[dict[str, Any]]:
        """Return the event ``event_id`` of the request's room and all later ones; empty if it is no longer stored.

        With ``about``, return only those later events that contain the id.
        """
        room = self.joined()
        epoch, _, offset = event_id.rpartition("-")
        if not offset.isdecimal() or not 0 < len(offset) < 19:
            return []
        history = await self._host.broker.history(room, f"{epoch}-{int(offset) - 1}")
        if not history.events or history.events[0].id != event_id:
            return []
        # Parsing 500 messages of 60 KB took 3 s, in which no other client was served. Therefore long events yield to
        # other coroutines, and events about something else are not parsed.
        mark = b'"%b"' % event_id.encode()
        found, work = [decode(history.events[0])], 0
        for event in history.events[1:]:
            work += len(event.payload)
            if not about or mark in event.payload:
                found.append(decode(event))
                work += _PARSE_COST * len(event.payload)
            if work > _SEARCH_SLICE:
                work = 0
                await asyncio.sleep(0)
        return found


def decode(event: Event) -> dict[str, Any]:
    """Return a stored event as clients receive it, with its id."""
    document: dict[str, Any] = orjson.loads(event.payload)
    document["id"] = event.id
    return document
