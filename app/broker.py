"""The Broker contract and its promises, and the broker that lives in this process.

A broker is what all nodes of one roomcast share: events with their order, ids and history; who is in which room;
how many connections a user has. Payloads are opaque bytes to it.

Promises, kept by every broker and checked by one suite (``tests/test_broker.py``):

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
    ``last_id`` is the newest id of the room (offset 0 if nothing was published yet).
    """

    events: Sequence[Event]
    recovered: bool
    last_id: str


class Member(NamedTuple):
    """A user in a room, with the number of connections they are in it with, on all nodes."""

    user_id: UserId
    username: str
    connections: int = 1


class Change(NamedTuple):
    """What entering or leaving a room did: ``edge`` is True for a user's first connection in, or last one out.

    ``users`` is the number of users in the room afterwards.
    """

    edge: bool
    users: int


class Listener(Protocol):
    """What a broker tells its node; called on the event loop, never concurrently, and must not block."""

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """An event of a subscribed room, in the room's order, each exactly once."""

    def on_resync(self, room: str, last_id: str) -> None:
        """Events of a subscribed room were lost for good; the history no longer reaches back."""

    def on_signal(self, message: bytes) -> None:
        """A message that some node sent to all nodes with ``signal``."""


class Broker(ABC):
    """What all nodes share. Every method may raise ``errors.Unavailable`` when the shared part cannot be reached."""

    @abstractmethod
    async def start(self, listener: Listener) -> None:
        """Begin to work for ``listener``; called once, before anything else."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; this node's leases and presence end."""

    @abstractmethod
    async def ping(self) -> None:
        """Prove the whole way to the shared part and back; raise ``Unavailable`` naming the part that is down."""

    @abstractmethod
    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """Store and announce ``payload`` in ``room``; return its id. A known ``key`` returns the first id."""

    @abstractmethod
    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all of ``publications`` in order, or none; return their ids."""

    @abstractmethod
    async def subscribe(self, rooms: Iterable[str]) -> None:
        """From now on, tell the listener of events in ``rooms``; those already subscribed stay so."""

    @abstractmethod
    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """Tell the listener no more of ``rooms``."""

    @abstractmethod
    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        """The kept events of ``room`` after the id ``since`` (None: all that is kept), the newest ``limit`` of them.

        With ``since`` and more than ``limit`` events after it, ``recovered`` is False.
        """

    @abstractmethod
    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """Take a lease for a ``connection`` of this node, unless ``user_id`` has ``limit`` already; True if taken."""

    @abstractmethod
    async def release(self, user_id: UserId, connection: int) -> None:
        """Give a lease back; one that is not held is no error."""

    @abstractmethod
    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> Change:
        """Note that a ``connection`` of this node is in ``room``. Entering twice changes nothing (edge False)."""

    @abstractmethod
    async def leave(self, room: str, user_id: UserId, connection: int) -> Change:
        """Note that it no longer is. Leaving where it never was changes nothing (edge False)."""

    @abstractmethod
    async def members(self, room: str) -> list[Member]:
        """Who is in ``room``, in the order they came."""

    @abstractmethod
    async def rooms(self) -> dict[str, int]:
        """The rooms with members, and how many users each has."""

    @abstractmethod
    async def claim(self, key: str) -> bytes | bool:
        """Begin what ``key`` stands for: True, it is yours to do; False, it is being done; bytes, its first answer."""

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
    async def signal(self, message: bytes) -> None:
        """Send ``message`` to the listener of every node, this one included."""
