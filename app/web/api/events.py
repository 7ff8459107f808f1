"""``POST /api/v1/events``: publish events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from ...broker.base import Publication
from ...errors import Unavailable
from ...gateway.gateway import Gateway
from ...live_event import LivePublication
from ..app_state import GATEWAY
from ..json_errors import Failure, json_response
from . import batch
from .auth import KEY, check_room, requires_api_key
from .idempotency import event_keys, idempotency_key, run_request_once
from .params import decode_json, read_body


@requires_api_key("publish")
async def publish(request: web.Request) -> web.StreamResponse:
    """Publish one event or a list of events, all or none.

    The response is ``{"id": …}`` for one event and ``{"ids": […]}`` for a list, an empty one included. The id of an
    event that is not stored is null. A repeat of an ``Idempotency-Key`` within ``IDEMPOTENCY_TTL`` gets the first
    response, with a header ``Idempotency-Replayed``. All events show the key, except those that have a ``key`` of their
    own.
    """
    gateway = request.app[GATEWAY]
    key = idempotency_key(request)
    body = await read_body(request)
    events = decode_json(body)
    publications = batch.prepare(gateway, events, key, event_keys(request))
    try:
        for room in {publication.room for publication in publications}:
            check_room(request, room)
    except Failure as failure:
        raise batch.forbid_rooms(publications, request[KEY].allows, failure) from None

    async def work() -> dict[str, Any]:
        checked = await batch.call_hooks(gateway, publications, is_list=isinstance(events, list))
        ids = await _publish(gateway, checked)
        return {"ids": ids} if isinstance(events, list) else {"id": ids[0]}

    if key is None:
        return json_response(await work())
    is_first, document = await run_request_once(
        gateway.broker, key.stored, body, work, gateway.settings.handler_timeout
    )
    return json_response(document, headers=None if is_first else {"Idempotency-Replayed": "true"})


async def _publish(gateway: Gateway, publications: Sequence[Publication | LivePublication]) -> list[str | None]:
    """Publish the stored events and send the others; return the ids, with None for those that are not stored."""
    stored = [one for one in publications if isinstance(one, Publication)]
    ids = iter(await gateway.broker.publish_many(stored) if stored else ())
    result: list[str | None] = []
    for publication in publications:
        if isinstance(publication, Publication):
            result.append(next(ids))
            continue
        try:
            gateway.live_events.send(publication)
        except Unavailable:
            if not stored:  # otherwise the request would seem to have failed, although events were published
                raise
        result.append(None)
    gateway.counters.http_events += len(result)
    return result
