"""Receivers that answer slowly, too much, or nothing that is HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from waiting import wait_until
from webhook_receiver import SECRET
from webhook_site import Start

from roomcast.plugins.webhook.sender import Outcome, Sender

EVENTS = [{"id": "evt_1", "type": "user.online", "data": {"user_id": 7}}]


@asynccontextmanager
async def answering(answer: bytes, *, closes: bool) -> AsyncIterator[int]:
    """Listen on a port, and answer each request with bytes. Then close the connection, or keep it open."""

    tasks: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if not closes:
                await reader.read(-1)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*[task for task in tasks if task is not None])


async def outcome_of(answer: bytes, *, closes: bool = True) -> Outcome:
    """Send to a receiver with a password and a token in its URL, which answers with bytes."""
    async with answering(answer, closes=closes) as port:
        sender = Sender(f"http://alice:pass-word@127.0.0.1:{port}/hooks?key=hidden", [SECRET], 5.0)
        try:
            return await sender.send(EVENTS)
        finally:
            await sender.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 204 OK\r\n",
        b"pass-word hidden\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"pass-word" * 9000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http(answer: bytes) -> None:
    """The request fails, and the reason has neither the URL nor what the receiver has sent."""
    outcome = await outcome_of(answer)
    assert outcome.status is None
    assert outcome.reason
    assert "pass-word" not in outcome.reason
    assert "hidden" not in outcome.reason
    assert len(outcome.reason) < 100


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000\r\n\r\nslow",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "open"])
async def test_the_status_is_the_answer(body: bytes, closes: bool) -> None:
    """A receiver with a status of 2xx has the events, even if its body does not end or is broken."""
    outcome = await outcome_of(b"HTTP/1.1 200 OK\r\n" + body, closes=closes)
    assert outcome == (200, "it answered 200", 0.0)


async def test_a_port_that_is_closed() -> None:
    """The reason has the address, and no other part of the URL."""
    async with answering(b"", closes=True) as port:
        pass
    sender = Sender(f"http://alice:pass-word@127.0.0.1:{port}/hooks?key=hidden", [SECRET], 5.0)
    outcome = await sender.send(EVENTS)
    await sender.close()
    assert f"127.0.0.1:{port}" in outcome.reason
    assert "pass-word" not in outcome.reason
    assert "hidden" not in outcome.reason


async def test_the_log_of_a_receiver_that_fails(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The log has neither the secret nor the path, the query and the password of the URL."""
    caplog.set_level(logging.DEBUG)
    async with answering(b"HTTP/1.1 500 Oh\r\n\r\n", closes=True) as port:
        site = await start(url=f"http://alice:pass-word@127.0.0.1:{port}/hooks?key=hidden")
        site.publish("channel:1", 1)
        await wait_until(lambda: site.delivery.requests["refused"] >= 2)
    await wait_until(lambda: site.delivery.requests["failed"] >= 1)
    assert "did not accept" in caplog.text
    for secret in ("pass-word", "hidden", SECRET.removeprefix("whsec_")):
        assert secret not in caplog.text


async def test_a_receiver_that_hangs(start: Start) -> None:
    """A request that is not answered in time is repeated."""
    site = await start(wait=0.2)
    receiver = site.receiver
    server_handle = receiver._handle
    hung = 0

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal hung
        if hung < 2:
            hung += 1
            await asyncio.sleep(1)
        return await server_handle(request)

    await receiver.stop()
    receiver._handle = hang  # type: ignore[method-assign]
    await receiver.start()
    site.publish("channel:1", 1)
    await receiver.until(lambda: receiver.events)
    assert site.delivery.requests["failed"] == 2


async def test_a_large_response(start: Start) -> None:
    """Of a response without end, only the beginning is read."""
    site = await start()
    receiver = site.receiver
    receiver.answer = lambda events: web.Response(body=b"x" * 10_000_000)
    site.publish("channel:1", 1)
    site.publish("channel:2", 1)
    await receiver.until(lambda: len(receiver.events) == 2)
