"""roomcast.js in a real Chromium: it reconnects, resumes, and sends once what was said offline."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import shell
from aiohttp import web
from browser import chromium
from client_pages import Client, Pool, eventually
from docs_pages import snippet
from marshmallow import Schema, fields
from playwright.async_api import Browser
from serving import running, token_for
from tcp_proxy import Proxy

from roomcast import Context, Plugin
from roomcast.auth.identity import make_token
from roomcast.errors import SERVICE_RESTART, TOO_MANY_MESSAGES
from roomcast.web.server import Server

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

ROOM = "channel:1"
#: Back-off that never comes to an end in a test: whoever connects all the same was told to.
NEVER = {"reconnect": {"base": 1e9, "max": 1e9, "drain": 1e9}}


class Step(Schema):
    step = fields.Integer(required=True)


Start = Callable[..., Awaitable[Client]]


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
    return await stack.enter_async_context(running(ws_message_rate=0, history_size=5000))


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(stack: AsyncExitStack, server: Server) -> Proxy:
    """The network between the pages and the server."""
    return await stack.enter_async_context(Proxy("127.0.0.1", server.port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(browser: Browser) -> Pool:
    """The tabs of all tests."""
    return Pool(await browser.new_context())


@pytest_asyncio.fixture(loop_scope="module")
async def start(pool: Pool, proxy: Proxy) -> AsyncIterator[Start]:
    """Start clients, each on a page of its own, behind the proxy or at another ``port``; see ``Client.start``."""

    async def start(*args: Any, port: int | None = None, **options: Any) -> Client:
        return await (await pool.visit(port or proxy.port)).start(*args, **options)

    yield start
    await pool.clear()


async def say(server: Server, *contents: str, room: str = ROOM) -> None:
    """Let bob say something, by the server's own hand."""
    for content in contents:
        await server.gateway.publishing.publish(
            "message", room, {"content": content, "username": "bob", "user_id": 2}, "bob", None
        )


def close_all(server: Server, close: Any = SERVICE_RESTART) -> None:
    """Close every connection of the server."""
    for connection in list(server.gateway.keepalive.connections):
        connection.close(close)


# As in docs/protocol.md.


