"""roomcast.js in Chromium: connect, reconnect and resume."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import shell
from browser import chromium
from client_pages import (
    ROOM,
    Pool,
    browser,
    close_all,
    page_server,
    pool,
    proxy,
    publish,
    server,
    stack,
    start,
)
from docs_pages import snippet
from handshakes import request
from marshmallow import Schema, fields
from serving import running, token_for
from tcp_proxy import Proxy
from waiting import wait_until
from wire import Peer

from roomcast import Context, Plugin
from roomcast.auth.identity import make_token
from roomcast.errors import SERVICE_RESTART, TOO_MANY_MESSAGES

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


#: The delays that a page has without options.
DEFAULTS = {"reconnect": {}}
#: Back-off that never ends in a test: a reconnect has another cause.
NEVER = {"reconnect": {"base": 1e9, "max": 1e9}}


class Step(Schema):
    step = fields.Integer(required=True)


def group_of(flag: str) -> int:
    """Return the process group of the browser started with ``flag``, which is not the group of this process."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if flag.encode() in line.read_bytes().split(b"\0"):
                group = os.getpgid(int(line.parent.name))
                assert group != os.getpgid(0)
                return group
    raise AssertionError("the browser is not among the processes")


async def test_usage_example_works_with_only_the_import_changed(browser, stack):
    """The usage code in docs/protocol.md, on a page of another origin, connects, joins and receives events."""
    text = snippet("complete chat client")
    usage = text[text.index("// Usage") :].replace("your_jwt_token", token_for(12345))
    script = f'import {{ ChatClient }} from "http://localhost:8000/static/roomcast.js";\n{usage}'
    page = f'<!doctype html><link rel="icon" href="data:,"><script type="module">{script}</script>'
    origin = await stack.enter_async_context(page_server(page))
    server = await stack.enter_async_context(running(allowed_origins=(origin,)))
    rules = f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{server.port}"
    other = await stack.enter_async_context(chromium(rules))
    tab = await other.new_page()
    logged: list[str] = []
    tab.on("console", lambda message: logged.append(message.text))
    await tab.goto(origin)
    await wait_until(lambda: ROOM in server.gateway.delivery.rooms)
    await publish(server, "Hello everyone!")
    await server.gateway.publishing.publish(
        "task.created", ROOM, {"task_id": 789, "title": "Write it down"}, "alice", None
    )
    await wait_until(lambda: len(logged) >= 3)
    assert logged == ["Connected as alice", "bob: Hello everyone!", "New task: Write it down"]


async def test_requests_before_connecting_are_sent_in_order(start):
    """Join requests and messages wait for the connection and are then sent in the order of the calls."""
    alice = await start()
    sent = "[client.joinRoom('channel:1'), ...[...'abcdefghij'].map((text) => client.sendMessage('channel:1', text))]"
    await alice.js(f"window.sent = {sent}, await client.connect(), await Promise.all(sent)")
    assert await alice.contents(10) == list("abcdefghij")
    assert await alice.js("client.state") == "open"
    assert await alice.js("client.user") == {"user_id": 1, "username": "alice"}
    assert await alice.js("client.rooms") == [ROOM]
    assert await alice.js("states()") == ["connecting", "open"]


async def test_joining_takes_two_round_trips(start):
    """The welcome arrives with the handshake, and the join request is the next frame."""
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


async def test_messages_arrive_once_and_in_order_over_twenty_losses(start, server, proxy):
    """1,000 messages arrive once, though connections break before the server reads a message or before it answers."""
    alice, bob = await start(join=ROOM, queue=2000), await start(token_for(2, "bob"), join=ROOM)
    await alice.js("window.sent = []")
    for loss in range(20):
        for client in (alice, bob):
            await client.until(f"framesOf('joined_room').length > {loss}")
        await alice.js("await Promise.all(sent), null")
        received = server.gateway.counters.messages_received
        proxy.stall(to_server=loss % 2 == 0, to_client=loss % 2 == 1)
        fifty = f"Array.from({{ length: 50 }}, (_, n) => client.sendMessage('channel:1', String({loss * 50} + n)))"
        await alice.js(f"sent.push(...{fifty})")
        if loss % 2:
            await wait_until(lambda received=received: server.gateway.counters.messages_received > received)
        proxy.reset()
        proxy.flow()
    replies = await alice.js("(await Promise.all(sent)).map((reply) => reply.data.event_id)")
    expected = [str(number) for number in range(1000)]
    assert await bob.contents(1000) == expected
    assert await alice.contents(1000) == expected
    assert len(set(replies)) == 1000
    assert await bob.js("framesOf('message').map((message) => message.id)") == replies
    assert await bob.js("framesOf('resync')") == []


