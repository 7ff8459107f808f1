"""The contract for shared state: leases, presence, claims and revocations."""

from __future__ import annotations

import asyncio

import pytest
from user_ids import USER_IDS

from roomcast.broker.base import KEY_TTL, Member, PresenceChange

from .harness import OTHER, ROOM, Harness, split


class LeaseContract:
    """Limits of connections."""

    async def test_admits_up_to_the_limit(self, harness: Harness) -> None:
        """A user gets as many leases as the limit; other users do not count."""
        assert [await harness.broker.admit(7, connection, 5) for connection in range(7)] == [True] * 5 + [False] * 2
        assert await harness.broker.admit(8, 100, 1)

    async def test_concurrent_admits(self, harness: Harness) -> None:
        """Of many concurrent connections exactly ``limit`` are admitted."""
        taken = await asyncio.gather(*[harness.broker.admit("u", connection, 5) for connection in range(30)])
        assert taken.count(True) == 5

    async def test_a_released_lease_can_be_taken(self, harness: Harness) -> None:
        """Each release gives one lease back, and a refused connection has none."""
        assert [await harness.broker.admit(7, connection, 2) for connection in (1, 2, 3)] == [True, True, False]
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (3, 4)] == [True, False]
        for connection in (2, 3):
            await harness.broker.release(7, connection)
        assert [await harness.broker.admit(7, connection, 2) for connection in (5, 6, 7)] == [True, True, False]

    async def test_releasing_without_a_lease(self, harness: Harness) -> None:
        """Releasing a lease twice, of another user, or without having one gives nothing back."""
        await harness.broker.release(7, 1)
        assert await harness.broker.admit(7, 1, 2)
        assert await harness.broker.admit(7, 2, 2)
        await harness.broker.release(7, 3)
        await harness.broker.release(8, 1)
        assert not await harness.broker.admit(7, 4, 2)
        await harness.broker.release(7, 1)
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (4, 5)] == [True, False]

    async def test_a_connection_has_one_lease(self, harness: Harness) -> None:
        """A connection that is admitted again keeps its lease and takes no second one."""
        assert [await harness.broker.admit(7, connection, 2) for connection in (1, 1, 2, 1, 3)] == [True] * 4 + [False]
        await harness.broker.release(7, 1)
        assert [await harness.broker.admit(7, connection, 2) for connection in (3, 4)] == [True, False]

    async def test_any_user_id(self, harness: Harness) -> None:
        """Each user has leases and revocations of its own, whatever characters the id has."""
        ids = [*USER_IDS, 1, "01"]
        for user_id in ids:
            assert [await harness.broker.admit(user_id, connection, 1) for connection in (1, 2)] == [True, False]
        await harness.broker.revoke_all(ids[0], 1000.0, 60)
        for user_id in ids:
            assert await harness.broker.connections(user_id) == 1
            assert await harness.broker.is_revoked(user_id, 999.0, None) is (user_id == ids[0])
            await harness.broker.release(user_id, 1)
            assert await harness.broker.connections(user_id) == 0

    async def test_a_high_limit(self, harness: Harness) -> None:
        """A high limit is enforced exactly, while leases are taken and released."""
        assert all([await harness.broker.admit(7, connection, 40) for connection in range(40)])
        assert not await harness.broker.admit(7, 40, 40)
        for connection in range(0, 40, 2):
            await harness.broker.release(7, connection)
        taken = [await harness.broker.admit(7, connection, 40) for connection in range(100, 130)]
        assert taken == [True] * 20 + [False] * 10

    async def test_connections_are_counted(self, harness: Harness) -> None:
        """A user's connections are those admitted and not released; refused ones do not count."""
        counts = []
        for connection in (1, 1, 2, 3):
            await harness.broker.admit(7, connection, 2)
            counts.append(await harness.broker.connections(7))
        await harness.broker.admit("7", 4, 2)
        await harness.broker.release(7, 1)
        counts += [await harness.broker.connections(user_id) for user_id in (7, "7", 8)]
        assert counts == [1, 1, 2, 2, 1, 1, 0]

    async def test_limit_0_admits_no_connection(self, harness: Harness) -> None:
        """A limit of 0 admits no connection."""
        assert not await harness.broker.admit(7, 1, 0)


