"""What calls return: values without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, NotRequired, TypedDict

#: The id of a user: a whole number, or a text that is not one.
UserId = int | str


@dataclass(frozen=True, slots=True)
class Event:
    """An event to publish: its type, its room, the data of the type, and perhaps the name of a sender.

    An event with an idempotency ``key`` of its own is published once, in lists of any composition.
    """

    type: str
    room: str
    data: Mapping[str, Any] = field(default_factory=dict)
    sender: str | None = None
    key: str | None = None


class EventFrame(TypedDict):
    """An event as members receive it, and as the history stores it.

    ``room`` is absent in the user's own personal room, ``id`` in events that are not stored. ``sender`` and ``key`` are
    absent if the publisher gave none.
    """

    type: str
    data: dict[str, Any]
    timestamp: str
    room: NotRequired[str]
    id: NotRequired[str]
    sender: NotRequired[str]
    key: NotRequired[str]


class Room(NamedTuple):
    """A room that has members, and the number of users in it."""

    room: str
    members: int


class Member(NamedTuple):
    """A user in a room, with the number of the user's connections in it."""

    user_id: UserId
    username: str
    connections: int


class History(NamedTuple):
    """The stored events of a room, oldest first.

    ``last_id`` is the id of the newest event of the room. ``recovered`` is False if the history does not reach back to
    ``since``. If ``more`` is True, later events follow: read on with the id of the last one as ``since``.
    """

    events: list[EventFrame]
    last_id: str
    recovered: bool
    more: bool


class UserStatus(NamedTuple):
    """If a user is online, on any node.

    ``rooms_complete`` is False if rooms are missing because a node did not answer. ``since`` is when the user came
    online, ``last_seen`` when the last connection of an offline user ended; both are None if that is not known.
    """

    user_id: UserId
    online: bool
    connections: int
    rooms: list[str]
    rooms_complete: bool
    since: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A one-time ticket for a WebSocket, ``?ticket=…``. It expires after ``expires_in`` seconds."""

    ticket: str = field(repr=False)
    expires_in: float
