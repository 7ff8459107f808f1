"""Limits how many unused tickets a user may have, so that one user cannot fill the broker's memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from aiohttp import web

from ...broker.base import UserId

#: How many unused tickets of one user a node issues. A user has far fewer connections. Each ticket is stored with its
#: token, which may have 8 KB.
MAX_UNUSED: Final = 100


class TicketLimit:
    """Counts the unused tickets that this node issued. A ticket that is used at another node counts until it expires.

    ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._users: Final[dict[UserId, set[str]]] = {}
        #: The expiry, the user and the name of each ticket, oldest first. All tickets have the same lifetime.
        self._expiries: Final[deque[tuple[float, UserId, str]]] = deque()

    def add(self, user_id: UserId, ticket: str, lifetime: float) -> bool:
        """Count a new ticket and return True; return False if the user has ``MAX_UNUSED`` already."""
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            self.remove(*self._expiries.popleft()[1:])
        tickets = self._users.setdefault(user_id, set())
        if len(tickets) >= MAX_UNUSED:
            return False
        tickets.add(ticket)
        self._expiries.append((now + lifetime, user_id, ticket))
        return True

    def remove(self, user_id: UserId, ticket: str) -> None:
        """Stop counting a ticket that was used or has expired."""
        tickets = self._users.get(user_id, set())
        tickets.discard(ticket)
        if not tickets:
            self._users.pop(user_id, None)


TICKET_LIMIT: Final = web.AppKey("ticket_limit", TicketLimit)
