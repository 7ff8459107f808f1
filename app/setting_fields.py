"""The fields of ``Settings``: how one is declared, described for the documentation, and read from its variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any, NamedTuple

from environs import Env, EnvValidationError

from .secret_files import read_secret
from .setting_rules import Rule, split_values


class Variable(NamedTuple):
    """A row of the table of settings. ``default`` is empty if there is none, ``unit`` if the value has none."""

    name: str
    default: str
    unit: str
    meaning: str


def setting(default: Any, kind: str, meaning: str, **rule: Any) -> Any:
    """Declare a field that is read from the variable of the same name. ``rule`` are further arguments of ``Rule``."""
    return field(default=default, metadata={"rule": Rule(kind, meaning, **rule)})


def rule_of(item: Field[Any]) -> Rule:
    """Return the rule of a field that ``setting`` declared."""
    rule: Rule = item.metadata["rule"]
    return rule


def variables(settings: type) -> list[Field[Any]]:
    """Return the fields of the dataclass ``settings`` that have a variable of their own."""
    return [item for item in fields(settings) if "rule" in item.metadata]


def describe_field(item: Field[Any]) -> Variable:
    """Return the row of a field in the table of settings."""
    rule = rule_of(item)
    return Variable(item.name.upper(), shown_default(item.default), rule.unit, rule.meaning)


def shown_default(value: Any) -> str:
    """Return a default as an operator would write it, or an empty string for None."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class Environ(Env):
    """The parser of environs for a given mapping instead of ``os.environ``, without its empty values."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self.environ = self._environ = {name: value for name, value in environ.items() if value.strip()}

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._environ.get(env_key, default)


def read_field(env: Environ, item: Field[Any]) -> Any:
    """Return the value of a field's variable, or None if the variable is not set. Raises ``SettingsError``."""
    return read_value(env, item.name.upper(), rule_of(item))


def read_value(env: Environ, name: str, rule: Rule) -> Any:
    """Return the value of the variable ``name``, or of the file with the secret, or None if it is not set.

    Checks no bounds. Raises ``SettingsError`` if the value has another type than ``rule`` says.
    """
    if rule.is_secret:
        secret = read_secret(name, env.environ)
        return split_values(secret) if secret is not None and rule.kind == "list" else secret
    return read_variable(env, name, rule)


def read_variable(env: Environ, name: str, rule: Rule) -> Any:
    """Return the value of the variable ``name``, which is no secret, or None if it is not set. Checks no bounds.

    Raises ``SettingsError`` if the value has another type than ``rule`` says.
    """
    try:
        if rule.kind == "list":
            parts = env.list(name, None, subcast=str)
            return parts and tuple(part.strip() for part in parts if part.strip())
        value = getattr(env, rule.kind)(name, None)
    except EnvValidationError as error:
        raise rule.refusal(name, env.str(name)) from error
    if value is not None and rule.kind == "str":
        value = value.strip()
    return value.lower() if value is not None and rule.choices else value
