"""Checks that the hooks of all plugins have a target: a command, an event or a room type that a plugin declares."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from .builtin_events import COMMANDS
from .declarations import Command, EventType, RoomType
from .errors import PluginError, SettingsError
from .plugin_hooks import ANY, KINDS, Hook
from .room_options import PERSONAL, EffectiveOptions


def check_target(
    hook: Hook, commands: Mapping[str, Command], events: Mapping[str, EventType], rooms: Mapping[str, RoomType]
) -> None:
    """Raise ``PluginError`` if ``hook`` cannot be called: no plugin declares its target, or that has no such hooks."""
    what = KINDS[hook.kind][1]
    declared: dict[str, Collection[str]] = {"command": commands, "event": events, "room type": rooms}
    target = hook.target
    if not what or (target == ANY and hook.kind in ("on_join", "on_leave", "after_publish")):
        return
    problem = None
    if what == "command" and target in COMMANDS:
        problem = f"{target} is a command of roomcast itself, which has no hooks"
    elif target not in declared[what]:
        problem = f"no plugin declares the {what} {target!r}{_suggestion(target, declared[what])}"
    elif what == "event" and events[target].published_by_core:
        problem = f"{target} is announced by roomcast itself; use on_join or on_leave"
    elif what == "event" and events[target].live is not None:
        problem = f"{target} is declared with stored=False, and only stored events have hooks"
    elif what == "room type" and target == PERSONAL:
        problem = "users do not join their personal room; use on_online and on_offline"
    elif what == "room type" and rooms[target].options.presence is False:
        problem = f"rooms of type {target} are declared with presence=False, so their members are not known"
    if problem is not None:
        raise PluginError(f"{hook} cannot be called: {problem}{'' if problem.endswith('?') else '.'}")


def expand(hook: Hook, events: Mapping[str, EventType], options: Mapping[str, EffectiveOptions]) -> Iterable[Hook]:
    """Return ``hook``, or one for each target if it is for all of them."""
    if hook.target != ANY:
        return (hook,)
    if KINDS[hook.kind][1] == "event":
        targets = [type for type, event in events.items() if event.is_stored]
    else:
        targets = [type for type, one in options.items() if one.presence and type != PERSONAL]
    return (hook._replace(target=target) for target in targets)


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_presence(hooks: Iterable[Hook], options: Mapping[str, EffectiveOptions]) -> None:
    """Raise ``SettingsError`` if a variable turns off the presence of a room type that has hooks for it."""
    for hook in hooks:
        if KINDS[hook.kind][1] == "room type" and hook.target != ANY and not options[hook.target].presence:
            variable = f"ROOM_{hook.target.upper()}_PRESENCE"
            raise SettingsError(f"{variable} must not be false: the {hook} needs the members of these rooms.")
