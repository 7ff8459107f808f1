"""``roomcast plugins``: the installed plugins and what each of them adds."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

from .. import registry
from ..declarations import MountedRoute
from ..errors import SettingsError
from ..plugin_hooks import KINDS, Hook
from ..plugin_settings import PluginSetting
from ..registry import LoadedPlugin, Registry
from ..room_options import EffectiveOptions
from ..room_variables import settings_for_plugins
from ..settings import Settings
from ..specs.core_frames import CORE_COMMANDS
from ..specs.publishable import check_schemas
from ..suggestions import did_you_mean
from ..workers.process import VERSION
from .options import json_option
from .printing import print_json


@click.command()
@click.argument("name", metavar="[PLUGIN]", required=False)
@json_option()
def plugins(name: str | None, as_json: bool) -> None:
    """List the plugins and what each one adds, or show only one.

    Shows the package, the commands, the events, the room types, the HTTP routes and the hooks of each plugin. Commands
    are for members of the room that they name, except the commands for anyone. Room options are those that the plugin
    declares, or that variables such as ROOM_CHANNEL_HISTORY_SIZE set. At the end are all hooks, in the order in which
    those of the same kind and target run. Hooks that a setting switches off are marked as not active. Settings are
    listed with their defaults; `roomcast doctor` shows the values.

    \b
    roomcast plugins chat
    """
    settings = settings_for_plugins(os.environ)
    loaded_plugins = registry.load(names=settings.plugins)
    if name is not None and name not in loaded_plugins.plugins:
        hint = did_you_mean(name, loaded_plugins.plugins)
        raise click.UsageError(f"There is no plugin {name!r}; there are: {', '.join(loaded_plugins.plugins)}.{hint}")
    check_schemas(loaded_plugins)
    options = loaded_plugins.room_options(settings)
    hooks = _listed_hooks(loaded_plugins, settings)
    descriptions = [
        _describe(loaded, options) | {"hooks": _describe_hooks(hooks, loaded)}
        for loaded in loaded_plugins
        if name in (None, loaded.plugin.name)
    ]
    if as_json:
        print_json(descriptions)
        return
    for description in descriptions:
        click.secho(description["plugin"], bold=True)
        for field, value in description.items():
            if field != "plugin":
                click.echo(f"  {field.replace('_', ' '):<20} {_text(value) or '-'}")
    shown_hooks = [one for one in hooks if name in (None, one.hook.plugin)]
    if shown_hooks:
        click.secho("hooks, in the order in which they run", bold=True)
        for kind in KINDS:
            for hook, is_active in shown_hooks:
                if hook.kind == kind:
                    order = f" (order {hook.order})" if hook.order else ""
                    function = f"{hook.plugin}.{hook.name}{order}{_STATES[is_active]}"
                    click.echo(f"  {f'{kind} {hook.target}'.strip():<40} {function}")


class ListedHook(NamedTuple):
    """A hook. ``is_active`` is False if its ``only_if`` switches it off, and None if its settings cannot be read."""

    hook: Hook
    is_active: bool | None


_STATES: Final[dict[bool | None, str]] = {
    True: "",
    False: " (not active)",
    None: " (perhaps not active: settings of the plugin are missing or wrong)",
}


def _listed_hooks(registry: Registry, settings: Settings) -> list[ListedHook]:
    """Return all hooks in the order in which they run, with those that ``only_if`` switches off with ``settings``."""
    return [ListedHook(hook, _is_active(hook, registry, settings)) for hook in registry.declared_hooks]


def _is_active(hook: Hook, registry: Registry, settings: Settings) -> bool | None:
    if hook.condition is None:
        return True
    declared = registry.plugins[hook.plugin].plugin.settings
    try:
        return bool(hook.condition(None if declared is None else declared.read(settings.plugin_variables)))
    except SettingsError:
        return None


def _describe_hooks(hooks: Sequence[ListedHook], loaded: LoadedPlugin) -> list[dict[str, Any]]:
    """Return the hooks of a plugin.

    ``position`` counts the active hooks of all plugins for the same target, from 1. It is None for other hooks.
    """
    positions: dict[Hook, int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for hook, is_active in hooks:
        if is_active:
            counts[hook.kind, hook.target] += 1
            positions[hook] = counts[hook.kind, hook.target]
    return [
        {
            "hook": hook.kind,
            "target": hook.target,
            "function": hook.name,
            "order": hook.order,
            "position": positions.get(hook),
            "active": is_active,
        }
        for hook, is_active in hooks
        if hook.plugin == loaded.plugin.name
    ]


def _text(value: Any) -> str:
    """Return a value of a description in one line."""
    if isinstance(value, dict):  # the options of room types
        return "; ".join(
            f"{name}: {', '.join(_option(*one) for one in found.items())}" for name, found in value.items()
        )
    if isinstance(value, list):
        return ("; " if any(isinstance(one, dict) and "variable" in one for one in value) else ", ").join(
            map(_item, value)
        )
    return str(value)


def _item(item: str | dict[str, Any]) -> str:
    """Return an item of a list in a description."""
    if isinstance(item, str):
        return item
    return (
        _setting(item)
        if "variable" in item
        else f"{item['function']} ({item['hook']}{', not active' if item['active'] is False else ''})"
    )


def _setting(setting: dict[str, Any]) -> str:
    if setting["required"]:
        shown = " (required)"
    else:
        shown = f" ({setting['default']} {setting['unit']}".rstrip() + ")" if setting["default"] else ""
    return f"{setting['variable']}{shown}: {setting['meaning']}"


def _option(name: str, value: Any) -> str:
    return f"{name}={' '.join(value) or 'none'}" if name == "commands" else f"{name}={json.dumps(value)}"


def _given(options: EffectiveOptions) -> dict[str, Any]:
    """Return the options of a room type that its plugin declares or a variable sets."""
    return {name: value for name, value in options.given._asdict().items() if value is not None}


def _describe(loaded: LoadedPlugin, options: Mapping[str, EffectiveOptions]) -> dict[str, Any]:
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
        "events_not_stored": [event.type for event in plugin.events.values() if not event.is_stored],
        "room_types": [*plugin.rooms],
        # Those with the values of the settings for all rooms are left out.
        "room_options": {type: given for type in plugin.rooms if (given := _given(options[type]))},
        "periodic_functions": [
            f"{one.name} ({one.seconds:g} s{', once per cluster' if one.once_per_cluster else ''})"
            for one in plugin.periodic
        ],
        "settings": [_describe_setting(one) for one in plugin.settings.settings] if plugin.settings is not None else [],
        "routes": [f"{route.method} /plugins/{plugin.name}{route.path} ({_access(route)})" for route in plugin.routes],
    }


def _access(route: MountedRoute) -> str:
    """Return who may call a route, in a word or two."""
    return route.auth if route.scope is None else f"{route.auth}: {route.scope}"


def _describe_setting(setting: PluginSetting) -> dict[str, Any]:
    variable, default, unit, meaning = setting.describe()
    return {
        "variable": variable,
        "default": default,
        "unit": unit,
        "meaning": meaning,
        "required": setting.is_required,
        "secret": setting.rule.is_secret,
    }
