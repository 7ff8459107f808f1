"""``roomcast publish``: publish events from a shell, with ``POST /api/v1/events``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import click
import orjson

from ..errors import RoomcastError, SettingsError
from ..logs import escape
from ..secret_files import read_secret
from ..setting_rules import split_values
from .options import url_option
from .target import DEFAULT_HTTP_URL, Unreachable, connection_error, parse_target

PATH: Final = "/api/v1/events"
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=10)


@click.command()
@click.argument("type", metavar="TYPE")
@click.argument("room", required=False)
@click.argument("data", required=False, metavar="[JSON]")
@click.option("--sender", help="Name of the event's sender.")
@url_option(DEFAULT_HTTP_URL)
@click.option(
    "--api-key",
    envvar="API_KEY",
    show_envvar=True,
    help="Key of the server with the scope publish; of several, the first is used.",
)
@click.option("--idempotency-key", help="Publish only once, even if the command is repeated within 5 minutes.")
def publish(
    type: str,
    room: str | None,
    data: str | None,
    sender: str | None,
    url: str,
    api_key: str | None,
    idempotency_key: str | None,
) -> None:
    """Publish events, as a backend does.

    Publishes an event of TYPE in ROOM, and prints its id. JSON is the data of the event, or - to read the data from
    standard input. If the data is a list, each of its elements becomes an event.

    With - as the only argument, the command reads one complete event or a list of them from standard input. A complete
    event is an object with type, room, data and perhaps sender.

    Of several events, either all are published or none.

    \b
    roomcast publish task.deleted project:1 '{"task_id": 7}'
    roomcast publish - < events.json
    """
    keys = split_values(api_key or read_secret("API_KEY", os.environ) or "")
    if not keys:
        raise SettingsError("The API key of the server is needed: set API_KEY, or give --api-key.")
    is_complete = type == "-" and room is None
    if not is_complete and (room is None or data is None):
        raise click.UsageError("Give TYPE, ROOM and JSON, or only - to read events from standard input.")
    if is_complete and sender is not None:
        raise click.UsageError("--sender works only with TYPE, ROOM and JSON; complete events name their sender.")
    text = sys.stdin.read() if is_complete or data == "-" else data or ""
    events = parse_events(text, None if is_complete else type, room, sender)
    for id in asyncio.run(post_events(url, keys[0], events, idempotency_key)):
        click.echo(id)


def parse_events(text: str, type: str | None, room: str | None, sender: str | None) -> Any:
    """Return the event or the list of events to publish.

    Without ``type``, ``text`` has complete events. Otherwise it has the data of an event of ``type`` in ``room``, or a
    list of such data. Raises ``RoomcastError`` if ``text`` is not JSON.
    """
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RoomcastError(f"The data is not JSON: {error}.") from None
    if type is None:
        return parsed
    optional = {} if sender is None else {"sender": sender}

    def event(data: Any) -> dict[str, Any]:
        return {"type": type, "room": room, "data": data, **optional}

    return [event(data) for data in parsed] if isinstance(parsed, list) else event(parsed)


async def post_events(url: str, api_key: str, events: Any, idempotency_key: str | None) -> list[str]:
    """Publish one event or a list of events at ``url``, and return the ids. Raises ``RoomcastError``."""
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    target = parse_target(url)
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.post(target.http + PATH, data=orjson.dumps(events), headers=headers) as response,
        ):
            body = await response.read()
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise Unreachable(f"{target.http} cannot be reached: {connection_error(error)}.") from error
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not response.ok or not isinstance(answer, dict):
        raise RoomcastError(_describe_error(response.status, answer, body, target.http))
    ids = answer.get("ids", [answer.get("id")])
    return [str(id) for id in ids]


def _describe_error(status: int, answer: Any, body: bytes, url: str) -> str:
    """Return the server's error sentence and a line for each wrong event, or a guess if the answer has no sentence.

    Escapes everything, so that an answer cannot control the terminal.
    """
    if not isinstance(answer, Mapping) or "error" not in answer:
        excerpt = body.decode("utf-8", "replace").strip().split("\n")[0][:200]
        return f"{url} answered with HTTP status {status} ({escape(excerpt)}); is it a roomcast server?"
    items = answer.get("items")
    problems = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    lines = [str(answer["error"])]
    if len(problems) > 1:  # the sentence describes a single one
        lines += [
            f"  index {item.get('index')}, {item.get('field') or 'as a whole'}: {item.get('error')}"
            for item in problems
        ]
    return "\n".join(map(escape, lines))
