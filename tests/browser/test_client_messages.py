"""History and messages in room objects of roomcast.js, in Chromium: what handlers receive, and the list of messages."""

from __future__ import annotations

import pytest
from client_pages import ROOM, browser, pool, proxy, publish, server, stack, start
from serving import connect, running
from tcp_proxy import Proxy

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

#: `held(options)` returns a room object that records the contents of the messages that it receives in `seen`.
HELD = """window.held = (options) => {
    const room = client.room("channel:1", options);
    room.seen = [];
    room.on("message", ({ data }) => room.seen.push(data.content));
    const note = ({ pending, failed, edited }) => pending ? " pending" : failed ? " failed" : edited ? " edited" : "";
    room.texts = () => room.messages.map((message) => message.data.content + note(message)).join();
    return room;
}"""


async def connected(start, **options):
    """Start a client, connect it, and define `held` in its page."""
    alice = await start(**options)
    await alice.js(f"{HELD}, await client.connect(), null")
    return alice


def numbers(first: int, last: int) -> list[str]:
    """Return the contents of the messages from ``first`` to ``last``."""
    return [str(n) for n in range(first, last + 1)]


async def test_each_holder_receives_the_newest_events_first(start, server):
    """Each with its own number, in order, without a gap to the later ones and without duplicates."""
    await publish(server, *numbers(1, 9))
    alice = await connected(start)
    await alice.js("window.one = held({ last: 3 }), window.two = held({ last: 5 }), window.none = held(), null")
    await alice.until("one.seen.length === 3 && two.seen.length === 5")
    await publish(server, "10")
    await alice.until("none.seen.length === 1")
    await alice.js("window.late = held({ last: 2 }), null")
    await publish(server, "11", "12")
    await alice.until("late.seen.at(-1) === '12' && none.seen.length === 3")
    seen = await alice.js("[one.seen, two.seen, none.seen]")
    assert seen == [numbers(7, 12), numbers(5, 12), numbers(10, 12)]
    late = await alice.js("late.seen")
    assert late == numbers(int(late[0]), 12)
    assert len(late) >= 2


async def test_parts_that_load_together_share_the_request(start, server):
    """A holder with `last` and `messages` sends one request. Another number of events needs another one."""
    await publish(server, *numbers(1, 9))
    alice = await connected(start)
    await alice.js(
        """(() => {
            window.limits = [];
            const { send } = WebSocket.prototype;
            WebSocket.prototype.send = function (text) {
                const { type, data } = JSON.parse(text);
                if (type === "history") limits.push(data.limit);
                send.call(this, text);
            };
            window.room = held({ messages: true, last: 5 });
        })(), null"""
    )
    await alice.until("room.seen.length === 5 && room.messages.length === 5")
    assert await alice.js("limits") == [5]
    await alice.js("window.more = held({ last: 7 }), window.same = held({ last: 7 }), null")
    await alice.until("more.seen.length === 7 && same.seen.length === 7")
    assert await alice.js("limits") == [5, 7]
    await publish(server, "10")
    await alice.until("[room, more, same].every(({ seen }) => seen.at(-1) === '10')")
    assert await alice.js("[room.texts(), same.seen.join()]") == ["5,6,7,8,9,10", "3,4,5,6,7,8,9,10"]


async def test_new_holders_miss_nothing_while_events_arrive(start, server):
    """Holders that come while messages are published receive them without a gap, in order, once."""
    alice = await connected(start)
    await alice.js("window.first = held({ last: 5 }), window.others = [], null")
    await alice.until("first.state === 'joined'")
    for n in range(1, 41):
        await publish(server, str(n))
        if n % 8 == 0:
            await alice.js("others.push(held({ last: 5 })), null")
    await alice.until("[first, ...others].every((room) => room.seen.at(-1) === '40')")
    assert await alice.js("first.seen") == numbers(1, 40)
    for seen in await alice.js("others.map((room) => room.seen)"):
        assert seen == numbers(int(seen[0]), 40)
        assert len(seen) >= 5


