"""``roomcast schema``: print the API of a server with the installed plugins, or the changes that break clients."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import click

from .. import registry
from ..errors import SettingsError
from ..registry import Registry
from ..room_variables import settings_for_plugins
from ..specs.asyncapi import asyncapi
from ..specs.compare import breaking_changes
from ..specs.openapi import openapi
from ..specs.python import python
from ..specs.typescript import CLIENT, typescript
from .exit_status import REFUSED
from .options import json_option
from .printing import print_json

FORMATS: Final = ("asyncapi", "openapi", "typescript", "python")


@click.command()
@click.option("--format", type=click.Choice(FORMATS), default="asyncapi", show_default=True, help="Output format.")
@click.option(
    "--client", default=CLIENT, show_default=True, help="With typescript: module from which to import the client."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="List the changes since this AsyncAPI document that break clients.",
)
@json_option("With --against: print the changes as JSON.")
def schema(format: str, client: str, against: Path | None, as_json: bool) -> None:
    """Print the API of a server with the installed plugins.

    AsyncAPI describes the commands, events and replies of the WebSocket, OpenAPI the HTTP API. TypeScript declares the
    types for roomcast.js, Python those for roomcast-client.

    With --against, the command prints no document, and its exit status is 1 if there are such changes.

    \b
    roomcast schema --format typescript > events.d.ts
    """
    if as_json and against is None:
        raise click.UsageError("--json works only with --against; --format chooses the format of the document.")
    loaded = registry.load(names=settings_for_plugins(os.environ).plugins)
    if against is None:
        click.echo(render(loaded, format, client), nl=False)
        return
    changes = changes_since(loaded, against)
    if as_json:
        print_json({"ok": not changes, "changes": changes})
    elif changes:
        click.echo("\n".join(changes))
    else:
        click.echo(f"Nothing breaks for clients made for {against}.")
    if changes:
        raise click.exceptions.Exit(REFUSED)


def render(registry: Registry, format: str, client: str) -> str:
    """Return the document. ``client`` is the module whose types the TypeScript declarations extend."""
    if format == "typescript":
        return typescript(registry, client)
    if format == "python":
        return python(registry)
    document = asyncapi(registry) if format == "asyncapi" else openapi(registry)
    return json.dumps(document, indent=2) + "\n"


def changes_since(registry: Registry, path: Path) -> list[str]:
    """Return the changes since ``path`` was written that break clients. Raises ``SettingsError``."""
    try:
        return breaking_changes(json.loads(path.read_text(encoding="utf-8")), asyncapi(registry))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(
            f"{path} is not what `roomcast schema --format asyncapi` wrote: {error}. Give such a file."
        ) from error
