"""``roomcast plugin check``: find problems of a plugin before a server does. ``plugin_problems.py`` finds them."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click

from .. import registry
from ..errors import SettingsError
from .checks.finding import FAIL, WARN
from .exit_status import REFUSED
from .options import json_option
from .plugin_problems import problems_of, problems_of_project
from .printing import print_json

_COLORS = {WARN: "yellow", FAIL: "red"}


@click.command()
@click.argument("plugins", metavar="[MODULE:ATTRIBUTE]...", nargs=-1)
@json_option()
def check(plugins: tuple[str, ...], as_json: bool) -> None:
    """Find problems of a plugin.

    Loads the plugin together with the installed ones. Finds declarations that cannot work, calls in coroutine functions
    that block the event loop, calls that are not awaited, missing descriptions, lists without a limit, and missing
    tests. Without an argument, the
    command checks the plugins of the package in the current directory.

    The exit status is 1 if a problem would stop or block a server. Other problems are warnings.

    \b
    roomcast plugin check roomcast_polls:polls
    """
    root = Path.cwd()
    sys.path[:0] = [str(root), str(root / "src")]
    points = [_entry_point(text) for text in plugins] or _points_of_project(root)
    problems = problems_of_project(root, points) if not plugins else []
    for point in points:
        problems += problems_of(point)
    has_failed = any(problem.level == FAIL for problem in problems)
    if as_json:
        print_json({"ok": not has_failed, "problems": [problem._asdict() for problem in problems]})
    else:
        for problem in problems:
            click.echo(f"{click.style(f'{problem.level:<4}', fg=_COLORS[problem.level])}  {problem.text}")
        if not problems:
            click.echo(f"{', '.join(point.value for point in points)}: no problems.")
    if has_failed:
        raise click.exceptions.Exit(REFUSED)


def _entry_point(text: str) -> EntryPoint:
    """Return the entry point that ``module:attribute`` would be. Raises ``click.UsageError``."""
    module, separator, attribute = text.partition(":")
    if not separator or not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise click.UsageError(f"{text!r} is not of the form MODULE:ATTRIBUTE, such as roomcast_polls:polls.")
    return EntryPoint(attribute, text, registry.GROUP)


def _points_of_project(root: Path) -> list[EntryPoint]:
    """Return the entry points in the ``pyproject.toml`` of the current directory. Raises ``SettingsError``."""
    try:
        document: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"pyproject.toml in the current directory cannot be read: {error.strerror}. Change to the directory of the "
            "plugin, or give MODULE:ATTRIBUTE."
        ) from error
    except ValueError as error:
        raise SettingsError(f"pyproject.toml is not TOML: {error}.") from error
    declared = document.get("project", {}).get("entry-points", {}).get(registry.GROUP, {})
    if not declared:
        raise SettingsError(
            f'pyproject.toml declares no plugin. Add [project.entry-points."{registry.GROUP}"] with a line such as '
            'polls = "roomcast_polls:polls".'
        )
    return [EntryPoint(name, value, registry.GROUP) for name, value in declared.items()]
