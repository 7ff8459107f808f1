"""Limit how much is read for one user: a leaky bucket for each user that reads history or lists of members."""

from __future__ import annotations

import asyncio
from typing import Final

from ..broker.base import MAX_PAGE_BYTES, PAGE_EVENT_OVERHEAD, History, UserId
from .node import Node

#: How many bytes of history a user may read a second, on all connections to this node, and in a burst. Clients that
#: read all of a long history again and again, or edit its oldest message, would keep Redis and the node busy.
READ_RATE: Final = 8 * 1024 * 1024
READ_BURST: Final = 64 * 1024 * 1024


class LimitedHistory:
    """Reads pages of history for clients. A page that exceeds its user's limit is read later."""

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._loop: Final = node.loop
        #: The loop time up to which each user's rate is used up, in the order of the last page. Times in the past are
        #: dropped.
        self._used_until: Final[dict[UserId, float]] = {}

    async def read(
        self,
        user_id: UserId,
        room: str,
        since: str | None = None,
        limit: int | None = None,
        *,
        before: str | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> History:
        """See ``Broker.history``. Wait first if the user has read too much, and not after the page is read."""
        await self.wait(user_id)
        page = await self._broker.history(room, since, limit, before=before, max_bytes=max_bytes)
        size = sum(len(event.payload) + PAGE_EVENT_OVERHEAD for event in page.events)
        if size:
            self.charge(user_id, size)
        return page

    async def wait(self, user_id: UserId) -> None:
        """Wait if the user has read too much."""
        while (wait := self._used_until.get(user_id, 0.0) - READ_BURST / READ_RATE - self._loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)

    def charge(self, user_id: UserId, size: int) -> None:
        """Count ``size`` bytes that were read for the user."""
        now = self._loop.time()
        used_until = max(self._used_until.pop(user_id, now), now)
        self._used_until[user_id] = used_until + size / READ_RATE
        while self._used_until[oldest := next(iter(self._used_until))] <= now:
            del self._used_until[oldest]
