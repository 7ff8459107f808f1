"""``roomcast history``: the stored events of a room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import click

from ..errors import RoomcastError
from .api import Api, api_options
from .options import json_option, run
from .printing import event_line, print_line

#: How many events are printed without ``--since`` and ``--limit``, and how many one request returns at most.
DEFAULT_LIMIT: Final = 50
MAX_PAGE: Final = 1000


@click.command()
@click.argument("room")
@click.option("--since", metavar="ID", help="Print the events after the one with this id, all of them without --limit.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help=f"Print at most this many events: the newest, or with --since the oldest.  [default: {DEFAULT_LIMIT}]",
)
@api_options("read")
@json_option("Print each event as JSON on one line, as `roomcast publish -` reads it.")
def history(room: str, since: str | None, limit: int | None, api: Api, as_json: bool) -> None:
    """Print the stored events of a room.

    Prints the newest events, oldest first, each as a line: time, room, type, sender, data. The exit status is 1 if the
    history does not reach back to --since.

    \b
    roomcast history project:1 --limit 10
    """

    async def print_events() -> None:
        async for event in read_history(api, room, since, limit):
            if as_json:
                print_line(event)
            else:
                click.echo(event_line(event))

    if since is None and limit is not None and limit > MAX_PAGE:
        raise click.UsageError(f"Without --since, at most {MAX_PAGE} events can be read; give a smaller --limit.")
    run(print_events())


async def read_history(api: Api, room: str, since: str | None, limit: int | None) -> AsyncIterator[dict[str, Any]]:
    """Yield the newest ``limit`` events of ``room``, or at most that many after ``since``, oldest first.

    Without ``limit``, yield all events after ``since``, or the newest ``DEFAULT_LIMIT``. Without ``since``, ``limit``
    must not exceed ``MAX_PAGE``. Raises ``RoomcastError`` if the history does not reach back to ``since``.
    """
    left = limit if limit is not None or since is not None else DEFAULT_LIMIT
    while left is None or left > 0:
        size = MAX_PAGE if left is None else min(left, MAX_PAGE)
        answer = await api.call("GET", "/rooms/{}/history", room, query={"since": since, "limit": str(size)})
        if not answer["recovered"]:
            raise RoomcastError(f"The history of {room} does not reach back to {since}, or that is not an id of it.")
        for event in answer["events"]:
            yield event
        if since is None or not answer["more"]:
            return
        since = answer["events"][-1]["id"]
        left = None if left is None else left - len(answer["events"])
