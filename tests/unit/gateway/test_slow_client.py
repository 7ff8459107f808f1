"""Tests of the gateway with a client that does not read: it is closed, others get all events, memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from handshakes import request
from serving import PATH, PATIENCE, Serve, connect, token_for
from wire import Peer, masked

from roomcast.errors import TOO_SLOW
from roomcast.gateway.client import Client
from roomcast.protocol.frames import CLOSE, TEXT
from roomcast.web.server import Server

ROOM = "channel:1"
BUFFER = 256 * 1024
#: More than a kernel buffers between two sockets by default, which is 4 MiB and 6 MiB at most.
PLENTY = 20 * 1024 * 1024
TEXT_SIZE = 8000


@asynccontextmanager
async def non_reading_client(server: Server) -> AsyncIterator[tuple[Peer, Client, str]]:
    """Connect a client with a small receive buffer, which stops reading after joined_room; also yield its last_id."""
    peer = await Peer.connect(("127.0.0.1", server.port), receive_buffer=4096)
    known = set(server.gateway.keepalive.connections)
    try:
        await peer.send(
            request(f"{PATH}?token={token_for(1000, 'slow')}")
            + masked(TEXT, json.dumps({"type": "join_room", "room": ROOM, "data": {"since": ""}}).encode())
        )
        await peer.head()
        assert (await peer.event())["type"] == "connected"
        joined = await peer.event()
        (client,) = set(server.gateway.keepalive.connections) - known
        assert isinstance(client, Client)
        yield peer, client, joined["data"]["last_id"]
    finally:
        peer.close()


async def publish_large(server: Server, number: int) -> str:
    """Publish a large event; return its id."""
    data = {"task_id": number, "changes": {"text": "x" * TEXT_SIZE}}
    return await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)


@pytest.fixture
async def server(serve: Serve) -> Server:
    """Run a server with a small buffer for each client and a long history."""
    return await serve(
        ws_max_buffer=BUFFER,
        ws_message_rate=0,
        announce_max=0,
        history_size=PLENTY // TEXT_SIZE,
        history_bytes=2 * PLENTY,
        history_ttl=60.0,
    )


@pytest.mark.slow
async def test_a_client_that_does_not_read(server: Server) -> None:
    """It is closed with 1013, its buffer is bounded, and 99 readers get all events in order."""
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(connect(server, n, f"user{n}")) for n in range(99)]
        for reader in readers:
            await reader.join(ROOM)
        _, slow, _ = await stack.enter_async_context(non_reading_client(server))
        most = ids = 0
        while slow.end is None:
            assert ids * TEXT_SIZE < PLENTY, "it was not closed"
            last = [await publish_large(server, ids + n) for n in range(8)][-1]
            ids += 8
            await asyncio.gather(*(reader.recv_type("task.updated", id=last) for reader in readers))
            most = max(most, slow.backlog)
        assert slow.end == TOO_SLOW
        # The buffer also has the write that exceeded the limit, and the close frame.
        assert most <= BUFFER + 9 * (TEXT_SIZE + 300)
        await publish_large(server, ids)
        for reader in readers:
            await reader.recv_type("task.updated", data={"task_id": ids, "changes": {"text": "x" * TEXT_SIZE}})
            numbers = [frame["data"]["task_id"] for frame in reader.frames if frame["type"] == "task.updated"]
            assert numbers == list(range(ids + 1))
        assert slow.backlog <= most
        assert ROOM not in slow.rooms and slow not in server.gateway.delivery.rooms[ROOM].members
        assert all(not one.connections for one in await server.gateway.broker.members(ROOM) if one.user_id == 1000)


async def test_a_slow_client_can_resume(server: Server) -> None:
    """It gets the unsent frames and the close, and resumes from its last event without a gap."""
    async with non_reading_client(server) as (peer, slow, since):
        ids = []
        while slow.end is None:
            ids.append(await publish_large(server, len(ids)))
            await asyncio.sleep(0)
        ids += [await publish_large(server, n) for n in range(len(ids), len(ids) + 50)]
        read = []
        while True:
            opcode, payload = await peer.frame()
            if opcode == CLOSE:
                assert payload == b"\x03\xf5Too Slow"  # 1013
                break
            read.append(json.loads(payload)["id"])
    assert read == ids[: len(read)] and len(read) < len(ids)
    async with connect(server, 1000, "slow") as user:
        assert (await user.join(ROOM, since=read[-1]))["data"]["recovered"] is True
        assert [(await user.recv())["id"] for _ in ids[len(read) :]] == ids[len(read) :]
        assert await user.settled() == []
    async with connect(server, 1000, "slow") as user:  # a resume from the beginning, many times its buffer
        assert (await user.join(ROOM, since=since))["data"]["recovered"] is True
        assert [(await user.recv())["id"] for _ in ids] == ids
        assert await user.settled() == []


async def test_the_buffer_of_a_slow_client_is_freed(server: Server, monkeypatch) -> None:
    """A client that does not read its close is disconnected, and its buffer is freed."""
    monkeypatch.setattr("roomcast.transport.connection.CLOSE_TIMEOUT", 0.5)
    async with non_reading_client(server) as (_, slow, _):
        number = 0
        while slow.end is None:
            number += 1
            await publish_large(server, number)
            await asyncio.sleep(0)
        assert slow.backlog > 0
        async with asyncio.timeout(PATIENCE):
            while slow in server.gateway.keepalive.connections:
                await asyncio.sleep(0.01)
        assert slow.backlog == 0 and slow.pending is None
        assert server.gateway.counters.ends[TOO_SLOW] == 1
    async with asyncio.timeout(PATIENCE):
        while server.gateway.delivery.personal:
            await asyncio.sleep(0.01)


async def test_unread_replies_are_bounded(server: Server) -> None:
    """A client that does not read its replies is closed like one that does not read events."""
    async with non_reading_client(server) as (peer, slow, _):
        requests = masked(TEXT, json.dumps({"type": "dance", "id": "x" * 100}).encode()) * 50
        most = 0
        for _ in range(2000):
            try:
                await peer.send(requests)
            except ConnectionError:
                break
            await asyncio.sleep(0.001)
            most = max(most, slow.backlog)
            if slow.end is not None:
                break
        assert slow.end == TOO_SLOW
        assert most <= BUFFER + 200_000
