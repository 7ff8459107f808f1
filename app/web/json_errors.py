"""The JSON responses of the HTTP API, and how exceptions become error responses.

An error is ``{"error": sentence, "code": word}``, with more fields for some codes. Codes that are also those of error
frames have the same meaning. ``STATUS`` has the HTTP status of each code. The sentence is for everyone. Only callers
that may see details (``SEES_DETAILS``) get the ``detail`` of ``Unavailable``, which names servers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final

import orjson
from aiohttp import web

from ..errors import AuthenticationFailed, Refused, RoomcastError, Unavailable
from .failure_logs import FAILURE_LOGS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The status of each code. All other codes mean that an event or a room was refused: 422.
STATUS: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "bad_handshake": 400,
    "bad_json": 400,
    "bad_body": 400,
    "bad_query": 400,
    "bad_idempotency_key": 400,
    "unauthorized": 401,
    "bad_token": 401,
    "api_off": 403,
    "bad_origin": 403,
    "missing_scope": 403,
    "forbidden_room": 403,
    "no_such_path": 404,
    "no_such_method": 405,
    "body_too_slow": 408,
    "in_progress": 409,
    "body_too_large": 413,
    "body_encoded": 415,
    "bad_content_type": 415,
    "bad_expectation": 417,
    "upgrade_required": 426,
    "too_many_tickets": 429,
    "too_many_wrong_keys": 429,
    "head_too_large": 431,
    "internal": 500,
    "unavailable": 503,
}
#: The WWW-Authenticate header of a 401 (RFC 9110 section 11.6.1, RFC 6750 section 3).
CHALLENGE: Final = 'Bearer realm="roomcast"'
#: The Retry-After of requests that failed because the broker is unavailable, in seconds.
RETRY_AFTER: Final = 1
#: The sentences of the codes ``internal`` and ``bad_body``.
INTERNAL: Final = "The server failed; its log says why. Try again later."
BAD_BODY: Final = "The body is broken or ended early."
#: Set in a request whose API key allows its caller to see the cause of failures.
SEES_DETAILS: Final = web.RequestKey("sees_details", bool)


class Failure(RoomcastError):
    """The error response to a request: a ``code`` (see ``STATUS``), a sentence, ``more`` fields and ``headers``.

    ``status`` is by default that of the code. If ``closes`` is True, the response closes the connection.
    """

    def __init__(
        self,
        code: str,
        message: str,
        more: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Final = code
        self.document: Final = {"error": message, "code": code, **(more or {})}
        self.headers: Final = headers
        self._closes: Final = closes
        self._status: Final = STATUS.get(code, 422) if status is None else status

    def response(self) -> web.Response:
        """Return the response in JSON."""
        response = json_response(self.document, self._status, self.headers)
        if self._closes:
            response.force_close()
        return response

    def response_to(self, request: web.BaseRequest) -> web.Response:
        """Return the response to ``request``: in JSON under ``/api``, else as text."""
        if request.path.startswith("/api/"):
            return self.response()
        headers = {"X-Content-Type-Options": "nosniff", **(self.headers or {})}
        return web.Response(text=f"{self}\n", status=self._status, headers=headers)


def json_response(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return ``document`` as a JSON response that caches do not store."""
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    body = orjson.dumps(document)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={**always, **(headers or {})}
    )


def in_json(handler: Handler) -> Handler:
    """Return ``handler`` with its exceptions turned into JSON responses, except aiohttp's own and lost connections."""

    @wraps(handler)
    async def wrapper(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            failure = _as_failure(request, error)
        return failure.response()

    return wrapper


def _as_failure(request: web.Request, error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, Refused):
        fields = {"fields": error.fields} if error.fields else None
        return Failure(error.code, error.message, fields, status=error.status)
    if isinstance(error, AuthenticationFailed):
        return Failure("bad_token", str(error), headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'})
    if isinstance(error, web.RequestPayloadError):
        return Failure("bad_body", BAD_BODY)
    request.app[FAILURE_LOGS].add(request, error)
    if isinstance(error, Unavailable):
        sentence = f"The request could not be carried out now; try again soon. {error}"
        has_detail = request.get(SEES_DETAILS, False) and error.detail != str(error)
        more = {"detail": error.detail} if has_detail else None
        return Failure("unavailable", sentence, more, headers={"Retry-After": str(RETRY_AFTER)})
    return Failure("internal", INTERNAL)
