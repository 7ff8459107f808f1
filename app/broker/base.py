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
- Publishing again with an idempotency key within its lifetime returns the first id; it stores and announces nothing.
- ``history`` returns the events after ``since`` in order, or reports that some of them are no longer stored.
- A history with more bytes than its limit is trimmed: the newest events with up to half of it stay, at least one event.
- ``admit`` never lets a user have more than ``limit`` leases at once, counted over all nodes.
- Broadcasts store nothing, and never delay or change events.
- All nodes report the joins and leaves of a room in the same order. Those of one user alternate, except in rooms that
  had more than ``Announcements.max_users``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .listener import Listener as Listener
from .presence_types import DEFAULT_ANNOUNCEMENTS as DEFAULT_ANNOUNCEMENTS
from .presence_types import MAX_MEMBERS_BYTES as MAX_MEMBERS_BYTES
from .presence_types import MAX_PAGE_MEMBERS as MAX_PAGE_MEMBERS
from .presence_types import STATUS_INTERVAL as STATUS_INTERVAL
from .presence_types import Announcements as Announcements
from .presence_types import ListedMember as ListedMember
from .presence_types import Member as Member
from .presence_types import MemberPage as MemberPage
from .presence_types import PresenceChange as PresenceChange
from .presence_types import UserId as UserId
from .presence_types import UserStatus as UserStatus
from .queue import Queues
from .read_marks import ReadMarks
from .turns import Turns

#: The lifetime of an idempotency key by default, in seconds.
KEY_TTL = 300.0
#: How long ``UserStatus.last_seen`` is stored by default, in seconds.
LAST_SEEN_TTL = 30 * 86400.0
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


class Event(NamedTuple):
    """A stored event: its ``id`` (``<epoch>-<offset>``) and its opaque ``payload``."""

    id: str
    payload: bytes


class Publication(NamedTuple):
    """An event to publish. The fields are the arguments of ``Broker.publish``."""

    room: str
    payload: bytes
    key: str | None = None
    is_message: bool = False
    author: UserId | None = None
    is_followed: bool = False


class History(NamedTuple):
    """A page of the stored events of a room.

    ``events`` are the requested events, oldest first. ``recovered`` is False if the history does not reach back to
    ``since``, because that is too old, of another epoch, or not an id of this room; ``events`` is then empty.
    ``last_id`` is the newest id of the room, even if that event is not among ``events``. Its offset is 0 if nothing was
    published yet. ``has_older`` is True if a page that was read without ``since`` has events and older ones are stored.
    """

    events: Sequence[Event]
    recovered: bool
    last_id: str
    has_older: bool = False

    @property
    def cursor(self) -> str | None:
        """The ``since`` of the next page, or None if no events follow this one."""
        return self.events[-1].id if self.events and self.events[-1].id != self.last_id else None


class BrokerMetric(NamedTuple):
    """A metric of the broker. ``is_counter`` is True if the value only increases."""

    name: str
    meaning: str
    value: float
    is_counter: bool = False


class Broker(Queues, Turns):
    """The state that all nodes share.

    Every method may raise ``errors.Unavailable`` if the shared part cannot be reached, or if the broker is not running.
    """

    #: Up to where each user has read each room. Exists when ``start`` has returned.
    marks: ReadMarks

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
    async def publish(
        self,
        room: str,
        payload: bytes,
        key: str | None = None,
        is_message: bool = False,
        author: UserId | None = None,
        is_followed: bool = False,
    ) -> str:
        """Store and announce ``payload`` in ``room``; return the event's id.

        If ``is_message`` is True, the event counts as unread, except for the user ``author``, who has read the room up
        to it (see ``ReadMarks``).

        If ``is_followed`` is True, ``Listener.on_published`` is called for the event.

        If ``key`` was used in this room within the lifetime of keys, return the first id and publish nothing. The same
        key in another room is a different key.
        """

    @abstractmethod
    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all of ``publications`` in order, or none; return their ids.

        A ``key`` that occurs twice in the list is a repeat: both have the first id.
        """

    @abstractmethod
    def broadcast(self, room: str, payload: bytes) -> None:
        """Send ``payload`` to the listeners of all nodes that are subscribed to ``room``, this one included.

        Does not wait, and stores nothing: the payload has no id, and nodes that are not connected at this moment never
        receive it. Those of one node arrive at every node in their order, some may be missing, none comes twice. They
        have no order with events. Raises ``Unavailable`` if the shared part cannot be reached now.
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

        To read forward, pass the ``cursor`` of a page as the next ``since`` until it is None. To read backward, pass
        the id of the first event as the next ``before`` until ``has_older`` is False. If the room is subscribed, the
        last page of a forward read and the first page of a backward read end with the last event that the listener has
        received when this returns, so the next one arrives live.

        ``since`` and ``before`` may be any strings that a client sent. A ``since`` that is not an id of this room
        yields ``recovered`` False, not an error. The id with offset 0 is valid: it comes before the room's first event.
        A ``before`` only has to be of the form of an id; otherwise it yields no events.
        """

    @abstractmethod
    async def signal(self, message: bytes) -> None:
        """Send ``message`` to the listener of every node, this one included."""

    @abstractmethod
    async def ask(self, questions: Mapping[str, bytes], wait: float) -> dict[str, bytes]:
        """Ask nodes, by their names, a question each; return the answers of those that answer within ``wait`` s.

        ``Listener.on_question`` answers. Nothing is stored, and a question that is lost is not sent again.
        """

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
    async def statuses(self, user_ids: Sequence[UserId]) -> list[UserStatus]:
        """Return the status of each of ``user_ids``, in their order.

        If a node died, its connections count until their leases expire. ``last_seen`` is then when it last renewed
        them.
        """

    async def connections(self, user_id: UserId) -> int:
        """Return the number of leases of ``user_id`` on all nodes."""
        return (await self.statuses((user_id,)))[0].connections

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
    async def set_status(self, room: str, user_id: UserId, status: str) -> None:
        """Set the status of a user in ``room``, any text; "" means none. Without a connection here, nothing changes.

        The last one on all nodes counts, until the user has left. It is listed at once. It is announced at most once in
        ``STATUS_INTERVAL`` for each user and room: at once, or the latest at the end of this time. Even if this raises
        ``Unavailable``, the status is set when the shared part can be reached.
        """

    @abstractmethod
    async def announce_due(self) -> None:
        """Announce the joins, leaves and statuses that are due. Call it about once a second. Waits for no server."""

    @abstractmethod
    async def members(self, room: str) -> list[Member]:
        """Return all members of ``room`` on all nodes, in order of arrival."""

    @abstractmethod
    async def list_members(
        self,
        room: str,
        after: str | None = None,
        limit: int = MAX_PAGE_MEMBERS,
        *,
        max_bytes: int = MAX_MEMBERS_BYTES,
        user_id: UserId | None = None,
    ) -> MemberPage:
        """Return a page of the members of ``room`` for clients, in order of arrival, after the cursor ``after``.

        It agrees with the announcements: a user whose join is held is not listed, and one within the grace is. The page
        has at most ``limit`` users whose names and statuses take about ``max_bytes``, but at least one if there is one.
        A user who is there while all pages are read is on at least one of them. ``user_id`` is the user for
        ``has_user``. Raises ``ValueError`` if ``after`` is not a cursor.
        """

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
        """End a claim: store ``answer`` for the lifetime of keys, or drop the claim with None, so it can be taken."""

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
