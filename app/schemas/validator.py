"""Schemas made ready: one marshmallow Schema class, turned into quick checks of the data of a command or an event.

marshmallow decides what is valid, converts, and words every complaint. It takes 7 to 16 µs to load a small object,
though, and a whole command has 10 µs. So for a schema of plainly understood parts a checker is generated that knows
only the data that marshmallow would return as it is; everything else goes to marshmallow. A schema with a hook, an
overridden method, or a field or validator that is not listed here goes to marshmallow always. The plainest of all, like
those of chat, need no function of their own: ``hot`` has one in C that is told the fields.

Measured side by side, medians of 40 rounds, ``load`` of ``{"content": str, "metadata": dict}`` with Length validators:
marshmallow 7.7 µs, a closure for each field 0.54 µs, the generated function 0.40 µs; later, on a faster machine, the
generated function 0.23 µs, C 0.05 µs, and for the four fields of a message 0.39 and 0.13 µs.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from types import CodeType
from typing import TYPE_CHECKING, Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import make_schema_key, resolve_schema_instance
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, ValidationError, fields, missing, validate
from marshmallow.exceptions import SCHEMA
from marshmallow.utils import get_value

from .. import fastpath
from ..errors import Refused

if TYPE_CHECKING:
    from .._native import FieldSpec

Load = Callable[[object], dict[str, Any]]


class Validator:
    """One schema, made ready once; build it at start and keep it.

    Raises ``TypeError`` when ``schema`` is not a marshmallow Schema class, and ``ValueError`` when it cannot be
    instantiated or takes a list (``Meta.many``); the message is a sentence for the plugin's author.

    ``load(data)``
        From a client to a handler: returns what ``schema.load`` returns.
    ``event(data)``
        From a handler or a backend to the wire: returns ``schema.dump(schema.load(data))``.

    Both raise ``Refused("invalid_data")`` whose ``fields`` maps a dotted path (``items.0``) to a list of messages;
    what is wrong with the data as a whole has the path ``""``. Neither returns or changes the dict it was given.
    """

    # Attributes, not methods: the generated function is called without a step in between (0.05 µs of 0.45).
    __slots__ = ("event", "load", "schema")

    schema: Schema
    load: Load
    event: Load

    def __init__(self, schema: type[Schema]) -> None:
        self.schema = _instance(schema)
        if type(self.schema).get_attribute is Schema.get_attribute:
            self.schema.get_attribute = _attribute  # type: ignore[method-assign]
        self.load, self.event = self._load, self._event
        code, names = _generate(self.schema)
        if code is None:
            return
        parts = _parts(self.schema) if fastpath.FieldLoader is not None else None
        if fastpath.FieldLoader is not None and parts is not None:
            self.load = fastpath.FieldLoader(parts, self._load, missing)
            self.event = fastpath.FieldLoader(parts, self._event, missing)
        else:
            self.load = _loader(code, names, self._load)
            self.event = _loader(code, names, self._event)

    def _load(self, data: object) -> Any:
        if not isinstance(data, Mapping):
            raise Refused("invalid_data", "data must be a JSON object.", {})
        try:
            return self.schema.load(data)
        except ValidationError as error:
            raise _refusal(error.messages, data) from error

    def _event(self, data: object) -> Any:
        return self.schema.dump(self._load(data))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the data, with nested schemas under ``$defs``.

        It is new on every call. A title or description comes from a field's ``metadata`` or the schema's ``Meta``,
        else the schema's description is its docstring.
        """
        plugin = _Plugin(_namer())
        spec = APISpec(title="", version="", openapi_version="3.1.0", plugins=[plugin])
        assert plugin.converter is not None
        result: dict[str, Any] = plugin.converter.schema2jsonschema(self.schema)  # type: ignore[no-untyped-call]
        if spec.components.schemas:
            result["$defs"] = spec.components.schemas
        return result


def _instance(schema: object) -> Schema:
    if not (isinstance(schema, type) and issubclass(schema, Schema)):
        raise TypeError(f"{schema!r} is not a marshmallow Schema class; declare one with `class Name(Schema):`.")
    try:
        instance = schema()
    except Exception as error:
        raise ValueError(f"The schema {schema.__name__} cannot be instantiated: {error}") from error
    if instance.many:
        raise ValueError(f"The schema {schema.__name__} has Meta.many, but data is always one object.")
    return instance


def _attribute(obj: Any, attr: str, default: Any) -> Any:
    """Look a key up in what was loaded, never among the methods of dict.

    marshmallow's own would take ``dict.items`` for the value of an optional field ``items`` that is not there.
    """
    if type(obj) is dict and "." not in attr:
        return obj.get(attr, default)
    return get_value(obj, attr, default)


