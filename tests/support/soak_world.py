"""The state that all clients of a soak share: the nodes, the ledger, the open connections and the phase of the run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from soak_ledger import Ledger
from soak_nodes import Node
from soak_room_view import RoomView

#: How long a client waits for a node that may be stopped, in seconds.
PATIENCE = 4.0
#: How long a publisher retries one message with the same idempotency key, in seconds.
PERSISTENCE = 20.0
#: The pause before a retry, in seconds.
PAUSE = 0.3

#: The error codes that ask for a retry. Clients may get them while a fault is at work.
RETRYABLE = {"unavailable", "in_progress", "timeout"}


class OpenTab(Protocol):
    """A client with an open connection; see ``soak_tab.Tab``."""

    name: str
    user: int
    node: Node
    personal: RoomView
    views: Mapping[str, RoomView]

    @property
    def is_in_all_rooms(self) -> bool:
        """Return True if the client is in all its rooms."""

    async def is_alive(self) -> bool:
        """Return True if the server still replies on the connection."""


class World:
    """The state that all clients share. ``limit`` is the nodes' MAX_CONNECTIONS_PER_USER.

    The run has three phases. First the clients come and go. When ``publishing`` becomes False, publishers end. When
    ``calm`` is set, members join all their rooms and stay, until ``over`` is set.
    """

    def __init__(self, nodes: Sequence[Node], ledger: Ledger, limit: int, seed: str) -> None:
        self.nodes = nodes
        self.ledger = ledger
        self.limit = limit
        self.seed = seed
        self.calm = asyncio.Event()
        self.over = asyncio.Event()
        self.publishing = True
        #: The admitted clients whose connection has not ended, by user.
        self.open: dict[int, set[OpenTab]] = {}
        #: How often the operator disconnected each user.
        self.disconnected: dict[int, int] = {}
        #: Running checks of the limit.
        self.checks: set[asyncio.Task[None]] = set()
        #: Until this time of the loop, a user above the limit is not a violation.
        self.tolerance_ends = 0.0

    def random(self, actor: str) -> random.Random:
        """Return a random generator for one actor, derived from the seed."""
        return random.Random(f"{self.seed}/{actor}")

    async def pause(self, seconds: float, until: asyncio.Event) -> None:
        """Sleep, but return at once when ``until`` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until.wait()

    def add(self, tab: OpenTab) -> None:
        """Record an admitted connection, and check its user's limit."""
        tabs = self.open.setdefault(tab.user, set())
        tabs.add(tab)
        if len(tabs) > self.limit:
            task = asyncio.create_task(self._check_limit(tab.user, set(tabs)))
            self.checks.add(task)
            task.add_done_callback(self.checks.discard)

    async def _check_limit(self, user: int, tabs: set[OpenTab]) -> None:
        """Report a violation if too many of ``tabs`` still get replies.

        The number of open tabs alone proves nothing: a close frame may be on its way to a client.
        """
        replies = await asyncio.gather(*(tab.is_alive() for tab in tabs))
        if sum(replies) > self.limit:
            names = ", ".join(f"{tab.name} on {tab.node.name}" for tab in sorted(tabs, key=lambda tab: tab.name))
            if asyncio.get_running_loop().time() < self.tolerance_ends:
                self.ledger.counts["above the limit, tolerated"] += 1
                self.ledger.note(f"user {user}", f"above the limit, tolerated: {names}")
            else:
                what = f"{sum(replies)} connections are open, {self.limit} are allowed: {names}"
                self.ledger.violate("above the limit", f"user {user}", what)


class PendingMessage:
    """A message that is published again with the same key until it is acknowledged or ``is_overdue``."""

    def __init__(self, room: str, actor: str, number: int) -> None:
        self.room = room
        self.text = f"{room} {actor} {number}"
        self.key = f"{actor}-{number}"
        self.attempts = 0
        self._deadline = asyncio.get_running_loop().time() + PERSISTENCE

    @property
    def is_overdue(self) -> bool:
        """Return True if it was retried for ``PERSISTENCE`` seconds."""
        return asyncio.get_running_loop().time() > self._deadline
