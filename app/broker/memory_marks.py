"""Marks in the memory of this process: up to where each user has read each room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from .event_log import EventLog
from .read_marks import MAX_MARKS, Mark, ReadMarks

UserId = int | str

#: The limit for the marks of all users together. Beyond it, the users who have set none for longest lose theirs. A mark
#: takes 110 bytes, and 420 if it is the only one of its user.
MAX_ALL_MARKS: Final = 500_000


class _UserMarks:
    """The marks of one user by room, each as an offset and the number of messages; the one that was set last is last.

    ``used_at`` is the time of the last one.
    """

    __slots__ = ("by_room", "used_at")

    def __init__(self, now: float) -> None:
        self.by_room: dict[str, tuple[int, int]] = {}
        self.used_at = now


class MemoryMarks(ReadMarks):
    """The marks of all users, in rooms whose events are in ``logs``.

    ``rooms`` has the number of marks in each room. The broker must not drop these rooms, so that their ids and counts
    stay comparable. ``check_running`` raises if the broker is not running. Marks expire ``read_ttl`` seconds after the
    last one of their user.

    A message moves the mark of its author. Because most rooms have several messages of one author in a row, the log of
    the room remembers the newest author, and the mark is written with ``write_own``: before an event that is not
    another message of this author, when the author marks the room, and with each sweep. It counts as set at that time.
    """

    def __init__(
        self,
        logs: Mapping[str, EventLog],
        check_running: Callable[[], None],
        read_ttl: float,
        clock: Callable[[], float],
        max_marks: int = MAX_ALL_MARKS,
    ) -> None:
        self._logs: Final = logs
        self._check_running: Final = check_running
        self._read_ttl: Final = read_ttl
        self._clock: Final = clock
        self._max_marks: Final = max_marks
        self.rooms: Final[dict[str, int]] = {}
        #: In order of the last mark of each user.
        self._users: Final[OrderedDict[UserId, _UserMarks]] = OrderedDict()
        self._count = 0

    async def move(self, room: str, user_id: UserId, event_id: str) -> Mark | None:
        """See ``ReadMarks``."""
        self._check_running()
        log = self._logs.get(room)
        position = None if log is None else log.position(event_id)
        if log is None or position is None:
            return None
        if log.messages is not None and log.messages.author == user_id:
            self.write_own(room, log, self._clock())
        offset, messages = self._set(room, user_id, *position)
        return Mark(f"{log.prefix}{offset}", messages)

    def write_own(self, room: str, log: EventLog, now: float) -> None:
        """Write the mark of the author whom ``log`` remembers, if any. It is at the newest event.

        The broker must call it before it appends an event that is not another message of this author, before it drops
        ``room``, and before ``expire``. ``now`` is the time of the broker.
        """
        counts = log.messages
        if counts is None or counts.author is None:
            return
        user_id, counts.author = counts.author, None
        user = self._users.get(user_id)
        if user is None or user.by_room.pop(room, None) is None:
            self._set(room, user_id, log.last_offset, log.message_count)
            return
        user.by_room[room] = (log.last_offset, log.message_count)
        user.used_at = now
        self._users.move_to_end(user_id)

    def _set(self, room: str, user_id: UserId, offset: int, messages: int) -> tuple[int, int]:
        """Move a mark forward; return it."""
        now = self._clock()
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _UserMarks(now)
        else:
            self._users.move_to_end(user_id)
            user.used_at = now
        known = user.by_room.pop(room, None)
        mark = (offset, messages) if known is None or offset > known[0] else known
        user.by_room[room] = mark
        if known is None:
            self.rooms[room] = self.rooms.get(room, 0) + 1
            self._count += 1
            if len(user.by_room) > MAX_MARKS:
                oldest = next(iter(user.by_room))
                del user.by_room[oldest]
                self._release(oldest)
            while self._count > self._max_marks:
                self._drop_first()
        return mark

    async def count_read(self, room: str, user_id: UserId) -> int:
        """See ``ReadMarks``."""
        self._check_running()
        log = self._logs.get(room)
        if log is not None and log.messages is not None and log.messages.author == user_id:
            return log.message_count
        user = self._users.get(user_id)
        mark = None if user is None else user.by_room.get(room)
        if mark is not None:
            return mark[1]
        return 0 if log is None else log.messages_dropped(self._clock())

    def count_all(self, room: str) -> int:
        """See ``ReadMarks``."""
        log = self._logs.get(room)
        return 0 if log is None else log.message_count

    def expire(self, now: float, limit: int) -> bool:
        """Drop the marks of up to ``limit`` users that have expired; return True if there may be more."""
        for _ in range(limit):
            first = next(iter(self._users.values()), None)
            if first is None or first.used_at + self._read_ttl > now:
                return False
            self._drop_first()
        return True

    def _drop_first(self) -> None:
        """Drop all marks of the user who has set none for longest."""
        _, user = self._users.popitem(last=False)
        for room in user.by_room:
            self._release(room)

    def _release(self, room: str) -> None:
        """Record that there is one mark less in ``room``."""
        self._count -= 1
        left = self.rooms[room] - 1
        if left:
            self.rooms[room] = left
        else:
            del self.rooms[room]
