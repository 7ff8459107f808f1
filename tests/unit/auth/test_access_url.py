"""Tests of ``auth.access_url``: the request to the URL in ROOM_ACCESS, its signature, and its failures."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from access_server import AccessServer
from aiohttp import web
from serving import SECRET
from standardwebhooks import Webhook, WebhookVerificationError
from waiting import wait_until

from roomcast.auth.access_url import AccessUrl
from roomcast.auth.identity import Identity
from roomcast.errors import Unavailable
from roomcast.settings import Settings

ALICE = Identity(1, "alice", rooms=("channel:*",))
BOB = Identity("bob", "Bob")


def secret(byte: bytes) -> str:
    """Return a secret for signatures."""
    return f"whsec_{base64.b64encode(byte * 32).decode()}"


@asynccontextmanager
async def access_url(url: str, **settings: Any) -> AsyncIterator[AccessUrl]:
    """Return the client of ``url``, started."""
    asking = AccessUrl(Settings(jwt_secret=SECRET, room_access=url, **settings))
    await asking.start()
    try:
        yield asking
    finally:
        await asking.close()


@asynccontextmanager
async def tcp_server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """Run a TCP server; return its URL."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/may-join"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request; return its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


# The request.


async def test_the_url_receives_user_and_room(access_server: AccessServer) -> None:
    """The URL receives the user and the room as JSON; 200 allows, 403 refuses, and claims are ignored."""
    async with access_url(access_server.url) as asking:
        assert await asking.ask(ALICE, "task:1") is True
        assert await asking.ask(BOB, "channel:1") is False
    assert access_server.raw_bodies == [
        b'{"user":{"user_id":1,"username":"alice"},"room":"task:1"}',
        b'{"user":{"user_id":"bob","username":"Bob"},"room":"channel:1"}',
    ]
    assert access_server.headers[0]["Content-Type"] == "application/json"
    assert not any(name.lower().startswith("webhook") for name in access_server.headers[0])


async def test_the_url_is_used_as_given(access_server: AccessServer) -> None:
    """The path, the query and the credentials of the URL reach the server."""
    async with access_url(access_server.url.replace("//", "//me:pa55@") + "?key=k3y") as asking:
        assert await asking.ask(ALICE, "task:1")
    assert list(access_server.paths) == ["/may-join?key=k3y"]
    assert access_server.headers[0]["Authorization"].startswith("Basic ")


async def test_connections_are_reused(access_server: AccessServer) -> None:
    """Consecutive requests use one connection."""
    async with access_url(access_server.url) as asking:
        for number in range(5):
            await asking.ask(ALICE, f"task:{number}")
    assert len(access_server.connections) == 1


async def test_an_endless_body_is_not_read(access_server: AccessServer) -> None:
    """An endless body neither delays the decision nor is collected."""

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with pytest.raises(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        return response

    access_server.answer = answer
    async with access_url(access_server.url) as asking:
        assert await asking.ask(ALICE, "task:1") is True


# The signature.


async def test_the_request_is_signed(access_server: AccessServer) -> None:
    """With ROOM_ACCESS_SECRET, a library of Standard Webhooks verifies the request. Each has an id of its own."""
    async with access_url(access_server.url, room_access_secret=(secret(b"a"),)) as asking:
        for room in ("task:1", "channel:Ünï"):
            await asking.ask(Identity(1, "Zoë ☃"), room)
    for body, headers in zip(access_server.raw_bodies, access_server.headers, strict=True):
        assert Webhook(secret(b"a")).verify(body, headers)["user"] == {"user_id": 1, "username": "Zoë ☃"}
        with pytest.raises(WebhookVerificationError):
            Webhook(secret(b"b")).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret(b"a")).verify(body.replace(b"1", b"2"), headers)
    assert len({headers["webhook-id"] for headers in access_server.headers}) == 2


async def test_several_secrets(access_server: AccessServer) -> None:
    """With several secrets the request has a signature of each, so that the URL may verify with any of them."""
    async with access_url(access_server.url, room_access_secret=(secret(b"a"), secret(b"b"))) as asking:
        await asking.ask(ALICE, "task:1")
    assert len(access_server.headers[0]["webhook-signature"].split(" ")) == 2
    for known in (secret(b"a"), secret(b"b")):
        Webhook(known).verify(access_server.raw_bodies[0], access_server.headers[0])


async def test_the_secret_is_replaced(access_server: AccessServer) -> None:
    """After ``use_keys``, requests are signed with the new secret alone."""
    async with access_url(access_server.url, room_access_secret=(secret(b"a"),)) as asking:
        asking.use_keys(Settings(jwt_secret=SECRET, room_access_secret=(secret(b"b"),)))
        await asking.ask(ALICE, "task:1")
    assert len(access_server.headers[0]["webhook-signature"].split(" ")) == 1
    Webhook(secret(b"b")).verify(access_server.raw_bodies[0], access_server.headers[0])