async def test_missed_events_arrive_before_later_ones(start, server, proxy):
    """After a reconnect, the missed events of each room arrive in order and before later events."""
    alice = await start(join=ROOM)
    await alice.js("await client.joinRoom('project:9')")
    await publish(server, "1")
    await alice.contents(1)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await publish(server, "2", "3")
    await publish(server, "4", "5", room="project:9")
    await proxy.start()
    await alice.contents(5)
    await publish(server, "6")
    contents = await alice.contents(6)
    assert [one for one in contents if one in "1236"] == ["1", "2", "3", "6"]
    assert [one for one in contents if one in "45"] == ["4", "5"]
    assert await alice.js("framesOf('joined_room').map((frame) => frame.data.recovered)") == [False, False, True, True]
    assert await alice.js("framesOf('resync')") == []


async def test_notifications_are_resumed(start, server, proxy):
    """Notifications sent while the page is offline arrive once, after the next welcome."""
    alice = await start(join=ROOM)

    async def notify(title: str) -> None:
        await server.gateway.publishing.publish(
            "notification.new", "user:1", {"title": title, "message": ""}, None, None
        )

    await notify("1")
    await alice.until("framesOf('notification.new').length === 1")
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await notify("2")
    await notify("3")
    await proxy.start()
    await alice.until("framesOf('notification.new').length >= 3")
    await notify("4")
    await alice.until("framesOf('notification.new').length >= 4")
    assert await alice.js("framesOf('notification.new').map((frame) => frame.data.title)") == ["1", "2", "3", "4"]


async def test_events_missing_from_the_history_cause_a_resync(start, stack):
    """If the history does not reach back far enough, the page gets a resync event and then the new events."""
    server = await stack.enter_async_context(running(history_size=3))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    alice = await start(port=proxy.port, join=ROOM)
    await publish(server, "before")
    await alice.contents(1)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    await publish(server, *"abcdefgh")
    await proxy.start()
    await alice.until("framesOf('resync').length === 1")
    await publish(server, "after")
    assert (await alice.contents(2))[:2] == ["before", "after"]
    assert await alice.js("framesOf('resync')[0].room") == ROOM


async def test_client_reconnects_to_a_restarted_server(start):
    """After a kill and a restart, the room resyncs, requests in flight are uncertain, and the others are sent."""
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
        await alice.until("framesOf('resync').length === 1 || framesOf('resync').length === 2")
        outcomes = await alice.js("outcomes(sent)")
        assert [outcome.get("code") for outcome in outcomes] == ["uncertain"] * 4 + [None] * 4
        assert "may have been carried out" in outcomes[0]["message"]
        assert await alice.contents(5) == ["before", *"efgh"]
        assert ROOM in await alice.js("framesOf('resync').map((frame) => frame.room)")
    finally:
        await asyncio.to_thread(second.stop)


