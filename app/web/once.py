"""Does once what is asked for twice: requests with an ``Idempotency-Key``.

The rules are those of draft-ietf-httpapi-idempotency-key-header, sections 2.6 and 2.7.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from ..broker import CLAIM_GRACE, Broker
from ..errors import Unavailable
from .errors import RETRY_AFTER, Failure

#: How often a repeat looks whether the first request is done, in seconds.
PAUSE: Final = 0.05


async def once(
    broker: Broker, key: str, body: bytes, work: Callable[[], Awaitable[Any]], patience: float
) -> tuple[bool, Any]:
    """Return whether this is the first request with ``key``, and what ``work`` returned then.

    A repeat that comes while the first is under way waits for it, ``patience`` seconds at most. Raises ``Failure`` if
    that was not enough, or if the first request had another ``body``. What fails is forgotten, and can be asked anew.
    """
    claim = f"http:{key}"
    fingerprint = hashlib.sha256(body).hexdigest()
    kept = await _claim(broker, claim, patience)
    if kept is not None:
        first = orjson.loads(kept)
        if first["fingerprint"] != fingerprint:
            raise Failure("key_reused", "This Idempotency-Key was used with another body; take a new key for each.")
        return False, first["answer"]
    settled: bytes | None = None
    try:
        done = await work()
        settled = orjson.dumps({"fingerprint": fingerprint, "answer": done})
    finally:
        # When the broker is gone in the middle, the events' own keys keep a repeat from publishing them twice.
        with contextlib.suppress(Unavailable):
            await broker.settle(claim, settled)
    return True, done


async def _claim(broker: Broker, claim: str, patience: float) -> bytes | None:
    """Claim the key and return None, or wait for the answer of whoever has it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            # It may be done on another node, so there is nothing to wait for but time.
            while not (claimed := await broker.claim(claim, patience + CLAIM_GRACE)):  # noqa: ASYNC110
                await asyncio.sleep(PAUSE)
            return claimed if isinstance(claimed, bytes) else None
    sentence = "A request with this Idempotency-Key is still being carried out; ask again in a moment."
    raise Failure("in_progress", sentence, headers={"Retry-After": str(RETRY_AFTER)})
