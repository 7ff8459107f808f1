"""One connection to Redis: pipelining, pushes, and the ways it ends or is not made at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Authority, FreshRedis, RedisServer, over_tls
from tcp_proxy import Proxy

from roomcast.broker.redis.connection import RedisConnection, ReplyError, pack
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.scripts import Script
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable

Open = Callable[..., Awaitable[RedisConnection]]


class Ends:
    """What a link tells: pushes, and how it ended."""

    def __init__(self) -> None:
        self.pushes: list[list[Any]] = []
        self.pushed = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_push(self, push: list[Any]) -> None:
        self.pushes.append(push)
        self.pushed.set()

    def on_lost(self, link: RedisConnection, why: str) -> None:
        self.lost.set_result(why)


@pytest.fixture
async def ends() -> Ends:
    """What the links of this test tell."""
    return Ends()


@pytest.fixture
async def open_to(ends: Ends) -> AsyncIterator[Open]:
    """``await open_to(url)``: a link that the test's end closes."""
    links = []

    async def open_(
        url: str, timeout: float = 5.0, ca: str | None = None, scripts: tuple[Script, ...] = ()
    ) -> RedisConnection:
        target = parse(url, ca=ca)
        address = target.path or target.addresses[0]
        credentials = (target.username, target.password)
        tls = target.ssl_context()
        link = await open_connection(address, credentials, target.db, tls, ends.on_push, ends.on_lost, scripts, timeout)
        links.append(link)
        return link

    yield open_
    for link in links:
        link.abort("the test is over")


async def test_answers_come_in_order(open_to: Open, redis_server: RedisServer) -> None:
    """What is asked in one turn is answered in that order, errors among the answers."""
    link = await open_to(redis_server.url)
    answers: list[Any] = []
    for parts in (("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", b"\xff\0"), ("ECHO", "")):
        link.send(pack(parts), answers.append)
    assert await link.execute("ECHO", "end") == b"end"
    assert answers[0] == b"a"
    assert isinstance(answers[1], ReplyError)
    assert answers[1].code == "ERR"
    assert answers[2:] == [b"\xff\0", b""]


async def test_pushes_and_answers_do_not_mix(open_to: Open, ends: Ends, redis_server: RedisServer) -> None:
    """Messages of a channel come as pushes, between the answers of the same connection."""
    link = await open_to(redis_server.url)
    link.send_and_forget(pack(("SUBSCRIBE", "test-link")))
    assert await link.execute("PUBLISH", "test-link", "hello") == 1
    assert ends.pushes == [[b"subscribe", b"test-link", 1], [b"message", b"test-link", b"hello"]]


async def test_a_conversation_ends_with_its_mark(open_to: Open, redis_server: RedisServer) -> None:
    """All answers before the mark come together, whether or not a subscription among them was refused."""
    link = await open_to(redis_server.url)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    asked = pack(("SUBSCRIBE", "a")) + pack(("ECHO", "1")) + pack(("SUBSCRIBE",)) + pack(("ECHO", "2"))
    link.send_batch(asked, b"mark", done.set_result)
    first, refused, second = await done
    assert (first, second) == (b"1", b"2")
    assert isinstance(refused, ReplyError)


