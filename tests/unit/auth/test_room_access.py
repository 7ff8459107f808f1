"""Tests of ``auth.room_access``: what ROOM_ACCESS allows, and that every failure refuses."""

import asyncio
import logging
import socket
from collections import Counter
from contextlib import asynccontextmanager, closing

import pytest
from aiohttp import web
from serving import SECRET

from roomcast.auth import room_access
from roomcast.auth.identity import Identity
from roomcast.auth.room_access import RoomAccess
from roomcast.settings import Settings

ALICE = Identity(1, "alice", rooms=("channel:*",))
BOB = Identity("bob", "Bob")


class AccessServer:
    """An HTTP server on loopback that allows Alice. Tests may replace ``answer``."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.paths: Counter[str] = Counter()
        self.connections: set[object] = set()
        self.headers: dict[str, str] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths[request.path_qs] += 1
        self.connections.add(request.transport)
        self.headers = dict(request.headers)
        self.bodies.append(await request.json())
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        allowed = self.bodies[-1]["user"]["user_id"] == 1
        return web.Response(status=200 if allowed else 403, text="ignored")


@pytest.fixture
async def access_server():
    """Run an access server."""
    access_server = AccessServer()
    runner = web.ServerRunner(web.Server(access_server.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    access_server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/may-join"
    yield access_server
    await runner.cleanup()


@asynccontextmanager
async def room_access_rule(room_access: str, **settings):
    """Run the rule for ``room_access``."""
    rule = RoomAccess(Settings(jwt_secret=SECRET, room_access=room_access, **settings))
    await rule.start()
    try:
        yield rule
    finally:
        await rule.close()


async def test_claims() -> None:
    """By default, the token's rooms decide without a request."""
    async with room_access_rule("claims") as rule:
        assert rule.decide(ALICE, "channel:1") is True
        assert rule.decide(ALICE, "task:1") is False
        assert await rule.allows(ALICE, "channel:1")
        assert not await rule.allows(BOB, "channel:1")


async def test_open() -> None:
    """With ``open``, every room is open to everyone."""
    async with room_access_rule("open") as rule:
        assert rule.decide(BOB, "task:1") is True
        assert await rule.allows(BOB, "task:1")


async def test_a_personal_room_cannot_be_joined(access_server) -> None:
    """No mode allows a personal room, the user's own included, and the URL is not asked."""
    for mode in ("claims", "open", access_server.url):
        async with room_access_rule(mode) as rule:
            for room in ("user:1", "user:bob"):
                assert rule.decide(ALICE, room) is False
                assert not await rule.allows(ALICE, room)
    assert access_server.bodies == []


async def test_the_url_receives_user_and_room(access_server) -> None:
    """The URL receives the user and the room as JSON; 200 allows, 403 refuses, and claims are ignored."""
    async with room_access_rule(access_server.url) as rule:
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:1") is True
        assert await rule.allows(BOB, "channel:1") is False
    assert access_server.bodies == [
        {"user": {"user_id": 1, "username": "alice"}, "room": "task:1"},
        {"user": {"user_id": "bob", "username": "Bob"}, "room": "channel:1"},
    ]
    assert access_server.headers["Content-Type"] == "application/json"


async def test_the_url_is_used_as_given(access_server) -> None:
    """The path, the query and the credentials of the URL reach the server."""
    async with room_access_rule(access_server.url.replace("//", "//me:pa55@") + "?key=k3y") as rule:
        assert await rule.allows(ALICE, "task:1")
    assert list(access_server.paths) == ["/may-join?key=k3y"]
    assert access_server.headers["Authorization"].startswith("Basic ")


