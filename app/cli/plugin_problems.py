"""The problems of a plugin that ``roomcast plugin check`` reports."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final, NamedTuple

from marshmallow import Schema, fields, validate

from .. import registry
from ..errors import PluginError
from ..plugin import Plugin
from ..specs.publishable import check_schemas
from .blocking_calls import find_blocking_calls
from .checks.finding import FAIL, WARN
from .unawaited_calls import find_unawaited_calls

#: The folders and names in which tests are looked for.
_TESTS: Final = ("test_*.py", "*_test.py", "tests/**/test_*.py", "tests/**/*_test.py")


class Problem(NamedTuple):
    """One problem. ``level`` is FAIL or WARN; ``file`` and ``line`` are None if it is in no single place."""

    level: str
    sentence: str
    file: str | None = None
    line: int | None = None

    @property
    def text(self) -> str:
        """The problem with its place, in one line."""
        place = "" if self.file is None else f"{self.file}: " if self.line is None else f"{self.file}:{self.line}: "
        return place + self.sentence


def problems_of_project(root: Path, points: list[EntryPoint]) -> list[Problem]:
    """Return the problems of the package in ``root``, apart from its plugins."""
    if any(next(root.glob(pattern), None) is not None for pattern in _TESTS):
        return []
    return [Problem(WARN, "There are no tests; docs/testing.md shows how to write them with roomcast.testing.")]


def problems_of(point: EntryPoint) -> list[Problem]:
    """Return the problems of the plugin at ``point``, loaded with all installed ones."""
    # The source is read first: a module that blocks may also fail to import.
    problems: list[Problem] = []
    try:
        (loaded,) = registry.installed([point])
        others = [one for one in registry.installed() if one.plugin is not loaded.plugin]
        check_schemas(registry.Registry([*others, loaded]))
    except PluginError as error:
        cause = error.__cause__
        if isinstance(cause, SyntaxError):
            return [Problem(FAIL, f"{cause.msg}.", _shown(cause.filename), cause.lineno)]
        return [Problem(FAIL, str(error))]
    problems += _wrong_calls(point)
    problems += _missing_descriptions(loaded.plugin)
    problems += _unlimited_fields(loaded.plugin)
    return problems


def _sources(point: EntryPoint) -> Iterator[Path]:
    """Yield the files of the package of a plugin, or its module if it is in no package."""
    package = point.module.partition(".")[0]
    file = getattr(sys.modules[package], "__file__", None)
    if file is None:
        return
    path = Path(file)
    if path.name == "__init__.py" and package != "roomcast":
        yield from sorted(path.parent.rglob("*.py"))
    else:
        yield Path(sys.modules[point.module].__file__ or file)


def _wrong_calls(point: EntryPoint) -> Iterator[Problem]:
    """Yield the calls that block the event loop, and those that are not awaited."""
    for path in _sources(point):
        source = path.read_text(encoding="utf-8")
        for call in find_blocking_calls(source):
            sentence = f"async def {call.function} calls {call.name}, which blocks all clients; use {call.instead}."
            yield Problem(FAIL, sentence, _shown(str(path)), call.line)
        for unawaited in find_unawaited_calls(source):
            sentence = f"{unawaited.function} calls {unawaited.name} without waiting, so nothing happens; write "
            yield Problem(FAIL, f"{sentence}{unawaited.instead}.", _shown(str(path)), unawaited.line)


def _missing_descriptions(plugin: Plugin) -> Iterator[Problem]:
    """Yield what ``/docs`` would show without a description."""
    if not plugin.description:
        yield Problem(WARN, f"The plugin {plugin.name!r} has no description: give its module a docstring.")
    for event in plugin.events.values():
        if not event.description:
            yield _at(event.validator.schema.__class__, f"The event {event.type!r} has no description")
    for command in plugin.commands.values():
        if not command.description:
            yield _at(command.handler, f"The command {command.type!r} has no description")
        schema = command.validator.schema.__class__
        if not schema.__dict__.get("__doc__"):
            yield _at(schema, f"The schema of the command {command.type!r} has no description")
    for room in plugin.rooms.values():
        if not room.description:
            yield _at(room.rule, f"The room type {room.type!r} has no description")
    for hook in plugin.hooks:
        if not hook.function.__doc__:
            yield _at(hook.function, f"The {hook} has no description")


def _at(declared: Any, sentence: str) -> Problem:
    """Return the problem that ``declared``, a function or a class, lacks a docstring."""
    if declared is None:
        return Problem(WARN, f"{sentence}: give `description`.")
    declared = inspect.unwrap(declared)
    try:
        file, (_, line) = inspect.getsourcefile(declared), inspect.getsourcelines(declared)
    except (OSError, TypeError):
        file, line = None, None
    return Problem(WARN, f"{sentence}: write a docstring.", None if file is None else _shown(file), line)


def _unlimited_fields(plugin: Plugin) -> Iterator[Problem]:
    """Yield the lists of clients and backends that may have any length."""
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (("event", dict(plugin.events)), ("command", dict(plugin.commands)))
    for kind, declared in kinds:
        for one in declared.values():
            for path in _unlimited(one.validator.schema, set()):
                sentence = (
                    f"The list {path} of the {kind} {one.type!r} may have any length: add "
                    "validate=validate.Length(max=…), because each item takes time to check."
                )
                yield _at(one.validator.schema.__class__, "")._replace(sentence=sentence)


def _unlimited(schema: Schema, seen: set[type[Schema]]) -> Iterator[str]:
    """Yield the paths of the fields of ``schema`` that are lists without a limit."""
    if schema.__class__ in seen:
        return
    for name, field in schema.fields.items():
        if _is_list(field) and not _is_limited(field):
            yield name
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(inner, fields.Nested):
            for path in _unlimited(inner.schema, {*seen, schema.__class__}):
                yield f"{name}.{path}"


def _is_list(field: fields.Field[Any]) -> bool:
    return isinstance(field, fields.List) or (isinstance(field, fields.Nested) and bool(field.many))


def _is_limited(field: fields.Field[Any]) -> bool:
    rules: list[Callable[[Any], Any]] = list(field.validators)
    while rules:
        rule = rules.pop()
        if isinstance(rule, validate.And):
            rules.extend(rule.validators)
        elif isinstance(rule, validate.Length) and (rule.max is not None or rule.equal is not None):
            return True
    return False


def _shown(file: str | None) -> str | None:
    """Return the path of ``file`` from the current directory, if it is in it."""
    if file is None:
        return None
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
