"""Who is in a room: rules, announcements, presence, resume; and that nothing is left behind, whatever goes wrong."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from serving import PATIENCE, Serve, User, call, connect, token_for

from roomcast import Context, Plugin
from roomcast.broker.base import History, PresenceChange
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import TOO_SLOW, Unavailable
from roomcast.gateway.delivery import CROWD
from roomcast.web.server import Server

ROOM = "channel:1"


def kinds(frames: list[dict[str, Any]]) -> list[str]:
    """The types of ``frames``."""
    return [frame["type"] for frame in frames]


async def members(server: Server, room: str = ROOM) -> dict[int | str, int]:
    """Who is in the room by the broker's list, with how many connections."""
    return {member.user_id: member.connections for member in await server.gateway.broker.members(room)}


async def until(condition: Any) -> None:
    """Wait for what happens in the server, on whose loop this runs."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def nothing_left(server: Server) -> bool:
    """Whether the server knows of no connection, room, lease or subscription any more."""
    gateway = server.gateway
    broker = gateway.broker
    assert isinstance(broker, MemoryBroker)
    return not any(
        (
            gateway.keepalive.connections,
            gateway.delivery.rooms,
            gateway.delivery.personal,
            gateway.rooms.subscriptions._joining,
            broker._subscribed,
            broker._presence,
            broker._leases,
        )
    )


# Coming and going.


async def test_a_user_comes_and_goes_once_however_many_tabs(serve: Serve):
    """The first connection of a user announces, the last to go takes leave; those between are not spoken of."""
    server = await serve()
    async with connect(server, 9, "watcher") as watcher:
        await watcher.join(ROOM)
        await watcher.settled()
        async with connect(server) as first, connect(server) as second:
            await first.join(ROOM)
            assert (await watcher.recv_type("user_joined"))["sender"] == "alice"
            joined = await second.join(ROOM)
            assert joined["type"] == "joined_room"
            assert kinds(await second.settled()) == []
            assert await members(server) == {9: 1, 1: 2}
            await first.send("leave_room", ROOM)
            await first.recv_type("left_room")
            assert kinds(await watcher.settled()) == []
            assert await members(server) == {9: 1, 1: 1}
            await second.send("leave_room", ROOM)
            await second.recv_type("left_room")
            assert kinds(await watcher.settled()) == ["user_left"]
            assert await members(server) == {9: 1}


@pytest.mark.parametrize("how", ["leave", "close", "crash", "disconnect"])
async def test_however_one_goes_the_others_hear_of_it(serve: Serve, how: str):
    """A leave, a close, a crash and an operator's disconnect are all announced, once, and end the presence."""
    server = await serve()
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await bob.recv_type("user_joined", sender="alice")
            if how == "leave":
                await alice.send("leave_room", ROOM)
            elif how == "close":
                await alice.socket.close()
            elif how == "crash":
                alice.socket.transport.abort()
            else:
                await server.gateway.signals.disconnect(1)
            left = await bob.recv_type("user_left")
            assert (left["data"], left["sender"]) == ({"username": "alice", "user_id": 1}, "alice")
            assert await members(server) == {2: 1}
            assert kinds(await bob.settled()) == []
    await until(lambda: nothing_left(server))


async def test_joining_again_is_only_answered(serve: Serve):
    """A second join of the same connection announces nothing and counts nothing twice; one leave ends it."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        assert (await alice.join(ROOM))["data"] == {"message": f"Joined room {ROOM}"}
        assert kinds(await alice.settled()) == []
        assert await members(server) == {1: 1}
        await alice.send("send_message", ROOM, {"content": "once"})
        assert kinds(await alice.settled()) == ["message"]
        await alice.send("leave_room", ROOM)
        await alice.recv_type("left_room")
        assert await members(server) == {}
        assert server.gateway.delivery.rooms == {}


async def test_leaving_where_one_is_not_is_no_error(serve: Serve):
    """A leave is answered also where there is nothing to leave, and the others hear nothing."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await bob.settled()
        await alice.send("leave_room", ROOM, id=7)
        left = await alice.recv()
        assert (left["type"], left["room"], left["id"]) == ("left_room", ROOM, 7)
        assert kinds(await bob.settled()) == []


