"""What plugins are given: ``Service`` anywhere, ``Context`` where a client is involved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from marshmallow import Schema

from . import protocol
from .broker import Event, Member
from .errors import Refused

#: So many bytes of events are searched, in about 1 ms, before others have their turn; parsing takes 16 times as long.
_TURN: Final = 1024 * 1024
_PARSING: Final = 16

if TYPE_CHECKING:
    from .client import Client
    from .gateway import Gateway


class Service:
    """The gateway as plugins see it, in lifespans and routes: publish, and look at rooms."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Final = gateway

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

        ``data`` holds what the wire will carry, JSON values; it is validated here and ``Refused`` names what is wrong.
        A repeat of ``key`` in the same room within 5 minutes publishes nothing and returns the first id.
        """
        return self._gateway.publish(event, room, data, sender, key)

    async def members(self, room: str) -> Sequence[Member]:
        """Who is in ``room``, on all nodes."""
        return await self._gateway.broker.members(room)

    async def history(self, room: str, since: str | None = None) -> list[dict[str, Any]]:
        """The kept events of ``room`` after the id ``since``, or all that is kept; oldest first."""
        history = await self._gateway.broker.history(room, since)
        return [decode(event) for event in history.events]


class Context(Service):
    """One request of a client, or its wish to join a room.

    ``room`` is the room that the request names, or None; whether the client is in it, ``in_room`` tells.
    """

    __slots__ = ("_client", "_key", "_published", "room")

    def __init__(self, gateway: Gateway, client: Client, room: str | None, key: str | None = None) -> None:
        self._gateway = gateway  # type: ignore[misc]  # not through super(): one of these is made for every command
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
        """Whether this client has joined the request's room."""
        return self.room is not None and self._gateway.hub.has(self.room, self._client)

    def joined(self) -> str:
        """Return the request's room; raise ``Refused`` if it names none, or one that this client has not joined."""
        room = self.room
        if room is None:
            raise protocol.bad_room(None)
        if not self._gateway.hub.has(room, self._client):
            raise Refused("not_joined", f"Join {room} first: send join_room, and wait for joined_room.")
        return room

    def claims_allow(self, room: str) -> bool:
        """Whether the token's ``rooms`` claim covers ``room``; with ``ROOM_ACCESS=open`` every room is covered."""
        return self._gateway.claims_allow(self._client.identity, room)

    async def policy_allows(self, room: str) -> bool:
        """Whether the built-in rule, which ``ROOM_ACCESS`` chooses, lets the user into ``room``."""
        return await self._gateway.policy.allows(self._client.identity, room)

    def publish(  # type: ignore[override]  # the room and the sender are the request's
        self, event: str | type[Schema], data: Mapping[str, Any], *, room: str | None = None
    ) -> Awaitable[str]:
        """Publish ``data`` as ``event`` in the request's room, or in ``room``, as sent by this user; return its id.

        If the request has a ``key``, what its handler publishes is safe against repetition: the same request again
        publishes nothing.
        """
        gateway = self._gateway
        where = room or self.room
        if where is None:
            raise protocol.bad_room(None)
        key = self._key
        if key is not None:
            self._published += 1
            key = f"{key}/{self._published}"
        payload = gateway.payload(event, where, data, self._client.identity.username)
        return gateway.broker.publish(where, payload, key)

    async def notify(self, user_id: int | str, event: str | type[Schema], data: Mapping[str, Any]) -> str:
        """Publish ``data`` as ``event`` to every connection of the user ``user_id``, as from nobody."""
        return await self._gateway.publish(event, f"user:{user_id}", data, None, None)

    async def since(self, event_id: str, *, about: bool = False) -> list[dict[str, Any]]:
        """Return the event ``event_id`` of the request's room and all after it; empty if it is not kept any more.

        With ``about``, only those after it that have its id in them.
        """
        room = self.joined()
        epoch, _, offset = event_id.rpartition("-")
        if not offset.isdecimal() or not 0 < len(offset) < 19:
            return []
        history = await self._gateway.broker.history(room, f"{epoch}-{int(offset) - 1}")
        if not history.events or history.events[0].id != event_id:
            return []
        # To parse 500 messages of 60 KB took 3 s, and who writes and edits them would hold up everybody else: so what
        # is long gives others their turn, and what is about something else is not parsed.
        mark = b'"%b"' % event_id.encode()
        found, work = [decode(history.events[0])], 0
        for event in history.events[1:]:
            work += len(event.payload)
            if not about or mark in event.payload:
                found.append(decode(event))
                work += _PARSING * len(event.payload)
            if work > _TURN:
                work = 0
                await asyncio.sleep(0)
        return found


def decode(event: Event) -> dict[str, Any]:
    """Return a stored event as clients get it, with its id."""
    document: dict[str, Any] = orjson.loads(event.payload)
    document["id"] = event.id
    return document