# What is wrong, for the front-end developer


def _refusal(messages: Any, data: Mapping[Any, Any]) -> Refused:
    """Make the refusal of ``messages``: what is missing first, then in the order in which the client wrote it."""
    if isinstance(messages, dict):
        place = {key: number for number, key in enumerate(data)}
        messages = {key: messages[key] for key in sorted(messages, key=lambda key: place.get(key, -1))}
    found: dict[str, list[str]] = {}
    _flatten(messages, "", found)
    path, first = next(((path, texts[0]) for path, texts in found.items()), ("", "Invalid data."))
    more = max(0, sum(map(len, found.values())) - 1)
    sentence = f"{f'data.{path}' if path else 'data'}: {first}"
    if more:
        sentence += f" ({more} more {'problem' if more == 1 else 'problems'} in fields.)"
    return Refused("invalid_data", sentence, found)


def _flatten(messages: Any, path: str, found: dict[str, list[str]]) -> None:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            below = f"{path}.{key}" if path else str(key)
            _flatten(inner, path if key == SCHEMA else below, found)
    elif isinstance(messages, list | tuple):
        for message in messages:
            _flatten(message, path, found)
    else:
        found.setdefault(path, []).append(str(messages))


# The fast path


class _Exotic(Exception):
    """Only marshmallow knows what this schema means."""


#: What marshmallow returns as it is (or, for containers, as a shallow copy) from each field that is understood.
_KINDS: dict[type[fields.Field[Any]], type | None] = {
    fields.String: str,
    fields.Integer: int,
    fields.Float: float,
    fields.Boolean: bool,
    fields.Dict: dict,
    fields.List: list,
    fields.Raw: None,
}
_SCALARS = (str, int, float, bool)
#: What a plain instance of each field and validator carries; anything beyond was put there to change it.
_OWN = {
    type(each): vars(each).keys()
    for each in (
        *(cls() for cls in _KINDS if cls is not fields.List),
        fields.List(fields.Raw),
        validate.Length(),
        validate.Range(),
        validate.OneOf(()),
    )
}
#: Parts of a Schema class that a subclass may set without changing how valid data is loaded, or that are looked at.
_FREE = {"Meta", "opts", "_declared_fields", "_hooks", "_abc_impl", "error_messages", "TYPE_MAPPING"}
_METHODS = {name for name in dir(Schema) if not name.startswith("__")} - _FREE | {"__init__", "__new__"}


def _generate(schema: Schema) -> tuple[CodeType | None, dict[str, object]]:
    """Return the code of a loader and its names, or None when the schema is not plainly understood."""
    writer = _Writer()
    try:
        _require(_is_plain_class(type(schema)) and schema.unknown == RAISE)
        source = writer.write(schema.load_fields)
    except _Exotic:
        return None, {}
    return compile(source, "<roomcast.schemas>", "exec"), writer.names


def _loader(code: CodeType, names: dict[str, object], slow: Load) -> Load:
    namespace: dict[str, Any] = {**names, "slow": slow}
    exec(code, namespace)  # noqa: S102  the source is _Writer's own text; nothing of the schema's is in it
    loader: Load = namespace["load"]
    return loader


class _Absence(IntEnum):
    """What becomes of a field that is not there; the numbers are those of ``native/loader.c``."""

    REFUSED = 0
    LEFT_OUT = 1
    FILLED = 2
    NEW_DICT = 3
    NEW_LIST = 4


def _parts(schema: Schema) -> tuple[FieldSpec, ...] | None:
    """Return the fields of a plainly understood schema for ``hot.Loader``, or None if it does not know one of them."""
    parts: list[FieldSpec] = []
    for name, field in schema.load_fields.items():
        kind = _KINDS[type(field)]
        lengths = [each for each in field.validators if isinstance(each, validate.Length)]
        if kind in (float, list) or len(lengths) < len(field.validators):
            return None
        lows = [bound for each in lengths for bound in (each.min, each.equal) if bound is not None]
        highs = [bound for each in lengths for bound in (each.max, each.equal) if bound is not None]
        least, most = min(max([0, *lows]), sys.maxsize), max(min([sys.maxsize, *highs]), -1)
        default = field.load_default
        absence = _Absence.FILLED
        if field.required or not _has_plain_default(field):
            absence = _Absence.REFUSED
        elif default is missing:
            absence = _Absence.LEFT_OUT
        elif default is dict or default is list:
            absence = _Absence.NEW_DICT if default is dict else _Absence.NEW_LIST
        filler = default if absence is _Absence.FILLED else None
        parts.append((name, kind, field.allow_none, least, most, absence, filler))
    return tuple(parts)


