"""Load the plugins of installed packages, and look up their declarations by type.

A plugin that cannot be loaded, or declares a name that another plugin has, raises ``PluginError``: the server does not
start. Its message names the packages and their entry points.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from marshmallow import Schema

from .builtin_events import COMMANDS, FRAMES, builtin
from .errors import InvalidEvent, PluginError, Refused
from .plugin import Command, EventType, Plugin, RoomType

#: The entry point group in which packages offer their plugins.
GROUP: Final = "roomcast.plugins"


class LoadedPlugin(NamedTuple):
    """A plugin and its origin: the distribution with its version, and the name of the entry point."""

    plugin: Plugin
    distribution: str
    entry_point: str

    @property
    def source(self) -> str:
        """The origin as error messages name it."""
        if self.plugin is builtin:
            return "roomcast itself"
        return f"package {self.distribution!r}, entry point {self.entry_point!r}"


class Registry:
    """The declarations of roomcast itself and of all loaded plugins, by type.

    Raises ``PluginError`` if two plugins have the same name, or declare the same command, event or room type, or if an
    event is limited to a room type that no plugin declares.
    """

    def __init__(self, loaded: Iterable[LoadedPlugin] = ()) -> None:
        self.plugins: dict[str, LoadedPlugin] = {}
        self.commands: dict[str, Command] = {}
        self.events: dict[str, EventType] = {}
        self.rooms: dict[str, RoomType] = {}
        #: ``events`` by type and by schema class, so that each publish needs one look-up.
        self._event_lookup: dict[str | type[Schema], EventType] = {}
        #: The plugin that declares each type. Keys are the kind and the type.
        self._owners: dict[tuple[str, str], LoadedPlugin] = {}
        core = LoadedPlugin(builtin, "roomcast", "core")
        for type in COMMANDS:
            self._owners["command", type] = core
        for type in FRAMES:
            self._owners["event", type] = core
        for plugin in (core, *loaded):
            self._add(plugin)
        for plugin in self:
            self._check_room_types(plugin)

    def _add(self, loaded: LoadedPlugin) -> None:
        plugin = loaded.plugin
        if plugin.name in self.plugins:
            raise PluginError(_conflict("the plugin name", plugin.name, self.plugins[plugin.name], loaded))
        self.plugins[plugin.name] = loaded
        for kind, declared in (("command", plugin.commands), ("event", plugin.events), ("room type", plugin.rooms)):
            for type in declared:
                owner = self._owners.setdefault((kind, type), loaded)
                if owner is not loaded:
                    raise PluginError(_conflict(kind, type, owner, loaded))
        self.commands.update(plugin.commands)
        self.events.update(plugin.events)
        self.rooms.update(plugin.rooms)
        for event in plugin.events.values():
            self._event_lookup[event.type] = self._event_lookup[event.validator.schema.__class__] = event

    def _check_room_types(self, loaded: LoadedPlugin) -> None:
        """Raise ``PluginError`` if an event is limited to a room type that no plugin declares."""
        for event in loaded.plugin.events.values():
            for type in event.rooms:
                if type not in self.rooms:
                    raise PluginError(
                        f"event {event.type!r} of plugin {loaded.plugin.name!r} ({loaded.source}) goes to rooms of "
                        f"type {type!r}, and no plugin declares one. Correct its name, or install the plugin that has "
                        "it."
                    )

    def owner(self, kind: str, type: str) -> str:
        """Return the name of the plugin that declares ``type``; ``kind`` is ``command``, ``event`` or ``room type``."""
        return self._owners[kind, type].plugin.name

    def event(self, event: str | type[Schema]) -> EventType:
        """Return the declaration of an event, given its type or its schema; raise ``InvalidEvent`` if there is none."""
        found = self._event_lookup.get(event)
        if found is None:
            name = event if isinstance(event, str) else event.__name__
            raise InvalidEvent(
                "unknown_type", f"No plugin declares an event {name[:60]!r}; `roomcast plugins` lists them."
            )
        return found

    def room(self, room: str) -> RoomType:
        """Return the declaration of the type of ``room``, a valid room name; raise ``Refused`` if there is none."""
        found = self.rooms.get(room[: room.index(":")])
        if found is None:
            types = ", ".join(sorted(self.rooms))
            raise Refused("unknown_room_type", f"No plugin declares rooms like {room!r}; there are: {types}.")
        return found

    def __iter__(self) -> Iterator[LoadedPlugin]:
        return iter(self.plugins.values())


def _conflict(kind: str, type: str, first: LoadedPlugin, second: LoadedPlugin) -> str:
    remedy = "Give it another name." if first.plugin is builtin else "Rename one, or uninstall its package."
    return (
        f"{kind} {type!r} is declared twice: by plugin {first.plugin.name!r} ({first.source}) and by plugin "
        f"{second.plugin.name!r} ({second.source}). {remedy}"
    )


def load(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Return a registry of the plugins at ``points``, by default of all installed plugins; raise ``PluginError``."""
    return Registry(installed(points))


def installed(points: Iterable[EntryPoint] | None = None) -> list[LoadedPlugin]:
    """Import the plugins like ``load``, built-in ones first, without checking that their declarations are unique."""
    selected = entry_points(group=GROUP) if points is None else points
    return [_import(point) for point in sorted(selected, key=_built_in_first)]


def _built_in_first(point: EntryPoint) -> tuple[bool, str]:
    return (not point.value.startswith("roomcast."), point.name)


def _import(point: EntryPoint) -> LoadedPlugin:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
    where = f"plugin from package {distribution!r}, entry point {point.name!r} ({point.value})"
    try:
        plugin: Any = point.load()
    except PluginError as error:
        raise PluginError(f"{where}: {str(error).rstrip('.')}.") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": .")
        raise PluginError(f"{where} could not be imported: {reason}.") from error
    if not isinstance(plugin, Plugin):
        raise PluginError(f"{where} is a {type(plugin).__name__}, not a roomcast.Plugin.")
    plugin.description = plugin.description or _first_line(sys.modules[point.module].__doc__)
    return LoadedPlugin(plugin, distribution, point.name)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip()
