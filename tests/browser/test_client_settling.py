"""roomcast.js in Chromium: every request settles, whatever happens to its answer."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from docs_pages import snippet
from serving import running, token_for
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.errors import DISCONNECTED, Refused
from roomcast.protocol import request_id

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: Metadata that the server cannot parse, because it is nested too deeply.
DEEP = "{ a: JSON.parse('['.repeat(1000) + ']'.repeat(1000)) }"


@pytest.fixture
def without_ids(monkeypatch):
    """Send errors of messages that are not valid JSON without their id, as version 0.1 did."""
    monkeypatch.setattr(request_id, "find", lambda payload: None)


# Messages that the server cannot read.


async def test_half_a_surrogate_pair_is_replaced(start):
    """A text that was cut within an emoji is delivered. Whole emoji and texts that look like escapes are unchanged."""
    alice = await start(join=ROOM)
    texts = r"""["hello 😀".slice(0, 7), "😀".slice(1) + "!", "😀😀", "\\ud83d", "\\\ud83d", "\n\ud83d\ud83d😀\""]"""
    expected = ["hello \ufffd", "\ufffd!", "😀😀", r"\ud83d", "\\\ufffd", '\n\ufffd\ufffd😀"']
    await alice.js(
        f"await Promise.all({texts}.map((text) => client.sendMessage('channel:1', text, {{ [text]: [text] }})))"
    )
    assert await alice.contents(len(expected)) == expected
    metadata = await alice.js("framesOf('message').map((message) => message.data.metadata)")
    assert metadata == [{text: [text]} for text in expected]
    outcome = (await alice.js("await outcomes([client.joinRoom('channel:\\ud83d')])"))[0]
    assert outcome["code"] == "bad_json" and "half a surrogate pair" in outcome["message"]


async def test_message_that_cannot_be_parsed_is_rejected(start):
    """Its error has its id. 20 such messages, more than may be in flight, do not block the client."""
    alice = await start(join=ROOM)
    sent = f"Array.from({{ length: 20 }}, (_, n) => client.sendMessage('channel:1', String(n), {DEEP}))"
    outcomes = await alice.js(f"await outcomes([...{sent}, client.sendMessage('channel:1', 'a')])")
    assert [one.get("code") for one in outcomes] == ["bad_json"] * 20 + [None]
    assert await alice.contents(1) == ["a"]
    assert await alice.js("framesOf('error').length") == 20


async def test_errors_without_an_id_do_not_block_the_client(start, without_ids):
    """Each belongs to a request that is still unanswered when all earlier ones are answered. The others succeed."""
    alice = await start(join=ROOM)
    sent = f"Array.from({{ length: 20 }}, (_, n) => client.sendMessage('channel:1', String(n), n % 2 ? {DEEP} : {{}}))"
    outcomes = await alice.js(f"await outcomes([...{sent}, client.sendMessage('channel:1', 'a')])")
    assert [one.get("code") for one in outcomes] == [None, "bad_json"] * 10 + [None]
    assert await alice.contents(11) == [*(str(number) for number in range(0, 20, 2)), "a"]


async def test_request_with_a_lost_error_does_not_block_the_client(start, server, proxy, without_ids):
    """It is repeated after a reconnect, alone, and is then rejected."""
    alice = await start(join=ROOM)
    proxy.stall(to_server=False)
    await alice.js(f"window.sent = [client.sendMessage('channel:1', 'deep', {DEEP})], null")
    await wait_until(lambda: server.gateway.counters.errors["bad_json"] == 1)
    await alice.js("sent.push(client.sendMessage('channel:1', 'a'), client.sendMessage('channel:1', 'b')), null")
    proxy.reset()
    proxy.flow()
    assert [one.get("code") for one in await alice.js("await outcomes(sent)")] == ["bad_json", None, None]
    assert await alice.contents(2) == ["a", "b"]


# Temporary errors.


@pytest.fixture
def refusing(monkeypatch):
    """Return a function that makes a server answer every send_message with an error, and count these answers."""

    def refuse(server, code):
        answers = []

        async def handle(ctx, data):
            answers.append(data)
            raise Refused(code, "Try again later.")

        commands = server.gateway.commands._plugin_commands
        monkeypatch.setitem(commands, "send_message", commands["send_message"]._replace(handler=handle))
        return answers

    return refuse


async def test_request_is_not_repeated_after_its_key_has_expired(start, server, refusing):
    """A temporary error is repeated with the same key. When the server no longer has the key, the error is final."""
    alice = await start(join=ROOM)
    answers = refusing(server, "unavailable")
    await alice.js("window.sent = client.sendMessage('channel:1', 'a'), null")
    await wait_until(lambda: len(answers) >= 2)
    await alice.js("(() => { const now = Date.now; Date.now = () => now() + 300_000; })()")
    assert (await alice.js("await outcomes([sent])"))[0]["code"] == "unavailable"


async def test_repeat_that_is_refused_by_the_rate_limit_is_still_a_repeat(start, stack, server, refusing):
    """The first attempt may have been executed, on a connection that was lost. An empty server does not execute it."""
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    alice = await start(port=proxy.port, join=ROOM)
    proxy.stall()
    await alice.js("window.sent = client.sendMessage('channel:1', 'a'), null")
    answers = refusing(server, "rate_limited")
    proxy.reset()
    proxy.flow()
    await wait_until(lambda: answers)
    proxy.target = (await stack.enter_async_context(running(ws_message_rate=0))).port
    proxy.reset()
    assert (await alice.js("await outcomes([sent])"))[0]["code"] == "uncertain"
    assert await alice.js("contents") == []


# Time limits and signals.


async def test_request_that_timed_out_is_not_sent(start, server, proxy):
    """The promise rejects while there is no connection, and the message is not sent when there is one."""
    alice = await start(join=ROOM)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    sent = "client.sendMessage('channel:1', 'late', undefined, { timeout: 20 })"
    outcome, other = await alice.js(f"await outcomes([{sent}, client.leaveRoom('channel:1', {{ timeout: 30 }})])")
    assert (outcome["code"], outcome["room"]) == ("timeout", ROOM)
    assert "within 20 ms" in outcome["message"]
    assert other["code"] == "timeout"
    assert await alice.js("framesOf('error').map((frame) => frame.data.code)") == ["timeout", "timeout"]
    await alice.js("window.sent = client.sendMessage('channel:1', 'a', undefined, { timeout: Infinity }), null")
    await proxy.start()
    await alice.js("await sent")
    assert await alice.contents(1) == ["a"]
    assert await alice.js("client.rooms") == [ROOM]


async def test_request_before_connect_can_time_out(start):
    """A request of a client that is not connected yet is rejected, and not sent later."""
    alice = await start()
    await alice.js("window.joined = client.joinRoom('channel:1'), null")
    outcome = (await alice.js("await outcomes([client.joinRoom('channel:2', { timeout: 1 })])"))[0]
    assert outcome["code"] == "timeout"
    await alice.js("client.connect(), await joined")
    assert await alice.js("client.rooms") == [ROOM]


async def test_aborted_requests_free_their_places(start, server, proxy):
    """Requests in flight reject with the reason of the signal, later ones are sent, and late answers are harmless."""
    alice = await start(join=ROOM, inFlight=2)
    proxy.stall(to_server=False)
    sent = "['a', 'b', 'c'].map((text) => client.sendMessage('channel:1', text, undefined, { signal: aborter.signal }))"
    await alice.js(f"window.aborter = new AbortController(), window.sent = {sent}, null")
    await alice.js("window.joined = client.joinRoom('project:1'), null")
    await wait_until(lambda: server.gateway.counters.messages_received == 3)
    await alice.js("aborter.abort(new Error('enough')), null")
    outcomes = await alice.js("(await Promise.allSettled(sent)).map(({ reason }) => reason.message)")
    assert outcomes == ["enough"] * 3
    proxy.flow()
    await alice.js("await joined")
    assert await alice.contents(2) == ["a", "b"]
    assert await alice.js("[client.rooms, framesOf('error')]") == [[ROOM, "project:1"], []]


async def test_join_that_was_aborted_may_still_succeed(start, server, proxy):
    """The room is then joined, and the page receives joined_room."""
    alice = await start(join=ROOM)
    proxy.stall(to_server=False)
    outcome = "client.joinRoom('project:1', { signal: AbortSignal.abort() }).catch(({ name }) => name)"
    assert await alice.js(f"await {outcome}") == "AbortError"
    await alice.js("window.aborter = new AbortController(), null")
    join = "client.joinRoom('project:2', { signal: aborter.signal })"
    await alice.js(f"window.joined = {join}.catch(({{ name }}) => name), null")
    await wait_until(lambda: "project:2" in server.gateway.delivery.rooms)
    await alice.js("aborter.abort(), null")
    assert await alice.js("await joined") == "AbortError"
    assert await alice.js("client.rooms") == [ROOM]
    proxy.flow()
    await alice.until("client.rooms.length === 2")
    assert await alice.js("framesOf('joined_room').map((frame) => frame.room)") == [ROOM, "project:2"]
    await publish(server, "x", room="project:2")
    assert await alice.contents(1) == ["x"]
    assert "project:1" not in server.gateway.delivery.rooms


async def test_settled_requests_leave_no_listener(start):
    """A signal that is used for many requests does not keep them, and aborting it later has no effect."""
    alice = await start(join=ROOM)
    count = """(() => {
        let count = 0;
        const signal = new AbortController().signal, { addEventListener, removeEventListener } = signal;
        signal.addEventListener = (...args) => (count++, addEventListener.apply(signal, args));
        signal.removeEventListener = (...args) => (count--, removeEventListener.apply(signal, args));
        return [signal, () => count];
    })()"""
    await alice.js(f"[window.signal, window.count] = {count}, null")
    await alice.js(
        "await outcomes(['a', '', 'b'].map((text) => client.sendMessage('channel:1', text, {}, { signal })))"
    )
    assert await alice.js("count()") == 0


async def test_shared_requests_can_be_aborted(start, proxy):
    """With a shared connection, an aborted request is not sent either, and a late answer is harmless."""
    alice = await start(join=ROOM, shared=True)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    sent = "client.sendMessage('channel:1', 'late', undefined, { timeout: 20 })"
    assert (await alice.js(f"await outcomes([{sent}])"))[0]["code"] == "timeout"
    await alice.js("window.sent = client.sendMessage('channel:1', 'a'), null")
    await proxy.start()
    await alice.js("await sent")
    assert await alice.contents(1) == ["a"]


async def test_example_of_a_time_limit(start, proxy):
    """The example in docs/javascript-client.md shows the error, and the button ends the wait."""
    alice = await start(join=ROOM)
    proxy.stall()
    example = snippet("a request with a time limit")
    names = "const cancelButton = window.button = {}, showError = (text) => { window.shown = text; };"
    await alice.page.evaluate(f"() => {{ (async () => {{ {names} {example} }})(); }}")
    await alice.js("button.onclick(), null")
    await alice.until("window.shown !== undefined")
    assert "aborted" in await alice.js("shown")


# Closed clients.


async def test_closed_client_rejects_requests_at_once(start, server):
    """After a final close, pending and later requests are rejected, until connect() is called."""
    alice = await start(join=ROOM)
    for connection in list(server.gateway.keepalive.connections):
        connection.close(DISCONNECTED)
    await alice.until("client.state === 'closed'")
    asked = "[client.sendMessage('channel:1', 'a'), client.joinRoom('channel:2'), client.leaveRoom('channel:1')]"
    outcomes = await alice.js(f"await outcomes({asked})")
    assert [one["code"] for one in outcomes] == ["closed"] * 3
    assert "(4410 Disconnected); call connect()" in outcomes[0]["message"]
    await alice.js("client.connect(), await client.sendMessage('channel:1', 'b')")
    assert await alice.contents(1) == ["b"]


@pytest.mark.parametrize("shared", [False, True])
async def test_client_that_was_closed_rejects_requests_at_once(start, shared):
    """After close(), requests are rejected until connect() is called. Before the first connect() they wait."""
    alice = await start(shared=shared)
    await alice.js("window.early = client.joinRoom('channel:1'), client.connect(), await early")
    await alice.js("client.close()")
    outcome = (await alice.js("await outcomes([client.sendMessage('channel:1', 'a')])"))[0]
    assert outcome["code"] == "closed"
    await alice.js("client.connect(), await client.sendMessage('channel:1', 'b')")
    assert await alice.contents(1) == ["b"]


async def test_refused_client_rejects_requests_at_once(start):
    """A token that is refused closes the client. Requests made before and after that are rejected."""
    alice = await start(token_for(expires_in=-1))
    await alice.js("window.early = client.joinRoom('channel:1'), null")
    outcomes = await alice.js("await outcomes([client.connect(), early])")
    outcomes += await alice.js("await outcomes([client.joinRoom('channel:1')])")
    assert [one["code"] for one in outcomes] == ["closed"] * 3
    assert all("4401" in one["message"] for one in outcomes)
