"""``roomcast dev``: settings that let everyone in, and lines to copy that show that it works."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from typing import Final

import orjson

from ..settings import Settings
from ..web.server import Server
from ..web.upgrade.handshake import PATH
from ..workers.listen_errors import is_port_free
from ..workers.process import VERSION, broker_name, url_of
from . import tokens, websocket_client

#: How long the token of the printed lines holds, in seconds.
TOKEN_LIFETIME: Final = 12 * 3600
#: How many ports after the one asked for are tried.
MORE_PORTS: Final = 20

ROOM: Final = "project:1"
EVENT: Final = {
    "type": "task.created",
    "room": ROOM,
    "data": {"task_id": 1, "title": "It works", "status": "todo", "creator": "curl"},
    "sender": "curl",
}


def settings(environ: Mapping[str, str]) -> Settings:
    """Return settings for one run on a developer's machine: what ``environ`` says, and what it leaves open made easy.

    Pages of any origin may connect, since the dev server of a front end is another origin than ours, and a page of
    somebody else's has no token.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    easy = {
        "ROOM_ACCESS": "open",
        "ALLOWED_ORIGINS": "*",
        "DRAIN_SECONDS": "0",
        "API_KEY": secrets.token_urlsafe(24),
    }
    if "JWT_PUBLIC_KEY" not in given:
        easy["JWT_SECRET"] = secrets.token_hex(32)
    return Settings.from_env(easy | given)


def free_port(host: str, wanted: int) -> int:
    """Return ``wanted``, or the next port that is free; if none is near, ``wanted``, so that listening says why not."""
    if wanted == 0:
        return 0
    ports = range(wanted, min(wanted + MORE_PORTS, 65536))
    return next((port for port in ports if is_port_free(host, port)), wanted)


def greeting(server: Server, *, wanted: int) -> str:
    """Return what is printed when ``server`` listens; ``wanted`` is the port that was asked for."""
    gateway, base = server.gateway, url_of(server.address, server.port)
    taken = wanted not in (0, server.port)
    rooms = "every room open to everyone" if gateway.settings.room_access == "open" else "rooms by ROOM_ACCESS"
    origins = "pages of all origins let in" if "*" in gateway.settings.allowed_origins else "origins by ALLOWED_ORIGINS"
    lines = [
        f"roomcast {VERSION}, for development: broker {broker_name(gateway.settings)}, {rooms}, {origins}",
        *([f"Port {wanted} is taken, so this is on port {server.port}; --port chooses another."] if taken else []),
        "",
        *_lines(base, gateway.settings),
        "",
        f"Plugins: {', '.join(gateway.registry.plugins)}. Press Ctrl-C to stop.",
    ]
    return "\n".join(lines)


def _lines(base: str, settings: Settings) -> list[str]:
    join = orjson.dumps({"type": "join_room", "room": ROOM}).decode()
    publish = ["curl", f"{base}/api/v1/events", "-H", f"Authorization: Bearer {settings.api_key}"]
    publish += ["-d", orjson.dumps(EVENT).decode()]
    shell, token, fragment = "Or connect from a shell", "TOKEN", ""
    if settings.jwt_secret is not None:
        token = tokens.mint(settings, 1, username="dev", expires_in=TOKEN_LIFETIME)
        fragment = f"#token={token}"
    else:
        shell += ", with a TOKEN that JWT_PUBLIC_KEY verifies"
    return [
        "Open the console, where everything can be tried out:",
        f"  {base}/console{fragment}",
        "",
        f"{shell}, and enter a room by typing the second line:",
        "  " + shell_line(["wscat", "-c", f"ws{base.removeprefix('http')}{PATH}?token={token}"]),
        "  " + join,
        "",
        f"Then publish to {ROOM}, as a backend does:",
        "  " + shell_line(publish),
        "",
        "And for roomcast listen, publish, token and the like in another shell:",
        "  " + exporting(_variables(base, settings, token)),
    ]


def _variables(base: str, settings: Settings, token: str) -> dict[str, str]:
    """Return what the other commands have to find in their environment. A secret that was given is not shown."""
    variables = {"ROOMCAST_TOKEN": token, "API_KEY": settings.api_key or ""}
    if settings.jwt_secret is not None and not os.environ.get("JWT_SECRET", "").strip():
        variables["JWT_SECRET"] = settings.jwt_secret
    if base != f"http://{websocket_client.AUTHORITY}":
        variables["ROOMCAST_URL"] = base
    return variables


def exporting(variables: Mapping[str, str]) -> str:
    """Return the line by which this machine's shell sets ``variables`` for what is started in it."""
    if os.name == "nt":
        return " & ".join(f'set "{name}={value}"' for name, value in variables.items())
    return shlex.join(["export", *(f"{name}={value}" for name, value in variables.items())])


def shell_line(words: list[str]) -> str:
    """Return ``words`` as a line that this machine's shell splits into them again."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
