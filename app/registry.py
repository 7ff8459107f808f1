"""Load the plugins of installed packages, and look up their declarations by type.

A plugin that cannot be loaded, or declares a name that another plugin has, raises ``PluginError``: the server does not
start. Its message names the packages and their entry points.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from marshmallow import Schema

from .builtin_events import COMMANDS, FRAMES, builtin
from .declarations import Command, EventType, RoomType
from .errors import InvalidEvent, PluginError, Refused, SettingsError
from .hook_targets import check_presence, check_target, expand
from .plugin import Plugin
from .plugin_hooks import Hook, HookKind
from .room_options import EffectiveOptions, unknown_command
from .room_variables import effective_options
from .setting_rules import show
from .settings import Settings, describe, file_variables
from .suggestions import did_you_mean, suggestion

#: The entry point group in which packages offer their plugins.
GROUP: Final = "roomcast.plugins"


class LoadedPlugin(NamedTuple):
    """A plugin and its origin: the distribution with its version, and the name of the entry point.

    Without an entry point, which installed plugins have, ``distribution`` is the whole origin.
    """

    plugin: Plugin
    distribution: str
    entry_point: str

    @property
    def is_built_in(self) -> bool:
        """True if roomcast brings the plugin."""
        return self.distribution.partition(" ")[0] == "roomcast"

    @property
    def source(self) -> str:
        """The origin as error messages name it."""
        if self.plugin is builtin:
            return "roomcast itself"
        if not self.entry_point:
            return self.distribution
        return f"package {self.distribution!r}, entry point {self.entry_point!r}"


class Registry:
    """The declarations of roomcast itself and of all loaded plugins, by type.

    Raises ``PluginError`` if two plugins have the same name, or declare the same command, event or room type, if an
    event is limited to a room type that no plugin declares, or if a room type allows a command that none declares. The
    same holds for a hook for a command, event or room type that none declares.
    """

    def __init__(self, loaded: Iterable[LoadedPlugin] = ()) -> None:
        self.plugins: dict[str, LoadedPlugin] = {}
        self.commands: dict[str, Command] = {}
        self.events: dict[str, EventType] = {}
        self.rooms: dict[str, RoomType] = {}
        #: ``events`` by type and by schema class, so that each publish needs one look-up.
        self._event_lookup: dict[str | type[Schema], EventType] = {}
        #: Those of them that ``publish`` accepts, by type and by schema class.
        self.stored_events: Final[dict[str | type[Schema], EventType]] = {}
        #: The plugin that declares each type. Keys are the kind and the type.
        self._owners: dict[tuple[str, str], LoadedPlugin] = {}
        core = LoadedPlugin(builtin, "roomcast", "core")
        for type in COMMANDS:
            self._owners["command", type] = core
        for type in FRAMES:
            self._owners["event", type] = core
        for plugin in (core, *loaded):
            self._add(plugin)
        self._check_variables()
        for plugin in self:
            self._check_room_types(plugin)
            self._check_allowed_commands(plugin)
        #: All hooks, in the order in which those of one kind and target run.
        self.declared_hooks: Final[list[Hook]] = sorted(
            (hook for loaded in self for hook in loaded.plugin.hooks), key=lambda hook: hook.order
        )
        #: The hooks that are called, in the order in which those of one kind and target run. See ``activate``.
        self.hooks: list[Hook] = [hook for hook in self.declared_hooks if hook.condition is None]
        self._check_hooks()
        kinds = [event for event in self.events.values() if event.unread]
        #: The types of rooms that can have events which count as unread.
        self.message_rooms: frozenset[str] = frozenset(
            type for type in self.rooms if any(type in event.rooms or not event.rooms for event in kinds)
        )

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
            for name in (event.type, event.validator.schema.__class__):
                self._event_lookup[name] = event
                if event.is_stored:
                    self.stored_events[name] = event

    def _check_variables(self) -> None:
        """Raise ``PluginError`` if a setting of a plugin has the variable of another setting."""
        owners = dict.fromkeys((*(variable.name for variable in describe()), *file_variables()), "roomcast itself")
        for loaded in self:
            for one in loaded.plugin.settings.settings if loaded.plugin.settings is not None else ():
                for variable in one.variables:
                    of_rooms = "the options of room types" if variable.startswith("ROOM_") else None
                    owner = of_rooms or owners.setdefault(variable, loaded.source)
                    if owner != loaded.source:
                        raise PluginError(
                            f"setting {one.field!r} of plugin {loaded.plugin.name!r} ({loaded.source}) has the "
                            f"variable {variable}, which belongs to {owner}. Give it another name."
                        )

    def _check_room_types(self, loaded: LoadedPlugin) -> None:
        """Raise ``PluginError`` if an event is limited to a room type that no plugin declares."""
        for event in loaded.plugin.events.values():
            for type in event.rooms:
                if type not in self.rooms:
                    raise PluginError(
                        f"event {event.type!r} of plugin {loaded.plugin.name!r} ({loaded.source}) goes to rooms of "
                        f"type {type!r}, and no plugin declares one. Correct its name, or install the plugin that has "
                        f"it.{did_you_mean(type, self.rooms)}"
                    )

    def _check_allowed_commands(self, loaded: LoadedPlugin) -> None:
        """Raise ``PluginError`` if a room type allows a command that no plugin declares."""
        for room in loaded.plugin.rooms.values():
            if problem := unknown_command(room.options.commands or (), self.commands):
                where = f"room type {room.type!r} of plugin {loaded.plugin.name!r} ({loaded.source})"
                raise PluginError(f"{where} has options for its commands, but {problem}")

    def _check_hooks(self) -> None:
        """Raise ``PluginError`` for a hook that cannot be called."""
        for hook in self.declared_hooks:
            check_target(hook, self.commands, self.events, self.rooms)
        self._mark_events()

    def activate(self, settings: Settings) -> None:
        """Select the hooks that are called with ``settings``: those whose condition holds, with all their targets."""
        own, options = self.plugin_settings(settings), self.room_options(settings)
        selected = [
            hook for hook in self.declared_hooks if hook.condition is None or hook.condition(own.get(hook.plugin))
        ]
        self.hooks = [one for hook in selected for one in expand(hook, self.events, options)]
        self._mark_events()

    def _mark_events(self) -> None:
        """Set ``has_hooks`` of the events that have hooks."""
        types = {hook.target for hook in self.hooks if hook.kind in ("before_publish", "after_publish")}
        for type, known in list(self.events.items()):
            if known.has_hooks == (type in types):
                continue
            event = self.events[type] = known._replace(has_hooks=type in types)
            for name in (type, event.validator.schema.__class__):
                if self._event_lookup[name].type == type:
                    self._event_lookup[name] = event
                if name in self.stored_events and self.stored_events[name].type == type:
                    self.stored_events[name] = event

    def hooks_of(self, kind: HookKind, target: str = "") -> tuple[Hook, ...]:
        """Return the hooks of one kind for one target, in the order in which they run."""
        return tuple(hook for hook in self.hooks if hook.kind == kind and hook.target == target)

    def room_options(self, settings: Settings) -> dict[str, EffectiveOptions]:
        """Return the options of each room type; raise ``SettingsError`` if a variable for one is wrong."""
        declared = {room.type: room.options for room in self.rooms.values()}
        options = effective_options(declared, self.commands, settings)
        check_presence(self.hooks, options)
        return options

    def plugin_settings(self, settings: Settings) -> dict[str, Any]:
        """Return the settings of each plugin that declares some, by its name; raise ``SettingsError``."""
        return {
            loaded.plugin.name: loaded.plugin.settings.read(settings.plugin_variables)
            for loaded in self
            if loaded.plugin.settings is not None
        }

    def owner(self, kind: str, type: str) -> str:
        """Return the name of the plugin that declares ``type``; ``kind`` is ``command``, ``event`` or ``room type``."""
        return self._owners[kind, type].plugin.name

    def event(self, event: str | type[Schema]) -> EventType:
        """Return the declaration of an event, given its type or its schema; raise ``InvalidEvent`` if there is none."""
        found = self._event_lookup.get(event)
        if found is None:
            if isinstance(event, str):
                hint = did_you_mean(event, self.events)
                sentence = f"No plugin declares an event {event[:60]!r}; `roomcast plugins` lists them.{hint}"
            else:
                sentence = (
                    f'No event has the schema {event.__name__}; decorate the class with @plugin.event("its.type").'
                )
            raise InvalidEvent("unknown_type", sentence)
        return found

    def stored_event(self, event: str | type[Schema]) -> EventType:
        """Return the declaration of an event that is published and stored. Raises ``InvalidEvent``."""
        if (found := self.stored_events.get(event)) is not None:
            return found
        kind = self.event(event)
        if kind.live is not None:
            sentence = f"{kind.type} is declared with stored=False: send it with broadcast, not with publish."
        else:
            sentence = f"{kind.type} is announced by roomcast itself and cannot be published."
        raise InvalidEvent("unknown_type", sentence)

    def live_event(self, event: str | type[Schema]) -> EventType:
        """Return the declaration of an event that is not stored. Raises ``InvalidEvent``."""
        kind = self.event(event)
        if kind.live is None:
            sentence = f"{kind.type} is not declared with stored=False: send it with publish, not with broadcast."
            raise InvalidEvent("unknown_type", sentence)
        return kind

    def room(self, room: str) -> RoomType:
        """Return the declaration of the type of ``room``, a valid room name; raise ``Refused`` if there is none."""
        found = self.rooms.get(room[: room.index(":")])
        if found is None:
            types = ", ".join(sorted(self.rooms))
            hint = did_you_mean(room[: room.index(":")], self.rooms)
            raise Refused("unknown_room_type", f"No plugin declares rooms like {room!r}; there are: {types}.{hint}")
        return found

    def __iter__(self) -> Iterator[LoadedPlugin]:
        return iter(self.plugins.values())


def _conflict(kind: str, type: str, first: LoadedPlugin, second: LoadedPlugin) -> str:
    remedy = "Give it another name." if first.plugin is builtin else "Rename one, or uninstall its package."
    return (
        f"{kind} {type!r} is declared twice: by plugin {first.plugin.name!r} ({first.source}) and by plugin "
        f"{second.plugin.name!r} ({second.source}). {remedy}"
    )


def load(points: Iterable[EntryPoint] | None = None, *, names: Sequence[str] = ()) -> Registry:
    """Return a registry of the plugins at ``points``, by default of all installed plugins; raise ``PluginError``.

    With ``names``, the setting ``PLUGINS``, only the plugins with these entry points are imported, in this order.
    Raises ``SettingsError`` if there is none of a name.
    """
    return Registry(installed(points, names=names))


def installed(points: Iterable[EntryPoint] | None = None, *, names: Sequence[str] = ()) -> list[LoadedPlugin]:
    """Import the plugins like ``load``, built-in ones first, without checking that their declarations are unique."""
    found = sorted(entry_points(group=GROUP) if points is None else points, key=_built_in_first)
    return [_import(point) for point in (_select(found, names) if names else found)]


def _select(points: Sequence[EntryPoint], names: Sequence[str]) -> list[EntryPoint]:
    """Return the points with ``names``, in the order of the names. Raises ``SettingsError``."""
    selected = []
    for name in dict.fromkeys(names):
        if name == builtin.name:
            raise SettingsError(f"PLUGINS has {name!r}, which is roomcast itself and always loaded; leave it out.")
        matching = [point for point in points if point.name == name]
        if not matching:
            hint = suggestion(name, {point.name for point in points}, "the installed plugins")
            raise SettingsError(f"PLUGINS has {show(name)}, but no installed package has such a plugin; {hint}")
        selected += matching
    return selected


def _built_in_first(point: EntryPoint) -> tuple[bool, str]:
    return (not point.value.startswith("roomcast."), point.name)


def _import(point: EntryPoint) -> LoadedPlugin:
    if point.dist is not None:
        distribution, entry_point = f"{point.dist.name} {point.dist.version}", point.name
        where = f"plugin from package {distribution!r}, entry point {entry_point!r} ({point.value})"
    else:
        distribution, entry_point = f"{point.value}, which is not installed", ""
        where = f"plugin {point.value}"
    try:
        plugin: Any = point.load()
    except PluginError as error:
        raise PluginError(f"{where}: {str(error).rstrip('.')}.") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": .")
        raise PluginError(f"{where} could not be imported: {reason}.{_plugins_of(point)}") from error
    if not isinstance(plugin, Plugin):
        raise PluginError(f"{where} is a {type(plugin).__name__}, not a roomcast.Plugin.")
    plugin.description = plugin.description or _first_line(sys.modules[point.module].__doc__)
    return LoadedPlugin(plugin, distribution, entry_point)


def _plugins_of(point: EntryPoint) -> str:
    """Return a sentence that names the plugins in a module, if it was imported and has no attribute of the name."""
    module = sys.modules.get(point.module)
    if module is None or hasattr(module, point.attr):
        return ""
    names = [name for name, value in vars(module).items() if isinstance(value, Plugin)]
    return f" The module has the plugin {' and '.join(f'{point.module}:{name}' for name in names)}." if names else ""


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip()
