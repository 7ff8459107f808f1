"""A connected user: what the gateway keeps for one admitted connection."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING

from . import frames
from .connection import Connection
from .identity import Identity
from .protocol import Request

if TYPE_CHECKING:
    from .gateway import Gateway


@lru_cache(maxsize=1024)
def _shared(remote: str) -> str:
    """Return one string for all clients of an address: behind a proxy or a NAT they are many."""
    return remote


class Client(Connection):
    """One connection of a user. The gateway makes it, and hears of every message through it.

    ``id`` is its number on this node, ``remote`` the address it came from, for the log, ``opened`` the loop time, by
    the sweep's clock, at which it came. ``rooms`` are those it joined.
    ``allowance`` and ``excess`` are the flood limit's: loop time up to which the rate is used up, messages over it.
    ``waiting`` holds what came while a command of this client was under way; None when none is. ``flying`` counts the
    pipelined ones under way, beside which others of their kind may begin.
    """

    __slots__ = (
        *("allowance", "excess", "flying", "gateway", "gone", "id", "identity", "opened", "remote", "rooms", "waiting"),
    )

    def __init__(self, gateway: Gateway, id: int, identity: Identity, remote: str) -> None:
        super().__init__(gateway.hub, gateway.sweep)
        self.gateway = gateway
        self.id = id
        self.identity = identity
        self.remote = _shared(remote)
        self.opened = self.seen
        self.rooms: tuple[str, ...] = ()  # most join one or two, and a tuple is half a list
        self.waiting: deque[Request] | None = None
        self.flying = 0
        self.gone = False
        self.allowance = 0.0
        self.excess = 0

    @property
    def personal_room(self) -> str:
        """The room that only this user's connections are in."""
        return f"user:{self.identity.user_id}"

    @property
    def owed(self) -> int:
        """Bytes that this client has yet to take: those unsent, and those that wait for the end of the turn."""
        pending = self.pending
        if pending is None:
            return self.backlog
        return self.backlog + (len(pending) if isinstance(pending, bytes) else sum(map(len, pending)))

    def tell(self, payload: bytes) -> None:
        """Send the JSON ``payload`` to this client at the end of the turn."""
        self.hub.send(self, frames.text(payload))

    def on_open(self) -> None:
        """Greet the client before anything it sent is read."""
        self.gateway.welcome(self)

    def on_text(self, payload: bytearray) -> None:
        """Hand a message to the gateway."""
        self.gateway.receive(self, payload)

    def on_ping(self, payload: bytes) -> None:
        """Answer, unless there are too many: a ping costs the server as much as a message."""
        if self.gateway.takes_ping(self):
            super().on_ping(payload)

    def on_closing(self) -> None:
        """Take leave soon: this may be in the middle of a fan-out over the very rooms to leave."""
        self.gateway.depart_soon(self)

    def on_end(self) -> None:
        """Take leave, unless that was done when the closing began, and write the log line."""
        self.gateway.ended(self)

    def check(self, now: float) -> None:
        """Besides the heartbeat: a connection ends with its token."""
        expires = self.identity.expires
        if expires is not None and self.end is None and self.sweep.unix_time >= expires:
            self.gateway.expire(self)
        else:
            super().check(now)
