"""An outbox in PostgreSQL, the processes that publish it, and the events that arrived, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import psycopg
from serving import KEY, Listening
from shell import API_KEY, PATIENCE, Process
from waiting import wait_until

from roomcast.relay import schema
from roomcast.relay.metrics import RelayMetrics
from roomcast.relay.publisher import Publisher
from roomcast.web.server import Server

#: A history that keeps all events of a test.
KEEP_ALL = {"HISTORY_SIZE": "1000000", "HISTORY_BYTES": "1000000000"}


class Outbox:
    """The outbox in the database at ``dsn``."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with self.connect() as connection:
            connection.execute(schema.CREATE)

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection, which commits at the end of its ``with`` block."""
        return psycopg.connect(self.dsn)

    def write(self, *rows: tuple[str, int], **columns: Any) -> None:
        """Write an event for each room and number, in one transaction."""
        with self.connect() as connection:
            insert(connection, *rows, **columns)

    def query(self, statement: str, *parameters: Any) -> list[Any]:
        """Return the rows of a query."""
        with self.connect() as connection:
            return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type, unused-ignore]

    def drop_notifications(self) -> None:
        """Remove the trigger that wakes the relay, as docs/outbox.md says."""
        with self.connect() as connection:
            connection.execute("DROP TRIGGER roomcast_outbox_notify ON roomcast_outbox")

    def count(self, table: str = schema.TABLE) -> int:
        """Return the number of rows."""
        return self.query(f"SELECT count(*) FROM {table}")[0][0]

    async def is_empty(self, patience: float = PATIENCE) -> None:
        """Wait until all rows are published or set aside."""

        async def is_true() -> bool:
            return await asyncio.to_thread(self.count) == 0

        await wait_until(is_true, "the outbox is empty", patience=patience)


def insert(connection: psycopg.Connection[Any], *rows: tuple[str, int], **columns: Any) -> None:
    """Write an event for each room and number in the transaction of ``connection``."""
    names = ["type", "room", "data", *columns]
    places = ", ".join(["%s"] * len(names))
    statement = f"INSERT INTO {schema.TABLE} ({', '.join(names)}) VALUES ({places})"
    with connection.cursor() as cursor:
        values = [("task.deleted", room, json.dumps({"task_id": number}), *columns.values()) for room, number in rows]
        cursor.executemany(statement, values)  # type: ignore[arg-type, unused-ignore]


class LocalRelay:
    """A relay in this process. ``cancel`` ends it without the time to finish, as a kill does."""

    def __init__(self, server: Listening, source: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self.stop = asyncio.Event()
        self.numbers = RelayMetrics()
        self._key_ttl = 300.0
        self._url = f"http://127.0.0.1:{server.port}"
        self._source, self._args = source, args

    async def run(self, api_key: str = KEY) -> None:
        """Publish until ``stop`` is set."""
        async with Publisher(self._url, api_key, self._key_ttl, self.numbers) as publisher:
            await self._source(*self._args, publisher, self.numbers, self.stop)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        return self.numbers.registry.get_sample_value(f"roomcast_relay_{name}", labels) or 0.0


@asynccontextmanager
async def relaying(
    server: Listening, source: Callable[..., Coroutine[Any, Any, None]], *args: Any, api_key: str = KEY
) -> AsyncIterator[LocalRelay]:
    """Run a relay in this process; at the end it is cancelled, or was stopped with ``stop``."""
    relay = LocalRelay(server, source, *args)
    task = asyncio.create_task(relay.run(api_key))
    try:
        connected = asyncio.create_task(wait_until(lambda: relay.metric("connected"), "the relay is connected"))
        await asyncio.wait([task, connected], return_when=asyncio.FIRST_COMPLETED)
        connected.cancel()
        yield relay
    finally:
        if not relay.stop.is_set():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def stored(server: Server, room: str) -> list[int]:
    """Return the numbers of the events that ``server`` has stored in ``room``, in the order of the room."""
    return [number for number, _ in await stored_with_keys(server, room)]


async def stored_with_keys(server: Server, room: str) -> list[tuple[int, str]]:
    """Return the numbers and keys of the events that ``server`` has stored in ``room``."""
    events: list[dict[str, Any]] = []
    page = await server.gateway.broker.history(room)
    if page.events:
        page = await server.gateway.broker.history(room, page.last_id.rsplit("-", 1)[0] + "-0")
    while True:
        events += [json.loads(event.payload) for event in page.events]
        if page.cursor is None:
            return [(event["data"]["task_id"], event["key"]) for event in events]
        page = await server.gateway.broker.history(room, page.cursor)


class Relay(Process):
    """A process of ``roomcast relay`` that publishes to the server at ``url``."""

    def __init__(self, url: str, *args: str, **variables: str) -> None:
        super().__init__(
            "relay", "--metrics", "127.0.0.1:0", *args, **{"API_KEY": API_KEY, "ROOMCAST_URL": url, **variables}
        )

    def works(self, times: int = 1) -> None:
        """Wait until it has logged ``times`` times that it works."""
        self.wait_for("the relay works on", self.err, times=times)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.ended()

    async def metrics(self) -> dict[str, float]:
        """Return its metrics."""
        url = self.wait_for(r"metrics at (\S+)", self.err)[1]
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            text = await response.text()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    async def has(self, name: str, value: float) -> None:
        """Wait until a metric has this value."""

        async def is_true() -> bool:
            return (await self.metrics()).get(f"roomcast_relay_{name}") == value

        await wait_until(is_true, f"{name} is {value}", patience=PATIENCE)
