"""roomcast.js in Chromium: it keeps within the limits that the server sends with the welcome."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from serving import running, token_for
from tcp_proxy import Proxy

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("rate", [1e9, pytest.param(8, marks=pytest.mark.slow)])
async def test_rooms_are_rejoined_within_the_rate(start, stack, rate):
    """A server that accepts 10 messages a second refuses no join of 120 rooms, and no message that waits for them."""
    fast = await stack.enter_async_context(running(ws_message_rate=0))
    slow = await stack.enter_async_context(running(ws_message_rate=10))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", fast.port))
    alice = await start(port=proxy.port, rate=rate)
    rooms = "Array.from({ length: 120 }, (_, n) => `channel:${n}`)"
    await alice.js(f"client.connect(), await Promise.all({rooms}.map((room) => client.joinRoom(room))), null")
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await alice.js("window.sent = [0, 119].map((n) => client.sendMessage(`channel:${n}`, String(n))), null")
    proxy.target = slow.port
    await proxy.start()
    assert [one.get("code") for one in await alice.js("await outcomes(sent)")] == [None, None]
    assert await alice.contents(2) == ["0", "119"]
    assert len(slow.gateway.delivery.rooms) == 120
    assert slow.gateway.counters.errors["rate_limited"] == 0
    assert await alice.js("framesOf('connected').length") == 2
    assert len(await alice.js("client.rooms")) == 120


async def test_the_limits_are_those_of_the_current_server(start, stack):
    """Without options, the client keeps to the rate and the size of each server that it connects to."""
    size = len('{"id":1,"type":"send_message","room":"channel:1","data":{"content":""},"key":""}') + 64
    first = await stack.enter_async_context(running(ws_message_rate=0, ws_max_message_size=100_000))
    second = await stack.enter_async_context(running(ws_message_rate=20, ws_max_message_size=4096))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", first.port))
    alice = await start(port=proxy.port, rate=1e9, join=ROOM)
    limits = await alice.js("framesOf('connected')[0].data.limits")
    assert limits == {
        **{
            "max_message_size": 100_000,
            "message_rate": 0,
            "byte_rate": 0,
            "heartbeat": 30,
            "max_rooms": 200,
            "drain": 0,
        },
    }
    assert (await alice.js("await client.sendMessage('channel:1', 'x'.repeat(9000))"))["type"] == "sent"
    proxy.target = second.port
    proxy.reset()
    await alice.until("framesOf('connected').length === 2")
    assert 4096 - size > 3000
    sent = "[9000, ...Array(150).fill(3)].map((length) => client.sendMessage('channel:1', 'x'.repeat(length)))"
    outcomes = await alice.js(f"await outcomes({sent})")
    assert [one.get("code") for one in outcomes] == ["too_big"] + [None] * 150
    assert second.gateway.counters.errors["rate_limited"] == 0


async def test_large_messages_are_sent_within_the_byte_rate(start, stack):
    """A page that sends much more than WS_BYTE_RATE at once is neither refused nor closed, and all messages arrive."""
    server = await stack.enter_async_context(running(ws_byte_rate=200_000))
    alice = await start(port=server.port, join=ROOM, rate=1e9)
    outcomes = await alice.js(
        "await outcomes(Array.from({ length: 40 }, () => client.sendMessage('channel:1', 'é'.repeat(5000))))"
    )
    assert [one.get("code") for one in outcomes] == [None] * 40
    assert len(await alice.contents(40)) == 40
    assert server.gateway.counters.errors["rate_limited"] == 0
    assert await alice.js("states()") == ["connecting", "open"]


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\\u0001"])
async def test_only_a_message_that_is_too_big_is_rejected(start, stack, letter):
    """The limit is on the bytes of the frame. Every message within it is delivered, and the connection stays open."""
    server = await stack.enter_async_context(running(ws_max_message_size=4096, ws_max_buffer=100_000))
    alice = await start(port=server.port, join=ROOM, inFlight=1)
    lengths = sorted({*range(600, 4100, 97), *range(3970, 3990), 5000})
    sent = f"{lengths}.map((bytes) => client.sendMessage('channel:1', '{letter}'.repeat(Math.floor(bytes / argument))))"
    width = {"x": 1, "é": 2, "😀": 4, "\\u0001": 6}[letter]
    outcomes = await alice.js(f"await outcomes({sent})", width)
    codes = [one.get("code") for one in outcomes]
    fitting = codes.index("too_big")
    assert 0 < fitting < len(codes) - 1
    assert codes == [None] * fitting + ["too_big"] * (len(codes) - fitting)
    assert "and the limit is 4096" in outcomes[-1]["message"]
    assert len(await alice.contents(fitting)) == fitting
    assert await alice.js("states()") == ["connecting", "open"]


async def test_the_size_is_exact(start, stack):
    """A frame of exactly WS_MAX_MESSAGE_SIZE bytes is sent, and one byte more is not."""
    server = await stack.enter_async_context(running(ws_max_message_size=1000, ws_message_rate=0))
    received = []
    receive = server.gateway.commands.receive
    server.gateway.sessions._message_handler.receive = lambda client, payload: (
        received.append(len(payload)),
        receive(client, payload),
    )
    alice = await start(port=server.port, join=ROOM, inFlight=1)
    sent = "Array.from({ length: 1000 }, (_, n) => client.send({ type: 'ping', data: { x: 'x'.repeat(n) } }))"
    outcomes = await alice.js(f"await outcomes({sent})")
    assert {one["code"] for one in outcomes} == {"invalid_data", "too_big"}
    assert max(received) == 1000
    assert sum(one["code"] == "invalid_data" for one in outcomes) == len(received) - 1


async def test_message_that_waits_for_a_connection_is_checked_too(start, stack):
    """The limit is known with the welcome. Only the message that is too big is rejected."""
    server = await stack.enter_async_context(running(ws_max_message_size=4096))
    alice = await start(port=server.port)
    sent = "[3, 5000, 4].map((length) => client.sendMessage('channel:1', 'x'.repeat(length)))"
    await alice.js(f"client.joinRoom('channel:1'), window.sent = {sent}, client.connect(), null")
    assert [one.get("code") for one in await alice.js("await outcomes(sent)")] == [None, "too_big", None]
    assert await alice.contents(2) == ["xxx", "xxxx"]


async def test_own_limit_may_be_lower(start, server):
    """The option maxSize applies if it is lower than the limit of the server."""
    alice = await start(join=ROOM, maxSize=500)
    sent = "[3, 500].map((length) => client.sendMessage('channel:1', 'x'.repeat(length)))"
    outcomes = await alice.js(f"await outcomes({sent})")
    assert [one.get("code") for one in outcomes] == [None, "too_big"]
    assert "the limit is 500" in outcomes[1]["message"]


async def test_close_with_1009_rejects_the_largest_request(start, stack):
    """If a server or a proxy accepts less than announced, the client returns, and only the largest request fails."""
    server = await stack.enter_async_context(running(ws_max_message_size=4096, ws_message_rate=0))
    server.gateway.sessions._about_server = {}
    alice = await start(port=server.port, join=ROOM)
    sent = "['a', 'b', 'x'.repeat(5000), 'c', 'd'].map((text) => client.sendMessage('channel:1', text))"
    outcomes = await alice.js(f"await outcomes({sent})")
    assert [one.get("code") for one in outcomes] == [None, None, "too_big", None, None]
    assert await alice.contents(4) == ["a", "b", "c", "d"]
    await publish(server, "e")
    assert await alice.contents(5) == ["a", "b", "c", "d", "e"]
    assert await alice.js("[client.state, client.rooms]") == ["open", [ROOM]]


async def test_old_server_has_the_limits_of_old_servers(start, stack):
    """A server that sends no limits is not sent more than 65,536 bytes in one message."""
    server = await stack.enter_async_context(running(ws_message_rate=0))
    server.gateway.sessions._about_server = {}
    alice = await start(token_for(), port=server.port, join=ROOM)
    outcome = (await alice.js("await outcomes([client.sendMessage('channel:1', 'é'.repeat(40000))])"))[0]
    assert outcome["code"] == "too_big"
