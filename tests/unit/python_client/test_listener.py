"""Tests of ``roomcast_client.listener`` with real servers, which stop, restart, refuse and remove."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from redis_servers import RedisServer
from serving import ANY_PORT, KEY, SECRET, Serve, running, token_for, url
from tcp_proxy import Proxy
from waiting import PATIENCE

from roomcast import Context, Plugin, Unavailable
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.port import Address
from roomcast.web.server import Server
from roomcast_client import AsyncRoomcast, ListenerStopped, mint_token, personal_room
from roomcast_client import listener as listener_module
from roomcast_client.listener import Gap, Listener


async def take(listener: Listener, count: int) -> list[Any]:
    """Return the next items, without joins and leaves."""
    taken: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            item = await anext(listener)
            if isinstance(item, Gap) or not item["type"].startswith("user_"):
                taken.append(item)
    return taken


def numbers(items: Iterable[Any]) -> list[Any]:
    """Return the task id of each event, and gaps as they are."""
    return [item if isinstance(item, Gap) else item["data"]["task_id"] for item in items]


async def publish(server: Server, *ids: int, room: str = "task:1") -> None:
    """Publish events with these task ids, in order."""
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        for id in ids:
            await client.publish("task.deleted", room, {"task_id": id})


async def joined(listener: Listener) -> None:
    """Wait until the listener is in its room; its own ``user_joined`` arrives."""
    async with asyncio.timeout(PATIENCE):
        while (await anext(listener))["type"] != "user_joined":  # type: ignore[call-overload, unused-ignore]
            pass


async def test_events_of_all_rooms_arrive_in_order(serve: Serve) -> None:
    """Events of two rooms and of the personal room, each in the order of its room."""
    server = await serve()
    async with Listener(url(server, ""), token_for(7), ["task:1", "task:2"]) as listener:
        for _ in range(2):
            await joined(listener)
        await publish(server, 1, 2, 3)
        await publish(server, 4, room="task:2")
        async with AsyncRoomcast(url(server, ""), KEY) as client:
            await client.publish("notification.new", personal_room(7), {"title": "A", "message": "B"})
        items = await take(listener, 5)
    assert numbers(item for item in items if item.get("room") == "task:1") == [1, 2, 3]
    assert numbers(item for item in items if item.get("room") == "task:2") == [4]
    (note,) = [item for item in items if "room" not in item]
    assert note["data"]["title"] == "A"
    ids = {item.get("room", "user:7"): item["id"] for item in items}
    assert listener.positions == ids


async def test_the_next_process_continues_at_the_positions(serve: Serve) -> None:
    """Events that were published in between follow, in rooms and for the user; nothing is repeated."""
    server = await serve()
    async with Listener(url(server, ""), token_for(7), ["task:1"]) as listener:
        await joined(listener)
        await publish(server, 1, 2)
        await take(listener, 1)
        positions = listener.positions
    await publish(server, 3)
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        await client.publish("notification.new", personal_room(7), {"title": "A", "message": "B"})
    async with Listener(url(server, ""), token_for(7), ["task:1"], positions=positions) as listener:
        items = await take(listener, 3)
        assert sorted(item["type"] for item in items) == ["notification.new", "task.deleted", "task.deleted"]
        assert numbers(item for item in items if "room" in item) == [2, 3]
        await publish(server, 4)
        assert numbers(await take(listener, 1)) == [4]


async def test_positions_that_are_too_old_are_a_gap(serve: Serve) -> None:
    """The history of the room has only the newest events, and a position of another server is none."""
    server = await serve(history_size=2)
    async with Listener(url(server, ""), token_for(7), ["task:1"]) as listener:
        await joined(listener)
        await publish(server, 1)
        await take(listener, 1)
        positions = listener.positions
    await publish(server, *range(2, 6))
    old = {**positions, "user:7": "elsewhere-3"}
    async with Listener(url(server, ""), token_for(7), ["task:1"], positions=old) as listener:
        gaps = await take(listener, 2)
        assert sorted(gap.room for gap in gaps) == ["task:1", "user:7"]
        await publish(server, 6)
        assert numbers(await take(listener, 1)) == [6]


async def on_redis(stack: AsyncExitStack, redis: RedisServer, prefix: str, address: Address = ANY_PORT) -> Server:
    """Start a node on Redis."""
    broker = RedisBroker(parse(redis.url), RedisOptions(prefix=prefix))
    return await stack.enter_async_context(running(broker=broker, address=address))


async def test_nothing_is_missed_while_the_server_is_down(redis_server: RedisServer, redis_prefix: str) -> None:
    """The listener loses its server several times. Another node publishes meanwhile; each event arrives once."""
    async with AsyncExitStack() as stack:
        other = await on_redis(stack, redis_server, redis_prefix)
        first = await stack.enter_async_context(AsyncExitStack())
        server = await on_redis(first, redis_server, redis_prefix)
        address = Address(port=server.port)
        listener = await stack.enter_async_context(Listener(url(server, ""), token_for(7), ["task:1"]))
        await joined(listener)
        for turn in range(3):
            await publish(other, 10 * turn + 1)
            assert numbers(await take(listener, 1)) == [10 * turn + 1]
            await first.aclose()
            waiting = asyncio.create_task(take(listener, 2))
            await publish(other, 10 * turn + 2, 10 * turn + 3)
            await on_redis(first, redis_server, redis_prefix, address)
            assert numbers(await waiting) == [10 * turn + 2, 10 * turn + 3]


async def test_a_connection_that_breaks_is_replaced(serve: Serve) -> None:
    """The connection breaks without a close frame in the middle of many events. Each arrives once, in order."""
    server = await serve()
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        Listener(f"http://127.0.0.1:{proxy.port}", token_for(7), ["task:1"]) as listener,
    ):
        await joined(listener)
        publishing = asyncio.create_task(publish(server, *range(60)))
        items = await take(listener, 10)
        proxy.reset()
        items += await take(listener, 20)
        proxy.reset()
        items += await take(listener, 30)
        await publishing
    assert numbers(items) == list(range(60))


async def test_a_server_that_lost_its_history_is_a_gap() -> None:
    """The embedded broker forgets all events when its server restarts; the listener tells the application."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        server = await first.enter_async_context(running())
        address = Address(port=server.port)
        listener = await stack.enter_async_context(Listener(url(server, ""), token_for(7), ["task:1"]))
        await joined(listener)
        await publish(server, 1)
        await take(listener, 1)
        await first.aclose()
        server = await stack.enter_async_context(running(address=address))
        gaps = await take(listener, 2)
        assert {type(gap) for gap in gaps} == {Gap} and {gap.room for gap in gaps} == {"task:1", "user:7"}
        await publish(server, 2)
        assert numbers(await take(listener, 1)) == [2]


