"""The tests of the command ``history``, which hold on every broker.

A subclass has a fixture ``start`` (see ``brokers``).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from brokers import Start
from gateway_tools import ROOM, numbers, publish_numbered
from join_history import publish_large
from serving import User, connect
from waiting import wait_until

from roomcast.broker.base import MAX_PAGE_BYTES
from roomcast.web.server import Server

#: The size of an event that is too large for a page, in bytes.
HUGE = 300_000


async def history(user: User, **data: Any) -> dict[str, Any]:
    """Send the command ``history`` and return the data of the reply or of the error."""
    await user.send("history", ROOM, data or None, id="h")
    while (reply := await user.recv()).get("id") != "h":
        pass
    assert reply["type"] in ("history", "error")
    found: dict[str, Any] = reply["data"]
    return found


def ids_of(found: dict[str, Any]) -> list[str]:
    """Return the ids of the events in a reply."""
    return [event["id"] for event in found["events"]]


async def fill(server: Server, count: int) -> list[str]:
    """Publish ``count`` numbered events; return their ids."""
    return [await publish_numbered(server, n) for n in range(count)]


class HistoryReplies:
    """The replies to ``history``."""

    async def test_the_newest_events(self, start: Start) -> None:
        """Without data these are 50; the reply has the room and nothing else, and the events are those of the room."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            ids = await fill(server, 60)
            await alice.send("send_message", ROOM, {"content": "x"}, id=1, key="k")
            ids.append((await alice.recv_type("sent"))["data"]["event_id"])
            await alice.settled()
            live = [frame for frame in alice.frames if frame["type"] in ("task.deleted", "message")]
            await alice.send("history", ROOM, id=7)
            reply = await alice.recv_type("history")
            assert list(reply) == ["type", "id", "room", "data", "timestamp"]
            assert (reply["type"], reply["id"], reply["room"]) == ("history", 7, ROOM)
            assert reply["data"] == {"events": live[-50:], "more": True, "last_id": ids[-1]}
            assert live[-1]["key"] == "k"
            assert (await history(alice, limit=200))["events"] == live

    @pytest.mark.parametrize("limit", [1, 7, 10, 20, 21, 200])
    async def test_reading_backward(self, start: Start, limit: int) -> None:
        """Each page ends before the first event of the page before, until ``more`` is false."""
        server = await start(history_size=20)
        ids = await fill(server, 25)
        async with connect(server) as alice:
            await alice.join(ROOM)
            found = await history(alice, limit=limit)
            read = ids_of(found)
            while found["more"]:
                assert len(found["events"]) == limit
                assert set(found) == {"events", "more", "last_id"}
                found = await history(alice, limit=limit, before=read[0])
                assert found["last_id"] == ids[-1]
                read = [*ids_of(found), *read]
            assert read == ids[-20:]
            assert await history(alice, before=read[0]) == {"events": [], "more": False, "last_id": ids[-1]}

    @pytest.mark.parametrize("limit", [1, 7, 10, 19, 200])
    async def test_reading_forward(self, start: Start, limit: int) -> None:
        """Each page begins after the last event of the page before, until ``more`` is false."""
        server = await start(history_size=20)
        ids = await fill(server, 25)
        async with connect(server) as alice:
            await alice.join(ROOM)
            read = [ids[5]]
            more = True
            while more:
                found = await history(alice, limit=limit, since=read[-1])
                assert (found["recovered"], found["last_id"]) == (True, ids[-1])
                read += ids_of(found)
                more = found["more"]
                assert more is (read[-1] != ids[-1])
            assert read == ids[5:]

    @pytest.mark.parametrize("since", ["", "x", "1-1", "{epoch}-4", "{epoch}-99", "{epoch}-01", "9" * 9000, "é"])
    async def test_since_that_is_not_in_the_history(self, start: Start, since: str) -> None:
        """``recovered`` is false, there are no events, and ``last_id`` is the newest id."""
        server = await start(history_size=20)
        ids = await fill(server, 25)
        async with connect(server) as alice:
            await alice.join(ROOM)
            found = await history(alice, since=since.replace("{epoch}", ids[0].rpartition("-")[0]))
            assert found == {"events": [], "more": False, "last_id": ids[-1], "recovered": False}

    async def test_before_that_is_not_in_the_history(self, start: Start) -> None:
        """An id of an earlier epoch is before all events, one of a later event is after all of them."""
        server = await start()
        ids = await fill(server, 3)
        epoch = ids[0].rpartition("-")[0]
        async with connect(server) as alice:
            await alice.join(ROOM)
            for before in ("0-5", "1-1", f"{epoch}-1", f"{epoch}-0"):
                assert await history(alice, before=before) == {"events": [], "more": False, "last_id": ids[-1]}
            assert ids_of(await history(alice, before=f"{epoch}-99")) == ids

    async def test_an_empty_room(self, start: Start) -> None:
        """There are no events, and ``last_id`` can be resumed from."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            found = await history(alice)
            assert (found["events"], found["more"]) == ([], False)
            await publish_numbered(server, 1)
            found = await history(alice, since=found["last_id"])
            assert (numbers(found["events"]), found["more"], found["recovered"]) == ([1], False, True)

    @pytest.mark.parametrize(
        ("data", "field", "sentence"),
        [
            ({"limit": 0}, "limit", "data.limit: give a number of events from 1 to 200."),
            ({"limit": 201}, "limit", "data.limit: give a number of events from 1 to 200."),
            ({"limit": "50"}, "limit", "data.limit: give a number of events from 1 to 200."),
            ({"limit": None}, "limit", "data.limit: give a number of events from 1 to 200."),
            ({"since": 7}, "since", "data.since: give the id of the last event you have."),
            ({"since": None}, "since", "data.since: give the id of the last event you have."),
            ({"before": None}, "before", "data.before: give the id of the first event you have."),
            ({"before": ""}, "before", "data.before: give the id of the first event you have."),
            ({"before": "x"}, "before", "data.before: give the id of the first event you have."),
            ({"before": "1-" + "9" * 19}, "before", "data.before: give the id of the first event you have."),
            ({"before": "é-1"}, "before", "data.before: give the id of the first event you have."),
            ({"before": "a-1", "since": "a-1"}, "before", "data.before: give either before or since, not both."),
            ({"after": "a-1"}, "after", "data.after: history takes only before, since and limit."),
        ],
    )
    async def test_wrong_data(self, start: Start, data: dict[str, Any], field: str, sentence: str) -> None:
        """The error names the field and what to do."""
        server = await start()
        async with connect(server) as alice:
            await alice.join(ROOM)
            error = await history(alice, **data)
            assert (error["error"], error["code"], list(error["fields"])) == (sentence, "invalid_data", [field])

    async def test_only_for_members(self, start: Start) -> None:
        """A client reads the history only of rooms that it is in."""
        server = await start()
        await fill(server, 3)
        async with connect(server) as alice, connect(server, 2, "bob") as bob:
            await bob.join(ROOM)
            assert (await history(alice))["code"] == "not_joined"
            await alice.join(ROOM)
            assert len((await history(alice))["events"]) == 3
            await alice.send("leave_room", ROOM)
            await alice.recv_type("left_room")
            assert (await history(alice))["code"] == "not_joined"
            for room, code in (("channel:2", "not_joined"), ("user:1", "not_joined"), (None, "bad_room")):
                await alice.send("history", room, id=room or "none")
                assert (await alice.recv_type("error", id=room or "none"))["data"]["code"] == code

    async def test_pages_have_a_limit_in_bytes(self, start: Start) -> None:
        """500 events of 60 KB are read in replies of at most 256 KB, backward and forward."""
        server = await start(history_bytes=2**26, ws_message_rate=0)
        sizes = []

        async def read(user: User, **data: Any) -> dict[str, Any]:
            await user.send("history", ROOM, {"limit": 200, **data})
            while json.loads(text := await user.socket.recv())["type"] != "history":
                pass
            sizes.append(len(text))
            found: dict[str, Any] = json.loads(text)["data"]
            return found

        ids = await publish_large(server, 500, 59_800)
        async with connect(server) as alice:
            await alice.join(ROOM)
            found = await read(alice)
            read_ids = ids_of(found)
            while found["more"]:
                found = await read(alice, before=read_ids[0])
                read_ids = [*ids_of(found), *read_ids]
            assert read_ids == ids
            read_ids = ids[:1]
            found = {"more": True}
            while found["more"]:
                found = await read(alice, since=read_ids[-1])
                read_ids += ids_of(found)
            assert read_ids == ids
        assert len(sizes) == 250
        assert 3 * 59_800 < min(sizes[:124]) <= max(sizes) <= MAX_PAGE_BYTES

    async def test_an_event_that_is_larger_than_a_page(self, start: Start) -> None:
        """It comes alone, so that reading goes on."""
        server = await start(history_bytes=2**26)
        ids = await fill(server, 1) + await publish_large(server, 2, HUGE) + await fill(server, 1)
        async with connect(server) as alice:
            await alice.join(ROOM)
            for before, expected in ((None, ids[3:]), (ids[3], ids[2:3]), (ids[2], ids[1:2]), (ids[1], ids[:1])):
                found = await history(alice, **({} if before is None else {"before": before}))
                assert (ids_of(found), found["more"]) == (expected, expected != ids[:1])

    async def test_a_client_that_does_not_read(self, start: Start) -> None:
        """It is not sent more than its buffer, and is not closed; when it reads, it gets all replies in order."""
        server = await start(history_bytes=2**26, ws_message_rate=0)
        ids = await publish_large(server, 20, 60_000)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.settled()
            alice.socket.transport.pause_reading()
            for n in range(60):
                await alice.send("history", ROOM, {"limit": 4}, id=n)
            client = next(iter(server.gateway.keepalive.connections))
            await wait_until(lambda: bool(client.queued) and client.unread_bytes > 0)
            for _ in range(10):
                assert client.unread_bytes <= server.gateway.settings.ws_max_buffer
                await asyncio.sleep(0.01)
            assert client.end is None
            alice.socket.transport.resume_reading()
            for n in range(60):
                assert ids_of((await alice.recv_type("history", id=n))["data"]) == ids[-4:]

    async def test_a_member_that_is_removed_meanwhile(self, start: Start) -> None:
        """It gets an error instead of the events that it waits for."""
        server = await start(history_bytes=2**26, ws_message_rate=0)
        await publish_large(server, 20, 60_000)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.settled()
            alice.socket.transport.pause_reading()
            for n in range(60):
                await alice.send("history", ROOM, {"limit": 4}, id=n)
            client = next(iter(server.gateway.keepalive.connections))
            await wait_until(lambda: bool(client.queued) and client.unread_bytes > 0)
            await server.gateway.signals.kick(ROOM, 1)
            alice.socket.transport.resume_reading()
            await alice.recv_type("error", id=59)
            replies = [frame for frame in alice.frames if frame["type"] in ("history", "left_room", "error")]
            read = [frame["type"] for frame in replies].index("left_room")
            assert 0 < read < 59
            assert [frame["id"] for frame in replies if "id" in frame] == list(range(60))
            assert {frame["type"] for frame in replies[:read]} == {"history"}
            assert {frame["data"]["code"] for frame in replies[read + 1 :]} == {"not_joined"}