class PresenceContract:
    """Members of rooms."""

    async def test_user_changed_for_the_first_and_the_last_connection(self, harness: Harness) -> None:
        """``user_changed`` is True for a user's first connection in and last one out; users count once."""
        broker = harness.broker
        assert await broker.enter(ROOM, 1, "alice", 10) == PresenceChange(True, 1)
        assert await broker.enter(ROOM, 1, "alice", 11) == PresenceChange(False, 1)
        assert await broker.enter(ROOM, 2, "bob", 20) == PresenceChange(True, 2)
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 2)
        assert await broker.leave(ROOM, 1, 11) == PresenceChange(True, 1)
        assert await broker.leave(ROOM, 2, 20) == PresenceChange(True, 0)

    async def test_any_member_id(self, harness: Harness) -> None:
        """Each user is a member of its own, whatever characters the id has."""
        ids = [*USER_IDS, 1, "01"]
        for number, user_id in enumerate(ids, 1):
            assert await harness.broker.enter(ROOM, user_id, "name", number) == PresenceChange(True, number)
        assert await harness.broker.members(ROOM) == [Member(user_id, "name", 1) for user_id in ids]
        for number, user_id in enumerate(ids, 1):
            assert await harness.broker.leave(ROOM, user_id, number) == PresenceChange(True, len(ids) - number)

    async def test_entering_and_leaving_twice(self, harness: Harness) -> None:
        """Entering again, and leaving without having entered, changes nothing."""
        broker = harness.broker
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 0)
        await broker.enter(ROOM, 1, "alice", 10)
        assert await broker.enter(ROOM, 1, "alice", 10) == PresenceChange(False, 1)
        assert await broker.leave(ROOM, 1, 11) == PresenceChange(False, 1)
        assert await broker.leave(ROOM, 2, 10) == PresenceChange(False, 1)
        assert await broker.leave(OTHER, 1, 10) == PresenceChange(False, 0)
        assert await broker.members(ROOM) == [Member(1, "alice", 1)]
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(True, 0)
        assert await broker.leave(ROOM, 1, 10) == PresenceChange(False, 0)

    async def test_members_are_in_order_of_arrival(self, harness: Harness) -> None:
        """Members are listed in order of arrival, with their connections; a user who returns is last."""
        broker = harness.broker
        for user_id, username, connection in ((3, "carol", 30), ("x-1", "Ünï", 40), (1, "alice", 10), (3, "carol", 31)):
            await broker.enter(ROOM, user_id, username, connection)
        assert await broker.members(ROOM) == [Member(3, "carol", 2), Member("x-1", "Ünï"), Member(1, "alice")]
        for connection in (30, 31):
            await broker.leave(ROOM, 3, connection)
        await broker.enter(ROOM, 3, "carol", 32)
        assert await broker.members(ROOM) == [Member("x-1", "Ünï"), Member(1, "alice"), Member(3, "carol")]

    async def test_the_last_username_counts(self, harness: Harness) -> None:
        """A user who enters with a new name has that name."""
        await harness.broker.enter(ROOM, 1, "alice", 10)
        assert await harness.broker.enter(ROOM, 1, "Alice B.", 11) == PresenceChange(False, 1)
        assert await harness.broker.members(ROOM) == [Member(1, "Alice B.", 2)]

    async def test_many_connections_of_one_user(self, harness: Harness) -> None:
        """A user stays in the room until the last connection has left, in any order."""
        broker = harness.broker
        for connection in range(12):
            assert await broker.enter(ROOM, 1, "alice", connection) == PresenceChange(connection == 0, 1)
        assert await broker.members(ROOM) == [Member(1, "alice", 12)]
        order = [5, 0, 11, 3, 8, 1, 10, 2, 9, 4, 7, 6]
        for left, connection in enumerate(order, 1):
            assert await broker.leave(ROOM, 1, connection) == PresenceChange(left == 12, int(left < 12))
            assert await broker.members(ROOM) == ([Member(1, "alice", 12 - left)] if left < 12 else [])

    async def test_rooms_with_members(self, harness: Harness) -> None:
        """Only rooms with members are listed, each with its number of users."""
        broker = harness.broker
        assert await broker.rooms() == {}
        await harness.fill(1, "task:1")
        await broker.subscribe(["task:2"])
        for room, user_id, connection in ((ROOM, 1, 10), (ROOM, 1, 11), (ROOM, 2, 20), (OTHER, 2, 20)):
            await broker.enter(room, user_id, "name", connection)
        assert await broker.rooms() == {ROOM: 2, OTHER: 1}
        await broker.leave(OTHER, 2, 20)
        assert await broker.rooms() == {ROOM: 2}
        assert await broker.members(OTHER) == []


