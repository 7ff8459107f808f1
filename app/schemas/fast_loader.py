"""Fast loaders: functions that load valid data of a simple schema without marshmallow.

Loading exists three times, because a whole command takes 10 us and marshmallow needs 7 to 16 us for a small object:

- marshmallow decides what is valid, converts values and words the errors.
- A Python function that ``_SourceWriter`` generates for one schema. It needs 5% of marshmallow's time.
- ``native/fast_loader.c`` (``fastpath.FieldLoader``), which follows a table of ``FieldSpec``. It needs a third of the
  generated function's time, and supports fewer schemas: those without floats, lists, and validators other than Length.
  The schemas of chat are among them.

Measured with ``{"content": str, "metadata": dict}`` and Length validators, medians of 40 rounds: marshmallow 7.7 us,
one closure per field 0.54 us, the generated function 0.40 us. Later, on a faster machine: the generated function 0.23
us, C 0.05 us; with the four fields of a chat message 0.39 us and 0.13 us.

The invariant: a fast loader returns exactly what marshmallow returns. Therefore it accepts only data that marshmallow
loads and dumps without a change, apart from copying containers, and passes all other data to a fallback. A schema with
a hook, an overridden method, or a field or validator that is not listed here has no fast loader. ``tests/unit/schemas``
compares the three implementations with generated schemas and data.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

from marshmallow import RAISE, Schema, fields, missing, validate

from .. import fastpath

if TYPE_CHECKING:
    from .._native import FieldSpec

Load = Callable[[object], dict[str, Any]]


def fast_loaders(schema: Schema, *fallbacks: Load) -> list[Load] | None:
    """Return one fast loader for each of ``fallbacks``, or None if ``schema`` is not simple.

    A fast loader calls its fallback with all data that it does not load itself.
    """
    code, constants = _generate(schema)
    if code is None:
        return None
    native = fastpath.FieldLoader
    specs = _field_specs(schema) if native is not None else None
    if native is not None and specs is not None:
        return [native(specs, fallback, missing) for fallback in fallbacks]
    return [_execute(code, constants, fallback) for fallback in fallbacks]


# What is simple.


class _NotSimple(Exception):
    """Only marshmallow can load data of this schema."""


#: The supported fields, with the type of the values that marshmallow loads without a conversion (None: any type).
_VALUE_TYPES: dict[type[fields.Field[Any]], type | None] = {
    fields.String: str,
    fields.Integer: int,
    fields.Float: float,
    fields.Boolean: bool,
    fields.Dict: dict,
    fields.List: list,
    fields.Raw: None,
}
_SCALARS = (str, int, float, bool)
#: The attributes of an unchanged instance of each supported field and validator. Any other attribute was set by the
#: plugin, and may change what the instance does.
_ATTRIBUTES = {
    type(instance): vars(instance).keys()
    for instance in (
        *(cls() for cls in _VALUE_TYPES if cls is not fields.List),
        fields.List(fields.Raw),
        validate.Length(),
        validate.Range(),
        validate.OneOf(()),
    )
}
#: Attributes of a Schema class that do not change how valid data is loaded, or that are checked separately.
_HARMLESS = {"Meta", "opts", "_declared_fields", "_hooks", "_abc_impl", "error_messages", "TYPE_MAPPING"}
_METHODS = {name for name in dir(Schema) if not name.startswith("__")} - _HARMLESS | {"__init__", "__new__"}


def _require(is_simple: bool) -> None:
    if not is_simple:
        raise _NotSimple


def _is_simple_class(cls: type[Schema]) -> bool:
    """Return True if a Schema class has no hooks and overrides no method."""
    static = inspect.getattr_static
    return not any(cls._hooks.values()) and all(static(cls, name) is static(Schema, name) for name in _METHODS)


def _is_simple_field(field: Any) -> bool:
    """Return True if no option or attribute of ``field``, of a supported class, changes what it loads or dumps."""
    if vars(field).keys() != _ATTRIBUTES[type(field)] or field.pre_load or field.post_load:
        return False
    if field.data_key is not None or field.attribute is not None or field.dump_default is not missing:
        return False
    if field.load_only or field.dump_only or getattr(field, "as_string", False):
        return False
    if isinstance(field, fields.Dict):
        return field.key_field is None and field.value_field is None
    return not (isinstance(field, fields.Raw) and field.validators)


def _has_simple_default(field: fields.Field[Any]) -> bool:
    """Return True if the value of a missing field is known without calling the plugin, and dumps unchanged."""
    default, value_type = field.load_default, _VALUE_TYPES[type(field)]
    if default is missing or default is None:
        return True
    if default is dict or default is list:
        return value_type is default or value_type is None
    return type(default) in _SCALARS and (value_type is type(default) or value_type is None)


# The table for C.


def _field_specs(schema: Schema) -> tuple[FieldSpec, ...] | None:
    """Return the table of a simple schema for ``fastpath.FieldLoader``, or None if C does not support a field."""
    specs: list[FieldSpec] = []
    for name, field in schema.load_fields.items():
        value_type = _VALUE_TYPES[type(field)]
        lengths = [validator for validator in field.validators if isinstance(validator, validate.Length)]
        if value_type in (float, list) or len(lengths) < len(field.validators):
            return None
        lows = [bound for length in lengths for bound in (length.min, length.equal) if bound is not None]
        highs = [bound for length in lengths for bound in (length.max, length.equal) if bound is not None]
        shortest, longest = min(max([0, *lows]), sys.maxsize), max(min([sys.maxsize, *highs]), -1)
        must_be_present = field.required or not _has_simple_default(field)
        default = None if must_be_present else field.load_default
        specs.append((name, value_type, field.allow_none, shortest, longest, must_be_present, default))
    return tuple(specs)


# The generated function.


def _generate(schema: Schema) -> tuple[CodeType | None, dict[str, object]]:
    """Return the code of the generated function and its constants, or None if ``schema`` is not simple."""
    writer = _SourceWriter()
    try:
        _require(_is_simple_class(type(schema)) and schema.unknown == RAISE)
        source = writer.write(schema.load_fields)
    except _NotSimple:
        return None, {}
    return compile(source, "<roomcast.schemas>", "exec"), writer.constants


def _execute(code: CodeType, constants: dict[str, object], fallback: Load) -> Load:
    namespace: dict[str, Any] = {**constants, "fallback": fallback}
    exec(code, namespace)  # noqa: S102  the source is _SourceWriter's own text, without text from the schema
    load: Load = namespace["load"]
    return load


class _SourceWriter:
    """Writes the source of a function ``load(data)``, line by line.

    Keys, bounds, choices and defaults are objects in ``constants``. They never become part of the source text.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, object] = {"missing": missing, "INF": math.inf, "WIDE": 2**64}

    def write(self, load_fields: Mapping[str, fields.Field[Any]]) -> str:
        """Return the source for ``load_fields``; raise ``_NotSimple`` if one of them is not simple."""
        self._line(0, "def load(data):")
        self._line(1, "if type(data) is not dict: return fallback(data)")
        self._line(1, "absent = 0")
        entries = [self._field(number, name, field) for number, (name, field) in enumerate(load_fields.items())]
        # Each field is present or was counted as absent, so a larger dict has an unknown field.
        self._line(1, f"if len(data) + absent != {len(entries)}: return fallback(data)")
        self._result(entries)
        return "\n".join(self.lines)

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def _field(self, number: int, name: str, field: fields.Field[Any]) -> tuple[str, str, bool]:
        """Write the lines that read one field; return the names of its key and value, and True if it may be omitted."""
        _require("." not in name and type(field) in _VALUE_TYPES)
        key, value = self._constant(name), f"v{number}"
        self._line(1, f"{value} = data.get({key}, missing)")
        if field.required or not _has_simple_default(field):
            self._value(1, value, field)
            return key, value, False
        self._line(1, f"if {value} is missing:")
        self._line(2, "absent += 1")
        default = field.load_default
        if default is dict or default is list:
            self._line(2, f"{value} = " + ("{}" if default is dict else "[]"))
        elif default is not missing:
            self._line(2, f"{value} = {self._constant(default)}")
        self._line(1, "else:")
        self._value(2, value, field)
        return key, value, default is missing

    def _value(self, depth: int, value: str, field: fields.Field[Any]) -> None:
        """Write the lines that check the variable ``value``, and copy it if it is a container."""
        _require(_is_simple_field(field))
        value_type = _VALUE_TYPES[type(field)]
        if value_type is None:
            none = "" if field.allow_none else f" or {value} is None"
            self._line(depth, f"if {value} is missing{none}: return fallback(data)")
            return
        if field.allow_none:
            self._line(depth, f"if {value} is not None:")
            depth += 1
        if value_type is float:  # JavaScript writes 1.0 as 1
            self._line(depth, f"if type({value}) is int and -WIDE < {value} < WIDE: {value} = float({value})")
        tests = [f"type({value}) is not {value_type.__name__}", *self._tests(value, value_type, field.validators)]
        if value_type is float:
            tests.insert(1, f"not -INF < {value} < INF")
        self._line(depth, f"if {' or '.join(tests)}: return fallback(data)")
        if isinstance(field, fields.List):
            self._items(depth, value, field.inner)
        elif value_type is dict:
            self._line(depth, f"{value} = {value}.copy()")

    def _items(self, depth: int, value: str, inner: fields.Field[Any]) -> None:
        _require(type(inner) in _VALUE_TYPES and type(inner) is not fields.List)
        self._line(depth, "items = []")
        self._line(depth, f"for item in {value}:")
        self._value(depth + 1, "item", inner)
        self._line(depth + 1, "items.append(item)")
        self._line(depth, f"{value} = items")

    def _tests(self, value: str, value_type: type, validators: Iterable[Any]) -> Iterable[str]:
        """Yield expressions that are true if one of ``validators`` may refuse the variable ``value``."""
        for validator in validators:
            _require(type(validator) in _ATTRIBUTES and vars(validator).keys() == _ATTRIBUTES[type(validator)])
            if isinstance(validator, validate.Length):
                _require(value_type in (str, dict, list))
                bounds = (("<", validator.min), (">", validator.max), ("!=", validator.equal))
                yield from self._bounds(f"len({value})", bounds, (int,))
            elif isinstance(validator, validate.Range):
                _require(value_type in (int, float))
                below = "<" if validator.min_inclusive else "<="
                above = ">" if validator.max_inclusive else ">="
                yield from self._bounds(value, ((below, validator.min), (above, validator.max)), (int, float))
            else:
                _require(value_type in _SCALARS and type(validator.choices) in (list, tuple, set, frozenset))
                _require(all(type(choice) in _SCALARS for choice in validator.choices))
                yield f"{value} not in {self._constant(validator.choices)}"

    def _bounds(self, size: str, bounds: Iterable[tuple[str, Any]], types: tuple[type, ...]) -> Iterable[str]:
        for comparison, bound in bounds:
            if bound is not None:
                _require(type(bound) in types)
                yield f"{size} {comparison} {self._constant(bound)}"

    def _result(self, entries: list[tuple[str, str, bool]]) -> None:
        """Write the lines that build the result in the order of declaration, like marshmallow's."""
        if not any(may_be_omitted for _, _, may_be_omitted in entries):
            self._line(1, f"return {{{', '.join(f'{key}: {value}' for key, value, _ in entries)}}}")
            return
        self._line(1, "result = {}")
        for key, value, may_be_omitted in entries:
            condition = f"if {value} is not missing: " if may_be_omitted else ""
            self._line(1, f"{condition}result[{key}] = {value}")
        self._line(1, "return result")
