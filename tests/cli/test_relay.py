"""``roomcast relay`` as a process: options, metrics, the end by signals, and mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psycopg
import pytest
from outbox import Outbox, Relay
from postgres import PostgresServer
from redis_servers import RedisServer
from shell import API_KEY, Running, refusal, roomcast
from waiting import wait_until

from roomcast.relay import schema


def test_print_schema(postgres_server: PostgresServer) -> None:
    """The printed SQL creates the outbox, statement by statement, as migrations do it."""
    done = roomcast("relay", "--print-schema")
    assert (done.returncode, done.stdout, done.stderr) == (0, schema.CREATE, "")
    with psycopg.connect(postgres_server.create_database()) as connection:
        for statement in done.stdout.split("\n\n"):
            connection.execute(statement)
        connection.execute("SELECT * FROM roomcast_outbox, roomcast_outbox_failed")


async def test_the_command(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """It publishes, serves metrics, retries what failed, and ends with status 0 after SIGTERM."""
    outbox = Outbox(postgres_server.create_database())
    (tmp_path / "dsn").write_text(outbox.dsn)
    (tmp_path / "key").write_text(API_KEY)
    outbox.write(("task:1", 1), ("planet:1", 2))
    with (
        Running() as server,
        Relay(
            server.url,
            API_KEY="",
            API_KEY_FILE=str(tmp_path / "key"),
            ROOMCAST_POSTGRES_FILE=str(tmp_path / "dsn"),
        ) as relay,
    ):
        await outbox.is_empty()
        await wait_until(lambda: outbox.count(schema.FAILED_TABLE) == 1)
        metrics = await relay.metrics()
        assert metrics["roomcast_relay_published_total"] == 1
        assert metrics['roomcast_relay_failed_total{code="unknown_room_type"}'] == 1
        assert metrics["roomcast_relay_partitions"] == 256
        assert relay.stop() == 0
        assert "the relay has stopped" in relay.err[-1]
        assert API_KEY not in "\n".join(relay.err)
    done = roomcast("relay", "--retry-failed", "--postgres", outbox.dsn)
    assert (done.returncode, done.stdout) == (0, "1 event is in the outbox again.\n")
    assert outbox.count() == 1
    done = roomcast("relay", "--retry-failed", "--json", "--postgres", outbox.dsn)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"events": 0})


async def test_a_stream(redis_server: RedisServer, redis_prefix: str) -> None:
    """``--redis-stream`` publishes the stream of the Redis in ``REDIS_URL``."""
    with Running() as server, Relay(server.url, "--redis-stream", redis_prefix, REDIS_URL=redis_server.url) as relay:
        await redis_server("XADD", redis_prefix, "*", "type", "task.deleted", "room", "task:1", "data", '{"task_id":1}')
        relay.works()
        await relay.has("published_total", 1)
        assert relay.stop() == 0


def test_mistakes(postgres_server: PostgresServer) -> None:
    """Each is one sentence that says what to do."""
    dsn = postgres_server.create_database()
    assert "Give either --postgres or --redis-stream." in roomcast("relay").stderr
    assert "--json works only with --retry-failed." in roomcast("relay", "--json", "--postgres", dsn).stderr
    assert "API key" in refusal("relay", "--postgres", dsn)
    assert "REDIS_URL" in refusal("relay", "--redis-stream", "outbox", API_KEY=API_KEY)
    assert "--print-schema" in refusal("relay", "--postgres", dsn, API_KEY=API_KEY, LOG_LEVEL="error", status=1)
    assert "--metrics is 'x'" in refusal("relay", "--postgres", dsn, "--metrics", "x", API_KEY=API_KEY)


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (("--postgres", "hunter2"), 2, "The value of --postgres is not a DSN such as postgresql://"),
        (("--postgres", "postgresql://app:hun%ter2@db/app"), 2, "The value of --postgres is not a DSN such as"),
        (("--postgres", "host=127.0.0.1 port=1 password=hunter2"), 3, "PostgreSQL does not work: connection failed"),
        (("--redis-stream", "outbox"), 3, "Redis at redis://127.0.0.1:1 does not work: "),
    ],
)
def test_events_that_cannot_be_retried_now(args: tuple[str, ...], status: int, sentence: str) -> None:
    """The status shows if the source is wrong or unreachable, and the sentence has no password."""
    found = refusal("relay", "--retry-failed", *args, status=status, REDIS_URL="redis://:hunter2@127.0.0.1:1")
    assert found.startswith(sentence)
    assert "hunter2" not in found and "hun%ter2" not in found


def test_without_psycopg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    (tmp_path / "psycopg.py").write_text("raise ImportError('no psycopg')\n")
    sentence = refusal("relay", "--postgres", "dbname=x", API_KEY=API_KEY, PYTHONPATH=str(tmp_path))
    assert sentence == "--postgres needs psycopg 3; install it with `pip install 'roomcast[relay]'`."
    assert roomcast("relay", "--print-schema", PYTHONPATH=str(tmp_path)).returncode == 0
    assert sys.modules["psycopg"] is psycopg
