"""The rooms of this node and the fan-out of events to their members.

Synchronous, and independent of the broker. All frames of one loop iteration are collected and written at
its end (see ``transport.write_scheduler``), so the frames of a room are concatenated once for all its members.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from ..fastpath import WriteQueue, enqueue_all
from ..protocol.messages import is_stored
from ..transport.write_scheduler import MAX_WRITE, WriteScheduler
from .room_type import LocalRoomType, LocalRoomTypes

#: Upper bounds of the delivery time histogram, in seconds.
DELIVERY_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

#: In rooms with at least ``CROWD`` members, ``deliver_later`` waits ``CROWD_DELAY`` seconds for further frames.
CROWD: Final = 50
CROWD_DELAY: Final = 0.025
#: If the frames of a room are more bytes than this for all its members, they are written after those of other rooms.
LARGE: Final = MAX_WRITE // 16


class LocalRoom:
    """A room with members on this node.

    ``members`` is a dict because a dict keeps their order and is smaller than a set. ``pending`` has the frames that
    wait to be written; ``is_scheduled`` is True if they are part of the next flush. ``late`` has the members that
    joined while frames were pending, each with the number of pending frames at that time, which it does not receive.
    """

    __slots__ = ("is_scheduled", "late", "members", "name", "pending", "type")

    def __init__(self, name: str, type: LocalRoomType) -> None:
        self.name = name
        self.type = type
        self.members: dict[WriteQueue, None] = {}
        self.pending: list[bytes] = []
        self.is_scheduled = False
        self.late: dict[WriteQueue, int] | None = None

    def pending_for(self, connection: WriteQueue) -> bytes:
        """Return the pending frames that ``connection`` is to receive."""
        skipped = self.late.get(connection, 0) if self.late is not None else 0
        return b"".join(self.pending[skipped:])


class Delivery(WriteScheduler):
    """The rooms of one node, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, types: LocalRoomTypes | None = None) -> None:
        super().__init__(loop)
        self.types: Final = types or LocalRoomTypes({})
        self.rooms: Final[dict[str, LocalRoom]] = {}
        #: The users' personal rooms. Nearly all have one member, and a tuple is 300 bytes smaller than a ``LocalRoom``.
        self.personal: Final[dict[str, tuple[WriteQueue, ...]]] = {}
        self._scheduled_rooms: list[LocalRoom] = []
        #: Called at the beginning of the scheduled flush.
        self._before_flush: Callable[[], None] | None = None
        #: For the metrics: the number of deliveries in each interval between the bounds, by the time from ``deliver``
        #: to the write, and the sum of these times.
        self.delivery_counts: Final = [0] * (len(DELIVERY_BOUNDS) + 1)
        self.delivery_seconds = 0.0
        #: Deliveries to personal rooms, which are not timed.
        self.personal_deliveries = 0

    # Members.

    def join(self, room: str, connection: WriteQueue) -> None:
        """Add ``connection`` to ``room``. It receives what is delivered from now on, but no frames that are pending.

        A client that resumes has received those from the history. That is also true for one that is a member already.
        """
        entry = self.rooms.get(room)
        if entry is None:
            entry = self.rooms[room] = LocalRoom(room, self.types.of(room))
        entry.members[connection] = None
        if entry.pending:
            if entry.late is None:
                entry.late = {}
            entry.late[connection] = len(entry.pending)

    def leave(self, room: str, connection: WriteQueue) -> bool:
        """Remove ``connection`` from ``room``; return True if no member is left on this node.

        The connection still receives the frames that were pending when it left.
        """
        entry = self.rooms.get(room)
        if entry is None or connection not in entry.members:
            return False
        if entry.pending:
            if pending := entry.pending_for(connection):
                self.send(connection, pending)
            if entry.late is not None:
                entry.late.pop(connection, None)
        del entry.members[connection]
        if entry.members:
            return False
        del self.rooms[room]
        return True

    def send_pending(self, room: str, connection: WriteQueue, *, skips_stored: bool = False) -> None:
        """Send a member the room's pending frames now, which it does not receive later.

        Unless ``skips_stored`` is True, these are all of them. Otherwise they are those that are not stored events:
        the caller sends the stored ones.
        """
        entry = self.rooms.get(room)
        if entry is None or not entry.pending or connection not in entry.members:
            return
        if entry.late is None:
            entry.late = {}
        frames = entry.pending[entry.late.get(connection, 0) :]
        entry.late[connection] = len(entry.pending)
        if skips_stored:
            frames = [frame for frame in frames if not is_stored(frame)]
        if frames:
            self.send(connection, b"".join(frames))

    def has(self, room: str, connection: WriteQueue) -> bool:
        """Return True if ``connection`` is a member of ``room``."""
        entry = self.rooms.get(room)
        return entry is not None and connection in entry.members

    def members(self, room: str) -> Iterable[WriteQueue]:
        """Return the connections of this node in ``room``."""
        entry = self.rooms.get(room)
        return () if entry is None else tuple(entry.members)

    def share_behind(self, room: str) -> float:
        """Return the share of the connections in ``room`` for which the kernel accepts no more bytes: 0 to 1."""
        entry = self.rooms.get(room)
        members = self.personal.get(room, ()) if entry is None else entry.members
        return sum(connection.paused for connection in members) / len(members) if members else 0.0

    def join_personal(self, room: str, connection: WriteQueue) -> bool:
        """Add ``connection`` to its user's personal room; return True if it is the user's first on this node."""
        present = self.personal.get(room, ())
        self.personal[room] = (*present, connection)
        return not present

    def leave_personal(self, room: str, connection: WriteQueue) -> bool:
        """Remove ``connection`` from its user's personal room; return True if it was the user's last on this node."""
        present = self.personal.get(room, ())
        rest = tuple(one for one in present if one is not connection)
        if rest:
            self.personal[room] = rest
        else:
            self.personal.pop(room, None)
        return not rest and bool(present)

    # Fan-out.

    def deliver(self, room: str, frame: bytes) -> None:
        """Send ``frame`` to every member of ``room`` at the end of this loop iteration."""
        entry = self.rooms.get(room)
        if entry is None:
            present = self.personal.get(room, ())
            self.personal_deliveries += len(present)
            for connection in present:
                self.send(connection, frame)
            return
        entry.pending.append(frame)
        if not entry.is_scheduled:  # inlined from _schedule_room: every event passes here
            entry.is_scheduled = True
            self._scheduled_rooms.append(entry)
            if not self._is_scheduled:
                self.schedule()

    def deliver_later(self, room: str, frame: bytes) -> None:
        """Send ``frame`` to every member of ``room`` in order, but in a large room with a delay of ``CROWD_DELAY``.

        If many clients return at once, writing each join to all members by itself has quadratic cost: 1,000 joins of
        one room take 9 s without the delay and 0.4 to 0.7 s with it.
        """
        entry = self.rooms.get(room)
        if entry is None or entry.is_scheduled or len(entry.members) < CROWD:
            self.deliver(room, frame)
            return
        if not entry.pending:
            self._loop.call_later(CROWD_DELAY, self._end_delay, entry)
        entry.pending.append(frame)

    def _end_delay(self, entry: LocalRoom) -> None:
        if entry.pending and not entry.is_scheduled:
            self._schedule_room(entry)

    def _schedule_room(self, entry: LocalRoom) -> None:
        entry.is_scheduled = True
        self._scheduled_rooms.append(entry)
        if not self._is_scheduled:
            self.schedule()

    def call_before_room_frames(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in this loop iteration, before the frames that ``deliver`` receives from now on are sent.

        There may be one callback at a time.
        """
        if self._is_scheduled:
            self._before_flush = callback
        else:
            self._loop.call_soon(callback)

    def _enqueue_room_frames(self, dirty: list[WriteQueue]) -> tuple[int, int, int]:
        if self._before_flush is not None:
            callback, self._before_flush = self._before_flush, None
            callback()
        rooms, self._scheduled_rooms = self._scheduled_rooms, []
        deliveries = size = large_size = 0
        large: list[tuple[dict[WriteQueue, None], bytes]] = []
        for room in rooms:
            frames = room.pending
            members = room.members if room.late is None else self._members_on_time(room)
            room.pending = []
            room.is_scheduled = False
            count = len(room.members)
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            room_size = len(data) * count
            count *= len(frames)
            if room_size > LARGE:
                large_size += room_size
                large.append((members, data))
            else:
                size += room_size
                enqueue_all(members, data, dirty)
            deliveries += count
            room.type.deliveries += count
        urgent = len(dirty) if size <= MAX_WRITE else 0
        for members, data in large:
            enqueue_all(members, data, dirty)
        return deliveries, size + large_size, urgent

    def _members_on_time(self, room: LocalRoom) -> dict[WriteQueue, None]:
        """Return the members that receive all pending frames; send the late ones the frames since they joined."""
        late = room.late or {}
        members = {connection: None for connection in room.members if connection not in late}
        for connection in late:
            if pending := room.pending_for(connection):
                self.send(connection, pending)
        room.late = None
        return members

    def _record_deliveries(self, deliveries: int, seconds: float) -> None:
        self.delivery_counts[bisect_left(DELIVERY_BOUNDS, seconds)] += deliveries
        self.delivery_seconds += seconds * deliveries