async def test_long_events_are_loaded_in_several_pages(start, server):
    """A reply has at most 256 KB: the client asks for the rest."""
    await publish(server, *(f"{n} " + "x" * 9000 for n in range(60)))
    alice = await connected(start)
    await alice.js("window.room = held({ last: 60 }), null")
    await alice.until("room.seen.length === 60")
    assert await alice.js("room.seen.map((text) => text.split(' ')[0])") == numbers(0, 59)


async def test_lost_events_are_replaced_by_the_newest(start, stack):
    """After `resync`, handlers receive the newest events that they do not have, and the list begins again."""
    server = await stack.enter_async_context(running(ws_message_rate=0, history_size=5))
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
    await publish(server, *numbers(1, 3))
    alice = await connected(start, port=proxy.port)
    await alice.js(
        "window.room = held({ last: 4, messages: true }), room.on('resync', () => room.seen.push('resync')), null"
    )
    await alice.until("room.seen.length === 3 && room.texts() === '1,2,3'")
    await proxy.refuse()
    proxy.reset()
    await alice.until("room.state === 'rejoining'")
    await publish(server, *numbers(4, 20))
    await proxy.start()
    await alice.until("room.seen.at(-1) === '20' && room.texts() === '17,18,19,20'")
    assert await alice.js("room.seen") == [*numbers(1, 3), "resync", *numbers(17, 20)]
    await publish(server, "21")
    await alice.until("room.texts() === '17,18,19,20,21'")
    assert await alice.js("room.hasMore") is True


async def test_messages_are_edited_and_deleted(start, server):
    """The list has the newest content of each message, and no deleted ones. Each change is a new array."""
    alice = await connected(start)
    await alice.js("window.room = held({ messages: true }), window.lists = [room.messages], null")
    await alice.js("room.on('messageschanged', ({ data }) => lists.push(data.messages)), null")
    await alice.js("await room.send('a'), await room.send('b', { n: 1 }), await room.send('c'), null")
    await alice.until("room.texts() === 'a,b,c'")
    await alice.js("window.before = room.messages, window.second = before[1], null")
    await alice.js("await room.command('edit_message', { message_id: second.id, content: 'B' }), null")
    await alice.js("await room.command('delete_message', { message_id: before[0].id }), null")
    await alice.until("room.texts() === 'B edited,c'")
    assert await alice.js("[before.map(({ data }) => data.content), second.data]") == [
        ["a", "b", "c"],
        {"content": "b", "metadata": {"n": 1}, "user_id": 1, "username": "alice"},
    ]
    assert await alice.js("room.messages[0] !== second && room.messages[1] === before[2]")
    assert await alice.js("new Set(lists).size === lists.length && lists.at(-1) === room.messages")
    await alice.js("window.other = held({ messages: true }), null")
    assert await alice.js("other.messages === room.messages")


async def test_older_messages_are_loaded_on_request(start, server):
    """history() adds the page before the oldest message, also if an edit of it came first, until there are no more."""
    alice = await connected(start)
    first = (await alice.js("client.joinRoom('channel:1'), await client.sendMessage('channel:1', '1')"))["data"]
    await publish(server, *numbers(2, 9))
    edit = {"message_id": first["event_id"], "content": "one"}
    await alice.js("await client.send({ type: 'edit_message', room: 'channel:1', data: argument })", edit)
    await publish(server, "10")
    await alice.js("window.room = held({ messages: true, last: 3 }), null")
    await alice.until("room.texts() === '9,10' && room.hasMore")
    page = await alice.js("await room.history({ limit: 4 })")
    assert [event["data"]["content"] for event in page["events"]] == numbers(5, 8)
    assert await alice.js("[room.texts(), room.hasMore]") == ["5,6,7,8,9,10", True]
    await alice.js("await Promise.all([room.history(), room.history()]), null")
    assert await alice.js("[room.texts(), room.hasMore]") == ["one edited,2,3,4,5,6,7,8,9,10", False]
    assert await alice.js("room.seen") == numbers(9, 10)
    await alice.js("window.more = held({ messages: true, last: 200 }), null")
    page = await alice.js("await room.history({ before: room.messages[2].id, limit: 1 })")
    assert [event["data"]["content"] for event in page["events"]] == ["2"]


