"""Tests of ``gateway.rate_limit``, with a real server."""

from __future__ import annotations

import asyncio
import contextlib

import websockets
from gateway_tools import frame_types
from sample_commands import SampleCommands
from serving import PATIENCE, Serve, connect

from roomcast.gateway.rate_limit import BURST_SECONDS


async def test_pings_count_against_the_rate(serve: Serve) -> None:
    """Some pings are answered; a flood of pings closes the connection with 4429."""
    async with connect(await serve(ws_message_rate=10)) as alice:
        for _ in range(5):
            async with asyncio.timeout(PATIENCE):
                await (await alice.socket.ping())
        with contextlib.suppress(websockets.ConnectionClosed):
            for number in range(200):
                await alice.socket.ping(f"more {number}")
        assert await alice.closed() == (4429, "Too Many Messages")
        errors = [frame["data"]["code"] for frame in alice.frames if frame["type"] == "error"]
        assert errors == ["rate_limited"] * 50


async def test_queued_commands_count_against_the_rate(serve: Serve, sample: SampleCommands) -> None:
    """Commands that wait for a slow command count."""
    server = await serve(plugins=[sample.plugin], ws_message_rate=1)
    async with connect(server) as alice:
        await alice.send("slow")
        for _ in range(20):
            await alice.send("quick")
        assert (await alice.recv())["data"]["code"] == "rate_limited"


async def test_a_client_above_the_rate(serve: Serve) -> None:
    """Above the burst each message is refused; after as many again, the connection is closed with 4429."""
    rate = 4
    server = await serve(ws_message_rate=rate)
    async with connect(server) as alice:
        for n in range(200):
            try:
                await alice.send("ping", id=n)
            except websockets.ConnectionClosed:
                break
        assert await alice.closed() == (4429, "Too Many Messages")
        answers = frame_types(alice.frames[1:])
        first = answers.index("error")
        assert first >= BURST_SECONDS * rate
        assert answers.count("error") == BURST_SECONDS * rate
        error = alice.frames[1 + first]
        assert (error["data"]["code"], error["id"]) == ("rate_limited", first)
        assert "4429" in error["data"]["error"]


async def test_no_limit(serve: Serve) -> None:
    """WS_MESSAGE_RATE=0 means no limit."""
    server = await serve(ws_message_rate=0)
    async with connect(server) as alice:
        for n in range(3000):
            await alice.send("ping", id=n)
        for n in range(3000):
            assert (await alice.recv())["id"] == n
