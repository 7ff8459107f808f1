"""Measures how nodes with default settings bear with each way in which Redis can be away.

::

    python tests/support/recovery.py
    python tests/support/recovery.py --faults killed stopped --runs 3

For each fault there is a Redis (or Sentinel, or Cluster) of its own, two nodes in processes of their own, ten members
on the second, and a publisher on the first that says something every 10 ms. A row says, in seconds:

- noticed: from the harm until the first node's ``/health/ready`` is not 200, if it ever is;
- back: from Redis' return (of a failover: when all servers agree who is primary) until something that was said after
  it was heard on the second node;
- let in: from the return until a new connection is let in;

and then how many members lost their connection, what became of what was said (``refused`` with ``unavailable``,
``unheard`` though acknowledged, which members of a room whose epoch ended are told by ``resync``), and with what new
connections were refused.
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
from redis_servers import Cluster, RedisServer, SentinelTrio
from shell import SECRET, Running
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token

ROOM = "channel:1"
MEMBERS = 10
#: Between two messages, and two looks at the health, in seconds.
PACE, LOOK = 0.01, 0.02
#: How long Redis is away where that is up to us, and stands still, in seconds.
AWAY, STILL = 2.0, 12.0
#: Nothing takes so long after a return, in seconds, unless it never comes.
PATIENCE = 30.0

#: Does harm; returns when Redis is back.
Harm = Callable[[Any, str], Awaitable[None]]


async def _restarted(redis: RedisServer, prefix: str) -> None:
    await redis.restart()


async def _killed(redis: RedisServer, prefix: str) -> None:
    redis.kill()
    await asyncio.sleep(AWAY)
    await redis.start()


async def _stopped(redis: RedisServer, prefix: str) -> None:
    redis.pause()
    await asyncio.sleep(STILL)
    redis.resume()


async def _cut_off(redis: RedisServer, prefix: str) -> None:
    await redis("CLIENT", "KILL", "TYPE", "pubsub")


async def _failed_over(trio: SentinelTrio, prefix: str) -> None:
    await trio.failed_over(await trio.kill_primary())


async def _moved(cluster: Cluster, prefix: str) -> None:
    channel = f"{{{prefix}:{ROOM}}}"
    await cluster.failed_over(channel, await cluster.kill_primary_of(channel))


FAULTS: dict[str, tuple[str, Callable[[], Any], Harm]] = {
    "restarted": ("restarted in order", lambda: RedisServer(appendonly="yes"), _restarted),
    "killed": (f"killed, back after {AWAY:g} s without its data", RedisServer, _killed),
    "stopped": (f"stopped for {STILL:g} s", RedisServer, _stopped),
    "cut-off": ("CLIENT KILL TYPE pubsub", RedisServer, _cut_off),
    "sentinel": ("primary killed, Sentinel", SentinelTrio, _failed_over),
    "cluster": ("primary killed, Cluster", Cluster, _moved),
}


@dataclass
class Found:
    """What a fault did; times are of the event loop."""

    harmed: float = 0.0
    returned: float = 0.0
    noticed: float | None = None
    back: float | None = None
    let_in: float | None = None
    closed: int = 0
    said: int = 0
    refused: int = 0
    unheard: int = 0
    resyncs: int = 0
    doors: Counter[str] = field(default_factory=Counter)


class Scene:
    """Two nodes, the members on the second, and the publisher on the first."""

    def __init__(self, nodes: list[Running]) -> None:
        self.found = Found()
        self._nodes = nodes
        self._loop = asyncio.get_running_loop()
        #: When each number was said, by the number; those with an answer; those that each member has heard.
        self._said: dict[int, float] = {}
        self._acknowledged: set[int] = set()
        self._heard: list[set[int]] = []
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

    async def play(self, harm: Callable[[], Awaitable[None]]) -> Found:
        """Let there be some quiet, harm, and all come to rest again."""
        found = self.found
        sockets = [await self._join(self._nodes[1]) for _ in range(MEMBERS)]
        publisher = await self._join(self._nodes[0])
        reading = [asyncio.create_task(self._listen(socket)) for socket in sockets]
        reading.append(asyncio.create_task(self._take_answers(publisher)))
        speaking = asyncio.create_task(self._speak(publisher))
        await asyncio.sleep(0.5)
        watching = [asyncio.create_task(watch()) for watch in (self._watch_health, self._watch_door)]
        found.harmed = self._loop.time()
        await harm()
        found.returned = self._loop.time()
        async with asyncio.timeout(PATIENCE):
            await self._until(lambda: found.back is not None and found.let_in is not None)
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
            await self._until(lambda: len(self._acknowledged) + found.refused == len(self._said))
        await asyncio.sleep(0.2)  # what was acknowledged last is on its way to the members
        found.said = len(self._said)
        found.unheard = len(self._acknowledged - set.intersection(*self._heard))
        found.closed = sum(task.done() for task in reading)
        for task in (*reading, *watching):
            task.cancel()
        await asyncio.gather(*reading, *watching, return_exceptions=True)
        for socket in (*sockets, publisher):
            await socket.close()
        return found

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.01)

    async def _speak(self, socket: ClientConnection) -> None:
        for number in itertools.count():
            self._said[number] = self._loop.time()
            said = {"type": "send_message", "room": ROOM, "id": number, "data": {"content": str(number)}}
            await socket.send(orjson.dumps(said).decode())
            await asyncio.sleep(PACE)

    async def _take_answers(self, socket: ClientConnection) -> None:
        async for text in socket:
            frame = orjson.loads(text)
            if frame["type"] == "sent":
                self._acknowledged.add(frame["id"])
            elif frame["type"] == "error":
                assert frame["data"]["code"] == "unavailable", frame
                self.found.refused += 1

    async def _listen(self, socket: ClientConnection) -> None:
        heard: set[int] = set()
        self._heard.append(heard)
        async for text in socket:
            frame = orjson.loads(text)
            if frame["type"] == "resync":
                self.found.resyncs += 1
            elif frame["type"] == "message":
                number = int(frame["data"]["content"])
                heard.add(number)
                if self.found.back is None and 0 < self.found.returned <= self._said[number]:
                    self.found.back = self._loop.time()

    async def _watch_health(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self._nodes[0].url}/health/ready") as answer:
                    if answer.status != 200 and self.found.noticed is None:
                        self.found.noticed = self._loop.time()
                await asyncio.sleep(LOOK)

    async def _watch_door(self) -> None:
        """Come again and again, each time as somebody else, until let in after the return."""
        while self.found.let_in is None:
            begun = self._loop.time()
            socket = await self._connect(self._nodes[0])
            try:
                await socket.recv()
            except websockets.ConnectionClosed as end:
                self.found.doors[f"{end.rcvd.code} {end.rcvd.reason}" if end.rcvd else "1006"] += 1
            else:
                if 0 < self.found.returned <= begun:
                    self.found.let_in = self._loop.time()
            await socket.close()
            await asyncio.sleep(LOOK)


@asynccontextmanager
async def _nodes(url: str, prefix: str) -> AsyncIterator[list[Running]]:
    """Two nodes with default settings."""
    started: list[Running] = []
    try:
        for _ in range(2):
            variables = {"REDIS_URL": url, "REDIS_PREFIX": prefix}
            started.append(await asyncio.to_thread(Running, "serve", "--port", "0", **variables))
        yield started
    finally:
        for node in started:
            await asyncio.to_thread(node.stop)


async def measured(fault: str) -> Found:
    """Do a harm once, and return what was found."""
    _, make, harm = FAULTS[fault]
    prefix = secrets.token_hex(4)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(make())
        nodes = await stack.enter_async_context(_nodes(redis.url, prefix))
        return await Scene(nodes).play(lambda: harm(redis, prefix))


def row(fault: str, runs: list[Found]) -> str:
    """A line of the table: the longest times, and the sums."""

    def longest(times: list[float]) -> str:
        return f"{max(times):.2f}" if times else "never"

    noticed = longest([one.noticed - one.harmed for one in runs if one.noticed is not None])
    back = longest([one.back - one.returned for one in runs if one.back is not None])
    let_in = longest([one.let_in - one.returned for one in runs if one.let_in is not None])
    away = statistics.median(one.returned - one.harmed for one in runs)
    doors = sum((one.doors for one in runs), Counter[str]())
    return (
        f"| {FAULTS[fault][0]} | {away:.1f} | {noticed} | {back} | {let_in} | {sum(one.closed for one in runs)} "
        f"| {sum(one.said for one in runs)} | {sum(one.refused for one in runs)} | {sum(one.unheard for one in runs)} "
        f"| {sum(one.resyncs for one in runs)} | {', '.join(f'{end}: {n}' for end, n in doors.items()) or '-'} |"
    )


def main() -> int:
    """Run what the command line asks for, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Measure how nodes bear with a Redis that is away.")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="which (all)")
    parser.add_argument("--runs", type=int, default=1, help="how often each; the longest times are printed (1)")
    asked = parser.parse_args()
    print("| Redis is | away | noticed | back | let in | closed | said | refused | unheard | resyncs | doors |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for fault in asked.faults:
        runs = [asyncio.run(measured(fault)) for _ in range(asked.runs)]
        print(row(fault, runs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
