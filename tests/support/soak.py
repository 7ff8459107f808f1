"""Run three nodes on one Redis under random faults, and check the guarantees.

::

    python tests/support/soak.py [--minutes M] [--seed N] [--no-nemesis] [--pace S] [--logs DIR]

Members connect, disconnect and resume on any node. Publishers retry with a key until they get a reply. A nemesis kills
nodes and Redis, stops them for seconds and cuts connections. At the end the faults stop, and the system must come to
rest. The soak checks:

- A member misses no acknowledged event of its room, unless a ``resync`` or ``recovered: false`` reports the loss. This
  is checked against what all members and publishers have seen.
- Neither is sent without need: only if the room has lost data in Redis, which the files of Redis show, or if more
  events were missed than the history keeps. All nodes return the same history, which contains the acknowledged events.
- A member receives no event twice or out of order, over all its connections, and none of a room that it is not in.
  Nothing is published twice. No connection ends without a cause.
- No user has more connections than the limit, over all nodes. A slot is free again after the lease of its node.
- At rest, every node returns the correct members of each room. After the nodes ended, Redis has no key without expiry.
- No log contains a traceback. In runs of at least ``MEMORY_CHECK_MINUTES`` minutes, memory does not grow.

The exit status is 1 if any check fails. Each violation is printed with the notes that preceded it. The same seed gives
the same plans and faults, but not the same timing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from soak_backend import Backend
from soak_ledger import NEMESIS, EventId, Ledger, table
from soak_nemesis import Nemesis
from soak_nodes import SAMPLE, Node
from soak_tab import Tab
from soak_world import PERSISTENCE, OpenTab, World

NODES = 3
LEASE = 4.0
LIMIT = 2
HISTORY_SIZE = 100
ROOMS = tuple(f"channel:{number}" for number in range(1, 9))
#: Users with more tabs than the connection limit, and users with one tab.
CROWDED = tuple(range(1, 6))
TABS = 4
SINGLE = tuple(range(6, 26))
BACKENDS = 3
#: How long the system may take to come to rest, in seconds: leases, and the check of quiet rooms every 20 s.
REST = 35.0
#: Memory is checked in runs of at least this many minutes.
MEMORY_CHECK_MINUTES = 3.0
#: The memory after this many seconds is the baseline, and the factor by which it may grow.
BASELINE_AFTER = 60.0
MAX_GROWTH = 1.3

#: A check at rest: returns pairs of an actor and what is wrong.
Check = Callable[[aiohttp.ClientSession], Awaitable[list[tuple[str, str]]]]


class Soak:
    """One run on ``redis``. The nodes' logs are written to ``directory``."""

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
        plan = self.world.random("plan")
        users = [user for user in CROWDED for _ in range(TABS)] + list(SINGLE)
        self.tabs = [
            Tab(self.world, f"tab {number}", user, plan.sample(ROOMS, 3), publishes=number % 3 == 0)
            for number, user in enumerate(users)
        ]
        rooms = [*ROOMS, *(f"user:{user}" for user in CROWDED)]
        self.backends = [Backend(self.world, f"backend {number}", rooms) for number in range(BACKENDS)]
        self.nemesis = Nemesis(self.world, redis, LEASE)
        self.seconds_to_rest = 0.0

    async def run(self, seconds: float, pace: float) -> None:
        """Run for ``seconds``, with a fault every ``pace`` seconds (0: none), then stop the faults and check."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample_memory())
            tabs = [group.create_task(tab.run()) for tab in self.tabs]
            backends = [group.create_task(backend.run()) for backend in self.backends]
            await self._cause_faults(seconds, pace)
            await self._come_to_rest(backends)
            sampling.cancel()
            self.world.over.set()
            await asyncio.wait(tabs)
        await self._check_end()

    async def _sample_memory(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            for node in self.nodes:
                node.sample_memory()

    async def _cause_faults(self, seconds: float, pace: float) -> None:
        faults = asyncio.create_task(self.nemesis.run(pace)) if pace else None
        await asyncio.sleep(seconds)
        if faults is not None:
            faults.cancel()
            await asyncio.wait([faults])
            if not faults.cancelled():
                faults.result()
        await self.nemesis.recover()
        self.ledger.note(NEMESIS, "all faults are over")

    # Checks at rest

    async def _come_to_rest(self, backends: list[asyncio.Task[None]]) -> None:
        """End publishing, let every member join its rooms, and wait until all checks pass."""
        self.world.publishing = False
        await asyncio.wait(backends)
        deadline = time.monotonic() + PERSISTENCE
        while not all(tab.is_idle for tab in self.tabs) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self.world.calm.set()
        start = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for check in (self._check_ready, self._check_connections, self._check_delivered, self._check_presence):
                await self._wait_until_passed(check, session, start + REST)
            self.seconds_to_rest = time.monotonic() - start
            await self._check_histories(session)
        for tab in self.tabs:
            for view in (tab.personal, *tab.views.values()):
                view.check_losses()
        if self.world.checks:
            await asyncio.wait(self.world.checks)

    async def _wait_until_passed(self, check: Check, session: aiohttp.ClientSession, deadline: float) -> None:
        """Repeat ``check`` until it finds nothing. What it finds after the ``deadline`` is a violation."""
        while problems := await check(session):
            if time.monotonic() > deadline:
                for actor, problem in problems:
                    self.ledger.violate("not at rest", actor, problem)
                return
            await asyncio.sleep(0.1)

    async def _check_ready(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Check that every node reports that it is ready."""
        replies = [(node, await node.call(session, "GET", "/health/ready")) for node in self.nodes]
        return [(node.name, f"it is not ready: {reply}") for node, (status, reply) in replies if status != 200]

    async def _check_connections(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Check that each user has as many connections as allowed, and that each is in all its rooms."""
        problems = []
        for user in (*CROWDED, *SINGLE):
            tabs = [tab for tab in self.tabs if tab.user == user]
            count = len(self.world.open.get(user, ()))
            if count != min(len(tabs), LIMIT):
                problems.append((f"user {user}", f"it has {count} connections and {len(tabs)} tabs"))
            problems += [(tab.name, "it is not in all its rooms") for tab in self._open() if not tab.is_in_all_rooms]
        return problems

    def _open(self) -> list[OpenTab]:
        return [tab for tabs in self.world.open.values() for tab in tabs]

    async def _check_delivered(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Check that each member received the last event of its rooms, according to every node."""
        problems = []
        for node in self.nodes:
            for room in {view.room for tab in self._open() for view in (tab.personal, *tab.views.values())}:
                _, reply = await node.call(session, "GET", f"/api/v1/rooms/{room}/history?limit=1")
                last = EventId.parse(reply["last_id"])
                for tab in self._open():
                    view = tab.personal if room == tab.personal.room else tab.views.get(room)
                    if view is not None and not (view.last and self.ledger.is_at(room, view.last, last)):
                        what = f"missing: its last event of {room} is {view.last}, that of {node.name} is {last}"
                        problems.append((tab.name, what))
        return problems

    async def _check_presence(self, session: aiohttp.ClientSession) -> list[tuple[str, str]]:
        """Check that every node lists the members of each room, with their number of connections."""
        problems = []
        for node in self.nodes:
            _, listed = await node.call(session, "GET", "/api/v1/rooms")
            for room in ROOMS:
                expected: dict[int, int] = {}
                for tab in self._open():
                    if room in tab.views and tab.views[room].is_member:
                        expected[tab.user] = expected.get(tab.user, 0) + 1
                _, reply = await node.call(session, "GET", f"/api/v1/rooms/{room}/members")
                members = {member["user_id"]: member["connections"] for member in reply["members"]}
                if members != expected:
                    problems.append((node.name, f"in {room} it lists {members}, but {expected} is correct"))
                count = {entry["room"]: entry["members"] for entry in listed["rooms"]}.get(room, 0)
                if count != len(expected):
                    problems.append((node.name, f"it lists {room} with {count} members, but has {len(expected)}"))
        return problems

    async def _check_histories(self, session: aiohttp.ClientSession) -> None:
        for node in self.nodes:
            for room in (*ROOMS, *(f"user:{user}" for user in CROWDED)):
                _, reply = await node.call(session, "GET", f"/api/v1/rooms/{room}/history?limit=1000")
                self.ledger.check_history(room, node.name, reply["events"], reply["last_id"])

    # Checks at the end

    async def _check_end(self) -> None:
        """Check the keys in Redis, stop the nodes, and check their exit status, logs and remaining keys."""
        await self._check_expiries()
        for node, status in zip(self.nodes, await asyncio.gather(*(node.stop() for node in self.nodes)), strict=True):
            if status:
                self.ledger.violate("wrong answers", node.name, f"it ended with {status} on SIGTERM")
            for traceback in node.tracebacks():
                self.ledger.violate("tracebacks", node.name, f"its log contains:\n{traceback}")
        async with self.redis.client() as client:
            left = [key async for key in client.scan_iter("*:n")]
            # Leases have positive scores; the times of a user who is offline have negative ones.
            left += [key async for key in client.scan_iter("*:l") if await client.zcount(key, 0, "+inf")]
            async for key in client.scan_iter("*:p"):  # users within the grace have no connections
                users = (await client.hgetall(key)).values()
                left += [key for user in users if json.loads(user)["nodes"]]
        if left:
            self.ledger.violate("left behind", "nodes", f"after a shutdown they left {sorted(left)[:10]}")

    async def _check_expiries(self) -> None:
        async with self.redis.client() as client:
            keys = [key async for key in client.scan_iter("*")]
            self.ledger.counts["keys"] = len(keys)
            permanent = [key for key in keys if await client.ttl(key) == -1]
        if permanent:
            self.ledger.violate("left behind", "Redis", f"keys without an expiry: {sorted(permanent)[:10]}")

    def check_memory(self) -> None:
        """Check that the memory of the first node, which is never killed, did not grow after the first minute."""
        first = int(BASELINE_AFTER / SAMPLE)
        samples = self.nodes[0].memory
        before, after = (statistics.median(some) for some in (samples[first : first + 10], samples[-10:]))
        if after > MAX_GROWTH * before:
            what = f"it grew from {before / 1024:.1f} MB after {BASELINE_AFTER:g} s to {after / 1024:.1f} MB"
            self.ledger.violate("memory", self.nodes[0].name, f"{what}, by more than the factor {MAX_GROWTH:g}")


#: The counts that must be 0.
VIOLATIONS = (
    *("missing", "doubles", "published twice", "two events of one id", "out of order", "foreign room"),
    *("needless resync", "above the limit", "closed without cause", "wrong answers", "not at rest", "left behind"),
    *("tracebacks", "memory"),
)


def rows(soak: Soak) -> Iterator[tuple[str, object]]:
    """Yield the rows of the printed table."""
    counts = soak.ledger.counts
    for name in ("published", "acknowledged", "retried", "given up", "delivered", "connections"):
        yield name, counts[name]
    for name in ("resumes", "recovered", "recovered in a newer epoch", "not recovered", "resync"):
        yield name, counts[name]
    yield "epochs of all rooms", soak.ledger.epochs
    yield "rooms that lost data", counts["rooms that lost data"]
    yield "acknowledged, lost with Redis and reported", soak.ledger.lost()
    yield "lost without notice, tolerated", counts["lost without notice, tolerated"]
    for prefix in ("refused: ", "connections: ", "above the limit, ", "fault: "):
        yield from sorted((name, count) for name, count in counts.items() if name.startswith(prefix))
    yield "keys in Redis at rest", counts["keys"]
    for node in soak.nodes:
        memory = f"{node.memory[0] / 1024:.1f} → {node.memory[-1] / 1024:.1f}" if node.memory else "?"
        yield f"memory of {node.name}, MB, {len(node.memory) * SAMPLE:.0f} s", memory
    yield "seconds to come to rest", f"{soak.seconds_to_rest:.1f}"
    for name in VIOLATIONS:
        yield name, counts[name]


async def run_soak(minutes: float, seed: str, pace: float, logs: Path | None = None) -> Soak:
    """Run a soak and return it. Keeps the nodes' logs if ``logs`` is given."""
    async with AsyncExitStack() as stack:
        directory = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        redis = await stack.enter_async_context(RedisServer(appendonly="yes", appendfsync="always"))
        soak = Soak(redis, directory, seed)
        for node in soak.nodes:
            stack.callback(node.kill)
        await soak.run(minutes * 60, pace)
        if minutes >= MEMORY_CHECK_MINUTES:
            soak.check_memory()
        return soak


def main() -> int:
    """Run the soak that the command line describes."""
    parser = argparse.ArgumentParser(description="Run three nodes on one Redis under faults, and check the guarantees.")
    parser.add_argument("--minutes", type=float, default=1, help="how long there are faults (1)")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="seed of plans and faults (random)")
    parser.add_argument("--no-nemesis", action="store_true", help="without faults")
    parser.add_argument("--pace", type=float, default=2.5, help="average seconds between faults (2.5)")
    parser.add_argument("--logs", type=Path, help="an existing directory for the nodes' logs")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    pace = 0.0 if options.no_nemesis else options.pace
    soak = asyncio.run(run_soak(options.minutes, options.seed, pace, options.logs))
    print(table(rows(soak)))
    for violation in soak.ledger.violations[:10]:
        print(f"\n{violation}")
    if len(soak.ledger.violations) > 10:
        print(f"\n… and {len(soak.ledger.violations) - 10} more")
    return 1 if soak.ledger.violations else 0


if __name__ == "__main__":
    sys.exit(main())
