"""roomcast.js in Chromium: rooms that cannot be joined, for now or permanently, and what waits for them."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from serving import running, token_for
from tcp_proxy import Proxy

from roomcast.errors import Refused

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("is_function", [False, True])
async def test_forbidden_room_does_not_affect_joined_rooms(start, server, is_function):
    """The promise rejects, and after 4403 the client returns to its other rooms, with the same token."""
    token = token_for(rooms=["channel:*"])
    alice = await start((lambda about: token) if is_function else token, join=ROOM)
    joins = "['project:1', 'channel:2', 'project:3'].map((room) => client.joinRoom(room))"
    outcomes = await alice.js(f"await outcomes({joins})")
    assert [one.get("code") for one in outcomes] == ["forbidden", None, "forbidden"]
    assert outcomes[0]["message"] == "You have no access to project:1."
    await publish(server, "a")
    await publish(server, "b", room="channel:2")
    assert sorted(await alice.contents(2)) == ["a", "b"]
    assert sorted(await alice.js("client.rooms")) == [ROOM, "channel:2"]
    assert 4403 in await alice.js("framesOf('state').map((frame) => frame.data.code)")
    assert (await alice.js("await client.sendMessage('channel:1', 'c')"))["type"] == "sent"
    assert await alice.js("framesOf('resync')") == []


async def test_room_that_became_forbidden_is_dropped(start, server, proxy):
    """A room that may not be joined again is left, and messages that wait for it are rejected. The others continue."""
    tokens = iter([token_for(rooms=["*"]), *[token_for(rooms=["channel:1"], jti=str(n)) for n in range(9)]])
    alice = await start(lambda about: next(tokens), join=ROOM)
    await alice.js("await Promise.all(['project:1', 'project:2'].map((room) => client.joinRoom(room)))")
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    sent = "['project:1', 'project:2', 'channel:1'].map((room) => client.sendMessage(room, 'x'))"
    await alice.js(f"window.sent = {sent}, null")
    await proxy.start()
    outcomes = await alice.js("await outcomes(sent)")
    assert [one.get("code") for one in outcomes] == ["not_joined", "not_joined", None]
    await publish(server, "a")
    assert await alice.contents(2) == ["x", "a"]
    assert await alice.js("client.rooms") == [ROOM]
    assert await alice.js("framesOf('left_room').map((frame) => frame.room)") == ["project:1", "project:2"]


async def test_many_forbidden_rooms_do_not_delay_the_others(start):
    """Each costs one reconnect after a short delay. Only asking for the same room again makes the delays grow."""
    alice = await start(token_for(rooms=["channel:1"]), join=ROOM)
    joins = "Array.from({ length: 12 }, (_, n) => client.joinRoom(`project:${n}`))"
    outcomes = await alice.js(f"await outcomes({joins})")
    assert [one["code"] for one in outcomes] == ["forbidden"] * 12
    await alice.js("await client.sendMessage('channel:1', 'a')")
    attempts = "framesOf('state').filter((frame) => frame.data.state === 'waiting').map((frame) => frame.data.attempts)"
    assert await alice.js(attempts) == [1] * 12
    again = "client.joinRoom('project:0').catch(() => client.send({ type: 'ping' }))"
    await alice.js(f"await {again}, await {again}")
    assert await alice.js(attempts) == [1] * 12 + [2, 3]


@pytest.mark.parametrize("code", ["internal", "timeout", "unavailable", "rate_limited"])
async def test_message_waits_for_the_rejoin_of_its_room(start, server, proxy, monkeypatch, code):
    """If a room cannot be joined again for now, messages for it wait in order, and those for other rooms do not."""
    alice = await start(join=ROOM)
    await alice.js("await client.joinRoom('project:1')")
    rules = server.gateway.rooms._rules
    check, attempts, isdown = rules.check, [], True

    async def check_slowly(client, room):
        attempts.append(room)
        if room == ROOM and isdown:
            raise Refused(code, "Try again later.")
        await check(client, room)

    monkeypatch.setattr(type(rules), "check", lambda self, client, room: check_slowly(client, room))
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await alice.js("window.sent = ['a', 'b'].map((text) => client.sendMessage('channel:1', text)), null")
    await alice.js("sent.push(client.leaveRoom('channel:1')), null")
    await proxy.start()
    await alice.js("await client.sendMessage('project:1', 'elsewhere')")
    await alice.until("client.state === 'open'")
    while attempts.count(ROOM) < 2:
        await alice.js("await client.send({ type: 'ping' })")
    isdown = False
    assert [one.get("code") for one in await alice.js("await outcomes(sent)")] == [None, None, None]
    assert await alice.contents(3) == ["elsewhere", "a", "b"]
    assert await alice.js("client.rooms") == ["project:1"]


@pytest.mark.parametrize("in_flight", [[], ["in flight"]])
async def test_only_requests_that_were_sent_can_be_uncertain(start, stack, in_flight):
    """A server returns with an empty broker. What was in flight is uncertain; what was only queued is sent once."""
    first = await stack.enter_async_context(running(ws_message_rate=0))
    second = await stack.enter_async_context(running(ws_message_rate=0))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", first.port))
    alice = await start(port=proxy.port, join=ROOM)
    proxy.stall()
    await alice.js(f"window.sent = {in_flight}.map((text) => client.sendMessage('channel:1', text)), null")
    await proxy.refuse()
    proxy.reset()
    proxy.flow()
    await alice.until("client.state === 'waiting'")
    await alice.js("sent.push(...[...'abc'].map((text) => client.sendMessage('channel:1', text))), null")
    await alice.js("sent.push(client.sendMessage('channel:2', 'not joined')), null")
    proxy.target = second.port
    await proxy.start()
    outcomes = await alice.js("await outcomes(sent)")
    assert [one.get("code") for one in outcomes] == ["uncertain"] * len(in_flight) + [None, None, None, "not_joined"]
    assert await alice.contents(3) == ["a", "b", "c"]
    assert await alice.js("framesOf('resync').some((frame) => frame.room === 'channel:1')")
    assert second.gateway.counters.errors["rate_limited"] == 0
