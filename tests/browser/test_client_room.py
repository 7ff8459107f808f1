"""Room objects of roomcast.js in Chromium: who holds a room, its state, its events, and the loop over them."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, close_all, pool, proxy, publish, server, stack, start
from serving import token_for

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Records the frames that the page sends in `sent`. `held(options)` returns a room object that records its events.
RECORD = """(() => {
    window.sent = [];
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) {
        sent.push(JSON.parse(text));
        send.call(this, text);
    };
    window.sentTypes = () => sent.map(({ type }) => type).filter((type) => type !== "ping");
    window.held = (options, name = "channel:1") => {
        const room = client.room(name, options);
        room.events = [];
        room.states = [];
        room.on("*", (event) => room.events.push(event));
        room.on("statechanged", ({ data }) => room.states.push(data.state));
        room.contents = () => room.events.filter(({ type }) => type === "message").map(({ data }) => data.content);
        return room;
    };
})()"""


async def connected(start, *args, **options):
    """Start a client, connect it, and define `held` in its page."""
    alice = await start(*args, **options)
    await alice.js(f"{RECORD}, await client.connect(), null")
    return alice


async def test_room_is_left_by_its_last_holder(start, server):
    """Two parts of a page hold a room. Each may leave twice, and the room is left when both have left it."""
    alice = await connected(start)
    await alice.js("window.one = held(), window.two = held(), null")
    await alice.until("one.state === 'joined' && two.state === 'joined'")
    await publish(server, "a")
    await alice.until("two.contents().length === 1")
    await alice.js("one.leave(), one.leave(), one.leave(), null")
    await publish(server, "b")
    await alice.until("two.contents().length === 2")
    assert await alice.js("[one.state, one.contents(), two.state, client.rooms]") == ["left", ["a"], "joined", [ROOM]]
    await alice.js("two.leave(), null")
    await alice.until("client.rooms.length === 0")
    assert await alice.js("sentTypes()") == ["join_room", "leave_room"]
    assert await alice.js("two.states.at(-1)") == "left"


async def test_room_that_is_held_again_at_once_is_not_left(start, server):
    """React's StrictMode mounts each component twice: the room is joined once and not left in between."""
    alice = await connected(start)
    await alice.js("window.room = held(), room.leave(), window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await alice.js("room.leave(), window.room = held(), null")
    assert await alice.js("room.state") == "joined"
    await publish(server, "a")
    await alice.until("room.contents().length === 1")
    assert await alice.js("sentTypes()") == ["join_room"]


async def test_room_that_is_left_while_it_is_joined(start, server):
    """The answer to the join does not bring it back. A new holder joins it again, after it was left."""
    alice = await connected(start)
    await alice.js("held().leave(), await new Promise((resolve) => setTimeout(resolve)), window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await publish(server, "a")
    await alice.until("room.contents().length === 1")
    assert await alice.js("[room.states, room.error]") == [["joined"], None]
    assert await alice.js("sentTypes()") == ["join_room", "leave_room", "join_room"]
    await alice.js("held().leave(), room.leave(), await client.send({ type: 'ping' }), null")
    await alice.until("client.rooms.length === 0")


async def test_room_of_join_room_is_not_left(start, server):
    """A room that the page joined with joinRoom() stays joined when its last holder has left, until leaveRoom()."""
    alice = await connected(start)
    await alice.js("client.joinRoom('channel:1'), window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await alice.js("room.leave(), await new Promise((resolve) => setTimeout(resolve, 20)), null")
    await publish(server, "a")
    assert await alice.contents(1) == ["a"]
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await alice.js("await client.leaveRoom('channel:1'), null")
    assert await alice.js("[room.state, client.rooms]") == ["left", []]
    await alice.js("window.other = held(), null")
    await alice.until("room.state === 'joined' && other.state === 'joined'")
    await alice.js("room.leave(), other.leave(), null")
    await alice.until("client.rooms.length === 0")


async def test_room_receives_its_own_events_only(start, server):
    """Events of other rooms and answers to requests do not reach the handlers. off() removes one."""
    alice = await connected(start)
    await alice.js("window.room = held(), window.other = held({}, 'channel:2'), null")
    await alice.until("room.state === 'joined' && other.state === 'joined'")
    await alice.js("window.twice = (event) => room.contents2.push(event.data.content), room.contents2 = [], null")
    await alice.js("room.on('message', twice), await room.send('a', { n: 1 }), null")
    await alice.until("room.contents2.length === 1")
    await alice.js("room.off('message', twice), await room.send('b'), null")
    await alice.until("room.contents().length === 2")
    reply = await alice.js("await room.command('edit_message', { message_id: room.events.at(-1).id, content: 'c' })")
    assert reply["type"] == "sent"
    await publish(server, "c", room="channel:2")
    await alice.until("room.events.at(-1).type === 'message.edited' && other.contents().length")
    types = await alice.js("room.events.map(({ type }) => type).filter((type) => !/^user_|joined_room/.test(type))")
    assert types == ["message", "message", "message.edited"]
    assert await alice.js(
        "[room.contents2, other.contents(), room.events.find(({ type }) => type === 'message').data.metadata]"
    ) == [
        ["a"],
        ["c"],
        {"n": 1},
    ]


async def test_forbidden_room_fails(start, server):
    """Its state has the error, also for the loop over it. Another holder tries again."""
    alice = await connected(start, token_for(rooms=["channel:*"]))
    await alice.js("window.room = held({}, 'project:1'), null")
    looped = await alice.js("await (async () => { for await (const event of room); })().catch(({ code }) => code)")
    assert looped == "forbidden"
    assert await alice.js("[room.state, room.error.code, room.states]") == ["failed", "forbidden", ["failed"]]
    assert await alice.js("room.events.map(({ type, data }) => [type, data.code])") == [["error", "forbidden"]]
    await alice.js("window.other = held({}, 'project:1'), null")
    await alice.until("room.states.length === 3")
    assert await alice.js("room.states") == ["failed", "joining", "failed"]
    await alice.js("room.leave(), other.leave(), await new Promise((resolve) => setTimeout(resolve, 20)), null")
    assert await alice.js("sentTypes().filter((type) => type === 'leave_room')") == []


async def test_room_continues_after_a_reconnect(start, server, proxy):
    """It is `rejoining` while the connection is lost, and then receives what it missed."""
    alice = await connected(start)
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await proxy.refuse()
    proxy.reset()
    await alice.until("room.state === 'rejoining'")
    await publish(server, "a", "b")
    await proxy.start()
    await alice.until("room.contents().length === 2")
    assert await alice.js("room.states") == ["joined", "rejoining", "joined"]
    assert await alice.js("room.contents()") == ["a", "b"]


async def test_closed_client_joins_its_rooms_when_it_connects(start, server):
    """Rooms that were held before connect() or while the client was closed are joined; others are left."""
    alice = await start()
    await alice.js(f"{RECORD}, window.early = held(), held().leave(), null")
    await alice.js("await client.connect(), null")
    await alice.until("early.state === 'joined'")
    await alice.js("window.other = held({}, 'channel:2'), client.close(), null")
    await alice.until("other.state === 'failed'")
    assert await alice.js("[early.state, other.error.code]") == ["rejoining", "closed"]
    await alice.js("window.third = held({}, 'channel:3'), early.leave(), null")
    await alice.js("await client.connect(), null")
    await alice.until("other.state === 'joined' && third.state === 'joined' && client.rooms.length === 2")
    assert await alice.js("[client.rooms.sort(), early.state]") == [["channel:2", "channel:3"], "left"]


async def test_kicked_room_is_left(start, server):
    """An operator removes the user: the loop ends, and another holder joins the room again for both."""
    alice = await connected(start)
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await alice.js("window.loop = (async () => { for await (const event of room); return 'ended'; })(), null")
    await server.gateway.signals.kick(ROOM, 1)
    assert await alice.js("await loop") == "ended"
    assert await alice.js("[room.states, client.rooms]") == [["joined", "left"], []]
    await alice.js("window.other = held(), null")
    await alice.until("room.state === 'joined' && other.state === 'joined'")


async def test_loop_over_a_room(start, server):
    """It yields each event, ends with leave(), and throws an error if it is much slower than the events."""
    alice = await connected(start)
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    await alice.js(
        """(window.seen = [], window.loop = (async () => {
            for await (const event of room) if (event.type === "message") seen.push(event.data.content);
            return "ended";
        })(), null)"""
    )
    await publish(server, "a", "b")
    await alice.until("seen.length === 2")
    await alice.js("room.leave(), null")
    assert await alice.js("[await loop, seen]") == ["ended", ["a", "b"]]
    slow = """await (async () => {
        const room = client.room("channel:1");
        for await (const event of room) {
            if (event.type !== "message") continue;
            window.isSlow = true;
            while (!window.isDone) await new Promise((resolve) => setTimeout(resolve, 10));
        }
    })().catch(({ code }) => code)"""
    await alice.js(f"window.room = held(), window.loop = {slow.removeprefix('await ')}, null")
    await alice.until("room.state === 'joined'")
    await publish(server, *(str(n) for n in range(1100)))
    await alice.until("room.contents().length === 1100")
    assert await alice.js("window.isDone = true, await loop") == "queue_full"


async def test_error_in_a_handler_affects_nothing_else(start, server):
    """An exception of one handler is reported. The other handlers, the other holders and the room continue."""
    alice = await connected(start)
    await alice.js("window.problems = [], window.reportError = ({ message }) => problems.push(message), null")
    fail = "() => { throw new Error('broken'); }"
    handlers = ", ".join(f"one.on('{type}', {fail})" for type in ("message", "statechanged"))
    await alice.js(f"window.one = client.room('channel:1'), {handlers}, window.two = held(), null")
    await alice.until("two.state === 'joined'")
    await publish(server, "a", "b")
    await alice.until("two.contents().length === 2")
    assert await alice.js("problems") == ["broken"] * 3


async def test_promises_may_be_ignored(start):
    """A failed request is an `error` event of the room, and no unhandled rejection, which the fixture would find."""
    alice = await connected(start)
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    calls = "room.history({ limit: -1 }), room.setPresence({ status: 5 }), room.markRead('x'), room.send(''), null"
    await alice.js(f"{calls}, room.command('no_such_command'), null")
    await alice.until("room.events.filter(({ type }) => type === 'error').length === 5")


async def test_handler_may_leave_the_room(start, server):
    """A handler that leaves is not called again; other holders are."""
    alice = await connected(start)
    leave = "one.on('message', ({ data }) => { seen.push(data.content); one.leave(); })"
    await alice.js(f"window.seen = [], window.one = held(), window.two = held(), {leave}, null")
    await alice.until("two.state === 'joined'")
    await publish(server, "a", "b")
    await alice.until("two.contents().length === 2")
    assert await alice.js("seen") == ["a"]


async def test_room_through_a_restart_of_the_server(start, server):
    """The server closes all connections: the room is joined again without a new holder."""
    alice = await connected(start)
    await alice.js("window.room = held(), null")
    await alice.until("room.state === 'joined'")
    close_all(server)
    await alice.until("room.states.at(-1) === 'joined' && room.states.length === 3")


async def test_room_works_in_a_proxy(start, server):
    """Vue's reactive() wraps room objects in a Proxy."""
    alice = await connected(start)
    await alice.js("window.room = new Proxy(client.room('channel:1'), {}), window.seen = [], null")
    await alice.js("room.on('message', ({ data }) => seen.push(data.content)), await room.send('a'), null")
    await alice.until("seen.length === 1 && room.state === 'joined'")
    await alice.js("room.typing(true), await room.command('send_message', { content: 'c' }), room.leave(), null")
    assert await alice.js("room.state") == "left"
    await alice.until("client.rooms.length === 0")
