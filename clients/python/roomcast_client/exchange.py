"""How a call is carried out: what to send, when to repeat it, and what the answers mean. Nothing here does I/O.

``carry_out`` is a generator. It yields what to do, ``Send`` or ``Pause``, and is sent the outcome. ``Roomcast`` and
``AsyncRoomcast`` do what it yields, and so have the same rules.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

from .calls import Call
from .errors import ApiError, BadResponse, Problem, RoomcastError, Unreachable, error_class
from .retries import Retries, is_temporary

log = logging.getLogger("roomcast_client")

T = TypeVar("T")

#: The last attempt has at least this many seconds, even if the deadline comes earlier.
SHORTEST_ATTEMPT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request, and give up after ``timeout`` seconds."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


#: The outcome of a ``Send``: an answer whose body was read, or a sentence if there is none. Of a ``Pause``: None.
Outcome = httpx.Response | str | None
Steps = Generator[Send | Pause, Outcome, T]


def carry_out(
    call: Call[T],
    retries: Retries,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
) -> Steps[T]:
    """Send ``call``, with repeats, and return its result. Each attempt takes at most ``timeout`` seconds.

    Raises ``RoomcastError``.
    """
    end = clock() + retries.deadline
    attempt = 0
    while True:
        remaining = end - clock() if attempt else timeout
        longest = max(min(timeout, remaining), SHORTEST_ATTEMPT)
        outcome = yield Send(call.method, f"/api/v1/{call.path}", call.query, _headers(call), call.body, longest)
        assert outcome is not None
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return _result(call, outcome)
        error = Unreachable(outcome) if isinstance(outcome, str) else _error(outcome)
        retry_after = error.retry_after if isinstance(error, ApiError) else None
        pause = retries.pause(attempt, retry_after)
        if not _is_worth_repeating(error) or clock() + pause >= end:
            raise error
        log.warning("%s %s failed: %s Trying again in %.1f s.", call.method, call.path, _first_line(error), pause)
        attempt += 1
        yield Pause(pause)


def failure(error: httpx.RequestError | TimeoutError) -> str:
    """Return a sentence for a request without an answer.

    The exceptions of httpx are not chained to those of this package, because their frames have the API key.
    """
    reason = str(error) or "it does not answer in time"
    return f"The roomcast server cannot be reached: {reason} ({type(error).__name__})."


def _headers(call: Call[Any]) -> dict[str, str]:
    headers = {"Accept": "application/json"}
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    if call.key is not None:
        headers["Idempotency-Key"] = call.key
    if call.token is not None:
        headers["Authorization"] = f"Bearer {call.token}"
    return headers


def _is_worth_repeating(error: RoomcastError) -> bool:
    if isinstance(error, ApiError):
        return is_temporary(error.status, error.code)
    # A proxy without a server behind it answers in HTML.
    return isinstance(error, Unreachable) or (isinstance(error, BadResponse) and is_temporary(error.status, ""))


def _result(call: Call[T], response: httpx.Response) -> T:
    try:
        return call.parse(response.json())
    except (ValueError, LookupError, TypeError):
        raise _bad_response(response) from None


def _error(response: httpx.Response) -> ApiError | BadResponse:
    """Return the error that ``response`` describes."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "error" not in document:
        return _bad_response(response)
    code = str(document.get("code", ""))
    fields = document.get("fields")
    detail = document.get("detail")
    return error_class(code, response.status_code)(
        str(document["error"]),
        code,
        response.status_code,
        fields=fields if isinstance(fields, dict) else None,
        problems=_problems(document.get("items")),
        detail=None if detail is None else str(detail),
        request_id=response.headers.get("X-Request-ID"),
        retry_after=_retry_after(response),
    )


def _bad_response(response: httpx.Response) -> BadResponse:
    excerpt = json.dumps(response.text.strip()[:100])
    sentence = f"HTTP status {response.status_code} with the body {excerpt}: is this the URL of a roomcast server?"
    return BadResponse(sentence, response.status_code)


def _problems(items: Any) -> tuple[Problem, ...]:
    found = items if isinstance(items, list) else []
    return tuple(
        Problem(one.get("index", 0), str(one.get("field", "")), str(one.get("error", "")), str(one.get("code", "")))
        for one in found
        if isinstance(one, dict)
    )


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds in ``Retry-After``. A date, which roomcast never sends, is ignored."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _first_line(error: RoomcastError) -> str:
    return str(error).partition("\n")[0]
