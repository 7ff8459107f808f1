"""The order of commits: concurrent, rolled back, long and prepared transactions on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from outbox import Outbox, insert, relaying, stored
from postgres import PostgresServer
from serving import Serve
from waiting import wait_until

from roomcast.relay import postgres


def partition_of(outbox: Outbox, room: str) -> int:
    """Return the partition of the rows for ``room``."""
    return outbox.query("SELECT (hashtextextended(%s, 0) & 255)::int", room)[0][0]


def other_room(outbox: Outbox, room: str) -> str:
    """Return a room whose partition is another than that of ``room``."""
    rooms = (f"task:{number}" for number in range(1000))
    return next(other for other in rooms if partition_of(outbox, other) != partition_of(outbox, room))


def waits_for_lock(outbox: Outbox) -> bool:
    """Return True if a transaction waits for a lock."""
    return outbox.query("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] > 0


async def test_a_later_commit_with_an_earlier_id_is_not_skipped(serve: Serve, outbox: Outbox) -> None:
    """The rows of a transaction that commits late are published, although rows with later ids were published before."""
    server = await serve()
    room, other = "task:1", other_room(outbox, "task:1")
    async with relaying(server, postgres.run, outbox.dsn):
        with outbox.connect() as late:
            insert(late, (room, 1))
            outbox.write((other, 2))
            await wait_until(lambda: stored_numbers(server, other, [2]))  # and the open transaction does not delay it
            assert await stored(server, room) == []
        await wait_until(lambda: stored_numbers(server, room, [1]))
        assert outbox.query("SELECT last_value FROM roomcast_outbox_id_seq") == [(2,)]
        await outbox.is_empty()


async def stored_numbers(server: object, room: str, expected: list[int]) -> bool:
    """Return True if ``room`` has the events with these numbers."""
    return await stored(server, room) == expected  # type: ignore[arg-type]


async def test_transactions_with_one_key_follow_each_other(serve: Serve, outbox: Outbox) -> None:
    """The second writer of a partition key waits for the commit of the first; the order is that of the commits."""
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        first = outbox.connect()
        insert(first, ("task:1", 1))
        second = asyncio.create_task(asyncio.to_thread(outbox.write, ("task:1", 2)))
        await wait_until(lambda: waits_for_lock(outbox))
        insert(first, ("task:1", 3))
        first.commit()
        first.close()
        await second
        await wait_until(lambda: stored_numbers(server, "task:1", [1, 3, 2]))


@pytest.mark.parametrize("end", ["ROLLBACK", "the connection breaks"])
async def test_a_transaction_that_does_not_commit(serve: Serve, outbox: Outbox, end: str) -> None:
    """Its rows are never published, and the writers that waited for it go on."""
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        first = outbox.connect()
        insert(first, ("task:1", 1))
        second = asyncio.create_task(asyncio.to_thread(outbox.write, ("task:1", 2)))
        await wait_until(lambda: waits_for_lock(outbox))
        if end == "ROLLBACK":
            first.rollback()
        first.close()
        await second
        await wait_until(lambda: stored_numbers(server, "task:1", [2]))
        await outbox.is_empty()


async def test_a_savepoint_that_is_rolled_back(serve: Serve, outbox: Outbox) -> None:
    """Its rows are never published. The lock ends with it, and is taken again by the next insert."""
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        with outbox.connect() as first:
            first.execute("SAVEPOINT s")
            insert(first, ("task:1", 1))
            first.execute("ROLLBACK TO s")
            outbox.write(("task:1", 2))
            insert(first, ("task:1", 3))
        await wait_until(lambda: stored_numbers(server, "task:1", [2, 3]))


async def test_a_prepared_transaction(serve: Serve, outbox: Outbox) -> None:
    """It keeps its lock until COMMIT PREPARED, also after its connection has ended. It may not notify."""
    server = await serve()
    outbox.drop_notifications()
    async with relaying(server, postgres.run, outbox.dsn):
        first = outbox.connect()
        insert(first, ("task:1", 1))
        first.execute("PREPARE TRANSACTION 'outbox'")
        first.close()
        second = asyncio.create_task(asyncio.to_thread(outbox.write, ("task:1", 2)))
        await wait_until(lambda: waits_for_lock(outbox))
        assert await stored(server, "task:1") == []
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            connection.execute("COMMIT PREPARED 'outbox'")
        await second
        await wait_until(lambda: stored_numbers(server, "task:1", [1, 2]))


async def test_a_long_transaction_delays_nothing(serve: Serve, outbox: Outbox) -> None:
    """A transaction that has written elsewhere, and one with an old snapshot, delay no row."""
    server = await serve()
    with outbox.connect() as long, outbox.connect() as reader:
        long.execute("CREATE TABLE other (n int)")
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM roomcast_outbox")
        async with relaying(server, postgres.run, outbox.dsn):
            outbox.write(*(("task:1", number) for number in range(5)))
            await wait_until(lambda: stored_numbers(server, "task:1", [*range(5)]))


async def test_rows_of_one_partition_key_in_several_rooms(serve: Serve, outbox: Outbox) -> None:
    """Rows with one ``partition_key`` are in one partition, whatever their rooms are."""
    outbox.write(*((f"task:{number}", number) for number in range(20)), partition_key="order-7")
    assert outbox.query("SELECT count(DISTINCT partition) FROM roomcast_outbox") == [(1,)]
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
    assert [await stored(server, f"task:{number}") for number in range(20)] == [[number] for number in range(20)]


async def test_many_concurrent_transactions(serve: Serve, postgres_server: PostgresServer) -> None:
    """Each room has the rows of the committed transactions, once, in the order of their commit timestamps."""
    server = await serve(history_size=100_000, history_bytes=10**9)
    database = PostgresServer(track_commit_timestamp="on")
    try:
        database.start()
        outbox = Outbox(database.create_database())
        rooms = [f"task:{number}" for number in range(6)]
        with outbox.connect() as connection:
            connection.execute("CREATE TABLE audit (room text, number int, n serial)")
        numbers = iter(range(1_000_000))
        lock = threading.Lock()

        def write(seed: int) -> None:
            chance = random.Random(seed)
            with outbox.connect() as connection:
                for _ in range(60):
                    # In the order of the partitions, because two transactions in another order may deadlock.
                    chosen = sorted(chance.sample(rooms, chance.choice((1, 1, 2))), key=partitions.__getitem__)
                    for room in chosen:
                        with lock:
                            number = next(numbers)
                        insert(connection, (room, number))
                        connection.execute("INSERT INTO audit (room, number) VALUES (%s, %s)", (room, number))
                    if chance.random() < 0.3:
                        connection.execute("SELECT pg_sleep(%s)", (chance.random() * 0.01,))
                    if chance.random() < 0.2:
                        connection.rollback()
                    else:
                        connection.commit()

        partitions = {room: partition_of(outbox, room) for room in rooms}
        async with relaying(server, postgres.run, outbox.dsn), relaying(server, postgres.run, outbox.dsn):
            with ThreadPoolExecutor(8) as pool:
                loop = asyncio.get_running_loop()
                await asyncio.gather(*(loop.run_in_executor(pool, write, seed) for seed in range(8)))
            await outbox.is_empty()
        for room in rooms:
            committed = outbox.query(
                "SELECT number FROM audit WHERE room = %s ORDER BY pg_xact_commit_timestamp(xmin), n", room
            )
            assert len(committed) > 50
            assert await stored(server, room) == [number for (number,) in committed]
    finally:
        database.close()