async def test_scripts_are_loaded_as_it_opens(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A script given at the opening can be run by its sha at once."""
    server = await fresh_redis()
    script = Script("claim")
    link = await open_to(server.url, scripts=(script,))
    assert await link.execute("EVALSHA", script.sha, 1, "k", 1000) == 1


async def test_a_server_that_closes(open_to: Open, ends: Ends, fresh_redis: FreshRedis) -> None:
    """The end of a connection is told once, and who got no answer is known."""
    server = await fresh_redis()
    link = await open_to(server.url)
    server.pause()
    answers: list[Any] = []
    link.send(pack(("ECHO", "x")), answers.append)
    server.kill()
    assert "closed" in await ends.lost or "reset" in await ends.lost
    assert link.unanswered == [answers.append]
    assert not link.is_open


async def test_a_server_that_hangs(open_to: Open, ends: Ends, fresh_redis: FreshRedis) -> None:
    """A stopped server, which closes nothing, is noticed by its silence, also when nobody asks for anything."""
    server = await fresh_redis()
    await open_to(server.url, timeout=0.5)
    server.pause()
    assert await ends.lost == "it has not answered for 0.5 s"


async def test_a_quiet_server_is_not_given_up(open_to: Open, ends: Ends, fresh_redis: FreshRedis) -> None:
    """A server that has nothing to say answers the pings, and the link lives on."""
    server = await fresh_redis()
    link = await open_to(server.url, timeout=0.3)
    before = (await server.info("stats"))["total_commands_processed"]
    async with asyncio.timeout(20):
        while (await server.info("stats"))["total_commands_processed"] < before + 40:
            await asyncio.sleep(0.02)
    assert link.is_open
    assert not ends.lost.done()


async def test_nobody_listens(open_to: Open) -> None:
    """A refused connection is a sentence's end."""
    with pytest.raises(Unavailable, match="connection refused"):
        await open_to("redis://127.0.0.1:1")


async def test_a_server_that_never_greets(open_to: Open, redis_server: RedisServer) -> None:
    """A server that accepts and then says nothing is given up in time."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        proxy.stall()
        with pytest.raises(Unavailable, match=r"has not answered for 0\.3 s"):
            await open_to(f"redis://127.0.0.1:{proxy.port}", timeout=0.3)


async def test_passwords(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A password that is missing or wrong is said to be, and never shown."""
    server = await fresh_redis(user="cast", password="s3cret-s3cret")
    link = await open_to(server.url)
    assert await link.execute("ACL", "WHOAMI") == b"cast"
    with pytest.raises(Unavailable, match="user name or the password") as wrong:
        await open_to(f"redis://cast:another-word@127.0.0.1:{server.port}")
    assert "another-word" not in str(wrong.value)
    with pytest.raises(Unavailable, match="password"):
        await open_to(f"redis://127.0.0.1:{server.port}")


async def test_a_database_of_its_own(open_to: Open, redis_server: RedisServer) -> None:
    """The URL's database is the one that is used."""
    link = await open_to(f"{redis_server.url}/3")
    assert b"db=3" in await link.execute("CLIENT", "INFO")


async def test_a_unix_socket(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A server's socket does as well as its port."""
    server = await fresh_redis(unix_socket=True)
    assert await (await open_to(server.url)).execute("PING") == b"PONG"


async def test_tls(open_to: Open, redis_server: RedisServer, tmp_path: Path) -> None:
    """Over TLS the server's certificate must be one that the given authority has signed."""
    authority = Authority(tmp_path)
    async with over_tls(redis_server, authority) as url:
        assert await (await open_to(url, ca=str(authority.ca))).execute("PING") == b"PONG"
        with pytest.raises(Unavailable, match=r"TLS failed: .*certificate"):
            await open_to(url)


async def test_a_replica_is_refused(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A replica cannot be written to, so it is none to work with."""
    primary = await fresh_redis()
    replica = await fresh_redis(replicaof=f"127.0.0.1 {primary.port}")
    with pytest.raises(Unavailable, match="replica"):
        await open_to(replica.url)


async def test_what_is_no_redis(open_to: Open) -> None:
    """A server that speaks something else is said to."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="does not speak RESP3"):
            await open_to(f"redis://127.0.0.1:{port}", timeout=2)


async def test_a_server_that_repeats_what_it_was_sent(open_to: Open) -> None:
    """Redis before version 6 answers HELLO with its arguments; the password among them is not shown."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `s3cret`, \r\n")
        await reader.read()
        writer.close()

    async def insist(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR no proxy for HELLO 3 AUTH default s3cret\r\n")
        await reader.read()
        writer.close()

    for answer, told in ((repeat, "too old"), (insist, "refused the greeting: ERR no proxy")):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match=told) as refused:
                await open_to(f"redis://:s3cret@127.0.0.1:{port}")
            assert "s3cret" not in str(refused.value)
            assert refused.value.__cause__ is None


async def test_a_refused_subscription_shifts_no_answers(open_to: Open, redis_server: RedisServer) -> None:
    """What is told and refused takes nobody else's answer."""
    link = await open_to(redis_server.url)
    answers: list[Any] = []
    link.send_and_forget(pack(("SUBSCRIBE",)))
    link.send(pack(("ECHO", "a")), answers.append)
    assert await link.execute("ECHO", "b") == b"b"
    assert answers == [b"a"]


async def test_one_who_fails_at_what_is_told(open_to: Open, ends: Ends, redis_server: RedisServer) -> None:
    """A push or an answer that somebody fails at ends neither the connection nor keeps others from theirs."""
    link = await open_to(redis_server.url)

    def fail(reply: Any) -> None:
        raise ValueError("not this")

    answers: list[Any] = []
    link.send(pack(("ECHO", "a")), fail)
    link.send(pack(("ECHO", "b")), answers.append)
    assert await link.execute("ECHO", "c") == b"c"
    assert answers == [b"b"]
    assert not ends.lost.done()
