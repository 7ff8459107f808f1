"""Webhooks under kill -9: nodes, Redis and the receiver are killed at random while users come and go.

Usage: python tests/support/webhook_soak.py --minutes 5 [--seed N] [--lose-data] [--redis sentinel] [--workers 2]

From time to time all that was killed is started again, and the users rest. Then the last state that the receiver was
told must become right for every user and room within a minute. At the end, every published event whose publisher got an
acknowledgement must have arrived, unless Redis may have lost data: with ``--lose-data`` it has no persistence, and
with ``--redis sentinel`` or ``cluster`` a replica is promoted that may lack the last events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import websockets
from redis_servers import free_port
from shell import API_KEY, SECRET
from soak_nodes import CALL_ERRORS
from webhook_receiver import SECRET as WEBHOOK_SECRET
from webhook_soak_faults import ClusterOfSix, RedisUnderFault, Sentinel, Single, SoakNode

from roomcast.auth.identity import make_token

ROOMS = [f"channel:{i}" for i in range(6)]
#: How long the receiver may be wrong after the last fault and the last change, in seconds.
LIMIT = 60.0
#: Each of these is told in every run: a short run goes on until it is, at most for LIMIT.
TOLD = ("user.online", "user.offline", "room.occupied", "event.published")
LEASE = 6.0
GRACE = 1.0
#: How long the start of a node may take on a busy machine, in seconds.
PATIENCE = 300.0


class Receiver:
    """The process of the receiver, and what it has accepted."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.file = directory / "events"
        self.file.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._position = 0
        self.told: dict[Any, str] = {}
        #: The ids of published events by room, in the order of their first arrival.
        self.published: dict[str, dict[str, None]] = {}
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Start the process."""
        program = Path(__file__).with_name("webhook_log_receiver.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(self.port), str(self.file)],
            env={**os.environ, "WEBHOOK_SECRET": WEBHOOK_SECRET},
        )

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def read(self) -> None:
        """Read what was accepted since the last call."""
        with self.file.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                for event in orjson.loads(line)[2]:
                    self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        self.counts[event["type"]] += 1
        data = event["data"]
        if event["type"] == "event.published":
            known = self.published.setdefault(data["room"], {})
            if data["id"] in known:
                self.counts["published events that arrived again"] += 1
            known[data["id"]] = None
        else:
            key = data.get("user_id", data.get("room"))
            if self.told.get(key) == event["type"]:
                self.counts["states that arrived again"] += 1
            self.told[key] = event["type"]


class User:
    """A user who connects, joins, publishes and goes at random."""

    def __init__(self, soak: Soak, id: int) -> None:
        self.soak = soak
        self.id = id
        self.rooms: set[str] = set()
        self.is_online = False
        self._random = random.Random(f"{soak.seed} {id}")
        self._token = make_token(SECRET, user_id=id, username=f"u{id}", rooms=["*"])

    async def run(self) -> None:
        """Come and go until cancelled. While the soak rests, stay as it is: online or not."""
        while True:
            if self._random.random() < 0.5:
                await asyncio.sleep(self._random.uniform(0, 8))
            if self.soak.rests.is_set():
                await self.soak.goes_on.wait()
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                await self._visit()
            self.is_online, self.rooms = False, set()

    async def _visit(self) -> None:
        node = self._random.choice(self.soak.nodes)
        headers = {"Authorization": f"Bearer {self._token}"}
        async with asyncio.timeout(5):
            socket = await websockets.connect(node.ws, additional_headers=headers, close_timeout=1)
        try:
            while orjson.loads(await asyncio.wait_for(socket.recv(), 5))["type"] != "connected":
                pass
            self.is_online = True
            rooms = self._random.sample(ROOMS, self._random.randint(0, 2))
            for room in rooms:
                await socket.send(orjson.dumps({"type": "join_room", "room": room, "id": room}).decode())
            stay = time.monotonic() + self._random.uniform(0.2, 15)
            number, next_message = 0, time.monotonic()
            while time.monotonic() < stay or self.soak.rests.is_set():
                if self.rooms and not self.soak.rests.is_set() and time.monotonic() > next_message:
                    number += 1
                    next_message = time.monotonic() + self._random.uniform(0.2, 1)
                    room = self._random.choice(sorted(self.rooms))
                    message = {"type": "send_message", "room": room, "id": f"m{number}", "data": {"content": "x"}}
                    await socket.send(orjson.dumps(message).decode())
                with contextlib.suppress(TimeoutError):
                    self._received(orjson.loads(await asyncio.wait_for(socket.recv(), 0.5)))
        finally:
            if self._random.random() < 0.5:
                socket.transport.abort()
            await socket.close()

    def _received(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "joined_room":
            self.rooms.add(frame["room"])
        elif frame["type"] == "sent":
            self.soak.acknowledged.append((frame["room"], frame["data"]["event_id"]))


class Soak:
    """The nodes, Redis, the receiver and the users."""

    def __init__(self, directory: Path, seed: str, users: int, redis: RedisUnderFault, workers: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        #: Faults that the run has not had yet. They come first, so that a short run has each of them.
        self._missing_faults = [self._kill_node, self._kill_redis, self._kill_receiver]
        self.random.shuffle(self._missing_faults)
        self.redis = redis
        self.receiver = Receiver(directory)
        variables = {
            "REDIS_URL": self.redis.url,
            "REDIS_LEASE": str(LEASE),
            "REDIS_TIMEOUT": "2",
            "PRESENCE_GRACE": str(GRACE),
            "JWT_SECRET": SECRET,
            "API_KEY": API_KEY,
            "WEBHOOK_URL": f"http://127.0.0.1:{self.receiver.port}/webhooks",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WS_HEARTBEAT_INTERVAL": "2",
        }
        self.nodes = [SoakNode(f"node{i}", directory, variables, workers) for i in range(3 if workers == 1 else 2)]
        self.users = [User(self, id) for id in range(1, users + 1)]
        #: The room and the id of each acknowledged event.
        self.acknowledged: list[tuple[str, str]] = []
        self.rests, self.goes_on = asyncio.Event(), asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.delays: list[float] = []
        self.problems: list[str] = []

    async def run(self, seconds: float) -> None:
        """Run everything for a time."""
        await self.redis.start()
        self.receiver.start()
        await asyncio.gather(*[node.start(PATIENCE) for node in self.nodes])
        tasks = [asyncio.create_task(user.run()) for user in self.users]
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end or (self._is_idle() and time.monotonic() < end + LIMIT):
                await self._faults(min(30.0, seconds))
                await self._check()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for node in self.nodes:
                node.kill()
            self.receiver.kill()
            self.problems += [trace for node in self.nodes for trace in node.tracebacks()]
            self.redis.close()

    def _is_idle(self) -> bool:
        """Return True if one of TOLD was not told yet. After Redis failed, no absence is believed for some seconds."""
        return not all(self.receiver.counts[type] for type in TOLD)

    async def _faults(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end or self._missing_faults:
            await asyncio.sleep(self.random.uniform(0.5, 4))
            node_fault = self.random.choice((self._kill_node, self._kill_worker))
            fault = self.random.choice((node_fault, self._kill_node, self._kill_redis, self._kill_receiver))
            if self._missing_faults:
                fault = self._missing_faults.pop()
            self.counts[fault.__name__.strip("_")] += 1
            await fault()

    async def _kill_node(self) -> None:
        node = self.random.choice(self.nodes)
        node.kill()
        await asyncio.sleep(self.random.uniform(0, 4))
        await node.start(PATIENCE)

    async def _kill_worker(self) -> None:
        if not self.random.choice(self.nodes).kill_worker(self.random):
            await self._kill_node()

    async def _kill_redis(self) -> None:
        await self.redis.fail(self.random)

    async def _kill_receiver(self) -> None:
        self.receiver.kill()
        await asyncio.sleep(self.random.uniform(0, 4))
        self.receiver.start()

    async def _check(self) -> None:
        """Let the users rest, and wait until the receiver is right."""
        self.goes_on.clear()
        self.rests.set()
        await asyncio.sleep(2)  # users who are connecting arrive
        begin = time.monotonic()
        while wrong := self._wrong():
            if time.monotonic() > begin + LIMIT:
                self.problems += [f"after {LIMIT:g} s, the receiver is wrong about {one}" for one in wrong]
                self.problems.append(f"the members according to a node: {await self._members()}")
                break
            await asyncio.sleep(0.2)
        self.delays.append(time.monotonic() - begin)
        while missing := self._missing():
            if self.redis.loses_data or time.monotonic() > begin + LIMIT:
                self.problems += (
                    [] if self.redis.loses_data else [f"events are missing: {missing[:5]} of {len(missing)}"]
                )
                break
            await asyncio.sleep(0.2)
        self.rests.clear()
        self.goes_on.set()

    async def _members(self) -> dict[str, Any]:
        """Return the members of each room according to a node, and the users who are in it as they know."""
        found = {}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for room in ROOMS:
                with contextlib.suppress(*CALL_ERRORS):
                    _, members = await self.nodes[0].call(session, "GET", f"/api/v1/rooms/{room}/members")
                    found[room] = members, [user.id for user in self.users if user.is_online and room in user.rooms]
        return found

    def _wrong(self) -> list[str]:
        self.receiver.read()
        told = self.receiver.told
        occupied = {room for user in self.users if user.is_online for room in user.rooms}
        expected = {user.id: "user.online" if user.is_online else "user.offline" for user in self.users}
        expected |= {room: "room.occupied" if room in occupied else "room.vacated" for room in ROOMS}
        return [
            f"{key}: {told.get(key)}, not {type}"
            for key, type in expected.items()
            if told.get(key, type if type in ("user.offline", "room.vacated") else None) != type
        ]

    def _missing(self) -> list[tuple[str, str]]:
        self.receiver.read()
        arrived = self.receiver.published
        return [(room, id) for room, id in self.acknowledged if id not in arrived.get(room, {})]

    def overtaken(self) -> int:
        """Return the number of published events that arrived after a later one of their room and epoch."""
        count = 0
        for ids in self.receiver.published.values():
            last: dict[str, int] = {}
            for epoch, _, offset in (id.rpartition("-") for id in ids):
                count += int(offset) < last.get(epoch, 0)
                last[epoch] = max(last.get(epoch, 0), int(offset))
        return count


async def main() -> int:
    """Run a soak and print its figures; return 1 if something was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--lose-data", action="store_true")
    parser.add_argument("--redis", choices=("single", "sentinel", "cluster"), default="single")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    match options.redis:
        case "sentinel":
            redis: RedisUnderFault = Sentinel()
        case "cluster":
            redis = ClusterOfSix()
        case _:
            redis = Single(loses_data=options.lose_data)
    with tempfile.TemporaryDirectory(prefix="webhooks-") as directory:
        soak = Soak(Path(directory), options.seed, options.users, redis, options.workers)
        await soak.run(options.minutes * 60)
        counts = soak.counts + soak.receiver.counts
        counts["acknowledged events"] = len(soak.acknowledged)
        counts["acknowledged events that did not arrive"] = len(soak._missing())
        counts["published events after later ones"] = soak.overtaken()
        counts["checks"] = len(soak.delays)
        for name, count in sorted(counts.items()):
            print(f"  {name:45} {count}")
        delays = sorted(soak.delays)
        print(
            f"  seconds until the receiver was right: median {delays[len(delays) // 2]:.1f}, longest {delays[-1]:.1f}"
        )
        for problem in soak.problems:
            print(problem)
        return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
