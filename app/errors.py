"""What can go wrong, as data: the error tree, the error codes of frames, and the close codes.

::

    RoomcastError
    ├── SettingsError     a setting stops the start; the sentence names it
    ├── PluginError       a plugin stops the start; the sentence names package, entry point and reason
    ├── Refused           a request is answered with an ``error`` frame; the connection lives on
    ├── AuthenticationFailed   a token or ticket is not accepted: close 4401
    ├── Unavailable       the broker cannot be reached now; asking again later may work
    └── ProtocolViolation the peer broke RFC 6455; the connection closes with the code it carries
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ErrorCode(NamedTuple):
    """One stable word of ``data.code`` in an ``error`` frame.

    ``temporary`` says whether the same request may succeed later unchanged.
    """

    meaning: str
    temporary: bool = False


#: Every code that roomcast itself puts in an ``error`` frame. Plugins may add words of their own.
ERROR_CODES: Mapping[str, ErrorCode] = {
    "bad_json": ErrorCode("The frame is not one JSON object."),
    "bad_message": ErrorCode("The envelope lacks a field, has an unknown field, or has a field of the wrong type."),
    "unknown_type": ErrorCode("No plugin declares a command of this type."),
    "bad_room": ErrorCode("The room is missing or not of the form entity_type:entity_id."),
    "unknown_room_type": ErrorCode("No plugin declares rooms of this type."),
    "invalid_data": ErrorCode("The data does not match the schema of its type; data.fields names each bad field."),
    "forbidden": ErrorCode("The room's rule does not allow this user."),
    "not_joined": ErrorCode("The sender must join the room before it sends this command."),
    "too_many_rooms": ErrorCode("This connection is already in the maximum number of rooms."),
    "bad_token": ErrorCode("The token given to refresh_token is invalid or belongs to another user."),
    "not_found": ErrorCode("The event that the command refers to is not in the room's history, or no longer."),
    "not_author": ErrorCode("Only the author of a message may change or delete it."),
    "rate_limited": ErrorCode(
        "The client sends too many messages per second; if it continues, it is closed with 4429.", temporary=True
    ),
    "in_progress": ErrorCode("A command with the same key is still running.", temporary=True),
    "key_reused": ErrorCode("The key was used before, for the same type and room, but with other data."),
    "timeout": ErrorCode("The command took too long and was cancelled.", temporary=True),
    "unavailable": ErrorCode("The broker cannot be reached at the moment.", temporary=True),
    "internal": ErrorCode("The server failed; its log has the reason.", temporary=True),
}


class Close(NamedTuple):
    """How a connection ends: the close ``code``, its ``reason`` text, and whether the client should ``reconnect``."""

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
AUTHENTICATION_FAILED = Close(4401, "Authentication Failed", reconnect=False)
FORBIDDEN = Close(4403, "Forbidden", reconnect=False)
TOO_MANY_CONNECTIONS = Close(4429, "Too Many Connections", reconnect=True)
TOO_MANY_MESSAGES = Close(4429, "Too Many Messages", reconnect=True)
INTERNAL_ERROR = Close(4500, "Internal Server Error", reconnect=True)
DISCONNECTED = Close(4410, "Disconnected", reconnect=False)

#: Every close the server sends, for the documentation and for clients that decide whether to come back.
CLOSES: tuple[Close, ...] = (
    NORMAL,
    PROTOCOL_ERROR,
    UNSUPPORTED_DATA,
    INVALID_TEXT,
    MESSAGE_TOO_BIG,
    SERVICE_RESTART,
    TOO_SLOW,
    AUTHENTICATION_FAILED,
    FORBIDDEN,
    DISCONNECTED,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_MESSAGES,
    INTERNAL_ERROR,
)


class RoomcastError(Exception):
    """The root of every error that roomcast raises on purpose."""


class SettingsError(RoomcastError):
    """A setting is missing or wrong; the message is one sentence for the operator that names it."""


class PluginError(RoomcastError):
    """A plugin cannot be used; the message names its package, its entry point and the reason."""


class Refused(RoomcastError):
    """A request that is answered with an ``error`` frame.

    ``code`` is a stable word, one of ``ERROR_CODES`` or the plugin's own. ``message`` is a sentence that tells the
    developer what to do. ``fields`` maps a field of ``data`` (dotted, where nested) to what is wrong with it.
    """

    def __init__(self, code: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = fields


class AuthenticationFailed(RoomcastError):
    """A token or ticket was not accepted. The message says why, for the log; it never contains the token."""


class Unavailable(RoomcastError):
    """The broker cannot be reached at the moment; the message says which part."""


class ProtocolViolation(RoomcastError):
    """The peer broke RFC 6455; ``close`` is how the connection must end."""

    def __init__(self, close: Close, detail: str) -> None:
        super().__init__(f"{close.reason}: {detail}")
        self.close = close
        self.detail = detail
