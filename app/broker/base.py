"""The Broker contract and its promises, and the broker that lives in this process.

A broker is what all nodes of one roomcast share: events with their order, ids and history; who is in which room;
how many connections a user has. Payloads are opaque bytes to it.

Promises, kept by every broker and checked by one suite (``tests/support/broker_contract.py``):

- An event's id is ``<epoch>-<offset>``. Offsets of a room count up by one; the epoch changes when the room's history
  was lost. Assigning the id, storing the event and announcing it are one atomic step, so every node sees one order.
- A repeat of an idempotency key within ``KEY_TTL`` returns the first id, stores nothing and announces nothing.
- ``history`` tells the truth: every event after ``since`` in order, or that it no longer reaches back.
- ``admit`` never lets more than ``limit`` leases of a user exist at once, counted over all nodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

#: How long an idempotency key is remembered, in seconds.
KEY_TTL = 300.0
#: How much longer a claim holds than what is done under it may take, in seconds: its answer is still to be settled,
#: perhaps by a broker that is away for a moment. A repeat after that cannot publish twice: events have keys, too.
CLAIM_GRACE = 20.0

UserId = int | str


class Event(NamedTuple):
    """A stored event: its ``id`` (``<epoch>-<offset>``) and its opaque ``payload``."""

    id: str
    payload: bytes


class Publication(NamedTuple):
    """An event to publish: to which ``room``, what ``payload``, and an idempotency ``key`` or None."""

    room: str
    payload: bytes
    key: str | None = None


class History(NamedTuple):
    """What a room still keeps.

    ``events`` are those after the ``since`` asked for, oldest first. ``recovered`` is False when the history does not
    reach back to ``since`` (too old, another epoch, or not an id of this room); ``events`` is then empty.
    ``last_id`` is the newest id of the room (offset 0 if nothing was published yet), whether or not that event is
    among ``events``.
    """

    events: Sequence[Event]
    recovered: bool
    last_id: str


class Member(NamedTuple):
    """A user in a room, with the number of connections they are in it with, on all nodes."""

    user_id: UserId
    username: str
    connections: int = 1


class PresenceChange(NamedTuple):
    """What entering or leaving a room did: ``user_changed`` is True for a user's first connection in, or last one out.

    ``users`` is the number of users in the room afterwards.
    """

    user_changed: bool
    users: int


class Listener(Protocol):
    """What a broker tells its node; called on the event loop, never concurrently, and must neither block nor raise."""

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """An event of a subscribed room, in the room's order, each exactly once; perhaps before ``publish`` returns."""

    def on_resync(self, room: str, last_id: str) -> None:
        """Events of a subscribed room were lost for good; the history no longer reaches back."""

    def on_member_lost(self, room: str, member: Member, users: int) -> None:
        """The node that held ``member`` in ``room`` died; ``users`` are left. One node alone is told."""

    def on_member_returned(self, room: str, member: Member, users: int) -> None:
        """``member``, here all the while, had been taken for gone by others; with them there are ``users`` again."""

    def on_signal(self, message: bytes) -> None:
        """A message that some node sent to all nodes with ``signal``; perhaps before ``signal`` returns."""

    def on_signals_lost(self) -> None:
        """Messages of ``signal`` were lost for good, perhaps: how many, and what they said, nobody knows."""


class BrokerMetric(NamedTuple):
    """A figure of the broker for the metrics; ``is_counter`` is True if it only increases."""

    name: str
    meaning: str
    value: float
    is_counter: bool = False


class Broker(ABC):
    """What all nodes share. Every method may raise ``errors.Unavailable`` when the shared part cannot be reached."""

    @abstractmethod
    async def start(self, listener: Listener) -> None:
        """Begin to work for ``listener``; called once, before anything else."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; this node's leases and presence end.

        Every other method raises ``Unavailable`` from now on; closing again is no error.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Prove the whole way to the shared part and back; raise ``Unavailable`` naming the part that is down."""

    def metrics(self) -> Sequence[BrokerMetric]:
        """What this node's metrics tell of the shared part; nothing is asked for it."""
        return ()

    @abstractmethod
    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """Store and announce ``payload`` in ``room``; return its id.

        A ``key`` known in this room returns the first id; the same key in another room is another key.
        """

    @abstractmethod
    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all of ``publications`` in order, or none; return their ids.

        A ``key`` that comes twice within the list is a repeat like any other: the second returns the first id.
        """

    @abstractmethod
    async def subscribe(self, rooms: Iterable[str]) -> None:
        """From now on, tell the listener of events in ``rooms``; those already subscribed stay so."""

    @abstractmethod
    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """Tell the listener no more of ``rooms``."""

    @abstractmethod
    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        """The kept events of ``room``: the oldest ``limit`` after the id ``since``, or the newest ``limit`` without it.

        ``limit`` is 1 or more; None is no limit. Whoever reads on from the last of a page gets the next, and has all
        when that is ``last_id``. ``since`` may be any string that a client sent: what is not an id of this room is
        answered with ``recovered`` False, never with an error. The id with offset 0 is one: it stands before the
        room's first event.
        """

    @abstractmethod
    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """Take a lease for a ``connection`` of this node, unless ``user_id`` has ``limit`` already; True if taken.

        A connection that holds one already keeps it and takes no second: True.
        """

    @abstractmethod
    async def release(self, user_id: UserId, connection: int) -> None:
        """Give a lease back; one that is not held is no error."""

    @abstractmethod
    async def connections(self, user_id: UserId) -> int:
        """How many leases ``user_id`` has, on all nodes."""

    @abstractmethod
    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """Note that a ``connection`` of this node is in ``room``. Entering twice changes nothing (``user_changed``
        False).

        A user has one ``username`` in a room: the one given last. With ``Unavailable`` the connection is in all the
        same; when the shared part is back it learns of it, and the listener is told with ``on_member_returned``.
        """

    @abstractmethod
    async def leave(self, room: str, user_id: UserId, connection: int) -> PresenceChange:
        """Note that it no longer is. Leaving where it never was changes nothing (``user_changed`` False).

        With ``Unavailable`` it is out all the same; the shared part learns of it when it is back.
        """

    @abstractmethod
    async def members(self, room: str) -> list[Member]:
        """Who is in ``room``, in the order they came."""

    @abstractmethod
    async def rooms(self) -> dict[str, int]:
        """The rooms with members, and how many users each has."""

    @abstractmethod
    async def claim(self, key: str, lapse: float) -> bytes | bool:
        """Begin what ``key`` stands for: True, it is yours to do; False, it is being done; bytes, its first answer.

        A claim that is not settled within ``lapse`` seconds can be taken anew, lest a crash block its key for long.
        """

    @abstractmethod
    async def settle(self, key: str, answer: bytes | None) -> None:
        """End what was claimed: remember ``answer`` for ``KEY_TTL``, or with None forget it so it can be done anew."""

    @abstractmethod
    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep ``value`` under ``key`` for ``ttl`` seconds."""

    @abstractmethod
    async def take(self, key: str) -> bytes | None:
        """Take what ``put`` kept, once: the first call gets it, every other None."""

    @abstractmethod
    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """Note for ``ttl`` seconds that tokens of ``user_id`` issued before a Unix time count no longer.

        Of two such times the later holds, whichever was given last.
        """

    @abstractmethod
    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """Note for ``ttl`` seconds that the token of ``user_id`` with this id counts no longer."""

    @abstractmethod
    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """Whether a token of ``user_id`` was revoked; one of which it is not known when it was ``issued`` is old."""

    @abstractmethod
    async def signal(self, message: bytes) -> None:
        """Send ``message`` to the listener of every node, this one included."""
