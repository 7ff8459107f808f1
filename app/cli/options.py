"""Shared by the commands: options and the event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from ..web.tcp_sockets import expand_hosts

_T = TypeVar("_T")


def _split_hosts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts in ``values``, each of which may have several, separated by commas."""
    hosts = [name for value in values for host in value.split(",") if (name := host.strip())]
    if not hosts:
        raise click.BadParameter("give an address; 0.0.0.0 means all IPv4 addresses of this machine, and :: all.")
    return expand_hosts(hosts)


def host_option() -> Callable[[_T], _T]:
    """Return the decorator for ``--host``, which passes ``hosts``."""
    return click.option(  # type: ignore[return-value]
        "--host",
        "hosts",
        multiple=True,
        default=["127.0.0.1"],
        show_default=True,
        envvar="ROOMCAST_HOST",  # not HOST, which some shells and distributions set to the name of the machine
        show_envvar=True,
        callback=_split_hosts,
        help="Address to listen on; may be repeated. 0.0.0.0 means all IPv4 addresses of this machine, and :: all.",
    )


def port_option() -> Callable[[_T], _T]:
    """Return the decorator for ``--port``."""
    return click.option(  # type: ignore[return-value]
        "--port",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        help="Port to listen on. 0 means any free port.",
    )


def tls_options(help: str) -> Callable[[_T], _T]:
    """Return the decorator for ``--tls-cert``, whose ``help`` it takes, and ``--tls-key``."""
    certificate = click.option("--tls-cert", type=click.Path(path_type=Path), help=help)
    key = click.option(
        "--tls-key", type=click.Path(path_type=Path), help="Key of the certificate, if in another file (PEM)."
    )
    return lambda function: certificate(key(function))  # type: ignore[type-var]


def url_option(default: str) -> Callable[[_T], _T]:
    """Return the decorator for ``--url``."""
    return click.option(  # type: ignore[return-value]
        "--url",
        envvar="ROOMCAST_URL",
        show_envvar=True,
        default=default,
        show_default=True,
        help="URL of the server, with its path if a proxy serves it below one.",
    )


def json_option(help: str = "Print JSON.") -> Callable[[_T], _T]:
    """Return the decorator for ``--json``, which passes ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help)  # type: ignore[return-value]


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run ``coroutine`` on the fastest loop. Ctrl-C ends the process silently, with the status that shells expect."""
    from ..workers.process import new_loop  # here, because it imports the server, which completions do not need

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(coroutine)
    except KeyboardInterrupt:
        sys.exit(130)
