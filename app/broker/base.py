"""The interface of a broker, the state that all nodes share.

A broker stores the events of each room with their order, ids and history. It also stores the members of each room, and
how many connections a user has. Payloads are opaque bytes to it.

Each broker keeps these guarantees, which one test suite checks (``tests/support/broker_contract``):

- An event id is ``<epoch>-<offset>``. The offsets of a room count up by one, and no id is given twice. The epoch
  changes when the room's history was lost. It may change when the server that stores it was replaced; then offsets
  count on.
- A loss of events is reported to the clients of their room, and nothing else is: by ``on_resync`` to those that are
  connected, and by ``history`` to those that resume from an earlier id.
- Assigning the id, storing the event and announcing it are one atomic operation, so all nodes see the same order.
- Publishing again with an idempotency key within ``KEY_TTL`` returns the first id; it stores and announces nothing.
- ``history`` returns the events after ``since`` in order, or reports that some of them are no longer stored.
- A history with more bytes than its limit is trimmed: the newest events with up to half of it stay, at least one event.
- ``admit`` never lets a user have more than ``limit`` leases at once, counted over all nodes.
- All nodes report the joins and leaves of a room in the same order. Those of one user alternate, except in rooms that
  had more than ``Announcements.max_users``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

#: How long an idempotency key is remembered, in seconds.
KEY_TTL = 300.0
#: How much longer a claim lasts than the work under it may take, in seconds. The answer must still be stored, perhaps
#: while the broker is unreachable for a moment. If a claim expires before that and the work is repeated, it cannot
#: publish twice, because its events have idempotency keys.
CLAIM_GRACE = 20.0

#: The size of a page of history, in bytes. Reading one takes Redis and the node at most about 1 ms each.
MAX_PAGE_BYTES = 256 * 1024
#: How many bytes an event counts in a page in addition to its payload, for its id and its objects.
PAGE_EVENT_OVERHEAD = 100
#: The number of events in a page if the caller names none. Reading a small event takes Redis 3 µs.
MAX_PAGE_EVENTS = 400

UserId = int | str


class Event(NamedTuple):
    """A stored event: its ``id`` (``<epoch>-<offset>``) and its opaque ``payload``."""

    id: str
    payload: bytes


class Publication(NamedTuple):
    """An event to publish: the ``room``, the ``payload``, and an idempotency ``key`` or None."""

    room: str
    payload: bytes
    key: str | None = None


class History(NamedTuple):
    """A page of the stored events of a room.

    ``events`` are the requested events, oldest first. ``recovered`` is False if the history does not reach back to
    ``since``, because that is too old, of another epoch, or not an id of this room; ``events`` is then empty.
    ``last_id`` is the newest id of the room, even if that event is not among ``events``. Its offset is 0 if nothing was
    published yet.
    """

    events: Sequence[Event]
    recovered: bool
    last_id: str

    @property
    def cursor(self) -> str | None:
        """The ``since`` of the next page, or None if no events follow this one."""
        return self.events[-1].id if self.events and self.events[-1].id != self.last_id else None


class Member(NamedTuple):
    """A user in a room, and the number of the user's connections in it, on all nodes."""

    user_id: UserId
    username: str
    connections: int = 1


class Announcements(NamedTuple):
    """When joins and leaves are announced.

    A user who returns within ``grace`` seconds after the last connection was lost is not announced; 0 disables this. At
    most one join of a user is announced in a room within ``grace``. A user who joins again earlier is announced at the
    end of this time, if still there. Joins in rooms of more than ``max_users`` users, with the new one, are not
    announced.
    """

    grace: float = 3.0
    max_users: int = 1000


DEFAULT_ANNOUNCEMENTS = Announcements()


class PresenceChange(NamedTuple):
    """The result of entering or leaving a room.

    ``user_changed`` is True if it was the user's first connection in the room, or the last one out. ``users`` is the
    number of users in the room afterwards.
    """

    user_changed: bool
    users: int


class Listener(Protocol):
    """Receives what a broker reports to its node.

    The methods are called on the event loop, one at a time. They must not block and must not raise. All but
    ``wait_for_members`` are synchronous.
    """

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Receive an event of a subscribed room.

        Called once for each event, in the room's order. The call may come before ``publish`` returns.
        """

    async def wait_for_members(self, room: str) -> None:
        """Let other coroutines run, and wait a moment if members of ``room`` cannot receive events that fast.

        Only the embedded broker calls this, within a publish, from time to time. It publishes faster than sockets
        accept, while a publish on a shared broker waits for a network anyway.
        """

    def on_resync(self, room: str, last_id: str) -> None:
        """Events of a subscribed room were lost permanently. ``last_id`` is the room's newest id."""

    def on_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """A user joined or left a subscribed room, according to ``Announcements``. Called on all nodes."""

    def on_signal(self, message: bytes) -> None:
        """Receive a message that a node sent to all nodes. The call may come before ``signal`` returns."""

    def on_signals_lost(self) -> None:
        """Signals may have been lost permanently: re-read the state whose changes they report."""


class BrokerMetric(NamedTuple):
    """A metric of the broker. ``is_counter`` is True if the value only increases."""

    name: str
    meaning: str
    value: float
    is_counter: bool = False


