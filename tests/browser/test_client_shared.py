"""roomcast.js in Chromium: one connection for all tabs of a user, in a SharedWorker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from client_pages import ROOM, Client, Pool, Start, browser, pool, proxy, publish, server, stack
from playwright.async_api import Error as BrowserError
from serving import call, token_for
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.web.server import Server

__all__ = ["browser", "pool", "proxy", "server", "stack"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def tab(pool: Pool, proxy: Proxy) -> AsyncIterator[Start]:
    """Open tabs with a client that shares its connection. See ``Client.start``."""

    async def tab(*args: Any, **options: Any) -> Client:
        return await (await pool.visit(proxy.port)).start(*args, **{"shared": True, **options})

    yield tab
    await pool.clear()


def connections(server: Server) -> int:
    """Return the number of connections to ``server``."""
    return len(server.gateway.keepalive.connections)


async def test_five_tabs_share_one_connection(tab, server):
    """Each tab receives a welcome and each event once, and the server has one connection."""
    tabs = [await tab(join=ROOM) for _ in range(5)]
    assert connections(server) == 1
    assert [await one.js("framesOf('connected').length") for one in tabs] == [1] * 5
    await publish(server, "a")
    await tabs[3].js("await client.sendMessage('channel:1', 'b')")
    await publish(server, "c")
    assert [await one.contents(3) for one in tabs] == [["a", "b", "c"]] * 5
    assert [await one.js("framesOf('sent').length") for one in tabs] == [0, 0, 0, 1, 0]
    status, members = await call(server, "GET", f"/api/v1/rooms/{ROOM}/members")
    assert (status, members["members"]) == (200, [{"user_id": 1, "username": "alice", "connections": 1}])


async def test_closing_the_first_tab_does_not_affect_the_others(tab, server):
    """The connection stays open, without a missed event, until the last tab closes."""
    first, *others = [await tab(join=ROOM) for _ in range(3)]
    (connection,) = server.gateway.keepalive.connections
    await first.page.close()
    await publish(server, "a")
    assert [await one.contents(1) for one in others] == [["a"]] * 2
    assert list(server.gateway.keepalive.connections) == [connection]
    assert [await one.js("states().at(-1)") for one in others] == ["open"] * 2
    for one in others:
        await one.page.close()
    await wait_until(lambda: connections(server) == 0)


async def test_tab_receives_events_of_its_own_rooms_only(tab, server):
    """The connection is in the rooms of all tabs. It leaves a room with the last tab that is in it."""
    one, other = await tab(join=ROOM), await tab(join="project:1")
    await other.js("await client.joinRoom('channel:1')")
    await publish(server, "a")
    await publish(server, "b", room="project:1")
    assert await other.contents(2) == ["a", "b"]
    assert await one.contents(1) == ["a"]
    assert (await one.js("await client.leaveRoom('channel:1')"))["type"] == "left_room"
    await publish(server, "c")
    assert await other.contents(3) == ["a", "b", "c"]
    await other.js("await client.leaveRoom('channel:1')")
    assert ROOM not in server.gateway.delivery.rooms
    assert await one.js("[contents, client.rooms]") == [["a"], []]


@pytest.mark.parametrize("end", ["close()", "reload", "reload without locks", "crash"])
async def test_rooms_of_an_ended_tab_are_left(pool, proxy, tab, server, end):
    """However a tab ends, its rooms are left, except those that other tabs are in."""
    stays, goes = await tab(join=ROOM), await pool.visit(proxy.port)
    if end == "reload without locks":  # as on pages without TLS
        await goes.js("Object.defineProperty(navigator, 'locks', { value: undefined })")
    await goes.start(join="project:1", shared=True)
    assert "project:1" in server.gateway.delivery.rooms
    if end == "close()":
        await goes.js("client.close()")
    elif end != "crash":
        await goes.page.reload()
    else:
        async with goes.page.expect_event("crash"):
            crash = asyncio.ensure_future(goes.page.goto("chrome://crash"))
        with suppress(BrowserError):
            await crash
    await wait_until(lambda: "project:1" not in server.gateway.delivery.rooms)
    await publish(server, "a")
    assert await stays.contents(1) == ["a"]
    assert connections(server) == 1


async def test_crashed_worker_is_replaced(tab, browser, server):
    """The tabs share a new worker, receive the missed events and send their pending requests once."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await publish(server, "a")
    for client in (one, other):
        await client.contents(1)
    await one.js("window.sent = ['b', 'c'].map((text) => client.sendMessage('channel:1', text)), null")
    session = await browser.new_browser_cdp_session()
    (worker,) = [t for t in (await session.send("Target.getTargets"))["targetInfos"] if t["type"] == "shared_worker"]
    await session.send("Target.closeTarget", {"targetId": worker["targetId"]})
    for client in (one, other):
        await client.until("framesOf('connected').length === 2")
    await publish(server, "d")
    assert [await client.contents(4) for client in (one, other)] == [["a", "b", "c", "d"]] * 2
    assert [outcome.get("code") for outcome in await one.js("await outcomes(sent)")] == [None, None]
    assert connections(server) == 1