async def test_a_cancelled_wait_loses_nothing(serve: Serve) -> None:
    """Many waits with a short timeout see the same events as one long wait."""
    server = await serve()
    async with Listener(url(server, ""), token_for(7), ["task:1"]) as listener:
        await joined(listener)
        publishing = asyncio.create_task(publish(server, *range(30)))
        seen: list[Any] = []
        while len(seen) < 30:
            try:
                async with asyncio.timeout(0.001):
                    seen.append(await anext(listener))
            except TimeoutError:
                continue
        await publishing
    assert numbers(seen) == list(range(30))


async def test_the_token_is_replaced_before_it_expires(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes on with the second token, which has less rights: it may not join this room any longer.

    The function may be async. The token is replaced when a hundredth of its lifetime is over.
    """
    monkeypatch.setattr(listener_module, "_REFRESH_PART", 0.99)
    server = await serve()
    tokens: list[str] = []

    async def token() -> str:
        tokens.append(mint_token(SECRET, 7, rooms=[] if tokens else ["task:1"], expires_in=50))
        return tokens[-1]

    async with Proxy("127.0.0.1", server.port) as proxy:
        async with Listener(f"http://127.0.0.1:{proxy.port}", token, ["task:1"]) as listener:
            with pytest.raises(ListenerStopped) as stopped:
                await take(listener, 1)
        assert (stopped.value.code, stopped.value.room) == ("left_room", "task:1")
        assert (proxy.connections, len(tokens)) == (1, 2)


async def test_a_token_that_cannot_be_replaced_is_used_to_its_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the function, a token of another user and the same token again do not end the connection."""
    monkeypatch.setattr(listener_module, "_REFRESH_PART", 0.999)
    server = await serve()
    first = mint_token(SECRET, 7, rooms=["*"], expires_in=50)
    for second, text in ((OSError("no new one"), "no new one"), (mint_token(SECRET, 8), "new token"), (first, "")):
        tokens: list[str | Exception] = [first, second]

        def token(tokens: list[str | Exception] = tokens) -> str:
            found = tokens.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        async with Listener(url(server, ""), token, ["task:1"]) as listener:
            waiting = asyncio.create_task(take(listener, 1))
            async with asyncio.timeout(PATIENCE):
                while tokens or text not in caplog.text or not await server.gateway.broker.members("task:1"):
                    await asyncio.sleep(0.01)
            await publish(server, 1)
            assert numbers(await waiting) == [1]


async def test_a_revoked_token_is_replaced(serve: Serve) -> None:
    """After a revocation, the listener connects with a new token and misses nothing."""
    server = await serve()
    limit = [0.0]

    def token() -> str:
        return mint_token(SECRET, 7, rooms=["*"], not_before=limit[0])

    async with Listener(url(server, ""), token, ["task:1"]) as listener:
        await joined(listener)
        await publish(server, 1)
        await take(listener, 1)
        async with AsyncRoomcast(url(server, ""), KEY) as client:
            limit[0] = await client.revoke(7)
        await publish(server, 2)
        assert numbers(await take(listener, 1)) == [2]


def wrong_token() -> str:
    """Return a token that no server accepts."""
    return mint_token("x" * 32, 7)


@pytest.mark.parametrize(
    ("token", "rooms", "code"),
    [
        (wrong_token(), [], 4401),
        (wrong_token, [], 4401),
        (token_for(7, rooms=()), ["task:1"], "forbidden"),
        (token_for(7), ["nothing:1"], "unknown_room_type"),
        (token_for(7), ["no room"], "bad_room"),
        (token_for(7), ["user:8"], "forbidden"),
    ],
    ids=[
        "wrong token",
        "wrong token of a function",
        "forbidden room",
        "unknown room",
        "no room",
        "personal room of another",
    ],
)
async def test_a_listener_that_cannot_work_stops(
    serve: Serve, token: str | Callable[[], str], rooms: list[str], code: Any
) -> None:
    """The first attempt raises, with the reason of the server."""
    server = await serve()
    async with Listener(url(server, ""), token, rooms) as listener:
        with pytest.raises(ListenerStopped) as stopped:
            await take(listener, 1)
    assert stopped.value.code == code
    assert str(stopped.value).count(rooms[0] if rooms else "4401") >= 1


async def test_an_operator_stops_a_listener(serve: Serve) -> None:
    """A kick and a disconnection raise; the listener does not come back by itself."""
    server = await serve()
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        for call, code in ((lambda: client.kick("task:1", 7), "left_room"), (lambda: client.disconnect(7), 4410)):
            async with Listener(url(server, ""), token_for(7), ["task:1"]) as listener:
                await joined(listener)
                await call()
                with pytest.raises(ListenerStopped) as stopped:
                    await take(listener, 1)
                assert stopped.value.code == code


async def test_a_room_that_cannot_be_joined_for_the_moment_is_joined_later(serve: Serve) -> None:
    """The rule of the room fails twice; events of other rooms arrive meanwhile."""
    failures = [Unavailable("The directory does not answer."), Unavailable("The directory does not answer.")]
    plugin = Plugin("doors")

    @plugin.room("door")
    async def may_join(ctx: Context, entity_id: str) -> bool:
        if failures:
            raise failures.pop()
        return True

    server = await serve(plugins=[plugin])
    async with Listener(url(server, ""), token_for(7), ["door:1", "task:1"]) as listener:
        async with asyncio.timeout(PATIENCE):
            rooms = [(await anext(listener))["room"] for _ in range(2)]  # type: ignore[index, unused-ignore]
        assert rooms == ["task:1", "door:1"] and not failures
        await publish(server, 1, room="door:1")
        assert numbers(await take(listener, 1)) == [1]


@pytest.mark.parametrize(("status", "stops"), [(404, True), (403, True), (302, True), (502, False), (429, False)])
async def test_the_status_of_a_refused_upgrade_decides(status: int, stops: bool, serve: Serve) -> None:
    """A wrong address raises. A proxy without a server behind it is tried again, and redirects are not followed."""
    real = await serve()
    asked: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=status, headers={"Location": url(real, "/api/v1/ws/connect")})

    app = web.Application()
    app.router.add_get("/live/api/v1/ws/connect", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where = f"http://127.0.0.1:{runner.addresses[0][1]}/live/"
        async with Listener(where, token_for(7)) as listener:
            waiting = asyncio.create_task(take(listener, 1))
            if stops:
                with pytest.raises(ListenerStopped) as stopped:
                    await waiting
                assert stopped.value.code == status and asked == ["/live/api/v1/ws/connect?since="]
            else:
                async with asyncio.timeout(PATIENCE):
                    while len(asked) < 2:
                        await asyncio.sleep(0.01)
                assert not waiting.done()
                waiting.cancel()
                await asyncio.wait([waiting])
    finally:
        await runner.cleanup()


async def test_what_the_token_function_raises_is_raised(serve: Serve) -> None:
    """The iteration raises it, and can go on after that."""
    server = await serve()
    errors: list[Exception] = [OSError("no token server")]

    def token() -> str:
        if errors:
            raise errors.pop()
        return token_for(7)

    async with Listener(url(server, ""), token, ["task:1"]) as listener:
        with pytest.raises(OSError, match="no token server"):
            await take(listener, 1)
        await joined(listener)


async def test_the_token_is_not_shown(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the log of the listener, and not in the URL."""
    caplog.set_level(logging.INFO)
    server = await serve()
    token = token_for(7)
    async with Listener(url(server, ""), token, ["task:1"]) as listener:
        await joined(listener)
        await server.stop()
        waiting = asyncio.create_task(take(listener, 1))
        async with asyncio.timeout(PATIENCE):
            while "The listener is not connected" not in caplog.text:
                await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert token not in caplog.text and token not in repr(listener)


@pytest.mark.parametrize("where", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1/?a=1", ""])
def test_a_wrong_url_is_found_at_once(where: str) -> None:
    """It is a ``ValueError``."""
    with pytest.raises(ValueError, match=r"^The URL"):
        Listener(where, "token")
