"""The options of a room type: the history and the presence of its rooms, and the commands that clients may send there.

A plugin declares options with ``Plugin.room``. Variables like ``ROOM_CHANNEL_HISTORY_SIZE`` override them (see
``room_variables``). An option that neither of them sets has the value of the setting for all rooms.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from .setting_rules import Rule, show
from .suggestions import suggestion

#: The type of the users' personal rooms. Clients cannot join them, so they have options for their history only.
PERSONAL: Final = "user"
#: A greater number is a mistake. Redis refuses an expiry that is later than it can represent.
_MAX: Final = 1_000_000_000
#: A command, all commands that begin with a word and a dot, or all commands.
_COMMAND_PATTERN: Final = re.compile(r"\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?")


class RoomOptions(NamedTuple):
    """The options that a plugin declares, or that variables set. None means not set.

    ``history_size`` is the number of events that a room keeps, 0 for none, and ``history_ttl`` how long, in seconds.
    ``presence`` is False for rooms that have no members to announce or to list. Joins are not announced in rooms of
    more than ``announce_max`` users. ``commands`` are the commands of plugins that clients may send, as names or as
    patterns like ``poll.*``.
    """

    history_size: int | None = None
    history_ttl: float | None = None
    presence: bool | None = None
    announce_max: int | None = None
    commands: tuple[str, ...] | None = None


class EffectiveOptions(NamedTuple):
    """The options of a room type on a server, as in ``RoomOptions``, with the settings where nothing else is set.

    ``commands`` are all commands of plugins that clients may send, or None if there is no limit. ``given`` are the
    options that the plugin or a variable sets, and ``variables`` are the names of these variables.
    """

    history_size: int
    history_ttl: float
    presence: bool
    announce_max: int
    commands: frozenset[str] | None = None
    given: RoomOptions = RoomOptions()
    variables: tuple[str, ...] = ()


#: The bounds of each option, with the same order and names as in ``RoomOptions``.
RULES: Final[dict[str, Rule]] = {
    "history_size": Rule("int", "Number of events that such a room keeps; 0 keeps none", minimum=0, maximum=_MAX),
    "history_ttl": Rule("float", "How long such a room keeps an event", unit="s", above=0, maximum=_MAX),
    "presence": Rule("bool", "Announce who joins and leaves such a room, and list its members"),
    "announce_max": Rule(
        "int", "Number of users in such a room above which joins are not announced", minimum=0, maximum=_MAX
    ),
    "commands": Rule("list", "Commands of plugins that clients may send in such a room; none allows no command"),
}
#: Between a number and its unit, so that they stay in one line.
_SPACE: Final = "\u00a0"
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {"int": int, "float": (int, float), "bool": bool}


def check_declared(type: str, options: RoomOptions) -> str | None:
    """Return what is wrong with the options that a plugin declares for a room type, as a clause, or None."""
    for name, rule in RULES.items():
        value = getattr(options, name)
        if value is None:
            continue
        if name == "commands":
            if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
                return f"commands is {show(value)}; it must be a tuple like ('send_message', 'poll.*')"
            if bad := [one for one in value if not _COMMAND_PATTERN.fullmatch(one)]:
                return f"commands has {show(bad[0])}, which is neither a command nor a pattern like 'poll.*'"
        elif not _has_type(value, rule) or not rule.allows(value):
            return f"{name} is {show(value)}; it must be {rule.expected}"
    if type == PERSONAL and (options.presence, options.announce_max, options.commands) != (None, None, None):
        return "personal rooms have no options but history_size and history_ttl; remove the others"
    if options.history_size == 0 and options.history_ttl is not None:
        return f"history_ttl is {options.history_ttl:g}, but history_size is 0; remove one of them"
    if options.presence is False and options.announce_max is not None:
        return f"announce_max is {options.announce_max}, but presence is False; remove one of them"
    return None


def _has_type(value: Any, rule: Rule) -> bool:
    return isinstance(value, _TYPES[rule.kind]) and isinstance(value, bool) is (rule.kind == "bool")


def allowed_commands(patterns: Iterable[str], commands: Collection[str]) -> frozenset[str]:
    """Return those of ``commands`` that one of ``patterns`` allows."""
    return frozenset().union(*(_matching(pattern, commands) for pattern in patterns))


def unknown_command(patterns: Iterable[str], commands: Collection[str]) -> str | None:
    """Return a clause about the first one of ``patterns`` that allows none of ``commands``, or None."""
    for pattern in patterns:
        if not _matching(pattern, commands):
            return f"no plugin declares a command {show(pattern)}; {suggestion(pattern, commands, 'the commands')}"
    return None


def _matching(pattern: str, commands: Collection[str]) -> frozenset[str]:
    if pattern == "*":
        return frozenset(commands)
    if pattern.endswith(".*"):
        return frozenset(command for command in commands if command.startswith(pattern[:-1]))
    return frozenset(commands) & {pattern}


def shown(options: EffectiveOptions, type: str) -> dict[str, Any]:
    """Return the options as documents name them. ``commands`` is absent if there is no limit."""
    values: dict[str, Any] = {"history_size": options.history_size}
    if options.history_size:
        values["history_ttl"] = options.history_ttl
    if type != PERSONAL:
        values["presence"] = options.presence
        if options.presence:
            values["announce_max"] = options.announce_max
        if options.commands is not None:
            values["commands"] = sorted(options.commands)
    return values


def in_words(options: EffectiveOptions, type: str) -> dict[str, str]:
    """Return the history, the presence and the allowed commands of a room type in words, for people."""
    values = shown(options, type)
    if options.history_size:
        events = f"{options.history_size:,}{_SPACE}{'event' if options.history_size == 1 else 'events'}"
        history = f"{events} for {duration(options.history_ttl)}"
    else:
        history = "none"
    if type == PERSONAL:
        return {"history": history, "presence": "none", "commands": "none"}
    presence = "none"
    if options.presence:
        limit = options.announce_max
        presence = f"joins are announced up to {limit:,}{_SPACE}users" if limit else "joins are not announced"
    commands = "all" if options.commands is None else ", ".join(values["commands"]) or "none"
    return {"history": history, "presence": presence, "commands": commands}


def duration(seconds: float) -> str:
    """Return a time in the largest unit in which it is a whole number, like ``90 min``. Its space does not break."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            unit = "day" if seconds == 86400 else unit
            return f"{seconds / size:,.12g}{_SPACE}{unit}"
    return f"{seconds:g}{_SPACE}s"
