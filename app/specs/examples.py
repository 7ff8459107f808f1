"""Make small example values that are valid for a JSON Schema."""

from __future__ import annotations

from typing import Any, Final

JsonSchema = dict[str, Any]

#: Values for texts with a format.
_BY_FORMAT: Final = {
    "date-time": "2025-11-13T12:00:00Z",
    "date": "2025-11-13",
    "time": "12:00:00",
    "email": "alice@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "2f6ce1a8-6a51-4a58-b6c9-4e2a1f4b0d11",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ip": "192.0.2.1",
}
#: Values for fields with a well-known name.
_BY_NAME: Final[dict[str, str | int]] = {
    **{"username": "alice", "user_id": 1, "creator": "alice", "assignee": "bob", "content": "Hello"},
    **{"title": "New feature", "message": "Have a look", "link": "/tasks/789", "status": "todo", "priority": "high"},
    **{"task_id": 789, "project_id": 123},
}

#: At a ``depth`` below this, required lists are empty if they may be.
_LOWEST_DEPTH: Final = -2


def example(schema: JsonSchema, name: str = "", root: JsonSchema | None = None, *, depth: int = 0) -> Any:
    """Return a value that ``schema`` allows.

    ``name`` is the name of the field, or empty for data as a whole. References in ``schema`` start at ``root``, by
    default ``schema``. ``depth`` is the number of levels on which the value has optional lists and nested objects. By
    default it has none, because they are long or recursive.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return example(_resolve(schema["$ref"], root), name, root, depth=depth)
    for keyword in ("const", "default"):
        if keyword in schema and schema[keyword] is not None:
            return schema[keyword]
    if schema.get("examples"):
        return schema["examples"][0]
    if values := [value for value in schema.get("enum", ()) if value is not None]:
        return values[0]
    for keyword in ("allOf", "anyOf", "oneOf"):
        if schema.get(keyword):
            return example(schema[keyword][0], name, root, depth=depth)
    return _of_type(schema, name, root, depth)


def _resolve(reference: str, root: JsonSchema) -> JsonSchema:
    schema: Any = root
    for key in reference.removeprefix("#/").split("/"):
        schema = schema[key.replace("~1", "/").replace("~0", "~")]
    return dict(schema)


def _of_type(schema: JsonSchema, name: str, root: JsonSchema, depth: int) -> Any:
    types = schema.get("type", "object" if "properties" in schema else "string")
    types = types if isinstance(types, list) else [types]
    if {"integer", "string"} <= set(types) and name in _BY_NAME:
        return _BY_NAME[name]
    type = next((type for type in types if type != "null"), "null")
    if type == "object":
        fields = {
            field: example(inner, field, root, depth=depth - 1 if _is_nested(inner) else depth)
            for field, inner in schema.get("properties", {}).items()
            if not inner.get("readOnly") and (field in schema.get("required", ()) or not _is_nested(inner) or depth > 0)
        }
        if depth > 0 and isinstance(values := schema.get("additionalProperties"), dict):
            fields.setdefault("key", example(values, "key", root, depth=depth - 1))
        return fields
    if type == "array":
        items, shortest = schema.get("items", {}), schema.get("minItems", 0)
        # A schema may require a list of itself, which has to be empty at some level.
        length = shortest if depth < _LOWEST_DEPTH else max(shortest, 1)
        return [example(items, name, root, depth=depth) for _ in range(length)]
    if type in ("integer", "number"):
        return _number(schema, name)
    if type == "boolean":
        return True
    return None if type == "null" else _text(schema, name)


def _is_nested(schema: JsonSchema) -> bool:
    """Return True if an optional field is left out of examples, because it is long or recursive."""
    return "$ref" in schema or "items" in schema


def _number(schema: JsonSchema, name: str) -> int | float:
    preset = _BY_NAME.get(name)
    number: float = preset if isinstance(preset, int) else 1
    low: float = schema.get("minimum", schema.get("exclusiveMinimum", number - 1) + 1)
    high: float = schema.get("maximum", schema.get("exclusiveMaximum", max(number, low) + 1) - 1)
    return min(max(number, low), high)


def _text(schema: JsonSchema, name: str) -> str:
    preset = _BY_NAME.get(name)
    text = _BY_FORMAT.get(str(schema.get("format", ""))) or (preset if isinstance(preset, str) else "")
    text = text or name.replace("_", " ") or "text"
    shortest: int = schema.get("minLength", 0)
    longest: int = schema.get("maxLength", len(text))
    return (text * (shortest // len(text) + 1))[: max(shortest, min(len(text), longest))]
