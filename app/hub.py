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
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .connection import Connection


#: Upper bounds of the delivery time histogram, in seconds.
DELIVERY_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Room:
    """A room with members on this node. ``members`` is a dict for its order and because it is smaller than a set."""

    __slots__ = ("members", "name", "pending")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[Connection, None] = {}
        self.pending: list[bytes] | None = None


class Hub:
    """The rooms and the outbox of one node, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self.rooms: Final[dict[str, Room]] = {}
        #: The users' own rooms, apart because nearly each has one member: a tuple is 300 bytes less than a ``Room``.
        self.personal: Final[dict[str, tuple[Connection, ...]]] = {}
        self._rooms_due: list[Room] = []
        self._connections_due: list[Connection] = []
        self._scheduled = False
        self._since = 0.0
        #: For the metrics: deliveries by how long they took from ``deliver`` to written, as counts between the bounds.
        self.delivery_counts: Final = [0] * (len(DELIVERY_BOUNDS) + 1)
        self.delivery_seconds = 0.0

    def join(self, room: str, connection: Connection) -> bool:
        """Add ``connection`` to ``room``; True if it is the room's first member here.

        What is waiting for the room goes out first: the newcomer has, or will get, those events from the history, and
        must not see them twice.
        """
        entry = self.rooms.get(room)
        if entry is None:
            entry = self.rooms[room] = Room(room)
        elif entry.pending is not None:
            self.flush()
        entry.members[connection] = None
        return len(entry.members) == 1

    def leave(self, room: str, connection: Connection) -> bool:
        """Take ``connection`` out of ``room``; True if nobody of this node is left in it.

        It still gets what was published before it left and waits for the end of the turn.
        """
        entry = self.rooms.get(room)
        if entry is None or connection not in entry.members:
            return False
        if entry.pending is not None:
            self.flush()
        del entry.members[connection]
        if entry.members:
            return False
        del self.rooms[room]
        return True

    def has(self, room: str, connection: Connection) -> bool:
        """Whether ``connection`` is in ``room``."""
        entry = self.rooms.get(room)
        return entry is not None and connection in entry.members

    def members(self, room: str) -> Iterable[Connection]:
        """The connections of this node in ``room``."""
        entry = self.rooms.get(room)
        return () if entry is None else tuple(entry.members)

    def join_personal(self, room: str, connection: Connection) -> bool:
        """Put ``connection`` into its user's own room; True if it is the first of the user here."""
        present = self.personal.get(room, ())
        self.personal[room] = (*present, connection)
        return not present

    def leave_personal(self, room: str, connection: Connection) -> bool:
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
            for connection in self.personal.get(room, ()):
                self.send(connection, frame)
        elif entry.pending is None:
            entry.pending = [frame]
            self._rooms_due.append(entry)
            if not self._scheduled:
                self._schedule()
        else:
            entry.pending.append(frame)

    def send(self, connection: Connection, frame: bytes) -> None:
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
        self._scheduled = False
        rooms = self._rooms_due
        due = self._connections_due
        self._rooms_due = []
        self._connections_due = []
        delivered = 0
        if len(rooms) == 1 and not due:
            delivered = self._write_room(rooms[0])
        else:
            for room in rooms:
                delivered += self._spread(room, due)
            for connection in due:
                pending = connection.pending
                connection.pending = None
                if pending is not None:
                    connection.write(pending if pending.__class__ is bytes else b"".join(pending))  # type: ignore[arg-type]
        if delivered:
            took = time.perf_counter() - self._since
            self.delivery_counts[bisect_left(DELIVERY_BOUNDS, took)] += delivered
            self.delivery_seconds += took * delivered

    @staticmethod
    def _write_room(room: Room) -> int:
        """Write a lone room's frames straight to its members."""
        frames = room.pending or ()
        room.pending = None
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        for connection in room.members:
            connection.write(data)
        return len(frames) * len(room.members)

    @staticmethod
    def _spread(room: Room, due: list[Connection]) -> int:
        """Add a room's frames to what each of its members will get in this turn."""
        frames = room.pending or ()
        room.pending = None
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        for connection in room.members:
            pending = connection.pending
            if pending is None:
                connection.pending = data
                due.append(connection)
            elif pending.__class__ is list:
                pending.append(data)
            else:
                connection.pending = [pending, data]  # type: ignore[list-item]
        return len(frames) * len(room.members)
