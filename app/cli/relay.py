"""``roomcast relay``: publish what an application has written to an outbox in PostgreSQL or to a Redis stream."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import click
from prometheus_client import disable_created_metrics, start_http_server

from .. import logs, output
from ..broker.redis.urls import Target
from ..errors import SettingsError, Unavailable
from ..relay import redis_stream, schema
from ..relay.metrics import RelayMetrics
from ..relay.publisher import Publisher
from ..secret_files import read_secret
from ..setting_rules import split_address, split_values
from ..settings import Settings
from ..web.tcp_sockets import bracketed
from ..workers.process import redis_target
from ..workers.process_signals import Control, handle_signals
from .exit_status import Unreachable
from .options import json_option, run, url_option
from .printing import print_json
from .target import DEFAULT_HTTP_URL, parse_target

log = logging.getLogger("roomcast.relay")

#: Publishes from one source until the event is set.
Source = Callable[[Publisher, RelayMetrics, asyncio.Event], Coroutine[Any, Any, None]]
#: Puts the events that were set aside in the source again, and returns their number.
Retry = Callable[[], Coroutine[Any, Any, int]]

_MISSING: Final = "--postgres needs psycopg 3; install it with `pip install 'roomcast[relay]'`."


@click.command()
@click.option(
    "--postgres",
    "dsn",
    metavar="DSN",
    envvar="ROOMCAST_POSTGRES",
    show_envvar=True,
    help="Publish the outbox in this PostgreSQL database, such as postgresql://user:password@host/database.",
)
@click.option("--redis-stream", "stream", metavar="NAME", help="Publish this stream of the Redis in REDIS_URL.")
@url_option(DEFAULT_HTTP_URL)
@click.option(
    "--api-key",
    envvar="API_KEY",
    show_envvar=True,
    help="Key of the server with the scope publish; of several, the first is used.",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve the metrics of the relay at this address.")
@click.option("--print-schema", is_flag=True, help="Print the SQL of the outbox, and exit.")
@click.option("--retry-failed", is_flag=True, help="Put the events that were set aside in the outbox again, and exit.")
@json_option("With --retry-failed: print the number of events as JSON.")
def relay(
    dsn: str | None,
    stream: str | None,
    url: str,
    api_key: str | None,
    metrics: str | None,
    print_schema: bool,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Publish the events in the outbox of an application.

    The application writes them in its own transactions: with --postgres to the table roomcast_outbox, with
    --redis-stream to a stream. Each event is published once, in the order of commits. Several relays may run at once:
    they divide the work, and take over from one that dies.

    Set IDEMPOTENCY_TTL to the value of the server. REDIS_URL, LOG_FORMAT and LOG_LEVEL are as for `roomcast serve`.
    SIGTERM or Ctrl-C stops the relay after the requests in flight.

    \b
    roomcast relay --print-schema | psql "$DSN"
    roomcast relay --postgres "$DSN" --url http://127.0.0.1:8000
    """
    if as_json and not retry_failed:
        raise click.UsageError("--json works only with --retry-failed.")
    if print_schema:
        click.echo(schema.CREATE, nl=False)
        return
    dsn = dsn or read_secret("ROOMCAST_POSTGRES", os.environ)
    if (dsn is None) == (stream is None):
        raise click.UsageError("Give either --postgres or --redis-stream.")
    settings = Settings.from_env(jwt_secret=secrets.token_hex(32), jwt_public_key=None)
    source, retry = _postgres(dsn) if dsn is not None else _redis(stream or "", settings)
    if retry_failed:
        try:
            count = run(retry())
        except Unavailable as error:
            raise Unreachable(error.detail) from error
        if as_json:
            print_json({"events": count})
        else:
            click.echo("1 event is in the outbox again." if count == 1 else f"{count} events are in the outbox again.")
        return
    keys = split_values(api_key or read_secret("API_KEY", os.environ) or "")
    if not keys:
        raise SettingsError("The API key of the server is needed: set API_KEY, or give --api-key.")
    disable_created_metrics()  # type: ignore[no-untyped-call]
    numbers = RelayMetrics()
    output.install()
    logs.configure(settings)
    if metrics is not None:
        host, port = split_address(metrics, "--metrics")
        try:
            server, _ = start_http_server(port, host, numbers.registry)
        except OSError as error:
            raise SettingsError(f"--metrics: {metrics} cannot be used: {error.strerror}.") from error
        log.info("metrics at http://%s:%d/metrics", bracketed(host), server.server_port)
    publisher = Publisher(parse_target(url).http, keys[0], settings.idempotency_ttl, numbers)
    run(_run(source, publisher, numbers))


async def _run(source: Source, publisher: Publisher, metrics: RelayMetrics) -> None:
    control = Control()
    handle_signals(control, hangup_stops=False)
    async with publisher:
        await source(publisher, metrics, control.stop)
    log.info("the relay has stopped")


def _postgres(dsn: str) -> tuple[Source, Retry]:
    try:
        from ..relay import postgres
    except ImportError:
        raise SettingsError(_MISSING) from None
    return partial(postgres.run, dsn), partial(postgres.retry_failed, dsn)


def _redis(stream: str, settings: Settings) -> tuple[Source, Retry]:
    if settings.redis_url is None:
        raise SettingsError("--redis-stream needs REDIS_URL: the URL of the Redis that has the stream.")
    target: Target = redis_target(settings.redis_url, settings)
    return partial(redis_stream.run, target, stream), partial(redis_stream.retry_failed, target, stream)