async def test_a_leave_and_a_join_need_a_room(serve: Serve):
    """Without a room, with data that is none of theirs, or of a type that nobody declares, they are refused."""
    async with connect(await serve()) as alice:
        for request, code in [
            ({"type": "join_room"}, "bad_room"),
            ({"type": "leave_room"}, "bad_room"),
            ({"type": "join_room", "room": "planet:3"}, "unknown_room_type"),
            ({"type": "join_room", "room": ROOM, "data": {"until": "x"}}, "invalid_data"),
            ({"type": "join_room", "room": ROOM, "data": {"since": 7}}, "invalid_data"),
            ({"type": "leave_room", "room": ROOM, "data": {"reason": "bored"}}, "invalid_data"),
        ]:
            await alice.send(**request, id=1)
            error = await alice.recv()
            assert (error["type"], error["data"]["code"], error["id"]) == ("error", code, 1)
        assert kinds(await alice.settled()) == []


async def test_the_most_rooms_of_a_connection(serve: Serve):
    """One room more than MAX_ROOMS_PER_CONNECTION is refused, until one is left; another connection has its own."""
    server = await serve(max_rooms_per_connection=2)
    async with connect(server) as alice, connect(server) as tab:
        await alice.join("channel:1")
        await alice.join("channel:2")
        await alice.join("channel:2")
        await alice.send("join_room", "channel:3")
        assert (await alice.recv_type("error"))["data"]["code"] == "too_many_rooms"
        await tab.join("channel:3")
        await alice.send("leave_room", "channel:1")
        await alice.join("channel:3")
        assert sorted(server.gateway.delivery.rooms) == ["channel:2", "channel:3"]


async def test_above_announce_max_nobody_is_announced(serve: Serve):
    """In a room of more users than ANNOUNCE_MAX no coming or going is told; the list of members still has all."""
    server = await serve(announce_max=2)
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(connect(server, n, f"user{n}")) for n in range(1, 5)]
        for user in users:
            await user.join(ROOM)
        assert [frame["sender"] for frame in await users[0].settled()] == ["user1", "user2"]
        assert kinds(await users[3].settled()) == []
        assert list(await members(server)) == [1, 2, 3, 4]
        assert (await call(server, "GET", f"/api/v1/rooms/{ROOM}/members"))[1]["members"][3]["username"] == "user4"
        for user, heard in ((users[3], []), (users[2], []), (users[1], ["user_left"])):
            await user.send("leave_room", ROOM)
            await user.recv_type("left_room")
            assert kinds(await users[0].settled()) == heard


async def test_in_a_crowd_comings_and_messages_keep_their_order(serve: Serve):
    """Comings that a crowd hears of together stand where they happened among the messages, by their ids."""
    server = await serve(ws_message_rate=0)
    gateway = server.gateway
    crowd: list[User] = []
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(server, 1000, "first"))
        await first.join(ROOM)
        for n in range(CROWD + 20):
            user = await stack.enter_async_context(connect(server, n, f"user{n}"))
            crowd.append(user)
            await user.send("join_room", ROOM)
            if n % 3 == 0:
                await gateway.publishing.publish("task.deleted", ROOM, {"task_id": n}, None, None)
            if n % 7 == 0:
                await user.send("leave_room", ROOM)
                await user.recv_type("left_room")
            else:
                await user.recv_type("joined_room")
        await gateway.publishing.publish("task.deleted", ROOM, {"task_id": "last"}, None, None)
        while first.frames[-1]["data"].get("task_id") != "last":
            await first.recv()
        offsets = [offset(frame["id"]) for frame in first.frames if "id" in frame]
        assert offsets == list(range(1, len(offsets) + 1))
        stored = await gateway.service.history(ROOM)
        assert [frame for frame in first.frames if "id" in frame] == stored
        for user in crowd:
            user.socket.transport.abort()  # they have not read enough to say goodbye


# Rules.


