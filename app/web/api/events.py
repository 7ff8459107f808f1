"""``POST /api/v1/events``: publish events."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ...broker.base import Publication
from ...gateway.gateway import Gateway
from ..app_state import GATEWAY
from ..json_errors import json_response
from . import batch
from .auth import check_room, requires_api_key
from .idempotency import idempotency_key, run_request_once
from .params import decode_json, read_body


@requires_api_key("publish")
async def publish(request: web.Request) -> web.StreamResponse:
    """Publish one event or a list of events, all or none.

    The response is ``{"id": …}`` for one event and ``{"ids": […]}`` for a list, an empty one included. A repeat of an
    ``Idempotency-Key`` within 5 minutes gets the first response, with a header ``Idempotency-Replayed``.
    """
    gateway = request.app[GATEWAY]
    key = idempotency_key(request)
    body = await read_body(request)
    events = decode_json(body)
    publications = batch.prepare(gateway, events, key)
    for room in {publication.room for publication in publications}:
        check_room(request, room)

    async def work() -> dict[str, Any]:
        ids = await _publish(gateway, publications)
        return {"ids": ids} if isinstance(events, list) else {"id": ids[0]}

    if key is None:
        return json_response(await work())
    is_first, document = await run_request_once(gateway.broker, key, body, work, gateway.settings.handler_timeout)
    return json_response(document, headers=None if is_first else {"Idempotency-Replayed": "true"})


async def _publish(gateway: Gateway, publications: list[Publication]) -> list[str]:
    ids = await gateway.broker.publish_many(publications)
    gateway.counters.http_events += len(ids)
    return ids
