"""Use all features of the protocol at random, over real sockets, and check what each connection receives.

::

    python tests/support/feature_soak.py [--minutes M] [--seed N] [--embedded] [--no-faults] [--logs DIR]

Users with several connections join with random options, send with and without keys, edit, delete, type, mark rooms as
read, read the history, leave, lose their connections and resume. They are on two nodes with one Redis, or on one node
with the embedded broker. Nodes are killed, restarted and stopped for a moment, and the nodes' connections to Redis are
cut. No data is lost in Redis. The soak checks for each connection:

- Stored events arrive once and in order between joins, and none is missing without ``resync`` or ``recovered: false``.
- The newest events of a join with ``last`` follow it at once, and live events follow them without a gap.
- Pages of history are consecutive, equal the events that others received, and never overtake live events.
- ``key`` is the one that was sent, and a command that is repeated with its key publishes nothing.
- Events that are not stored have no id. A connection receives nothing of a room that it is not in.
- ``unread`` is the number of messages after the mark. Each request has one reply.

The exit status is 1 if a check fails. ``soak.py`` tests losses of data instead.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
from feature_client import ROOMS, Client, Phase
from feature_record import PRINTED, Record, parse
from redis.exceptions import RedisError
from redis_servers import RedisServer
from shell import API_KEY, SECRET
from soak_nodes import Node

HISTORY_SIZE = 150
USERS = 6
CONNECTIONS = 3
#: How long the system may take to come to rest, in seconds.
REST = 40.0


class Soak:
    """The nodes, the record and the faults."""

    def __init__(self, nodes: list[Node], redis: RedisServer | None, seed: str) -> None:
        self.nodes = nodes
        self.redis = redis
        self._seed = seed
        self._phase = Phase()
        self.record = Record(HISTORY_SIZE)
        self.clients = [
            Client(self.record, self._phase, nodes, user, f"u{user}.{n}", seed, repeats=redis is not None)
            for user in range(1, USERS + 1)
            for n in range(1, CONNECTIONS + 1)
        ]

    async def run(self, seconds: float, faults: bool) -> None:
        """Run for ``seconds``, come to rest, and check."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        clients = [asyncio.create_task(client.run()) for client in self.clients]
        end = time.monotonic() + seconds
        chance = random.Random(f"{self._seed} faults")
        while time.monotonic() < end:
            await asyncio.sleep(min(chance.uniform(1, 5), max(end - time.monotonic(), 0)))
            if faults and time.monotonic() < end:
                await self._cause_fault(chance)
        self._phase.is_calm = True
        await self._rest()
        self._phase.is_over = True
        await asyncio.gather(*clients)
        self.record.check_end()
        for node in self.nodes:
            await node.stop()
            for traceback in node.tracebacks():
                self.record.problem("traceback", f"{node.name}:\n{traceback}")

    async def _cause_fault(self, chance: random.Random) -> None:
        node = chance.choice(self.nodes)
        kind = chance.choice(("kill", "restart", "stop", "cut", "cut"))
        self.record.counts[f"fault: {kind}"] += 1
        if kind == "kill":
            node.kill()
            await asyncio.sleep(chance.uniform(0, 2))
            await node.start()
        elif kind == "restart":
            await node.stop()
            await node.start()
        elif kind == "stop":
            node.signal(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0.1, 1))
            node.signal(signal.SIGCONT)
        elif self.redis is not None:
            with suppress(RedisError, OSError):
                await self.redis("CLIENT", "KILL", "TYPE", chance.choice(("pubsub", "normal")))

    async def _rest(self) -> None:
        """Wait until each connection has the last event of its rooms and the correct members."""
        deadline = time.monotonic() + REST
        problems = ["not checked"]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while problems and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
                problems = await self._find_unrest(session)
        for problem in problems:
            self.record.problem("not at rest", problem)

    async def _find_unrest(self, session: aiohttp.ClientSession) -> list[str]:
        problems = []
        for node, room in itertools.product(self.nodes, ROOMS):
            _, history = await node.call(session, "GET", f"/api/v1/rooms/{room}/history?limit=1")
            _, listed = await node.call(session, "GET", f"/api/v1/rooms/{room}/members")
            members = {member["user_id"] for member in listed["members"]}
            epoch, newest = parse(history["last_id"])
            for client in self.clients:
                view = client.views[room]
                if not view.is_member or view.changing:
                    problems.append(f"{client.name} is not in {room}")
                elif view.next is not None and (view.epoch, view.next) != (epoch, newest + 1):
                    problems.append(f"{client.name} is at {view.epoch}-{view.next} of {room}, {newest} is the last")
                elif view.members is not None and view.members != members:
                    problems.append(f"{client.name} sees {view.members} in {room}, {members} are there")
        return problems


async def run_soak(minutes: float, seed: str, *, embedded: bool, faults: bool, logs: Path | None) -> Soak:
    """Run a soak and return it."""
    async with AsyncExitStack() as stack:
        directory = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        settings = {
            "HISTORY_SIZE": str(HISTORY_SIZE),
            "MAX_CONNECTIONS_PER_USER": "20",
            "WS_MESSAGE_RATE": "0",
            "WS_BYTE_RATE": "0",
            "WS_MAX_BUFFER": "262144",
            "DRAIN_SECONDS": "0.5",
            "JWT_SECRET": SECRET,
            "API_KEY": API_KEY,
        }
        redis = None
        if not embedded:
            redis = await stack.enter_async_context(RedisServer())
            settings |= {"REDIS_URL": redis.url, "REDIS_LEASE": "4", "REDIS_TIMEOUT": "2"}
        nodes = [Node(f"node {n}", directory, settings) for n in range(1, 2 if embedded else 3)]
        for node in nodes:
            stack.callback(node.kill)
        soak = Soak(nodes, redis, seed)
        await soak.run(minutes * 60, faults)
        return soak


def main() -> int:
    """Run the soak that the command line describes."""
    parser = argparse.ArgumentParser(description="Use all features at random over real sockets, and check them.")
    parser.add_argument("--minutes", type=float, default=1, help="how long (1)")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="seed of all choices (random)")
    parser.add_argument("--embedded", action="store_true", help="one node with the embedded broker")
    parser.add_argument("--no-faults", action="store_true", help="without faults")
    parser.add_argument("--logs", type=Path, help="an existing directory for the nodes' logs")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    soak = asyncio.run(
        run_soak(
            options.minutes, options.seed, embedded=options.embedded, faults=not options.no_faults, logs=options.logs
        )
    )
    for name, count in sorted(soak.record.counts.items()):
        print(f"{count:>9,}  {name}")
    for kind, problems in soak.record.problems.items():
        print(f"\n{kind}:", *problems[:PRINTED], sep="\n  ")
    return 1 if soak.record.problems else 0


if __name__ == "__main__":
    sys.exit(main())
