"""roomcast.js in Chromium while access checks fail: rooms are joined when the rule decides, others are not affected."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from access_server import AccessServer
from aiohttp import web
from client_pages import ROOM, Start, browser, close_all, pool, proxy, publish, stack, start
from serving import running
from waiting import wait_until

from roomcast.web.server import Server

__all__ = ["browser", "pool", "proxy", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: The room whose check may fail.
GUARDED = "channel:2"


#: Makes random numbers constant, and the pauses of a join short. ``pauses`` has their real lengths.
SHORT_PAUSES = """(() => {
    const set = setTimeout;
    window.pauses = [];
    Math.random = () => 0.5;
    window.setTimeout = (work, delay, ...more) => {
        const isPause = [500, 1125, 1687.5, 2531.25].includes(delay);
        if (isPause) pauses.push(delay);
        return set(work, isPause ? delay / 100 : delay, ...more);
    };
})()"""


class GuardedAccess(AccessServer):
    """A URL for ROOM_ACCESS that responds with ``status`` for ``GUARDED``, and allows all other rooms."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 503

    @property
    def times_asked(self) -> int:
        return sum(body["room"] == GUARDED for body in self.bodies)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=self.status if self.bodies[-1]["room"] == GUARDED else 200)


@pytest_asyncio.fixture(loop_scope="module")
async def access(stack: AsyncExitStack) -> GuardedAccess:
    """Run the URL."""
    access = GuardedAccess()
    await access.start()
    stack.push_async_callback(access.stop)
    return access


@pytest_asyncio.fixture(loop_scope="module")
async def server(stack: AsyncExitStack, access: GuardedAccess) -> Server:
    """Run a server that asks the URL for each join."""
    return await stack.enter_async_context(running(room_access=access.url, room_access_cache=0, ws_message_rate=0))


async def test_a_first_join_waits_for_the_rule(start: Start, server: Server, access: GuardedAccess) -> None:
    """The join is repeated until the rule decides. Later requests for the room wait for it, others do not."""
    alice = await start(join=ROOM)
    await alice.js(
        "window.joined = client.joinRoom('channel:2'), window.said = [client.sendMessage('channel:2', 'at once')], null"
    )
    await wait_until(lambda: server.gateway.counters.errors["unavailable"])
    await alice.js("said.push(client.sendMessage('channel:2', 'later')), null")
    await alice.js("window.elsewhere = client.sendMessage('channel:1', 'elsewhere'), null")
    assert await alice.contents(1) == ["elsewhere"]
    await wait_until(lambda: access.times_asked >= 2)
    assert await alice.js("client.rooms") == [ROOM]
    access.status = 200
    assert await alice.contents(3) == ["elsewhere", "at once", "later"]
    assert (await alice.js("await joined"))["type"] == "joined_room"
    assert [sent["type"] for sent in await alice.js("await Promise.all(said)")] == ["sent", "sent"]
    assert await alice.js("states()") == ["connecting", "open"]


async def test_a_rejoin_waits_for_the_rule(start: Start, server: Server, access: GuardedAccess) -> None:
    """After a reconnect, the room is joined again when the rule decides; nothing is lost, and other rooms work."""
    access.status = 200
    alice = await start(join=ROOM)
    await alice.js("await client.joinRoom('channel:2'), null")
    await publish(server, "before", room=GUARDED)
    await alice.contents(1)
    access.status = 503
    asked = access.times_asked
    close_all(server)
    await wait_until(lambda: access.times_asked > asked)
    await publish(server, "missed", room=GUARDED)
    await alice.js("window.said = client.sendMessage('channel:2', 'queued'), null")
    await alice.js("window.elsewhere = client.sendMessage('channel:1', 'elsewhere'), null")
    assert await alice.contents(2) == ["before", "elsewhere"]
    await wait_until(lambda: access.times_asked > asked + 1)
    access.status = 200
    assert await alice.contents(4) == ["before", "elsewhere", "missed", "queued"]
    assert (await alice.js("await said"))["type"] == "sent"
    assert await alice.js("framesOf('left_room')") == []


@pytest.mark.parametrize("is_first", [True, False], ids=["a first join", "a rejoin"])
async def test_a_no_concerns_only_its_room(start: Start, server: Server, access: GuardedAccess, is_first: bool) -> None:
    """Status 403 rejects the join, or ends the room with left_room; the other rooms are joined again."""
    access.status = 403 if is_first else 200
    alice = await start(join=ROOM)
    await alice.js("window.joined = client.joinRoom('channel:2'), null")
    if is_first:
        assert [outcome["code"] for outcome in await alice.js("await outcomes([joined])")] == ["forbidden"]
    else:
        await alice.js("await joined, null")
        access.status = 403
        close_all(server)
        await alice.until("framesOf('left_room').some((frame) => frame.room === 'channel:2')")
    await alice.js("window.elsewhere = client.sendMessage('channel:1', 'still here'), null")
    assert await alice.contents(1) == ["still here"]
    assert await alice.js("client.rooms") == [ROOM]
    assert GUARDED not in server.gateway.delivery.rooms


@pytest.mark.parametrize("is_first", [True, False], ids=["a first join", "a rejoin"])
async def test_leaving_a_room_that_cannot_be_joined(
    start: Start, server: Server, access: GuardedAccess, is_first: bool
) -> None:
    """leaveRoom ends the attempts: a join that waits is rejected, and the room is not joined later."""
    access.status = 503 if is_first else 200
    alice = await start(join=ROOM)
    await alice.js("window.joined = client.joinRoom('channel:2'), null")
    if not is_first:
        await alice.js("await joined, null")
        access.status = 503
        asked = access.times_asked
        close_all(server)
        await wait_until(lambda: access.times_asked > asked)
        await alice.until("client.state === 'open'")
        await alice.js("window.joined = client.joinRoom('channel:2'), null")
    await wait_until(lambda: server.gateway.counters.errors["unavailable"])
    await alice.js("void client.leaveRoom('channel:2').then((frame) => { window.left = frame; })")
    await alice.until("window.left?.type === 'left_room'")
    assert [outcome["code"] for outcome in await alice.js("await outcomes([joined])")] == ["not_joined"]
    access.status = 200
    asked = access.times_asked
    await alice.js("await new Promise((resolve) => setTimeout(resolve, 2_000)), null")  # longer than the first pause
    assert access.times_asked == asked
    assert await alice.js("client.rooms") == [ROOM]
    assert GUARDED not in server.gateway.delivery.rooms


@pytest.mark.parametrize("is_first", [True, False], ids=["a first join", "a rejoin"])
async def test_the_pauses_grow(start: Start, server: Server, access: GuardedAccess, is_first: bool) -> None:
    """A rule that fails for a long time is asked after growing pauses."""
    access.status = 503 if is_first else 200
    alice = await start(join=ROOM)
    if not is_first:
        await alice.js("await client.joinRoom('channel:2'), null")
        access.status = 503
    await alice.js(SHORT_PAUSES)
    if is_first:
        await alice.js("window.joined = client.joinRoom('channel:2'), null")
    else:
        close_all(server)
    await alice.until("pauses.length >= 4")
    assert await alice.js("pauses") == [500, 1125, 1687.5, 2531.25]
    access.status = 200
    await wait_until(lambda: GUARDED in server.gateway.delivery.rooms)
