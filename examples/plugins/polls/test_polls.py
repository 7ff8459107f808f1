"""Tests of the polls, on the embedded broker, on Redis and on two nodes."""

import pytest
from roomcast import Refused

pytestmark = pytest.mark.all_brokers
ROOM = "poll:1"
POLL = {"question": "Lunch?", "options": ["Pizza", "Soup"]}


@pytest.fixture
async def users(connect):
    """Connect two users, who join the room of an open poll."""
    users = [await connect(name, rooms=["poll:*"]) for name in ("alice", "bob")]
    for user in users:
        await user.join(ROOM)
    await users[0].command("poll.open", POLL, room=ROOM)
    return users


async def test_everyone_sees_the_results(users):
    for number, votes in enumerate(([0, 1], [1, 1])):
        await users[number].command("poll.vote", {"option": 1 - number}, room=ROOM)
        for one in users:
            await one.next("poll.results", data={"votes": votes})
    await users[0].command("poll.close", room=ROOM)
    await users[1].next("poll.closed", data={"votes": [1, 1]})


@pytest.mark.parametrize(("option", "reason"), [(2, "no such option"), (0, "You have voted")])
async def test_votes_that_do_not_count(users, option, reason):
    if option == 0:
        await users[0].command("poll.vote", {"option": 1}, room=ROOM)
    with pytest.raises(Refused, match=reason):
        await users[0].command("poll.vote", {"option": option}, room=ROOM)
    await users[0].command("poll.close", room=ROOM)
    with pytest.raises(Refused, match="in an open poll"):
        await users[1].command("poll.vote", {"option": 0}, room=ROOM)
