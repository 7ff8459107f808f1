"""``roomcast publish``: events from a shell, by way of ``POST /api/v1/events``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from ..errors import RoomcastError
from ..logs import escape
from . import websocket_client

PATH: Final = "/api/v1/events"
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=10)


def read(text: str, type: str | None, room: str | None, sender: str | None) -> Any:
    """Return what ``text`` says to publish: events if there is no ``type``, else data of that type in ``room``.

    A list is several. Raises ``RoomcastError`` if ``text`` is no JSON.
    """
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RoomcastError(f"The data is not JSON: {error}.") from None
    if type is None:
        return given

    def event(data: Any) -> dict[str, Any]:
        named = {} if sender is None else {"sender": sender}
        return {"type": type, "room": room, "data": data, **named}

    return [event(data) for data in given] if isinstance(given, list) else event(given)


async def publish(url: str, api_key: str, events: Any, idempotency_key: str | None) -> list[str]:
    """Publish one event or a list at the server of ``url``; return the ids. Raises ``RoomcastError``."""
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    at = websocket_client.target(url)
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.post(at.http + PATH, data=orjson.dumps(events), headers=headers) as response,
        ):
            body = await response.read()
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise websocket_client.Unreachable(f"{at.http} cannot be reached: {websocket_client.why(error)}.") from error
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not response.ok or not isinstance(answer, dict):
        raise RoomcastError(_refusal(response.status, answer, body, at.http))
    ids = answer.get("ids", [answer.get("id")])
    return [str(one) for one in ids]


def _refusal(status: int, answer: Any, body: bytes, base: str) -> str:
    """Return the server's sentence, and a line for each problem of several; or what an answer without one may mean."""
    if not isinstance(answer, Mapping) or "error" not in answer:
        said = body.decode("utf-8", "replace").strip().split("\n")[0][:200]
        return f"{base} answered with HTTP status {status} ({escape(said)}); is it a roomcast server?"
    items = answer.get("items")
    problems = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    lines = [str(answer["error"])]
    if len(problems) > 1:  # one is in the sentence already
        lines += [
            f"  index {one.get('index')}, {one.get('field') or 'as a whole'}: {one.get('error')}" for one in problems
        ]
    return "\n".join(map(escape, lines))  # nothing that a server says steers the terminal
