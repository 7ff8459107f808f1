"""The command line. What a command does is in a module of its own; here are its words and how it fails.

A failure is one sentence on standard error and a status: 2 for what was given (settings, options, plugins), else 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from .. import logs, registry
from ..auth.user_id import normalize_user_id
from ..errors import PluginError, RoomcastError, SettingsError
from ..registry import LoadedPlugin
from ..specs import typescript
from ..web.server import Address, Server
from ..workers import process
from . import bench as bench_
from . import bench_results, tokens, websocket_client
from . import dev as dev_
from . import doctor as doctor_
from . import listen as listen_
from . import publish as publish_
from . import schema as schema_
from .serve import serve

_T = TypeVar("_T")

#: What to say of a user's own room, and what to do instead.
_NOBODY_JOINS: Final = (
    "a user's own room, which nobody joins: that user's connections hear it from the start. Listen without it, with a "
    'token of the user: roomcast listen --token "$(roomcast token --user-id {})".'
)

API_URL: Final = f"http://{websocket_client.AUTHORITY}"
WS_URL: Final = f"ws://{websocket_client.AUTHORITY}"


class BadInput(click.ClickException):
    """What was given cannot be used."""

    exit_code = 2


class Main(click.Group):
    """The group of all commands; turns the errors of ``errors`` into sentences and statuses."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RoomcastError as error:
            wrong = isinstance(error, SettingsError | PluginError)
            raise (BadInput if wrong else click.ClickException)(str(error)) from error


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(process.VERSION, prog_name="roomcast", message="%(prog)s %(version)s")
def main() -> None:
    """A real-time gateway: browsers hold a WebSocket to it, backends tell it what happened.

    To try it out, run `roomcast dev` and open the link that it prints. In production, set JWT_SECRET and API_KEY in the
    environment and run `roomcast serve`.
    """


def _port(default: int = 8000) -> Callable[[_T], _T]:
    return click.option(  # type: ignore[return-value]
        "--port", type=click.IntRange(0, 65535), default=default, show_default=True, help="Port; 0 takes any free one."
    )


def _host() -> Callable[[_T], _T]:
    return click.option(  # type: ignore[return-value]
        "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of this machine."
    )


def _url(default: str) -> Callable[[_T], _T]:
    return click.option(  # type: ignore[return-value]
        "--url",
        envvar="ROOMCAST_URL",
        default=default,
        show_default=True,
        help="The server; ROOMCAST_URL if not given.",
    )


# Serving.


@main.command()
@_host()
@_port()
def dev(host: str, port: int) -> None:
    """Run a server to try things out with.

    No settings are needed. Everything is made up for this run, unless the environment says otherwise: JWT_SECRET,
    API_KEY, and rooms that are open to everyone. The console is on. Not for production. If the port is taken, the next
    free one is used.
    """
    settings = dev_.settings(os.environ)
    logs.configure(settings)

    def ready(server: Server) -> None:
        click.echo(dev_.greeting(server, wanted=port))

    process.run(settings, Address(host, dev_.free_port(host, port)), ready, dev=True)


main.add_command(serve)


# Tokens and events.


