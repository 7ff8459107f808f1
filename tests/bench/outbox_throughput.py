"""Measure how many rows a second ``roomcast relay`` publishes from an outbox in PostgreSQL, on two CPUs.

::

    python tests/bench/outbox_throughput.py [--rows N] [--rooms N] [--runs N]

PostgreSQL, Redis, a server, a relay and the writer share two CPUs. PostgreSQL and Redis write to disk before they
confirm. A run begins with an empty outbox and ends when all rows were published and deleted. Rows:

- waiting: all rows are in the outbox when the relay starts, as after an outage. The time begins with the first event
  that the relay has published.
- writing: an application inserts the rows in transactions of 100 while the relay publishes. The time begins with the
  first insert.

Columns: rows a second; CPU seconds of the relay, the server, Redis and PostgreSQL. The exit status is 1 if the rooms do
not have exactly the rows, each once and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from outbox import KEEP_ALL, Outbox, Relay
from postgres import PostgresServer
from redis_servers import RedisServer
from shell import Running

COLUMNS = ("rows/s", "relay", "server", "redis", "postgres")
#: The longest time of a run, in seconds.
PATIENCE = 600.0
INSERT = (
    "INSERT INTO roomcast_outbox (type, room, data) SELECT 'task.deleted', 'project:' || n %% %s, "
    "jsonb_build_object('task_id', n) FROM generate_series(%s::int, %s::int) AS n"
)


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process, its children and those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(map(cpu, map(int, children)))


def write(outbox: Outbox, rows: int, rooms: int) -> None:
    """Insert all rows, in transactions of 100."""
    with outbox.connect() as connection:
        for first in range(0, rows, 100):
            connection.execute(INSERT, (rooms, first, min(first + 99, rows - 1)))
            connection.commit()


async def check(redis: RedisServer, rows: int, rooms: int) -> None:
    """Compare the streams of the rooms with the rows."""
    async with redis.client() as client:
        for room in range(rooms):
            entries = await client.xrange(f"{{roomcast:project:{room}}}:s")
            found = [json.loads(fields["p"])["data"]["task_id"] for _, fields in entries]
            if found != list(range(room, rows, rooms)):
                sys.exit(f"room {room} has {len(found)} events, not all rows once and in order")


async def measure(postgres: PostgresServer, name: str, rows: int, rooms: int) -> list[float]:
    """Return the figures of one run."""
    outbox = Outbox(postgres.create_database())
    writer = threading.Thread(target=write, args=(outbox, rows, rooms))
    async with RedisServer(appendonly="yes", appendfsync="always") as redis:
        with Running(REDIS_URL=redis.url, **KEEP_ALL) as server:
            if name == "waiting":
                writer.start()
                writer.join()
            with Relay(server.url, "--postgres", outbox.dsn) as relay:
                relay.works()
                pids = (relay.process.pid, server.process.pid, redis.pid, postgres.pid)
                before = [cpu(pid) for pid in pids]
                if name == "waiting":
                    while not (await relay.metrics())["roomcast_relay_published_total"]:
                        await asyncio.sleep(0.01)
                begun = time.monotonic()
                if name == "writing":
                    writer.start()
                published = 0.0
                while published < rows:
                    await asyncio.sleep(0.05)
                    published = (await relay.metrics())["roomcast_relay_published_total"]
                    if time.monotonic() > begun + PATIENCE:
                        sys.exit(f"only {published:.0f} rows were published")
                await outbox.is_empty()
                seconds = time.monotonic() - begun
                used = [cpu(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
        await check(redis, rows, rooms)
    return [rows / seconds, *used]


async def main() -> None:
    """Measure both rows, and print the medians and the first figure of each run."""
    parser = argparse.ArgumentParser(description="Measure how many rows a second a relay publishes.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    postgres = PostgresServer(fsync="on")
    try:
        postgres.start()
        print(f"{'':8}", *(f"{column:>10}" for column in COLUMNS))
        for name in ("waiting", "writing"):
            runs = [await measure(postgres, name, options.rows, options.rooms) for _ in range(options.runs)]
            medians = [statistics.median(figures) for figures in zip(*runs, strict=True)]
            shown = ", ".join(f"{rate:,.0f}" for rate, *_ in runs)
            print(f"{name:8}", *(f"{figure:10,.1f}" for figure in medians), f"  [{shown}]", flush=True)
    finally:
        postgres.close()


if __name__ == "__main__":
    asyncio.run(main())