def _require(plain: bool) -> None:
    if not plain:
        raise _Exotic


def _is_plain_class(cls: type[Schema]) -> bool:
    static = inspect.getattr_static
    return not any(cls._hooks.values()) and all(static(cls, name) is static(Schema, name) for name in _METHODS)


def _has_plain_default(field: fields.Field[Any]) -> bool:
    """Say whether what a missing field becomes is known, without a call into the plugin, and dumps as itself."""
    default, kind = field.load_default, _KINDS[type(field)]
    if default is missing or default is None:
        return True
    if default is dict or default is list:
        return kind is default or kind is None
    return type(default) in _SCALARS and (kind is type(default) or kind is None)


class _Writer:
    """Writes the source of a loader. Keys, bounds and choices are objects in ``names``, never text in the source."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, object] = {"missing": missing, "INF": math.inf, "WIDE": 2**64}

    def write(self, load_fields: Mapping[str, fields.Field[Any]]) -> str:
        """Return the source of ``load(data)``; raise ``_Exotic`` when a field is not plainly understood."""
        self._line(0, "def load(data):")
        self._line(1, "if type(data) is not dict: return slow(data)")
        self._line(1, "absent = 0")
        pairs = [self._entry(number, name, field) for number, (name, field) in enumerate(load_fields.items())]
        # Every field is there or counted as absent, so a larger dict has a field that is unknown.
        self._line(1, f"if len(data) + absent != {len(pairs)}: return slow(data)")
        self._result(pairs)
        return "\n".join(self.lines)

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _name(self, value: object) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def _entry(self, number: int, name: str, field: fields.Field[Any]) -> tuple[str, str, bool]:
        """Write how one field is read; return the names of its key and value, and whether it may be left out."""
        _require("." not in name and type(field) in _KINDS)
        key, value = self._name(name), f"v{number}"
        self._line(1, f"{value} = data.get({key}, missing)")
        if field.required or not _has_plain_default(field):
            self._value(1, value, field)
            return key, value, False
        self._line(1, f"if {value} is missing:")
        self._line(2, "absent += 1")
        default = field.load_default
        if default is dict or default is list:
            self._line(2, f"{value} = " + ("{}" if default is dict else "[]"))
        elif default is not missing:
            self._line(2, f"{value} = {self._name(default)}")
        self._line(1, "else:")
        self._value(2, value, field)
        return key, value, default is missing

    def _value(self, depth: int, value: str, field: fields.Field[Any]) -> None:
        """Write what makes ``value`` what marshmallow returns, or hands the data over to marshmallow."""
        _require(_is_plain_field(field))
        kind = _KINDS[type(field)]
        if kind is None:
            null = "" if field.allow_none else f" or {value} is None"
            self._line(depth, f"if {value} is missing{null}: return slow(data)")
            return
        if field.allow_none:
            self._line(depth, f"if {value} is not None:")
            depth += 1
        if kind is float:  # JavaScript writes 1.0 as 1
            self._line(depth, f"if type({value}) is int and -WIDE < {value} < WIDE: {value} = float({value})")
        tests = [f"type({value}) is not {kind.__name__}", *self._tests(value, kind, field.validators)]
        if kind is float:
            tests.insert(1, f"not -INF < {value} < INF")
        self._line(depth, f"if {' or '.join(tests)}: return slow(data)")
        if isinstance(field, fields.List):
            self._items(depth, value, field.inner)
        elif kind is dict:
            self._line(depth, f"{value} = {value}.copy()")

    def _items(self, depth: int, value: str, inner: fields.Field[Any]) -> None:
        _require(type(inner) in _KINDS and type(inner) is not fields.List)
        self._line(depth, "items = []")
        self._line(depth, f"for item in {value}:")
        self._value(depth + 1, "item", inner)
        self._line(depth + 1, "items.append(item)")
        self._line(depth, f"{value} = items")

    def _tests(self, value: str, kind: type, validators: Iterable[Any]) -> Iterable[str]:
        """Yield the expressions that are true of a value which one of the ``validators`` may refuse."""
        for each in validators:
            _require(type(each) in _OWN and vars(each).keys() == _OWN[type(each)])
            if isinstance(each, validate.Length):
                _require(kind in (str, dict, list))
                bounds = (("<", each.min), (">", each.max), ("!=", each.equal))
                yield from self._bounds(f"len({value})", bounds, (int,))
            elif isinstance(each, validate.Range):
                _require(kind in (int, float))
                below, above = ("<" if each.min_inclusive else "<="), (">" if each.max_inclusive else ">=")
                yield from self._bounds(value, ((below, each.min), (above, each.max)), (int, float))
            else:
                _require(kind in _SCALARS and type(each.choices) in (list, tuple, set, frozenset))
                _require(all(type(choice) in _SCALARS for choice in each.choices))
                yield f"{value} not in {self._name(each.choices)}"

    def _bounds(self, size: str, bounds: Iterable[tuple[str, Any]], types: tuple[type, ...]) -> Iterable[str]:
        for comparison, bound in bounds:
            if bound is not None:
                _require(type(bound) in types)
                yield f"{size} {comparison} {self._name(bound)}"

    def _result(self, pairs: list[tuple[str, str, bool]]) -> None:
        """Write the result in the order of declaration, as marshmallow's is."""
        if not any(optional for _, _, optional in pairs):
            self._line(1, f"return {{{', '.join(f'{key}: {value}' for key, value, _ in pairs)}}}")
            return
        self._line(1, "result = {}")
        for key, value, optional in pairs:
            self._line(1, f"{f'if {value} is not missing: ' if optional else ''}result[{key}] = {value}")
        self._line(1, "return result")


