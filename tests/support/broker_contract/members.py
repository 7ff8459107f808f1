"""The contract for lists of members and for statuses: they agree with the announcements."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from user_ids import USER_IDS

from roomcast.broker.base import (
    DEFAULT_ANNOUNCEMENTS,
    MAX_MEMBERS_BYTES,
    MAX_PAGE_MEMBERS,
    STATUS_INTERVAL,
    PresenceChange,
)

from .harness import OTHER, ROOM, Harness

GRACE, MAX_USERS = DEFAULT_ANNOUNCEMENTS.grace, DEFAULT_ANNOUNCEMENTS.max_users
AWAY, BUSY = '"away"\n{"n":1e400}', '"busy é\\u0000"\nnull'


class MemberListContract:
    """Pages of the members of ROOM."""

    async def test_pages_are_in_order_of_arrival(self, harness: Harness) -> None:
        """All pages together list each user once, in order of arrival, with the total number on each page."""
        broker = harness.broker
        assert await broker.list_members(ROOM) == ([], 0, None, False)
        for n in range(250):
            await broker.enter(ROOM, n, f"user{n}", n)
        await broker.enter(ROOM, 7, "user7", 1000)
        assert await harness.listed() == list(range(250))
        assert await harness.listed(limit=7) == list(range(250))
        page = await broker.list_members(ROOM, user_id=249)
        assert (len(page.members), page.total, page.has_user) == (MAX_PAGE_MEMBERS, 250, True)
        last = await broker.list_members(ROOM, page.cursor, 150, user_id="249")
        assert ([member.user_id for member in last.members], last.cursor) == (list(range(100, 250)), None)
        assert (last.total, last.has_user) == (250, False)

    async def test_what_is_listed_of_a_member(self, harness: Harness) -> None:
        """A member is listed with id, name, time of arrival and status; a second connection changes only the name."""
        broker = harness.broker
        for user_id in USER_IDS:
            await broker.enter(ROOM, user_id, "alice", 10)
        page = await broker.list_members(ROOM)
        assert [(one.user_id, one.username, one.status) for one in page.members] == [
            (user_id, "alice", "") for user_id in USER_IDS
        ]
        assert all(abs(one.since - time.time()) < 60 for one in page.members)
        await harness.pass_time(10)
        await broker.enter(ROOM, USER_IDS[0], "Alice B.", 11)
        first = (await broker.list_members(ROOM)).members[0]
        assert first == page.members[0]._replace(username="Alice B.")

    async def test_members_leave_between_pages(self, harness: Harness) -> None:
        """Users who stay are listed once, also if the last user of the page before leaves or returns."""
        broker = harness.broker
        for n in range(30):
            await broker.enter(ROOM, n, "name", n)
            await harness.pass_time(0.1)
        await harness.pass_time(GRACE)
        page = await broker.list_members(ROOM, limit=10)
        for n in (3, 9, 12):
            await broker.leave(ROOM, n, n)
        await broker.enter(ROOM, 9, "name", 9)
        await broker.enter(ROOM, 30, "name", 30)
        rest = await broker.list_members(ROOM, page.cursor)
        assert [member.user_id for member in rest.members] == [10, 11, *range(13, 30), 9, 30]
        assert rest.total == 29

    async def test_a_page_is_limited_in_bytes(self, harness: Harness) -> None:
        """The names and statuses of a page have at most the bytes of the limit, but a page has at least one user."""
        broker = harness.broker
        status = '"' + "s" * 32 + '"\n{"x":"' + "é" * 490 + '"}'
        for n in range(120):
            await broker.enter(ROOM, n, "n" * 100, n)
            await broker.set_status(ROOM, n, status)
        page = await broker.list_members(ROOM)
        assert MAX_MEMBERS_BYTES * 0.8 < sum(len(one.status.encode()) + 180 for one in page.members) < MAX_MEMBERS_BYTES
        assert await harness.listed() == list(range(120))
        assert await harness.listed(max_bytes=1) == list(range(120))
        assert len((await broker.list_members(ROOM, max_bytes=1)).members) == 1

    @pytest.mark.parametrize("character", ["😀", "Ü", '"'])
    async def test_long_ids_count_with_their_bytes(self, harness: Harness, character: str) -> None:
        """A page has at most the bytes of the limit as JSON, also if the ids have characters of several bytes."""
        broker = harness.broker
        ids = [character * 252 + f"{n:03}" for n in range(130)]
        for n, user_id in enumerate(ids):
            await broker.enter(ROOM, user_id, character * 50, n)
        page = await broker.list_members(ROOM)
        entries = [{"user_id": one.user_id, "username": one.username} for one in page.members]
        assert len(orjson.dumps(entries)) <= MAX_MEMBERS_BYTES
        assert await harness.listed() == ids

    async def test_a_lost_user_is_listed_until_the_end_of_the_grace(self, harness: Harness) -> None:
        """A user who returns within the grace keeps the place in the list; others are listed until announced."""
        broker = harness.broker
        assert await harness.announced() == []
        for n in (1, 2, 3):
            await broker.enter(ROOM, n, "name", n)
            await harness.pass_time(0.1)
        before = await broker.list_members(ROOM)
        assert await broker.leave(ROOM, 1, 1, is_lost=True) == PresenceChange(True, 3)
        assert await broker.leave(ROOM, 2, 2, is_lost=True) == PresenceChange(True, 3)
        assert await broker.list_members(ROOM) == before
        assert await broker.enter(ROOM, 1, "name", 4) == PresenceChange(True, 3)
        await harness.announced(after=GRACE * 1.1)
        assert await harness.listed() == [1, 3]
        assert (await broker.list_members(ROOM, user_id=2)).has_user is False
        assert (await broker.list_members(ROOM)).members[0] == before.members[0]

    async def test_a_user_who_is_lost_twice(self, harness: Harness) -> None:
        """The grace begins again with each loss; leaving on another node ends it."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "name", 1)
        await harness.announced()
        for connection in (1, 2, 3):
            await broker.leave(ROOM, 1, connection, is_lost=True)
            await harness.pass_time(GRACE * 0.7)
            await broker.enter(ROOM, 1, "name", connection + 1)
        await broker.leave(ROOM, 1, 4, is_lost=True)
        assert await harness.announced(after=GRACE * 0.7) == []
        assert await harness.listed() == [1]
        assert await harness.announced(after=GRACE * 0.7) == [(1, False)]
        assert await harness.listed() == []

    async def test_a_user_whose_join_is_held_is_not_listed(self, harness: Harness) -> None:
        """Clients that list the members while a join is held get no leave of that user, so the user is not listed."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 2, "bob", 2)
        for connection in (10, 11, 12):
            await broker.enter(ROOM, 1, "alice", connection)
            if connection < 12:
                await broker.leave(ROOM, 1, connection)
        page = await broker.list_members(ROOM, user_id=1)
        assert ([one.user_id for one in page.members], page.total, page.has_user) == ([2], 1, False)
        assert [member.user_id for member in await broker.members(ROOM)] == [2, 1]
        assert await harness.announced() == [(2, True), (1, True), (1, False)]
        assert await harness.announced(after=GRACE * 1.1) == [(1, True)]
        page = await broker.list_members(ROOM, user_id=1)
        assert ([one.user_id for one in page.members], page.total, page.has_user) == ([2, 1], 2, True)

    async def test_large_rooms(self, harness: Harness) -> None:
        """In a room with too many users for announcements, all are listed, and lost users have a grace as well."""
        broker = harness.broker
        assert await harness.announced() == []
        await asyncio.gather(*[broker.enter(ROOM, n, "name", n) for n in range(MAX_USERS + 3)])
        await harness.announced()
        last = MAX_USERS + 2
        await broker.leave(ROOM, last, last, is_lost=True)
        assert (await broker.list_members(ROOM, user_id=last))[1:] != (MAX_USERS + 2, None, False)
        assert (await broker.list_members(ROOM, user_id=last)).total == MAX_USERS + 3
        await broker.enter(ROOM, last, "name", 1)
        assert await harness.announced(after=GRACE * 1.1) == []
        await broker.leave(ROOM, last, 1, is_lost=True)
        assert await harness.announced(after=GRACE * 1.1) == []
        assert (await broker.list_members(ROOM, user_id=last)).total == MAX_USERS + 2

    @pytest.mark.parametrize(
        "after", ["", "x", "-1", "9" * 5000, "[]", "[1,2]", "1.5", "null", "\ud800", "\u0663", "{"]
    )
    async def test_cursors_that_no_page_has(self, harness: Harness, after: str) -> None:
        """A client may send any cursor."""
        await harness.broker.enter(ROOM, 1, "alice", 1)
        with pytest.raises(ValueError, match="cursor"):
            await harness.broker.list_members(ROOM, after)


class MemberStatusContract:
    """Statuses of users in ROOM."""

    async def status_of(self, harness: Harness, user_id: int = 1) -> str:
        """Return the listed status of a user."""
        page = await harness.broker.list_members(ROOM)
        return next(one.status for one in page.members if one.user_id == user_id)

    async def test_a_status_is_listed_and_announced(self, harness: Harness) -> None:
        """A status is any text. It is listed and announced at once, unless it is the same as before."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.set_status(ROOM, 1, AWAY)
        assert await self.status_of(harness) == AWAY
        assert await harness.updated() == [(1, AWAY)]
        await harness.pass_time(STATUS_INTERVAL * 1.1)
        await broker.set_status(ROOM, 1, AWAY)
        assert await harness.updated() == []
        await broker.set_status(ROOM, 1, "")
        assert await self.status_of(harness) == ""
        assert await harness.updated() == [(1, "")]

    async def test_one_status_is_announced_a_second(self, harness: Harness) -> None:
        """However often a status changes, one is announced at once, and the latest when a second is over."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.enter(ROOM, 2, "bob", 20)
        for n in range(20):
            await broker.set_status(ROOM, 1, f"{n}")
        await broker.set_status(ROOM, 2, "bob")
        assert await self.status_of(harness) == "19"
        assert await harness.updated() == [(1, "0"), (2, "bob")]
        assert await harness.updated(after=STATUS_INTERVAL * 0.4) == []
        await broker.set_status(ROOM, 1, "last")
        assert await harness.updated(after=STATUS_INTERVAL * 0.7) == [(1, "last")]
        await broker.set_status(ROOM, 1, "later")
        assert await harness.updated(after=STATUS_INTERVAL * 0.4) == []
        assert await harness.updated(after=STATUS_INTERVAL * 0.7) == [(1, "later")]
        assert await harness.updated(after=STATUS_INTERVAL * 3) == []

    async def test_a_status_ends_with_the_last_connection(self, harness: Harness) -> None:
        """A status is kept during the grace, and gone after the leave."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.enter(ROOM, 1, "alice", 11)
        await broker.set_status(ROOM, 1, AWAY)
        await broker.leave(ROOM, 1, 10)
        await broker.leave(ROOM, 1, 11, is_lost=True)
        assert await self.status_of(harness) == AWAY
        await broker.set_status(ROOM, 1, BUSY)  # without a connection
        await broker.enter(ROOM, 1, "alice", 12)
        assert await self.status_of(harness) == AWAY
        await broker.leave(ROOM, 1, 12)
        await broker.enter(ROOM, 1, "alice", 13)
        await harness.announced(after=GRACE * 1.1)
        assert await self.status_of(harness) == ""
        await broker.set_status(ROOM, 1, BUSY)
        await broker.leave(ROOM, 1, 13, is_lost=True)
        await harness.announced(after=GRACE * 1.1)
        await broker.enter(ROOM, 1, "alice", 14)
        assert await self.status_of(harness) == ""
        assert await harness.updated() == [(1, AWAY), (1, BUSY)]

    async def test_a_status_that_waits_while_its_user_is_away(self, harness: Harness) -> None:
        """A status that waits to be announced is announced after its user was lost, and not after the leave."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.enter(ROOM, 1, "alice", 10)
        for text in (AWAY, BUSY):
            await broker.set_status(ROOM, 1, text)
        await broker.leave(ROOM, 1, 10, is_lost=True)
        assert await harness.updated(after=STATUS_INTERVAL * 1.1) == [(1, AWAY), (1, BUSY)]
        assert await harness.announced(after=GRACE) == [(1, True), (1, False)]
        await broker.enter(ROOM, 1, "alice", 10)
        for text in (AWAY, BUSY):
            await broker.set_status(ROOM, 1, text)
        await broker.leave(ROOM, 1, 10)
        assert await harness.updated(after=GRACE * 2) == [(1, AWAY)]

    async def test_a_status_of_a_user_whose_join_is_held(self, harness: Harness) -> None:
        """A status is announced after the join of its user, never before."""
        broker = harness.broker
        assert await harness.announced() == []
        for connection in (10, 11):
            await broker.enter(ROOM, 1, "alice", connection)
            if connection == 10:
                await broker.leave(ROOM, 1, connection)
        await broker.set_status(ROOM, 1, AWAY)
        await broker.set_status(ROOM, 1, BUSY)
        assert await harness.updated(after=GRACE / 2) == []
        assert await harness.updated(after=GRACE) == [(1, BUSY)]
        assert await harness.announced() == [(1, True), (1, False), (1, True)]
        assert await self.status_of(harness) == BUSY

    async def test_large_rooms(self, harness: Harness) -> None:
        """In a room with too many users, a status is listed and not announced."""
        broker = harness.broker
        assert await harness.announced() == []
        await asyncio.gather(*[broker.enter(ROOM, n, "name", n) for n in range(MAX_USERS + 1)])
        await broker.set_status(ROOM, 1, AWAY)
        assert await self.status_of(harness) == AWAY
        assert await harness.updated(after=STATUS_INTERVAL * 2) == []
        await broker.leave(ROOM, 2, 2)
        await broker.set_status(ROOM, 1, BUSY)
        assert await harness.updated() == [(1, BUSY)]

    async def test_a_user_who_is_not_in_the_room(self, harness: Harness) -> None:
        """A status of a user without a connection in the room, and in another room, changes nothing."""
        broker = harness.broker
        assert await harness.announced() == []
        await broker.set_status(ROOM, 1, AWAY)
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.set_status(OTHER, 1, AWAY)
        assert await self.status_of(harness) == ""
        assert await harness.listed(OTHER) == []
        assert await harness.updated() == []