class ClaimContract:
    """Claims and one-time values."""

    async def test_one_caller_gets_a_claim(self, harness: Harness) -> None:
        """The first caller gets the claim; others get False while it is pending, then the answer."""
        broker = harness.broker
        claims = await asyncio.gather(*[broker.claim("k", 30) for _ in range(10)])
        assert sorted(claims) == [False] * 9 + [True]
        assert await broker.claim("other", 30) is True
        await broker.settle("k", b"answer")
        assert [await broker.claim("k", 30), await broker.claim("k", 30)] == [b"answer", b"answer"]

    async def test_an_empty_answer(self, harness: Harness) -> None:
        """An empty answer is different from a pending claim."""
        await harness.broker.claim("k", 30)
        await harness.broker.settle("k", b"")
        assert await harness.broker.claim("k", 30) == b""

    async def test_a_dropped_claim_can_be_taken_again(self, harness: Harness) -> None:
        """Settling with None drops a claim; without a claim it has no effect."""
        await harness.broker.settle("k", None)
        assert await harness.broker.claim("k", 30) is True
        await harness.broker.settle("k", None)
        assert await harness.broker.claim("k", 30) is True
        assert await harness.broker.claim("k", 30) is False

    async def test_an_answer_expires_after_key_ttl(self, harness: Harness) -> None:
        """An answer is returned until KEY_TTL after ``settle``; then the key can be claimed again."""
        await harness.broker.claim("k", 60)
        await harness.pass_time(30)
        await harness.broker.settle("k", b"answer")
        await harness.pass_time(KEY_TTL - 30)
        assert await harness.broker.claim("k", 60) == b"answer"
        await harness.pass_time(31)
        assert await harness.broker.claim("k", 60) is True

    async def test_a_claim_that_is_not_settled_expires(self, harness: Harness) -> None:
        """A claim without an answer expires after its time; other callers do not extend it."""
        await harness.broker.claim("k", 60)
        await harness.pass_time(30)
        assert await harness.broker.claim("k", 60) is False
        await harness.pass_time(31)
        assert await harness.broker.claim("k", 60) is True

    async def test_settling_an_expired_claim(self, harness: Harness) -> None:
        """An answer that is stored after its claim expired is returned."""
        await harness.broker.claim("k", 30)
        await harness.pass_time(31)
        await harness.broker.settle("k", b"late")
        assert await harness.broker.claim("k", 30) == b"late"

    async def test_claims_keys_and_values_are_separate(self, harness: Harness) -> None:
        """The same string can be a claim, an idempotency key and the key of a one-time value."""
        broker = harness.broker
        await broker.put("k", b"kept", 60)
        assert await broker.claim("k", 30) is True
        assert split(await broker.publish(ROOM, b"x", "k"))[1] == 1
        assert await broker.take("k") == b"kept"
        assert await broker.claim("k", 30) is False

    async def test_a_value_is_taken_once(self, harness: Harness) -> None:
        """Of all callers, concurrent or later, exactly one gets the value."""
        await harness.broker.put("k", b"value", 60)
        assert await harness.broker.take("other") is None
        taken = await asyncio.gather(*[harness.broker.take("k") for _ in range(10)])
        assert sorted(taken, key=str) == [None] * 9 + [b"value"]
        assert await harness.broker.take("k") is None

    async def test_values_expire(self, harness: Harness) -> None:
        """Each value expires after its own TTL."""
        for key, ttl in (("long", 300.0), ("short", 30.0), ("taken in time", 30.0)):
            await harness.broker.put(key, b"value", ttl)
        await harness.pass_time(20)
        assert await harness.broker.take("taken in time") == b"value"
        await harness.pass_time(11)
        assert await harness.broker.take("short") is None
        await harness.pass_time(200)
        assert await harness.broker.take("long") == b"value"

    async def test_put_replaces_a_value(self, harness: Harness) -> None:
        """Putting a key again replaces its value and its TTL."""
        await harness.broker.put("k", b"first", 30)
        await harness.broker.put("k", b"second", 300)
        await harness.pass_time(60)
        await harness.broker.put("another", b"", 30)
        assert await harness.broker.take("k") == b"second"
        assert await harness.broker.take("another") == b""


