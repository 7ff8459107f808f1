"""Members, status and unread messages in room objects of roomcast.js, in Chromium."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from client_pages import ROOM, browser, close_all, pool, proxy, publish, server, stack, start
from serving import connect, running, token_for
from tcp_proxy import Proxy

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Holds the room in `room`. `names()` are its members, and `changes` their names after each change.
HOLD = """(() => {
    window.room = client.room("channel:1", { presence: true, ...argument });
    window.names = () => room.members.map(({ username }) => username).join();
    window.changes = [];
    window.roomStates = [];
    room.on("statechanged", ({ data }) => roomStates.push(data.state));
    room.on("memberschanged", ({ data }) => changes.push(data.members.map(({ username }) => username).join()));
})()"""


async def joined(start, *args, hold=None, **options):
    """Start a client that holds the room and has loaded the members."""
    client = await start(*args, **options)
    await client.js(f"{HOLD}, client.connect(), null", hold or {})
    await client.until("room.state === 'joined' && room.members.length > 0")
    return client


async def test_members_come_and_go(start, server):
    """The list has the present members, and each change is a new array."""
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        alice = await joined(start)
        assert await alice.js("[names(), room.memberCount]") == ["bob,alice", 2]
        assert await alice.js("room.members.every(({ since }) => Date.parse(since) > 0)")
        await alice.js("window.before = room.members, null")
        async with connect(server, 3, "carol") as carol:
            await carol.join(ROOM)
            await alice.until("names() === 'bob,alice,carol'")
            await carol.send("leave_room", ROOM)
            await alice.until("names() === 'bob,alice'")
        await bob.send("leave_room", ROOM)
        await alice.until("names() === 'alice'")
        assert await alice.js("before.length") == 2
        assert await alice.js("room.members === client.room('channel:1').members")


async def test_status_of_a_member(start, server):
    """A changed status is a new entry in the list. setPresence() sets the user's own."""
    alice = await joined(start)
    bob = await joined(start, token_for(2, "bob"))
    await alice.until("names() === 'alice,bob'")
    await alice.js("window.entry = room.members[1], null")
    await bob.js("await room.setPresence({ status: 'away', data: { until: 5 } }), null")
    await alice.until("room.members[1].status === 'away'")
    assert await alice.js("[room.members[1].data, entry.status ?? null, names()]") == [{"until": 5}, None, "alice,bob"]
    carol = await joined(start, token_for(3, "carol"))
    assert await carol.js("room.members.map(({ status }) => status ?? null)") == [None, "away", None]
    with_error = await bob.js("await outcomes([room.setPresence({ status: 'x'.repeat(33) })])")
    assert with_error[0]["code"] == "invalid_data"


async def test_members_and_status_after_a_reconnect(start, server, proxy):
    """The list is replaced by the present members, and the user's status is set again."""
    alice = await joined(start)
    await alice.js("await room.setPresence({ status: 'busy' }), null")
    async with AsyncExitStack() as others:
        bob = await others.enter_async_context(connect(server, 2, "bob"))
        await bob.join(ROOM)
        await alice.until("names() === 'alice,bob'")
        await proxy.refuse()
        proxy.reset()
        await alice.until("room.state === 'rejoining'")
        assert await alice.js("names()") == "alice,bob"
        await bob.send("leave_room", ROOM)
        await bob.settled()
        carol = await others.enter_async_context(connect(server, 3, "carol"))
        await carol.join(ROOM)
        await proxy.start()
        await alice.until("names().split(',').sort().join() === 'alice,carol'")
        await alice.until("room.members.find(({ username }) => username === 'alice').status === 'busy'")


async def test_many_members_are_loaded_in_pages(start, server):
    """A page has at most 100 members. Joins and leaves meanwhile are applied."""
    async with AsyncExitStack() as others:
        for n in range(250):
            other = await others.enter_async_context(connect(server, 100 + n, f"user{n}"))
            await other.join(ROOM)
        alice = await joined(start)
        await alice.until("room.memberCount === 251")
        assert await alice.js("new Set(room.members.map(({ user_id }) => user_id)).size") == 251


async def test_later_holder_adds_the_members(start, server):
    """The members are loaded when the first holder wants them, and are available to all."""
    alice = await start()
    await alice.js("client.connect(), window.first = client.room('channel:1'), null")
    await alice.until("first.state === 'joined'")
    assert await alice.js("first.members") == []
    await alice.js(f"{HOLD}, null", {})
    await alice.until("names() === 'alice' && first.members.length === 1")


