"""The contract for announcements: each join and leave is reported once, and short absences are not reported."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.broker.base import DEFAULT_ANNOUNCEMENTS, Member

from .harness import OTHER, ROOM, Harness

GRACE, MAX_USERS = DEFAULT_ANNOUNCEMENTS.grace, DEFAULT_ANNOUNCEMENTS.max_users
#: Less than the grace, and more than its rest after that, in seconds.
SOON, REST = GRACE * 0.6, GRACE * 0.6
JOINED, LEFT = (1, True), (1, False)


class AnnouncementContract:
    """Joins and leaves in ROOM."""

    async def test_joins_and_leaves_on_request(self, harness: Harness) -> None:
        """The first connection of a user and the last departure on request are announced at once, with the name."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice \n\u2603", 10)
        await broker.enter(ROOM, "x-1", "bob", 20)
        await harness.listener.until(lambda: len(harness.listener.announced) == 2)
        assert harness.listener.announced == [(ROOM, 1, "alice \n\u2603", True), (ROOM, "x-1", "bob", True)]
        harness.listener.announced.clear()
        await broker.enter(ROOM, 1, "alice", 11)
        await broker.leave(ROOM, 1, 10)
        assert await harness.announced() == []
        await broker.leave(ROOM, 1, 11)
        await broker.leave(ROOM, "x-1", 20)
        assert await harness.announced() == [LEFT, ("x-1", False)]
        assert await harness.announced(after=2 * GRACE) == []

    async def test_a_lost_connection_is_announced_after_the_grace(self, harness: Harness) -> None:
        """A user whose last connection was lost is a member until the end of the grace, and is announced once then."""
        assert await harness.announced() == []
        await harness.broker.enter(ROOM, 1, "alice", 10)
        await harness.broker.leave(ROOM, 1, 10, is_lost=True)
        assert await harness.broker.members(ROOM) == [Member(1, "alice", 0)]
        assert await harness.announced(after=SOON) == [JOINED]
        assert await harness.broker.rooms() == {ROOM: 1}
        assert await harness.announced(after=REST) == [LEFT]
        assert await harness.broker.members(ROOM) == []
        assert await harness.broker.rooms() == {}
        assert await harness.announced(after=GRACE) == []

    @pytest.mark.parametrize("delay", [0.0, SOON])
    async def test_a_user_who_returns_is_not_announced(self, harness: Harness, delay: float) -> None:
        """A user who returns within the grace is not announced, however often."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        assert await harness.announced() == [JOINED]
        for connection in range(10, 15):
            await broker.leave(ROOM, 1, connection, is_lost=True)
            assert await harness.announced(after=delay) == []
            await broker.enter(ROOM, 1, "alice", connection + 1)
        assert await broker.members(ROOM) == [Member(1, "alice")]
        assert await harness.announced(after=2 * GRACE) == []
        await broker.leave(ROOM, 1, 15)
        assert await harness.announced() == [LEFT]

    async def test_joining_and_leaving_in_a_loop(self, harness: Harness) -> None:
        """However often a user joins and leaves, one join and one leave are announced within the grace."""
        broker = harness.broker
        assert await harness.announced() == []
        for connection in range(20):
            await broker.enter(ROOM, 1, "alice", connection)
            await broker.leave(ROOM, 1, connection)
        assert await harness.announced(after=SOON) == [JOINED, LEFT]
        for connection in range(20):
            await broker.enter(ROOM, 1, "alice", connection)
            await broker.leave(ROOM, 1, connection, is_lost=connection % 2 == 0)
        assert await harness.announced() == []
        assert await harness.announced(after=REST) == []
        await broker.enter(ROOM, 1, "alice", 30)
        assert await harness.announced() == [JOINED]

    async def test_a_join_that_is_held(self, harness: Harness) -> None:
        """A user who joins again too early is announced when the grace is over, and can leave after that."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.leave(ROOM, 1, 10)
        await broker.enter(ROOM, 1, "alice", 11)
        assert await broker.members(ROOM) == [Member(1, "alice")]
        assert await harness.announced(after=SOON) == [JOINED, LEFT]
        assert await harness.announced(after=REST) == [JOINED]
        await broker.leave(ROOM, 1, 11)
        await broker.enter(ROOM, 1, "alice", 12)
        assert await harness.announced() == [LEFT]
        await broker.leave(ROOM, 1, 12, is_lost=True)
        assert await harness.announced(after=2 * GRACE) == []

    async def test_each_user_and_room_counts_alone(self, harness: Harness) -> None:
        """The announcements of a user in a room delay no others; unsubscribed rooms are not reported."""
        broker = harness.broker
        assert await harness.announced() == []
        for room in (OTHER, ROOM):
            for user_id in (1, "1"):
                await broker.enter(room, user_id, "alice", 10)
                await broker.leave(room, user_id, 10)
        assert await harness.announced() == [JOINED, LEFT, ("1", True), ("1", False)]

    async def test_large_rooms(self, harness: Harness) -> None:
        """Joins in too large rooms are not announced. A leave is, if the join was, or if the room is smaller again."""
        broker = harness.broker
        assert await harness.announced() == []
        await asyncio.gather(*[broker.enter(ROOM, n, "name", n) for n in range(MAX_USERS + 3)])
        assert await harness.announced() == [(n, True) for n in range(MAX_USERS)]
        for n in (MAX_USERS, 0, MAX_USERS + 1, MAX_USERS + 2):
            await broker.leave(ROOM, n, n)
        assert await harness.announced() == [(0, False), (MAX_USERS + 2, False)]
        await broker.enter(ROOM, MAX_USERS, "name", 1)
        assert await harness.announced() == [(MAX_USERS, True)]