class Broker(ABC):
    """The state that all nodes share.

    Every method may raise ``errors.Unavailable`` if the shared part cannot be reached, or if the broker is not running.
    """

    # Lifecycle.

    @abstractmethod
    async def start(self, listener: Listener, announcements: Announcements = DEFAULT_ANNOUNCEMENTS) -> None:
        """Connect, and report to ``listener`` from now on. Called once, before every other method.

        All nodes should have the same ``announcements``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything; this node's leases and presence end.

        After that every other method raises ``Unavailable``. Closing again has no effect.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Check the path to the shared part and back; raise ``Unavailable`` with the name of the part that is down."""

    def reload_certificates(self) -> bool:
        """Read the certificates of the connections to the shared part again, for later connections.

        Return False if there are none. Raises ``SettingsError`` if they cannot be used; then the previous ones stay in
        use. May be called in a thread, because reading files may block.
        """
        return False

    def metrics(self) -> Sequence[BrokerMetric]:
        """Return this node's metrics about the shared part, without asking it."""
        return ()

    # Events.

    @abstractmethod
    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """Store and announce ``payload`` in ``room``; return the event's id.

        If ``key`` was used in this room within ``KEY_TTL`` seconds, return the first id and publish nothing. The same
        key in another room is a different key.
        """

    @abstractmethod
    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all of ``publications`` in order, or none; return their ids.

        A ``key`` that occurs twice in the list is a repeat: both have the first id.
        """

    @abstractmethod
    async def subscribe(self, rooms: Iterable[str]) -> None:
        """Report the events of ``rooms`` to the listener from now on. Rooms that are subscribed already are skipped."""

    @abstractmethod
    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """Stop reporting the events of ``rooms``. Rooms that are not subscribed are skipped."""

    @abstractmethod
    async def history(
        self,
        room: str,
        since: str | None = None,
        limit: int | None = None,
        *,
        before: str | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> History:
        """Return a page of the stored events of ``room``.

        With ``since``, an event id, the page has the oldest events after it; with ``before``, the newest events before
        that id; without both, the newest events. It has at most ``limit`` events, by default ``MAX_PAGE_EVENTS``, and
        at most ``max_bytes`` bytes of payloads with ``PAGE_EVENT_OVERHEAD`` for each, but at least one event if there
        is one.

        To read forward, pass the ``cursor`` of a page as the next ``since`` until it is None. If the room is subscribed
        and the cursor is None, the pages end with the last event that the listener has received when this returns, so
        the next one arrives live. To read backward, pass the id of the first event as the next ``before`` until there
        are no events.

        ``since`` and ``before`` may be any strings that a client sent. A ``since`` that is not an id of this room
        yields ``recovered`` False, not an error. The id with offset 0 is valid: it comes before the room's first event.
        A ``before`` only has to be of the form of an id; otherwise it yields no events.
        """

    @abstractmethod
    async def signal(self, message: bytes) -> None:
        """Send ``message`` to the listener of every node, this one included."""

    # Leases.

    @abstractmethod
    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """Take a lease for ``connection``, an id that is unique on this node; return True if it has one now.

        Return False if ``user_id`` has ``limit`` leases on all nodes. A connection that has a lease keeps it and takes
        no second one.
        """

    @abstractmethod
    async def release(self, user_id: UserId, connection: int) -> None:
        """Give back the lease of ``connection``. Without a lease this has no effect."""

    @abstractmethod
    async def connections(self, user_id: UserId) -> int:
        """Return the number of leases of ``user_id`` on all nodes."""

    # Presence.

    @abstractmethod
    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """Add a ``connection`` of this node to ``room``. Entering twice changes nothing.

        A user has one ``username`` in a room, the one given last. Even if this raises ``Unavailable``, the connection
        enters the room: it is written and announced when the shared part can be reached.
        """

    @abstractmethod
    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """Remove a ``connection`` of this node from ``room``. Leaving a room it is not in changes nothing.

        ``is_lost`` is True if the connection ended, so that the user may return. Otherwise the departure is announced
        at once.
        Even if this raises ``Unavailable``, the connection leaves the room: that is written when the shared part can be
        reached.
        """

    @abstractmethod
    async def announce_due(self) -> None:
        """Announce the joins and leaves that are due. Call it about once a second. Does not wait for a server."""

    @abstractmethod
    async def members(self, room: str) -> list[Member]:
        """Return the members of ``room`` on all nodes, in order of arrival."""

    @abstractmethod
    async def rooms(self) -> dict[str, int]:
        """Return the rooms with members on any node, with their number of users."""

    # Claims and one-time values.

    @abstractmethod
    async def claim(self, key: str, ttl: float) -> bytes | bool:
        """Claim the work that ``key`` identifies.

        Return True if the caller has the claim now, False if another caller has it, or the answer that was stored with
        ``settle``. A claim that is not settled within ``ttl`` seconds expires, so that a crash does not block its key.
        """

    @abstractmethod
    async def settle(self, key: str, answer: bytes | None) -> None:
        """End a claim: store ``answer`` for ``KEY_TTL`` seconds, or drop the claim with None, so it can be repeated."""

    @abstractmethod
    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Store ``value`` under ``key`` for ``ttl`` seconds, replacing an earlier value."""

    @abstractmethod
    async def take(self, key: str) -> bytes | None:
        """Remove and return the value that ``put`` stored. Only the first call gets it, every other gets None."""

    # Revocations.

    @abstractmethod
    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """Revoke the tokens of ``user_id`` that were issued before a Unix time, for ``ttl`` seconds.

        If it is called several times, the latest ``before`` counts.
        """

    @abstractmethod
    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """Revoke one token of ``user_id``, for ``ttl`` seconds."""

    @abstractmethod
    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """Return True if a token of ``user_id`` was revoked.

        ``issued`` is a Unix time. A token without it counts as older than every revocation of all tokens.
        """
