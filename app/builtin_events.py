"""The events, the room type and the command names of roomcast itself.

They are declared like those of a plugin, so that the registry finds plugins that declare the same names. The handlers
of the commands are in ``gateway``.
"""

from __future__ import annotations

from typing import Final

from marshmallow import Schema, fields, validate

from .plugin import Plugin

builtin = Plugin("core", "Built into roomcast: joins and leaves, heartbeat, notifications, errors")

#: The commands of roomcast itself, with the types of their replies.
COMMANDS: Final = {
    "join_room": "joined_room",
    "leave_room": "left_room",
    "history": "history",
    "members": "members",
    "ping": "pong",
    "refresh_token": "token_refreshed",
    "mark_read": "marked_read",
    "set_presence": "presence_set",
}

#: The limits of ``set_presence``: the characters of ``status``, and the bytes of ``data`` as JSON.
MAX_STATUS: Final = 32
MAX_DATA: Final = 1024

#: The types of frames to one client, which are not events and not stored.
FRAMES: Final = ("connected", "error", "reply", "resync", *COMMANDS.values())

builtin.room(
    "user", description="A user's personal room. All connections of the user are in it, and no client can join it."
)


@builtin.event("user_joined", published_by_core=True)
class UserJoined(Schema):
    """A user joined the room, with the first of the user's connections."""

    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})


@builtin.event("user_left", published_by_core=True)
class UserLeft(Schema):
    """A user left the room, with the last of the user's connections."""

    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})


@builtin.event("user_updated", published_by_core=True)
class UserUpdated(Schema):
    """A user of the room has set a status with `set_presence`."""

    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})
    status = fields.String(required=True, allow_none=True, validate=validate.Length(max=MAX_STATUS))
    data = fields.Dict(required=True, allow_none=True)


@builtin.event("notification.new", rooms=("user",))
class Notification(Schema):
    """A notification for one user."""

    title = fields.String(required=True, validate=validate.Length(1, 200))
    message = fields.String(required=True, validate=validate.Length(max=4000))
    link = fields.String(validate=validate.Length(max=2000))
    priority = fields.String(load_default="normal", validate=validate.OneOf(["low", "normal", "high", "urgent"]))
