"""Typing: the others in a channel see who is typing, until the message, a pause of the page, or a lost connection."""

from marshmallow import Schema, fields
from roomcast import Context, Plugin

typists = Plugin("typists")


class State(Schema):
    """Whether the user is typing."""

    typing = fields.Boolean(load_default=True)


@typists.event("typists.changed", stored=False, conflate=True, throttle=1.0, leave={"typing": False}, others_only=True)
class Changed(Schema):
    """A user has begun or stopped to type. Not stored, at most one each second, and undone if the user leaves."""

    user_id = fields.Raw(required=True)
    username = fields.String(required=True)
    typing = fields.Boolean(required=True)


@typists.command("typists.set", State)
async def set_typing(ctx: Context, data: dict) -> None:
    """Tell the others in the room."""
    ctx.broadcast(Changed, {"user_id": ctx.user_id, "username": ctx.username, "typing": data["typing"]})


@typists.before_command("send_message")
async def stop_typing(ctx: Context, data: dict) -> None:
    """End it with the message: nothing that is held back arrives later."""
    ctx.withdraw(Changed)