async def test_a_forbidden_join_may_keep_the_connection(serve: Serve):
    """With FORBIDDEN_JOIN=keep the error is sent, with the request's id, and everything else goes on."""
    server = await serve(forbidden_join="keep")
    async with connect(server, rooms=[ROOM]) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "channel:2", id="j")
        error = await alice.recv_type("error")
        assert (error["id"], error["room"], error["data"]["code"]) == ("j", "channel:2", "forbidden")
        await alice.send("send_message", ROOM, {"content": "still here"})
        await alice.recv_type("message")
        assert list(server.gateway.delivery.rooms) == [ROOM]
        assert not server.gateway.rooms.subscriptions._joining


async def test_a_token_without_rooms_opens_none(serve: Serve):
    """No rooms claim means no room: it fails closed, also for an odd claim."""
    server = await serve(forbidden_join="keep")
    for rooms in ((), ("channel",), ("chan*",), ("channel:*:1",), ("user:*",)):
        async with connect(server, rooms=rooms) as alice:
            await alice.send("join_room", ROOM)
            assert (await alice.recv())["type"] == "error"


async def test_open_rooms_open_to_all_but_not_the_users_own(serve: Serve):
    """ROOM_ACCESS=open lets everyone into every room but a user's own."""
    async with connect(await serve(room_access="open"), rooms=()) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "user:1")
        assert await alice.closed() == (4403, "Forbidden")


async def test_the_own_room_is_there_from_the_start_and_stays(serve: Serve):
    """Every connection hears of its user's room, unasked; it can be neither joined nor left nor counted."""
    server = await serve(forbidden_join="keep")
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        for type, code in (("join_room", "forbidden"), ("leave_room", "bad_room")):
            await alice.send(type, "user:1")
            assert (await alice.recv_type("error"))["data"]["code"] == code
        await server.gateway.publishing.publish("task.deleted", "user:1", {"task_id": 1}, "system", None)
        for one in (alice, tab):
            event = await one.recv_type("task.deleted")
            assert set(event) == {"type", "data", "sender", "timestamp", "id"}
            assert event["sender"] == "system"
        assert kinds(await bob.settled()) == []
        assert await server.gateway.broker.rooms() == {}


# Resume.


async def say(server: Server, number: int, room: str = ROOM) -> str:
    """Publish event ``number``; return its id."""
    return await server.gateway.publishing.publish("task.deleted", room, {"task_id": number}, None, None)


def offset(id: str) -> int:
    """The place of an event in its room."""
    return int(id.rpartition("-")[2])


def numbers(frames: list[dict[str, Any]]) -> list[int]:
    """The numbers of the events among ``frames``."""
    return [frame["data"]["task_id"] for frame in frames if frame["type"] == "task.deleted"]


async def test_ids_count_up_by_one_in_each_room(serve: Serve):
    """Ids are <epoch>-<offset>; offsets are consecutive in a room, and a room's are its own."""
    server = await serve()
    ids = [await say(server, n) for n in range(5)]
    epoch, _, offset = ids[0].rpartition("-")
    assert offset == "1"
    assert ids == [f"{epoch}-{n}" for n in range(1, 6)]
    other = await say(server, 0, "channel:2")
    assert other.endswith("-1") and not other.startswith(f"{epoch}-")


