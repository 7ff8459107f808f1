"""The exceptions of the client.

::

    RoomcastError
    ├── Unreachable           no answer: the connection failed or timed out
    ├── BadResponse           an answer that is not one of a roomcast server
    ├── ListenerStopped       the server ended a listener, and another connection would end in the same way
    └── ApiError              the server refused the request, or failed
        ├── Refused               the request is wrong: its fields, its room, its size
        ├── AuthenticationFailed  the API key or the token is missing or wrong
        ├── PermissionDenied      the key may not do this
        ├── Conflict              the idempotency key is in use, or was used for another request
        ├── RateLimited           too many requests
        └── ServerFailed          the server or its broker does not work at the moment

No exception contains the API key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of an event: its ``index`` in the list, the path of the ``field``, a sentence and a code."""

    index: int
    field: str
    error: str
    code: str


class RoomcastError(Exception):
    """The base of all exceptions of this package."""


class Unreachable(RoomcastError):
    """No answer arrived within the deadline. A publish may have been carried out; repeat it with the same key."""


class BadResponse(RoomcastError):
    """The answer is not one of a roomcast server. ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status)


class ListenerStopped(RoomcastError):
    """The server ended the listener permanently.

    ``code`` is a close code, an HTTP status or the code of an error frame. ``room`` is the room that it is about.
    """

    def __init__(self, message: str, code: int | str, room: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.room = room

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.room)


class ApiError(RoomcastError):
    """The server answered with an error.

    Attributes:
        message: The sentence of the server.
        code: The stable word for the error, such as ``invalid_data``.
        status: The HTTP status.
        fields: For one event that was refused: what is wrong with each field of its data.
        problems: For events that were refused: all their problems.
        detail: The cause of a failure, if the key may see it. Do not show it to users.
        request_id: The ``X-Request-ID`` of the answer, which proxies add.
        retry_after: The seconds after which another attempt makes sense, if the answer has them.
    """

    def __init__(
        self,
        message: str,
        code: str,
        status: int,
        *,
        fields: Mapping[str, Any] | None = None,
        problems: tuple[Problem, ...] = (),
        detail: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.fields: Mapping[str, Any] = dict(fields or {})
        self.problems = problems
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return the sentence, followed by one line for each further problem."""
        lines = [f"{self.message} ({self.status} {self.code})"]
        if len(self.problems) > 1:
            lines += [f"  index {one.index}, {one.field or 'as a whole'}: {one.error}" for one in self.problems]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to unpickle the error. Task queues send exceptions between processes."""
        return type(self), (self.message, self.code, self.status), self.__dict__


class Refused(ApiError):
    """The request is wrong. It would be refused again."""


class AuthenticationFailed(ApiError):
    """The API key, or the user's token, is missing or wrong."""


class PermissionDenied(ApiError):
    """The API key lacks the scope or the room, or the HTTP API is off."""


class Conflict(ApiError):
    """The idempotency key belongs to a request that is still running, or that had another body."""


class RateLimited(ApiError):
    """There were too many requests; ``retry_after`` states how long to wait."""


class ServerFailed(ApiError):
    """The server or its broker does not work at the moment. A publish may have been carried out."""


#: The class of each code. All other errors are classified by their status.
_BY_CODE: dict[str, type[ApiError]] = {
    "in_progress": Conflict,
    "key_reused": Conflict,
    "too_many_wrong_keys": AuthenticationFailed,
}
_BY_STATUS: dict[int, type[ApiError]] = {401: AuthenticationFailed, 403: PermissionDenied, 429: RateLimited}


def error_class(code: str, status: int) -> type[ApiError]:
    """Return the class of the error with this code and HTTP status."""
    by_status = _BY_STATUS.get(status, ServerFailed if status >= 500 else Refused)
    return _BY_CODE.get(code, by_status)
