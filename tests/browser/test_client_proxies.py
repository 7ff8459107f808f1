"""roomcast.js in Chromium: a client that is used through a Proxy, as libraries for reactive state do."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Ways to wrap `client`. The second wraps all that it returns as well, as far as a Proxy may.
WRAPPERS = {
    "shallow": "new Proxy(client, {})",
    "deep": """(() => {
        const wrap = (value) => (Object(value) !== value || value instanceof Promise ? value : new Proxy(value, {
            get(target, key, receiver) {
                const own = Reflect.getOwnPropertyDescriptor(target, key);
                const found = Reflect.get(target, key, receiver);
                return !own || own.configurable || own.writable ? wrap(found) : found;
            },
            apply: (target, self, args) => wrap(Reflect.apply(target, self, args)),
        }));
        return wrap(client);
    })()""",
    "heir": "Object.create(client)",
    "frozen": "new Proxy(Object.freeze(client), {})",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_client_works_through_a_proxy(start, server, wrapper):
    """Every method and accessor works as on the client itself."""
    alice = await start()
    await alice.js(f"window.wrapped = {WRAPPERS[wrapper]}, null")
    await alice.js("window.seen = [], wrapped.on('message', (event) => seen.push(event.data.content)), null")
    assert (await alice.js("await wrapped.connect()"))["type"] == "connected"
    assert (await alice.js("await wrapped.joinRoom('channel:1')"))["type"] == "joined_room"
    assert (await alice.js("await wrapped.sendMessage('channel:1', 'a')"))["type"] == "sent"
    assert (await alice.js("await wrapped.send({ type: 'ping' })"))["type"] == "pong"
    await publish(server, "b")
    assert await alice.contents(2) == ["a", "b"]
    assert await alice.js("seen") == ["a", "b"]
    state = "[wrapped.state, wrapped.user.username, wrapped.rooms.join(), wrapped.isShared]"
    assert await alice.js(state) == ["open", "alice", ROOM, False]
    assert await alice.js('wrapped.sendText(\'{"type":"ping"}\')') is True
    assert (await alice.js("await wrapped.leaveRoom('channel:1')"))["type"] == "left_room"
    await alice.js("wrapped.close()")
    assert await alice.js("[client.state, wrapped.state]") == ["closed", "closed"]


async def test_every_member_of_the_client_works_through_a_proxy(start):
    """No method or accessor of the prototype reads a private field of the Proxy."""
    alice = await start()
    called = """(() => {
        const wrapped = new Proxy(client, {});
        const failed = [];
        for (const [name, member] of Object.entries(Object.getOwnPropertyDescriptors(client.constructor.prototype))) {
            if (name === "constructor") continue;
            try {
                member.get ? wrapped[name] : wrapped[name]("message", () => {});
            } catch (error) {
                failed.push(`${name}: ${error}`);
            }
        }
        return failed;
    })()"""
    assert await alice.js(called) == []


async def test_token_is_replaced_through_a_proxy(start):
    """The token that is assigned to the Proxy is the one that connect() uses."""
    alice = await start("not a token")
    await alice.js("window.wrapped = new Proxy(client, {}), wrapped.token = () => { throw new Error('asked'); }, null")
    await alice.js("wrapped.connect(), null")
    await alice.until("framesOf('state').some(({ data }) => data.reason === 'No token: asked')")


async def test_methods_of_a_subclass_are_called(start):
    """A class that extends ChatClient and has private fields overrides methods, also for calls of the client itself."""
    alice = await start()
    text = await alice.js("""(() => {
        const calls = [];
        class Logging extends client.constructor {
            #prefix = "sent ";
            send(message) { calls.push(this.#prefix + message.type); return super.send(message); }
        }
        new Logging("x").sendMessage("channel:1", "a");
        new Proxy(new Logging("x"), {}).leaveRoom("channel:1");
        return calls;
    })()""")
    assert text == ["sent send_message", "sent leave_room"]
