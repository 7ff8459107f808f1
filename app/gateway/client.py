"""A connected user: the state that the gateway keeps for one admitted connection."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final, Protocol

from ..auth.identity import Identity
from ..protocol import frames
from ..protocol.messages import Request
from ..transport.connection import Connection
from ..transport.keepalive import Keepalive
from ..transport.write_scheduler import WriteScheduler


class MessageHandler(Protocol):
    """Handles what a client sends: ``commands.Commands``."""

    def receive(self, client: Client, payload: bytearray) -> None:
        """Handle one text message."""

    def allows_ping(self, client: Client) -> bool:
        """Return True if a ping frame of the client is to be answered."""


class SessionHandler(Protocol):
    """Handles the beginning and the end of a client's session: ``sessions.Sessions``."""

    def opened(self, client: Client) -> None:
        """Handle that the client has its transport."""

    def closing(self, client: Client) -> None:
        """Handle that the end of the client is decided. The connection still exists."""

    def ended(self, client: Client) -> None:
        """Handle that the client's connection is over."""

    def token_expired(self, client: Client) -> None:
        """Handle that the client's token has expired."""


@lru_cache(maxsize=1024)
def _intern(remote: str) -> str:
    """Return one string object for all clients of an address: behind a proxy or a NAT there are many."""
    return remote


class Client(Connection):
    """One connection of a user.

    ``id`` is its number on this node, ``remote`` its address for the log, ``opened_at`` the loop time at which it was
    admitted, ``rooms`` the rooms it joined. ``rate_used_until`` and ``excess_messages`` belong to ``rate_limit``.
    ``queued`` holds the requests that wait for a running command; None if none is running. ``in_flight`` counts running
    pipelined commands, beside which other pipelined commands may start. ``has_departed`` is True once the client is
    being removed from its rooms for good.
    """

    __slots__ = (
        *("_messages", "_sessions", "excess_messages", "has_departed", "id", "identity", "in_flight", "opened_at"),
        *("queued", "rate_used_until", "remote", "rooms"),
    )

    def __init__(
        self,
        scheduler: WriteScheduler,
        keepalive: Keepalive,
        messages: MessageHandler,
        sessions: SessionHandler,
        *,
        id: int,
        identity: Identity,
        remote: str,
    ) -> None:
        super().__init__(scheduler, keepalive)
        self._messages: Final = messages
        self._sessions: Final = sessions
        self.id = id
        self.identity = identity
        self.remote = _intern(remote)
        self.opened_at = self.last_read
        self.rooms: tuple[str, ...] = ()  # most clients join one or two rooms, and a tuple is half the size of a list
        self.queued: deque[Request] | None = None
        self.in_flight = 0
        self.has_departed = False
        self.rate_used_until = 0.0
        self.excess_messages = 0

    @property
    def personal_room(self) -> str:
        """The room of this user's connections."""
        return f"user:{self.identity.user_id}"

    @property
    def unread_bytes(self) -> int:
        """Bytes that this client has not accepted: unsent ones, and those queued for the end of the loop iteration."""
        return self.backlog + self.queued_bytes

    def send_json(self, payload: bytes) -> None:
        """Send the JSON ``payload`` at the end of the loop iteration."""
        self.scheduler.send(self, frames.text(payload))

    def on_open(self) -> None:
        """Welcome the client before anything it sent is read."""
        self._sessions.opened(self)

    def on_text(self, payload: bytearray) -> None:
        """Handle a message."""
        self._messages.receive(self, payload)

    def on_ping(self, payload: bytes) -> None:
        """Answer a ping within the rate limit, because a ping costs the server as much as a message."""
        if self._messages.allows_ping(self):
            super().on_ping(payload)

    def on_closing(self) -> None:
        """Begin to leave the rooms."""
        self._sessions.closing(self)

    def on_end(self) -> None:
        """Leave the rooms if that has not begun, and write the log line."""
        self._sessions.ended(self)

    def check(self, now: float) -> None:
        """Check the heartbeat, and end the connection when its token expires."""
        expires = self.identity.expires
        if expires is not None and self.end is None and self.keepalive.unix_time >= expires:
            self._sessions.token_expired(self)
        else:
            super().check(now)
