"""The tests of what a plugin can do with its ``Service``, which hold on every broker.

A subclass has a fixture ``nodes``, which starts two nodes with the same plugin. They may be the same server if the
broker is not shared. ``service`` is that of the first node; alice is connected to both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
from marshmallow import Schema, fields
from serving import User, connect
from waiting import wait_until

from roomcast import Context, Plugin, Refused, Service
from roomcast.errors import DISCONNECTED, InvalidEvent
from roomcast.web.server import Server

ROOM = "poll:1"


class Voted(Schema):
    number = fields.Integer(required=True)


class Hint(Schema):
    text = fields.String(required=True)


class Polls:
    """A plugin whose rooms cannot be joined by clients. ``contexts`` are those of its command ``poll.show``."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.plugin = Plugin("polls")
        self.plugin.event("poll.voted", unread=True)(Voted)
        self.plugin.event("poll.hint", stored=False)(Hint)
        self.plugin.event("poll.closing", stored=False, rooms=("poll",))(type("Closing", (Schema,), {}))
        self.plugin.room("poll")(self.refuse)
        self.plugin.command("poll.show", Schema, access="anyone")(self.show)
        self.plugin.command("poll.vote_all", Schema, access="anyone")(self.vote_all)

    async def refuse(self, ctx: Context, entity: str) -> bool:
        """Refuse every join."""
        return False

    async def show(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Return what the context says about the connection."""
        self.contexts.append(ctx)
        return {"rooms": list(ctx.rooms), "connection_id": ctx.connection_id}

    async def vote_all(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Publish three events at once."""
        return {"ids": await ctx.publish_many([(Voted, {"number": number}) for number in range(3)], room=ROOM)}


class Nodes(NamedTuple):
    """Two nodes with the plugin of ``Polls``."""

    first: Server
    second: Server

    @property
    def service(self) -> Service:
        """The plugin's service on the first node."""
        return self.first.gateway.services["polls"]


StartNodes = Callable[..., Awaitable[Nodes]]


async def show(user: User) -> dict[str, Any]:
    """Return the reply to ``poll.show``."""
    id = f"show-{len(user.frames)}"
    await user.send("poll.show", id=id)
    data: dict[str, Any] = (await user.recv_type("reply", id=id))["data"]
    return data


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the events."""
    return [event["data"]["number"] for event in events]


class PluginService:
    """What a plugin can do."""

    async def test_publish_many(self, nodes: StartNodes) -> None:
        """Members of all nodes receive the events in order, and a repeat with the key publishes nothing."""
        both = await nodes()
        async with connect(both.second, rooms=[]) as alice:
            await both.service.join(1, ROOM)
            await alice.recv_type("joined_room", room=ROOM)
            events = [(Voted, ROOM, {"number": number}) for number in range(5)]
            ids = await both.service.publish_many(events, sender="bob", key="votes")
            assert len(set(ids)) == 5
            received = [await alice.recv_type("poll.voted") for _ in events]
            assert [event["id"] for event in received] == ids
            assert numbers(received) == [*range(5)]
            assert {(event["sender"], event["key"]) for event in received} == {("bob", "votes")}
            assert await both.service.publish_many(events, sender="bob", key="votes") == ids
            assert await both.service.publish_many([]) == []
            assert "poll.voted" not in {frame["type"] for frame in await alice.settled()}

    async def test_publish_many_is_all_or_nothing(self, nodes: StartNodes) -> None:
        """The refusal names the event, and none is published."""
        both = await nodes()
        good = (Voted, ROOM, {"number": 1})
        for bad, error, words in (
            ((Voted, ROOM, {"number": "x"}), InvalidEvent, "Event 2 of 3: data.number: Not a valid"),
            (("poll.unknown", ROOM, {}), InvalidEvent, "Event 2 of 3: No plugin declares"),
            ((Voted, "nowhere:1", {"number": 1}), Refused, "Event 2 of 3: No plugin declares rooms"),
            ((Hint, ROOM, {"text": "x"}), InvalidEvent, "Event 2 of 3: poll.hint is declared with stored=False"),
        ):
            with pytest.raises(error) as caught:
                await both.service.publish_many([good, bad, good])
            assert str(caught.value).startswith(words)
        with pytest.raises(ValueError, match="1001 events are too many"):
            await both.service.publish_many([good] * 1001)
        assert await both.service.history(ROOM) == []

    async def test_publish_many_in_a_command(self, nodes: StartNodes) -> None:
        """The user is the sender, and a repeat of the request publishes nothing."""
        both = await nodes()
        async with connect(both.first, rooms=[]) as alice:
            await both.service.join(1, ROOM)
            await alice.recv_type("joined_room", room=ROOM)
            await alice.send("poll.vote_all", id=1, key="k")
            ids = (await alice.recv_type("reply", id=1))["data"]["ids"]
            await alice.send("poll.vote_all", id=2, key="k")
            assert (await alice.recv_type("reply", id=2))["data"]["ids"] == ids
            stored = await both.service.history(ROOM)
            assert [event["id"] for event in stored] == ids
            assert {(event["sender"], event["key"]) for event in stored} == {("alice", "k")}

    async def test_history_pages(self, nodes: StartNodes) -> None:
        """History has the newest events, those before an id, and those after an id."""
        both = await nodes()
        service = both.service
        ids = await service.publish_many([(Voted, ROOM, {"number": number}) for number in range(900)])
        assert numbers(await service.history(ROOM)) == [*range(400, 900)]
        assert numbers(await service.history(ROOM, limit=3)) == [897, 898, 899]
        assert numbers(await service.history(ROOM, limit=450)) == [*range(450, 900)]
        assert numbers(await service.history(ROOM, before=ids[500], limit=2)) == [498, 499]
        assert numbers(await service.history(ROOM, before=ids[402])) == [400, 401]
        assert numbers(await service.history(ROOM, ids[500], limit=2)) == [501, 502]
        assert numbers(await service.history(ROOM, since=ids[450], limit=420)) == [*range(451, 871)]
        assert numbers(await service.history(ROOM, since=ids[895])) == [896, 897, 898, 899]
        assert await service.history(ROOM, since=ids[-1]) == []
        for since in (ids[0], "nonsense", ""):
            with pytest.raises(Refused, match="does not reach back") as gap:
                await service.history(ROOM, since=since, limit=3)
            assert gap.value.code == "not_found"
        with pytest.raises(ValueError, match="not both"):
            await service.history(ROOM, ids[0], before=ids[1])
        with pytest.raises(ValueError, match="at least 1"):
            await service.history(ROOM, limit=0)

    async def test_invalid_rooms(self, nodes: StartNodes) -> None:
        """Rooms are validated as for all other calls. Rooms of types that another node declares may be occupied."""
        service = (await nodes()).service
        for call in (service.members, service.history, service.is_occupied, partial(service.kick, 1)):
            with pytest.raises(Refused) as refused:
                await call("bad")
            assert refused.value.code == "bad_room"
        for call in (service.members, service.history, partial(service.kick, 1)):
            with pytest.raises(Refused) as refused:
                await call("nowhere:1")
            assert refused.value.code == "unknown_room_type"
        assert not await service.is_occupied("nowhere:1")
        assert await service.members("user:1") == await service.history("user:1") == []

    async def test_is_online(self, nodes: StartNodes) -> None:
        """A user with a connection to another node is online."""
        both = await nodes()
        assert await both.service.is_online(1) is False
        async with connect(both.second):
            assert await both.service.is_online(1) is True
            assert await both.service.is_online("1") is True
            assert await both.service.is_online("alice") is False
        with pytest.raises(ValueError, match="not a user id"):
            await both.service.is_online("")

    async def test_join_and_leave(self, nodes: StartNodes) -> None:
        """All connections of the user join without the rule, are members like others, and leave."""
        both = await nodes(presence_grace=0)
        async with (
            connect(both.first, rooms=[]) as alice,
            connect(both.second, rooms=[]) as tab,
            connect(both.second, 2, "bob", rooms=[]) as bob,
        ):
            await both.service.join(1, ROOM)
            for user in (alice, tab):
                joined = await user.recv_type("joined_room", room=ROOM)
                assert joined["data"] == {"message": f"Joined room {ROOM}"}
                assert "id" not in joined
                assert (await show(user))["rooms"] == [ROOM]

            async def is_member() -> bool:  # the clients are told before it is written
                return [(one.user_id, one.connections) for one in await both.service.members(ROOM)] == [(1, 2)]

            await wait_until(is_member)
            assert (await show(bob))["rooms"] == []
            await both.service.publish(Voted, ROOM, {"number": 1})
            for user in (alice, tab):
                await user.recv_type("poll.voted")
            await both.service.join(1, ROOM)  # again
            for user in (alice, tab):
                assert "joined_room" not in {frame["type"] for frame in await user.settled()}
            await both.service.leave(1, ROOM)
            for user in (alice, tab):
                left = await user.recv_type("left_room", room=ROOM)
                assert left["data"] == {"message": f"Left room {ROOM}"}
                assert (await show(user))["rooms"] == []

            async def is_empty() -> bool:
                return await both.service.members(ROOM) == []

            await wait_until(is_empty)

    async def test_join_and_leave_with_one_connection(self, nodes: StartNodes) -> None:
        """With a connection's id, the user's other connections are not affected, on either node."""
        both = await nodes()
        async with (
            connect(both.first, rooms=[]) as alice,
            connect(both.second, rooms=[]) as tab,
            connect(both.second, rooms=[]) as phone,
        ):
            id = (await show(tab))["connection_id"]
            assert len({id, (await show(phone))["connection_id"], (await show(alice))["connection_id"]}) == 3
            await both.service.join(1, ROOM, connection_id=id)
            await tab.recv_type("joined_room", room=ROOM)
            assert [(await show(user))["rooms"] for user in (alice, tab, phone)] == [[], [ROOM], []]
            await both.service.join(1, ROOM)
            for user in (alice, phone):
                await user.recv_type("joined_room", room=ROOM)
            await both.service.leave(1, ROOM, connection_id=id)
            await tab.recv_type("left_room", room=ROOM)
            assert [(await show(user))["rooms"] for user in (alice, tab, phone)] == [[ROOM], [], [ROOM]]
            with pytest.raises(ValueError, match="belongs to user 1, not to 2"):
                await both.service.join(2, ROOM, connection_id=id)
            with pytest.raises(ValueError, match="is not the id of a connection"):
                await both.service.join(1, ROOM, connection_id="1")

    async def test_join_keeps_the_limit_of_rooms(self, nodes: StartNodes) -> None:
        """A connection that is in as many rooms as allowed does not join, and stays connected."""
        both = await nodes(max_rooms_per_connection=1)
        async with connect(both.second, rooms=[]) as alice:
            await both.service.join(1, ROOM)
            await alice.recv_type("joined_room", room=ROOM)
            await both.service.join(1, "poll:2")
            await both.service.leave(1, ROOM)  # signals keep their order
            await alice.recv_type("left_room", room=ROOM)
            assert "joined_room" not in {frame["type"] for frame in alice.frames if frame.get("room") == "poll:2"}
            assert (await show(alice))["rooms"] == []

    @pytest.mark.parametrize("room", ["user:1", "nowhere:1", "polls"])
    async def test_rooms_that_cannot_be_joined(self, nodes: StartNodes, room: str) -> None:
        """A personal room, a room of an unknown type and a malformed name are refused."""
        service = (await nodes()).service
        for call in (service.join, service.leave, service.kick):
            with pytest.raises(Refused):
                await call(1, room)

    async def test_kick(self, nodes: StartNodes) -> None:
        """All connections of the user leave the room, on both nodes, and other users stay."""
        both = await nodes()
        async with (
            connect(both.first, rooms=[]) as alice,
            connect(both.second, rooms=[]) as tab,
            connect(both.second, 2, "bob", rooms=[]) as bob,
        ):
            for user_id in (1, 2):
                await both.service.join(user_id, ROOM)
            for user in (alice, tab, bob):
                await user.recv_type("joined_room", room=ROOM)
            await both.service.kick(1, ROOM)
            for user in (alice, tab):
                assert (await user.recv_type("left_room"))["data"] == {"message": f"Removed from room {ROOM}"}
            assert (await show(bob))["rooms"] == [ROOM]

    async def test_disconnect(self, nodes: StartNodes) -> None:
        """One connection or all connections of a user are closed with 4410."""
        both = await nodes()
        async with (
            connect(both.first) as alice,
            connect(both.second) as tab,
            connect(both.second) as phone,
            connect(both.second, 2, "bob") as bob,
        ):
            await both.service.disconnect(1, connection_id=(await show(tab))["connection_id"])
            assert await tab.closed() == (DISCONNECTED.code, DISCONNECTED.reason)
            for user in (alice, phone, bob):
                await show(user)
            await both.service.disconnect(1)
            for user in (alice, phone):
                assert await user.closed() == (DISCONNECTED.code, DISCONNECTED.reason)
            await show(bob)

    async def test_send(self, nodes: StartNodes) -> None:
        """Only the one connection receives the event, on either node, and it is not stored."""
        both = await nodes()
        async with (
            connect(both.first) as alice,
            connect(both.second) as tab,
            connect(both.second) as phone,
            connect(both.second, 2, "bob") as bob,
        ):
            for user, others in ((tab, (alice, phone, bob)), (alice, (tab, phone, bob))):
                id = (await show(user))["connection_id"]
                both.service.send(id, Hint, {"text": "now"}, sender="clerk")
                event = await user.recv_type("poll.hint")
                assert set(event) == {"type", "data", "timestamp", "sender"}
                assert (event["data"], event["sender"]) == ({"text": "now"}, "clerk")
                for other in others:
                    assert "poll.hint" not in {frame["type"] for frame in await other.settled()}
            both.service.send(id, "poll.closing", {}, room=ROOM)
            assert (await alice.recv_type("poll.closing"))["room"] == ROOM
            with pytest.raises(Refused, match=r"poll\.closing goes to poll:…, not to user:1"):
                both.service.send(id, "poll.closing", {})
            with pytest.raises(InvalidEvent, match="is not declared with stored=False"):
                both.service.send(id, Voted, {"number": 1})
            with pytest.raises(InvalidEvent, match="Missing data"):
                both.service.send(id, Hint, {})
            with pytest.raises(ValueError, match="is not the id of a connection"):
                both.service.send("alice", Hint, {"text": "x"})
        both.service.send(id, Hint, {"text": "to a connection that has ended"})

    async def test_the_id_of_a_connection_of_any_user(self, nodes: StartNodes) -> None:
        """Ids of users with other characters than letters work too."""
        both = await nodes()
        async with connect(both.second, "auth0|5-f é", "carol") as carol:
            both.service.send((await show(carol))["connection_id"], Hint, {"text": "now"})
            await carol.recv_type("poll.hint")

    async def test_each_plugin_and_node_has_a_state(self, nodes: StartNodes) -> None:
        """Handlers see what the plugin's service has set, other plugins do not, and a missing name is explained."""
        both = await nodes()
        both.service.state.pool = object()
        async with connect(both.first) as alice:
            await show(alice)
        plugin = next(one for one in both.first.gateway.registry if one.plugin.name == "polls").plugin
        (ctx,) = plugin.commands["poll.show"].handler.__self__.contexts  # type: ignore[attr-defined]
        assert ctx.state.pool is both.service.state.pool
        others = [both.first.gateway.services["chat"]]
        if both.second is not both.first:
            others.append(both.second.gateway.services["polls"])
        for other in others:
            assert not hasattr(other.state, "pool")
            with pytest.raises(AttributeError, match=r"has no 'pool'; set service\.state\.pool in a lifespan"):
                _ = other.state.pool