async def test_who_comes_back_misses_nothing(serve: Serve):
    """joined_room says recovered and where the room stands, then comes what was missed, in order, then the new."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        await say(server, 0)
        seen = (await alice.recv_type("task.deleted"))["id"]
    ids = [await say(server, n) for n in range(1, 4)]
    async with connect(server) as alice:
        joined = await alice.join(ROOM, since=seen)
        assert set(joined["data"]) == {"message", "recovered", "last_id"}
        assert joined["data"]["recovered"] is True
        assert joined["data"]["last_id"] == ids[-1]
        missed = await alice.settled()
        # What left the room while nobody was there to be told is told now, as is the own coming.
        assert kinds(missed) == ["user_left", *["task.deleted"] * 3, "user_joined"]
        assert [frame["id"] for frame in missed[1:4]] == ids
        assert numbers(missed) == [1, 2, 3]
        await say(server, 4)
        assert numbers(await alice.settled()) == [4]


async def test_joined_room_has_more_only_for_who_asks(serve: Serve):
    """Without since there is nothing but the message; null asks where the room stands, and recovers nothing."""
    server = await serve()
    last = await say(server, 1)
    async with connect(server) as alice:
        assert set((await alice.join(ROOM))["data"]) == {"message"}
        await alice.settled()
        await alice.send("join_room", ROOM, {"since": None})
        joined = await alice.recv()
        assert joined["data"] == {"message": f"Joined room {ROOM}", "recovered": False, "last_id": last[:-1] + "2"}
        assert kinds(await alice.settled()) == []


async def test_an_empty_room_can_be_resumed_from_its_start(serve: Serve):
    """The last_id of a room in which nothing was said is a place to resume from."""
    server = await serve(announce_max=0)
    async with connect(server) as alice:
        await alice.send("join_room", ROOM, {"since": ""})
        start = (await alice.recv())["data"]["last_id"]
        assert start.endswith("-0")
    await say(server, 1)
    async with connect(server) as alice:
        assert (await alice.join(ROOM, since=start))["data"]["recovered"] is True
        assert numbers(await alice.settled()) == [1]


@pytest.mark.parametrize(
    "since", ["", "x", "old-1", "-", "{epoch}-0", "{epoch}-99", "{epoch}-01", "{epoch}-1e3", "9" * 9000]
)
async def test_what_cannot_be_resumed_is_said(serve: Serve, since: str):
    """Too old, of another epoch, beyond the top, or no id at all: recovered is false, and nothing is replayed."""
    server = await serve(history_size=3, announce_max=0)
    ids = [await say(server, n) for n in range(20)]
    async with connect(server) as alice:
        joined = await alice.join(ROOM, since=since.replace("{epoch}", ids[0].rpartition("-")[0]))
        assert joined["data"] == {"message": f"Joined room {ROOM}", "recovered": False, "last_id": ids[-1]}
        assert kinds(await alice.settled()) == []
        await say(server, 20)
        assert numbers(await alice.settled()) == [20]


async def test_a_member_may_ask_again_for_what_it_missed(serve: Serve):
    """A join with since by who is in the room already replays too, and announces nobody."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join(ROOM)
        first = await say(server, 1)
        await say(server, 2)
        assert numbers(await alice.settled()) == [1, 2]
        await alice.join(ROOM, since=first)
        assert numbers(await alice.settled()) == [2]
        await say(server, 3)
        assert numbers(await alice.settled()) == [3]


async def test_a_long_replay_comes_in_portions(serve: Serve):
    """More than a client may leave unread is sent as it is taken: it loses nothing, and its connection neither."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, ws_message_rate=0)
    publish = server.gateway.publishing.publish
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    first = await say(server, 0)
    ids = [await publish("task.updated", ROOM, data, None, None) for _ in range(300)]
    async with connect(server) as alice:
        # Another join at the same time is held to the limit together with it.
        await alice.send("join_room", ROOM, {"since": first}, id=1)
        await alice.send("join_room", ROOM, {"since": first}, id=2)
        for request in (1, 2):
            joined = await alice.recv()
            assert joined["data"] == {"message": f"Joined room {ROOM}", "recovered": True, "last_id": ids[-1]}
            assert joined["id"] == request
            assert [(await alice.recv())["id"] for _ in ids] == ids
        ids.append(await publish("task.updated", ROOM, data, None, None))
        assert [frame["id"] for frame in await alice.settled()] == ids[-1:]
        assert not server.gateway.rooms.subscriptions._joining


async def test_a_members_long_replay_runs_into_what_comes_live(serve: Serve):
    """Who is in the room already and asks for much gets all of it in order, what comes meanwhile in its place."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, history_size=5000)
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    async with connect(server) as alice:
        alice_joined = await alice.join(ROOM, since="")
        ids = [await server.gateway.publishing.publish("task.updated", ROOM, data, None, None) for _ in range(100)]
        while alice.frames[-1].get("id") != ids[-1]:
            await alice.recv()
        await alice.send("join_room", ROOM, {"since": alice_joined["data"]["last_id"]})
        assert (await alice.recv())["type"] == "joined_room"
        ids += [await server.gateway.publishing.publish("task.updated", ROOM, data, None, None) for _ in range(50)]
        assert [(await alice.recv())["id"] for _ in ids] == ids
        await say(server, 1)
        assert numbers(await alice.settled()) == [1]
        assert await members(server) == {1: 1}
    await until(lambda: nothing_left(server))