def _is_plain_field(field: Any) -> bool:
    """Say whether nothing was done to a field of a known class that changes what it loads or dumps."""
    if vars(field).keys() != _OWN[type(field)] or field.pre_load or field.post_load:
        return False
    if field.data_key is not None or field.attribute is not None or field.dump_default is not missing:
        return False
    if field.load_only or field.dump_only or getattr(field, "as_string", False):
        return False
    if isinstance(field, fields.Dict):
        return field.key_field is None and field.value_field is None
    return not (isinstance(field, fields.Raw) and field.validators)


# JSON Schema


class _Converter(OpenAPIConverter):
    """apispec's converter, with JSON Schema's words where it has OpenAPI's, or none."""

    field_mapping = {**OpenAPIConverter.field_mapping, fields.URL: ("string", "uri")}

    def get_ref_dict(self, schema: Schema) -> dict[str, Any]:
        """Point to a nested schema where ``json_schema`` puts it."""
        ref = {"$ref": f"#/$defs/{self.refs[make_schema_key(schema)]}"}
        return {"type": "array", "items": ref} if schema.many else ref

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        """Add what apispec leaves out when there is a description, and ask for nothing that only ``dump`` gives."""
        instance = resolve_schema_instance(schema)
        result: dict[str, Any] = super().schema2jsonschema(instance)  # type: ignore[no-untyped-call]
        if "description" not in result and type(instance).__doc__:
            result["description"] = inspect.cleandoc(type(instance).__doc__ or "")
        if instance.unknown != EXCLUDE:
            result["additionalProperties"] = instance.unknown == INCLUDE
        if "required" in result:
            result["required"] = [name for name in result["required"] if not result["properties"][name].get("readOnly")]
        return result

    def field2property(self, field: fields.Field[Any]) -> dict[str, Any]:
        """Leave out the keywords that apispec sets to None for a date format of one's own."""
        found = super().field2property(field).items()
        return {key: value for key, value in found if value is not None or key in ("default", "example")}

    def field2length(self, field: fields.Field[Any], **kwargs: Any) -> dict[str, Any]:
        """Count the properties of an object, which apispec measures like a string."""
        found = super().field2length(field, **kwargs)
        if isinstance(field, fields.Dict):
            return {key.replace("Length", "Properties"): value for key, value in found.items()}
        return found

    def field2range(self, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        """Tell an exclusive bound from an inclusive one; of several, apispec gives the tightest."""
        found = super().field2range(field, ret)
        ranges = [each for each in field.validators if isinstance(each, validate.Range)]
        low = max((each.min for each in ranges if each.min is not None), default=None)
        high = min((each.max for each in ranges if each.max is not None), default=None)
        if "minimum" in found and any(each.min == low and not each.min_inclusive for each in ranges):
            found["exclusiveMinimum"] = found.pop("minimum")
        if "maximum" in found and any(each.max == high and not each.max_inclusive for each in ranges):
            found["exclusiveMaximum"] = found.pop("maximum")
        return found


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


def _namer() -> Callable[[Any], str]:
    """Return a function that names nested schemas after their classes, with a number where a name is taken."""
    taken: set[str] = set()

    def name(schema: Any) -> str:
        plain = type(resolve_schema_instance(schema)).__name__
        numbered = (f"{plain}{number}" for number in itertools.count(2))
        free = next(each for each in itertools.chain([plain], numbered) if each not in taken)
        taken.add(free)
        return free

    return name
