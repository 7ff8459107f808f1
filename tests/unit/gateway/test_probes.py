"""Tests of ``gateway.probes``: at the limit of connections, dead ones make room and live ones do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from handshakes import Running, request, serving
from serving import PATH, connect, no_tasks_left, refused, token_for
from waiting import PATIENCE, wait_until
from wire import Peer, masked

from roomcast.gateway import probes
from roomcast.protocol.frames import PONG
from roomcast.transport.connection import SILENT

LIMIT = 5
REFUSED_PATH = f"{PATH}?token={token_for()}"
TOO_MANY = (4429, "Too Many Connections")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let probes end after a moment."""
    monkeypatch.setattr(probes, "PROBE_TIMEOUT", 0.4)
    monkeypatch.setattr(probes, "_INTERVAL", 0.02)


@asynccontextmanager
async def live_tabs(running: Running, count: int) -> AsyncIterator[None]:
    """Connect a user's clients, which answer pings."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(connect(running.server))
        yield


async def silent_tabs(running: Running, count: int) -> list[Peer]:
    """Connect a user's clients that read and answer nothing, as if the network had swallowed them."""
    return [await running.connected() for _ in range(count)]


def ends(running: Running) -> dict[str, int]:
    """Return how often connections have ended, by reason."""
    return {end.reason: count for end, count in running.gateway.counters.ends.items()}


def waits(running: Running) -> int:
    """Return how many new connections wait for a slot."""
    return sum(wait.count for wait in running.gateway.sessions._probes._waits.values())


@pytest.mark.slow
async def test_half_open_connections_do_not_lock_a_user_out() -> None:
    """The sixth connection is admitted within 10 s, without a retry, although the heartbeat takes a minute."""
    async with serving() as running:
        await silent_tabs(running, LIMIT)
        begun = time.monotonic()
        async with connect(running.server) as sixth:
            assert sixth.welcome["type"] == "connected"
            assert time.monotonic() - begun < 10
        assert ends(running)[SILENT.reason] == LIMIT


async def test_a_user_with_live_connections_is_refused(quick: None) -> None:
    """Live connections answer the probe, stay, and the next one is refused without the whole wait."""
    async with no_tasks_left(), serving() as running, live_tabs(running, LIMIT):
        for _ in range(3):
            assert await refused(running.server, REFUSED_PATH) == TOO_MANY
        await wait_until(lambda: not running.gateway.signals._probes._probed)
        assert len(running.gateway.keepalive.connections) == LIMIT


async def test_only_dead_connections_are_dropped(quick: None) -> None:
    """Their slots can be taken, and those of the live ones cannot."""
    async with serving() as running, live_tabs(running, LIMIT - 2):
        await silent_tabs(running, 2)
        async with connect(running.server), connect(running.server):
            assert await refused(running.server, REFUSED_PATH) == TOO_MANY
            assert ends(running) == {SILENT.reason: 2, TOO_MANY[1]: 1}


async def test_connections_of_others_are_not_probed(quick: None) -> None:
    """A silent connection of another user stays."""
    async with serving(max_connections_per_user=1) as running:
        await running.connected(path=f"{PATH}?token={token_for(2)}")
        await silent_tabs(running, 1)
        async with connect(running.server):
            assert [client.identity.user_id for client in running.gateway.keepalive.connections] == [2, 1]


async def test_any_answer_shows_that_a_connection_is_alive(quick: None) -> None:
    """A message counts like a pong, and so does a pong that comes before the ping was read."""
    for answer in (masked(PONG), masked(PONG, b"x"), masked(1, b'{"type":"ping"}')):
        async with serving(max_connections_per_user=1) as running:
            peer = await running.connected()
            attempt = asyncio.create_task(refused(running.server, REFUSED_PATH))
            await wait_until(lambda running=running: running.gateway.signals._probes._probed)
            await peer.send(answer)
            assert await attempt == TOO_MANY


async def test_a_connection_that_is_not_read_is_not_dropped(quick: None) -> None:
    """The server does not read a client that sends too fast, so it cannot know if the client answered."""
    async with serving(max_connections_per_user=1) as running:
        await running.connected()
        (client,) = running.gateway.keepalive.connections
        client.pause_reading()
        assert await refused(running.server, REFUSED_PATH) == TOO_MANY
        client.resume_reading()
        await wait_until(lambda: not running.gateway.signals._probes._probed)
        assert list(running.gateway.keepalive.connections) == [client]


async def test_several_new_connections_replace_several_dead_ones(quick: None) -> None:
    """All tabs of a device return at the same time after it changed networks. One probe serves all of them."""
    async with serving() as running, AsyncExitStack() as stack:
        dead = await silent_tabs(running, LIMIT)
        await asyncio.gather(*(stack.enter_async_context(connect(running.server)) for _ in range(LIMIT)))
        assert ends(running) == {SILENT.reason: LIMIT}
        for peer in dead:
            opcode, _ = await peer.frame()
            assert opcode == 9
            await peer.wait_until_closed()


async def test_few_new_connections_wait(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_CONNECTIONS_PER_USER attempts are refused at once, so that a user cannot keep many sockets."""
    monkeypatch.setattr(probes, "PROBE_TIMEOUT", PATIENCE)
    async with serving(max_connections_per_user=2) as running:
        await silent_tabs(running, 2)
        waiting = [await running.start_handshake() for _ in range(2)]
        await wait_until(lambda: waits(running) == 2)
        assert await refused(running.server, REFUSED_PATH) == TOO_MANY
        for peer in waiting:
            peer.reset()
    assert not waits(running)


async def test_a_client_that_gives_up_leaves_no_slot(quick: None) -> None:
    """The slot of a dead connection is free for the next one if the waiting client has left."""
    async with serving(max_connections_per_user=1) as running:
        await silent_tabs(running, 1)
        peer = await running.start_handshake()
        await wait_until(lambda: waits(running))
        peer.reset()
        await wait_until(lambda: not waits(running))
        await running.wait_until_released()
        await running.wait_until_ended()
        assert await running.broker.connections(1) == 0
        async with connect(running.server):
            pass


async def test_a_shutdown_ends_the_wait() -> None:
    """A client that waits for a slot does not delay the shutdown."""
    async with no_tasks_left(), serving(max_connections_per_user=1) as running:
        await silent_tabs(running, 1)
        peer = await running.peer()
        await peer.send(request())
        await wait_until(lambda: waits(running))
        async with asyncio.timeout(PATIENCE):
            await running.server.stop()
        await peer.wait_until_closed()
