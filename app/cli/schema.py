"""``roomcast schema``: print the API of a server with the installed plugins, or the changes that break clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from .. import registry
from ..errors import SettingsError
from ..registry import Registry
from ..specs.asyncapi import asyncapi
from ..specs.compare import breaking_changes
from ..specs.openapi import openapi
from ..specs.typescript import CLIENT, typescript

FORMATS: Final = ("asyncapi", "openapi", "typescript")


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
def schema(format: str, client: str, against: Path | None) -> None:
    """Print the API of a server with the installed plugins.

    AsyncAPI describes the commands, events and replies of the WebSocket, OpenAPI the HTTP API. TypeScript declares the
    types for roomcast.js.

    With --against, the command prints no document, and its exit status is 1 if there are such changes.
    """
    loaded = registry.load()
    if against is None:
        click.echo(render(loaded, format, client), nl=False)
        return
    changes = changes_since(loaded, against)
    for line in changes:
        click.echo(line)
    if changes:
        raise click.exceptions.Exit(1)
    click.echo(f"Nothing breaks for clients made for {against}.")


def render(registry: Registry, format: str, client: str) -> str:
    """Return the document. ``client`` is the module whose types the TypeScript declarations extend."""
    if format == "typescript":
        return typescript(registry, client)
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
