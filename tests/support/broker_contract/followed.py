"""The contract for followed rooms and events: changes of members and published events are reported to one node."""

from __future__ import annotations

from roomcast.broker.base import DEFAULT_ANNOUNCEMENTS, Publication

from .harness import OTHER, ROOM, Harness

GRACE = DEFAULT_ANNOUNCEMENTS.grace
FOLLOWED = "followed:1"
JOINED, LEFT = (FOLLOWED, 1, "alice", True), (FOLLOWED, 1, "alice", False)


class FollowedContract:
    """Changes in FOLLOWED, which is not subscribed, and events with ``is_followed``."""

    async def test_changes_of_members(self, harness: Harness) -> None:
        """Each user's first and last connection is reported once, and not in rooms that are not followed."""
        broker, listener = harness.broker, harness.listener
        await broker.enter(ROOM, 1, "alice", 10)
        await broker.enter(FOLLOWED, 1, "alice", 10)
        await broker.enter(FOLLOWED, 1, "alice", 11)
        await broker.leave(FOLLOWED, 1, 10)
        await listener.until(lambda: bool(listener.changes))
        await broker.leave(FOLLOWED, 1, 11)
        await broker.leave(ROOM, 1, 10)
        await listener.until(lambda: len(listener.changes) == 2)
        await broker.enter(FOLLOWED, 1, "alice", 12)
        await listener.until(lambda: len(listener.changes) == 3)
        assert listener.changes == [JOINED, LEFT, JOINED]

    async def test_changes_in_large_rooms(self, harness: Harness) -> None:
        """Changes are reported also above the number of users up to which joins are announced."""
        broker, listener = harness.broker, harness.listener
        for user in (1, 2, "x-3"):
            await broker.enter(FOLLOWED, user, f"user {user}", 10)
        for user in (1, 2, "x-3"):
            await broker.leave(FOLLOWED, user, 10)
        await listener.until(lambda: len(listener.changes) == 6)
        for user in (1, 2, "x-3"):
            changes = [has_joined for _, user_id, _, has_joined in listener.changes if user_id == user]
            assert changes == [True, False]

    async def test_a_return_within_the_grace_is_no_change(self, harness: Harness) -> None:
        """A user who returns in time has not left. Otherwise the leave is reported after the grace."""
        broker, listener = harness.broker, harness.listener
        await broker.enter(FOLLOWED, 1, "alice", 10)
        for connection in (11, 12):
            await broker.leave(FOLLOWED, 1, connection - 1, is_lost=True)
            await harness.pass_time(0.6 * GRACE)
            await broker.announce_due()
            await broker.enter(FOLLOWED, 1, "alice", connection)
        await broker.leave(FOLLOWED, 1, 12, is_lost=True)
        await broker.members(FOLLOWED)
        assert listener.changes == [JOINED]
        await harness.pass_time(1.2 * GRACE)
        await broker.announce_due()
        await broker.members(FOLLOWED)
        await listener.until(lambda: len(listener.changes) == 2)
        assert listener.changes == [JOINED, LEFT]

    async def test_published_events(self, harness: Harness) -> None:
        """Followed events are reported once, in order, with the id and the payload; repeats and others are not."""
        broker, listener = harness.broker, harness.listener
        ids = [await broker.publish(ROOM, b"1", is_followed=True)]
        await broker.publish(ROOM, b"2")
        ids.append(await broker.publish(ROOM, b"3", "key", True, 7, True))
        assert await broker.publish(ROOM, b"3", "key", True, 7, True) == ids[1]
        many = [
            Publication(ROOM, b"4", is_followed=True),
            Publication(ROOM, b"5", "another", is_message=True),
            Publication(ROOM, b"3", "key", is_followed=True),
            Publication(OTHER, b"6", "key", is_message=True, is_followed=True),
        ]
        found = await broker.publish_many(many)
        expected = [(ROOM, ids[0], b"1"), (ROOM, ids[1], b"3"), (ROOM, found[0], b"4")]
        await listener.until(lambda: len(listener.published) == 4)
        assert [one for one in listener.published if one[0] == ROOM] == expected
        assert (OTHER, found[3], b"6") in listener.published