async def test_unread_messages(start, server):
    """Messages of others are counted, own ones are not, and markRead() tells the user's other connections."""
    await publish(server, "a", "b")
    alice = await joined(start)
    other = await joined(start, token_for(jti="other"))
    assert await alice.js("room.unread") == await other.js("room.unread") == 2
    await publish(server, "c")
    await alice.until("room.unread === 3")
    await other.until("room.unread === 3")
    reply = await alice.js("await room.markRead()")
    assert reply["data"]["unread"] == 0
    await other.until("room.unread === 0")
    assert await alice.js("[room.unread, await room.markRead() ?? null]") == [0, None]
    await publish(server, "d", "e")
    await alice.until("room.unread === 2")
    await alice.js("await room.send('own'), null")
    await alice.until("room.unread === 0")


async def test_unread_messages_after_a_reconnect(start, server, proxy):
    """What was missed is counted once."""
    alice = await joined(start, hold={"last": 5})
    await publish(server, "a")
    await alice.until("room.unread === 1")
    await proxy.refuse()
    proxy.reset()
    await alice.until("room.state === 'rejoining'")
    await publish(server, "b", "c")
    await proxy.start()
    await alice.until("contents.length === 3")
    await publish(server, "d")
    await alice.until("contents.length === 4")
    assert await alice.js("room.unread") == 4


async def test_mark_of_a_part(start, server):
    """markRead(id) leaves the later messages unread. In an empty room there is nothing to mark."""
    alice = await joined(start)
    assert await alice.js("[room.unread, await room.markRead() ?? null]") == [0, None]
    await publish(server, "a", "b", "c")
    await alice.until("room.unread === 3")
    first = "framesOf('message')[0].id"
    assert (await alice.js(f"await room.markRead({first})"))["data"]["unread"] == 2
    assert await alice.js("room.unread") == 2


async def test_older_marks_change_nothing(start, server):
    """A mark that another node sends late is older than that of this client, or than its own message."""
    alice = await joined(start)
    await alice.js(
        """(() => {
            const { send } = WebSocket.prototype;
            WebSocket.prototype.send = function (text) { window.socket = this; send.call(this, text); };
            window.deliver = (position, unread) => {
                const data = { event_id: framesOf("message")[position].id, unread };
                const frame = { type: "marked_read", room: room.name, data, timestamp: new Date().toISOString() };
                socket.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(frame) }));
            };
        })(), null"""
    )
    await publish(server, "a", "b", "c")
    await alice.until("room.unread === 3")
    assert (await alice.js("await room.markRead(framesOf('message')[1].id)"))["data"]["unread"] == 1
    assert await alice.js("[0, 1].map((position) => (deliver(position, 2 - position), room.unread))") == [1, 1]
    await alice.js("await room.send('own'), null")
    await alice.until("room.unread === 0")
    assert await alice.js("deliver(2, 1), room.unread") == 0
    await publish(server, "d")
    await alice.until("room.unread === 1")
    assert await alice.js("deliver(4, 0), room.unread") == 0


async def test_shared_connection(start, server):
    """Tabs that share a connection each have the members and the unread messages, and learn of each other's marks."""
    await publish(server, "a")
    one = await joined(start, shared=True, hold={"messages": True})
    two = await joined(start, shared=True, hold={"messages": True})
    assert await one.js("client.isShared") is await two.js("client.isShared") is True
    assert len(server.gateway.keepalive.connections) == 1
    for tab in (one, two):
        await tab.until("room.messages.length === 1 && names() === 'alice' && room.unread === 1")
    await one.js("await room.markRead(), await room.send('b'), null")
    await two.until("room.messages.length === 2 && room.unread === 0")
    await two.js("room.leave(), null")
    await one.js("await room.send('c'), null")
    await one.until("room.messages.length === 3 && room.state === 'joined'")
    close_all(server)
    await one.until("roomStates.includes('rejoining') && room.state === 'joined'")
    await publish(server, "d")
    await one.until("room.messages.length === 4")


async def test_server_without_members_causes_an_error(start, server):
    """A server that does not know the command: the error names it, and the room continues."""
    alice = await start()
    await alice.js(
        """(() => {
            const { send } = WebSocket.prototype;
            WebSocket.prototype.send = function (text) { send.call(this, text.replace('"members"', '"memberz"')); };
            window.room = client.room("channel:1", { presence: true });
            window.errors = [];
            room.on("error", ({ data }) => errors.push(data.code));
            client.connect();
        })(), null"""
    )
    await alice.until("errors.length === 1")
    assert await alice.js("[errors, room.state, room.members]") == [["unknown_type"], "joined", []]


async def test_members_through_a_restart(start, stack):
    """A server that returns with an empty broker: the members are loaded again."""
    first = await stack.enter_async_context(running(ws_message_rate=0))
    second = await stack.enter_async_context(running(ws_message_rate=0))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", first.port))
    bob = await stack.enter_async_context(connect(first, 2, "bob"))
    await bob.join(ROOM)
    alice = await joined(start, port=proxy.port)
    assert await alice.js("names()") == "bob,alice"
    await proxy.refuse()
    proxy.reset()
    await alice.until("room.state === 'rejoining'")
    proxy.target = second.port
    await proxy.start()
    await alice.until("names() === 'alice'")
