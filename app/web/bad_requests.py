"""Refuses requests that are not well-formed or have an unreasonable head, and logs failures at most once a minute.

Any client can send such requests, as many as it likes. The log gets one line a minute for each kind of them, without
anything that the client sent, because URLs and headers contain tokens.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from ..aiohttp_internals import MAX_HEAD, Malformation, head_size
from .body_limit import send_and_close
from .failure_logs import FAILURE_LOGS
from .json_errors import BAD_BODY, INTERNAL, Failure
from .request_head import is_host
from .unread_responses import MAX_UNREAD, wait_until_read

#: The most slashes in a path. aiohttp looks up a route by each part of the path that ends at a slash: 8,000 take 9 ms.
MAX_SLASHES: Final = 64


class BadRequests:
    """Implements ``aiohttp_internals.ErrorResponses`` for the connections of ``app``."""

    def __init__(self, app: web.Application) -> None:
        self._logs: Final = app[FAILURE_LOGS]

    def check(self, request: web.BaseRequest) -> web.Response | None:
        """Refuse a request that would cost too much to handle, or that the handlers do not expect."""
        headers = request.headers
        if head_size(request) > MAX_HEAD:
            return self._refusal(request, "head_too_large", f"The head of the request is larger than {MAX_HEAD} bytes.")
        if request.version not in ((1, 0), (1, 1)):
            return self._refusal(request, "bad_request", "The version of HTTP must be 1.1 or 1.0.")
        if not is_host(headers.get("Host", "")):
            return self._refusal(request, "bad_request", "The Host header is not a name or an address with a port.")
        if request.rel_url.raw_path.count("/") > MAX_SLASHES:
            return self._refusal(request, "no_such_path", f"The path has more than {MAX_SLASHES} slashes.")
        if headers.get("Expect", "100-continue").lower() != "100-continue":
            return self._refusal(request, "bad_expectation", "Only 100-continue is supported in the header Expect.")
        return None

    def _refusal(self, request: web.BaseRequest, code: str, sentence: str) -> web.Response:
        self._log_refusal(request, sentence)
        return Failure(code, sentence).response_to(request)

    def refuse(self, request: web.BaseRequest, malformation: Malformation) -> web.Response:
        """Answer a request that was not parsed. Its path is not known, so the response is in JSON for all paths."""
        self._log_refusal(request, malformation.sentence)
        code = "head_too_large" if malformation.is_too_large else "bad_request"
        reason = f" ({malformation.reason})" if malformation.reason else ""
        return Failure(code, malformation.sentence + reason).response()

    def _log_refusal(self, request: web.BaseRequest, sentence: str) -> None:
        self._logs.add_refusal(sentence, f"refused a request from {request.remote or 'unix'}: {sentence}")

    def fail(self, request: web.BaseRequest, error: BaseException | None) -> web.Response:
        """Answer a request whose handler raised ``error``."""
        if isinstance(error, web.RequestPayloadError):
            return self._refusal(request, "bad_body", BAD_BODY)
        self._logs.add(request, error)
        return Failure("internal", INTERNAL).response_to(request)

    def log_failure(self, error: BaseException | None) -> None:
        """Log an error that ended a connection."""
        self._logs.add_exception("an HTTP connection failed", error)

    async def send_and_close(self, request: web.BaseRequest, response: web.Response) -> None:
        """Send ``response``, then discard what the client still sends, and close."""
        await send_and_close(request, response)

    async def wait_until_read(self, transport: asyncio.Transport, *, is_last: bool) -> None:
        """Wait until the client has read most of the response, or all of it if it is the last one."""
        await wait_until_read(transport, 0 if is_last else MAX_UNREAD)