async def test_the_usage_of_the_chat_client_runs_with_only_the_import_changed(browser, stack):
    """The usage block, word for word, on a page of another origin: it connects, joins, and hears."""
    text = snippet("complete chat client")
    usage = text[text.index("// Usage") :].replace("your_jwt_token", token_for(12345))
    script = f'import {{ ChatClient }} from "http://localhost:8000/static/roomcast.js";\n{usage}'
    page = f'<!doctype html><link rel="icon" href="data:,"><script type="module">{script}</script>'

    async def serve(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = await stack.enter_async_context(running(allowed_origins=(origin,)))
    rules = f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{server.port}"
    other = await stack.enter_async_context(chromium(rules))
    tab = await other.new_page()
    logged: list[str] = []
    tab.on("console", lambda message: logged.append(message.text))
    await tab.goto(origin)
    await eventually(lambda: ROOM in server.gateway.delivery.rooms)
    await say(server, "Hello everyone!")
    await server.gateway.publishing.publish(
        "task.created", ROOM, {"task_id": 789, "title": "Write it down"}, "alice", None
    )
    await eventually(lambda: len(logged) >= 3)
    assert logged == ["Connected as alice", "bob: Hello everyone!", "New task: Write it down"]


async def test_what_is_asked_before_connecting_is_done_in_order(start):
    """Joins and messages wait for the connection; the join leaves as soon as the welcome is read."""
    alice = await start()
    sent = "[client.joinRoom('channel:1'), ...[...'abcdefghij'].map((text) => client.sendMessage('channel:1', text))]"
    await alice.js(f"window.sent = {sent}, await client.connect(), await Promise.all(sent)")
    assert await alice.said(10) == list("abcdefghij")
    assert await alice.js("client.state") == "open"
    assert await alice.js("client.user") == {"user_id": 1, "username": "alice"}
    assert await alice.js("client.rooms") == [ROOM]
    assert await alice.js("states()") == ["connecting", "open"]


async def test_joining_takes_no_more_than_the_handshake_and_one_answer(start):
    """The welcome comes with the handshake's answer, and the join is the next frame: two round trips in all."""
    alice = await start()
    traced = """(async () => {
        const frames = [];
        const { ChatClient } = await import("/static/roomcast.js");
        const trace = (way, text) => frames.push(`${way} ${JSON.parse(text).type}`);
        const other = new ChatClient(argument, { trace });
        other.connect();
        await other.joinRoom("channel:1");
        other.close();
        return frames;
    })()"""
    assert await alice.js(f"await {traced}", token_for(7)) == ["in connected", "out join_room", "in joined_room"]


# Coming back.


async def test_nothing_is_lost_doubled_or_swapped_over_twenty_losses(start, server, proxy):
    """1,000 messages over 20 losses: lost before the server read them, or after it did and before it could say so."""
    alice, bob = await start(join=ROOM, queue=2000), await start(token_for(2, "bob"), join=ROOM)
    await alice.js("window.sent = []")
    for loss in range(20):
        for client in (alice, bob):
            await client.until(f"types('joined_room').length > {loss}")
        await alice.js("await Promise.all(sent), null")
        received = server.gateway.counters.messages_received
        proxy.stall(to_server=loss % 2 == 0, to_client=loss % 2 == 1)
        fifty = f"Array.from({{ length: 50 }}, (_, n) => client.sendMessage('channel:1', String({loss * 50} + n)))"
        await alice.js(f"sent.push(...{fifty})")
        if loss % 2:
            await eventually(lambda received=received: server.gateway.counters.messages_received > received)
        proxy.reset()
        proxy.flow()
    replies = await alice.js("(await Promise.all(sent)).map((reply) => reply.data.event_id)")
    expected = [str(number) for number in range(1000)]
    assert await bob.said(1000) == expected
    assert await alice.said(1000) == expected
    assert len(set(replies)) == 1000
    assert await bob.js("types('message').map((message) => message.id)") == replies
    assert await bob.js("types('resync')") == []


async def test_missed_events_come_in_order_to_the_same_handlers(start, server, proxy):
    """What was said in every room while the page was cut off comes before what is said later."""
    alice = await start(join=ROOM)
    await alice.js("await client.joinRoom('project:9')")
    await say(server, "1")
    await alice.said(1)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await say(server, "2", "3")
    await say(server, "4", "5", room="project:9")
    await proxy.start()
    await alice.said(5)
    await say(server, "6")
    said = await alice.said(6)
    assert [one for one in said if one in "1236"] == ["1", "2", "3", "6"]
    assert [one for one in said if one in "45"] == ["4", "5"]
    assert await alice.js("types('joined_room').map((frame) => frame.data.recovered)") == [False, False, True, True]
    assert await alice.js("types('resync')") == []


async def test_notifications_are_resumed_too(start, server, proxy):
    """What was sent to the user while their page was cut off comes with the next welcome, once."""
    alice = await start(join=ROOM)

    async def notify(title: str) -> None:
        await server.gateway.publishing.publish(
            "notification.new", "user:1", {"title": title, "message": ""}, None, None
        )

    await notify("1")
    await alice.until("types('notification.new').length === 1")
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await notify("2")
    await notify("3")
    await proxy.start()
    await alice.until("types('notification.new').length >= 3")
    await notify("4")
    await alice.until("types('notification.new').length >= 4")
    assert await alice.js("types('notification.new').map((frame) => frame.data.title)") == ["1", "2", "3", "4"]


async def test_a_hole_in_the_history_is_told(start, stack):
    """When the history no longer reaches back, the page gets a resync, and goes on from there."""
    server = await stack.enter_async_context(running(history_size=3))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    alice = await start(port=proxy.port, join=ROOM)
    await say(server, "before")
    await alice.said(1)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await say(server, *"abcdefgh")
    await proxy.start()
    await alice.until("types('resync').length === 1")
    await say(server, "after")
    assert (await alice.said(2))[:2] == ["before", "after"]
    assert await alice.js("types('resync')[0].room") == ROOM


async def test_a_server_that_was_killed_is_found_again(start):
    """Killed in mid-stream and started anew: a resync, an honest word on what was under way, and the rest is sent."""
    first = await asyncio.to_thread(shell.Running, WS_MESSAGE_RATE="0")
    port = int(first.url.rpartition(":")[2])
    try:
        token = make_token(shell.SECRET, user_id=1, username="alice", rooms=["*"])
        alice = await start(token, port=port, join=ROOM, inFlight=4)
        await alice.js("await client.sendMessage('channel:1', 'before')")
        first.signal(signal.SIGSTOP)
        await alice.js("window.sent = [...'abcdefgh'].map((text) => client.sendMessage('channel:1', text)), null")
        first.signal(signal.SIGKILL)
        await alice.until("client.state !== 'open'")
    finally:
        await asyncio.to_thread(first.stop)
    second = await asyncio.to_thread(shell.Running, "serve", "--port", str(port), WS_MESSAGE_RATE="0")
    try:
        await alice.until("types('resync').length === 1 || types('resync').length === 2")
        outcomes = await alice.js("outcomes(sent)")
        assert [outcome.get("code") for outcome in outcomes] == ["uncertain"] * 4 + [None] * 4
        assert "may have been carried out" in outcomes[0]["message"]
        assert await alice.said(5) == ["before", *"efgh"]
        assert ROOM in await alice.js("types('resync').map((frame) => frame.room)")
    finally:
        await asyncio.to_thread(second.stop)


async def test_what_the_server_has_forgotten_is_not_repeated(start, proxy):
    """A message that was sent longer ago than keys are remembered could be said twice; its sender decides."""
    alice = await start(join=ROOM, inFlight=1)
    proxy.stall()
    await alice.js("window.sent = [...'ab'].map((text) => client.sendMessage('channel:1', text)), null")
    await alice.js("(() => { const now = Date.now; Date.now = () => now() + 300_000; })()")
    proxy.reset()
    proxy.flow()
    assert [outcome.get("code") for outcome in await alice.js("await outcomes(sent)")] == ["uncertain", None]
    assert await alice.said(1) == ["b"]


async def test_what_is_still_being_done_is_waited_for(start, stack):
    """A command that outlives its connection is not done twice, and nothing overtakes it when it is asked again."""
    slow, done, free = Plugin("slow"), [], asyncio.Event()

    @slow.command("slow.do", Step)
    async def do(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Take time."""
        done.append(data["step"])
        await free.wait()
        return {"step": data["step"]}

    server = await stack.enter_async_context(running(plugins=[slow]))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    alice = await start(port=proxy.port, join=ROOM)
    await alice.js("window.sent = [1, 2, 3].map((step) => client.send({ type: 'slow.do', data: { step } })), null")
    await eventually(lambda: done == [1])
    proxy.reset()
    await eventually(lambda: server.gateway.counters.errors["in_progress"] > 0)
    free.set()
    assert await alice.js("(await Promise.all(sent)).map((reply) => reply.data.step)") == [1, 2, 3]
    assert done == [1, 2, 3]


async def test_silence_is_noticed(start, server, proxy):
    """A connection on which nothing comes any more, though nobody closed it, is given up and made anew."""
    alice = await start(join=ROOM, heartbeat=300)
    proxy.stall()
    await alice.until("client.state === 'waiting' || states().includes('waiting')")
    assert (
        await alice.js("types('state').find((frame) => frame.data.state === 'waiting').data.reason") == "No heartbeat"
    )
    await say(server, "meanwhile")
    proxy.reset()
    proxy.flow()
    assert await alice.said(1) == ["meanwhile"]


async def test_a_quiet_connection_stays(start, server):
    """Pings keep a connection on which nobody says anything."""
    alice = await start(join=ROOM, heartbeat=60)
    received = server.gateway.counters.messages_received
    await eventually(lambda: server.gateway.counters.messages_received > received + 5)
    assert await alice.js("states()") == ["connecting", "open"]
    assert await alice.js("types('pong')") == []


async def test_the_browser_goes_offline_and_online(start, stack, server, proxy):
    """It comes back at once when the browser is online again, with what was missed and what was said meanwhile."""
    alice = await start(join=ROOM, heartbeat=400, **NEVER)
    proxy.stall()
    await proxy.refuse()
    stack.push_async_callback(alice.page.context.set_offline, False)
    await alice.page.context.set_offline(True)
    await alice.until("client.state === 'waiting'")
    await alice.js("window.sent = ['b', 'c'].map((text) => client.sendMessage('channel:1', text)), null")
    await say(server, "a")
    proxy.reset()
    proxy.flow()
    await proxy.start()
    await alice.page.context.set_offline(False)
    assert await alice.said(3) == ["a", "b", "c"]


def group_of(flag: str) -> int:
    """The process group of the browser that was started with ``flag``; it is a group of its own."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if flag.encode() in line.read_bytes().split(b"\0"):
                group = os.getpgid(int(line.parent.name))
                assert group != os.getpgid(0)
                return group
    raise AssertionError("the browser is not among the processes")


async def test_a_laptop_that_slept_comes_back(stack):
    """The whole browser stands still, the server gives it up for dead; awake, it hears all that it missed, in order."""
    server = await stack.enter_async_context(running(ws_heartbeat_interval=0.2))
    flag = f"--asleep-in-test={server.port}"
    browser = await stack.enter_async_context(chromium(flag))
    alice = await (await Pool(await browser.new_context()).visit(server.port)).start(join=ROOM, heartbeat=2000)
    await say(server, "a")
    await alice.said(1)
    os.killpg(group := group_of(flag), signal.SIGSTOP)
    try:
        await say(server, "b")
        await eventually(lambda: not server.gateway.keepalive.connections)
        await say(server, "c")
    finally:
        os.killpg(group, signal.SIGCONT)
    assert await alice.said(3) == ["a", "b", "c"]
    assert await alice.js("types('resync')") == []


@pytest.mark.parametrize(
    "sign",
    [
        "document.dispatchEvent(new Event('resume'))",
        "window.dispatchEvent(new Event('pageshow'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ],
)
async def test_a_page_that_is_seen_again_does_not_wait(start, server, sign):
    """Whatever shows that the page is awake connects at once, however long the wait was to be."""
    alice = await start(join=ROOM, **NEVER)
    close_all(server)
    await alice.until("client.state === 'waiting'")
    await alice.js(f"window.sent = client.sendMessage('channel:1', 'a'), {sign}")
    assert await alice.said(1) == ["a"]


async def test_a_loss_that_is_noticed_on_waking_is_no_reason_to_wait(start, proxy):
    """The sign of waking may come before the news that the connection broke meanwhile."""
    alice = await start(join=ROOM, **NEVER)
    await alice.js("document.dispatchEvent(new Event('resume'))")
    proxy.reset()
    await alice.until("types('joined_room').length === 2")


async def test_waits_grow_and_are_left_to_chance(start, server):
    """Doubling up to a bound and any time below it; over the drain time after 1012; longer after 4429."""
    alice = await start(join=ROOM, reconnect={"base": 4_000_000, "max": 10_000_000, "drain": 3_000_000})
    await alice.js("Math.random = () => 0.5, null")
    waits = []
    for close in (SERVICE_RESTART, TOO_MANY_MESSAGES, SERVICE_RESTART, SERVICE_RESTART):
        close_all(server, close)
        await alice.until("client.state === 'waiting'")
        waits.append(await alice.js("heard.at(-1).data.delay"))
        await alice.js("window.dispatchEvent(new Event('online'))")
        await alice.until("client.state === 'open'")
    assert waits == [1_500_000, 60_000_000, 5_000_000, 5_000_000]


async def test_it_stays_away_if_told_to(start, server):
    """Without `reconnect` a loss is the end; what waits is rejected, and connect() begins anew, in the same rooms."""
    alice = await start(join=ROOM, reconnect=False)
    close_all(server)
    await alice.until("client.state === 'closed'")
    assert await alice.js("heard.at(-1).data.code") == 1012
    await say(server, "meanwhile")
    await alice.js("await client.connect()")
    assert await alice.said(1) == ["meanwhile"]


async def test_closing_is_for_good(start, server):
    """close() closes with 1000, rejects what waits, and nothing comes back by itself."""
    alice = await start(join=ROOM)
    await alice.js("window.sent = client.sendMessage('channel:1', 'x'), client.close(), null")
    await eventually(lambda: not server.gateway.keepalive.connections)
    assert [outcome["code"] for outcome in await alice.js("await outcomes([sent])")] == ["closed"]
    assert await alice.js("states().at(-1)") == "closed"


# Tokens.


async def test_a_token_is_asked_for_at_each_connect(start, server):
    """A function is called anew for every connection, and told that nothing was wrong with the one before."""
    alice = await start(lambda about: token_for(), join=ROOM)
    close_all(server)
    await alice.until("types('connected').length === 2")
    assert [about["refused"] for about in alice.asked] == [False, False]
    assert await alice.js("client.state") == "open"


async def test_a_token_is_replaced_before_it_ends(start, server):
    """The connection outlives its first token, and the page hears nothing of it but token_refreshed."""
    alice = await start(lambda about: token_for(expires_in=2.5), join=ROOM)
    await alice.until("types('token_refreshed').length === 2")
    assert await alice.js("types('connected').length") == 1
    assert await alice.js("states()") == ["connecting", "open"]


async def test_a_token_that_ends_is_the_end_without_a_new_one(start):
    """At 4401 a fixed token stays away, with the reason."""
    alice = await start(token_for(expires_in=2), join=ROOM)
    await alice.until("client.state === 'closed'")
    assert await alice.js("[heard.at(-1).data.code, heard.at(-1).data.reason]") == [4401, "Authentication Failed"]


async def test_a_refused_token_is_replaced_or_the_end(start, server):
    """After 4401 a function is asked for a new token; if it brings the same one, that is the end."""
    tokens = iter([token_for(expires_in=-1), token_for(), token_for()])
    alice = await start(lambda about: next(tokens))
    await alice.js("await client.connect()")
    assert [about["refused"] for about in alice.asked] == [False, True]
    old = token_for(expires_in=-1)
    bob = await start(lambda about: old)
    assert (await bob.js("await outcomes([client.connect()])"))[0]["code"] == "closed"
    assert await bob.js("heard.at(-1).data.code") == 4401
    assert len(bob.asked) == 2


async def test_after_a_revocation_the_next_seconds_token_is_asked_for(start, server):
    """A token says in whole seconds when it was issued: one made at once would be as old as those revoked."""
    alice = await start(lambda about: token_for(iat=int(time.time())), join=ROOM)
    for times in (1, 2):
        await server.gateway.revocations.revoke_all(1, int(time.time()) + 1)
        await alice.until(f"types('connected').length === {times + 1}")
        assert len(alice.asked) == times + 1, "no token was asked for in vain"
    assert await alice.js("states()") == ["connecting", "open", *["waiting", "connecting", "open"] * 2]


async def test_a_provider_that_fails_is_asked_again(start):
    """A token function that throws is like a network that is down; one that brings nothing is a logout."""
    tries = iter([True, True, False])

    def flaky(about: dict[str, Any]) -> str:
        if next(tries):
            raise RuntimeError("the application is down")
        return token_for()

    alice = await start(flaky)
    await alice.js("await client.connect()")
    assert await alice.js("states()") == ["connecting", "waiting", "connecting", "waiting", "connecting", "open"]
    assert "the application is down" in await alice.js("types('state')[1].data.reason")
    gone = await start(lambda about: None)
    assert (await gone.js("await outcomes([client.connect()])"))[0]["code"] == "closed"


async def test_a_client_is_one_users(start, server):
    """A token of another user is not used: what waits was said by the first."""
    users = iter([1, 2])
    alice = await start(lambda about: token_for(next(users)), join=ROOM)
    close_all(server)
    await alice.until("client.state === 'closed'")
    assert "another user" in await alice.js("heard.at(-1).data.reason")


# Requests.


async def test_a_refusal_has_its_code_and_sentence(start):
    """A rejected promise carries the server's words, and an error event says the same; unawaited it does no harm."""
    alice = await start(join=ROOM)
    outcome, other = await alice.js(
        "await outcomes([client.send({type: 'nonsense'}), client.sendMessage('channel:1', '')])"
    )
    assert (outcome["code"], other["code"]) == ("unknown_type", "invalid_data")
    assert "nonsense" in outcome["message"]
    assert list(other["fields"]) == ["content"]
    await alice.js("client.sendMessage('channel:2', 'not there'), null")
    await alice.until("types('error').length === 3")
    assert await alice.js("types('error')[2].data.code") == "not_joined"


async def test_a_reply_has_the_id_that_was_given(start):
    """send() takes the envelope of docs/protocol.md and gives back its id, which cannot be mixed up with others."""
    alice = await start(join=ROOM)
    ask = "client.send({ type: 'send_message', room: 'channel:1', id: argument, data: { content: 'x' } })"
    for id in (1, "1", "a-7", "r1"):
        reply = await alice.js(f"await {ask}", id)
        assert (reply["type"], reply["id"]) == ("sent", id)
    reply = await alice.js("await client.send({ type: 'ping' })")
    assert (reply["type"], "id" in reply) == ("pong", False)
    assert await alice.said(4) == ["x"] * 4


async def test_a_forbidden_room_does_not_cost_the_others(start, server):
    """After 4403 a new token brings the client back, into the rooms that it was in, and not to the forbidden one."""
    tokens = iter([token_for(rooms=["channel:*"]), token_for(rooms=["channel:*"], jti="2")])
    alice = await start(lambda about: next(tokens), join=ROOM)
    outcome = (await alice.js("await outcomes([client.joinRoom('project:1')])"))[0]
    assert (outcome["code"], outcome["message"]) == ("forbidden", "You have no access to project:1.")
    await alice.until("types('connected').length === 2")
    await say(server, "still here")
    assert await alice.said(1) == ["still here"]
    assert await alice.js("client.rooms") == [ROOM]
    fixed = await start(token_for(rooms=[]))
    await fixed.js("client.connect(), await outcomes([client.joinRoom('project:1')])")
    await fixed.until("client.state === 'closed'")
    assert await fixed.js("heard.at(-1).data.code") == 4403


async def test_the_queue_is_bounded(start):
    """What does not fit is rejected at once, and what does is sent, in order."""
    alice = await start(queue=3)
    sent = "[client.joinRoom('channel:1'), ...[...'abcd'].map((text) => client.sendMessage('channel:1', text))]"
    await alice.js(f"window.sent = {sent}, null")
    outcomes = await alice.js("client.connect(), await outcomes(sent)")
    assert [one.get("code") for one in outcomes] == [None, None, None, "queue_full", "queue_full"]
    assert await alice.said(2) == ["a", "b"]


async def test_what_cannot_be_sent_is_refused_here(start, server):
    """A message that is too long or no JSON never leaves, and does not cost the connection."""
    alice = await start(join=ROOM)
    received = server.gateway.counters.messages_received
    long = "client.sendMessage('channel:1', 'é'.repeat(40000))"
    circle = "client.send({ type: 'send_message', room: 'channel:1', data: window.data })"
    outcomes = await alice.js(f"window.data = {{}}, data.data = data, await outcomes([{long}, {circle}])")
    assert [outcome["code"] for outcome in outcomes] == ["too_big", "invalid_data"]
    assert server.gateway.counters.messages_received == received
    assert await alice.js("client.state") == "open"


async def test_a_rate_limit_is_kept_and_survived(start, stack):
    """Below the server's limit nothing is refused; above it, what was refused is sent again until it is through."""
    server = await stack.enter_async_context(running(ws_message_rate=10))
    for user, rate, count in ((1, 9, 50), (2, 0, 70)):
        client = await start(token_for(user), port=server.port, join=f"channel:{user}", rate=rate, inFlight=1)
        sent = f"Array.from({{ length: {count} }}, (_, n) => client.sendMessage('channel:{user}', String(n)))"
        assert len(await client.js(f"await Promise.all({sent})")) == count
        assert await client.said(count) == [str(number) for number in range(count)]
        assert (server.gateway.counters.errors["rate_limited"] > 0) == (rate == 0)


async def test_text_is_sent_as_it_stands(start, server):
    """A tool can say anything, valid or not; the answers are heard, and what they change is resumed after a loss."""
    alice = await start()
    assert await alice.js("client.sendText('{}')") is False
    await alice.js("await client.connect(), client.sendText('no JSON')")
    await alice.until("types('error').length === 1")
    await alice.js("""client.sendText('{"type":"join_room","id":"mine-1","room":"channel:1","data":{"since":null}}')""")
    await alice.until("types('joined_room').length === 1")
    await say(server, "a")
    await alice.js(
        """client.sendText('{"type":"send_message","id":"mine-2","room":"channel:1","data":{"content":"b"}}')"""
    )
    assert await alice.said(2) == ["a", "b"]
    close_all(server)
    await say(server, "c")
    assert await alice.said(3) == ["a", "b", "c"]
    assert await alice.js("[types('sent').length, client.rooms]") == [1, [ROOM]]


async def test_joining_twice_asks_once(start, server):
    """A page that joins its rooms at every welcome, as the example client does, loses nothing by it."""
    alice = await start()
    join = "client.joinRoom('channel:1')"
    await alice.js(f"client.on('connected', () => {join}), client.connect(), await {join}")
    close_all(server)
    await say(server, "meanwhile")
    assert await alice.said(1) == ["meanwhile"]
    assert await alice.js("types('connected').length") == 2
    await alice.js("await client.joinRoom('channel:1')")


async def test_leaving_is_in_order_too(start, server):
    """What was said before leaving is said in the room; afterwards nothing comes of it, nor after a loss."""
    alice = await start(join=ROOM)
    asked = "[client.sendMessage('channel:1', 'bye'), client.leaveRoom('channel:1')]"
    replies = await alice.js(f"(await Promise.all({asked})).map((frame) => frame.type)")
    assert replies == ["sent", "left_room"]
    close_all(server)
    await alice.until("types('connected').length === 2")
    await say(server, "unheard")
    await alice.js("await client.send({ type: 'ping' })")
    assert await alice.js("[said, client.rooms]") == [["bye"], []]


async def test_history_is_read_from_an_id(start, server):
    """joinRoom with `since` brings what came after it; a room that the user was taken out of is not entered again."""
    alice, bob = await start(join=ROOM), await start(token_for(2, "bob"))
    await say(server, "a", "b", "c")
    await alice.said(3)
    first = await alice.js("types('message')[0].id")
    await bob.js("client.connect(), await client.joinRoom('channel:1', { since: argument })", first)
    assert await bob.said(2) == ["b", "c"]
    await server.gateway.signals.kick(ROOM, 2)
    await bob.until("types('left_room').length === 1")
    assert await bob.js("client.rooms") == []


async def test_a_handlers_fault_is_its_own(start, server):
    """A handler that throws keeps no other from hearing; one that was taken off hears no more."""
    alice = await start(join=ROOM)
    await alice.js(
        "window.late = [], window.off = client.on('message', () => { off(); throw new Error('mine'); }), null"
    )
    await alice.js("client.on('message', (message) => late.push(message.data.content)), null")
    await say(server, "a", "b")
    await alice.until("late.length === 2")
    assert [text for text in alice.complaints if "mine" in text] == ["mine"]
    alice.complaints.clear()


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
async def test_a_wrong_option_is_named(start, options, words):
    """What cannot be meant is said at once."""
    alice = await start()
    made = (
        f"(() => {{ try {{ new client.constructor('x', {options}); }} catch (error) {{ return error.message; }} }})()"
    )
    assert words in await alice.js(made)
