"""Publishes the events on the lines of a stream, in batches, as they arrive."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, Final, NamedTuple

import click
import orjson

from ..backoff import Backoff
from ..builtin_events import builtin
from ..errors import RoomcastError
from ..workers.process import new_loop
from .api import Api, ApiRefused, RoomDenied, item_text
from .exit_status import Unreachable
from .printing import note, print_line

#: A read returns what has arrived, at most this many bytes. Its lines are published together.
READ_SIZE: Final = 64 * 1024
#: The most events in a request, and the longest line in bytes. The server accepts 1,000 and 1 MiB.
MAX_BATCH: Final = 500
MAX_LINE: Final = 512 * 1024
#: The pauses between attempts, and how long a batch is repeated, in seconds. By default a server keeps
#: idempotency keys for 300 s.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
RETRY_TIME: Final = 240.0

#: The fields that a server adds to an event.
_ADDED_FIELDS: Final = ("id", "timestamp")
#: The events that only a server sends. ``roomcast listen --json`` prints them too.
_OF_SERVER: Final = frozenset(event.type for event in builtin.events.values() if event.published_by_core)


class Line(NamedTuple):
    """An event and the number of its line."""

    number: int
    event: dict[str, Any]


def read_first_line(stream: BufferedReader) -> bytes:
    """Read up to the end of the first line that is not blank. Return it, after the blank ones."""
    first = line = stream.readline()
    while line and not line.strip():
        line = stream.readline()
        first += line
    return first


def is_line_of_event(first: bytes) -> bool:
    """Return True if the input that begins with the line ``first`` has an event on each line.

    Otherwise it is one document: a list, or an event that continues on the next lines.
    """
    text = first.decode("utf-8", "replace").strip()
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError as error:
        return bool(text) and not text.startswith("[") and error.pos < len(text)


class LinePublisher:
    """Publishes the events of a stream in order. Prints the id of each, and a sentence for each line that is refused.

    ``key`` is the beginning of the keys of events without ``key`` and ``id``, or None.
    """

    def __init__(self, api: Api, key: str | None, as_json: bool) -> None:
        self._api: Final = api
        self._key: Final = key
        self._as_json: Final = as_json
        self._run_id: Final = secrets.token_hex(8)
        self._requests = 0
        self._skipped = 0
        self._refused = 0
        self._has_published = False

    def publish(self, first: bytes, rest: BufferedReader) -> bool:
        """Publish ``first``, the first line, and the lines of ``rest``. Return False if a line was refused.

        Raises ``Denied`` if the key may not publish, and ``Unreachable`` if the server cannot be reached at first, or
        for ``RETRY_TIME`` later.
        """
        # The input is read outside of the event loop, so that Ctrl-C ends a read that waits.
        with asyncio.Runner(loop_factory=new_loop) as runner:
            for batch in self._batches(first, rest):
                runner.run(self._publish(batch))
        if self._skipped:
            note(f"Lines with events that only a server sends, such as user_joined, were skipped: {self._skipped}.")
        return not self._refused

    def _batches(self, first: bytes, rest: BufferedReader) -> Iterator[list[Line]]:
        """Yield the events that have arrived, at most ``MAX_BATCH`` at a time."""
        number, chunk, is_too_long = 0, first, False
        while chunk:
            *lines, tail = chunk.split(b"\n")
            batch: list[Line] = []
            for text in lines:
                number += 1
                line = None if is_too_long else self._parse(number, text)
                is_too_long = False
                batch += [] if line is None else [line]
            for at in range(0, len(batch), MAX_BATCH):
                yield batch[at : at + MAX_BATCH]
            if len(tail) > MAX_LINE:
                if not is_too_long:
                    self._refuse(number + 1, f"The line has more than {MAX_LINE} bytes.")
                tail, is_too_long = b"", True
            data = rest.read1(READ_SIZE)
            chunk = tail + data if data else tail + b"\n" if tail else b""

    def _parse(self, number: int, text: bytes) -> Line | None:
        """Return the event in a line, without the fields that a server adds. None if there is nothing to publish."""
        if not text.strip():
            return None
        try:
            event = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            self._refuse(number, f"It is not JSON: {error}.")
            return None
        if not isinstance(event, dict):
            self._refuse(number, "It must be an object with type, room, data and perhaps sender and key.")
            return None
        if "timestamp" in event and event.get("type") in _OF_SERVER:
            self._skipped += 1
            return None
        # The id is unique in a room. Several events can show the key of the request that caused them.
        key = event.get("id") or event.get("key") or (None if self._key is None else f"{self._key}/{number}")
        event = {name: value for name, value in event.items() if name not in _ADDED_FIELDS}
        return Line(number, event if key is None else {**event, "key": key})

    async def _publish(self, lines: list[Line]) -> None:
        """Publish ``lines`` without those that the server refuses."""
        while lines:
            try:
                answer = await self._post([line.event for line in lines])
            except ApiRefused as refused:
                indexes = {int(item["index"]) for item in refused.items if isinstance(item.get("index"), int)}
                if not indexes:
                    self._refuse_all(lines, refused)
                    return
                for item in refused.items:
                    self._explain(lines[item["index"]].number, item_text(item))
                self._refused += len(indexes)
                lines = [line for at, line in enumerate(lines) if at not in indexes]
            except RoomDenied as denied:
                rooms = dict.fromkeys(str(line.event.get("room")) for line in lines)
                if len(rooms) == 1:
                    self._refuse_all(lines, denied)
                for room in rooms if len(rooms) > 1 else ():
                    await self._publish([line for line in lines if str(line.event.get("room")) == room])
                return
            else:
                for line, id in zip(lines, answer["ids"], strict=True):
                    self._print(line.number, id)
                return

    async def _post(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Publish events, and repeat the request while the server cannot be reached, after it was reached once."""
        self._requests += 1
        headers = {"Idempotency-Key": f"{self._run_id}/{self._requests}"}
        backoff, deadline = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5), time.monotonic() + RETRY_TIME
        while True:
            try:
                answer = await self._api.call("POST", "/events", body=events, headers=headers)
            except Unreachable as error:
                pause = backoff.next_pause()
                if not self._has_published or time.monotonic() + pause > deadline:
                    raise
                note(f"{error} Trying again in {pause:.1f} s.")
                await asyncio.sleep(pause)
            else:
                self._has_published = True
                return answer

    def _print(self, number: int, id: str | None) -> None:
        if self._as_json:
            print_line({"line": number, "id": id})
        else:
            click.echo("-" if id is None else id)

    def _refuse_all(self, lines: list[Line], error: RoomcastError) -> None:
        for line in lines:
            self._refuse(line.number, str(error))

    def _refuse(self, number: int, sentence: str) -> None:
        """Count a line that cannot be published, and report it."""
        self._refused += 1
        self._explain(number, sentence)

    def _explain(self, number: int, sentence: str) -> None:
        note(f"Line {number}: {sentence}")
