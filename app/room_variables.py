"""The variables that override the options of a room type: ``ROOM_<TYPE>_<OPTION>``, like ``ROOM_CHANNEL_HISTORY_TTL``.

They are checked when the plugins are loaded, because only the plugins know the room types and the commands. Other
variables that begin with ``ROOM_`` belong to other programs, unless they name a room type.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from .errors import SettingsError
from .room_options import (
    PERSONAL,
    RULES,
    EffectiveOptions,
    RoomOptions,
    allowed_commands,
    unknown_command,
)
from .setting_fields import Environ, read_variable
from .setting_rules import show
from .settings import Settings, describe, file_variables
from .suggestions import suggestion

#: The settings whose values room types have by default.
DEFAULTS: Final = ("HISTORY_SIZE", "HISTORY_TTL", "ANNOUNCE_MAX")
#: ``Settings`` requires a secret, which does not matter for room types.
_ANY_SECRET: Final = "x" * 32
_SETTINGS: Final = frozenset((*(variable.name for variable in describe()), *file_variables()))
_PREFIX: Final = "ROOM_"
_OPTIONS: Final = [name.upper() for name in RULES]
_PERSONAL_OPTIONS: Final = ("history_size", "history_ttl")
#: The value that allows no command. An empty variable counts as not set.
_NO_COMMANDS: Final = ("none",)
#: The variables with which Kubernetes and Docker describe a service, such as one that is named ``room-channel``.
_OF_A_SERVICE: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)\Z")


def settings_for_plugins(environ: Mapping[str, str]) -> Settings:
    """Return settings with those variables of ``environ`` that matter for plugins and room types.

    For commands that load the plugins without the settings of a server. Raises ``SettingsError``.
    """
    others = {name: value for name, value in environ.items() if name not in _SETTINGS}
    named = {name: environ[name] for name in (*DEFAULTS, "PLUGINS") if name in environ}
    return Settings.from_env({**others, **named}, jwt_secret=_ANY_SECRET)


def variable_names(types: Collection[str]) -> Iterator[str]:
    """Yield the names of all variables for these room types."""
    for type in types:
        for option in _PERSONAL_OPTIONS if type == PERSONAL else RULES:
            yield _name(type, option)


def effective_options(
    declared: Mapping[str, RoomOptions], commands: Collection[str], settings: Settings
) -> dict[str, EffectiveOptions]:
    """Return the options of each room type: those of the variables, then the declared ones, then the settings.

    ``declared`` are the options that the plugins declare for their room types, ``commands`` all commands of plugins.
    Raises ``SettingsError`` with one sentence if a variable is wrong or contradicts another option.
    """
    overrides: dict[str, dict[str, Any]] = {type: {} for type in declared}
    env = Environ(settings.room_variables)
    by_name = {type.upper(): type for type in declared}
    for variable in sorted(env.environ):
        found = _parse_name(variable, by_name, env.environ[variable])
        if found is not None:
            type, option = found
            overrides[type][option] = _read(env, variable, type, option, commands)
    return {type: _combine(type, options, overrides[type], commands, settings) for type, options in declared.items()}


def _name(type: str, option: str) -> str:
    return f"{_PREFIX}{type}_{option}".upper()


def _parse_name(variable: str, types: Mapping[str, str], value: str) -> tuple[str, str] | None:
    """Return the room type and the option in the name of a variable, or None if it belongs to another program.

    ``types`` are the room types by their names in variables.
    """
    rest = variable.removeprefix(_PREFIX)
    for option in _OPTIONS:
        if rest == option:
            example = _name(next((type for type in types.values() if type != PERSONAL), PERSONAL), option)
            raise SettingsError(f"{variable} is {show(value)}, but names no room type; write it like {example}.")
        if rest.endswith(f"_{option}"):
            type = rest.removesuffix(f"_{option}")
            if type not in types:
                hint = suggestion(type, types, "the room types, in upper case,", f"{_PREFIX}{{}}_{option}")
                raise SettingsError(
                    f"{variable} is {show(value)}, but no plugin declares a room type {show(type.lower())}; {hint}"
                )
            return types[type], option.lower()
    # The longest one, because the name of a room type may begin with that of another.
    owner = max((type for type in types if rest.startswith(f"{type}_")), key=len, default=None)
    if owner is None or _OF_A_SERVICE.search(variable):
        return None
    option = rest.removeprefix(f"{owner}_")
    hint = suggestion(option, _OPTIONS, "the options", f"{_PREFIX}{owner}_{{}}")
    # The variable may be a secret of another program, unless its name is similar to an option.
    shown = f"is {show(value)}" if hint.startswith("did") else "is set"
    raise SettingsError(f"{variable} {shown}, but room types have no option {option}; {hint}")


def _read(env: Environ, variable: str, type: str, option: str, commands: Collection[str]) -> Any:
    """Return the value of a variable. Raises ``SettingsError`` if it is out of bounds or not an option of ``type``."""
    rule, text = RULES[option], env.environ[variable]
    if type == PERSONAL and option not in _PERSONAL_OPTIONS:
        raise SettingsError(
            f"{variable} is {show(text)}, but clients cannot join personal rooms, so they have only the options "
            "HISTORY_SIZE and HISTORY_TTL; unset it."
        )
    value = read_variable(env, variable, rule)
    if option == "commands":
        if not value:
            raise SettingsError(f"{variable} is {show(text)}; it must be commands, separated by commas, or none.")
        value = () if value == _NO_COMMANDS else value
        if problem := unknown_command(value, commands):
            raise SettingsError(f"{variable} is {show(text)}, but {problem}")
    elif not rule.allows(value):
        raise rule.refusal(variable, value)
    return value


def _combine(
    type: str, declared: RoomOptions, overrides: dict[str, Any], commands: Collection[str], settings: Settings
) -> EffectiveOptions:
    given = declared._replace(**overrides)
    size = settings.history_size if given.history_size is None else given.history_size
    ttl = settings.history_ttl if given.history_ttl is None else given.history_ttl
    announce_max = settings.announce_max if given.announce_max is None else given.announce_max
    has_presence = type != PERSONAL and given.presence is not False
    if "history_ttl" in overrides and not size:
        _refuse(type, "history_ttl", ttl, "history_size", "keep no history", "1 or more", overrides)
    if "announce_max" in overrides and not has_presence:
        _refuse(type, "announce_max", announce_max, "presence", "have no presence", "true", overrides)
    allowed = None if given.commands is None else allowed_commands(given.commands, commands)
    variables = tuple(_name(type, option) for option in RULES if option in overrides)
    return EffectiveOptions(size, ttl, has_presence, announce_max, allowed, given, variables)


def _refuse(
    type: str, option: str, value: float, other: str, why: str, wanted: str, overrides: Mapping[str, Any]
) -> None:
    """Raise ``SettingsError``: the variable of ``option`` has no effect because of the option ``other``."""
    variable = _name(type, other)
    source = f" because of {variable}" if other in overrides else ""
    raise SettingsError(
        f"{_name(type, option)} is {value:g}, but {type} rooms {why}{source}; unset it, or set {variable} to {wanted}."
    )
