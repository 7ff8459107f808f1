"""Archive: keep all events of the chat in SQLite, longer than the history, and serve them over HTTP."""

import hmac
import json
import sqlite3
from dataclasses import dataclass

from aiohttp import web
from roomcast import AuthenticationFailed, Plugin, Service, setting

TABLE = "CREATE TABLE IF NOT EXISTS events (id TEXT, room TEXT, event TEXT, PRIMARY KEY (room, id)) STRICT"


@dataclass(frozen=True)
class ArchiveSettings:
    """The variables are ``ARCHIVE_PATH`` and ``ARCHIVE_KEY``. The nodes of one machine share the file."""

    path: str = setting("File of the SQLite database")
    key: str = setting("Bearer key for reading the archive", secret=True)


archive = Plugin("archive", settings=ArchiveSettings)


def execute(service: Service[ArchiveSettings], statement: str, *values: str | int) -> list[tuple]:
    """Execute one statement, in a thread."""
    database = sqlite3.connect(service.settings.path, timeout=10)
    try:
        with database:
            return database.execute(statement, values).fetchall()
    finally:
        database.close()


@archive.lifespan
async def create_table(service: Service[ArchiveSettings]):
    """Create the database before clients connect."""
    await service.in_thread(execute, service, TABLE)
    yield


@archive.after_publish("message")
@archive.after_publish("message.edited")
@archive.after_publish("message.deleted")
def store(service: Service[ArchiveSettings], event: dict) -> None:
    """Store an event. It may be delivered twice, and is stored once."""
    values = event["id"], event["room"], json.dumps(event)
    execute(service, "INSERT OR IGNORE INTO events VALUES (?, ?, ?)", *values)


@archive.route("GET", "/{room}", auth="public")
def read(service: Service[ArchiveSettings], request: web.Request) -> web.Response:
    """Return the newest 1,000 events of a room, oldest first, to callers with the key."""
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {service.settings.key}".encode()):
        raise AuthenticationFailed("The archive needs its key.")
    query = "SELECT event FROM events WHERE room = ? ORDER BY rowid DESC LIMIT 1000"
    rows = execute(service, query, request.match_info["room"])
    return web.json_response([json.loads(event) for (event,) in reversed(rows)])
