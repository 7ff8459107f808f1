"""HTTP requests with an ``Idempotency-Key``: draft-ietf-httpapi-idempotency-key-header, sections 2.6 and 2.7."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from ...api_keys import UNNAMED
from ...broker.base import Broker
from ...idempotency import InProgress, KeyReused, fingerprint_of, run_once
from ..json_errors import RETRY_AFTER, Failure
from .auth import KEY


def idempotency_key(request: web.Request) -> str | None:
    """Return the idempotency key of ``request``, or None without one. Raise ``Failure`` if the key is invalid.

    Each named API key has idempotency keys of its own, so that its owner cannot read the answers to others. They begin
    with ``http:`` or ``http.``. The keys of users' commands are digests, without a colon.
    """
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch("[ -~]{1,128}", given[0]):
        raise Failure("bad_idempotency_key", "Idempotency-Key must be given once, with 1 to 128 printable characters.")
    api_key = request[KEY].name
    return f"http:{given[0]}" if api_key == UNNAMED else f"http.{api_key}:{given[0]}"


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
