"""roomcast.js in Chromium: rooms that cannot be joined for now hold up neither the other rooms nor the requests."""

from __future__ import annotations

import asyncio

import pytest
from client_pages import ROOM, browser, close_all, pool, proxy, publish, server, stack, start
from serving import running
from tcp_proxy import Proxy
from waiting import wait_until

from roomcast.errors import Refused

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def refusing(monkeypatch):
    """Return a function that makes a server refuse joins for now, and that returns the list of these joins.

    It refuses those in ``rooms``, until that is cleared, and not before ``gate`` is set, if that is given.
    """

    def refuse(server, rooms, gate=None):
        rules = server.gateway.rooms._rules
        check, refused = rules.check, []

        async def check_or_refuse(client, room):
            if room in rooms:
                refused.append(room)
                if gate is not None:
                    await gate.wait()
                raise Refused("unavailable", "Try again later.")
            await check(client, room)

        monkeypatch.setattr(type(rules), "check", lambda self, client, room: check_or_refuse(client, room))
        return refused

    return refuse


async def test_join_that_fails_does_not_hold_up_other_rooms(start, server, refusing):
    """Only the requests for its room wait until it is joined, in order."""
    alice = await start(join=ROOM)
    rooms = {"project:1"}
    refused = refusing(server, rooms)
    sent = "[client.joinRoom('project:1'), ...[...'ab'].map((text) => client.sendMessage('project:1', text))]"
    await alice.js(f"window.sent = {sent}, null")
    await wait_until(lambda: len(refused) == 1)
    await alice.js("await client.sendMessage('channel:1', 'elsewhere', undefined, { timeout: 10_000 })")
    await alice.js("await client.joinRoom('channel:2', { timeout: 10_000 })")
    await wait_until(lambda: len(refused) > 1)
    rooms.clear()
    assert [frame["type"] for frame in await alice.js("await Promise.all(sent)")] == ["joined_room", "sent", "sent"]
    assert await alice.contents(3) == ["elsewhere", "a", "b"]


async def test_rejoins_that_fail_leave_the_rate_to_requests(start, stack, refusing):
    """With 120 rooms that cannot be joined again, at 20 messages a second, messages for another room are sent."""
    fast = await stack.enter_async_context(running(ws_message_rate=0))
    slow = await stack.enter_async_context(running(ws_message_rate=20))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", fast.port))
    alice = await start(port=proxy.port, rate=1e9, join=ROOM)
    rooms = {f"project:{number}" for number in range(120)}
    await alice.js("await Promise.all(argument.map((room) => client.joinRoom(room))), null", sorted(rooms))
    refused = refusing(slow, rooms)
    proxy.target = slow.port
    proxy.reset()
    await wait_until(lambda: len(refused) > 125)
    await alice.js("await client.sendMessage('channel:1', 'a', undefined, { timeout: 10_000 })")
    assert await alice.contents(1) == ["a"]
    assert await alice.js("framesOf('error')") == []


async def test_join_requests_that_wait_are_requests_like_others(start, server, proxy):
    """They count for the option queue, can be aborted, and are answered when the room is joined again."""
    alice = await start(join=ROOM, queue=3)
    await proxy.refuse()
    proxy.reset()
    await alice.until("client.state === 'waiting'")
    join = "client.joinRoom('channel:1', { signal: aborter.signal })"
    await alice.js(f"window.aborter = new AbortController(), window.aborted = {join}.catch(({{ name }}) => name), null")
    await alice.js("window.sent = [1, 2, 3].map(() => client.joinRoom('channel:1')), aborter.abort(), null")
    assert await alice.js("await aborted") == "AbortError"
    await proxy.start()
    outcomes = await alice.js("await outcomes(sent)")
    assert [one.get("code") for one in outcomes] == [None, None, "queue_full"]
    await publish(server, "a")
    assert await alice.contents(1) == ["a"]
    assert await alice.js("framesOf('joined_room').length") == 4  # the first join, the rejoin, and two requests


async def test_room_that_is_left_is_not_joined_again(start, server, proxy, refusing):
    """While the room could not be joined again, a tool leaves it by a text. Later requests for it do not wait."""
    alice = await start(join=ROOM)
    rooms = {ROOM}
    refused = refusing(server, rooms)
    proxy.reset()
    await wait_until(lambda: refused)
    limit = "undefined, { timeout: 10_000 }"
    await alice.js(f"window.sent = client.sendMessage('channel:1', 'a', {limit}), null")
    await alice.js("""client.sendText('{"type":"leave_room","id":"mine","room":"channel:1"}')""")
    assert (await alice.js("await outcomes([sent])"))[0]["code"] == "not_joined"
    rooms.clear()
    await alice.js("await client.joinRoom('channel:1', { timeout: 10_000 })")
    assert len(refused) == 1


@pytest.mark.parametrize("is_first", [True, False], ids=["a first join", "a rejoin"])
async def test_leaving_a_room_ends_a_join_in_flight_that_fails(start, server, refusing, is_first):
    """The refusal arrives after leaveRoom was called. A join that is requested after that is a new one."""
    alice = await start(join="project:1" if is_first else ROOM)
    rooms, gate = {ROOM}, asyncio.Event()
    refused = refusing(server, rooms, gate)
    if is_first:
        await alice.js("window.joined = client.joinRoom('channel:1'), null")
    else:
        close_all(server)
    await wait_until(lambda: refused)
    await alice.js("window.left = client.leaveRoom('channel:1'), window.again = client.joinRoom('channel:1'), null")
    gate.set()
    assert (await alice.js("await left"))["type"] == "left_room"
    if is_first:
        assert (await alice.js("await outcomes([joined])"))[0]["code"] == "not_joined"
    rooms.clear()
    assert (await alice.js("await again"))["type"] == "joined_room"


async def test_position_of_an_aborted_join_is_forgotten(start, server):
    """Events before the position of a join that was aborted are received after a later join without a position."""
    alice, bob = await start(join=ROOM), await start()
    await publish(server, "a", "b")
    await alice.contents(2)
    last = await alice.js("framesOf('message')[1].id")
    epoch, offset = last.rsplit("-", 1)
    join = "client.joinRoom('channel:1', { since: argument, signal: AbortSignal.abort() })"
    await alice.js("client.close()")
    await bob.js(f"client.connect(), await {join}.catch(() => null)", f"{epoch}-{int(offset) + 10}")
    await bob.js("await client.joinRoom('channel:1'), null")
    await publish(server, "c")
    assert await bob.contents(1) == ["c"]
