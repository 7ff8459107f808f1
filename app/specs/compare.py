"""What would break for clients between two AsyncAPI documents of this server, a line for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

JsonSchema = Mapping[str, Any]

#: Bounds that shut out what was let in before when they rise, and those when they fall.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def breaking(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the breaking changes from ``old`` to ``new``: of types that are gone, and in the data of those that stay.

    What clients send may be asked for less and must not be asked for more; what they get may have more and must not
    have less. Raises ``ValueError`` if ``old`` is no AsyncAPI document of a roomcast server.
    """
    try:
        before, after = _messages(old), _messages(new)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is no AsyncAPI document of a roomcast server") from error
    changes: list[str] = []
    for name, was in before.items():
        kind, _, type = name.partition(".")
        if name not in after:
            changes.append(f"{kind} {type}: is gone")
            continue
        is_ = after[name]
        compare = _Compare(_schemas(old), _schemas(new), sent=kind == "command")
        changes += [f"{kind} {type}: {change}" for change in compare.data(was, is_)]
    return changes


def _messages(document: Mapping[str, Any]) -> Mapping[str, JsonSchema]:
    return {name: message["payload"] for name, message in document["components"]["messages"].items()}


def _schemas(document: Mapping[str, Any]) -> Mapping[str, JsonSchema]:
    schemas: Mapping[str, JsonSchema] = document["components"]["schemas"]
    return schemas


class _Compare:
    """Two documents' schemas; ``sent`` for what clients send, else for what they get."""

    def __init__(self, old: Mapping[str, JsonSchema], new: Mapping[str, JsonSchema], *, sent: bool) -> None:
        self._old = old
        self._new = new
        self._sent = sent
        self._seen: set[tuple[str, str]] = set()

    def data(self, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        """Yield what has changed in the ``data`` of a message."""
        was, is_ = old["properties"].get("data"), new["properties"].get("data")
        if was is not None and is_ is not None:
            yield from self._schema("data", was, is_)
        elif was is not None:
            yield "has no data any more"
        elif is_ is not None and is_.get("required") and self._sent:
            yield "needs data now"

    def _schema(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        references = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if all(references):
            if references in self._seen:
                return
            self._seen.add(references)
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        yield from self._types(path, old, new)
        yield from self._values(path, old, new)
        yield from self._fields(path, old, new)
        if "items" in old and "items" in new:
            yield from self._schema(f"{path}[]", old["items"], new["items"])

    def _types(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        was, is_ = _kinds(old), _kinds(new)
        lost, come = was - is_, is_ - was
        if was and is_ and (lost if self._sent else come):
            yield f"{path} was {_spelled(was)} and is {_spelled(is_)}"
        elif was and not is_ and not self._sent:
            yield f"{path} was {_spelled(was)} and can be anything"
        elif is_ and not was and self._sent:
            yield f"{path} could be anything and is {_spelled(is_)}"

    def _values(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        if not self._sent:
            return
        if "enum" in new:
            gone = [value for value in old.get("enum", ()) if value not in new["enum"]]
            if "enum" not in old:
                yield f"{path} may be only {_spelled(new['enum'])} now"
            elif gone:
                yield f"{path} may not be {_spelled(gone)} any more"
        for word in (*_LOWER, *_UPPER):
            if word not in new or new[word] == old.get(word):
                continue
            if word not in old or (new[word] > old[word]) == (word in _LOWER):
                yield f"{path} has a {word} of {new[word]} now" + (f", it was {old[word]}" if word in old else "")
        if "pattern" in new and new["pattern"] != old.get("pattern"):
            yield f"{path} must match {new['pattern']} now"

    def _fields(self, path: str, old: JsonSchema, new: JsonSchema) -> Iterator[str]:
        was, is_ = old.get("properties", {}), new.get("properties", {})
        for name in was:
            if name not in is_:
                yield f"{path}.{name} is gone"
            else:
                yield from self._schema(f"{path}.{name}", was[name], is_[name])
        needed, need = set(old.get("required", ())), set(new.get("required", ()))
        if self._sent:
            yield from (f"{path}.{name} is required now" for name in sorted(need - needed))
        else:
            yield from (f"{path}.{name} may be missing now" for name in sorted((needed - need) & set(is_)))


def _resolved(schema: JsonSchema, schemas: Mapping[str, JsonSchema]) -> JsonSchema:
    reference = schema.get("$ref")
    return schema if reference is None else schemas[str(reference).removeprefix("#/components/schemas/")]


def _kinds(schema: JsonSchema) -> set[str]:
    given = schema.get("type", ())
    kinds = {given} if isinstance(given, str) else set(given)
    return kinds | ({"integer"} if "number" in kinds else set())


def _spelled(values: Any) -> str:
    return " or ".join(str(value) for value in (sorted(values) if isinstance(values, set) else values))
