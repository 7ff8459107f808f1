"""Room access: what ROOM_ACCESS lets in, and that every failure of it keeps out."""

import asyncio
import logging
import socket
from collections import Counter
from contextlib import asynccontextmanager, closing

import pytest
from aiohttp import web

from roomcast.auth import room_access
from roomcast.auth.identity import Identity
from roomcast.auth.room_access import RoomAccess
from roomcast.settings import Settings

SECRET = "correct horse battery staple, twice over"
ALICE = Identity(1, "alice", rooms=("channel:*",))
BOB = Identity("bob", "Bob")


class Judge:
    """A real HTTP server on loopback that lets Alice in; each test may give it another ``answer``."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.paths: Counter[str] = Counter()
        self.connections: set[object] = set()
        self.headers: dict[str, str] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths[request.path_qs] += 1
        self.connections.add(request.transport)
        self.headers = dict(request.headers)
        self.asked.append(await request.json())
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        allowed = self.asked[-1]["user"]["user_id"] == 1
        return web.Response(status=200 if allowed else 403, text="said")


@pytest.fixture
async def judge():
    """A running judge."""
    judge = Judge()
    runner = web.ServerRunner(web.Server(judge.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    judge.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/may-join"
    yield judge
    await runner.cleanup()


@asynccontextmanager
async def policy(room_access: str, **settings):
    """A started policy for ``room_access``."""
    rule = RoomAccess(Settings(jwt_secret=SECRET, room_access=room_access, **settings))
    await rule.start()
    try:
        yield rule
    finally:
        await rule.close()


async def test_claims_are_decided_at_once():
    """By default the token's rooms decide, without asking anyone."""
    async with policy("claims") as rule:
        assert rule.decide(ALICE, "channel:1") is True
        assert rule.decide(ALICE, "task:1") is False
        assert await rule.allows(ALICE, "channel:1")
        assert not await rule.allows(BOB, "channel:1")


async def test_open_lets_everyone_into_everything():
    """In the open mode of development every room is open, without claims."""
    async with policy("open") as rule:
        assert rule.decide(BOB, "task:1") is True
        assert await rule.allows(BOB, "task:1")


async def test_a_user_room_is_never_joined(judge):
    """No mode opens a user room, the user's own included, and the URL is not even asked."""
    for mode in ("claims", "open", judge.url):
        async with policy(mode) as rule:
            for room in ("user:1", "user:bob"):
                assert rule.decide(ALICE, room) is False
                assert not await rule.allows(ALICE, room)
    assert judge.asked == []


async def test_the_url_is_asked_who_and_where(judge):
    """The URL gets the user and the room as JSON; 200 is yes, 403 is no; claims play no part."""
    async with policy(judge.url) as rule:
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:1") is True
        assert await rule.allows(BOB, "channel:1") is False
    assert judge.asked == [
        {"user": {"user_id": 1, "username": "alice"}, "room": "task:1"},
        {"user": {"user_id": "bob", "username": "Bob"}, "room": "channel:1"},
    ]
    assert judge.headers["Content-Type"] == "application/json"


async def test_the_url_is_used_as_given(judge):
    """Path, query, and user and password of the URL reach the server."""
    async with policy(judge.url.replace("//", "//me:pa55@") + "?key=k3y") as rule:
        assert await rule.allows(ALICE, "task:1")
    assert list(judge.paths) == ["/may-join?key=k3y"]
    assert judge.headers["Authorization"].startswith("Basic ")


