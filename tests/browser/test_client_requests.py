"""roomcast.js in Chromium: requests, their answers and errors, rooms, handlers and options."""

from __future__ import annotations

import pytest
from client_pages import (
    ROOM,
    browser,
    close_all,
    pool,
    proxy,
    publish,
    server,
    stack,
    start,
)
from serving import running, token_for

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_failed_request_rejects_and_emits_an_error(start):
    """The promise and the error event have the server's code and message, even if the promise is ignored."""
    alice = await start(join=ROOM)
    outcome, other = await alice.js(
        "await outcomes([client.send({type: 'nonsense'}), client.sendMessage('channel:1', '')])"
    )
    assert (outcome["code"], other["code"]) == ("unknown_type", "invalid_data")
    assert "nonsense" in outcome["message"]
    assert list(other["fields"]) == ["content"]
    await alice.js("client.sendMessage('channel:2', 'not there'), null")
    await alice.until("framesOf('error').length === 3")
    assert await alice.js("framesOf('error')[2].data.code") == "not_joined"


async def test_reply_has_the_id_of_the_message(start):
    """send() returns the caller's id in the reply, whatever its type."""
    alice = await start(join=ROOM)
    ask = "client.send({ type: 'send_message', room: 'channel:1', id: argument, data: { content: 'x' } })"
    for id in (1, "1", "a-7", "r1"):
        reply = await alice.js(f"await {ask}", id)
        assert (reply["type"], reply["id"]) == ("sent", id)
    reply = await alice.js("await client.send({ type: 'ping' })")
    assert (reply["type"], "id" in reply) == ("pong", False)
    reply = await alice.js("await client.send({ type: 'join_room', room: 'channel:1', id: 'mine' })")
    assert (reply["type"], reply["id"]) == ("joined_room", "mine")
    assert await alice.contents(4) == ["x"] * 4


async def test_full_queue_rejects_requests(start):
    """Requests beyond the option queue are rejected at once, and the others are sent in order."""
    alice = await start(queue=3)
    sent = "[client.joinRoom('channel:1'), ...[...'abcd'].map((text) => client.sendMessage('channel:1', text))]"
    await alice.js(f"window.sent = {sent}, null")
    outcomes = await alice.js("client.connect(), await outcomes(sent)")
    assert [one.get("code") for one in outcomes] == [None, None, None, "queue_full", "queue_full"]
    assert await alice.contents(2) == ["a", "b"]


async def test_invalid_requests_are_rejected_locally(start, server):
    """A message that is too long or not JSON is not sent and does not close the connection."""
    alice = await start(join=ROOM)
    received = server.gateway.counters.messages_received
    long = "client.sendMessage('channel:1', 'é'.repeat(70000))"
    circle = "client.send({ type: 'send_message', room: 'channel:1', data: window.data })"
    outcomes = await alice.js(f"window.data = {{}}, data.data = data, await outcomes([{long}, {circle}])")
    assert [outcome["code"] for outcome in outcomes] == ["too_big", "invalid_data"]
    assert server.gateway.counters.messages_received == received
    assert await alice.js("client.state") == "open"


async def test_rate_limit_is_respected(start, stack):
    """Below the limit no request is refused. Above it, refused requests are sent again until they succeed."""
    server = await stack.enter_async_context(running(ws_message_rate=10))
    for user, rate, count in ((1, 9, 50), (2, 0, 70)):
        client = await start(token_for(user), port=server.port, join=f"channel:{user}", rate=rate, inFlight=1)
        sent = f"Array.from({{ length: {count} }}, (_, n) => client.sendMessage('channel:{user}', String(n)))"
        assert len(await client.js(f"await Promise.all({sent})")) == count
        assert await client.contents(count) == [str(number) for number in range(count)]
        assert (server.gateway.counters.errors["rate_limited"] > 0) == (rate == 0)


async def test_text_is_sent_unchanged(start, server):
    """The page receives the answers to texts, even to invalid ones, and rooms joined this way are resumed."""
    alice = await start()
    assert await alice.js("client.sendText('{}')") is False
    await alice.js("await client.connect(), client.sendText('no JSON')")
    await alice.until("framesOf('error').length === 1")
    await alice.js("""client.sendText('{"type":"join_room","id":"mine-1","room":"channel:1","data":{"since":null}}')""")
    await alice.until("framesOf('joined_room').length === 1")
    await publish(server, "a")
    await alice.js(
        """client.sendText('{"type":"send_message","id":"mine-2","room":"channel:1","data":{"content":"b"}}')"""
    )
    assert await alice.contents(2) == ["a", "b"]
    close_all(server)
    await publish(server, "c")
    assert await alice.contents(3) == ["a", "b", "c"]
    assert await alice.js("[framesOf('sent').length, client.rooms]") == [1, [ROOM]]


async def test_joining_a_joined_room_keeps_its_position(start, server):
    """A page that joins its rooms in its handler for connected misses no event."""
    alice = await start()
    join = "client.joinRoom('channel:1')"
    await alice.js(f"client.on('connected', () => {join}), client.connect(), await {join}")
    close_all(server)
    await publish(server, "meanwhile")
    assert await alice.contents(1) == ["meanwhile"]
    assert await alice.js("framesOf('connected').length") == 2
    await alice.js("await client.joinRoom('channel:1')")


async def test_leaving_is_in_order(start, server):
    """Earlier messages are sent to the room. No event arrives afterwards, not even after a reconnect."""
    alice = await start(join=ROOM)
    asked = "[client.sendMessage('channel:1', 'bye'), client.leaveRoom('channel:1')]"
    replies = await alice.js(f"(await Promise.all({asked})).map((frame) => frame.type)")
    assert replies == ["sent", "left_room"]
    close_all(server)
    await alice.until("framesOf('connected').length === 2")
    await publish(server, "unheard")
    await alice.js("await client.send({ type: 'ping' })")
    assert await alice.js("[contents, client.rooms]") == [["bye"], []]


async def test_join_since_an_event(start, server):
    """joinRoom() with since returns the later events. A room that the user was removed from is not rejoined."""
    alice, bob = await start(join=ROOM), await start(token_for(2, "bob"))
    await publish(server, "a", "b", "c")
    await alice.contents(3)
    first = await alice.js("framesOf('message')[0].id")
    await bob.js("client.connect(), await client.joinRoom('channel:1', { since: argument })", first)
    assert await bob.contents(2) == ["b", "c"]
    await server.gateway.signals.kick(ROOM, 2)
    await bob.until("framesOf('left_room').length === 1")
    assert await bob.js("client.rooms") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{ reconect: false }", "has no option reconect; there are: url, reconnect"),
        ("{ queue: 0 }", "The option queue must be a number from 1 on, not 0."),
        ("{ reconnect: { max: 'long' } }", "The option max must be a number from 0 on, not long."),
        ("{ url: 'ftp://x' }", "The option url must begin with ws, wss, http or https: ftp://x"),
        ("{ WebSocket: null }", "There is no WebSocket here"),
    ],
)
async def test_invalid_option_is_named(start, options, words):
    """The constructor throws an error that names the invalid option."""
    alice = await start()
    made = (
        f"(() => {{ try {{ new client.constructor('x', {options}); }} catch (error) {{ return error.message; }} }})()"
    )
    assert words in await alice.js(made)