# Failures.


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 400, 401, 404, 429, 500, 502, 503])
async def test_other_statuses(access_server: AccessServer, caplog, status: int) -> None:
    """Only 200 and 403 are decisions. Redirects are not followed, and the reason is logged."""
    access_server.always(status)
    async with access_url(access_server.url) as asking:
        with pytest.raises(Unavailable) as failed:
            await asking.ask(ALICE, "task:1")
    assert list(access_server.paths) == ["/may-join"]
    assert f"it answered {status}, neither 200 nor 403" in caplog.text
    assert str(failed.value) == "The access check of task:1 failed."
    assert asking.failures.total == 1


async def test_a_timeout(access_server: AccessServer, caplog) -> None:
    """An answer that takes longer than ROOM_ACCESS_TIMEOUT is a failure."""
    access_server.never()
    async with access_url(access_server.url, room_access_timeout=0.05) as asking:
        with pytest.raises(Unavailable):
            await asking.ask(ALICE, "task:1")
    assert "did not answer within 0.05 s" in caplog.text


async def test_an_unreachable_server(caplog) -> None:
    """A refused connection is a failure; the log has the origin of the URL without credentials, the client nothing."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with access_url(f"http://me:pa55@127.0.0.1:{port}/?key=k3y") as asking:
            with pytest.raises(Unavailable) as failed:
                await asking.ask(ALICE, "task:1")
    assert f"http://127.0.0.1:{port}" in caplog.text
    assert "pa55" not in caplog.text
    assert "k3y" not in caplog.text
    assert str(port) not in str(failed.value)


async def test_a_host_that_is_no_name(caplog) -> None:
    """A name that DNS cannot have is a failure like an unknown one, and not an unexpected exception."""
    async with access_url(f"https://{'a' * 64}.example/") as asking:
        with pytest.raises(Unavailable):
            await asking.ask(ALICE, "task:1")
    assert "ROOM_ACCESS cannot be asked" in caplog.text


async def test_no_tls(access_server: AccessServer, caplog) -> None:
    """A failed TLS handshake is a failure."""
    async with access_url(access_server.url.replace("http:", "https:")) as asking:
        with pytest.raises(Unavailable):
            await asking.ask(ALICE, "task:1")
    assert "SSL" in caplog.text


@pytest.mark.parametrize(
    "response",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
        b"HTTP/1.1 200",
        b"",
    ],
    ids=["another protocol", "a body that is cut off", "a malformed body", "a head that is cut off", "nothing"],
)
async def test_broken_responses(caplog, response: bytes) -> None:
    """A response that is not complete and valid HTTP is a failure."""

    async def respond(reader, writer):
        await read_request(reader)
        writer.write(response)
        writer.close()

    async with tcp_server(respond) as url, access_url(url) as asking:
        with pytest.raises(Unavailable):
            await asking.ask(ALICE, "task:1")
    assert "ROOM_ACCESS cannot be asked" in caplog.text


async def test_a_reset_connection(caplog) -> None:
    """A connection that is reset is a failure."""

    async def reset(reader, writer):
        await read_request(reader)
        writer.transport.abort()

    async with tcp_server(reset) as url, access_url(url) as asking:
        with pytest.raises(Unavailable):
            await asking.ask(ALICE, "task:1")
    assert "ROOM_ACCESS cannot be asked" in caplog.text


async def test_an_idle_connection_that_was_closed() -> None:
    """A server may close an idle connection as a request arrives: the same request is sent again, once."""
    requests: list[bytes] = []

    async def respond(reader, writer):
        with suppress(asyncio.IncompleteReadError):
            while True:
                requests.append(await read_request(reader))
                if len(requests) == 2:
                    writer.transport.abort()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with tcp_server(respond) as url, access_url(url, room_access_secret=(secret(b"a"),)) as asking:
        assert await asking.ask(ALICE, "task:1")
        assert await asking.ask(ALICE, "task:2")
    assert len(requests) == 3
    assert requests[1] == requests[2] != requests[0]


async def test_failures_are_logged_once_a_minute(access_server: AccessServer, caplog) -> None:
    """All failures are counted, and the first is logged."""
    access_server.always(500)
    with caplog.at_level(logging.WARNING, "roomcast.access"):
        async with access_url(access_server.url) as asking:
            for number in range(5):
                with pytest.raises(Unavailable):
                    await asking.ask(ALICE, f"task:{number}")
    assert len([record for record in caplog.records if record.name == "roomcast.access"]) == 1
    assert asking.failures.total == 5


async def test_closing(access_server: AccessServer) -> None:
    """A request that runs at shutdown fails, and so does one after it."""
    access_server.never()
    async with access_url(access_server.url) as asking:
        pending = asyncio.create_task(asking.ask(ALICE, "task:1"))
        await wait_until(lambda: access_server.bodies)
    with pytest.raises(Unavailable):
        await pending
    with pytest.raises(Unavailable):
        await asking.ask(ALICE, "task:2")
