"""How many bytes Redis sends for commands that read the history. A room has 100 messages of 60 KB."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from long_history import EVENT_SIZE, long_message, sent_bytes
from redis_servers import RedisServer
from serving import PATH, Serve, User, call, connect, token_for

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

ROOM = "channel:1"
EVENTS = 100
#: What a command needs besides events: its claim, its publish and keepalives.
OTHER = 40_000


class Room:
    """The room on a server, and the ids of its messages."""

    def __init__(self, server: Server, redis: RedisServer, ids: list[str]) -> None:
        self.server = server
        self.ids = ids
        self._redis = redis

    async def read(self, work: Callable[[], Awaitable[Any]]) -> float:
        """Return how many messages Redis sends for ``work``, roughly."""
        before = await sent_bytes(self._redis)
        await work()
        return (await sent_bytes(self._redis) - before) / EVENT_SIZE


@pytest_asyncio.fixture
async def room(serve: Serve, redis_server: RedisServer, redis_prefix: str) -> Room:
    """The room, whose messages are of user 1 except the last."""
    broker = RedisBroker(parse(redis_server.url), RedisOptions(prefix=redis_prefix, history_bytes=2**26))
    server = await serve(broker=broker, announce_max=0)
    ids = [await broker.publish(ROOM, long_message()) for _ in range(EVENTS - 1)]
    ids.append(await broker.publish(ROOM, long_message(2)))
    return Room(server, redis_server, ids)


@pytest_asyncio.fixture
async def alice(room: Room) -> AsyncIterator[User]:
    """User 1, in the room."""
    async with connect(room.server) as user:
        await user.join(ROOM)
        yield user


async def command(user: User, type: str, id: str) -> str:
    """Edit or delete a message; return the type of the reply or the code of the error."""
    data = {"message_id": id} | ({"content": "new"} if type == "edit_message" else {})
    await user.send(type, ROOM, data, id=1)
    while "id" not in (reply := await user.recv()) or reply["id"] != 1:
        pass
    return str(reply["data"].get("code", reply["type"]))


@pytest.mark.parametrize("type", ["edit_message", "delete_message"])
@pytest.mark.parametrize("successors", [1, 20, 99])
async def test_a_change_reads_the_message_and_its_successors(
    room: Room, alice: User, type: str, successors: int
) -> None:
    """Redis sends each of them once, and no earlier event."""

    async def change() -> None:
        assert await command(alice, type, room.ids[-1 - successors]) == "sent"

    read = await room.read(change)
    assert successors + 1 <= read < successors + 1 + OTHER / EVENT_SIZE


async def test_a_change_that_is_refused_reads_one_event(room: Room, alice: User) -> None:
    """A message of another user, one that is not stored and a string that is no id need no successors."""
    async with connect(room.server, 2, "bob") as bob:
        await bob.join(ROOM)
        epoch = room.ids[0].partition("-")[0]

        async def change(user: User, id: str, code: str) -> None:
            for type in ("edit_message", "delete_message"):
                assert await command(user, type, id) == code

        for id, code in ((room.ids[0], "not_author"), (f"{epoch}-0", "not_found"), ("x", "not_found")):
            read = await room.read(lambda id=id, code=code: change(bob, id, code))
            assert read < (2 if code == "not_author" else 0) + OTHER / EVENT_SIZE


async def test_a_deleted_message_is_found_at_once(room: Room, alice: User) -> None:
    """A second deletion reads the message and one page of the newest events."""
    assert await command(alice, "delete_message", room.ids[0]) == "sent"

    async def change() -> None:
        assert await command(alice, "delete_message", room.ids[0]) == "not_found"

    assert await room.read(change) < 8


async def test_a_long_resume_reads_each_event_once(room: Room) -> None:
    """Joins that ask for 10 or 100 messages make Redis send that many."""
    for count in (10, EVENTS - 1):
        async with connect(room.server) as user:

            async def resume(user: User = user, count: int = count) -> None:
                await user.join(ROOM, since=room.ids[-1 - count])
                assert [(await user.recv())["id"] for _ in range(count)] == room.ids[-count:]

            assert await room.read(resume) < count + 1 + OTHER / EVENT_SIZE


async def test_a_notification_history_that_is_too_long(room: Room) -> None:
    """A client that missed more of its personal room than WS_MAX_BUFFER makes the node read not much more than that."""
    broker = room.server.gateway.broker
    ids = [await broker.publish("user:1", long_message()) for _ in range(EVENTS)]

    async def reconnect() -> None:
        async with connect(room.server, path=f"{PATH}?token={token_for()}&since={ids[0]}") as user:
            assert user.welcome["data"]["recovered"] is False

    limit = room.server.gateway.settings.ws_max_buffer
    assert await room.read(reconnect) < limit / EVENT_SIZE + 6


async def test_long_events_do_not_exceed_a_page(room: Room) -> None:
    """The HTTP API returns at most 1 MB at once, and the rest with ``since``."""
    since, found = room.ids[0], []
    while True:
        status, page = await call(room.server, "GET", f"/api/v1/rooms/{ROOM}/history?since={since}")
        assert status == 200
        assert len(json.dumps(page)) < 1.1 * 2**20
        found += [event["id"] for event in page["events"]]
        if not page["more"]:
            break
        since = found[-1]
    assert found == room.ids[1:]
