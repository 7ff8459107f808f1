"""Publishes the rows of the outbox in PostgreSQL.

A session of the relay has two connections. One has the advisory locks and listens for inserts. On the other, several
lanes read, publish and delete the rows of their partitions. A row is deleted after the API has confirmed it. A relay
that dies in between leaves the row to its successor, whose repeat has the same key. A row is sent only after the
earlier rows of its partition were confirmed, so even a relay that has lost its locks without noticing cannot change the
order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, LiteralString, NamedTuple

import orjson
import psycopg
from psycopg import AsyncConnection, conninfo, errors

from ..backoff import Backoff, wait_at_most
from ..errors import RoomcastError, SettingsError, Unavailable
from . import schema
from .metrics import RelayMetrics
from .outage import first_cause
from .partitions import Partitions
from .publisher import MAX_BYTES, MAX_EVENTS, STOP_TIMEOUT, Publisher, Refusal

log = logging.getLogger("roomcast.relay")

#: How many requests may be in flight, each with rows of other partitions.
LANES: Final = 4
#: How often the partitions are balanced and the table is read without a notification, in seconds.
POLL_INTERVAL: Final = 1.0
#: How often the lag is measured, in seconds.
LAG_INTERVAL: Final = 5.0
#: How often partitions are read from their beginning, in seconds, for rows that were written without the trigger.
FULL_READ_INTERVAL: Final = 60.0
#: How long a statement may take, in seconds. After that the connection counts as dead.
_STATEMENT_TIMEOUT: Final = 60.0

#: A dead relay must be noticed soon by its peers' server, and a dead server by the relay.
_DEFAULTS: Final = {
    "application_name": "roomcast relay",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
_KEEPALIVE: Final = """\
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
set_config('tcp_keepalives_count', '3', false)"""
_NO_TABLE: Final = (
    f"There is no table {schema.TABLE} in this database; create it with the output of "
    "`roomcast relay --print-schema`, or add its schema to the search_path of the user."
)


class Row(NamedTuple):
    """A row of the outbox. ``data`` is JSON text."""

    partition: int
    id: int
    key: str
    type: str
    room: str
    data: str
    sender: str | None

    def encode(self) -> bytes:
        """Return the event as the API expects it."""
        event = {"type": self.type, "room": self.room, "data": orjson.Fragment(self.data), "key": self.key}
        return orjson.dumps(event if self.sender is None else {**event, "sender": self.sender})


async def retry_failed(dsn: str) -> int:
    """Put the rows that were set aside at the end of the outbox again; return their number.

    Raises what ``run`` raises, and ``Unavailable`` if PostgreSQL does not work.
    """
    try:
        async with _connection(dsn) as connection:
            return (await connection.execute(schema.RETRY_FAILED)).rowcount
    except errors.UndefinedTable:
        raise RoomcastError(_NO_TABLE) from None
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise Unavailable("The events cannot be moved now.", f"PostgreSQL does not work: {_reason(error)}.") from error


async def run(dsn: str, publisher: Publisher, metrics: RelayMetrics, stop: asyncio.Event) -> None:
    """Publish rows until ``stop`` is set. Waits for a server that cannot be reached.

    Raises ``SettingsError`` if the DSN is wrong, and ``RoomcastError`` if the table does not exist.
    """
    backoff = Backoff(0.2, 10.0, jitter=0.5)
    while not stop.is_set():
        try:
            async with _connection(dsn) as locks, _connection(dsn) as work:
                session = _Session(locks, work, publisher, metrics, stop)
                await session.start()
                backoff.reset()
                metrics.connected.set(1)
                await session.run()
        except (psycopg.Error, OSError, TimeoutError, ExceptionGroup) as error:
            cause = first_cause(error)
            if isinstance(cause, errors.UndefinedTable):
                raise RoomcastError(_NO_TABLE) from None
            if not isinstance(cause, psycopg.Error | OSError | TimeoutError):
                raise
            pause = backoff.next_pause()
            log.warning("PostgreSQL does not work: %s; the relay tries again in %.1f s", _reason(cause), pause)
            await wait_at_most(stop, pause)
        finally:
            metrics.connected.set(0)
            metrics.partitions.set(0)


def _reason(error: BaseException) -> str:
    """Return the text of an error on one line, without a period."""
    return " ".join(str(error).split()).rstrip(".") or "it has not answered"


@contextlib.asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[AsyncConnection[Any]]:
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its text may contain the password
        raise SettingsError(
            "The value of --postgres is not a DSN such as postgresql://user:password@host/database."
        ) from None
    options = {name: value for name, value in _DEFAULTS.items() if name not in given}
    async with await AsyncConnection.connect(conninfo.make_conninfo(dsn, **options), autocommit=True) as connection:
        await connection.execute(_KEEPALIVE)
        yield connection


class _Session:
    """The work between a connection and its end."""

    def __init__(
        self,
        locks: AsyncConnection[Any],
        work: AsyncConnection[Any],
        publisher: Publisher,
        metrics: RelayMetrics,
        stop: asyncio.Event,
    ) -> None:
        self._locks: Final = locks
        self._work: Final = work
        self._publisher: Final = publisher
        self._metrics: Final = metrics
        self._stop: Final = stop
        #: Set for each lane when there may be new rows or partitions.
        self._wake: Final = [asyncio.Event() for _ in range(LANES)]
        #: The partitions of the rows that each lane is publishing.
        self._busy: Final[list[set[int]]] = [set() for _ in range(LANES)]
        #: The id of the newest row that was published of each partition, since it was read from its beginning.
        self._after: Final[dict[int, int]] = {}

    async def start(self) -> None:
        """Check the table, listen, and take the first partitions."""
        cursor = await self._locks.execute(f"SELECT '{schema.TABLE}'::regclass::oid::int")
        (table,) = await cursor.fetchone() or (0,)
        self._partitions = Partitions(self._locks, table)
        await self._partitions.join()
        await self._locks.execute(f"LISTEN {schema.CHANNEL}")
        await self._balance()
        log.info("the relay works on %d of %d partitions", len(self._partitions.own), schema.PARTITIONS)

    async def run(self) -> None:
        """Publish until ``stop`` is set. Raises the error of a connection that ends, in a group."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            lanes = [group.create_task(self._run_lane(number)) for number in range(LANES)]
            stopping = group.create_task(self._stop.wait())
            await stopping
            self._wake_lanes()
            _, late = await asyncio.wait(lanes, timeout=STOP_TIMEOUT)
            for task in (watching, *late):
                task.cancel()

    def _wake_lanes(self) -> None:
        for event in self._wake:
            event.set()

    async def _watch(self) -> None:
        """Balance the partitions, measure the lag, and wake the lanes on notifications and periodically."""
        loop = asyncio.get_running_loop()
        next_poll, next_lag, next_full_read = 0.0, 0.0, loop.time() + FULL_READ_INTERVAL
        while True:
            now = loop.time()
            if now >= next_full_read:
                next_full_read = now + FULL_READ_INTERVAL
                self._after.clear()
            if now >= next_poll:
                next_poll = now + POLL_INTERVAL
                await self._balance()
            if now >= next_lag:
                next_lag = now + LAG_INTERVAL
                await self._measure_lag()
            self._wake_lanes()
            async for _ in self._locks.notifies(timeout=max(next_poll - loop.time(), 0.01), stop_after=1):
                pass

    async def _balance(self) -> None:
        async with asyncio.timeout(_STATEMENT_TIMEOUT):
            taken = await self._partitions.rebalance(set().union(*self._busy))
        for partition in taken:
            self._after.pop(partition, None)
        self._metrics.partitions.set(len(self._partitions.own))

    async def _measure_lag(self) -> None:
        async with asyncio.timeout(_STATEMENT_TIMEOUT):
            cursor = await self._locks.execute(schema.LAG, {"partitions": list(self._partitions.own)})
            count, age = await cursor.fetchone() or (0, None)
        self._metrics.waiting.set(count)
        self._metrics.lag.set(age or 0)

    async def _run_lane(self, number: int) -> None:
        wake, first = self._wake[number], 0
        while not self._stop.is_set():
            wake.clear()
            own = sorted(partition for partition in self._partitions.own if partition % LANES == number)
            # Begin after the last partition of the batch before, so that a busy one does not keep out the others.
            own = [one for one in own if one >= first] + [one for one in own if one < first]
            self._busy[number] = set(own)
            rows = await self._fetch(own)
            self._busy[number] = {row.partition for row in rows}
            if not rows:
                await wake.wait()
                continue
            first = rows[-1].partition + 1
            rows.sort(key=lambda row: row.id)
            refused = await self._publisher.publish([row.encode() for row in rows])
            await self._finish(rows, refused)

    async def _fetch(self, partitions: Sequence[int]) -> list[Row]:
        parameters = {
            "partitions": partitions,
            "after": [self._after.get(partition, 0) for partition in partitions],
            "limit": MAX_EVENTS,
            "size": MAX_BYTES,
        }
        return [Row(*row) for row in await self._execute(schema.FETCH, parameters)] if partitions else []

    async def _finish(self, rows: Sequence[Row], refused: dict[int, Refusal]) -> None:
        """Delete the published rows, and move the refused ones."""
        if refused:
            failed = [(rows[index], refusal) for index, refusal in refused.items()]
            for row, refusal in failed:
                log.warning(
                    "row %d for %s is set aside: %s (%s)", row.id, row.room[:150], refusal.error[:500], refusal.code
                )
            parameters = {
                "partitions": [row.partition for row, _ in failed],
                "ids": [row.id for row, _ in failed],
                "codes": [refusal.code for _, refusal in failed],
                "errors": [refusal.error for _, refusal in failed],
            }
            await self._execute(schema.SET_ASIDE, parameters)
        done = [row for index, row in enumerate(rows) if index not in refused]
        await self._execute(
            schema.DELETE, {"partitions": [row.partition for row in done], "ids": [row.id for row in done]}
        )
        for row in rows:
            self._after[row.partition] = row.id

    async def _execute(self, statement: LiteralString, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        async with asyncio.timeout(_STATEMENT_TIMEOUT):
            cursor = await self._work.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description is not None else []