class RevocationContract:
    """Revoked tokens."""

    async def test_a_token_is_valid_before_a_revocation(self, harness: Harness) -> None:
        """Before any revocation, tokens of all times of issue and ids are valid."""
        for issued in (None, 0.0, 1e9):
            for token_id in (None, "", "t"):
                assert not await harness.broker.is_revoked(1, issued, token_id)

    async def test_revoking_all_tokens_before_a_time(self, harness: Harness) -> None:
        """Tokens of this user issued before the time are revoked, and those without a time of issue."""
        await harness.broker.revoke_all(1, 1763900000.25, 60)
        assert await harness.broker.is_revoked(1, 1763900000.0, None)
        assert await harness.broker.is_revoked(1, None, "t")
        assert not await harness.broker.is_revoked(1, 1763900000.25, "t")
        for other in (2, 11, "x"):
            assert not await harness.broker.is_revoked(other, 0.0, "t")

    async def test_the_latest_revocation_counts(self, harness: Harness) -> None:
        """The latest time counts, in whatever order the calls come."""
        for before in (1000.0, 3000.0, 2000.5):
            await harness.broker.revoke_all("u", before, 60)
        assert await harness.broker.is_revoked("u", 2999.0, None)
        assert not await harness.broker.is_revoked("u", 3000.0, None)

    @pytest.mark.parametrize("token_id", ["t", "a b", "{x}:y\r\n*", "é\0", "\ud800", "x" * 5000])
    async def test_revoking_one_token(self, harness: Harness, token_id: str) -> None:
        """A token is revoked by its id, which may contain any characters, for this user only."""
        await harness.broker.revoke_one(1, token_id, 60)
        assert await harness.broker.is_revoked(1, 2e9, token_id)
        assert await harness.broker.is_revoked(1, None, token_id)
        assert not await harness.broker.is_revoked(1, None, token_id + "t")
        assert not await harness.broker.is_revoked(1, None, None)
        assert not await harness.broker.is_revoked(2, None, token_id)

    async def test_revocations_expire(self, harness: Harness) -> None:
        """Each revocation expires after its own TTL; a repeat extends it."""
        broker = harness.broker
        await broker.revoke_all(1, 1000.0, 30)
        await broker.revoke_one(2, "t", 30)
        await harness.pass_time(20)
        assert await broker.is_revoked(2, None, "t")
        await broker.revoke_all(1, 500.0, 30)
        await harness.pass_time(20)
        assert await broker.is_revoked(1, 999.0, None)
        assert not await broker.is_revoked(2, None, "t")
        await harness.pass_time(11)
        assert not await broker.is_revoked(1, 0.0, None)
