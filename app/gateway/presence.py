"""Record at the broker that users join, leave and set a status, and send its announcements to the members."""

from __future__ import annotations

import logging
from typing import Any, Final

from ..broker.base import MAX_PAGE_MEMBERS, UserId
from ..builtin_events import UserJoined, UserLeft, UserUpdated
from ..errors import Unavailable
from ..failure_log import FailureLog
from ..protocol import frames, messages
from .client import Client
from .history_limit import LimitedHistory
from .member_list import add_joining, read_members, status_fields
from .node import Node

log = logging.getLogger("roomcast")

#: How many bytes of history a listed member counts. Listing 100 members takes as long as a page of history: 1 ms.
MEMBER_COST: Final = 2048
#: The frames that were announced in a room while a client waited for the list of members.
Recording = list[bytes]


class Presence:
    """Updates the presence at the broker, and delivers ``user_joined``, ``user_left`` and ``user_updated``.

    The broker decides when they are sent (see ``broker.base.Announcements``), because a user may leave on one node and
    return on another. They are live only: they have no id and are not stored.
    """

    def __init__(self, node: Node, limit: LimitedHistory) -> None:
        self._limit: Final = limit
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._failures: Final = FailureLog(log)
        self._joined: Final = node.registry.event(UserJoined).type
        self._left: Final = node.registry.event(UserLeft).type
        self._updated: Final = node.registry.event(UserUpdated).type
        #: By room. Only rooms with clients that wait for a list of members.
        self._recordings: Final[dict[str, list[Recording]]] = {}

    # Changes.

    async def enter(self, client: Client, room: str) -> None:
        """Record that ``client`` joined ``room``.

        If the broker is unavailable, only log that: it records and announces the join when it returns. In rooms
        without presence, nothing is recorded.
        """
        if self._delivery.types.of(room).has_presence:
            await self._enter(client, room)

    async def enter_personal(self, client: Client) -> None:
        """Record that ``client`` is in its user's personal room, which shows the hooks if a user is online."""
        await self._enter(client, client.personal_room)

    async def _enter(self, client: Client, room: str) -> None:
        identity = client.identity
        try:
            await self._broker.enter(room, identity.user_id, identity.username, client.id)
        except Unavailable as error:
            text = f"user_joined of user {identity.user_id} in {room} is announced late: {error.detail}"
            self._failures.add("join", text)

    async def leave(self, client: Client, room: str, *, is_lost: bool) -> None:
        """Record that ``client`` left ``room``; see ``Broker.leave``. If the broker is unavailable, only log that."""
        if self._delivery.types.of(room).has_presence:
            await self._leave(client, room, is_lost=is_lost)

    async def leave_personal(self, client: Client) -> None:
        """Undo ``enter_personal``. The user may return within the grace."""
        await self._leave(client, client.personal_room, is_lost=True)

    async def _leave(self, client: Client, room: str, *, is_lost: bool) -> None:
        user_id = client.identity.user_id
        try:
            await self._broker.leave(room, user_id, client.id, is_lost=is_lost)
        except Unavailable as error:
            text = f"user_left of user {user_id} in {room} is announced late or not at all: {error.detail}"
            self._failures.add("leave", text)

    # Announcements.

    def announce(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """Send the members of ``room`` on this node ``user_joined`` or ``user_left``, in a large room with a delay."""
        self._send(self._joined if has_joined else self._left, room, {"username": username, "user_id": user_id})

    def announce_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        """Send the members of ``room`` on this node ``user_updated``, in a large room with a delay."""
        data = {"username": username, "user_id": user_id, "status": None, "data": None, **status_fields(status)}
        self._send(self._updated, room, data)

    def _send(self, type: str, room: str, data: dict[str, Any]) -> None:
        frame = frames.text(messages.event(type, room, data, data["username"]))
        if self._recordings:
            for recording in self._recordings.get(room, ()):
                recording.append(frame)
        self._delivery.deliver_later(room, frame)

    # Lists of members.

    def start_recording(self, room: str) -> Recording:
        """Record the frames that are announced in ``room``. Call this before the list of members is read.

        The list and the announcements may reach this node in any order. The client gets the recorded frames after the
        list: it may get an announcement that the list contains already, but never misses one.
        """
        recording: Recording = []
        self._recordings.setdefault(room, []).append(recording)
        return recording

    def end_recording(self, room: str, recording: Recording) -> bytes:
        """Return the frames that were announced since ``start_recording``."""
        rest = [one for one in self._recordings[room] if one is not recording]
        if rest:
            self._recordings[room] = rest
        else:
            del self._recordings[room]
        return b"".join(recording)

    async def read_members(
        self, client: Client, room: str, after: str | None = None, limit: int = MAX_PAGE_MEMBERS
    ) -> tuple[dict[str, Any], bool]:
        """Read a page of members for ``client``, later if its user has read too much. See ``member_list``."""
        user_id = client.identity.user_id
        await self._limit.wait(user_id)
        found, has_user = await read_members(self._broker, client, room, after, limit)
        self._limit.charge(user_id, (len(found["members"]) + 1) * MEMBER_COST)
        return found, has_user

    async def add_members(self, client: Client, room: str, data: dict[str, Any]) -> None:
        """Add the first page of members to the ``data`` of ``joined_room``. The list contains the user of ``client``.

        It is empty in rooms without presence. Raises ``Unavailable``. Record announcements meanwhile.
        """
        found, has_user = await self.read_members(client, room)
        if not has_user and self._delivery.types.of(room).has_presence:
            add_joining(found, client)
        data.update(found)
