"""Deliver events that are not stored to the members of this node, at a bounded cost.

Stored events come first. Live events wait in queues of their own, are only written to connections that can take them,
and the node spends at most ``WRITE_RATE`` writes a second on them. A room of ``CROWD`` members or more collects them
for a while, because a write costs more than the bytes in it.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Final

import orjson

from ..fastpath import WriteQueue
from ..protocol import frames
from ..protocol.user_id import personal_room
from .counters import Counters
from .delivery import CROWD, CROWD_DELAY, Delivery
from .live_queue import BATCH_BYTES, LiveQueue

#: How long a room collects live events, in seconds for each member, and at most.
_DELAY_PER_MEMBER: Final = 0.00025
_LONGEST_DELAY: Final = 0.25
#: How many bytes of live events may wait on a node.
MAX_NODE_BYTES: Final = 16 * 2**20
#: To how many connections a node writes live events, per second and at once. A write takes 5 to 10 us, so this is 10 to
#: 20 % of a core, and at most 5 ms at once. A write of ``BATCH_BYTES`` counts twice.
WRITE_RATE: Final = 20_000
WRITE_BURST: Final = 500

#: The connections in a room.
Members = dict[WriteQueue, None] | tuple[WriteQueue, ...]


class _Batch:
    """Live events that are being written to a room: ``count`` frames in ``data``; some members receive ``others``.

    ``position`` is the number of ``members`` that were served.
    """

    __slots__ = ("count", "data", "members", "others", "position")

    def __init__(self, data: bytes, count: int, members: Members, others: dict[WriteQueue, bytes]) -> None:
        self.data = data
        self.count = count
        self.members = list(members)
        self.others = others
        self.position = 0


class _Room:
    """A room with live events. ``due`` is the loop time of the next batch, ``batch`` the current one."""

    __slots__ = ("batch", "due", "queue")

    def __init__(self, due: float) -> None:
        self.due = due
        self.queue = LiveQueue()
        self.batch: _Batch | None = None


class LiveDelivery:
    """The live events of one node on their way to its members. Keeps a room only while events wait there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delivery: Delivery, counters: Counters) -> None:
        self._loop: Final = loop
        self._delivery: Final = delivery
        self._counters: Final = counters
        self._rooms: Final[dict[str, _Room]] = {}
        #: The rooms that are due at the end of this loop iteration.
        self._soon: list[str] = []
        self._has_timer = False
        self._numbers: Final = count()
        #: The size of all queues, in bytes.
        self._size = 0
        #: The number of writes that are allowed now, and the loop time at which that was calculated.
        self._budget: float = WRITE_BURST
        self._counted_at = 0.0

    def receive(self, room: str, message: bytes) -> None:
        """Receive an event from the broker, as ``live_events.encode`` made it."""
        members = len(self._members(room))
        if not members:
            return
        if self._size > MAX_NODE_BYTES:
            self._drop_overflow(room, members)
            return
        head, _, payload = message.partition(b"\n")
        user_id, sender, type, others_only = orjson.loads(head)
        entry = self._rooms.get(room)
        if entry is None:
            entry = self._rooms[room] = _Room(self._loop.time() + _delay(members))
            if members < CROWD:
                if not self._soon:
                    self._delivery.call_before_room_frames(self._run_soon)
                self._soon.append(room)
            else:
                self._set_timer()
        key = next(self._numbers) if type is None else type
        queue = entry.queue
        before = queue.size
        dropped = queue.add((user_id, sender), key, frames.text(payload), others_only=others_only)
        self._size += queue.size - before
        if dropped:
            self._drop_overflow(room, dropped * members)

    def _drop_overflow(self, room: str, deliveries: int) -> None:
        self._counters.live_overflows += deliveries
        self._delivery.types.of(room).live_drops += deliveries

    def _members(self, room: str) -> Members:
        entry = self._delivery.rooms.get(room)
        return self._delivery.personal.get(room, ()) if entry is None else entry.members

    # Timing.

    def _run_soon(self) -> None:
        soon, self._soon = self._soon, []
        self._refill()
        try:
            for room in soon:
                entry = self._rooms.get(room)
                # Half of the budget is for rooms that wait for their turn.
                if entry is not None and self._budget > WRITE_BURST / 2:
                    self._write(room, entry)
        finally:
            self._set_timer()

    def _run(self) -> None:
        self._has_timer = False
        now = self._refill()
        try:
            for room, entry in list(self._rooms.items()):
                if self._budget <= 0:
                    break
                if entry.due <= now or entry.batch is not None:
                    self._write(room, entry)
        finally:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._rooms and not self._has_timer:
            self._has_timer = True
            self._loop.call_later(CROWD_DELAY, self._run)

    def _refill(self) -> float:
        """Update the budget; return the loop time."""
        now = self._loop.time()
        self._budget = min(WRITE_BURST, self._budget + (now - self._counted_at) * WRITE_RATE)
        self._counted_at = now
        return now

    # Writing.

    def _write(self, room: str, entry: _Room) -> None:
        """Write a batch to the members of the room, or as much of one as the budget allows."""
        members = self._members(room)
        batch = entry.batch = entry.batch or self._next_batch(entry, members)
        cost = 1 + len(batch.data) / BATCH_BYTES
        begin, end = batch.position, batch.position + int(self._budget / cost) + 1
        part = batch.members[begin:end]
        batch.position = end
        self._budget -= len(part) * cost
        for connection in part:
            if connection not in members:
                continue
            if connection.paused:
                self._counters.live_skips += batch.count
                self._delivery.types.of(room).live_drops += batch.count
            elif data := batch.others.get(connection, batch.data):
                self._delivery.send(connection, data)
        if end < len(batch.members):
            return
        entry.batch = None
        del self._rooms[room]
        if entry.queue:
            entry.due = self._loop.time() + max(_delay(len(members)), CROWD_DELAY)
            self._rooms[room] = entry  # behind the others

    def _next_batch(self, entry: _Room, members: Members) -> _Batch:
        self._size -= entry.queue.size
        segments = entry.queue.take()
        self._size += entry.queue.size
        parts = [b"".join(segment.frames) for segment in segments]
        others: dict[WriteQueue, bytes] = {}
        for number, (source, sent, for_user) in enumerate(segments):
            user_id, _ = source
            if user_id is not None and len(for_user) < len(sent):
                data = b"".join([*parts[:number], *for_user, *parts[number + 1 :]])
                for connection in self._delivery.personal.get(personal_room(user_id), ()):
                    others[connection] = data
        return _Batch(b"".join(parts), sum(len(segment.frames) for segment in segments), members, others)


def _delay(members: int) -> float:
    """Return how long a room collects live events, in seconds."""
    return 0.0 if members < CROWD else min(max(CROWD_DELAY, members * _DELAY_PER_MEMBER), _LONGEST_DELAY)
