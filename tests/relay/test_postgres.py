"""The relay of PostgreSQL: events, poison rows, several relays, and outages."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import psycopg
import pytest
from outbox import Outbox, insert, relaying, stored, stored_with_keys
from postgres import PostgresServer
from redis_servers import free_port
from serving import Serve
from waiting import PATIENCE, wait_until

from roomcast.errors import RoomcastError
from roomcast.relay import postgres, schema
from roomcast.relay.metrics import RelayMetrics
from roomcast.web.port import Address

BAD = ("planet:1", 1)


async def test_events_arrive_as_they_were_written(serve: Serve, outbox: Outbox) -> None:
    """Type, room, data, sender and key are those of the row. Without a key, the row has a UUID."""
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn) as relay:
        outbox.write(("task:1", 1), key="order-1", sender="alice")
        outbox.write(("task:1", 2))
        await outbox.is_empty()
        first, second = await server.gateway.service.history("task:1")
        assert (first["type"], first["data"], first["sender"], first["key"]) == (
            *("task.deleted", {"task_id": 1}),
            *("alice", "order-1"),
        )
        assert "sender" not in second
        assert len(second["key"]) == 36
        assert relay.metric("published_total") == 2


@pytest.mark.parametrize(
    "wrong",
    ["type = NULL", "data = '[1]'", "key = ''", "key = 'schlüssel'", "key = repeat('k', 129)"],
)
def test_the_table_refuses_wrong_rows(outbox: Outbox, wrong: str) -> None:
    """The transaction of the application fails, so that the mistake is found at once."""
    column, value = wrong.split(" = ")
    values = {"type": "'task.deleted'", "data": "'{}'", "key": "'k'", column: value}
    with outbox.connect() as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(
            f"INSERT INTO roomcast_outbox (room, type, data, key) VALUES ('task:1', {', '.join(values.values())})"
        )


async def test_refused_rows_are_set_aside(serve: Serve, outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """They are in the other table with the reason. The rows of their partition before and after them are published."""
    server = await serve()
    outbox.write(("task:1", 1), BAD, ("task:1", 2), partition_key="one")
    with outbox.connect() as connection:
        connection.execute(
            "INSERT INTO roomcast_outbox (type, room, data, partition_key) "
            """VALUES ('task.created', 'task:1', '{"task_id": 7}', 'one')"""
        )
    outbox.write(("task:1", 3), partition_key="one")
    async with relaying(server, postgres.run, outbox.dsn) as relay:
        await outbox.is_empty()
        assert relay.metric("failed_total", code="unknown_room_type") == 1
        assert relay.metric("failed_total", code="invalid_data") == 1
        assert relay.metric("published_total") == 3
    assert await stored(server, "task:1") == [1, 2, 3]
    failed = outbox.query("SELECT room, code, error, partition_key FROM roomcast_outbox_failed ORDER BY id")
    assert [(room, code, key) for room, code, _, key in failed] == [
        ("planet:1", "unknown_room_type", "one"),
        ("task:1", "invalid_data", "one"),
    ]
    assert "planet:1" in failed[0][2] and failed[1][2] == "data.title: Missing data for required field."
    assert [line for line in caplog.messages if "is set aside" in line and "planet:1" in line]


async def test_failed_rows_can_be_retried(serve: Serve, outbox: Outbox) -> None:
    """They are at the end of the outbox again, with their keys, and are published when the reason is gone."""
    outbox.write(("task:1", 1), key="k")
    outbox.write(("task:1", 2))
    with outbox.connect() as connection:
        connection.execute("UPDATE roomcast_outbox SET type = 'not.installed' WHERE key = 'k'")
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
        with outbox.connect() as connection:
            connection.execute("UPDATE roomcast_outbox_failed SET type = 'task.deleted'")
        assert await postgres.retry_failed(outbox.dsn) == 1
        await outbox.is_empty()
        assert outbox.count(schema.FAILED_TABLE) == 0
        assert await postgres.retry_failed(outbox.dsn) == 0
    assert [number for number, _ in await stored_with_keys(server, "task:1")] == [2, 1]
    assert (await stored_with_keys(server, "task:1"))[1] == (1, "k")


async def test_a_row_that_no_body_can_contain(serve: Serve, outbox: Outbox) -> None:
    """A row with more than 1 MiB is set aside, and rows of 0.9 MB are published one by one."""
    server = await serve()
    rows = [("x" * 900_000), ("y" * 1_100_000), ("z" * 900_000)]
    with outbox.connect() as connection:
        for title in rows:
            connection.execute(
                "INSERT INTO roomcast_outbox (type, room, data) VALUES ('task.created', 'task:1', %s)",
                (json.dumps({"task_id": 1, "title": title}),),
            )
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
    events = await server.gateway.service.history("task:1")
    codes = [code for (code,) in outbox.query("SELECT code FROM roomcast_outbox_failed ORDER BY id")]
    assert codes[0 if len(codes) == 1 else 1] == "body_too_large"
    assert len(events) + len(codes) == 3


async def test_a_key_for_other_rooms(serve: Serve, outbox: Outbox) -> None:
    """Rows for rooms that the API key does not allow are set aside; the others are published."""
    keys = {"team": {"key": "key-of-one-team-12345678", "scopes": ["publish"], "rooms": ["task:1"]}}
    server = await serve(api_keys=json.dumps(keys))
    outbox.write(("task:1", 1), ("task:2", 2), ("task:1", 3))
    async with relaying(server, postgres.run, outbox.dsn, api_key="key-of-one-team-12345678"):
        await outbox.is_empty()
    assert await stored(server, "task:1") == [1, 3]
    assert outbox.query("SELECT room, code FROM roomcast_outbox_failed") == [("task:2", "forbidden_room")]


async def test_a_wrong_api_key_sets_nothing_aside(serve: Serve, outbox: Outbox) -> None:
    """The rows wait, and the log has the reason. A relay with the right key publishes them."""
    server = await serve()
    outbox.write(("task:1", 1))
    async with relaying(server, postgres.run, outbox.dsn, api_key="a-wrong-key") as relay:
        await wait_until(lambda: relay.metric("retries_total") >= 2)
        assert outbox.count() == 1
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
    assert await stored(server, "task:1") == [1]


async def test_without_notifications(serve: Serve, outbox: Outbox) -> None:
    """Notifications only wake the relay: without their trigger, rows are published at the next poll."""
    outbox.drop_notifications()
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        for number in range(3):
            outbox.write(("task:1", number))
            await outbox.is_empty()
    assert await stored(server, "task:1") == [0, 1, 2]


async def test_notifications_wake_the_relay(serve: Serve, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is published although the next poll is far away."""
    monkeypatch.setattr(postgres, "POLL_INTERVAL", 3600.0)
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        for number in range(20):
            outbox.write(("task:1", number))
            await outbox.is_empty()
    assert await stored(server, "task:1") == [*range(20)]