async def test_running_command_is_not_executed_twice(start, stack):
    """A repeated command waits until its first execution ends, and no later request overtakes it."""
    slow, done, free = Plugin("slow"), [], asyncio.Event()

    @slow.command("slow.do", Step, access="anyone")
    async def do(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Take time."""
        done.append(data["step"])
        await free.wait()
        return {"step": data["step"]}

    server = await stack.enter_async_context(running(plugins=[slow]))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    alice = await start(port=proxy.port, join=ROOM)
    await alice.js("window.sent = [1, 2, 3].map((step) => client.send({ type: 'slow.do', data: { step } })), null")
    await wait_until(lambda: done == [1])
    proxy.reset()
    await wait_until(lambda: server.gateway.counters.errors["in_progress"] > 0)
    free.set()
    assert await alice.js("(await Promise.all(sent)).map((reply) => reply.data.step)") == [1, 2, 3]
    assert done == [1, 2, 3]


async def test_silent_connection_is_replaced(start, server, proxy):
    """A connection on which no frame arrives, though it is not closed, is given up and reopened."""
    alice = await start(join=ROOM, heartbeat=300)
    proxy.stall()
    await alice.until("client.state === 'waiting' || states().includes('waiting')")
    assert (
        await alice.js("framesOf('state').find((frame) => frame.data.state === 'waiting').data.reason")
        == "No heartbeat"
    )
    await publish(server, "meanwhile")
    proxy.reset()
    proxy.flow()
    assert await alice.contents(1) == ["meanwhile"]


async def test_idle_connection_is_kept_open_by_pings(start, server):
    """Pings keep an idle connection open, and the page receives no pong events."""
    alice = await start(join=ROOM, heartbeat=250)
    received = server.gateway.counters.messages_received
    await wait_until(lambda: server.gateway.counters.messages_received > received + 5)
    assert await alice.js("states()") == ["connecting", "open"]
    assert await alice.js("framesOf('pong')") == []


async def test_page_reconnects_when_the_browser_is_online_again(start, stack, server, proxy):
    """The page reconnects at once, receives the missed events and sends the waiting messages."""
    alice = await start(join=ROOM, heartbeat=400, **NEVER)
    proxy.stall()
    await proxy.refuse()
    stack.push_async_callback(alice.page.context.set_offline, False)
    await alice.page.context.set_offline(True)
    await alice.until("client.state === 'waiting'")
    await alice.js("window.sent = ['b', 'c'].map((text) => client.sendMessage('channel:1', text)), null")
    await publish(server, "a")
    proxy.reset()
    proxy.flow()
    await proxy.start()
    await alice.page.context.set_offline(False)
    assert await alice.contents(3) == ["a", "b", "c"]


async def test_browser_resumes_after_a_suspend(stack):
    """A browser that is suspended until the server drops its connection then receives all missed events in order."""
    server = await stack.enter_async_context(running(ws_heartbeat_interval=0.2))
    flag = f"--asleep-in-test={server.port}"
    browser = await stack.enter_async_context(chromium(flag))
    alice = await (await Pool(await browser.new_context()).visit(server.port)).start(join=ROOM, heartbeat=2000)
    await publish(server, "a")
    await alice.contents(1)
    os.killpg(group := group_of(flag), signal.SIGSTOP)
    try:
        await publish(server, "b")
        await wait_until(lambda: not server.gateway.keepalive.connections)
        await publish(server, "c")
    finally:
        os.killpg(group, signal.SIGCONT)
    assert await alice.contents(3) == ["a", "b", "c"]
    assert await alice.js("framesOf('resync')") == []


@pytest.mark.parametrize(
    "sign",
    [
        "document.dispatchEvent(new Event('resume'))",
        "window.dispatchEvent(new Event('pageshow'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ],
)
async def test_visible_page_reconnects_without_delay(start, server, sign):
    """An event which shows that the page is awake causes a reconnect at once, whatever the back-off."""
    alice = await start(join=ROOM, **NEVER)
    close_all(server)
    await alice.until("client.state === 'waiting'")
    await alice.js(f"window.sent = client.sendMessage('channel:1', 'a'), {sign}")
    assert await alice.contents(1) == ["a"]


async def test_loss_just_after_waking_causes_no_delay(start, proxy):
    """A connection that broke during sleep is reopened at once if the page notices the loss after it woke up."""
    alice = await start(join=ROOM, **NEVER)
    await alice.js("document.dispatchEvent(new Event('resume'))")
    proxy.reset()
    await alice.until("framesOf('joined_room').length === 2")


async def test_backoff_grows_with_jitter(start, server):
    """The delay is random below a bound that grows by half, and at least half of it from the second on.

    After 1012 it is the same, because the server spreads these closes. After 4429 it is longer.
    """
    alice = await start(join=ROOM, reconnect={"base": 4_000_000, "max": 10_000_000})
    await alice.js("Math.random = () => 0.5, null")
    waits = []
    for close in (SERVICE_RESTART, TOO_MANY_MESSAGES, SERVICE_RESTART, SERVICE_RESTART):
        close_all(server, close)
        await alice.until("client.state === 'waiting'")
        waits.append(await alice.js("frames.at(-1).data.delay"))
        await alice.js("window.dispatchEvent(new Event('online'))")
        await alice.until("client.state === 'open'")
    assert waits == [2_000_000, 42_500_000, 6_750_000, 7_500_000]


@pytest.mark.slow
async def test_dead_connections_of_the_user_make_room(start, server):
    """A user whose other connections do not answer gets in on the first attempt, within 10 s."""
    dead = [await Peer.connect(("127.0.0.1", server.port)) for _ in range(5)]
    for peer in dead:
        await peer.send(request())
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
    alice = await start(**DEFAULTS)
    begun = time.monotonic()
    await alice.js("await client.connect()")
    assert time.monotonic() - begun < 10
    assert await alice.js("states()") == ["connecting", "open"]
    for peer in dead:
        await peer.wait_until_closed()
        peer.close()


async def test_reconnect_false_closes_after_a_loss(start, server):
    """With reconnect=false a loss closes the client, and connect() then resumes the same rooms."""
    alice = await start(join=ROOM, reconnect=False)
    close_all(server)
    await alice.until("client.state === 'closed'")
    assert await alice.js("frames.at(-1).data.code") == 1012
    await publish(server, "meanwhile")
    await alice.js("await client.connect()")
    assert await alice.contents(1) == ["meanwhile"]


async def test_close_rejects_pending_requests(start, server):
    """close() closes with 1000 and rejects pending requests, and the client does not reconnect."""
    alice = await start(join=ROOM)
    await alice.js("window.sent = client.sendMessage('channel:1', 'x'), client.close(), null")
    await wait_until(lambda: not server.gateway.keepalive.connections)
    assert [outcome["code"] for outcome in await alice.js("await outcomes([sent])")] == ["closed"]
    assert await alice.js("states().at(-1)") == "closed"
