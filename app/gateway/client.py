"""One admitted connection: its user, its rooms, and the state of its commands and of its rate limit."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final, Protocol

from ..auth.identity import Identity
from ..protocol import frames
from ..protocol.messages import Request
from ..protocol.user_id import personal_room
from ..transport.connection import Connection
from ..transport.keepalive import Keepalive
from ..transport.write_scheduler import WriteScheduler


class MessageHandler(Protocol):
    """Handles the messages of clients. ``commands.Commands`` implements it."""

    #: ``bytes_left`` of a new client.
    initial_bytes: int

    def receive(self, client: Client, payload: bytearray) -> None:
        """Handle one text message."""

    def allows_frame(self, client: Client, size: int, *, is_ping: bool) -> bool:
        """Count a frame that is not a message, with ``size`` bytes of payload; return True if it is within the limits.

        If it is not, a ping is refused, and the client may be closed.
        """

    def event_counted(self, client: Client, *, is_first: bool) -> None:
        """Handle that an event has used up ``bytes_left``. Raises ``Refused`` if the event must not be published.

        ``is_first`` is True for the first event of a command.
        """


class SessionHandler(Protocol):
    """Handles the beginning and the end of clients' sessions. ``sessions.Sessions`` implements it."""

    def opened(self, client: Client) -> None:
        """Handle the beginning: the client has its transport."""

    def closing(self, client: Client) -> None:
        """Handle the decision to end the session. The connection still exists."""

    def ended(self, client: Client) -> None:
        """Handle the end: the connection no longer exists."""

    def token_expired(self, client: Client) -> None:
        """Handle the expiry of the client's token."""


@lru_cache(maxsize=1024)
def _intern(remote: str) -> str:
    """Return the same string object for all clients of an address. Behind a proxy or a NAT, many share one."""
    return remote


class Client(Connection):
    """One connection of a user.

    ``id`` is its number on this node, ``remote`` its address for the log, ``opened_at`` the loop time of its admission,
    ``rooms`` the rooms that it has joined. ``bytes_left``, ``rate_used_until`` and ``excess_messages`` belong to
    ``rate_limit``.
    ``queued`` has the requests that wait for a running command; it is None if no command blocks them. ``in_flight``
    counts the running pipelined commands, during which other pipelined commands may start. ``has_departed`` is True
    from the moment that the client leaves all its rooms, which happens once.
    """

    __slots__ = (
        *("_message_handler", "_session_handler", "bytes_left", "excess_messages", "has_departed", "id", "identity"),
        *("in_flight", "opened_at", "queued", "rate_used_until", "remote", "rooms"),
    )

    def __init__(
        self,
        scheduler: WriteScheduler,
        keepalive: Keepalive,
        message_handler: MessageHandler,
        session_handler: SessionHandler,
        *,
        id: int,
        identity: Identity,
        remote: str,
    ) -> None:
        super().__init__(scheduler, keepalive)
        self._message_handler: Final = message_handler
        self._session_handler: Final = session_handler
        self.id = id
        self.identity = identity
        self.remote = _intern(remote)
        self.opened_at = self.last_read
        self.rooms: tuple[str, ...] = ()  # most clients join one or two rooms, and a tuple is half the size of a list
        self.queued: deque[Request] | None = None
        self.in_flight = 0
        self.has_departed = False
        self.bytes_left = message_handler.initial_bytes
        self.rate_used_until = 0.0
        self.excess_messages = 0

    @property
    def personal_room(self) -> str:
        """The room of this user's connections."""
        return personal_room(self.identity.user_id)

    @property
    def unread_bytes(self) -> int:
        """Bytes for this client that the kernel has not accepted: the backlog and the write queue."""
        return self.backlog + self.queued_bytes

    def send_json(self, payload: bytes) -> None:
        """Send the JSON ``payload`` at the end of the loop iteration."""
        self.scheduler.send(self, frames.text(payload))

    def on_open(self) -> None:
        """Welcome the client before anything it sent is read."""
        self._session_handler.opened(self)

    def on_text(self, payload: bytearray) -> None:
        """Handle a text message."""
        self._message_handler.receive(self, payload)

    def on_ping(self, payload: bytes) -> None:
        """Answer a ping within the rate limit, because a ping costs the server as much as a message."""
        if self._message_handler.allows_frame(self, len(payload), is_ping=True):
            super().on_ping(payload)

    def on_unanswered_frame(self, payload: bytearray) -> None:
        """Count a pong, or a fragment that does not complete its message."""
        self._message_handler.allows_frame(self, len(payload), is_ping=False)

    def count_event(self, size: int, *, is_first: bool) -> None:
        """Count an event of ``size`` bytes that a command of this client publishes.

        ``is_first`` is True for the first event of the command. Raises ``Refused`` if it must not be published.
        """
        self.bytes_left -= size
        if self.bytes_left < 0:
            self._message_handler.event_counted(self, is_first=is_first)

    def on_closing(self) -> None:
        """Begin to leave the rooms."""
        self._session_handler.closing(self)

    def on_end(self) -> None:
        """Leave the rooms if that has not begun, and log the end."""
        self._session_handler.ended(self)

    def check(self, now: float) -> bool:
        """Check the heartbeat, and end the connection when its token expires; return True if it ends."""
        expires = self.identity.expires
        if expires is not None and self.end is None and self.keepalive.unix_time >= expires:
            self._session_handler.token_expired(self)
            return True
        return super().check(now)
