"""The contract for the online status of users, and for questions to nodes."""

from __future__ import annotations

import time

import pytest
from user_ids import USER_IDS

from roomcast.broker.base import LAST_SEEN_TTL, UserId, UserStatus

from .harness import Harness

#: Times differ by as much as a slow test takes, in seconds. The time that tests pass is longer.
_TOLERANCE = 20.0
_LONG = 100.0


async def status_of(harness: Harness, user_id: UserId) -> UserStatus:
    """Return the status of one user."""
    (status,) = await harness.broker.statuses([user_id])
    return status


def ago(seconds: float) -> object:
    """Return what equals a Unix time about ``seconds`` ago."""
    return pytest.approx(time.time() - seconds, abs=_TOLERANCE)


class StatusContract:
    """Whether users are online, since when, and when they were last seen."""

    async def test_a_user_who_was_never_online(self, harness: Harness) -> None:
        """There are no connections and no times, even after a release, and after a refused admission."""
        await harness.broker.release(7, 1)
        await harness.broker.admit(7, 1, 0)
        assert await status_of(harness, 7) == UserStatus(0, None, None, ())

    async def test_online(self, harness: Harness) -> None:
        """A user with connections is online since the first one."""
        await harness.broker.admit(7, 1, 5)
        await harness.broker.admit(7, 2, 5)
        status = await status_of(harness, 7)
        assert (status.connections, status.since, status.last_seen) == (2, ago(0), None)
        assert len(status.nodes) == 1

    async def test_offline(self, harness: Harness) -> None:
        """A user without connections was last seen when the last one ended."""
        await harness.broker.admit(7, 1, 5)
        await harness.pass_time(_LONG)
        await harness.broker.release(7, 1)
        await harness.broker.release(7, 1)
        assert await status_of(harness, 7) == UserStatus(0, None, ago(0), ())
        await harness.pass_time(_LONG)
        await harness.broker.release(7, 1)
        assert await status_of(harness, 7) == UserStatus(0, None, ago(_LONG), ())

    async def test_online_since_the_first_of_several_connections(self, harness: Harness) -> None:
        """``since`` does not change while the user has a connection, even if the first one ends."""
        await harness.broker.admit(7, 1, 5)
        await harness.pass_time(_LONG)
        await harness.broker.admit(7, 2, 5)
        await harness.broker.release(7, 1)
        status = await status_of(harness, 7)
        assert (status.connections, status.since) == (1, ago(_LONG))

    async def test_a_return_within_the_grace(self, harness: Harness) -> None:
        """A user who reloads a page stays online since the first connection."""
        await harness.broker.admit(7, 1, 5)
        await harness.pass_time(_LONG)
        await harness.broker.release(7, 1)
        await harness.broker.admit(7, 2, 5)
        status = await status_of(harness, 7)
        assert (status.since, status.last_seen) == (ago(_LONG), None)

    async def test_a_return_after_the_grace(self, harness: Harness) -> None:
        """A user who returns later is online since then."""
        await harness.broker.admit(7, 1, 5)
        await harness.pass_time(_LONG)
        await harness.broker.release(7, 1)
        await harness.pass_time(_LONG)
        await harness.broker.admit(7, 2, 5)
        status = await status_of(harness, 7)
        assert (status.connections, status.since, status.last_seen) == (1, ago(0), None)

    async def test_last_seen_is_stored_for_a_limited_time(self, harness: Harness) -> None:
        """``last_seen`` is known until its TTL is over."""
        await harness.broker.admit(7, 1, 5)
        await harness.broker.release(7, 1)
        await harness.pass_time(LAST_SEEN_TTL - 3600)
        assert (await status_of(harness, 7)).last_seen == ago(LAST_SEEN_TTL - 3600)
        await harness.pass_time(3700)
        assert await status_of(harness, 7) == UserStatus()

    async def test_several_users(self, harness: Harness) -> None:
        """The statuses have the order of the ids, which may repeat. Each id is a user of its own."""
        ids = [*USER_IDS, 1, "01"]
        for user_id in ids[::2]:
            await harness.broker.admit(user_id, 1, 5)
        found = await harness.broker.statuses([*ids, ids[0], "absent"])
        assert [status.connections for status in found] == [*[(n + 1) % 2 for n in range(len(ids))], 1, 0]
        assert await harness.broker.statuses([]) == []


class QuestionContract:
    """Questions to nodes."""

    async def test_a_node_answers(self, harness: Harness) -> None:
        """The node that has a user's leases receives the question, and its answer arrives."""
        await harness.broker.admit(7, 1, 5)
        (node,) = (await status_of(harness, 7)).nodes
        question = bytes(range(256)) + b"\n"
        assert await harness.broker.ask({node: question}, 10.0) == {node: b"answer to " + question}
        assert harness.listener.questions == [question]

    async def test_an_unknown_node(self, harness: Harness) -> None:
        """A node that does not exist does not answer."""
        assert await harness.broker.ask({"elsewhere": b"?"}, 10.0) == {}
        assert await harness.broker.ask({}, 10.0) == {}
        assert harness.listener.questions == []
