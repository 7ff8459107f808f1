"""The routes with which operators list, retry and delete dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from aiohttp import web

from roomcast import Plugin, Queue, Refused, Service

#: How many dead letters one response or request may have.
MAX_PAGE = 1000


def add_routes(plugin: Plugin, name: str) -> None:
    """Add the routes for the queue ``name`` to ``plugin``."""

    @plugin.route("GET", "/dead-letters", auth="api_key", scope="read")
    async def list_dead_letters(service: Service, request: web.Request) -> web.StreamResponse:
        """List dead letters, oldest first, with the number of all."""
        queue = service.queue(name)
        after, limit = request.query.get("after"), request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:5]) <= MAX_PAGE):
            raise Refused("invalid_data", f"limit must be a number from 1 to {MAX_PAGE}.")
        try:
            letters = await queue.dead_letters(after, int(limit))
        except ValueError:
            raise Refused("invalid_data", "after must be the id of a dead letter.") from None
        listed = [
            {"id": one.id, "event": orjson.loads(one.payload)["event"], "reason": one.reason, "time": one.time}
            for one in letters
        ]
        return _response({"dead_letters": listed, "total": (await queue.info()).dead_letters})

    @plugin.route("POST", "/dead-letters/retry", auth="api_key", scope="moderate")
    async def retry_dead_letters(service: Service, request: web.Request) -> web.StreamResponse:
        """Deliver dead letters again."""
        queue = service.queue(name)
        return _response({"retried": await _apply(queue, queue.retry, await _ids(request))})

    @plugin.route("POST", "/dead-letters/delete", auth="api_key", scope="moderate")
    async def delete_dead_letters(service: Service, request: web.Request) -> web.StreamResponse:
        """Delete dead letters."""
        queue = service.queue(name)
        return _response({"deleted": await _apply(queue, queue.delete, await _ids(request))})


async def _ids(request: web.Request) -> list[str] | None:
    """Return the ids in the body, or None if it names none, which means all. Raises ``Refused``."""
    body = await request.read()
    if not body:
        return None
    try:
        document = orjson.loads(body)
        ids = document.get("ids")
    except (ValueError, AttributeError):
        raise Refused("invalid_data", 'The body must be a JSON object like {"ids": ["1796022762197-0"]}.') from None
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) > MAX_PAGE or not all(isinstance(id, str) for id in ids):
        raise Refused("invalid_data", f"ids must be a list of up to {MAX_PAGE} ids of dead letters.")
    return ids


async def _apply(queue: Queue, change: Callable[[Sequence[str]], Awaitable[int]], ids: list[str] | None) -> int:
    """Call ``change`` for some dead letters, or page by page for all that there are now."""
    if ids is not None:
        try:
            return await change(ids)
        except ValueError:
            raise Refused("invalid_data", "One of ids is not the id of a dead letter.") from None
    count, after = 0, None
    left = (await queue.info()).dead_letters  # those that are buried meanwhile are not meant
    while left > 0 and (letters := await queue.dead_letters(after, min(left, MAX_PAGE))):
        count += await change([letter.id for letter in letters])
        after, left = letters[-1].id, left - len(letters)
    return count


def _response(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")
