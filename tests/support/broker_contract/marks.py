"""The contract for marks: up to where users have read, and how many messages follow."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker import memory_marks
from roomcast.broker.base import Publication
from roomcast.broker.read_marks import READ_TTL
from roomcast.broker.redis import read_marks

from .harness import HISTORY_BYTES, HISTORY_SIZE, HISTORY_TTL, OTHER, ROOM, Harness, not_ids, split


class MarkContract:
    """Marks and unread messages in ROOM."""

    async def _send(self, harness: Harness, count: int = 1, room: str = ROOM, author: int | None = None) -> list[str]:
        """Publish messages; return their ids."""
        return [await harness.broker.publish(room, b"%d" % i, None, True, author) for i in range(count)]

    async def _unread(self, harness: Harness, user_id: int | str = 1, room: str = ROOM) -> int:
        """Return the number of unread messages, when the listener has received all events."""
        await harness.broker.subscribe([room])
        await harness.received_events()
        last_id = (await harness.broker.history(room)).last_id  # the listener has received it when this returns
        assert last_id
        marks = harness.broker.marks
        return marks.count_all(room) - await marks.count_read(room, user_id)

    async def test_a_room_without_events(self, harness: Harness) -> None:
        """Nothing is unread, and nothing can be marked."""
        assert await self._unread(harness) == 0
        last_id = (await harness.broker.history(ROOM)).last_id
        assert await harness.broker.marks.move(ROOM, 1, last_id) is None

    async def test_without_a_mark_the_history_is_unread(self, harness: Harness) -> None:
        """A user without a mark has not read the messages in the history."""
        await self._send(harness, 3)
        assert await self._unread(harness) == 3
        await self._send(harness, HISTORY_SIZE)
        assert await self._unread(harness) == HISTORY_SIZE

    async def test_only_messages_count(self, harness: Harness) -> None:
        """Other events are not unread, wherever they are in the history."""
        await harness.fill(2)
        await self._send(harness)
        await harness.fill(1)
        await self._send(harness)
        assert await self._unread(harness) == 2
        await harness.fill(HISTORY_SIZE - 1)
        assert await self._unread(harness) == 1
        await harness.fill(1)
        assert await self._unread(harness) == 0

    async def test_a_mark_at_each_event(self, harness: Harness) -> None:
        """Any event can be marked; the messages after it are unread."""
        ids = [
            *await harness.fill(1),
            *await self._send(harness),
            *await harness.fill(1),
            *await self._send(harness),
            *await harness.fill(1),
        ]
        for id, unread in zip(ids, (2, 1, 1, 0, 0), strict=True):
            mark = await harness.broker.marks.move(ROOM, 1, id)
            assert mark == (id, 2 - unread)
            assert await self._unread(harness) == unread

    async def test_a_mark_does_not_move_backward(self, harness: Harness) -> None:
        """An older event leaves the mark where it is, and returns it."""
        ids = await self._send(harness, 3)
        await harness.broker.marks.move(ROOM, 1, ids[1])
        assert await harness.broker.marks.move(ROOM, 1, ids[0]) == (ids[1], 2)
        assert await harness.broker.marks.move(ROOM, 1, ids[1]) == (ids[1], 2)
        assert await self._unread(harness) == 1

    async def test_marks_are_independent(self, harness: Harness) -> None:
        """Each user has a mark in each room. The user "1" is not the user 1."""
        ids = await self._send(harness, 2)
        others = await self._send(harness, 2, OTHER)
        await harness.broker.marks.move(ROOM, 1, ids[1])
        await harness.broker.marks.move(OTHER, 1, others[0])
        found = [await self._unread(harness, user, room) for user in (1, "1", 2) for room in (ROOM, OTHER)]
        assert found == [0, 1, 2, 2, 2, 2]

    async def test_events_that_are_not_of_the_room(self, harness: Harness) -> None:
        """A string that is not the id of an event of the room marks nothing."""
        ids = await self._send(harness, 2)
        other = await self._send(harness, 3, OTHER)
        epoch, _ = split(ids[0])
        for id in (*not_ids(ids[1]).values(), f"{epoch}-0", other[2]):
            assert await harness.broker.marks.move(ROOM, 1, id) is None, id
        assert await self._unread(harness) == 2

    async def test_the_count_goes_on_beyond_the_history(self, harness: Harness) -> None:
        """Messages after the mark count even if they have left the history."""
        (id,) = await self._send(harness)
        await harness.broker.marks.move(ROOM, 1, id)
        await self._send(harness, 3 * HISTORY_SIZE)
        assert await self._unread(harness) == 3 * HISTORY_SIZE
        await harness.pass_time(1.5 * HISTORY_TTL)
        assert await self._unread(harness) == 3 * HISTORY_SIZE
        assert await self._unread(harness, 2) == 0

    async def test_marking_an_event_that_has_left_the_history(self, harness: Harness) -> None:
        """The messages that have left the history with the event count as read."""
        first, *_ = await self._send(harness, 200)  # Redis stores some more events than the history has
        mark = await harness.broker.marks.move(ROOM, 1, first)
        assert mark is not None and mark.event_id == first
        unread = await self._unread(harness)
        assert HISTORY_SIZE <= unread < 199
        await self._send(harness, 2)
        assert await self._unread(harness) == unread + 2

    async def test_marking_the_newest_event_after_the_history_has_expired(self, harness: Harness) -> None:
        """A client that was open over night can mark the last event that it has shown."""
        await harness.broker.subscribe([ROOM])
        ids = await self._send(harness, 3)
        await harness.pass_time(1.5 * HISTORY_TTL)
        assert await harness.broker.marks.move(ROOM, 1, ids[2]) == (ids[2], 3)
        await self._send(harness, 2)
        assert await self._unread(harness) == 2

    async def test_expired_events_are_not_unread_without_a_mark(self, harness: Harness) -> None:
        """Without a mark, only messages count that the history still has."""
        await self._send(harness, 2)
        await harness.pass_time(HISTORY_TTL * 0.6)
        await self._send(harness)
        await harness.pass_time(HISTORY_TTL * 0.6)
        await self._send(harness)
        assert await self._unread(harness) == 2

    async def test_large_messages(self, harness: Harness) -> None:
        """Messages that are dropped because of their size count like others."""
        (id,) = await self._send(harness)
        await harness.broker.marks.move(ROOM, 1, id)
        for _ in range(4):
            await harness.broker.publish(ROOM, b"x" * (HISTORY_BYTES // 2), None, True)
        assert await self._unread(harness) == 4
        assert await self._unread(harness, 2) == len((await harness.broker.history(ROOM)).events) < 4

    async def test_own_messages_are_read(self, harness: Harness) -> None:
        """A message moves the mark of its author to it, and no other mark."""
        await self._send(harness, 2)
        await self._send(harness, author=1)
        assert [await self._unread(harness, user) for user in (1, 2)] == [0, 3]
        await self._send(harness)
        await self._send(harness, 3, author=2)
        assert [await self._unread(harness, user) for user in (1, 2)] == [4, 0]
        older, *_ = [event.id for event in (await harness.broker.history(ROOM)).events]
        assert (await harness.broker.marks.move(ROOM, 2, older)) is not None
        assert await self._unread(harness, 2) == 0

    async def test_other_events_of_a_user_do_not_move_the_mark(self, harness: Harness) -> None:
        """An event that is not a message does not move the mark of its author."""
        await self._send(harness, 2)
        await harness.broker.publish(ROOM, b"edit", None, False, 1)
        assert await self._unread(harness) == 2

    async def test_repeats_do_not_count(self, harness: Harness) -> None:
        """A message that is published again with its key counts once, and moves no mark."""
        await harness.broker.publish(ROOM, b"x", "k", True, 1)
        await self._send(harness)
        await harness.broker.publish(ROOM, b"x", "k", True, 1)
        one, two = Publication(ROOM, b"y", "l", True), Publication(ROOM, b"z", None, False)
        await harness.broker.publish_many([one, two, one])
        assert [await self._unread(harness, user) for user in (1, 2)] == [2, 3]

    async def test_batches(self, harness: Harness) -> None:
        """Events of several rooms, published at once or together, are counted one by one."""
        await asyncio.gather(
            *[
                harness.broker.publish((ROOM, OTHER)[i % 2], b"x", None, i % 3 > 0, 1 if i == 7 else None)
                for i in range(12)
            ]
        )
        batch = [Publication((ROOM, OTHER)[i % 2], b"x", f"{i}" if i % 4 == 0 else None, i < 5) for i in range(8)]
        await harness.broker.publish_many([*batch, Publication(OTHER, b"x", None, True, 3)])
        unread = [await self._unread(harness, user, OTHER) for user in (1, 3)]
        assert await self._unread(harness) >= 0
        assert [harness.broker.marks.count_all(room) for room in (ROOM, OTHER)] == [7, 7]
        assert unread == [4, 0]

    @pytest.mark.parametrize("seconds", [READ_TTL * 1.5])
    async def test_marks_expire(self, harness: Harness, seconds: float) -> None:
        """Marks expire if their user sets none for ``READ_TTL``."""
        ids = await self._send(harness, 2)
        await harness.broker.subscribe([ROOM])
        await harness.broker.marks.move(ROOM, 1, ids[1])
        await harness.pass_time(seconds)
        if hasattr(harness.broker, "sweep"):
            await harness.broker.sweep()
        await self._send(harness, 3)
        assert await self._unread(harness) == 3

    async def test_marks_outlive_a_quiet_room(self, harness: Harness) -> None:
        """A room without events and members for less than ``READ_TTL`` keeps its ids and its count."""
        ids = await self._send(harness, 3)
        await harness.broker.marks.move(ROOM, 1, ids[0])
        await harness.pass_time(READ_TTL * 0.9)
        if hasattr(harness.broker, "sweep"):
            await harness.broker.sweep()
        assert await self._unread(harness) == 2
        await self._send(harness)
        assert await self._unread(harness) == 3
        assert await harness.broker.marks.move(ROOM, 1, ids[2]) == (ids[2], 3)

    async def test_the_oldest_marks_of_a_user_are_dropped(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user has a limited number of marks; those that were set first are dropped, of this user only."""
        monkeypatch.setattr(memory_marks, "MAX_MARKS", 8)
        monkeypatch.setattr(read_marks, "MAX_MARKS", 8)
        rooms = [f"channel:many-{i}" for i in range(10)]
        ids = {room: (await self._send(harness, 2, room))[1] for room in rooms}
        await harness.broker.marks.move(rooms[0], 2, ids[rooms[0]])
        for room in rooms:
            await harness.broker.marks.move(room, 1, ids[room])
            assert await self._unread(harness, 1, room) == 0
        unread = [await self._unread(harness, 1, room) for room in rooms]
        kept = unread.count(0)
        assert kept in (7, 8)
        assert unread == [2] * (len(rooms) - kept) + [0] * kept
        assert await self._unread(harness, 2, rooms[0]) == 0
