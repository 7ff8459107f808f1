"""A room with a long history on Redis, and how much Redis sends, also during attacks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from attacks import HAND_SECONDS, Attack, Outcome, Report, Target
from broker_contract import RecordingListener
from redis_nodes import broker_for
from redis_servers import RedisServer

ROOM = "channel:long"
#: The history: 500 events, 30 MB.
EVENTS, EVENT_SIZE = 500, 60_000
HISTORY = EVENTS * EVENT_SIZE


def long_message(user_id: int = 1, size: int = EVENT_SIZE) -> bytes:
    """Return a message of ``size`` bytes as the broker stores it."""
    data = {"content": "", "username": "alice", "user_id": user_id, "metadata": {}}
    event = {"type": "message", "room": ROOM, "data": data, "timestamp": "2025-11-13T12:00:00Z"}
    data["content"] = "x" * (size - len(json.dumps(event)))
    return json.dumps(event).encode()


@asynccontextmanager
async def long_history() -> AsyncIterator[RedisServer]:
    """Start a Redis server with the history."""
    async with RedisServer() as server:
        broker = broker_for(server.url, "roomcast", history_size=EVENTS, history_bytes=2 * HISTORY, history_ttl=3600.0)
        await broker.start(RecordingListener())
        for _ in range(EVENTS):
            await broker.publish(ROOM, long_message())
        await broker.close()
        yield server


async def sent_bytes(server: RedisServer) -> int:
    """Return how many bytes the server has sent to all clients."""
    return int((await server.info("stats"))["total_net_output_bytes"])


async def measure_attack(
    attack: Callable[[Target], Awaitable[Outcome]], file: str, seconds: float, **settings: str
) -> tuple[Report, int]:
    """Measure an attack on a server with the history (see ``Attack``); return also how many bytes Redis sent."""
    async with long_history() as server:
        before = await sent_bytes(server)
        settings |= {"REDIS_URL": server.url, "HISTORY_BYTES": str(2 * HISTORY)}
        report = await Attack(attack, file, **settings).measure(seconds)
        return report, await sent_bytes(server) - before


def main(attack: Callable[[Target], Awaitable[Outcome]], file: str, **settings: str) -> None:
    """Run the attack alone if the arguments ask for that, else measure it and print the figures."""
    if "--attack" in sys.argv:
        Attack(attack, file).main()
        return
    report, sent = asyncio.run(measure_attack(attack, file, HAND_SECONDS, **settings))
    print(f"{report}\nRedis sent {sent / 1e6:.0f} MB; the history has {HISTORY / 1e6:.0f} MB")