@main.command()
@click.option("--user-id", required=True, help="Whose token; a decimal one becomes a number.")
@click.option("--username", help="The name that others see; the id, if not given.")
@click.option("--room", "rooms", multiple=True, help="A room it opens: channel:1, channel:* or *; may be repeated.")
@click.option("--expires-in", type=click.FloatRange(1), default=3600, show_default=True, help="Seconds that it holds.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="One more claim; VALUE is JSON or a text.")
def token(
    user_id: str, username: str | None, rooms: tuple[str, ...], expires_in: float, claims: tuple[str, ...]
) -> None:
    """Print a token for a user, signed with JWT_SECRET."""
    settings = tokens.signing_settings(os.environ)
    more = dict(map(_claim, claims))
    user = normalize_user_id(user_id)
    click.echo(tokens.mint(settings, user, username=username, rooms=rooms, expires_in=expires_in, claims=more))


def _claim(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.", param_hint="--claim")
    if name in ("user_id", "username", "rooms", "exp"):
        raise click.BadParameter(f"{name} has an option of its own; see --help.", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@main.command()
@click.argument("type", metavar="TYPE")
@click.argument("room", required=False)
@click.argument("data", required=False, metavar="[JSON]")
@click.option("--sender", help="The name that the event is from.")
@_url(API_URL)
@click.option("--api-key", envvar="API_KEY", help="The server's API_KEY; from the environment if not given.")
@click.option("--idempotency-key", help="Publish only once, however often this is repeated within 5 minutes.")
def publish(
    type: str,
    room: str | None,
    data: str | None,
    sender: str | None,
    url: str,
    api_key: str | None,
    idempotency_key: str | None,
) -> None:
    """Publish events, as a backend does.

    Publishes an event of TYPE in ROOM, with JSON as its data, and prints its id.

    With - for JSON, the data is read from standard input; a list there is the data of several events. With - for TYPE
    and nothing else, whole events are read: {"type", "room", "data", "sender"}, one or a list. Several events are
    published all or none.

    \b
    roomcast publish task.deleted project:1 '{"task_id": 7}'
    roomcast publish - < events.json
    """
    if not api_key:
        raise SettingsError("The server's API key is needed: set API_KEY, or give --api-key.")
    whole = type == "-" and room is None
    if not whole and (room is None or data is None):
        raise click.UsageError("Give TYPE, ROOM and JSON, or only - to read events from standard input.")
    if whole and sender is not None:
        raise click.UsageError("--sender goes with TYPE ROOM JSON; whole events have their own.")
    text = sys.stdin.read() if whole or data == "-" else data or ""
    events = publish_.read(text, None if whole else type, room, sender)
    for id in asyncio.run(publish_.publish(url, api_key, events, idempotency_key)):
        click.echo(id)


@main.command()
@click.argument("rooms", metavar="[ROOM]...", nargs=-1)
@_url(WS_URL)
@click.option("--token", envvar="ROOMCAST_TOKEN", help="The user's token; ROOMCAST_TOKEN if not given.")
@click.option("--since", metavar="ID", help="Begin after the event of this id; with one room.")
@click.option("--raw", is_flag=True, help="Print each event's JSON as it comes.")
def listen(rooms: tuple[str, ...], url: str, token: str | None, since: str | None, raw: bool) -> None:
    """Print the events of rooms as they happen.

    An event is a line: time, room, type, sender, data. What is sent to the token's user is printed too, with - for the
    room, and alone if no ROOM is given.

    Without a token, one is made with JWT_SECRET if that is set. A lost connection is made again, and what was missed
    meanwhile is printed, as far as the server's history goes back. What happens to the connection is said on standard
    error.
    """
    for room in rooms:
        if room.startswith("user:"):
            raise click.UsageError(f"{room} is {_NOBODY_JOINS.format(room.removeprefix('user:'))}")
    if since is not None and len(rooms) != 1:
        raise click.UsageError("--since goes with one room: an id is a place in the events of its own room.")
    listener = listen_.Listener(
        websocket_client.target(url),
        rooms,
        _token_source(token),
        since=since,
        raw=raw,
        out=click.echo,
        note=lambda text: click.echo(text, err=True),
    )
    _run(listener.run())


def _token_source(token: str | None) -> Callable[[], str]:
    """Return what gives ``token``, or makes a new one each time."""
    if token is not None and token.strip():
        return lambda: token.strip()
    if not os.environ.get("JWT_SECRET", "").strip():
        raise SettingsError("A token is needed: give --token, or set ROOMCAST_TOKEN, or JWT_SECRET to make one with.")
    settings = tokens.signing_settings(os.environ)
    user = f"listen-{secrets.token_hex(4)}"
    return lambda: tokens.mint(settings, user, username="listen")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run ``work`` on the fastest loop; Ctrl-C ends it without a word, by the status that shells expect."""
    try:
        with asyncio.Runner(loop_factory=process.new_loop) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        sys.exit(130)


# Looking at it.


@main.command()
@click.option("--format", type=click.Choice(schema_.FORMATS), default="asyncapi", show_default=True, help="Which one.")
@click.option(
    "--client", default=typescript.CLIENT, show_default=True, help="TypeScript: where the client is imported from."
)
@click.option(
    "--against", type=click.Path(path_type=Path), help="List what breaks since this AsyncAPI file; status 1 if any."
)
def schema(format: str, client: str, against: Path | None) -> None:
    """Print what a server with the installed plugins speaks.

    AsyncAPI has the WebSocket's commands, events and answers, OpenAPI the HTTP API; TypeScript declares the types for
    roomcast.js. With --against nothing is printed but what would break clients that were made for an earlier output,
    and the status is 1 if anything would.
    """
    loaded = registry.load()
    if against is None:
        click.echo(schema_.render(loaded, format, client), nl=False)
        return
    broken = schema_.changes(loaded, against)
    for line in broken:
        click.echo(line)
    if broken:
        raise click.exceptions.Exit(1)
    click.echo(f"Nothing breaks for clients made for {against}.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """Show the plugins and what each one owns."""
    shown = [_plugin(loaded) for loaded in registry.load()]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for plugin in shown:
        click.secho(plugin["plugin"], bold=True)
        for name, value in plugin.items():
            if name != "plugin":
                text = ", ".join(value) if isinstance(value, list) else value
                click.echo(f"  {name.replace('_', ' '):<12} {text or '-'}")


def _plugin(loaded: LoadedPlugin) -> dict[str, Any]:
    plugin = loaded.plugin
    return {
        "plugin": plugin.name,
        "description": plugin.description,
        "package": loaded.distribution if " " in loaded.distribution else f"{loaded.distribution} {process.VERSION}",
        "entry_point": loaded.entry_point,
        "commands": [*plugin.commands],
        "events": [*plugin.events],
        "room_types": [*plugin.rooms],
        "routes": [f"{route.method} /plugins/{plugin.name}{route.path}" for route in plugin.routes],
    }


@main.command()
@_host()
@_port()
@click.option("--url", help="Also check the server that runs there, instead of whether the port is free.")
def doctor(host: str, port: int, url: str | None) -> None:
    """Check a deployment before it matters.

    Looks at settings, secrets, plugins, limits and the clock, and with --url at a running server.

    Run it in the environment that the server gets. The status is 1 if anything fails.
    """
    colours = {doctor_.OK: "green", doctor_.WARN: "yellow", doctor_.FAIL: "red"}

    async def examine() -> bool:
        failed = False
        async for finding in doctor_.examine(os.environ, host, port, websocket_client.target(url) if url else None):
            click.echo(f"{click.style(f'{finding.level:<4}', fg=colours[finding.level])}  {finding.sentence}")
            failed |= finding.level == doctor_.FAIL
        return failed

    if _run(examine()):
        sys.exit(1)


@main.command()
@_url(WS_URL)
@click.option("--connections", type=click.IntRange(1), default=1000, show_default=True, help="How many to open.")
@click.option("--rooms", type=click.IntRange(1), default=10, show_default=True, help="Rooms to spread them over.")
@click.option("--publishers", type=click.IntRange(1), help="Connections that publish; one in each room if not given.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=100, show_default=True, help="Messages a second, in all."
)
@click.option("--window", type=click.IntRange(1), help="As fast as it goes instead: so many in flight per publisher.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), default=10, show_default=True, help="Seconds to publish."
)
@click.option("--size", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Characters in a message.")
@click.option("--ramp", type=click.IntRange(1), default=100, show_default=True, help="Handshakes under way at once.")
@click.option("--token-secret", envvar="JWT_SECRET", help="The server's JWT_SECRET; from the environment if not given.")
@click.option("--token", help="One token for all connections, instead of a user for each.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(
    url: str,
    connections: int,
    rooms: int,
    publishers: int | None,
    rate: float,
    window: int | None,
    duration: float,
    size: int,
    ramp: int,
    token_secret: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Measure what a server can do.

    Opens connections, publishes messages, and shows deliveries a second, losses and latencies.

    Each connection is a user of its own, for which the server's JWT_SECRET is needed. What arrives is all that is
    published times the members of its room: 1000 connections in 10 rooms at 100 messages a second are 10,000
    deliveries a second.
    """
    limit = process.raise_file_limit()
    if limit is not None and connections > limit - 64:
        raise RoomcastError(f"{connections} connections need as many open files, and {limit} are allowed (ulimit -n).")
    plan = bench_.Plan(
        target=websocket_client.target(url),
        tokens=_bench_tokens(connections, token, token_secret),
        rooms=[f"channel:bench-{secrets.token_hex(4)}-{number}" for number in range(min(rooms, connections))],
        publishers=publishers or min(rooms, connections),
        rate=rate,
        window=window or 0,
        duration=duration,
        ramp=ramp,
        size=size,
    )

    async def measure() -> bench_results.Result:
        return await bench_.Bench(plan, _progress).run()

    result = _run(measure())
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    click.echo(json.dumps(result._asdict(), indent=2) if as_json else bench_results.table(result))


def _bench_tokens(connections: int, token: str | None, secret: str | None) -> list[str]:
    """Return a token for each connection."""
    if token is not None:
        if connections > 1:
            click.echo(
                f"All {connections} connections are of one user; the server's MAX_CONNECTIONS_PER_USER (5, unless set) "
                "must allow that. With --token-secret each is a user of its own.",
                err=True,
            )
        return [token.strip()] * connections
    if not secret:
        raise SettingsError("Tokens are needed: set JWT_SECRET (or --token-secret) to the server's, or give --token.")
    settings = tokens.signing_settings({**os.environ, "JWT_SECRET": secret})
    run_id = secrets.token_hex(4)
    return [tokens.mint(settings, f"bench-{run_id}-{number}") for number in range(connections)]


def _progress(text: str) -> None:
    """Show how far the bench is: on a terminal in one line, else in a line each."""
    if sys.stderr.isatty():
        click.echo(f"\r{text}\x1b[K", nl=False, err=True)
    else:
        click.echo(text, err=True)
