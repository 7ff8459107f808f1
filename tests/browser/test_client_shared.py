"""roomcast.js in Chromium: one connection for all tabs of a user, in a SharedWorker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio
from client_pages import ROOM, Client, Pool, Start, browser, pool, proxy, publish, server, stack
from playwright.async_api import Error as BrowserError
from serving import call, running, token_for
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.web.server import Server

__all__ = ["browser", "pool", "proxy", "server", "stack"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: The address of a bundle with roomcast.js.
BUNDLE = "/assets/index.js"


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
    assert [await one.js("client.isShared") for one in tabs] == [True] * 5
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


async def crash_worker(browser):
    """End the one SharedWorker of the browser."""
    session = await browser.new_browser_cdp_session()
    (worker,) = [t for t in (await session.send("Target.getTargets"))["targetInfos"] if t["type"] == "shared_worker"]
    await session.send("Target.closeTarget", {"targetId": worker["targetId"]})


async def test_crashed_worker_is_replaced(tab, browser, server):
    """The tabs share a new worker, receive the missed events and send their pending requests once."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await publish(server, "a")
    for client in (one, other):
        await client.contents(1)
    await one.js("window.sent = ['b', 'c'].map((text) => client.sendMessage('channel:1', text)), null")
    await crash_worker(browser)
    for client in (one, other):
        await client.until("framesOf('connected').length === 2")
    await publish(server, "d")
    assert [await client.contents(4) for client in (one, other)] == [["a", "b", "c", "d"]] * 2
    assert [outcome.get("code") for outcome in await one.js("await outcomes(sent)")] == [None, None]
    assert connections(server) == 1


@pytest.mark.parametrize("is_shared_again", [True, False])
async def test_unsent_requests_of_a_crashed_worker_are_not_uncertain(pool, tab, browser, stack, is_shared_again):
    """Messages that the worker could not send are sent once, even to an empty server, and in the same rooms.

    If no other worker can be started, because the server of its script is down, the tab has its own connection.
    """
    first, second = [
        await stack.enter_async_context(running(ws_message_rate=0, allowed_origins=("*",))) for _ in range(2)
    ]
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", first.port))
    page = await pool.visit(second.port if is_shared_again else proxy.port)
    one = await page.start(shared=True, url=f"http://127.0.0.1:{proxy.port}", join=ROOM)
    await proxy.refuse()
    proxy.reset()
    await one.until("client.state === 'waiting'")
    await one.js("window.sent = ['a', 'b'].map((text) => client.sendMessage('channel:1', text)), null")
    await crash_worker(browser)
    if is_shared_again:
        await one.until("client.isShared")
    else:  # isShared is also false while another worker starts, which the proxy must still refuse
        await wait_until(lambda: any("cannot share" in warning for warning in one.warnings))
    proxy.target = second.port
    await proxy.start()
    assert [outcome.get("code") for outcome in await one.js("await outcomes(sent)")] == [None, None]
    assert await one.contents(2) == ["a", "b"]
    assert await one.js("framesOf('resync').some((frame) => frame.room === 'channel:1')")
    assert await one.js("client.isShared") == is_shared_again


async def test_requests_of_one_tab_do_not_affect_the_others(tab, server):
    """A forbidden join and messages that are too big are rejected in their tab; the connection returns to all rooms."""
    token = token_for(rooms=["channel:*"])
    one, other = await tab(token, join=ROOM), await tab(token, join="channel:2")
    big = "client.sendMessage('channel:2', 'x'.repeat(140000))"
    outcomes = await other.js(f"await outcomes([client.joinRoom('project:1'), {big}, client.joinRoom('channel:3')])")
    assert [outcome.get("code") for outcome in outcomes] == ["forbidden", "too_big", None]
    await publish(server, "a")
    await publish(server, "b", room="channel:3")
    assert (await one.contents(1), await other.contents(1)) == (["a"], ["b"])
    assert await one.js("[client.rooms, framesOf('error')]") == [[ROOM], []]
    assert sorted(await other.js("client.rooms")) == ["channel:2", "channel:3"]
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


