"""roomcast.js with one connection for all tabs of a user, in a SharedWorker of a real Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import pytest_asyncio
from browser import chromium
from client_pages import Client, Pool, eventually
from playwright.async_api import Browser
from playwright.async_api import Error as BrowserError
from serving import call, running, token_for
from tcp_proxy import Proxy

from roomcast.web.server import Server

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

ROOM = "channel:1"
Open = Callable[..., Awaitable[Client]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What the test's fixtures opened; closed in reverse."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def server(stack: AsyncExitStack) -> Server:
    """A server without a limit of messages a second."""
    return await stack.enter_async_context(running(ws_message_rate=0))


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(stack: AsyncExitStack, server: Server) -> Proxy:
    """The network between the tabs and the server."""
    return await stack.enter_async_context(Proxy("127.0.0.1", server.port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(browser: Browser) -> Pool:
    """One person's tabs, those of all tests."""
    return Pool(await browser.new_context())


@pytest_asyncio.fixture(loop_scope="module")
async def tab(pool: Pool, proxy: Proxy) -> AsyncIterator[Open]:
    """Open tabs with a client that shares its connection; see ``Client.start``."""

    async def tab(*args: Any, **options: Any) -> Client:
        return await (await pool.visit(proxy.port)).start(*args, **{"shared": True, **options})

    yield tab
    await pool.clear()


def connections(server: Server) -> int:
    """How many connections the server has."""
    return len(server.gateway.keepalive.connections)


async def say(server: Server, *contents: str, room: str = ROOM) -> None:
    """Let bob say something, by the server's own hand."""
    for content in contents:
        data = {"content": content, "username": "bob", "user_id": 2}
        await server.gateway.publishing.publish("message", room, data, "bob", None)


async def test_five_tabs_are_one_connection(tab, server):
    """Each tab is welcomed and hears each event once; what one says the others hear; the server sees one client."""
    tabs = [await tab(join=ROOM) for _ in range(5)]
    assert connections(server) == 1
    assert [await one.js("types('connected').length") for one in tabs] == [1] * 5
    await say(server, "a")
    await tabs[3].js("await client.sendMessage('channel:1', 'b')")
    await say(server, "c")
    assert [await one.said(3) for one in tabs] == [["a", "b", "c"]] * 5
    assert [await one.js("types('sent').length") for one in tabs] == [0, 0, 0, 1, 0]
    status, members = await call(server, "GET", f"/api/v1/rooms/{ROOM}/members")
    assert (status, members["members"]) == (200, [{"user_id": 1, "username": "alice", "connections": 1}])


async def test_closing_the_tab_that_opened_it_disturbs_nobody(tab, server):
    """The connection stays, no event is missed, and the last tab to go takes it along."""
    first, *others = [await tab(join=ROOM) for _ in range(3)]
    (connection,) = server.gateway.keepalive.connections
    await first.page.close()
    await say(server, "a")
    assert [await one.said(1) for one in others] == [["a"]] * 2
    assert list(server.gateway.keepalive.connections) == [connection]
    assert [await one.js("states().at(-1)") for one in others] == ["open"] * 2
    for one in others:
        await one.page.close()
    await eventually(lambda: connections(server) == 0)


async def test_a_tab_hears_of_its_own_rooms_only(tab, server):
    """Rooms are each tab's own; the connection is in those that any tab is in, until the last one leaves."""
    one, other = await tab(join=ROOM), await tab(join="project:1")
    await other.js("await client.joinRoom('channel:1')")
    await say(server, "a")
    await say(server, "b", room="project:1")
    assert await other.said(2) == ["a", "b"]
    assert await one.said(1) == ["a"]
    assert (await one.js("await client.leaveRoom('channel:1')"))["type"] == "left_room"
    await say(server, "c")
    assert await other.said(3) == ["a", "b", "c"]
    await other.js("await client.leaveRoom('channel:1')")
    assert ROOM not in server.gateway.delivery.rooms
    assert await one.js("[said, client.rooms]") == [["a"], []]


@pytest.mark.parametrize("end", ["close()", "reload", "reload without locks", "crash"])
async def test_the_rooms_of_a_tab_go_with_it(pool, proxy, tab, server, end):
    """However a tab ends, the rooms that it alone was in are left, and the others' are not."""
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
    await eventually(lambda: "project:1" not in server.gateway.delivery.rooms)
    await say(server, "a")
    assert await stays.said(1) == ["a"]
    assert connections(server) == 1


