"""Moderation: hide forbidden words, and mute users in a room for a while."""

import re
import time
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from marshmallow import Schema, fields, validate
from roomcast import Context, Plugin, Refused, Service, setting


@dataclass(frozen=True)
class ModerationSettings:
    """``MODERATION_WORDS`` has the words, separated by commas."""

    words: tuple[str, ...] = setting("Words that are hidden in messages", default=())


#: How long a mute may last, in seconds. It is stored for as long, in a room that all nodes read.
TERM = validate.Range(0, 86400)
Mute = Schema.from_dict({"user_id": fields.Raw(required=True), "seconds": fields.Integer(required=True, validate=TERM)})
moderation = Plugin("moderation", settings=ModerationSettings)
moderation.room("mute", description="A mute", history_size=1, history_ttl=TERM.max, presence=False, commands=())


@moderation.event("moderation.muted", rooms=("user", "mute"))
class Muted(Schema):
    """The user may not write in this room until this time, in seconds. Only the user receives it."""

    channel = fields.String(required=True)
    until = fields.Float(required=True)


@moderation.command("moderation.mute", Mute)
async def mute(ctx: Context, data: dict) -> None:
    """Mute a user in this room; 0 seconds end it. For users whose token has the claim ``"role": "moderator"``."""
    if ctx.claims.get("role") != "moderator":
        raise Refused("forbidden", "Only moderators may mute users.")
    muted = {"channel": ctx.joined(), "until": time.time() + data["seconds"]}
    user_id = data["user_id"]
    await ctx.publish(Muted, muted, room=f"mute:{uuid5(NAMESPACE_OID, f'{ctx.room} {user_id}')}")
    await ctx.notify(user_id, Muted, muted)


@moderation.before_command("send_message")
@moderation.before_command("edit_message")
async def refuse_muted_users(ctx: Context, data: dict) -> None:
    """Read the newest mute of the user. Muted users may not edit their messages either."""
    room = f"mute:{uuid5(NAMESPACE_OID, f'{ctx.room} {ctx.user_id}')}"
    if any(one["data"]["until"] > time.time() for one in await ctx.history(room, limit=1)):
        raise Refused("muted", "You are muted in this room.")


@moderation.before_publish("message")
@moderation.before_publish("message.edited")
async def hide_words(service: Service[ModerationSettings], event: dict) -> dict:
    """Replace the words in messages of all sources, and in edits."""
    words = "|".join(map(re.escape, service.settings.words)) or "(?!)"  # which matches nothing
    return {**event["data"], "content": re.sub(rf"\b(?:{words})\b", "***", event["data"]["content"], flags=re.I)}
