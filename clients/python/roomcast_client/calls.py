"""The calls of the HTTP API as data: what to send, and how to read the answer. Nothing in this module does I/O.

``Roomcast`` and ``AsyncRoomcast`` have a method for each function here.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from .results import Event, History, Member, Room, Ticket, UserId, UserStatus

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. ``parse`` turns the JSON of a successful answer into the result.

    ``body`` is encoded once, because a repeat with an idempotency key must have the same bytes. ``token`` replaces the
    API key.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)


def publish(
    type: str, room: str, data: Mapping[str, Any] | None, sender: str | None, key: str | None
) -> Call[str | None]:
    """Publish one event; its id is None if events of this type are not stored."""
    body = _encode(_event(Event(type, room, data or {}, sender)))
    return Call("POST", "events", lambda answer: _text_or_none(answer["id"]), body=body, key=_key(key))


def batch(events: Iterable[Event], key: str | None) -> Call[list[str | None]]:
    """Publish all of ``events`` or none."""
    body = _encode([_event(event) for event in events])
    return Call("POST", "events", lambda answer: list(answer["ids"]), body=body, key=_key(key))


def rooms() -> Call[list[Room]]:
    """List the rooms that have members."""
    return Call("GET", "rooms", lambda answer: [Room(one["room"], one["members"]) for one in answer["rooms"]])


def members(room: str) -> Call[list[Member]]:
    """List the users in a room."""

    def parse(answer: Any) -> list[Member]:
        return [Member(one["user_id"], one["username"], one["connections"]) for one in answer["members"]]

    return Call("GET", f"rooms/{_part(room)}/members", parse)


def history(room: str, since: str | None, limit: int | None) -> Call[History]:
    """Read the stored events of a room."""
    given = {"since": since, "limit": None if limit is None else str(limit)}
    query = {name: value for name, value in given.items() if value is not None}

    def parse(answer: Any) -> History:
        return History(answer["events"], answer["last_id"], answer["recovered"], answer["more"])

    return Call("GET", f"rooms/{_part(room)}/history", parse, query)


def kick(room: str, user_id: UserId) -> Call[int]:
    """Remove a user from a room; return the number of connections removed."""
    return Call("DELETE", f"rooms/{_part(room)}/members/{_part(user_id)}", _connections)


def disconnect(user_id: UserId) -> Call[int]:
    """Close all connections of a user; return their number."""
    return Call("DELETE", f"users/{_part(user_id)}/connections", _connections)


def revoke(user_id: UserId, before: float | None) -> Call[float]:
    """Revoke the tokens of a user that were issued before a time; return the time."""
    query = {} if before is None else {"before": f"{before:.3f}".rstrip("0").rstrip(".")}
    return Call("DELETE", f"users/{_part(user_id)}/tokens", lambda answer: float(answer["before"]), query)


def revoke_token(user_id: UserId, jti: str | int) -> Call[None]:
    """Revoke one token of a user."""
    return Call("DELETE", f"users/{_part(user_id)}/tokens/{_part(jti)}", lambda answer: None)


def online(user_id: UserId) -> Call[UserStatus]:
    """Read whether a user is online."""
    return Call("GET", f"users/{_part(user_id)}", _status)


def online_many(user_ids: Iterable[UserId]) -> Call[list[UserStatus]]:
    """Read whether users are online."""
    body = _encode({"user_ids": list(user_ids)})
    return Call("POST", "users/status", lambda answer: [_status(one) for one in answer["users"]], body=body)


def ticket(token: str) -> Call[Ticket]:
    """Exchange a user's token for a ticket. Raises ``ValueError`` for what cannot be a token, without showing it."""
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("The token is empty, or has a space, a line break or a character that is not ASCII.")
    return Call("POST", "tickets", lambda answer: Ticket(answer["ticket"], answer["expires_in"]), token=token)


def personal_room(user_id: UserId) -> str:
    """Return the name of a user's personal room, in which only notifications for this user are published."""
    return f"user:{quote(str(user_id), safe='')}"


def _event(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {"type": event.type, "room": event.room, "data": event.data}
    if event.sender is not None:
        document["sender"] = event.sender
    if event.key is not None:
        document["key"] = _key(event.key)
    return document


def _encode(document: Any) -> bytes:
    """Return ``document`` as JSON. Raises ``TypeError`` or ``ValueError`` for values that JSON does not have."""
    text = json.dumps(document, default=_as_json, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def _as_json(value: Any) -> Any:
    """Return values that models of applications often have as JSON."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, uuid.UUID | Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"An event cannot contain a {type(value).__name__}; convert {value!r:.60} to a value of JSON.")


def _key(given: str | None) -> str:
    """Return the idempotency key of a publish, by default a new one. Raises ``ValueError``."""
    if given is None:
        return uuid.uuid4().hex
    if not re.fullmatch("[ -~]{1,128}", given) or given != given.strip():
        raise ValueError(f"{given!r:.140} is not an idempotency key: 1 to 128 printable ASCII characters.")
    return given


def _part(value: str | int) -> str:
    """Return one part of a path, percent-encoded. Raises ``ValueError`` for texts that paths cannot contain."""
    text = str(value)
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not the name of a room or the id of a user or token.")
    return quote(text, safe="")


def _connections(answer: Any) -> int:
    return int(answer["connections"])


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _status(answer: Any) -> UserStatus:
    since, last_seen = _time(answer["since"]), _time(answer["last_seen"])
    return UserStatus(
        *(answer["user_id"], answer["online"], answer["connections"], answer["rooms"], answer["rooms_complete"]),
        since,
        last_seen,
    )


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
