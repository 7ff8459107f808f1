"""Counts the tickets that were given out and not used, lest one user fill the memory with them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from ...broker.base import UserId

#: So many tickets of one user, given out by one node, may be unused at a time: a user's connections are far fewer, and
#: each ticket is kept with its token, of up to 8 KB.
MAX_UNUSED: Final = 100


class TicketLimit:
    """The tickets that this node gave out; one that is used at another counts to its end. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._users: Final[dict[UserId, set[str]]] = {}
        #: When each ticket ends, whose it is, and itself, oldest first: all live equally long.
        self._ends: Final[deque[tuple[float, UserId, str]]] = deque()

    def add(self, user_id: UserId, ticket: str, lifetime: float) -> bool:
        """Count a ticket, and return True; or return False, if the user has ``MOST``."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            self.remove(*self._ends.popleft()[1:])
        tickets = self._users.setdefault(user_id, set())
        if len(tickets) >= MAX_UNUSED:
            return False
        tickets.add(ticket)
        self._ends.append((now + lifetime, user_id, ticket))
        return True

    def remove(self, user_id: UserId, ticket: str) -> None:
        """Count a ticket no more: it was used, or has ended."""
        tickets = self._users.get(user_id, set())
        tickets.discard(ticket)
        if not tickets:
            self._users.pop(user_id, None)


TICKET_LIMIT: Final = web.AppKey("outstanding_tickets", TicketLimit)
