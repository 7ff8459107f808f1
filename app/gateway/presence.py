"""Record at the broker that users join and leave rooms, and announce it."""

from __future__ import annotations

import logging
from typing import Final

from ..auth.identity import Identity
from ..broker.base import Member, PresenceChange
from ..builtin_events import UserJoined, UserLeft
from ..errors import Unavailable
from .client import Client
from .node import Node
from .publishing import Publishing

log = logging.getLogger("roomcast")


class Presence:
    """Updates the presence at the broker, and announces changes in rooms of at most ``ANNOUNCE_MAX`` users.

    A user who leaves is included in this number.
    """

    def __init__(self, node: Node, publishing: Publishing) -> None:
        self._broker: Final = node.broker
        self._announce_max: Final = node.settings.announce_max
        self._publishing: Final = publishing

    async def enter(self, client: Client, room: str) -> None:
        """Record that ``client`` joined ``room``, and announce its user.

        If the broker is unavailable, only log that: it records the join when it returns.
        """
        identity = client.identity
        try:
            change = await self._broker.enter(room, identity.user_id, identity.username, client.id)
            if change.user_changed and change.users <= self._announce_max:
                await self._announce(UserJoined, room, identity)
        except Unavailable as error:
            log.warning(
                "user_joined of user %s in %s is announced late or not at all: %s",
                identity.user_id,
                room,
                error.detail,
            )

    async def leave(self, client: Client, room: str) -> PresenceChange:
        """Record that ``client`` left ``room``; follow with ``announce_left``. Raises ``Unavailable``."""
        return await self._broker.leave(room, client.identity.user_id, client.id)

    async def announce_left(self, client: Client, room: str, change: PresenceChange) -> None:
        """Announce the user of ``client`` if ``change`` is its departure from ``room``. Raises ``Unavailable``."""
        if change.user_changed and change.users < self._announce_max:
            await self._announce(UserLeft, room, client.identity)

    async def member_lost(self, room: str, member: Member, users: int) -> None:
        """Announce that ``member``, whose node died, has left; ``users`` are still in the room."""
        if users < self._announce_max:
            await self._announce(UserLeft, room, member)

    async def member_returned(self, room: str, member: Member, users: int) -> None:
        """Announce that ``member``, who was wrongly announced as gone, is in the room with ``users`` in all."""
        if users <= self._announce_max:
            await self._announce(UserJoined, room, member)

    async def _announce(self, event: type[UserJoined] | type[UserLeft], room: str, user: Identity | Member) -> None:
        data = {"username": user.username, "user_id": user.user_id}
        await self._publishing.publish_builtin(event, room, data, user.username)
