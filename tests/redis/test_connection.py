"""One connection to Redis: pipelining, pushes, its end, and errors while it opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import chain
from typing import Any

import pytest
from redis_refusals import REFUSALS, refusing
from redis_servers import FreshRedis, RedisServer
from tcp_proxy import Proxy

from roomcast.broker.redis.connection import RedisConnection, ReplyError, pack
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.scripts import Script
from roomcast.broker.redis.tls import TlsFiles, create_context
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable

Open = Callable[..., Awaitable[RedisConnection]]


class Events:
    """Records the pushes of a connection, and how it ended."""

    def __init__(self) -> None:
        self.pushes: list[list[Any]] = []
        self.pushed = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_push(self, push: list[Any]) -> None:
        self.pushes.append(push)
        self.pushed.set()

    def on_lost(self, connection: RedisConnection, reason: str) -> None:
        self.lost.set_result(reason)


@pytest.fixture
async def events() -> Events:
    """Records the events of the connections in this test."""
    return Events()


@pytest.fixture
async def open_to(events: Events) -> AsyncIterator[Open]:
    """``await open_to(url)`` returns a connection, which is closed at the end of the test."""
    connections = []

    async def open_(
        url: str, timeout: float = 5.0, files: TlsFiles | None = None, scripts: tuple[Script, ...] = ()
    ) -> RedisConnection:
        target = parse(url, files or TlsFiles())
        address = target.path or target.addresses[0]
        credentials = (target.username, target.password)
        tls = create_context(target.tls) if target.tls is not None else None
        connection = await open_connection(
            address, credentials, target.db, tls, events.on_push, events.on_lost, scripts, timeout
        )
        connections.append(connection)
        return connection

    yield open_
    for connection in connections:
        connection.abort("the test is over")


async def test_replies_are_in_order(open_to: Open, redis_server: RedisServer) -> None:
    """Commands of one loop iteration are answered in order, errors included."""
    connection = await open_to(redis_server.url)
    answers: list[Any] = []
    for parts in (("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", b"\xff\0"), ("ECHO", "")):
        connection.send(pack(parts), answers.append)
    assert await connection.execute("ECHO", "end") == b"end"
    assert answers[0] == b"a"
    assert isinstance(answers[1], ReplyError)
    assert answers[1].code == "ERR"
    assert answers[2:] == [b"\xff\0", b""]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'. script: 5f, on @user_script:3.", "OOM"),
        ("ERR Error running script (call to f_5f): @user_script:3: @user_script: 3: -OOM command not allowed", "OOM"),
        ("ERR Error running script (call to f_5f): @user_script:3: -MISCONF Redis is configured to save", "MISCONF"),
        ("ERR Error running script (call to f_5f): @user_script:3: attempt to call nil", "ERR"),
        ("ERR ACL failure in script: User app has no permissions to run the 'xadd' command script: 5f", "NOPERM"),
        ("ERR The user executing the script can't run this command or subcommand script: 5f", "NOPERM"),
        (
            "ERR Error running script (call to f_5f): @user_script:3: @user_script: 3: The user executing the script "
            "can't run this command or subcommand",
            "NOPERM",
        ),
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
    ],
)
def test_the_code_of_an_error(reply: str, code: str) -> None:
    """The code is that of the command that was refused, also if that was in a script of an older version."""
    assert ReplyError(reply).code == code


async def test_pushes_between_replies(open_to: Open, events: Events, redis_server: RedisServer) -> None:
    """Messages of a channel arrive as pushes between the replies of the same connection."""
    connection = await open_to(redis_server.url)
    refused: list[Any] = []
    connection.send_batch(pack(("SUBSCRIBE", "test-link")), refused.append)
    assert await connection.execute("PUBLISH", "test-link", "hello") == 1
    assert events.pushes == [[b"subscribe", b"test-link", 1], [b"message", b"test-link", b"hello"]]
    assert refused == [[]]


async def test_the_replies_of_a_batch(open_to: Open, redis_server: RedisServer) -> None:
    """All replies are returned together, even if a subscription among them was refused."""
    connection = await open_to(redis_server.url)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    packed = pack(("SUBSCRIBE", "a")) + pack(("ECHO", "1")) + pack(("SUBSCRIBE",)) + pack(("ECHO", "2"))
    connection.send_batch(packed, done.set_result)
    first, refused, second = await done
    assert (first, second) == (b"1", b"2")
    assert isinstance(refused, ReplyError)


async def test_scripts_are_loaded_when_it_opens(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A script that was passed to ``open_connection`` can be run by its sha at once."""
    server = await fresh_redis()
    script = Script("claim")
    connection = await open_to(server.url, scripts=(script,))
    assert await connection.execute("EVALSHA", script.sha, 1, "k", 1000) == 1


async def test_a_server_closes_the_connection(open_to: Open, events: Events, fresh_redis: FreshRedis) -> None:
    """The end is reported once, and ``unanswered`` contains the callbacks without a reply."""
    server = await fresh_redis()
    connection = await open_to(server.url)
    server.pause()
    answers: list[Any] = []
    connection.send(pack(("ECHO", "x")), answers.append)
    server.kill()
    assert "closed" in await events.lost or "reset" in await events.lost
    assert connection.unanswered == [answers.append]
    assert not connection.is_open


async def test_a_server_hangs(open_to: Open, events: Events, fresh_redis: FreshRedis) -> None:
    """A stopped server is detected because it does not answer, even without a command."""
    server = await fresh_redis()
    await open_to(server.url, timeout=0.5)
    server.pause()
    assert await events.lost == "it has not answered for 0.5 s"


