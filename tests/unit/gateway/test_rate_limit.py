"""Tests of ``gateway.rate_limit``, with a real server."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from gateway_tools import frame_types
from handshakes import raw
from sample_commands import SampleCommands
from serving import PATIENCE, Serve, connect
from wire import masked

from roomcast.gateway.client import Client
from roomcast.gateway.rate_limit import BURST_SECONDS, FRAME_COST
from roomcast.protocol.frames import CONTINUATION, PING, PONG, TEXT, FrameReader
from roomcast.transport.connection import MAX_READ_AFTER_END


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


FLOODS = {
    "pongs": masked(PONG),
    "large pongs": masked(PONG, b"x" * 125),
    "pings": masked(PING),
    "empty messages": masked(TEXT),
    "messages in fragments": masked(TEXT, b"{", fin=False) + masked(CONTINUATION, b"}"),
    "empty fragments": masked(CONTINUATION, fin=False),
    "fragments of one byte": masked(CONTINUATION, b"x", fin=False),
}
LIMITS = {
    "messages": {"ws_message_rate": 10},
    "bytes": {"ws_message_rate": 0, "ws_byte_rate": 10_000, "ws_max_message_size": 1000},
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
async def test_every_frame_counts(serve: Serve, monkeypatch: pytest.MonkeyPatch, flood: str, limits: dict) -> None:
    """A flood of any frames closes the connection with 4429, after the frames of the burst and the excess."""
    read: list[int] = []
    next_frame = FrameReader._next_frame

    def counting_next_frame(reader: FrameReader, buffer: bytearray, position: int) -> Any:
        read.append(position)
        return next_frame(reader, buffer, position)

    monkeypatch.setattr(FrameReader, "_next_frame", counting_next_frame)
    server = await serve(**limits)
    frame = FLOODS[flood]
    beginning = masked(TEXT, fin=False) if frame[0] == CONTINUATION else b""
    async with raw(server) as peer:
        await peer.send(beginning + frame * (300_000 // len(frame)))
        assert await peer.closed_with() == (4429, "Too Many Messages")
    assert len(read) < 600 + MAX_READ_AFTER_END // len(frame)


async def test_frames_without_an_answer_need_no_clock(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting pongs and fragments reads the clock only when a connection takes another portion of bytes."""
    server = await serve()
    commands = server.gateway.commands
    async with raw(server) as peer:
        loop = SimpleNamespace(calls=0)

        def time() -> float:
            loop.calls += 1
            return asyncio.get_running_loop().time()

        loop.time = time
        monkeypatch.setattr(commands, "_loop", loop)
        (client,) = server.gateway.keepalive.connections
        assert isinstance(client, Client)
        client.bytes_received(masked(TEXT, fin=False) + (masked(CONTINUATION, fin=False) + masked(PONG)) * 200)
        assert client.end is None
        assert loop.calls <= 401 * FRAME_COST // (524_288 // 64) + 1
        monkeypatch.undo()
        await peer.send(masked(CONTINUATION, b'{"type":"ping","id":1}'))
        while (await peer.event())["type"] != "pong":
            pass


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


async def test_without_limits_nothing_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages take nothing from the bytes of a connection, and read no rate, if there is no limit."""
    server = await serve(ws_message_rate=0)
    monkeypatch.setattr(server.gateway.commands, "_is_within_rate", None)
    async with connect(server) as alice:
        (client,) = server.gateway.keepalive.connections
        assert isinstance(client, Client)
        before = client.bytes_left
        for _ in range(10):
            await alice.send("ping")
            await alice.recv_type("pong")
        assert client.bytes_left == before


async def test_each_limit_is_applied_without_the_other(serve: Serve) -> None:
    """The rate of messages is limited without that of bytes, and the other way round."""
    for limits in ({"ws_message_rate": 1, "ws_byte_rate": 0}, {"ws_message_rate": 0, "ws_byte_rate": 4096}):
        server = await serve(**limits)
        async with connect(server) as alice:
            for _ in range(8):
                await alice.send("ping", data={"padding": "x" * 1000})
            while (await alice.recv())["data"].get("code") != "rate_limited":
                pass
