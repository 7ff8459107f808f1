"""``roomcast publish``: publish events from a shell, with ``POST /api/v1/events``. ``publish_lines.py`` reads lines."""

from __future__ import annotations

import sys
from io import BufferedReader
from typing import Any, cast

import click
import orjson

from ..errors import RoomcastError
from .api import Api, ApiRefused, api_options, item_text
from .exit_status import REFUSED
from .options import json_option, run
from .printing import print_json
from .publish_lines import LinePublisher, is_line_of_event, read_first_line


@click.command()
@click.argument("type", metavar="TYPE")
@click.argument("room", required=False)
@click.argument("data", required=False, metavar="[JSON]")
@click.option("--sender", help="Name of the event's sender.")
@click.option("--idempotency-key", help="Publish only once, even if the command is repeated within IDEMPOTENCY_TTL.")
@api_options("publish")
@json_option("Print the ids as JSON; of events in lines, a document on one line for each.")
def publish(
    type: str,
    room: str | None,
    data: str | None,
    sender: str | None,
    idempotency_key: str | None,
    api: Api,
    as_json: bool,
) -> None:
    """Publish events, as a backend does.

    Publishes an event of TYPE in ROOM, and prints its id, or - if the event is not stored. JSON is the data of the
    event, or - to read the data from standard input. If the data is a list, each of its elements becomes an event. Of
    several events, either all are published or none.

    With - as the only argument, the command reads complete events from standard input: one on each line, or a list of
    them. A complete event is an object with type, room, data and perhaps sender and key. Lines are published as they
    arrive. A line that cannot be published is reported with its number, and the others are published; the exit status
    is 1 then.

    An event whose key was used in its room within IDEMPOTENCY_TTL is not published again. The id of an event that
    `roomcast listen --json` printed is its key, so that a repeat of its output publishes nothing twice.

    \b
    roomcast publish task.deleted project:1 '{"task_id": 7}'
    roomcast publish - < events.json
    roomcast listen project:1 --json | roomcast publish - --url https://other.example
    """
    is_complete = type == "-" and room is None
    if not is_complete and (room is None or data is None):
        raise click.UsageError("Give TYPE, ROOM and JSON, or only - to read events from standard input.")
    if is_complete and sender is not None:
        raise click.UsageError("--sender works only with TYPE, ROOM and JSON; complete events name their sender.")
    stdin = cast(BufferedReader, sys.stdin.buffer)
    first = read_first_line(stdin) if is_complete else b""
    if is_line_of_event(first):
        if not LinePublisher(api, idempotency_key, as_json).publish(first, stdin):
            raise click.exceptions.Exit(REFUSED)
        return
    text = first + stdin.read() if is_complete or data == "-" else (data or "").encode()
    events = parse_events(text, None if is_complete else type, room, sender)
    answer = run(post_events(api, events, idempotency_key))
    if as_json:
        print_json(answer)
    else:
        for id in answer.get("ids", [answer.get("id")]):
            click.echo("-" if id is None else id)


def parse_events(text: bytes, type: str | None, room: str | None, sender: str | None) -> Any:
    """Return the event or the list of events to publish.

    Without ``type``, ``text`` has complete events. Otherwise it has the data of an event of ``type`` in ``room``, or a
    list of such data. Raises ``click.UsageError`` if ``text`` is not JSON, because no server was asked.
    """
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"The data is not JSON: {error}.") from None
    if type is None:
        return parsed
    optional = {} if sender is None else {"sender": sender}

    def event(data: Any) -> dict[str, Any]:
        return {"type": type, "room": room, "data": data, **optional}

    return [event(data) for data in parsed] if isinstance(parsed, list) else event(parsed)


async def post_events(api: Api, events: Any, idempotency_key: str | None) -> dict[str, Any]:
    """Publish one event or a list of events; return the answer. Raises ``RoomcastError``."""
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    try:
        return await api.call("POST", "/events", body=events, headers=headers)
    except ApiRefused as refused:
        if len(refused.items) < 2:  # the sentence describes a single problem
            raise
        lines = [f"  index {item.get('index')}, {item_text(item)}" for item in refused.items]
        raise RoomcastError("\n".join([str(refused), *lines])) from None