async def test_a_worker_that_dies_is_replaced(tab, browser, server):
    """Its tabs find one another again in a new one, with what they missed and what they had asked, once."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await say(server, "a")
    for client in (one, other):
        await client.said(1)
    await one.js("window.sent = ['b', 'c'].map((text) => client.sendMessage('channel:1', text)), null")
    session = await browser.new_browser_cdp_session()
    (worker,) = [t for t in (await session.send("Target.getTargets"))["targetInfos"] if t["type"] == "shared_worker"]
    await session.send("Target.closeTarget", {"targetId": worker["targetId"]})
    for client in (one, other):
        await client.until("types('connected').length === 2")
    await say(server, "d")
    assert [await client.said(4) for client in (one, other)] == [["a", "b", "c", "d"]] * 2
    assert [outcome.get("code") for outcome in await one.js("await outcomes(sent)")] == [None, None]
    assert connections(server) == 1


async def test_all_tabs_come_back_together(tab, server, proxy):
    """After a loss one connection is made, and every tab gets what it missed in its rooms, once and in order."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await say(server, "a")
    await proxy.refuse()
    proxy.reset()
    for client in (one, other):
        await client.until("client.state === 'waiting'")
    await say(server, "b", "c")
    await other.js("window.sent = client.sendMessage('channel:1', 'd'), null")
    await proxy.start()
    assert [await client.said(4) for client in (one, other)] == [["a", "b", "c", "d"]] * 2
    assert connections(server) == 1


async def test_a_tab_can_read_on_from_where_it_was(tab, server):
    """What one tab asks to have again is not repeated to another."""
    one = await tab(join=ROOM)
    await say(server, "a", "b", "c")
    await one.said(3)
    since = await one.js("types('message')[0].id")
    other = await tab()
    await other.js("client.connect(), await client.joinRoom('channel:1', { since: argument })", since)
    await say(server, "d")
    assert await other.said(3) == ["b", "c", "d"]
    assert await one.said(4) == ["a", "b", "c", "d"]


async def test_tokens_come_from_whichever_tab_lives(tab, proxy):
    """The tab that brought the first token is gone; another one is asked for the next."""
    first, other = await tab(lambda about: token_for()), await tab(lambda about: token_for())
    for client in (first, other):
        await client.js("await client.connect(), null")
    await first.page.close()
    asked = len(other.asked)
    proxy.reset()
    await other.until("types('connected').length === 2")
    assert len(other.asked) == asked + 1


async def test_a_tab_may_take_its_time_over_a_token(tab, proxy):
    """A tab that is awake and slow is waited for; one that is closed over it is not."""
    first, other = await tab(join=ROOM), await tab(join=ROOM)
    await other.js("client.token = () => new Promise(() => {}), window.dispatchEvent(new Event('pageshow')), null")
    await other.js("await client.send({ type: 'ping' })")
    proxy.reset()
    await first.until("client.state === 'connecting'")
    await other.page.close()
    await first.until("types('connected').length === 2")


async def test_another_user_has_another_connection(tab, server):
    """Tabs of two users, as after a new login, do not share."""
    one, other = await tab(join=ROOM), await tab(token_for(2, "bob"), join=ROOM)
    assert connections(server) == 2
    await one.js("await client.sendMessage('channel:1', 'a')")
    await other.said(1)
    assert (await one.js("client.user.username"), await other.js("client.user.username")) == ("alice", "bob")


async def test_closing_for_good_is_told_to_every_tab(tab, server):
    """After 4401 every tab is closed, and connect() of any begins anew for all, with that tab's token."""
    one, other = await tab(token_for(expires_in=2), join=ROOM), await tab(token_for(expires_in=2), join=ROOM)
    for client in (one, other):
        await client.until("client.state === 'closed'")
    await other.js("client.token = argument, await client.connect(), null", token_for())
    await one.until("client.state === 'open'")
    await say(server, "a")
    assert [await client.said(1) for client in (one, other)] == [["a"]] * 2
    assert connections(server) == 1


@pytest.mark.parametrize("missing", ["SharedWorker", "its script"])
async def test_without_a_shared_worker_a_tab_has_its_own(pool, tab, proxy, server, missing):
    """Where a SharedWorker does not exist, or may not run, everything works as without `shared`."""
    tabs = [await pool.visit(proxy.port) for _ in range(2)]
    for one in tabs:
        await one.js("delete globalThis.SharedWorker" if missing == "SharedWorker" else "null")
        await one.start(join=ROOM, shared=True, **({} if missing == "SharedWorker" else {"worker": "/no/such/file.js"}))
    await say(server, "a")
    assert [await one.said(1) for one in tabs] == [["a"]] * 2
    assert connections(server) == 2


async def test_a_closed_tab_connects_again(tab, server):
    """close() and connect() bring a tab back into its rooms, with what it missed, while the others stay."""
    stays, one = await tab(join=ROOM), await tab(join=ROOM)
    await say(server, "a")
    await one.said(1)
    await one.js("client.close()")
    await say(server, "b")
    await one.js("await client.connect(), null")
    await say(server, "c")
    assert await one.said(3) == ["a", "b", "c"]
    assert await stays.js("states()") == ["connecting", "connecting", "open"]
