"""roomcast.js in Chromium: the system time changes, or the device sleeps, while the client is connected."""

from __future__ import annotations

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
from serving import token_for
from waiting import wait_until

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HOUR = 3_600_000
#: Sets the system time: `argument` is added to Date.now().
SET_TIME = "(() => { const now = Date.now; Date.now = () => now() + argument; })()"
#: Adds `argument` to both clocks, as if that time had passed.
PASS_TIME = f"({SET_TIME}, (() => {{ const now = performance.now(); performance.now = () => now + argument; }})())"
#: Stops performance.now(), as in a device that sleeps.
SLEEP = "(() => { const now = performance.now(); performance.now = () => now; })()"


@pytest.mark.parametrize("change", [-HOUR, -20_000, HOUR], ids=["hour back", "20 s back", "hour forward"])
async def test_requests_are_sent_after_the_time_changes(start, change):
    """The rate limit of the client does not depend on the system time."""
    alice = await start(join=ROOM, rate=80)
    await alice.js(SET_TIME, change)
    sent = "[...'abcdef'].map((text) => client.sendMessage('channel:1', text))"
    pause = "new Promise((resolve) => setTimeout(resolve, 10_000, 'nothing was sent for 10 s'))"
    assert (
        await alice.js(f"await Promise.race([Promise.all({sent}), {pause}]).then(String)")
        != "nothing was sent for 10 s"
    )
    assert await alice.contents(6) == list("abcdef")


@pytest.mark.parametrize(
    ("change", "argument"),
    [(SET_TIME, -HOUR), (SET_TIME, -20_000), (SET_TIME, HOUR), (SLEEP, None)],
    ids=["hour back", "20 s back", "hour forward", "asleep"],
)
async def test_dead_connection_is_detected_after_the_time_changes(start, server, proxy, change, argument):
    """A silent connection is given up, whether one of the clocks stops or jumps."""
    alice = await start(join=ROOM, heartbeat=400)
    proxy.stall()
    await alice.js(change, argument)
    await alice.until("states().includes('waiting')")
    waiting = await alice.js("framesOf('state').find((frame) => frame.data.state === 'waiting').data")
    assert waiting["reason"] == "No heartbeat"
    proxy.reset()
    proxy.flow()
    await publish(server, "a")
    assert await alice.contents(1) == ["a"]


async def test_time_changes_do_not_end_a_connection(start, server):
    """A jump of the system time is not taken for silence of the server."""
    alice = await start(join=ROOM, heartbeat=400)
    for change in (HOUR, -2 * HOUR, HOUR):
        await alice.js(SET_TIME, change)
        received = server.gateway.counters.messages_received
        await wait_until(lambda received=received: server.gateway.counters.messages_received > received + 1)
    assert await alice.js("states()") == ["connecting", "open"]


@pytest.mark.parametrize(
    "changes",
    [
        [(SET_TIME, 300_000)],
        [(SLEEP, None), (SET_TIME, 300_000)],
        [(SET_TIME, -HOUR), (PASS_TIME, 300_000)],
        [(SET_TIME, -HOUR), (SLEEP, None), (SET_TIME, 300_000)],
    ],
    ids=["time passes", "asleep", "hour back", "hour back, then asleep"],
)
async def test_request_is_not_repeated_after_its_key_expired(start, proxy, changes):
    """A request sent longer ago than the server keeps idempotency keys is uncertain, by whichever clock."""
    alice = await start(join=ROOM, inFlight=1)
    proxy.stall()
    await alice.js("window.sent = [...'ab'].map((text) => client.sendMessage('channel:1', text)), null")
    for change, argument in changes:
        await alice.js(change, argument)
        # The client sees each change before the next one.
        await alice.js("window.sent.push(client.sendMessage('channel:1', 'c')), null")
    proxy.reset()
    proxy.flow()
    outcomes = await alice.js("await outcomes(sent)")
    assert [outcome.get("code") for outcome in outcomes] == ["uncertain", None] + [None] * len(changes)
    assert (await alice.contents(1 + len(changes)))[0] == "b"


@pytest.mark.parametrize("change", [-HOUR, HOUR], ids=["hour back", "hour forward"])
async def test_token_is_refreshed_after_the_time_changes(start, change):
    """The next refresh is before the end of the token, and not at once: the client knows the server's time."""
    alice = await start(lambda about: token_for(expires_in=6), join=ROOM, heartbeat=0)
    await alice.js(SET_TIME, change)
    await alice.js(
        "(window.delays = [], ((set) => { window.setTimeout = (call, delay) => "
        "(delays.push(delay), set(call, delay)); })(setTimeout))"
    )
    await alice.until("framesOf('token_refreshed').length === 1")
    (delay,) = await alice.js("delays.filter((delay) => delay >= 1000)")
    assert 1000 < delay <= 3500, "the token lasts for 6 s, the server rounds its time down to 1 s"
