"""The settings of a plugin: a dataclass whose fields are read from environment variables.

::

    @dataclass(frozen=True)
    class DeploySettings:
        builds_url: str = setting("URL of the build server")
        retries: int = setting("How often a build is tried again", default=3, minimum=0)

    deploy = Plugin("deploy", settings=DeploySettings)

The variables are ``DEPLOY_BUILDS_URL`` and ``DEPLOY_RETRIES``. The types of the fields are checked here and by type
checkers, and the words are what ``roomcast plugins`` and error messages show.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from .errors import PluginError, SettingsError
from .secret_files import FILE_SUFFIX
from .setting_fields import Environ, Variable, read_value, shown_default
from .setting_rules import Rule, show

#: The annotations of fields, and the kinds of their rules.
_KINDS: Final[dict[Any, str]] = {str: "str", int: "int", float: "float", bool: "bool", tuple[str, ...]: "list"}
_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **{"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "list": (tuple,)}
}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*\Z")


def setting(
    meaning: str,
    *,
    default: Any = MISSING,
    unit: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """Declare a field of a plugin's settings, in a dataclass. Its annotation is the type of the value.

    Args:
        meaning: What the setting does, for operators.
        default: The value if the variable is not set. Without a default, the server does not start until it is set.
        unit: The unit of the value, such as ``s``.
        minimum: The least value allowed.
        above: A value that must be exceeded.
        maximum: The greatest value allowed.
        choices: The only texts allowed.
        secret: If True, the value is never shown, and the variable with ``_FILE`` at the end may name a file with it.

    Annotations are ``str``, ``int``, ``float``, ``bool``, ``tuple[str, ...]`` for a list with commas, or one of them
    with ``| None``.
    """
    rule = Rule("", meaning, unit, minimum, above, tuple(choices), secret, maximum)
    if default is MISSING:
        return field(repr=not secret, metadata={"rule": rule})
    return field(default=default, repr=not secret, metadata={"rule": rule})


class PluginSetting(NamedTuple):
    """One setting of a plugin: the ``field``, its ``variable`` and its rule. ``default`` may be ``MISSING``."""

    field: str
    variable: str
    rule: Rule
    default: Any

    @property
    def is_required(self) -> bool:
        """True if the server does not start without it."""
        return self.default is MISSING

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that set it: a secret may be in a file."""
        return (self.variable, self.variable + FILE_SUFFIX) if self.rule.is_secret else (self.variable,)

    def describe(self) -> Variable:
        """Return the row of a table of settings."""
        default = "" if self.is_required or self.rule.is_secret else shown_default(self.default)
        return Variable(self.variable, default, self.rule.unit, self.rule.meaning)

    def read(self, env: Environ, plugin: str) -> Any:
        """Return the value; raise ``SettingsError``."""
        value = read_value(env, self.variable, self.rule)
        if value is None:
            if self.is_required:
                meaning = self.rule.meaning.rstrip(".")
                raise SettingsError(f"{self.variable} is not set, and plugin {plugin!r} needs it: {meaning}.")
            return self.default
        if not self.rule.allows(value):
            raise self.rule.refusal(self.variable, value)
        return value


class PluginSettings(NamedTuple):
    """The settings of one plugin: their class, and the settings in the order of its fields."""

    plugin: str
    cls: type
    settings: tuple[PluginSetting, ...]

    def read(self, variables: Mapping[str, str], warn: Callable[[str], object] = lambda sentence: None) -> Any:
        """Return an instance with the values of ``variables``; raise ``SettingsError``.

        ``warn`` is called with the text of each warning of the class (``warnings.warn``): a value works, but is risky.
        """
        env = Environ(variables)
        values = {one.field: one.read(env, self.plugin) for one in self.settings}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                instance = self.cls(**values)
            except ValueError as error:
                reason = str(error).rstrip(".")
                raise SettingsError(f"The settings of plugin {self.plugin!r} are wrong: {reason}.") from error
        for one in found:
            warn(str(one.message))
        return instance


def declared_settings(plugin: str, cls: Any) -> PluginSettings:
    """Return the settings that the class declares for a plugin; raise ``PluginError`` if it cannot be used."""
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise PluginError(
            f"the settings of plugin {plugin!r} must be a class with @dataclass(frozen=True), not {cls!r}"
        )
    try:
        types = get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"the settings of plugin {plugin!r} have an annotation with an unknown name: {error}"
        ) from None
    return PluginSettings(plugin, cls, tuple(_declared(plugin, item, types[item.name]) for item in fields(cls)))


def _declared(plugin: str, item: Field[Any], annotation: Any) -> PluginSetting:
    what = f"setting {item.name!r} of plugin {plugin!r}"
    rule = item.metadata.get("rule")
    if not isinstance(rule, Rule):
        raise PluginError(f'{what} must be declared with setting("what it does"), so that operators know what it does')
    if not _NAME.match(item.name):
        raise PluginError(f"{what} must have a lower-case name; its variable has the name in upper case")
    kind, is_optional = _kind_of(annotation)
    if kind is None:
        raise PluginError(f"{what} has the type {annotation}; it must be str, int, float, bool or tuple[str, ...]")
    rule = rule._replace(kind=kind)
    default = item.default
    if default is None and not is_optional:
        raise PluginError(f"{what} has the default None, but not the type `{annotation.__name__} | None`")
    if default is not MISSING and default is not None and not _is_valid(rule, default):
        raise PluginError(f"{what} has the default {show(default)}; it must be {rule.expected}")
    return PluginSetting(item.name, f"{plugin}_{item.name}".upper(), rule, default)


def _kind_of(annotation: Any) -> tuple[str | None, bool]:
    """Return the kind of a field, None if its type cannot be used, and True if it may be None."""
    if get_origin(annotation) in (Union, UnionType):
        others = [one for one in get_args(annotation) if one is not NoneType]
        if len(others) == 1:
            return _KINDS.get(others[0]), True
        return None, True
    return (_KINDS.get(annotation) if isinstance(annotation, type) or get_origin(annotation) is tuple else None), False


def _is_valid(rule: Rule, value: Any) -> bool:
    is_bool = isinstance(value, bool)
    return isinstance(value, _PYTHON_TYPES[rule.kind]) and is_bool is (rule.kind == "bool") and rule.allows(value)
