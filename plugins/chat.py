"""Chat: messages in rooms. Their authors can edit and delete them as long as the history stores them."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from roomcast import Context, Plugin, Refused

chat = Plugin("chat", "Messages in channels")

chat.room("channel", description="Chat messages in a channel")

_CONTENT = validate.Length(min=1, max=10_000)


@chat.event("message", unread=True)
class Message(Schema):
    """New message in room."""

    content = fields.String(required=True, validate=_CONTENT)
    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})
    metadata = fields.Dict(load_default=dict)


@chat.event("message.edited")
class Edited(Schema):
    """Message edited."""

    message_id = fields.String(required=True)
    content = fields.String(required=True, validate=_CONTENT)
    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})
    metadata = fields.Dict(load_default=dict)


@chat.event("message.deleted")
class Deleted(Schema):
    """Message deleted."""

    message_id = fields.String(required=True)
    username = fields.String(required=True)
    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})


@chat.event("typing", stored=False, conflate=True, throttle=1.0, leave={"typing": False}, others_only=True)
class Typing(Schema):
    """A user types a message, or stopped."""

    user_id = fields.Raw(required=True, metadata={"type": ["integer", "string"]})
    username = fields.String(required=True)
    typing = fields.Boolean(required=True)


class SendMessage(Schema):
    """A new message."""

    content = fields.String(required=True, validate=_CONTENT)
    metadata = fields.Dict()


class EditMessage(Schema):
    """The id of a message, and its new content."""

    message_id = fields.String(required=True)
    content = fields.String(required=True, validate=_CONTENT)
    metadata = fields.Dict()


class DeleteMessage(Schema):
    """The id of a message."""

    message_id = fields.String(required=True)


class SetTyping(Schema):
    """If the user types at the moment."""

    typing = fields.Boolean(load_default=True)


@chat.command("send_message", SendMessage, reply="sent", pipelined=True)
async def send_message(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Send a message to everyone in the room."""
    message = {
        "content": data["content"],
        "username": ctx.username,
        "user_id": ctx.user_id,
        "metadata": data.get("metadata") or {},
    }
    published = ctx.publish(Message, message)
    ctx.withdraw(Typing)
    return {"event_id": await published}


@chat.command("typing", SetTyping, pipelined=True)
async def typing(ctx: Context, data: dict[str, Any]) -> None:
    """Tell the other members of the room that you type a message, or that you stopped.

    Repeat it every 3 seconds while the user types. A message ends it.
    """
    ctx.broadcast(Typing, {"user_id": ctx.user_id, "username": ctx.username, "typing": data["typing"]})


@chat.command("edit_message", EditMessage, reply="sent")
async def edit_message(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Change the content of one's own message."""
    metadata = await _current_metadata(ctx, data["message_id"])
    edited = {
        "message_id": data["message_id"],
        "content": data["content"],
        "username": ctx.username,
        "user_id": ctx.user_id,
        "metadata": data.get("metadata", metadata),
    }
    return {"event_id": await ctx.publish(Edited, edited)}


@chat.command("delete_message", DeleteMessage, reply="sent")
async def delete_message(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Delete one's own message."""
    await _current_metadata(ctx, data["message_id"])
    deleted = {"message_id": data["message_id"], "username": ctx.username, "user_id": ctx.user_id}
    return {"event_id": await ctx.publish(Deleted, deleted)}


async def _current_metadata(ctx: Context, message_id: str) -> Any:
    """Return the metadata of a message after all edits; raise ``Refused`` unless it exists and is the user's own."""
    events = ctx.about(message_id)
    message = await anext(events, None)
    if message is None or message["type"] != "message":
        raise Refused("not_found", f"There is no message {message_id[:60]!r} in the history of {ctx.room}.")
    if message["data"]["user_id"] != ctx.user_id:
        raise Refused("not_author", "Only the author of a message may change or delete it.")
    metadata: dict[str, Any] | None = None
    async for event in events:  # newest first; all, because an edit may have overtaken the deletion
        if event["data"].get("message_id") == message_id:
            if event["type"] == "message.deleted":
                raise Refused("not_found", f"The message {message_id[:60]!r} was deleted.")
            if event["type"] == "message.edited" and metadata is None:
                metadata = event["data"]["metadata"]
    return message["data"]["metadata"] if metadata is None else metadata
