"""Stops marshmallow after some problems.

marshmallow reports every problem of the data. A message of 64 KB can have 20,000 of them, which take 0.2 to 1.1 s and
fill an answer of 1.2 MB. A client must not cause that, and its developer does not need them all.

marshmallow has no option for this, so ``ErrorLimit`` changes one instance of a schema: containers load their items in
small parts, and stop after ``MAX_PROBLEMS`` problems. Of unknown fields only the first ones are passed on. Data without
problems loads as before. Classes of plugins that override a method which is replaced here, and schemas with hooks that
need the whole data, are left unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

from marshmallow import RAISE, Schema, ValidationError, fields, validate
from marshmallow.decorators import PRE_LOAD

from .fast_loader import fast_loaders

#: About how many problems are found. It is also the number of items that a container loads at once.
MAX_PROBLEMS: Final = 20

#: From this length on, only the length of a value is reported if that is wrong.
_LONG: Final = 1000
#: Fields whose values have the same length before and after loading, with the type of the values.
_SIZED: Final[dict[type[fields.Field[Any]], type[Any]]] = {fields.String: str, fields.List: list, fields.Mapping: dict}

_Deserialize = Callable[..., Any]


class ErrorLimit:
    """Loads data with ``schema``, an instance that no one else uses, because it is changed."""

    def __init__(self, schema: Schema) -> None:
        self._schema: Final = schema
        #: How many more problems may be found in the current call of ``load``.
        self._left = 0
        #: For each schema by its id: the names of its fields, or None if unknown fields must be passed on. Nested
        #: schemas are added when they are used first, because a schema may contain itself.
        self._names: Final[dict[int, frozenset[str] | None]] = {}

    def load(self, data: Mapping[str, Any]) -> Any:
        """Return ``schema.load(data)``. Raises ``ValidationError`` with the first problems."""
        self._left = MAX_PROBLEMS
        return self._schema.load(self._without_most_unknown(self._schema, data))

    def _without_most_unknown(self, schema: Schema, data: Any) -> Any:
        """Return ``data`` with no more unknown fields than problems that may be found."""
        if id(schema) not in self._names:
            self._change(schema)
        names = self._names[id(schema)]
        if names is None or not isinstance(data, Mapping):
            return data
        known = {name: data[name] for name in names if name in data}
        unknown = len(data) - len(known)
        if unknown > self._left:
            first = islice((name for name in data if name not in names), max(1, self._left))
            data = known | {name: data[name] for name in first}
        self._left -= unknown
        return data

    def _change(self, schema: Schema) -> None:
        names = frozenset(
            name if field.data_key is None else field.data_key for name, field in schema.load_fields.items()
        )
        is_checked_here = schema.unknown == RAISE and not schema._hooks[PRE_LOAD] and type(schema).load is Schema.load
        self._names[id(schema)] = names if is_checked_here else None
        for field in schema.load_fields.values():
            self._change_field(field)

    def _change_field(self, field: fields.Field[Any]) -> None:
        load: _Deserialize = field._deserialize
        original = type(field)._deserialize
        if isinstance(field, fields.List) and original is fields.List._deserialize:
            load = partial(self._load_items, _with_fast_loader(field, load))
            self._change_field(field.inner)
        elif isinstance(field, fields.Mapping) and original is fields.Mapping._deserialize:
            load = partial(self._load_entries, field, load)
            for inner in (field.key_field, field.value_field):
                if inner is not None:
                    self._change_field(inner)
        elif isinstance(field, fields.Tuple):
            for inner in field.tuple_fields:
                self._change_field(inner)
        elif isinstance(field, fields.Nested) and original is fields.Nested._deserialize:
            load = partial(self._load_nested, field, load)
        lengths = [one for one in field.validators if type(one) is validate.Length]
        sized = next((raw for kind, raw in _SIZED.items() if isinstance(field, kind)), None)
        if lengths and sized is not None:
            load = partial(_load_if_short, lengths, sized, load)
        field._deserialize = load  # type: ignore[method-assign]

    def _load_items(self, load: _Deserialize, value: Any, *args: Any, **options: Any) -> Any:
        """Load a list."""
        if not isinstance(value, list):
            return load(value, *args, **options)
        parts = self._load_parts(value, lambda part: load(part, *args, **options))
        return [item for part in parts for item in part]

    def _load_entries(
        self, field: fields.Mapping[Any], load: _Deserialize, value: Any, *args: Any, **options: Any
    ) -> Any:
        """Load a dict."""
        if not isinstance(value, Mapping) or (field.key_field is None and field.value_field is None):
            return load(value, *args, **options)
        result = field.mapping_type()
        for part in self._load_parts(list(value.items()), lambda part: load(dict(part), *args, **options)):
            result.update(part)
        return result

    def _load_nested(self, field: fields.Nested, load: _Deserialize, value: Any, *args: Any, **options: Any) -> Any:
        """Load the data of a nested schema, or a list of them."""
        schema = field.schema
        if not isinstance(value, list) or not (schema.many or field.many):
            return load(self._without_most_unknown(schema, value), *args, **options)

        def load_part(part: list[Any]) -> Any:
            return load([self._without_most_unknown(schema, item) for item in part], *args, **options)

        if any(schema._hooks.values()):  # they may need all items at once
            return load_part(value)
        return [item for part in self._load_parts(value, load_part) for item in part]

    def _load_parts(self, items: list[Any], load: Callable[[list[Any]], Any]) -> list[Any]:
        """Return what ``load`` returns for all parts of ``items``. Load no more after enough problems."""
        results: list[Any] = []
        problems: dict[Any, Any] = {}
        for start in range(0, len(items), MAX_PROBLEMS):
            if self._left <= 0:  # the data is refused anyway
                raise ValidationError(problems)
            try:
                results.append(load(items[start : start + MAX_PROBLEMS]))
            except ValidationError as error:
                found: dict[Any, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
                problems |= {start + key if isinstance(key, int) else key: found[key] for key in found}
                self._left -= len(found)
        if problems:
            raise ValidationError(problems)
        return results


def _load_if_short(
    lengths: list[validate.Length], sized: type[Any], load: _Deserialize, value: Any, *args: Any, **options: Any
) -> Any:
    """Check the length of a long value before its content, which can take much longer."""
    if isinstance(value, sized) and len(value) > _LONG:
        for validator in lengths:
            validator(value)
    return load(value, *args, **options)


def _with_fast_loader(field: fields.List[Any], load: _Deserialize) -> _Deserialize:
    """Return a function that loads valid items of a list without marshmallow, and others with ``load``.

    A list that has one problem at its end would otherwise be loaded by marshmallow completely.
    """

    def fall_back(data: object) -> dict[str, Any]:
        raise LookupError

    loaders = fast_loaders(Schema.from_dict({"items": copy.copy(field)})(), fall_back)
    if loaders is None:
        return load
    (fast,) = loaders

    def load_items(value: list[Any], *args: Any, **options: Any) -> Any:
        try:
            return fast({"items": value})["items"]
        except LookupError:
            return load(value, *args, **options)

    return load_items
