"""Who is in which room on this node, and the fan-out to them. Synchronous; knows no broker and no JSON.

A write to a socket is a system call, 5 to 10 us, and nothing else here costs as much. So what is sent during one turn
of the event loop is collected, and at its end each connection gets one write for all of it. Under load the batches
grow by themselves; when idle nothing waits.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from .hot import Outlet, batches_writes, spread, write_pending

#: Upper bounds of the delivery time histogram, in seconds.
DELIVERY_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


#: Rooms of so many members get what can wait (``deliver_later``) this many seconds later, with what has come meanwhile.
CROWD: Final = 50
CROWD_DELAY: Final = 0.025


class Room:
    """A room with members on this node. ``members`` is a dict for its order and because it is smaller than a set.

    ``pending`` are the frames that wait, ``due`` whether they go out at the end of this turn. ``late`` has the members
    that came while frames were waiting, and how many of those they have already from the history.
    """

    __slots__ = ("due", "late", "members", "name", "pending")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[Outlet, None] = {}
        self.pending: list[bytes] = []
        self.due = False
        self.late: dict[Outlet, int] | None = None

    def waiting_for(self, connection: Outlet) -> bytes:
        """What waits for one member."""
        known = self.late.get(connection, 0) if self.late is not None else 0
        return b"".join(self.pending[known:])


class Hub:
    """The rooms and the outbox of one node, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        batches_writes()  # found out now: a sandbox that kills who asks for io_uring shall do it at the start
        self.rooms: Final[dict[str, Room]] = {}
        #: The users' own rooms, apart because nearly each has one member: a tuple is 300 bytes less than a ``Room``.
        self.personal: Final[dict[str, tuple[Outlet, ...]]] = {}
        self._rooms_due: list[Room] = []
        self._connections_due: list[Outlet] = []
        self._scheduled = False
        self._since = 0.0
        #: For the metrics: deliveries by how long they took from ``deliver`` to written, as counts between the bounds.
        self.delivery_counts: Final = [0] * (len(DELIVERY_BOUNDS) + 1)
        self.delivery_seconds = 0.0
        #: Deliveries to users' own rooms, which are not timed.
        self.personal_deliveries = 0

    def join(self, room: str, connection: Outlet) -> None:
        """Add ``connection`` to ``room``; it gets what is delivered from now on.

        What still waits for the end of the turn was published before. Who resumes has that from the history, and must
        not get it twice; that holds for a member too.
        """
        entry = self.rooms.get(room)
        if entry is None:
            entry = self.rooms[room] = Room(room)
        entry.members[connection] = None
        if entry.pending:
            if entry.late is None:
                entry.late = {}
            entry.late[connection] = len(entry.pending)

    def leave(self, room: str, connection: Outlet) -> bool:
        """Take ``connection`` out of ``room``; True if nobody of this node is left in it.

        It still gets what was published before it left and waits for the end of the turn.
        """
        entry = self.rooms.get(room)
        if entry is None or connection not in entry.members:
            return False
        if entry.pending:
            if waiting := entry.waiting_for(connection):
                self.send(connection, waiting)
            if entry.late is not None:
                entry.late.pop(connection, None)
        del entry.members[connection]
        if entry.members:
            return False
        del self.rooms[room]
        return True

    def has(self, room: str, connection: Outlet) -> bool:
        """Whether ``connection`` is in ``room``."""
        entry = self.rooms.get(room)
        return entry is not None and connection in entry.members

    def members(self, room: str) -> Iterable[Outlet]:
        """The connections of this node in ``room``."""
        entry = self.rooms.get(room)
        return () if entry is None else tuple(entry.members)

    def join_personal(self, room: str, connection: Outlet) -> bool:
        """Put ``connection`` into its user's own room; True if it is the first of the user here."""
        present = self.personal.get(room, ())
        self.personal[room] = (*present, connection)
        return not present

    def leave_personal(self, room: str, connection: Outlet) -> bool:
        """Take ``connection`` out of its user's own room; True if it was the user's last one here."""
        present = self.personal.get(room, ())
        rest = tuple(one for one in present if one is not connection)
        if rest:
            self.personal[room] = rest
        else:
            self.personal.pop(room, None)
        return not rest and bool(present)

    def deliver(self, room: str, frame: bytes) -> None:
        """Send ``frame`` to every member of ``room`` at the end of this turn."""
        entry = self.rooms.get(room)
        if entry is None:
            present = self.personal.get(room, ())
            self.personal_deliveries += len(present)
            for connection in present:
                self.send(connection, frame)
            return
        entry.pending.append(frame)
        if not entry.due:
            entry.due = True
            self._rooms_due.append(entry)
            if not self._scheduled:
                self._schedule()

    def deliver_later(self, room: str, frame: bytes) -> None:
        """Send ``frame`` to every member of ``room``, in its order, but if they are a crowd not at once.

        A crowd that comes back would cost its square if each arrival were written to all by itself: 1,000 joins into
        one room took 9 s, and take 0.4 to 0.7 s this way.
        """
        entry = self.rooms.get(room)
        if entry is None or entry.due or len(entry.members) < CROWD:
            self.deliver(room, frame)
            return
        if not entry.pending:
            self._loop.call_later(CROWD_DELAY, self._ripen, entry)
        entry.pending.append(frame)

    def _ripen(self, entry: Room) -> None:
        if entry.pending and not entry.due:
            entry.due = True
            self._rooms_due.append(entry)
            if not self._scheduled:
                self._schedule()

    def send(self, connection: Outlet, frame: bytes) -> None:
        """Send ``frame`` to one ``connection`` at the end of this turn, before what its rooms get in the same turn."""
        pending = connection.pending
        if pending is None:
            connection.pending = frame
            self._connections_due.append(connection)
            if not self._scheduled:
                self._schedule()
        elif pending.__class__ is list:
            pending.append(frame)
        else:
            connection.pending = [pending, frame]  # type: ignore[list-item]

    def _schedule(self) -> None:
        self._scheduled = True
        self._since = time.perf_counter()
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything that waits, one write for each connection."""
        rooms = self._rooms_due
        self._rooms_due = []
        due = self._connections_due
        delivered = 0
        for room in rooms:
            frames = room.pending
            members = room.members if room.late is None else self._on_time(room)
            room.pending = []
            room.due = False
            spread(members, frames[0] if len(frames) == 1 else b"".join(frames), due)
            delivered += len(frames) * len(room.members)
        self._connections_due = []
        self._scheduled = False
        try:
            write_pending(due)
        except BaseException:  # of one of them: it has lost what it was sent, but the others have it coming
            for connection in due:
                if connection.pending is not None:
                    self._connections_due.append(connection)
            if self._connections_due and not self._scheduled:
                self._schedule()
            raise
        if delivered:
            took = time.perf_counter() - self._since
            self.delivery_counts[bisect_left(DELIVERY_BOUNDS, took)] += delivered
            self.delivery_seconds += took * delivered

    def _on_time(self, room: Room) -> dict[Outlet, None]:
        """The members of ``room`` that get all of what waits; the others are sent what they have not got yet."""
        late = room.late or {}
        members = {connection: None for connection in room.members if connection not in late}
        for connection in late:
            if waiting := room.waiting_for(connection):
                self.send(connection, waiting)
        room.late = None
        return members
