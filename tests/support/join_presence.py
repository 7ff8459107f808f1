"""The tests of ``join_room`` with ``presence``, of ``members`` and of ``set_presence``, which hold on every broker.

A subclass has a fixture ``start``, which starts a server. Servers of one test share the members if the broker can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from gateway_tools import ROOM, frame_types, publish_numbered
from join_history import publish_large
from serving import User, connect
from waiting import wait_until

from roomcast.broker.base import MAX_MEMBERS_BYTES, MemberPage
from roomcast.web.server import Server

OTHER = "channel:2"
#: ``await start(**settings)`` starts a server.
Start = Callable[..., Awaitable[Server]]
#: Presence as a client sees it: the status and the data of each user.
View = dict[int | str, tuple[Any, Any]]


def view_of(frames: list[dict[str, Any]], room: str = ROOM) -> View:
    """Return the members that a client knows after it has received ``frames``."""
    view: View = {}
    for frame in frames:
        data = frame.get("data", {})
        if frame.get("room") != room:
            continue
        if "members" in data:
            view = {one["user_id"]: (one.get("status"), one.get("data")) for one in data["members"]}
        elif frame["type"] == "user_joined":
            view.setdefault(data["user_id"], (None, None))
        elif frame["type"] == "user_updated":
            view[data["user_id"]] = (data["status"], data["data"])
        elif frame["type"] == "user_left":
            view.pop(data["user_id"], None)
    return view


def users(data: dict[str, Any]) -> list[int | str]:
    """Return the users in the data of a reply."""
    return [member["user_id"] for member in data["members"]]


async def reply_to(user: User, type: str, room: str | None = ROOM, **data: Any) -> dict[str, Any]:
    """Send a command with an id; return the frame that answers it. Others are only in ``frames``."""
    id = f"{type} {len(user.frames)}"
    await user.send(type, room, data or None, id=id)
    while (frame := await user.recv()).get("id") != id:
        pass
    return frame


class JoinWithPresence:
    """Lists of members, and statuses."""

    async def test_joined_room_has_the_members(self, start: Start) -> None:
        """They are in order of arrival, with the user who joins; then user_joined arrives. Others get no list."""
        server = await start()
        async with connect(server, 2, "bob") as bob, connect(server, "x-1", "carol") as carol, connect(server) as alice:
            assert set((await bob.join(ROOM))["data"]) == {"message"}
            assert set((await carol.join(ROOM, presence=False))["data"]) == {"message"}
            await reply_to(bob, "set_presence", status="away")
            joined = (await alice.join(ROOM, presence=True))["data"]
            assert set(joined) == {"message", "members", "member_count"}
            now = datetime.now(UTC)
            for member in joined["members"]:
                assert abs(datetime.fromisoformat(member.pop("since")) - now) < timedelta(minutes=1)
            assert joined["member_count"] == 3
            assert joined["members"] == [
                {"user_id": 2, "username": "bob", "status": "away"},
                {"user_id": "x-1", "username": "carol"},
                {"user_id": 1, "username": "alice"},
            ]
            assert (await alice.recv_type("user_joined"))["sender"] == "alice"

    async def test_a_second_connection_and_a_second_join(self, start: Start) -> None:
        """A user with two connections is listed once; a member that joins again gets the list again."""
        first, second = await start(), await start()
        async with connect(first) as alice, connect(second) as again:
            for user in (alice, again, alice):
                joined = (await user.join(ROOM, presence=True))["data"]
                assert (users(joined), joined["member_count"]) == ([1], 1)
            assert frame_types(await again.settled()) == []

    async def test_a_user_who_reloads_a_page(self, start: Start) -> None:
        """Within the grace, a user keeps place, time of arrival and status, and is listed meanwhile."""
        server = await start()
        async with connect(server, 2, "bob") as bob:
            async with connect(server) as alice:
                await alice.join(ROOM)
                before = await reply_to(alice, "set_presence", status="busy", data={"a": [], "b": 2**60, "c": 0.1})
                assert before["data"] == {"status": "busy", "data": {"a": [], "b": 2**60, "c": 0.1}}
                await bob.join(ROOM)
                listed = (await reply_to(alice, "members"))["data"]["members"]
                assert [member["user_id"] for member in listed] == [1, 2]
            assert (await reply_to(bob, "members"))["data"] == {"members": listed, "member_count": 2}
            async with connect(server) as alice:
                assert (await alice.join(ROOM, presence=True))["data"]["members"] == listed
            await bob.recv_type("user_left")
            assert users((await reply_to(bob, "members"))["data"]) == [2]

    async def test_pages(self, start: Start) -> None:
        """All members of a room are on the pages, each of which has at most 100 and 64 KB; the count is on each."""
        server = await start(announce_max=0)
        broker = server.gateway.broker
        for n in range(230):
            await broker.enter(ROOM, n + 1000, "name", n + 1000)
        async with connect(server) as alice:
            page = (await alice.join(ROOM, presence=True))["data"]
            found = users(page)
            assert (len(found), page["member_count"]) == (100, 231)
            while "next" in page:
                page = (await reply_to(alice, "members", after=page["next"], limit=70))["data"]
                assert page["member_count"] == 231
                found += users(page)
            assert found == [*range(1000, 1230), 1]
            large = orjson.dumps({"x": '"é/' * 240}).decode()
            for n in range(230):
                await broker.set_status(ROOM, n + 1000, f'"{"s" * 32}"\n{large}')
            found, page = [], {}
            while not found or "next" in page:
                page = (await reply_to(alice, "members", after=page.get("next")))["data"]
                assert len(orjson.dumps(page["members"])) <= MAX_MEMBERS_BYTES
                found += users(page)
            assert found == [*range(1000, 1230), 1]

    @pytest.mark.parametrize(
        ("type", "data", "field"),
        [
            ("members", {"limit": 0}, "limit"),
            ("members", {"limit": 101}, "limit"),
            ("members", {"limit": "5"}, "limit"),
            ("members", {"limit": True}, "limit"),
            ("members", {"after": 5}, "after"),
            ("members", {"after": "no cursor"}, "after"),
            ("members", {"before": "x"}, "before"),
            ("join_room", {"presence": 1}, "presence"),
            ("set_presence", {"status": "x" * 33}, "status"),
            ("set_presence", {"status": 5}, "status"),
            ("set_presence", {"data": "text"}, "data"),
            ("set_presence", {"data": []}, "data"),
            ("set_presence", {"data": {"x": "y" * 1020}}, "data"),
            ("set_presence", {"state": "away"}, "state"),
        ],
    )
    async def test_invalid_data(self, start: Start, type: str, data: dict[str, Any], field: str) -> None:
        """Invalid data is refused with the field, and changes nothing."""
        async with connect(await start()) as alice:
            await alice.join(ROOM)
            error = (await reply_to(alice, type, **data))["data"]
            assert error["code"] == "invalid_data"
            assert list(error["fields"]) == [field]
            assert view_of([await reply_to(alice, "members")]) == {1: (None, None)}

    async def test_members_only(self, start: Start) -> None:
        """Only a connection in the room may list its members or set a status there; without rooms, nothing is set."""
        server = await start()
        async with connect(server) as alice, connect(server) as member:
            await member.join(ROOM)
            for type in ("members", "set_presence"):
                for room in (ROOM, "user:1"):
                    assert (await reply_to(alice, type, room))["data"]["code"] == "not_joined"
            assert (await reply_to(alice, "members", None))["data"]["code"] == "bad_room"
            assert (await reply_to(alice, "set_presence", None, status="x"))["type"] == "presence_set"
            assert view_of([await reply_to(member, "members")]) == {1: (None, None)}

    async def test_a_status_in_one_room_and_in_all(self, start: Start) -> None:
        """A status in one room is told to its members on all nodes; without a room, it is set in all rooms."""
        first, second = await start(), await start()
        async with connect(first) as alice, connect(second, 2, "bob") as bob:
            for room in (ROOM, OTHER):
                await bob.join(room)
                await alice.join(room)
            reply = await reply_to(alice, "set_presence", status="away")
            assert (reply["type"], reply["room"], reply["data"]) == (
                *("presence_set", ROOM),
                {"status": "away", "data": None},
            )
            event = await bob.recv_type("user_updated")
            assert event.keys() == {"type", "room", "data", "sender", "timestamp"}
            assert (event["room"], event["sender"]) == (ROOM, "alice")
            assert event["data"] == {"username": "alice", "user_id": 1, "status": "away", "data": None}
            reply = await reply_to(alice, "set_presence", None, data={"tab": 1})
            assert reply.keys() == {"type", "id", "data", "timestamp"}
            event = await bob.recv_type("user_updated")
            assert (event["room"], event["data"]["data"]) == (OTHER, {"tab": 1})
            event = await bob.recv_type("user_updated")  # a second after the first
            assert (event["room"], event["data"]["status"], event["data"]["data"]) == (ROOM, None, {"tab": 1})
            for room in (ROOM, OTHER):
                assert view_of([await reply_to(bob, "members", room)], room) == {2: (None, None), 1: (None, {"tab": 1})}
            await reply_to(alice, "set_presence", None)
            assert view_of([await reply_to(bob, "members")]) == {2: (None, None), 1: (None, None)}
            assert await first.gateway.service.history(ROOM) == []

    async def test_a_loop_is_limited(self, start: Start) -> None:
        """Each room of a status counts for the rate of bytes, and one status a second is announced."""
        server = await start(ws_byte_rate=20_000, ws_max_message_size=10_000)
        async with connect(server) as alice, connect(server, 2, "bob") as bob:
            for n in range(20):
                await alice.join(f"channel:{n}")
            await bob.join(ROOM)
            codes = [
                (await reply_to(alice, "set_presence", None, status=f"{n}"))["data"].get("code") for n in range(10)
            ]
            assert codes[0] is None
            assert "rate_limited" in codes
            await bob.recv_type("user_updated")
            await bob.settled()
            assert 1 <= frame_types(bob.frames).count("user_updated") <= 2

    @pytest.mark.parametrize("command", ["join_room", "members"])
    async def test_announcements_between_the_list_and_the_reply(self, start: Start, command: str) -> None:
        """What is announced on the node while the list is on its way follows the reply."""
        server = await start()
        broker = server.gateway.broker
        read = broker.list_members

        async def read_late(*args: Any, **options: Any) -> MemberPage:
            page = await read(*args, **options)
            await broker.leave(ROOM, 7, 7)
            await broker.enter(ROOM, 8, "dave", 8)
            await broker.set_status(ROOM, 9, '"away"\nnull')
            for user_id in (7, 8, 9):
                await announced(lambda frame, user_id=user_id: frame["data"]["user_id"] == user_id)
            return page

        async with connect(server) as alice, connect(server, 2, "bob") as watcher:

            async def announced(condition: Callable[[dict[str, Any]], bool]) -> None:
                while not any(condition(frame) for frame in watcher.frames[seen:] if frame["type"].startswith("user_")):
                    await watcher.recv()

            await watcher.join(ROOM)
            if command == "members":
                await alice.join(ROOM)
            for user_id in (7, 9):
                await broker.enter(ROOM, user_id, "name", user_id)
            await announced_all(watcher, 9)
            seen = len(watcher.frames)
            broker.list_members = read_late  # type: ignore[method-assign]
            if command == "members":
                await reply_to(alice, "members")
            else:
                await alice.join(ROOM, presence=True)
            await alice.settled()
            broker.list_members = read  # type: ignore[method-assign]
            expected = view_of([await reply_to(alice, "members")])
            assert expected.keys() == {1, 2, 8, 9}
            assert view_of(alice.frames[:-1]) == expected

    async def test_resuming(self, start: Start) -> None:
        """A client that resumes gets the current members, also if it missed joins, leaves and statuses."""
        server = await start(presence_grace=0)
        broker = server.gateway.broker
        async with connect(server) as alice:
            since = (await alice.join(ROOM, last=1))["data"]["last_id"]
            await broker.enter(ROOM, 7, "old", 7)

        async def alice_has_left() -> bool:
            return [member.user_id for member in (await broker.list_members(ROOM)).members] == [7]

        await wait_until(alice_has_left)  # otherwise she returns before she has left, and is not announced
        await publish_numbered(server, 1)
        await broker.leave(ROOM, 7, 7)
        await broker.enter(ROOM, 8, "new", 8)
        async with connect(server) as alice:
            joined = await alice.join(ROOM, since=since, presence=True)
            assert set(joined["data"]) == {"message", "recovered", "last_id", "members", "member_count"}
            assert users(joined["data"]) == [8, 1]
            await alice.recv_type("user_joined")  # Redis announces it, at any time after the reply
            await alice.settled()
            assert frame_types(alice.frames) == [
                "connected",
                "joined_room",
                "task.deleted",
                "user_joined",
                "pong",
                "pong",
            ]

    async def test_joins_and_leaves_during_a_long_replay(self, start: Start) -> None:
        """A client that gets a long history in portions receives the joins and leaves since the list after them."""
        server = await start(ws_max_buffer=65_536, ws_max_message_size=65_536, history_bytes=2**22, presence_grace=0)
        gateway, broker = server.gateway, server.gateway.broker
        first = await publish_numbered(server, 1)
        await publish_large(server, 100, 20_000)
        await broker.subscribe([ROOM])
        async with connect(server, 2, "bob") as bob, AsyncExitStack() as stack:
            await bob.join(ROOM)
            alice = await stack.enter_async_context(connect(server))
            joined = await alice.join(ROOM, since=first, presence=True)
            assert users(joined["data"]) == [2, 1]
            assert not gateway.delivery.has(ROOM, next(iter(gateway.delivery.personal["user:1"])))
            await broker.enter(ROOM, 7, "dave", 7)
            await reply_to(bob, "set_presence", status="away")
            await broker.enter(ROOM, 8, "erin", 8)
            await broker.leave(ROOM, 8, 8)
            while view_of(alice.frames) != {1: (None, None), 2: ("away", None), 7: (None, None)}:
                await alice.recv()
            received = frame_types(alice.frames)
            assert received.count("task.updated") == 100
            assert received.index("user_updated") > len(received) - 10
            assert view_of([await reply_to(bob, "members")]) == view_of(alice.frames)


async def announced_all(watcher: User, last: int) -> None:
    """Wait until the join of the user ``last`` is announced."""
    async with asyncio.timeout(10):
        while (await watcher.recv_type("user_joined"))["data"]["user_id"] != last:
            pass
