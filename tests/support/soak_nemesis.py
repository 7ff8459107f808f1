"""The faults of a soak: nodes and Redis are killed, stopped or disconnected, and recover."""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from redis.exceptions import RedisError
from redis_servers import RedisServer
from soak_ledger import NEMESIS, REPORT_TIME, Incident
from soak_nodes import CALL_ERRORS, Node
from soak_world import World

_T = TypeVar("_T")
#: How long the nodes take to register their leases again after Redis has returned, in seconds. Nodes refuse
#: connections meanwhile, except a node that was stopped, and one that starts after Redis was stopped without data loss.
GRACE = 2.0
#: How long the connection limit may be exceeded after such a node continues or starts, in seconds.
TOLERANCE = 5.0


class Nemesis:
    """Causes faults in random order: each kind once, then all again.

    ``lease`` is the nodes' REDIS_LEASE. No node is stopped for so long that its leases expire. The first node is never
    killed, so that its memory covers the whole run.
    """

    def __init__(self, world: World, redis: RedisServer, lease: float) -> None:
        self._world = world
        self._redis = redis
        self._lease = lease
        self._random = world.random(NEMESIS)
        self._redis_is_faulty = False
        #: The number of nodes that are stopped by SIGSTOP.
        self._stopped_nodes = 0
        #: When Redis returned from any fault, and when it last resumed after a stop, in the loop's time.
        self._redis_returned = self._redis_resumed = -math.inf
        self._recoveries: set[asyncio.Task[Any]] = set()
        #: The losses of data that nodes may still have to report.
        self._incidents: list[Incident] = []
        #: When a node last ended.
        self._node_ended = -math.inf
        self._faults: dict[str, Callable[[], Coroutine[Any, Any, bool]]] = {
            "nodes killed": self._kill_node,
            "nodes restarted": self._restart_node,
            "nodes stopped for a while": self._stop_node,
            "Redis killed, nothing lost": self._kill_redis,
            "Redis killed, newest data lost": self._lose_newest_data,
            "Redis killed, all data lost": self._lose_all_data,
            "Redis stopped for a while": self._stop_redis,
            "pub/sub clients of Redis killed": self._kill_subscribers,
            "other clients of Redis killed": self._kill_other_clients,
            "users disconnected": self._disconnect_user,
            "users kicked from a room": self._kick_user,
        }

    async def run(self, pace: float) -> None:
        """Cause a fault every ``pace`` seconds on average, until cancelled."""
        deck: list[str] = []
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pace)
            deck = deck or self._random.sample(list(self._faults), len(self._faults))
            kind = deck.pop()
            fault = self._track(self._faults[kind]())
            if await asyncio.shield(fault):  # a fault that has begun must also end
                self._world.ledger.counts[f"fault: {kind}"] += 1
            else:
                deck.insert(0, kind)  # not possible now

    async def recover(self) -> None:
        """Wait until the effects of all faults are over."""
        while self._recoveries:
            await asyncio.gather(*self._recoveries)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _note(self, what: str) -> None:
        self._world.ledger.note(NEMESIS, what)

    def _after(self, seconds: float, recovery: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await recovery()

        self._track(wait())

    def _track(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task for which ``recover`` waits."""
        task = asyncio.create_task(work)
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)
        return task

    def _tolerate_until(self, end: float) -> None:
        self._world.tolerance_ends = end

    # Nodes

    def _choose_node(self, *, skip_first: bool) -> Node | None:
        """Choose a node for a fault, and mark it. Returns None if fewer than two nodes are without a fault."""
        nodes = self._world.nodes[1:] if skip_first else self._world.nodes
        candidates = [node for node in nodes if not node.is_faulty]
        if not candidates or sum(not node.is_faulty for node in self._world.nodes) < 2:
            return None
        node = self._random.choice(candidates)
        node.is_faulty = True
        return node

    async def _kill_node(self) -> bool:
        node = self._choose_node(skip_first=True)
        if node is None:
            return False
        self._note(f"kill -9 {node.name}")
        node.shutdowns += 1
        self._on_node_ends()
        node.kill()
        self._start_after(node, self._random.uniform(0.3, 1.5 * self._lease))
        return True

    async def _restart_node(self) -> bool:
        node = self._choose_node(skip_first=True)
        if node is None:
            return False
        self._note(f"restart {node.name}")
        node.shutdowns += 1
        self._on_node_ends()
        if status := await node.stop():
            self._world.ledger.violate("wrong answers", node.name, f"it ended with {status} on SIGTERM")
        self._start_after(node, 0.0)
        return True

    def _on_node_ends(self) -> None:
        self._node_ended = self._now()
        for incident in self._incidents:
            incident.nodes_ended = True

    def _start_after(self, node: Node, seconds: float) -> None:
        async def start() -> None:
            await node.start()
            if self._now() < self._redis_resumed + GRACE:
                self._tolerate_until(max(self._world.tolerance_ends, self._now() + TOLERANCE))
            node.is_faulty = False
            self._note(f"{node.name} listens again")

        self._after(seconds, start)

    async def _stop_node(self) -> bool:
        node = self._choose_node(skip_first=False)
        if node is None:
            return False
        seconds = self._random.uniform(0.2, 0.5) * self._lease
        self._note(f"stop {node.name} for {seconds:.2f} s")
        node.signal(signal.SIGSTOP)
        self._stopped_nodes += 1
        if self._now() < self._redis_returned + GRACE:
            self._tolerate_until(math.inf)

        async def resume() -> None:
            node.signal(signal.SIGCONT)
            self._stopped_nodes -= 1
            if self._world.tolerance_ends == math.inf and not self._stopped_nodes:
                self._tolerate_until(self._now() + TOLERANCE)
            node.is_faulty = False
            self._note(f"{node.name} resumes")
            self._expect_reports()

        self._after(seconds, resume)
        return True

    # Redis

    async def _kill_redis(self) -> bool:
        """Kill Redis. It has written everything that it has acknowledged, so nothing is lost."""
        if self._redis_is_faulty:
            return False
        self._redis_is_faulty = True
        self._kill_for(self._random.uniform(0, 3), "all its data")
        return True

    async def _lose_newest_data(self) -> bool:
        """Kill Redis, and start it with its files of a moment before, as if its machine had failed."""
        if self._redis_is_faulty:
            return False
        self._redis_is_faulty = True
        began = self._now()
        copy = await self._redis.copy_data()
        await asyncio.sleep(self._random.uniform(0.05, 1))
        await self._lose_data(began, copy)
        return True

    async def _lose_all_data(self) -> bool:
        if self._redis_is_faulty:
            return False
        self._redis_is_faulty = True
        await self._lose_data(self._now(), None)
        return True

    async def _lose_data(self, began: float, copy: Path | None) -> None:
        seconds = self._random.uniform(0, 3)
        self._redis.kill()
        before = await _read_rooms(self._redis.directory / "appendonlydir")
        after = {} if copy is None else await _read_rooms(copy)
        self._redis.lose_data(copy)
        lost = sorted(room for room, state in before.items() if after.get(room) != state)
        incident = self._world.ledger.lost_data(lost)
        incident.nodes_ended = self._node_ended >= began
        self._incidents.append(incident)
        self._kill_for(seconds, f"without data of {lost}", incident)

    def _kill_for(self, seconds: float, how: str, incident: Incident | None = None) -> None:
        self._note(f"kill -9 Redis, for {seconds:.2f} s")
        self._redis.kill()

        async def start() -> None:
            if incident is not None:
                incident.at = time.monotonic()
            await self._redis.start()
            self._on_redis_returned(f"Redis is back with {how}" if incident is None else f"Redis is back {how}")
            self._expect_reports()

        self._after(seconds, start)

    def _expect_reports(self) -> None:
        """Set the time by which all losses are reported, unless a node or Redis is stopped."""
        if self._redis_is_faulty or self._stopped_nodes:
            return
        for incident in self._incidents:
            incident.reported_by = time.monotonic() + REPORT_TIME
        self._incidents.clear()

    async def _stop_redis(self) -> bool:
        if self._redis_is_faulty:
            return False
        self._redis_is_faulty = True
        seconds = self._random.uniform(0.3, 6)
        self._note(f"stop Redis for {seconds:.2f} s")
        self._redis.pause()

        async def resume() -> None:
            self._redis.resume()
            self._redis_resumed = self._now()
            self._on_redis_returned("Redis resumes")

        self._after(seconds, resume)
        return True

    def _on_redis_returned(self, how: str) -> None:
        self._redis_is_faulty = False
        self._redis_returned = self._now()
        if self._stopped_nodes:
            self._tolerate_until(math.inf)
        self._note(how)

    async def _kill_subscribers(self) -> bool:
        return await self._kill_clients("pubsub")

    async def _kill_other_clients(self) -> bool:
        return await self._kill_clients("normal")

    async def _kill_clients(self, type: str) -> bool:
        if self._redis_is_faulty:
            return False
        self._note(f"kill the {type} clients of Redis")
        with suppress(RedisError, OSError):
            return bool(await self._redis("CLIENT", "KILL", "TYPE", type))
        return False

    # The operator

    async def _disconnect_user(self) -> bool:
        user = self._random.choice(sorted(self._world.open))
        self._world.disconnected[user] = self._world.disconnected.get(user, 0) + 1
        return await self._delete(f"/api/v1/users/{user}/connections")

    async def _kick_user(self) -> bool:
        tabs = sorted((tab for tabs in self._world.open.values() for tab in tabs), key=lambda tab: tab.name)
        if not tabs:
            return False
        tab = self._random.choice(tabs)
        return await self._delete(f"/api/v1/rooms/{self._random.choice(list(tab.views))}/members/{tab.user}")

    async def _delete(self, path: str) -> bool:
        node = self._random.choice(self._world.nodes)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            try:
                status, _ = await node.call(session, "DELETE", path)
            except CALL_ERRORS:
                return False
        self._note(f"{node.name} answered {status} to DELETE {path}")
        return status == 200


async def _read_rooms(files: Path) -> dict[str, tuple[str, str]]:
    """Return the epoch and the newest offset of each room, according to a Redis with a copy of these files."""
    server = RedisServer(appendonly="yes")
    shutil.copytree(files, server.directory / "appendonlydir")
    async with server, server.client() as client:
        metas = [key async for key in client.scan_iter(match="{*}:m")]
        return {key.split(":", 1)[1][:-3]: await client.hmget(key, "e", "o") for key in metas}
