"""What befalls the nodes of a soak and their Redis: they are killed, stopped, cut off, and come back."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
from redis.exceptions import RedisError
from redis_servers import RedisServer
from soak_clients import World
from soak_ledger import NEMESIS
from soak_nodes import Node, lost

#: How long the nodes take, after Redis has come back, to say again what they hold, in seconds. Nobody is let in
#: meanwhile; but a node that stands still then says nothing, and one that starts does not know that Redis stood still.
SETTLING = 2.0
#: How long the limit of connections may be exceeded after such a node is there, in seconds.
PARDON = 5.0


class Nemesis:
    """Deals out faults: each kind once, in an order by chance, then all again.

    ``lease`` is the nodes' REDIS_LEASE: no node is stopped for so long that it loses what it holds. The first node is
    never killed, so that its memory tells of the whole run.
    """

    def __init__(self, world: World, redis: RedisServer, lease: float) -> None:
        self._world = world
        self._redis = redis
        self._lease = lease
        self._random = world.random(NEMESIS)
        self._redis_harmed = False
        self._standing = 0
        #: When Redis came back, and when it went on after it stood still, in the loop's time.
        self._redis_back = self._redis_went_on = -math.inf
        self._healing: set[asyncio.Task[None]] = set()
        self._faults: dict[str, Callable[[], Awaitable[bool]]] = {
            "nodes killed": self._kill_node,
            "nodes restarted": self._restart_node,
            "nodes stopped for a while": self._stop_node,
            "Redis killed, all data lost": self._kill_redis,
            "Redis stopped for a while": self._stop_redis,
            "pub/sub clients of Redis killed": self._kill_subscribers,
            "other clients of Redis killed": self._kill_commanders,
            "users disconnected": self._disconnect,
            "users put out of a room": self._kick,
        }

    async def run(self, pace: float) -> None:
        """Do harm every ``pace`` seconds or so, until cancelled."""
        deck: list[str] = []
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pace)
            deck = deck or self._random.sample(list(self._faults), len(self._faults))
            kind = deck.pop()
            if await self._faults[kind]():
                self._world.ledger.counts[f"fault: {kind}"] += 1
            else:
                deck.insert(0, kind)  # later

    async def heal(self) -> None:
        """Wait until what was harmed is back."""
        await asyncio.gather(*self._healing)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _note(self, what: str) -> None:
        self._world.ledger.note(NEMESIS, what)

    def _later(self, seconds: float, cure: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await cure()

        task = asyncio.create_task(wait())
        self._healing.add(task)
        task.add_done_callback(self._healing.discard)

    # Nodes.

    def _victim(self, *, spare_first: bool) -> Node | None:
        """A node that is well, unless all others are harmed."""
        nodes = self._world.nodes[1:] if spare_first else self._world.nodes
        well = [node for node in nodes if not node.harmed]
        if not well or sum(not node.harmed for node in self._world.nodes) < 2:
            return None
        node = self._random.choice(well)
        node.harmed = True
        return node

    async def _kill_node(self) -> bool:
        node = self._victim(spare_first=True)
        if node is None:
            return False
        self._note(f"kill -9 {node.name}")
        node.ends += 1
        node.kill()
        self._revive(node, self._random.uniform(0.3, 1.5 * self._lease))
        return True

    async def _restart_node(self) -> bool:
        node = self._victim(spare_first=True)
        if node is None:
            return False
        self._note(f"restart {node.name} in order")
        node.ends += 1
        if status := await node.stop():
            self._world.ledger.violate("wrong answers", node.name, f"it ended with {status} on SIGTERM")
        self._revive(node, 0.0)
        return True

    def _revive(self, node: Node, seconds: float) -> None:
        async def start() -> None:
            await node.start()
            if self._now() < self._redis_went_on + SETTLING:
                self._world.pardon = max(self._world.pardon, self._now() + PARDON)
            node.harmed = False
            self._note(f"{node.name} listens again")

        self._later(seconds, start)

    async def _stop_node(self) -> bool:
        node = self._victim(spare_first=False)
        if node is None:
            return False
        seconds = self._random.uniform(0.2, 0.5) * self._lease
        self._note(f"stop {node.name} for {seconds:.2f} s")
        node.signal(signal.SIGSTOP)
        self._standing += 1
        if self._now() < self._redis_back + SETTLING:
            self._world.pardon = math.inf

        async def go_on() -> None:
            node.signal(signal.SIGCONT)
            self._standing -= 1
            if self._world.pardon == math.inf and not self._standing:
                self._world.pardon = self._now() + PARDON
            node.harmed = False
            self._note(f"{node.name} goes on")

        self._later(seconds, go_on)
        return True

    # Redis.

    async def _kill_redis(self) -> bool:
        if self._redis_harmed:
            return False
        self._redis_harmed = True
        seconds = self._random.uniform(0, 3)
        self._note(f"kill -9 Redis, for {seconds:.2f} s")
        self._redis.kill()

        async def start() -> None:
            await self._redis.start()
            self._redis_is_back("Redis is back without its data")

        self._later(seconds, start)
        return True

    async def _stop_redis(self) -> bool:
        if self._redis_harmed:
            return False
        self._redis_harmed = True
        seconds = self._random.uniform(0.3, 6)
        self._note(f"stop Redis for {seconds:.2f} s")
        self._redis.pause()

        async def go_on() -> None:
            self._redis.resume()
            self._redis_went_on = self._now()
            self._redis_is_back("Redis goes on")

        self._later(seconds, go_on)
        return True

    def _redis_is_back(self, how: str) -> None:
        self._redis_harmed = False
        self._redis_back = self._now()
        if self._standing:
            self._world.pardon = math.inf
        self._note(how)

    async def _kill_subscribers(self) -> bool:
        return await self._kill_clients("pubsub")

    async def _kill_commanders(self) -> bool:
        return await self._kill_clients("normal")

    async def _kill_clients(self, type: str) -> bool:
        if self._redis_harmed:
            return False
        self._note(f"kill the {type} clients of Redis")
        with suppress(RedisError, OSError):
            return bool(await self._redis("CLIENT", "KILL", "TYPE", type))
        return False

    # An operator.

    async def _disconnect(self) -> bool:
        user = self._random.choice(sorted(self._world.open))
        self._world.disconnected[user] = self._world.disconnected.get(user, 0) + 1
        return await self._order(f"/api/v1/users/{user}/connections")

    async def _kick(self) -> bool:
        tabs = sorted((tab for tabs in self._world.open.values() for tab in tabs), key=lambda tab: tab.name)
        if not tabs:
            return False
        tab = self._random.choice(tabs)
        return await self._order(f"/api/v1/rooms/{self._random.choice(list(tab.views))}/members/{tab.user}")

    async def _order(self, path: str) -> bool:
        node = self._random.choice(self._world.nodes)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            try:
                status, _ = await node.call(session, "DELETE", path)
            except lost:
                return False
        self._note(f"{node.name} answered {status} to DELETE {path}")
        return status == 200