async def test_who_is_kicked_during_a_long_replay_joins_anew(serve: Serve):
    """The join that is under way goes on as a new one, and when the client goes nothing of it stays."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000)
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    async with connect(server) as alice:
        start = (await alice.join(ROOM, since=""))["data"]["last_id"]
        for _ in range(100):
            last = await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)
        await alice.recv_type("task.updated", id=last)
        await alice.send("join_room", ROOM, {"since": start})
        await alice.recv_type("joined_room")
        await server.gateway.signals.kick(ROOM, 1)
        await alice.recv_type("left_room")
        await alice.recv_type("user_joined", sender="alice")
        await alice.recv_type("user_left")
        await alice.recv_type("user_joined")
        assert await members(server) == {1: 1}
    await until(lambda: nothing_left(server))


async def test_what_is_lost_during_a_long_replay_is_said(serve: Serve):
    """If the history goes by faster than a client takes it, it is told to load the state anew, and is in the room."""
    server = await serve(ws_max_buffer=20_000, ws_max_message_size=20_000, announce_max=0, history_size=100)
    publish = server.gateway.publishing.publish
    data = {"task_id": 1, "changes": {"text": "x" * 3000}}
    first = await say(server, 0)
    for _ in range(90):
        await publish("task.updated", ROOM, data, None, None)
    async with connect(server) as alice:
        await alice.send("join_room", ROOM, {"since": first})
        assert (await alice.recv())["data"]["recovered"] is True
        for _ in range(200):
            last = await publish("task.updated", ROOM, data, None, None)
        resync = await alice.recv_type("resync")
        assert (resync["room"], resync["data"]["last_id"]) == (ROOM, last)
        await say(server, 1)
        assert numbers(await alice.settled()) == [1]


@pytest.mark.parametrize("end", ["cut off", "crash"])
async def test_who_is_too_slow_for_a_long_replay_is_not_left_halfway(serve: Serve, end: str):
    """It was told that it has joined: if it does not take the replay in time it is closed, to come and go on."""
    server = await serve(
        announce_max=0,
        history_size=5000,
        handler_timeout=0.3 if end == "cut off" else 10.0,
        ws_heartbeat_interval=2.0,
    )
    data = {"task_id": 1, "changes": {"text": "x" * 9000}}
    first = await say(server, 0)
    for _ in range(2000):
        await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)
    async with connect(server) as alice:
        alice.socket.transport.pause_reading()
        await alice.send("join_room", ROOM, {"since": first})
        client = next(iter(server.gateway.keepalive.connections))
        await until(lambda: client.paused)
        if end == "cut off":
            await until(lambda: client.end is not None)
            assert client.end == TOO_SLOW
        alice.socket.transport.abort()
        await until(lambda: nothing_left(server))


@pytest.mark.parametrize(("buffer", "rounds"), [(2**24, 150), (4000, 20)], ids=["at once", "in portions"])
async def test_resume_in_the_midst_of_traffic_has_no_gap_and_no_double(serve: Serve, buffer: int, rounds: int):
    """Who goes and comes back again and again, while others publish at full speed, hears each event once, in order."""
    server = await serve(
        history_size=100_000, ws_message_rate=0, ws_max_buffer=buffer, ws_max_message_size=4000, announce_max=0
    )
    gateway = server.gateway
    stop = asyncio.Event()
    sent = 0

    async def publish(count: int = 3) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            await gateway.publishing.publish("task.deleted", ROOM, {"task_id": sent}, None, None)

    async def keep_publishing(pause: float) -> None:
        while not stop.is_set():
            await publish()
            await asyncio.sleep(pause)

    async def hear(user: User, joined: dict[str, Any], more: int) -> str:
        """Read on from the replay into so many live events, and keep all their numbers; return the last one's id."""
        end = offset(joined["data"]["last_id"]) + more
        while True:
            event = await user.recv_type("task.deleted")
            heard.append(event["data"]["task_id"])
            if offset(event["id"]) >= end:
                return str(event["id"])

    pace = 0.0003 if buffer > 4000 else 0.01  # in portions of so few bytes nobody catches up with more
    publishers = [asyncio.create_task(keep_publishing(pause)) for pause in (pace, 2 * pace)]
    heard: list[int] = []
    since = ""
    for round in range(rounds):
        async with connect(server) as alice:
            joined = await alice.join(ROOM, since=since)
            assert joined["data"]["recovered"] is (round > 0)
            since = await hear(alice, joined, round % 7 + 1)
            await alice.send("leave_room", ROOM)
            await alice.recv_type("left_room")  # what comes before it was not taken note of, and so comes again
            joined = await alice.join(ROOM, since=since)
            assert joined["data"]["recovered"] is True
            since = await hear(alice, joined, round % 5 + 1)
            alice.socket.transport.abort()
        await publish(60)
    stop.set()
    await asyncio.gather(*publishers)
    assert heard == list(range(heard[0], heard[0] + len(heard)))


