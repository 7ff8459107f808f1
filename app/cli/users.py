"""``roomcast online``, ``disconnect`` and ``revoke``: the users of a running server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from .api import Api, api_options
from .exit_status import REFUSED
from .options import json_option, run
from .printing import print_json, print_table


@click.command()
@click.argument("user_ids", metavar="USER...", nargs=-1, required=True)
@api_options("read")
@json_option()
def online(user_ids: tuple[str, ...], api: Api, as_json: bool) -> None:
    """Show which users are online.

    Shows the connections and the rooms of each USER on all nodes, and since when the user is online or was last seen.
    The exit status is 1 if one of them is offline.

    \b
    roomcast online 12345 bob
    """
    users = run(api.call("POST", "/users/status", body={"user_ids": user_ids}))["users"]
    if as_json:
        print_json({"users": users})
    else:
        headers = ("USER", "STATUS", "CONNECTIONS", "SINCE", "ROOMS")
        print_table(headers, [_status_row(user) for user in users], colors={"online": "green", "offline": "yellow"})
    if not all(user["online"] for user in users):
        raise click.exceptions.Exit(REFUSED)


def _status_row(user: dict[str, Any]) -> tuple[object, ...]:
    rooms = " ".join([*user["rooms"], *([] if user["rooms_complete"] else ["…"])])
    status, since = ("online", user["since"]) if user["online"] else ("offline", user["last_seen"])
    return user["user_id"], status, user["connections"], since, rooms or None


@click.command()
@click.argument("user_id", metavar="USER")
@api_options("moderate")
@json_option()
def disconnect(user_id: str, api: Api, as_json: bool) -> None:
    """Close all connections of a user.

    Closes the connections of USER on all nodes with the code 4410. The user may connect again; `roomcast revoke`
    prevents that until the user has a new token.

    \b
    roomcast disconnect 12345
    """
    answer = run(api.call("DELETE", "/users/{}/connections", user_id))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Disconnected user {answer['user_id']}; connections: {answer['connections']}.")


@click.command()
@click.argument("user_id", metavar="USER")
@click.option("--jti", help="Revoke only the token with this id.")
@click.option(
    "--before",
    metavar="TIME",
    help="Revoke the tokens issued before this time: 2026-11-30T12:00:00Z, or a Unix time.  [default: now]",
)
@api_options("moderate")
@json_option()
def revoke(user_id: str, jti: str | None, before: str | None, api: Api, as_json: bool) -> None:
    """Revoke the tokens of a user.

    Every node refuses the revoked tokens of USER, and closes the connections that use them with 4401. The user can
    connect again with a token that is issued later.

    \b
    roomcast revoke 12345
    """
    if jti is not None and before is not None:
        raise click.UsageError("Give --jti for one token, or --before for all tokens before a time, not both.")
    if jti is not None:
        answer = run(api.call("DELETE", "/users/{}/tokens/{}", user_id, jti))
        sentence = f"Revoked the token {answer['jti']} of user {answer['user_id']}."
    else:
        query = {"before": None if before is None else _unix_time(before)}
        answer = run(api.call("DELETE", "/users/{}/tokens", user_id, query=query))
        time = datetime.fromtimestamp(answer["before"], UTC).isoformat().replace("+00:00", "Z")
        sentence = f"Revoked the tokens of user {answer['user_id']} that were issued before {time}."
    if as_json:
        print_json(answer)
    else:
        click.echo(sentence)


def _unix_time(text: str) -> str:
    """Return a time as Unix time in seconds. A time without a zone is local time."""
    if text.replace(".", "", 1).isdecimal():
        return text
    try:
        return f"{datetime.fromisoformat(text).timestamp():.6f}"
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time like 2026-11-30T12:00:00Z.", param_hint="--before") from None
