"""``roomcast plugins``: the installed plugins and what each of them adds."""

from __future__ import annotations

import json
from typing import Any

import click

from .. import registry
from ..registry import LoadedPlugin
from ..specs.catalog import CORE_COMMANDS
from ..specs.publishable import check_schemas
from ..workers.process import VERSION


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the plugins and what each one adds.

    Shows the package, the commands, the events, the room types and the HTTP routes of each plugin. Commands are for
    members of the room that they name, except the commands for anyone.
    """
    loaded_plugins = registry.load()
    check_schemas(loaded_plugins)
    descriptions = [_describe(loaded) for loaded in loaded_plugins]
    if as_json:
        click.echo(json.dumps(descriptions, indent=2))
        return
    for description in descriptions:
        click.secho(description["plugin"], bold=True)
        for name, value in description.items():
            if name != "plugin":
                text = ", ".join(value) if isinstance(value, list) else value
                click.echo(f"  {name.replace('_', ' '):<20} {text or '-'}")


def _describe(loaded: LoadedPlugin) -> dict[str, Any]:
    plugin = loaded.plugin
    # The gateway handles the commands of the core, so the plugin ``core`` does not declare them.
    commands = [*(CORE_COMMANDS if plugin.name == "core" else plugin.commands)]
    for_members = [command.type for command in plugin.commands.values() if command.access == "member"]
    return {
        "plugin": plugin.name,
        "description": plugin.description,
        # Built-in plugins have the version of roomcast.
        "package": loaded.distribution if " " in loaded.distribution else f"{loaded.distribution} {VERSION}",
        "entry_point": loaded.entry_point,
        "commands": commands,
        "commands_for_anyone": [type for type in commands if type not in for_members],
        "events": [*plugin.events],
        "room_types": [*plugin.rooms],
        "routes": [f"{route.method} /plugins/{plugin.name}{route.path}" for route in plugin.routes],
    }