# Nothing left behind.


class Fragile(MemoryBroker):
    """A broker whose ``broken`` methods cannot be reached, and whose ``hanging`` ones never return."""

    broken: frozenset[str] = frozenset()
    hanging: frozenset[str] = frozenset()

    async def _hang(self, method: str) -> None:
        if method in self.hanging:
            await asyncio.Event().wait()

    def _reach(self, method: str) -> None:
        if method in self.broken:
            raise Unavailable("The broker cannot be reached.")

    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        self._reach("history")
        return await super().history(room, since, limit)

    async def enter(self, room: str, user_id: int | str, username: str, connection: int) -> PresenceChange:
        change = await super().enter(room, user_id, username, connection)  # in all the same, as on Redis
        self._reach("enter")
        await self._hang("enter")
        return change

    async def leave(self, room: str, user_id: int | str, connection: int) -> PresenceChange:
        change = await super().leave(room, user_id, connection)
        self._reach("leave")
        await self._hang("leave")
        return change

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        self._reach("publish")
        return await super().publish(room, payload, key)

    async def subscribe(self, rooms: Any) -> None:
        self._reach("subscribe")
        await self._hang("subscribe")
        await super().subscribe(rooms)


@pytest.mark.parametrize("method", ["history", "subscribe"])
async def test_a_join_that_fails_at_the_broker_leaves_nothing(serve: Serve, method: str):
    """A client is told that it is unavailable and may ask again; no room counts as in use for it."""
    broker = Fragile()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        broker.broken = frozenset([method])
        await alice.send("join_room", ROOM, {"since": ""}, id=1)
        error = await alice.recv()
        assert (error["data"]["code"], error["id"]) == ("unavailable", 1)
        assert (
            error["data"]["error"]
            == "join_room could not be carried out now; try again soon. The broker cannot be reached."
        )
        assert not server.gateway.rooms.subscriptions._joining and not server.gateway.delivery.rooms
        assert ROOM not in broker._subscribed
        broker.broken = frozenset()
        await alice.join(ROOM)


