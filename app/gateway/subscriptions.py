"""The subscriptions of this node at the broker: the rooms that have members here, or are about to."""

from __future__ import annotations

import contextlib
from typing import Final

from ..broker.base import Broker
from ..errors import Unavailable
from .delivery import Delivery


class NodeSubscriptions:
    """Subscribes the node to a room before its first member joins, and unsubscribes after the last one has left."""

    def __init__(self, broker: Broker, delivery: Delivery) -> None:
        self._broker: Final = broker
        self._delivery: Final = delivery
        #: The number of clients between ``acquire`` and ``confirm`` or ``release``, by room.
        self._joining: Final[dict[str, int]] = {}

    async def acquire(self, room: str) -> None:
        """Subscribe to ``room`` for a client that is about to join. Follow with ``confirm`` or ``release``.

        Until then the room counts as used. Otherwise the last member's leave could remove the subscription that the
        next member's join has just made.
        """
        self._joining[room] = self._joining.get(room, 0) + 1
        try:
            await self._broker.subscribe((room,))
        except BaseException:
            # The broker may have subscribed before it failed. A member that left meanwhile did not unsubscribe, because
            # this client was about to join.
            with contextlib.suppress(Unavailable):
                await self.release(room)
            raise

    def confirm(self, room: str) -> None:
        """Record that the client of ``acquire`` is a member, or becomes one before anything waits."""
        joining = self._joining[room] - 1
        if joining:
            self._joining[room] = joining
        else:
            del self._joining[room]

    async def release(self, room: str) -> None:
        """Record that the client of ``acquire`` will not join, and unsubscribe if the room is unused."""
        self.confirm(room)
        await self.drop_if_unused(room)

    async def drop_if_unused(self, room: str) -> None:
        """Unsubscribe from ``room`` if it has no members on this node and no client is about to join."""
        delivery = self._delivery
        if room not in delivery.rooms and room not in delivery.personal and room not in self._joining:
            await self._broker.unsubscribe((room,))
