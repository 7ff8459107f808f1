"""The examples of docs/outbox.md: the SQL, the migrations of Django and Alembic, and the stream."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from docs_pages import PAGES, rows, snippet
from outbox import Outbox, relaying, stored
from paths import ROOT
from postgres import PostgresServer
from redis_servers import RedisServer
from serving import Serve
from waiting import wait_until

from roomcast.broker.redis.urls import parse
from roomcast.cli.relay import relay as relay_command
from roomcast.relay import postgres, redis_stream, schema
from roomcast.relay.metrics import RelayMetrics

pytestmark = pytest.mark.slow

DJANGO = """
import sys, django
from django.conf import settings
from pathlib import Path
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": sys.argv[1],
                           "USER": "test", "NAME": sys.argv[2]}},
    INSTALLED_APPS=["myapp"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from myapp.models import *
exec(Path("use.py").read_text())
if sys.argv[3:] == ["back"]:
    call_command("migrate", "myapp", "0001", verbosity=0)
"""
FIRST = """
from django.db import migrations, models
class Migration(migrations.Migration):
    fields = [("id", models.BigAutoField(primary_key=True)), ("title", models.TextField())]
    operations = [migrations.CreateModel("Task", fields)]
"""
TASK = "\n\nclass Task(models.Model):\n    title = models.TextField()\n"
ALEMBIC = """
import sys
from alembic import command
from alembic.config import Config
config = Config()
config.set_main_option("script_location", ".")
config.attributes["url"] = sys.argv[1]
getattr(command, sys.argv[2])(config, sys.argv[3])
"""
ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine
with create_engine(context.config.attributes["url"]).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
SQLALCHEMY = """
import sys
from sqlalchemy import create_engine
with create_engine(sys.argv[1]).begin() as connection:
    announce(connection, 790, "Try it")
"""


def run(source: str, folder: Path, *args: str, **variables: str) -> str:
    """Run Python in ``folder``; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", source, *args],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(dsn: str) -> set[str]:
    """Return the tables and functions of the outbox in the database."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relname IN ('roomcast_outbox', 'roomcast_outbox_failed') "
            "UNION SELECT proname FROM pg_proc WHERE proname LIKE 'roomcast_outbox%'"
        )
        return {name for (name,) in found}


async def check(serve: Serve, dsn: str) -> None:
    """Publish the row that an example has written."""
    server = await serve()
    async with relaying(server, postgres.run, dsn) as relay:
        await wait_until(lambda: relay.metric("published_total"))
        assert relay.metric("published_total") == 1
    (event,) = await server.gateway.service.history("project:123")
    assert (event["type"], event["data"]["title"]) == ("task.created", "Try it")


async def test_the_sql(serve: Serve, postgres_server: PostgresServer) -> None:
    """The schema creates the table, the transaction of the page writes a row, and the trigger can be dropped."""
    dsn = postgres_server.create_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(schema.CREATE)
        connection.execute("CREATE TABLE tasks (id int, title text)")
        connection.execute(snippet("without notifications"))
        connection.execute(snippet("write to the outbox"))
    await check(serve, dsn)


async def test_retry_one_event(postgres_server: PostgresServer) -> None:
    """The statement of the page moves the failed rows of the room back."""
    outbox = Outbox(postgres_server.create_database())
    outbox.write(("project:123", 1), ("project:4", 2))
    with outbox.connect() as connection:
        connection.execute(
            "INSERT INTO roomcast_outbox_failed (id, key, type, room, data, partition_key, code, error) "
            "SELECT id, key, type, room, data, partition_key, 'c', 'e' FROM roomcast_outbox"
        )
        connection.execute("TRUNCATE roomcast_outbox")
        connection.execute(snippet("retry one event"))
    assert outbox.query("SELECT room FROM roomcast_outbox") == [("project:123",)]
    assert outbox.query("SELECT room FROM roomcast_outbox_failed") == [("project:4",)]


async def test_django(serve: Serve, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The migration creates the outbox, the model writes to it in a transaction, and the migration can be undone."""
    dsn = postgres_server.create_database()
    migrations = tmp_path / "myapp" / "migrations"
    migrations.mkdir(parents=True)
    for folder in (migrations, migrations.parent):
        (folder / "__init__.py").touch()
    (migrations / "0001_initial.py").write_text(FIRST)
    (migrations / "0002_outbox.py").write_text(snippet("a Django migration"))
    (migrations / "outbox.sql").write_text(schema.CREATE)
    (tmp_path / "myapp" / "models.py").write_text(snippet("a Django model") + TASK)
    (tmp_path / "use.py").write_text(snippet("use the Django model"))
    arguments = (str(postgres_server.port), dsn.rpartition("/")[2])
    run(DJANGO, tmp_path, *arguments)
    await check(serve, dsn)
    (tmp_path / "use.py").write_text("")
    run(DJANGO, tmp_path, *arguments, "back")
    assert tables(dsn) == set()


async def test_alembic(serve: Serve, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The revision creates the outbox, SQLAlchemy writes to it, and the revision can be undone."""
    dsn = postgres_server.create_database()
    versions = tmp_path / "versions"
    versions.mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    (versions / "0001_first.py").write_text('revision = "0001"\ndown_revision = None\n\ndef upgrade():\n    pass\n')
    (versions / "0002_outbox.py").write_text(snippet("an Alembic migration"))
    (versions / "outbox.sql").write_text(schema.CREATE)
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    run(ALEMBIC, tmp_path, url, "upgrade", "head")
    run(snippet("write with SQLAlchemy") + SQLALCHEMY, tmp_path, url)
    await check(serve, dsn)
    run(ALEMBIC, tmp_path, url, "downgrade", "0001")
    assert tables(dsn) == set()


async def test_write_to_a_stream(serve: Serve, redis_server: RedisServer, tmp_path: Path) -> None:
    """The transaction of the page adds an entry that the relay publishes."""
    run(snippet("write to a stream"), tmp_path, REDIS_URL=redis_server.url)
    server = await serve()
    async with relaying(server, redis_stream.run, parse(redis_server.url), "outbox") as relay:
        await wait_until(lambda: relay.metric("published_total") == 1)
    assert await stored(server, "project:123") == [790]


def test_the_commands() -> None:
    """The command that installs the relay names an extra that exists, and the other one has the options of the page."""
    assert "roomcast[relay]" in snippet("install the relay")
    setup = (ROOT / "setup.cfg").read_text()
    assert "\nrelay =\n    psycopg[binary]" in setup
    for word in ("--print-schema", "--postgres", "--url"):
        assert word in snippet("start the relay")


def test_every_option_is_listed() -> None:
    """The table of options has those of the command."""
    listed = {cell.strip("`").split()[0] for cell, *_ in rows("docs/outbox.md", "## Running the relay")}
    options = {option.opts[0] for option in relay_command.params}
    assert {name for name in listed if name.startswith("--")} == options


def test_every_metric_is_listed() -> None:
    """The table of metrics has those of the relay."""
    listed = {cell.strip("`") for cell, *_ in rows("docs/outbox.md", "## Metrics") if "roomcast_" in cell}
    found = {
        family.name + ("_total" if family.type == "counter" else "") for family in RelayMetrics().registry.collect()
    }
    assert listed == found


def test_every_column_is_explained() -> None:
    """The page explains all columns of the table."""
    text = PAGES["docs/outbox.md"]
    for column in ("type", "room", "data", "sender", "key", "partition_key", "partition", "id", "created_at"):
        assert f"`{column}`" in text