async def test_a_join_that_hangs_at_the_broker_keeps_no_room_for_itself(serve: Serve):
    """Who leaves while another joins leaves the subscription to that one, which gives it up if it does not get in."""
    broker = Fragile()
    server = await serve(broker=broker, handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.join(ROOM)
        broker.hanging = frozenset(["subscribe"])
        await bob.send("join_room", ROOM)
        await until(lambda: server.gateway.rooms.subscriptions._joining)
        await alice.send("leave_room", ROOM)
        await alice.recv_type("left_room")
        assert ROOM in broker._subscribed
        assert (await bob.recv_type("error"))["data"]["code"] == "timeout"
        assert ROOM not in broker._subscribed and not server.gateway.rooms.subscriptions._joining
        broker.hanging = frozenset()
        await bob.join(ROOM)


FAULTS = [("broken", "enter"), ("broken", "publish"), ("broken", "leave"), ("hanging", "enter"), ("hanging", "leave")]


@pytest.mark.parametrize(("how", "method"), FAULTS)
async def test_a_coming_or_going_that_was_answered_gets_no_error(serve: Serve, how: str, method: str):
    """Whatever the broker does after the answer: who was told that it is in, or out, is, and can go on."""
    broker = Fragile()
    server = await serve(broker=broker, handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice:
        setattr(broker, how, frozenset([method]))
        for type, answer in (("join_room", "joined_room"), ("leave_room", "left_room"), ("join_room", "joined_room")):
            await alice.send(type, ROOM, id=1)
            assert [kind for kind in kinds(await alice.settled()) if not kind.startswith("user_")] == [answer]
            assert (ROOM in server.gateway.delivery.rooms) is (type == "join_room")
        assert await members(server) == {1: 1}
        setattr(broker, how, frozenset())
    await until(lambda: nothing_left(server))


async def test_a_departure_that_fails_at_the_broker_is_over_here_all_the_same(serve: Serve, caplog):
    """Nobody goes on writing to a client that has gone, and its lease is given back."""
    broker = Fragile()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.join("channel:2")
        broker.broken = frozenset(["leave"])
    await until(lambda: not broker._leases)
    assert not server.gateway.delivery.rooms and not server.gateway.delivery.personal
    broker.broken = frozenset()


def waiting_rule() -> tuple[Plugin, asyncio.Event, list[str]]:
    """A plugin with rooms whose rule waits for an event; the list tells who asks."""
    plugin = Plugin("waiting")
    gate, asked = asyncio.Event(), []

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        asked.append(entity)
        await gate.wait()
        return True

    return plugin, gate, asked


@pytest.mark.parametrize("how", ["close", "crash"])
async def test_who_goes_while_its_join_waits_leaves_nothing_behind(serve: Serve, how: str):
    """A join that comes to its end after its client has gone lets nobody in: no member, no subscription, no lease."""
    plugin, gate, asked = waiting_rule()
    server = await serve(plugins=[plugin])
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("join_room", "slow:1", {"since": ""})
        await until(lambda: asked)
        if how == "close":
            await alice.socket.close()
        else:
            alice.socket.transport.abort()
        await until(lambda: not server.gateway.keepalive.connections)
    gate.set()
    await until(lambda: nothing_left(server))
    assert await server.gateway.service.history("slow:1") == []


async def test_a_rule_that_hangs_is_cut_off(serve: Serve):
    """A join whose rule takes longer than HANDLER_TIMEOUT is answered with an error, and nobody is in."""
    plugin, _, _ = waiting_rule()
    server = await serve(plugins=[plugin], handler_timeout=0.05, ws_heartbeat_interval=0.2)
    async with connect(server) as alice:
        await alice.send("join_room", "slow:1", id=1)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "timeout"
        assert not server.gateway.delivery.rooms and not server.gateway.rooms.subscriptions._joining


async def test_a_rule_that_says_anything_but_true_says_no(serve: Serve):
    """What is merely truthy lets nobody in, and a rule that raises is the server's fault, not the client's."""
    plugin = Plugin("odd")

    @plugin.room("odd")
    async def rule(ctx: Context, entity: str) -> Any:
        return {"yes": True, "one": 1, "text": "yes", "none": None}.get(entity) if entity != "boom" else 1 / 0

    server = await serve(plugins=[plugin], forbidden_join="keep")
    async with connect(server) as alice:
        for entity, code in (("one", "forbidden"), ("text", "forbidden"), ("none", "forbidden"), ("boom", "internal")):
            await alice.send("join_room", f"odd:{entity}")
            assert (await alice.recv_type("error"))["data"]["code"] == code
        await alice.join("odd:yes")


@pytest.mark.parametrize("mood", ["no", "boom", "hang", "cancelled", "one"])
async def test_a_new_token_is_shown_to_the_rules_of_plugins(serve: Serve, mood: str):
    """After refresh_token each rule is asked again; who is refused is out, also if the rule fails. Nothing waits."""
    plugin = Plugin("moody")

    @plugin.room("moody")
    async def rule(ctx: Context, entity: str) -> Any:
        if entity == "calm" or ctx.claims["mood"] == "yes":
            return True
        if ctx.claims["mood"] == "hang":
            await asyncio.Event().wait()
        elif ctx.claims["mood"] == "cancelled":
            raise asyncio.CancelledError
        return {"no": False, "one": 1}[ctx.claims["mood"]]  # or KeyError

    server = await serve(plugins=[plugin], handler_timeout=0.1)
    async with connect(server, token=token_for(mood="yes")) as alice, connect(server, 2, "bob") as bob:
        for room in (ROOM, "moody:1", "moody:calm"):
            await alice.join(room)
        await bob.join(ROOM)
        await alice.send("refresh_token", data={"token": token_for(mood=mood)})
        await alice.recv_type("token_refreshed")
        await alice.settled()  # nobody waits for the rule
        if not [frame for frame in alice.frames if frame["type"] == "left_room"]:
            await alice.recv_type("left_room")
        left = [frame for frame in alice.frames if frame["type"] == "left_room"]
        assert [(frame["room"], frame["data"]["message"]) for frame in left] == [
            ("moody:1", "You have no access to room moody:1 with the new token")
        ]
        assert (await members(server, "moody:1"), await members(server, "moody:calm")) == ({}, {1: 1})
        assert await members(server) == {1: 1, 2: 1}
        assert set(kinds(await bob.settled())) == {"user_joined"}


async def test_the_newest_token_counts(serve: Serve):
    """A rule that answers for a token that has been replaced meanwhile changes nothing; nor for one who has left."""
    plugin, gate, asked = Plugin("waiting"), asyncio.Event(), []

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        good = ctx.claims["good"]
        asked.append(good)
        if not good:
            await gate.wait()
        return good

    server = await serve(plugins=[plugin])
    async with connect(server, token=token_for(good=True)) as alice:
        await alice.join("slow:1")
        await alice.join("slow:2")
        for good in (False, True):
            await alice.send("refresh_token", data={"token": token_for(good=good)})
            await alice.recv_type("token_refreshed")
        await alice.send("leave_room", "slow:2")
        await alice.recv_type("left_room", room="slow:2")
        assert asked == [True, True, False, False]  # nobody is asked about twice at a time
        gate.set()
        await until(lambda: len(asked) == 5)
        assert kinds(await alice.settled()) == []
        assert (await members(server, "slow:1"), await members(server, "slow:2")) == ({1: 1}, {})
    await until(lambda: nothing_left(server))


async def test_nobody_stays_by_bringing_tokens_faster_than_the_rule_answers(serve: Serve):
    """Each answer comes for a token that was replaced meanwhile; the second no counts all the same."""
    plugin, asked = Plugin("waiting"), asyncio.Queue[asyncio.Future[bool]]()

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        if ctx.claims["good"]:
            return True
        answer = asyncio.get_running_loop().create_future()
        asked.put_nowait(answer)
        return await answer

    server = await serve(plugins=[plugin])
    async with connect(server, token=token_for(good=True)) as alice:
        await alice.join("slow:1")
        for _ in range(2):
            await alice.send("refresh_token", data={"token": token_for(good=False)})
            answer = await asked.get()
            await alice.send("refresh_token", data={"token": token_for(good=False)})
            await alice.settled()
            answer.set_result(False)
        assert (await alice.recv_type("left_room"))["room"] == "slow:1"
        assert not server.gateway.token_refresh._under_review and asked.empty()
    await until(lambda: nothing_left(server))


async def test_many_users_come_and_go_and_leave_nothing(serve: Serve):
    """After a while of joins, leaves, closes and crashes of many, all at once, nothing is kept of them."""
    server = await serve(max_connections_per_user=50)

    async def visit(number: int) -> None:
        async with connect(server, number % 7, f"user{number % 7}") as user:
            for room in ("channel:1", f"channel:{number % 3}", "task:1"):
                await user.join(room)
            await user.send("leave_room", "task:1")
            if number % 2:
                user.socket.transport.abort()

    await asyncio.gather(*(visit(number) for number in range(60)))
    await until(lambda: nothing_left(server))
