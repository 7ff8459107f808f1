"""Find the changes between two AsyncAPI documents of a server that break clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

JsonSchema = Mapping[str, Any]

#: The bounds that become stricter when they rise, and those that become stricter when they fall.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line for each change from ``old`` to ``new`` that breaks clients.

    A removed type breaks clients, and so does a command for anyone that becomes one for members. The data of commands,
    which clients send, must not have more requirements. The data of other frames, which clients receive, must not
    guarantee less. Raises ``ValueError`` if ``old`` is not an AsyncAPI document of a roomcast server.
    """
    try:
        before, after = _messages(old), _messages(new)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is not an AsyncAPI document of a roomcast server") from error
    changes: list[str] = []
    for name, (payload, access) in before.items():
        kind, _, type = name.partition(".")
        if name not in after:
            changes.append(f"{kind} {type}: is gone")
            continue
        new_payload, new_access = after[name]
        if (access, new_access) == ("anyone", "member"):
            changes.append(f"{kind} {type}: is only for members of the room now")
        comparison = _Comparison(_schemas(old), _schemas(new), is_sent=kind == "command")
        changes += [f"{kind} {type}: {change}" for change in comparison.changes(payload, new_payload)]
    return changes


def _messages(document: Mapping[str, Any]) -> Mapping[str, tuple[JsonSchema, str | None]]:
    """Return the payload of each message, and who may send it, which documents of roomcast 0.1 do not state."""
    messages = document["components"]["messages"]
    return {name: (message["payload"], message.get("x-access")) for name, message in messages.items()}


def _schemas(document: Mapping[str, Any]) -> Mapping[str, JsonSchema]:
    schemas: Mapping[str, JsonSchema] = document["components"]["schemas"]
    return schemas


class _Comparison:
    """Compares one message. ``is_sent`` is True if clients send it, False if they receive it.

    ``old`` and ``new`` are all schemas of the two documents, by name.
    """

    def __init__(self, old: Mapping[str, JsonSchema], new: Mapping[str, JsonSchema], *, is_sent: bool) -> None:
        self._old = old
        self._new = new
        self._is_sent = is_sent
        #: Pairs of references that were compared, because schemas may be recursive.
        self._seen: set[tuple[str, str]] = set()

    def changes(self, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        """Yield the breaking changes in the ``data`` of the message, given its payloads."""
        old_data, new_data = old["properties"].get("data"), new["properties"].get("data")
        if old_data is not None and new_data is not None:
            yield from self._schema_changes("data", old_data, new_data)
        elif old_data is not None:
            yield "has no data any more"
        elif new_data is not None and new_data.get("required") and self._is_sent:
            yield "needs data now"

    def _schema_changes(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        references = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if all(references):
            if references in self._seen:
                return
            self._seen.add(references)
        old, new = _resolve(old, self._old), _resolve(new, self._new)
        yield from self._type_changes(path, old, new)
        yield from self._value_changes(path, old, new)
        yield from self._field_changes(path, old, new)
        if "items" in old and "items" in new:
            yield from self._schema_changes(f"{path}[]", old["items"], new["items"])

    def _type_changes(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        old_types, new_types = _types(old), _types(new)
        removed, added = old_types - new_types, new_types - old_types
        if old_types and new_types and (removed if self._is_sent else added):
            yield f"{path} was {_list(old_types)} and is {_list(new_types)}"
        elif old_types and not new_types and not self._is_sent:
            yield f"{path} was {_list(old_types)} and can be anything"
        elif new_types and not old_types and self._is_sent:
            yield f"{path} could be anything and is {_list(new_types)}"

    def _value_changes(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        if not self._is_sent:
            return
        if "enum" in new:
            removed = [value for value in old.get("enum", ()) if value not in new["enum"]]
            if "enum" not in old:
                yield f"{path} may be only {_list(new['enum'])} now"
            elif removed:
                yield f"{path} may not be {_list(removed)} any more"
        for bound in (*_LOWER, *_UPPER):
            if bound not in new or new[bound] == old.get(bound):
                continue
            if bound not in old or (new[bound] > old[bound]) == (bound in _LOWER):
                yield f"{path} has a {bound} of {new[bound]} now" + (f", it was {old[bound]}" if bound in old else "")
        if "pattern" in new and new["pattern"] != old.get("pattern"):
            yield f"{path} must match {new['pattern']} now"

    def _field_changes(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        for name in old_fields:
            if name not in new_fields:
                yield f"{path}.{name} is gone"
            else:
                yield from self._schema_changes(f"{path}.{name}", old_fields[name], new_fields[name])
        old_required, new_required = set(old.get("required", ())), set(new.get("required", ()))
        if self._is_sent:
            yield from (f"{path}.{name} is required now" for name in sorted(new_required - old_required))
        else:
            optional = (old_required - new_required) & set(new_fields)
            yield from (f"{path}.{name} may be missing now" for name in sorted(optional))


def _resolve(schema: JsonSchema, schemas: Mapping[str, JsonSchema]) -> JsonSchema:
    reference = schema.get("$ref")
    return schema if reference is None else schemas[str(reference).removeprefix("#/components/schemas/")]


def _types(schema: JsonSchema) -> set[str]:
    """Return the types that ``schema`` allows; a number may be an integer. An empty set means any type."""
    type = schema.get("type", ())
    types = {type} if isinstance(type, str) else set(type)
    return types | ({"integer"} if "number" in types else set())


def _list(values: Any) -> str:
    return " or ".join(str(value) for value in (sorted(values) if isinstance(values, set) else values))
