"""The members of a room as clients get them: in ``joined_room``, and page by page with the command ``members``.

The broker stores a status as two lines of JSON, the ``status`` and the ``data`` of ``set_presence``, or as "" if it has
neither. Values that were validated once are inserted into frames as they are.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from ..broker.base import MAX_PAGE_MEMBERS, Broker, ListedMember, MemberPage
from ..errors import Refused
from .client import Client


def encode_status(status: str | None, data: dict[str, Any] | None) -> str:
    """Return the text that the broker stores. Raises ``TypeError`` if ``data`` cannot be sent as JSON."""
    if status is None and data is None:
        return ""
    return f"{orjson.dumps(status).decode()}\n{orjson.dumps(data).decode()}"


def status_fields(text: str) -> dict[str, Any]:
    """Return ``status`` and ``data`` of a text that ``encode_status`` returned, without those that are null."""
    if not text:
        return {}
    status, _, data = text.partition("\n")
    found = {"status": status, "data": data}
    return {name: orjson.Fragment(value) for name, value in found.items() if value and value != "null"}


async def read_members(
    broker: Broker, client: Client, room: str, after: str | None = None, limit: int = MAX_PAGE_MEMBERS
) -> tuple[dict[str, Any], bool]:
    """Return ``members``, ``member_count`` and ``next`` for a frame, and True if the client's user is among them.

    ``after`` is the ``next`` of the page before. Raises ``Refused``.
    """
    try:
        page = await broker.list_members(room, after, limit, user_id=client.identity.user_id)
    except ValueError:
        advice = "give the next of the page before"
        raise Refused("invalid_data", f"data.after: {advice}.", {"after": [f"Not a cursor; {advice}."]}) from None
    return _as_data(page), page.has_user


def _as_data(page: MemberPage) -> dict[str, Any]:
    data: dict[str, Any] = {"members": [_entry(member) for member in page.members], "member_count": page.total}
    if page.cursor is not None:
        data["next"] = page.cursor
    return data


def _entry(member: ListedMember) -> dict[str, Any]:
    entry = {"user_id": member.user_id, "username": member.username, **status_fields(member.status)}
    entry["since"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(member.since))
    return entry


def add_joining(data: dict[str, Any], client: Client) -> None:
    """Add the user of ``client``, who is about to join, to the result of ``read_members``, at the end of the list."""
    data["member_count"] += 1
    if "next" not in data:
        identity = client.identity
        data["members"].append(_entry(ListedMember(identity.user_id, identity.username, time.time(), "")))
