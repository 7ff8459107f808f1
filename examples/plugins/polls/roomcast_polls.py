"""Polls: open a question in a room, vote once, see the results live, and close it. The history is the only state."""

from marshmallow import Schema, fields, validate
from roomcast import Context, Plugin, Refused

polls = Plugin("polls")
polls.room("poll", history_size=10_000, history_ttl=30 * 86400, commands=("poll.*",))  # a poll may last 30 days
#: The votes for each option. Of several live results, those with the most votes are the newest.
Results = Schema.from_dict({"votes": fields.List(fields.Integer(), required=True, validate=validate.Length(max=10))})
polls.event("poll.closed")(polls.event("poll.results", stored=False)(Results))


@polls.event("poll.opened")
class Poll(Schema):
    """A question and its options."""

    question = fields.String(required=True, validate=validate.Length(1, 200))
    options = fields.List(fields.String(), required=True, validate=validate.Length(2, 10))


@polls.event("poll.voted")
class Vote(Schema):
    """The index of an option. The event has the user too."""

    option = fields.Integer(required=True, strict=True)
    user_id = fields.Raw()


async def count(ctx: Context, voter: int | str | None = None, option: int = 0) -> list[int]:
    """Return the votes for each option; raise ``Refused`` if the user may not vote for this one."""
    options, votes = 0, {}
    for event in await ctx.history(ctx.joined()):
        if event["type"] == "poll.voted":
            votes.setdefault(event["data"]["user_id"], event["data"]["option"])  # the first vote counts
        else:
            options, votes = len(event["data"].get("options", ())), {}
    if voter in votes or not 0 <= option < options:
        raise Refused("no_vote", "You have voted." if voter in votes else "There is no such option in an open poll.")
    return [list(votes.values()).count(number) for number in range(options)]


@polls.command("poll.open", Poll)
async def open_poll(ctx: Context, data: dict) -> None:
    """Open a poll. It replaces the one that is open."""
    await ctx.publish(Poll, data)


@polls.command("poll.vote", Vote)
async def vote(ctx: Context, data: dict) -> None:
    """Vote once. Everyone receives the results."""
    await count(ctx, ctx.user_id, data["option"])
    await ctx.publish(Vote, {"option": data["option"], "user_id": ctx.user_id})
    ctx.broadcast("poll.results", {"votes": await count(ctx)})


@polls.command("poll.close", Schema)
async def close(ctx: Context, data: dict) -> None:
    """Close the poll with its final results."""
    await ctx.publish("poll.closed", {"votes": await count(ctx)})
