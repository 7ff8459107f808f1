"""Runs three nodes on one Redis, with publishers, members and faults, and checks what is promised to members.

::

    python tests/support/soak.py [--minutes M] [--seed N] [--no-nemesis] [--pace S] [--logs DIR]

Members come, go, die and resume on any node; publishers ask again, with a key, until they are answered. A nemesis kills
nodes and Redis, stops them for seconds and cuts connections. Then all is left in peace, and must come to rest. Checked:

- Nothing that was acknowledged is missing for a member who was in the room, unless the member was told so (``resync``,
  ``recovered: false``); and neither is said without need. Histories have it, and all nodes have the same.
- No member gets anything twice or out of order, over all its connections; nothing is published twice; nothing comes
  from a room where a member is not. No connection ends that nobody ended.
- No user has more connections than the limit, on all nodes together; each slot is free again after a node's lease.
- In the end every node tells rightly who is in which room; after the nodes nothing is left in Redis without an expiry.
- No traceback in a log, and in runs of ``LONG`` minutes and more no memory that grows.

The status is 1 if anything of it fails; the violations are told with what led to them. The same seed brings the same
faults and the same plans, though not the same timing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from redis_servers import RedisServer
from shell import API_KEY, SECRET
from soak_clients import PERSISTENCE, Backend, Tab, World
from soak_ledger import Ledger, Place, table
from soak_nemesis import Nemesis
from soak_nodes import SAMPLE, Node

NODES = 3
LEASE = 4.0
LIMIT = 2
HISTORY_SIZE = 100
ROOMS = tuple(f"channel:{number}" for number in range(1, 9))
#: Users with more tabs than they may have connections, and users with one.
CROWDED = tuple(range(1, 6))
TABS = 4
SINGLE = tuple(range(6, 26))
BACKENDS = 3
#: How long everything may take to come to rest: leases, rounds of quiet rooms (20 s), and some.
REST = 35.0
#: From how many minutes on memory is judged; from when on, in seconds; how much it may grow, as a factor.
LONG = 3.0
WARM = 60.0
GROWTH = 1.3


class Soak:
    """One run on ``redis``; logs go to ``directory``."""

    def __init__(self, redis: RedisServer, directory: Path, seed: str) -> None:
        self.redis = redis
        self.ledger = Ledger(HISTORY_SIZE)
        settings = {
            "REDIS_URL": redis.url,
            "REDIS_LEASE": f"{LEASE:g}",
            "REDIS_TIMEOUT": "2",
            "REDIS_PREFIX": "soak",
            "MAX_CONNECTIONS_PER_USER": str(LIMIT),
            "HISTORY_SIZE": str(HISTORY_SIZE),
            "DRAIN_SECONDS": "0.5",
            "JWT_SECRET": SECRET,
            "API_KEY": API_KEY,
        }
        self.nodes = [Node(f"node {number}", directory, settings) for number in range(1, NODES + 1)]
        self.world = World(self.nodes, self.ledger, LIMIT, seed)
        chance = self.world.random("plan")
        users = [user for user in CROWDED for _ in range(TABS)] + list(SINGLE)
        self.tabs = [
            Tab(self.world, f"tab {number}", user, chance.sample(ROOMS, 3), publishes=number % 3 == 0)
            for number, user in enumerate(users)
        ]
        places = [*ROOMS, *(f"user:{user}" for user in CROWDED)]
        self.backends = [Backend(self.world, f"backend {number}", places) for number in range(BACKENDS)]
        self.nemesis = Nemesis(self.world, redis, LEASE)
        self.settled_in = 0.0

    async def run(self, seconds: float, pace: float) -> None:
        """Run for so many seconds, with a fault every ``pace`` of them (0: none); then let it rest, and check."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample())
            tabs = [group.create_task(tab.run()) for tab in self.tabs]
            backends = [group.create_task(backend.run()) for backend in self.backends]
            await self._trouble(seconds, pace)
            await self._rest(backends)
            sampling.cancel()
            self.world.over.set()
            await asyncio.wait(tabs)
        await self._end()

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            for node in self.nodes:
                node.sample()

    async def _trouble(self, seconds: float, pace: float) -> None:
        trouble = asyncio.create_task(self.nemesis.run(pace)) if pace else None
        await asyncio.sleep(seconds)
        if trouble is not None:
            trouble.cancel()
            await asyncio.wait([trouble])
            if not trouble.cancelled():
                trouble.result()
        await self.nemesis.heal()
        self.ledger.note("nemesis", "all faults are over")

    # Rest.

    async def _rest(self, backends: list[asyncio.Task[None]]) -> None:
        """Let everybody go home and fall silent; then all must be as it should."""
        self.world.publishing = False
        await asyncio.wait(backends)
        deadline = time.monotonic() + PERSISTENCE
        while not all(tab.is_silent for tab in self.tabs) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self.world.calm.set()
        begun = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for what in (self._ready, self._home, self._told, self._present):
                await self._until(what, session, begun + REST)
            self.settled_in = time.monotonic() - begun
            await self._histories(session)
        if self.world.checks:
            await asyncio.wait(self.world.checks)

    async def _until(
        self,
        what: Callable[[aiohttp.ClientSession], Awaitable[list[tuple[str, str]]]],
        session: aiohttp.ClientSession,
        deadline: float,
    ) -> None:
        """Wait until nothing is amiss; what still is at the ``deadline`` is a violation."""
        while troubles := await what(session):
            if time.monotonic() > deadline:
                for who, trouble in troubles:
                    self.ledger.violate("not at rest", who, trouble)
                return
            await asyncio.sleep(0.1)

    async def _ready(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Every node says that it is ready."""
        answers = [(node, await node.call(session, "GET", "/health/ready")) for node in self.nodes]
        return [(node.name, f"it is not ready: {answer}") for node, (status, answer) in answers if status != 200]

    async def _home(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Each user has as many connections as it may, each in all its rooms."""
        troubles = []
        for user in (*CROWDED, *SINGLE):
            tabs = [tab for tab in self.tabs if tab.user == user]
            there, may = len(self.world.open.get(user, ())), min(len(tabs), LIMIT)
            if there != may:
                troubles.append((f"user {user}", f"it has {there} connections, though it wants {len(tabs)}"))
            troubles += [(tab.name, "it is not in all its rooms") for tab in self._open() if not tab.is_home]
        return troubles

    def _open(self) -> list[Tab]:
        return [tab for tabs in self.world.open.values() for tab in tabs]

    async def _told(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Each member has been told of all there is, whichever node is asked."""
        troubles = []
        for node in self.nodes:
            for room in {view.room for tab in self._open() for view in (tab.personal, *tab.views.values())}:
                _, answer = await node.call(session, "GET", f"/api/v1/rooms/{room}/history?limit=1")
                last = Place.of(answer["last_id"])
                for tab in self._open():
                    view = tab.personal if room == tab.personal.room else tab.views.get(room)
                    if view is not None and view.place != last:
                        troubles.append((tab.name, f"missing: it is at {view.place} in {room}, {node.name} at {last}"))
        return troubles

    async def _present(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Every node tells who is in which room, each with the right number of connections."""
        troubles = []
        for node in self.nodes:
            _, listed = await node.call(session, "GET", "/api/v1/rooms")
            for room in ROOMS:
                there: dict[int, int] = {}
                for tab in self._open():
                    if room in tab.views and tab.views[room].inside:
                        there[tab.user] = there.get(tab.user, 0) + 1
                _, answer = await node.call(session, "GET", f"/api/v1/rooms/{room}/members")
                told = {member["user_id"]: member["connections"] for member in answer["members"]}
                if told != there:
                    troubles.append((node.name, f"in {room} it tells of {told}, but there are {there}"))
                counted = {entry["room"]: entry["members"] for entry in listed["rooms"]}.get(room, 0)
                if counted != len(there):
                    troubles.append((node.name, f"it lists {room} with {counted} members, but there are {len(there)}"))
        return troubles

    async def _histories(self, session: aiohttp.ClientSession) -> None:
        for node in self.nodes:
            for room in (*ROOMS, *(f"user:{user}" for user in CROWDED)):
                _, answer = await node.call(session, "GET", f"/api/v1/rooms/{room}/history?limit=1000")
                self.ledger.check_history(room, node.name, answer["events"], answer["last_id"])

    # The end.

    async def _end(self) -> None:
        """Look at the keys, stop the nodes, and see what they leave behind."""
        await self._keys()
        for node, status in zip(self.nodes, await asyncio.gather(*(node.stop() for node in self.nodes)), strict=True):
            if status:
                self.ledger.violate("wrong answers", node.name, f"it ended with {status} on SIGTERM")
            for traceback in node.tracebacks():
                self.ledger.violate("tracebacks", node.name, f"its log has:\n{traceback}")
        async with self.redis.client() as client:
            left = [key async for key in client.scan_iter("*") if key.endswith((":l", ":n", ":p"))]
        if left:
            self.ledger.violate("left behind", "nodes", f"stopped in order, they left {sorted(left)[:10]}")

    async def _keys(self) -> None:
        async with self.redis.client() as client:
            keys = [key async for key in client.scan_iter("*")]
            self.ledger.counts["keys"] = len(keys)
            forever = [key for key in keys if await client.ttl(key) == -1]
        if forever:
            self.ledger.violate("left behind", "Redis", f"keys without an expiry: {sorted(forever)[:10]}")

    def judge_memory(self) -> None:
        """See whether the memory of the first node, which is never killed, has grown since it was warm."""
        warm = int(WARM / SAMPLE)
        samples = self.nodes[0].memory
        before, after = (statistics.median(some) for some in (samples[warm : warm + 10], samples[-10:]))
        if after > GROWTH * before:
            what = f"it grew from {before / 1024:.1f} MB after {WARM:g} s to {after / 1024:.1f} MB"
            self.ledger.violate("memory", self.nodes[0].name, f"{what}, more than {GROWTH:g} times")


#: What must be 0.
NEVER = (
    *("missing", "doubles", "published twice", "two events of one id", "out of order", "foreign room", "told in vain"),
    *("above the limit", "closed without cause", "wrong answers", "not at rest", "left behind", "tracebacks", "memory"),
)


def rows(soak: Soak) -> Iterator[tuple[str, object]]:
    """The table."""
    counts = soak.ledger.counts
    for name in ("published", "acknowledged", "asked again", "given up", "delivered", "connections"):
        yield name, counts[name]
    for name in ("resumes", "recovered", "told: not recovered", "told: resync"):
        yield name, counts[name]
    yield "epochs of all rooms", soak.ledger.epochs
    yield "acknowledged and lost with Redis, as told", soak.ledger.lost()
    for prefix in ("refused: ", "connections: ", "above the limit, ", "fault: "):
        yield from sorted((name, count) for name, count in counts.items() if name.startswith(prefix))
    yield "keys in Redis at rest", counts["keys"]
    for node in soak.nodes:
        memory = f"{node.memory[0] / 1024:.1f} → {node.memory[-1] / 1024:.1f}" if node.memory else "?"
        yield f"memory of {node.name}, MB, {len(node.memory) * SAMPLE:.0f} s", memory
    yield "seconds to come to rest", f"{soak.settled_in:.1f}"
    for name in NEVER:
        yield name, counts[name]


async def soaked(minutes: float, seed: str, pace: float, logs: Path | None = None) -> Soak:
    """Run a soak and return it; the nodes' logs stay in ``logs``, if that is given."""
    async with AsyncExitStack() as stack:
        directory = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        redis = await stack.enter_async_context(RedisServer())
        soak = Soak(redis, directory, seed)
        for node in soak.nodes:
            stack.callback(node.kill)
        await soak.run(minutes * 60, pace)
        if minutes >= LONG:
            soak.judge_memory()
        return soak


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Soak three nodes on one Redis, with faults, and check the promises.")
    parser.add_argument("--minutes", type=float, default=1, help="how long there is trouble (1)")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="of what is done and when (by chance)")
    parser.add_argument("--no-nemesis", action="store_true", help="without faults")
    parser.add_argument("--pace", type=float, default=2.5, help="seconds from fault to fault, on average (2.5)")
    parser.add_argument("--logs", type=Path, help="a directory for the nodes' logs")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    soak = asyncio.run(soaked(asked.minutes, asked.seed, 0.0 if asked.no_nemesis else asked.pace, asked.logs))
    print(table(rows(soak)))
    for violation in soak.ledger.violations[:10]:
        print(f"\n{violation}")
    if len(soak.ledger.violations) > 10:
        print(f"\n… and {len(soak.ledger.violations) - 10} more")
    return 1 if soak.ledger.violations else 0


if __name__ == "__main__":
    sys.exit(main())
