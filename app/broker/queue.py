"""The interface of a queue: payloads that are stored until one node has processed them.

All nodes append to a queue. At any time one node, the consumer, has its lease and reads from it. An entry stays in the
queue until the consumer removes it, so that another node processes it if the consumer dies. A queue has two further
parts:

- Dead letters: entries that could not be processed. They stay until an operator retries or deletes them.
- States: a small table of texts in which the consumer records what it has done. All nodes may read it.

``tests/support/broker_contract/queues.py`` checks these guarantees:

- Entries of one node are read in the order in which it appended them. An entry may be read again, never in between.
- An entry that was appended is read until it is removed, unless the queue exceeds its limits. Then the oldest entries
  are dropped and counted.
- At most one node has the lease, by the clock of the shared part.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

#: Two numbers of up to 64 bits, as in a stream of Redis.
_is_id: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII).fullmatch

#: What ``Queue.acquire`` did: it took the lease, or extended that of this node.
LeaseChange = Literal["taken", "extended"]


class QueueLimits(NamedTuple):
    """The limits of one queue: of its entries, of the bytes of their payloads, and of its dead letters."""

    entries: int
    bytes: int
    dead_letters: int


class QueueEntry(NamedTuple):
    """An entry. ``age`` is how long ago it was appended, in seconds, when it was read."""

    id: str
    payload: bytes
    age: float


class DeadLetter(NamedTuple):
    """An entry that could not be processed, the ``reason``, and the Unix time at which it was given up."""

    id: str
    payload: bytes
    reason: str
    time: float


class QueueInfo(NamedTuple):
    """The state of a queue: its number of entries and their bytes, the age of the oldest in seconds, and dead letters.

    ``consumer`` is the node that has the lease, or None.
    """

    entries: int
    bytes: int
    oldest_age: float
    dead_letters: int
    consumer: str | None


class Queue(ABC):
    """One queue. Every method raises ``errors.Unavailable`` if the shared part cannot be reached."""

    #: The number of entries that were dropped because the queue was full when this node appended others.
    dropped: int = 0

    @abstractmethod
    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append an entry for each of ``payloads``, in order. If this raises, they may have been appended."""

    # For the consumer.

    @abstractmethod
    async def acquire(self, lease: float) -> LeaseChange | None:
        """Take or extend the lease for ``lease`` seconds. Return None if another node has it.

        After ``"taken"``, the shared part may have lost data, or another node may have had the lease in between.
        """

    @abstractmethod
    async def release(self) -> None:
        """Give the lease back. Without the lease this has no effect."""

    @abstractmethod
    async def read(self, limit: int, max_bytes: int) -> Sequence[QueueEntry] | None:
        """Return the next entries in order, at most ``limit``, and no more after ``max_bytes`` bytes.

        Return None if this node does not have the lease. After the lease was taken, after ``rewind``, and after a read
        that failed, reading begins again with the oldest entry, so the caller must skip those that it knows.
        """

    @abstractmethod
    def rewind(self) -> None:
        """Let the next ``read`` begin with the oldest entry. Do not call it during a ``read``."""

    @abstractmethod
    async def remove(self, entries: Sequence[QueueEntry]) -> None:
        """Remove entries that were processed. Those that are not there are skipped."""

    @abstractmethod
    async def bury(self, entries: Sequence[QueueEntry], reason: str) -> None:
        """Remove entries that cannot be processed, and store them as dead letters."""

    @abstractmethod
    async def write_states(self, states: Mapping[str, str | None]) -> bool:
        """Store texts under their names; None deletes one. Return False, and store nothing, without the lease."""

    # For every node.

    @abstractmethod
    async def read_states(self) -> dict[str, str]:
        """Return all states. Those that change meanwhile may be missing or have either value."""

    @abstractmethod
    async def info(self) -> QueueInfo:
        """Return the sizes and the consumer."""

    # For operators.

    @abstractmethod
    async def dead_letters(self, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return at most ``limit`` dead letters, oldest first, after the one with the id ``after``.

        Raises ``ValueError`` if ``after`` is not an id.
        """

    @abstractmethod
    async def retry(self, ids: Sequence[str]) -> int:
        """Append the dead letters with these ids as new entries; return how many there were.

        Raises ``ValueError`` if one of them is not an id.
        """

    @abstractmethod
    async def delete(self, ids: Sequence[str]) -> int:
        """Delete the dead letters with these ids; return how many there were. Raises ``ValueError`` as ``retry``."""


class Queues(ABC):
    """The part of a broker that has queues."""

    @abstractmethod
    def queue(self, name: str) -> Queue:
        """Return the queue ``name``, always the same object. It begins empty. ``name`` is a lower-case word."""


def parse_id(id: str) -> tuple[int, int]:
    """Return the two numbers of the id of an entry or a dead letter. Raises ``ValueError`` for other texts."""
    if (found := _is_id(id)) is None:
        raise ValueError("not an id")
    return int(found[1]), int(found[2])
