"""Away: a channel shows which users are away: by request, after a time without messages, or after leaving."""

from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from marshmallow import Schema, fields
from roomcast import Context, MemberContext, Plugin, Service, setting


@dataclass(frozen=True)
class AwaySettings:
    """The variable is ``AWAY_AFTER``."""

    after: float = setting("Time without a message after which a user is away", default=300.0, unit="s", above=0)


away = Plugin("away", settings=AwaySettings)
away.room("away", description="A state of a user", history_size=2, history_ttl=30 * 86400, presence=False, commands=())


@away.event("away.changed")
class Changed(Schema):
    """A user is away, or has returned. Stored, so that a client that joins with ``last`` knows it too."""

    user_id = fields.Raw()
    away = fields.Boolean(load_default=True)


@away.command("away.set", Changed)
@away.before_command("send_message")
async def change(ctx: Context | MemberContext, data: dict) -> None:
    """Store the state where all nodes read it, and tell the members if it is new. Users who write are not away."""
    room = f"away:{uuid5(NAMESPACE_OID, f'{ctx.room} {ctx.user_id}')}"
    state = {"user_id": ctx.user_id, "away": data.get("away", False)}
    id = await ctx.publish(Changed, room=room, data=state)
    if not state["away"]:
        await ctx.queue("away").append([f"{ctx.room} {room} {id}".encode()])
    if state["away"] != any(one["data"]["away"] for one in await ctx.history(room, before=id, limit=1)):
        await ctx.publish(Changed, room=ctx.room, data=state)


@away.on_leave("channel")
async def leave(ctx: MemberContext) -> None:
    """Users who have left are away. The hook is called once in the cluster."""
    await change(ctx, {"away": True})


@away.every(0.5)
async def find_idle_users(service: Service[AwaySettings], after: float | None = None) -> None:
    """Users are away if their newest state, stored by any node, is as old as its entry in the queue."""
    queue = service.queue("away")
    await queue.acquire(10)  # one node at a time reads the queue
    queue.rewind()
    for entry in await queue.read(500, 65536) or ():
        if entry.age >= (service.settings.after if after is None else after):
            room, states, id = entry.payload.decode().split()
            for state in [one["data"] for one in await service.history(states, limit=1) if one["id"] == id]:
                await service.publish_many([(Changed, one, {**state, "away": True}) for one in (states, room)])
            await queue.remove([entry])
