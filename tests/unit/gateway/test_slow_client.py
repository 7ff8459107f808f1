"""One client that never reads, in a room with 99 that do: it is closed, the others hear all, memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from serving import PATH, PATIENCE, Serve, connect, token_for
from wire import Peer, masked

from roomcast.errors import TOO_SLOW
from roomcast.gateway.client import Client
from roomcast.protocol.frames import CLOSE, TEXT
from roomcast.web.server import Server

ROOM = "channel:1"
BUFFER = 256 * 1024
#: More than a kernel holds between two sockets that nobody tuned, 4 MiB and 6 MiB at most.
PLENTY = 20 * 1024 * 1024
TEXT_SIZE = 8000


@asynccontextmanager
async def sleeper(server: Server) -> AsyncIterator[tuple[Peer, Client, str]]:
    """A client with little room in its kernel, which reads its joined_room and then no more; with its last id."""
    peer = await Peer.connect(("127.0.0.1", server.port), receive_buffer=4096)
    known = set(server.gateway.keepalive.connections)
    try:
        await peer.send(
            f"GET {PATH}?token={token_for(1000, 'slow')} HTTP/1.1\r\nHost: localhost\r\n".encode()
            + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            + masked(TEXT, json.dumps({"type": "join_room", "room": ROOM, "data": {"since": ""}}).encode())
        )
        await peer.head()
        assert (await heard(peer))["type"] == "connected"
        joined = await heard(peer)
        (client,) = set(server.gateway.keepalive.connections) - known
        assert isinstance(client, Client)
        yield peer, client, joined["data"]["last_id"]
    finally:
        peer.close()


async def heard(peer: Peer) -> dict[str, Any]:
    """The next frame, which must be text."""
    opcode, payload = await peer.frame()
    assert opcode == TEXT
    frame: dict[str, Any] = json.loads(payload)
    return frame


async def say(server: Server, number: int) -> str:
    """Publish a large event; return its id."""
    data = {"task_id": number, "changes": {"text": "x" * TEXT_SIZE}}
    return await server.gateway.publishing.publish("task.updated", ROOM, data, None, None)


@pytest.fixture
async def server(serve: Serve) -> Server:
    """A server with a small buffer for each client, and a history that holds it all."""
    return await serve(
        ws_max_buffer=BUFFER, ws_message_rate=0, announce_max=0, history_size=PLENTY // TEXT_SIZE, history_ttl=60.0
    )


async def test_a_client_that_never_reads_is_closed_and_takes_nothing_from_the_others(server: Server):
    """99 that read hear everything in order; the one is closed with 1013; never more than its buffer is kept for it."""
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(connect(server, n, f"user{n}")) for n in range(99)]
        for reader in readers:
            await reader.join(ROOM)
        _, slow, _ = await stack.enter_async_context(sleeper(server))
        most = ids = 0
        while slow.end is None:
            assert ids * TEXT_SIZE < PLENTY, "nobody closed it"
            last = [await say(server, ids + n) for n in range(8)][-1]
            ids += 8
            await asyncio.gather(*(reader.recv_type("task.updated", id=last) for reader in readers))
            most = max(most, slow.backlog)
        assert slow.end == TOO_SLOW
        # What was one write too many when the limit was passed, and the close frame, are in the buffer too.
        assert most <= BUFFER + 9 * (TEXT_SIZE + 300)
        await say(server, ids)
        for reader in readers:
            await reader.recv_type("task.updated", data={"task_id": ids, "changes": {"text": "x" * TEXT_SIZE}})
            numbers = [frame["data"]["task_id"] for frame in reader.frames if frame["type"] == "task.updated"]
            assert numbers == list(range(ids + 1))
        assert slow.backlog <= most
        assert ROOM not in slow.rooms and slow not in server.gateway.delivery.rooms[ROOM].members
        assert 1000 not in {member.user_id for member in await server.gateway.broker.members(ROOM)}


async def test_it_is_told_why_and_resumes_with_all_that_it_missed(server: Server):
    """What was unsent and then the close with 1013 still reach it; from its last event it misses nothing."""
    async with sleeper(server) as (peer, slow, since):
        ids = []
        while slow.end is None:
            ids.append(await say(server, len(ids)))
            await asyncio.sleep(0)
        ids += [await say(server, n) for n in range(len(ids), len(ids) + 50)]
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
    async with connect(server, 1000, "slow") as user:  # also from the very beginning, many times its buffer
        assert (await user.join(ROOM, since=since))["data"]["recovered"] is True
        assert [(await user.recv())["id"] for _ in ids] == ids
        assert await user.settled() == []


async def test_what_was_kept_for_it_is_freed(server: Server, monkeypatch):
    """A closed client that does not even read its close is cut off, and everything kept for it goes."""
    monkeypatch.setattr("roomcast.transport.connection.CLOSE_TIMEOUT", 0.5)
    async with sleeper(server) as (_, slow, _):
        number = 0
        while slow.end is None:
            number += 1
            await say(server, number)
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


async def test_replies_that_nobody_reads_are_bounded_too(server: Server):
    """A client that asks and asks and reads no answers is closed like one that reads no events."""
    async with sleeper(server) as (peer, slow, _):
        ask = masked(TEXT, json.dumps({"type": "dance", "id": "x" * 100}).encode()) * 50
        most = 0
        for _ in range(2000):
            try:
                await peer.send(ask)
            except ConnectionError:
                break
            await asyncio.sleep(0.001)
            most = max(most, slow.backlog)
            if slow.end is not None:
                break
        assert slow.end == TOO_SLOW
        assert most <= BUFFER + 200_000
