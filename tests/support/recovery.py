"""Measure how long each kind of Redis outage affects nodes with default settings.

::

    python tests/support/recovery.py
    python tests/support/recovery.py --faults killed stopped --runs 3

Each fault has a Redis (or Sentinel, or Cluster) of its own. Two nodes run in processes of their own, with ten members
on the second. A publisher on the first sends a message every 10 ms. A row contains, in seconds:

- noticed: from the fault until ``/health/ready`` of the first node is not 200, or "never";
- delivering: from the return of Redis until a message that was sent after it is delivered on the second node. Redis has
  returned from a failover when all servers agree on the primary;
- admitting: from the return of Redis until a new connection is admitted.

The other columns are the number of members that lost their connection; the numbers of messages that were sent, refused
with ``unavailable``, and acknowledged but not delivered to every member (a ``resync`` reports them); and the close
codes of new connections.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import websockets
from redis_groups import Cluster, SentinelTrio
from redis_servers import RedisServer
from shell import SECRET, Running
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token

ROOM = "channel:1"
MEMBERS = 10
#: The time between two messages, and between two health checks or new connections, in seconds.
MESSAGE_INTERVAL, CHECK_INTERVAL = 0.01, 0.02
#: How long Redis is killed, and how long it is stopped, in seconds.
KILLED_FOR, STOPPED_FOR = 2.0, 12.0
#: How long the nodes may take to recover after Redis has returned, in seconds.
PATIENCE = 30.0

#: Causes a fault of a server, given the key prefix of the nodes. Returns when Redis is available again.
Fault = Callable[[Any, str], Awaitable[None]]


async def _restart(redis: RedisServer, prefix: str) -> None:
    await redis.restart()


async def _kill(redis: RedisServer, prefix: str) -> None:
    redis.kill()
    await asyncio.sleep(KILLED_FOR)
    await redis.start()


async def _stop(redis: RedisServer, prefix: str) -> None:
    redis.pause()
    await asyncio.sleep(STOPPED_FOR)
    redis.resume()


async def _disconnect(redis: RedisServer, prefix: str) -> None:
    await redis("CLIENT", "KILL", "TYPE", "pubsub")


async def _fail_over_sentinel(trio: SentinelTrio, prefix: str) -> None:
    await trio.failed_over(await trio.kill_primary())


async def _fail_over_cluster(cluster: Cluster, prefix: str) -> None:
    channel = f"{{{prefix}:{ROOM}}}"
    await cluster.failed_over(channel, await cluster.kill_primary_of(channel))


#: For each fault: what the table calls it, what starts Redis, and what causes it.
FAULTS: dict[str, tuple[str, Callable[[], Any], Fault]] = {
    "restarted": ("restarted in order", lambda: RedisServer(appendonly="yes"), _restart),
    "killed": (f"killed, back after {KILLED_FOR:g} s without its data", RedisServer, _kill),
    "stopped": (f"stopped for {STOPPED_FOR:g} s", RedisServer, _stop),
    "disconnected": ("CLIENT KILL TYPE pubsub", RedisServer, _disconnect),
    "sentinel": ("primary killed, Sentinel", SentinelTrio, _fail_over_sentinel),
    "cluster": ("primary killed, Cluster", Cluster, _fail_over_cluster),
}


@dataclass
class Measurement:
    """The effects of one fault. Times are of the event loop; those that never came are None."""

    fault_at: float = 0.0
    returned_at: float = 0.0
    noticed_at: float | None = None
    delivered_at: float | None = None
    admitted_at: float | None = None
    closed: int = 0
    sent: int = 0
    refused: int = 0
    undelivered: int = 0
    resyncs: int = 0
    closes: Counter[str] = field(default_factory=Counter)


class Experiment:
    """Two nodes, a publisher on the first and members on the second."""

    def __init__(self, nodes: list[Running]) -> None:
        self.measurement = Measurement()
        self._nodes = nodes
        self._loop = asyncio.get_running_loop()
        #: When each message was sent, by its number; the acknowledged numbers; the numbers each member received.
        self._sent: dict[int, float] = {}
        self._acknowledged: set[int] = set()
        self._received: list[set[int]] = []
        self._users = itertools.count(1)

    async def _connect(self, node: Running) -> ClientConnection:
        user = next(self._users)
        token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
        return await websockets.connect(f"{node.ws}/api/v1/ws/connect?token={token}", proxy=None, max_queue=None)

    async def _join(self, node: Running) -> ClientConnection:
        socket = await self._connect(node)
        await socket.send(orjson.dumps({"type": "join_room", "room": ROOM}).decode())
        while orjson.loads(await socket.recv())["type"] != "joined_room":
            pass
        return socket

    async def run(self, cause_fault: Callable[[], Awaitable[None]]) -> Measurement:
        """Publish for a moment, cause the fault, and wait until messages are delivered and connections admitted."""
        result = self.measurement
        sockets = [await self._join(self._nodes[1]) for _ in range(MEMBERS)]
        publisher = await self._join(self._nodes[0])
        reading = [asyncio.create_task(self._read_events(socket)) for socket in sockets]
        reading.append(asyncio.create_task(self._read_replies(publisher)))
        publishing = asyncio.create_task(self._publish(publisher))
        await asyncio.sleep(0.5)
        watching = [asyncio.create_task(watch()) for watch in (self._watch_health, self._watch_admission)]
        result.fault_at = self._loop.time()
        await cause_fault()
        result.returned_at = self._loop.time()
        async with asyncio.timeout(PATIENCE):
            await self._until(lambda: result.delivered_at is not None and result.admitted_at is not None)
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await self._until(lambda: len(self._acknowledged) + result.refused == len(self._sent))
        await asyncio.sleep(0.2)  # the last acknowledged messages are on their way to the members
        result.sent = len(self._sent)
        result.undelivered = len(self._acknowledged - set.intersection(*self._received))
        result.closed = sum(task.done() for task in reading)
        for task in (*reading, *watching):
            task.cancel()
        await asyncio.gather(*reading, *watching, return_exceptions=True)
        for socket in (*sockets, publisher):
            await socket.close()
        return result

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    async def _publish(self, socket: ClientConnection) -> None:
        for number in itertools.count():
            self._sent[number] = self._loop.time()
            message = {"type": "send_message", "room": ROOM, "id": number, "data": {"content": str(number)}}
            await socket.send(orjson.dumps(message).decode())
            await asyncio.sleep(MESSAGE_INTERVAL)

    async def _read_replies(self, socket: ClientConnection) -> None:
        async for text in socket:
            frame = orjson.loads(text)
            if frame["type"] == "sent":
                self._acknowledged.add(frame["id"])
            elif frame["type"] == "error":
                assert frame["data"]["code"] == "unavailable", frame
                self.measurement.refused += 1

    async def _read_events(self, socket: ClientConnection) -> None:
        received: set[int] = set()
        self._received.append(received)
        result = self.measurement
        async for text in socket:
            frame = orjson.loads(text)
            if frame["type"] == "resync":
                result.resyncs += 1
            elif frame["type"] == "message":
                number = int(frame["data"]["content"])
                received.add(number)
                if result.delivered_at is None and 0 < result.returned_at <= self._sent[number]:
                    result.delivered_at = self._loop.time()

    async def _watch_health(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self._nodes[0].url}/health/ready") as response:
                    if response.status != 200 and self.measurement.noticed_at is None:
                        self.measurement.noticed_at = self._loop.time()
                await asyncio.sleep(CHECK_INTERVAL)

    async def _watch_admission(self) -> None:
        """Connect again and again, each time as another user, until admitted after the return of Redis."""
        result = self.measurement
        while result.admitted_at is None:
            start = self._loop.time()
            socket = await self._connect(self._nodes[0])
            try:
                await socket.recv()
            except websockets.ConnectionClosed as end:
                result.closes[f"{end.rcvd.code} {end.rcvd.reason}" if end.rcvd else "1006"] += 1
            else:
                if 0 < result.returned_at <= start:
                    result.admitted_at = self._loop.time()
            await socket.close()
            await asyncio.sleep(CHECK_INTERVAL)


@asynccontextmanager
async def _nodes(url: str, prefix: str) -> AsyncIterator[list[Running]]:
    """Run two nodes with default settings."""
    started: list[Running] = []
    try:
        for _ in range(2):
            variables = {"REDIS_URL": url, "REDIS_PREFIX": prefix}
            started.append(await asyncio.to_thread(Running, "serve", "--port", "0", **variables))
        yield started
    finally:
        for node in started:
            await asyncio.to_thread(node.stop)


async def measure(name: str) -> Measurement:
    """Cause the fault of this name once, and return its effects."""
    _, make_redis, fault = FAULTS[name]
    prefix = secrets.token_hex(4)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(make_redis())
        nodes = await stack.enter_async_context(_nodes(redis.url, prefix))
        return await Experiment(nodes).run(lambda: fault(redis, prefix))


def row(name: str, runs: list[Measurement]) -> str:
    """Return a line of the table: the longest times, and the sums of the counts."""

    def longest(times: list[float]) -> str:
        return f"{max(times):.2f}" if times else "never"

    noticed = longest([one.noticed_at - one.fault_at for one in runs if one.noticed_at is not None])
    delivering = longest([one.delivered_at - one.returned_at for one in runs if one.delivered_at is not None])
    admitting = longest([one.admitted_at - one.returned_at for one in runs if one.admitted_at is not None])
    away = statistics.median(one.returned_at - one.fault_at for one in runs)
    closes = sum((one.closes for one in runs), Counter[str]())
    counts = [
        sum(getattr(one, count) for one in runs) for count in ("closed", "sent", "refused", "undelivered", "resyncs")
    ]
    refusals = ", ".join(f"{end}: {count}" for end, count in closes.items()) or "-"
    cells = [FAULTS[name][0], f"{away:.1f}", noticed, delivering, admitting, *counts, refusals]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Measure the faults that the command line names, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Measure how long each kind of Redis outage affects nodes.")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="the faults (all)")
    parser.add_argument("--runs", type=int, default=1, help="runs of each fault; the longest times are printed (1)")
    options = parser.parse_args()
    print(
        "| Redis is | away | noticed | delivering | admitting | closed | sent | refused | undelivered | resyncs "
        "| new connections |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.faults:
        runs = [asyncio.run(measure(name)) for _ in range(options.runs)]
        print(row(name, runs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