async def test_rows_without_the_trigger(serve: Serve, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with lower ids than others that were published, as a restore may write them, are found later."""
    monkeypatch.setattr(postgres, "FULL_READ_INTERVAL", 0.1)
    monkeypatch.setattr(postgres, "POLL_INTERVAL", 0.1)
    server = await serve()
    outbox.write(("task:1", 1))
    with outbox.connect() as connection:
        connection.execute("CREATE TABLE copy AS SELECT * FROM roomcast_outbox")
    outbox.write(("task:1", 2))
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
        with outbox.connect() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("UPDATE copy SET key = 'restored'")
            connection.execute("INSERT INTO roomcast_outbox SELECT * FROM copy")
        await outbox.is_empty()
    assert (await stored_with_keys(server, "task:1"))[2:] == [(1, "restored")]


async def test_several_relays_share_the_partitions(serve: Serve, outbox: Outbox) -> None:
    """Each relay has its share, no partition has two, and the others take over when one ends or dies."""
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn) as one:
        assert one.metric("partitions") == schema.PARTITIONS
        async with relaying(server, postgres.run, outbox.dsn) as two:
            await wait_until(lambda: (one.metric("partitions"), two.metric("partitions")) == (128, 128))
            async with relaying(server, postgres.run, outbox.dsn) as three:
                relays = (one, two, three)

                def shares() -> list[float]:
                    return sorted(relay.metric("partitions") for relay in relays)

                await wait_until(lambda: shares() == [84, 86, 86])
                outbox.write(*((f"task:{number}", number) for number in range(300)))
                await outbox.is_empty()
                counts = [relay.metric("published_total") for relay in relays]
                assert sum(counts) == 300 and min(counts) > 0
            await wait_until(lambda: (one.metric("partitions"), two.metric("partitions")) == (128, 128))
        await wait_until(lambda: one.metric("partitions") == schema.PARTITIONS)
        outbox.write(*((f"task:{number}", number) for number in range(300)))
        await outbox.is_empty()


async def test_a_row_whose_relay_died_is_published_once(serve: Serve, outbox: Outbox) -> None:
    """The rows that a relay had published and not deleted are repeated with their keys, and arrive once, in order."""
    server = await serve(history_size=10_000)
    outbox.write(*(("task:1", number) for number in range(3000)))
    for _ in range(100):
        if outbox.count() == 0:
            break
        before = len(await stored(server, "task:1"))
        async with relaying(server, postgres.run, outbox.dsn):

            async def goes_on(before: int = before) -> bool:
                return outbox.count() == 0 or len(await stored(server, "task:1")) > before

            await wait_until(goes_on)
    assert await stored(server, "task:1") == [*range(3000)]


async def test_a_stop_finishes_the_requests_in_flight(serve: Serve, outbox: Outbox) -> None:
    """A relay that is stopped leaves no row that was published; the others stay for the next one."""
    server = await serve(history_size=10_000)
    outbox.write(*((f"task:{number % 7}", number) for number in range(3000)))
    async with relaying(server, postgres.run, outbox.dsn) as relay:
        await wait_until(lambda: relay.metric("published_total"))
        relay.stop.set()
    published = [number for room in range(7) for number in await stored(server, f"task:{room}")]
    assert len(published) + outbox.count() == 3000


async def test_the_database_restarts(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The relay waits for a database that is down, at its start too, and goes on."""
    server = await serve()
    database = PostgresServer()
    try:
        database.start()
        outbox = Outbox(database.create_database())
        outbox.write(("task:1", 1))
        database.kill()
        metrics, stop = RelayMetrics(), asyncio.Event()
        waiting = asyncio.create_task(postgres.run(outbox.dsn, None, metrics, stop))  # type: ignore[arg-type]
        await wait_until(lambda: any("PostgreSQL does not work" in line for line in caplog.messages))
        stop.set()
        await asyncio.wait_for(waiting, PATIENCE)
        await asyncio.to_thread(database.start)
        async with relaying(server, postgres.run, outbox.dsn) as relay:
            await outbox.is_empty()
            await asyncio.to_thread(database.kill)
            await wait_until(lambda: not relay.metric("connected"))
            await asyncio.to_thread(database.start)
            outbox.write(("task:1", 2))
            await outbox.is_empty(patience=30)
        assert await stored(server, "task:1") == [1, 2]
    finally:
        database.close()


async def test_the_server_restarts(serve: Serve, outbox: Outbox) -> None:
    """Rows wait for a server that is down. None of them counts as a possible duplicate."""
    address = Address(port=free_port())
    outbox.write(("task:1", 1))
    async with relaying(SimpleNamespace(port=address.port), postgres.run, outbox.dsn) as relay:
        await wait_until(lambda: relay.metric("retries_total") >= 2)
        server = await serve(address=address)
        await outbox.is_empty()
        assert relay.metric("possible_duplicates_total") == 0
    assert await stored(server, "task:1") == [1]


async def test_a_stop_while_the_server_is_down(serve: Serve, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay ends after a limited time, and the next one publishes the rows."""
    monkeypatch.setattr(postgres, "STOP_TIMEOUT", 0.1)
    outbox.write(("task:1", 1))
    async with relaying(SimpleNamespace(port=free_port()), postgres.run, outbox.dsn) as relay:
        await wait_until(lambda: relay.metric("retries_total"))
        relay.stop.set()
    server = await serve()
    async with relaying(server, postgres.run, outbox.dsn):
        await outbox.is_empty()
    assert await stored(server, "task:1") == [1]


async def test_the_lag(serve: Serve, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics have the number of rows that wait and the age of the oldest one."""
    monkeypatch.setattr(postgres, "LAG_INTERVAL", 0.05)
    monkeypatch.setattr(postgres, "POLL_INTERVAL", 0.05)
    server = await serve()
    outbox.write(("task:1", 1), ("task:2", 2))
    with outbox.connect() as connection:
        connection.execute("UPDATE roomcast_outbox SET created_at = created_at - interval '1 h' WHERE room = 'task:2'")
    async with relaying(server, postgres.run, outbox.dsn, api_key="wrong") as relay:
        await wait_until(lambda: relay.metric("waiting") == 2 and 3600 < relay.metric("lag_seconds") < 3700)
    async with relaying(server, postgres.run, outbox.dsn) as relay:
        await outbox.is_empty()
        await wait_until(lambda: relay.metric("waiting") == 0 and relay.metric("lag_seconds") == 0)


async def test_a_wrong_dsn() -> None:
    """The error says so."""
    with pytest.raises(RoomcastError, match="is not a DSN"):
        await postgres.run("nonsense", None, RelayMetrics(), asyncio.Event())  # type: ignore[arg-type]


async def test_a_database_without_the_table(postgres_server: PostgresServer) -> None:
    """The error says how to create it."""
    dsn = postgres_server.create_database()
    with pytest.raises(RoomcastError, match="--print-schema"):
        await postgres.run(dsn, None, RelayMetrics(), asyncio.Event())  # type: ignore[arg-type]
    with pytest.raises(RoomcastError, match="--print-schema"):
        await postgres.retry_failed(dsn)


async def test_outboxes_in_two_schemas(serve: Serve, outbox: Outbox) -> None:
    """They are independent: neither writers nor relays wait for the other outbox."""
    with outbox.connect() as connection:
        connection.execute("CREATE SCHEMA second")
        connection.execute("SET search_path = second")
        connection.execute(schema.CREATE)
    server = await serve()
    second = f"{outbox.dsn}?options=-csearch_path%3Dsecond"
    async with relaying(server, postgres.run, outbox.dsn) as one, relaying(server, postgres.run, second) as two:
        with outbox.connect() as open_transaction:
            insert(open_transaction, ("task:1", 1))
            with psycopg.connect(second) as connection:
                insert(connection, ("task:1", 2))
            await wait_until(lambda: two.metric("published_total"))
        await outbox.is_empty()
        assert (one.metric("partitions"), two.metric("partitions")) == (256, 256)
    assert await stored(server, "task:1") == [2, 1]
