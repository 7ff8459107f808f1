"""Record at the broker that users join and leave rooms, and send its announcements to the members."""

from __future__ import annotations

import logging
from typing import Final

from ..broker.base import UserId
from ..builtin_events import UserJoined, UserLeft
from ..errors import Unavailable
from ..protocol import frames, messages
from .client import Client
from .node import Node

log = logging.getLogger("roomcast")


class Presence:
    """Updates the presence at the broker, and delivers ``user_joined`` and ``user_left``.

    The broker decides when they are sent (see ``broker.base.Announcements``), because a user may leave on one node and
    return on another. They are live only: they have no id and are not stored.
    """

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._joined: Final = node.registry.event(UserJoined).type
        self._left: Final = node.registry.event(UserLeft).type

    async def enter(self, client: Client, room: str) -> None:
        """Record that ``client`` joined ``room``.

        If the broker is unavailable, only log that: it records and announces the join when it returns.
        """
        identity = client.identity
        try:
            await self._broker.enter(room, identity.user_id, identity.username, client.id)
        except Unavailable as error:
            log.warning("user_joined of user %s in %s is announced late: %s", identity.user_id, room, error.detail)

    async def leave(self, client: Client, room: str, *, is_lost: bool) -> None:
        """Record that ``client`` left ``room``; see ``Broker.leave``. If the broker is unavailable, only log that."""
        user_id = client.identity.user_id
        try:
            await self._broker.leave(room, user_id, client.id, is_lost=is_lost)
        except Unavailable as error:
            log.warning("user_left of user %s in %s is announced late or not at all: %s", user_id, room, error.detail)

    def announce(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """Send the members of ``room`` on this node ``user_joined`` or ``user_left``, in a large room with a delay."""
        kind = self._joined if has_joined else self._left
        payload = messages.event(kind, room, {"username": username, "user_id": user_id}, username)
        self._delivery.deliver_later(room, frames.text(payload))
