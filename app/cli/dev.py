"""``roomcast dev``: a server with permissive settings, and lines to copy into a browser or a shell."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import orjson

from .. import logs, output
from ..secret_files import read_secret
from ..setting_rules import split_values
from ..settings import Settings
from ..web.pages.dev_problems import problems
from ..web.port import Address
from ..web.server import Server
from ..web.upgrade.handshake import PATH
from ..workers import dev_server, process
from ..workers.listen_errors import is_port_free
from ..workers.plugin_source import PluginSource
from ..workers.process import VERSION, broker_name, urls_of
from . import tokens
from .options import host_option, json_option, port_option
from .target import DEFAULT_HTTP_URL

#: The lifetime of the printed token, in seconds.
TOKEN_LIFETIME: Final = 12 * 3600
#: The number of ports that are tried, beginning with the one asked for.
MAX_PORTS: Final = 20

#: The room and the event of the printed lines.
ROOM: Final = "project:1"
EVENT: Final = {
    "type": "task.created",
    "room": ROOM,
    "data": {"task_id": 1, "title": "It works", "status": "todo", "creator": "curl"},
    "sender": "curl",
}


@click.command()
@host_option()
@port_option()
@click.option(
    "--plugin",
    "plugins",
    metavar="MODULE:ATTRIBUTE",
    multiple=True,
    help="Also load this plugin, which need not be installed; may be repeated.",
)
@click.option("--reload", is_flag=True, help="Load the plugins of --plugin again when their files change.")
@json_option("Print the addresses and the keys as JSON on one line.")
def dev(hosts: tuple[str, ...], port: int, plugins: tuple[str, ...], reload: bool, as_json: bool) -> None:
    """Run a server for development.

    No settings are needed: a JWT secret and an API key are generated, all rooms are open, pages of all origins may
    connect, and the console is on. Settings in the environment take precedence. If the port is in use, the next free
    one is taken. Not for production.

    With --reload, the server loads the plugins again when one of their files changes. Secrets, the port and the
    histories stay, so that clients connect again and miss nothing. If the new code cannot be loaded, the server goes on
    with the code before, and the terminal and the console show the problem. The console also shows the tracebacks of
    handlers that fail.

    \b
    roomcast dev --reload --plugin roomcast_polls:polls
    """
    if reload and not plugins:
        raise click.UsageError("--reload needs --plugin, such as --plugin roomcast_polls:polls.")
    settings = dev_settings(os.environ)
    output.install()
    logs.configure(settings)
    logging.getLogger().addHandler(problems)

    def on_ready(server: Server) -> None:
        click.echo(orjson.dumps(start_document(server)) if as_json else start_text(server, wanted_port=port))

    address = Address(hosts, find_free_port(hosts, port))
    if plugins:
        dev_server.run(settings, address, PluginSource(plugins, settings.plugins), on_ready, reload=reload)
    else:
        process.run(settings, address, on_ready, dev=True)


def dev_settings(environ: Mapping[str, str]) -> Settings:
    """Return settings for one run on a developer's machine: those in ``environ``, with permissive defaults.

    INTERNAL_ADDRESS is ignored, so that the console and the API have the printed port.

    Pages of all origins may connect, because the development server of a front end has another origin. Pages of other
    sites still need a token.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    defaults = {"ROOM_ACCESS": "open", "ALLOWED_ORIGINS": "*", "DRAIN_SECONDS": "0"}
    if read_secret("API_KEY", given) is None:
        defaults["API_KEY"] = secrets.token_urlsafe(24)
    if read_secret("JWT_PUBLIC_KEY", given) is None and read_secret("JWT_SECRET", given) is None:
        defaults["JWT_SECRET"] = secrets.token_hex(32)
    return Settings.from_env(defaults | given, internal_address=None)


def find_free_port(hosts: Sequence[str], wanted: int) -> int:
    """Return the first free port from ``wanted`` on.

    If the first ``MAX_PORTS`` are in use, return ``wanted``. Listening on it then fails with the reason.
    """
    if wanted == 0:
        return 0
    ports = range(wanted, min(wanted + MAX_PORTS, 65536))
    return next((port for port in ports if is_port_free(hosts, port)), wanted)


