"""Describe a marshmallow schema as JSON Schema (2020-12).

apispec does most of the work. It writes for OpenAPI 3.1, so its converter is corrected where JSON Schema differs or
apispec omits something.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import make_schema_key, resolve_schema_instance
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import EXCLUDE, INCLUDE, Schema, fields, validate


def describe(schema: Schema) -> dict[str, Any]:
    """Return a new JSON Schema of the data that ``schema`` loads, with nested schemas under ``$defs``.

    The title and description of a field are those in its ``metadata``. Those of a schema are in its ``Meta``; without
    one, its description is its docstring.
    """
    plugin = _Plugin(_schema_namer())
    spec = APISpec(title="", version="", openapi_version="3.1.0", plugins=[plugin])
    assert plugin.converter is not None
    result: dict[str, Any] = plugin.converter.schema2jsonschema(schema)  # type: ignore[no-untyped-call]
    if spec.components.schemas:
        result["$defs"] = spec.components.schemas
    return result


class _Converter(OpenAPIConverter):
    """apispec's converter with corrections. apispec calls the methods."""

    field_mapping = {**OpenAPIConverter.field_mapping, fields.URL: ("string", "uri")}

    def get_ref_dict(self, schema: Schema) -> dict[str, Any]:
        """Return a reference to a nested schema under ``$defs``."""
        ref = {"$ref": f"#/$defs/{self.refs[make_schema_key(schema)]}"}
        return {"type": "array", "items": ref} if schema.many else ref

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        """Add the docstring and ``additionalProperties``; do not require fields that only ``dump`` returns."""
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
        """Omit the keywords that apispec sets to None for a custom date format."""
        keywords = super().field2property(field).items()
        return {key: value for key, value in keywords if value is not None or key in ("default", "example")}

    def field2length(self, field: fields.Field[Any], **kwargs: Any) -> dict[str, Any]:
        """Use ``minProperties`` and ``maxProperties`` for objects, for which apispec uses the keywords of strings."""
        keywords = super().field2length(field, **kwargs)
        if isinstance(field, fields.Dict):
            return {key.replace("Length", "Properties"): value for key, value in keywords.items()}
        return keywords

    def field2range(self, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        """Use the keywords of exclusive bounds. With several validators, apispec returns the tightest bounds."""
        keywords = super().field2range(field, ret)
        ranges = [validator for validator in field.validators if isinstance(validator, validate.Range)]
        low = max((range.min for range in ranges if range.min is not None), default=None)
        high = min((range.max for range in ranges if range.max is not None), default=None)
        if "minimum" in keywords and any(range.min == low and not range.min_inclusive for range in ranges):
            keywords["exclusiveMinimum"] = keywords.pop("minimum")
        if "maximum" in keywords and any(range.max == high and not range.max_inclusive for range in ranges):
            keywords["exclusiveMaximum"] = keywords.pop("maximum")
        return keywords


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


def _schema_namer() -> Callable[[Any], str]:
    """Return a function that names nested schemas after their classes, with a number if the name is taken."""
    taken: set[str] = set()

    def name(schema: Any) -> str:
        class_name = type(resolve_schema_instance(schema)).__name__
        numbered = (f"{class_name}{number}" for number in itertools.count(2))
        free = next(candidate for candidate in itertools.chain([class_name], numbered) if candidate not in taken)
        taken.add(free)
        return free

    return name
