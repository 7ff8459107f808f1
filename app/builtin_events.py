"""The events and room type that belong to roomcast itself, declared as a plugin's are, so that nothing clashes."""

from __future__ import annotations

from typing import Final

from marshmallow import Schema, fields, validate

from .plugin import Plugin

builtin = Plugin("core", "What every roomcast speaks: joining and leaving, heartbeat, notifications, errors")

#: The commands of the core and what each is answered with. Its handlers are the gateway's.
COMMANDS: Final = {
    "join_room": "joined_room",
    "leave_room": "left_room",
    "ping": "pong",
    "refresh_token": "token_refreshed",
}

#: Frames that only a server sends, to one client, outside of any room's history.
FRAMES: Final = ("connected", "error", "reply", "resync", *COMMANDS.values())

builtin.room(
    "user", description="A user's own room: all connections of the user are in it, and nobody joins by asking."
)


@builtin.event("user_joined", published_by_core=True)
class UserJoined(Schema):
    """A user came into the room: the first of their connections."""

    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})


@builtin.event("user_left", published_by_core=True)
class UserLeft(Schema):
    """A user is gone from the room: the last of their connections."""

    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})


@builtin.event("notification.new", rooms=("user",))
class Notification(Schema):
    """A notification for one user."""

    title = fields.String(required=True, validate=validate.Length(1, 200))
    message = fields.String(required=True, validate=validate.Length(max=4000))
    link = fields.String(validate=validate.Length(max=2000))
    priority = fields.String(load_default="normal", validate=validate.OneOf(["low", "normal", "high", "urgent"]))