async def test_decisions_are_cached(access_server) -> None:
    """Both decisions are cached, and returned without a request."""
    async with room_access_rule(access_server.url) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1") is True
            assert await rule.allows(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:1") is True
        assert rule.decide(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:2") is None
    assert len(access_server.bodies) == 2


async def test_decisions_expire(access_server, monkeypatch) -> None:
    """After ROOM_ACCESS_CACHE seconds, the URL is asked again."""
    now = 1000.0
    monkeypatch.setattr(room_access.time, "monotonic", lambda: now)
    async with room_access_rule(access_server.url, room_access_cache=10) as rule:
        assert await rule.allows(ALICE, "task:1")
        now += 9.9
        assert rule.decide(ALICE, "task:1") is True
        now += 0.2
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:2")
        assert list(rule._cache) == [(1, "task:2")]


async def test_without_a_cache_every_join_is_a_request(access_server) -> None:
    """ROOM_ACCESS_CACHE=0 asks each time."""
    async with room_access_rule(access_server.url, room_access_cache=0) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1")
    assert len(access_server.bodies) == 3


async def test_the_cache_is_bounded(access_server, monkeypatch) -> None:
    """Only the newest decisions are cached."""
    monkeypatch.setattr(room_access, "MAX_CACHED", 3)
    async with room_access_rule(access_server.url) as rule:
        for number in range(5):
            await rule.allows(ALICE, f"task:{number}")
        assert [rule.decide(ALICE, f"task:{number}") for number in range(5)] == [None, None, True, True, True]


async def test_equal_requests_are_shared(access_server) -> None:
    """Callers that need the same decision share one request; others have their own."""
    async with room_access_rule(access_server.url) as rule:
        answers = await asyncio.gather(
            *(rule.allows(ALICE, "task:1") for _ in range(20)), rule.allows(BOB, "task:1"), rule.allows(ALICE, "task:2")
        )
    assert answers == [True] * 20 + [False, True]
    assert len(access_server.bodies) == 3


async def test_cancelling_one_caller_does_not_affect_others(access_server) -> None:
    """If one caller is cancelled, the others get the decision."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def answer(request):
        arrived.set()
        await go.wait()
        return web.Response()

    access_server.answer = answer
    async with room_access_rule(access_server.url) as rule:
        first = asyncio.create_task(rule.allows(ALICE, "task:1"))
        second = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await arrived.wait()
        first.cancel()
        go.set()
        assert await second is True
        assert first.cancelled() or first.cancelling()


async def test_connections_are_reused(access_server) -> None:
    """Consecutive requests use one connection."""
    async with room_access_rule(access_server.url) as rule:
        for number in range(5):
            await rule.allows(ALICE, f"task:{number}")
    assert len(access_server.connections) == 1


@pytest.mark.parametrize("status", [201, 204, 301, 307, 401, 404, 500, 503])
async def test_other_statuses_refuse(access_server, caplog, status) -> None:
    """Only 200 allows. Redirects are not followed, failures are not cached, and the reason is logged."""

    async def answer(request):
        return web.Response(status=status, headers={"Location": access_server.url.replace("may-join", "other")})

    access_server.answer = answer
    async with room_access_rule(access_server.url) as rule:
        assert await rule.allows(ALICE, "task:1") is False
        assert rule.decide(ALICE, "task:1") is None
    assert list(access_server.paths) == ["/may-join"]
    assert f"it answered {status}" in caplog.text


async def test_a_timeout_refuses(access_server, caplog) -> None:
    """An answer that takes longer than ROOM_ACCESS_TIMEOUT refuses the join."""
    never = asyncio.Event()

    async def answer(request):
        await never.wait()

    access_server.answer = answer
    async with room_access_rule(access_server.url, room_access_timeout=0.05) as rule:
        assert await rule.allows(ALICE, "task:1") is False
    assert "did not answer within 0.05 s" in caplog.text


async def test_an_endless_body_is_not_read(access_server) -> None:
    """An endless body neither delays the decision nor is collected."""

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with pytest.raises(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        return response

    access_server.answer = answer
    async with room_access_rule(access_server.url) as rule:
        assert await rule.allows(ALICE, "task:1") is True


async def test_an_unreachable_server_refuses(caplog) -> None:
    """An unreachable server refuses the join; the log has its origin without credentials."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with room_access_rule(f"http://me:pa55@127.0.0.1:{port}/?key=k3y") as rule:
            assert await rule.allows(ALICE, "task:1") is False
    assert f"http://127.0.0.1:{port}" in caplog.text
    assert "pa55" not in caplog.text
    assert "k3y" not in caplog.text


async def test_another_protocol_refuses(caplog) -> None:
    """A server that does not speak HTTP refuses the join."""

    async def greet(reader, writer):
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, room_access_rule(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as rule:
        assert await rule.allows(ALICE, "task:1") is False
    assert "ROOM_ACCESS cannot be asked" in caplog.text


async def test_failures_are_logged_once_a_minute(access_server, caplog, monkeypatch) -> None:
    """There is one warning a minute, with the number of refusals since the last."""
    now = 1000.0
    monkeypatch.setattr(room_access.time, "monotonic", lambda: now)

    async def answer(request):
        return web.Response(status=500)

    access_server.answer = answer
    with caplog.at_level(logging.WARNING, "roomcast.access"):
        async with room_access_rule(access_server.url) as rule:
            for number in range(5):
                await rule.allows(ALICE, f"task:{number}")
            now += 61
            await rule.allows(ALICE, "task:9")
    lines = [record.getMessage() for record in caplog.records if record.name == "roomcast.access"]
    assert [line.partition("; ")[2].split()[0] for line in lines] == ["1", "5"]


async def test_closing_refuses(access_server) -> None:
    """A request that runs at shutdown and one after it refuse the join; no task remains."""
    arrived, never = asyncio.Event(), asyncio.Event()

    async def answer(request):
        arrived.set()
        await never.wait()

    access_server.answer = answer
    async with room_access_rule(access_server.url) as rule:
        pending = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await arrived.wait()
    assert await pending is False
    assert await rule.allows(ALICE, "task:2") is False
    assert rule._requests == {}