async def test_an_idle_connection_stays_open(open_to: Open, events: Events, fresh_redis: FreshRedis) -> None:
    """An idle server answers the pings, and the connection stays open."""
    server = await fresh_redis()
    connection = await open_to(server.url, timeout=0.3)
    before = (await server.info("stats"))["total_commands_processed"]
    async with asyncio.timeout(20):
        while (await server.info("stats"))["total_commands_processed"] < before + 40:
            await asyncio.sleep(0.02)
    assert connection.is_open
    assert not events.lost.done()


async def test_connection_refused(open_to: Open) -> None:
    """A refused connection raises Unavailable with the reason."""
    with pytest.raises(Unavailable, match="connection refused"):
        await open_to("redis://127.0.0.1:1")


async def test_a_server_does_not_answer_the_greeting(open_to: Open, redis_server: RedisServer) -> None:
    """If the server accepts the connection and stays silent, opening fails after the timeout."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        proxy.stall()
        with pytest.raises(Unavailable, match=r"has not answered for 0\.3 s"):
            await open_to(f"redis://127.0.0.1:{proxy.port}", timeout=0.3)


async def test_missing_and_wrong_passwords(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A missing or wrong password is reported and never shown."""
    server = await fresh_redis(user="cast", password="s3cret-s3cret")
    connection = await open_to(server.url)
    assert await connection.execute("ACL", "WHOAMI") == b"cast"
    with pytest.raises(Unavailable, match="user name or the password") as wrong:
        await open_to(f"redis://cast:another-word@127.0.0.1:{server.port}")
    assert "another-word" not in f"{wrong.value} {wrong.value.detail}"
    with pytest.raises(Unavailable, match="password"):
        await open_to(f"redis://127.0.0.1:{server.port}")


async def test_the_database_of_the_url(open_to: Open, redis_server: RedisServer) -> None:
    """The database in the URL is selected."""
    connection = await open_to(f"{redis_server.url}/3")
    assert b"db=3" in await connection.execute("CLIENT", "INFO")


async def test_a_unix_socket(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A server can be reached through its Unix socket."""
    server = await fresh_redis(unix_socket=True)
    assert await (await open_to(server.url)).execute("PING") == b"PONG"


async def test_a_replica_is_refused(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A replica cannot be written to, so the connection is refused."""
    primary = await fresh_redis()
    replica = await fresh_redis(replicaof=f"127.0.0.1 {primary.port}")
    with pytest.raises(Unavailable, match="replica"):
        await open_to(replica.url)


async def test_a_server_that_is_not_redis(open_to: Open) -> None:
    """A server with another protocol is reported."""

    async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="does not speak RESP3"):
            await open_to(f"redis://127.0.0.1:{port}", timeout=2)


async def test_errors_do_not_show_the_password(open_to: Open) -> None:
    """Redis before version 6 repeats the arguments of HELLO in its error. The password is removed."""

    async def repeat_arguments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `s3cret`, \r\n")
        await reader.read()
        writer.close()

    async def refuse_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR no proxy for HELLO 3 AUTH default s3cret\r\n")
        await reader.read()
        writer.close()

    for answer, expected in ((repeat_arguments, "too old"), (refuse_hello, "refused the greeting: ERR no proxy")):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match=expected) as refused:
                await open_to(f"redis://:s3cret@127.0.0.1:{port}")
            assert "s3cret" not in f"{refused.value} {refused.value.detail}"
            assert refused.value.__cause__ is None


@pytest.mark.parametrize("name", REFUSALS)
async def test_refused_commands_shift_no_replies(open_to: Open, fresh_redis: FreshRedis, name: str) -> None:
    """Whatever the server refuses, each command and each batch receives its own reply."""
    server = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    connection = await open_to(server.url, timeout=20.0)

    async def exchange() -> list[Any]:
        """Send three times a batch, a command and a batch; return their replies."""
        answers: list[Any] = []
        for number in range(3):
            commands = (("SUBSCRIBE", "a"), ("SET", "k", number, "PX", 9_000), ("SCRIPT", "EXISTS", "0"))
            connection.send_batch(b"".join(map(pack, commands)), answers.append)
            connection.send(pack(("PING", f"{number}")), answers.append)
            connection.send_batch(pack(("UNSUBSCRIBE", "a")), answers.append)
        last = asyncio.get_running_loop().create_future()
        connection.send(pack(("HELLO",)), last.set_result)
        assert isinstance(await last, dict)
        return answers

    async with refusing(server, name):
        refused = await exchange()
    batches, single = refused[::3] + refused[2::3], refused[1::3]
    assert (len(batches), len(single)) == (6, 3)
    assert all(isinstance(replies, list) for replies in batches)
    assert all(isinstance(reply, bytes | ReplyError) for reply in single)
    assert any(isinstance(reply, ReplyError) for reply in [*chain(*batches), *single])
    assert await exchange() == [answer for number in range(3) for answer in ([b"OK", [0]], b"%d" % number, [])]


async def test_a_callback_that_raises(open_to: Open, events: Events, redis_server: RedisServer) -> None:
    """If the callback of a reply raises, the connection stays open and other callbacks get their replies."""
    connection = await open_to(redis_server.url)

    def fail(reply: Any) -> None:
        raise ValueError("not this")

    answers: list[Any] = []
    connection.send(pack(("ECHO", "a")), fail)
    connection.send(pack(("ECHO", "b")), answers.append)
    assert await connection.execute("ECHO", "c") == b"c"
    assert answers == [b"b"]
    assert not events.lost.done()
