"""HTTP requests with an ``Idempotency-Key``: draft-ietf-httpapi-idempotency-key-header, sections 2.6 and 2.7."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web

from ...api_keys import UNNAMED
from ...broker.base import Broker
from ...idempotency import InProgress, KeyReused, fingerprint_of, run_once
from ..json_errors import RETRY_AFTER, Failure
from .auth import KEY

#: The form of a key, in the header and in an event.
KEY_PATTERN: Final = re.compile("[ -~]{1,128}")


class IdempotencyKey(NamedTuple):
    """The key of a request or of an event: as the broker stores it, and as ``given`` in the header or the event."""

    stored: str
    given: str


def idempotency_key(request: web.Request) -> IdempotencyKey | None:
    """Return the idempotency key of ``request``, or None without one. Raise ``Failure`` if the key is invalid.

    Each named API key has idempotency keys of its own, so that its owner cannot read the answers to others. They begin
    with ``http:`` or ``http.``. The keys of users' commands are digests, without a colon.
    """
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not KEY_PATTERN.fullmatch(given[0]):
        raise Failure("bad_idempotency_key", "Idempotency-Key must be given once, with 1 to 128 printable characters.")
    return IdempotencyKey(f"{_owner(request, 'http')}:{given[0]}", given[0])


def event_keys(request: web.Request) -> Callable[[str], IdempotencyKey]:
    """Return the function that makes the idempotency key of an event from its field ``key``.

    These keys are independent of those of requests, and of those of other API keys.
    """
    owner = _owner(request, "event")
    return lambda given: IdempotencyKey(f"{owner}:{given}", given)


def _owner(request: web.Request, kind: str) -> str:
    """Return the first part of the stored keys of ``request``, which separates kinds of keys and named API keys."""
    api_key = request[KEY].name
    return kind if api_key == UNNAMED else f"{kind}.{api_key}"


async def run_request_once(
    broker: Broker,
    key: str,
    body: bytes,
    work: Callable[[], Awaitable[Any]],
    timeout: float,  # noqa: ASYNC109  # it bounds the work and the wait of a repeat
) -> tuple[bool, Any]:
    """Run ``work`` unless ``key`` was used before. Return (True, its result), or (False, the result of the first run).

    A repeat waits up to ``timeout`` seconds for the first run to end. Raises ``Failure`` if the first run takes longer,
    or if the first request had another ``body``. The key of a failed request is dropped, so that it can be repeated.
    """

    async def encoded() -> bytes:
        return orjson.dumps(await work())

    try:
        is_first, result = await run_once(broker, key, fingerprint_of(body), encoded, timeout, wait=timeout)
    except KeyReused:
        sentence = "This Idempotency-Key was used with another body; use a new key for each request."
        raise Failure("key_reused", sentence) from None
    except InProgress:
        sentence = "A request with this Idempotency-Key is still being carried out; repeat it in a moment."
        raise Failure("in_progress", sentence, headers={"Retry-After": str(RETRY_AFTER)}) from None
    return is_first, orjson.loads(result)
