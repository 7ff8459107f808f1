"""What the HTTP API answers with: JSON, in good times and in bad.

An error is ``{"error": sentence, "code": word}`` and perhaps more. The words are those of error frames where the same
thing went wrong, and else the ones in ``STATUS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final

import orjson
from aiohttp import web

from ..errors import Refused, RoomcastError, Unavailable

log = logging.getLogger("roomcast.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The status of each code; a code that is not here is one of an event or a room that was refused: 422.
STATUS: Final[Mapping[str, int]] = {
    "bad_json": 400,
    "bad_body": 400,
    "bad_query": 400,
    "bad_idempotency_key": 400,
    "unauthorized": 401,
    "bad_token": 401,
    "api_off": 403,
    "bad_origin": 403,
    "no_such_path": 404,
    "no_such_method": 405,
    "body_too_slow": 408,
    "in_progress": 409,
    "body_too_large": 413,
    "too_many_tickets": 429,
    "internal": 500,
    "unavailable": 503,
}
#: A broker that is away is asked again after this many seconds.
RETRY_AFTER: Final = 1


class Failure(RoomcastError):
    """A request that cannot be answered as asked: ``code`` (see ``STATUS``), a sentence, ``more`` fields, ``headers``.

    With ``close`` the answer is the last on its connection, which is closed after up to so many seconds in which the
    rest of the request is read and thrown away.
    """

    def __init__(
        self,
        code: str,
        message: str,
        more: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        close: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Final = code
        self.document: Final = {"error": message, "code": code, **(more or {})}
        self.headers: Final = headers
        self.close: Final = close


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return ``document`` as a JSON response that nobody keeps."""
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    body = orjson.dumps(document)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={**always, **(headers or {})}
    )


def in_json(handler: Handler) -> Handler:
    """Answer in JSON whatever ``handler`` raises."""

    @wraps(handler)
    async def answering(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            failure = _as_failure(request, error)
        response = answer(failure.document, STATUS.get(failure.code, 422), failure.headers)
        if failure.close is not None:
            await _hang_up(request, response, failure.close)
        return response

    return answering


def _as_failure(request: web.Request, error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, Refused):
        return Failure(error.code, error.message, {"fields": error.fields} if error.fields else None)
    if isinstance(error, Unavailable):
        sentence = f"The request could not be carried out now ({error}); try again."
        return Failure("unavailable", sentence, headers={"Retry-After": str(RETRY_AFTER)})
    resource = request.match_info.route.resource
    log.error("%s %s failed", request.method, resource.canonical if resource is not None else "", exc_info=error)
    return Failure("internal", "The server failed; its log says why. Try again later.")


async def _hang_up(request: web.Request, response: web.Response, linger: float) -> None:
    """Send ``response``, read for a moment what the client still sends, and close.

    A socket that is closed with unread bytes sends a reset, which can take the answer from the client before it was
    read. aiohttp would read on by itself, but for 10 s, and even when the client has gone.
    """
    response.force_close()
    await response.prepare(request)
    await response.write_eof()
    with contextlib.suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
        async with asyncio.timeout(linger):
            while await request.content.readany():
                pass
    request.protocol.force_close()
