"""roomcast.js in Chromium: functions of the page that throw errors, or that close the client while it calls them."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from serving import running

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_error_in_a_handler_does_not_affect_others(start, server):
    """Other handlers run after one throws, and a removed handler is not called again."""
    alice = await start(join=ROOM)
    await alice.js(
        "window.late = [], window.off = client.on('message', () => { off(); throw new Error('mine'); }), null"
    )
    await alice.js("client.on('message', (message) => late.push(message.data.content)), null")
    await publish(server, "a", "b")
    await alice.until("late.length === 2")
    assert [text for text in alice.errors if "mine" in text] == ["mine"]
    alice.errors.clear()


async def test_error_in_trace_does_not_affect_the_client(start):
    """The function of the option trace may throw for each frame, in both directions."""
    alice = await start()
    options = "{ url: `${location.origin}`, trace: (way, text) => { throw new Error(`${way} ${text.slice(0, 9)}`); } }"
    await alice.js(f"window.other = new client.constructor(argument, {options}), null", "x.y.z")
    await alice.js(
        "other.token = client.token, other.connect(), await other.joinRoom('channel:1', { timeout: 10_000 }), null"
    )
    assert await alice.js("(await other.sendMessage('channel:1', 'b')).type") == "sent"
    await alice.js("other.close()")
    assert {text.split()[0] for text in alice.errors} == {"in", "out"}
    alice.errors.clear()


async def test_client_that_is_closed_in_a_handler_stays_closed(start, stack):
    """The handler is that of an error which the client finds when the connection is lost."""
    server = await stack.enter_async_context(running(ws_max_message_size=4096, ws_message_rate=0))
    server.gateway.sessions._about_server = {}
    alice = await start(port=server.port, join=ROOM)
    await alice.js("client.on('error', () => client.close()), null")
    outcomes = await alice.js("await outcomes([client.sendMessage('channel:1', 'x'.repeat(5000))])")
    assert outcomes[0]["code"] == "too_big"
    assert await alice.js("states()") == ["connecting", "open", "closed"]
    await alice.js("client.connect(), await client.sendMessage('channel:1', 'a')")
    assert await alice.contents(1) == ["a"]


async def test_connect_in_a_handler_waits_for_a_new_welcome(start):
    """A client that is closed and connected again by a handler of the state is connected after the next welcome."""
    alice = await start()
    again = "() => { off(); client.close(); window.again = client.connect(); }"
    await alice.js(
        f"window.off = client.on('state', ({{ data }}) => data.state === 'open' && ({again})()), client.connect(), null"
    )
    await alice.until("window.again")
    assert await alice.js("[(await again).type, client.state]") == ["connected", "open"]
    assert await alice.js("framesOf('connected').length") == 1
