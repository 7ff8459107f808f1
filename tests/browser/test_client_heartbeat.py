"""roomcast.js in Chromium: connections that are dead in one direction or in both, but are not closed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from client_pages import (
    ROOM,
    browser,
    pool,
    proxy,
    publish,
    server,
    stack,
    start,
)
from sample_commands import SampleCommands
from serving import running
from waiting import wait_until

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Makes the clocks and the timers of the page ten times faster.
TIME_LAPSE = """(() => {
    for (const clock of [Date, performance]) {
        const now = clock.now.bind(clock), start = now();
        clock.now = () => start + 10 * (now() - start);
    }
    const set = setTimeout;
    window.setTimeout = (call, delay, ...args) => set(call, delay / 10, ...args);
})()"""


@pytest.mark.parametrize(
    "dead",
    [{"to_server": True}, {"to_client": True}, {"to_server": True, "to_client": True}],
    ids=["out", "in", "both"],
)
async def test_unanswered_request_reveals_a_dead_connection(start, server, proxy, dead):
    """The request goes on after the reconnect, even if events still arrive and the regular pings are off."""
    alice = await start(heartbeat=0)
    await alice.js(f"{TIME_LAPSE}, client.connect(), await client.joinRoom({ROOM!r}), null")
    proxy.stall(**{"to_server": False, "to_client": False, **dead})
    await alice.js("window.sent = client.sendMessage('channel:1', 'mine'), null")

    async def publish_events() -> None:
        while True:
            await publish(server, "event")
            await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish_events())
    try:
        await alice.until("states().includes('waiting')")
    finally:
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing
    assert ("event" in await alice.js("contents")) == ("to_client" not in dead)
    waiting = await alice.js("framesOf('state').find((frame) => frame.data.state === 'waiting').data")
    assert (waiting["code"], waiting["reason"]) == (1006, "No heartbeat")
    proxy.reset()
    proxy.flow()
    assert (await alice.js("await sent"))["type"] == "sent"
    await alice.js("await client.send({ type: 'ping' })")
    assert (await alice.js("contents")).count("mine") == 1


async def test_slow_command_is_no_dead_connection(start, stack):
    """The server answers the probes while a command runs."""
    sample = SampleCommands()
    server = await stack.enter_async_context(running(plugins=[sample.plugin], ws_message_rate=0))
    alice = await start(port=server.port, join=ROOM, heartbeat=200)
    await alice.js("window.sent = [1, 2].map((n) => client.send({ type: 'slow', data: { n } })), null")
    await wait_until(lambda: sample.started == [1])
    received = server.gateway.counters.messages_received
    await wait_until(lambda: server.gateway.counters.messages_received > received + 5)
    sample.gate.set()
    assert [reply["data"]["n"] for reply in await alice.js("await Promise.all(sent)")] == [1, 2]
    assert await alice.js("states()") == ["connecting", "open"]
    assert await alice.js("framesOf('pong')") == []


async def test_unanswered_rejoin_reveals_a_dead_connection(pool, start, proxy):
    """If only the welcome arrives after a reconnect, the client reconnects again and is in its rooms."""
    alice = await pool.visit(proxy.port)
    losses = "window.states?.().filter((state) => state === 'waiting').length"
    await alice.js(
        f"window.WebSocket = class extends WebSocket {{ send(text) {{ {losses} === 1 || super.send(text) }} }}"
    )
    await alice.js(TIME_LAPSE)
    await alice.start(join=ROOM, heartbeat=0)
    proxy.reset()
    await alice.until("framesOf('joined_room').length === 2")
    assert await alice.js(losses) == 2


async def test_frequent_probes_do_not_postpone_the_end(start, proxy):
    """Events of the page that cause a probe do not begin the wait for the answer again."""
    alice = await start(heartbeat=25_000)
    await alice.js(f"{TIME_LAPSE}, client.connect(), await client.joinRoom({ROOM!r}), null")
    proxy.stall()
    await alice.js("window.probing = setInterval(() => window.dispatchEvent(new Event('offline')), 50), null")
    await alice.until("states().includes('waiting')")
    await alice.js("clearInterval(probing)")
    proxy.reset()
    proxy.flow()
    await alice.js("await client.sendMessage('channel:1', 'a')")


@pytest.mark.parametrize(("count", "size", "speed"), [(1, 120_000, 8), (16, 60_000, 40)])
async def test_slow_upload_is_no_dead_connection(pool, start, proxy, count, size, speed):
    """Requests that take longer to upload than a probe may be unanswered are sent once. ``speed`` is in KB/s."""
    alice = await pool.visit(proxy.port)
    await alice.js(TIME_LAPSE)
    send = """send(text) {
        this.free = Math.max(this.free ?? 0, performance.now()) + text.length / %d;
        setTimeout(() => super.send(text), this.free - performance.now());
    }"""
    await alice.js(f"window.WebSocket = class extends WebSocket {{ {send % speed} }}")
    await alice.start(join=ROOM)
    message = f"client.sendMessage('channel:1', 'x', {{ long: 'x'.repeat({size}) }})"
    await alice.js(f"await Promise.all(Array.from({{ length: {count} }}, () => {message})), null")
    assert await alice.js("states()") == ["connecting", "open"]