async def test_all_tabs_share_one_reconnect(tab, server, proxy):
    """After a loss, each tab receives the missed events of its rooms once and in order, over one new connection."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await publish(server, "a")
    await proxy.refuse()
    proxy.reset()
    for client in (one, other):
        await client.until("client.state === 'waiting'")
    await publish(server, "b", "c")
    await other.js("window.sent = client.sendMessage('channel:1', 'd'), null")
    await proxy.start()
    assert [await client.contents(4) for client in (one, other)] == [["a", "b", "c", "d"]] * 2
    assert connections(server) == 1


async def test_join_since_an_event_in_one_tab(tab, server):
    """Old events that one tab requests are not repeated in another tab."""
    one = await tab(join=ROOM)
    await publish(server, "a", "b", "c")
    await one.contents(3)
    since = await one.js("framesOf('message')[0].id")
    other = await tab()
    await other.js("client.connect(), await client.joinRoom('channel:1', { since: argument })", since)
    await publish(server, "d")
    assert await other.contents(3) == ["b", "c", "d"]
    assert await one.contents(4) == ["a", "b", "c", "d"]


async def test_token_comes_from_an_open_tab(tab, proxy):
    """After the first tab has closed, the worker requests the next token from another tab."""
    first, other = await tab(lambda about: token_for()), await tab(lambda about: token_for())
    for client in (first, other):
        await client.js("await client.connect(), null")
    await first.page.close()
    asked = len(other.token_requests)
    proxy.reset()
    await other.until("framesOf('connected').length === 2")
    assert len(other.token_requests) == asked + 1


async def test_slow_token_function_is_awaited(tab, proxy):
    """The worker waits for a tab with a slow token function, and asks another tab if that one closes."""
    first, other = await tab(join=ROOM), await tab(join=ROOM)
    await other.js("client.token = () => new Promise(() => {}), window.dispatchEvent(new Event('pageshow')), null")
    await other.js("await client.send({ type: 'ping' })")
    proxy.reset()
    await first.until("client.state === 'connecting'")
    await other.page.close()
    await first.until("framesOf('connected').length === 2")


async def test_tabs_of_two_users_do_not_share(tab, server):
    """Tabs with the tokens of two users have two connections."""
    one, other = await tab(join=ROOM), await tab(token_for(2, "bob"), join=ROOM)
    assert connections(server) == 2
    await one.js("await client.sendMessage('channel:1', 'a')")
    await other.contents(1)
    assert (await one.js("client.user.username"), await other.js("client.user.username")) == ("alice", "bob")


async def test_permanent_close_affects_every_tab(tab, server):
    """After 4401 every tab is closed, and connect() in one tab reconnects all of them with its token."""
    one, other = await tab(token_for(expires_in=2), join=ROOM), await tab(token_for(expires_in=2), join=ROOM)
    for client in (one, other):
        await client.until("client.state === 'closed'")
    await other.js("client.token = argument, await client.connect(), null", token_for())
    await one.until("client.state === 'open'")
    await publish(server, "a")
    assert [await client.contents(1) for client in (one, other)] == [["a"]] * 2
    assert connections(server) == 1


@pytest.mark.parametrize("missing", ["SharedWorker", "its script"])
async def test_tab_without_a_shared_worker_has_its_own_connection(pool, tab, proxy, server, missing):
    """If SharedWorker is missing or its script cannot be loaded, each tab opens its own connection."""
    tabs = [await pool.visit(proxy.port) for _ in range(2)]
    for one in tabs:
        await one.js("delete globalThis.SharedWorker" if missing == "SharedWorker" else "null")
        await one.start(join=ROOM, shared=True, **({} if missing == "SharedWorker" else {"worker": "/no/such/file.js"}))
    await publish(server, "a")
    assert [await one.contents(1) for one in tabs] == [["a"]] * 2
    assert connections(server) == 2


async def test_closed_tab_reconnects(tab, server):
    """After close() and connect(), a tab resumes its rooms, while the other tabs stay connected."""
    stays, one = await tab(join=ROOM), await tab(join=ROOM)
    await publish(server, "a")
    await one.contents(1)
    await one.js("client.close()")
    await publish(server, "b")
    await one.js("await client.connect(), null")
    await publish(server, "c")
    assert await one.contents(3) == ["a", "b", "c"]
    assert await stays.js("states()") == ["connecting", "connecting", "open"]
