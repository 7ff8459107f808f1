"""``roomcast rooms``, ``members`` and ``kick``: the rooms of a running server and the users in them."""

from __future__ import annotations

import click

from .api import Api, api_options
from .options import json_option, run
from .printing import note, print_json, print_table


@click.command()
@api_options("read")
@json_option()
def rooms(api: Api, as_json: bool) -> None:
    """List the rooms that have members.

    Shows the number of users in each room, on all nodes. A key for some rooms lists only these.

    \b
    roomcast rooms
    """
    answer = run(api.call("GET", "/rooms"))
    if as_json:
        print_json(answer)
    elif answer["rooms"]:
        print_table(("ROOM", "MEMBERS"), [(one["room"], one["members"]) for one in answer["rooms"]])
    else:
        note("No room has members.")


@click.command()
@click.argument("room")
@api_options("read")
@json_option()
def members(room: str, api: Api, as_json: bool) -> None:
    """List the users in a room.

    The users are in order of arrival, with their numbers of connections. A user whose last connection was lost a moment
    ago has 0: see PRESENCE_GRACE.

    \b
    roomcast members channel:456
    """
    answer = run(api.call("GET", "/rooms/{}/members", room))
    if as_json:
        print_json(answer)
    elif answer["members"]:
        columns = ("user_id", "username", "connections")
        headers = ("USER", "NAME", "CONNECTIONS")
        print_table(headers, [[one[name] for name in columns] for one in answer["members"]])
    else:
        note(f"{answer['room']} has no members.")


@click.command()
@click.argument("room")
@click.argument("user_id", metavar="USER")
@api_options("moderate")
@json_option()
def kick(room: str, user_id: str, api: Api, as_json: bool) -> None:
    """Remove a user from a room.

    Removes all connections of USER, the id of the user, on all nodes. The user may join again if the rule of the room
    allows it.

    \b
    roomcast kick channel:456 12345
    """
    answer = run(api.call("DELETE", "/rooms/{}/members/{}", room, user_id))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Removed user {answer['user_id']} from {answer['room']}; connections: {answer['connections']}.")
