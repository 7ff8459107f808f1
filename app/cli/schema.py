"""``roomcast schema``: what a server with the installed plugins speaks, as a document, and what has changed in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ..errors import SettingsError
from ..registry import Registry
from ..specs.asyncapi import asyncapi
from ..specs.compare import breaking_changes
from ..specs.openapi import openapi
from ..specs.typescript import typescript

FORMATS: Final = ("asyncapi", "openapi", "typescript")


def render(registry: Registry, format: str, client: str) -> str:
    """Return the document; ``client`` is the module whose types the TypeScript declarations add to."""
    if format == "typescript":
        return typescript(registry, client)
    document = asyncapi(registry) if format == "asyncapi" else openapi(registry)
    return json.dumps(document, indent=2) + "\n"


def changes(registry: Registry, path: Path) -> list[str]:
    """Return what would break for clients since ``path`` was written; raise ``SettingsError`` if it cannot be read."""
    try:
        return breaking_changes(json.loads(path.read_text(encoding="utf-8")), asyncapi(registry))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(
            f"{path} is not what `roomcast schema --format asyncapi` wrote: {error}. Give such a file."
        ) from error
