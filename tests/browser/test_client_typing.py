"""Typing in room objects of roomcast.js, in Chromium: what is sent, and who is shown."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from serving import connect, token_for

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Lets the test set the time of the page's timers, and records the `typing` commands that the page sends.
RECORD = """(() => {
    window.timers = new Map();
    let count = 0, now = 0;
    const { setTimeout: realTimeout, clearTimeout: realClear } = globalThis;
    globalThis.setTimeout = (callback, delay = 0) => {
        if (delay < 1000 || delay > 6000) return realTimeout(callback, delay);
        timers.set(--count, { callback, at: now + delay });
        return count;
    };
    globalThis.clearTimeout = (timer) => timers.delete(timer) || realClear(timer);
    performance.now = () => now;
    window.pass = (time) => {
        now += time;
        for (const [timer, { callback, at }] of timers) if (at <= now && timers.delete(timer)) callback();
    };
    window.typed = [];
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) {
        const { type, data } = JSON.parse(text);
        if (type === "typing") typed.push(data.typing);
        send.call(this, text);
    };
    window.room = client.room("channel:1");
    window.names = () => room.typers.map(({ username }) => username).join();
    window.changes = [];
    room.on("typerschanged", ({ data }) => changes.push(data.typers.map(({ username }) => username).join()));
})()"""


async def joined(start, *args):
    """Start a client that holds the room."""
    client = await start(*args, heartbeat=0)
    await client.js(f"{RECORD}, client.connect(), null")
    await client.until("room.state === 'joined'")
    return client


async def test_typing_is_throttled_and_ends(start):
    """While the user types, it is sent every 3 s. It ends after a pause of 5 s, on request, and with a message."""
    alice = await joined(start)
    await alice.js("[0, 1000, 1999, 1].forEach((time) => { pass(time); room.typing(); }), null")
    assert await alice.js("typed") == [True, True]
    await alice.js("pass(4999), typed.push('pause'), pass(1), pass(10_000), null")
    assert await alice.js("typed") == [True, True, "pause", False]
    await alice.js(
        "typed.length = 0, room.typing(false), room.typing(true), room.typing(false), room.typing(false), null"
    )
    assert await alice.js("typed") == [True, False]
    await alice.js("typed.length = 0, room.typing(), await room.send('a'), pass(10_000), await room.send('b'), null")
    assert await alice.js("typed") == [True, False]


async def test_typers_are_shown_until_they_stop(start, server):
    """A user who types is in `typers` until they stop, send a message or leave, and for 6 s without a repetition."""
    alice = await joined(start)
    async with connect(server, 2, "bob") as bob, connect(server, 3, "carol") as carol:
        for other in (bob, carol):
            await other.join(ROOM)
        await bob.send("typing", ROOM, {})
        await alice.until("names() === 'bob'")
        await carol.send("typing", ROOM, {})
        await alice.until("names() === 'bob,carol'")
        await publish(server, "by bob")
        await alice.until("names() === 'carol'")
        await alice.js("pass(5999), null")
        assert await alice.js("names()") == "carol"
        await alice.js("pass(1), null")
        assert await alice.js("[names(), changes]") == ["", ["bob", "bob,carol", "carol", ""]]
        await carol.send("typing", ROOM, {})
        await alice.until("names() === 'carol'")
        await carol.send("leave_room", ROOM)
        await alice.until("names() === ''")


async def test_lost_connection_ends_typing(start, server, proxy):
    """The list is empty while the connection is lost, and what the user types meanwhile is not sent later."""
    alice = await joined(start)
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await bob.send("typing", ROOM, {})
        await alice.until("names() === 'bob'")
        # Answered before the connection is lost: an unanswered command is sent again.
        await alice.js("room.typing(), await client.send({ type: 'ping' }), null")
        await proxy.refuse()
        proxy.reset()
        await alice.until("room.state === 'rejoining'")
        assert await alice.js("[names(), typed]") == ["", [True]]
        await alice.js("room.typing(), null")
        await proxy.start()
        await alice.until("room.state === 'joined'")
        await alice.js("await client.send({ type: 'ping' }), null")
        assert await alice.js("typed") == [True]


async def test_own_typing_is_not_shown(start):
    """The user is not in `typers`, also if another tab types."""
    alice = await joined(start)
    other = await joined(start, token_for(jti="other"))
    await other.js("room.typing(), await room.send('a'), null")
    await alice.until("contents.length === 1")
    assert await alice.js("changes") == []
