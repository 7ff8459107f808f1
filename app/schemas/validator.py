"""Load and dump the data of one command or event type, and refuse invalid data with sentences for developers.

marshmallow decides what is valid. Most data of most schemas does not reach it; ``fast_loader`` explains why.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from marshmallow import Schema, ValidationError
from marshmallow.exceptions import SCHEMA
from marshmallow.utils import get_value

from ..errors import Refused
from . import json_schema
from .error_limit import MAX_PROBLEMS, ErrorLimit
from .fast_loader import Load, fast_loaders

#: The maximum length of a path and of a message in a refusal, in characters. Both may repeat data.
MAX_LENGTH: Final = 200


class Validator:
    """Validates data against one marshmallow Schema class. Create it at start, because that generates code.

    ``load(data)``
        For data from a client to a handler: returns ``schema.load(data)``.
    ``event(data)``
        For data from a handler or a backend to clients: returns ``schema.dump(schema.load(data))``.

    Neither changes or returns its argument. Both raise ``Refused("invalid_data")``. Its ``fields`` maps
    the dotted path of each invalid field (``items.0``) to a list of messages; the path ``""`` is the data as a whole.
    At most ``MAX_PROBLEMS`` fields are named, and paths and messages are cut after ``MAX_LENGTH`` characters.

    Raises ``TypeError`` if ``schema`` is not a Schema class, ``ValueError`` if it cannot be instantiated or describes a
    list (``Meta.many``). The messages are sentences for the author of the plugin.
    """

    # ``load`` and ``event`` are attributes, because a method that calls the fast loader takes 0.05 of 0.45 us.
    __slots__ = ("_limit", "event", "load", "schema")

    schema: Schema
    load: Load
    event: Load

    def __init__(self, schema: type[Schema]) -> None:
        self.schema = _instantiate(schema)
        if type(self.schema).get_attribute is Schema.get_attribute:
            self.schema.get_attribute = _get_attribute  # type: ignore[method-assign]
        loaders = fast_loaders(self.schema, self._load, self._event)
        self.load, self.event = loaders or (self._load, self._event)
        self._limit = ErrorLimit(self.schema)

    def _load(self, data: object) -> Any:
        if not isinstance(data, Mapping):
            raise Refused("invalid_data", "data must be a JSON object.", {})
        try:
            return self._limit.load(data)
        except ValidationError as error:
            messages = error.messages
            # The traceback refers to the exception, which refers to the data: a cycle that only a garbage collection
            # would free.
            error.__traceback__ = None
        raise _refusal(messages, data)

    def _event(self, data: object) -> Any:
        return self.schema.dump(self._load(data))

    def json_schema(self) -> dict[str, Any]:
        """Return a new JSON Schema (2020-12) of the data; see ``json_schema.describe``."""
        return json_schema.describe(self.schema)


def _instantiate(schema: object) -> Schema:
    """Return an instance of ``schema``; raise ``TypeError`` or ``ValueError`` (see ``Validator``)."""
    if not (isinstance(schema, type) and issubclass(schema, Schema)):
        raise TypeError(f"{schema!r} is not a marshmallow Schema class; declare one with `class Name(Schema):`.")
    try:
        instance = schema()
    except Exception as error:
        raise ValueError(f"The schema {schema.__name__} cannot be instantiated: {error}") from error
    if instance.many:
        raise ValueError(f"The schema {schema.__name__} has Meta.many, but data is always one object.")
    return instance


def _get_attribute(obj: Any, attr: str, default: Any) -> Any:
    """Return the value of a key of loaded data, never a method of dict.

    marshmallow's ``get_attribute`` returns ``dict.items`` for an optional field ``items`` that is missing.
    """
    if type(obj) is dict and "." not in attr:
        return obj.get(attr, default)
    return get_value(obj, attr, default)


def _refusal(messages: Any, data: Mapping[Any, Any]) -> Refused:
    """Return the refusal of ``data``: missing fields first, then the others in the order of ``data``.

    ``messages`` is what marshmallow's ``ValidationError`` contains.
    """
    if isinstance(messages, dict):
        position = {key: number for number, key in enumerate(key for key in data if key in messages)}
        messages = {key: messages[key] for key in sorted(messages, key=lambda key: position.get(key, -1))}
    problems: dict[str, list[str]] = {}
    _flatten(messages, "", problems)
    problems = dict(islice(problems.items(), MAX_PROBLEMS))
    path, first = next(((path, texts[0]) for path, texts in problems.items()), ("", "Invalid data."))
    more = max(0, sum(map(len, problems.values())) - 1)
    sentence = f"{f'data.{path}' if path else 'data'}: {first}"
    if more:
        sentence += f" ({more} more {'problem' if more == 1 else 'problems'} in fields.)"
    return Refused("invalid_data", sentence, problems)


def _flatten(messages: Any, path: str, problems: dict[str, list[str]]) -> None:
    """Add ``messages``, nested dicts and lists of texts, to ``problems`` under their dotted paths."""
    if isinstance(messages, dict):
        for key, inner in messages.items():
            inner_path = f"{path}.{key}" if path else str(key)
            _flatten(inner, path if key == SCHEMA else inner_path[:MAX_LENGTH], problems)
    elif isinstance(messages, list | tuple):
        for message in messages:
            _flatten(message, path, problems)
    else:
        problems.setdefault(path, []).append(str(messages)[:MAX_LENGTH])