def start_text(server: Server, *, wanted_port: int) -> str:
    """Return the text to print when ``server`` listens."""
    gateway, url = server.gateway, urls_of(server.address, server.port)[0]
    settings = gateway.settings
    is_other_port = wanted_port not in (0, server.port)
    rooms = "open to all users" if settings.room_access == "open" else "by ROOM_ACCESS"
    origins = "all" if "*" in settings.allowed_origins else "by ALLOWED_ORIGINS"
    lines = [
        f"roomcast {VERSION} for development (broker: {broker_name(settings)}; rooms: {rooms}; origins: {origins})",
        *([f"Port {wanted_port} is in use; this server has port {server.port}."] if is_other_port else []),
        "",
        *_instructions(url, settings),
        "",
        f"Plugins: {', '.join(gateway.registry.plugins)}. Press Ctrl-C to stop.",
    ]
    return "\n".join(lines)


def start_document(server: Server) -> dict[str, Any]:
    """Return what ``start_text`` contains, for programs. ``environment`` has the variables for other commands."""
    url, settings = urls_of(server.address, server.port)[0], server.gateway.settings
    token = None if settings.jwt_secret is None else _mint(settings)
    environment = {
        "ROOMCAST_URL": url,
        "API_KEY": _api_key(settings),
        "JWT_SECRET": settings.jwt_secret,
        "ROOMCAST_TOKEN": token,
    }
    return {
        "url": url,
        "console": f"{url}/console" + ("" if token is None else f"#token={token}"),
        "plugins": [*server.gateway.registry.plugins],
        "environment": {name: value for name, value in environment.items() if value is not None},
    }


def _mint(settings: Settings) -> str:
    return tokens.mint(settings, 1, username="dev", expires_in=TOKEN_LIFETIME)


def _instructions(url: str, settings: Settings) -> list[str]:
    join = orjson.dumps({"type": "join_room", "room": ROOM}).decode()
    curl = ["curl", f"{url}/api/v1/events", "-H", f"Authorization: Bearer {_api_key(settings)}"]
    curl += ["-d", orjson.dumps(EVENT).decode()]
    if settings.jwt_secret is not None:
        token = _mint(settings)
        fragment, hint = f"#token={token}", ""
    else:
        token, fragment, hint = "TOKEN", "", " and a TOKEN that JWT_PUBLIC_KEY verifies"
    return [
        "Open the console in a browser:",
        f"  {url}/console{fragment}",
        "",
        f"Or connect with wscat (npm install -g wscat){hint}, then enter the second line to join a room:",
        "  " + shell_line(["wscat", "-c", f"ws{url.removeprefix('http')}{PATH}?token={token}"]),
        "  " + join,
        "",
        f"Then publish an event in {ROOM}, as a backend does:",
        "  " + shell_line(curl),
        "",
        "To use roomcast listen, publish or token in another shell, set these variables there:",
        "  " + export_line(_variables(url, settings, token)),
    ]


def _variables(url: str, settings: Settings, token: str) -> dict[str, str]:
    """Return the environment variables for other commands. A JWT_SECRET from the environment is not repeated."""
    variables = {"ROOMCAST_TOKEN": token, "API_KEY": _api_key(settings)}
    if settings.jwt_secret is not None and read_secret("JWT_SECRET", os.environ) is None:
        variables["JWT_SECRET"] = settings.jwt_secret
    if url != DEFAULT_HTTP_URL:
        variables["ROOMCAST_URL"] = url
    return variables


def _api_key(settings: Settings) -> str:
    """Return the first API key. ``dev_settings`` makes one if none is given."""
    return split_values(settings.api_key or "")[0]


def export_line(variables: Mapping[str, str]) -> str:
    """Return the line that sets environment variables in the shell of this system."""
    if os.name == "nt":
        return " & ".join(f'set "{name}={value}"' for name, value in variables.items())
    return shlex.join(["export", *(f"{name}={value}" for name, value in variables.items())])


def shell_line(words: list[str]) -> str:
    """Return ``words`` as a command line for the shell of this system."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
