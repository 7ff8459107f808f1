"""Publishes events with the HTTP API until each of them is confirmed or refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import orjson

from ..backoff import Backoff
from ..failure_log import FailureLog
from .metrics import RelayMetrics

log = logging.getLogger("roomcast.relay")

PATH: Final = "/api/v1/events"
#: The limits of a request: the events, and the bytes of the body, somewhat below the 1 MiB that the API accepts.
MAX_EVENTS: Final = 1000
MAX_BYTES: Final = 1_000_000
#: The bytes of a single event: the limit of a body, without the brackets of the list.
_MAX_EVENT: Final = 2**20 - 2
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=10)
#: The first and the longest pause before a request is sent again, in seconds.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
#: How long the requests in flight may take when the relay stops, in seconds.
STOP_TIMEOUT: Final = 10.0
#: The statuses that refuse the events of a request. All others concern the relay or the server, so it tries again.
_REFUSALS: Final = frozenset({400, 413, 422})
#: After this many answers ``internal`` in a row, one event may be the cause, for example because the schema of a plugin
#: raises an exception. Several events are then sent in smaller requests, and a single one counts as refused.
_FAILURES_OF_SEVERAL: Final = 3
_FAILURES_OF_ONE: Final = 10


class Refusal(NamedTuple):
    """Why roomcast has refused an event."""

    code: str
    error: str


class _Answer(NamedTuple):
    """The answer to a request: the refused events by their index, or for the whole request under None."""

    refused: dict[int | None, Refusal]


class _Retry(Exception):
    """The request must be sent again. ``may_be_published`` is True if it is unknown whether it was carried out.

    ``is_internal`` is True if a roomcast server failed with an exception.
    """

    def __init__(self, reason: str, may_be_published: bool, *, is_internal: bool = False) -> None:
        super().__init__(reason)
        self.may_be_published: Final = may_be_published
        self.is_internal: Final = is_internal


class Publisher:
    """Sends events to the server at ``url`` with ``api_key``. Each event is encoded and has a key of its own.

    ``key_ttl`` is the server's ``IDEMPOTENCY_TTL``, in seconds.
    """

    def __init__(self, url: str, api_key: str, key_ttl: float, metrics: RelayMetrics) -> None:
        self._url: Final = url + PATH
        self._headers: Final = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._key_ttl: Final = key_ttl
        self._metrics: Final = metrics
        self._failures: Final = FailureLog(log, lines=3)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def publish(self, events: Sequence[bytes]) -> dict[int, Refusal]:
        """Publish ``events`` in order; return those that were refused, by their index.

        Returns when each event is confirmed or refused, however long the server does not work.
        """
        refused: dict[int, Refusal] = {}
        start = 0
        while start < len(events):
            end, size = start + 1, len(events[start])
            if size > _MAX_EVENT:  # a server that refuses a long body may reset the connection before its answer
                error = f"The event has {size} bytes as JSON; {_MAX_EVENT} is the most."
                refused[start] = Refusal("body_too_large", error)
                start = end
                continue
            while end < len(events) and end - start < MAX_EVENTS and size + len(events[end]) < MAX_BYTES:
                size += len(events[end]) + 1
                end += 1
            await self._publish_batch(events, list(range(start, end)), refused)
            start = end
        for refusal in refused.values():
            self._metrics.failed.labels(refusal.code).inc()
        self._metrics.published.inc(len(events) - len(refused))
        return refused

    async def _publish_batch(self, events: Sequence[bytes], batch: list[int], refused: dict[int, Refusal]) -> None:
        """Publish the events with the indexes in ``batch``, with as few requests as possible."""
        while batch:
            answer = await self._request_until_answered([events[index] for index in batch])
            if not answer.refused:
                return
            if None not in answer.refused:
                for position, refusal in answer.refused.items():
                    assert position is not None
                    refused[batch[position]] = refusal
                batch = [index for index in batch if index not in refused]
            elif len(batch) == 1:
                refused[batch[0]] = answer.refused[None]
                return
            else:  # find the events that are the cause
                half = len(batch) // 2
                await self._publish_batch(events, batch[:half], refused)
                batch = batch[half:]

    async def _request_until_answered(self, events: Sequence[bytes]) -> _Answer:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, jitter=0.5)
        unknown_since: float | None = None
        failures, most = 0, _FAILURES_OF_SEVERAL if len(events) > 1 else _FAILURES_OF_ONE
        while True:
            sent = time.monotonic()
            if unknown_since is not None and sent - unknown_since >= self._key_ttl:
                self._report_possible_duplicates(len(events), sent - unknown_since)
                unknown_since = None
            try:
                return await self._request(events)
            except _Retry as retry:
                if retry.may_be_published and unknown_since is None:
                    unknown_since = sent
                self._metrics.retries.inc()
                failures = failures + 1 if retry.is_internal else 0
                if failures == most:
                    return _Answer({None: Refusal("internal", f"The server failed {most} times; its log says why.")})
                self._failures.add("retry", f"{self._url} {retry}; the relay tries again")
            await asyncio.sleep(backoff.next_pause())

    def _report_possible_duplicates(self, count: int, seconds: float) -> None:
        self._metrics.possible_duplicates.inc(count)
        log.warning(
            "%d events are sent again %.0f s after a request whose result is unknown; if that published them, they are "
            "published twice, because their keys live for %g s (IDEMPOTENCY_TTL)",
            *(count, seconds, self._key_ttl),
        )

    async def _request(self, events: Sequence[bytes]) -> _Answer:
        """Send one request. Raises ``_Retry``."""
        body = b"[" + b",".join(events) + b"]"
        try:
            async with self._session.post(self._url, data=body) as response:
                status, text = response.status, await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _Retry(f"cannot be reached: {error}", False) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _Retry(f"did not answer: {error or type(error).__name__}", True) from None
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            document = None
        if status == 200 and isinstance(document, dict) and len(document.get("ids", ())) == len(events):
            return _Answer({})
        if not isinstance(document, dict) or "code" not in document:
            raise _Retry(f"answered with status {status}, not as a roomcast server does", status >= 500)
        code, sentence = str(document["code"]), str(document.get("error"))
        if status in _REFUSALS or code == "forbidden_room":
            return _Answer(_refused_items(document, len(events)) or {None: Refusal(code, sentence)})
        reason = f"answered with status {status} ({code}): {sentence}"
        raise _Retry(reason, status >= 500, is_internal=code == "internal")


def _refused_items(document: dict[str, Any], count: int) -> dict[int | None, Refusal]:
    """Return the refused events that the answer lists, with the first problem of each."""
    found: dict[int | None, Refusal] = {}
    for item in document.get("items") or ():
        if 0 <= item["index"] < count:
            found.setdefault(item["index"], Refusal(item["code"], f"{item['field']}: {item['error']}".lstrip(": ")))
    return found
