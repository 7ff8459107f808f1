"""All errors: the exceptions, the codes of ``error`` frames, and the close codes.

::

    RoomcastError
    ├── SettingsError          a setting is missing or wrong: the server does not start
    ├── PluginError            a plugin cannot be used: the server does not start
    ├── Refused                a request is answered with an ``error`` frame; the connection stays open
    │   └── InvalidEvent       an event cannot be published: its type or its data is wrong
    ├── AuthenticationFailed   a token or ticket is not accepted: close 4401
    ├── Unavailable            the request cannot be carried out now; a retry may succeed
    │   └── BrokerUnavailable  the broker does not work at the moment
    └── ProtocolViolation      the peer violated RFC 6455: the connection is closed with the code of the error
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ErrorCode(NamedTuple):
    """The meaning of one code in ``data.code`` of an ``error`` frame.

    ``temporary`` is True if the same request may succeed later.
    """

    meaning: str
    temporary: bool = False


#: All codes of ``error`` frames that roomcast itself sends. Plugins may use other codes too.
ERROR_CODES: Mapping[str, ErrorCode] = {
    "bad_json": ErrorCode("The frame is not one JSON object."),
    "bad_message": ErrorCode("The envelope lacks a field, has an unknown field, or has a field of the wrong type."),
    "unknown_type": ErrorCode("No plugin declares a command of this type."),
    "bad_room": ErrorCode(
        "The room is missing, not of the form entity_type:entity_id, or of a type that does not allow the request."
    ),
    "unknown_room_type": ErrorCode("No plugin declares rooms of this type."),
    "invalid_data": ErrorCode("The data does not match the schema of its type; data.fields names each bad field."),
    "forbidden": ErrorCode("The room's rule does not allow this user."),
    "not_joined": ErrorCode("The sender must join the room before it sends this command."),
    "too_many_rooms": ErrorCode("This connection is already in the maximum number of rooms."),
    "bad_token": ErrorCode("The token given to refresh_token is invalid or belongs to another user."),
    "not_found": ErrorCode("The event that the command refers to is not in the room's history, or no longer."),
    "not_author": ErrorCode("Only the author of a message may change or delete it."),
    "rate_limited": ErrorCode(
        "The client sends too many messages or bytes per second; if it continues, it is closed with 4429.",
        temporary=True,
    ),
    "in_progress": ErrorCode("A command with the same key is still running.", temporary=True),
    "key_reused": ErrorCode("The key was used before, for the same type and room, but with other data."),
    "timeout": ErrorCode("The command took too long and was cancelled.", temporary=True),
    "unavailable": ErrorCode(
        "A part that the request needs, such as the broker or an access check, does not work at the moment.",
        temporary=True,
    ),
    "internal": ErrorCode("The server failed; its log has the reason.", temporary=True),
}


def is_temporary(code: str) -> bool:
    """Return True if a request that got the error ``code`` may succeed later. Codes of plugins are permanent."""
    return code in ERROR_CODES and ERROR_CODES[code].temporary


class Close(NamedTuple):
    """How a connection ends: the close ``code`` and its ``reason``. ``reconnect`` is True if clients should retry."""

    code: int
    reason: str
    reconnect: bool


NORMAL = Close(1000, "", reconnect=False)
PROTOCOL_ERROR = Close(1002, "Protocol Error", reconnect=False)
UNSUPPORTED_DATA = Close(1003, "Binary Frames Are Not Supported", reconnect=False)
INVALID_TEXT = Close(1007, "Invalid UTF-8", reconnect=False)
MESSAGE_TOO_BIG = Close(1009, "Message Too Big", reconnect=False)
SERVICE_RESTART = Close(1012, "Service Restart", reconnect=True)
TOO_SLOW = Close(1013, "Too Slow", reconnect=True)
#: The node is full. RFC 6455 has no code for this; the registry of IANA has 1013, "Try Again Later".
NODE_FULL = Close(1013, "Try Again Later", reconnect=True)
AUTHENTICATION_FAILED = Close(4401, "Authentication Failed", reconnect=False)
FORBIDDEN = Close(4403, "Forbidden", reconnect=False)
TOO_MANY_CONNECTIONS = Close(4429, "Too Many Connections", reconnect=True)
TOO_MANY_MESSAGES = Close(4429, "Too Many Messages", reconnect=True)
INTERNAL_ERROR = Close(4500, "Internal Server Error", reconnect=True)
DISCONNECTED = Close(4410, "Disconnected", reconnect=False)

#: All closes that the server sends. The documentation lists them, and clients decide by them if they reconnect.
CLOSES: tuple[Close, ...] = (
    NORMAL,
    PROTOCOL_ERROR,
    UNSUPPORTED_DATA,
    INVALID_TEXT,
    MESSAGE_TOO_BIG,
    SERVICE_RESTART,
    TOO_SLOW,
    NODE_FULL,
    AUTHENTICATION_FAILED,
    FORBIDDEN,
    DISCONNECTED,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_MESSAGES,
    INTERNAL_ERROR,
)


class RoomcastError(Exception):
    """The base class of all errors that roomcast raises deliberately."""


class SettingsError(RoomcastError):
    """A setting is missing or wrong. The message is one sentence for the operator and names the setting."""


class PluginError(RoomcastError):
    """A plugin cannot be used. The message has its package, its entry point and the reason."""


class Refused(RoomcastError):
    """A request is refused. Raise it in a handler or a rule; the client receives an ``error`` frame.

    Args:
        code: A stable code for programs: one of ``ERROR_CODES``, or a word of the plugin's own, such as ``closed``.
        message: A sentence for the developer of the client: what is wrong, and what to do.
        fields: The problems of each invalid field of ``data``, a list of texts by the field's dotted path, or None.
        status: The status of the response if a route raises it, from 400 to 499. The default is 422.
    """

    def __init__(
        self, code: str, message: str, fields: Mapping[str, Any] | None = None, *, status: int | None = None
    ) -> None:
        if status is not None and not 400 <= status <= 499:
            raise ValueError(f"a refusal has a status from 400 to 499, not {status}")
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields


class InvalidEvent(Refused):
    """An event cannot be published: no plugin declares its type, or its schema refuses the data.

    In the HTTP API and in routes, the caller sent the event and gets this refusal. In a command handler the plugin made
    the event from data that its command accepts, so it is a fault of the plugin: the client gets ``internal``, and the
    log has the traceback.
    """


class AuthenticationFailed(RoomcastError):
    """A token or ticket is not accepted. The message is the reason, without the token. In a route it is a 401."""


class Unavailable(RoomcastError):
    """A part that the request needs, such as the broker or an access check, does not work at the moment.

    Raise it in a rule that cannot decide now, or in a handler. The client receives an ``error`` frame of code
    ``unavailable``, which contains the message, and may repeat the request. A rule that raises it neither allows nor
    forbids: the client does not join, its connection stays open, and a member stays in the room for now.

    Args:
        message: A sentence for clients. It must not contain addresses, paths or the text of other exceptions.
        detail: The cause, for the log and for callers with the API key. The default is the message.
    """

    def __init__(self, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = message if detail is None else detail
        if detail is not None:
            self.add_note(detail)  # tracebacks in the log contain it


class BrokerUnavailable(Unavailable):
    """The broker does not work at the moment, or refuses a command.

    All clients receive the same sentence. ``detail`` has the cause, with the addresses of servers and their replies.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("The broker cannot carry out the request.", detail)


class ProtocolViolation(RoomcastError):
    """The peer violated RFC 6455. The connection must be closed with ``close``; ``detail`` is for the log."""

    def __init__(self, close: Close, detail: str) -> None:
        super().__init__(f"{close.reason}: {detail}")
        self.close = close
        self.detail = detail