async def test_answers_are_kept(judge):
    """A yes and a no are both remembered, and decided at once the next time."""
    async with policy(judge.url) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1") is True
            assert await rule.allows(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:1") is True
        assert rule.decide(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:2") is None
    assert len(judge.asked) == 2


async def test_answers_are_forgotten_in_time(judge, monkeypatch):
    """After ROOM_ACCESS_CACHE seconds the URL is asked again, and may say something else."""
    now = 1000.0
    monkeypatch.setattr(room_access.time, "monotonic", lambda: now)
    async with policy(judge.url, room_access_cache=10) as rule:
        assert await rule.allows(ALICE, "task:1")
        now += 9.9
        assert rule.decide(ALICE, "task:1") is True
        now += 0.2
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:2")
        assert list(rule._answers) == [(1, "task:2")]


async def test_without_a_cache_every_question_is_asked(judge):
    """ROOM_ACCESS_CACHE=0 asks each time."""
    async with policy(judge.url, room_access_cache=0) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1")
    assert len(judge.asked) == 3


async def test_the_cache_is_bounded(judge, monkeypatch):
    """However many rooms are asked for, only so many answers are kept, the newest."""
    monkeypatch.setattr(room_access, "MAX_ANSWERS", 3)
    async with policy(judge.url) as rule:
        for number in range(5):
            await rule.allows(ALICE, f"task:{number}")
        assert [rule.decide(ALICE, f"task:{number}") for number in range(5)] == [None, None, True, True, True]


async def test_equal_questions_are_asked_once(judge):
    """A crowd that asks the same while the answer is on its way shares it; others ask for themselves."""
    async with policy(judge.url) as rule:
        answers = await asyncio.gather(
            *(rule.allows(ALICE, "task:1") for _ in range(20)), rule.allows(BOB, "task:1"), rule.allows(ALICE, "task:2")
        )
    assert answers == [True] * 20 + [False, True]
    assert len(judge.asked) == 3


async def test_who_gives_up_takes_no_answer_from_others(judge):
    """A client that goes away while its question is under way leaves the others their answer."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def answer(request):
        arrived.set()
        await go.wait()
        return web.Response()

    judge.answer = answer
    async with policy(judge.url) as rule:
        first = asyncio.create_task(rule.allows(ALICE, "task:1"))
        second = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await arrived.wait()
        first.cancel()
        go.set()
        assert await second is True
        assert first.cancelled() or first.cancelling()


async def test_connections_are_used_again(judge):
    """Questions one after the other go over one connection."""
    async with policy(judge.url) as rule:
        for number in range(5):
            await rule.allows(ALICE, f"task:{number}")
    assert len(judge.connections) == 1


@pytest.mark.parametrize("status", [201, 204, 301, 307, 401, 404, 500, 503])
async def test_any_other_answer_is_no(judge, caplog, status):
    """Only 200 is yes. Redirects are not followed, failures are not remembered, and the log has the reason."""

    async def answer(request):
        return web.Response(status=status, headers={"Location": judge.url.replace("may-join", "elsewhere")})

    judge.answer = answer
    async with policy(judge.url) as rule:
        assert await rule.allows(ALICE, "task:1") is False
        assert rule.decide(ALICE, "task:1") is None
    assert list(judge.paths) == ["/may-join"]
    assert f"it answered {status}" in caplog.text


async def test_silence_is_no(judge, caplog):
    """An answer that takes longer than ROOM_ACCESS_TIMEOUT is a no."""
    never = asyncio.Event()

    async def answer(request):
        await never.wait()

    judge.answer = answer
    async with policy(judge.url, room_access_timeout=0.05) as rule:
        assert await rule.allows(ALICE, "task:1") is False
    assert "did not answer within 0.05 s" in caplog.text


async def test_an_endless_body_is_cut_off(judge):
    """A body without end neither delays the answer nor is collected."""

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with pytest.raises(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        return response

    judge.answer = answer
    async with policy(judge.url) as rule:
        assert await rule.allows(ALICE, "task:1") is True


async def test_nobody_there_is_no(caplog):
    """A server that cannot be reached lets no one in, and the log names it without its password."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with policy(f"http://me:pa55@127.0.0.1:{port}/?key=k3y") as rule:
            assert await rule.allows(ALICE, "task:1") is False
    assert f"http://127.0.0.1:{port}" in caplog.text
    assert "pa55" not in caplog.text
    assert "k3y" not in caplog.text


async def test_no_http_is_no(caplog):
    """A server that speaks something else lets no one in."""

    async def babble(reader, writer):
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server, policy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as rule:
        assert await rule.allows(ALICE, "task:1") is False
    assert "ROOM_ACCESS cannot be asked" in caplog.text


async def test_failures_are_logged_once_a_minute(judge, caplog, monkeypatch):
    """A dead server fills no log: one line a minute, which counts the refusals since the last."""
    now = 1000.0
    monkeypatch.setattr(room_access.time, "monotonic", lambda: now)

    async def answer(request):
        return web.Response(status=500)

    judge.answer = answer
    with caplog.at_level(logging.WARNING, "roomcast.access"):
        async with policy(judge.url) as rule:
            for number in range(5):
                await rule.allows(ALICE, f"task:{number}")
            now += 61
            await rule.allows(ALICE, "task:9")
    lines = [record.getMessage() for record in caplog.records if record.name == "roomcast.access"]
    assert [line.partition("; ")[2].split()[0] for line in lines] == ["1", "5"]


async def test_closing_answers_no(judge):
    """A question under way at shutdown, and one after it, are answered no; nothing is left running."""
    arrived, never = asyncio.Event(), asyncio.Event()

    async def answer(request):
        arrived.set()
        await never.wait()

    judge.answer = answer
    async with policy(judge.url) as rule:
        question = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await arrived.wait()
    assert await question is False
    assert await rule.allows(ALICE, "task:2") is False
    assert rule._asking == {}
