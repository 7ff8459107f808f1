"""``roomcast plugin new``: write the package of a new plugin, whose tests pass. ``plugin_files.py`` has its files."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Final

import click

from .. import registry
from ..errors import PluginError
from ..workers.process import VERSION
from .options import json_option
from .plugin_files import FILES
from .printing import print_json

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
MAX_NAME: Final = 40


@click.command()
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Directory to create.  [default: roomcast-NAME in the current directory]",
)
@json_option("Print the name of the plugin and the written files as JSON.")
def new(name: str, directory: Path | None, as_json: bool) -> None:
    """Write the package of a new plugin.

    The package has a module with a room type, an event and a command, tests that pass, a README and the metadata for
    pip. NAME is a word such as polls. Existing files are not changed.

    \b
    roomcast plugin new polls
    """
    check_name(name)
    root = directory if directory is not None else Path(f"roomcast-{name.replace('_', '-')}")
    written = write_package(name.replace("-", "_"), root)
    if as_json:
        print_json({"plugin": name.replace("-", "_"), "directory": str(root), "files": [str(path) for path in written]})
        return
    click.echo(
        f"Wrote the plugin {click.style(name.replace('-', '_'), bold=True)} to {root}. Its README explains the next "
        f"steps:\n\n  cd {root}\n  pip install -e '.[test]'\n  pytest\n  roomcast plugin check\n  "
        f"roomcast dev --reload --plugin {module_of(name)}:{name.replace('-', '_')}"
    )


def module_of(name: str) -> str:
    """Return the module of the plugin ``name``."""
    return f"roomcast_{name.replace('-', '_')}"


def check_name(name: str) -> None:
    """Raise ``click.BadParameter`` if no plugin can have this name here."""
    word = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise click.BadParameter(
            f"{name[:60]!r} is not a word like polls or team-polls: at most {MAX_NAME} lower-case letters and digits, "
            "which begin with a letter and may be joined by _ or -.",
            param_hint="NAME",
        )
    if keyword.iskeyword(word) or keyword.issoftkeyword(word):
        raise click.BadParameter(f"{word!r} is a keyword of Python.", param_hint="NAME")
    try:
        loaded = registry.load()
    except PluginError:  # another plugin is broken, which is no reason against a new one
        return
    if word in loaded.plugins:
        source = loaded.plugins[word].source
        raise click.BadParameter(f"there is a plugin {word!r} already ({source}).", param_hint="NAME")
    if word in loaded.rooms:
        owner = loaded.owner("room type", word)
        raise click.BadParameter(f"the plugin {owner!r} declares rooms of the type {word!r}.", param_hint="NAME")


def write_package(name: str, root: Path) -> list[Path]:
    """Write the files of the plugin ``name`` to ``root``; return them. Raises ``click.BadParameter`` if one exists."""
    values = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "module": module_of(name),
        "project": f"roomcast-{name.replace('_', '-')}",
        "version": VERSION,
    }
    files = {root / path.replace("MODULE", values["module"]): text for path, text in FILES.items()}
    if existing := next((path for path in files if path.exists()), None):
        raise click.BadParameter(
            f"{existing} exists already; nothing was written. Give another directory.", param_hint="--directory"
        )
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), encoding="utf-8")
        except OSError as error:
            raise click.BadParameter(
                f"{path} cannot be written: {error.strerror}.", param_hint="--directory"
            ) from error
    return [*files]