async def test_message_is_shown_while_it_is_sent(start, server, proxy):
    """It is `pending` until its event takes its place, which has the same key, also after a reconnect."""
    alice = await connected(start)
    await alice.js("window.room = held({ messages: true }), null")
    await alice.until("room.state === 'joined'")
    await proxy.refuse()
    proxy.reset()
    await alice.until("room.state === 'rejoining'")
    await alice.js("window.sent = [room.send('a'), room.send('b')], null")
    assert await alice.js("room.texts()") == "a pending,b pending"
    keys = await alice.js("room.messages.map(({ key }) => key)")
    await publish(server, "other")
    await proxy.start()
    await alice.until("room.texts() === 'other,a,b'")
    await alice.js("await Promise.all(sent), null")
    assert await alice.js("room.messages.map(({ key }) => key)") == [None, *keys]
    assert await alice.js("room.seen") == ["other", "a", "b"]


async def test_failed_message_is_sent_again_or_discarded(start, server):
    """It stays in the list with its error. With its key it is sent again, and discard() removes it."""
    alice = await connected(start)
    await alice.js("window.room = held({ messages: true }), null")
    await alice.js("await outcomes([room.send(''), room.send('x'.repeat(10_001))]), null")
    assert (
        await alice.js("room.messages.map(({ failed, pending }) => [failed.code, pending])")
        == [["invalid_data", False]] * 2
    )
    await alice.js("window.keys = room.messages.map(({ key }) => key), room.discard(keys[1]), null")
    retry = "[room.send('a', undefined, { key: keys[0] }), room.texts()]"
    outcome = await alice.js(f"await Promise.all({retry}).then(([{{ type }}, texts]) => [type, texts])")
    assert outcome == ["sent", "a pending"]
    await alice.until("room.texts() === 'a'")
    assert await alice.js("room.messages[0].key === keys[0]")


async def test_messages_of_a_server_without_keys(start, server):
    """If events have no key, the id in the reply shows which message arrived."""
    alice = await connected(start)
    await alice.js(
        """(() => {
            const parse = JSON.parse;
            JSON.parse = (text) => { const frame = parse(text); delete frame?.key; return frame; };
            window.room = held({ messages: true });
        })(), await room.send('a'), await room.send('b'), null"""
    )
    await alice.until("room.texts() === 'a,b'")


async def test_list_of_messages_is_bounded(start, server):
    """It has at most 1,000 events, and the older ones that the page has loaded."""
    await publish(server, *numbers(1, 30))
    alice = await connected(start)
    await alice.js("window.room = held({ messages: true, last: 10 }), null")
    await alice.until("room.messages.length === 10")
    await alice.js("await room.history({ limit: 10 }), null")
    await publish(server, *numbers(31, 1040))
    await alice.until("room.seen.at(-1) === '1040'")
    assert await alice.js("[room.messages.length, room.texts().split(',')[0], room.hasMore]") == [1010, "31", True]


async def test_server_without_history_causes_an_error(start, server, monkeypatch):
    """A server that does not know the command: the error names it, and the room continues with live events."""
    alice = await connected(start)
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        await alice.js(
            """(() => {
                const { send } = WebSocket.prototype;
                WebSocket.prototype.send = function (text) { send.call(this, text.replace('"history"', '"histori"')); };
                window.room = held({ messages: true, last: 5 });
                window.errors = [];
                room.on("error", ({ data }) => errors.push(data.code));
            })(), null"""
        )
        await alice.until("errors.length === 1")
        await publish(server, "a")
        await alice.until("room.texts() === 'a' && room.seen.length === 1")
        assert await alice.js("[errors, room.state]") == [["unknown_type"], "joined"]