async def test_requests_of_a_closed_tab_are_not_sent(tab, server, proxy):
    """A tab that is closed while there is no connection has rejected its messages. Those of other tabs are sent."""
    one, other = await tab(join=ROOM), await tab(join=ROOM)
    await proxy.refuse()
    proxy.reset()
    for client in (one, other):
        await client.until("client.state === 'waiting'")
    await one.js("window.sent = client.sendMessage('channel:1', 'a'), null")
    await one.js("client.close()")
    assert (await one.js("await outcomes([sent])"))[0]["code"] == "closed"
    await other.js("window.sent = client.sendMessage('channel:1', 'b'), null")
    await proxy.start()
    await other.js("await sent")
    await publish(server, "c")
    assert await other.contents(2) == ["b", "c"]


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


WRONG_WORKER = "the option worker must be the address of a copy of roomcast.js at ORIGIN"


@pytest.mark.parametrize(
    ("before", "options", "reason"),
    [
        ("delete globalThis.SharedWorker", {}, "there is no SharedWorker here."),
        ("null", {"worker": "/no/such/file.js"}, f"{WRONG_WORKER}, not /no/such/file.js."),
        ("null", {"worker": "http://a.example/roomcast.js"}, f"{WRONG_WORKER}, not http://a.example/roomcast.js."),
        ("null", {"worker": ""}, f"{WRONG_WORKER}, not ."),
    ],
    ids=["no SharedWorker", "no script", "another origin", "no worker"],
)
async def test_tab_that_cannot_share_says_why(pool, tab, proxy, server, before, options, reason):
    """A tab that cannot share opens its own connection, and writes one warning with the reason."""
    tabs = [await pool.visit(proxy.port) for _ in range(2)]
    for one in tabs:
        await one.js(before)
        await one.start(join=ROOM, shared=True, **options)
        assert await one.js("client.isShared") is False
    await publish(server, "a")
    assert [await one.contents(1) for one in tabs] == [["a"]] * 2
    assert connections(server) == 2
    await tabs[0].js("client.close(), await client.connect(), null")
    for one in tabs:
        (warning,) = one.warnings
        origin = f"http://127.0.0.1:{proxy.port}"
        assert warning == f"roomcast: This tab cannot share its connection: {reason.replace('ORIGIN', origin)}"


async def test_token_is_used_if_the_worker_does_not_run(pool, tab, proxy):
    """The tab has asked for a token before it starts the worker. Its own connection uses that token."""
    one = await tab(lambda about: token_for(), worker="/no/such/file.js")
    await one.js("await client.connect(), null")
    assert await one.js("client.isShared") is False
    assert len(one.token_requests) == 1
    proxy.reset()
    await one.until("framesOf('connected').length === 2")
    assert len(one.token_requests) == 2


@pytest_asyncio.fixture(loop_scope="module")
async def bundled(pool: Pool, proxy: Proxy) -> AsyncIterator[Start]:
    """Open tabs whose script is a bundle with roomcast.js."""
    code = files("roomcast.static").joinpath("roomcast.js").read_text()
    pages = []

    async def bundled(*args: Any, **options: Any) -> Client:
        client = await pool.visit(proxy.port)
        pages.append(client.page)
        await client.page.route(f"**{BUNDLE}", lambda route: route.fulfill(body=code, content_type="text/javascript"))
        return await client.start(*args, **{"script": BUNDLE, "url": "/", "shared": True, **options})

    yield bundled
    for page in pages:
        await page.unroute(f"**{BUNDLE}")
    await pool.clear()


async def test_bundle_is_not_started_as_a_worker(bundled, server):
    """Without the option worker, a bundled client connects itself at once, with one call of its token function.

    The bundle would run the application in the worker, which fails. No later tab gets an answer of that worker.
    """
    client = await bundled(lambda about: token_for())
    await client.js("globalThis.SharedWorker = class { constructor() { throw new Error('started'); } }, null")
    await client.js("client.connect(), await client.joinRoom('channel:1'), null")
    assert await client.js("client.isShared") is False
    assert len(client.token_requests) == 1
    assert connections(server) == 1
    assert ["the option worker must be" in warning for warning in client.warnings] == [True]


async def test_bundled_client_shares_with_a_copy_as_its_worker(bundled, server):
    """With a copy of roomcast.js as the option worker, the tabs of a bundled client share one connection."""
    tabs = [await bundled(join=ROOM, worker="/static/roomcast.js") for _ in range(2)]
    assert [await one.js("client.isShared") for one in tabs] == [True, True]
    assert [one.warnings for one in tabs] == [[], []]
    assert connections(server) == 1


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
