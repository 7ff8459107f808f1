"""The tests of ``key`` in events, which hold on every broker.

A subclass has a fixture ``start`` (see ``brokers``).
"""

from __future__ import annotations

from typing import Any

from brokers import Start
from gateway_tools import ROOM
from marshmallow import Schema, fields
from serving import User, call, connect

from roomcast import Context, Plugin
from roomcast.web.server import Server

plugin = Plugin("twice", "Publishes two events for each command")


@plugin.event("twice.done")
class Done(Schema):
    """One of the events."""

    n = fields.Integer(required=True)


class Nothing(Schema):
    """No data."""


@plugin.command("twice", Nothing)
async def twice(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Publish two events in the room, and one in the personal room of the user."""
    ids = [await ctx.publish(Done, {"n": n}) for n in range(2)]
    return {"ids": [*ids, await ctx.publish(Done, {"n": 2}, room=f"user:{ctx.user_id}")]}


def keys_of(frames: list[dict[str, Any]]) -> list[str | None]:
    """Return the keys of the stored events among ``frames``."""
    return [frame.get("key") for frame in frames if frame["type"] in ("message", "twice.done", "task.created")]


async def received_keys(user: User, count: int) -> list[str | None]:
    """Wait until the user has received ``count`` stored events; return the keys of all that have arrived.

    On Redis, a publish may return before the event arrives.
    """
    while len(keys_of(user.frames)) < count:
        await user.recv()
    await user.settled()
    return keys_of(user.frames)


class EventKeys:
    """Events that are caused by requests with a key."""

    async def test_every_event_of_a_command_has_its_key(self, start: Start) -> None:
        """All members of the room and the personal room receive the key that the client sent, and no digest of it."""
        server = await start(plugins=[plugin])
        async with connect(server) as alice, connect(server, 2, "bob") as bob:
            await alice.join(ROOM)
            await bob.join(ROOM)
            await alice.settled()
            await bob.settled()
            await alice.send("twice", ROOM, {}, id=1, key='k "1" \\ é')
            await alice.recv_type("reply", id=1)
            assert await received_keys(alice, 3) == ['k "1" \\ é'] * 3
            assert await received_keys(bob, 2) == ['k "1" \\ é'] * 2
            assert {frame["sender"] for frame in bob.frames if frame["type"] == "twice.done"} == {"alice"}

    async def test_events_without_a_key(self, start: Start) -> None:
        """They have no field ``key``."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "x"}, id=1)
            await alice.recv_type("sent")
            assert all("key" not in frame for frame in [*await alice.settled(), *alice.frames])

    async def test_stored_events_have_their_key(self, start: Start) -> None:
        """A resume, a join with ``last`` and the HTTP API return the key that was delivered live."""
        server = await start()
        async with connect(server) as alice:
            since = (await alice.join(ROOM, since=""))["data"]["last_id"]
            for n in range(3):
                await alice.send("send_message", ROOM, {"content": "x"}, id=n, key=f"key-{n}")
                await alice.recv_type("sent", id=n)
            assert await received_keys(alice, 3) == ["key-0", "key-1", "key-2"]
            live = [frame for frame in alice.frames if frame["type"] == "message"]
        node = await start()
        async with connect(node, 2, "bob") as bob:
            await bob.join(ROOM, since=since)
            assert [frame for frame in await bob.settled() if frame["type"] == "message"] == live
            await bob.join(ROOM, last=2)
            assert [frame for frame in await bob.settled() if frame["type"] == "message"] == live[1:]
        _, found = await call(node, "GET", f"/api/v1/rooms/{ROOM}/history")
        assert found["events"] == live
        assert [event["key"] for event in await node.gateway.service.history(ROOM)] == ["key-0", "key-1", "key-2"]

    async def test_a_repeat_publishes_nothing(self, start: Start) -> None:
        """A command that is repeated with its key is carried out once; another command has another key."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            sent = []
            for id, key in enumerate(["a", "a", "b", "a"]):
                await alice.send("send_message", ROOM, {"content": "x"}, id=id, key=key)
                sent.append((await alice.recv_type("sent", id=id))["data"]["event_id"])
            assert sent[0] == sent[1] == sent[3] != sent[2]
            assert await received_keys(alice, 2) == ["a", "b"]

    async def test_events_of_backends(self, start: Start) -> None:
        """An ``Idempotency-Key`` is the key of all events of the request, one or a list; a repeat publishes nothing."""
        server = await start()
        event = {"type": "task.created", "room": ROOM, "data": {"task_id": 1, "title": "A"}}
        async with connect(server) as alice:
            await alice.join(ROOM)
            for body, key in ((event, "one"), ([event, event], "many"), ([event, event], "many"), (event, None)):
                headers = {} if key is None else {"Idempotency-Key": key}
                assert (await call(server, "POST", "/api/v1/events", body, headers=headers))[0] == 200
            assert await received_keys(alice, 4) == ["one", "many", "many", None]

    async def test_events_of_backends_with_keys_of_their_own(self, start: Start) -> None:
        """An event whose key was used in the room returns the first id, in the same or another list, on any node."""
        server, other = await start(), await start()

        def event(title: str, key: str | None = None, room: str = ROOM) -> dict[str, Any]:
            return {"type": "task.created", "room": room, "data": {"task_id": 1, "title": title}, "key": key}

        async with connect(server) as alice:
            await alice.join(ROOM)
            first = [event("a", "1"), event("b", "2"), event("again", "1"), event("c")]
            _, body = await call(server, "POST", "/api/v1/events", first, headers={"Idempotency-Key": "list"})
            ids = body["ids"]
            assert ids[0] == ids[2] and len(set(ids)) == 3
            second = [event("other data", "2"), event("d", "3"), event("e", "1", "channel:other")]
            _, body = await call(other, "POST", "/api/v1/events", second)
            assert body["ids"][0] == ids[1]
            assert await received_keys(alice, 4) == ["1", "2", "list", "3"]
        _, found = await call(other, "GET", "/api/v1/rooms/channel:other/history")
        assert [one["key"] for one in found["events"]] == ["1"]

    async def test_keys_live_as_long_as_the_setting_says(self, start: Start) -> None:
        """``IDEMPOTENCY_TTL`` is the lifetime of the keys of events, of requests and of commands."""
        server = await start(idempotency_ttl=7200.0)
        event = {"type": "task.created", "room": ROOM, "data": {"task_id": 1, "title": "A"}}
        async with connect(server) as alice:
            await alice.join(ROOM)
            await call(server, "POST", "/api/v1/events", event | {"key": "a"})
            await call(server, "POST", "/api/v1/events", event, headers={"Idempotency-Key": "b"})
            await alice.send("send_message", ROOM, {"content": "x"}, id=1, key="c")
            await alice.recv_type("sent")
        lifetimes = await self.lifetimes_of_keys(server)
        assert len(lifetimes) == 5  # of three events, and of two answers
        assert all(7100 < lifetime <= 7200 for lifetime in lifetimes)

    async def lifetimes_of_keys(self, server: Server) -> list[float]:
        """Return how long each key that the broker stores lives, in seconds."""
        raise NotImplementedError

    async def test_events_of_services(self, start: Start) -> None:
        """``key`` of ``service.publish`` is the key of the event."""
        server = await start()
        service = server.gateway.service
        async with connect(server) as alice:
            await alice.join(ROOM)
            for key in ("s", "s", None):
                await service.publish("task.created", ROOM, {"task_id": 1, "title": "A"}, key=key)
            assert await received_keys(alice, 2) == ["s", None]
