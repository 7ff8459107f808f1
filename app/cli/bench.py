"""``roomcast bench``: measure a server. ``bench_run.py`` does the work."""

from __future__ import annotations

import os
import secrets
import sys

import click

from ..errors import SettingsError
from ..secret_files import FILE_SUFFIX, read_secret
from ..workers.process import raise_file_limit
from . import bench_results, tokens
from .bench_run import Bench, Plan
from .options import json_option, run, url_option
from .printing import print_json
from .target import DEFAULT_WS_URL, parse_target

#: Open files that this process needs besides its connections.
_OTHER_FILES = 64


@click.command()
@url_option(DEFAULT_WS_URL)
@click.option("--connections", type=click.IntRange(1), default=1000, show_default=True, help="Connections to open.")
@click.option("--rooms", type=click.IntRange(1), default=10, show_default=True, help="Rooms that they join.")
@click.option("--publishers", type=click.IntRange(1), help="Connections that publish.  [default: one in each room]")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=100,
    show_default=True,
    help="Messages per second, of all publishers together.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    help="Instead of --rate: publish as fast as possible, with this many messages in flight per publisher.",
)
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), default=10, show_default=True, help="Seconds to publish."
)
@click.option("--size", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Characters per message.")
@click.option("--ramp", type=click.IntRange(1), default=100, show_default=True, help="Most handshakes in flight.")
@click.option("--token-secret", envvar="JWT_SECRET", show_envvar=True, help="JWT_SECRET of the server.")
@click.option("--token", help="One token for all connections. By default each connection has a user of its own.")
@json_option("Print the result as JSON.")
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
    """Measure the throughput and the latency of a server.

    Opens connections, publishes messages, and shows deliveries per second, lost messages and latencies.

    Each connection has a user of its own. The command makes the tokens of these users with the JWT_SECRET of the
    server.

    A message is delivered to all members of its room: 1000 connections in 10 rooms and 100 messages per second make
    10,000 deliveries per second.

    \b
    roomcast bench --connections 1000 --rooms 10 --rate 100
    """
    limit = raise_file_limit()
    if limit is not None and connections > limit - _OTHER_FILES:
        raise SettingsError(f"{connections} connections need as many open files, and {limit} are allowed (ulimit -n).")
    plan = Plan(
        target=parse_target(url),
        tokens=_tokens(connections, token, token_secret),
        rooms=[f"channel:bench-{secrets.token_hex(4)}-{number}" for number in range(min(rooms, connections))],
        publishers=publishers or min(rooms, connections),
        rate=rate,
        window=window or 0,
        duration=duration,
        ramp=ramp,
        size=size,
    )

    async def measure() -> bench_results.Result:
        return await Bench(plan, _show_progress).run()

    result = run(measure())
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        print_json(result._asdict())
    else:
        click.echo(bench_results.table(result))


def _tokens(connections: int, token: str | None, secret: str | None) -> list[str]:
    """Return a token for each connection."""
    if token is not None:
        if connections > 1:
            click.echo(
                f"All {connections} connections belong to one user, so MAX_CONNECTIONS_PER_USER of the server (5 by "
                "default) must allow that many. With --token-secret each connection has a user of its own.",
                err=True,
            )
        return [token.strip()] * connections
    if not (secret := secret or read_secret("JWT_SECRET", os.environ)):
        raise SettingsError("Tokens are needed: set JWT_SECRET (or --token-secret) to the server's, or give --token.")
    settings = tokens.signing_settings({**os.environ, "JWT_SECRET": secret, f"JWT_SECRET{FILE_SUFFIX}": ""})
    run_id = secrets.token_hex(4)
    return [tokens.mint(settings, f"bench-{run_id}-{number}") for number in range(connections)]


def _show_progress(text: str) -> None:
    """Print ``text`` on standard error. On a terminal it replaces the previous line of progress."""
    if sys.stderr.isatty():
        click.echo(f"\r{text}\x1b[K", nl=False, err=True)
    else:
        click.echo(text, err=True)
